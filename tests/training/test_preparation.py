"""A stage before training: what it is given, that it runs once, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from moalign import ContractError, Cost, RecordError, SegmentTask, Start
from moalign.plugins import load
from moalign.search.artifacts import (
    base_policy,
    calibration,
    ensure_base,
    prepared,
    prepared_folder,
)
from moalign.search.folders import RunFolder
from moalign.search.measurements import Measurements, cost_before
from moalign.search.segments import run_segment
from moalign.study.document import Document
from moalign.study.loading import checked
from moalign.study.study import Study
from moalign.training.loop import Trial
from moalign.training.preparation import preparation

NewStudy = Callable[..., Study]
LEARNS = ("weighting=learns", "search.space={}")
CONDITIONED = "policy={tiny: {condition: weights}}"


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> RunFolder:
    """A fresh run that shares the base policy but nothing that is prepared."""
    artifacts = tmp_path / ".artifacts"
    artifacts.mkdir()
    for folder in (runs / ".artifacts").iterdir():
        if not folder.name.startswith("learns"):
            (artifacts / folder.name).symlink_to(folder)
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    return folder


def new_trial(study: Study, run: RunFolder) -> Trial:
    return Trial(study, 0, base_policy(study, run, {}), total=6, prepared=prepared(study, run))


def task_of(study: Study, run: RunFolder, plugin: Path, **fields: Any) -> SegmentTask:
    files = tuple((f.path, f.sha256) for f in load([plugin]).files)
    given = {"trial": 0, "start": Start(), "since": 0, "until": 4, "total": 4, **fields}
    return SegmentTask(run=run.path, study=study.data, plugins=files, **given)


def test_pairs_are_scored_as_if_the_policy_had_written_them(
    new_study: NewStudy, run: RunFolder
) -> None:
    study, said = new_study(*LEARNS), []
    policy = base_policy(study, run, {})
    context = preparation(study, policy, lambda *words: said.append(words), Cost())
    assert [o.name for o in context.objectives] == ["a", "b"]
    assert {p.split for p in context.prompts} == {None}
    prompts = [pair.prompt for pair in context.pairs]
    scores = context.score(prompts, [pair.chosen for pair in context.pairs])
    torch.testing.assert_close(scores, torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    assert context.score([], []).shape == (0, 2)
    assert context.features(prompts).shape == (2, 16)


def test_it_runs_once_per_recipe(
    new_study: NewStudy, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, calls = new_study(*LEARNS), []
    kind = type(study.new_weighting())
    prepare = kind.prepare
    monkeypatch.setattr(kind, "prepare", lambda *args: calls.append(1) or prepare(*args))
    first = prepared(study, run)
    again = prepared(new_study(*LEARNS, "weighting.other=3"), run)
    assert len(calls) == 1
    torch.testing.assert_close(first["chosen"], again["chosen"])
    prepared(new_study(*LEARNS, "weighting.twist=2"), run)
    prepared(new_study(*LEARNS, "seed=1"), run)
    assert len(calls) == 3
    turned = dict(reversed(study.data["objectives"].items()))
    data = study.data | {"objectives": turned}
    turned = prepared(checked(Document("letters.yaml", data), study.catalogue), run)
    assert len(calls) == 4, "what is learnt follows the order of the objectives"
    torch.testing.assert_close(turned["chosen"], first["chosen"].flip(-1))
    assert prepared(new_study(), run) is None


def test_what_it_takes_is_counted_once(new_study: NewStudy, run: RunFolder) -> None:
    study = new_study(*LEARNS)
    assert cost_before(run) is None, "nothing has been prepared"
    prepared(study, run)
    policy = base_policy(study, run, {})
    features = sum(len(policy.prompt_ids(p.prompt, None)) for p in study.task.pairs(study.seed))
    expected = Cost(forwarded=features)
    assert features > 0
    assert cost_before(run) == expected, "letters are counted without the model"
    prepared(study, run)
    assert cost_before(run) == expected
    other = RunFolder(run.path.with_name("other"))
    other.path.mkdir()
    prepared(study, other)
    assert cost_before(other) == expected, "whoever shares it says what it took"
    prepared(new_study(*LEARNS, "weighting.twist=2"), run)
    assert cost_before(run) == Cost(forwarded=2 * features)


def test_rewards_that_read_the_model_are_counted(new_study: NewStudy, run: RunFolder) -> None:
    study = new_study(*LEARNS, "objectives.b.reward=kl", "objectives.b.bounds=[-9,9]")
    policy, spent = base_policy(study, run, {}), Cost()
    context = preparation(study, policy, lambda *_: None, spent)
    pairs = context.pairs
    context.score([pair.prompt for pair in pairs], [pair.chosen for pair in pairs])
    assert spent.forwarded > 0
    assert (spent.generated, spent.backwarded) == (0, 0)


def test_a_damaged_count_is_a_sentence(new_study: NewStudy, run: RunFolder) -> None:
    study = new_study(*LEARNS)
    prepared(study, run)
    folder = prepared_folder(study, run)
    assert folder is not None
    (folder / "cost.json").write_text('{"forwarded"')
    with pytest.raises(RecordError, match=r"cost\.json cannot be read .* delete its folder"):
        cost_before(run)
    (folder / "cost.json").unlink()
    assert cost_before(run) is None, "made by an earlier version"
    next(run.base_artifact.parent.glob("learns-*.json")).write_text("half")
    assert run.prepared_artifacts() == []


def test_the_host_calibrates_before_workers_begin(new_study: NewStudy, run: RunFolder) -> None:
    """Else each of those that begin together would sample by itself."""
    study = new_study("training.combine=rewards", "training.scale=calibrated", "seed=6")
    ensure_base(study, run, lambda _share, _words: None)
    assert list(run.artifacts.glob("calibration-*/scores.json"))


def test_calibration_is_counted(new_study: NewStudy, run: RunFolder) -> None:
    calibration(new_study("training.combine=rewards", "training.scale=calibrated", "seed=5"), run)
    spent = cost_before(run)
    assert spent is not None
    assert spent.generated > 0


@pytest.mark.parametrize(
    "change",
    [('"aa", "b"', '"aa", "c"'), ("t.count(self.letter)", "2 * t.count(self.letter)")],
    ids=["preferences", "reward"],
)
def test_other_preferences_or_code_are_prepared_anew(
    new_study: NewStudy, run: RunFolder, plugin_file: Path, tmp_path: Path, change: tuple[str, str]
) -> None:
    study = new_study(*LEARNS)
    before = prepared_folder(study, run)
    changed = tmp_path / "letters.py"
    changed.write_text(plugin_file.read_text().replace(*change))
    edited = checked(Document("letters.yaml", study.data), load([changed]))
    assert edited.data == study.data
    assert prepared_folder(edited, RunFolder(tmp_path / "other")) != before
    assert prepared_folder(edited, run) == before, "a run finds what it was begun with"
    again = RunFolder(tmp_path / "again")
    assert prepared_folder(study, again) == before, "runs share what is prepared alike"


def test_a_trial_weighs_each_prompt_by_what_was_prepared(
    new_study: NewStudy, run: RunFolder
) -> None:
    trial = new_trial(new_study(*LEARNS), run)
    before = trial._prompt_weights(trial.prompts["train"][:5])
    trial.train_step()
    after = trial._prompt_weights(trial.prompts["train"][:5])
    assert before.std() > 0
    torch.testing.assert_close(before, after, rtol=0, atol=0)  # the base policy's features stay


def test_half_the_prompts_of_a_policy_that_reads_weights_have_their_own(
    new_study: NewStudy, run: RunFolder
) -> None:
    trial = new_trial(new_study(*LEARNS, CONDITIONED), run)
    batch = trial.rollout("train", 0)
    own = trial._prompt_weights(batch.prompts_P)
    torch.testing.assert_close(batch.conditions_PK[::2], own[::2])
    assert ((batch.conditions_PK - own)[1::2].abs() > 1e-3).any(-1).all()


def test_it_is_measured_under_its_own_weights_first(
    new_study: NewStudy, run: RunFolder, plugin_file: Path
) -> None:
    study = new_study(*LEARNS, CONDITIONED)
    run_segment(task_of(study, run, plugin_file, until=1), lambda event: None, {})
    measured = Measurements.read(run.measurements(0, 1, "validation")).evaluations
    assert [m.condition for m in measured[:2]] == [None, {"a": 0.5, "b": 0.5}]
    assert len(measured) == 4
    assert measured[0].evaluation.values_UK != measured[1].evaluation.values_UK
    assert new_trial(study, run)._own_condition() is None, "during training too"


def test_resuming_is_exact(new_study: NewStudy, run: RunFolder, plugin_file: Path) -> None:
    study = new_study(*LEARNS, CONDITIONED)
    whole, parts = [], []
    run_segment(task_of(study, run, plugin_file), lambda e: whole.append(e.metrics), {})
    for since, until in ((0, 2), (2, 4)):
        task = task_of(study, run, plugin_file, trial=0, since=since, until=until)
        other = RunFolder(run.path.with_name("other"))
        other.path.mkdir(exist_ok=True)
        run_segment(
            SegmentTask(**{**task.__dict__, "run": other.path}),
            lambda e: parts.append(e.metrics),
            {},
        )
    assert whole == parts


def test_calibration_does_not_depend_on_the_weighting(
    new_study: NewStudy, run: RunFolder, tmp_path: Path
) -> None:
    given = (CONDITIONED, "search.space={}", "training.combine=rewards")
    given = (*given, "training.scale=calibrated")
    mine = calibration(new_study(*given, "weighting=learns"), run)
    for folder in run.artifacts.glob("calibration-*"):
        folder.rename(tmp_path / f"away {folder.name}")
    others = calibration(new_study(*given), run)
    torch.testing.assert_close(mine, others, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (torch.ones(3, 2), r"weights that are not finite, not negative and of sum 1"),
        (torch.ones(3, 1), r"returned shape \[3, 1\]; it must be \[P, K\] = \[3, 2\]"),
    ],
)
def test_weights_per_prompt_are_held_to_their_contract(
    new_study: NewStudy, run: RunFolder, monkeypatch: pytest.MonkeyPatch, returned, sentence
) -> None:
    trial = new_trial(new_study(*LEARNS), run)
    monkeypatch.setattr(trial.weighting, "prompt_weights", lambda *_: returned)
    with pytest.raises(ContractError, match=sentence):
        trial._prompt_weights(trial.prompts["train"][:3])
