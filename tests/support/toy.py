"""Runs that were never trained, with numbers of one's own choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moalign.reporting.statistics import mean_and_stderr
from moalign.search import events
from moalign.search.archive import Run
from moalign.search.folders import RunFolder
from moalign.search.measurements import Measured, Measurements
from moalign.search.record import Record, read
from moalign.types import BASE, Cost, Evaluation, Objective, Proposal, Start


def make_run(
    root: Path,
    name: str = "toy",
    trials: Mapping[int, Mapping[int, Sequence[float]]] | None = None,
    *,
    base: Sequence[float] = (0.5, 0.5),
    objectives: Sequence[Objective] = (
        Objective("a", (0.0, 1.0)),
        Objective("b", (0.0, 1.0)),
    ),
    conditions: Sequence[Mapping[str, float] | None] = (None,),
    units: int = 40,
    noise: float = 0.05,
    samples: int = 3,
    test: bool = True,
    closed: str | None = "finished",
    failed: Mapping[int, str] | None = None,
    study: Mapping[str, Any] | None = None,
) -> Run:
    """Write a run that was never trained, through the real record, and read it back.

    Args:
        root: folder of the runs.
        name: of the run.
        trials: per trial, the means of the front objectives by step.
        base: the base policy's means.
        objectives: all of them.
        conditions: that every trial is measured under; each raises what it weighs.
        units: how many, alike for all points.
        noise: deviation over the units, nearly the same for all points.
        samples: completions kept with each measurement.
        test: measure the front on test.
        closed: how the driver left it; None leaves it open.
        failed: why trials failed, by number.
        study: what differs from a small resolved study.
    """
    trials = trials or {0: {30: (0.9, 0.2)}, 1: {30: (0.7, 0.7)}, 2: {15: (0.6, 0.6)}}
    folder = RunFolder(root / name)
    names = tuple(o.name for o in objectives)
    data = {
        "study": "toy",
        "seed": 0,
        "task": {"toy-task": {}},
        "policy": {"scratch": {}},
        "objectives": {n: {"reward": {"toy-reward": {}}} for n in names},
        "weighting": {"fixed": {"preference": None}},
        "training": {"steps": 30},
        "search": {"order": "logical", "trials": len(trials)},
        "report": {"preferences": "default", "resamples": 100},
    } | dict(study or {})
    shared = np.random.default_rng(1).normal(0, noise, (units, len(names)))

    def measure(record: Record, trial: int, step: int, split: Any, means: Any) -> None:
        measured, points = [], []
        for number, condition in enumerate(conditions if trial != BASE else (None,)):
            own = np.random.default_rng((trial + 1, step, number, split == "test"))
            shift = np.array([(condition or {}).get(n, 0.0) / 10 for n in names])
            drawn = own.normal(0, noise / 5, shared.shape)
            values_UK = np.asarray(means) + shift + shared + drawn - drawn.mean(0)
            written = tuple(
                {"prompt": f"prompt {u} <x>", "text": f"text {trial} <b>&</b>", "scores": {}}
                for u in range(samples)
            )
            ids = tuple(f"u{u}" for u in range(units))
            evaluation = Evaluation(names, ids, values_UK.tolist(), Cost(generated=9), written)
            measured.append(Measured(condition, evaluation))
            mean_K, stderr_K = mean_and_stderr(values_UK)
            points.append(events.Point(condition, tuple(mean_K), tuple(stderr_K)))
        cost = Cost(1000 * step, 2000, 3000)
        path = folder.measurements(trial, step, split)
        path.parent.mkdir(parents=True, exist_ok=True)
        Measurements(trial, step, 30, split, cost, tuple(measured)).write(path)
        record.append(events.Measured(2.0, trial, step, split, tuple(points), cost, 1.0))

    with Record(folder) as record:
        record.append(
            events.Opened(
                time=1.0,
                fingerprint="0",
                study=data,
                objectives=tuple(objectives),
                workers=1,
                trials=len(trials),
                versions={"moalign": "0"},
                plugins={},
                revision=None,
                pid=1,
                host="here",
            )
        )
        measure(record, BASE, 0, "validation", base)
        for trial, steps in trials.items():
            weights = {n: 1.0 / len(names) for n in names}
            params = {"weighting.preference": weights, "training.learning_rate": 3e-4}
            record.append(events.Proposed(1.0, trial, Proposal(params, Start())))
            for step, means in steps.items():
                measure(record, trial, step, "validation", means)
            if max(steps, default=0) < 30 and trial not in (failed or {}):
                record.append(events.Decided(1.0, trial, max(steps), False, "rank 2 of 2"))
            if trial in (failed or {}):
                record.append(events.Failed(1.0, trial, (failed or {})[trial], ""))
        front = record.state.front()
        if test and front:
            points = {(o.trial, o.step) for o in front}
            record.append(events.OpenedTest(1.0, tuple(sorted(points))))
            measure(record, BASE, 0, "test", base)
            for trial, step in sorted(points):
                measure(record, trial, step, "test", trials[trial][step])
        if closed is not None:
            record.append(events.Closed(3.0, closed))  # type: ignore[arg-type]
    return read(folder)
