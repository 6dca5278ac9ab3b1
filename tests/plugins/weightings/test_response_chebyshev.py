"""Chebyshev per completion: the worst objective counts, and to miss one is no help."""

from __future__ import annotations

import math

import pytest
import torch
from weighting_properties import (
    FINITE,
    LEAVES_NAN_ALONE,
    ONE_OBJECTIVE,
    PERMUTES,
    RESUMES,
    UNIT_FREE,
    claims,
)

from moalign.testing.steps import make_step
from moalign_plugins.weightings.response_chebyshev import ResponseChebyshev

NAN = math.nan
ONE = ONE_OBJECTIVE.without(
    "tiny scores",
    "scores of unlike scales",
    "one after the other",
    because="1 minus a tiny score is 1 in float32",
)

test_properties = claims(
    ResponseChebyshev, FINITE, PERMUTES, ONE, RESUMES, UNIT_FREE, LEAVES_NAN_ALONE
)


def scores_of(*rows, weighting=None, **options):
    step = make_step(torch.tensor([rows]), **options)
    return (weighting or ResponseChebyshev()).weigh(step).values_PG[0].tolist()


def test_the_arm_that_no_linear_weights_choose_is_best():
    assert scores_of((1.0, 0.0), (0.0, 1.0), (0.4, 0.4)) == pytest.approx([-0.5, -0.5, -0.3])
    # Three times the preference: a third of the regret is as bad.
    found = scores_of((0.9, 0.7), (0.6, 1.0), preference={"a": 3, "b": 1})
    assert found == pytest.approx([-0.075, -0.3])


def test_binary_objectives_tie():
    found = scores_of((1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1.0, 1.0))
    assert found == pytest.approx([-0.5, -0.5, -0.5, 0.0])


def test_to_miss_a_score_is_no_advantage():
    found = scores_of((0.9, 0.2), (0.9, 0.6), (0.9, NAN))
    assert found[2] == pytest.approx(-0.3)  # the mean of b is 0.4
    assert found[0] < found[2] < found[1]


def test_what_a_whole_group_misses_is_left_out_there():
    assert scores_of((0.9, NAN), (0.2, NAN)) == pytest.approx([-0.05, -0.4])
    found = scores_of((0.9, 0.5), (NAN, NAN))
    assert math.isnan(found[1])


def test_the_best_so_far_is_remembered():
    weighting = ResponseChebyshev(ideal="best")
    assert scores_of((0.5, 0.2), (0.1, 0.6), weighting=weighting) == pytest.approx([-0.2, -0.2])
    assert scores_of((0.4, 0.2), (0.1, 0.1), weighting=weighting) == pytest.approx([-0.2, -0.25])
