"""What is built once and shared by runs: the base policy, and what is learnt or measured of it.

Each lies in ``.artifacts`` beside the runs, in a folder named by the hash of its recipe.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

import moalign
from moalign.components import LoadedPolicy
from moalign.errors import DataError, RecordError, StudyError, nearest
from moalign.search.folders import RunFolder, beside_of
from moalign.search.measurements import COST, write_atomically
from moalign.study.study import Study
from moalign.training import checkpoint
from moalign.training.evaluation import Evaluator
from moalign.training.material import check_preferences, usable_prompts
from moalign.training.policy import Policy, choose_device_and_dtype
from moalign.training.preferences import Written, sampled_texts, uniform
from moalign.training.preparation import preparation
from moalign.training.scoring import Column
from moalign.training.splits import measured_prompts, needed_splits, split_prompts
from moalign.types import Cost, Prompt

_PREPARED = "prepared"

Progress = Callable[[float, str], None]


def _silent(_share: float, _words: str) -> None:
    return


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

    What the weighting prepares, what the optimizer learns from and what scores are divided by is
    made as well, once for all workers.

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
    samples(study, run, progress)
    calibration(study, run)
    return folder


def _built(study: Study, run: RunFolder, progress: Progress) -> Path:
    folder = base_folder(study, run)
    if not folder.is_dir():
        beside = beside_of(folder)
        try:
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
            needs, there are no preferences where something learns from them or is measured by
            them, none of them concerns an objective, or the task cannot state its facts.
    """
    dealt = split_prompts(study.task, needed_splits(study))
    prompts = dealt["train"]
    weighting = study.new_weighting()
    if "pairs" in weighting.needs and not study.task.pairs(study.seed):
        raise DataError(
            f"weighting {weighting.name} learns from preferences between completions, and task "
            f"{study.task.name} offers none among its train prompts; the tasks preferences and "
            "prompts read them from the columns `chosen` and `rejected`"
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
    check_preferences(study, dealt)
    study.task.facts()  # the report states them: what is wrong with them is better said now


def base_policy(study: Study, run: RunFolder, cache: dict[str, Any]) -> Policy:
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
    _remember(run, name, memory)
    return run.artifacts / name


def _remember(run: RunFolder, name: str, memory: Path) -> None:
    if run.path.is_dir() and not memory.is_file():
        memory.parent.mkdir(exist_ok=True)
        write_atomically(memory, json.dumps({"artifact": name}))


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
        weighting, spent = study.new_weighting(), Cost()
        context = preparation(study, base_policy(study, run, {}), progress, spent)
        state = weighting.prepare(context)
        beside = beside_of(folder)
        try:
            checkpoint.save_state(state, beside, _PREPARED)
            write_atomically(beside / COST, json.dumps(spent.to_json()))
            checkpoint.publish(beside, folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise RecordError(
                f"{run.artifacts}: what weighting {weighting.name} has prepared cannot be written: "
                f"{error}; make room there and run the same command again"
            ) from error
    return checkpoint.load_state(folder, _PREPARED)


def samples_folder(study: Study, run: RunFolder) -> Path | None:
    """Return where the base policy's samples are cached; None if nothing learns from them."""
    section = study.section.training.pairs
    if section.source == "task" or study.new_optimizer().learns_from == "rollouts":
        return None
    recipe = {
        "base": base_folder(study, run).name,
        "task": study.data["task"],
        "prompts": [(p.id, p.text) for p in _sampled_prompts(study)],
        "condition": uniform(study),
        "samples": section.samples,
        "rollout": study.data["rollout"],
        "seed": study.seed,
    }
    return run.artifacts / f"samples-{_digest(recipe)}"


def _sampled_prompts(study: Study) -> list[Prompt]:
    prompts = split_prompts(study.task, ("train",))["train"]
    return measured_prompts(prompts, study.section.training.pairs.prompts, study.seed)


def samples(
    study: Study, run: RunFolder, progress: Progress = _silent
) -> dict[str, list[Written]] | None:
    """Return what the base policy writes for train prompts, by prompt id.

    Only for an optimizer that learns from pairs made of samples; else None. Sampled once and
    cached with the artifacts.

    Args:
        study: gives task, rollout and how many samples.
        run: its ``artifacts`` folder is the cache.
        progress: called with the share done in [0, 1] and a few words.

    Raises:
        RecordError: it cannot be written, or not be read.
    """
    folder = samples_folder(study, run)
    if folder is None:
        return None
    _remember(run, folder.name, run.prepared_artifact(folder.name))
    if not folder.is_dir():
        beside = beside_of(folder)
        policy = base_policy(study, run, {})
        chosen, count = _sampled_prompts(study), study.section.training.pairs.samples
        written, cost = sampled_texts(study, policy, chosen, count, progress)
        try:
            beside.mkdir(parents=True)
            texts = {name: [(c.text, c.finished) for c in cs] for name, cs in written.items()}
            write_atomically(beside / "texts.json", json.dumps(texts))
            write_atomically(beside / COST, json.dumps(cost.to_json()))
            checkpoint.publish(beside, folder)
        except OSError as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise RecordError(
                f"{run.artifacts}: the base policy's samples cannot be written: {error}; make room "
                "there and run the same command again"
            ) from error
    try:
        found = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
        return {name: [Written(*completion) for completion in found[name]] for name in found}
    except (OSError, ValueError, TypeError) as error:
        raise RecordError(
            f"{folder}: the base policy's samples cannot be read ({error}); delete the folder and "
            "run the same command again"
        ) from error


def calibration(study: Study, run: RunFolder) -> tuple[Tensor, Tensor] | None:
    """Return mean and deviation of the base policy's scores on steer, [K] each.

    Only for ``scale: calibrated``; else None. Measured once and cached with the artifacts.
    """
    if study.section.training.scale == "none":
        return None
    # Not under weights per prompt: what is measured belongs to no weighting.
    condition = next(filter(None, study.conditions), None)
    recipe = {
        "base": base_folder(study, run).name,
        "task": study.data["task"],
        "prompts": [(p.id, p.text) for p in split_prompts(study.task, ("steer",))["steer"]],
        "objectives": study.data["objectives"],
        "evaluation": study.data["evaluation"],
        "rollout": study.data["rollout"],
        "seed": study.seed,
        **({} if condition is None else {"condition": condition}),
    }
    folder = run.artifacts / f"calibration-{_digest(recipe)}"
    _remember(run, folder.name, run.prepared_artifact(folder.name))
    if not folder.is_dir():
        policy, spent = base_policy(study, run, {}), Cost()
        rewards, sections = study.new_rewards(), study.section.objectives
        columns = [Column(n, rewards[n], sections[n].output) for n in _names(study)]
        steer = split_prompts(study.task, ("steer",))["steer"]
        fits, _ = usable_prompts(study, policy, "steer", steer)  # a trial says what is left out
        evaluator = Evaluator(study, {"steer": fits}, columns)
        _, scores_PSK, _ = evaluator.sampled_scores(policy, "steer", condition, spent)
        mean_K, deviation_K = mean_and_deviation(scores_PSK.flatten(0, 1))
        for name, mean, deviation in zip(_names(study), mean_K, deviation_K, strict=True):
            if not (torch.isfinite(mean) and deviation > 0):
                raise StudyError(
                    f"training.scale: calibrated cannot standardise the objective {name}: all "
                    "completions of the base policy on the steer split score alike; set "
                    "training.scale: none, or leave the objective out"
                )
        beside = beside_of(folder)
        checkpoint.save_state({"mean": mean_K, "deviation": deviation_K}, beside, "scores")
        write_atomically(beside / COST, json.dumps(spent.to_json()))
        checkpoint.publish(beside, folder)
    state = checkpoint.load_state(folder, "scores")
    return state["mean"], state["deviation"]


def mean_and_deviation(scores_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (ddof 1) per objective, NaN left out; [K] each."""
    mean_K = scores_BK.nanmean(0)
    count_K = (~scores_BK.isnan()).sum(0)
    squares_K = (scores_BK - mean_K).square().nansum(0)
    return mean_K, (squares_K / (count_K - 1).clamp_min(1)).sqrt()


def _names(study: Study) -> list[str]:
    return [objective.name for objective in study.train_objectives]
