"""How much each token's log-probability counts in an objective's gradient, as the loss has it.

``K`` objectives, ``B`` rows of a micro-batch, ``T`` completion tokens.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from moalign.components import Optimizer
from moalign.types import Rows

TOLERANCE: Final = 1e-5
"""Coefficients that differ by no more than this share of the largest count as equal: the rounding
of float32, with room."""


def coefficients(
    optimizer: Optimizer, logprobs_BT: Tensor, rows: Rows, advantages_BTK: Tensor
) -> Tensor:
    """Return how fast the loss falls with each log-probability, per objective, by its advantages.

    ``C_k = - d loss(A_k) / d logprob + d loss(0) / d logprob``: what does not depend on the
    advantages (a divergence in the loss, entropy) is no objective and left out. The model takes no
    part in it. A loss adds up over rows, so all objectives are rows of one call.

    Args:
        optimizer: its state is left as it was.
        logprobs_BT: without gradient.
        rows: as for the loss of these rows.
        advantages_BTK: per objective; [B, T, K] or [B, 1, K].

    Returns:
        float32 [K, B, T], 0 on padding.
    """
    count = advantages_BTK.shape[-1] + 1
    advantages_kBT = torch.cat([advantages_BTK.permute(2, 0, 1), advantages_BTK[None, ..., 0] * 0])
    repeated = replace(
        rows,
        mask_BT=rows.mask_BT.repeat(count, 1),
        old_logprobs_BT=rows.old_logprobs_BT.repeat(count, 1),
        ref_logprobs_BT=None
        if rows.ref_logprobs_BT is None
        else rows.ref_logprobs_BT.repeat(count, 1),
        kept={n: kept.repeat(count, *[1] * (kept.ndim - 1)) for n, kept in rows.kept.items()},
    )
    leaf = logprobs_BT.detach().repeat(count, 1).requires_grad_()
    state = copy.deepcopy(optimizer.state_dict())
    loss, _ = optimizer.loss(leaf, repeated, advantages_kBT.flatten(0, 1))
    optimizer.load_state_dict(state)
    (slope,) = torch.autograd.grad(loss, leaf, materialize_grads=True)
    slope_kBT = slope.view(count, *logprobs_BT.shape) * rows.mask_BT
    return slope_kBT[-1] - slope_kBT[:-1]


def loss_coefficients(optimizer: Optimizer, logprobs_BT: Tensor, rows: Rows) -> Tensor:
    """Return the same for preferences: how fast each objective's own loss falls.

    ``C_k = - d mean_p loss_pk / d logprob``, the mean over the prompts of the mini-batch that the
    objective applies to.

    Args:
        optimizer: its state is left as it was.
        logprobs_BT: without gradient.
        rows: whole groups, with scores and counts.

    Returns:
        float32 [K, B, T], 0 on padding.
    """
    assert rows.counts_K is not None, "rows of preferences have counts"
    leaf = logprobs_BT.detach().clone().requires_grad_()
    state = copy.deepcopy(optimizer.state_dict())
    losses_PK, _ = optimizer.losses(leaf, rows)
    optimizer.load_state_dict(state)
    means_K = losses_PK.where(~losses_PK.isnan(), 0.0).sum(0) / rows.counts_K.clamp(min=1)
    slopes = [
        torch.autograd.grad(mean, leaf, retain_graph=True, materialize_grads=True)[0]
        for mean in means_K
    ]
    return -torch.stack(slopes) * rows.mask_BT


def factorised(coefficients_KBT: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return ``a_KB`` and ``beta_BT`` with ``C_k(b, t) = a_k(b) * beta(b, t)``, or None.

    Beta is the largest of a row's objectives, so it is 0 only where all are.
    """
    norms_KB = coefficients_KBT.norm(dim=-1)
    largest_B = norms_KB.argmax(0)
    every_B = torch.arange(len(largest_B), device=largest_B.device)
    beta_BT = coefficients_KBT[largest_B, every_B]
    squared_B = beta_BT.square().sum(-1)
    a_KB = (coefficients_KBT * beta_BT).sum(-1) / squared_B.where(squared_B > 0, 1.0)
    rest = (coefficients_KBT - a_KB[..., None] * beta_BT).abs().amax()
    if rest > TOLERANCE * coefficients_KBT.abs().amax():
        return None
    return a_KB, beta_BT


def combination(target_N: Tensor, coefficients_KN: Tensor) -> Tensor | None:
    """Return ``alpha`` with ``target = sum_k alpha_k C_k``, float64 [K] on the CPU; None: no such.

    Args:
        target_N: the coefficients of a loss, over all tokens of a batch.
        coefficients_KN: those of the objectives.
    """
    target_N1 = target_N.double().cpu()[:, None]
    columns_NK = coefficients_KN.double().cpu().T
    if not (target_N1.isfinite().all() and columns_NK.isfinite().all()):
        return None
    # Rank-revealing: objectives that agree on this batch share a weight.
    alpha_K1: Tensor = torch.linalg.lstsq(columns_NK, target_N1, driver="gelsd").solution
    rest = (columns_NK @ alpha_K1 - target_N1).abs().amax()
    if rest > TOLERANCE * target_N1.abs().amax():
        return None
    return alpha_K1[:, 0]
