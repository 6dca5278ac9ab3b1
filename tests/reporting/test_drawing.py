"""Picture, page, report and files: what they hold, and that nothing in them can run."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moalign import Objective
from moalign.errors import RecordError
from moalign.reporting.page import front_html
from moalign.reporting.plots import front_png
from moalign.reporting.points import read_points
from moalign.reporting.report import front_of, report_text, write_report

MakeRun = Callable[..., Any]


def run_with(make_run: MakeRun, axes: int) -> Any:
    objectives = [Objective(f"o{k}", (0.0, 1.0)) for k in range(axes)]
    trials = {t: {30: [0.2 + 0.5 * (t % axes == k) for k in range(axes)]} for t in range(axes)}
    trials[axes] = {15: [0.1] * axes}
    return make_run(f"k{axes}", trials=trials, objectives=objectives, base=[0.3] * axes)


@pytest.mark.parametrize("axes", [1, 2, 3, 5])
def test_the_picture_is_a_png_of_its_size(make_run: MakeRun, axes: int) -> None:
    drawn = front_png(read_points(run_with(make_run, axes)))
    assert drawn[:8] == b"\x89PNG\r\n\x1a\n"
    wide, high = struct.unpack(">II", drawn[16:24])
    assert (wide > 2 * high) == (axes == 3), "three panels stand side by side"
    assert len(drawn) > 10_000


def test_the_picture_needs_no_global_state(make_run: MakeRun) -> None:
    import sys

    front_png(read_points(run_with(make_run, 2)))
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def traces(page: str) -> list[dict[str, Any]]:
    """Return the traces that the page hands to plotly."""
    found = []
    for match in re.finditer(r'Plotly\.newPlot\(\s*"[^"]+",\s*', page):
        data, _ = json.JSONDecoder().raw_decode(page, match.end())
        found += data
    return found


@pytest.mark.parametrize(("axes", "count"), [(1, 2), (2, 3), (3, 12), (5, 7)])
def test_the_page_draws_every_point(make_run: MakeRun, axes: int, count: int) -> None:
    run = run_with(make_run, axes)
    page = front_html(front_of(run))
    drawn = traces(page)
    assert len(drawn) == count
    texts = "".join(text for trace in drawn for text in trace["text"])
    for point in read_points(run).points:
        assert f"<b>{point.id}</b>" in texts
    assert "training.learning_rate" in texts
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page), "it needs no network"
    assert '"showSendToCloud": false' in page, "nobody's data is one click away from a server"


def test_text_of_models_cannot_run_in_the_page(make_run: MakeRun) -> None:
    page = front_html(front_of(make_run()))
    assert "prompt 0 <x>" not in page
    assert "<b>&</b>" not in page
    hover = traces(page)[0]["text"][0]
    assert "text 2 &lt;b&gt;&amp;&lt;/b&gt;" in hover
    assert "<td>text 0 &lt;b&gt;&amp;&lt;/b&gt;</td>" in page


@pytest.mark.parametrize("samples", [0, 3])
def test_completions_are_promised_where_there_are_some(make_run: MakeRun, samples: int) -> None:
    """Agreement is measured without any."""
    run = make_run(samples=samples)
    page, report = front_html(front_of(run)), report_text(run, front_of(run), {})
    promises = ("<h2>What they write</h2>", "what it writes.", "and completions;")
    assert [p in page + report for p in promises] == [samples > 0] * 3
    assert ('<div class="scroll"></div>' in page) is False
    assert re.search(r"what made\s+it( and what it writes)?\.</p>", page)


def test_the_report_writes_its_files_by_role(make_run: MakeRun) -> None:
    run = make_run(failed={2: "the loss became infinite"})
    files = write_report(run, {"rows skipped": 7})
    assert set(files) == {"points_csv", "front_png", "front_html", "report", "study"}
    folder: Path = run.folder.path
    assert {f.name for f in files.values()} <= {p.name for p in folder.iterdir()} | {"study.yaml"}
    assert not list(folder.glob(".front*")), "nothing half-written is left"
    assert len(files["points_csv"].read_text(encoding="utf-8").splitlines()) == 5
    text = files["report"].read_text(encoding="utf-8")
    for part in (
        "toy: a front of 2 points from 3 trials, on validation",
        "3 trials (2 finished, 1 failed)",
        "test was opened once",
        "- trial 2, step 15: the loss became infinite",
        "- rows skipped: 7",
        "moalign front toy --prefer a=3,b=1",
        "descriptive",
        "![The front](front.png)",
    ):
        assert part in text


def test_a_run_without_a_measured_trial_has_no_front(make_run: MakeRun) -> None:
    run = make_run(trials={0: {}}, failed={0: "the loss became infinite"})
    with pytest.raises(RecordError) as error:
        front_of(run)
    assert str(error.value) == (
        "run toy has no measured trial, so it has no front; "
        "trial 0 failed: the loss became infinite"
    )


def test_the_report_of_an_open_run_says_that_its_numbers_are_too_high(make_run: MakeRun) -> None:
    run = make_run(test=False, closed=None)
    text = write_report(run, {})["report"].read_text(encoding="utf-8")
    assert "Test has not been measured yet" in text
    assert "are too high" in text
    assert "The same points on test" not in text
