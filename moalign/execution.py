"""What executors share: how a task is run and how it ended, and which worker does what.

An executor with workers of its own is a subclass of :class:`WorkersExecutor`.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import math
import os
import time
import traceback
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from moalign.components import Executor, SegmentFunction
from moalign.errors import MoalignError, PluginError, RecordError, StudyError
from moalign.types import SegmentDone, SegmentFailed, SegmentTask, StepEvent, WorkerEvent

FATAL: Final = (RecordError, PluginError, StudyError)
"""Errors that are not one trial's own: the next trial would meet them too."""

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def run_task(
    segment: SegmentFunction,
    task: SegmentTask,
    emit: Callable[[StepEvent], None],
    cache: dict[str, Any],
) -> SegmentDone | SegmentFailed:
    """Run a segment and return how it ended; only interrupts and exits pass through.

    Args:
        segment: the function to run.
        task: what to do.
        emit: called once per training step.
        cache: the worker's memory.
    """
    began = time.monotonic()
    try:
        segment(task, emit, cache)
    except MoalignError as error:
        return _failed(task, str(error), fatal=isinstance(error, FATAL))
    except OSError as error:
        fatal = error.errno in _NO_ROOM
        reason = f"nothing can be written: {error}; make room and run the same command again"
        return _failed(task, reason if fatal else told(error), fatal, traceback.format_exc())
    except Exception as error:
        return _failed(task, told(error), detail=traceback.format_exc())
    return SegmentDone(task.trial, task.until, task.split, time.monotonic() - began)


def forget(cache: dict[str, Any], trial: int) -> None:
    """Let go of what a worker's memory holds of a trial."""
    held = cache.get("trials", {})
    for key in [key for key in held if key[-1] == trial]:
        del held[key]


def told(error: Exception) -> str:
    """Return what was raised, and where: torch's own lines say nothing about whose mistake it is.

    Innermost first, so that it is the plugin's line if a plugin raised.
    """
    lines = list(traceback.walk_tb(error.__traceback__))[1:]  # the first is the caller's own
    of_torch = [str(f.f_globals.get("__name__")).partition(".")[0] == "torch" for f, _ in lines]
    others = [line for line, torch in zip(lines, of_torch, strict=True) if not torch]
    place = ""
    if others:
        frame, number = others[-1]
        place = f" ({Path(frame.f_code.co_filename).name} line {number})"
    return printable(f"{type(error).__name__}: {error}{place}")


def printable(text: str) -> str:
    """Return a text that can be written as UTF-8: half a character becomes its code."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _failed(task: SegmentTask, reason: str, fatal: bool = False, detail: str = "") -> SegmentFailed:
    return SegmentFailed(task.trial, task.until, task.split, reason, False, fatal, detail)


def lost(task: SegmentTask, reason: str) -> SegmentFailed:
    """Return that a task's worker is gone; the same work may succeed with another one."""
    return SegmentFailed(task.trial, task.until, task.split, reason, retry=True)


# --- functions that other processes import -------------------------------------------------------


def name_of(segment: SegmentFunction) -> str:
    """Return where other processes find a function, as ``module:name``.

    Raises:
        TypeError: nowhere, because it is no function of a module.
    """
    name = f"{segment.__module__}:{segment.__qualname__}"
    if "<" in name or function_at(name) is not segment:
        raise TypeError(f"{segment!r} is no module-level function, so no worker can import it")
    return name


def function_at(name: str) -> SegmentFunction:
    """Import the function that :func:`name_of` named; None if the module has none of that name."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute, None)


# --- plugin files, for machines that may not have them --------------------------------------------


def shipped(task: SegmentTask) -> dict[Path, bytes]:
    """Return what a task's plugin files hold, by path; one that is gone is left out."""
    files = [path for path, _ in task.plugins if path.is_file()]
    return {path: path.read_bytes() for path in files}


def unpacked(task: SegmentTask, files: Mapping[Path, bytes], folder: Path) -> SegmentTask:
    """Return a task whose plugin files stand on this machine.

    A file that is here as the study began with it is taken; else what was shipped is written.

    Args:
        task: as the driver gave it.
        files: what :func:`shipped` returned.
        folder: where to write; files of equal contents get equal paths.
    """
    plugins = []
    for path, digest in task.plugins:
        here = path
        if path in files and not (path.is_file() and _digest(path.read_bytes()) == digest):
            here = folder / _digest(files[path])[:16] / path.name
            if not here.is_file():
                here.parent.mkdir(parents=True, exist_ok=True)
                beside = here.with_name(f".{here.name}.{os.getpid()}")
                beside.write_bytes(files[path])
                beside.replace(here)
        plugins.append((here, digest))
    return replace(task, plugins=tuple(plugins))


