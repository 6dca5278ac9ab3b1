from __future__ import annotations

import pytest

from moalign_plugins.rewards.exact_match import ExactMatch


@pytest.mark.parametrize(
    ("reference", "text", "expected"),
    [
        ("Lima", " lima\n", 1.0),
        ("New  York", "new york", 1.0),
        ("Lima", "It is Lima", 0.0),
        ("Lima", "", 0.0),
        (["8", "eight"], "Eight", 1.0),
        (["8", "eight"], "nine", 0.0),
        (8, "8", 1.0),
        (7.0, "7", 0.0),
    ],
)
def test_golden_values(batch_of, reference, text, expected):
    assert ExactMatch().score(batch_of([text], fields=[{"reference": reference}])) == [expected]
