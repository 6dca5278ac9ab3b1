"""The numbers of fronts of trained policies: read from cells, at some steps or tokens.

N points, K objectives, W preferences. Values are in units of the objectives' bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.comparison.measures import Difference
from benchmarks.search import goals as goal
from benchmarks.search.part import Row, Rows
from moalign import pareto

Floats = NDArray[np.float64]

GRID: Final = "grid"
FULL: Final = "full method"
COLD: Final = "botorch"
WARM: Final = "continuation"
"""The same strategy with and without warm starts; the full method adds soups."""
SMALL: Final = 200
"""Training steps within which the full method is to reach what the grid has in the end."""


@dataclass(frozen=True)
class Front:
    """What a method has at some number of training steps.

    Attributes:
        trials: so far.
        numbers: of the trials that the points come from.
        steps: of training, all trials together.
        generated: tokens, those of validation included.
        validation_NK: means of the front's points, in units of the bounds.
        test_NK: the same on test.
        kinds: how many points were trained from scratch, continued, and mixed.
    """

    trials: int
    numbers: Sequence[int]
    steps: int
    generated: int
    validation_NK: Floats
    test_NK: Floats
    kinds: tuple[int, int, int]


def fronts(row: Row) -> list[Front]:
    """Return the fronts of a cell, by the number of trials."""
    bounds = row.data["bounds"]

    def normal(points: Sequence[Mapping[str, Any]], split: str) -> Floats:
        return pareto.normalise([point[split] for point in points], bounds)

    return [
        Front(
            trials=front["trials"],
            numbers=[point["trial"] for point in front["points"]],
            steps=front["steps"],
            generated=front["generated"],
            validation_NK=normal(front["points"], "validation"),
            test_NK=normal(front["points"], "test"),
            kinds=(
                sum(not (p["soup"] or p["continued"]) for p in front["points"]),
                sum(p["continued"] for p in front["points"]),
                sum(p["soup"] for p in front["points"]),
            ),
        )
        for front in row.data["fronts"]
    ]


def at(row: Row, steps: int | None) -> Front | None:
    """Return the last front that took at most so many training steps; None asks for the end."""
    found = [front for front in fronts(row) if steps is None or front.steps <= steps]
    return found[-1] if found else None


def within(row: Row, tokens: float) -> Front | None:
    """Return the last front that took at most so many tokens."""
    found = [front for front in fronts(row) if front.generated <= tokens]
    return found[-1] if found else None


def measures(row: Row, front: Front, points: int | None = None) -> dict[str, float]:
    """Return the measures of a front, in units of the bounds.

    Args:
        row: gives reference and preferences.
        front: of it.
        points: how many of its points count, the ones with most volume; None: all.
    """
    reference, preferences_WK = row.data["reference"], np.array(row.data["preferences"])
    plain = mixed = front
    if points is not None:
        plain, mixed = (
            _only(front, most_volume(front.validation_NK, reference, points, volume))
            for volume in (pareto.hypervolume, pareto.hull_hypervolume)
        )
    return {
        "utility": float((taken(row, plain) * preferences_WK).sum(1).mean()),
        "volume": pareto.hypervolume(plain.test_NK, reference),
        "hull": pareto.hull_hypervolume(mixed.test_NK, reference),
    }


def _only(front: Front, few: Sequence[int]) -> Front:
    rows = list(few)
    return replace(front, validation_NK=front.validation_NK[rows], test_NK=front.test_NK[rows])


def taken(row: Row, front: Front) -> Floats:
    """Return on test the point that each preference takes, by validation, [W, K]."""
    taken_W = (front.validation_NK @ np.array(row.data["preferences"]).T).argmax(0)
    found: Floats = front.test_NK[taken_W]
    return found


def most_volume(
    values_NK: Floats,
    reference_K: Sequence[float],
    count: int,
    volume: Callable[[Floats, Sequence[float]], float] = pareto.hypervolume,
) -> list[int]:
    """Return the points that are taken one by one, each for the volume it adds.

    Args:
        values_NK: of all points.
        reference_K: where volume starts.
        count: how many are taken.
        volume: of some points, unmixed or mixed.
    """
    taken: list[int] = []
    for _ in range(min(count, len(values_NK))):
        left = [n for n in range(len(values_NK)) if n not in taken]
        volumes = [volume(values_NK[[*taken, n]], reference_K) for n in left]
        taken.append(left[int(np.argmax(volumes))])
    return taken


def found(rows: Rows, bed: str, entry: str, steps: int | None) -> dict[int, tuple[Row, Front]]:
    """Return the fronts of a method at so many steps, by seed."""
    return {
        row.seed: (row, front)
        for row in rows
        if (row.bed, row.entry) == (bed, entry) and (front := at(row, steps)) is not None
    }


def read(rows: Rows, bed: str, entry: str, steps: int | None, measure: str) -> dict[int, float]:
    """Return a measure of a method at so many steps, by seed."""
    fronts_of = found(rows, bed, entry, steps)
    return {seed: measures(*one)[measure] for seed, one in fronts_of.items()}


def difference(
    rows: Rows, bed: str, entry: str, steps: int | None, measure: str, *, equal: bool = False
) -> Difference:
    """Return a method at so many steps minus the grid at its end, paired by seed.

    Args:
        rows: of the part.
        bed: which.
        entry: the method.
        steps: at most; None: at its end.
        measure: its name.
        equal: compare as many points of each as the smaller of both fronts has.
    """
    mine, theirs = found(rows, bed, entry, steps), found(rows, bed, GRID, None)
    values = {}
    for seed in mine.keys() & theirs.keys():
        pair = (mine[seed], theirs[seed])
        points = min(len(front.test_NK) for _, front in pair) if equal else None
        one, other = (measures(*each, points)[measure] for each in pair)
        values[seed] = one - other
    return goal.mean(dict(sorted(values.items())))
