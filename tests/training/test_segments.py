"""A segment: the same result in one piece, in two, from memory or from disk."""

from __future__ import annotations

import errno
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from moalign import (
    BASE,
    OptionError,
    PluginError,
    SegmentFailed,
    SegmentTask,
    Start,
    StepEvent,
    StudyError,
)
from moalign.execution import run_task
from moalign.plugins import load
from moalign.search.folders import RunFolder
from moalign.search.measurements import Measurements
from moalign.search.segments import mixed_policy, run_segment
from moalign.study.study import Study
from moalign.training.checkpoint import save_state

NewStudy = Callable[..., Study]


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> RunFolder:
    """A fresh run that shares the base policy."""
    (tmp_path / ".artifacts").symlink_to(runs / ".artifacts")
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    return folder


def task_of(study: Study, run: RunFolder, plugin: Path, **fields: Any) -> SegmentTask:
    files = tuple((f.path, f.sha256) for f in load([plugin]).files)
    given = {"trial": 0, "start": Start(), "since": 0, "until": 4, "total": 4, **fields}
    return SegmentTask(run=run.path, study=study.data, plugins=files, **given)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_pieces_give_the_same_checkpoint(
    new_study: NewStudy, run: RunFolder, plugin_file: Path
) -> None:
    study, events = new_study("training.steps=4"), []

    def emit(event: StepEvent) -> None:
        events.append(event)

    whole = task_of(study, run, plugin_file)
    run_segment(whole, emit, {})
    assert [e.step for e in events] == [1, 2, 3, 4]
    assert {e.trial for e in events} == {0}
    expected = files_of(run.checkpoint(0, 4))
    assert {name.split("/")[0] for name in expected} == {"validation.json", "policy"}

    for number, cache in ((1, {}), (2, None)):
        other = RunFolder(run.path.with_name(f"run{number}"))
        memory: dict[str, Any] = {} if cache is None else cache
        run_segment(replace(whole, run=other.path, until=2), emit, memory)
        if cache is None:
            memory = {}
        assert "training/trial.json" in files_of(other.checkpoint(0, 2))
        run_segment(replace(whole, run=other.path, since=2), emit, memory)
        found = files_of(other.checkpoint(0, 4))
        assert {k: v for k, v in found.items() if k != "validation.json"} == {
            k: v for k, v in expected.items() if k != "validation.json"
        }
        mine, theirs = (Measurements.read(r.measurements(0, 4, "validation")) for r in (run, other))
        assert mine.evaluations == theirs.evaluations


def test_a_finished_segment_is_not_run_again(
    new_study: NewStudy, run: RunFolder, plugin_file: Path
) -> None:
    task = task_of(new_study(), run, plugin_file, until=1)
    run_segment(task, lambda event: None, {})
    before = files_of(run.checkpoint(0, 1))
    run_segment(task, lambda event: pytest.fail("trained again"), {})
    assert files_of(run.checkpoint(0, 1)) == before


def test_base_and_test_split(new_study: NewStudy, run: RunFolder, plugin_file: Path) -> None:
    study = new_study()
    base = task_of(study, run, plugin_file, trial=BASE, until=0, total=0)
    run_segment(base, lambda event: None, {})
    run_segment(replace(base, split="test"), lambda event: None, {})
    assert set(files_of(run.trial(BASE))) == {
        "artifact.json",
        "step-00000/validation.json",
        "step-00000/test.json",
    }
    validation = Measurements.read(run.measurements(BASE, 0, "validation"))
    test = Measurements.read(run.measurements(BASE, 0, "test"))
    assert validation.evaluations[0].evaluation.names == ("a", "b")
    units = [set(m.evaluations[0].evaluation.units) for m in (validation, test)]
    assert not units[0] & units[1]


def test_testing_a_trained_point_loads_its_policy(
    new_study: NewStudy, run: RunFolder, plugin_file: Path
) -> None:
    task = task_of(new_study("training.steps=4"), run, plugin_file)
    cache: dict[str, Any] = {}
    run_segment(task, lambda event: None, cache)
    test = replace(task, since=4, split="test")
    run_segment(test, lambda event: None, cache)
    from_memory = Measurements.read(run.measurements(0, 4, "test"))
    run.measurements(0, 4, "test").unlink()
    run_segment(test, lambda event: None, {})
    assert Measurements.read(run.measurements(0, 4, "test")).evaluations == from_memory.evaluations


def test_testing_a_point_at_a_rung_needs_no_training_state(
    new_study: NewStudy, run: RunFolder, plugin_file: Path
) -> None:
    """A front point of a stopped trial keeps its policy only."""
    task = task_of(new_study("training.steps=4"), run, plugin_file, until=2)
    run_segment(task, lambda event: None, {})
    shutil.rmtree(run.training(0, 2))
    run_segment(replace(task, since=2, split="test"), lambda event: None, {})
    assert run.measurements(0, 2, "test").is_file()


