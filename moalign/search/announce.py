"""Calling announce hooks: each plugin on its own, and none of them can stop a study."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pluggy

from moalign import hookspecs
from moalign.components import Tracker
from moalign.errors import PluginError, nearest
from moalign.search import events
from moalign.search.archive import Run, Trial
from moalign.types import BASE, Observation, StepEvent


class Announcer:
    """Tells plugins, trackers and views what happens.

    A listener that raises is reported once, by name, as a warning; it is called again the next
    time. With ``strict`` the exception passes through, for those who write one.
    """

    def __init__(
        self,
        manager: pluggy.PluginManager,
        listeners: Sequence[object],
        strict: bool = False,
    ) -> None:
        """Set up.

        Args:
            manager: of the catalogue; it is left as it is.
            listeners: trackers of the study, and other objects with announce hooks.
            strict: let exceptions through.

        Raises:
            PluginError: a listener implements a hook that does not exist.
        """
        self._manager = pluggy.PluginManager(hookspecs.GROUP)
        self._manager.add_hookspecs(hookspecs)
        self._listeners = tuple(listeners)
        self._strict = strict
        self._replaying = False
        self._failures: Counter[str] = Counter()
        self._notes: dict[str, set[int]] = {}
        for name, plugin in manager.list_name_plugin():
            if plugin is not None:
                self._manager.register(plugin, name=name)
        for listener in self._listeners:
            self._register(listener)

    def _register(self, listener: object) -> None:
        name = (
            f"{listener.kind} {listener.name}" if isinstance(listener, Tracker) else repr(listener)
        )
        self._manager.register(listener, name=name)
        for caller in self._manager.get_hookcallers(listener) or ():
            if not caller.has_spec():
                hint = nearest(caller.name, hookspecs.ANNOUNCE)
                raise PluginError(f"{name}: no hook is called {caller.name!r}; {hint}")

    def __call__(self, hook: str, **arguments: Any) -> None:
        """Call every implementation of an announce hook."""
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            if self._replaying and not isinstance(implementation.plugin, Tracker):
                continue
            given = {name: arguments[name] for name in implementation.argnames}
            self._guarded(implementation.plugin_name, hook, implementation.function, given)

    def replay(self, run: Run) -> None:
        """Tell the trackers what the record holds: a killed driver took their queue with it.

        A tracker writes a repeated event once; a view would show it twice, and is not told.
        """
        self._replaying = True
        for trial in run.trials.values():
            self.trial_started(trial)
            for measured in trial.measured.values():
                self.segment_ended(run, measured)
            if trial.outcome is not None:
                self.trial_ended(trial)
        self.front_updated(run, (), run.front(), run.opened[-1].time)
        self._replaying = False

    def trial_started(self, trial: Trial) -> None:
        """Say that a proposal has become a trial."""
        number, proposal = trial.number, trial.proposal
        self("moalign_trial_started", trial=number, proposal=proposal, time=trial.time)

    def trial_ended(self, trial: Trial) -> None:
        """Say how a trial has ended."""
        self(
            "moalign_trial_ended",
            trial=trial.number,
            outcome=trial.outcome,
            reason=trial.reason,
            time=trial.ended,
        )

    def base_measured(self, run: Run) -> None:
        """Say what the base policy is worth, under its first condition."""
        assert run.base is not None
        self(
            "moalign_base_measured",
            evaluation=run.measurements(BASE, 0).evaluations[0].evaluation,
            values=_values(run, run.base)[0],
            time=run.base.time,
        )

    def step_ended(self, event: StepEvent) -> None:
        """Say that a step has ended, and what people should know: each note as one warning."""
        self("moalign_step_ended", event=event)
        for note in event.notes:
            if note not in self._notes:
                warnings.warn(f"trial {event.trial}: {note}", stacklevel=3)
            self._notes.setdefault(note, set()).add(event.trial)

    def worker_lost(self, lost: events.Lost, attempts: int) -> None:
        """Say that a segment is tried again, and why, as a warning.

        Args:
            lost: what happened.
            attempts: how often a segment is tried at most.
        """
        again = f"the segment is tried again (attempt {lost.attempt + 2} of {attempts})"
        warnings.warn(f"{_name(lost.trial, lost.step)}: {lost.reason}; {again}", stacklevel=3)

    def made_again(self, trial: int, step: int) -> None:
        """Say that what somebody has deleted is made again, as a warning."""
        warnings.warn(f"{_name(trial, step)} was deleted; it is made again", stacklevel=3)

    def segment_ended(self, run: Run, measured: events.Measured) -> None:
        """Say what a trial's checkpoint is worth."""
        trial, step = measured.trial, measured.step
        given = run.measurements(trial, step).evaluations
        self(
            "moalign_segment_ended",
            trial=trial,
            observations=list(run.observed(trial, step)),
            evaluations=[one.evaluation for one in given],
            values=_values(run, measured),
            time=measured.time,
        )

    def front_updated(
        self, run: Run, before: Sequence[Observation], after: Sequence[Observation], time: float
    ) -> None:
        """Say what the front is, if it is another one."""
        names = [[(o.trial, o.step, o.condition) for o in front] for front in (before, after)]
        if names[0] != names[1]:
            self(
                "moalign_front_updated",
                points=after,
                hypervolume=run.hypervolume(),
                trials=sum(trial.outcome is not None for trial in run.trials.values()),
                time=time,
            )

    def close(self) -> None:
        """Close the trackers, and say how often listeners failed after their first failure."""
        for name, plugin in self._manager.list_name_plugin():
            if isinstance(plugin, Tracker):
                self._guarded(name, "close", plugin.close, {})
        for name, times in self._failures.items():
            if times > 1:
                warnings.warn(f"{name} failed {times} times in all", stacklevel=2)
        for note, trials in self._notes.items():
            if len(trials) > 1:
                warnings.warn(f"in {len(trials)} trials: {note}", stacklevel=2)

    def _guarded(self, name: str, what: str, function: Any, arguments: dict[str, Any]) -> None:
        try:
            function(**arguments)
        except Exception as error:
            if self._strict:
                raise
            self._failures[name] += 1
            if self._failures[name] == 1:
                warnings.warn(
                    f"{name} failed in {what} and the study goes on without it: "
                    f"{type(error).__name__}: {error}",
                    stacklevel=4,
                )


def _name(trial: int, step: int) -> str:
    return "the base policy" if trial == BASE else f"trial {trial} at step {step}"


def _values(run: Run, measured: events.Measured) -> list[dict[str, tuple[float, float]]]:
    """Return mean and standard error by objective, for each condition."""
    names = [objective.name for objective in run.objectives]
    return [
        dict(zip(names, zip(point.values_K, point.stderr_K, strict=True), strict=True))
        for point in measured.points
    ]
