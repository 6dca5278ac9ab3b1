"""What is said of the driver and its archive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from benchmarks import table
from benchmarks.search.goals import Goal, mean, plain
from benchmarks.search.part import Rows, beds, by_seed, entries

DRIVER: Final = "driver"
ARCHIVE: Final = "archive"
"""The two beds."""

PLAIN: Final = "no tracker"
TRACKED: Final = "mlflow"

MOST: Final = 50.0
"""Milliseconds that bringing front and hypervolume up to date may take."""

STEPS: Final[Mapping[str, str]] = {
    "front": "front",
    "hypervolume": "hypervolume",
    "observations": "what a strategy reads",
    "pruning": "what stays on disk",
}


def _milliseconds(*keys: str) -> Callable[[Mapping[str, Any]], float]:
    def read(data: Mapping[str, Any]) -> float:
        found: Any = data
        for key in keys:
            found = found[key]
        return 1000 * float(found)

    return read


def goals(rows: Rows, default: str) -> list[Goal]:
    """Return the goal on the archive, for every kind of front."""
    del default
    return [
        Goal(
            "milliseconds to bring front and hypervolume up to date, "
            f"{_count(rows, ARCHIVE, 'points')} points: {entry}",
            mean(by_seed(rows, ARCHIVE, entry, _milliseconds("both", "median"))),
            MOST,
            higher=False,
            places=1,
        )
        for entry in entries(rows, ARCHIVE)
    ]


def section(rows: Rows, default: str, pictures: Mapping[str, str]) -> list[str]:
    """Return the section."""
    del default, pictures
    parts = ["## What the driver costs"]
    if DRIVER in beds(rows):
        parts += _driver(rows)
    if ARCHIVE in beds(rows):
        parts += _archive(rows)
    return parts


def _count(rows: Rows, bed: str, what: str) -> str:
    """Return a number that all cells of a bed share."""
    return f"{next(row.data[what] for row in rows if row.bed == bed):,}"


def _driver(rows: Rows) -> list[str]:
    lines = [
        [
            entry,
            plain(mean(by_seed(rows, DRIVER, entry, _milliseconds("trial"))), 1),
            plain(mean(by_seed(rows, DRIVER, entry, lambda data: data["around"])), 1),
            plain(mean(by_seed(rows, DRIVER, entry, lambda data: data["cpu"])), 1),
        ]
        for entry in entries(rows, DRIVER)
    ]
    return [
        f"A study of {_count(rows, DRIVER, 'trials')} trials that train nothing. **Per trial**: "
        "from one proposal to the next, without what the segment and the strategy take. "
        "**Around**: before the first proposal and after the last, the test measurements and the "
        "tracker's closing included. **CPU s**: of all of it.",
        table.markdown(["tracker", "per trial, ms", "around, s", "CPU s"], lines),
    ]


def _archive(rows: Rows) -> list[str]:
    lines = [
        [
            entry,
            f"{mean(by_seed(rows, ARCHIVE, entry, lambda data: data['on the front'])).value:,.0f}",
            plain(mean(by_seed(rows, ARCHIVE, entry, _milliseconds("both", "median"))), 1),
            plain(mean(by_seed(rows, ARCHIVE, entry, _milliseconds("both", "worst"))), 1),
            *(plain(mean(by_seed(rows, ARCHIVE, entry, _milliseconds(s))), 1) for s in STEPS),
        ]
        for entry in entries(rows, ARCHIVE)
    ]
    header = [
        "points",
        "on the front",
        "front and hypervolume, ms",
        "worst",
        *(f"{said}, ms" for said in STEPS.values()),
    ]
    return [
        f"What the driver does after a measurement, with {_count(rows, ARCHIVE, 'points')} points "
        "of three objectives in the archive: median and worst of some measurements, then the mean "
        "of each part.",
        table.markdown(header, lines),
    ]
