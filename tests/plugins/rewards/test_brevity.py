from __future__ import annotations

import pytest

from moalign.errors import OptionError
from moalign.options import check_options
from moalign_plugins.rewards.brevity import Brevity


def test_counts_words_up_to_the_limit(batch_of):
    texts = ["", "one", "one  two\nthree", "a b c d", "a b c d e"]
    assert Brevity(limit=4).score(batch_of(texts)) == [1.0, 0.75, 0.25, 0.0, 0.0]


def test_counts_characters_spaces_included(batch_of):
    assert Brevity(limit=10, unit="characters").score(batch_of(["", "90", "17+48 = 65"])) == [
        1.0,
        0.8,
        0.0,
    ]


def test_reads_the_surface_text(batch_of):
    batch = batch_of(["the blue door inn"], raw=["<name>"])
    assert Brevity(limit=8).score(batch) == [0.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "limit"), ({"limit": 0}, "limit"), ({"limit": 5, "unit": "letters"}, "unit")],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        check_options(Brevity, options)
