"""The driver of a study, top to bottom: open, propose, run segments, decide, test, close.

It alone writes the record and calls announce hooks. What is done next is a function of the record
and of the segments that run at this moment, so going on after a crash needs no code of its own.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Final

from moalign.components import Executor, SegmentFunction, Strategy
from moalign.errors import MoalignError, RecordError, StudyError
from moalign.search import events, proposals, provenance, retention, stopping
from moalign.search.announce import Announcer
from moalign.search.archive import Run, Trial
from moalign.search.asking import check_values
from moalign.search.events import Outcome
from moalign.search.folders import RunFolder
from moalign.search.measurements import write_atomically
from moalign.search.record import Record
from moalign.study.loading import as_proposed
from moalign.study.study import Study
from moalign.types import (
    BASE,
    Observation,
    SegmentDone,
    SegmentFailed,
    SegmentTask,
    Split,
    Start,
    StepEvent,
)

ATTEMPTS: Final = 3
"""How often a segment is tried whose worker is lost."""

WAIT: Final = 1.0  # seconds between two looks at the clock

Progress = Callable[[float, str], None]
Report = Callable[[Run], Mapping[str, Path]]
Leaving = Callable[[Mapping[int, int]], None]


@dataclass(frozen=True)
class Result:
    """How a study's driver ended.

    Attributes:
        run: what the record adds up to.
        outcome: ``finished``, ``interrupted`` (Ctrl-C, or the time is up; the same command goes
            on), or ``failed`` (no trial could be measured).
        files: what was written for people, by role; empty unless it finished.
    """

    run: Run
    outcome: Outcome
    files: Mapping[str, Path] = field(default_factory=dict)


def run_study(
    study: Study,
    folder: Path,
    *,
    executor: Executor | None = None,
    trials: int | None = None,
    max_hours: float | None = None,
    strategy: Strategy | None = None,
    retry_failed: bool = False,
    listeners: Sequence[object] = (),
    strict: bool = False,
    progress: Progress | None = None,
    report: Report | None = None,
    leaving: Leaving | None = None,
    segment: SegmentFunction | None = None,
    prepare: Callable[[Study, RunFolder, Progress], object] | None = None,
) -> Result:
    """Run a study, or go on with it; one that is finished trains nothing.

    Args:
        study: checked.
        folder: of the run; its name is the run's name.
        executor: runs the segments; default: the study's.
        trials: how many trials in all; default: the study's. More than a finished run has adds.
        strategy: proposes the trials to come; default: the study's. Another one knows at once all
            that had ended when the run was last finished.
        retry_failed: try those that failed again first, each from its last checkpoint.
        max_hours: after this time nothing is trained that does not run yet, and what runs is waited
            for; a search that is complete is still measured on test and reported.
        listeners: objects with announce hooks, beside the study's trackers and plugins.
        strict: a listener that raises ends the study instead of being reported.
        progress: called with the share done in [0, 1] while the base policy is built.
        report: called once the study is finished; returns the files it wrote, by role.
        leaving: called at Ctrl-C, before workers and trackers are waited for, with the step from
            which each trial in training goes on. Another Ctrl-C then passes through at once.
        segment: what a worker runs; default: :func:`moalign.search.segments.run_segment`.
        prepare: builds the base policy; default: :func:`moalign.search.artifacts.ensure_base`.

    Raises:
        RecordError: another driver, another study, a damaged record, a full disk.
        MoalignError: the base policy cannot be built or measured, the space not be searched.
    """
    if segment is None or prepare is None:
        from moalign.search.artifacts import check_data, ensure_base
        from moalign.search.segments import run_segment

        check_data(study)
        segment, prepare = segment or run_segment, prepare or ensure_base
    total = trials or study.section.search.trials
    own, strategy = strategy is None, strategy or study.strategy
    proposals.check(study, strategy, total)
    executor = executor or study.new_executor()
    listeners = (*study.new_trackers(), *listeners)
    announce = Announcer(study.catalogue.manager, listeners, strict)
    deadline = math.inf if max_hours is None else time.monotonic() + 3600 * max_hours
    told = progress or (lambda _share, _words: None)
    executor.open(segment)
    with contextlib.closing(executor), Record(RunFolder(Path(folder))) as record:
        driver = _Driver(study, record, strategy, executor, announce, total, deadline)
        driver.known = 0 if own else record.state.settled
        driver.leaving = leaving or driver.leaving
        driver.retry_failed = retry_failed
        return driver.drive(lambda: prepare(study, record.state.folder, told), report)


@dataclass
class _Driver:
    study: Study
    record: Record
    strategy: Strategy
    executor: Executor
    announce: Announcer
    total: int
    deadline: float
    running: dict[tuple[int, int, Split], SegmentTask] = field(default_factory=dict)
    known: int = 0
    exhausted: bool = False
    awaited: int = 0  # trials more than usual whose results the next proposal waits for
    front: tuple[Observation, ...] = ()
    pruned: set[tuple[int, int, str]] = field(default_factory=set)
    leaving: Leaving = lambda _steps: None
    retry_failed: bool = False
    left: bool = False

    @property
    def run(self) -> Run:
        """What the record adds up to."""
        return self.record.state

    def drive(self, prepare: Callable[[], object], report: Report | None) -> Result:
        """Open the run, do all there is to do, and leave it in order."""
        self._open()
        try:
            return self._driven(prepare, report)
        except KeyboardInterrupt:  # another one: nothing is waited for any more
            raise
        except BaseException:
            self.left = True
            self.executor.close()
            with contextlib.suppress(RecordError):  # the first error is the one to tell
                self.record.append(events.Closed(time.time(), "failed"))
            self._part("failed", {})
            raise

    def _driven(self, prepare: Callable[[], object], report: Report | None) -> Result:
        try:
            if not (self.run.base and self._searched()) or self._untested() or self.run.lost():
                prepare()
            self._complete()
            self.announce.replay(self.run)
            self._search()
            if not self._searched():
                return self._leave("interrupted")
            if not self.front:
                return self._leave("failed")
            self._complete()
            self._test()
            return self._leave("finished", report(self.run) if report else {})
        except KeyboardInterrupt:
            if not self.left:  # else it was closing already, and waits for nothing any more
                self.leaving(self._in_training())
            return self._leave("interrupted")

    def _open(self) -> None:
        """Refuse another study's run; write down the study, and that the run is open."""
        folder, first = self.run.folder, not self.run.opened
        if not first:
            provenance.check_same(self.run, self.study)
        opened = provenance.opening(self.study, self.executor.workers, self.total)
        try:
            retention.sweep(folder)
            if first or not folder.study.exists():
                write_atomically(folder.study, provenance.as_yaml(self.study, opened))
        except OSError as error:
            raise RecordError(f"{folder.path}: nothing can be written there: {error}") from error
        self.record.append(opened)
        for trial in self.run.trials.values():
            if self.retry_failed and trial.outcome == "failed":
                self.record.append(events.Retried(time.time(), trial.number))
        self.front = self.run.front()
        self.announce(
            "moalign_study_started",
            run=folder.path,
            study=self.study.data,
            objectives=self.study.objectives,
            resumed=bool(self.run.trials),
            time=self.run.opened[0].time,
            versions=opened.versions,
            plugins=opened.plugins,
            revision=opened.revision,
        )

    def _complete(self) -> None:
        """Make again what the record has and the disk has lost; trackers and the report read it."""
        while self._make_again(self.run.lost()) or self.running:
            self._wait()

    def _leave(self, outcome: Outcome, files: Mapping[str, Path] | None = None) -> Result:
        """Stop the workers, write down how the run was left, and say so."""
        self.left = True
        self.executor.close()
        self.record.append(events.Closed(time.time(), outcome))
        if outcome == "finished":
            retention.prune(self.run, range(len(self.run.trials)), self.pruned)
        self._part(outcome, files or {})
        return Result(self.run, outcome, files or {})

    def _part(self, outcome: Outcome, files: Mapping[str, Path]) -> None:
        """Say how the run was left, and let trackers finish what they have begun."""
        self.announce("moalign_study_ended", run=self.run.folder.path, outcome=outcome, files=files)
        self.announce.close()

    def _in_training(self) -> dict[int, int]:
        """Return the trials that train now, and the step from which they go on if they stop."""
        tasks = sorted(self.running.values(), key=lambda task: task.trial)
        return {task.trial: task.since for task in tasks if task.since < task.until}

    # --- the loop ------------------------------------------------------------------------------

    def _search(self) -> None:
        """Propose and train until everything is done, or until the time is up."""
        if self.run.base is not None:
            self.announce.base_measured(self.run)
        else:
            self._submit(BASE, 0, 0, "validation")
        while True:
            while self._advance():
                pass
            if not self.running:
                return
            self._wait()

    def _wait(self) -> None:
        for event in self.executor.wait(WAIT):
            if isinstance(event, StepEvent):
                trial = self.run.trials.get(event.trial)
                if trial is None or event.step > trial.step:  # else it has been told
                    self._stepped(event)
                continue
            task = self.running.pop((event.trial, event.step, event.split))
            if isinstance(event, SegmentDone):
                self._measured(task, event.seconds)
            else:
                self._not_measured(task, event)

    def _stepped(self, event: StepEvent) -> None:
        """Say that a step has ended, and write down what its trial has not said before."""
        self.announce.step_ended(event)
        for note in event.notes:
            if event.trial not in self.run.notes.get(note, ()):
                self.record.append(events.Noted(time.time(), event.trial, event.step, note))

    def _advance(self) -> bool:
        """Do one thing that can be done now; False if there is none."""
        if time.monotonic() >= self.deadline:
            return False
        busy = {trial for trial, _, _ in self.running}
        for trial in self.run.live():
            if trial.number not in busy and self._move(trial):
                return True
        return self._propose()

    def _searched(self) -> bool:
        enough = self.exhausted or len(self.run.trials) >= self.total
        return enough and not any(self.run.live())

    # --- one trial -----------------------------------------------------------------------------

    def _move(self, trial: Trial) -> bool:
        """Decide about a trial at its rung, or send it on to the next one."""
        step, rungs = trial.step, self.study.section.search.rungs
        if not trial.measured and (gone := self._gone(trial)):
            return self._make_again(gone)
        if step in rungs and step not in trial.decided:
            decision = stopping.at_rung(self.run, trial, step)
            if decision is None:
                return False
            decided = events.Decided(
                time.time(), trial.number, step, decision.go_on, decision.reason
            )
            self.record.append(decided)
            if not decision.go_on:
                self._ended(trial)
            return True
        # A measurement costs some steps, and of a trial that cannot be stopped it decides nothing.
        stops = rungs if stopping.comparable(self.run, trial) else ()
        ahead = [rung for rung in stops if step < rung < trial.total]
        self._submit(trial.number, step, min(ahead, default=trial.total), "validation")
        return True

    def _gone(self, trial: Trial) -> list[tuple[int, int]]:
        """Return the policies that a trial starts from and that somebody has deleted."""
        points = trial.proposal.start.points
        return [point for point in points if not self.run.folder.policy(*point).is_dir()]

    def _make_again(self, gone: Sequence[tuple[int, int]]) -> bool:
        """Make checkpoints again that are gone; they come out the same. False if that runs already.

        The record holds what they measured. A trial that starts from them, or the report, needs
        what is in them.
        """
        moved = False
        for number, step in gone:
            trial = self.run.trials.get(number)
            if trial is not None and (deeper := self._gone(trial)):
                moved = self._make_again(deeper) or moved
            elif (number, step, "validation") not in self.running:
                self.announce.made_again(number, step)
                shutil.rmtree(self.run.folder.checkpoint(number, step), ignore_errors=True)
                self._submit(number, 0, step, "validation")
                moved = True
        return moved

    def _submit(self, number: int, since: int, until: int, split: Split) -> None:
        trial = self.run.trials.get(number)
        study = self.study
        if trial is not None:
            try:
                if not trial.measured:
                    check_values(study.space, trial.proposal)
                study = as_proposed(study, trial.proposal)
            except MoalignError as error:
                self._failed(number, f"the strategy proposed what cannot be run: {error}")
                return
        task = SegmentTask(
            run=self.run.folder.path,
            trial=number,
            study=study.data,
            start=Start() if trial is None else trial.proposal.start,
            since=since,
            until=until,
            total=self.run.steps if trial is None else trial.total,
            split=split,
            plugins=tuple((file.path, file.sha256) for file in study.catalogue.files),
            threads=study.section.training.threads,
        )
        self._run(task)

    def _run(self, task: SegmentTask) -> None:
        self.running[task.trial, task.until, task.split] = task
        self.executor.submit(task)

    def _measured(self, task: SegmentTask, seconds: float) -> None:
        """Take what a segment measured into the record."""
        if self._was_measured(task):
            self.pruned -= {(task.trial, task.until, name) for name in ("policy", "training")}
            self.executor.forget(task.trial)
            if (task.trial, task.until) in self.run.lost():  # or it would be made for ever
                folder = self.run.folder.checkpoint(task.trial, task.until)
                raise RecordError(
                    f"{folder}: it was gone and has been made again, and still lacks its policy or "
                    "its measurements; leave the folder alone while the run is driven"
                )
            return
        measurements = self.run.measurements(task.trial, task.until, task.split)
        measured = events.Measured(
            time=time.time(),
            trial=task.trial,
            step=task.until,
            split=task.split,
            points=tuple(map(events.Point.of, measurements.evaluations)),
            cost=measurements.cost,
            seconds=seconds,
        )
        self.record.append(measured)
        if task.split == "test":
            self.executor.forget(task.trial)
        elif task.trial == BASE:
            self.executor.forget(BASE)
            self.announce.base_measured(self.run)
        else:
            self.announce.segment_ended(self.run, measured)
            before, self.front = self.front, self.run.front()
            self.announce.front_updated(self.run, before, self.front, measured.time)
            trial = self.run.trials[task.trial]
            if trial.outcome == "finished":
                self._ended(trial)
            self._prune()

    def _not_measured(self, task: SegmentTask, failure: SegmentFailed) -> None:
        """Try again with another worker, give the trial up, or end the study."""
        reason = failure.reason
        if failure.retry:
            lost = events.Lost(time.time(), task.trial, task.until, task.attempt, reason)
            self.record.append(lost)
            if task.attempt + 1 < ATTEMPTS:
                self.announce.worker_lost(lost, ATTEMPTS)
                self._run(replace(task, attempt=task.attempt + 1))
                return
            reason = f"its worker was lost {ATTEMPTS} times, the last time because {reason}"
        if failure.fatal:
            raise RecordError(reason)
        if self._was_measured(task):
            gone = f"trial {task.trial} at step {task.until} is gone and could not be made again"
            waiting = [t for t in self.run.live() if not t.measured and self._gone(t)]
            for trial in waiting:
                self._failed(trial.number, f"{gone}, so nothing can start from there: {reason}")
            if not waiting:
                raise StudyError(f"{gone}, so nothing can be reported of it: {reason}")
            return
        if task.trial == BASE:
            self.record.append(events.Failed(time.time(), BASE, reason, failure.detail))
            raise StudyError(f"the base policy could not be measured on {task.split}: {reason}")
        if task.split == "test":
            raise StudyError(
                f"trial {task.trial} at step {task.until} could not be measured on test: {reason}"
            )
        self._failed(task.trial, reason, failure.detail)

    def _was_measured(self, task: SegmentTask) -> bool:
        """Return True for a task that makes again what is gone, see :meth:`_make_again`."""
        if task.split != "validation":
            return False
        trial = self.run.trials.get(task.trial)
        return self.run.base is not None if trial is None else task.until in trial.measured

    def _failed(self, number: int, reason: str, detail: str = "") -> None:
        failed = events.Failed(time.time(), number, reason, detail)
        self.record.append(failed)
        self._ended(self.run.trials[number])

    def _ended(self, trial: Trial) -> None:
        self.executor.forget(trial.number)
        self.announce.trial_ended(trial)
        self._prune()

    # --- proposals -----------------------------------------------------------------------------

    def _propose(self) -> bool:
        """Make the next trial if it is its turn; False if it is not."""
        number = len(self.run.trials)
        if self.exhausted or number >= self.total or not self._has_turn(number):
            return False
        proposal = proposals.make(
            self.study, self.strategy, self.run, self._visible(number, self.awaited), self.total
        )
        if proposal is None:  # what is not known yet may change that
            self.exhausted = self.awaited >= self._workers - 1
            self.awaited += 1
            return not self.exhausted
        self.awaited = 0
        proposed = events.Proposed(time.time(), number, proposal)
        self.record.append(proposed)
        self.announce.trial_started(self.run.trials[number])
        return True

    def _has_turn(self, number: int) -> bool:
        if self.run.logical:
            seen = self._visible(number, self.awaited)
            return all(self.run.trials[trial].outcome for trial in seen)
        return sum(1 for _ in self.run.live()) < self._workers - self.awaited

    @property
    def _workers(self) -> int:
        """How many trials run at once; in logical order that of the run's beginning, always."""
        return self.run.opened[0].workers if self.run.logical else self.executor.workers

    def _visible(self, number: int, more: int = 0) -> range:
        """Return the trials whose results proposal ``number`` is made from, or a few more."""
        if self.run.logical:
            usual = max(0, number - self._workers + 1, self.known)
            return range(min(number, usual + more))
        return range(number)

    def _prune(self) -> None:
        """Delete policies and training states that nobody will read again."""
        if any(not trial.measured and self._gone(trial) for trial in self.run.live()):
            return  # what is made again on the way to where a trial starts is read again
        visible = self._visible(len(self.run.trials))
        if self.run.logical:
            ended = takewhile(lambda number: self.run.trials[number].outcome, visible)
            visible = range(sum(1 for _ in ended))
        retention.prune(self.run, visible, self.pruned)

    # --- test ----------------------------------------------------------------------------------

    def _test(self) -> None:
        """Measure the front's points and the base policy on test; each of them once."""
        untested = self._untested()
        openings = self.run.test_openings
        if not openings or not set(untested) <= set(openings[-1].points):
            self.record.append(events.OpenedTest(time.time(), tuple(untested)))
        for trial, step in untested:
            self._submit(trial, step, step, "test")
        while self.running:
            self._wait()

    def _untested(self) -> list[tuple[int, int]]:
        points = [(BASE, 0), *((o.trial, o.step) for o in self.front)]
        return [
            point
            for point in dict.fromkeys(points)
            if point not in self.run.tests
            or not self.run.folder.measurements(*point, "test").is_file()
        ]
