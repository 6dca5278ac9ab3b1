"""All weight on the objective with the largest weighted regret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Lt

from moalign.components import Preference
from moalign.maths.scalarisers import chebyshev, chebyshev_slopes
from moalign.weightings.means import MeanWeighting
from moalign.weightings.units import Ideal

if TYPE_CHECKING:
    from torch import Tensor


class Chebyshev(MeanWeighting):
    """Trains the objective that is furthest, by preference, below its ideal.

    With J_k the mean of objective k, z_k its ideal and w the preference::

        s      = -max_k w_k (z_k - J_k)
        weight = 1 on the objective that attains the maximum

    which is the slope of s divided by its sum. Ties share in proportion to w. At the best policy
    the weighted regrets are equal where the front allows it: twice the preference, half the regret.

    Means are running ones, in units of the bounds, and z is the ideal point: 1, unless `ideal` says
    otherwise. Beyond the ideal regrets are negative, and the formula goes on: twice the preference
    is then half the surplus, so keep the ideal out of reach.

    The weight jumps from one objective to another; with noisy means it is their average over steps
    that settles. A preference of 0 leaves an objective free to fall, and a note says so.

    Source:
        Bowman 1976, "On the relationship of the Tchebycheff norm and the efficient frontier of
        multiple-criteria objectives". Beyond the ideal: Wierzbicki 1980 (achievement functions).
        Differs from the Tchebycheff baseline of github.com/yining610/ctwa, which takes the maximum
        for each completion, as `response-chebyshev` does, and at every one of its tokens.

    When to use it:
        To aim at one point of the front, on its concave parts too, where every linear weighting
        ends at a neighbour. `smooth-chebyshev` does it without jumps. Means lag behind by some ten
        steps: a policy that learns faster overshoots, and a lower `decay` holds it.

    Cost:
        None.

    Example::

        weighting: {chebyshev: {preference: {accuracy: 2, conciseness: 1, clarity: 1}}}
    """

    name: ClassVar[str] = "chebyshev"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"ideal": "best", "slack": 0.1},
        {"ideal": {"a": 0.8}, "decay": 0.0},
    )

    def __init__(
        self,
        *,
        preference: Preference | None = None,
        decay: Annotated[float, Ge(0), Lt(1)] = 0.9,
        ideal: Ideal = "bounds",
        slack: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        """Take the options.

        Args:
            preference: weights of the regrets, by objective; default equal.
            decay: of the running means; 0 takes each batch's mean alone.
            ideal: the ideal point: `bounds` (the upper ones), `best` (the best running mean so
                far), or raw values by objective, with the upper bounds for the rest.
            slack: how far above that it is put, in units of the bounds.
        """
        super().__init__(decay=decay, ideal=ideal, slack=slack)
        self.preference = preference

    def slopes(self, regrets_K: Tensor, preference_K: Tensor) -> Tensor:
        """Return the derivative by each mean, [K]."""
        return chebyshev_slopes(regrets_K, preference_K)

    def value(self, regrets_K: Tensor, preference_K: Tensor) -> Tensor:
        """Return the scalarised means."""
        return chebyshev(regrets_K, preference_K)
