"""One cell: from the base policy to its measurements. What a worker process runs."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.comparison import cells
from benchmarks.comparison.budget import goes_on, tokens
from moalign import plugins
from moalign.search import segments
from moalign.search.folders import RunFolder
from moalign.study.document import Document
from moalign.study.loading import checked
from moalign.study.study import Study
from moalign.training.loop import Trial
from moalign.types import (
    Cost,
    Evaluation,
    ResponseScores,
    SegmentTask,
    Split,
    Start,
    Step,
    StepEvent,
    Weights,
)

Emit = Callable[[StepEvent], None]


@dataclass(frozen=True)
class Job:
    """What a worker is told about a cell; plain data.

    Attributes:
        data: the cell's resolved study.
        number: the trial's number, part of every random key.
        steps: most steps; 0 for the base policy.
        budget: most tokens; None: no limit.
        every: steps between measurements on validation.
        key: written into the result.
        file: where the result goes.
        early: further steps that are measured.
        before: charged before the first step: generated, forwarded, backwarded tokens.
    """

    data: dict[str, Any]
    number: int
    steps: int
    budget: int | None
    every: int
    key: str
    file: str
    early: tuple[int, ...] = ()
    before: tuple[int, int, int] = (0, 0, 0)


@dataclass
class Course:
    """What was seen of a training."""

    moments: list[cells.Moment]
    seconds: list[float]
    cpu: float
    weights_K: list[float]
    notes: list[str]
    validation: Evaluation
    group_weights: dict[str, list[float]] = field(default_factory=dict)
    trace: dict[str, list[float]] = field(default_factory=dict)


TRACED: Final = ("weight/", "weighting/", "objective/", "scalarised", "gain", "length", "kl")
"""Beginnings of the metrics that are kept of every step: why a weighting does what it does."""


def run_cell(task: SegmentTask, emit: Emit, cache: dict[str, Any]) -> None:
    """Train and measure a cell, and write its file.

    It has the form of a segment, so that the product's executors run it: ``task.study`` holds a
    :class:`Job`, and ``task.run`` the folder of the bed and seed.

    Raises:
        MoalignError: what is compared could not be used or trained.
    """
    began = time.monotonic()
    torch.set_num_threads(task.threads)
    job = Job(**task.study)
    study = _study(job, task, cache)
    trial = begun(study, job.number, task.run, cache)
    trial.cost.add(Cost(*job.before))
    course = train(trial, job, lambda event: emit(replace(event, trial=task.trial)))
    cells.write(
        Path(job.file),
        cells.Done(
            key=job.key,
            names=[o.name for o in trial.objectives],
            steps=trial.index,
            cost=trial.cost,
            seconds=statistics.median(course.seconds) if course.seconds else 0.0,
            wall=time.monotonic() - began,
            weights_K=course.weights_K,
            moments=course.moments,
            validation=_units(course.validation, trial, "validation"),
            test=_units(measured(trial, "test"), trial, "test"),
            notes=course.notes,
            cpu=course.cpu / trial.index if trial.index else 0.0,
            trace=course.trace,
            group_weights=course.group_weights,
        ),
    )


def begun(study: Study, number: int, run: Path, cache: dict[str, Any]) -> Trial:
    """Return a trial at step 0, as a search would begin it; the host prepares what it needs."""
    steps = study.section.training.steps
    task = SegmentTask(run, number, study.data, Start(), since=0, until=steps, total=steps)
    return segments.begun(task, RunFolder(run), study, cache)


def train(trial: Trial, job: Job, emit: Emit) -> Course:
    """Train within the budget; measurements on validation are the benchmark's own, and free."""
    names = [o.name for o in trial.objectives]
    course = Course([], [], 0.0, [], [], Evaluation((), (), [], Cost()))
    sums, latest = dict.fromkeys(names, 0.0), 0
    rows = _watched_weights(trial)

    def measure() -> None:
        course.validation = measured(trial, "validation")
        means_K = torch.tensor(course.validation.values_UK, dtype=torch.float64).nanmean(0)
        moment = cells.Moment(trial.index, tokens(trial.cost), means_K.tolist())
        course.moments.append(moment)

    while goes_on(trial.index, job.steps, tokens(trial.cost), latest, job.budget):
        before, began, used = tokens(trial.cost), time.perf_counter(), time.process_time()
        metrics = trial.train_step()
        course.seconds.append(time.perf_counter() - began)
        course.cpu += time.process_time() - used
        latest = tokens(trial.cost) - before
        course.notes += trial.notes
        for name in names:
            sums[name] += metrics.get(f"weight/{name}", float("nan"))
        for name, value in metrics.items():
            if name.startswith(TRACED):  # from the first step that has it; NaN where one has not
                row = course.trace.setdefault(name, [math.nan] * (trial.index - 1))
                row += [math.nan] * (trial.index - 1 - len(row)) + [float(f"{value:.4g}")]
        emit(StepEvent(trial.trial, trial.index, time.time(), metrics, trial.notes))
        if trial.index % job.every == 0 or trial.index in job.early:
            measure()
    if not course.moments or course.moments[-1].step != trial.index:
        measure()
    means = [total / trial.index for total in sums.values()] if trial.index else []
    course.weights_K = [] if any(map(math.isnan, means)) else means
    course.group_weights = {
        family: torch.stack(found).mean(0).tolist() for family, found in sorted(rows.items())
    }
    return course


def _watched_weights(trial: Trial) -> dict[str, list[torch.Tensor]]:
    """Return a list per family of prompts, which fills with its prompts' weights in training.

    The metrics have the mean over all prompts only.
    """
    rows: dict[str, list[torch.Tensor]] = {}
    weigh = trial.weighting.weigh

    def watched(step: Step) -> Weights | ResponseScores:
        returned = weigh(step)
        families = [prompt.fields.get("family") for prompt in step.batch.prompts_P]
        if isinstance(returned, Weights) and all(families):
            values_PK = returned.values.expand(step.scores_PGK.shape).mean(1)
            for family, values_K in zip(families, values_PK.cpu(), strict=True):
                rows.setdefault(str(family), []).append(values_K)
        return returned

    trial.weighting.weigh = watched  # type: ignore[method-assign]
    return rows


def measured(trial: Trial, split: Split) -> Evaluation:
    """Measure a trial's policy without charging it, under what it calls for by itself."""
    return trial.evaluator.evaluate(trial.policy, split, None, Cost())


def _units(evaluation: Evaluation, trial: Trial, split: Split) -> cells.Units:
    by_unit = {p.unit: p.fields.get("family") for p in trial.prompts[split]}
    groups = [by_unit[unit] for unit in evaluation.units]
    return cells.Units(
        [list(row) for row in evaluation.values_UK], [str(g) for g in groups] if all(groups) else []
    )


def _study(job: Job, task: SegmentTask, cache: dict[str, Any]) -> Study:
    """Return the cell's study, with the plugins that the bed needs."""
    files = [path for path, _ in task.plugins]
    catalogues = cache.setdefault("catalogues", {})
    if task.plugins not in catalogues:
        catalogues[task.plugins] = plugins.load(files)
    return checked(Document("the cell's study", dict(job.data)), catalogues[task.plugins])
