"""Supervised iterative learning from human feedback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Gt

from moalign.maths.aggregate import aggregate
from moalign.maths.kl import LossEstimator, kl_estimate
from moalign.optimizers.utility import ImitationOptimizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.types import Rows


class Superhf(ImitationOptimizer):
    """Filters what was sampled by its utility, and learns the rest with the reference as a prior.

    As ``expert-iteration``, with a divergence from the reference policy. Over the ``best``
    completions with the highest utility u in each group::

        loss = aggregation(-logprob_t [u > 0] + kl_coefficient * kl_estimator_t)

    What is no better than the mean of its group, 0, is not imitated: a group of equal utilities
    only pulls to the reference policy.

    Source:
        "SuperHF: Supervised Iterative Learning from Human Feedback", Mukobi et al. 2023, arXiv
        2310.16763. Differs: the divergence is estimated from the tokens that were chosen, there it
        is exact over the vocabulary at these; no completion below its group's mean; several
        objectives.

    When to use it:
        Instead of a policy gradient where that is unstable, and for rewards that would be cheated
        by a policy far from the reference.

    Cost:
        One forward and backward pass per epoch over the chosen completions, and a forward pass of
        the reference policy over all.

    Example::

        training: {optimizer: {superhf: {kl_coefficient: 0.3}}, group: 16}
    """

    name: ClassVar[str] = "superhf"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"best": 2, "kl_coefficient": 1.0, "kl_estimator": "mse"},
    )
    needs: frozenset[str] = frozenset({"ref_logprobs"})

    def __init__(
        self,
        *,
        kl_coefficient: Annotated[float, Gt(0)] = 0.2,
        kl_estimator: LossEstimator = "k3",
        **imitation: Any,
    ) -> None:
        """Take the options.

        Args:
            kl_coefficient: weight of the divergence from the reference policy.
            kl_estimator: how it is estimated; see `moalign.maths.kl`.
        """
        super().__init__(**imitation)
        self.kl_coefficient = kl_coefficient
        self.kl_estimator: LossEstimator = kl_estimator

    def loss(
        self, logprobs_BT: Tensor, rows: Rows, advantages_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the rows' share of the loss; a metric beside ``imitated`` is ``kl_ref``."""
        assert rows.ref_logprobs_BT is not None, "ref_logprobs are in this optimizer's needs"
        loss, metrics = super().loss(logprobs_BT, rows, advantages_BT)
        padding = rows.mask_BT == 0
        kl_BT = kl_estimate(
            logprobs_BT.masked_fill(padding, 0.0),
            rows.ref_logprobs_BT.masked_fill(padding, 0.0),
            self.kl_estimator,
        )
        metrics["kl_ref"] = aggregate(kl_BT.detach(), rows, "token-mean")
        return loss + self.kl_coefficient * aggregate(kl_BT, rows, self.aggregation), metrics
