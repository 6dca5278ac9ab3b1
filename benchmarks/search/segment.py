"""The stand-in for training: a checkpoint is the problem's values at its inputs and step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.search.problem import Problem
from benchmarks.search.studies import problem_of
from moalign.search.folders import RunFolder
from moalign.search.measurements import Measured, Measurements
from moalign.types import BASE, Cost, Evaluation, SegmentTask, StepEvent


def run_segment(
    task: SegmentTask, emit: Callable[[StepEvent], None], cache: dict[str, Any]
) -> None:
    """Evaluate the problem of a study; the base policy has the worst values that count.

    Its policy is an empty folder: nothing starts from one here.
    """
    del emit
    problem = _problem(task, cache)
    if task.trial == BASE:
        values_UK = [list(problem.worst_K)] * 2
    else:
        given = task.study["weighting"]["inputs"]
        inputs = [given[f"x{number}"] for number in range(problem.inputs)]
        key = f"{task.study['seed']}/{task.split}/{task.trial}/{task.until}"
        values_UK = problem.measured(inputs, task.until / task.total, key)
    names = tuple(task.study["objectives"])
    units = tuple(f"u{number}" for number in range(len(values_UK)))
    evaluation = Evaluation(names, units, values_UK, Cost(generated=1))
    measurements = Measurements(
        trial=task.trial,
        step=task.until,
        total=task.total,
        split=task.split,
        cost=Cost(generated=task.until),
        evaluations=(Measured(None, evaluation),),
    )
    run = RunFolder(task.run)
    path = run.measurements(task.trial, task.until, task.split)
    run.policy(task.trial, task.until).mkdir(parents=True, exist_ok=True)
    measurements.write(path)


def _problem(task: SegmentTask, cache: dict[str, Any]) -> Problem:
    name = task.study["task"]["problem"]["problem"]
    problems: dict[str, Problem] = cache.setdefault("problems", {})
    if name not in problems:
        problems[name] = problem_of(name)
    return problems[name]
