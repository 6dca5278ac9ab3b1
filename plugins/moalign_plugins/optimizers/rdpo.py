"""Direct preference optimisation that is robust to flipped labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Lt

from moalign.optimizers.preferences import PairwiseOptimizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.optimizers.preferences import Pairs


class Rdpo(PairwiseOptimizer):
    """Takes back, on average, what flipped labels teach.

    With h as in ``dpo``, and e the share of labels that are flipped at random::

        loss = (-(1 - e) log sigmoid(beta h) + e log sigmoid(-beta h)) / (1 - 2e)

    Its mean over flips of the labels is the loss of ``dpo`` on the true ones, whatever the policy.
    The price is variance, the more the closer e is to one half, and a loss without a bottom: the
    pull on h fades to beta e / (1 - 2e), never to 0. Only labels that contradict each other end it;
    with one label per pair train briefly.

    Source:
        "Provably Robust DPO: Aligning Language Models with Noisy Feedback", Chowdhury et al. 2024,
        arXiv 2403.00409. Differs: several objectives, whose losses are a weighted sum. Neither
        "Refined DPO" nor group-robust DPO, which have the same short name; the latter is ``dpo``
        under the weighting ``group-robust``.

    When to use it:
        Labels are flipped at a rate that is known, for example from annotators who labelled twice.
        If it is a guess, ``cdpo`` errs on the safe side.

    Cost:
        One forward and backward pass over both completions, and a forward pass of the reference
        policy. Nothing is generated.

    Example::

        training: {optimizer: {rdpo: {flip_rate: 0.1}}, prompts: 32}
    """

    name: ClassVar[str] = "rdpo"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"flip_rate": 0.3, "labels": "soft"})

    def __init__(
        self, *, flip_rate: Annotated[float, Ge(0), Lt(0.5)] = 0.1, **pairwise: Any
    ) -> None:
        """Take the options.

        Args:
            flip_rate: share of labels that are flipped; 0 is `dpo`.
        """
        super().__init__(**pairwise)
        self.flip_rate = flip_rate

    def loss_of_pairs(self, pairs: Pairs) -> Tensor:
        """Return ``(-(1 - e) log sigmoid(beta h) + e log sigmoid(-beta h)) / (1 - 2e)``."""
        right, wrong = self.logistic(pairs), self.logistic(pairs.swapped())
        unflipped = (1.0 - self.flip_rate) * right - self.flip_rate * wrong
        return unflipped / (1.0 - 2.0 * self.flip_rate)
