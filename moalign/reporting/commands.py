"""The commands that a person is told to type next; they work in the folder they are told in."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from moalign.reporting.points import Point
    from moalign.search.archive import Run

RUNS: Final = Path("runs")
"""The folder of the runs unless ``--out`` names another."""


def out_option(run: Run) -> str:
    """Return the ``--out`` that a command needs to find a run; empty if none."""
    folder = run.folder.path.parent
    return "" if folder == RUNS else f" --out {shlex.quote(str(folder))}"


def pick_command(run: Run, names: Sequence[str]) -> str:
    """Return a command that picks a point of a front over these objectives."""
    wanted = f"--prefer {names[0]}=3,{names[1]}=1" if len(names) > 1 else "--knee"
    return f"moalign front {run.folder.name} {wanted}{out_option(run)}"


def mixture_command(run: Run) -> str:
    """Return a command that picks a mixture of a front's points."""
    return f"moalign front {run.folder.name} --mixture --worst-group{out_option(run)}"


def sample_command(run: Run, point: Point) -> str:
    """Return a command that lets a point's policy answer a prompt."""
    return f'moalign sample {run.folder.name} "..." --point {point.id}{out_option(run)}'
