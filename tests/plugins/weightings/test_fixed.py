"""Weights that stay as the preference says."""

from __future__ import annotations

import torch
from weighting_properties import (
    DUPLICATE_SHARES,
    FINITE,
    FROZEN,
    LEAVES_NAN_ALONE,
    NO_CONFLICT_NO_CHANGE,
    ONE_OBJECTIVE,
    PERMUTES,
    RESUMES,
    SCALE_FREE,
    SCORE_SCALE_FREE,
    SHIFT_FREE,
    SIMPLEX,
    UNIT_FREE,
    claims,
)

from moalign.maths.combine import combine
from moalign.testing.steps import make_batch, make_step
from moalign_plugins.weightings.fixed import Fixed


def test_the_preference_is_the_weights():
    weights = Fixed().weigh(make_step(preference={"a": 3.0, "c": 1.0}))
    torch.testing.assert_close(weights.values, torch.tensor([0.75, 0.0, 0.25]))
    assert weights.gain == 1.0


def test_a_conditioned_prompt_is_weighted_by_what_it_says():
    conditions = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
    batch = make_batch(2, 4, conditions_PK=conditions)
    step = make_step(batch=batch)
    weights = Fixed().weigh(step)
    assert weights.values.shape == (2, 1, 3)
    combined = combine(step.advantages_BTK, weights.values, batch=batch)
    assert torch.equal(combined[:4], step.advantages_BTK[:4, :, 0])


def test_one_objective_is_the_plain_algorithm_bit_for_bit():
    step = make_step(torch.rand(2, 4, 1))
    weights = Fixed().weigh(step)
    combined = combine(step.advantages_BTK, weights.values, batch=step.batch, gain=weights.gain)
    assert torch.equal(combined, step.advantages_BTK[..., 0])


test_properties = claims(
    Fixed,
    DUPLICATE_SHARES,
    FINITE,
    LEAVES_NAN_ALONE,
    NO_CONFLICT_NO_CHANGE,
    ONE_OBJECTIVE,
    PERMUTES,
    RESUMES,
    SCALE_FREE,
    SCORE_SCALE_FREE,
    SHIFT_FREE,
    SIMPLEX,
    UNIT_FREE,
    FROZEN(Fixed),
)