def test_starts_from_a_point_and_from_a_soup(
    new_study: NewStudy, run: RunFolder, plugin_file: Path
) -> None:
    study = new_study()
    task = task_of(study, run, plugin_file, until=3, total=3)
    for trial in (0, 1):
        run_segment(replace(task, trial=trial), lambda event: None, {})
    measured = {}
    for number, start in enumerate(
        [Start(((0, 3),), (1.0,)), Start(((0, 3), (1, 3)), (0.5, 0.5)), Start()], start=2
    ):
        at_start = replace(task, trial=number, start=start, until=0, total=3)
        run_segment(at_start, lambda event: None, {})
        measurements = Measurements.read(run.measurements(number, 0, "validation"))
        measured[number] = measurements.evaluations[0].evaluation.values_UK
    source = Measurements.read(run.measurements(0, 3, "validation"))
    assert measured[2] == source.evaluations[0].evaluation.values_UK
    assert measured[3] != measured[2] != measured[4]


def test_conditions_give_several_points(
    new_study: NewStudy, run: RunFolder, plugin_file: Path
) -> None:
    study = new_study("policy={tiny: {condition: weights}}")
    run_segment(task_of(study, run, plugin_file, until=1), lambda event: None, {})
    measured = Measurements.read(run.measurements(0, 1, "validation")).evaluations
    assert [m.condition for m in measured] == [
        {"a": 0.5, "b": 0.5},
        pytest.approx({"a": 0.6, "b": 0.4}),
        pytest.approx({"a": 0.4, "b": 0.6}),
    ]


def test_calibrated_rewards(new_study: NewStudy, run: RunFolder, plugin_file: Path) -> None:
    study = new_study("training.combine=rewards", "training.scale=calibrated")
    run_segment(task_of(study, run, plugin_file, until=1), lambda event: None, {})
    assert list(run.artifacts.glob("calibration-*/scores.json"))


