"""Weights that lead the means to a ray from the ideal point, and along it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Lt

from moalign.components import Preference
from moalign.maths.scalarisers import Ray, direction, pbi, pbi_slopes
from moalign.weightings.means import MeanWeighting
from moalign.weightings.units import Ideal, ray_notes, usual_penalty

if TYPE_CHECKING:
    from torch import Tensor

    from moalign.types import Step


class Pbi(MeanWeighting):
    """Leads the regrets to a ray from the ideal point, and along it to the ideal.

    With r_k = z_k - J_k the regret of objective k and u the ray at length 1::

        d1     = sum_k u_k r_k                     along the ray
        d2     = |r - d1 u|                        off the ray
        s      = -(d1 + penalty * d2)
        weight ~ u_k + penalty * (r_k - d1 u_k) / d2       divided by the sum of magnitudes

    which is the slope of s; on the ray, where d2 is 0, u alone. Means are running ones, in units of
    the bounds, and z is 1, unless `ideal` says otherwise.

    Off the ray an objective that is ahead is pushed *down*, to come back to it: its weight is
    negative unless the penalty is small (at most 1, with two equal preferences). The weights are
    therefore `signed`, and `unnormalised`: with a negative one their sum is below 1.

    ``ray: inverse`` has u_k in proportion to 1 / w_k, with w the preference: the ray on which
    `chebyshev` is best, where twice the preference is half the regret. ``ray: weights`` is the
    published rule, u_k in proportion to w_k: twice the preference is *twice* the regret. No
    preference leaves an objective free: one of 0 means that it alone bears the regret (`inverse`),
    or none of it (`weights`).

    A small penalty lets go of the ray: d1, which counts an objective by u_k, decides, and both rays
    turn round. On a straight front the ray is held from the tangent of the angle between it and
    (1, ..., 1) on, which is at most sqrt(K - 1); a note says where `inverse` has less than twice
    that.

    A large penalty stops before the front. Near the ray the noise of the means turns the sign of
    the second term from batch to batch: the weights push to and fro across the ray, and hardly
    along it, and the policy comes to rest on what these pushes spare, which is whatever lies on the
    ray. On a concave front, with preferences 3:7 and a penalty of 5, that is an arm in the middle,
    which mixtures of the ends beat in everything. The default is therefore twice what a straight
    front needs, and 1 or more.

    Source:
        "MOEA/D: A Multiobjective Evolutionary Algorithm Based on Decomposition", Zhang and Li 2007,
        for populations. Published: ``ray: weights, penalty: 5``. ``ray: inverse``: Qi et al. 2014
        (MOEA/D-AWA). Differs: applied to the means of a policy that is trained by rollouts, for
        which the penalty is smaller.

    When to use it:
        To hold fixed proportions between regrets: the larger the penalty, the more this comes
        before reaching the front, and a policy on the ray beats one that is better in every
        objective but off it. To reach the front use `chebyshev`. Means lag behind by some ten
        steps: a policy that learns faster overshoots, and a lower `decay` holds it.

    Cost:
        None.

    Example::

        weighting: {pbi: {preference: {accuracy: 2, conciseness: 1, clarity: 1}}}
    """

    name: ClassVar[str] = "pbi"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"ray": "weights", "penalty": 0.5},
    )
    declares: frozenset[str] = frozenset({"signed", "unnormalised"})

    def __init__(
        self,
        *,
        preference: Preference | None = None,
        penalty: Annotated[float, Ge(0)] | None = None,
        ray: Ray = "inverse",
        decay: Annotated[float, Ge(0), Lt(1)] = 0.9,
        ideal: Ideal = "bounds",
        slack: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        """Take the options.

        Args:
            preference: weights of the regrets, by objective; default equal.
            penalty: weight of the distance from the ray; null: twice what holds it on a straight
                front, and 1 or more.
            ray: how the preference gives the ray.
            decay: of the running means; 0 takes each batch's mean alone.
            ideal: the ideal point: `bounds` (the upper ones), `best` (the best running mean so
                far), or raw values by objective, with the upper bounds for the rest.
            slack: how far above that it is put, in units of the bounds.
        """
        super().__init__(decay=decay, ideal=ideal, slack=slack)
        self.preference = preference
        self.penalty = penalty
        self.ray: Ray = ray

    def slopes(self, regrets_K: Tensor, preference_K: Tensor) -> Tensor:
        """Return the derivative by each mean, [K]."""
        ray_K = direction(preference_K, self.ray)
        return pbi_slopes(regrets_K, ray_K, self._penalty(ray_K))

    def value(self, regrets_K: Tensor, preference_K: Tensor) -> Tensor:
        """Return the scalarised means."""
        ray_K = direction(preference_K, self.ray)
        return pbi(regrets_K, ray_K, self._penalty(ray_K))

    def notes(self, step: Step) -> tuple[str, ...]:
        """Return a sentence if the penalty is too small for the ray; every objective is held."""
        if self.penalty is None:
            return ()
        return ray_notes(self.name, step, self.ray, self.penalty)

    def _penalty(self, ray_K: Tensor) -> float:
        return usual_penalty(ray_K) if self.penalty is None else self.penalty
