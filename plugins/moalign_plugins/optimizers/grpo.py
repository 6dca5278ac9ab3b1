"""Group relative policy optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from moalign.maths.normalisation import group_zscore
from moalign.optimizers.clipped import ClippedOptimizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.types import Batch


class Grpo(ClippedOptimizer):
    """Compares the completions of one prompt with one another, in units of their deviation.

    Always divides by the deviation, so an objective's scale does not matter, and a group in which
    it hardly varies counts as much as any. The optimizer without the division is ``dr-grpo``.

    Advantage of completion i, per objective and group, with ddof 1 and epsilon 1e-6::

        A_i = (r_i - mean(r)) / (std(r) + epsilon)

    A group with fewer than two valid scores of an objective, or no spread, gives it advantage 0;
    missing scores take no part in mean and deviation.

    Loss, with ratio ``r_t = exp(logprob_t - old logprob_t)`` and combined advantage A::

        l_t = max(-A r_t, -A clip(r_t, 1 - clip_low, 1 + clip_high))
        l_t = min(l_t, -A dual_clip)                             where A < 0
        loss = aggregation(l_t + kl_coefficient * kl_estimator_t)

    With a divergence of strength b in the loss (``kl_estimator: mse``) it ends where ``pi = pi_ref
    exp(A(pi) / b)``, A(pi) being the mean advantages under pi itself: the deviation depends on pi.
    Not at ``exp(r / b)``, as ``rloo``: how large the scores are is lost.

    Source:
        "DeepSeekMath", Shao et al. 2024, arXiv 2402.03300, equations 3 and 4. Differs: the mean is
        taken over all tokens (``aggregation: seq-mean-token-mean`` is the paper's), which is the
        default of verl; the dual clip is verl's; no KL unless asked for (paper: 0.04). Not group
        robust preference optimisation, also called GRPO: that is the weighting ``group-robust``.

    When to use it:
        The default. Scores with few levels (right or wrong) and several objectives in different
        units. Under ``training.combine: rewards`` the division cancels whatever scales all weights
        alike.

    Cost:
        One forward and backward pass per epoch, and one forward pass of the reference policy if
        ``kl_coefficient`` is above 0.

    Example::

        training: {optimizer: {grpo: {clip_high: 0.28, kl_coefficient: 0.001}}}
    """

    name: ClassVar[str] = "grpo"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"kl_coefficient": 0.1, "kl_estimator": "k3", "epochs": 2},
    )
    min_group: ClassVar[int] = 2

    def advantages(self, scores_PGK: Tensor, batch: Batch) -> Tensor:
        """Return each score's z-score within its group, [B, 1, K]; 0 where it is NaN."""
        return group_zscore(scores_PGK).flatten(0, 1)[:, None]
