"""The command line. See the package for what it compares."""

from __future__ import annotations

from benchmarks import weightings
from benchmarks.comparison import picture
from benchmarks.comparison.command import Comparison
from benchmarks.comparison.results import Arena, Results
from benchmarks.weightings import plan, report
from benchmarks.weightings.families import draw_families
from benchmarks.weightings.plan import BEDS, FIXED, MODES
from benchmarks.weightings.two_families import WANTS


def draw(results: Results, arena: Arena) -> bytes | None:
    """Return the picture of a bed."""
    if any(cell.groups for cell in results.trained if cell.bed == arena.name):
        return draw_families(results, arena, WANTS)
    return picture.draw(results, arena, FIXED)


COMPARISON = Comparison(
    name="weightings",
    about=weightings.__doc__ or "",
    beds=list(BEDS),
    modes=MODES,
    build=lambda mode, sets, only, _: plan.build(mode, sets, only),
    write=report.write,
    draw=draw,
)

if __name__ == "__main__":
    COMPARISON.run()
