"""A study that trains nothing: plugins without a model, and a segment that runs in milliseconds.

The segment keeps the contract of the real one: it goes on from memory or from the checkpoint, gives
numbers that depend on trial, parameters and step only, and renames a finished folder into place.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import signal
import time
from pathlib import Path

from moalign import (
    Cost,
    Evaluation,
    NonFiniteError,
    Optimizer,
    PluginError,
    PolicySource,
    Preference,
    Reward,
    Rollout,
    StepEvent,
    Task,
    Tracker,
    Weighting,
    hookimpl,
    plugins,
)
from moalign.plugins import Catalogue
from moalign.search.archive import Run
from moalign.search.driver import Result, run_study
from moalign.search.folders import RunFolder
from moalign.search.measurements import Measured, Measurements
from moalign.study.loading import load
from moalign.study.study import Study
from moalign.types import BASE
from moalign_plugins.executors.local import Local
from moalign_plugins.executors.processes import Processes
from moalign_plugins.strategies.continuation import Continuation
from moalign_plugins.strategies.gp import GaussianProcess
from moalign_plugins.strategies.grid import Grid
from moalign_plugins.strategies.random import Random
from moalign_plugins.strategies.soups import Soups
from moalign_plugins.strategies.tpe import ParzenEstimator

TEXT = """
study: quick
task: quick
policy: quick
objectives:
  a: {reward: {quick: {centre: 0.2}}}
  b: {reward: {quick: {centre: 0.5}}, at_least: 0.1}
  length: {reward: {quick: {centre: 0.9}}, monitor: true}
rollout: quick
training: {optimizer: quick, steps: 6}
weighting: quick
search:
  strategy: random
  trials: 6
  rungs: [2, 4]
  keep: 0.5
  space:
    weighting.preference: simplex
    training.learning_rate: {low: 1.0e-4, high: 1.0e-3, log: true}
executor: local
trackers: []
"""

UNITS = 20


class QuickTask(Task):
    """No prompts are ever read."""

    name = "quick"

    def prompts(self):
        raise AssertionError("a quick study has no prompts")


class QuickReward(Reward):
    """Stands for an objective."""

    name = "quick"
    range = (0.0, 1.0)

    def __init__(self, centre: float = 0.5):
        self.centre = centre

    def score(self, batch):
        raise AssertionError("a quick study scores nothing")


class QuickPolicy(PolicySource):
    """No model."""

    name = "quick"

    def recipe(self, task, seed, objectives):
        return {}

    def build(self, task, seed, objectives, folder, progress):
        raise AssertionError("a quick study builds nothing")

    def load(self, folder, objectives):
        raise AssertionError("a quick study loads nothing")


class QuickRollout(Rollout):
    """Samples nothing."""

    name = "quick"
    max_tokens = 8

    def generate(self, model, prompt_ids_P, *, group, seeds_B, end_ids, pad_id):
        raise AssertionError("a quick study samples nothing")


class QuickOptimizer(Optimizer):
    """Has no loss."""

    name = "quick"


class QuickWeighting(Weighting):
    """Has a preference."""

    name = "quick"

    def __init__(self, preference: Preference | None = None):
        self.preference = preference

    def weigh(self, step):
        raise AssertionError("a quick study weighs nothing")


class Notes(Tracker):
    """Remembers the names of the hooks it was told of, and what it was told."""

    name = "notes"
    instances: list[Notes] = []  # noqa: RUF012

    def __init__(self):
        self.calls: list[tuple] = []
        self.closed = 0
        Notes.instances.append(self)

    @hookimpl
    def moalign_study_started(self, run, study, objectives, resumed):
        self.calls.append(("study_started", run.name, resumed))

    @hookimpl
    def moalign_base_measured(self, evaluation):
        self.calls.append(("base_measured", evaluation.names))

    @hookimpl
    def moalign_trial_started(self, trial, proposal, time):
        self.calls.append(("trial_started", trial))

    @hookimpl
    def moalign_step_ended(self, event):
        self.calls.append(("step_ended", event.trial, event.step))

    @hookimpl
    def moalign_segment_ended(self, trial, observations, evaluations, time):
        self.calls.append(("segment_ended", trial, observations[0].step, len(evaluations)))

    @hookimpl
    def moalign_front_updated(self, points, hypervolume):
        self.calls.append(("front_updated", len(points), hypervolume))

    @hookimpl
    def moalign_trial_ended(self, trial, outcome, reason, time):
        self.calls.append(("trial_ended", trial, outcome, reason))

    @hookimpl
    def moalign_study_ended(self, run, outcome, files):
        self.calls.append(("study_ended", outcome, dict(files)))

    def close(self):
        self.closed += 1


class Broken(Tracker):
    """Fails at every step."""

    name = "broken"

    @hookimpl
    def moalign_step_ended(self, event):
        raise OSError("the server is away")


@hookimpl
def moalign_tasks():
    return [QuickTask]


@hookimpl
def moalign_rewards():
    return [QuickReward]


@hookimpl
def moalign_policies():
    return [QuickPolicy]


@hookimpl
def moalign_rollouts():
    return [QuickRollout]


@hookimpl
def moalign_optimizers():
    return [QuickOptimizer]


@hookimpl
def moalign_weightings():
    return [QuickWeighting]


@hookimpl
def moalign_trackers():
    return [Notes, Broken]


@hookimpl
def moalign_executors():
    return [Local, Processes]


@hookimpl
def moalign_strategies():
    return [Random, Grid, GaussianProcess, ParzenEstimator, Continuation, Soups]


# --- the study ---------------------------------------------------------------------------------


def quick_catalogue() -> Catalogue:
    """Return a catalogue of this file's components only."""
    before = os.environ.get("MOALIGN_PLUGINS")
    os.environ["MOALIGN_PLUGINS"] = ""
    try:
        return plugins.load([Path(__file__)])
    finally:
        if before is None:
            del os.environ["MOALIGN_PLUGINS"]
        else:
            os.environ["MOALIGN_PLUGINS"] = before


