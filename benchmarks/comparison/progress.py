"""How far the benchmark is: a bar on a terminal, a line per cell elsewhere."""

from __future__ import annotations

import time
from datetime import timedelta
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from benchmarks.comparison.cells import Done, Failed
from benchmarks.comparison.plan import Cell, Plan


class View:
    """Says what runs, what ended and how long the rest takes.

    What it says of a cell is in methods of its own, for cells of another kind.
    """

    def __init__(self, plan: Plan, workers: int) -> None:
        """Set up.

        Args:
            plan: all cells, those that are done already included.
            workers: how many run at once.
        """
        self.plan = plan
        self.workers = workers
        self.console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self.seconds: dict[str, list[float]] = {}
        self.waiting = list(plan.cells())
        self.total = len(self.waiting)
        self.failed = 0
        self._running: dict[Cell, int] = {}
        self._began = time.monotonic()
        self._told = False
        self._building = ""
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> View:
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("cells"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[left]}"),
                TextColumn("{task.description}"),
                console=self.console,
                transient=True,
            )
            self._task = self._progress.add_task("", total=self.total, left="")
            self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text)

    def skipped(self, cell: Cell, done: Done) -> None:
        """Count a cell that an earlier command has done."""
        self._ends(cell, done)

    def base(self, name: str, seed: int, share: float, words: str) -> None:
        """Show how far a base policy is built."""
        text = f"base policy of {name}, seed {seed}"
        if self._progress is not None:
            self._progress.update(self._task, description=f"{text}: {share:.0%} {words}")
        elif text != self._building and share < 1.0:
            self._building = text
            self.say(f"building the {text}")

    def step(self, cell: Cell, step: int) -> None:
        """Show a step of a running cell."""
        self._running[cell] = step
        self._draw()

    def ended(self, cell: Cell, result: Done | Failed) -> None:
        """Say how a cell ended."""
        self._ends(cell, result)
        if isinstance(result, Failed):
            self.failed += 1
            self.say(f"{cell}: failed: {result.reason}")
        elif self._progress is None:
            self.say(f"{cell}: {self.took(result)}{self._left_words()}")
        if not self._told and self.plan.pays(cell) and isinstance(result, Done):
            self._told = True
            self.say(f"{len(self.waiting)} cells to go{self._left_words()}; Ctrl-C stops, and the "
                     "same command goes on")  # fmt: skip

    def left(self) -> float | None:
        """Return the seconds left, going by cells that are alike; None: unknown."""
        if not self.seconds:
            return None
        typical = {kind: median(seconds) for kind, seconds in self.seconds.items()}
        usual = max(typical.values())
        return sum(typical.get(self.alike(c), usual) for c in self.waiting) / self.workers

    def _left_words(self) -> str:
        left = self.left()
        return "" if left is None else f", about {timedelta(seconds=round(left))} left"

    def _ends(self, cell: Cell, result: Done | Failed) -> None:
        self._running.pop(cell, None)
        self.waiting.remove(cell)
        if not isinstance(result, Failed) and self.lasts(result):
            self.seconds.setdefault(self.alike(cell), []).append(result.wall)
        self._draw()

    def _draw(self) -> None:
        if self._progress is None:
            return
        running = ", ".join(f"{self.brief(c)} step {step}" for c, step in self._running.items())
        self._progress.update(
            self._task,
            completed=self.total - len(self.waiting),
            description=running,
            left=self._left_words().removeprefix(", "),
        )

    # --- of a cell -----------------------------------------------------------------------------

    def alike(self, cell: Cell) -> str:
        """Return what cells that take equally long share: their bed, whose budget they have."""
        return cell.bed

    def lasts(self, result: Done) -> bool:
        """Return whether a cell took what others will take: the base policy's did not."""
        return result.steps > 0

    def took(self, result: Done) -> str:
        """Return what a cell took."""
        return f"{result.steps} steps, {result.wall:.0f} s"

    def brief(self, cell: Cell) -> str:
        """Return which cell runs, in few words."""
        return f"{cell.entry} {cell.number} ({cell.bed} {cell.seed})"
