"""Runs the cells of a comparison in this process."""

from __future__ import annotations

from pathlib import Path

from benchmarks.comparison import results, work
from benchmarks.comparison.plan import Plan
from benchmarks.comparison.progress import View
from benchmarks.comparison.results import Results
from benchmarks.comparison.train import run_cell
from benchmarks.comparison.work import Desk
from moalign.components import SegmentFunction
from moalign_plugins.executors.local import Local


class Here(Local):
    """Runs any callable; nothing has to import it."""

    name = "here"


def run(desk: Desk, segment: SegmentFunction) -> View:
    """Run the cells that are not done, without a word."""
    view = View(desk.plan, 1)
    view.console.quiet = True
    work.run_cells(desk, Here(), segment, view)
    return view


def train_cells(plan: Plan, folder: Path) -> tuple[Desk, Results]:
    """Train all cells of a plan, their base policies first; none may fail."""
    desk = Desk(plan, folder)
    view = View(plan, 1)
    view.console.quiet = True
    work.build_bases(desk, view)
    assert run(desk, run_cell).failed == 0
    return desk, results.gather(desk, "part")
