"""Group and batch statistics: golden values, missing scores, invariances."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from moalign.maths.normalisation import (
    ROUNDING,
    alike,
    group_centre,
    group_centre_over_deviation,
    group_zscore,
    leave_one_out,
    masked_whiten,
)

NAN = float("nan")
ESTIMATORS = [group_centre, group_zscore, leave_one_out]


def group(*rewards: float) -> torch.Tensor:
    return torch.tensor(rewards)[None, :, None]


def rough_scores(seed: int = 0) -> torch.Tensor:
    """Scores [5, 6, 4] of very different sizes, a fifth of them missing."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(5, 6, 4, generator=generator) * torch.tensor([1.0, 1e3, 1e-3, 1.0])
    scores[..., 3] = scores[..., 3].round()
    missing = torch.rand(5, 6, 4, generator=generator) < 0.2
    return scores.masked_fill(missing, NAN)


def test_maths_is_imported_without_torch():
    modules = "aggregate, combine, kl, normalisation, simplex, surrogate"
    code = f"import sys; from moalign.maths import {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_golden_values_of_one_group():
    rewards = group(1, 0, 0, 1)
    third = 2 / 3
    torch.testing.assert_close(leave_one_out(rewards), group(third, -third, -third, third))
    a = 0.86602
    torch.testing.assert_close(group_zscore(rewards), group(a, -a, -a, a), atol=1e-5, rtol=0)
    torch.testing.assert_close(group_centre(rewards), group(0.5, -0.5, -0.5, 0.5))


@pytest.mark.parametrize("estimate", ESTIMATORS)
def test_groups_sum_to_zero_and_missing_scores_get_zero(estimate):
    scores = rough_scores()
    advantages = estimate(scores)
    assert advantages.dtype == torch.float32
    assert advantages.isfinite().all()
    assert (advantages[scores.isnan()] == 0).all()
    sizes = advantages.abs().amax((0, 1)).clamp(min=1e-9)
    assert (advantages.sum(1).abs() / sizes < 1e-6).all()


@pytest.mark.parametrize("estimate", ESTIMATORS)
def test_missing_scores_have_no_influence(estimate):
    scores = rough_scores()
    for p in range(5):
        for k in range(4):
            present = ~scores[p, :, k].isnan()
            alone = estimate(scores[p, present, k][None, :, None])
            torch.testing.assert_close(estimate(scores)[p, present, k], alone[0, :, 0])


@pytest.mark.parametrize("estimate", ESTIMATORS)
def test_objectives_are_treated_one_by_one(estimate):
    scores, order = rough_scores(), [2, 0, 3, 1]
    assert torch.equal(estimate(scores[..., order]), estimate(scores)[..., order])
    assert torch.equal(estimate(scores[..., 1:2]), estimate(scores)[..., 1:2])


@pytest.mark.parametrize("estimate", ESTIMATORS)
@pytest.mark.parametrize(
    "rewards", [(0.1,) * 7, (3.7e6,) * 5, (NAN, 2.0, NAN), (NAN, NAN), (5.0,), (-0.0, 0.0)]
)
def test_a_group_that_cannot_be_compared_gets_zero(estimate, rewards):
    assert (estimate(group(*rewards)) == 0).all()


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3, 1e6])
def test_rounding_is_no_difference(size):
    value = torch.tensor(size)
    above = torch.nextafter(value, torch.tensor(2 * size))
    twice_above = torch.nextafter(above, torch.tensor(2 * size))
    assert (group_zscore(group(value, above, twice_above)) == 0).all()
    different = group(size, size * (1 + 4 * ROUNDING), size)
    assert (group_zscore(different) != 0).all()


def test_large_offsets_and_sizes_stay_exact():
    expected = group_zscore(group(1, 0, 0, 1))
    torch.testing.assert_close(
        group_zscore(group(1, 0, 0, 1) + 2.0**18), expected, atol=1e-6, rtol=0
    )
    torch.testing.assert_close(group_zscore(group(1, 0, 0, 1) * 1e30), expected)


