"""Picking one point of a front: by a preference, by thresholds, or by a rule. Pure functions.

Everything is decided on validation. Utilities are in normalised units: 0 is an objective's lower
bound, 1 its upper bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from moalign import pareto
from moalign.errors import StudyError, nearest
from moalign.reporting.points import Point, PointTable, with_error
from moalign.reporting.statistics import (
    Floats,
    mean_and_stderr,
    resampled_means,
    utility_difference,
)
from moalign.study.study import complete_preference

Rule = Literal["preference", "knee", "worst-group", "negotiated"]
"""How to pick.

preference
    The highest utility, `moalign.pareto.utility`.
knee
    The point farthest beyond the extremes of the front, `moalign.pareto.knee`.
worst-group
    The point whose worst objective is best, `moalign.pareto.maximin`. Where objectives are groups
    of people (reward ``preferred``), that is the best for the worst-off group.
negotiated
    The largest product of gains over the base policy, which is what there is if the objectives'
    parties do not agree, `moalign.pareto.nash_bargain`.
"""

TIE = 1e-9
"""Utilities closer than this are equal."""

_LEVEL: Final = 1e-6  # objectives that are this close are told as equal

RESAMPLES: Final = 1000
"""Of the units, for intervals of what has no formula."""

_ONLY = "It is the only point to choose."
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
    rule: Rule = "preference",
) -> Pick:
    """Pick a point of the front.

    The study's own thresholds hold too, unless ``at_least`` names the same objective; they give
    way if no point meets them, those of ``at_least`` do not.

    Args:
        table: the points.
        prefer: weights by front objective; default: all equal.
        at_least: thresholds by objective, in raw units.
        rule: what decides among the points that meet the thresholds.

    Raises:
        StudyError: an unknown objective, a bad weight, or weights for a rule that has none.
    """
    wanted = preference_for(table, rule, prefer)
    asked = known(table, at_least or {})
    points = meeting(table.front, asked)
    if not points:
        return Pick(None, (_infeasible(table.front, asked),))
    reasons = []
    own = {name: t for name, t in thresholds(table).items() if name not in asked}
    kept = meeting(points, own)
    if own and not kept:
        reasons.append(
            f"No point of the front meets the study's {listed(own)}, so it was left aside."
        )
    points = kept or points
    if rule == "knee":
        rows = [point.means_K(table.names) for point in points]
        reasons.insert(0, _KNEES.get(len(points), _KNEE))
        return Pick(points[pareto.knee(rows)], tuple(reasons))
    chosen = choose(table, points, rule, wanted)
    if chosen is None:
        return Pick(None, (_no_bargain(table, points), *reasons))
    reasons.insert(0, why(table, chosen.means_K(table.names), rule, wanted))
    if rule != "preference" and len(points) == 1:
        reasons.insert(1, _ONLY)
    reasons += _rivals(table, points, chosen, rule, wanted)
    return Pick(chosen, tuple(reasons))


def preference_for(
    table: PointTable, rule: Rule, prefer: Mapping[str, float] | None
) -> dict[str, float]:
    """Return the weights that a rule counts with: those given, or all equal.

    Raises:
        StudyError: an unknown objective, a bad weight, or weights for a rule that has none.
    """
    if rule != "preference" and prefer is not None:
        raise StudyError(f"a pick follows a preference or the rule {rule!r}; give only one of them")
    return complete_preference(prefer or dict.fromkeys(table.names, 1.0), table.names)


def choose(
    table: PointTable, points: Sequence[Point], rule: Rule, preference: Mapping[str, float]
) -> Point | None:
    """Return the point that a rule other than the knee takes; of equal ones the earliest trial.

    None if ``negotiated`` finds no point that gains on the base policy in every objective.
    """
    if rule == "preference":
        return best(table, points, preference)[0]
    ordered = sorted(points, key=_age)
    unit_NK = pareto.normalise([p.means_K(table.names) for p in ordered], table.bounds_K2)
    if rule == "worst-group":
        return ordered[pareto.maximin(unit_NK)]
    row = pareto.nash_bargain(unit_NK, disagreement(table))
    return None if row is None else ordered[row]


def thresholds(table: PointTable) -> dict[str, float]:
    """Return the study's own thresholds by objective."""
    return {o.name: o.at_least for o in table.objectives if o.at_least is not None}


