"""The segment: the one function that every executor runs. Depends on its task and nothing else."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moalign import plugins
from moalign.errors import OptionError, PluginError, RecordError
from moalign.plugins import Catalogue
from moalign.search.artifacts import base_policy, calibration, prepared, samples
from moalign.search.folders import RunFolder, beside_of
from moalign.search.measurements import Measured, Measurements
from moalign.study.document import Document
from moalign.study.loading import checked
from moalign.study.study import Study
from moalign.training import checkpoint
from moalign.training.loop import Trial
from moalign.types import BASE, SegmentTask, Split, Start, StepEvent

_STATE = "trial"
_WEIGHTS = "policy"
_REWARDS = "rewards"


def run_segment(
    task: SegmentTask, emit: Callable[[StepEvent], None], cache: dict[str, Any]
) -> None:
    """Train a trial from ``task.since`` to ``task.until`` and measure it on ``task.split``.

    Afterwards the checkpoint folder stands, with the measurements in it. If it stood already with
    these measurements, nothing is done. A retry writes beside and renames; the first rename wins.

    Args:
        task: what to do.
        emit: called once per training step.
        cache: the worker's memory, for example the trial it holds; may be empty.

    Raises:
        MoalignError: the trial itself failed; it should not be tried again.
    """
    run = RunFolder(task.run)
    if run.measurements(task.trial, task.until, task.split).is_file():
        return
    torch.set_num_threads(task.threads)
    study = _study(task, cache)
    try:
        trial = _trial(task, run, study, cache)
    except RecordError:
        if not _resumes(task):
            raise
        # What stands at `since` is gone or damaged: it is made again, bit for bit.
        trial = begun(task, run, study, cache)
        _train(trial, task, task.since, emit)
        shutil.rmtree(run.checkpoint(task.trial, task.since), ignore_errors=True)
        _write(trial, task, run, "validation")
    _train(trial, task, task.until, emit)
    _write(trial, task, run, task.split)


def _train(trial: Trial, task: SegmentTask, until: int, emit: Callable[[StepEvent], None]) -> None:
    section = trial.study.section
    # Only a trial from scratch and of full length stands at rungs.
    stands = task.start.scratch and task.total == section.training.steps
    rungs = section.search.rungs if stands else ()
    while trial.index < until:
        metrics = trial.train_step()
        emit(StepEvent(task.trial, trial.index, time.time(), metrics, trial.notes))
        if trial.index in rungs and trial.index < until:
            # What is made again passes rungs where it was measured: its cost has that.
            trial.measure("validation")


def _write(trial: Trial, task: SegmentTask, run: RunFolder, split: Split) -> None:
    """Measure a trial where it stands, and write its checkpoint unless that stands already."""
    step, measured = trial.index, trial.measure(split)
    measurements = Measurements(
        trial=task.trial,
        step=step,
        total=task.total,
        split=split,
        cost=trial.cost,
        evaluations=tuple(Measured(condition, value) for condition, value in measured),
    )
    final = run.checkpoint(task.trial, step)
    if final.is_dir():
        measurements.write(run.measurements(task.trial, step, split))
        return
    beside = beside_of(final)
    beside.mkdir(parents=True)
    measurements.write(beside / f"{split}.json")
    if task.trial != BASE:
        checkpoint.save_state(trial.policy.state(), beside / "policy", _WEIGHTS)
        checkpoint.save_state(trial.reward_states(), beside / "policy", _REWARDS)
        if step < task.total:
            checkpoint.save_state(trial.state(), beside / "training", _STATE)
    checkpoint.publish(beside, final)


def _study(task: SegmentTask, cache: dict[str, Any]) -> Study:
    """Return the trial's study, checked with the plugins that the driver had."""
    key = ("catalogue", task.plugins)
    if cache.get("catalogue_key") != key:
        cache.clear()
        cache["catalogue_key"] = key
        cache["catalogue"] = _catalogue(task)
    return checked(Document("study.yaml", dict(task.study)), cache["catalogue"])


