"""What every executor does with a task, wherever it runs: run it and say how it ended."""

from __future__ import annotations

import errno
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from moalign.components import SegmentFunction
from moalign.errors import MoalignError, PluginError, RecordError, StudyError
from moalign.types import SegmentDone, SegmentFailed, SegmentTask, StepEvent

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
        return _failed(task, reason if fatal else _name(error), fatal, traceback.format_exc())
    except Exception as error:
        return _failed(task, _name(error), detail=traceback.format_exc())
    return SegmentDone(task.trial, task.until, task.split, time.monotonic() - began)


def forget(cache: dict[str, Any], trial: int) -> None:
    """Let go of what a worker's memory holds of a trial."""
    held = cache.get("trials", {})
    for key in [key for key in held if key[-1] == trial]:
        del held[key]


def _name(error: Exception) -> str:
    """Return what was raised, and where: torch's own lines say nothing about whose mistake it is.

    Innermost first, so that it is the plugin's line if a plugin raised.
    """
    lines = list(traceback.walk_tb(error.__traceback__))[1:]  # the first is run_task itself
    of_torch = [str(f.f_globals.get("__name__")).partition(".")[0] == "torch" for f, _ in lines]
    others = [line for line, torch in zip(lines, of_torch, strict=True) if not torch]
    place = ""
    if others:
        frame, number = others[-1]
        place = f" ({Path(frame.f_code.co_filename).name} line {number})"
    return f"{type(error).__name__}: {error}{place}"


def _failed(task: SegmentTask, reason: str, fatal: bool = False, detail: str = "") -> SegmentFailed:
    return SegmentFailed(task.trial, task.until, task.split, reason, False, fatal, detail)
