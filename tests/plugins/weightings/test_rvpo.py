"""RVPO: soft minimum of z-scores, from the mean to the minimum."""

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
    SHIFT_FREE,
    UNIT_FREE,
    claims,
)

from moalign.maths.combine import combine
from moalign.maths.normalisation import group_zscore
from moalign.testing.steps import make_batch, make_step
from moalign_plugins.optimizers.dr_grpo import DrGrpo
from moalign_plugins.optimizers.grpo import Grpo
from moalign_plugins.weightings.rvpo import Rvpo

NAN = math.nan
SCORES = torch.rand(3, 8, 3, generator=torch.Generator().manual_seed(0))
ONE = ONE_OBJECTIVE.without("tiny scores", because="the epsilon of z-scores is as large as they")
SHIFT = SHIFT_FREE.without("one after the other", because="a shift swallows its tiny scores")
UNIT = UNIT_FREE.without(
    "groups of two",
    "one after the other",
    because="in groups of two z-scores are all of one size, and .5 for balances .3 and .2 against; "
    "another unit swallows tiny scores",
)

test_properties = claims(Rvpo, FINITE, PERMUTES, ONE, RESUMES, SHIFT, UNIT, LEAVES_NAN_ALONE)


def scores_of(scores, kappa, **options):
    return Rvpo(kappa=kappa).weigh(make_step(scores, **options)).values_PG


def test_formula():
    zscores = group_zscore(SCORES)
    expected = -((-2.0 * zscores).exp().mean(-1)).log() / 2.0
    torch.testing.assert_close(scores_of(SCORES, 2.0), expected)


def test_no_aversion_is_the_weighted_mean_and_much_the_minimum():
    zscores = group_zscore(SCORES)
    preference = {"a": 5, "b": 3, "c": 2}
    mean = zscores @ torch.tensor([0.5, 0.3, 0.2])
    torch.testing.assert_close(scores_of(SCORES, 0.0, preference=preference), mean)
    torch.testing.assert_close(scores_of(SCORES, 1e-9, preference=preference), mean)
    least = scores_of(SCORES, 1e4, preference=preference)
    torch.testing.assert_close(least, zscores.amin(-1), atol=1e-3, rtol=0)


def test_to_second_order_it_is_the_mean_less_half_kappa_times_the_variance():
    zscores = group_zscore(SCORES).double()
    for kappa in (0.02, 0.01):
        expected = zscores.mean(-1) - kappa / 2 * zscores.var(-1, unbiased=False)
        found = scores_of(SCORES, kappa).double()
        assert (found - expected).abs().max() < kappa**2


def test_balance_beats_an_equal_mean():
    # z-scores (1, 1), (-1, -1) and (1, -1), (-1, 1) up to their scale.
    scores = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]])
    found = scores_of(scores, 1.0)[0]
    assert float(found[0]) == pytest.approx(-math.log(math.cosh(1.0)), abs=1e-5)
    assert float(found[2]) == pytest.approx(0.0, abs=1e-6)


def test_to_miss_a_score_is_its_groups_mean():
    scores = torch.tensor([[[0.9, NAN], [0.9, 0.5], [0.1, 0.2], [0.1, 0.8]]])
    for kappa in (0.0, 1.0, 100.0):
        found = scores_of(scores, kappa)[0]
        assert float(found[0]) == pytest.approx(float(found[1]), abs=1e-5)


def test_what_a_whole_group_misses_is_left_out_there():
    scores = SCORES.clone()
    scores[0, :, 1] = NAN
    scores[1, 2] = NAN
    found = scores_of(scores, 2.0)
    torch.testing.assert_close(found[0], scores_of(SCORES[:1, :, [0, 2]], 2.0)[0])
    assert found[1, 2].isnan()
    assert int(found.isnan().sum()) == 1


def test_a_preference_of_zero_leaves_an_objective_out():
    found = scores_of(SCORES, 2.0, preference={"a": 1, "b": 0, "c": 1})
    torch.testing.assert_close(found, scores_of(SCORES[..., [0, 2]], 2.0))


def test_with_one_objective_the_host_gets_its_advantages_back():
    found = scores_of(SCORES[..., :1], 1.0)
    batch = make_batch(3, 8)
    advantages = Grpo().advantages(found[..., None], batch)
    plain = Grpo().advantages(SCORES[..., :1], batch)
    torch.testing.assert_close(advantages, plain, atol=1e-4, rtol=0)


def test_without_aversion_the_published_study_is_gdpo():
    batch = make_batch(3, 8)
    scores = scores_of(SCORES, 0.0)
    centred = DrGrpo().advantages(scores[..., None], batch)
    found = combine(centred, torch.ones(1), batch=batch, batch_norm="sequence")
    zscores = group_zscore(SCORES).flatten(0, 1)[:, None]
    gdpo = combine(zscores, torch.full((3,), 1 / 3), batch=batch, batch_norm="sequence")
    torch.testing.assert_close(found, gdpo, atol=1e-5, rtol=0)
