"""The look of the pictures: a panel per bed, a line per entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.comparison.picture import COLOURS, png, style
from moalign.reporting.plots import INK

ACROSS = 3
"""Panels in a row."""


@dataclass(frozen=True)
class Line:
    """A line of a panel.

    Attributes:
        label: what it is.
        x: where its points lie.
        y_SX: their heights, a row per seed; the line is the mean, the band a standard error.
        colour: a number; lines with one number have one colour.
        dashed: drawn with dashes.
    """

    label: str
    x: Sequence[float]
    y_SX: Sequence[Sequence[float]]
    colour: int
    dashed: bool = False


def panels(lines: Mapping[str, Sequence[Line]], title: str, below: str, beside: str) -> bytes:
    """Return a PNG file.

    Args:
        lines: by panel.
        title: over all.
        below: what the horizontal axis shows.
        beside: what the vertical axis shows.
    """
    across = min(ACROSS, len(lines))
    down = -(-len(lines) // across)
    figure = Figure(figsize=(4.0 * across + 2.2, 2.9 * down + 0.5), dpi=90)
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, squeeze=False)
    handles = {}
    for panel, (name, drawn) in zip(grid.flat, lines.items(), strict=False):
        style(panel)
        panel.set_title(name, loc="left", fontsize=10, fontweight="bold", color=INK)
        for line in drawn:
            colour = COLOURS[line.colour % len(COLOURS)]
            look = (0, (4, 2)) if line.dashed or line.colour >= len(COLOURS) else "-"
            y_SX = np.asarray(line.y_SX, dtype=np.float64)
            mean_X = y_SX.mean(0)
            (handles[line.label],) = panel.plot(
                line.x, mean_X, color=colour, linestyle=look, linewidth=1.6, label=line.label
            )
            if len(y_SX) > 1:
                error_X = y_SX.std(0, ddof=1) / np.sqrt(len(y_SX))
                panel.fill_between(
                    line.x, mean_X - error_X, mean_X + error_X, color=colour, alpha=0.12, lw=0
                )
    for panel in grid.flat[len(lines) :]:
        panel.set_axis_off()
    for panel in grid[-1]:
        panel.set_xlabel(below, color=INK, fontsize=9)
    for panel in grid[:, 0]:
        panel.set_ylabel(beside, color=INK, fontsize=9)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside right upper",
        frameon=False,
        fontsize=8,
        labelcolor=INK,
    )
    return png(figure, title)
