"""``events.jsonl``: the record of a run. One driver appends to it; anybody may read it."""

from __future__ import annotations

import contextlib
import os
from types import TracebackType

import filelock

from moalign.errors import RecordError
from moalign.search import events
from moalign.search.archive import Run
from moalign.search.folders import RunFolder


class Record:
    """A run's record, opened to be written; a lock keeps every other driver out.

    Attributes:
        state: what the record adds up to; always up to date with the file.
    """

    def __init__(self, folder: RunFolder) -> None:
        """Lock the record, drop a torn last line, and read the rest.

        Raises:
            RecordError: another driver holds it, it is damaged, or it cannot be written.
        """
        self.state = Run(folder)
        self._path = folder.events
        self._lock = filelock.FileLock(folder.lock)
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise RecordError(_held(folder)) from None
        except OSError as error:
            raise RecordError(
                f"{folder.path}: nothing can be written there ({error}); choose another folder "
                "with --out"
            ) from error
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            lines = _lines(folder)
            self._size = sum(map(len, lines))
            os.ftruncate(self._descriptor, self._size)
            _replay(self.state, lines)
        except OSError as error:
            self._lock.release()
            raise self._unwritable(error) from error
        except RecordError:
            os.close(self._descriptor)
            self._lock.release()
            raise

    def append(self, event: events.Event) -> None:
        """Write one event to disk, and take into account what will be read back.

        Raises:
            RecordError: it cannot be written, or not be read again; the file is then as it was
                before.
        """
        line = left = events.to_line(event)
        try:
            event = events.from_line(line)
        except ValueError as error:
            raise RecordError(
                f"{self._path}: the event {event.event!r} could not be read back ({error}), so it "
                "is not written; what is in the record stands"
            ) from error
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
            os.fsync(self._descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise self._unwritable(error) from error
        self._size += len(line)
        self.state.apply(event)

    def close(self) -> None:
        """Let go of the record."""
        os.close(self._descriptor)
        self._lock.release()

    def __enter__(self) -> Record:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _unwritable(self, error: OSError) -> RecordError:
        return RecordError(
            f"{self._path}: the record cannot be written ({error}); what is in it stands, and the "
            "same command goes on once there is room and permission"
        )


def read(folder: RunFolder) -> Run:
    """Read a run without locking it; its driver may be at work.

    Raises:
        RecordError: there is no such run, or its record is damaged.
    """
    state = Run(folder)
    try:
        lines = _lines(folder)
    except OSError as error:
        raise RecordError(f"{folder.events}: there is no record to read ({error})") from error
    _replay(state, lines)
    if not state.opened:
        raise RecordError(f"{folder.events}: the record is empty; this run never began")
    return state


def _lines(folder: RunFolder) -> list[bytes]:
    """Return the whole lines; a last one without its end was torn by a crash and never counted."""
    lines = folder.events.read_bytes().splitlines(keepends=True)
    return lines if not lines or lines[-1].endswith(b"\n") else lines[:-1]


def _replay(state: Run, lines: list[bytes]) -> None:
    for number, line in enumerate(lines, start=1):
        try:
            event = events.from_line(line)
            if not state.opened and not isinstance(event, events.Opened):
                raise ValueError("a record begins with the opening of the run")
            state.apply(event)
        except ValueError as error:
            raise RecordError(
                f"{state.folder.events} line {number}: the record is damaged here ({error}); "
                "put a copy of it in its place, or start another run with --run"
            ) from error


def _held(folder: RunFolder) -> str:
    who = "another process"
    with contextlib.suppress(RecordError):
        last = read(folder).opened[-1]
        who = f"process {last.pid} on {last.host}"
    return (
        f"run {folder.name} is being driven by {who}; wait until it ends, or start another run "
        "with --run"
    )