def meeting(points: Sequence[Point], at_least: Mapping[str, float]) -> list[Point]:
    """Return the points whose validation means reach every threshold."""
    return [p for p in points if all(p.values()[n].mean >= t for n, t in at_least.items())]


def candidates(table: PointTable, points: Sequence[Point] | None = None) -> list[Point]:
    """Return the points that meet the study's thresholds, or all if none does.

    Args:
        table: knows the thresholds.
        points: to choose among; default: the front's.
    """
    among = table.front if points is None else points
    return meeting(among, thresholds(table)) or list(among)


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
    return min(tied, key=_age), top


def _age(point: Point) -> tuple[int, int, str]:
    return point.trial, point.step, point.id


def disagreement(table: PointTable) -> Floats:
    """Return what each objective has without an agreement, normalised: that of the base policy.

    Raises:
        StudyError: the base policy has no value of an objective.
    """
    values = table.base.values()
    for name in table.names:
        if not np.isfinite(values[name].mean):
            raise StudyError(
                f"a negotiated pick needs the base policy's {name}, which was not measured; pick "
                "by a preference, or by the worst objective"
            )
    base_K: Floats = pareto.normalise(table.base.means_K(table.names), table.bounds_K2)
    return base_K


def score(rule: Rule, unit_NK: Floats, base_K: Floats, preference_K: Sequence[float]) -> Floats:
    """Return what a rule other than the knee makes as large as possible.

    Args:
        rule: of the names in `Rule`.
        unit_NK: normalised means, with any leading axes.
        base_K: those of the base policy, with axes that go with ``unit_NK``.
        preference_K: weights that sum to 1, for a preference.

    Returns:
        float [N] in normalised units: the utility, the worst objective, or the geometric mean of
        the gains over the base policy, 0 if there is none in some objective.
    """
    if rule == "preference":
        return np.asarray(unit_NK @ np.asarray(preference_K), dtype=np.float64)
    if rule == "worst-group":
        return np.asarray(unit_NK.min(axis=-1), dtype=np.float64)
    gains = np.maximum(unit_NK - base_K, 0.0)
    return np.asarray(gains.prod(axis=-1) ** (1.0 / gains.shape[-1]), dtype=np.float64)


@dataclass(frozen=True)
class Lead:
    """By how much one point is ahead of another where a rule looks, with a 95 % interval."""

    value: float
    stderr: float
    low: float
    high: float


def lead(
    table: PointTable, rule: Rule, preference: Mapping[str, float], a_UK: Floats, b_UK: Floats
) -> Lead:
    """Compare two tables of unit values on validation by a rule's `score`, paired over the units.

    A preference is compared by `utility_difference`. Other rules have no formula: they get the
    percentiles of a bootstrap over the units, which are drawn jointly for both and the base
    policy. What was chosen for having its objectives level on these units is worse on others, as
    it is on resampled ones; a basic bootstrap would take that for a bias and turn it round.
    """
    weights = [preference[name] for name in table.names]
    if rule == "preference":
        found = utility_difference(a_UK, b_UK, weights, table.bounds_K2)
        return Lead(found.value, found.stderr, found.low, found.high)
    tables = [a_UK, b_UK, table.base.units_UK(table.names, "validation")]
    means_3K = [mean_and_stderr(values)[0] for values in tables]
    means_RNK = np.concatenate([[means_3K], resampled_means(tables, RESAMPLES, seed=0)])
    unit_RNK = pareto.normalise(means_RNK, table.bounds_K2)
    scores_RN = score(rule, unit_RNK[:, :2], unit_RNK[:, 2:], weights)
    value, *drawn = scores_RN[:, 0] - scores_RN[:, 1]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Lead(float(value), float(np.std(drawn)), float(low), float(high))


