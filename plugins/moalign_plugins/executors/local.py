"""The executor that has no processes: segments run one after the other, in the driver."""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar

from moalign.components import Executor, SegmentFunction
from moalign.execution import forget, run_task
from moalign.types import SegmentTask, WorkerEvent


class Local(Executor):
    """Runs segments in this process, one after the other.

    A segment runs while the driver waits, and its events arrive together when it ends. For
    debugging (a breakpoint in a reward works), for a single accelerator, and where starting
    processes is not allowed.

    Example:
        ``executor: local``
    """

    name: ClassVar[str] = "local"

    def __init__(self) -> None:
        """Take no options."""
        self.workers = 1
        self._segment: SegmentFunction = None
        self._queue: deque[SegmentTask] = deque()
        self._cache: dict[str, Any] = {}

    def open(self, segment: SegmentFunction) -> None:
        """Remember the function."""
        self._segment = segment

    def submit(self, task: SegmentTask) -> None:
        """Queue a segment."""
        self._queue.append(task)

    def wait(self, seconds: float) -> list[WorkerEvent]:
        """Run the next segment, however long it takes, and return its events."""
        if not self._queue:
            return []
        task, events = self._queue.popleft(), list[WorkerEvent]()
        ended = run_task(self._segment, task, events.append, self._cache)
        return [*events, ended]

    def forget(self, trial: int) -> None:
        """Let go of a trial."""
        forget(self._cache, trial)

    def close(self) -> None:
        """Drop what is queued and held."""
        self._queue.clear()
        self._cache.clear()
