"""Advantages from scores: group and batch statistics that leave missing values out.

Shapes: P prompts, G completions per prompt, B = P*G rows, T tokens, K objectives. NaN marks a score
that does not apply: it takes no part in any statistic, and its result is 0. Deviations have ddof 1.
Statistics are computed in float64, so that equal scores have a mean equal to them and a deviation
of exactly 0; results are float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

EPSILON: Final = 1e-6
"""Added to a deviation before dividing by it."""

ROUNDING: Final = 8 * 2.0**-23
"""A spread up to this share of the largest magnitude is float32 rounding, and counts as none.

Eight units in the last place: what sums of a few dozen float32 terms lose when their order changes.
Without it, two equal answers whose scores were summed in different orders would be told apart, and
normalisation would blow the difference up to +-1.
"""


def group_centre(scores_PGK: Tensor) -> Tensor:
    """Subtract the mean of each group.

    Args:
        scores_PGK: raw scores, NaN where an objective does not apply.

    Returns:
        float32 [P, G, K]; 0 where the score is NaN; each group sums to 0.

    Source: Liu et al. 2025, arXiv 2503.20783 (Dr. GRPO).
    """
    centred_PGK, _ = _centred(scores_PGK)
    return centred_PGK.float()


def group_zscore(scores_PGK: Tensor) -> Tensor:
    """Subtract the mean of each group and divide by its deviation plus :data:`EPSILON`.

    Args:
        scores_PGK: raw scores, NaN where an objective does not apply.

    Returns:
        float32 [P, G, K], without a unit; 0 where the score is NaN, and for a whole group with
        fewer than two valid scores or a spread within :data:`ROUNDING`.

    Source: Shao et al. 2024, arXiv 2402.03300, section 4.1.2 (GRPO).
    """
    centred_PGK, count_P1K = _centred(scores_PGK)
    scores = scores_PGK.double()
    valid = ~scores.isnan()
    magnitude_P1K = scores.masked_fill(~valid, 0.0).abs().amax(1, keepdim=True)
    variance_P1K = centred_PGK.square().sum(1, keepdim=True) / (count_P1K - 1).clamp(min=1)
    flat_P1K = _spread(centred_PGK, valid, 1) <= ROUNDING * magnitude_P1K
    zscores_PGK = centred_PGK / (variance_P1K.sqrt() + EPSILON)
    return zscores_PGK.masked_fill(flat_P1K, 0.0).float()


def leave_one_out(scores_PGK: Tensor) -> Tensor:
    """Subtract from each score the mean of the others in its group.

    Equals n / (n - 1) times :func:`group_centre`, with n the valid scores of the group.

    Args:
        scores_PGK: raw scores, NaN where an objective does not apply.

    Returns:
        float32 [P, G, K]; 0 where the score is NaN, and for a group with fewer than two valid
        scores; each group sums to 0.

    Source: Ahmadian et al. 2024, arXiv 2402.14740 (RLOO).
    """
    centred_PGK, count_P1K = _centred(scores_PGK)
    return (centred_PGK * (count_P1K / (count_P1K - 1).clamp(min=1))).float()


def masked_whiten(
    values_BTK: Tensor, mask_BTK: Tensor, negligible_K: Tensor | None = None
) -> Tensor:
    """Give the masked values of each objective mean 0 and deviation 1 over rows and tokens.

    Over sequences: pass one value per row, [B, 1, K]. Over tokens: pass [B, T, K], so that long
    completions count more.

    Args:
        values_BTK: any values; what the mask hides is never read.
        mask_BTK: broadcastable to the values; 0 hides a value, and a fraction counts it as that
            part of one (1 / length: every completion counts as one).
        negligible_K: a spread up to this counts as none, beside one within :data:`ROUNDING`.

    Returns:
        float32 [B, T, K], without a unit; 0 where masked, and for an objective with fewer than two
        values or no spread.

    Source: Hu et al. 2025, arXiv 2501.03262 (REINFORCE++). Differs from common code in the epsilon:
    added to the deviation, as everywhere here, instead of 1e-8 added to the variance.
    """
    mask = mask_BTK.expand_as(values_BTK).double()
    valid = mask != 0
    values = values_BTK.double().masked_fill(~valid, 0.0)
    count_11K = mask.sum((0, 1), keepdim=True)
    mean_11K = (mask * values).sum((0, 1), keepdim=True) / count_11K.clamp(min=1)
    centred = (values - mean_11K).masked_fill(~valid, 0.0)
    squares_11K = (mask * centred.square()).sum((0, 1), keepdim=True)
    variance_11K = squares_11K / (count_11K - 1).clamp(min=1)
    limit_11K = ROUNDING * values.abs().amax((0, 1), keepdim=True)
    if negligible_K is not None:
        limit_11K = limit_11K.maximum(negligible_K.double())
    flat_11K = _spread(centred, valid, (0, 1)) <= limit_11K
    return (centred / (variance_11K.sqrt() + EPSILON)).masked_fill(flat_11K, 0.0).float()


def group_centre_over_deviation(scores_PGK: Tensor) -> Tensor:
    """Subtract the mean of each group and divide by the deviation over the batch.

    Every completion counts once, so the mean over the batch is 0 already and is not subtracted: a
    group without spread gets exactly 0.

    Args:
        scores_PGK: raw scores, NaN where an objective does not apply.

    Returns:
        float32 [P, G, K], without a unit; 0 where the score is NaN, and for an objective with fewer
        than two valid scores or no spread within any group.

    Source: Hu et al. 2025, arXiv 2501.03262 (REINFORCE++ with group baseline).
    """
    centred_PGK, _ = _centred(scores_PGK)
    valid = ~scores_PGK.isnan()
    magnitude_11K = scores_PGK.double().masked_fill(~valid, 0.0).abs().amax((0, 1), keepdim=True)
    count_11K = valid.sum((0, 1), keepdim=True)
    variance_11K = centred_PGK.square().sum((0, 1), keepdim=True) / (count_11K - 1).clamp(min=1)
    flat_11K = _spread(centred_PGK, valid, (0, 1)) <= ROUNDING * magnitude_11K
    return (centred_PGK / (variance_11K.sqrt() + EPSILON)).masked_fill(flat_11K, 0.0).float()


def alike(scores_BK: Tensor) -> Tensor:
    """Return for which objectives all valid scores are equal up to :data:`ROUNDING`, bool [K].

    Args:
        scores_BK: raw scores, NaN where an objective does not apply.

    Source: ours.
    """
    valid = ~scores_BK.isnan()
    values = scores_BK.double().masked_fill(~valid, 0.0)[:, None]
    limit_K = ROUNDING * values.abs().amax((0, 1))
    return _spread(values, valid[:, None], (0, 1)).flatten() <= limit_K


def _centred(scores_PGK: Tensor) -> tuple[Tensor, Tensor]:
    """Return float64 scores minus their group's mean, 0 where NaN, and how many are valid."""
    scores = scores_PGK.double()
    valid = ~scores.isnan()
    count_P1K = valid.sum(1, keepdim=True)
    mean_P1K = scores.nansum(1, keepdim=True) / count_P1K.clamp(min=1)
    return (scores - mean_P1K).masked_fill(~valid, 0.0), count_P1K


def _spread(centred: Tensor, valid: Tensor, axes: int | tuple[int, int]) -> Tensor:
    """Return the largest minus the smallest valid value; negative if there is none."""
    high = centred.masked_fill(~valid, -float("inf")).amax(axes, keepdim=True)
    low = centred.masked_fill(~valid, float("inf")).amin(axes, keepdim=True)
    return high - low
