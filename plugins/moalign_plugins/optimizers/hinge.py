"""Preferences with a hinge loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt

from moalign.optimizers.preferences import PairwiseOptimizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.optimizers.preferences import Pairs


class Hinge(PairwiseOptimizer):
    """Pushes the better of two completions above the other until it is far enough, and no further.

    With h the log-ratio of the chosen completion minus that of the rejected one, log-ratios against
    the reference policy summed over tokens::

        loss = max(0, 1 - beta h)

    A pair with h beyond 1 / beta has no gradient, all others have the same. There are no soft
    labels: the optimum would be the same for every probability above one half.

    Source:
        The loss of "SLiC-HF", Zhao et al. 2023, arXiv 2305.10425, on the log-ratios of ``dpo``, as
        in "Statistical Rejection Sampling Improves Preference Optimization", Liu et al. 2023, arXiv
        2309.06657. Differs: several objectives, whose losses are a weighted sum; no supervised term
        as in SLiC-HF (``rpo-sft`` has one).

    When to use it:
        As ``dpo``, when pairs that are clear already should leave room for the others.

    Cost:
        One forward and backward pass over both completions, and a forward pass of the reference
        policy. Nothing is generated.

    Example::

        training: {optimizer: {hinge: {beta: 0.1}}, prompts: 32}
    """

    name: ClassVar[str] = "hinge"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"beta": 1.0})

    def __init__(
        self, *, beta: Annotated[float, Gt(0)] = 0.1, epochs: Annotated[int, Ge(1)] = 1
    ) -> None:
        """Take the options.

        Args:
            beta: one divided by the log-ratio that is far enough.
            epochs: passes over each batch of pairs.
        """
        super().__init__(beta=beta, epochs=epochs)

    def loss_of_pairs(self, pairs: Pairs) -> Tensor:
        """Return ``max(0, 1 - beta h)``."""
        return (1.0 - self.beta * pairs.h).clamp(min=0.0)
