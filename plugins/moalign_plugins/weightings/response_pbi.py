"""Scores completions by their regrets along and off a ray from the ideal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge

from moalign.components import Preference
from moalign.maths.scalarisers import Ray, direction, pbi
from moalign.weightings.responses import ResponseWeighting
from moalign.weightings.units import Ideal, ray_notes, usual_penalty

if TYPE_CHECKING:
    from torch import Tensor

    from moalign.types import Step


class ResponsePbi(ResponseWeighting):
    """Scores a completion by how far its regrets lie along, and off, a ray from the ideal point.

    With r_k = z_k - R_k the completion's regret in objective k and u the ray at length 1::

        d1 = sum_k u_k r_k                     along the ray
        d2 = |r - d1 u|                        off the ray
        s  = -(d1 + penalty * d2)

    Scores are in units of the bounds, and z is the ideal point: 1, unless `ideal` says otherwise.

    ``ray: inverse`` has u_k in proportion to 1 / w_k, with w the preference: twice the preference
    is half the regret. ``ray: weights`` is the published rule, u_k in proportion to w_k: twice the
    preference is *twice* the regret. Both hold for a large penalty. With a small one d1, which
    counts an objective by u_k, decides, and both turn round. On a straight front the ray is held
    from the tangent of the angle between it and (1, ..., 1) on, which is at most sqrt(K - 1); a
    note says where `inverse` has less than twice that.

    The host makes one advantage of these scores with the optimizer's own normalisation, so that
    only differences within a group count, and with `grpo` not their scale; ``training.combine``
    plays no part.

    A missing score counts as its group's mean, in units: left out, its regret would be missing from
    d1, and that would be an advantage over completions whose score is known. What a whole group
    misses is left out there.

    Source:
        "MOEA/D: A Multiobjective Evolutionary Algorithm Based on Decomposition", Zhang and Li 2007,
        for populations. Published: ``ray: weights, penalty: 5``. ``ray: inverse``: Qi et al. 2014
        (MOEA/D-AWA). Differs: applied to single completions, of which a penalty of 5 prefers
        useless ones on the ray to good ones off it.

    When to use it:
        To ask of every completion the same proportions between regrets. With a large penalty a
        balanced completion beats one that is better in everything but unbalanced.

    Cost:
        None.

    Example::

        weighting:
          response-pbi:
            preference: {accuracy: 2, conciseness: 1, clarity: 1}
            penalty: 2.0
    """

    name: ClassVar[str] = "response-pbi"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"ray": "weights", "penalty": 0.5},
    )

    def __init__(
        self,
        *,
        preference: Preference | None = None,
        penalty: Annotated[float, Ge(0)] | None = None,
        ray: Ray = "inverse",
        ideal: Ideal = "bounds",
        slack: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        """Take the options.

        Args:
            preference: weights of the regrets, by objective; default equal.
            penalty: weight of the distance from the ray; null: twice what holds it on a straight
                front, and 1 or more.
            ray: how the preference gives the ray.
            ideal: the ideal point: `bounds` (the upper ones), `best` (the best score so far, this
                batch included), or raw values by objective, with the upper bounds for the rest.
            slack: how far above that it is put, in units of the bounds.
        """
        super().__init__(ideal=ideal, slack=slack)
        self.preference = preference
        self.penalty = penalty
        self.ray: Ray = ray

    def value(self, regrets_PGK: Tensor, preference_K: Tensor) -> Tensor:
        """Return the scalarised regrets, [P, G]."""
        ray_K = direction(preference_K, self.ray)
        penalty = usual_penalty(ray_K) if self.penalty is None else self.penalty
        return pbi(regrets_PGK, ray_K, penalty)

    def notes(self, step: Step) -> tuple[str, ...]:
        """Return a sentence if the penalty is too small for the ray; every objective is held."""
        if self.penalty is None:
            return ()
        return ray_notes(self.name, step, self.ray, self.penalty)
