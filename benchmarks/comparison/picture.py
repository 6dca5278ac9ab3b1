"""The picture: per bed, the points of every family of entries beside the hull of one entry.

A row per family, a column per pair of objectives; a point is the mean over the seeds of an entry's
policy on test. The polygon is what mixtures of that one's policies reach.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.comparison.measures import Floats, normalised
from benchmarks.comparison.plan import BASE
from benchmarks.comparison.results import Arena, Results
from moalign.reporting.plots import ACCENT, BASE_COLOUR, FAINT, GRID, INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: Final = (
    "#2f6fde", "#d9480f", "#20a39e", "#b5179e", "#7a5c00", "#3b2a86", "#5c940d", "#c2255c",
)  # fmt: skip
MARKS: Final = "osD^vP*X"


def draw(results: Results, arena: Arena, rival: str) -> bytes | None:
    """Return a PNG file; None if there is nothing to draw.

    Args:
        results: the document.
        arena: the bed.
        rival: the entry whose policies make the hull.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kinds = [k for k in arena.kinds if k.label not in (BASE, rival)]
    drawn = {k.label: points(results, arena, k.label) for k in kinds}
    families = list(dict.fromkeys(k.family for k in kinds if len(drawn[k.label])))
    pairs = list(combinations(range(len(arena.objectives)), 2))
    hull_NK = points(results, arena, rival)
    if not families or not len(hull_NK) or not pairs:
        return None
    size = (4.0 * len(pairs) + 2.6, 2.9 * len(families) + 0.9)
    figure = Figure(figsize=size, dpi=90)
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(families), len(pairs), squeeze=False, sharex="col", sharey="col")
    base_NK = points(results, arena, BASE)
    for place, (row, family) in enumerate(zip(grid, families, strict=True), start=1):
        ours = [k for k in kinds if k.family == family and len(drawn[k.label])]
        for panel, (x, y) in zip(row, pairs, strict=True):
            style(panel)
            _axes(panel, arena, x, y, last=place == len(families))
            hull(panel, hull_NK[:, [x, y]])
            for number, kind in enumerate(ours):
                values = drawn[kind.label]
                panel.scatter(
                    values[:, x],
                    values[:, y],
                    s=30,
                    color=COLOURS[number % len(COLOURS)],
                    marker=mark(number),
                    label=kind.label if kind.preference else f"{kind.label} *",
                    zorder=4,
                )
            if len(base_NK):
                at = base_NK[0]
                panel.scatter(at[x], at[y], s=42, marker="+", color=BASE_COLOUR, zorder=5)
        row[0].set_title(family, loc="left", fontsize=10, fontweight="bold", color=INK)
        row[-1].legend(
            loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8, labelcolor=INK
        )
    some = any(not k.preference for k in kinds)
    return png(
        figure,
        f"{arena.name}: policies on test, mean over seeds; grey: mixtures of the {rival} policies; "
        f"+: base policy{'; *: no preference' if some else ''}",
    )


def mark(number: int) -> str:
    """Return the mark of a family's n-th entry; with the colour none is like another of 64."""
    return MARKS[(number + number // len(COLOURS)) % len(MARKS)]


def points(results: Results, arena: Arena, entry: str) -> Floats:
    """Return an entry's policies on test by number, in units of the bounds, mean over seeds."""
    by_number: dict[int, list[Floats]] = {}
    for cell in results.trained:
        if (cell.bed, cell.entry) == (arena.name, entry):
            by_number.setdefault(cell.number, []).append(normalised(arena, cell.test_K))
    means = [np.mean(by_number[number], axis=0) for number in sorted(by_number)]
    return np.asarray(means).reshape(-1, len(arena.objectives))


def outline(points_N2: Floats) -> list[tuple[float, float]]:
    """Return the corners of the convex hull of points in the plane, anticlockwise."""
    ordered = sorted({(float(x), float(y)) for x, y in points_N2})
    if len(ordered) < 3:
        return ordered

    def half(candidates: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        kept: list[tuple[float, float]] = []
        for point in candidates:
            while len(kept) > 1 and _turn(kept[-2], kept[-1], point) <= 0:
                kept.pop()
            kept.append(point)
        return kept[:-1]

    return half(ordered) + half(ordered[::-1])


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    """Above 0 if a, b, c turn to the left."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def hull(panel: Axes, points_N2: Floats) -> None:
    """Draw points and what their mixtures reach."""
    corners = outline(points_N2)
    look: dict[str, Any] = {"color": FAINT, "zorder": 1}
    if len(corners) > 2:
        panel.fill(*zip(*corners, strict=True), alpha=0.35, linewidth=0, **look)
    else:
        panel.plot(*zip(*corners, strict=True), linewidth=3, alpha=0.5, **look)
    panel.scatter(points_N2[:, 0], points_N2[:, 1], s=24, color=MUTED, zorder=3)


def png(figure: Figure, title: str) -> bytes:
    """Return a figure as a file, under a title."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def style(panel: Axes) -> None:
    """Give a panel the look of all."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(FAINT)
    panel.grid(color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(colors=MUTED, labelsize=8, length=0)


def _axes(panel: Axes, arena: Arena, x: int, y: int, *, last: bool) -> None:
    """Name the axes and draw the thresholds."""
    panel.set_ylabel(f"{arena.objectives[y]} →", color=INK, fontsize=9)
    if last:
        panel.set_xlabel(f"{arena.objectives[x]} →", color=INK, fontsize=9)
    for axis, line in ((x, panel.axvline), (y, panel.axhline)):
        name = arena.objectives[axis]
        if name in arena.thresholds:
            low, high = arena.bounds_K2[axis]
            at = (arena.thresholds[name] - low) / (high - low)
            line(at, color=ACCENT, linewidth=0.8, linestyle=(0, (2, 3)), alpha=0.6)
