"""REINFORCE with a leave-one-out baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from moalign.maths.normalisation import leave_one_out
from moalign.optimizers.clipped import ClippedOptimizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.types import Batch


class Rloo(ClippedOptimizer):
    """Compares each completion with the mean of the others of its prompt: an unbiased baseline.

    Advantage of completion i, per objective and group of n valid scores::

        A_i = r_i - mean_{j != i}(r_j) = n / (n - 1) * (r_i - mean(r))

    Missing scores take no part in the mean and get advantage 0. The advantage is linear in the
    scores: weighting advantages equals weighting rewards where no score is missing.

    Loss, with ratio ``r_t = exp(logprob_t - old logprob_t)`` and combined advantage A::

        l_t = max(-A r_t, -A clip(r_t, 1 - clip_low, 1 + clip_high))
        l_t = min(l_t, -A dual_clip)                             where A < 0
        loss = aggregation(l_t + kl_coefficient * kl_estimator_t)

    Source:
        "Back to Basics", Ahmadian et al. 2024, arXiv 2402.14740. Differs: the paper's loss is
        unclipped and sums over the tokens of a completion (``aggregation: seq-mean-token-sum``,
        ``clip_low: 100``, ``clip_high: 100``, ``dual_clip: null``), the same gradient in its first
        epoch; clip and token mean are verl's. The paper puts the KL term into the reward: use the
        ``kl`` reward as an objective.

    When to use it:
        Objectives in comparable units, and weightings whose overall scale should be felt.

    Cost:
        One forward and backward pass per epoch, and one forward pass of the reference policy if
        ``kl_coefficient`` is above 0.

    Example::

        training: {optimizer: rloo}
    """

    name: ClassVar[str] = "rloo"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"aggregation": "seq-mean-token-sum"})
    min_group: ClassVar[int] = 2

    def advantages(self, scores_PGK: Tensor, batch: Batch) -> Tensor:
        """Return each score minus the mean of the others in its group, [B, 1, K]; 0 where NaN."""
        return leave_one_out(scores_PGK).flatten(0, 1)[:, None]
