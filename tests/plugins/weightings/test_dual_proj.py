"""The mean gradient, projected onto the cone that harms nobody."""

from __future__ import annotations

import pytest
import torch
from gradients import (
    AGREEING,
    OPPOSITE,
    TORCHJD,
    random_gradients,
    resumes,
    shares,
    step_of,
    weights,
)
from weighting_properties import (
    DUPLICATE_SHARES,
    FINITE,
    NO_COMMON_DESCENT_LOST,
    NO_CONFLICT_NO_CHANGE,
    ONE_OBJECTIVE,
    PERMUTES,
    PREFERENCE_SCALES_ROWS,
    RESUMES,
    SCALE_FREE,
    SIMPLEX,
    claims,
)

from moalign_plugins.weightings.dual_proj import DualProj

test_properties = claims(
    DualProj, FINITE, SIMPLEX, PERMUTES, ONE_OBJECTIVE, RESUMES, SCALE_FREE, DUPLICATE_SHARES,
    NO_CONFLICT_NO_CHANGE
)  # fmt: skip
test_properties_of_each_step = claims(
    lambda: DualProj(smoothing=0), NO_COMMON_DESCENT_LOST, PREFERENCE_SCALES_ROWS
)


def test_published_value():
    assert weights(DualProj(), TORCHJD) == pytest.approx(shares(0.6109, 0.5), abs=1e-3)


def test_without_harm_it_is_the_preference():
    preference = {"a": 5, "b": 3, "c": 2}
    assert weights(DualProj(), AGREEING, preference) == pytest.approx([0.5, 0.3, 0.2])


def test_who_would_lose_gains_nothing():
    # The mean is (-4.5, .5), and harms the first: d = (0, .5).
    gradients = [(1.0, 0.0), (-10.0, 1.0)]
    found = weights(DualProj(), gradients)
    assert found == pytest.approx(shares(5, 0.5))
    direction = torch.tensor(found) @ torch.tensor(gradients)
    assert float(direction[0]) == pytest.approx(0, abs=1e-6)
    assert direction[1] > 0


@pytest.mark.parametrize("seed", range(5))
def test_no_weight_falls_below_the_preference_but_by_the_common_factor(seed):
    weighting = DualProj()
    returned = weighting.weigh(step_of(random_gradients(seed), {"a": 5, "b": 3, "c": 2}))
    coefficients = returned.values * returned.metrics["coefficients"]
    assert (coefficients >= torch.tensor([0.5, 0.3, 0.2]) - 1e-6).all()


def test_opposite_objectives_stop_it_and_only_them():
    assert DualProj().weigh(step_of(OPPOSITE)).gain == 0.0
    assert DualProj().weigh(step_of([(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0)])).gain == 1.0


def test_resume():
    assert resumes(DualProj(), DualProj())
