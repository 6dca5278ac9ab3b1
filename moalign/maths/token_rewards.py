"""Rewards and their returns along a completion.

Shapes: B rows, T tokens, K objectives. NaN marks a score that does not apply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from moalign.types import Batch


def token_rewards(scores_BK: Tensor, batch: Batch) -> Tensor:
    """Return rewards per token: as given, else the score on the last token; 0 where NaN.

    Args:
        scores_BK: raw scores.
        batch: gives the mask, and the rewards that are given per token.

    Returns:
        [B, T, K], 0 on padding.
    """
    last_B1K = (batch.lengths_B() - 1).clamp(min=0)[:, None, None].expand(-1, 1, scores_BK.shape[1])
    nothing_BTK = scores_BK.new_zeros(*batch.mask_BT.shape, scores_BK.shape[1])
    at_end_BTK = nothing_BTK.scatter(1, last_B1K, scores_BK.nan_to_num(0.0)[:, None])
    given_BTK = batch.token_rewards_BTK
    if given_BTK is not None:
        per_token = ~given_BTK.isnan().all(0).all(0)
        at_end_BTK = given_BTK.nan_to_num(0.0).where(per_token, at_end_BTK)
    return at_end_BTK * batch.mask_BT[..., None]


def discounted(rewards_BTK: Tensor, mask_BT: Tensor, gamma: float) -> Tensor:
    """Return ``G_t = r_t + gamma G_{t+1}`` within each completion, [B, T, K]; 0 on padding."""
    returns_BTK = rewards_BTK * mask_BT[..., None]
    for t in range(rewards_BTK.shape[1] - 2, -1, -1):
        returns_BTK[:, t] += gamma * returns_BTK[:, t + 1] * mask_BT[:, t, None]
    return returns_BTK


def generalised_advantages(
    rewards_BTK: Tensor, values_BTK: Tensor, mask_BT: Tensor, gamma: float, lam: float
) -> Tensor:
    """Return generalised advantage estimates, [B, T, K]; 0 on padding.

    ``delta_t = r_t + gamma V_{t+1} - V_t``, ``A_t = delta_t + gamma lam A_{t+1}``; V and A are 0
    after the last token, which is the end of the episode even where it was cut off.

    Args:
        rewards_BTK: per token.
        values_BTK: of the state before each token.
        mask_BT: 1.0 on completion tokens.
        gamma: discount per token.
        lam: 0 trusts the values, 1 the rewards.

    Source: Schulman et al. 2016, arXiv 1506.02438, equation 16.
    """
    import torch

    mask_BT1 = mask_BT[..., None]
    values_BTK = values_BTK * mask_BT1
    following_BTK = torch.cat([values_BTK[:, 1:], torch.zeros_like(values_BTK[:, :1])], 1)
    deltas_BTK = (rewards_BTK + gamma * following_BTK - values_BTK) * mask_BT1
    return discounted(deltas_BTK, mask_BT, gamma * lam)
