"""Group relative policy optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt

from moalign.components import Optimizer
from moalign.maths.aggregate import Aggregation
from moalign.maths.kl import KlEstimator
from moalign.maths.normalisation import group_zscore
from moalign.maths.surrogate import ClippedSurrogate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.types import Batch, Rows


class Grpo(Optimizer):
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

    Source:
        "DeepSeekMath", Shao et al. 2024, arXiv 2402.03300, equations 3 and 4. Differs: the mean is
        taken over all tokens (``aggregation: seq-mean-token-mean`` is the paper's), which is the
        default of verl; the dual clip is verl's; no KL unless asked for (paper: 0.04).

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

    def __init__(
        self,
        *,
        clip_low: Annotated[float, Gt(0)] = 0.2,
        clip_high: Annotated[float, Gt(0)] = 0.2,
        dual_clip: Annotated[float, Gt(1)] | None = 3.0,
        kl_coefficient: Annotated[float, Ge(0)] = 0.0,
        kl_estimator: KlEstimator = "k3",
        aggregation: Aggregation = "token-mean",
        epochs: Annotated[int, Ge(1)] = 1,
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
        """
        self.epochs = epochs
        self._surrogate = ClippedSurrogate(
            clip_low, clip_high, dual_clip, kl_coefficient, kl_estimator, aggregation
        )
        self.needs = self._surrogate.needs

    def advantages(self, scores_PGK: Tensor, batch: Batch) -> Tensor:
        """Return each score's z-score within its group, [B, 1, K]; 0 where it is NaN."""
        return group_zscore(scores_PGK).flatten(0, 1)[:, None]

    def loss(
        self, logprobs_BT: Tensor, rows: Rows, advantages_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the rows' share of the clipped loss; see `moalign.maths.surrogate`."""
        return self._surrogate.loss(logprobs_BT, rows, advantages_BT)
