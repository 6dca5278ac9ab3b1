from __future__ import annotations

import math
import random
import statistics

import pytest
from histories import PATH, RATE, SPACE, history, seen

from moalign.errors import OptionError
from moalign.types import Objective
from moalign_plugins.strategies.gp import GaussianProcess
from moalign_plugins.strategies.random import draw


def test_the_model_looks_where_both_objectives_are_good():
    """After the random trials, rates near the good one are proposed more often than before."""

    def observed(trial: int, rng: random.Random):
        params = {path: draw(dimension, rng) for path, dimension in SPACE.items()}
        skill = 1.0 - abs(math.log10(params[RATE] / 1e-3)) / 2
        values = skill * params[PATH]["a"] ** 0.5, 10 * skill * params[PATH]["b"] ** 0.5
        return seen(trial, values, params=params)

    def distance(strategy) -> float:
        found = []
        for seed in range(3):
            rng = random.Random(seed)
            known = history([observed(trial, rng) for trial in range(12)])
            (proposal,) = strategy.propose(known, 1, seed)
            found.append(abs(math.log10(proposal.params[RATE] / 1e-3)))
        return statistics.mean(found)

    assert distance(GaussianProcess(startup=4)) < 0.5 * distance(GaussianProcess(startup=99))


def test_more_objectives_than_can_be_improved_on_in_time_are_refused():
    objectives = [Objective(name, (0.0, 1.0)) for name in "abcd"]
    with pytest.raises(OptionError, match=r"up to 3 .* found 4\. Use `strategy: botorch`, or"):
        GaussianProcess().check(history([], objectives=objectives))
    GaussianProcess().check(history([], objectives=objectives[:3]))
