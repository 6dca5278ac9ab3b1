"""Smooth Chebyshev per completion: published values, and both ends of the temperature."""

from __future__ import annotations

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

from moalign.maths.normalisation import group_zscore
from moalign.testing.steps import make_step
from moalign_plugins.weightings.response_chebyshev import ResponseChebyshev
from moalign_plugins.weightings.response_smooth_chebyshev import ResponseSmoothChebyshev

ONE = ONE_OBJECTIVE.without(
    "tiny scores",
    "scores of unlike scales",
    "one after the other",
    because="1 minus a tiny score is 1 in float32",
)

test_properties = claims(
    ResponseSmoothChebyshev, FINITE, PERMUTES, ONE, RESUMES, UNIT_FREE, LEAVES_NAN_ALONE
)


@pytest.mark.parametrize(("temperature", "value"), [(1.0, 1.02096), (0.1, 0.42014), (0.01, 0.4)])
def test_published_values(temperature, value):
    step = make_step(torch.tensor([[[0.2, 0.5], [0.2, 0.5]]]))
    found = ResponseSmoothChebyshev(temperature=temperature).weigh(step)
    assert found.values_PG[0].tolist() == pytest.approx([-value] * 2, abs=5e-6)


def test_a_low_temperature_is_the_maximum_and_a_high_one_the_sum():
    scores = torch.rand(2, 6, 3, generator=torch.Generator().manual_seed(0))
    step = make_step(scores, preference={"a": 5, "b": 3, "c": 2})
    hard = ResponseChebyshev().weigh(step).values_PG
    cold = ResponseSmoothChebyshev(temperature=1e-9).weigh(step).values_PG
    torch.testing.assert_close(cold, hard)
    hot = ResponseSmoothChebyshev(temperature=10.0).weigh(step).values_PG
    summed = scores @ step.preference_K
    torch.testing.assert_close(
        group_zscore(hot[..., None]), group_zscore(summed[..., None]), atol=0.05, rtol=0
    )


def test_it_tells_completions_apart_that_tie_in_their_worst():
    step = make_step(torch.tensor([[[0.0, 0.0], [0.0, 1.0]]]))
    found = ResponseSmoothChebyshev().weigh(step).values_PG[0]
    assert found[1] > found[0] + 1e-3
