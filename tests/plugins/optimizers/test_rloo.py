"""REINFORCE with a leave-one-out baseline."""

from __future__ import annotations

import torch

from moalign.maths.combine import combine, scalarise
from moalign.testing.steps import make_batch
from moalign_plugins.optimizers.rloo import Rloo


def test_golden_values():
    scores = torch.tensor([1.0, 0.0, 0.0, 1.0])[None, :, None]
    found = Rloo().advantages(scores, make_batch(1, 4))
    third = 2 / 3
    expected = torch.tensor([third, -third, -third, third])
    torch.testing.assert_close(found[:, 0, 0], expected)


def test_weighting_advantages_equals_weighting_rewards():
    scores = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0))
    weights, batch = torch.tensor([0.3, 0.7]), make_batch(3, 4)
    after = combine(Rloo().advantages(scores, batch), weights, batch=batch)
    before = Rloo().advantages(scalarise(scores, weights)[..., None], batch)[..., 0]
    torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-6)


def test_the_baseline_is_unbiased():
    # Two answers, rewards 1 and 0: the mean estimate over all groups is the true gradient.
    p = 0.3
    estimate = 0.0
    for arms in torch.cartesian_prod(*[torch.tensor([0, 1])] * 3):
        probability = float(torch.where(arms == 0, p, 1 - p).prod())
        advantages = Rloo().advantages((arms == 0).float()[None, :, None], make_batch(1, 3))
        score = torch.where(arms == 0, 1 - p, -p)  # d log probability / d logit of the first
        estimate += probability * float((advantages[:, 0, 0] * score).mean())
    torch.testing.assert_close(torch.tensor(estimate), torch.tensor(p * (1 - p)))
