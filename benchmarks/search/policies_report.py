"""What is said of fronts of trained policies: against training steps, and beside the grid's."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import table
from benchmarks.comparison.measures import Difference
from benchmarks.comparison.picture import COLOURS, style
from benchmarks.comparison.words import signed
from benchmarks.search import goals as goal
from benchmarks.search.goals import Goal
from benchmarks.search.part import Row, Rows, beds, entries
from moalign import pareto

Floats = NDArray[np.float64]

GRID: Final = "grid"
FULL: Final = "full method"
COLD: Final = "gp"
WARM: Final = "continuation"
"""The same strategy with and without warm starts; the full method adds soups."""
SMALL: Final = 200
"""Training steps within which the full method is to reach what the grid has in the end."""

MEASURES: Final[Mapping[str, str]] = {
    "utility": "expected utility",
    "volume": "hypervolume",
    "hull": "hypervolume of mixtures",
    "equal": "hypervolume, equal numbers of points",
}
"""What is reported, on test."""


@dataclass(frozen=True)
class Front:
    """What a method has at some number of training steps.

    Attributes:
        trials: so far.
        steps: of training, all trials together.
        generated: tokens, those of validation included.
        validation_NK: means of the front's points, in units of the bounds.
        test_NK: the same on test.
        kinds: how many points were trained from scratch, continued, and mixed.
    """

    trials: int
    steps: int
    generated: int
    validation_NK: Floats
    test_NK: Floats
    kinds: tuple[int, int, int]


def section(rows: Rows, default: str, pictures: Mapping[str, str]) -> list[str]:
    """Return the section of the page."""
    del default
    parts = [
        "## Fronts of trained policies",
        "The driver on language models, a trial at a time. The front, and the point that each of "
        "the preferences takes, are validation's choice; all numbers are test's. Steps are all "
        "training steps of all trials; tokens are those sampled to train and to validate. The base "
        "policy is on no front. Mixtures draw one of a front's policies for every prompt. *Equal "
        "numbers of points*: of every front as many points as the smallest one of the same seed "
        "has, taken one by one for the validation hypervolume they add.",
    ]
    for bed in beds(rows):
        parts.append(f"### {bed}")
        parts.append(table.markdown(*_methods(rows, bed)))
        parts.append(table.markdown(*_differences(rows, bed)))
        parts += _going_on(rows, bed)
        if bed in pictures:
            parts.append(f"![Expected utility against training steps on {bed}]({pictures[bed]})")
    return parts


def goals(rows: Rows, default: str) -> list[Goal]:
    """Return whether the full method had the grid's values with a third of its steps."""
    del default
    found = []
    for bed in beds(rows):
        for measure in ("utility", "volume"):
            says = f"{MEASURES[measure]} on {bed}, {FULL} at {SMALL} steps minus {GRID} at the end"
            found.append(Goal(says, _difference(rows, bed, FULL, SMALL, measure), 0.0, True))
    return found


# --- numbers -------------------------------------------------------------------------------------


