"""Weights that lean towards the objectives with the largest weighted regrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Lt

from moalign.components import Preference
from moalign.maths.scalarisers import chebyshev, chebyshev_slopes
from moalign.weightings.means import MeanWeighting
from moalign.weightings.units import Ideal

if TYPE_CHECKING:
    from torch import Tensor


class SmoothChebyshev(MeanWeighting):
    """Trains most what is furthest, by preference, below its ideal.

    With J_k the mean of objective k, z_k its ideal, w the preference and t the temperature::

        s      = -t log sum_k exp(w_k (z_k - J_k) / t)
        weight ~ w_k exp(w_k (z_k - J_k) / t)              divided by its sum

    which is the slope of s. As t goes to 0 this is `chebyshev`; a large t gives `fixed`. s lies
    below that of `chebyshev` by at most t log K.

    The temperature is in units of w_k times regret, with w of sum 1: at 0.05, two objectives of
    equal preference out of three whose means are 0.1 apart are weighed 2 to 1.

    Means are running ones, in units of the bounds, and z is the ideal point: 1, unless `ideal` says
    otherwise. Beyond the ideal regrets are negative, and the formula goes on: twice the preference
    is then half the surplus, so keep the ideal out of reach.
    A preference of 0 leaves an objective free to fall, and a note says so.

    Source:
        "Smooth Tchebycheff Scalarization for Multi-Objective Optimization", arXiv 2402.19078, where
        t is mu, between 0.01 and 1. Differs: applied to the means of a policy that is trained by
        rollouts.

    When to use it:
        To aim at one point of the front, on its concave parts too, without the jumps of
        `chebyshev`. Means lag behind by some ten steps: a policy that learns faster overshoots, and
        a lower `decay` holds it.

    Cost:
        None.

    Example::

        weighting: {smooth-chebyshev: {preference: {accuracy: 2, conciseness: 1, clarity: 1}}}
    """

    name: ClassVar[str] = "smooth-chebyshev"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"ideal": "best", "slack": 0.1, "temperature": 0.5},
    )

    def __init__(
        self,
        *,
        preference: Preference | None = None,
        temperature: Annotated[float, Gt(0)] = 0.05,
        decay: Annotated[float, Ge(0), Lt(1)] = 0.9,
        ideal: Ideal = "bounds",
        slack: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        """Take the options.

        Args:
            preference: weights of the regrets, by objective; default equal.
            temperature: how smooth the maximum is, in units of weighted regrets.
            decay: of the running means; 0 takes each batch's mean alone.
            ideal: the ideal point: `bounds` (the upper ones), `best` (the best running mean so
                far), or raw values by objective, with the upper bounds for the rest.
            slack: how far above that it is put, in units of the bounds.
        """
        super().__init__(decay=decay, ideal=ideal, slack=slack)
        self.preference = preference
        self.temperature = temperature

    def slopes(self, regrets_K: Tensor, preference_K: Tensor) -> Tensor:
        """Return the derivative by each mean, [K]."""
        return chebyshev_slopes(regrets_K, preference_K, self.temperature)

    def value(self, regrets_K: Tensor, preference_K: Tensor) -> Tensor:
        """Return the scalarised means."""
        return chebyshev(regrets_K, preference_K, self.temperature)
