"""Worker processes on this machine. They outlive no driver, and the driver outlives them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

from annotated_types import Ge, Gt

from moalign.execution import Worker, WorkersExecutor, forget, function_at, run_task
from moalign.types import SegmentTask, WorkerEvent

POLL: Final = 0.5  # seconds between two looks of a worker at its driver
PATIENCE: Final = 5.0  # seconds a worker gets to end when it is told to

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"  # read by PyTorch on AMD's GPUs, too
_DRIVERS: Final = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # one of these, or there is no GPU

_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# A plain interpreter, not multiprocessing's: it does not run the driver's main module again, and
# its environment is set before anything is imported.
_BOOT: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    f"from {__name__} import serve; serve(*sys.argv[2:])"
)


@dataclass(eq=False, kw_only=True)
class _Worker(Worker):
    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]
    gpu: str | None


class Processes(WorkersExecutor[_Worker]):
    """Runs segments in worker processes on this machine, each with its own memory of its trials.

    A worker keeps a trial between segments, and a trial's next segment goes to the worker that
    holds it if that worker is free; any other goes on from the checkpoint. A worker that dies, or
    hangs longer than ``timeout`` allows, is reported and replaced, and its segment may be tried
    again. Workers ignore Ctrl-C (the driver ends them) and end by themselves within two seconds if
    the driver is gone.

    With several GPUs each worker has one of them, the one that fewest others have; more workers
    than GPUs share them, and have to fit into their memory. ``CUDA_VISIBLE_DEVICES`` says which
    are used. ``training.threads`` sets the threads of each worker.

    Example:
        ``executor: {processes: {workers: 4}}``
    """

    name: ClassVar[str] = "processes"

    def __init__(
        self,
        *,
        workers: Annotated[int, Ge(1)] | None = None,
        timeout: Annotated[float, Gt(0)] | None = None,
    ) -> None:
        """Take the number of workers and how long a segment may take.

        Args:
            workers: how many processes; default: one per GPU, without one per core that this
                process may use.
            timeout: minutes that a segment may take; then its worker is killed. Default: any.
        """
        self._gpus = _gpus()
        super().__init__(workers=workers or len(self._gpus) or _cores(), timeout=timeout)

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

    def _start(self, task: SegmentTask) -> _Worker:
        return _start(self._segment, task.threads, self._free_gpu())

    def _free_gpu(self) -> str | None:
        """Return the GPU that fewest workers have; None if there is no choice."""
        if len(self._gpus) < 2:
            return None
        held = Counter(worker.gpu for worker in self._workers)
        return min(self._gpus, key=lambda gpu: held[gpu])

    def _send(self, worker: _Worker, message: SegmentTask | int) -> None:
        # A worker that has just died is noticed, with its task, when it is next listened to.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.connection.send(message)

    def _listen(self, seconds: float) -> list[WorkerEvent]:
        by_connection: dict[Any, _Worker] = {w.connection: w for w in self._workers}
        events: list[WorkerEvent] = []
        for connection in wait(list(by_connection), seconds) if by_connection else ():
            events += self._heard(by_connection[connection])
        return events

    def _heard(self, worker: _Worker) -> list[WorkerEvent]:
        events: list[WorkerEvent] = []
        try:
            while worker.connection.poll():
                ended, event = worker.connection.recv()
                events.append(event)
                if ended:
                    self._ended(worker)
        except (EOFError, ConnectionResetError):
            worker.connection.close()
            code, pid = worker.process.wait(), worker.process.pid
            signalled = f"was killed by {signal.Signals(-code).name}" if code < 0 else ""
            how = signalled or f"ended with {code}"
            events += self._gone(worker, f"the worker process {pid} {how}")
        return events

    def _kill(self, worker: _Worker) -> None:
        worker.connection.close()
        worker.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that waits for a dead disk
            worker.process.wait(PATIENCE)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpus() -> list[str]:
    """Return the GPUs that this process may use, by the names that :data:`VISIBLE` takes."""
    if not any(Path(driver).exists() for driver in _DRIVERS):
        return []  # without importing torch
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get(VISIBLE)
    every = map(str, range(count)) if named is None else (part.strip() for part in named.split(","))
    return list(every)[:count]


def _start(segment: str, threads: int, gpu: str | None) -> _Worker:
    ours, theirs = Pipe()
    descriptor = theirs.fileno()
    arguments = [json.dumps(sys.path), str(descriptor), str(os.getpid()), segment]
    process = subprocess.Popen(
        [sys.executable, "-c", _BOOT, *arguments],
        pass_fds=[descriptor],
        env=_environment(os.environ, threads, gpu),
        process_group=0,  # the terminal's Ctrl-C does not reach it
    )
    theirs.close()  # the worker holds the only other end: when it dies, the pipe ends
    return _Worker(process=process, connection=ours, gpu=gpu)


def _environment(given: Mapping[str, str], threads: int, gpu: str | None) -> dict[str, str]:
    own = {} if gpu is None else {VISIBLE: gpu}
    return {**given, **dict.fromkeys(_THREADS, str(threads)), **own}


# --- in the worker -----------------------------------------------------------------------------


def serve(descriptor: str, driver: str, segment: str) -> None:
    """Be a worker: run tasks until the driver closes the connection or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(int(driver),), daemon=True).start()
    connection: Connection[Any, Any] = Connection(int(descriptor))
    function, cache = function_at(segment), dict[str, Any]()
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
