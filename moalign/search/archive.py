"""What a run's record adds up to: trials, their measurements and outcomes, and the front."""

from __future__ import annotations

from bisect import insort
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moalign import pareto
from moalign.search import events
from moalign.search.folders import RunFolder
from moalign.search.measurements import Measurements
from moalign.types import BASE, Objective, Observation, Proposal, Split

Outcome = Literal["finished", "stopped", "failed"]


@dataclass
class Trial:
    """One trial as the record tells it.

    Attributes:
        number: the proposal's number.
        proposal: what it runs.
        total: its full length.
        time: when it was proposed.
        measured: its measurements on validation, by step, rising.
        decided: what was decided at its rungs.
        failure: why it failed, or None.
    """

    number: int
    proposal: Proposal
    total: int
    time: float
    measured: dict[int, events.Measured] = field(default_factory=dict)
    decided: dict[int, events.Decided] = field(default_factory=dict)
    failure: events.Failed | None = None

    @property
    def step(self) -> int:
        """Step of its latest checkpoint; 0 if there is none."""
        return max(self.measured, default=0)

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it lives."""
        if self.failure is not None:
            return "failed"
        if self.total in self.measured:
            return "finished"
        return "stopped" if self._stop is not None else None

    @property
    def ended(self) -> float:
        """When it ended, in seconds since the epoch; when it was proposed while it lives."""
        if self.failure is not None:
            return self.failure.time
        if self.total in self.measured:
            return self.measured[self.total].time
        return self._stop.time if self._stop is not None else self.time

    @property
    def reason(self) -> str:
        """Why it failed or was stopped; empty otherwise."""
        if self.failure is not None:
            return self.failure.reason
        return self._stop.reason if self._stop is not None else ""

    @property
    def _stop(self) -> events.Decided | None:
        return next((d for d in self.decided.values() if not d.go_on), None)

    def ended_by(self, step: int) -> bool:
        """Return True if nothing more can become known about its checkpoint at ``step``."""
        return self.outcome is not None or step in self.measured


class Run:
    """The state of a run: a fold over the events of its record.

    What is asked after every measurement (the front, its hypervolume, the observations) is brought
    up to date by what is new, so that a large archive does not slow a study down.

    Attributes:
        folder: where it lies.
        opened: each time a driver opened it; never empty once the run has begun.
        trials: all trials by number.
        base: the base policy's measurements on validation, or None.
        tests: measurements on test, by ``(trial, step)``.
        test_openings: each time the test split was read.
        lost_workers: each time a worker was lost with a segment, or hung.
        notes: what trials had to say in training, and which trials said it.
        closed: how the last driver left it; None if it is open or was killed.
        settled: how many trials there were when it was last finished; what they dominate is gone.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.opened: list[events.Opened] = []
        self.trials: dict[int, Trial] = {}
        self.base: events.Measured | None = None
        self.tests: dict[tuple[int, int], events.Measured] = {}
        self.test_openings: list[events.OpenedTest] = []
        self.lost_workers: list[events.Lost] = []
        self.notes: dict[str, list[int]] = {}
        self.closed: events.Outcome | None = None
        self.settled = 0
        self._live: dict[int, Trial] = {}
        self._archive: list[_Checkpoint] = []  # in the order of arrival
        self._order: list[Order] = []
        self._places: dict[tuple[int, int], list[int]] = {}  # in the archive, by trial and step
        self._whole = _Front()
        self._visible = _Front()
        self._volume: tuple[events.Opened, tuple[Observation, ...], float] | None = None

    def apply(self, event: events.Event) -> None:
        """Take one more event into account.

        Raises:
            ValueError: it cannot follow on what is known.
        """
        self.closed = None
        match event:
            case events.Opened():
                self.opened.append(event)
            case events.Closed():
                self.closed = event.outcome
                if event.outcome == "finished":
                    self.settled = len(self.trials)
            case events.Proposed():
                if event.trial != len(self.trials):
                    raise ValueError(f"trial {len(self.trials)} comes next, not {event.trial}")
                steps = event.proposal.steps
                total = self.steps if steps is None else steps
                trial = Trial(event.trial, event.proposal, total, event.time)
                self.trials[event.trial] = self._live[event.trial] = trial
            case events.Measured():
                self._measured(event)
            case events.Decided():
                trial = self._trial(event.trial)
                trial.decided[event.step] = event
                self._ends(trial)
            case events.Failed() | events.Retried():
                self._failed(event)
            case events.Lost():
                self.lost_workers.append(event)
            case events.Noted():
                self.notes.setdefault(event.note, []).append(event.trial)
            case events.OpenedTest():
                self.test_openings.append(event)

    def _measured(self, event: events.Measured) -> None:
        if event.split == "test":
            self.tests[event.trial, event.step] = event
        elif event.trial == BASE:
            self.base = event
        else:
            trial = self._trial(event.trial)
            trial.measured[event.step] = event
            self._ends(trial)
            self._file(trial, event)

    def _failed(self, event: events.Failed | events.Retried) -> None:
        if event.trial == BASE:
            return
        trial = self._trial(event.trial)
        if isinstance(event, events.Failed):
            trial.failure = event
        elif trial.failure is None:
            raise ValueError(f"trial {event.trial} has not failed")
        else:
            trial.failure = None
            self._live[event.trial] = trial
        self._ends(trial)

    def _ends(self, trial: Trial) -> None:
        if trial.outcome is not None:
            self._live.pop(trial.number, None)

    def _file(self, trial: Trial, event: events.Measured) -> None:
        """Put a measured checkpoint into the archive."""
        place = len(self._archive)
        order = (trial.number, event.step, place) if self.logical else (place,)
        points = tuple(self._observation(trial, event, point) for point in event.points)
        self._archive.append(_Checkpoint(order, trial.number, event.step, points))
        self._places.setdefault((trial.number, event.step), []).append(place)
        insort(self._order, order)

    def _trial(self, number: int) -> Trial:
        if number not in self.trials:
            raise ValueError(f"trial {number} was never proposed")
        return self.trials[number]

    @property
    def steps(self) -> int:
        """Full length of a trial whose proposal does not say."""
        steps: int = self.opened[0].study["training"]["steps"]
        return steps

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """All objectives, monitored ones included, in the study's order."""
        return self.opened[-1].objectives

    @property
    def front_objectives(self) -> tuple[Objective, ...]:
        """The K axes of the front."""
        return tuple(o for o in self.objectives if o.front)

    @property
    def logical(self) -> bool:
        """True if results are consumed in the order of the trials, not of their arrival."""
        return bool(self.opened[0].study["search"]["order"] == "logical")

    def live(self) -> Iterator[Trial]:
        """Yield the trials that have not ended, by number."""
        return iter([self._live[number] for number in sorted(self._live)])

    def observations(self, visible: Container[int] | None = None) -> tuple[Observation, ...]:
        """Return what was measured on validation, one observation per checkpoint and condition.

        Args:
            visible: numbers of the trials to look at; None looks at all.

        Returns:
            by trial and step in a run with logical order, else in the order of arrival. Those
            whose policy can be relied on are marked as kept: they are on the front of what is
            visible and of what was there when the run was last finished.
        """
        seen_N = self._seen(visible)
        kept = self._judged(visible, seen_N).checkpoints
        found = (self._archive[order[-1]] for order in self._order if seen_N[order[-1]])
        return tuple(chain.from_iterable(one.marked(one.name in kept) for one in found))

    def observed(self, trial: int, step: int) -> tuple[Observation, ...]:
        """Return the observations of one checkpoint, as :meth:`observations` has them."""
        kept = self._judged(None, self._seen(None)).checkpoints
        found = (self._archive[place] for place in self._places.get((trial, step), ()))
        return tuple(chain.from_iterable(one.marked(one.name in kept) for one in found))

    def kept(self, visible: Container[int]) -> set[tuple[int, int]]:
        """Return the checkpoints, as trial and step, that :meth:`observations` marks as kept."""
        front = self._judged(visible, self._seen(visible))
        return {(trial, step) for trial, step in front.checkpoints if trial in visible}

    def front(self) -> tuple[Observation, ...]:
        """Return the non-dominated observations; of equal ones, the first."""
        return self._judged(None, self._seen(None)).observations

    def hypervolume(self) -> float:
        """Return the hypervolume of the front, normalised, from the reference point."""
        front, opened = self.front(), self.opened[-1]
        if self._volume is None or self._volume[0] is not opened or self._volume[1] is not front:
            bounds_K2 = [o.bounds for o in self.front_objectives if o.bounds is not None]
            values_NK = _table([o.values_K for o in front], len(bounds_K2))
            volume = pareto.hypervolume(pareto.normalise(values_NK, bounds_K2), self.reference_K)
            self._volume = (opened, front, volume)
        return self._volume[2]

    def _seen(self, visible: Container[int] | None) -> NDArray[np.bool_]:
        """Mark the checkpoints of visible trials, in the order of arrival."""
        if visible is None:
            return np.ones(len(self._archive), dtype=np.bool_)
        return np.array([one.trial in visible for one in self._archive], dtype=np.bool_)

    def _judged(self, visible: Container[int] | None, seen_N: NDArray[np.bool_]) -> _Front:
        """Return the front of what is seen and of what was there when the run was finished."""
        front = self._visible
        if visible is None:
            front = self._whole
        elif self.settled:
            seen_N = seen_N | [one.trial < self.settled for one in self._archive]
        front.update(self._archive, seen_N)
        return front

    def normalised(self, values_K: tuple[float, ...]) -> tuple[float, ...]:
        """Return values of the front's objectives in units of their bounds."""
        axes = zip(self.front_objectives, values_K, strict=True)
        return tuple(objective.normalise(value) for objective, value in axes)

    @property
    def reference_K(self) -> tuple[float, ...]:
        """The reference point in normalised units."""
        return tuple(
            0.0 if o.reference is None else o.normalise(o.reference) for o in self.front_objectives
        )

    def lost(self) -> list[tuple[int, int]]:
        """Return the checkpoints that somebody has deleted, as far as they are of use.

        That is their measurements and, of points on the front, their policy.
        """
        measured = [(t.number, step) for t in self.trials.values() for step in t.measured]
        if self.base is not None:
            measured.append((BASE, 0))
        gone = [m for m in measured if not self.folder.measurements(*m, "validation").is_file()]
        front = [(o.trial, o.step) for o in self.front()]
        gone += [point for point in front if not self.folder.policy(*point).is_dir()]
        return list(dict.fromkeys(gone))

    def measurements(self, trial: int, step: int, split: Split = "validation") -> Measurements:
        """Read what a checkpoint's folder holds: values per unit, and sample completions.

        Raises:
            RecordError: the file is missing or damaged.
        """
        return Measurements.read(self.folder.measurements(trial, step, split))

    def axes(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """Pick the values of the front's objectives out of those of all objectives."""
        return tuple(values[k] for k in self._axes)

    @cached_property
    def _axes(self) -> list[int]:
        return [k for k, objective in enumerate(self.objectives) if objective.front]

    def _observation(
        self, trial: Trial, measured: events.Measured, point: events.Point
    ) -> Observation:
        return Observation(
            trial=trial.number,
            step=measured.step,
            full=measured.step == trial.total,
            start=trial.proposal.start,
            condition=point.condition,
            params=trial.proposal.params,
            values_K=self.axes(point.values_K),
            stderr_K=self.axes(point.stderr_K),
            cost=measured.cost,
        )


# --- the archive -------------------------------------------------------------------------------

Order = tuple[int, ...]
"""What checkpoints are sorted by; it ends with the checkpoint's place in the order of arrival."""


@dataclass(eq=False)
class _Checkpoint:
    """A checkpoint of a trial as it was measured.

    Attributes:
        order: see :data:`Order`.
        trial: the trial's number.
        step: training steps taken.
        points: one observation per condition, none of them marked as kept.
    """

    order: Order
    trial: int
    step: int
    points: tuple[Observation, ...]

    @property
    def name(self) -> tuple[int, int]:
        return self.trial, self.step

    @cached_property
    def _kept(self) -> tuple[Observation, ...]:
        return tuple(replace(point, kept=True) for point in self.points)

    def marked(self, kept: bool) -> tuple[Observation, ...]:
        """Return the observations, marked as kept or not."""
        return self._kept if kept else self.points


class _Point(NamedTuple):
    """A point of a checkpoint; points sort in the order in which they count."""

    order: Order
    checkpoint: _Checkpoint
    condition: int


class _Front:
    """The front of checkpoints of an archive, brought up to date by what is new.

    The front of a set and some more points is that of its own front and these points.

    Attributes:
        checkpoints: those that have a point on the front, as trial and step.
        observations: the points, in order, marked as kept.
    """

    def __init__(self) -> None:
        self.checkpoints: set[tuple[int, int]] = set()
        self.observations: tuple[Observation, ...] = ()
        self._points: list[_Point] = []
        self._of_N = np.zeros(0, dtype=np.bool_)

    def update(self, archive: Sequence[_Checkpoint], of_N: NDArray[np.bool_]) -> None:
        """Make it the front of other checkpoints: quickly if they are the old ones and a few more.

        Args:
            archive: all checkpoints, in the order of arrival; it has only grown.
            of_N: whether a checkpoint counts.
        """
        before_N = np.zeros_like(of_N)
        before_N[: len(self._of_N)] = self._of_N
        points = self._points
        if (before_N & ~of_N).any():  # what is gone may have hidden what stays
            points, before_N = [], np.zeros_like(of_N)
        new = [
            _Point((*archive[place].order, condition), archive[place], condition)
            for place in np.flatnonzero(of_N & ~before_N).tolist()
            for condition in range(len(archive[place].points))
        ]
        if new:
            points = sorted([*points, *new])
            values_NK = [p.checkpoint.points[p.condition].values_K for p in points]
            marked_N = pareto.is_nondominated(_table(values_NK, len(values_NK[0])))
            points = [point for point, on in zip(points, marked_N, strict=True) if on]
        if points != self._points:
            self._points = points
            self.checkpoints = {point.checkpoint.name for point in points}
            self.observations = tuple(p.checkpoint.marked(True)[p.condition] for p in points)
        self._of_N = of_N


def _table(values_NK: list[tuple[float, ...]], axes: int) -> NDArray[np.float64]:
    return np.array(values_NK, dtype=np.float64).reshape(-1, axes)