def test_a_changed_plugin_file_is_refused(
    new_study: NewStudy, run: RunFolder, plugin_file: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(plugin_file.read_text())
    task = task_of(new_study(), run, mine, until=1)
    mine.write_text(plugin_file.read_text() + "\n# changed\n")
    with pytest.raises(PluginError, match=r"mine.py has changed since the study started"):
        run_segment(task, lambda event: None, {})


def test_a_reward_that_remembers_measures_alike_after_loading(
    new_study: NewStudy, run: RunFolder, plugin_file: Path
) -> None:
    given = ("objectives.b.reward=running", "objectives.b.bounds=[-8,8]", "training.steps=2")
    task = task_of(new_study(*given), run, plugin_file, until=2, total=2)
    cache: dict[str, Any] = {}
    run_segment(task, lambda event: None, cache)
    test = replace(task, since=2, split="test")
    run_segment(test, lambda event: None, cache)
    from_memory = Measurements.read(run.measurements(0, 2, "test"))
    run.measurements(0, 2, "test").unlink()
    run_segment(test, lambda event: None, {})
    cold = Measurements.read(run.measurements(0, 2, "test"))
    assert cold.evaluations == from_memory.evaluations
    assert cold.cost == from_memory.cost


def test_calibration_refuses_a_constant_objective(
    new_study: NewStudy, run: RunFolder, plugin_file: Path
) -> None:
    given = ("training.combine=rewards", "training.scale=calibrated", "objectives.b.reward=odd")
    with pytest.raises(StudyError, match="cannot standardise the objective b"):
        run_segment(task_of(new_study(*given), run, plugin_file, until=1), lambda event: None, {})


@pytest.mark.parametrize("damage", ["gone", "training", "older", "policy"])
def test_a_checkpoint_that_is_damaged_is_made_again(
    new_study: NewStudy, run: RunFolder, plugin_file: Path, damage: str
) -> None:
    task = task_of(new_study("training.steps=4"), run, plugin_file)
    run_segment(replace(task, until=2), lambda event: None, {})
    rung = files_of(run.checkpoint(0, 2))
    run_segment(replace(task, since=2), lambda event: None, {})
    expected = files_of(run.checkpoint(0, 4))
    shutil.rmtree(run.checkpoint(0, 4))
    if damage == "gone":
        shutil.rmtree(run.checkpoint(0, 2))
    elif damage == "training":
        (run.training(0, 2) / "trial.safetensors").write_bytes(b"half")
    elif damage == "older":  # the state of a weighting as another version kept it
        file = run.training(0, 2) / "trial.json"
        state = json.loads(file.read_text())
        state["components"]["weighting"] = {"last": 1}
        file.write_text(json.dumps(state))
    else:
        (run.policy(0, 2) / "policy.safetensors").unlink()
    run_segment(replace(task, since=2), lambda event: None, {})
    assert files_of(run.checkpoint(0, 2)) == rung
    assert files_of(run.checkpoint(0, 4)) == expected


def test_what_is_made_again_has_spent_what_it_had_spent(
    new_study: NewStudy, run: RunFolder, plugin_file: Path
) -> None:
    """It was measured at an earlier rung, too, and its cost has that."""
    task = task_of(new_study("training.steps=4", "search.rungs=[1,2]"), run, plugin_file)
    for since, until in ((0, 1), (1, 2), (2, 4)):
        run_segment(replace(task, since=since, until=until), lambda event: None, {})
    expected = {step: files_of(run.checkpoint(0, step)) for step in (2, 4)}
    for step in (2, 4):
        shutil.rmtree(run.checkpoint(0, step))
    run_segment(replace(task, since=2), lambda event: None, {})
    assert {step: files_of(run.checkpoint(0, step)) for step in (2, 4)} == expected
    shutil.rmtree(run.checkpoint(0, 4))
    run_segment(task, lambda event: None, {})
    assert files_of(run.checkpoint(0, 4)) == expected[4]


@pytest.mark.parametrize(
    "other", [{"start": Start(((0, 4),), (1.0,))}, {"total": 3}], ids=["continued", "shorter"]
)
def test_what_stands_at_no_rung_is_not_measured_there(
    new_study: NewStudy, run: RunFolder, plugin_file: Path, other: dict[str, Any]
) -> None:
    """Nobody would read it, and the trial would be charged."""
    spent = []
    for name, rungs in (("with", [1, 2]), ("without", [])):
        folder = RunFolder(run.path.with_name(name))
        study = new_study("training.steps=4", f"search.rungs={rungs}")
        task = task_of(study, folder, plugin_file)
        run_segment(task, lambda event: None, {})
        run_segment(replace(task, trial=1, until=3, **other), lambda event: None, {})
        spent += [
            Measurements.read(folder.measurements(0, 4, "validation")).cost,
            Measurements.read(folder.measurements(1, 3, "validation")).cost,
        ]
    assert spent[0].generated > spent[2].generated, "what is ranked is charged"
    assert spent[1] == spent[3]


@pytest.mark.parametrize("condition", ["none", "weights"])
@pytest.mark.parametrize("optimizer", ["plain", "dr-grpo"])
def test_a_corner_of_the_simplex_trains_and_is_measured(
    new_study: NewStudy, run: RunFolder, plugin_file: Path, optimizer: str, condition: str
) -> None:
    """An objective of weight 0 moves nothing, and is measured as the others are."""
    measured = {}
    for number, letter in enumerate("ab"):
        corner = {name: float(name == letter) for name in "ab"}
        study = new_study(
            f"weighting={{fixed: {{preference: {{a: {corner['a']}, b: {corner['b']}}}}}}}",
            f"policy={{tiny: {{condition: {condition}}}}}",
            f"training.optimizer={optimizer}",
            "training.steps=4",
        )
        events: list[StepEvent] = []
        run_segment(task_of(study, run, plugin_file, trial=number), events.append, {})
        weights = [(e.metrics["weight/a"], e.metrics["weight/b"]) for e in events]
        if condition == "none":  # else every prompt has weights of its own
            assert weights == [(corner["a"], corner["b"])] * 4
        found = Measurements.read(run.measurements(number, 4, "validation")).evaluations
        for one in found:
            assert one.evaluation.names == ("a", "b")
            assert not any(math.isnan(v) for row in one.evaluation.values_UK for v in row)
        measured[letter] = found
    assert measured["a"] != measured["b"]


def test_a_full_disk_under_a_checkpoint_is_the_systems_error(
    new_study: NewStudy, run: RunFolder, plugin_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the executor can tell it from a trial's own failure."""
    task = task_of(new_study(), run, plugin_file, until=1)

    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    done = run_task(run_segment, task, lambda event: None, {})
    assert isinstance(done, SegmentFailed)
    assert done.fatal
    assert "make room" in done.reason
    assert not run.checkpoint(0, 1).exists()


@pytest.mark.parametrize("other", [{"w": torch.ones(3)}, {"v": torch.ones(2)}, {}])
def test_only_policies_of_one_shape_are_averaged(tmp_path: Path, other: dict[str, Any]):
    folder = RunFolder(tmp_path)
    states = [{"w": torch.tensor([0.0, 2.0])}, {"w": torch.tensor([4.0, 2.0])}, other]
    for trial, state in enumerate(states):
        save_state(state, folder.policy(trial, 6), "policy")
    mixed = mixed_policy(folder, Start(((0, 6), (1, 6)), (0.25, 0.75)))
    assert mixed["w"].tolist() == [3.0, 2.0]
    with pytest.raises(OptionError, match=r"trial 0 at step 6 and of trial 2 at step 6 differ"):
        mixed_policy(folder, Start(((0, 6), (2, 6)), (0.5, 0.5)))
