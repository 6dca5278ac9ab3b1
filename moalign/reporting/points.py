"""One table of points: what the CSV file, both plots and the report are made from."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from moalign import pareto
from moalign.errors import RecordError
from moalign.reporting.statistics import Floats, mean_and_stderr
from moalign.search import events
from moalign.search.archive import Run
from moalign.search.measurements import Measured, cost_before
from moalign.study.study import complete_preference
from moalign.types import BASE, Cost, Objective, Observation, Split

PREFERENCE: Final = "weighting.preference"
"""The path whose weights are those of the objectives; others (a schedule's ends) are settings."""


@dataclass(frozen=True)
class Value:
    """A measured mean and its standard error, in the objective's units; NaN if there is none."""

    mean: float
    stderr: float


def with_error(value: float, stderr: float, places: int = 3, sign: str = "") -> str:
    """Return a number and its standard error as text, with ``?`` for what is not known.

    Args:
        value: in any unit; NaN if there is none.
        stderr: in the same unit; NaN for a mean of one unit.
        places: after the point.
        sign: ``+`` writes the sign of positive values too.
    """
    return f"{_known(value, places, sign)} ± {_known(stderr, places)}"


def interval(low: float, high: float) -> str:
    """Return an interval of differences as text, with ``?`` for what is not known."""
    return f"{_known(low, 3, '+')} to {_known(high, 3, '+')}"


def _known(value: float, places: int, sign: str = "") -> str:
    return "?" if math.isnan(value) else f"{value:{sign}.{places}f}"


@dataclass(frozen=True)
class Point:
    """A checkpoint under one condition, and what was measured there.

    Attributes:
        id: ``t03``, at a rung ``t03-s15``, under a condition ``t03-c2``; ``base``.
        trial: its number; :data:`moalign.BASE` for the base policy.
        step: training steps taken.
        condition: the weights written into the prompts, or None.
        params: the proposal's parameters, as far as its settings leave them standing.
        weights: what the objectives were weighted by, the condition included; None if the
            weighting has no preference.
        cost: tokens the trial had spent.
        front: no other point dominates it on validation.
        validation: decides about membership and picks.
        test: only reported; None until the end of the study, and for points off the front.
    """

    id: str
    trial: int
    step: int
    condition: Mapping[str, float] | None
    params: Mapping[str, Any]
    weights: Mapping[str, float] | None
    cost: Cost
    front: bool
    validation: Measured
    test: Measured | None = None

    def measured(self, split: Split) -> Measured | None:
        """Return what was measured on validation or test, or None."""
        return self.test if split == "test" else self.validation

    @cached_property
    def _values(self) -> dict[Split, dict[str, Value]]:
        return {"validation": _values(self.validation), "test": _values(self.test)}

    def values(self, split: Split = "validation") -> dict[str, Value]:
        """Return mean and standard error by objective, monitored too; empty if unmeasured."""
        return self._values[split]

    def means_K(self, names: Sequence[str], split: Split = "validation") -> list[float]:
        """Return the means of some objectives."""
        return [self.values(split)[name].mean for name in names]

    def units_UK(self, names: Sequence[str], split: Split) -> Floats:
        """Return the values of every unit for some objectives.

        Raises:
            RecordError: it was not measured on the split.
        """
        measured = self.measured(split)
        if measured is None:
            raise RecordError(f"point {self.id} was not measured on {split}")
        columns = [measured.evaluation.names.index(name) for name in names]
        return np.asarray(measured.evaluation.values_UK, dtype=np.float64)[:, columns]

    def settings(self) -> dict[str, Any]:
        """Return the parameters without the preference, by path; a schedule's end is a mapping."""
        return {path: value for path, value in self.params.items() if path != PREFERENCE}


def _values(measured: Measured | None) -> dict[str, Value]:
    if measured is None:
        return {}
    mean_K, stderr_K = mean_and_stderr(measured.evaluation.values_UK)
    columns = zip(measured.evaluation.names, mean_K, stderr_K, strict=True)
    return {name: Value(float(mean), float(stderr)) for name, mean, stderr in columns}


@dataclass(frozen=True)
class PointTable:
    """All points of a run.

    Attributes:
        title: the run's name.
        objectives: all objectives, monitored ones included.
        base: the base policy.
        points: every measured point, by trial, step and condition.
        before: tokens spent before training, once for all trials; None if nothing was prepared.
    """

    title: str
    objectives: tuple[Objective, ...]
    base: Point
    points: tuple[Point, ...]
    before: Cost | None = None

    @property
    def axes(self) -> tuple[Objective, ...]:
        """The front objectives."""
        return tuple(o for o in self.objectives if o.front)

    @property
    def names(self) -> list[str]:
        """Names of the front objectives."""
        return [o.name for o in self.axes]

    @property
    def front(self) -> tuple[Point, ...]:
        """The points that no other point dominates, best in the first objective first."""
        first = self.names[0]
        kept = [p for p in self.points if p.front]
        return tuple(sorted(kept, key=lambda p: -p.values()[first].mean))

    @property
    def bounds_K2(self) -> list[tuple[float, float]]:
        """Bounds of the front objectives."""
        bounds = [o.bounds for o in self.axes]
        return [pair for pair in bounds if pair is not None]

    def complete(self, split: Split) -> bool:
        """Return True if the base policy and every front point were measured on a split."""
        return all(point.measured(split) is not None for point in (self.base, *self.front))


def read_points(run: Run) -> PointTable:
    """Build the table of a run's points from its record and its measurement files.

    Raises:
        RecordError: the base policy has not been measured, with the reason if it failed; or a
            file is missing or damaged.
    """
    if run.base is None:
        if failure := _base_failure(run):
            raise RecordError(
                f"run {run.folder.name} has no points, because the base policy could not be "
                f"measured: {failure}; mend that, and go on with the command that started it"
            )
        raise RecordError(
            f"run {run.folder.name} has not measured its base policy yet, so there is nothing to "
            "show; go on with the command that started it"
        )
    observations = run.observations()
    marks = pareto.is_nondominated([o.values_K for o in observations])
    points = [_point(run, o, bool(m)) for o, m in zip(observations, marks, strict=True)]
    return PointTable(
        title=run.folder.name,
        objectives=run.objectives,
        base=_base(run),
        points=tuple(sorted(points, key=lambda p: (p.trial, p.step, p.id))),
        before=cost_before(run.folder),
    )


def _base_failure(run: Run) -> str:
    """Return why the latest driver could not measure the base policy; empty if it has not failed.

    The state of a run forgets this, because the next driver tries again.
    """
    reason = ""
    for line in run.folder.events.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            event = events.from_line(line)
            if isinstance(event, events.Opened):
                reason = ""
            elif isinstance(event, events.Failed) and event.trial == BASE:
                reason = event.reason
    return reason


def _point(run: Run, seen: Observation, front: bool) -> Point:
    validation = run.measurements(seen.trial, seen.step).evaluations
    number = [measured.condition for measured in validation].index(seen.condition)
    tested = (seen.trial, seen.step) in run.tests
    test = run.measurements(seen.trial, seen.step, "test").evaluations if tested else None
    values = run.trials[seen.trial].proposal.values
    own = None if "weighting" in values else fixed_weights(run)  # a strategy set another weighting
    return Point(
        id=point_id(seen, number),
        trial=seen.trial,
        step=seen.step,
        condition=seen.condition,
        params={path: value for path, value in seen.params.items() if path in values},
        weights=seen.condition or values.get(PREFERENCE) or own,
        cost=seen.cost,
        front=front,
        validation=validation[number],
        test=test[number] if test else None,
    )


def _base(run: Run) -> Point:
    """The base policy; one point, even if it was measured under several conditions."""
    validation = run.measurements(BASE, 0)
    test = run.measurements(BASE, 0, "test") if (BASE, 0) in run.tests else None
    return Point(
        id="base",
        trial=BASE,
        step=0,
        condition=None,
        params={},
        weights=None,
        cost=validation.cost,
        front=False,
        validation=validation.evaluations[0],
        test=test.evaluations[0] if test else None,
    )


def point_id(seen: Observation, number: int) -> str:
    """Return a point's short name; ``number`` is that of its condition, from 0."""
    return seen.name + ("" if seen.condition is None else f"-c{number + 1}")


def fixed_weights(run: Run) -> Mapping[str, float] | None:
    """Return the study's own preference, or None if its weighting has none.

    None too if the preference is only blended with what the weighting has learnt.
    """
    ((_, options),) = run.opened[0].study["weighting"].items()
    if "preference" not in options or options.get("blend", 1) != 1:
        return None
    names = [o.name for o in run.objectives if o.train]
    return complete_preference(options["preference"] or dict.fromkeys(names, 1.0), names)


# --- CSV ---------------------------------------------------------------------------------------


def to_csv(table: PointTable) -> str:
    """Return all points as CSV, the base policy first; an empty cell means not measured."""
    rows = [dict(_cells(table, point)) for point in (table.base, *table.points)]
    header = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _cells(table: PointTable, point: Point) -> Iterator[tuple[str, Any]]:
    yield "point", point.id
    yield "trial", "" if point.trial == BASE else point.trial
    yield "step", point.step
    yield "front", int(point.front)
    splits: tuple[Split, ...] = ("validation", "test")
    for split in splits:
        values = point.values(split)
        for objective in table.objectives:
            value = values.get(objective.name)
            yield f"{split}.{objective.name}", "" if value is None else value.mean
            yield f"{split}.{objective.name}.stderr", "" if value is None else value.stderr
    for name, weight in (point.weights or {}).items():
        yield f"weight.{name}", weight
    for path, value in point.settings().items():
        if isinstance(value, Mapping):
            yield from ((f"{path}.{name}", weight) for name, weight in value.items())
        else:
            yield path, value
    for name, tokens in point.cost.to_json().items():
        yield f"tokens.{name}", tokens
