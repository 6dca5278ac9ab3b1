"""Runs the cells of a plan that are not done yet, several at a time."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks.comparison import cells
from benchmarks.comparison.budget import tokens
from benchmarks.comparison.cells import Done, Failed
from benchmarks.comparison.plan import BASE, Cell, Plan
from benchmarks.comparison.progress import View
from benchmarks.comparison.train import Job
from moalign.components import Executor, SegmentFunction
from moalign.errors import MoalignError
from moalign.search.artifacts import ensure_base
from moalign.search.folders import RunFolder
from moalign.types import Cost, SegmentDone, SegmentTask, Start, StepEvent, WorkerEvent

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
        self.samples: dict[tuple[str, int], Cost] = {}

    def file(self, cell: Cell) -> Path:
        """Return where a cell's result lies."""
        return self.folder / cell.file

    def run(self, bed: str, seed: int) -> RunFolder:
        """Return the folder of a bed and seed; base policies are shared beside it."""
        return RunFolder(self.folder / f"{bed}-{seed}")

    def budget(self, cell: Cell) -> int | None:
        """Return a cell's budget; None if it has no limit, or none yet."""
        if not self.plan.needs_budget(cell):
            return None
        whole = self.budgets.get((cell.bed, cell.seed))
        share = self.plan.grounds[cell.bed].entry(cell.entry).share
        return None if whole is None else round(share * whole)

    def before(self, cell: Cell) -> Cost | None:
        """Return what a cell is charged before its first step; None if it is not known yet.

        The samples of a bed and seed, divided evenly among an entry's cells.
        """
        ground = self.plan.grounds[cell.bed]
        entry, place = ground.entry(cell.entry), (cell.bed, cell.seed)
        if not entry.samples:
            return Cost()
        if place not in self.samples:
            found = ground.sampled(*place, self.run(*place))
            if found is None:
                return None
            self.samples[place] = found
        parts = self.samples[place].to_json()
        return Cost(**{name: round(spent / len(entry.numbers)) for name, spent in parts.items()})

    def ready(self, cell: Cell) -> bool:
        """Return True if a cell can be run."""
        known = not self.plan.needs_budget(cell) or self.budget(cell) is not None
        return known and self.before(cell) is not None

    def key(self, cell: Cell) -> str:
        """Return what a cell's result has to carry to count as done."""
        ground = self.plan.grounds[cell.bed]
        return ground.key(cell, self.budget(cell), self.before(cell))

    def done(self, cell: Cell) -> Done | None:
        """Return a cell's result if it is done and still holds."""
        if not self.ready(cell):
            return None
        found = cells.read(self.file(cell))
        return found if isinstance(found, Done) and found.key == self.key(cell) else None

    def book(self, cell: Cell, done: Done) -> None:
        """Take note of a cell's result: the budget of the others, if it pays for them."""
        if self.plan.pays(cell):
            self.budgets[cell.bed, cell.seed] = tokens(done.cost)

    def task(self, cell: Cell, number: int, attempt: int) -> SegmentTask:
        """Return what a worker is told.

        Raises:
            MoalignError: what is compared cannot be used on this bed.
        """
        ground = self.plan.grounds[cell.bed]
        study = ground.study_of(cell)
        steps, before = study.section.training.steps, self.before(cell) or Cost()
        job = Job(
            data=study.data,
            number=ground.trial(cell),
            steps=0 if cell.entry == BASE else steps,
            budget=self.budget(cell),
            # As many measurements of a cell with more steps.
            every=ground.every * max(1, steps // ground.steps),
            key=self.key(cell),
            file=str(self.file(cell)),
            early=ground.early,
            before=(before.generated, before.forwarded, before.backwarded),
        )
        files = tuple((f.path, f.sha256) for f in ground.study.catalogue.files)
        run = self.run(cell.bed, cell.seed).path
        return SegmentTask(
            run,
            number,
            asdict(job),
            Start(),
            since=0,
            until=steps,
            total=steps,
            split="test",
            attempt=attempt,
            plugins=files,
        )


def build_bases(desk: Desk, view: View) -> None:
    """Build the base policies and samples that are not there yet, each with all threads."""
    for seed in desk.plan.mode.seeds:
        for name, ground in desk.plan.grounds.items():
            run = desk.run(name, seed)
            run.path.mkdir(parents=True, exist_ok=True)

            def told(share: float, words: str, name: str = name, seed: int = seed) -> None:
                view.base(name, seed, share, words)

            for cell in ground.foundations(name, seed):
                ensure_base(ground.study_of(cell), run, told)


def run_cells(desk: Desk, executor: Executor, segment: SegmentFunction, view: View) -> None:
    """Run what is not done, and write why what failed did; one failure stops no other cell.

    Args:
        desk: the plan and its folder; ``benchmarks/search`` has one of its own.
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
                    payer = self.desk.plan.grounds[cell.bed].payer
                    self._fails(cell, f"{payer} at equal weights failed, so there is no budget")
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
        if self.desk.plan.pays(cell):
            self._leave_out_what_is_done()

    def _fails(self, cell: Cell, reason: str, detail: str = "") -> None:
        failed = Failed(self.desk.key(cell), reason, detail)
        cells.write(self.desk.file(cell), failed)
        self.view.ended(cell, failed)
