"""From several objectives to one: the host's step between a weighting and the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from moalign.maths.normalisation import masked_whiten

if TYPE_CHECKING:
    from torch import Tensor

    from moalign.types import Batch

BatchNorm = Literal["none", "sequence", "token"]
"""Whether the combined advantage is whitened over the batch: every completion counting once, or
every token."""

CANCELLED: Final = 1e-4
"""A combined advantage that varies by no more than this share of its largest term is 0 to a batch
norm: where objectives cancel, rounding and the epsilon of their normalisation are left, and a batch
norm would blow these up to full size."""


def combine(
    advantages_BTK: Tensor,
    values: Tensor,
    *,
    batch: Batch,
    gain: float | Tensor = 1.0,
    batch_norm: BatchNorm = "none",
) -> Tensor:
    """Return ``gain * norm(sum_k values_k * advantages_k)``.

    A missing objective has advantage 0 and so adds nothing; the weights of the others stay as they
    are. The gain is multiplied last, so that no normalisation cancels it.

    Args:
        advantages_BTK: per objective; [B, 1, K] or [B, T, K].
        values: weights, broadcastable to [P, G, K].
        batch: gives P, G and the mask.
        gain: a number, or [P, 1].
        batch_norm: ``none``, or GDPO's last step: mean 0 and deviation 1 over the batch, every
            completion (``sequence``) or every token (``token``) counting once.

    Returns:
        [B, 1] or [B, T] as the advantages; ``token`` always gives [B, T], 0 on padding.

    Source: Liu et al. 2026, arXiv 2601.05242 (GDPO). Its two codes differ in the batch statistic:
    ``sequence`` is TRL's, ``token`` verl's.
    """
    prompts, objectives = len(batch.prompts_P), advantages_BTK.shape[-1]
    weights_PGK = values.to(advantages_BTK).expand(prompts, batch.group, objectives)
    weights_B1K = weights_PGK.reshape(-1, 1, objectives)
    terms_BTK = weights_B1K * advantages_BTK
    combined_BT = terms_BTK.sum(-1)
    if batch_norm != "none":
        counts_BT = _counts(batch.mask_BT, combined_BT, batch_norm)
        negligible = CANCELLED * terms_BTK.abs().amax()
        combined_BT = masked_whiten(
            combined_BT.expand_as(counts_BT)[..., None], counts_BT[..., None], negligible
        )[..., 0]
    if not isinstance(gain, float | int):
        gain = gain.repeat_interleave(batch.group, 0)
    return combined_BT * gain


def fill_missing(scores_PGK: Tensor) -> Tensor:
    """Replace each missing score by the objective's mean over the group, else over the batch.

    It then moves a sum neither up nor down against its group. Counting it as 0 would tell a model
    that an answer nobody could judge is a bad answer. 0 where the whole batch misses it.

    Source: ours.
    """
    group_P1K = scores_PGK.nanmean(1, keepdim=True)
    batch_K = scores_PGK.flatten(0, 1).nanmean(0)
    filler = batch_K.where(group_P1K.isnan(), group_P1K).nan_to_num(0.0)
    return filler.where(scores_PGK.isnan(), scores_PGK)


def scalarise(scores_PGK: Tensor, values: Tensor) -> Tensor:
    """Return ``sum_k values_k * scores_k``: one reward per completion (`combine: rewards`).

    Args:
        scores_PGK: raw scores, NaN where an objective does not apply; see :func:`fill_missing`.
        values: weights, broadcastable to [P, G, K].

    Returns:
        [P, G]; NaN where no objective applies.

    Source: linear scalarisation where nothing is missing.
    """
    nothing_PG = scores_PGK.isnan().all(-1)
    return (values * fill_missing(scores_PGK)).sum(-1).masked_fill(nothing_PG, float("nan"))


def scalarise_tokens(
    scores_PGK: Tensor, values: Tensor, batch: Batch, scale_K: Tensor | None = None
) -> Tensor | None:
    """Return the rewards of :func:`scalarise` spread over tokens, or None if no objective does.

    Per-token rewards stay where they are; what they do not add up to (objectives without any, a
    shift of the scale, a missing score) stands on the last token, so that each row's sum over
    tokens is its scalarised reward.

    Args:
        scores_PGK: as scaled, NaN where an objective does not apply.
        values: weights, broadcastable to [P, G, K].
        batch: gives ``token_rewards_BTK``, raw.
        scale_K: what the raw rewards were divided by; None means 1.

    Returns:
        [B, T, 1].
    """
    if batch.token_rewards_BTK is None:
        return None
    scores_BK = fill_missing(scores_PGK).flatten(0, 1)
    weights_BK = values.to(scores_BK).expand(scores_PGK.shape).flatten(0, 1)
    tokens_BTK = batch.token_rewards_BTK.nan_to_num(0.0) * batch.mask_BT[..., None]
    if scale_K is not None:
        tokens_BTK = tokens_BTK / scale_K
    tokens_BTK = tokens_BTK * (~scores_PGK.isnan()).flatten(0, 1)[:, None]
    summed_BT = (tokens_BTK * weights_BK[:, None]).sum(-1)
    rest_B = (weights_BK * scores_BK).sum(-1) - summed_BT.sum(-1)
    last_B1 = (batch.lengths_B() - 1).clamp(min=0)[:, None]
    return summed_BT.scatter_add(1, last_B1, rest_B[:, None])[..., None]


def _counts(mask_BT: Tensor, combined_BT: Tensor, over: Literal["sequence", "token"]) -> Tensor:
    """Return how much each value counts in the batch's statistics, [B, 1] or [B, T]."""
    if over == "token":
        return mask_BT
    lengths_B1 = mask_BT.sum(-1, keepdim=True)
    if combined_BT.shape[-1] == 1:
        return (lengths_B1 > 0).float()
    return mask_BT / lengths_B1.clamp(min=1.0)
