"""Tasks and segments for executors, by what they are to do."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from moalign import ContractError, RecordError, SegmentTask, Start, StepEvent


def task(trial: int, what: str = "fine", *, until: int = 2, attempt: int = 0) -> SegmentTask:
    return SegmentTask(
        run=Path("run"),
        trial=trial,
        study={"what": what},
        start=Start(),
        since=0,
        until=until,
        total=4,
        attempt=attempt,
        threads=3,
    )


def segment(task, emit, cache):
    """Tell where it runs and what it remembers; then do what the task says."""
    held = cache.setdefault("trials", {})
    known = ("run", task.trial) in held
    held["run", task.trial] = True
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    metrics = {
        "process": os.getpid(),
        "known": float(known),
        "held": len(held),
        "devices": float("nan") if seen is None else len(list(filter(None, seen.split(",")))),
        "device": float("nan") if not seen or "," in seen else float(seen),
        "threads": float(os.environ.get("OMP_NUM_THREADS", "nan")),
    }
    for step in range(task.since + 1, task.until + 1):
        emit(StepEvent(task.trial, step, time.time(), metrics))
    match task.study["what"]:
        case "contract":
            raise ContractError("the weights have the wrong shape")
        case "record":
            raise RecordError("the checkpoint is damaged")
        case "full":
            raise OSError(28, "No space left on device")
        case "missing":
            raise FileNotFoundError(2, "No such file", "x.json")
        case "bug":
            raise KeyError("accuracy")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "interrupt-me":
            os.kill(os.getpid(), signal.SIGINT)
        case "wait":
            time.sleep(0.3)
        case "sleep":
            time.sleep(30)


def lambda_like():
    """Return a function that no worker can import."""

    def inner(task, emit, cache):
        raise AssertionError

    return inner
