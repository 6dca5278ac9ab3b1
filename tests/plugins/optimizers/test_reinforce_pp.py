"""REINFORCE with token returns whitened over the batch."""

from __future__ import annotations

import torch

from moalign.maths.normalisation import masked_whiten
from moalign.testing.steps import make_batch
from moalign_plugins.optimizers.reinforce_pp import ReinforcePlusPlus

NAN = float("nan")


def test_golden_values_by_hand():
    # Returns 1, 1 | 0: mean 2/3, deviation .57735 over three tokens.
    batch = make_batch(1, 2, lengths=[2, 1])
    found = ReinforcePlusPlus().advantages(torch.tensor([[[1.0], [0.0]]]), batch)
    expected = torch.tensor([[0.57735, 0.57735], [-1.15470, 0.0]])
    torch.testing.assert_close(found[..., 0], expected, atol=1e-5, rtol=0)


def test_discount():
    # Returns .25, .5, 1 | 0.
    batch = make_batch(1, 2, lengths=[3, 1])
    found = ReinforcePlusPlus(gamma=0.5).advantages(torch.tensor([[[1.0], [0.0]]]), batch)
    returns = torch.tensor([[0.25, 0.5, 1.0], [0.0, 0.0, 0.0]])[..., None]
    torch.testing.assert_close(found, masked_whiten(returns, batch.mask_BT[..., None]))


def test_rewards_per_token_and_per_completion_side_by_side():
    given = torch.tensor([[[1.0, NAN], [2.0, NAN]], [[4.0, NAN], [99.0, NAN]]])
    batch = make_batch(1, 2, lengths=[2, 1], token_rewards_BTK=given)
    scores = torch.tensor([[[3.0, 5.0], [4.0, 6.0]]])
    found = ReinforcePlusPlus(gamma=0.5).advantages(scores, batch)
    # 99 is padding; objective two has its score on the last token.
    returns = torch.tensor([[[2.0, 2.5], [2.0, 5.0]], [[4.0, 6.0], [0.0, 0.0]]])
    torch.testing.assert_close(found, masked_whiten(returns, batch.mask_BT[..., None]))


def test_statistics_are_per_objective_and_over_the_whole_batch():
    generator = torch.Generator().manual_seed(0)
    batch = make_batch(3, 2, lengths=[1, 5, 2, 4, 3, 3])
    scores = torch.rand(3, 2, 2, generator=generator) * torch.tensor([1.0, 500.0])
    found = ReinforcePlusPlus(gamma=0.9).advantages(scores, batch)
    tokens = found[batch.mask_BT > 0]
    torch.testing.assert_close(tokens.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(tokens.std(0), torch.ones(2), atol=1e-4, rtol=0)
    assert not found[batch.mask_BT == 0].any()
    alone = ReinforcePlusPlus(gamma=0.9).advantages(scores[..., 1:], batch)
    assert torch.equal(found[..., 1:], alone)


def test_missing_scores_and_empty_completions_take_no_part():
    batch = make_batch(2, 2, lengths=[2, 3, 1, 2])
    scores = torch.tensor([[[1.0], [NAN]], [[0.0], [0.5]]])
    found = ReinforcePlusPlus().advantages(scores, batch)
    assert not found[1].any()
    smaller = make_batch(1, 3, lengths=[2, 1, 2])
    rest = ReinforcePlusPlus().advantages(torch.tensor([[[1.0], [0.0], [0.5]]]), smaller)
    torch.testing.assert_close(found[[0, 2, 3], :2], rest)
    empty = make_batch(2, 2, lengths=[2, 0, 1, 2])
    filled = torch.where(scores.isnan(), torch.tensor(9.0), scores)
    found = ReinforcePlusPlus().advantages(filled, empty)
    torch.testing.assert_close(found[[0, 2, 3]], rest)
    assert not found[1].any()


def test_padding_changes_nothing():
    scores = torch.tensor([[[1.0], [0.0]]])
    short = ReinforcePlusPlus(gamma=0.7).advantages(scores, make_batch(1, 2, lengths=[2, 1]))
    batch = make_batch(1, 3, lengths=[2, 1, 6])
    wide = torch.tensor([[[1.0], [0.0], [NAN]]])
    found = ReinforcePlusPlus(gamma=0.7).advantages(wide, batch)
    torch.testing.assert_close(found[:2, :2], short)
    assert not found[:2, 2:].any()
