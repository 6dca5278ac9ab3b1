"""The live view of a study: a listener of the driver. Plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from moalign.hookspecs import hookimpl
from moalign.reporting.front import number
from moalign.reporting.pick import share
from moalign.reporting.points import PREFERENCE, with_error
from moalign.types import Objective, Observation, Proposal, StepEvent

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

Values = Mapping[str, tuple[float, float]]
"""Mean and standard error by objective."""

LOUD: Final = 0.25
"""Share of the base policy after which a plain view says how far it is."""

BRIEF: Final = 5.0
"""Seconds; a shorter time left is not worth telling."""

TESTING: Final = "measuring the front on test"


@dataclass
class _Trial:
    """What the view knows of a trial that runs.

    Attributes:
        told: its weights and other parameters, as text.
        total: its full length.
        step: steps taken.
        metrics: of the latest step.
        values: what was measured last, on validation.
    """

    told: str
    total: int
    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    values: Values = field(default_factory=dict)


class ProgressView:
    """Shows trials, steps, objectives and the time that is left.

    On a terminal a panel stays at the bottom and a line per trial scrolls above it; elsewhere the
    lines alone are printed.
    """

    def __init__(self, console: Console, trials: int) -> None:
        """Set up.

        Args:
            console: where to print.
            trials: how many trials the study runs in all.
        """
        self.console = console
        self.trials = trials
        self._names: list[str] = []
        self._steps = 1
        self._running: dict[int, _Trial] = {}
        self._ended = 0
        self._before = 0.0
        self._front: frozenset[int] = frozenset()
        self._points = 0
        self._hypervolume = 0.0
        self._base: tuple[float, str] = (0.0, "")
        self._built = False
        self._told = 0.0
        self._began = time.monotonic()
        self._searching: float | None = None
        self._tested = False
        self._live: Live | None = None

    def __repr__(self) -> str:
        return "the progress view"

    def start(self) -> None:
        """Begin to draw, on a terminal."""
        from rich.live import Live

        if self.console.is_terminal:
            self._live = Live(
                get_renderable=self._panel,
                console=self.console,
                refresh_per_second=4,
                transient=True,
            )
            self._live.start()

    def stop(self) -> None:
        """Stop drawing; safe to call twice."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def base(self, done: float, words: str) -> None:
        """Show how far the base policy is built; ``done`` is a share in [0, 1]."""
        self._base = (done, words)
        self._built = self._built or done >= 1.0  # what follows is made from it
        if self._live is None and self._told + LOUD <= done < 1.0:
            self._told = done
            self._say(f"base policy: {done:.0%}, {words}")

    @property
    def building(self) -> str:
        """What is being built before any training; empty if nothing is."""
        done, words = self._base
        if done >= 1.0 or not words:
            return ""
        return words if self._built else "the base policy"

    # --- what the driver announces -------------------------------------------------------------

    @hookimpl
    def moalign_study_started(
        self,
        run: Path,
        study: Mapping[str, Any],
        objectives: Sequence[Objective],
        resumed: bool,
    ) -> None:
        """Name the run and learn the objectives."""
        self._names = [o.name for o in objectives]
        self._steps = study["training"]["steps"]
        if resumed:
            self._take_over(run)
        how = f"going on, {self._ended} of {self.trials} trials are done" if resumed else "starting"
        self._say(f"{run}: {how}; Ctrl-C stops, and the same command goes on")
        self._say_phase()

    @hookimpl
    def moalign_base_measured(self, values: Values) -> None:
        """Say what the base policy is worth."""
        self._base = (1.0, "")
        self._say(f"base policy: {_values(values)}")

    @hookimpl
    def moalign_trial_started(self, trial: int, proposal: Proposal) -> None:
        """Add the trial to the panel."""
        self._search_begins()
        total = self._steps if proposal.steps is None else proposal.steps
        self._running[trial] = _Trial(_params(proposal), total)
        if proposal.reason:
            self._say(f"trial {trial}: {proposal.reason}")

    @hookimpl
    def moalign_step_ended(self, event: StepEvent) -> None:
        """Move the trial on."""
        self._search_begins()
        if event.trial in self._running:
            self._running[event.trial].step = event.step
            self._running[event.trial].metrics = event.metrics

    @hookimpl
    def moalign_segment_ended(
        self, trial: int, observations: Sequence[Observation], values: Sequence[Values]
    ) -> None:
        """Remember what was measured."""
        if trial in self._running:
            self._running[trial].step = observations[0].step
            self._running[trial].values = values[0]

    @hookimpl
    def moalign_front_updated(self, points: Sequence[Observation], hypervolume: float) -> None:
        """Count the points of the front; those that are new were never measured on test."""
        self._tested = False
        self._front = frozenset(point.trial for point in points)
        self._points, self._hypervolume = len(points), hypervolume

    @hookimpl
    def moalign_trial_ended(self, trial: int, outcome: str, reason: str) -> None:
        """Print the trial's line."""
        self._ended += 1
        ended = self._running.pop(trial, None)
        told = f"trial {trial} ({self._ended} of {self.trials}) {outcome}"
        if ended is not None:
            told += f" at step {ended.step}/{ended.total}" if ended.total else " without training"
            told += f", {ended.told}" if ended.told else ""
            told += f": {_values(ended.values)}" if ended.values else ""
        told += f" ({reason})" if reason else ""
        self._say(told + (", on the front" if trial in self._front else ""))
        if self._live is None and (left := self._left()):
            self._say(f"about {left} left")
        self._say_phase()

    @hookimpl
    def moalign_study_ended(self) -> None:
        """Take the panel away."""
        self.stop()

    # --- drawing -------------------------------------------------------------------------------

    def _take_over(self, run: Path) -> None:
        """Learn from the record what an earlier command did."""
        from moalign.search.folders import RunFolder
        from moalign.search.record import read

        state = read(RunFolder(run))
        for trial in state.trials.values():
            if trial.outcome is None:
                told = _params(trial.proposal)
                self._running[trial.number] = _Trial(told, trial.total, trial.step)
        self._ended = len(state.trials) - len(self._running)
        self._before = self._done()
        front = state.front()
        self._front = frozenset(point.trial for point in front)
        self._points, self._hypervolume = len(front), state.hypervolume()
        self._tested = all((point.trial, point.step) in state.tests for point in front)

    def _search_begins(self) -> None:
        if self._searching is None:
            self._searching = time.monotonic()

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    @property
    def _testing(self) -> bool:
        """Whether all trials have ended, and left a front that is not measured on test yet."""
        return self._ended >= self.trials and bool(self._points) and not self._tested

    def _say_phase(self) -> None:
        if self._live is None and self._testing:
            self._say(TESTING)

    def _done(self) -> float:
        """Return how many trials are done, running ones by their share of steps."""
        running = list(self._running.values())  # the driver's thread changes it
        return self._ended + sum(trial.step / max(trial.total, 1) for trial in running)

    def _left(self) -> str:
        """Return the time left, from the trials of this command; empty if unknown or brief."""
        done = self._done() - self._before
        ahead = self.trials - self._done()
        if not done or ahead <= 0 or self._searching is None:
            return ""
        left = (time.monotonic() - self._searching) / done * ahead
        return "" if left < BRIEF else _clock(left)

    def _panel(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar

        done, words = self._base
        if self.building:
            bar = ProgressBar(total=1.0, completed=done, width=40)
            return Group(f"base policy: {words}", bar)
        bar = ProgressBar(total=self.trials, completed=self._done(), width=40)
        parts = [f"{self._ended} of {self.trials} trials"]
        if self._points:
            parts.append(f"{self._points} on the front")
            parts.append(f"hypervolume {self._hypervolume:.3f}")
        parts.append(_clock(time.monotonic() - self._began))
        if self._testing:
            parts.append(TESTING)
        elif left := self._left():
            parts.append(f"about {left} left")
        line = " · ".join(parts)
        return Group(line, bar, self._table()) if self._running else Group(line, bar)

    def _table(self) -> RenderableType:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table("trial", "step", *self._names, "parameters", box=SIMPLE_HEAD, pad_edge=False)
        for name, trial in list(self._running.items()):
            scores = [trial.metrics.get(f"objective/{n}") for n in self._names]
            cells = ["" if score is None else f"{score:.2f}" for score in scores]
            table.add_row(str(name), f"{trial.step}/{trial.total}", *cells, trial.told)
        return table


def _params(proposal: Proposal) -> str:
    """Return a proposal's parameters as short text, those that its settings leave standing."""
    told = []
    for path, value in proposal.values.items():
        if path not in proposal.params:
            continue
        if isinstance(value, Mapping):
            what = "weights" if path == PREFERENCE else path.rpartition(".")[2]
            told.append(f"{what} " + "/".join(share(weight) for weight in value.values()))
        else:
            told.append(f"{path.rpartition('.')[2]} {number(value)}")
    return ", ".join(told)


def _values(values: Values) -> str:
    return ", ".join(f"{n} {with_error(mean, stderr)}" for n, (mean, stderr) in values.items())


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))).removeprefix("0:")
