"""What a run's record adds up to: trials, their measurements and outcomes, and the front."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

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

    Attributes:
        folder: where it lies.
        opened: each time a driver opened it; never empty once the run has begun.
        trials: all trials by number.
        base: the base policy's measurements on validation, or None.
        tests: measurements on test, by ``(trial, step)``.
        test_openings: each time the test split was read.
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
        self.closed: events.Outcome | None = None
        self.settled = 0
        self._consumed: list[events.Measured] = []

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
                self.trials[event.trial] = trial
            case events.Measured():
                self._measured(event)
            case events.Decided():
                self._trial(event.trial).decided[event.step] = event
            case events.Failed():
                if event.trial != BASE:
                    self._trial(event.trial).failure = event
            case events.Lost():
                pass
            case events.OpenedTest():
                self.test_openings.append(event)

    def _measured(self, event: events.Measured) -> None:
        if event.split == "test":
            self.tests[event.trial, event.step] = event
        elif event.trial == BASE:
            self.base = event
        else:
            self._trial(event.trial).measured[event.step] = event
            self._consumed.append(event)

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
        return (trial for trial in self.trials.values() if trial.outcome is None)

    def observations(self, visible: Container[int] | None = None) -> tuple[Observation, ...]:
        """Return what was measured on validation, one observation per checkpoint and condition.

        Args:
            visible: numbers of the trials to look at; None looks at all.

        Returns:
            by trial and step in a run with logical order, else in the order of arrival. Those
            whose policy can be relied on are marked as kept: they are on the front of what is
            visible and of what was there when the run was last finished.
        """
        measured = [m for m in self._consumed if visible is None or m.trial in visible]
        if self.logical:
            measured.sort(key=lambda m: (m.trial, m.step))
        settled = [m for m in self._consumed if m.trial < self.settled and m not in measured]
        kept = self._on_front([*measured, *settled])
        return tuple(
            self._observation(m, point, (m.trial, m.step) in kept)
            for m in measured
            for point in m.points
        )

    def _on_front(self, measured: list[events.Measured]) -> set[tuple[int, int]]:
        pairs = [((m.trial, m.step), point) for m in measured for point in m.points]
        values_NK = [self.axes(point.values_K) for _, point in pairs]
        marked_N = pareto.is_nondominated(_table(values_NK, len(self._axes)))
        return {checkpoint for (checkpoint, _), on in zip(pairs, marked_N, strict=True) if on}

    def front(self) -> tuple[Observation, ...]:
        """Return the non-dominated observations; of equal ones, the first."""
        observations = self.observations()
        values_NK = [o.values_K for o in observations]
        marked_N = pareto.is_nondominated(_table(values_NK, len(self._axes)))
        return tuple(o for o, on in zip(observations, marked_N, strict=True) if on)

    def hypervolume(self) -> float:
        """Return the hypervolume of the front, normalised, from the reference point."""
        values_NK = [self.normalised(o.values_K) for o in self.front()]
        return pareto.hypervolume(values_NK, self.reference_K)

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
        self, measured: events.Measured, point: events.Point, kept: bool
    ) -> Observation:
        trial = self.trials[measured.trial]
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
            kept=kept,
        )


def _table(values_NK: list[tuple[float, ...]], axes: int) -> NDArray[np.float64]:
    return np.array(values_NK, dtype=np.float64).reshape(-1, axes)
