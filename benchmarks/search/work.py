"""Which cells are done, and how a worker runs one."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.comparison.progress import View
from benchmarks.search import cells
from benchmarks.search.cells import Cell, Done
from benchmarks.search.part import Part, Planned, Room
from benchmarks.search.parts import PARTS
from moalign.types import SegmentTask, Start, StepEvent

RULE: Final = 1
"""Goes up when the way cells are run changes: they are run again then."""


@dataclass(frozen=True)
class Plan:
    """All cells of a mode, in the order in which they are run."""

    mode: str
    planned: Sequence[Planned]

    def cells(self) -> Iterator[Cell]:
        """Yield the cells."""
        return (planned.cell for planned in self.planned)

    def pays(self, cell: Cell) -> bool:
        """Return False: no cell here waits for another."""
        del cell
        return False


class Desk:
    """Knows which cells are done and what a worker is told: all that ``run_cells`` asks of one.

    See :func:`benchmarks.comparison.work.run_cells`.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        """Set up.

        Args:
            plan: the cells.
            folder: where their files lie.
        """
        self.plan = plan
        self.folder = folder
        self._planned = {planned.cell: planned for planned in plan.planned}

    def file(self, cell: Cell) -> Path:
        """Return where a cell's result lies."""
        return self.folder / cell.file

    def ready(self, cell: Cell) -> bool:
        """Return True: no cell here waits for another."""
        del cell
        return True

    def key(self, cell: Cell) -> str:
        """Return what a cell's result has to carry to count as done."""
        asked = [RULE, str(cell), self._planned[cell].settings]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]

    def done(self, cell: Cell) -> Done | None:
        """Return a cell's result if it is done and still holds."""
        found = cells.read(self.file(cell))
        return found if found is not None and found.key == self.key(cell) else None

    def book(self, cell: Cell, done: Done) -> None:
        """Take note of nothing."""

    def task(self, cell: Cell, number: int, attempt: int) -> SegmentTask:
        """Return what a worker is told."""
        job = {
            "cell": [cell.part, cell.bed, cell.entry, cell.seed],
            "settings": self._planned[cell].settings,
            "key": self.key(cell),
            "file": str(self.file(cell)),
            "room": str(self.folder / cell.folder),
        }
        return SegmentTask(
            self.folder, number, job, Start(), since=0, until=1, total=1, attempt=attempt
        )


def run_cell(task: SegmentTask, emit: Callable[[StepEvent], None], cache: dict[str, Any]) -> None:
    """Run a cell and write its file. It has the form of a segment, so that executors run it."""
    job = task.study
    cell, room = Cell(*job["cell"]), Path(job["room"])
    room.mkdir(parents=True, exist_ok=True)

    def told(steps: int) -> None:
        emit(StepEvent(task.trial, steps, time.time(), {}))

    began = time.monotonic()
    data = part_of(cell.part).run(Planned(cell, job["settings"]), Room(room, cache, told))
    cells.write(Path(job["file"]), Done(job["key"], time.monotonic() - began, data))
    shutil.rmtree(room, ignore_errors=True)


def part_of(name: str) -> Part:
    """Return a part by its name."""
    return next(part for part in PARTS if part.name == name)


class Watch(View):
    """Says what runs and how long the rest takes; an entry takes as long again on the same bed."""

    def alike(self, cell: Cell) -> str:
        """Return what cells have in common that take equally long."""
        return f"{cell.part}/{cell.bed}/{cell.entry}"

    def lasts(self, result: Done) -> bool:
        """Return True: every cell took what others will take."""
        del result
        return True

    def took(self, result: Done) -> str:
        """Return what a cell took."""
        return f"{result.wall:.1f} s"

    def brief(self, cell: Cell) -> str:
        """Return which cell runs, in few words."""
        return f"{cell.entry} ({cell.bed} {cell.seed})"