def quick_study(*overrides: str) -> Study:
    return load(TEXT, "quick.yaml", quick_catalogue(), overrides)


def quick_run(folder: Path, *overrides: str, study: Study | None = None, **options) -> Result:
    """Run the quick study in ``folder``."""
    options.setdefault("segment", quick_segment)
    options.setdefault("prepare", lambda study, run, progress: None)
    return run_study(study or quick_study(*overrides), folder, **options)


class Pairs(Local):
    """Two workers as far as the driver can tell; the newest task is done first."""

    name = "pairs"

    def __init__(self, workers: int = 2):
        super().__init__()
        self.workers = workers

    def submit(self, task):
        self._queue.appendleft(task)


# --- the segment -------------------------------------------------------------------------------


def quick_segment(task, emit, cache):
    """Train nothing, quickly. Faults and delays come from the environment, as JSON."""
    run = RunFolder(task.run)
    if run.measurements(task.trial, task.until, task.split).is_file():
        return
    held = cache.setdefault("trials", {}).setdefault((str(task.run), task.trial), {})
    if held.get("step") != task.since:
        held.clear()
        held.update(_restored(run, task))
    for step in range(task.since + 1, task.until + 1):
        time.sleep(random.random() * float(os.environ.get("QUICK_DELAY", "0")))
        _fault(task, step)
        held["step"] = step
        held["cost"] += 10
        emit(StepEvent(task.trial, step, time.time(), {"loss": 1.0 / step}))
        held["cost"] += step in task.study["search"]["rungs"] and step < task.until
    held["cost"] += 1
    if task.split == "validation":
        held["means"] = _means(task, held.get("began"))
    measurements = Measurements(
        trial=task.trial,
        step=task.until,
        total=task.total,
        split=task.split,
        cost=Cost(generated=held["cost"]),
        evaluations=(Measured(None, _evaluation(task, held)),),
    )
    final = run.checkpoint(task.trial, task.until)
    if final.is_dir():
        measurements.write(run.measurements(task.trial, task.until, task.split))
        return
    beside = final.with_name(f".{final.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    measurements.write(beside / f"{task.split}.json")
    if task.trial != BASE:
        for name in ("policy", "training"):
            (beside / name).mkdir()
            (beside / name / "state.json").write_text(json.dumps(held))
    beside.rename(final)


def _restored(run, task):
    if task.since == 0 and (task.split == "validation" or task.trial == BASE):
        began = [
            json.loads((run.policy(trial, step) / "state.json").read_text())["means"]
            for trial, step in task.start.points
        ]
        mixed = [
            sum(share * mean for share, mean in zip(task.start.shares, means, strict=True))
            for means in zip(*began, strict=True)
        ]
        return {"step": 0, "cost": 0, "began": mixed or None}
    kind = run.training if task.since < task.until else run.policy
    return json.loads((kind(task.trial, task.since) / "state.json").read_text())


def _means(task, began=None):
    """Values with a trade-off, better with every step.

    One that goes on nears what it would have come to from scratch by a fifth of the way a step.
    """
    weighting = task.study["weighting"].get("quick", {})  # a strategy may set another one
    preference = weighting.get("preference") or {"a": 0.5, "b": 0.5}
    rate = task.study["training"]["learning_rate"]
    whole = 1 - abs(math.log(rate / 3e-4)) / 4
    skill = whole * (1 + task.until) / (1 + task.total)
    if began is None:
        return [0.1 + 0.8 * skill * math.sqrt(preference[name]) for name in ("a", "b")]
    aims = [0.1 + 0.8 * whole * math.sqrt(preference[name]) for name in ("a", "b")]
    left = 0.8**task.until
    return [left * mean + (1 - left) * aim for mean, aim in zip(began, aims, strict=True)]


def _evaluation(task, held):
    """The policy's values, noisy per unit, with the same noise for every policy."""
    means = [*(held.get("means") or _means(task)), 0.3]
    rng = random.Random(f"{task.study['seed']}/{task.split}")
    values = [[m + rng.gauss(0, 0.05) for m in means] for _ in range(UNITS)]
    values[0][1] = math.nan
    sample = {"prompt": "p", "text": "t", "scores": {"a": 0.5, "b": None}}
    units = tuple(f"u{i}" for i in range(UNITS))
    return Evaluation(("a", "b", "length"), units, values, Cost(generated=1), (sample,))


LATIN = bytes([0xE9])  # an accented letter that is no UTF-8


def _fault(task, step):
    for fault in json.loads(os.environ.get("QUICK_FAULTS", "[]")):
        if (fault["trial"], fault["step"]) != (task.trial, step):
            continue
        if task.attempt >= fault.get("times", 99):
            continue
        match fault["kind"]:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(60)
            case "non-finite":
                raise NonFiniteError("the loss is not finite")
            case "raise":
                raise ZeroDivisionError("division by zero in a reward")
            case "no-text":
                raise ValueError(f"no file {os.fsdecode(b'r' + LATIN + b'sum' + LATIN)}")
            case "full":
                raise OSError(28, "No space left on device")
            case "plugin":
                raise PluginError("plugin file x.py has changed")
            case "interrupt":
                raise KeyboardInterrupt


# --- comparing ---------------------------------------------------------------------------------


def archive(run: Run) -> dict:
    """Return all that two equal runs share: everything but wall-clock."""

    def measured(event):
        return repr((event.points, event.cost))

    files = sorted(
        str(path.relative_to(run.folder.path))
        for pattern in ("base/*/*", "trials/*/*/*", "trials/*/.*", "trials/*/*/.*")
        for path in run.folder.path.glob(pattern)
    )
    return {
        "trials": {
            trial.number: (
                repr(trial.proposal),
                {step: measured(event) for step, event in trial.measured.items()},
                {step: (d.go_on, d.reason) for step, d in trial.decided.items()},
                trial.outcome,
                trial.reason,
            )
            for trial in run.trials.values()
        },
        "base": run.base and measured(run.base),
        "tests": {key: measured(event) for key, event in sorted(run.tests.items())},
        "test_openings": [event.points for event in run.test_openings],
        "observations": repr(run.observations()),
        "closed": run.closed,
        "files": files,
        "contents": {
            name: hashlib.sha256((run.folder.path / name).read_bytes()).hexdigest()
            for name in files
            if name.endswith(".json")
        },
    }
