"""How a task ended, for people: what was raised, and where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from moalign import SegmentFailed, SegmentTask, Start
from moalign.errors import NonFiniteError
from moalign.execution import run_task

TASK = SegmentTask(
    run=Path("run"), study={}, plugins=(), trial=0, start=Start(), since=0, until=4, total=4
)


def reason(segment: Any) -> str:
    ended = run_task(segment, TASK, lambda event: None, {})
    assert isinstance(ended, SegmentFailed)
    return ended.reason


def line_of(text: str) -> int:
    (number,) = (n for n, line in enumerate(Path(__file__).read_text().splitlines(), 1)
                 if line.strip() == text)  # fmt: skip
    return number


def slips(*_: Any) -> None:
    json.nothing()  # type: ignore[attr-defined]


def misuses(*_: Any) -> None:
    torch.nn.Linear(2, 2)(torch.zeros(3))


def reads(*_: Any) -> None:
    json.loads("{")


def test_the_line_that_raised_is_named() -> None:
    number = line_of("json.nothing()  # type: ignore[attr-defined]")
    assert reason(slips) == (
        "AttributeError: module 'json' has no attribute 'nothing' "
        f"(test_execution.py line {number})"
    )


def test_lines_of_torch_are_not() -> None:
    number = line_of("torch.nn.Linear(2, 2)(torch.zeros(3))")
    assert reason(misuses).endswith(f" (test_execution.py line {number})")
    assert "(decoder.py line " in reason(reads), "other libraries are"


def test_a_sentence_of_ours_stands_alone() -> None:
    def diverges(*_: Any) -> None:
        raise NonFiniteError("the loss became infinite")

    assert reason(diverges) == "the loss became infinite"


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("odd")])
def test_whatever_is_raised_has_its_place(error: Exception) -> None:
    def fails(*_: Any) -> None:
        raise error

    number = line_of("raise error")
    name = type(error).__name__
    assert reason(fails) == f"{name}: {error} (test_execution.py line {number})"
