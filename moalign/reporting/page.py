"""The front as an interactive page: one HTML file that needs no network.

Hovering over a point shows its values, its parameters and what its policy writes. All text that
comes from a model or a study is escaped.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from string import Template
from typing import Any, Final

from moalign.reporting.front import (
    Front,
    before_note,
    choice_rows,
    front_rows,
    hypervolume_sentences,
    number,
    threshold_note,
)
from moalign.reporting.pick import share
from moalign.reporting.plots import (
    ACCENT,
    BASE_COLOUR,
    FAINT,
    GRID,
    INK,
    MUTED,
    SCALE,
    dominated,
    normalised,
    title,
)
from moalign.reporting.points import Point, PointTable, with_error
from moalign.types import Objective

SAMPLES: Final = 2
"""Completions in a hover text."""

NOTHING: Final = "(nothing)"
"""What stands for an empty completion."""

SHOWN: Final = 4
"""Prompts in the table of completions."""

_LONGEST: Final = 220
"""Characters of a text in a hover."""

_SCALE: Final = [[i / (len(SCALE) - 1), colour] for i, colour in enumerate(SCALE)]


def front_html(front: Front) -> str:
    """Draw all points on validation, interactive, with the tables below; return an HTML page."""
    table = front.table
    figures = _figures(table)
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=number == 0, config=_CONFIG)
        for number, figure in enumerate(figures)
    ]
    return _PAGE.substitute(
        title=html.escape(title(table)),
        plots="\n".join(f'<div class="plot">{part}</div>' for part in parts),
        front=_html_table(*front_rows(table)),
        made=" and what it writes" if has_samples(table) else "",
        colour=" Colour is the objective that is not an axis." if len(table.axes) == 3 else "",
        stars=f"; {html.escape(note)}" if (note := threshold_note(table)) else "",
        split=front.split,
        choices=_html_table(*choice_rows(front)),
        hypervolume=html.escape(hypervolume_sentences(front)),
        before=html.escape(before_note(table)),
        samples=_samples(table),
        ink=INK,
        muted=MUTED,
        grid=GRID,
    )


_CONFIG: Final = {"displaylogo": False, "responsive": True, "showSendToCloud": False}


def _figures(table: PointTable) -> list[Any]:
    axes = len(table.axes)
    if axes == 1:
        return [_over_trials(table)]
    if axes == 2:
        return [_projections(table)]
    if axes == 3:
        return [_projections(table), _space(table)]
    return [_parallel(table)]


# --- figures -----------------------------------------------------------------------------------

_GROUPS: Final[tuple[tuple[str, str, Callable[[PointTable], Sequence[Point]]], ...]] = (
    ("dominated", FAINT, dominated),
    ("front", ACCENT, lambda table: table.front),
    ("base policy", BASE_COLOUR, lambda table: [table.base]),
)


def _projections(table: PointTable) -> Any:
    """One panel per pair of two or three objectives."""
    from plotly import graph_objects
    from plotly.subplots import make_subplots

    pairs = list(combinations(table.axes, 2))
    figure = make_subplots(1, len(pairs), horizontal_spacing=0.07)
    for column, (x, y) in enumerate(pairs, start=1):
        third = next((o for o in table.axes if o not in (x, y)), None)
        for name, colour, choose in _GROUPS:
            points = choose(table)
            if len(pairs) == 1 and name == "front":
                points = sorted(points, key=lambda p: p.values()[x.name].mean)
            marker: dict[str, Any] = {"size": 7 if name == "dominated" else 12, "color": colour}
            marker["symbol"] = "diamond" if name == "base policy" else "circle"
            if name == "front" and third is not None:
                marker |= {"color": _means(points, third), "colorscale": _SCALE}
            trace = graph_objects.Scatter(
                x=_means(points, x),
                y=_means(points, y),
                error_x=_bars(points, x, colour),
                error_y=_bars(points, y, colour),
                mode="lines+markers" if len(pairs) == 1 and name == "front" else "markers",
                line={"width": 1.2, "color": colour},
                marker={**marker, "line": {"width": 1, "color": "white"}},
                **_common(table, points, name, shown=column == 1),
            )
            figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title_text=f"{html.escape(x.name)} →", row=1, col=column)
        figure.update_yaxes(title_text=f"{html.escape(y.name)} →", row=1, col=column)
    return _styled(figure, height=480)


def _space(table: PointTable) -> Any:
    """Three objectives in space, coloured by the third."""
    from plotly import graph_objects

    x, y, z = table.axes
    figure = graph_objects.Figure()
    for name, colour, choose in _GROUPS:
        points = choose(table)
        marker: dict[str, Any] = {"size": 3 if name == "dominated" else 6, "color": colour}
        marker["symbol"] = "diamond" if name == "base policy" else "circle"
        if name == "front":
            marker |= {"color": _means(points, z), "colorscale": _SCALE}
        trace = graph_objects.Scatter3d(
            x=_means(points, x),
            y=_means(points, y),
            z=_means(points, z),
            mode="markers",
            marker=marker,
            **_common(table, points, name),
        )
        figure.add_trace(trace)
    titles = {
        f"{axis}axis": {"title": {"text": html.escape(o.name)}, "backgroundcolor": "white",
                        "gridcolor": GRID}
        for axis, o in zip("xyz", table.axes, strict=True)
    }  # fmt: skip
    camera = {"eye": {"x": 1.45, "y": 1.45, "z": 0.85}}  # from the good corner
    figure.update_layout(scene={**titles, "camera": camera, "aspectmode": "cube"})
    return _styled(figure, height=560)


def _parallel(table: PointTable) -> Any:
    """A line per point over the objectives, in normalised units."""
    from plotly import graph_objects
    from plotly.colors import sample_colorscale

    names = [html.escape(name) for name in table.names]
    figure = graph_objects.Figure()
    for name, colour, choose in _GROUPS:
        points = choose(table)
        for place, point in enumerate(points):
            shade = colour
            if name == "front":
                (shade,) = sample_colorscale(_SCALE, 1 - place / max(len(points) - 1, 1))
            dash = "dash" if name == "base policy" else "solid"
            width = 1 if name == "dominated" else 2.5
            common = _common(table, [point], name, shown=place == 0)
            trace = graph_objects.Scatter(
                x=names,
                y=normalised(table, point),
                mode="lines+markers",
                line={"color": shade, "dash": dash, "width": width},
                **{**common, "text": common["text"] * len(names)},
            )
            figure.add_trace(trace)
    figure.update_yaxes(title_text="share of the bounds →")
    return _styled(figure, height=560)


def _over_trials(table: PointTable) -> Any:
    """The only objective of each trial."""
    from plotly import graph_objects

    (objective,) = table.axes
    figure = graph_objects.Figure()
    for name, colour, choose in _GROUPS[:2]:
        points = choose(table)
        trace = graph_objects.Scatter(
            x=[point.trial for point in points],
            y=_means(points, objective),
            error_y=_bars(points, objective, colour),
            mode="markers",
            marker={"size": 9, "color": colour},
            **_common(table, points, name),
        )
        figure.add_trace(trace)
    base = table.base.values()[objective.name].mean
    figure.add_hline(y=base, line_color=BASE_COLOUR, annotation_text="base policy")
    figure.update_xaxes(title_text="trial")
    figure.update_yaxes(title_text=f"{html.escape(objective.name)} →")
    return _styled(figure, height=480)


def _common(
    table: PointTable, points: Sequence[Point], name: str, *, shown: bool = True
) -> dict[str, Any]:
    return {
        "name": name,
        "legendgroup": name,
        "showlegend": shown,
        "text": [_hover(table, point) for point in points],
        "hovertemplate": "%{text}<extra></extra>",
        "hoverlabel": {"bgcolor": "white", "bordercolor": FAINT, "align": "left"},
        "opacity": 0.7 if name == "dominated" else 1,
    }


def _means(points: Iterable[Point], objective: Objective) -> list[float]:
    return [point.values()[objective.name].mean for point in points]


def _bars(points: Iterable[Point], objective: Objective, colour: str) -> dict[str, Any]:
    stderr = [point.values()[objective.name].stderr for point in points]
    shade = MUTED if colour == ACCENT else colour
    return {"type": "data", "array": stderr, "thickness": 0.9, "width": 0, "color": shade}


def _styled(figure: Any, height: int) -> Any:
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 50, "r": 20, "t": 30, "b": 80},
        legend={"orientation": "h", "y": 0, "x": 0.5, "xanchor": "center", "yref": "container"},
        font={"family": "system-ui, sans-serif", "color": INK, "size": 13},
        hoverlabel={"font": {"size": 12, "color": INK}},
    )
    return figure


# --- text --------------------------------------------------------------------------------------


def _hover(table: PointTable, point: Point) -> str:
    """Return what hovering shows, in the small HTML that plotly understands."""
    where = "base policy" if point is table.base else f"trial {point.trial}, step {point.step}"
    lines = [f"<b>{point.id}</b>  {where}"]
    for name, value in point.values().items():
        tested = point.values("test").get(name)
        test = "" if tested is None else f"   (test {tested.mean:.3f})"
        lines.append(f"{html.escape(name)} {with_error(value.mean, value.stderr)}{test}")
    if point.weights:
        told = ", ".join(f"{html.escape(n)} {share(w)}" for n, w in point.weights.items())
        lines.append(f"<b>weights</b> {told}")
    for path, setting in point.settings().items():
        lines.append(f"<b>{html.escape(path)}</b> {html.escape(number(setting))}")
    for sample in point.validation.evaluation.samples[:SAMPLES]:
        lines += ["", f"<i>{_wrapped(sample['prompt'])}</i>", _wrapped(sample["text"])]
    return "<br>".join(lines)


def _wrapped(text: str) -> str:
    short = textwrap.shorten(text, _LONGEST, placeholder=" ...") or NOTHING
    return "<br>".join(html.escape(line) for line in textwrap.wrap(short, 70))


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(header, 'th')}</thead><tbody>\n{body}\n</tbody></table>"


def has_samples(table: PointTable) -> bool:
    """Return whether anybody wrote anything: agreement alone is measured without completions."""
    return any(p.validation.evaluation.samples for p in (table.base, *table.points))


def _samples(table: PointTable) -> str:
    """Return, for a few prompts, what the base policy and every front point write."""
    if not has_samples(table):
        return ""
    parts = []
    for place, shown in enumerate(table.base.validation.evaluation.samples[:SHOWN]):
        rows = [
            [point.id, sample["text"] or NOTHING, _scores(sample["scores"])]
            for point in (table.base, *table.front)
            for sample in point.validation.evaluation.samples[place : place + 1]
        ]
        heading = f"<h3>{html.escape(shown['prompt'])}</h3>"
        parts.append(heading + _html_table(["point", "completion", "scores"], rows))
    return '<h2>What they write</h2>\n<div class="scroll">' + "\n".join(parts) + "</div>"


def _scores(scores: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in scores.items() if value is not None)


_PAGE: Final = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: $ink; background: white;
       max-width: 1240px; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
h3 { font-size: .95rem; font-weight: 500; font-style: italic; margin: 1.4rem 0 .3rem; }
p { color: $muted; max-width: 46rem; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; border-bottom: 1px solid $muted; }
td { border-bottom: 1px solid $grid; vertical-align: top; }
th, td { padding: .3rem .9rem .3rem 0; }
.scroll { overflow-x: auto; }
</style>
</head>
<body>
<h1>$title</h1>
<p>Each point is a trained policy; up and right is better. Bars are one standard error.$colour
Points are chosen on validation; the test split only reports. Hover over a point to see what made
it$made.</p>
$plots
<h2>The front</h2>
<p>Means and standard errors on validation$stars.</p>
<div class="scroll">$front</div>
<h2>Utility at each preference, on $split</h2>
<p>The point that validation would choose, against the base policy, in normalised units; paired.
An interval speaks of these checkpoints, not of the settings they were trained with.</p>
<div class="scroll">$choices</div>
<p>$hypervolume</p>
<p>$before</p>
$samples
</body>
</html>
""")
