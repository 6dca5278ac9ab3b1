"""What a segment measured, as a file in its checkpoint folder. Strict JSON: NaN is null."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from moalign.errors import RecordError
from moalign.search.folders import RunFolder, beside_of
from moalign.types import Cost, Evaluation, Split


@dataclass(frozen=True)
class Measured:
    """One condition and what was measured under it.

    Attributes:
        condition: the weights written into the prompts, by objective, or None.
        evaluation: values per unit and sample completions.
    """

    condition: Mapping[str, float] | None
    evaluation: Evaluation


@dataclass(frozen=True)
class Measurements:
    """One checkpoint measured on one split under every condition.

    Attributes:
        trial: its number.
        step: training steps taken.
        total: the trial's full length.
        split: on which prompts.
        cost: tokens the trial has spent up to here, these measurements included.
        evaluations: one per condition, in the study's order.
    """

    trial: int
    step: int
    total: int
    split: Split
    cost: Cost
    evaluations: tuple[Measured, ...]

    def write(self, path: Path) -> None:
        """Write the file whole or not at all.

        Raises:
            OSError: full disk, read-only folder; what stood at ``path`` stands unchanged.
        """
        data = {
            "trial": self.trial,
            "step": self.step,
            "total": self.total,
            "split": self.split,
            "cost": self.cost.to_json(),
            "evaluations": [_to_json(measured) for measured in self.evaluations],
        }
        write_atomically(path, json.dumps(data, allow_nan=False))

    @classmethod
    def read(cls, path: Path) -> Measurements:
        """Read what :meth:`write` wrote.

        Raises:
            RecordError: the file is missing or damaged.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                trial=data["trial"],
                step=data["step"],
                total=data["total"],
                split=data["split"],
                cost=Cost(**data["cost"]),
                evaluations=tuple(_from_json(given) for given in data["evaluations"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(
                f"{path}: these measurements cannot be read ({type(error).__name__}: {error}); "
                "delete the checkpoint's folder and run the same command again"
            ) from error


COST: Final = "cost.json"
"""What making an artifact took, in its folder."""


def cost_before(run: RunFolder) -> Cost | None:
    """Return the tokens spent before training, on what a run's artifacts hold beside its policy.

    Once for all trials; runs that share an artifact all count it. None if nothing was prepared, or
    by a version that did not count.

    Raises:
        RecordError: a file is damaged.
    """
    spent, files = Cost(), [path / COST for path in run.prepared_artifacts()]
    files = [file for file in files if file.is_file()]
    for file in files:
        try:
            spent.add(Cost(**json.loads(file.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError) as error:
            raise RecordError(f"{file} cannot be read ({error}); delete its folder") from error
    return spent if files else None


def write_atomically(path: Path, text: str) -> None:
    """Write a text file beside, flush it to disk, and rename it into place."""
    beside = beside_of(path)
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def _to_json(measured: Measured) -> dict[str, Any]:
    evaluation = measured.evaluation
    return {
        "condition": None if measured.condition is None else dict(measured.condition),
        "names": evaluation.names,
        "units": evaluation.units,
        "values_UK": _without_nan(evaluation.values_UK),
        "cost": evaluation.cost.to_json(),
        "samples": _without_nan(evaluation.samples),
    }


def _from_json(given: Mapping[str, Any]) -> Measured:
    names, units = tuple(given["names"]), tuple(given["units"])
    values_UK = [[math.nan if v is None else float(v) for v in row] for row in given["values_UK"]]
    if len(values_UK) != len(units) or any(len(row) != len(names) for row in values_UK):
        raise ValueError(f"values_UK should be {len(units)} rows of {len(names)} values")
    evaluation = Evaluation(names, units, values_UK, Cost(**given["cost"]), tuple(given["samples"]))
    return Measured(given["condition"], evaluation)


def _without_nan(value: Any) -> Any:
    """Return plain data with null for NaN; an infinity stays and is refused."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_without_nan(item) for item in value]
    return value
