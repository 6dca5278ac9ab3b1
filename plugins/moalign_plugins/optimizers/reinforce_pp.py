"""REINFORCE with token returns whitened over the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Gt, Le

from moalign.maths.kl import LossEstimator
from moalign.maths.normalisation import masked_whiten
from moalign.maths.token_rewards import discounted, token_rewards
from moalign.optimizers.clipped import ClippedOptimizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.types import Batch


class ReinforcePlusPlus(ClippedOptimizer):
    """Whitens every token's discounted return over the whole batch; needs no groups.

    Advantage of token t of row b, per objective, with epsilon 1e-6 and ddof 1::

        G_bt = r_bt + gamma * G_b,t+1          0 after the end token
        A_bt = (G_bt - mean(G)) / (std(G) + epsilon)

    Mean and deviation are over all tokens of the batch to which the objective applies. A reward
    that gives one number per completion puts it on the last token; one that gives a number per
    token is used as it is. Missing scores take no part and get advantage 0.

    Loss, with ratio ``r_t = exp(logprob_t - old logprob_t)`` and combined advantage A::

        l_t = max(-A r_t, -A clip(r_t, 1 - clip_low, 1 + clip_high))
        l_t = min(l_t, -A dual_clip)                             where A < 0
        loss = aggregation(l_t + kl_coefficient * kl_estimator_t)

    With a divergence of strength b in the loss (``kl_estimator: mse``) it ends where ``pi = pi_ref
    exp(A(pi) / b)``, A(pi) being the mean advantages under pi itself: the deviation depends on pi.
    Not at ``exp(r / b)``, as ``rloo``.

    Source:
        "REINFORCE++", Hu et al. 2025, arXiv 2501.03262; whitening per objective is ours (one
        objective: the same). Differs: epsilon on the deviation, not 1e-8 on the variance; the
        divergence from the reference is a term of the loss or an objective (the ``kl`` reward),
        not folded into every reward; the dual clip is verl's.

    When to use it:
        One completion per prompt, or token-level rewards. Prompts of different difficulty share
        one baseline, so with groups at hand ``grpo`` and ``rloo`` have less variance.

    Cost:
        One forward and backward pass per epoch, and one forward pass of the reference policy if
        ``kl_coefficient`` is above 0.

    Example::

        training: {optimizer: {reinforce-pp: {gamma: 0.99, kl_coefficient: 0.001}}}
    """

    name: ClassVar[str] = "reinforce-pp"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"gamma": 0.9, "kl_coefficient": 0.1, "aggregation": "seq-mean-token-mean"},
    )

    def __init__(
        self,
        *,
        gamma: Annotated[float, Gt(0), Le(1)] = 1.0,
        kl_estimator: LossEstimator = "mse",
        **clipped: Any,
    ) -> None:
        """Take the options.

        Args:
            gamma: discount per token.
            kl_estimator: `mse` or `k3`; see `moalign.maths.kl`.
        """
        super().__init__(kl_estimator=kl_estimator, **clipped)
        self.gamma = gamma

    def advantages(self, scores_PGK: Tensor, batch: Batch) -> Tensor:
        """Return whitened returns, [B, T, K]; 0 on padding and where a score is NaN."""
        scores_BK = scores_PGK.flatten(0, 1)
        mask_BT1 = batch.mask_BT[..., None]
        rewards_BTK = token_rewards(scores_BK, batch)
        returns_BTK = discounted(rewards_BTK, batch.mask_BT, self.gamma)
        applies_B1K = ~scores_BK.isnan()[:, None]
        return masked_whiten(returns_BTK, mask_BT1 * applies_B1K)
