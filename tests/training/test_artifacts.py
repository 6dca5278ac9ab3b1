"""What is built once and shared by runs: made, remembered, found again, refused in time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from moalign import DataError, RecordError, plugins
from moalign.search.artifacts import base_folder, check_data, ensure_base
from moalign.search.folders import RunFolder
from moalign.study import bundled
from moalign.study.loading import load
from moalign.study.study import Study

NewStudy = Callable[..., Study]


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> RunFolder:
    """A fresh run that shares the base policy."""
    (tmp_path / ".artifacts").symlink_to(runs / ".artifacts")
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    return folder


def test_a_run_remembers_its_base_policy(
    new_study: NewStudy, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = new_study()
    folder = ensure_base(study, run, lambda share, words: None)
    monkeypatch.setattr(type(study.policy), "recipe", lambda *given: {"version": "another"})
    assert base_folder(new_study(), run) == folder
    assert base_folder(new_study(), RunFolder(run.path.with_name("other"))) != folder
    assert base_folder(new_study("seed=1"), run) != folder


def test_base_is_built_once(new_study: NewStudy, tmp_path: Path) -> None:
    run, said = RunFolder(tmp_path / "run"), []
    first = ensure_base(new_study(), run, lambda share, words: said.append(words))
    stamp = os.stat(first / "model.safetensors").st_mtime_ns
    assert ensure_base(new_study(), run, lambda share, words: said.append(words)) == first
    assert os.stat(first / "model.safetensors").st_mtime_ns == stamp
    assert said == ["done", "base policy ready", "base policy ready"]
    assert json.loads((first / "config.json").read_text())["model_type"] == "llama"


def test_a_field_that_prompts_lack_is_told(
    new_study: NewStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = new_study()
    reward = type(study.new_rewards()["a"])
    monkeypatch.setattr(reward, "needs", frozenset({"field:frist"}))
    with pytest.raises(DataError, match=r"needs the field 'frist'.*did you mean 'first'"):
        check_data(study)


def test_a_full_disk_under_the_base_policy_is_a_sentence(
    new_study: NewStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = new_study()

    def full(*given: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(type(study.policy), "build", full)
    with pytest.raises(RecordError, match=r"the base policy cannot be written.*make room"):
        ensure_base(study, RunFolder(tmp_path / "run"), lambda share, words: None)
    assert list((tmp_path / ".artifacts").iterdir()) == []


def prompts_study(path: Path, columns: str, *overrides: str) -> Study:
    text, source = bundled.read(bundled.DEFAULT)
    task = f"task={{prompts: {{path: {path}{columns}}}}}"
    given = ("objectives={short: {reward: {brevity: {limit: 9}}}}", "search.space={}", task)
    return load(text, source, plugins.load(), (*given, *overrides))


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A file with a `chosen` column and no `rejected` one."""
    path = tmp_path / "half.jsonl"
    rows = [{"prompt": f"p{i}", "chosen": "yes"} for i in range(600)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_preferences_of_half_a_pair_are_refused_where_they_are_learnt_from(half: Path) -> None:
    with pytest.raises(DataError, match=r"offers none .* columns `chosen` and `rejected`"):
        check_data(prompts_study(half, "", "weighting=prompt-adapter"))
    check_data(prompts_study(half, ""))


@pytest.mark.parametrize("column", ["rejected: worse", "completion: good"])
def test_a_column_that_only_the_report_reads_is_missed_at_the_start(
    half: Path, column: str
) -> None:
    """Not after hours of training."""
    with pytest.raises(DataError, match=r"there is no column '(worse|good)'"):
        check_data(prompts_study(half, f", {column}"))
