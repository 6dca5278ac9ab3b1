"""Direct preference optimisation with a weight per pair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge

from moalign.optimizers.preferences import PairwiseOptimizer, ranges

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from moalign.optimizers.preferences import Pairs
    from moalign.types import Objective


class Madpo(PairwiseOptimizer):
    """Learns more from close calls and less from clear cases, by the margin between the scores.

    With h as in ``dpo``, and m the difference of the two scores as a share of the objective's
    bounds::

        loss = -v log sigmoid(beta h)        v = 2 sigmoid(sharpness (threshold - m))

    The weight v is 1 where m is the threshold, above 1 for closer calls, below for clearer ones,
    and always between 0 and 2: no pair is dropped and none takes over.

    Source:
        "Margin Adaptive DPO", Rho 2025, arXiv 2510.05342. Differs: the weight is a formula of our
        own with the properties that the paper asks for (a function of each pair's margin alone,
        continuous, bounded, amplifying hard pairs and damping easy ones); margins are those of the
        objective's scores, not of a reward model trained on the pairs; several objectives, whose
        losses are a weighted sum.

    When to use it:
        Graded scores that rank well even where they are close. Where a small difference is mostly
        noise, ``mmpo`` does the opposite and trusts it less. Marks that people gave, which the
        reward ``preferred`` reads, want its ``scale``.

    Cost:
        One forward and backward pass over both completions, and a forward pass of the reference
        policy. Nothing is generated.

    Example::

        training: {optimizer: {madpo: {threshold: 0.3}}, prompts: 32}
    """

    name: ClassVar[str] = "madpo"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"threshold": 0.2, "sharpness": 8.0, "labels": "soft"},
    )
    graded: bool = True

    def __init__(
        self,
        *,
        threshold: Annotated[float, Ge(0)] = 0.5,
        sharpness: Annotated[float, Ge(0)] = 4.0,
        **pairwise: Any,
    ) -> None:
        """Take the options.

        Args:
            threshold: the margin that counts once, as a share of the objective's bounds.
            sharpness: how fast the weight falls with the margin; 0 is `dpo`.
        """
        super().__init__(**pairwise)
        self.threshold = threshold
        self.sharpness = sharpness
        self._ranges_K: Tensor | None = None

    def begin(self, objectives: Sequence[Objective], width: int, seed: int) -> None:
        """Look up how far apart the bounds of each objective are."""
        self._ranges_K = ranges(objectives)

    def loss_of_pairs(self, pairs: Pairs) -> Tensor:
        """Return ``-v log sigmoid(beta h)``."""
        assert self._ranges_K is not None, "begin() comes first"
        shares = pairs.margin.abs() / self._ranges_K.to(pairs.margin)
        weights = 2.0 * (self.sharpness * (self.threshold - shares)).sigmoid()
        return weights * self.logistic(pairs)
