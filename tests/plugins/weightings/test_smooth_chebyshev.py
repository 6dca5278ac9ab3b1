"""Smooth Chebyshev weights: published values, and both ends of the temperature."""

from __future__ import annotations

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
from moalign_plugins.weightings.smooth_chebyshev import SmoothChebyshev

test_properties = claims(
    SmoothChebyshev,
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


def test_published_values():
    found = SmoothChebyshev(temperature=0.1).weigh(step_at(0.2, 0.5))
    assert found.metrics["scalarised"] == pytest.approx(-0.42014, abs=5e-6)
    expected = [w / (0.40879 + 0.09121) for w in (0.40879, 0.09121)]
    assert found.values.tolist() == pytest.approx(expected, abs=2e-5)


def test_a_low_temperature_is_chebyshev_and_a_high_one_the_preference():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        step = make_step(
            torch.rand(2, 4, 3, generator=generator), preference={"a": 5, "b": 3, "c": 2}
        )
        hard = Chebyshev().weigh(step).values
        torch.testing.assert_close(SmoothChebyshev(temperature=1e-9).weigh(step).values, hard)
        torch.testing.assert_close(
            SmoothChebyshev(temperature=1e9).weigh(step).values, step.preference_K
        )


def test_the_rule_of_thumb_of_its_docstring():
    values = SmoothChebyshev().weigh(step_at(0.5, 0.4, 0.5)).values
    assert float(values[1] / values[0]) == pytest.approx(2, abs=0.1)
