"""The clipped loss: golden values, on-policy gradient, clips, padding, extreme ratios."""

from __future__ import annotations

import dataclasses
import math
from typing import get_args

import pytest
import torch

from moalign.maths.aggregate import Aggregation
from moalign.maths.surrogate import ClippedSurrogate
from moalign.types import Rows

PLAIN = ClippedSurrogate(0.2, 0.2, 3.0, 0.0, "k3", "token-mean")
WITH_KL = dataclasses.replace(PLAIN, kl_coefficient=0.1)


def rows_of(mask_BT, old_BT, ref_BT=None, rows=None, tokens=None):
    return Rows(
        mask_BT=mask_BT,
        old_logprobs_BT=old_BT,
        ref_logprobs_BT=ref_BT,
        total_rows=rows or len(mask_BT),
        total_tokens=tokens or int(mask_BT.sum()),
        max_tokens=16,
    )


def sample(seed=0, shape=(5, 4), shift=0.3):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, shape[1] + 1, (shape[0], 1), generator=generator)
    mask = (torch.arange(shape[1]) < lengths).float()
    old = -torch.rand(shape, generator=generator) * 3 * mask
    new = (old + shift * torch.randn(shape, generator=generator)) * mask
    ref = (old + shift * torch.randn(shape, generator=generator)) * mask
    advantages = torch.randn(shape[0], 1, generator=generator)
    return mask, old, new, ref, advantages


def one_token(ratio: float, advantage: float, surrogate=PLAIN):
    logprob = torch.tensor([[math.log(ratio)]], requires_grad=True)
    rows = rows_of(torch.ones(1, 1), torch.zeros(1, 1))
    loss, metrics = surrogate.loss(logprob, rows, torch.tensor([[advantage]]))
    loss.backward()
    return float(loss.detach()), float(logprob.grad), float(metrics["clip_fraction"])


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, 0),
        (1.1, 2.0, -2.2, -2.2, 0),
        (1.5, 2.0, -2.4, 0.0, 1),  # good and already likelier: capped at 1.2
        (0.5, 2.0, -1.0, -1.0, 0),  # good and less likely: full gradient
        (0.5, -2.0, 1.6, 0.0, 1),  # bad and already less likely: capped at 0.8
        (1.5, -2.0, 3.0, 3.0, 0),  # bad and likelier: full gradient
        (4.0, -2.0, 6.0, 0.0, 1),  # bad and far likelier: dual clip at 3
        (1.5, 0.0, 0.0, 0.0, 0),
    ],
)
def test_golden_values_of_one_token(ratio, advantage, loss, gradient, clipped):
    found = one_token(ratio, advantage)
    assert found == pytest.approx((loss, gradient, clipped), abs=1e-5)


def test_clips_can_be_opened():
    wide = ClippedSurrogate(100, 100, None, 0.0, "k3", "token-mean")
    assert one_token(4.0, -2.0, wide) == pytest.approx((8.0, 8.0, 0), abs=1e-5)
    assert one_token(1.5, 2.0, wide) == pytest.approx((-3.0, -3.0, 0), abs=1e-5)


@pytest.mark.parametrize("how", get_args(Aggregation))
def test_on_policy_it_is_the_policy_gradient(how):
    mask, old, _, _, advantages = sample()
    surrogate = dataclasses.replace(PLAIN, aggregation=how)
    logprobs = old.clone().requires_grad_()
    loss, metrics = surrogate.loss(logprobs, rows_of(mask, old), advantages)
    loss.backward()
    lengths = mask.sum(-1, keepdim=True)
    divisor = {
        "token-mean": mask.sum(),
        "seq-mean-token-sum": 5,
        "seq-mean-token-mean": 5 * lengths,
        "seq-mean-token-sum-norm": 5 * 16,
    }[how]
    torch.testing.assert_close(logprobs.grad, -advantages * mask / divisor)
    assert float(metrics["ratio"]) == pytest.approx(1)
    assert float(metrics["clip_fraction"]) == 0
    assert float(metrics["kl_old"]) == 0


@pytest.mark.parametrize("how", get_args(Aggregation))
def test_micro_batches_add_up(how):
    mask, old, new, ref, advantages = sample(shape=(7, 6))
    surrogate = dataclasses.replace(WITH_KL, aggregation=how)
    whole, metrics = surrogate.loss(new, rows_of(mask, old, ref), advantages)
    parts = [
        surrogate.loss(
            new[rows],
            rows_of(mask[rows], old[rows], ref[rows], 7, int(mask.sum())),
            advantages[rows],
        )
        for rows in (torch.tensor([4, 0]), torch.tensor([6]), torch.tensor([1, 2, 3, 5]))
    ]
    torch.testing.assert_close(sum(loss for loss, _ in parts), whole)
    for name, value in metrics.items():
        torch.testing.assert_close(sum(found[name] for _, found in parts), value)


@pytest.mark.parametrize("garbage", [7.0, -1e30, float("nan"), float("inf")])
def test_padding_reaches_neither_loss_nor_gradient(garbage):
    mask, old, new, ref, advantages = sample()

    def run(fill: float):
        padding = mask == 0
        logprobs = new.masked_fill(padding, fill).requires_grad_()
        rows = rows_of(mask, old.masked_fill(padding, -fill), ref.masked_fill(padding, fill))
        spread = advantages.expand_as(mask).masked_fill(padding, 0.0)
        loss, metrics = WITH_KL.loss(logprobs, rows, spread)
        loss.backward()
        return loss.detach(), logprobs.grad, metrics

    clean, dirty = run(0.0), run(garbage)
    assert torch.equal(dirty[0], clean[0])
    assert torch.equal(dirty[1], clean[1])
    assert dirty[2] == clean[2]


@pytest.mark.parametrize("distance", [50.0, 1e4, -50.0, -1e4])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("dual_clip", [3.0, None])
@pytest.mark.parametrize("estimator", ["mse", "k3"])
def test_extreme_ratios_stay_finite(distance, advantage, dual_clip, estimator):
    surrogate = ClippedSurrogate(0.2, 0.2, dual_clip, 0.1, estimator, "token-mean")
    logprobs = torch.full((2, 3), distance, requires_grad=True)
    rows = rows_of(torch.ones(2, 3), torch.zeros(2, 3), torch.zeros(2, 3))
    loss, metrics = surrogate.loss(logprobs, rows, torch.full((2, 1), advantage))
    loss.backward()
    assert loss.isfinite()
    assert logprobs.grad.isfinite().all()
    assert all(value.isfinite() for value in metrics.values())


def test_kl_term_is_added_and_reported():
    mask, old, new, ref, advantages = sample()
    rows = rows_of(mask, old, ref)
    plain, without = PLAIN.loss(new, rows, advantages)
    loss, metrics = WITH_KL.loss(new, rows, advantages)
    torch.testing.assert_close(loss - plain, 0.1 * metrics["kl_ref"])
    assert float(metrics["kl_ref"]) > 0
    assert "kl_ref" not in without
    assert PLAIN.needs == frozenset()
    assert WITH_KL.needs == {"ref_logprobs"}
