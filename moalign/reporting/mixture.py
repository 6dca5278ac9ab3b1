"""Mixtures of a front's points: what they reach, and picking one. Pure functions.

A mixture answers every prompt with a policy drawn at random. It needs no training, and reaches
every convex combination of the points' means: the least that training more has to beat. Shares are
chosen on validation; test only reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from moalign import pareto
from moalign.errors import StudyError
from moalign.reporting import pick
from moalign.reporting.front import Front, reference_K
from moalign.reporting.pick import Rule
from moalign.reporting.points import Point, PointTable, Value, interval, with_error
from moalign.reporting.shares import (
    bargain_shares,
    best_shares,
    hull_vertices,
    level_shares,
    maximin_shares,
    mix,
)
from moalign.reporting.statistics import Floats, mean_and_stderr
from moalign.types import Split

Parts = tuple[tuple[Point, float], ...]
"""Points and their shares, which sum to 1; the largest first."""

_MET: Final = 1e-6  # in units of the bounds; the linear programs are exacter than this


@dataclass(frozen=True)
class Mixture:
    """A mixture that was picked, and why.

    Attributes:
        parts: its points and shares; empty if no mixture is what was asked for.
        reasons: sentences for a person: the rule, and what a single point has instead.
    """

    parts: Parts
    reasons: tuple[str, ...]

    def units_UK(self, names: Sequence[str], split: Split) -> Floats:
        """Return the unit values for some objectives, see :func:`mix`.

        Raises:
            RecordError: a part was not measured on the split.
        """
        return _units(self.parts, names, split)

    def values(self, split: Split = "validation") -> dict[str, Value]:
        """Return expected mean and standard error by objective; empty if a part is unmeasured.

        The standard error is that of the expectation, over the units; which policy the draw gives
        a prompt comes on top.
        """
        measured = [set(point.values(split)) for point, _ in self.parts]
        shared = set.intersection(*measured) if measured else set()
        names = [name for name in self.parts[0][0].values() if name in shared] if shared else []
        if not names:
            return {}
        mean_K, stderr_K = mean_and_stderr(self.units_UK(names, split))
        columns = zip(names, mean_K, stderr_K, strict=True)
        return {name: Value(float(mean), float(stderr)) for name, mean, stderr in columns}


def _units(parts: Parts, names: Sequence[str], split: Split) -> Floats:
    tables = [point.units_UK(names, split) for point, _ in parts]
    return mix(tables, [share for _, share in parts])


# --- what mixtures reach -----------------------------------------------------------------------


@dataclass(frozen=True)
class Reach:
    """What the mixtures of a front's points reach.

    Attributes:
        table: all points.
        split: where the numbers were measured, as in :class:`Front`.
        corners: the points that mixtures need; see :func:`moalign.reporting.shares.hull_vertices`.
        instead: for every other point of the front a mixture that is as good in every objective.
        points: hypervolume of the front's points as measured.
        mixtures: hypervolume of all their mixtures.
        utility: mean over the report's preferences of the utility of the point that validation
            would choose, without thresholds.
    """

    table: PointTable
    split: Split
    corners: tuple[Point, ...]
    instead: Mapping[str, Parts]
    points: float
    mixtures: float
    utility: float


def reach(front: Front) -> Reach:
    """Compute what mixtures of a front's points reach; corners are decided on validation."""
    table = front.table
    points, names = table.front, table.names
    unit_NK = pareto.normalise([p.means_K(names) for p in points], table.bounds_K2)
    marked = hull_vertices(unit_NK)
    corners = [point for point, mark in zip(points, marked, strict=True) if mark]
    instead = {}
    for row in np.flatnonzero(~marked):
        found = level_shares(unit_NK[marked] - unit_NK[row], np.ones(len(names)))
        assert found is not None  # there is no threshold that could fail
        instead[points[row].id] = _parts(corners, found[0])
    reported_NK = pareto.normalise([p.means_K(names, front.split) for p in points], table.bounds_K2)
    utilities = []
    for choice in front.choices:
        chosen, _ = pick.best(table, points, choice.preference)
        wanted = [choice.preference[name] for name in names]
        utilities.append(pareto.utility(reported_NK, wanted)[points.index(chosen)])
    reference = reference_K(table)
    return Reach(
        table=table,
        split=front.split,
        corners=tuple(corners),
        instead=instead,
        points=pareto.hypervolume(reported_NK, reference),
        mixtures=pareto.hull_hypervolume(reported_NK, reference),
        utility=float(np.mean(utilities)),
    )


