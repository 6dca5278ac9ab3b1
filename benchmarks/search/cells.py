"""A cell is one run of one entry on one bed with one seed; it leaves one JSON file behind."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moalign.search.measurements import write_atomically


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        part: the name of the part it belongs to.
        bed: what is searched or measured.
        entry: what is compared.
        seed: of all that is random.
    """

    part: str
    bed: str
    entry: str
    seed: int

    def __str__(self) -> str:
        return f"{self.part}: {self.bed}, {self.entry}, seed {self.seed}"

    @property
    def file(self) -> Path:
        """Where its result lies, below the benchmark's folder."""
        return Path("cells") / self.part / f"{self._stem}.json"

    @property
    def folder(self) -> Path:
        """Where it may keep what it needs to go on, below the benchmark's folder."""
        return Path("unfinished") / self.part / self._stem

    @property
    def _stem(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", f"{self.bed}-{self.entry}-{self.seed}".lower())


@dataclass(frozen=True)
class Done:
    """A cell that was run.

    Attributes:
        key: hash of all that it depends on; another one means that it has to be run again.
        wall: seconds in all.
        data: what its part measured; plain data, without NaN.
    """

    key: str
    wall: float
    data: dict[str, Any]


def write(path: Path, done: Done) -> None:
    """Write a cell's file; a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"outcome": "done", **asdict(done)}, allow_nan=False))


def read(path: Path) -> Done | None:
    """Return what :func:`write` wrote; None if there is nothing that can be read."""
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Done(**data) if data.pop("outcome") == "done" else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
