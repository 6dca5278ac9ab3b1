"""Margin matching preference optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt

from moalign.optimizers.preferences import PairwiseOptimizer, ranges

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from moalign.optimizers.preferences import Pairs
    from moalign.types import Objective


class Mmpo(PairwiseOptimizer):
    """Believes a preference as much as the scores differ.

    With h as in ``dpo``, and m the difference of the two scores as a share of the objective's
    bounds::

        loss = -p log sigmoid(beta h) - (1 - p) log sigmoid(-beta h)        p = sigmoid(gamma m)

    A difference of the whole range is believed with probability sigmoid(gamma), none at all with
    1/2. It is least where beta h = gamma m: margins are matched, whatever the objective's unit.

    ``dpo`` with soft labels is the same with m in the objective's own unit and gamma = 1, which is
    right for scores in nats, those of a Bradley-Terry model. With a large gamma this is ``dpo``
    with hard labels, where scores differ.

    Source:
        "Margin Matching Preference Optimization", Kim et al. 2024, arXiv 2410.03145. Differs: a
        margin is a share of the objective's bounds; several objectives, whose losses are a weighted
        sum. Not MPO (meta policy), MRPO (multi-reference) or MaPO (margin-aware).

    When to use it:
        Graded scores, such as marks out of ten, in whatever unit. Marks that people gave, which the
        reward ``preferred`` reads, want its ``scale``.

    Cost:
        One forward and backward pass over both completions, and a forward pass of the reference
        policy. Nothing is generated.

    Example::

        training: {optimizer: {mmpo: {gamma: 5.0}}, prompts: 32}
    """

    name: ClassVar[str] = "mmpo"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"gamma": 1.0, "beta": 1.0})
    graded: bool = True

    def __init__(
        self,
        *,
        gamma: Annotated[float, Gt(0)] = 5.0,
        beta: Annotated[float, Gt(0)] = 0.1,
        epochs: Annotated[int, Ge(1)] = 1,
    ) -> None:
        """Take the options.

        Args:
            gamma: log-odds that a difference of the objective's whole range is one indeed.
            beta: strength of the pull to the reference policy, in units of `gamma`.
            epochs: passes over each batch of pairs.
        """
        super().__init__(beta=beta, labels="soft", epochs=epochs)
        self.gamma = gamma
        self._ranges_K: Tensor | None = None

    def begin(self, objectives: Sequence[Objective], width: int, seed: int) -> None:
        """Look up how far apart the bounds of each objective are."""
        self._ranges_K = ranges(objectives)

    def loss_of_pairs(self, pairs: Pairs) -> Tensor:
        """Return ``-log sigmoid(beta h)``."""
        return self.logistic(pairs)

    def probability(self, pairs: Pairs) -> Tensor:
        """Return ``sigmoid(gamma m)``."""
        assert self._ranges_K is not None, "begin() comes first"
        return (self.gamma * pairs.margin / self._ranges_K.to(pairs.margin)).sigmoid()