def reach_rows(found: Reach) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the front's points as text: which of them mixtures need."""
    names = found.table.names
    rows = []
    for point in found.table.front:
        values = point.values()
        told = "needed"
        if point.id in found.instead:
            told = f"as good: {say_parts(found.instead[point.id])}"
        shown = [with_error(values[name].mean, values[name].stderr) for name in names]
        rows.append([point.id, *shown, told])
    return ["point", *names, "mixtures"], rows


def reach_sentences(found: Reach) -> list[str]:
    """Return the numbers as sentences."""
    aside = ", thresholds aside" if pick.thresholds(found.table) else ""
    return [
        f"Hypervolume {found.mixtures:.3f} of the mixtures, {found.points:.3f} of the points, on "
        f"{found.split}: both as measured, before any bias is taken off.",
        f"Expected utility {found.utility:.3f} on {found.split}{aside}, of mixtures as of points: "
        "for a linear utility the best mixture is a point. A mixture can do more for thresholds "
        "(--at-least), for the worst objective (--worst-group) and for a bargain (--negotiated).",
    ]


def say_parts(parts: Parts) -> str:
    """Return shares as text, ``t00 62.0 %, t02 38.0 %``; a single point by its name."""
    if len(parts) == 1:
        return parts[0][0].id
    return ", ".join(f"{point.id} {share:.1%}".replace("%", " %") for point, share in parts)


# --- picking -----------------------------------------------------------------------------------


def pick_mixture(
    table: PointTable,
    *,
    prefer: Mapping[str, float] | None = None,
    at_least: Mapping[str, float] | None = None,
    rule: Rule = "preference",
) -> Mixture:
    """Pick a mixture of the front's points, of at most as many as objectives count.

    Thresholds hold for the mixture's expected values. The study's own give way as in `pick.pick`.

    Args:
        table: the points.
        prefer: weights by front objective; default: all equal.
        at_least: thresholds by objective, in raw units.
        rule: what decides among the mixtures that meet the thresholds: any but the knee.

    Raises:
        StudyError: an unknown objective, a bad weight, weights for a rule that has none, the knee.
    """
    if rule == "knee":
        raise StudyError(
            "mixtures have no knee, because what they reach is flat between the points; take a "
            "preference, --worst-group or --negotiated, or the knee without --mixture"
        )
    wanted = pick.preference_for(table, rule, prefer)
    given = pick.known(table, at_least or {})
    own = {name: limit for name, limit in pick.thresholds(table).items() if name not in given}
    asked, reasons = _Asked.of(table, {**own, **given}, rule, wanted), []
    if not asked.can_be_met:
        asked = _Asked.of(table, given, rule, wanted)
        if not asked.can_be_met:
            return Mixture((), (_out_of_reach(asked),))
        reasons.append(f"No mixture meets the study's {pick.listed(own)}, so it was left aside.")
    shares = asked.shares()
    if shares is None:
        return Mixture((), (_no_bargain(asked), *reasons))
    parts = _parts(asked.points, shares)
    why = pick.why(table, _means_K(parts, table.names), rule, wanted)
    told = (why, *_against_points(asked, parts), *reasons, *_margin(asked, parts))
    return Mixture(parts, told)


@dataclass(frozen=True)
class _Asked:
    """What a mixture is asked for: thresholds, a rule, and the weights it counts with.

    Attributes:
        table: all points.
        points: those of the front that have a value wherever there is a threshold.
        limits: thresholds by objective, in raw units.
        rule: any but the knee.
        preference: over the front objectives.
    """

    table: PointTable
    points: tuple[Point, ...]
    limits: Mapping[str, float]
    rule: Rule
    preference: Mapping[str, float]

    @classmethod
    def of(
        cls,
        table: PointTable,
        limits: Mapping[str, float],
        rule: Rule,
        preference: Mapping[str, float],
    ) -> _Asked:
        points = [p for p in table.front if np.isfinite(p.means_K(list(limits))).all()]
        return cls(table, tuple(points), limits, rule, preference)

    @cached_property
    def unit_NK(self) -> Floats:
        rows = [point.means_K(self.table.names) for point in self.points]
        return pareto.normalise(rows, self.table.bounds_K2)

    @cached_property
    def units(self) -> dict[str, float]:
        """How far apart the bounds of the objectives with a threshold are."""
        return {o.name: o.unit for o in self.table.objectives if o.name in self.limits}

    @cached_property
    def excess_NC(self) -> Floats:
        """By how much each point exceeds each threshold, in units of the bounds."""
        rows = [
            [
                (p.values()[name].mean - limit) / self.units[name]
                for name, limit in self.limits.items()
            ]
            for p in self.points
        ]
        return np.asarray(rows, dtype=np.float64).reshape(len(self.points), len(self.limits))

    @cached_property
    def closest(self) -> tuple[Floats, float]:
        """The mixture that comes closest to all thresholds, and its least excess."""
        found = level_shares(self.excess_NC, np.ones(len(self.limits)))
        assert found is not None  # every threshold may be missed here
        return found

    @property
    def can_be_met(self) -> bool:
        return not self.limits or (bool(self.points) and self.closest[1] >= -_MET)

    @property
    def allowed_NC(self) -> Floats:
        """The excess, with what `can_be_met` overlooks: the programs are stricter than that."""
        return self.excess_NC - min(self.closest[1], 0.0) if self.limits else self.excess_NC

    def shares(self) -> Floats | None:
        if self.rule == "preference":
            weights = [self.preference[name] for name in self.table.names]
            return best_shares(pareto.utility(self.unit_NK, weights), self.allowed_NC)
        if self.rule == "worst-group":
            return maximin_shares(self.unit_NK, self.allowed_NC)
        return bargain_shares(self.unit_NK - pick.disagreement(self.table), self.allowed_NC)


