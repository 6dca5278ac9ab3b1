"""The command line. See the package for what it compares."""

from __future__ import annotations

import argparse

from benchmarks import optimizers
from benchmarks.comparison import picture
from benchmarks.comparison.command import Comparison
from benchmarks.comparison.results import Arena, Results
from benchmarks.optimizers import plan, rates, report
from benchmarks.optimizers.plan import BEDS, MODES, PAYER


def more(part: argparse._ArgumentGroup) -> None:
    """Add the learning rates."""
    part.add_argument(
        "--rates",
        type=float,
        nargs="+",
        default=[1.0],
        metavar="TIMES",
        help="multiples of the study's learning rate; the better one is chosen on validation",
    )


def draw(results: Results, arena: Arena) -> bytes | None:
    """Return the picture of a bed, every entry at the rate that counts."""
    found = rates.settled(results)
    return picture.draw(found, found.arena(arena.name), PAYER)


COMPARISON = Comparison(
    name="optimizers",
    about=optimizers.__doc__ or "",
    beds=BEDS,
    modes=MODES,
    build=lambda mode, sets, only, args: plan.build(mode, sets, only, args.rates),
    write=report.write,
    draw=draw,
    more=more,
)

if __name__ == "__main__":
    COMPARISON.run()
