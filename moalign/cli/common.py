"""What several commands share."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moalign.errors import RecordError, StudyError, nearest

if TYPE_CHECKING:
    from rich.console import Console

    from moalign.search.archive import Run
    from moalign.search.folders import RunFolder

PluginFiles = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE", help="Load this plugin file too; may be repeated."),
]
"""Plugin files to load beside the installed plugins."""


def is_terminal() -> bool:
    """Whether a person is looking: colours and tables are for them, plain lines for programs."""
    return sys.stdout.isatty()


Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder that holds the runs.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Set a value of the study; may be repeated."),
]
RunName = Annotated[
    str | None, typer.Option("--run", metavar="NAME", help="Name of the run, if not the study's.")
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's name, or its folder.")]

WIDE = 200
"""Columns of output that is no terminal; nothing is cut there."""


def new_console() -> Console:
    """Return a console that prints text as it is, without colouring what it thinks it knows."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDE
    return console


def quiet_libraries() -> None:
    """Turn off the progress bars of other libraries, in this process and in workers it starts.

    Call it before they are imported; what the environment says already is left as it is.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def run_folder(out: Path, name: str) -> Path:
    """Return the folder of a run that is to be made, or gone on with.

    Raises:
        StudyError: the name is none that a run can have.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise StudyError(
            f"--run {name}: a run's name begins with a letter or a digit and has only letters, "
            "digits, '-', '_' and '.'; --out names the folder that holds the runs"
        )
    return out / name


def find_run(name: str, out: Path) -> RunFolder:
    """Return the folder of a run, given by its name below ``out`` or by its path.

    Raises:
        RecordError: there is no such run, with the nearest match.
    """
    from moalign.search.folders import RunFolder

    for path in (out / name, Path(name)):
        folder = RunFolder(path)
        if folder.events.is_file():
            return folder
    known = [folder.name for folder in runs_in(out)]
    hint = nearest(name, known) if known else "there are no runs; moalign pareto makes one"
    raise RecordError(f"no run is called {name!r} in {out}/; {hint}")


def runs_in(out: Path) -> list[RunFolder]:
    """Return the folders of all runs below ``out``, by name."""
    from moalign.search.folders import RunFolder

    folders = [RunFolder(path.parent) for path in out.glob("*/events.jsonl")]
    return sorted(folders, key=lambda folder: folder.name)


def read_run(name: str, out: Path) -> Run:
    """Read a run by name or path."""
    from moalign.search.record import read

    return read(find_run(name, out))


def pairs(option: str, text: str) -> dict[str, float]:
    """Read ``a=3,b=1``.

    Raises:
        StudyError: anything else, or a name given twice.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not name or not equals or not math.isfinite(value):
            raise StudyError(f"{option} {text}: write {option} NAME=NUMBER,...; found {part!r}")
        if name in found:
            raise StudyError(f"{option} {text}: {name!r} is given twice")
        found[name] = value
    return found


def print_table(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text below a header."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(*header, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)
