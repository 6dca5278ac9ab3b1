"""What each family of prompts gets by its own objective, on the bed with two of them: numbers, and
a picture."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.comparison.measures import Numbers, normalised
from benchmarks.comparison.picture import COLOURS, hull, mark, png, style
from benchmarks.comparison.results import Arena, Results, Trained
from benchmarks.weightings.plan import FIXED
from moalign.reporting.plots import INK


def family_utilities(
    results: Results, arena: Arena, wants: Mapping[str, Mapping[str, float]]
) -> dict[tuple[str, int], Numbers]:
    """Return each family's own utility, by entry and seed.

    Of ``fixed`` the best single preference counts: the one with the highest mean over the families
    on validation.
    """
    found: dict[tuple[str, int], Numbers] = {}
    for seed in results.seeds(arena.name):
        for kind in arena.kinds:
            cells = [c for c in results.of(arena.name, kind.label, seed) if c.groups]
            if not cells:
                continue
            by_cell = [family_numbers(arena, cell, wants) for cell in cells]
            _, test = max(by_cell, key=lambda pair: pair[0]["mean"])
            found[kind.label, seed] = test
    return found


def family_numbers(
    arena: Arena, cell: Trained, wants: Mapping[str, Mapping[str, float]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return what each family gets by its own objective, on validation and on test."""
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
