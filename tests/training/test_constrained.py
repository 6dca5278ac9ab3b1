"""Constraints in real training: the divergence as what is kept small, thresholds met, resuming."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from resuming import resumed

from moalign.search.artifacts import base_folder
from moalign.search.folders import RunFolder
from moalign.study.study import Study
from moalign.training.loop import Trial
from moalign.training.policy import Policy, choose_device_and_dtype

NewStudy = Callable[..., Study]

WORLD = (
    "objectives.b.reward=kl",
    "objectives.b.use=[train]",
    "training.optimizer=grpo",
    "search.space={}",
)
LONG = ("training.steps=40", "training.prompts=8", "training.group=8")
# A tiny policy that learns fast: the proportional term keeps the multiplier from swinging.
QUICK = "primary: b, learning_rate: 1.0, proportional: 6.0"


def new_trial(study: Study, runs: Path) -> Trial:
    folder = base_folder(study, RunFolder(runs / "letters"))
    names = [o.name for o in study.train_objectives]
    device = choose_device_and_dtype("cpu")
    load = lambda: study.policy.load(folder, names)  # noqa: E731
    return Trial(study, 0, Policy(load(), *device, load), study.section.training.steps)


def steps(trial: Trial, count: int) -> list[dict[str, float]]:
    return [trial.train_step() for _ in range(count)]


def mean(history: list[dict[str, float]], name: str) -> float:
    return sum(metrics[name] for metrics in history) / len(history)


@pytest.mark.parametrize(
    "overrides",
    [
        (f"weighting={{lagrangian: {{{QUICK}}}}}", "objectives.a.at_least=0.4"),
        (f"weighting={{lagrangian: {{{QUICK}, equal: {{a: 0.4}}}}}}",),
        (
            f"weighting={{lagrangian: {{{QUICK}, updates: minibatch}}}}",
            "objectives.a.at_least=0.4",
            "training.optimizer={reinforce-pp: {epochs: 2, gamma: 0.99}}",
            "training.minibatches=2",
        ),
    ],
    ids=["mu", "xi", "mu per mini-batch with whitened returns"],
)
def test_it_goes_no_further_from_the_reference_than_the_threshold_asks(
    new_study: NewStudy, runs: Path, overrides: tuple[str, ...]
) -> None:
    study = new_study(*WORLD, *LONG, "training.learning_rate=3.0e-3", *overrides)
    history = steps(new_trial(study, runs), 40)
    assert mean(history[:3], "objective/a") < 0.3
    assert mean(history[-12:], "objective/a") == pytest.approx(0.4, abs=0.12)
    # As far as that letter alone would take it: 18 nats and more.
    assert -9.0 < mean(history[-12:], "objective/b") < -2.0
    multipliers = [metrics["weighting/multiplier/a"] for metrics in history]
    assert max(multipliers) > 0.8
    assert min(multipliers[5:]) < 0.5


def test_a_threshold_that_holds_anyway_leaves_the_policy_where_it_is(
    new_study: NewStudy, runs: Path
) -> None:
    overrides = (f"weighting={{lagrangian: {{{QUICK}}}}}", "objectives.a.at_least=0.0")
    history = steps(new_trial(new_study(*WORLD, *LONG, *overrides), runs), 20)
    assert mean(history[-5:], "objective/b") > -2.0
    multipliers = [metrics["weighting/multiplier/a"] for metrics in history]
    assert multipliers[-1] < 0.4


NELDER_MEAD = (
    "weighting={nelder-mead-lagrangian: {constrained: {lagrangian: {primary: b, equal: {a: 0.4}, "
    "updates: minibatch}}, score: a, stop: 1.0e-9}}"
)


@pytest.mark.parametrize(
    ("weighting", "minibatches"),
    [
        ("weighting={lagrangian: {primary: b, equal: {a: 0.4}, updates: minibatch}}", 2),
        ("weighting={lagrangian: {primary: b, equal: {a: 0.4}, window: 20, delay: 2}}", 1),
        (NELDER_MEAD, 2),
    ],
    ids=["minibatch", "window", "nelder-mead"],
)
def test_resuming_is_exact(
    new_study: NewStudy, runs: Path, tmp_path: Path, weighting: str, minibatches: int
) -> None:
    options = ("training.steps=16", "training.learning_rate=3.0e-3")
    study = new_study(*WORLD, weighting, f"training.minibatches={minibatches}", *options)
    whole = new_trial(study, runs)
    history = steps(whole, 12)
    first = new_trial(study, runs)
    steps(first, 7)  # with thetas of two steps each, in the middle of one
    second = resumed(first, new_trial(study, runs), tmp_path)
    assert steps(second, 5) == history[7:]
    for name, tensor in whole.policy.state().items():
        assert torch.equal(tensor, second.policy.state()[name]), name
    assert whole.cost == second.cost


def test_every_theta_s_measurement_is_charged(new_study: NewStudy, runs: Path) -> None:
    study = new_study(*WORLD, NELDER_MEAD, "training.steps=16", "training.minibatches=2")
    trial = new_trial(study, runs)
    spent, scored = [], []
    for _ in range(16):
        before = trial.cost.generated
        metrics = trial.train_step()
        spent.append(trial.cost.generated - before)
        scored.append("weighting/score" in metrics)
        assert all(math.isfinite(value) for value in metrics.values())
    # 16 prompts with 4 completions of up to 6 tokens; a measurement is of 16 with 2.
    measured = [cost for cost, mark in zip(spent[1:], scored[1:], strict=True) if mark]
    plain = [cost for cost, mark in zip(spent[1:], scored[1:], strict=True) if not mark]
    assert len(measured) == metrics["weighting/thetas"] >= 4
    assert min(measured) > max(plain)
    assert spent[0] > max(plain)  # the start
