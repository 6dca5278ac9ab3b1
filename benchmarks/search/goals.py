"""What was to be reached, and what a 95 % interval over seeds says about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.comparison.measures import Difference, interval
from benchmarks.comparison.verdicts import Verdict, judge

SAID: Final[Mapping[Verdict, str]] = {
    "seen": "**met**",
    "opposite seen": "**missed**",
    "not decided": "not decided",
    "one seed": "one seed: no interval",
    "not run": "not run",
}


@dataclass(frozen=True)
class Goal:
    """A number that was to be reached.

    Attributes:
        says: the goal, in words.
        found: the number, with its interval over seeds.
        limit: what it was to reach.
        higher: whether it is to be at least the limit, or at most.
        places: decimals to print.
    """

    says: str
    found: Difference
    limit: float
    higher: bool
    places: int = 3

    @property
    def verdict(self) -> Verdict:
        """Return whether it was reached."""
        return judge(shifted(self.found, -self.limit), higher=self.higher)

    @property
    def row(self) -> list[str]:
        """Return it as a row of a table."""
        bound = f"{'at least' if self.higher else 'at most'} {self.limit:g}"
        return [self.says, bound, plain(self.found, self.places), SAID[self.verdict]]


def shifted(found: Difference, by: float) -> Difference:
    """Return a difference with a number added to it and to its interval."""
    value, low, high = found.value + by, found.low + by, found.high + by
    return replace(found, value=value, low=low, high=high)


def plain(found: Difference, places: int = 3) -> str:
    """Return a mean and its interval, without a sign; empty if there is none."""
    if found.seeds == 0 or math.isnan(found.value):
        return ""
    text = f"{found.value:.{places}f}"
    if math.isnan(found.low):
        return text
    return f"{text} [{found.low:.{places}f}, {found.high:.{places}f}]"


def mean(by_seed: Mapping[int, float]) -> Difference:
    """Return the mean over seeds."""
    return interval(list(by_seed.values()))


def paired(mine: Mapping[int, float], theirs: Mapping[int, float]) -> Difference:
    """Return the mean difference over the seeds that both have."""
    return interval([mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())])
