"""Picking one point of a front: by a preference, by thresholds, or the knee. Pure functions.

Everything is decided on validation. Utilities are in normalised units: 0 is an objective's lower
bound, 1 its upper bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moalign import pareto
from moalign.errors import StudyError, nearest
from moalign.reporting.points import Point, PointTable, with_error
from moalign.reporting.statistics import UtilityDifference, utility_difference
from moalign.study.study import complete_preference

TIE = 1e-9
"""Utilities closer than this are equal."""


_KNEE = "It is the knee: the point farthest beyond the extremes of the front."
_KNEES = {
    1: "It is the only point to choose, so there is no knee.",
    2: "There are two points to choose from, both extremes, so there is no knee: this is the first "
    "of them, and a preference chooses between them.",
}
"""What to say instead where there are so few points."""


@dataclass(frozen=True)
class Pick:
    """What was picked and why.

    Attributes:
        point: the point, or None if no point meets the thresholds.
        reasons: sentences for a person: the rule, ties, and what else could be taken.
    """

    point: Point | None
    reasons: tuple[str, ...]


def pick(
    table: PointTable,
    *,
    prefer: Mapping[str, float] | None = None,
    at_least: Mapping[str, float] | None = None,
    knee: bool = False,
) -> Pick:
    """Pick a point of the front.

    The study's own thresholds hold too, unless ``at_least`` names the same objective; they give
    way if no point meets them, those of ``at_least`` do not.

    Args:
        table: the points.
        prefer: weights by front objective; default: all equal.
        at_least: thresholds by objective, in raw units.
        knee: take the point that lies farthest beyond the extremes, instead of a preference.

    Raises:
        StudyError: an unknown objective, a bad weight, or both ``prefer`` and ``knee``.
    """
    if knee and prefer is not None:
        raise StudyError("a pick follows a preference or takes the knee; give only one of them")
    asked = _known(table, at_least or {})
    points = meeting(table.front, asked)
    if not points:
        return Pick(None, (_infeasible(table.front, asked),))
    reasons = []
    own = {name: t for name, t in thresholds(table).items() if name not in asked}
    kept = meeting(points, own)
    if own and not kept:
        reasons.append(f"No point meets the study's {_listed(own)}, so it was left aside.")
    points = kept or points
    if knee:
        rows = [point.means_K(table.names) for point in points]
        reasons.insert(0, _KNEES.get(len(points), _KNEE))
        return Pick(points[pareto.knee(rows)], tuple(reasons))
    wanted = complete_preference(prefer or dict.fromkeys(table.names, 1.0), table.names)
    chosen, utility = best(table, points, wanted)
    rule = f"It has the highest utility on validation for {say(wanted)}: {utility:.3f}."
    reasons.insert(0, rule)
    reasons += _rivals(table, points, chosen, wanted)
    return Pick(chosen, tuple(reasons))


def thresholds(table: PointTable) -> dict[str, float]:
    """Return the study's own thresholds by objective."""
    return {o.name: o.at_least for o in table.objectives if o.at_least is not None}


def meeting(points: Sequence[Point], at_least: Mapping[str, float]) -> list[Point]:
    """Return the points whose validation means reach every threshold."""
    return [p for p in points if all(p.values()[n].mean >= t for n, t in at_least.items())]


def candidates(table: PointTable) -> list[Point]:
    """Return the front points that meet the study's thresholds, or all if none does."""
    return meeting(table.front, thresholds(table)) or list(table.front)


def best(
    table: PointTable, points: Sequence[Point], preference: Mapping[str, float]
) -> tuple[Point, float]:
    """Return the point with the highest utility on validation, and the utility.

    Of equal ones (within :data:`TIE`) the earliest trial.
    """
    rows = [point.means_K(table.names) for point in points]
    weights = [preference[name] for name in table.names]
    utilities = pareto.utility(pareto.normalise(rows, table.bounds_K2), weights)
    top = float(utilities.max())
    tied = [p for p, u in zip(points, utilities, strict=True) if u >= top - TIE]
    return min(tied, key=lambda p: (p.trial, p.step, p.id)), top


def _rivals(
    table: PointTable, points: Sequence[Point], chosen: Point, preference: Mapping[str, float]
) -> list[str]:
    """Say which points might be as good: the difference's 95 % interval holds 0."""
    close = [
        (point, difference)
        for point in points
        if point is not chosen
        for difference in [_difference(table, chosen, point, preference)]
        if difference.low <= 0
    ]
    if not close:
        return []
    close.sort(key=lambda pair: pair[1].value)
    told = ", ".join(f"{p.id} ({with_error(-d.value, d.stderr, sign='+')})" for p, d in close[:3])
    more = f" and {len(close) - 3} more" if len(close) > 3 else ""
    return [f"Not certainly worse there: {told}{more}."]


def _difference(
    table: PointTable, a: Point, b: Point, preference: Mapping[str, float]
) -> UtilityDifference:
    return utility_difference(
        a.units_UK(table.names, "validation"),
        b.units_UK(table.names, "validation"),
        [preference[name] for name in table.names],
        table.bounds_K2,
    )


def _infeasible(points: Sequence[Point], at_least: Mapping[str, float]) -> str:
    """Say that no point meets the thresholds, and what the front has instead."""
    if len(at_least) == 1:
        ((name, wanted),) = at_least.items()
        top = max(points, key=lambda p: p.values()[name].mean)
        return (
            f"No point of the front has {name} of at least {wanted:g}; the highest is "
            f"{top.values()[name].mean:.3f} ({top.id})."
        )
    tops = {name: max(p.values()[name].mean for p in points) for name in at_least}
    highest = ", ".join(f"{name} {top:.3f}" for name, top in tops.items())
    return f"No point of the front has {_listed(at_least)}; one by one they reach {highest}."


def _known(table: PointTable, at_least: Mapping[str, float]) -> dict[str, float]:
    names = [o.name for o in table.objectives]
    for name in at_least:
        if name not in names:
            raise StudyError(f"a threshold names {name!r}; {nearest(name, names)}")
    return dict(at_least)


def _listed(at_least: Mapping[str, float]) -> str:
    return " and ".join(f"{name} >= {value:g}" for name, value in at_least.items())


def say(preference: Mapping[str, float]) -> str:
    """Return a preference as text, ``accuracy .60, brevity .40``; equal weights by that name."""
    if len(preference) > 1 and len({round(w, 6) for w in preference.values()}) == 1:
        return "equal weights"
    return ", ".join(f"{name} {share(weight)}" for name, weight in preference.items() if weight)


def share(weight: float) -> str:
    """Return a weight in [0, 1] as short text, ``.60``."""
    return f"{weight:.2f}".removeprefix("0")
