"""Objectives in units of their bounds, and the ideal point that regrets are measured from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

from moalign.errors import OptionError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from moalign.maths.scalarisers import Ray
    from moalign.types import Objective, Step

Ideal = Literal["bounds", "best"] | dict[str, float]
"""The upper bounds; the best seen so far; or raw values by objective, upper bounds for the rest."""

LEAST_PENALTY: Final = 1.0
"""The smallest default of PBI: a ray of equal regrets needs none on a straight front."""


def require_bounds(who: str, objectives: Sequence[Objective]) -> None:
    """Check that every objective has bounds.

    Args:
        who: name of the weighting.
        objectives: the training objectives.

    Raises:
        OptionError: naming the first that has none.
    """
    for objective in objectives:
        if objective.bounds is None:
            raise OptionError(
                f"weighting {who}: objective {objective.name!r} has no bounds, and objectives are "
                f"compared in units of their bounds; give objectives.{objective.name} "
                "`bounds: [lo, hi]`, the values that count as 0 and 1"
            )


def check_floor(who: str, floor: float, objectives: Sequence[Objective]) -> None:
    """Check that a smallest weight leaves room for all objectives.

    Args:
        who: name of the weighting.
        floor: its option `floor`.
        objectives: the training objectives.

    Raises:
        OptionError: with K objectives it is 1 / K or more.
    """
    count = len(objectives)
    if floor * count >= 1:
        raise OptionError(
            f"weighting {who}: `floor` must be below 1 / {count}, as there are {count} objectives; "
            f"found {floor}",
            "floor",
        )


def in_units(scores: Tensor, objectives: Sequence[Objective]) -> Tensor:
    """Return ``(score - lo) / (hi - lo)`` of scores [..., K], float64; NaN stays NaN."""
    scores = scores.double()
    bounds_K2 = scores.new_tensor([o.bounds for o in objectives])
    low_K, high_K = bounds_K2[:, 0], bounds_K2[:, 1]
    return (scores - low_K) / (high_K - low_K)


def free_notes(who: str, step: Step) -> tuple[str, ...]:
    """Return a sentence for each objective whose preference is 0, so that nothing holds it."""
    weights = zip(step.names, step.preference_K.tolist(), strict=True)
    return tuple(
        f"weighting {who}: objective {name} has the preference 0, so it may fall without limit; "
        "give it a small one if it should not"
        for name, weight in weights
        if weight == 0
    )


def usual_penalty(ray_K: Tensor) -> float:
    """Return PBI's default penalty: twice what holds the ray on a straight front, and 1 or more.

    The published 5 puts staying on the ray before everything: at equal preferences a right, clear
    and long answer, regrets (0, .7, 0), is then worth less than a useless one, (1, 1, 1).
    """
    from moalign.maths.scalarisers import straight_penalty

    return max(LEAST_PENALTY, 2.0 * straight_penalty(ray_K))


def ray_notes(who: str, step: Step, ray: Ray, penalty: float) -> tuple[str, ...]:
    """Return a sentence if a penalty is so small that PBI may favour what is preferred least.

    That is below twice what ``ray: inverse`` needs on a straight front; a bent one needs more.
    """
    from moalign.maths.scalarisers import direction, straight_penalty

    least = 2.0 * straight_penalty(direction(step.preference_K, "inverse"))
    if ray != "inverse" or penalty >= least:
        return ()
    return (
        f"weighting {who}: with `ray: inverse` and a `penalty` of {penalty:g} the way along the "
        "ray, which counts most what is preferred least, may outweigh the way off it; set "
        f"`penalty` to {math.ceil(100.0 * least) / 100.0:g} or more",
    )


def beyond_notes(who: str, regrets: Tensor) -> tuple[str, ...]:
    """Return a sentence if everything lies beyond the ideal, so that no regret is left.

    Args:
        who: name of the weighting.
        regrets: [..., K]; NaN where an objective does not apply.
    """
    if not bool((regrets.nan_to_num(-1.0) < 0).all()) or bool(regrets.isnan().all()):
        return ()
    return (
        f"weighting {who}: every objective is better than its ideal, and beyond it a larger "
        "preference brings less of an objective; give an `ideal` (or bounds) that cannot be "
        "reached",
    )


class IdealPoint:
    """What every objective could be at best, in units of its bounds."""

    def __init__(self, who: str, ideal: Ideal, slack: float) -> None:
        """Take what the weighting was given.

        Args:
            who: name of the weighting.
            ideal: where it lies.
            slack: how far above that it is put, in units of the bounds.
        """
        self.who = who
        self.ideal = ideal
        self.slack = slack
        self._best: dict[str, float] = {}

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check that all objectives have bounds, and that given values name some and can be met.

        Raises:
            OptionError: naming the objective, what was found and what is allowed.
        """
        require_bounds(self.who, objectives)
        if not isinstance(self.ideal, dict):
            return
        by_name = {o.name: o for o in objectives}
        for name, value in self.ideal.items():
            if name not in by_name:
                raise OptionError(
                    f"weighting {self.who}: `ideal` names {name!r}; {nearest(name, by_name)}",
                    "ideal",
                )
            low = (by_name[name].bounds or (0.0, 1.0))[0]
            if not low < value < math.inf:
                raise OptionError(
                    f"weighting {self.who}: `ideal` of {name!r} must lie above its lower bound, "
                    f"{low:g}; found {value:g}",
                    "ideal",
                )

    def regrets(self, values: Tensor, objectives: Sequence[Objective]) -> Tensor:
        """Return the ideal minus the values; these may make the best.

        Args:
            values: [..., K] in units; NaN where an objective does not apply.
            objectives: the K objectives.
        """
        return values.new_tensor(self._ideal_K(values, objectives)) + self.slack - values

    def _ideal_K(self, values: Tensor, objectives: Sequence[Objective]) -> list[float]:
        if isinstance(self.ideal, dict):
            given = self.ideal
            return [o.normalise(given[o.name]) if o.name in given else 1.0 for o in objectives]
        if self.ideal == "bounds":
            return [1.0] * len(objectives)
        seen_NK = values.reshape(-1, len(objectives)).nan_to_num(nan=-math.inf)
        for o, value in zip(objectives, seen_NK.amax(0).tolist(), strict=True):
            if value > self._best.get(o.name, -math.inf):
                self._best[o.name] = value
        return [self._best.get(o.name, math.nan) for o in objectives]

    def metrics(self) -> dict[str, float]:
        """Return ``ideal/NAME`` where it is learnt."""
        return {f"ideal/{name}": value + self.slack for name, value in self._best.items()}

    def state_dict(self) -> dict[str, float]:
        """Return the best value of each objective, by name."""
        return dict(self._best)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take over a state."""
        self._best = {name: float(value) for name, value in state.items()}