def test_zscores_do_not_feel_a_positive_scale():
    rewards = group(0.334, 0.667, 1, 0, 0.333, 0.667, 1, 0.334)
    half, plain, twice = (group_zscore(rewards * factor) for factor in (0.5, 1, 2))
    change = max(float((scaled - plain).abs().max()) for scaled in (half, twice))
    assert change == pytest.approx(4.3e-6, rel=0.05)  # epsilon alone
    torch.testing.assert_close(group_zscore(3 * rewards + 7), plain, atol=1e-5, rtol=0)


def test_leave_one_out_is_the_rescaled_centre():
    rewards = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(leave_one_out(rewards), group_centre(rewards) * 5 / 4)
    others = (rewards.sum(1, keepdim=True) - rewards) / 4
    torch.testing.assert_close(leave_one_out(rewards), rewards - others)


def test_being_judged_is_neither_rewarded_nor_punished():
    generator = torch.Generator().manual_seed(2)
    accuracy = torch.rand(40, 8, 1, generator=generator)
    for share in (0.1, 0.3, 0.5):
        missing = torch.rand(40, 8, 1, generator=generator) < share
        judged = torch.rand(40, 8, 1, generator=generator).masked_fill(missing, NAN)
        both = group_zscore(torch.cat([accuracy, judged], -1))
        assert torch.equal(both[..., :1], group_zscore(accuracy))
        per_group = (both[..., 1:] * ~missing).sum(1)
        assert per_group.abs().max() < 1e-5


def test_whitening_has_mean_zero_and_deviation_one():
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(6, 7, 3, generator=generator) * torch.tensor([1.0, 50.0, 1e-2]) + 4
    mask = (torch.rand(6, 7, 1, generator=generator) < 0.7).float()
    white = masked_whiten(values, mask)
    kept = white[mask[..., 0] > 0]
    torch.testing.assert_close(kept.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(kept.std(0), torch.ones(3), atol=2e-4, rtol=0)
    assert (white[mask[..., 0] == 0] == 0).all()


def test_whitening_never_reads_what_is_masked():
    values = torch.arange(6.0).view(2, 3, 1)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])[..., None]
    poisoned = values.clone()
    poisoned[0, 2], poisoned[1, 1], poisoned[1, 2] = NAN, float("inf"), -1e30
    assert torch.equal(masked_whiten(poisoned, mask), masked_whiten(values, mask))


@pytest.mark.parametrize("values", [[2.5, 2.5, 2.5], [1.0], [0.0, 0.0]])
def test_whitening_without_spread_is_zero(values):
    tensor = torch.tensor(values)[:, None, None]
    assert (masked_whiten(tensor, torch.ones_like(tensor)) == 0).all()


def test_whitening_by_fractions_counts_every_completion_once():
    values = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])[..., None]
    lengths = torch.tensor([[1.0], [4.0]])
    mask = (torch.arange(4) < lengths).float()
    white = masked_whiten(values, (mask / lengths)[..., None])
    alone = masked_whiten(values[:, :1], torch.ones(2, 1, 1))
    torch.testing.assert_close(white[:, :1], alone)
    assert (white[0, 1:] == 0).all()


def test_alike_objectives_are_found_whatever_is_missing():
    scores = torch.tensor([[0.3, 1.0, NAN, 1e10], [0.3, 0.0, NAN, 1e10], [NAN, 1.0, NAN, 1e10]])
    assert alike(scores).tolist() == [True, False, True, True]
    assert alike(scores[:1]).all()
    assert alike(torch.tensor([[0.1 + 0.2], [0.3]])).all()  # up to rounding


def test_centring_over_the_deviation_leaves_out_what_is_missing():
    scores = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(0))
    scores[:, 2, 0] = NAN
    found = group_centre_over_deviation(scores)
    assert not found[:, 2, 0].any()
    rest = group_centre_over_deviation(scores[:, :2])
    torch.testing.assert_close(found[:, :2, 0], rest[..., 0])
    torch.testing.assert_close(found.sum(1), torch.zeros(2, 2), atol=1e-6, rtol=0)
    for scale in (1e-10, 1e10):
        assert group_centre_over_deviation(scores * scale).isfinite().all()
