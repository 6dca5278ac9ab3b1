"""Comparing runs: paired, sign, and refused where they do not measure the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from moalign import Objective
from moalign.errors import RecordError
from moalign.reporting.compare import compare, comparison_rows

MakeRun = Callable[..., Any]

GOOD = {0: {30: (0.9, 0.3)}, 1: {30: (0.6, 0.8)}}
POOR = {0: {30: (0.8, 0.2)}, 1: {30: (0.5, 0.7)}}


def test_the_second_run_against_the_first(make_run: MakeRun) -> None:
    poor, good = make_run("poor", POOR, noise=0.2), make_run("good", GOOD, noise=0.2)
    found = compare(poor, good)
    assert found.split == "test"
    assert len(found.rows) == 3
    for row in found.rows:
        assert row.difference.value == pytest.approx(0.1, abs=0.03)
        assert row.difference.low > 0, "units vary by .2, but alike in both runs"
    assert found.mean.value == pytest.approx(0.1, abs=0.03)
    back = compare(good, poor)
    assert back.mean.value == pytest.approx(-found.mean.value)
    header, rows = comparison_rows(found)
    assert [row[0] for row in rows] == ["equal weights", "a .60, b .40", "a .40, b .60", "mean"]
    assert all(len(row) == len(header) for row in rows)


def test_a_run_against_itself(make_run: MakeRun) -> None:
    run = make_run()
    assert compare(run, run).mean.value == 0.0


def test_validation_if_one_run_has_no_test(make_run: MakeRun) -> None:
    assert compare(make_run("one"), make_run("two", test=False)).split == "validation"


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"study": {"task": {"other": {}}}}, "the task is {'toy-task': {}} in the first and"),
        (
            {"objectives": (Objective("a", (0.0, 1.0)), Objective("b", (0.0, 2.0)))},
            "the bounds of b are (0.0, 1.0) and (0.0, 2.0)",
        ),
        (
            {"objectives": (Objective("a", (0.0, 1.0)), Objective("c", (0.0, 1.0)))},
            "the front has a, b in the first and a, c in the second",
        ),
        (
            {"study": {"objectives": {n: {"reward": {"new": {}}} for n in "ab"}}},
            "a is measured by {'toy-reward': {}} and by {'new': {}}",
        ),
        ({"units": 30}, "the test units differ; the same seed, evaluation and data give the same"),
    ],
)
def test_what_cannot_be_compared(make_run: MakeRun, changed: dict[str, Any], text: str) -> None:
    with pytest.raises(RecordError) as error:
        compare(make_run("one"), make_run("two", **changed))
    assert "runs one and two cannot be compared: " in str(error.value)
    assert text in str(error.value)
