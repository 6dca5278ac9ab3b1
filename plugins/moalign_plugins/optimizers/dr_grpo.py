"""Group relative policy optimisation without its two divisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from moalign.maths.aggregate import Aggregation
from moalign.maths.normalisation import group_centre
from moalign.optimizers.clipped import ClippedOptimizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.types import Batch


class DrGrpo(ClippedOptimizer):
    """Compares the completions of one prompt with one another, in the objective's own units.

    Never divides by the deviation, which favours prompts that are nearly always or never solved,
    and never by a completion's length, which favours long wrong answers.

    Advantage of completion i, per objective and group::

        A_i = r_i - mean(r)

    Missing scores take no part in the mean and get advantage 0. The advantage is linear in the
    scores: weighting advantages equals weighting rewards where no score is missing.

    Loss, with ratio ``r_t = exp(logprob_t - old logprob_t)`` and combined advantage A::

        l_t = max(-A r_t, -A clip(r_t, 1 - clip_low, 1 + clip_high))
        l_t = min(l_t, -A dual_clip)                             where A < 0
        loss = aggregation(l_t + kl_coefficient * kl_estimator_t)

    Source:
        "Understanding R1-Zero-Like Training", Liu et al. 2025, arXiv 2503.20783 (Dr. GRPO), where
        the loss is divided by a constant: here the rollout's token limit. Differs: the dual clip
        is verl's.

    When to use it:
        Objectives in comparable units whose size should count: the scale of a reward is a weight.

    Cost:
        One forward and backward pass per epoch, and one forward pass of the reference policy if
        ``kl_coefficient`` is above 0.

    Example::

        training: {optimizer: {dr-grpo: {epochs: 2}}}
    """

    name: ClassVar[str] = "dr-grpo"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"dual_clip": None, "aggregation": "token-mean"},
    )
    min_group: ClassVar[int] = 2

    def __init__(
        self, *, aggregation: Aggregation = "seq-mean-token-sum-norm", **clipped: Any
    ) -> None:
        """Take the options.

        Args:
            aggregation: what the loss is averaged over; see `moalign.maths.aggregate`.
        """
        super().__init__(aggregation=aggregation, **clipped)

    def advantages(self, scores_PGK: Tensor, batch: Batch) -> Tensor:
        """Return each score minus its group's mean, [B, 1, K]; 0 where it is NaN."""
        return group_centre(scores_PGK).flatten(0, 1)[:, None]
