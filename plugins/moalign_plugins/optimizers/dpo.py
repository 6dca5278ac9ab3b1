"""Direct preference optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from moalign.optimizers.preferences import PairwiseOptimizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.optimizers.preferences import Pairs


class Dpo(PairwiseOptimizer):
    """Makes the better of two completions likelier than the other, against the reference policy.

    With h the log-ratio of the chosen completion minus that of the rejected one, log-ratios against
    the reference policy summed over tokens::

        loss = -log sigmoid(beta h)

    Each objective prefers the completion with the higher score; a pair whose scores are equal or
    missing is none for it. The objectives' losses are added with the weights of the weighting. With
    soft labels and all pairs of completions its optimum is ``pi_ref exp(score / beta)``.

    Source:
        "Direct Preference Optimization", Rafailov et al. 2023, arXiv 2305.18290, equation 7.
        Differs: several objectives, whose losses are a weighted sum; labels from scores.

    When to use it:
        Preferences at hand, or rewards that are dear at training time; nothing is sampled. With
        objectives that pull apart the weighted sum of losses is a compromise between labels, not
        the optimum for a weighted score: that is ``modpo``.

    Cost:
        One forward and backward pass over both completions, and a forward pass of the reference
        policy. Nothing is generated.

    Example::

        training: {optimizer: {dpo: {beta: 0.1}}, prompts: 32}
    """

    name: ClassVar[str] = "dpo"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"beta": 1.0, "labels": "soft"})

    def loss_of_pairs(self, pairs: Pairs) -> Tensor:
        """Return ``-log sigmoid(beta h)``."""
        return self.logistic(pairs)
