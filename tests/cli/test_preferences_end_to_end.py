"""A search over DPO trials, of pairs and of samples: front, standard errors, export, sample."""

from __future__ import annotations

import csv
import json
import math
import re
import warnings
from pathlib import Path
from typing import Any

import choices
import letters
import pytest
from typer.testing import CliRunner, Result

from moalign.cli import command_line

OF_SAMPLES = [part for text in choices.OF_SAMPLES for part in ("--set", text)]


class World:
    """A folder with a study and runs."""

    def __init__(self, folder: Path) -> None:
        self.study, self.runs = folder / "choices.yaml", folder / "runs"
        text = choices.STUDY.replace("trials: 2", "trials: 2, rungs: [3]")
        self.study.write_text(
            text.replace("steps: 6", "steps: 5").replace(
                "task: choices", "task: {choices: {faults: {equal: 2}}}"
            )
        )

    def __call__(self, *arguments: object) -> Result:
        given = [*arguments, "--out", self.runs]
        done = CliRunner().invoke(command_line(), [str(argument) for argument in given])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.output
        return done

    def pareto(self, *arguments: object) -> Result:
        files = ["--plugin", letters.FILE, "--plugin", choices.FILE]
        return self("pareto", self.study, *files, *arguments)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def searched(world: World) -> Result:
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as for people: notes are warnings
        done = world.pareto("--set", "trackers=[mlflow]")
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    left = "2 of 24 preferences of the train split are left out: the two completions are equal"
    assert f"trial 0: {left}" in said
    assert said.count(left) == 2, "and at the end, of how many trials"
    return done


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "points.csv").open() as file:
        return {row["point"]: row for row in csv.DictReader(file)}


@pytest.mark.e2e
def test_the_front_has_agreement_with_standard_errors(world: World, searched: Result) -> None:
    rows = table(world.runs / "choices")
    base = rows.pop("base")
    assert float(base["validation.people"]) == 0.5
    assert len(rows) >= 2
    for row in rows.values():
        assert 0.0 <= float(row["validation.people"]) <= 1.0
        stderr = float(row["validation.people.stderr"])
        assert math.isfinite(stderr)
        assert stderr > 0 or float(row["validation.people"]) in {0.0, 0.5, 1.0}
        assert float(row["validation.a.stderr"]) > 0
    measured = [
        json.loads(file.read_text())
        for file in (world.runs / "choices" / "trials").rglob("validation.json")
    ]
    assert measured
    costs: list[dict[str, Any]] = [m["cost"] for m in measured]
    assert all(0 < cost["backwarded"] < cost["forwarded"] for cost in costs)
    report = (world.runs / "choices" / "report.md").read_text()
    assert "people" in report


@pytest.mark.e2e
def test_a_front_point_is_exported_and_talks(
    world: World, searched: Result, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    done = world("front", "choices", "--knee", "--export", tmp_path / "mine")
    assert done.exit_code == 0, done.output
    AutoModelForCausalLM.from_pretrained(tmp_path / "mine")
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "people" in card
    done = world("sample", "choices", "abc", "-n", 3, "--prefer", "people=1")
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == 4


@pytest.mark.e2e
def test_trials_on_samples_share_them(world: World) -> None:
    done = world.pareto(*OF_SAMPLES, "--run", "sampled")
    assert done.exit_code == 0, done.output
    (artifact,) = (world.runs / ".artifacts").glob("samples-*")
    cost = json.loads((artifact / "cost.json").read_text())
    assert cost["generated"] > 0
    rows = table(world.runs / "sampled")
    assert len(rows) >= 3
    done = world("sample", "sampled", "abc", "-n", 1)
    assert done.exit_code == 0, done.output


@pytest.mark.e2e
def test_what_was_learned_from_preferences_reaches_mlflow(world: World, searched: Result) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{world.runs / 'mlflow.db'}")
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    runs = {run.data.tags["moalign.part"]: run.info.run_id for run in found}
    assert set(runs) == {"study", "base", "0", "1"}
    for trial in "01":

        def values(metric: str, run: str = runs[trial]) -> dict[int, float]:
            return {m.step: m.value for m in client.get_metric_history(run, metric)}

        accuracy, margin = values("training/accuracy"), values("training/margin")
        assert list(accuracy) == list(margin) == list(values("training/loss")) == [1, 2, 3, 4, 5]
        assert (accuracy[1], margin[1]) == (0.5, 0.0), "it begins as the reference"
        assert accuracy[5] > 0.5
        assert margin[5] > 0
        assert not values("training/entropy"), "nothing is rolled out"
        agreement = values("validation/people")
        assert list(agreement) == [3, 5]
        rows = [row for row in table(world.runs / "choices").values() if row["trial"] == trial]
        assert rows
        for row in rows:
            assert agreement[int(row["step"])] == pytest.approx(float(row["validation.people"]))


@pytest.mark.e2e
def test_what_cannot_be_used_ends_the_study_before_a_policy_is_built(
    world: World, tmp_path: Path
) -> None:
    runs = world.runs
    world.runs = tmp_path / "runs"
    try:
        done = world.pareto("--set", "objectives.people.reward.score=fluency")
    finally:
        world.runs = runs
    assert done.exit_code == 2
    assert "people.reward.preferred.score: no preference has the score 'fluency'" in done.stderr
    assert not (tmp_path / "runs" / ".artifacts").exists()


def test_a_plan_tells_what_is_left_out(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}", "chosen": "a", "rejected": "b"} for n in range(400)]
    rows[6] |= {"rejected": "a"}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    world = World(tmp_path)
    read = f"task: {{preferences: {{path: {tmp_path / 'rows.jsonl'}}}}}"
    world.study.write_text(choices.STUDY.replace("task: choices", read))
    done = world.pareto("--plan")
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert re.search(r"data 1 row whose two completions .* left out: .*rows\.jsonl.*line 7", said)
