from __future__ import annotations

import re

import pytest

from moalign.errors import OptionError
from moalign_plugins.rewards.regex import Regex

TEXTS = ["So: 42", "so 7\n", "", "42 so"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"\d{2}", [1.0, 0.0, 0.0, 1.0]),
        (r"(?i)\Aso", [1.0, 1.0, 0.0, 0.0]),
        (r"(?s)\A(?!.*42)", [0.0, 1.0, 1.0, 0.0]),
        (r"(?s)\A.*\d\n\Z", [0.0, 1.0, 0.0, 0.0]),
    ],
)
def test_finds_the_pattern_in_the_surface_text(batch_of, pattern, expected):
    assert Regex(pattern=pattern).score(batch_of(TEXTS, raw=["raw 42"] * 4)) == expected


def test_a_pattern_that_does_not_compile_is_named():
    sentence = (
        "reward regex, option pattern: '(a' is not a regular expression "
        "(missing ), unterminated subpattern at position 0)"
    )
    with pytest.raises(OptionError, match=re.escape(sentence)):
        Regex(pattern="(a")
