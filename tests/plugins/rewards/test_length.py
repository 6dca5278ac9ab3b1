from __future__ import annotations

import pytest

from moalign_plugins.rewards.length import Length


@pytest.mark.parametrize(
    ("unit", "expected"), [("tokens", [-4, -1]), ("words", [-2, 0]), ("characters", [-6, 0])]
)
def test_is_minus_the_length(batch_of, unit, expected):
    batch = batch_of(["ab cde", ""], lengths=[4, 1])
    assert [int(value) for value in Length(unit=unit).score(batch)] == expected


def test_has_no_range_of_its_own():
    assert Length().range is None
