"""What a part of the benchmark is. A new one is a file with a :class:`Part`, listed in PARTS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.search.cells import Cell
from benchmarks.search.goals import Goal
from moalign.plugins import Catalogue


@dataclass(frozen=True)
class Mode:
    """How much is measured.

    Attributes:
        name: part of the report's name; parts know what it stands for.
        seeds: of the cells.
    """

    name: str
    seeds: tuple[int, ...]


MODES: Final[Mapping[str, Mode]] = {
    "quick": Mode("quick", (0, 1, 2)),
    "full": Mode("full", tuple(range(10))),
}


@dataclass(frozen=True)
class Planned:
    """A cell and what its part has to know to run it.

    Attributes:
        cell: which.
        settings: plain data; all that the result depends on but for the benchmark's own code.
    """

    cell: Cell
    settings: Mapping[str, Any]


@dataclass
class Room:
    """What a cell is run in.

    Attributes:
        folder: a folder of its own, empty unless the cell was interrupted before; deleted when it
            is done.
        cache: what the worker's cells share.
        told: call it with the number of steps that are done, of which a person may be told.
    """

    folder: Path
    cache: dict[str, Any] = field(default_factory=dict)
    told: Callable[[int], None] = lambda _: None


@dataclass(frozen=True)
class Row:
    """A cell's result in a document."""

    bed: str
    entry: str
    seed: int
    data: Mapping[str, Any]


Rows = Sequence[Row]


@dataclass(frozen=True)
class Part:
    """A question, its cells, and what is said of them.

    Attributes:
        name: of the part.
        plan: returns the cells of a mode, those that many wait for first.
        run: runs a cell and returns what it measured: plain data, without NaN.
        section: returns the part's section of the page, given its rows, the default strategy, and
            the file names of its pictures.
        goals: returns what was to be reached, given the rows and the default strategy.
        draw: returns pictures as PNG files by name.
    """

    name: str
    plan: Callable[[Mode, Catalogue], list[Planned]]
    run: Callable[[Planned, Room], dict[str, Any]]
    section: Callable[[Rows, str, Mapping[str, str]], list[str]]
    goals: Callable[[Rows, str], list[Goal]]
    draw: Callable[[Rows], Mapping[str, bytes]] = lambda _: {}


def entries(rows: Rows, bed: str | None = None) -> list[str]:
    """Return the entries of some rows, in their order."""
    return list(dict.fromkeys(r.entry for r in rows if bed in (None, r.bed)))


def beds(rows: Rows) -> list[str]:
    """Return the beds of some rows, in their order."""
    return list(dict.fromkeys(r.bed for r in rows))


def by_seed(
    rows: Rows, bed: str, entry: str, measure: Callable[[Mapping[str, Any]], float]
) -> dict[int, float]:
    """Return a measure of an entry on a bed, by seed."""
    return {r.seed: measure(r.data) for r in rows if (r.bed, r.entry) == (bed, entry)}