def _catalogue(task: SegmentTask) -> Catalogue:
    catalogue = plugins.load([path for path, _ in task.plugins])
    wanted = {Path(path).resolve(): digest for path, digest in task.plugins}
    for file in catalogue.files:
        if wanted[file.path] != file.sha256:
            raise PluginError(
                f"plugin file {file.path} has changed since the study started; put it back, or "
                "start another run with --run"
            )
    return catalogue


def _trial(task: SegmentTask, run: RunFolder, study: Study, cache: dict[str, Any]) -> Trial:
    """Return the trial at ``task.since``: from memory, from its checkpoint, or from its start."""
    held = cache.get("trials", {}).get((str(task.run), task.trial))
    if isinstance(held, Trial) and held.index == task.since and held.study.data == study.data:
        return held
    if not _resumes(task):
        trial = begun(task, run, study, cache)
    else:
        # Not from its start, which may be gone by now: it was of use while the trial lived.
        trial = begun(replace(task, start=Start()), run, study, cache)
        folder = run.checkpoint(task.trial, task.since)
        trial.policy.load_state(checkpoint.load_state(folder / "policy", _WEIGHTS))
        trial.load_reward_states(checkpoint.load_state(folder / "policy", _REWARDS))
        if task.since < task.until:
            state = checkpoint.load_state(folder / "training", _STATE)
            _take_over(trial, state, folder)
        else:
            trial.index = task.since
            trial.cost = Measurements.read(
                run.measurements(task.trial, task.since, "validation")
            ).cost
    if task.since < task.until:  # else it may lack what is needed to train on
        cache.setdefault("trials", {})[str(task.run), task.trial] = trial
    return trial


def _resumes(task: SegmentTask) -> bool:
    """Return True if a policy of the trial's own stands where the segment begins.

    One of no steps has a policy once it has been measured on validation.
    """
    return task.trial != BASE and (task.since > 0 or task.split == "test")


def _take_over(trial: Trial, state: dict[str, Any], folder: Path) -> None:
    """Load a trial's state; one that components cannot read counts as damaged.

    Raises:
        RecordError: it was written by an earlier version of a component.
    """
    try:
        trial.load_state(state)
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(
            f"checkpoint {folder}: its state is not what this version of moalign and its plugins "
            f"keep ({type(error).__name__}: {error})"
        ) from error


def begun(task: SegmentTask, run: RunFolder, study: Study, cache: dict[str, Any]) -> Trial:
    """Return the trial at step 0: the base policy, an archived one, or a soup.

    Args:
        task: says which trial, where it starts and how long it is; the rest is not read.
        run: where its artifacts and archived policies lie.
        study: the task's, checked.
        cache: the worker's memory.
    """
    policy = base_policy(study, run, cache)
    if not task.start.scratch:
        policy.load_state(mixed_policy(run, task.start))
    return Trial(
        study,
        task.trial,
        policy,
        task.total,
        calibration=calibration(study, run),
        prepared=prepared(study, run),
        samples=samples(study, run),
    )


def mixed_policy(run: RunFolder, start: Start) -> dict[str, Tensor]:
    """Return the weights that a start names: one archived policy, or a soup of several.

    Raises:
        OptionError: they have other shapes, as after a search over options of the policy.
    """
    mixed: dict[str, Tensor] = {}
    shapes: dict[str, torch.Size] | None = None
    for (trial, step), share in zip(start.points, start.shares, strict=True):
        state = checkpoint.load_state(run.policy(trial, step), _WEIGHTS)
        mine = {name: value.shape for name, value in state.items()}
        if shapes not in (None, mine):
            first = start.points[0]
            raise OptionError(
                f"the policies of trial {first[0]} at step {first[1]} and of trial {trial} at step "
                f"{step} differ in their matrices, so they cannot be averaged; mix policies of one "
                "size and one adapter only"
            )
        shapes = mine
        for name, value in state.items():
            mixed[name] = mixed.get(name, torch.zeros_like(value)) + share * value
    return mixed
