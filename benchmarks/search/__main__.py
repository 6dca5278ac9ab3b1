"""The command line. See the package for what it measures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import search, table
from benchmarks.comparison.work import run_cells
from benchmarks.search import report, results
from benchmarks.search.part import MODES, Planned
from benchmarks.search.parts import PARTS
from benchmarks.search.results import Results
from benchmarks.search.work import Desk, Plan, Watch, run_cell
from moalign import plugins
from moalign.errors import MoalignError, StudyError
from moalign_plugins.executors.processes import Processes


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search",
        description=search.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--quick", dest="mode", action="store_const", const="quick")
    modes.add_argument("--full", dest="mode", action="store_const", const="full")
    parser.add_argument("--plan", action="store_true", help="list the cells and run nothing")
    parser.add_argument(
        "--report",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="write the report again: of the cells that are done, or from documents of results, "
        "several of which (of different parts or seeds) become one",
    )
    parser.add_argument("--workers", type=int, help="processes; default: one per core")
    out = Path("runs") / "benchmarks" / "search"
    parser.add_argument("--out", type=Path, default=out, help="where cells lie")
    parser.add_argument("--results", type=Path, default=table.RESULTS, help="for reports")
    parser.add_argument("--name", help="of the report; default: the mode, the parts, or part")
    some = parser.add_argument_group("some of it, or other numbers")
    names = [part.name for part in PARTS]
    some.add_argument("--part", action="append", choices=names, help="may be repeated")
    some.add_argument("--bed", action="append", metavar="NAME", help="may be repeated")
    some.add_argument("--only", action="append", metavar="ENTRY", help="may be repeated")
    some.add_argument("--seeds", type=int, nargs="+")
    some.add_argument("--set", action="append", default=[], metavar="SETTING=NUMBER")
    return parser.parse_args(given)


def planned(args: argparse.Namespace) -> tuple[Plan, str]:
    """Return the plan and the name of its report.

    Raises:
        StudyError: a setting that no cell has, or nothing is left to run.
    """
    mode = MODES[args.mode or "quick"]
    if args.seeds:
        mode = replace(mode, seeds=tuple(args.seeds))
    installed = plugins.load(())
    parts = [part for part in PARTS if not args.part or part.name in args.part]
    found = [
        one
        for part in parts
        for one in part.plan(mode, installed)
        if (not args.bed or one.cell.bed in args.bed)
        and (not args.only or one.cell.entry in args.only)
    ]
    if not found:
        raise StudyError("nothing is left to run; --plan alone lists what there is")
    found = list(_with(found, _settings(args.set)))
    if args.bed or args.only or args.seeds or args.set:
        return Plan(mode.name, found), "part"
    names = [mode.name, *(part.name for part in parts if args.part)]
    return Plan(mode.name, found), "-".join(names)


def _settings(given: list[str]) -> dict[str, Any]:
    try:
        pairs = [one.partition("=") for one in given]
        return {name: json.loads(value) for name, _, value in pairs}
    except ValueError:
        raise StudyError(f"--set {' '.join(given)}: write --set trials=8") from None


def _with(found: list[Planned], settings: Mapping[str, Any]) -> Iterator[Planned]:
    """Yield cells with other settings, each where a cell has it."""
    known = {name for one in found for name in one.settings}
    for name in settings:
        if name not in known:
            raise StudyError(f"--set {name}: no cell has it; there are {', '.join(sorted(known))}")
    for one in found:
        own = {name: value for name, value in settings.items() if name in one.settings}
        yield replace(one, settings={**one.settings, **own})


def publish(found: Results, folder: Path) -> Path:
    """Write the document, and from it the report and its pictures; return the report's path."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{found.date}-search-{found.mode}"
    document = results.to_text(found)
    (folder / f"{stem}.json").write_text(document, encoding="utf-8")
    found = results.from_text(document)  # so that --report gives the same page
    pictures = {}
    for part in PARTS:
        if rows := found.rows.get(part.name):
            for name, drawn in part.draw(rows).items():
                pictures[name] = f"{stem}-{name}.png"
                (folder / pictures[name]).write_bytes(drawn)
    page = folder / f"{stem}.md"
    page.write_text(report.write(found, pictures), encoding="utf-8")
    return page


def main(given: list[str] | None = None) -> int:
    """Run what is asked for; return the exit status."""
    args = arguments(given)
    if args.report:
        found = results.merged([results.read(file) for file in args.report])
        print(publish(replace(found, mode=args.name or found.mode), args.results))
        return 0
    plan, name = planned(args)
    name = args.name or name
    if args.plan:
        for cell in plan.cells():
            print(cell)
        return 0
    desk = Desk(plan, args.out)
    executor = Processes(workers=args.workers)
    failed = 0
    if args.report is None:
        view = Watch(plan, executor.workers)
        view.say(
            f"{view.total} cells, {executor.workers} at a time; how long one takes is known after "
            "the first. Ctrl-C stops, and the same command goes on"
        )
        try:
            with view:
                run_cells(desk, executor, run_cell, view)
        except KeyboardInterrupt:
            view.say("stopped; the same command goes on")
            return 130
        failed = view.failed
    print(publish(results.gather(desk, name, executor.workers), args.results))
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MoalignError as error:
        sys.exit(str(error))
