"""Direct preference optimisation with smoothed labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Lt

from moalign.optimizers.preferences import PairwiseOptimizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.optimizers.preferences import Pairs


class Cdpo(PairwiseOptimizer):
    """Believes every preference a little less than it says: conservative DPO.

    With h as in ``dpo``, and e the share of labels that are taken to be wrong::

        loss = -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)

    It is least where beta h = log((1 - e) / e), and pulls back what is beyond, so a preference that
    nobody contradicts does not move the policy without end.

    Source:
        "A note on DPO with noisy preferences and relationship to IPO", Mitchell 2023. Differs:
        several objectives, whose losses are a weighted sum; soft labels are smoothed as well.

    When to use it:
        Some labels are wrong, nobody knows which, and caution is wanted. Its optimum lies closer to
        the reference policy than that of clean labels; ``rdpo`` aims at the latter.

    Cost:
        One forward and backward pass over both completions, and a forward pass of the reference
        policy. Nothing is generated.

    Example::

        training: {optimizer: {cdpo: {smoothing: 0.1}}, prompts: 32}
    """

    name: ClassVar[str] = "cdpo"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"smoothing": 0.3, "labels": "soft"})

    def __init__(
        self, *, smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.1, **pairwise: Any
    ) -> None:
        """Take the options.

        Args:
            smoothing: share of labels that are taken to be wrong; 0 is `dpo`.
        """
        super().__init__(**pairwise)
        self.smoothing = smoothing

    def loss_of_pairs(self, pairs: Pairs) -> Tensor:
        """Return ``-(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)``."""
        right, wrong = self.logistic(pairs), self.logistic(pairs.swapped())
        return (1.0 - self.smoothing) * right + self.smoothing * wrong
