"""Optimizers with the clipped loss of proximal policy optimisation; they differ in advantages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Gt

from moalign.components import Optimizer
from moalign.maths.aggregate import Aggregation
from moalign.maths.kl import LossEstimator
from moalign.maths.surrogate import ClippedSurrogate, Ratio

if TYPE_CHECKING:
    from torch import Tensor

    from moalign.types import Rows


class ClippedOptimizer(Optimizer):
    """Learns from rollouts by the clipped loss; a subclass gives the advantages.

    Loss, with ratio ``r_t = exp(logprob_t - old logprob_t)`` and combined advantage A::

        l_t = max(-A r_t, -A clip(r_t, 1 - clip_low, 1 + clip_high))
        l_t = min(l_t, -A dual_clip)                             where A < 0
        loss = aggregation(l_t + kl_coefficient * kl_estimator_t)

    A subclass with options of its own, or other defaults, takes the rest as ``**clipped``.
    """

    reweighs: ClassVar[bool] = True

    def __init__(
        self,
        *,
        clip_low: Annotated[float, Gt(0)] = 0.2,
        clip_high: Annotated[float, Gt(0)] = 0.2,
        dual_clip: Annotated[float, Gt(1)] | None = 3.0,
        kl_coefficient: Annotated[float, Ge(0)] = 0.0,
        kl_estimator: LossEstimator = "k3",
        aggregation: Aggregation = "token-mean",
        ratio: Ratio = "token",
        epochs: Annotated[int, Ge(1)] = 1,
    ) -> None:
        """Take the options.

        Args:
            clip_low: a ratio below 1 minus this earns no gradient where the advantage is negative.
            clip_high: a ratio above 1 plus this earns none where the advantage is positive; 100
                for both switches the clip off.
            dual_clip: a ratio above this earns none where the advantage is negative; null: never.
            kl_coefficient: weight of the divergence from the reference policy in the loss.
            kl_estimator: `mse` or `k3`; see `moalign.maths.kl`.
            aggregation: what the loss is averaged over; see `moalign.maths.aggregate`.
            ratio: of each `token`, or the geometric mean over the `sequence` (GSPO), which then
                wants a clip of about 0.0004.
            epochs: passes over each rollout; their mini-batches belong to `training.minibatches`.
        """
        self.epochs = epochs
        self._surrogate = ClippedSurrogate(
            clip_low, clip_high, dual_clip, kl_coefficient, kl_estimator, aggregation, ratio
        )
        self.needs = self._surrogate.needs

    def loss(
        self, logprobs_BT: Tensor, rows: Rows, advantages_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the rows' share of the clipped loss; see `moalign.maths.surrogate`."""
        return self._surrogate.loss(logprobs_BT, rows, advantages_BT)
