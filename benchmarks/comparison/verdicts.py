"""What a 95 % interval over seeds says about a claim, and nothing but the interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal

from benchmarks.comparison.measures import Difference

Verdict = Literal["seen", "opposite seen", "not decided", "one seed", "not run"]

SAID: Final[Mapping[Verdict, str]] = {
    "seen": "**seen**",
    "opposite seen": "**the opposite was seen**",
    "not decided": "not decided",
    "one seed": "one seed: no interval",
    "not run": "not run",
}

ALIKE: Final = 0.02
"""Two policies are alike if their objectives are this close, in units of the bounds: about the
standard error of a rate on 512 completions."""


def judge(difference: Difference, *, higher: bool = True, slack: float = 0.0) -> Verdict:
    """Return the verdict on a difference that is claimed to be above 0, or below it.

    Args:
        difference: with its interval.
        higher: whether it is claimed to be above.
        slack: how far it may be on the wrong side: the claim is "no worse than by this".
    """
    if difference.seeds == 0:
        return "not run"
    if math.isnan(difference.low):
        return "one seed"
    low, high = difference.low, difference.high
    if not higher:
        low, high = -high, -low
    if low > -slack:
        return "seen"
    return "opposite seen" if high < -slack else "not decided"


def judge_alike(distance: Difference) -> Verdict:
    """Return the verdict on a distance that is claimed to be none."""
    if distance.seeds == 0:
        return "not run"
    if math.isnan(distance.low):
        return "one seed"
    if distance.high < ALIKE:
        return "seen"
    return "opposite seen" if distance.low > ALIKE else "not decided"
