"""The sum of the gradients, each freed of its conflicts in turn."""

from __future__ import annotations

import pytest
import torch
from gradients import (
    AGREEING,
    CONFLICT,
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
    NO_CONFLICT_NO_CHANGE,
    ONE_OBJECTIVE,
    PERMUTES,
    PREFERENCE_SCALES_ROWS,
    RESUMES,
    SCALE_FREE,
    SIMPLEX,
    claims,
)

from moalign_plugins.weightings.pcgrad import PCGrad
from moalign_plugins.weightings.upgrad import UPGrad

PUBLISHED = {"orders": 1, "smoothing": 0}

test_properties = claims(
    PCGrad, FINITE, SIMPLEX, PERMUTES, ONE_OBJECTIVE, RESUMES, SCALE_FREE, DUPLICATE_SHARES,
    NO_CONFLICT_NO_CHANGE
)  # fmt: skip
test_properties_of_each_step = claims(lambda: PCGrad(smoothing=0), PREFERENCE_SCALES_ROWS)
test_properties_as_published = claims(
    lambda: PCGrad(**PUBLISHED), FINITE, SIMPLEX, ONE_OBJECTIVE, RESUMES, SCALE_FREE
)


def test_published_values():
    assert weights(PCGrad(), CONFLICT) == pytest.approx(shares(2, 1.5))
    assert weights(PCGrad(), TORCHJD) == pytest.approx(shares(2.2222, 1.5789), abs=1e-4)


def test_without_conflict_it_is_the_preference():
    preference = {"a": 5, "b": 3, "c": 2}
    assert weights(PCGrad(), AGREEING, preference) == pytest.approx([0.5, 0.3, 0.2])


@pytest.mark.parametrize("seed", range(5))
def test_with_two_objectives_it_is_upgrad(seed):
    gradients, preference = random_gradients(seed, 2), {"a": 3, "b": 1}
    expected = weights(UPGrad(), gradients, preference)
    assert weights(PCGrad(), gradients, preference) == pytest.approx(expected, abs=1e-6)


def test_with_three_it_may_harm_one():
    harmed = []
    for seed in range(30):
        gradients = random_gradients(seed, 3, 2)
        found = torch.tensor(weights(PCGrad(), gradients), dtype=torch.float64)
        harmed.append(float((gradients @ (found @ gradients)).min()) < -1e-3)
    assert 0 < sum(harmed) < 30


def test_drawn_orders_follow_from_the_number_of_the_step():
    gradients = random_gradients(3, 4, 2)
    drawn = [PCGrad(**PUBLISHED).weigh(step_of(gradients, index=n)).values for n in range(20)]
    again = [PCGrad(**PUBLISHED).weigh(step_of(gradients, index=n)).values for n in range(20)]
    assert torch.equal(torch.stack(drawn), torch.stack(again))
    assert len(torch.stack(drawn).unique(dim=0)) > 3


def test_opposite_objectives_stop_it():
    assert PCGrad().weigh(step_of(OPPOSITE)).gain == 0.0


def test_resume():
    assert resumes(PCGrad(), PCGrad())
    assert resumes(PCGrad(orders=1), PCGrad(orders=1))