def _parts(points: Sequence[Point], shares_N: Floats) -> Parts:
    kept = [(p, float(share)) for p, share in zip(points, shares_N, strict=True) if share > 0]
    return tuple(sorted(kept, key=lambda part: -part[1]))


def _means_K(parts: Parts, names: Sequence[str]) -> Floats:
    rows = np.asarray([point.means_K(names) for point, _ in parts])
    means: Floats = np.asarray([share for _, share in parts]) @ rows
    return means


# --- as sentences ------------------------------------------------------------------------------


def _against_points(asked: _Asked, parts: Parts) -> list[str]:
    """Say what the best single point has instead."""
    if len(parts) == 1:
        linear = asked.rule == "preference" and not asked.limits
        always = ": without thresholds none ever is, for a preference" if linear else ""
        return [f"It is a point, {parts[0][0].id}; no mixture is better{always}."]
    able = pick.meeting(asked.points, asked.limits)
    if not able:
        return [f"No single point of the front has {pick.listed(asked.limits)}."]
    table, rule = asked.table, asked.rule
    single = pick.choose(table, able, rule, asked.preference)
    if single is None:
        return ["No single point gains on the base policy in every objective."]
    mine = _units(parts, table.names, "validation")
    other = single.units_UK(table.names, "validation")
    ahead = pick.lead(table, rule, asked.preference, mine, other)
    return [
        f"The best single point, {single.id}, has {ahead.value:.3f} less (95 % interval of the "
        f"difference {interval(ahead.low, ahead.high)})."
    ]


def _margin(asked: _Asked, parts: Parts) -> list[str]:
    """Say where a threshold is met without anything to spare, or only on average over points."""
    if len(parts) == 1:
        return []
    near = {name: _MET * unit for name, unit in asked.units.items()}
    mean_of = dict(zip(asked.limits, _means_K(parts, list(asked.limits)), strict=True))
    tight = {n: limit for n, limit in asked.limits.items() if mean_of[n] - limit <= near[n]}
    said = []
    if tight:
        said.append(
            f"It just has {pick.listed(tight)} on validation; ask for a little more where it must "
            "not fall short on other prompts."
        )
    values = Mixture(parts, ()).values()
    said += [
        f"Counted by unit it has {name} {values[name].mean:.3f}, because its policies do not have "
        f"{name} on the same units."
        for name, limit in asked.limits.items()
        if values[name].mean < limit - near[name]
    ]
    return said


def _out_of_reach(asked: _Asked) -> str:
    """Say that the thresholds cannot be met, and how close mixtures come."""
    wanted = pick.listed(asked.limits)
    if not asked.points:
        return f"No point of the front was measured in all of {', '.join(asked.limits)}."
    parts = _parts(asked.points, asked.closest[0])
    values = zip(asked.limits, _means_K(parts, list(asked.limits)), strict=True)
    told = " and ".join(f"{name} {value:.3f}" for name, value in values)
    return (
        f"No mixture of the front's points has {wanted}; the closest, {say_parts(parts)}, has "
        f"{told}."
    )


def _no_bargain(asked: _Asked) -> str:
    """Say that no mixture gains in every objective, and which comes nearest."""
    gains_NK = asked.unit_NK - pick.disagreement(asked.table)
    rises = np.repeat([1.0, 0.0], [gains_NK.shape[1], len(asked.limits)])
    found = level_shares(np.hstack([gains_NK, asked.allowed_NC + _MET]), rises)
    assert found is not None  # the thresholds can be met
    limited = f" that has {pick.listed(asked.limits)}" if asked.limits else ""
    return (
        f"No mixture of the front's points{limited} gains on the base policy in every objective, "
        "so there is nothing to agree on; the closest, "
        f"{say_parts(_parts(asked.points, found[0]))}, has "
        f"{pick.gains(asked.table, found[0] @ gains_NK)} in units of the bounds."
    )
