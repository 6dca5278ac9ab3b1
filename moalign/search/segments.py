"""The segment: the one function that every executor runs. Depends on its task and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

import moalign
from moalign import plugins
from moalign.components import LoadedPolicy
from moalign.errors import DataError, PluginError, RecordError, StudyError, nearest
from moalign.plugins import Catalogue
from moalign.search.folders import RunFolder
from moalign.search.measurements import Measured, Measurements, write_atomically
from moalign.study.document import Document
from moalign.study.loading import checked
from moalign.study.study import Study
from moalign.training import checkpoint
from moalign.training.evaluation import Evaluator
from moalign.training.loop import Trial
from moalign.training.policy import Policy, choose_device_and_dtype
from moalign.training.preparation import preparation
from moalign.training.scoring import Column
from moalign.training.splits import needed_splits, split_prompts
from moalign.types import BASE, Cost, SegmentTask, Split, Start, StepEvent

_STATE = "trial"
_WEIGHTS = "policy"
_REWARDS = "rewards"
_PREPARED = "prepared"

Progress = Callable[[float, str], None]


def _silent(_share: float, _words: str) -> None:
    return


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
        if task.since == 0:
            raise
        # What stands at `since` is gone or damaged: it is made again, bit for bit.
        trial = begun(task, run, study, cache)
        _train(trial, task, task.since, emit)
        shutil.rmtree(run.checkpoint(task.trial, task.since), ignore_errors=True)
        _write(trial, task, run, "validation")
    _train(trial, task, task.until, emit)
    _write(trial, task, run, task.split)


def _train(trial: Trial, task: SegmentTask, until: int, emit: Callable[[StepEvent], None]) -> None:
    while trial.index < until:
        metrics = trial.train_step()
        emit(StepEvent(task.trial, trial.index, time.time(), metrics, trial.notes))


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
    beside = final.with_name(f".{final.name}.{task.attempt}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
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
    trial = begun(task, run, study, cache)
    if task.since > 0:
        folder = run.checkpoint(task.trial, task.since)
        trial.policy.load_state(checkpoint.load_state(folder / "policy", _WEIGHTS))
        trial.load_reward_states(checkpoint.load_state(folder / "policy", _REWARDS))
        if task.since < task.until:
            state = checkpoint.load_state(folder / "training", _STATE)
            _take_over(trial, checkpoint.state_on(trial.policy.device, state), folder)
        else:
            trial.index = task.since
            trial.cost = Measurements.read(
                run.measurements(task.trial, task.since, "validation")
            ).cost
    if task.since < task.until:  # else it may lack what is needed to train on
        cache.setdefault("trials", {})[str(task.run), task.trial] = trial
    return trial


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
    policy = _base_policy(study, run, cache)
    if not task.start.scratch:
        policy.load_state(mixed_policy(run, task.start))
    return Trial(
        study,
        task.trial,
        policy,
        task.total,
        calibration=calibration(study, run),
        prepared=prepared(study, run),
    )


def _base_policy(study: Study, run: RunFolder, cache: dict[str, Any]) -> Policy:
    """Load the base policy, ready to train; the process keeps one frozen copy as reference."""
    # It stands already, unless the search is over options of the policy.
    folder = _built(study, run, _silent)

    def load() -> LoadedPolicy:
        return study.policy.load(folder, _names(study))

    def reference() -> LoadedPolicy:
        if cache.get("reference_folder") != folder:
            cache["reference_folder"] = folder
            cache["reference"] = load()
        kept: LoadedPolicy = cache["reference"]
        return kept

    return Policy(load(), *choose_device_and_dtype(), reference)


def mixed_policy(run: RunFolder, start: Start) -> dict[str, Tensor]:
    """Return the weights that a start names: one archived policy, or a soup of several."""
    mixed: dict[str, Tensor] = {}
    for (trial, step), share in zip(start.points, start.shares, strict=True):
        state = checkpoint.load_state(run.policy(trial, step), _WEIGHTS)
        for name, value in state.items():
            mixed[name] = mixed.get(name, torch.zeros_like(value)) + share * value
    return mixed


def _names(study: Study) -> list[str]:
    return [objective.name for objective in study.train_objectives]


# --- artifacts: built once, shared by runs -----------------------------------------------------


def base_folder(study: Study, run: RunFolder) -> Path:
    """Return where the study's base policy is cached; it may not exist yet.

    A run remembers the name of its artifact: a recipe names library versions too, and a run that
    is looked at years later should still find the policy it began with.
    """
    given = [study.data[key] for key in ("policy", "task", "seed")] + [_names(study)]
    asked = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:16]
    try:
        remembered = json.loads(run.base_artifact.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet
        remembered = {}
    if remembered.get("asked") == asked:
        return run.artifacts / str(remembered["artifact"])
    recipe = study.policy.recipe(study.task, study.seed, _names(study))
    name = _digest({"policy": study.policy.name, **recipe})
    if not remembered and run.path.is_dir():
        run.base_artifact.parent.mkdir(exist_ok=True)
        write_atomically(run.base_artifact, json.dumps({"asked": asked, "artifact": name}))
    return run.artifacts / name


def ensure_base(study: Study, run: RunFolder, progress: Progress) -> Path:
    """Build the base policy unless it is cached, and return its folder.

    What the weighting prepares before training is made as well.

    Args:
        study: names the policy source and the task.
        run: its ``artifacts`` folder is the cache.
        progress: called with the share done in [0, 1] and a few words.

    Raises:
        RecordError: it cannot be written.
    """
    folder = _built(study, run, progress)
    progress(1.0, "base policy ready")
    prepared(study, run, progress)
    return folder


def _built(study: Study, run: RunFolder, progress: Progress) -> Path:
    folder = base_folder(study, run)
    if not folder.is_dir():
        beside = folder.with_name(f".{folder.name}.{os.getpid()}")
        try:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            study.policy.build(study.task, study.seed, _names(study), beside, progress)
            checkpoint.publish(beside, folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise RecordError(
                f"{run.artifacts}: the base policy cannot be written: {error}; make room there and "
                "run the same command again"
            ) from error
    return folder


def check_data(study: Study) -> None:
    """Check the task's data, before a run is begun with it.

    Raises:
        DataError: it is missing, malformed or too small, prompts lack a field that a reward
            needs, or there are no preferences where the weighting learns from them.
    """
    prompts = split_prompts(study.task, needed_splits(study))["train"]
    weighting = study.new_weighting()
    if "pairs" in weighting.needs and not study.task.pairs(study.seed):
        raise DataError(
            f"weighting {weighting.name} learns from preferences between completions, and task "
            f"{study.task.name} offers none among its train prompts; the task prompts reads them "
            "from the columns `chosen` and `rejected`"
        )
    for objective, reward in study.new_rewards().items():
        for need in sorted(reward.needs):
            field = need.removeprefix("field:")
            lacking = [p for p in prompts if field != need and field not in p.fields]
            if lacking:
                raise DataError(
                    f"objective {objective}: reward {reward.name} needs the field {field!r}, which "
                    f"prompt {lacking[0].id!r} of task {study.task.name} does not have; "
                    f"{nearest(field, lacking[0].fields)}"
                )


def prepared_folder(study: Study, run: RunFolder) -> Path | None:
    """Return where what the weighting prepares is cached; None if it prepares nothing.

    A run remembers the name, as it does that of the base policy: a recipe names the preferences
    themselves and the code that scores them, and neither may be there later.
    """
    weighting = study.new_weighting()
    options = weighting.recipe()
    if options is None:
        return None
    asked = {
        "weighting": weighting.name,
        "options": dict(options),
        "base": base_folder(study, run).name,
        "task": study.data["task"],
        # A list: what is learnt follows the order of the objectives.
        "objectives": [[name, study.data["objectives"][name]] for name in _names(study)],
        "rollout": study.data["rollout"],
        "seed": study.seed,
    }
    memory = run.prepared_artifact(f"{weighting.name}-{_digest(asked)}")
    try:
        return run.artifacts / str(json.loads(memory.read_text(encoding="utf-8"))["artifact"])
    except (OSError, ValueError, KeyError):  # none yet
        pass
    recipe = {
        **asked,
        "pairs": [
            (pair.prompt.text, repr(dict(pair.prompt.fields)), pair.chosen, pair.rejected)
            for pair in study.task.pairs(study.seed)
        ],
        "code": [moalign.__version__, *sorted(file.sha256 for file in study.catalogue.files)],
    }
    name = f"{weighting.name}-{_digest(recipe)}"
    if run.path.is_dir():
        memory.parent.mkdir(exist_ok=True)
        write_atomically(memory, json.dumps({"artifact": name}))
    return run.artifacts / name


def _digest(recipe: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def prepared(study: Study, run: RunFolder, progress: Progress = _silent) -> dict[str, Any] | None:
    """Return what the weighting's stage before training gave; None if it has none.

    Made once and cached with the artifacts, by the hash of its recipe.

    Args:
        study: names the weighting.
        run: its ``artifacts`` folder is the cache.
        progress: called with the share done in [0, 1] and a few words.

    Raises:
        DataError: there is nothing to learn from.
        RecordError: it cannot be written.
    """
    folder = prepared_folder(study, run)
    if folder is None:
        return None
    if not folder.is_dir():
        weighting = study.new_weighting()
        context = preparation(study, _base_policy(study, run, {}), progress)
        state = weighting.prepare(context)
        beside = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(beside, ignore_errors=True)
        try:
            checkpoint.save_state(state, beside, _PREPARED)
            checkpoint.publish(beside, folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise RecordError(
                f"{run.artifacts}: what weighting {weighting.name} has prepared cannot be written: "
                f"{error}; make room there and run the same command again"
            ) from error
    return checkpoint.load_state(folder, _PREPARED)


def calibration(study: Study, run: RunFolder) -> tuple[Tensor, Tensor] | None:
    """Return mean and deviation of the base policy's scores on steer, [K] each.

    Only for ``scale: calibrated``; else None. Measured once and cached with the artifacts.
    """
    if study.section.training.scale == "none":
        return None
    recipe = {
        "base": base_folder(study, run).name,
        "task": study.data["task"],
        "prompts": [(p.id, p.text) for p in split_prompts(study.task, ("steer",))["steer"]],
        "objectives": study.data["objectives"],
        "evaluation": study.data["evaluation"],
        "rollout": study.data["rollout"],
        "seed": study.seed,
    }
    folder = run.artifacts / f"calibration-{_digest(recipe)}"
    if not folder.is_dir():
        policy = _base_policy(study, run, {})
        rewards, sections = study.new_rewards(), study.section.objectives
        columns = [Column(n, rewards[n], sections[n].output) for n in _names(study)]
        evaluator = Evaluator(study, split_prompts(study.task, ("steer",)), columns)
        # Not under weights per prompt: what is measured belongs to no weighting.
        condition = next(filter(None, study.conditions), None)
        _, scores_PSK, _ = evaluator.sampled_scores(policy, "steer", condition, Cost())
        mean_K, deviation_K = mean_and_deviation(scores_PSK.flatten(0, 1))
        for name, mean, deviation in zip(_names(study), mean_K, deviation_K, strict=True):
            if not (torch.isfinite(mean) and deviation > 0):
                raise StudyError(
                    f"training.scale: calibrated cannot standardise the objective {name}: all "
                    "completions of the base policy on the steer split score alike; set "
                    "training.scale: none, or leave the objective out"
                )
        beside = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(beside, ignore_errors=True)
        checkpoint.save_state({"mean": mean_K, "deviation": deviation_K}, beside, "scores")
        checkpoint.publish(beside, folder)
    state = checkpoint.load_state(folder, "scores")
    return state["mean"], state["deviation"]


def mean_and_deviation(scores_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (ddof 1) per objective, NaN left out; [K] each."""
    mean_K = scores_BK.nanmean(0)
    count_K = (~scores_BK.isnan()).sum(0)
    squares_K = (scores_BK - mean_K).square().nansum(0)
    return mean_K, (squares_K / (count_K - 1).clamp_min(1)).sqrt()
