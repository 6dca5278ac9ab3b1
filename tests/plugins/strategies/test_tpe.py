from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest
from histories import OBJECTIVES, SPACE, history, seen

from moalign.types import History, Objective
from moalign_plugins.strategies.random import draw
from moalign_plugins.strategies.tpe import ParzenEstimator


def known(count: int) -> History:
    rng = random.Random(0)
    return history(
        [
            seen(trial, (rng.random(), 10 * rng.random()), params=params)
            for trial in range(count)
            for params in [{path: draw(dimension, rng) for path, dimension in SPACE.items()}]
        ]
    )


def test_bounds_are_the_units():
    """What is the same in units of the bounds is the same to the strategy."""
    before = known(8)
    scaled = tuple(
        replace(one, values_K=(1000 * one.values_K[0] - 5, one.values_K[1]))
        for one in before.observations
    )
    objectives = (Objective("a", (-5.0, 995.0)), OBJECTIVES[1])
    after = replace(before, objectives=objectives, observations=scaled)
    strategy = ParzenEstimator(startup=4)
    assert strategy.propose(after, 1, 0) == strategy.propose(before, 1, 0)


def test_any_number_of_objectives_will_do():
    objectives = [Objective(name, (0.0, 1.0)) for name in "abcdef"]
    strategy = ParzenEstimator(startup=2)
    few = history([seen(t, (0.1 * t, *[0.5] * 5)) for t in range(4)], objectives=objectives)
    strategy.check(few)
    assert strategy.propose(few, 1, 0)[0].params.keys() == SPACE.keys()


@pytest.mark.alone
def test_tpe_is_fast():
    before = known(60)
    ParzenEstimator().propose(before, 1, 0)
    began = time.perf_counter()
    ParzenEstimator().propose(before, 1, 0)
    assert time.perf_counter() - began < 2.0
