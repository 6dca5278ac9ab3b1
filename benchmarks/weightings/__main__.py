"""The command line: plan, run, report. See the package for what it compares."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks import table, weightings
from benchmarks.weightings import picture, plan, report, results, work
from benchmarks.weightings.plan import BEDS, MODES, Plan
from benchmarks.weightings.progress import View
from benchmarks.weightings.results import Results
from benchmarks.weightings.two_families import WANTS
from moalign.errors import MoalignError
from moalign_plugins.executors.processes import Processes

OUT = Path("runs") / "benchmarks" / "weightings"


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.weightings",
        description=weightings.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--quick", dest="mode", action="store_const", const="quick")
    modes.add_argument("--full", dest="mode", action="store_const", const="full")
    parser.add_argument("--plan", action="store_true", help="list the cells and train nothing")
    parser.add_argument(
        "--report",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="write the report again: of the cells that are done, or from documents of results, "
        "several of which (one per test bed) become one",
    )
    parser.add_argument("--workers", type=int, help="processes; default: one per core")
    parser.add_argument("--out", type=Path, default=OUT, help="where cells lie")
    parser.add_argument("--results", type=Path, default=table.RESULTS, help="where reports go")
    part = parser.add_argument_group("a part of the comparison, or a smaller one")
    part.add_argument("--bed", action="append", choices=list(BEDS), help="may be repeated")
    part.add_argument("--only", action="append", metavar="WEIGHTING", help="may be repeated")
    part.add_argument("--seeds", type=int, nargs="+")
    part.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    return parser.parse_args(given)


def planned(args: argparse.Namespace) -> tuple[Plan, str]:
    """Return the plan and the name of its report."""
    mode = MODES[args.mode or "quick"]
    mode = replace(
        mode,
        beds=tuple(args.bed) if args.bed else mode.beds,
        seeds=tuple(args.seeds) if args.seeds else mode.seeds,
    )
    if args.only or args.seeds or args.set:
        name = "part"
    else:
        name = "-".join(args.bed) if args.bed else mode.name
    return plan.build(mode, args.set, args.only or ()), name


def publish(found: Results, folder: Path) -> Path:
    """Write the document, and from it the report and its pictures; return the report's path."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{found.date}-weightings-{found.mode}"
    document = results.to_text(found)
    (folder / f"{stem}.json").write_text(document, encoding="utf-8")
    found = results.from_text(document)  # so that --report gives the same page
    pictures = {}
    for arena in found.arenas:
        families = any(cell.groups for cell in found.trained if cell.bed == arena.name)
        drawn = (
            picture.draw_families(found, arena, WANTS) if families else picture.draw(found, arena)
        )
        if drawn is not None:
            end = "" if arena.name == found.mode else f"-{arena.name}"
            pictures[arena.name] = f"{stem}{end}.png"
            (folder / pictures[arena.name]).write_bytes(drawn)
    page = folder / f"{stem}.md"
    page.write_text(report.write(found, pictures), encoding="utf-8")
    return page


def main(given: list[str] | None = None) -> int:
    """Run what is asked for; return the exit status."""
    args = arguments(given)
    if args.report:
        print(publish(results.merged([results.read(file) for file in args.report]), args.results))
        return 0
    whole, name = planned(args)
    desk = work.Desk(whole, args.out)
    executor = Processes(workers=args.workers)
    view = View(whole, executor.workers)
    if args.plan:
        for cell in whole.cells():
            print(cell)
        return 0
    if args.report is None:
        view.say(f"{view.total} cells, {executor.workers} at a time; how long one takes is known "
                 "after the first")  # fmt: skip
        try:
            with view:
                work.build_bases(desk, view)
                from benchmarks.weightings.train import run_cell

                work.run_cells(desk, executor, run_cell, view)
        except KeyboardInterrupt:
            view.say("stopped; the same command goes on")
            return 130
    print(publish(results.gather(desk, name), args.results))
    return 1 if view.failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MoalignError as error:
        sys.exit(str(error))
