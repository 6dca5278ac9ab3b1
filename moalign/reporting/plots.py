"""The front as a picture, drawn from the table of points. The page in :mod:`page` shows the same.

One objective is drawn over the trials, two as a scatter, three as their three projections (each
coloured by the objective that is not an axis), more as parallel coordinates.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, Final

from moalign.reporting.points import Point, PointTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK: Final = "#20262e"
MUTED: Final = "#6b7480"
FAINT: Final = "#c3c9d1"
GRID: Final = "#eceff2"
ACCENT: Final = "#2f6fde"
BASE_COLOUR: Final = "#d9480f"
SCALE: Final = ("#3b2a86", "#2f6fde", "#20a39e", "#f2b134")
"""Colours from low to high."""

MARKER: Final = 7.0
"""Diameter of a front point, in points of the print."""


@dataclass(frozen=True)
class _Label:
    """A text that belongs beside a drawn point."""

    x: float
    y: float
    text: str


def front_png(table: PointTable) -> bytes:
    """Draw all points on validation, with error bars of one standard error; return a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    axes = len(table.axes)
    pairs = list(combinations(range(axes), 2)) if axes in {2, 3} else []
    figure = Figure(figsize=(15.5 if axes == 3 else 8.0, 6.0), dpi=130)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
    FigureCanvasAgg(figure)
    panels: list[Axes] = list(figure.subplots(1, max(len(pairs), 1), squeeze=False)[0])
    for panel in panels:
        _style(panel)
    if pairs:
        labels = [_scatter(figure, p, table, *xy) for p, xy in zip(panels, pairs, strict=True)]
    else:
        labels = [_over_trials(panels[0], table) if axes == 1 else _parallel(panels[0], table)]
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=len(names), frameon=False, labelcolor=INK
    )
    figure.suptitle(title(table), x=0.012, ha="left", fontsize=13, fontweight="bold", color=INK)
    figure.draw_without_rendering()  # fixes the layout, which the labels are placed in
    for panel, texts in zip(panels, labels, strict=True):
        _place(panel, texts, _SIDES if axes <= 3 else _RIGHT)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def title(table: PointTable) -> str:
    """Return a heading that counts points and trials."""
    trials = len({point.trial for point in table.points})
    return (
        f"{table.title}: a front of {_count(len(table.front), 'point')} from "
        f"{_count(trials, 'trial')}, on validation"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def dominated(table: PointTable) -> list[Point]:
    """Return the points off the front."""
    return [point for point in table.points if not point.front]


def _style(panel: Axes) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(FAINT)
    panel.grid(color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(colors=MUTED, labelsize=9, length=0)
    panel.margins(0.08)


def _scatter(figure: Figure, panel: Axes, table: PointTable, x: int, y: int) -> list[_Label]:
    """Draw one projection; return the labels of the front and the base policy."""
    across, up = table.axes[x], table.axes[y]
    panel.set_xlabel(f"{across.name} →", color=INK, fontsize=11)
    panel.set_ylabel(f"{up.name} →", color=INK, fontsize=11)
    for objective, draw_line in ((across, panel.axvline), (up, panel.axhline)):
        if objective.at_least is not None:
            draw_line(objective.at_least, color=MUTED, linewidth=0.9, linestyle=(0, (2, 3)))

    def draw(points: Sequence[Point], colour: str, label: str, **style: Any) -> list[_Label]:
        xs, ys = (_values(points, o.name) for o in (across, up))
        panel.errorbar(
            [value.mean for value in xs],
            [value.mean for value in ys],
            xerr=[value.stderr for value in xs],
            yerr=[value.stderr for value in ys],
            color=colour,
            linestyle="none",
            label=label,
            **style,
        )
        pairs = zip(points, xs, ys, strict=True)
        return [_Label(a.mean, b.mean, p.id) for p, a, b in pairs]

    draw(dominated(table), FAINT, "dominated", marker="o", markersize=4, elinewidth=0.6, alpha=0.8)
    front = list(table.front)
    bars = {"elinewidth": 0.9, "ecolor": MUTED, "marker": "o", "markersize": MARKER}
    labels = draw(front, ACCENT, "front", zorder=3, **bars)
    if len(table.axes) == 2:
        ordered = sorted(labels, key=lambda label: label.x)
        heights = [label.y for label in ordered]
        panel.plot([label.x for label in ordered], heights, color=ACCENT, alpha=0.5, zorder=2)
    else:
        (third,) = (o for o in table.axes if o not in (across, up))
        dots = panel.scatter(
            [label.x for label in labels],
            [label.y for label in labels],
            c=[value.mean for value in _values(front, third.name)],
            cmap=_colours(),
            s=(MARKER + 2) ** 2,
            zorder=4,
            edgecolors="white",
            linewidths=0.8,
        )
        bar = figure.colorbar(dots, ax=panel, location="top", fraction=0.035, pad=0.01, shrink=0.7)
        bar.set_label(third.name, color=INK, fontsize=10)
        bar.outline.set_visible(False)
        bar.ax.tick_params(colors=MUTED, labelsize=8, length=0)
    base = {"marker": "D", "markersize": MARKER, "elinewidth": 0.9, "zorder": 5}
    return labels + draw([table.base], BASE_COLOUR, "base policy", **base)


def _parallel(panel: Axes, table: PointTable) -> list[_Label]:
    """Draw every point as a line over the objectives, in normalised units."""
    panel.set_xticks(range(len(table.axes)))
    panel.set_xticklabels(
        [f"{o.name}\n{low:g} to {high:g}" for o, (low, high) in _bounded(table)], color=INK
    )
    panel.set_ylabel("share of the bounds →", color=INK, fontsize=11)
    last = len(table.axes) - 1

    def draw(point: Point, colour: Any, label: str, **style: Any) -> _Label:
        heights = normalised(table, point)
        panel.plot(heights, color=colour, marker="o", label=label, **style)
        return _Label(last, heights[-1], point.id)

    for number, point in enumerate(dominated(table)):
        label = "_" * bool(number) + "dominated"  # one entry of the legend for all
        draw(point, FAINT, label, linewidth=0.8, markersize=2.5, alpha=0.7)
    front, colours, labels = table.front, _colours(), []
    for number, point in enumerate(front):
        colour = colours(1 - number / max(len(front) - 1, 1))
        label = "_" * bool(number) + f"front, coloured by {table.names[0]}"
        labels.append(draw(point, colour, label, linewidth=1.8, markersize=4, zorder=3))
    base = {"linewidth": 1.8, "markersize": 5, "linestyle": "--", "zorder": 4}
    return [*labels, draw(table.base, BASE_COLOUR, "base policy", **base)]


def _over_trials(panel: Axes, table: PointTable) -> list[_Label]:
    """Draw the only objective of each trial; the base policy is a line."""
    from matplotlib.ticker import MaxNLocator

    (objective,) = table.axes
    panel.set_xlabel("trial", color=INK, fontsize=11)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_ylabel(f"{objective.name} →", color=INK, fontsize=11)
    base = table.base.values()[objective.name].mean
    panel.axhline(base, color=BASE_COLOUR, linewidth=1.2, label="base policy")
    labels = []
    for points, colour, label in (
        (dominated(table), FAINT, "dominated"),
        (list(table.front), ACCENT, "front"),
    ):
        values = _values(points, objective.name)
        panel.errorbar(
            [point.trial for point in points],
            [value.mean for value in values],
            yerr=[value.stderr for value in values],
            color=colour,
            label=label,
            linestyle="none",
            marker="o",
            markersize=MARKER,
            elinewidth=0.9,
        )
        if colour == ACCENT:
            labels = [_Label(p.trial, v.mean, p.id) for p, v in zip(points, values, strict=True)]
    return labels


def normalised(table: PointTable, point: Point) -> list[float]:
    """Return a point's validation means on the front objectives, in normalised units."""
    return [o.normalise(point.values()[o.name].mean) for o in table.axes]


def _bounded(table: PointTable) -> Iterator[tuple[Any, tuple[float, float]]]:
    return zip(table.axes, table.bounds_K2, strict=True)


def _values(points: Sequence[Point], name: str) -> list[Any]:
    return [point.values()[name] for point in points]


def _colours() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("front", SCALE)


# --- labels ------------------------------------------------------------------------------------

_SIDES: Final = ((1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1.4), (0, -1.4), (1.3, 0), (-1.3, 0))
_RIGHT: Final = ((1.3, 0),)
_GAPS: Final = (5.0, 9.0)
_SIZE: Final = 8.0
_HIDDEN: Final = 0.1
"""Share of a label that may be covered before it is left out; the page names every point."""


def _place(panel: Axes, labels: Sequence[_Label], sides: Sequence[tuple[float, float]]) -> None:
    """Write each label beside its point where it covers least; leave it out if there is no room."""
    if not labels:
        return
    scale = panel.figure.dpi / 72
    spots = panel.transData.transform([(label.x, label.y) for label in labels]) / scale
    half = MARKER / 2
    taken = [(x - half, y - half, x + half, y + half) for x, y in spots]
    for label, (x, y) in zip(labels, spots, strict=True):
        wide, high = 0.58 * _SIZE * len(label.text), _SIZE
        boxes = []
        for gap, (across, up) in product(_GAPS, sides):
            left = x + across * gap - (wide if across < 0 else wide / 2 if across == 0 else 0)
            low = y + up * gap - (high if up < 0 else high / 2 if up == 0 else 0)
            boxes.append((left, low, left + wide, low + high))
        covered = [sum(_overlap(box, other) for other in taken) for box in boxes]
        if min(covered) > _HIDDEN * wide * high:
            continue
        box = boxes[covered.index(min(covered))]
        taken.append(box)
        panel.annotate(
            label.text,
            (label.x, label.y),
            xytext=(box[0] - x, box[1] - y),
            textcoords="offset points",
            fontsize=_SIZE,
            color=INK,
            zorder=6,
        )


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    return max(wide, 0.0) * max(high, 0.0)