def why(
    table: PointTable,
    means_K: Sequence[float] | Floats,
    rule: Rule,
    preference: Mapping[str, float],
) -> str:
    """Say by what a rule other than the knee took a point, or a mixture, with these means."""
    unit_K: Floats = pareto.normalise(means_K, table.bounds_K2)
    base_K = disagreement(table) if rule == "negotiated" else unit_K
    value = float(score(rule, unit_K, base_K, [preference[name] for name in table.names]))
    if rule == "preference":
        return f"It has the highest utility on validation for {say(preference)}: {value:.3f}."
    if rule == "worst-group":
        level = [n for n, v in zip(table.names, unit_K, strict=True) if v <= value + _LEVEL]
        return (
            f"Its worst objective is the best: {' and '.join(level)}, {value:.3f} of the way from "
            "the lower bound to the upper."
        )
    return (
        "It has the largest product of gains over the base policy: "
        f"{gains(table, unit_K - base_K)} in units of the bounds, {value:.3f} as their geometric "
        "mean."
    )


def gains(table: PointTable, gains_K: Floats) -> str:
    """Return gains as text, ``a +0.120, b +0.300``."""
    return ", ".join(f"{name} {gain:+.3f}" for name, gain in zip(table.names, gains_K, strict=True))


def _no_bargain(table: PointTable, points: Sequence[Point]) -> str:
    """Say that no point gains in every objective, and which comes nearest."""
    rows = [point.means_K(table.names) for point in points]
    gains_NK = pareto.normalise(rows, table.bounds_K2) - disagreement(table)
    nearest_point = int(gains_NK.min(axis=1).argmax())
    return (
        "No point that can be chosen gains on the base policy in every objective, so there is "
        f"nothing to agree on; {points[nearest_point].id} comes nearest, with "
        f"{gains(table, gains_NK[nearest_point])} in units of the bounds. Take a preference, or "
        "see whether a mixture gains in all."
    )


def _rivals(
    table: PointTable,
    points: Sequence[Point],
    chosen: Point,
    rule: Rule,
    preference: Mapping[str, float],
) -> list[str]:
    """Say which points might be as good: the difference's 95 % interval holds 0."""
    mine = chosen.units_UK(table.names, "validation")
    close = [
        (point, ahead)
        for point in points
        if point is not chosen
        for other in [point.units_UK(table.names, "validation")]
        for ahead in [lead(table, rule, preference, mine, other)]
        if ahead.low <= 0
    ]
    if not close:
        return []
    close.sort(key=lambda pair: pair[1].value)
    told = ", ".join(f"{p.id} ({with_error(-d.value, d.stderr, sign='+')})" for p, d in close[:3])
    more = f" and {len(close) - 3} more" if len(close) > 3 else ""
    return [f"Not certainly worse there: {told}{more}."]


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
    return f"No point of the front has {listed(at_least)}; one by one they reach {highest}."


def known(table: PointTable, at_least: Mapping[str, float]) -> dict[str, float]:
    """Return thresholds whose objectives are known to be the table's.

    Raises:
        StudyError: one is not, with the nearest match.
    """
    names = [o.name for o in table.objectives]
    for name in at_least:
        if name not in names:
            raise StudyError(f"a threshold names {name!r}; {nearest(name, names)}")
    return dict(at_least)


def listed(at_least: Mapping[str, float]) -> str:
    """Return thresholds as text, ``a >= 0.5 and b >= 3``."""
    return " and ".join(f"{name} >= {value:g}" for name, value in at_least.items())


def say(preference: Mapping[str, float]) -> str:
    """Return a preference as text, ``accuracy .60, brevity .40``; equal weights by that name."""
    if len(preference) > 1 and len({round(w, 6) for w in preference.values()}) == 1:
        return "equal weights"
    return ", ".join(f"{name} {share(weight)}" for name, weight in preference.items() if weight)


def share(weight: float) -> str:
    """Return a weight in [0, 1] as short text, ``.60``."""
    return f"{weight:.2f}".removeprefix("0")
