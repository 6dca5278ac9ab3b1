"""Weightings that learn, in the real loop: they train, and a resumed trial takes the same step."""

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


def new_trial(study: Study, runs: Path) -> Trial:
    folder = base_folder(study, RunFolder(runs / "letters"))
    names = [o.name for o in study.train_objectives]
    policy = Policy(
        study.policy.load(folder, names),
        *choose_device_and_dtype("cpu"),
        lambda: study.policy.load(folder, names),
    )
    return Trial(study, 0, policy, study.section.training.steps)


@pytest.mark.parametrize(
    "weighting",
    [
        "{hypervolume: {every: 2}}",
        "{hypervolume-gradient: {every: 2}}",
        "covariance-target",
        "bandit",
        "pareto-direction",
        "meta-gradient",
        "{meta-gradient: {probe: self}}",
        "{schedule: {start: {a: 1, b: 0}, end: {a: 0, b: 1}, shape: cosine}}",
    ],
)
def test_it_trains_and_resumes(
    new_study: NewStudy, runs: Path, tmp_path: Path, weighting: str
) -> None:
    study = new_study(f"weighting={weighting}", "search.space={}")
    straight = new_trial(study, runs)
    for _ in range(3):
        straight.train_step()
    second = resumed(straight, new_trial(study, runs), tmp_path)
    for _ in range(3):
        one, other = straight.train_step(), second.train_step()
        assert one == other
        assert all(math.isfinite(value) for value in one.values())
        assert one["weight/a"] + one["weight/b"] == pytest.approx(1.0)
    for name, value in straight.policy.state().items():
        assert torch.equal(value, second.policy.state()[name])
