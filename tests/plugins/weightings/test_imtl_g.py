"""Equal projections onto all gradients."""

from __future__ import annotations

import pytest
import torch
from gradients import CONFLICT, OPPOSITE, TORCHJD, random_gradients, resumes, step_of, weights
from weighting_properties import (
    DUPLICATE_SHARES,
    FINITE,
    ONE_OBJECTIVE,
    PERMUTES,
    RESUMES,
    SCALE_FREE,
    claims,
)

from moalign_plugins.weightings.imtl_g import IMTLG

test_properties = claims(
    IMTLG, FINITE, PERMUTES, ONE_OBJECTIVE, RESUMES, SCALE_FREE, DUPLICATE_SHARES
)


def test_published_values():
    assert weights(IMTLG(), CONFLICT) == pytest.approx([0.58579, 0.41421], abs=1e-5)
    assert weights(IMTLG(), TORCHJD) == pytest.approx([0.5923, 0.4077], abs=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_projections_are_positive_and_in_proportion_to_the_preference(seed):
    gradients, preference = random_gradients(seed), {"a": 5, "b": 3, "c": 2}
    found = torch.tensor(weights(IMTLG(), gradients, preference), dtype=torch.float64)
    assert float(found.abs().sum()) == pytest.approx(1)
    projections = gradients @ (found @ gradients) / gradients.norm(dim=1)
    assert projections.min() > 0
    assert (projections / projections.sum()).tolist() == pytest.approx([0.5, 0.3, 0.2], abs=1e-4)


def test_the_scale_of_an_objective_changes_no_direction():
    gradients = random_gradients(1)
    louder = gradients * torch.tensor([[10.0], [1.0], [0.1]])
    one = torch.tensor(weights(IMTLG(), gradients)).double() @ gradients
    two = torch.tensor(weights(IMTLG(), louder)).double() @ louder
    torch.testing.assert_close(one / one.norm(), two / two.norm(), atol=1e-5, rtol=0)


def test_a_gradient_between_two_others_is_held_back():
    found = weights(IMTLG(), [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.7, 0.7, 0.2)])
    assert found[2] < 0 < min(found[:2])


def test_a_preference_of_zero_leaves_an_objective_out():
    assert weights(IMTLG(), CONFLICT, {"a": 0, "b": 1}) == [0.0, 1.0]


def test_opposite_objectives_stop_it():
    assert IMTLG().weigh(step_of(OPPOSITE)).gain == 0.0


def test_resume():
    assert resumes(IMTLG(), IMTLG())