def fronts(row: Row) -> list[Front]:
    """Return the fronts of a cell, by the number of trials."""
    bounds = row.data["bounds"]

    def normal(points: Sequence[Mapping[str, Any]], split: str) -> Floats:
        return pareto.normalise([point[split] for point in points], bounds)

    return [
        Front(
            trials=front["trials"],
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


def measures(row: Row, front: Front, points: int) -> dict[str, float]:
    """Return the measures of a front, in units of the bounds.

    Args:
        row: gives reference and preferences.
        front: of it.
        points: how many count where equal numbers are compared.
    """
    reference, preferences_WK = row.data["reference"], np.array(row.data["preferences"])
    taken_W = (front.validation_NK @ preferences_WK.T).argmax(0)
    utilities_W = (front.test_NK[taken_W] * preferences_WK).sum(1)
    few = most_volume(front.validation_NK, reference, points)
    return {
        "utility": float(utilities_W.mean()),
        "volume": pareto.hypervolume(front.test_NK, reference),
        "hull": pareto.hull_hypervolume(front.test_NK, reference),
        "equal": pareto.hypervolume(front.test_NK[few], reference),
    }


def most_volume(values_NK: Floats, reference_K: Sequence[float], count: int) -> list[int]:
    """Return the points that are taken one by one, each for the hypervolume it adds."""
    taken: list[int] = []
    for _ in range(min(count, len(values_NK))):
        left = [n for n in range(len(values_NK)) if n not in taken]
        volumes = [pareto.hypervolume(values_NK[[*taken, n]], reference_K) for n in left]
        taken.append(left[int(np.argmax(volumes))])
    return taken


def _read(rows: Rows, bed: str, entry: str, steps: int | None, measure: str) -> dict[int, float]:
    """Return a measure of a method at so many steps, by seed."""
    found = {}
    for row in rows:
        if (row.bed, row.entry) == (bed, entry) and (front := at(row, steps)) is not None:
            found[row.seed] = measures(row, front, _fewest(rows, bed, row.seed))[measure]
    return found


def _fewest(rows: Rows, bed: str, seed: int) -> int:
    """Return the number of points of the smallest front that is compared at a seed."""
    sizes = [
        len(front.test_NK)
        for row in rows
        for steps in (SMALL, None)
        if (row.bed, row.seed) == (bed, seed) and (front := at(row, steps)) is not None
    ]
    return min(sizes)


def _difference(rows: Rows, bed: str, entry: str, steps: int | None, measure: str) -> Difference:
    """Return a method at so many steps minus the grid at its end, paired by seed."""
    mine = _read(rows, bed, entry, steps, measure)
    return goal.paired(mine, _read(rows, bed, GRID, None, measure))


# --- tables and picture --------------------------------------------------------------------------


def _stages(rows: Rows, bed: str) -> list[tuple[str, int | None]]:
    """Return what is compared: every method within the small budget, and at its end."""
    return [(entry, steps) for entry in entries(rows, bed) for steps in (SMALL, None)]


def _methods(rows: Rows, bed: str) -> tuple[list[str], list[list[str]]]:
    header = ["method", "trials", "steps", "tokens sampled", "points (mixed)", *MEASURES.values()]
    lines = []
    for entry, steps in _stages(rows, bed):
        seen = [r for r in rows if (r.bed, r.entry) == (bed, entry)]
        found = [front for r in seen if (front := at(r, steps)) is not None]
        if not found:
            continue
        lines.append(
            [
                _named(entry, steps),
                _mean([f.trials for f in found]),
                _mean([f.steps for f in found]),
                f"{np.mean([f.generated for f in found]):,.0f}",
                f"{_mean([len(f.test_NK) for f in found])} ({_mean([f.kinds[2] for f in found])})",
                *(goal.plain(goal.mean(_read(rows, bed, entry, steps, m))) for m in MEASURES),
            ]
        )
    return header, lines


def _differences(rows: Rows, bed: str) -> tuple[list[str], list[list[str]]]:
    header = [f"minus {GRID} at its end", *MEASURES.values()]
    lines = [
        [_named(entry, steps), *(signed(_difference(rows, bed, entry, steps, m)) for m in MEASURES)]
        for entry, steps in _stages(rows, bed)
        if (entry, steps) != (GRID, None)
    ]
    return header, lines


def _going_on(rows: Rows, bed: str) -> list[str]:
    """Return what trials that go on with a policy save, and what they cost."""
    pairs = _side_by_side(rows, bed)
    if not pairs:
        return []
    said = [_courses(warm) for _, warm in pairs.values()]
    went, again = (sum(column) for column in zip(*said, strict=True))
    header = ["continuation beside gp", "steps", "steps of gp", "expected utility, minus gp's",
              "hypervolume, minus gp's"]  # fmt: skip
    lines = []
    for name, cut in (("equal numbers of trials", _equal_trials), ("equal steps", _equal_steps)):
        cuts = {seed: cut(cold, warm) for seed, (cold, warm) in pairs.items()}
        differences = [
            goal.mean(
                {
                    seed: measures(pairs[seed][1], warm, 1)[measure]
                    - measures(pairs[seed][0], cold, 1)[measure]
                    for seed, (cold, warm) in cuts.items()
                }
            )
            for measure in ("utility", "volume")
        ]
        lines.append(
            [
                name,
                _mean([warm.steps for _, warm in cuts.values()]),
                _mean([cold.steps for cold, _ in cuts.values()]),
                *map(signed, differences),
            ]
        )
    return [
        f"**Warm starts.** `{WARM}` is `{COLD}` whose trials, once four have ended, go on with the "
        f"policy that is worth most to them. Over the seeds {went} trials did. {again} more were "
        "trained in full after that, nearly all because such a trial had made no progress and its "
        "parameters were tried from scratch; the steps below include both.",
        table.markdown(header, lines),
    ]


def _side_by_side(rows: Rows, bed: str) -> dict[int, tuple[Row, Row]]:
    """Return the cells without and with warm starts, by seed."""
    found = {(r.entry, r.seed): r for r in rows if r.bed == bed}
    seeds = sorted({seed for _, seed in found})
    return {
        seed: (found[COLD, seed], found[WARM, seed])
        for seed in seeds
        if (COLD, seed) in found and (WARM, seed) in found
    }


def _courses(row: Row) -> tuple[int, int]:
    """Return how many trials went on, and how many were trained in full after the first of them."""
    totals = [0, *(front.steps for front in fronts(row))]
    lengths = [after - before for before, after in itertools.pairwise(totals)]
    whole = max(lengths)
    first = next((n for n, length in enumerate(lengths) if length < whole), len(lengths))
    late = lengths[first:]
    return sum(length < whole for length in late), sum(length == whole for length in late)


def _equal_trials(cold: Row, warm: Row) -> tuple[Front, Front]:
    """Return both fronts after as many trials as the shorter of them has."""
    count = min(len(row.data["fronts"]) for row in (cold, warm))
    return fronts(cold)[count - 1], fronts(warm)[count - 1]


def _equal_steps(cold: Row, warm: Row) -> tuple[Front, Front]:
    """Return both fronts within as many steps as the one that took fewer has taken."""
    steps = min(row.data["fronts"][-1]["steps"] for row in (cold, warm))
    within = [[f for f in fronts(row) if f.steps <= steps][-1] for row in (cold, warm)]
    return within[0], within[1]


def _named(entry: str, steps: int | None) -> str:
    return f"{entry}, at its end" if steps is None else f"{entry}, at most {steps} steps"


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.1f}".removesuffix(".0")


def draw(rows: Rows) -> Mapping[str, bytes]:
    """Return for each bed a picture of expected utility against training steps."""
    from matplotlib.figure import Figure

    found = {}
    for bed in beds(rows):
        figure = Figure(figsize=(7.0, 4.2), layout="constrained")
        panel = figure.subplots()
        style(panel)
        for number, entry in enumerate(entries(rows, bed)):
            for row in (r for r in rows if (r.bed, r.entry) == (bed, entry)):
                every = fronts(row)
                panel.step(
                    [front.steps for front in every],
                    [measures(row, front, 1)["utility"] for front in every],
                    where="post",
                    color=COLOURS[number],
                    alpha=0.8,
                    label=entry if row.seed == min(r.seed for r in rows) else None,
                )
        panel.axvline(SMALL, color="0.7", linewidth=0.8, linestyle=":")
        panel.set_xlabel("training steps, all trials together")
        panel.set_ylabel("expected utility on test")
        panel.set_title(f"{bed}: a line per seed")
        panel.legend(frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=120)
        found[bed] = buffer.getvalue()
    return found
