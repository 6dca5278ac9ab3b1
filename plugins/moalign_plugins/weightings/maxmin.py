"""Weight on the objectives that are worst off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Lt

from moalign.maths.scalarisers import chebyshev, chebyshev_slopes
from moalign.weightings.means import MeanWeighting

if TYPE_CHECKING:
    from torch import Tensor


class Maxmin(MeanWeighting):
    """Trains the objective whose mean is lowest, so that the worst becomes as good as can be.

    With J_k the running mean of objective k in units of its bounds, and t the temperature::

        weight ~ exp(-J_k / t)                             divided by its sum

    which is the slope of ``-t log sum_k exp(-J_k / t)``, a smooth minimum. As t goes to 0 it is the
    minimum itself: ``temperature: 0`` gives all weight to the lowest mean, equally where several
    are lowest. At 0.05 a mean that is 0.1 lower weighs 7 times as much. A large t gives equal
    weights.

    Bounds decide what is low: 0.5 between them must mean the same for each objective. There is no
    preference; `smooth-chebyshev` has one.

    Source:
        "MaxMin-RLHF", arXiv 2402.08925, where objectives are the rewards of groups of
        people: ``{temperature: 0, decay: 0}``. Differs: means in units of the bounds, not raw; a
        running mean and a temperature, since the lowest of noisy means changes from step to step.
        Its mixture of reward models, which finds the groups, is no part of this.

    When to use it:
        Where objectives are people or groups, and nobody should be left behind. Means lag behind by
        some ten steps: a policy that learns faster overshoots, and a lower `decay` holds it.

    Cost:
        None.

    Example::

        weighting: {maxmin: {temperature: 0.02}}
    """

    name: ClassVar[str] = "maxmin"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"temperature": 0.0, "decay": 0.0})

    def __init__(
        self,
        *,
        temperature: Annotated[float, Ge(0)] = 0.05,
        decay: Annotated[float, Ge(0), Lt(1)] = 0.9,
    ) -> None:
        """Take the options.

        Args:
            temperature: difference of means, in units of the bounds, that makes a factor of e
                between weights; 0 leaves only the lowest.
            decay: of the running means; 0 takes each batch's mean alone.
        """
        super().__init__(decay=decay)
        self.temperature = temperature

    def slopes(self, regrets_K: Tensor, preference_K: Tensor) -> Tensor:
        """Return the derivative by each mean, [K]: the Chebyshev rule with all w = 1."""
        return chebyshev_slopes(regrets_K, regrets_K.new_ones(len(regrets_K)), self.temperature)

    def value(self, regrets_K: Tensor, preference_K: Tensor) -> Tensor:
        """Return the (smooth) minimum of the means."""
        equal_K = regrets_K.new_ones(len(regrets_K))
        return 1.0 + chebyshev(regrets_K, equal_K, self.temperature)
