"""Comparing the fronts of two runs: utility at each preference, paired over the units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moalign.errors import RecordError
from moalign.reporting import pick
from moalign.reporting.front import mean_difference
from moalign.reporting.points import Point, PointTable, interval, read_points, with_error
from moalign.reporting.statistics import UtilityDifference, utility_difference
from moalign.search.archive import Run
from moalign.study.study import report_preferences
from moalign.types import Split


@dataclass(frozen=True)
class Row:
    """One preference: the point each run would choose on validation, and how they differ.

    Attributes:
        preference: weights by front objective.
        a: the first run's point.
        b: the second run's point.
        difference: utility of ``b`` minus utility of ``a``, in normalised units.
    """

    preference: Mapping[str, float]
    a: Point
    b: Point
    difference: UtilityDifference


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side.

    Attributes:
        split: where the differences were measured: test, or validation if one run has no test.
        rows: one per preference of the first run's report.
        mean: difference of the mean utility over the preferences.
    """

    split: Split
    rows: tuple[Row, ...]
    mean: UtilityDifference


def compare(a: Run, b: Run) -> Comparison:
    """Compare the second run with the first.

    Raises:
        RecordError: they do not measure the same thing, with what differs; or a file is damaged.
    """
    one, two = read_points(a), read_points(b)
    differences = _differences(a, b)
    if not one.front or not two.front:
        differences.append("one of them has no front yet")
    both = one.complete("test") and two.complete("test")
    split: Split = "test" if both else "validation"
    if not differences and _units(one, split) != _units(two, split):
        differences.append(
            f"the {split} units differ; the same seed, evaluation and data give the same ones"
        )
    if differences:
        raise RecordError(
            f"runs {a.folder.name} and {b.folder.name} cannot be compared: "
            + "; ".join(differences)
        )
    wanted = report_preferences(a.opened[-1].study["report"]["preferences"], one.names)
    rows = tuple(_row(one, two, preference, split) for preference in wanted)
    return Comparison(
        split=split,
        rows=rows,
        mean=mean_difference(
            [(row.b.units_UK(one.names, split), row.preference) for row in rows],
            [(row.a.units_UK(one.names, split), row.preference) for row in rows],
            one,
        ),
    )


def comparison_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return header and rows as text; the last row is the mean over the preferences."""
    header = ["preference", "first", "second", "second minus first", "95 % interval"]
    rows = [
        [pick.say(row.preference), row.a.id, row.b.id, *_told(row.difference)]
        for row in comparison.rows
    ]
    if len(rows) > 1:
        rows.append(["mean", "", "", *_told(comparison.mean)])
    return header, rows


def _told(difference: UtilityDifference) -> list[str]:
    told = with_error(difference.value, difference.stderr, sign="+")
    return [told, interval(difference.low, difference.high)]


def _row(one: PointTable, two: PointTable, preference: Mapping[str, float], split: Split) -> Row:
    a, _ = pick.best(one, pick.candidates(one), preference)
    b, _ = pick.best(two, pick.candidates(two), preference)
    difference = utility_difference(
        b.units_UK(one.names, split),
        a.units_UK(one.names, split),
        [preference[name] for name in one.names],
        one.bounds_K2,
    )
    return Row(preference, a, b, difference)


def _differences(a: Run, b: Run) -> list[str]:
    """Return what must be equal and is not: task, rewards, bounds, samples per prompt."""
    found = []
    one, two = a.opened[0].study, b.opened[0].study
    if one["task"] != two["task"]:
        found.append(f"the task is {one['task']} in the first and {two['task']} in the second")
    axes, others = ({o.name: o for o in run.front_objectives} for run in (a, b))
    if list(axes) != list(others):
        found.append(f"the front has {', '.join(axes)} in the first and {', '.join(others)} in the "
                     "second")  # fmt: skip
        return found
    for name, objective in axes.items():
        other = others[name]
        if objective.bounds != other.bounds:
            found.append(f"the bounds of {name} are {objective.bounds} and {other.bounds}")
        mine, theirs = (study["objectives"][name]["reward"] for study in (one, two))
        if mine != theirs:
            found.append(f"{name} is measured by {mine} and by {theirs}")
    return found


def _units(table: PointTable, split: Split) -> tuple[str, ...]:
    measured = table.base.measured(split)
    assert measured is not None, split
    return measured.evaluation.units
