"""Identity preference optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from moalign.optimizers.preferences import PairwiseOptimizer, pair_indices

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.optimizers.preferences import Groups, Pairs


class Ipo(PairwiseOptimizer):
    """Pulls the log-ratio of the better of two completions to a set distance above the other's.

    With h the log-ratio of the chosen completion minus that of the rejected one, log-ratios against
    the reference policy summed over tokens::

        loss = (h - 1 / (2 beta))^2

    Where ``dpo`` pushes h ever further for a preference that nobody contradicts, this stops at
    1 / (2 beta). It assumes no model of preferences: with soft labels, which give the probability P
    of being preferred, and all pairs of completions its optimum is ``pi_ref exp(P(y beats the
    others) / beta)``, the mean P over all completions, itself included with 1/2; cycles are no
    trouble.

    With ``log_ratio: mean`` log-ratios are per token, so that a long completion need not move
    further than a short one; beta is then larger by about the length.

    Source:
        "A General Theoretical Paradigm to Understand Learning from Human Preferences", Azar et al.
        2023, arXiv 2310.12036, equation 17. Differs: several objectives, whose losses are a
        weighted sum. The equation sums over tokens; TRL takes the mean, as it says the authors did.
        This is identity preference optimisation; implicit PO has the same short name.

    When to use it:
        Few or consistent preferences, which ``dpo`` would overfit; preferences with cycles.

    Cost:
        One forward and backward pass over both completions, and a forward pass of the reference
        policy. Nothing is generated.

    Example::

        training: {optimizer: {ipo: {beta: 0.1}}, prompts: 32}
    """

    name: ClassVar[str] = "ipo"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"beta": 1.0, "labels": "soft", "log_ratio": "mean"},
    )

    def __init__(self, *, log_ratio: Literal["sum", "mean"] = "sum", **pairwise: Any) -> None:
        """Take the options.

        Args:
            log_ratio: of a completion: the `sum` over its tokens, or the `mean`.
        """
        super().__init__(**pairwise)
        self.log_ratio = log_ratio

    def ratios(self, groups: Groups) -> tuple[Tensor, Tensor] | None:
        """Return the log-ratios per token, if asked for."""
        if self.log_ratio == "sum":
            return None
        means_PG = groups.ratios_PG / groups.lengths_PG.clamp(min=1)
        first, second = pair_indices(means_PG.shape[1])
        return means_PG[:, first], means_PG[:, second]

    def loss_of_pairs(self, pairs: Pairs) -> Tensor:
        """Return ``(h - 1 / (2 beta))^2``."""
        return (pairs.h - 0.5 / self.beta).square()
