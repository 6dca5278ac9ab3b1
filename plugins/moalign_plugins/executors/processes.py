"""Worker processes on this machine. They outlive no driver, and the driver outlives them."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Annotated, Any, ClassVar, Final

from annotated_types import Ge

from moalign.components import Executor, SegmentFunction
from moalign.execution import forget, run_task
from moalign.types import SegmentFailed, SegmentTask, WorkerEvent

POLL: Final = 0.5  # seconds between two looks of a worker at its driver
PATIENCE: Final = 5.0  # seconds a worker gets to end when it is told to

_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# A plain interpreter, not multiprocessing's: it does not run the driver's main module again, and
# its environment is set before anything is imported.
_BOOT: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    f"from {__name__} import serve; serve(*sys.argv[2:])"
)


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]
    task: SegmentTask | None = None
    trials: set[int] = field(default_factory=set)


class Processes(Executor):
    """Runs segments in worker processes on this machine, each with its own memory of its trials.

    A worker keeps a trial between segments, and a trial's next segment goes to the worker that
    holds it if that worker is free; any other goes on from the checkpoint. A worker that dies is
    reported, replaced, and its segment may be tried again. Workers ignore Ctrl-C (the driver ends
    them) and end by themselves within two seconds if the driver is gone.

    ``training.threads`` sets the threads of each worker. With several workers and one accelerator
    they share it: take as many workers as fit into its memory.

    Example:
        ``executor: {processes: {workers: 4}}``
    """

    name: ClassVar[str] = "processes"

    def __init__(self, *, workers: Annotated[int, Ge(1)] | None = None) -> None:
        """Take the number of workers.

        Args:
            workers: how many processes; default: one per core this process may use.
        """
        self.workers = workers or _cores()
        self._segment = ""
        self._workers: list[_Worker] = []
        self._queue: list[SegmentTask] = []

    def open(self, segment: SegmentFunction) -> None:
        """Remember where the function can be imported from; workers start when there is work."""
        self._segment = f"{segment.__module__}:{segment.__qualname__}"
        found = _import(self._segment) if "<" not in self._segment else None
        if found is not segment:
            raise TypeError(f"{segment!r} is no module-level function, so no worker can import it")

    def submit(self, task: SegmentTask) -> None:
        """Queue a segment, or hand it to a free worker."""
        self._queue.append(task)
        self._dispatch()

    def wait(self, seconds: float) -> list[WorkerEvent]:
        """Return what the workers said, or that one of them died."""
        by_connection: dict[Any, _Worker] = {w.connection: w for w in self._workers}
        events: list[WorkerEvent] = []
        for connection in wait(list(by_connection), seconds) if by_connection else ():
            events += self._heard(by_connection[connection])
        self._dispatch()
        return events

    def forget(self, trial: int) -> None:
        """Tell the workers that hold a trial to let go of it."""
        for worker in self._workers:
            if trial in worker.trials:
                worker.trials.discard(trial)
                self._send(worker, trial)

    def close(self) -> None:
        """End all workers, busy ones too, and wait until they are gone."""
        workers, self._workers, self._queue = self._workers, [], []
        for worker in workers:
            worker.connection.close()  # an idle worker ends by itself
            if worker.task is not None:
                worker.process.terminate()
        deadline = time.monotonic() + PATIENCE
        for worker in workers:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()

    def _dispatch(self) -> None:
        """Hand queued tasks to free workers, in their order."""
        for task in list(self._queue):
            worker = self._worker_for(task)
            if worker is None:
                return
            self._queue.remove(task)
            worker.task = task
            worker.trials.add(task.trial)
            self._send(worker, task)

    def _worker_for(self, task: SegmentTask) -> _Worker | None:
        free = [worker for worker in self._workers if worker.task is None]
        holding = [worker for worker in free if task.trial in worker.trials]
        room = len(self._workers) < self.workers
        if holding or (free and not room) or any(not worker.trials for worker in free):
            return min(holding or free, key=lambda worker: len(worker.trials))
        if not room:
            return None
        worker = _start(self._segment, task.threads)
        self._workers.append(worker)
        return worker

    def _send(self, worker: _Worker, message: SegmentTask | int) -> None:
        # A worker that has just died is noticed, with its task, when it is next listened to.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.connection.send(message)

    def _heard(self, worker: _Worker) -> list[WorkerEvent]:
        events: list[WorkerEvent] = []
        try:
            while worker.connection.poll():
                ended, event = worker.connection.recv()
                events.append(event)
                if ended:
                    worker.task = None
        except (EOFError, ConnectionResetError):
            events += self._lost(worker)
        return events

    def _lost(self, worker: _Worker) -> list[WorkerEvent]:
        self._workers.remove(worker)
        worker.connection.close()
        code = worker.process.wait()
        if worker.task is None:
            return []
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        reason = f"the worker process {worker.process.pid} {how}"
        task = worker.task
        return [SegmentFailed(task.trial, task.until, task.split, reason, retry=True)]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start(segment: str, threads: int) -> _Worker:
    ours, theirs = Pipe()
    descriptor = theirs.fileno()
    arguments = [json.dumps(sys.path), str(descriptor), str(os.getpid()), segment]
    process = subprocess.Popen(
        [sys.executable, "-c", _BOOT, *arguments],
        pass_fds=[descriptor],
        env=_environment(os.environ, threads),
        process_group=0,  # the terminal's Ctrl-C does not reach it
    )
    theirs.close()  # the worker holds the only other end: when it dies, the pipe ends
    return _Worker(process, ours)


def _environment(given: Mapping[str, str], threads: int) -> dict[str, str]:
    return {**given, **dict.fromkeys(_THREADS, str(threads))}


def _import(segment: str) -> SegmentFunction:
    module, _, name = segment.partition(":")
    return getattr(importlib.import_module(module), name, None)


# --- in the worker -----------------------------------------------------------------------------


def serve(descriptor: str, driver: str, segment: str) -> None:
    """Be a worker: run tasks until the driver closes the connection or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(int(driver),), daemon=True).start()
    connection: Connection[Any, Any] = Connection(int(descriptor))
    function, cache = _import(segment), dict[str, Any]()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            message = connection.recv()
            if isinstance(message, SegmentTask):
                ended = run_task(function, message, lambda e: connection.send((False, e)), cache)
                connection.send((True, ended))
            else:
                forget(cache, message)


def _end_with(driver: int) -> None:
    while os.getppid() == driver:
        time.sleep(POLL)
    os._exit(1)
