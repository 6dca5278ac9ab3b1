"""Training on a device beside the CPU: a weighting, an optimizer or a resume mixes no devices.

No GPU is needed: see ``tests/support/second_device.py``.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import letters
import pytest
import testbeds
import torch
from second_device import AWAY, Away, second_device

from moalign import plugins
from moalign.components import Optimizer, Weighting
from moalign.search import artifacts, segments
from moalign.search.driver import run_study
from moalign.search.folders import RunFolder
from moalign.study.loading import load
from moalign.training.loop import Trial
from moalign.types import SegmentTask, Start

STEPS = 2
CATALOGUE = plugins.load([letters.FILE])
PLAIN = "policy={small: {}}"  # reads no weights, so any weighting can train it
SHORTER = {"prompt-adapter": {"steps": 20}, "context-router": {"steps": 20}}


def examples(kind: type, most: int | None = None) -> list:
    """Return the examples of all components of a kind, or the first few of each."""
    return [
        pytest.param(entry.cls.name, example, id=f"{entry.cls.name}-{index}")
        for entry in testbeds.catalogue().entries()
        if issubclass(entry.cls, kind) and entry.cls.name != "by-family"
        for index, example in enumerate((entry.cls.examples or ({},))[:most])
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run whose base policies all tests share."""
    return tmp_path_factory.mktemp("runs") / "mine"


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch):
    """Let there be a second device, on which policies are placed."""
    monkeypatch.setattr(artifacts, "choose_device_and_dtype", lambda: (AWAY, torch.float32))
    with second_device():
        yield


def letters_study(*overrides: str):
    short = (f"training.steps={STEPS}", "rollout={eager: {max_tokens: 3}}")
    return load(letters.STUDY, "letters.yaml", CATALOGUE, [*short, *overrides])


def begun(folder: Path, *overrides: str) -> Trial:
    study = letters_study(*overrides)
    artifacts.ensure_base(study, RunFolder(folder), lambda share, words: None)
    task = SegmentTask(folder, 0, study.data, Start(), since=0, until=STEPS, total=STEPS)
    return segments.begun(task, RunFolder(folder), study, {})


# --- the device itself ---------------------------------------------------------------------------


def test_what_lies_there_meets_nothing_that_does_not():
    with second_device() as device:
        there, here = torch.ones(3, device=device), torch.arange(3.0)
        assert isinstance(there, Away)
        assert there.device == device
        with pytest.raises(RuntimeError, match=r"two devices: away \[3\], cpu \[3\]"):
            there + here
        with pytest.raises(RuntimeError, match="two devices"):
            torch.where(there > 0, there, here)
        with pytest.raises(TypeError, match="another device"):
            there.numpy()
        total = there + here.to(device)
        assert total.tolist() == [1.0, 2.0, 3.0]
        assert (total + torch.tensor(1.0)).cpu().numpy().tolist() == [2.0, 3.0, 4.0]
        assert total[[2, 0]].tolist() == [3.0, 1.0]
        assert float(total.sum()) == 6.0


def test_a_module_there_learns_as_it_does_here():
    def learnt(device: torch.device) -> torch.Tensor:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        layer.to(device)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            layer(torch.arange(6.0).view(2, 3).to(device)).square().mean().backward()
            optimizer.step()
        return layer.weight.detach().cpu()

    here = learnt(torch.device("cpu"))
    with second_device() as device:
        assert torch.equal(learnt(device), here)


# --- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "example"), examples(Weighting))
def test_every_weighting_trains_there_as_here(name, example, request):
    pairs = ("training.optimizer=dpo",) if request.node.callspec.id == "group-robust-1" else ()
    study = testbeds.three_study(
        f"weighting={json.dumps({name: {**example, **SHORTER.get(name, {})}})}",
        f"training.steps={STEPS}",
        "training.group=4",
        "training.minibatches=2",
        "evaluation={prompts: 4, samples: 2}",
        *pairs,
    )
    here = testbeds.new_trial(study)
    expected = [here.train_step() for _ in range(STEPS)]
    with second_device() as device:
        there = testbeds.new_trial(study, device=device)
        assert [there.train_step() for _ in range(STEPS)] == expected


@pytest.mark.parametrize(("name", "example"), examples(Optimizer, most=1))
def test_every_optimizer_trains_a_language_model_there(name, example, base, away):
    trial = begun(base, f"training.optimizer={json.dumps({name: example})}", "weighting=fixed")
    before = [p.detach().clone() for p in trial.parameters]
    for _ in range(STEPS):
        metrics = trial.train_step()
        assert math.isfinite(metrics["loss"])
    assert any(not torch.equal(a, b) for a, b in zip(before, trial.parameters, strict=True))


@pytest.mark.parametrize(
    "overrides",
    [
        (PLAIN, "weighting=mgda", "training.optimizer=ppo"),
        (PLAIN, "weighting=upgrad", "training.optimizer=dpo"),
        (PLAIN, "weighting=influence", "training.gradients.sketch=4"),
        (PLAIN, "weighting=influence", "training.gradients.layers=[0, 1]"),
        (PLAIN, "weighting=fixed", "training.replay={share: 0.5}"),
        (PLAIN, "weighting=fixed", "training.combine=rewards", "training.batch_norm=token"),
        (PLAIN, "weighting=fixed", "training.optimizer=dpo", "training.pairs={source: samples}"),
        ("weighting={prompt-adapter: {steps: 20}}",),
        ("weighting={context-router: {steps: 20}}",),
    ],
    ids=" ".join,
)
def test_a_language_model_trains_there_about_as_here(overrides, base, monkeypatch):
    here = begun(base, *overrides)
    expected = [here.train_step() for _ in range(STEPS)]
    monkeypatch.setattr(artifacts, "choose_device_and_dtype", lambda: (AWAY, torch.float32))
    with second_device():
        there = begun(base, *overrides)
        assert there.policy.device == AWAY
        for metrics in expected:  # attention is computed otherwise there, and rounds otherwise
            assert there.train_step() == pytest.approx(metrics, rel=1e-3, abs=1e-4, nan_ok=True)


# --- a study -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        (PLAIN, "weighting=mgda", "training.optimizer=ppo"),  # both have states
        (PLAIN, "weighting=hypervolume", "training.replay={share: 0.5}"),
    ],
    ids=" ".join,
)
def test_a_study_there_goes_on_from_its_checkpoints(overrides, tmp_path, monkeypatch):
    study = letters_study(
        "training.steps=4",
        "search.rungs=[2]",
        "evaluation={prompts: 8, samples: 1}",
        "report.resamples=100",
        *overrides,
    )
    here = run_study(study, tmp_path / "here").run

    def forgetful(task, emit, cache):
        segments.run_segment(task, emit, {})  # so that it reads the checkpoint

    monkeypatch.setattr(artifacts, "choose_device_and_dtype", lambda: (AWAY, torch.float32))
    with second_device():
        there = run_study(study, tmp_path / "there", segment=forgetful).run
    for number, trial in there.trials.items():
        assert trial.outcome == here.trials[number].outcome, trial.reason
        for step, measured in trial.measured.items():
            for point, other in zip(
                measured.points, here.trials[number].measured[step].points, strict=True
            ):
                assert point.values_K == pytest.approx(other.values_K, abs=0.02)
