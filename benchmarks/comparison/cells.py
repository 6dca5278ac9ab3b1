"""What a cell leaves behind: one JSON file, written whole or not at all."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from moalign.search.measurements import write_atomically
from moalign.types import Cost


@dataclass(frozen=True)
class Moment:
    """A policy in training, measured on validation; what that cost is not charged.

    Attributes:
        step: training steps taken.
        tokens: spent on them.
        means_K: means of the objectives, raw.
    """

    step: int
    tokens: int
    means_K: list[float]


@dataclass(frozen=True)
class Units:
    """A trained policy measured on one split.

    Attributes:
        values_UK: per unit, raw; NaN where an objective does not apply.
        groups_U: the family that each unit's prompts belong to; empty if there are none.
    """

    values_UK: list[list[float]]
    groups_U: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Done:
    """A cell that was trained and measured.

    Attributes:
        key: hash of all that it depends on; another one means that it has to be run again.
        names: the objectives, the order of every K.
        steps: training steps taken.
        cost: tokens spent on them, and what was charged before the first.
        seconds: per training step, the median.
        wall: seconds in all, measuring included.
        weights_K: mean weight per objective over the steps; empty for scores per response.
        moments: in training, the last one at its end.
        validation: at the end.
        test: at the end.
        notes: sentences that the training had to say.
        group_weights: the same weights by family of prompts; empty if there are no families, and
            for scores per response.
        cpu: seconds of the processor per training step, the mean; NaN if it was not kept.
        trace: metrics by step, a number per step from the first on; NaN where a step had none.
    """

    key: str
    names: list[str]
    steps: int
    cost: Cost
    seconds: float
    wall: float
    weights_K: list[float]
    moments: list[Moment]
    validation: Units
    test: Units
    notes: list[str] = field(default_factory=list)
    group_weights: dict[str, list[float]] = field(default_factory=dict)
    cpu: float = math.nan
    trace: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """A cell that could not be run; it is tried again by the next command.

    Attributes:
        key: as in :class:`Done`.
        reason: a sentence.
        detail: a traceback, or empty.
    """

    key: str
    reason: str
    detail: str = ""


def write(path: Path, cell: Done | Failed) -> None:
    """Write a cell's file; a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"outcome": "done" if isinstance(cell, Done) else "failed", **asdict(cell)}
    write_atomically(path, json.dumps(_plain(data), allow_nan=False))


def read(path: Path) -> Done | Failed | None:
    """Return what :func:`write` wrote; None if there is nothing, or nothing that can be read."""
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("outcome") == "failed":
            return Failed(**data)
        return Done(
            **data
            | {
                "cost": Cost(**data["cost"]),
                "moments": [Moment(**moment) for moment in data["moments"]],
                "validation": _units(data["validation"]),
                "test": _units(data["test"]),
                "cpu": _number(data.get("cpu")),
                "trace": {
                    name: [_number(value) for value in values]
                    for name, values in data.get("trace", {}).items()
                },
            }
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _units(data: dict[str, Any]) -> Units:
    rows = [[_number(value) for value in row] for row in data["values_UK"]]
    return Units(rows, data["groups_U"])


def _plain(value: Any) -> Any:
    """Return plain data with null for NaN."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
