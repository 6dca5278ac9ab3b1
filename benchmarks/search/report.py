"""The page: what was to be reached, then a section per part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from benchmarks import table
from benchmarks.search.parts import PARTS
from benchmarks.search.results import Results

HEAD = (
    "Cells run side by side on the cores named below, one thread each. Intervals are Student's, "
    "95 %, with the seeds as units; differences are paired at equal seeds. Each interval stands by "
    "itself: of twenty differences that are none, one is expected to look like one. A goal is met "
    "or missed if the whole interval is on one side of it, and not decided otherwise."
)


def write(results: Results, pictures: Mapping[str, str]) -> str:
    """Return the page.

    Args:
        results: the document.
        pictures: file names by the names that parts gave them.
    """
    parts = [HEAD]
    if results.missing:
        parts.append(f"**Unfinished: {results.missing} cells have not been run yet.**")
    ours = [part for part in PARTS if results.rows.get(part.name)]
    goals = [
        goal.row for part in ours for goal in part.goals(results.rows[part.name], results.default)
    ]
    if goals:
        header = ["goal", "limit", "found", "verdict"]
        parts += ["## Goals", _counted(goals), table.markdown(header, goals)]
    for part in ours:
        parts += part.section(results.rows[part.name], results.default, pictures)
    parts += _not_run(results)
    return table.page("The search, measured", parts, results.facts)


def _counted(goals: Sequence[Sequence[str]]) -> str:
    """Return in words how many goals have which verdict."""
    found = Counter(goal[-1].strip("*") for goal in goals)
    return f"Of {len(goals)} goals: {', '.join(f'{n} {said}' for said, n in found.items())}."


def _not_run(results: Results) -> list[str]:
    """Return what failed, and why, as a section."""
    if not results.broken:
        return []
    reasons: dict[tuple[str, str, str, str], int] = {}
    for cell in results.broken:
        key = (cell.part, cell.bed, cell.entry, cell.reason)
        reasons[key] = reasons.get(key, 0) + 1
    rows = [
        [part, bed, entry, count, " ".join(reason.split())]
        for (part, bed, entry, reason), count in reasons.items()
    ]
    header = ["part", "what", "entry", "cells", "reason"]
    return ["## What could not be run", table.markdown(header, rows)]
