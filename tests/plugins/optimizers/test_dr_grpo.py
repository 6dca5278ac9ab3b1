"""Group relative policy optimisation without divisions."""

from __future__ import annotations

import torch

from moalign.maths.combine import combine, scalarise
from moalign.testing.steps import make_batch
from moalign.types import Rows
from moalign_plugins.optimizers.dr_grpo import DrGrpo


def test_it_never_divides_by_the_deviation():
    scores = torch.tensor([[1.0, 0.0, 0.0, 1.0], [10.0, 0.0, 0.0, 10.0]])[..., None]
    found = DrGrpo().advantages(scores, make_batch(2, 4))[:, 0, 0]
    torch.testing.assert_close(found[:4], torch.tensor([0.5, -0.5, -0.5, 0.5]))
    torch.testing.assert_close(found[4:], 10 * found[:4])


def test_the_loss_is_divided_by_the_token_limit_and_not_by_lengths():
    logprobs = torch.zeros(2, 4, requires_grad=True)
    mask = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    rows = Rows(mask, torch.zeros(2, 4), None, total_rows=2, total_tokens=5, max_tokens=20)
    loss, _ = DrGrpo().loss(logprobs, rows, torch.tensor([[1.0], [-1.0]]))
    loss.backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([[-1.0], [1.0]]) * mask / 40)


def test_weighting_advantages_equals_weighting_rewards():
    scores = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0))
    weights, batch = torch.tensor([0.3, 0.7]), make_batch(3, 4)
    after = combine(DrGrpo().advantages(scores, batch), weights, batch=batch)
    before = DrGrpo().advantages(scalarise(scores, weights)[..., None], batch)[..., 0]
    torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-6)
