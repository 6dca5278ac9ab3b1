"""All cells as one compact document: what is committed, and what a report is made of."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.comparison import cells as comparison
from benchmarks.comparison.results import TIME, lasted
from benchmarks.search.entries import default
from benchmarks.search.part import Row
from benchmarks.search.work import Desk
from moalign.errors import StudyError


@dataclass(frozen=True)
class Broken:
    """A cell that failed."""

    part: str
    bed: str
    entry: str
    seed: int
    reason: str


@dataclass(frozen=True)
class Results:
    """The document.

    Attributes:
        mode: quick, full, names of parts, or part.
        facts: date, commit, command, versions, time.
        default: the strategy of a study that names none.
        rows: the cells that were run, by part.
        broken: the cells that failed.
        missing: how many have not been run.
    """

    mode: str
    facts: list[list[str]]
    default: str
    rows: Mapping[str, list[Row]]
    broken: list[Broken]
    missing: int

    @property
    def date(self) -> str:
        """The day of the measurements."""
        return next(value for what, value in self.facts if what == "date").partition(",")[0]


def gather(desk: Desk, mode: str, workers: int = 1) -> Results:
    """Read all cells of a plan.

    Args:
        desk: the plan and its folder.
        mode: what the document is called.
        workers: how many cells run at once, for how long all of them take.
    """
    rows: dict[str, list[Row]] = {}
    broken, missing, walls = [], 0, []
    for cell in desk.plan.cells():
        done = desk.done(cell)
        if done is not None:
            row = Row(cell.bed, cell.entry, cell.seed, done.data)
            rows.setdefault(cell.part, []).append(row)
            walls.append(done.wall)
            continue
        left = comparison.read(desk.file(cell))
        if isinstance(left, comparison.Failed):
            broken.append(Broken(cell.part, cell.bed, cell.entry, cell.seed, left.reason))
        else:
            missing += 1
    seeds = sorted({cell.seed for cell in desk.plan.cells()})
    facts = [[str(what), str(value)] for what, value in table.facts(seeds)]
    if walls:
        facts.append([TIME, lasted(walls, workers)])
    return Results(mode, facts, default(), rows, broken, missing)


# --- as a file ---------------------------------------------------------------------------------


def to_text(results: Results) -> str:
    """Return the document as JSON, a line per cell."""
    data = _rounded(asdict(results))
    rows = data.pop("rows")
    lines = [f'"{name}": {json.dumps(value, allow_nan=False)}' for name, value in data.items()]
    parts = []
    for part, found in rows.items():
        dense = (json.dumps(row, allow_nan=False, separators=(",", ":")) for row in found)
        parts.append(f'"{part}": [\n' + ",\n".join(dense) + "\n]")
    lines.append('"rows": {\n' + ",\n".join(parts) + "\n}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def from_text(text: str) -> Results:
    """Read what :func:`to_text` wrote."""
    data = json.loads(text)
    rows = {part: [Row(**row) for row in found] for part, found in data["rows"].items()}
    broken = [Broken(**one) for one in data["broken"]]
    return Results(**(data | {"rows": rows, "broken": broken}))


def read(path: Path) -> Results:
    """Read a document."""
    return from_text(path.read_text(encoding="utf-8"))


def merged(documents: Sequence[Results]) -> Results:
    """Return documents of different parts, test beds, entries or seeds as one.

    Raises:
        StudyError: something is in two of them.
    """
    if len(documents) == 1:
        return documents[0]
    rows: dict[str, list[Row]] = {}
    for document in documents:
        for part, more in document.rows.items():
            known = {(row.bed, row.entry, row.seed) for row in rows.get(part, [])}
            for row in more:
                if (row.bed, row.entry, row.seed) in known:
                    raise StudyError(
                        f"{row.entry} on {row.bed}, seed {row.seed}, of the part {part} is in two "
                        "of the documents; give one of them"
                    )
            rows[part] = rows.get(part, []) + more
    return Results(
        mode="-".join(rows),
        facts=table.joined([document.facts for document in documents]),
        default=documents[0].default,
        rows=rows,
        broken=[cell for document in documents for cell in document.broken],
        missing=sum(document.missing for document in documents),
    )


def _rounded(value: Any) -> Any:
    """Return plain data with four places that count, at least, and null for NaN."""
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {str(name): _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
