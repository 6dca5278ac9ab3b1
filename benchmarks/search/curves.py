"""Learning curves that cross, and noise: what stopping has to cope with, in two inputs.

The inputs are the first objective's weight w, and the place u of the learning rate between its
smallest and its largest. After a share t of the training,

    first  = .3 + .6 q(u) (sqrt(w) - .2) p(t, s(u))
    second = .4 + .6 q(u) (sqrt(1 - w) - .2) p(t, .6 s(u))
    s(u) = 1.5 exp(2.5 (u - 1/2))     how fast: a larger rate learns sooner
    q(u) = 1 - u^2 / 2                how high: a larger rate ends lower
    p(t, s) = 1 - exp(-s t)           how far

So curves cross: after a quarter of the training the largest rate leads, at the end one of .6 to .75
does. The second objective is slower, so that preferences for it look worse than they are. What is
hardly wanted is forgotten: it falls below where it began.

Each of 32 units (prompts) is measured with noise: a part that is the unit's own and the same for
all policies, and one that is drawn anew at every measurement, both with deviation .1. Standard
errors are thus about .025, and differences between policies are more certain than these say, as in
a study.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Final

from benchmarks.search.problem import Problem

UNITS: Final = 32
NOISE: Final = 0.1


class Curves(Problem):
    """The curves; the maximum was found on a grid of 2000 by 2000 inputs."""

    name = "curves"
    inputs = 2
    worst_K = (0.2, 0.3)
    best_K = (0.65, 0.7)
    maximum = 0.1341

    def values(self, inputs: Sequence[float], share: float = 1.0) -> list[float]:
        """Return both objectives after a share of the training."""
        weight, rate = inputs
        speed = 1.5 * math.exp(2.5 * (rate - 0.5))
        height = 0.6 * (1 - rate**2 / 2)
        first = height * (math.sqrt(weight) - 0.2) * _progress(share, speed)
        second = height * (math.sqrt(1 - weight) - 0.2) * _progress(share, 0.6 * speed)
        return [0.3 + first, 0.4 + second]

    def measured(self, inputs: Sequence[float], share: float, key: str) -> list[list[float]]:
        """Return the values of each unit, with noise."""
        study = key.partition("/")[0]
        units, own = random.Random(f"units of {study}"), random.Random(key)
        values = self.values(inputs, share)
        return [
            [value + units.gauss(0, NOISE) + own.gauss(0, NOISE) for value in values]
            for _ in range(UNITS)
        ]


def _progress(share: float, speed: float) -> float:
    return 1 - math.exp(-speed * share)
