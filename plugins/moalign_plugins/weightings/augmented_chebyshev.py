"""All weight on the largest weighted regret, but for a little on every objective."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Lt

from moalign.components import Preference
from moalign.maths.scalarisers import augmented_chebyshev, augmented_chebyshev_slopes
from moalign.weightings.means import MeanWeighting
from moalign.weightings.units import Ideal

if TYPE_CHECKING:
    from torch import Tensor


class AugmentedChebyshev(MeanWeighting):
    """Trains what is furthest, by preference, below its ideal, and a little everything else.

    With J_k the mean of objective k, z_k its ideal and w the preference::

        s      = -max_k w_k (z_k - J_k) + augmentation * sum_k w_k J_k
        weight ~ w_k ([k attains the maximum] + augmentation)       divided by its sum

    which is the slope of s; ties share the bracket equally. Without the sum the best s may be
    reached by a policy that another one beats in some objective and equals in the rest.

    Means are running ones, in units of the bounds, and z is the ideal point: 1, unless `ideal` says
    otherwise. Beyond the ideal regrets are negative, and the formula goes on: twice the preference
    is then half the surplus, so keep the ideal out of reach.
    A preference of 0 leaves an objective free to fall, and a note says so.

    Source:
        Steuer and Choo 1983, "An interactive weighted Tchebycheff procedure for multiple objective
        programming"; augmentations from 0.01 to 0.05 are common.

    When to use it:
        As `chebyshev`, where one objective cannot be improved and the others should not be left
        behind for it.

    Cost:
        None.

    Example::

        weighting: {augmented-chebyshev: {augmentation: 0.1}}
    """

    name: ClassVar[str] = "augmented-chebyshev"

    def __init__(
        self,
        *,
        preference: Preference | None = None,
        augmentation: Annotated[float, Ge(0)] = 0.05,
        decay: Annotated[float, Ge(0), Lt(1)] = 0.9,
        ideal: Ideal = "bounds",
        slack: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        """Take the options.

        Args:
            preference: weights of the regrets, by objective; default equal.
            augmentation: weight of the sum beside the maximum; 0 is `chebyshev`.
            decay: of the running means; 0 takes each batch's mean alone.
            ideal: the ideal point: `bounds` (the upper ones), `best` (the best running mean so
                far), or raw values by objective, with the upper bounds for the rest.
            slack: how far above that it is put, in units of the bounds.
        """
        super().__init__(decay=decay, ideal=ideal, slack=slack)
        self.preference = preference
        self.augmentation = augmentation

    def slopes(self, regrets_K: Tensor, preference_K: Tensor) -> Tensor:
        """Return the derivative by each mean, [K]."""
        return augmented_chebyshev_slopes(regrets_K, preference_K, self.augmentation)

    def value(self, regrets_K: Tensor, preference_K: Tensor) -> Tensor:
        """Return the scalarised means."""
        return augmented_chebyshev(regrets_K, preference_K, self.augmentation)
