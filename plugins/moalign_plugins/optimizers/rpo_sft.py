"""Direct preference optimisation with a supervised term."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt

from moalign.optimizers.preferences import PairwiseOptimizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.optimizers.preferences import Pairs


class RpoSft(PairwiseOptimizer):
    """Prefers the chosen completion, and imitates it: regularised preference optimisation.

    With h as in ``dpo``, and the log-probability of the chosen completion per token or summed::

        loss = -log sigmoid(beta h) - eta log pi(chosen)

    ``dpo`` cares for differences only, and may make both completions less likely as long as the
    rejected one loses more. The second term holds the chosen one up. It stands for a policy that
    is best for the worst reward that still explains the preferences.

    There are no soft labels: they would have it imitate the worse one, too.

    Source:
        "Provably Mitigating Overoptimization in RLHF: Your SFT Loss is Implicitly an Adversarial
        Regularizer", Liu et al. 2024, arXiv 2405.16436, algorithm 2, with the chosen completions as
        its baseline. Differs: the paper's weight of the summed form is eta times beta, here it is
        ``eta`` alone; the published code has both forms, with 0.2 per token and 0.005 * 0.01
        summed; each completion counts the same, whatever its length; several objectives, whose
        losses are a weighted sum. Not "Relative Preference Optimization", also called RPO.

    When to use it:
        The chosen completions are good in themselves, and become unlikely under ``dpo`` (watch
        objectives that are measured on the policy's own completions).

    Cost:
        One forward and backward pass over both completions, and a forward pass of the reference
        policy. Nothing is generated.

    Example::

        training: {optimizer: {rpo-sft: {eta: 0.2}}, prompts: 32}
    """

    name: ClassVar[str] = "rpo-sft"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"eta": 0.01, "likelihood": "sum", "beta": 1.0},
    )

    def __init__(
        self,
        *,
        eta: Annotated[float, Ge(0)] = 0.2,
        likelihood: Literal["mean", "sum"] = "mean",
        beta: Annotated[float, Gt(0)] = 0.1,
        epochs: Annotated[int, Ge(1)] = 1,
    ) -> None:
        """Take the options.

        Args:
            eta: weight of the supervised term; 0 is `dpo`.
            likelihood: the log-probability of the chosen completion: the `mean` over its tokens, or
                their `sum`, which wants a far smaller `eta`.
            beta: strength of the pull to the reference policy, in units of the score.
            epochs: passes over each batch of pairs.
        """
        super().__init__(beta=beta, epochs=epochs)
        self.eta = eta
        self.likelihood = likelihood

    def loss_of_pairs(self, pairs: Pairs) -> Tensor:
        """Return ``-log sigmoid(beta h) - eta log pi(chosen)``."""
        chosen = pairs.chosen
        if self.likelihood == "mean":
            chosen = chosen / pairs.chosen_length.clamp(min=1)
        return self.logistic(pairs) - self.eta * chosen
