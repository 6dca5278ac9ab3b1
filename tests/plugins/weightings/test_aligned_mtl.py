"""Gradients made orthogonal and of one length before they are summed."""

from __future__ import annotations

import pytest
import torch
from gradients import (
    OPPOSITE,
    ORTHOGONAL,
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
    ONE_OBJECTIVE,
    PERMUTES,
    RESUMES,
    SCALE_FREE,
    claims,
)

from moalign_plugins.weightings.aligned_mtl import AlignedMTL

test_properties = claims(
    AlignedMTL, FINITE, PERMUTES, ONE_OBJECTIVE, RESUMES, SCALE_FREE, DUPLICATE_SHARES
)


def test_published_value():
    assert weights(AlignedMTL(), TORCHJD) == pytest.approx(shares(0.5591, 0.4083), abs=1e-4)


def test_orthogonal_gradients_are_made_of_one_length():
    assert weights(AlignedMTL(), ORTHOGONAL) == pytest.approx(shares(1, 0.5))
    found = weights(AlignedMTL(), ORTHOGONAL, {"a": 3, "b": 1})
    assert found == pytest.approx(shares(3, 0.5))


@pytest.mark.parametrize("seed", range(5))
def test_the_direction_is_the_preferred_sum_of_the_polar_factor(seed):
    gradients, preference = random_gradients(seed), {"a": 5, "b": 3, "c": 2}
    left, _, right = torch.linalg.svd(gradients, full_matrices=False)
    expected = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64) @ left @ right
    found = torch.tensor(weights(AlignedMTL(), gradients, preference)).double() @ gradients
    torch.testing.assert_close(found / found.norm(), expected / expected.norm(), atol=1e-5, rtol=0)


def test_weights_may_be_negative_and_are_bounded():
    found = weights(AlignedMTL(), [(1.0, 0.0), (10.0, 1.0)])
    assert found == pytest.approx(shares(46, -4))


def test_a_preference_of_zero_leaves_an_objective_out():
    assert weights(AlignedMTL(), TORCHJD, {"a": 0, "b": 1}) == [0.0, 1.0]


def test_opposite_objectives_stop_it():
    assert AlignedMTL().weigh(step_of(OPPOSITE)).gain == 0.0


def test_resume():
    assert resumes(AlignedMTL(), AlignedMTL())
