"""What each family of prompts gets by its own objective, on the bed with two of them: numbers, and
a picture.

The rival is the best single fixed weighting: one for both families, the one with the highest mean
over them on validation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np

from benchmarks.comparison.measures import Numbers, normalised
from benchmarks.comparison.picture import COLOURS, hull, mark, png, style
from benchmarks.comparison.plan import CENTRE
from benchmarks.comparison.results import Arena, Results, Trained
from benchmarks.weightings.plan import FIXED
from moalign.errors import StudyError
from moalign.reporting.plots import INK

EQUAL: Final = f"{FIXED}, equal weights"
"""``fixed`` at equal weights, chosen by nothing: one of the published ablations."""


def family_utilities(
    results: Results, arena: Arena, wants: Mapping[str, Mapping[str, float]]
) -> dict[tuple[str, int], Numbers]:
    """Return each family's own utility, by entry and seed.

    Of ``fixed`` the best single preference counts; :data:`EQUAL` is the one with equal weights.
    ``FAMILY over the mean`` is by how much a family has more than that preference gives the
    families on average, as the test bed without a language model has it; ``number`` which cell
    it is.
    """
    found: dict[tuple[str, int], dict[str, float]] = {}
    for seed in results.seeds(arena.name):
        for kind in arena.kinds:
            cells = [c for c in results.of(arena.name, kind.label, seed) if c.groups]
            if not cells:
                continue
            by_cell = [family_numbers(arena, cell, wants) for cell in cells]
            _, test = max(by_cell, key=lambda pair: pair[0]["mean"])
            found[kind.label, seed] = test
            for _, own in by_cell:
                if kind.label == FIXED and own["number"] == CENTRE:
                    found[EQUAL, seed] = own
        rival = found.get((FIXED, seed), {}).get("mean", math.nan)
        for (_, other), numbers in found.items():
            if other == seed:
                numbers |= {over_mean(family): numbers[family] - rival for family in wants}
    return dict(found)


def over_mean(family: str) -> str:
    """Return what the numbers call a family's lead over the mean of the rival's families."""
    return f"{family} over the mean"


def family_weights(
    results: Results, arena: Arena, numbers: Mapping[tuple[str, int], Numbers], label: str
) -> dict[str, list[float]]:
    """Return an entry's mean weights by family, over training and the seeds; of ``fixed`` the best.

    Empty if it has none.
    """
    found: dict[str, list[list[float]]] = {}
    for (entry, seed), own in numbers.items():
        if entry != label:
            continue
        source = FIXED if label == EQUAL else label
        for cell in results.of(arena.name, source, seed):
            if cell.number == own["number"]:
                for family, weights_K in cell.group_weights.items():
                    found.setdefault(family, []).append(weights_K)
    return {family: np.mean(rows, axis=0).tolist() for family, rows in found.items()}


def family_numbers(
    arena: Arena, cell: Trained, wants: Mapping[str, Mapping[str, float]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return what each family gets by its own objective, on validation and on test.

    Raises:
        StudyError: the cell is of a bed with other families, as it was in earlier days.
    """
    if set(cell.groups) != set(wants):
        raise StudyError(
            f"the document's families of prompts are {', '.join(cell.groups)}, and the report is "
            f"about {', '.join(wants)}: run the bed {arena.name} again"
        )
    both = []
    for split in (0, 1):
        own = {}
        for family, weights in wants.items():
            values_K = normalised(arena, cell.groups[family][split])
            own[family] = float(
                sum(
                    weights.get(n, 0.0) * v for n, v in zip(arena.objectives, values_K, strict=True)
                )
            )
        own["mean"] = sum(own.values()) / len(own)
        own["number"] = float(cell.number)
        own["tokens"] = float(sum(cell.tokens))
        both.append(own)
    return both[0], both[1]


def draw_families(
    results: Results, arena: Arena, wants: Mapping[str, Mapping[str, float]]
) -> bytes | None:
    """Return a PNG file of what each family of prompts gets by its own objective, on test.

    A point per entry and preference, mean over the seeds; None if there is nothing to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn: dict[str, dict[int, list[list[float]]]] = {}
    for cell in results.trained:
        if cell.bed == arena.name and cell.groups:
            _, own = family_numbers(arena, cell, wants)
            at = drawn.setdefault(cell.entry, {}).setdefault(cell.number, [])
            at.append([own[family] for family in wants])
    points_of = {
        entry: np.asarray([np.mean(rows, axis=0) for rows in by_number.values()])
        for entry, by_number in drawn.items()
    }
    if FIXED not in points_of or len(wants) != 2:
        return None
    figure = Figure(figsize=(6.4, 4.6), dpi=90)
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    style(panel)
    across, up = wants
    panel.set_xlabel(f"own utility of {across} →", color=INK, fontsize=9)
    panel.set_ylabel(f"own utility of {up} →", color=INK, fontsize=9)
    hull(panel, points_of.pop(FIXED))
    for number, (entry, values) in enumerate(points_of.items()):
        colour = COLOURS[number % len(COLOURS)]
        x_N, y_N = values.T
        panel.scatter(x_N, y_N, s=40, color=colour, marker=mark(number), label=entry, zorder=4)
    panel.legend(frameon=False, fontsize=8, labelcolor=INK)
    return png(figure, f"{arena.name}, on test, mean over seeds; grey: mixtures of {FIXED}")
