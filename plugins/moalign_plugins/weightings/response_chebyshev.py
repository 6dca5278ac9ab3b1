"""Scores completions by their largest weighted regret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge

from moalign.components import Preference
from moalign.maths.scalarisers import chebyshev
from moalign.weightings.responses import ResponseWeighting
from moalign.weightings.units import Ideal

if TYPE_CHECKING:
    from torch import Tensor


class ResponseChebyshev(ResponseWeighting):
    """Scores a completion by the objective in which it is furthest, by preference, below the ideal.

    With R_k the completion's score in objective k, z_k the ideal and w the preference::

        s = -max_k w_k (z_k - R_k)

    Scores are in units of the bounds, and z is the ideal point: 1, unless `ideal` says otherwise.

    The host makes one advantage of these scores with the optimizer's own normalisation, so that
    only differences within a group count, and with `grpo` not their scale; ``training.combine``
    plays no part.

    A missing score counts as its group's mean, in units: left out of one completion's maximum it
    would be an advantage over those whose score is known. What a whole group misses is left out
    there.
    A preference of 0 leaves an objective out.

    Each completion must be good in everything at once: an average of these maxima is not the
    maximum of the averages that `chebyshev` works with, and noise in any one score counts. Of
    binary objectives the worst alone is seen, so most completions of a group tie.

    Source:
        Bowman 1976; per completion: the Tchebycheff baseline of github.com/yining610/ctwa, with the
        running maximum that ``ideal: best`` is. Differs from that code, which subtracts the maximum
        at every token.

    When to use it:
        Where a completion that fails one objective is of no use, however good it is in the others.

    Cost:
        None.

    Example::

        weighting: {response-chebyshev: {preference: {accuracy: 2, conciseness: 1, clarity: 1}}}
    """

    name: ClassVar[str] = "response-chebyshev"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"ideal": "best", "slack": 0.1},
        {"ideal": {"a": 0.8}},
    )

    def __init__(
        self,
        *,
        preference: Preference | None = None,
        ideal: Ideal = "bounds",
        slack: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        """Take the options.

        Args:
            preference: weights of the regrets, by objective; default equal.
            ideal: the ideal point: `bounds` (the upper ones), `best` (the best score so far, this
                batch included), or raw values by objective, with the upper bounds for the rest.
            slack: how far above that it is put, in units of the bounds.
        """
        super().__init__(ideal=ideal, slack=slack)
        self.preference = preference

    def value(self, regrets_PGK: Tensor, preference_K: Tensor) -> Tensor:
        """Return the scalarised regrets, [P, G]."""
        return chebyshev(regrets_PGK, preference_K)
