"""Scores completions by a smooth maximum of their weighted regrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Gt

from moalign.components import Preference
from moalign.maths.scalarisers import chebyshev
from moalign.weightings.responses import ResponseWeighting
from moalign.weightings.units import Ideal

if TYPE_CHECKING:
    from torch import Tensor


class ResponseSmoothChebyshev(ResponseWeighting):
    """Scores a completion mostly by the objectives in which it is furthest below the ideal.

    With R_k the completion's score in objective k, z_k the ideal, w the preference and t the
    temperature::

        s = -t log sum_k exp(w_k (z_k - R_k) / t)

    As t goes to 0 this is `response-chebyshev`; a large t adds the weighted scores up.

    Scores are in units of the bounds, and z is the ideal point: 1, unless `ideal` says otherwise.

    The host makes one advantage of these scores with the optimizer's own normalisation, so that
    only differences within a group count, and with `grpo` not their scale; ``training.combine``
    plays no part.

    A missing score counts as its group's mean, in units: left out of one completion's maximum it
    would be an advantage over those whose score is known. What a whole group misses is left out
    there.
    A preference of 0 leaves an objective out.

    Source:
        "Smooth Tchebycheff Scalarization for Multi-Objective Optimization", arXiv 2402.19078, where
        t is mu, between 0.01 and 1. Differs: applied to single completions.

    When to use it:
        As `response-chebyshev`; of completions that tie in their worst objective it still tells
        which is better in the others.

    Cost:
        None.

    Example::

        weighting: {response-smooth-chebyshev: {temperature: 0.02}}
    """

    name: ClassVar[str] = "response-smooth-chebyshev"

    def __init__(
        self,
        *,
        preference: Preference | None = None,
        temperature: Annotated[float, Gt(0)] = 0.05,
        ideal: Ideal = "bounds",
        slack: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        """Take the options.

        Args:
            preference: weights of the regrets, by objective; default equal.
            temperature: how smooth the maximum is, in units of weighted regrets.
            ideal: the ideal point: `bounds` (the upper ones), `best` (the best score so far, this
                batch included), or raw values by objective, with the upper bounds for the rest.
            slack: how far above that it is put, in units of the bounds.
        """
        super().__init__(ideal=ideal, slack=slack)
        self.preference = preference
        self.temperature = temperature

    def value(self, regrets_PGK: Tensor, preference_K: Tensor) -> Tensor:
        """Return the scalarised regrets, [P, G]."""
        return chebyshev(regrets_PGK, preference_K, self.temperature)
