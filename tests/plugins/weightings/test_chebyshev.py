"""Chebyshev weights: who gets them, and where they lead on a front that no linear weights reach."""

from __future__ import annotations

import math

import pytest
import torch
from weighting_properties import (
    DUPLICATE_SHARES,
    FINITE,
    LEAVES_NAN_ALONE,
    ONE_OBJECTIVE,
    PERMUTES,
    RESUMES,
    SIMPLEX,
    UNIT_FREE,
    WORST_FIRST,
    claims,
)

from moalign.testing.steps import make_step
from moalign_plugins.weightings.chebyshev import Chebyshev
from moalign_plugins.weightings.fixed import Fixed

test_properties = claims(
    Chebyshev,
    FINITE,
    SIMPLEX,
    PERMUTES,
    ONE_OBJECTIVE,
    RESUMES,
    UNIT_FREE,
    LEAVES_NAN_ALONE,
    DUPLICATE_SHARES,
    WORST_FIRST,
)


def step_at(*means: float, **options):
    return make_step(torch.tensor(means).expand(1, 2, -1).clone(), **options)


def weights(*means: float, **options):
    return Chebyshev().weigh(step_at(*means, **options)).values.tolist()


def test_the_largest_weighted_regret_takes_all():
    assert weights(0.2, 0.5) == [1.0, 0.0]
    assert weights(0.2, 0.5, preference={"a": 1, "b": 3}) == [0.0, 1.0]
    assert Chebyshev().weigh(step_at(0.2, 0.5)).metrics["scalarised"] == pytest.approx(-0.4)


def test_ties_share_in_proportion_to_the_preference():
    assert weights(0.5, 0.5, 0.9) == [0.5, 0.5, 0.0]
    assert weights(0.8, 0.4, preference={"a": 3, "b": 1}) == pytest.approx([0.75, 0.25])


def test_a_preference_of_zero_makes_an_objective_free():
    found = Chebyshev().weigh(step_at(0.0, 0.9, preference={"a": 0, "b": 1}))
    assert found.values.tolist() == [0.0, 1.0]
    assert len(found.notes) == 1


def climb(weighting, start: float, **options) -> float:
    """Return where gradient ascent with the weights ends on f = (t, (1 - sqrt t)^2)."""
    step, t, visited = step_at(0.0, 0.0, **options), start, []
    for _ in range(400):
        second = (1 - math.sqrt(t)) ** 2
        step.scores_PGK = torch.tensor([t, second]).expand(1, 2, -1)
        w_1, w_2 = weighting.weigh(step).values.tolist()
        t += 0.01 * (w_1 - w_2 * (1 / math.sqrt(t) - 1))
        t = min(max(t, 1e-4), 1.0)
        visited.append(t)
    return sum(visited[-100:]) / 100


def test_it_reaches_the_middle_of_a_concave_front_and_linear_weights_do_not():
    # Equal regrets where t = (1 - sqrt t)^2, so at a quarter.
    for start in (0.02, 0.5):
        assert climb(Chebyshev(decay=0.5), start) == pytest.approx(0.25, abs=0.02)
    ends = [climb(Fixed(), start) for start in (0.02, 0.5)]
    assert ends[0] < 0.01
    assert ends[1] > 0.99


def test_at_the_end_weighted_regrets_are_equal():
    preference = {"a": 2, "b": 1}
    t = climb(Chebyshev(decay=0.5), 0.02, preference=preference)
    assert 2 * (1 - t) == pytest.approx(1 - (1 - math.sqrt(t)) ** 2, abs=0.03)
