"""Runs the cells of a plan that are not done yet, several at a time."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks.weightings import cells
from benchmarks.weightings.budget import tokens
from benchmarks.weightings.cells import Done, Failed
from benchmarks.weightings.plan import BASE, CENTRE, FIXED, Cell, Plan
from benchmarks.weightings.progress import View
from benchmarks.weightings.train import Job
from moalign.components import Executor, SegmentFunction
from moalign.errors import MoalignError
from moalign.search.artifacts import ensure_base
from moalign.search.folders import RunFolder
from moalign.types import SegmentDone, SegmentTask, Start, StepEvent, WorkerEvent

ATTEMPTS: Final = 2
"""A cell whose worker died is run once more."""


class Desk:
    """Knows which cells are done, which wait for a budget, and what a worker is told."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        """Set up.

        Args:
            plan: the cells.
            folder: where their files lie.
        """
        self.plan = plan
        self.folder = folder
        self.budgets: dict[tuple[str, int], int] = {}

    def file(self, cell: Cell) -> Path:
        """Return where a cell's result lies."""
        return self.folder / cell.file

    def run(self, bed: str, seed: int) -> RunFolder:
        """Return the folder of a bed and seed; base policies are shared beside it."""
        return RunFolder(self.folder / f"{bed}-{seed}")

    def budget(self, cell: Cell) -> int | None:
        """Return a cell's budget; None if it has no limit, or none yet."""
        return self.budgets.get((cell.bed, cell.seed)) if cell.needs_budget else None

    def ready(self, cell: Cell) -> bool:
        """Return True if a cell can be run."""
        return not cell.needs_budget or self.budget(cell) is not None

    def key(self, cell: Cell) -> str:
        """Return what a cell's result has to carry to count as done."""
        return self.plan.grounds[cell.bed].key(cell, self.budget(cell))

    def done(self, cell: Cell) -> Done | None:
        """Return a cell's result if it is done and still holds."""
        if not self.ready(cell):
            return None
        found = cells.read(self.file(cell))
        return found if isinstance(found, Done) and found.key == self.key(cell) else None

    def book(self, cell: Cell, done: Done) -> None:
        """Take note of a cell's result: the budget of the others, if it pays for them."""
        if cell.paying:
            self.budgets[cell.bed, cell.seed] = tokens(done.cost)

    def task(self, cell: Cell, number: int, attempt: int) -> SegmentTask:
        """Return what a worker is told.

        Raises:
            MoalignError: the weighting cannot be used on this bed.
        """
        ground = self.plan.grounds[cell.bed]
        job = Job(
            data=ground.study_of(cell).data,
            number=ground.trial(cell),
            steps=0 if cell.entry == BASE else ground.steps,
            budget=self.budget(cell),
            every=ground.every,
            key=self.key(cell),
            file=str(self.file(cell)),
        )
        files = tuple((f.path, f.sha256) for f in ground.study.catalogue.files)
        run = self.run(cell.bed, cell.seed).path
        return SegmentTask(
            run,
            number,
            asdict(job),
            Start(),
            since=0,
            until=ground.steps,
            total=ground.steps,
            split="test",
            attempt=attempt,
            plugins=files,
        )


def build_bases(desk: Desk, view: View) -> None:
    """Build the base policies that are not there yet, each with all threads."""
    for seed in desk.plan.mode.seeds:
        for name, ground in desk.plan.grounds.items():
            run = desk.run(name, seed)
            run.path.mkdir(parents=True, exist_ok=True)
            study = ground.study_of(Cell(name, seed, FIXED, CENTRE))

            def told(share: float, words: str, name: str = name, seed: int = seed) -> None:
                view.base(name, seed, share, words)

            ensure_base(study, run, told)


def run_cells(desk: Desk, executor: Executor, segment: SegmentFunction, view: View) -> None:
    """Run what is not done, and write why what failed did; one failure stops no other cell.

    Args:
        desk: the plan and its folder.
        executor: where cells run.
        segment: :func:`train.run_cell`, or a stand-in.
        view: is told.
    """
    executor.open(segment)
    try:
        _Floor(desk, executor, view).work()
    finally:
        executor.close()


class _Floor:
    """The cells that wait and those that run."""

    def __init__(self, desk: Desk, executor: Executor, view: View) -> None:
        self.desk = desk
        self.executor = executor
        self.view = view
        self.waiting = list(desk.plan.cells())
        self.running: dict[int, tuple[Cell, int]] = {}
        self.number = 0

    def work(self) -> None:
        """Run until every cell has ended."""
        self._leave_out_what_is_done()
        while self.waiting or self.running:
            room = self.executor.workers - len(self.running)
            ready = [cell for cell in self.waiting if self.desk.ready(cell)]
            if not ready and not self.running:
                for cell in self.waiting:
                    self._fails(cell, f"{FIXED} at equal weights failed, so there is no budget")
                return
            for cell in ready[:room]:
                self.waiting.remove(cell)
                self._start(cell, attempt=0)
            if self.running:
                for event in self.executor.wait(0.5):
                    self._hears(event)

    def _leave_out_what_is_done(self) -> None:
        """A budget that is found this way tells whether further cells are done."""
        for cell in list(self.waiting):
            done = self.desk.done(cell)
            if done is not None:
                self.waiting.remove(cell)
                self.desk.book(cell, done)
                self.view.skipped(cell, done)

    def _start(self, cell: Cell, attempt: int) -> None:
        self.number += 1
        try:
            task = self.desk.task(cell, self.number, attempt)
        except MoalignError as error:
            self._fails(cell, str(error))
            return
        self.running[self.number] = (cell, attempt)
        self.executor.submit(task)

    def _hears(self, event: WorkerEvent) -> None:
        cell, attempt = self.running[event.trial]
        if isinstance(event, StepEvent):
            self.view.step(cell, event.step)
            return
        del self.running[event.trial]
        self.executor.forget(event.trial)
        if isinstance(event, SegmentDone):
            self._ends(cell)
        elif event.retry and attempt + 1 < ATTEMPTS:
            self._start(cell, attempt + 1)
        else:
            self._fails(cell, event.reason, event.detail)

    def _ends(self, cell: Cell) -> None:
        done = self.desk.done(cell)
        if done is None:
            self._fails(cell, "it ended well, but its result cannot be read")
            return
        self.desk.book(cell, done)
        self.view.ended(cell, done)
        if cell.paying:
            self._leave_out_what_is_done()

    def _fails(self, cell: Cell, reason: str, detail: str = "") -> None:
        failed = Failed(self.desk.key(cell), reason, detail)
        cells.write(self.desk.file(cell), failed)
        self.view.ended(cell, failed)
