"""The command line of a comparison: plan, run, report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from benchmarks import table
from benchmarks.comparison import results, work
from benchmarks.comparison.plan import Mode, Plan
from benchmarks.comparison.progress import View
from benchmarks.comparison.results import Arena, Results
from moalign.errors import MoalignError
from moalign_plugins.executors.processes import Processes


def _nothing_more(_part: argparse._ArgumentGroup) -> None:
    return


@dataclass(frozen=True)
class Comparison:
    """What is compared, as far as a command line has to know.

    Attributes:
        name: of the package below ``benchmarks``, of its folder of cells and its reports.
        about: the description that ``--help`` begins with.
        beds: their names.
        modes: ``quick`` and ``full``.
        build: returns the plan of a mode: also given ``--set``, ``--only`` and all arguments.
        write: returns the page of a document, given the file names of pictures by bed.
        draw: returns the picture of a bed, or None.
        more: adds arguments of its own.
    """

    name: str
    about: str
    beds: Sequence[str]
    modes: Mapping[str, Mode]
    build: Callable[[Mode, Sequence[str], Sequence[str], argparse.Namespace], Plan]
    write: Callable[[Results, Mapping[str, str]], str]
    draw: Callable[[Results, Arena], bytes | None]
    more: Callable[[argparse._ArgumentGroup], None] = _nothing_more

    def arguments(self, given: list[str] | None = None) -> argparse.Namespace:
        """Read the command line."""
        parser = argparse.ArgumentParser(
            prog=f"python -m benchmarks.{self.name}",
            description=self.about,
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
            help="write the report again: of the cells that are done, or from documents of "
            "results, several of which (of different test beds or seeds) become one",
        )
        parser.add_argument("--workers", type=int, help="processes; default: one per core")
        out = Path("runs") / "benchmarks" / self.name
        parser.add_argument("--out", type=Path, default=out, help="where cells lie")
        parser.add_argument("--results", type=Path, default=table.RESULTS, help="for reports")
        named = "of the report; default: the mode, the test beds, or part"
        parser.add_argument("--name", help=named)
        part = parser.add_argument_group("a part of the comparison, or another one")
        part.add_argument("--bed", action="append", choices=list(self.beds), help="may be repeated")
        part.add_argument("--only", action="append", metavar="ENTRY", help="may be repeated")
        part.add_argument("--seeds", type=int, nargs="+")
        part.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
        self.more(part)
        return parser.parse_args(given)

    def planned(self, args: argparse.Namespace) -> tuple[Plan, str]:
        """Return the plan and the name of its report."""
        mode = self.modes[args.mode or "quick"]
        mode = replace(
            mode,
            beds=tuple(args.bed) if args.bed else mode.beds,
            seeds=tuple(args.seeds) if args.seeds else mode.seeds,
        )
        if args.name:
            name = args.name
        elif args.only or args.seeds or args.set:
            name = "part"
        else:
            name = "-".join(args.bed) if args.bed else mode.name
        return self.build(mode, args.set, args.only or mode.only, args), name

    def publish(self, found: Results, folder: Path) -> Path:
        """Write the document, and from it the report and its pictures; return the report's path."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{found.date}-{self.name}-{found.mode}"
        document = results.to_text(found)
        (folder / f"{stem}.json").write_text(document, encoding="utf-8")
        found = results.from_text(document)  # so that --report gives the same page
        pictures = {}
        for arena in found.arenas:
            drawn = self.draw(found, arena)
            if drawn is not None:
                end = "" if arena.name == found.mode else f"-{arena.name}"
                pictures[arena.name] = f"{stem}{end}.png"
                (folder / pictures[arena.name]).write_bytes(drawn)
        page = folder / f"{stem}.md"
        page.write_text(self.write(found, pictures), encoding="utf-8")
        return page

    def main(self, given: list[str] | None = None) -> int:
        """Run what is asked for; return the exit status."""
        args = self.arguments(given)
        if args.report:
            documents = [results.read(file) for file in args.report]
            found = results.merged(documents, self.modes["full"].beds)
            found = replace(found, mode=args.name or found.mode)
            print(self.publish(found, args.results))
            return 0
        whole, name = self.planned(args)
        desk = work.Desk(whole, args.out)
        executor = Processes(workers=args.workers)
        view = View(whole, executor.workers)
        if args.plan:
            for cell in whole.cells():
                print(cell)
            return 0
        if args.report is None:
            view.say(f"{view.total} cells, {executor.workers} at a time; how long one takes is "
                     "known after the first")  # fmt: skip
            try:
                with view:
                    work.build_bases(desk, view)
                    from benchmarks.comparison.train import run_cell

                    work.run_cells(desk, executor, run_cell, view)
            except KeyboardInterrupt:
                view.say("stopped; the same command goes on")
                return 130
        print(self.publish(results.gather(desk, name, executor.workers), args.results))
        return 1 if view.failed else 0

    def run(self) -> NoReturn:
        """Run what the command line asks for, and end the process."""
        try:
            sys.exit(self.main())
        except MoalignError as error:
            sys.exit(str(error))
