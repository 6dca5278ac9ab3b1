"""Scores completions by the volume that they span above a reference point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Gt

from moalign.components import Weighting
from moalign.maths.scalarisers import fill_within_groups, product
from moalign.types import ResponseScores
from moalign.weightings.responses import mean_score
from moalign.weightings.units import in_units, require_bounds

if TYPE_CHECKING:
    from torch import Tensor

    from moalign.types import Objective, Step


class Product(Weighting):
    """Scores a completion by the product of its margins above a reference: a hypervolume of one.

    With R_k its score in objective k, in units of the bounds, and ref_k the reference::

        s = prod_k (R_k - ref_k + margin)

    One bad factor spoils the whole: a completion gains most where it is worst. Weights would be a
    common factor, so there is no preference.

    ``reference`` is the worst score of the ``batch``, the worst of the completion's ``group``, or
    the lower ``bounds``, below which nothing is told apart. With the group's own worst an objective
    in which all of a group are equally good takes the factor `margin` there, as if all were bad;
    the batch's lets such a group learn the others in full. The reference moves with the batch.

    The host makes one advantage of these scores with the optimizer's own normalisation;
    ``training.combine`` plays no part. `dr-grpo` keeps their scale, so that groups with large
    products count for more, as published; `grpo` divides it out, and only how a group's completions
    compare is left.

    A missing score counts as its group's mean: left out of one completion's product it would be an
    advantage where factors are below 1. What a whole group misses is left out there.

    Source:
        The reward of HVO (github.com/alg-znsy-li/HVO_1, hypervolume optimisation for text
        summaries), with margin 0.1, the batch's worst (of 16 completions) and no division by the
        deviation: study `published-product`. Differs: units of the bounds instead of raw scores
        (theirs lie in [0, 1]); no weights; there one missing score drops the objective from the
        whole batch.

    When to use it:
        Where objectives should be good together and nobody can weigh them.

    Cost:
        None.

    Example::

        weighting: {product: {margin: 0.05}}
    """

    name: ClassVar[str] = "product"
    declares: frozenset[str] = frozenset({"response-scores"})
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"reference": "group", "margin": 0.5},
        {"reference": "bounds"},
    )

    def __init__(
        self,
        *,
        margin: Annotated[float, Gt(0)] = 0.1,
        reference: Literal["batch", "group", "bounds"] = "batch",
    ) -> None:
        """Take the options.

        Args:
            margin: factor of the worst score, in units of the bounds; a large one makes the
                product a sum.
            reference: what scores are measured from.
        """
        self.margin = margin
        self.reference = reference

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check that every objective has bounds."""
        require_bounds(self.name, objectives)

    def weigh(self, step: Step) -> ResponseScores:
        """Return a score per completion, [P, G]."""
        units_PGK = in_units(step.scores_PGK, step.objectives)
        reference = self._reference(units_PGK)
        values_PG = product(fill_within_groups(units_PGK), reference, self.margin)
        return ResponseScores(values_PG.float(), metrics=mean_score(values_PG))

    def _reference(self, units_PGK: Tensor) -> Tensor:
        """Return what scores are measured from, broadcastable to [P, G, K]."""
        if self.reference == "bounds":
            return units_PGK.new_zeros(1)
        known_PGK = units_PGK.nan_to_num(nan=float("inf"))
        if self.reference == "group":
            return known_PGK.amin(1, keepdim=True)
        return known_PGK.amin((0, 1))
