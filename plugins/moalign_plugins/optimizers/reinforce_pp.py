"""REINFORCE with token returns whitened over the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le

from moalign.components import Optimizer
from moalign.maths.aggregate import Aggregation
from moalign.maths.kl import KlEstimator
from moalign.maths.normalisation import masked_whiten
from moalign.maths.surrogate import ClippedSurrogate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.types import Batch, Rows


class ReinforcePlusPlus(Optimizer):
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
        clip_low: Annotated[float, Gt(0)] = 0.2,
        clip_high: Annotated[float, Gt(0)] = 0.2,
        dual_clip: Annotated[float, Gt(1)] | None = 3.0,
        kl_coefficient: Annotated[float, Ge(0)] = 0.0,
        kl_estimator: KlEstimator = "mse",
        aggregation: Aggregation = "token-mean",
        epochs: Annotated[int, Ge(1)] = 1,
        gamma: Annotated[float, Gt(0), Le(1)] = 1.0,
    ) -> None:
        """Take the options.

        Args:
            clip_low: a ratio below 1 minus this earns no gradient where the advantage is negative.
            clip_high: a ratio above 1 plus this earns none where the advantage is positive; 100
                for both switches the clip off.
            dual_clip: a ratio above this earns none where the advantage is negative; null: never.
            kl_coefficient: weight of the divergence from the reference policy in the loss.
            kl_estimator: `k1`, `mse` or `k3`; see `moalign.maths.kl`.
            aggregation: what the loss is averaged over; see `moalign.maths.aggregate`.
            epochs: passes over each rollout; their mini-batches belong to `training.minibatches`.
            gamma: discount per token.
        """
        self.epochs = epochs
        self.gamma = gamma
        self._surrogate = ClippedSurrogate(
            clip_low, clip_high, dual_clip, kl_coefficient, kl_estimator, aggregation
        )
        self.needs = self._surrogate.needs

    def advantages(self, scores_PGK: Tensor, batch: Batch) -> Tensor:
        """Return whitened returns, [B, T, K]; 0 on padding and where a score is NaN."""
        scores_BK = scores_PGK.flatten(0, 1)
        mask_BT1 = batch.mask_BT[..., None]
        rewards_BTK = _token_rewards(scores_BK, batch) * mask_BT1
        returns_BTK = rewards_BTK.clone()
        for t in range(rewards_BTK.shape[1] - 2, -1, -1):
            returns_BTK[:, t] += self.gamma * returns_BTK[:, t + 1] * mask_BT1[:, t]
        applies_B1K = ~scores_BK.isnan()[:, None]
        return masked_whiten(returns_BTK, mask_BT1 * applies_B1K)

    def loss(
        self, logprobs_BT: Tensor, rows: Rows, advantages_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the rows' share of the clipped loss; see `moalign.maths.surrogate`."""
        return self._surrogate.loss(logprobs_BT, rows, advantages_BT)


def _token_rewards(scores_BK: Tensor, batch: Batch) -> Tensor:
    """Return rewards per token: as given, else the score on the last token; 0 where NaN."""
    last_B1K = (batch.lengths_B() - 1).clamp(min=0)[:, None, None].expand(-1, 1, scores_BK.shape[1])
    nothing_BTK = scores_BK.new_zeros(*batch.mask_BT.shape, scores_BK.shape[1])
    at_end_BTK = nothing_BTK.scatter(1, last_B1K, scores_BK.nan_to_num(0.0)[:, None])
    given_BTK = batch.token_rewards_BTK
    if given_BTK is None:
        return at_end_BTK
    return at_end_BTK.where(given_BTK.isnan().all(0).all(0), given_BTK.nan_to_num(0.0))