def _digest(contents: bytes) -> str:
    return hashlib.sha256(contents).hexdigest()


# --- which worker does what ----------------------------------------------------------------------


@dataclass(eq=False, kw_only=True)
class Worker:
    """What an executor knows of a worker; a subclass adds how to reach it.

    Attributes:
        ready: it can be handed a segment.
        task: the segment that it has, or None.
        trials: those it may hold in memory.
        deadline: when its segment's time is up, by :func:`time.monotonic`.
    """

    ready: bool = True
    task: SegmentTask | None = None
    trials: set[int] = field(default_factory=set)
    deadline: float = math.inf


W = TypeVar("W", bound=Worker)


class WorkersExecutor(Executor, Generic[W]):
    """An executor with workers that keep trials in memory; a subclass says how they are reached.

    A trial's next segment goes to the worker that holds it if that worker is free; any other goes
    on from the checkpoint. Workers start when there is work. One whose segment takes longer than
    ``timeout`` minutes is killed, and the segment may be tried again.
    """

    def __init__(self, *, workers: int, timeout: float | None) -> None:
        """Take how many workers there are at most, and the minutes a segment may take."""
        self.workers = workers
        self.timeout = timeout
        self._segment = ""
        self._workers: list[W] = []
        self._queue: list[SegmentTask] = []

    @abstractmethod
    def _start(self, task: SegmentTask) -> W:
        """Start a worker for a task; it is handed one as soon as it is ready."""

    @abstractmethod
    def _send(self, worker: W, message: SegmentTask | int) -> None:
        """Hand a worker a task, or the number of a trial to let go of; never waits."""

    @abstractmethod
    def _listen(self, seconds: float) -> list[WorkerEvent]:
        """Return what the workers say within some seconds, or that one is gone."""

    @abstractmethod
    def _kill(self, worker: W) -> None:
        """End a worker, whatever it does."""

    def open(self, segment: SegmentFunction) -> None:
        """Remember where the function can be imported from."""
        self._segment = name_of(segment)

    def submit(self, task: SegmentTask) -> None:
        """Queue a segment, or hand it to a free worker."""
        self._queue.append(task)
        self._dispatch()

    def wait(self, seconds: float) -> list[WorkerEvent]:
        """Return what the workers said, that one of them is gone, or that its time was up."""
        first = min((worker.deadline for worker in self._workers), default=math.inf)
        events = self._listen(max(0.0, min(seconds, first - time.monotonic())))
        events += self._overdue()
        self._dispatch()
        return events

    def forget(self, trial: int) -> None:
        """Tell the workers that hold a trial to let go of it."""
        for worker in self._workers:
            if trial in worker.trials:
                worker.trials.discard(trial)
                self._send(worker, trial)

    def _dispatch(self) -> None:
        """Hand queued tasks to free workers, in their order, and start workers for the others."""
        coming = sum(not worker.ready for worker in self._workers)
        for task in list(self._queue):
            worker = self._free(task)
            away = worker is None or (worker.trials and task.trial not in worker.trials)
            if away and not coming and len(self._workers) < self.workers:
                worker = self._start(task)
                self._workers.append(worker)
                if not worker.ready:
                    continue
            elif worker is None:
                coming = max(0, coming - 1)  # it will take this task
                continue
            assert worker is not None
            self._queue.remove(task)
            worker.task = task
            worker.trials.add(task.trial)
            self._began(worker)
            self._send(worker, task)

    def _free(self, task: SegmentTask) -> W | None:
        free = [worker for worker in self._workers if worker.ready and worker.task is None]
        holding = [worker for worker in free if task.trial in worker.trials]
        return min(holding or free, key=lambda worker: len(worker.trials), default=None)

    def _began(self, worker: W) -> None:
        """Start the clock of a worker's segment."""
        worker.deadline = time.monotonic() + 60 * (self.timeout or math.inf)

    def _ended(self, worker: W) -> None:
        """Take note that a worker's segment has ended."""
        worker.task, worker.deadline = None, math.inf

    def _gone(self, worker: W, reason: str) -> list[WorkerEvent]:
        """Strike a worker off, and say so if it had a task."""
        self._workers.remove(worker)
        return [] if worker.task is None else [lost(worker.task, reason)]

    def _overdue(self) -> list[WorkerEvent]:
        events: list[WorkerEvent] = []
        now = time.monotonic()
        for worker in [worker for worker in self._workers if worker.deadline <= now]:
            reason = f"the segment did not end within {self.timeout:g} minutes"
            events += self._gone(worker, reason)
            self._kill(worker)
        return events
