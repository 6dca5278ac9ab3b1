"""Augmented Chebyshev weights: the maximum, and a little of the rest."""

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
from moalign_plugins.weightings.augmented_chebyshev import AugmentedChebyshev
from moalign_plugins.weightings.chebyshev import Chebyshev

test_properties = claims(
    AugmentedChebyshev,
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


def test_the_rest_gets_its_share_of_the_augmentation():
    found = AugmentedChebyshev(augmentation=0.1).weigh(step_at(0.2, 0.5))
    assert found.values.tolist() == pytest.approx([1.1 / 1.2, 0.1 / 1.2])
    assert found.metrics["scalarised"] == pytest.approx(-0.4 - 0.1 * 0.5 * (0.8 + 0.5))
    preferred = AugmentedChebyshev(augmentation=0.1).weigh(
        step_at(0.2, 0.5, preference={"a": 1, "b": 3})
    )
    assert preferred.values.tolist() == pytest.approx([0.025 / 0.85, 0.825 / 0.85])


def test_without_augmentation_it_is_chebyshev_and_with_much_the_preference():
    step = step_at(0.3, 0.9, 0.4, preference={"a": 5, "b": 3, "c": 2})
    plain = AugmentedChebyshev(augmentation=0.0).weigh(step).values
    torch.testing.assert_close(plain, Chebyshev().weigh(step).values)
    much = AugmentedChebyshev(augmentation=1e9).weigh(step).values
    torch.testing.assert_close(much, step.preference_K)
