"""The tracker mlflow: what stands in the store after a study's events, in any order and twice."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Run

from moalign import MoalignError, plugins
from moalign.types import (
    Cost,
    Evaluation,
    Objective,
    Observation,
    Proposal,
    Start,
    StepEvent,
)
from moalign_plugins.trackers import mlflow as tracking
from moalign_plugins.trackers.mlflow import MLflow, _make_database

OBJECTIVES = (
    Objective("accuracy", (0.0, 1.0)),
    Objective("brevity", (0.0, 1.0)),
    Objective("length", None, train=False, front=False),
)
STUDY: dict[str, Any] = {
    "study": "sums",
    "seed": 0,
    "task": {"arithmetic": {}},
    "objectives": {"accuracy": {"reward": {"exact-answer": {}}, "bounds": None}},
    "training": {"optimizer": {"grpo": {"clip_low": 0.2, "kl": None}}, "learning_rate": 5e-4},
    "weighting": {"fixed": {"preference": None}},
    "search": {
        "strategy": {"gp": {"startup": 8}},
        "trials": 4,
        "space": {
            "weighting.preference": "simplex",
            "training.learning_rate": {"low": 1e-4, "high": 1e-3, "log": True},
        },
    },
}
OPENED = 1_700_000_000.25
TRIALS, STEPS, RUNG = 4, 6, 3
METRICS = ("objective/accuracy", "weight/accuracy", "loss")


def unsynced(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA synchronous = OFF")  # creating tables waits for the disk 700 times


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty store: SQLite's migrations take seconds, so they run once."""
    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", unsynced)
    file = tmp_path_factory.mktemp("template") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    yield file
    sqlalchemy.event.remove(sqlalchemy.Engine, "connect", unsynced)


@pytest.fixture
def run(tmp_path: Path, template: Path) -> Path:
    """The folder of a run beside an empty store."""
    shutil.copy(template, tmp_path / "mlflow.db")
    (tmp_path / "sums").mkdir()
    return tmp_path / "sums"


@pytest.fixture
def tracker() -> Iterator[MLflow]:
    """A tracker that is closed at the end."""
    made = MLflow()
    yield made
    made.close()


@dataclass
class Store:
    """What a store holds of one experiment."""

    uri: str
    client: MlflowClient = field(init=False)
    runs: dict[str, Run] = field(init=False)

    def __post_init__(self) -> None:
        self.client = MlflowClient(self.uri)
        found = self.client.search_runs([e.experiment_id for e in self.client.search_experiments()])
        self.runs = {run.data.tags["moalign.part"]: run for run in found}
        assert len(self.runs) == len(found), "a run was made twice"

    def values(self, part: str, key: str) -> list[tuple[int, float]]:
        """Return step and value of a metric, by time."""
        history = self.client.get_metric_history(self.runs[part].info.run_id, key)
        return [(metric.step, metric.value) for metric in sorted(history, key=lambda m: m.step)]

    def table(self, part: str) -> dict[str, Any]:
        """Return the table of completions."""
        path = self.client.download_artifacts(self.runs[part].info.run_id, "samples.json")
        loaded: dict[str, Any] = json.loads(Path(path).read_text(), parse_constant=pytest.fail)
        return loaded


def test_a_database_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "runs%3F" / "mlflow.db"

    def interrupted(address: str) -> None:
        assert address.endswith("mlflow.db")
        assert not file.exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _make_database(file, interrupted)
    assert list(file.parent.iterdir()) == []

    def whole(address: str) -> None:
        path = sqlalchemy.engine.make_url(address).database
        with contextlib.closing(sqlite3.connect(path.replace("%25", "%"))) as database:
            database.execute("CREATE TABLE whole (a)")

    def overtaken(address: str) -> None:
        whole(address)
        file.write_text("of another process")

    _make_database(file, whole)
    with contextlib.closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT * FROM whole").fetchall() == []
    _make_database(file, pytest.fail)  # it is there
    file.unlink()
    _make_database(file, overtaken)
    assert file.read_text() == "of another process"
    assert list(file.parent.iterdir()) == [file]


def beside(run: Path) -> Store:
    return Store(f"sqlite:///{run.parent / 'mlflow.db'}")


def start(tracker: MLflow, run: Path, **changed: Any) -> None:
    about: dict[str, Any] = {
        "study": STUDY,
        "objectives": OBJECTIVES,
        "time": OPENED,
        "versions": {"moalign": "0.1.0", "torch": "2.13.0"},
        "plugins": {"/somewhere/mine.py": "c0ffee"},
        "revision": "1234abcd",
    }
    tracker.moalign_study_started(run=run, **(about | changed))


def evaluation(value: float = 0.5) -> Evaluation:
    sample = {"prompt": "1+1", "text": "2", "scores": {"accuracy": value, "brevity": None}}
    return Evaluation(("accuracy", "brevity", "length"), ("u",), [[value] * 3], Cost(), (sample,))


def values(value: float) -> dict[str, tuple[float, float]]:
    return {"accuracy": (value, 0.02), "brevity": (0.4, 0.01), "length": (9.0, math.nan)}


def base(tracker: MLflow) -> None:
    tracker.moalign_base_measured(evaluation=evaluation(), values=values(0.3), time=OPENED + 1)


def proposal(trial: int) -> Proposal:
    weights = {"accuracy": 0.8 - 0.1 * trial, "brevity": 0.2 + 0.1 * trial}
    return Proposal({"weighting.preference": weights, "training.learning_rate": 0.00032})


def begin(tracker: MLflow, trial: int) -> None:
    time = OPENED + 10 + trial
    tracker.moalign_trial_started(trial=trial, proposal=proposal(trial), time=time)


def step(tracker: MLflow, trial: int, number: int, late: float = 0.0) -> None:
    time = OPENED + 20 + number + 0.1 * trial + late
    metrics = {name: float(100 * trial + number) for name in METRICS}
    tracker.moalign_step_ended(event=StepEvent(trial, number, time, metrics))


def observation(trial: int, until: int) -> Observation:
    point = (0.5 + 0.1 * trial, 0.9 - 0.1 * trial)
    full, params = until == STEPS, proposal(trial).params
    return Observation(
        trial, until, full, Start(), None, params, point, (0.02, 0.01), Cost(10 * until)
    )


def measure(tracker: MLflow, trial: int, until: int) -> None:
    tracker.moalign_segment_ended(
        trial=trial,
        observations=[observation(trial, until)],
        evaluations=[evaluation()],
        values=[values(0.5 + 0.1 * trial)],
        time=OPENED + 40 + until + trial,
    )


def front(tracker: MLflow, trials: list[int], hypervolume: float, ended: int) -> None:
    points = [observation(trial, STEPS) for trial in trials]
    time = OPENED + 50 + ended
    tracker.moalign_front_updated(points=points, hypervolume=hypervolume, trials=ended, time=time)


def end(tracker: MLflow, trial: int, outcome: str = "finished", reason: str = "") -> None:
    time = OPENED + 51 + trial
    tracker.moalign_trial_ended(trial=trial, outcome=outcome, reason=reason, time=time)


def train(tracker: MLflow) -> None:
    """Four trials, their steps interleaved as four workers send them."""
    base(tracker)
    for trial in range(TRIALS):
        begin(tracker, trial)
    for number in range(1, STEPS + 1):
        for trial in range(TRIALS):
            step(tracker, trial, number)
            if number in {RUNG, STEPS}:
                measure(tracker, trial, number)
    for trial in range(TRIALS):
        front(tracker, list(range(trial + 1)), 0.1 * (trial + 1), trial + 1)
        end(tracker, trial)


def files(run: Path, points: tuple[str, ...] = ("t00", "t01")) -> dict[str, Path]:
    """What the report writes, with these points on the front."""
    lines = [
        "point,trial,step,front,validation.accuracy,validation.accuracy.stderr,weight.accuracy"
    ]
    lines += ["base,,0,0,0.3,0.02,"]
    lines += [f"t{t:02d},{t},6,{int(f't{t:02d}' in points)},0.51234567,0.02,0.8" for t in (0, 1, 2)]
    (run / "points.csv").write_text("\n".join(lines) + "\n")
    (run / "front.png").write_bytes(b"png")
    (run / "front.html").write_text("<p>front</p>")
    for point in points:
        (run / "front" / point).mkdir(parents=True, exist_ok=True)
        (run / "front" / point / "model.safetensors").write_bytes(b"weights")
    named = {"front_png": "front.png", "front_html": "front.html", "points_csv": "points.csv"}
    return {role: run / name for role, name in named.items()} | {"policies": run / "front"}


# --- what is written ---------------------------------------------------------------------------


def test_every_trial_hangs_below_the_study_and_no_metric_is_lost(tracker, run) -> None:
    start(tracker, run)
    train(tracker)
    tracker.moalign_study_ended(outcome="finished", files={})
    tracker.close()
    store = beside(run)
    study = store.runs.pop("study")
    assert sorted(store.runs) == ["0", "1", "2", "3", "base"]
    assert {r.data.tags["mlflow.parentRunId"] for r in store.runs.values()} == {study.info.run_id}
    for trial in range(TRIALS):
        for key in ("objective/accuracy", "weight/accuracy", "training/loss"):
            expected = [(n, 100.0 * trial + n) for n in range(1, STEPS + 1)]
            assert store.values(str(trial), key) == expected
        assert store.values(str(trial), "tokens/generated") == [(RUNG, 30.0), (STEPS, 60.0)]
        measured = store.values(str(trial), "validation/accuracy")
        assert measured == [(at, pytest.approx(0.5 + 0.1 * trial)) for at in (RUNG, STEPS)]
        assert store.values(str(trial), "validation_stderr/brevity") == [(3, 0.01), (6, 0.01)]
    assert store.values("base", "validation/accuracy") == [(0, 0.3)]
    assert {r.info.status for r in [study, *store.runs.values()]} == {"FINISHED"}


def test_timestamps_are_those_of_the_events(tracker, run) -> None:
    start(tracker, run)
    begin(tracker, 0)
    step(tracker, 0, 1)
    end(tracker, 0)
    tracker.close()
    store = beside(run)
    trial = store.runs["0"]
    (loss,) = store.client.get_metric_history(trial.info.run_id, "training/loss")
    assert loss.timestamp == int(1000 * (OPENED + 21))
    assert store.runs["study"].info.start_time == int(1000 * OPENED)
    assert trial.info.start_time == int(1000 * (OPENED + 10))
    assert trial.info.end_time == int(1000 * (OPENED + 51))


def test_names_parameters_and_tags_say_what_a_run_is(tracker, run) -> None:
    start(tracker, run)
    base(tracker)
    begin(tracker, 3)
    measure(tracker, 3, RUNG)
    tracker.close()
    store = beside(run)
    study, trial = store.runs["study"], store.runs["3"]
    assert (study.info.run_name, store.runs["base"].info.run_name) == ("sums", "base")
    assert study.data.params == {
        "study": "sums",
        "seed": "0",
        "task": "arithmetic",
        "objectives.accuracy.reward": "exact-answer",
        "training.optimizer": "grpo",
        "training.optimizer.clip_low": "0.2",
        "training.learning_rate": "0.0005",
        "weighting": "fixed",
        "search.strategy": "gp",
        "search.strategy.startup": "8",
        "search.trials": "4",
        "search.space.weighting.preference": "simplex",
        "search.space.training.learning_rate.low": "0.0001",
        "search.space.training.learning_rate.high": "0.001",
        "search.space.training.learning_rate.log": "true",
    }
    told = {"objectives": "accuracy, brevity", "task": "arithmetic", "optimizer": "grpo"}
    told |= {"strategy": "gp", "version.torch": "2.13.0", "plugin.mine.py": "c0ffee"}
    assert told.items() <= study.data.tags.items()
    assert study.data.tags["mlflow.source.git.commit"] == "1234abcd"
    assert trial.info.run_name == "t03 accuracy .50 brevity .50"
    assert trial.data.params == {
        "weighting.preference.accuracy": "0.5",
        "weighting.preference.brevity": "0.5",
        "training.learning_rate": "0.00032",
        "start": "base policy",
    }
    tags = trial.data.tags
    assert tags["weights"] == "accuracy=0.50,brevity=0.50"
    assert (tags["outcome"], tags["on_front"]) == ("running", "false")
    assert tags["mlflow.note.content"].startswith("On validation, at step 3: accuracy 0.800 ± 0.02")


@pytest.mark.parametrize(
    ("study", "params", "name"),
    [
        ({"study": "sums"}, {"training.learning_rate": 0.00032}, "t07 learning_rate 0.00032"),
        ({"study": "sums"}, {"training.optimizer": "rloo"}, "t07 optimizer rloo"),
        (STUDY, {"training.learning_rate": 1e-3}, "t07 accuracy .50 brevity .50"),
        ({"study": "sums", "weighting": "influence"}, {}, "t07"),
        (
            {"study": "sums", "weighting": {"schedule": {}}},
            {
                "weighting.start": {"accuracy": 0.2, "brevity": 0.8},
                "weighting.end": {"accuracy": 1.0},
            },
            "t07 start accuracy .20 brevity .80 end accuracy 1.00",
        ),
    ],
)
def test_a_trial_is_named_by_its_weights_or_else_by_what_is_searched(
    tracker, run, study, params, name
) -> None:
    start(tracker, run, study=study)
    tracker.moalign_trial_started(trial=7, proposal=Proposal(params), time=OPENED)
    tracker.close()
    assert beside(run).runs["7"].info.run_name == name


def test_a_trial_says_where_it_started_and_what_the_strategy_fixed(tracker, run) -> None:
    soup = Start(((0, 6), (2, 3)), (0.25, 0.75))
    given = Proposal(
        {},
        soup,
        steps=9,
        settings={"objectives.accuracy.at_least": 0.7},
        reason="mixes 1/4 t00 and 3/4 t02",
    )
    start(tracker, run)
    tracker.moalign_trial_started(trial=0, proposal=given, time=OPENED)
    begin(tracker, 1)
    tracker.close()
    store = beside(run).runs
    assert store["0"].data.tags["origin"] == "mixes 1/4 t00 and 3/4 t02"
    assert "origin" not in store["1"].data.tags
    params = store["0"].data.params
    assert params["start"] == "0.25 t00@6 + 0.75 t02@3"
    assert (params["training.steps"], params["objectives.accuracy.at_least"]) == ("9", "0.7")


def test_a_weighting_that_the_strategy_set_leaves_no_weights_of_the_study_s(tracker, run) -> None:
    options = {"primary": "accuracy", "at_least": {"brevity": 0.25}}
    given = Proposal(
        {"weighting.preference": {"accuracy": 0.8, "brevity": 0.2}},
        settings={"weighting": {"lagrangian": options}},
    )
    start(tracker, run)
    tracker.moalign_trial_started(trial=7, proposal=given, time=OPENED)
    tracker.close()
    found = beside(run).runs["7"]
    assert found.info.run_name == "t07"
    assert "weights" not in found.data.tags
    assert {k: v for k, v in found.data.params.items() if k.startswith("weighting")} == {
        "weighting": "lagrangian",
        "weighting.primary": "accuracy",
        "weighting.at_least.brevity": "0.25",
    }


def test_completions_stand_in_a_table_with_a_score_per_objective(tracker, run) -> None:
    start(tracker, run)
    begin(tracker, 0)
    measure(tracker, 0, RUNG)
    measure(tracker, 0, STEPS)
    tracker.moalign_base_measured(evaluation=evaluation(math.nan), values=values(0.3), time=OPENED)
    tracker.close()
    store = beside(run)
    columns = ["prompt", "text", "accuracy", "brevity"]
    assert store.table("0") == {"columns": columns, "data": [["1+1", "2", 0.5, None]]}
    assert store.table("base")["data"] == [["1+1", "2", None, None]]
    tables = json.loads(store.runs["0"].data.tags["mlflow.loggedArtifacts"])
    assert tables == [{"path": "samples.json", "type": "table"}]


def test_each_condition_has_metrics_and_rows_of_its_own(tracker, run) -> None:
    start(tracker, run)
    conditions = [{"accuracy": 0.5, "brevity": 0.5}, {"accuracy": 0.9, "brevity": 0.1}]
    seen = [
        Observation(0, 6, True, Start(), c, {}, (0.5, 0.5), (0.1, 0.1), Cost()) for c in conditions
    ]
    tracker.moalign_segment_ended(
        trial=0,
        observations=seen,
        evaluations=[evaluation(0.5), evaluation(0.6)],
        values=[values(0.5), values(0.6)],
        time=OPENED,
    )
    tracker.close()
    store = beside(run)
    assert store.values("0", "validation/accuracy") == [(6, 0.5)]
    assert store.values("0", "validation_c2/accuracy") == [(6, 0.6)]
    rows = [row[0] for row in store.table("0")["data"]]
    assert rows == ["accuracy=0.50,brevity=0.50", "accuracy=0.90,brevity=0.10"]


def test_a_trial_says_how_it_ended_and_why(tracker, run) -> None:
    start(tracker, run)
    for trial in range(3):
        begin(tracker, trial)
    end(tracker, 0, "stopped", "ranked 4 of 4")
    end(tracker, 1, "failed", "the loss is not finite")
    tracker.moalign_study_ended(outcome="interrupted", files={})
    tracker.close()
    runs = beside(run).runs
    assert [runs[part].info.status for part in ("0", "1", "2", "study")] == [
        "FINISHED", "FAILED", "KILLED", "KILLED",
    ]  # fmt: skip
    assert [runs[part].data.tags["outcome"] for part in ("0", "1", "2", "study")] == [
        "stopped", "failed", "interrupted", "interrupted",
    ]  # fmt: skip
    assert runs["0"].data.tags["reason"] == "ranked 4 of 4"
    assert runs["1"].data.tags["reason"] == "the loss is not finite"


def test_what_a_trial_has_to_say_is_a_tag_each_sentence_once(tracker, run) -> None:
    start(tracker, run)
    begin(tracker, 0)
    said = [("b is flat",), (), ("a is flat: so b is flat", "b is flat"), ("a is flat",)]
    for number, notes in enumerate(said, start=1):
        tracker.moalign_step_ended(event=StepEvent(0, number, OPENED + number, {"x": 1.0}, notes))
    tracker.close()
    expected = "b is flat | a is flat: so b is flat | a is flat"
    assert beside(run).runs["0"].data.tags["notes"] == expected


def test_the_hypervolume_goes_on_over_trials_that_leave_the_front_as_it_is(tracker, run) -> None:
    start(tracker, run)
    for trial in range(3):
        begin(tracker, trial)
    front(tracker, [0], 0.2, 0)
    front(tracker, [0, 1], 0.3, 1)
    end(tracker, 0)
    end(tracker, 1, "failed")
    front(tracker, [1], 0.4, 3)
    end(tracker, 2)
    tracker.close()
    store = beside(run)
    curve = dict(store.values("study", "front/hypervolume"))
    assert curve == {0: 0.2, 1: 0.3, 2: 0.3, 3: 0.4}
    assert store.runs["study"].data.metrics["front/points"] == 1
    marks = [store.runs[part].data.tags["on_front"] for part in "012"]
    assert marks == ["false", "true", "false"]


def test_nan_says_that_there_is_no_value_and_odd_names_are_written(tracker, run) -> None:
    start(tracker, run)
    metrics = {"loss": math.nan, "kl": math.inf, "weighting/λ(a)=1 %": 2.0, "objective/a": 0.1}
    tracker.moalign_step_ended(event=StepEvent(0, 1, OPENED, metrics))
    tracker.close()
    found = beside(run).runs["0"].data.metrics
    assert set(found) == {"training/kl", "weighting/λ_a__1 _", "objective/a"}
    assert found["training/kl"] > 1e300


def test_more_metrics_than_mlflow_takes_at_once(tracker, run) -> None:
    start(tracker, run, versions={f"package{n}": "1" for n in range(150)})
    many = {f"weighting/m{n}": float(n) for n in range(1100)}
    tracker.moalign_step_ended(event=StepEvent(0, 1, OPENED, many))
    tracker.close()
    store = beside(run)
    assert len(store.runs["0"].data.metrics) == 1100
    assert sum(tag.startswith("version.") for tag in store.runs["study"].data.tags) == 150


def test_the_end_brings_the_files_and_the_front_as_model_versions(tracker, run) -> None:
    start(tracker, run)
    train(tracker)
    tracker.moalign_study_ended(outcome="finished", files=files(run))
    tracker.close()
    store = beside(run)
    study = store.runs["study"].info.run_id
    names = [file.path for file in store.client.list_artifacts(study)]
    assert names == ["front.html", "front.png", "points.csv", "study.yaml"]
    model = store.client.get_registered_model("sums")
    assert {str(alias): int(number) for alias, number in model.aliases.items()} == {
        "t00": 1, "t01": 2,
    }  # fmt: skip
    version = store.client.get_model_version_by_alias("sums", "t01")
    assert version.run_id == store.runs["1"].info.run_id
    assert Path(version.source) == run / "front" / "t01"
    assert version.tags == {
        "on_front": "true",
        "trial": "1",
        "step": "6",
        "validation.accuracy": "0.5123",
        "weight.accuracy": "0.8",
    }
    assert "accuracy 0.512 ± 0.020" in version.description
    note = store.runs["study"].data.tags["mlflow.note.content"]
    assert (
        f"[t00](#/experiments/{store.runs['0'].info.experiment_id}/runs/{store.runs['0'].info.run_id})"
        in note
    )
    assert "moalign front sums --prefer accuracy=3,brevity=1" in note
    assert "t02" not in note
    assert f"get-artifact?path=front.png&run_uuid={study}" in note


def test_the_ui_finds_a_saved_view_of_the_trials(tracker, run) -> None:
    start(tracker, run)
    tracker.close()
    store = beside(run)
    study = store.runs["study"]
    tags = store.client.get_experiment(study.info.experiment_id).tags
    ((key, view),) = [(k, json.loads(v)) for k, v in tags.items() if "sharedViewState" in k]
    state = json.loads(view["state"])
    assert state["searchFilter"] == f"tags.mlflow.parentRunId = '{study.info.run_id}'"
    assert "metrics.`validation/brevity`" in state["selectedColumns"]
    assert "params.`training.learning_rate`" in state["selectedColumns"]
    assert f"viewStateShareKey={key.rpartition('.')[2]}" in study.data.tags["mlflow.note.content"]


# --- twice, and after a crash ------------------------------------------------------------------


def history(run: Path) -> dict[str, Counter[Any]]:
    store = beside(run)
    return {
        part: Counter(
            (key, *value) for key in found.data.metrics for value in store.values(part, key)
        )
        for part, found in store.runs.items()
    }


def test_events_that_come_again_change_nothing(run) -> None:
    first = MLflow()
    start(first, run)
    train(first)
    train(first)
    first.moalign_study_ended(outcome="finished", files=files(run))
    first.close()
    once = history(run)
    assert max(count for values in once.values() for count in values.values()) == 1
    second = MLflow()
    start(second, run)
    train(second)
    second.moalign_study_ended(outcome="finished", files=files(run))
    second.close()
    assert history(run) == once
    store = beside(run)
    assert len(store.client.search_model_versions("name = 'sums'")) == 2
    assert {r.info.status for r in store.runs.values()} == {"FINISHED"}
    assert len(store.table("0")["data"]) == 1


def test_a_step_that_is_repeated_later_is_not_a_second_value(run) -> None:
    for late in (0.0, 5.0):  # a lost worker, then a killed driver
        tracker = MLflow()
        start(tracker, run)
        begin(tracker, 0)
        for place, number in enumerate((1, 2, 2, 3)):
            step(tracker, 0, number, late + 0.5 * place)
        tracker.close()
    step_values = beside(run).values("0", "training/loss")
    assert step_values == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_a_trial_that_ended_stays_as_it_is_when_its_start_comes_again(tracker, run) -> None:
    start(tracker, run)
    begin(tracker, 0)
    front(tracker, [0], 0.2, 1)
    end(tracker, 0, "stopped", "ranked 4 of 4")
    begin(tracker, 0)
    tracker.close()
    tags = beside(run).runs["0"].data.tags
    assert (tags["outcome"], tags["on_front"]) == ("stopped", "true")


def test_a_trial_that_failed_runs_again_if_its_end_does_not_come_again(tracker, run) -> None:
    start(tracker, run)
    for trial in (0, 1):
        begin(tracker, trial)
        end(tracker, trial, "failed", "the judge is down")
        begin(tracker, trial)
    end(tracker, 0, "failed", "the judge is down")
    tracker.flush()
    first, second = (beside(run).runs[trial] for trial in "01")
    assert (first.info.status, first.data.tags["outcome"]) == ("FAILED", "failed")
    assert first.data.tags["reason"] == "the judge is down"
    assert (second.info.status, second.data.tags["outcome"]) == ("RUNNING", "running")
    assert not second.data.tags.get("reason")
    end(tracker, 1)
    tracker.close()
    second = beside(run).runs["1"]
    assert (second.info.status, second.data.tags["outcome"]) == ("FINISHED", "finished")


def test_a_study_that_was_interrupted_goes_on_with_its_runs(run) -> None:
    first = MLflow()
    start(first, run)
    begin(first, 0)
    step(first, 0, 1)
    first.moalign_study_ended(outcome="interrupted", files={})
    first.close()
    second = MLflow()
    more = STUDY | {"search": STUDY["search"] | {"trials": 9}}  # a parameter that may change
    start(second, run, study=more)
    step(second, 0, 2)
    second.flush()
    runs = beside(run).runs
    assert {r.info.status for r in runs.values()} == {"RUNNING"}
    assert {r.data.tags["outcome"] for r in runs.values()} == {"running"}
    end(second, 0)
    second.moalign_study_ended(outcome="finished", files={})
    second.close()
    store = beside(run)
    assert sorted(store.runs) == ["0", "study"]
    assert store.values("0", "training/loss") == [(1, 1.0), (2, 2.0)]
    assert store.runs["study"].info.status == "FINISHED"


def test_a_trial_whose_end_was_lost_with_a_killed_driver_says_so(tracker, run) -> None:
    start(tracker, run)
    begin(tracker, 0)
    tracker.moalign_study_ended(outcome="finished", files={})
    tracker.close()
    trial = beside(run).runs["0"]
    assert (trial.info.status, trial.data.tags["outcome"]) == ("FINISHED", "unknown")


def test_a_checkpoint_is_written_at_once_with_the_steps_before_it(
    tracker, run, monkeypatch
) -> None:
    monkeypatch.setattr(tracking, "DELAY", 3600.0)
    start(tracker, run)
    begin(tracker, 0)
    step(tracker, 0, 1)
    measure(tracker, 0, RUNG)
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        time.sleep(0.05)
        runs = beside(run).runs
        if "0" in runs and "validation/accuracy" in runs["0"].data.metrics:
            break
    assert beside(run).values("0", "training/loss") == [(1, 1.0)]


def test_a_run_that_was_deleted_and_begun_anew_is_another_one(run) -> None:
    for opened in (OPENED, OPENED + 1000):
        tracker = MLflow()
        start(tracker, run, time=opened)
        begin(tracker, 0)
        tracker.close()
    client = MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("sums")
    assert len(client.search_runs([experiment.experiment_id])) == 4


def test_a_trial_that_the_store_does_not_know_is_written_from_now_on(tracker, run) -> None:
    start(tracker, run)
    step(tracker, 5, 4)
    measure(tracker, 5, STEPS)
    tracker.close()
    found = beside(run).runs["5"]
    assert found.info.run_name == "t05"
    assert found.data.params["training.learning_rate"] == "0.00032"


def test_versions_follow_the_front(run) -> None:
    for points in (("t00", "t01"), ("t01", "t02")):
        tracker = MLflow()
        start(tracker, run)
        tracker.moalign_study_ended(outcome="finished", files=files(run, points))
        tracker.close()
    client = MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")
    marks = {
        alias: client.get_model_version("sums", number).tags["on_front"]
        for alias, number in client.get_registered_model("sums").aliases.items()
    }
    assert marks == {"t00": "false", "t01": "true", "t02": "true"}


# --- where, and when it cannot -----------------------------------------------------------------


def test_the_address_in_the_environment_is_respected(
    tracker, run, tmp_path, template, monkeypatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(template, other / "store.db")
    (run.parent / "mlflow.db").unlink()
    monkeypatch.chdir(other)  # where MLflow puts the artifacts of a bare database
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other / 'store.db'}")
    start(tracker, run)
    tracker.moalign_study_ended(outcome="finished", files=files(run))
    tracker.close()
    assert not (run.parent / "mlflow.db").exists()
    assert not (run.parent / "mlflow").exists()
    client = MlflowClient(f"sqlite:///{other / 'store.db'}")
    version = client.get_model_version_by_alias("sums", "t01")
    assert version.source == f"runs:/{version.run_id}/policies/t01"
    (uploaded,) = client.list_artifacts(version.run_id, "policies/t01")
    assert uploaded.path == "policies/t01/model.safetensors"


def test_artifacts_lie_beside_the_database_also_below_an_odd_path(
    tracker, tmp_path, template
) -> None:
    run = tmp_path / "a b 50%41 ü?#" / "sums"
    run.mkdir(parents=True)
    shutil.copy(template, run.parent / "mlflow.db")
    start(tracker, run)
    base(tracker)
    tracker.close()
    with contextlib.closing(sqlite3.connect(run.parent / "mlflow.db")) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (2,)
    (samples,) = (run.parent / "mlflow").glob("*/artifacts/samples.json")
    assert json.loads(samples.read_text())["columns"][0] == "prompt"


def test_the_experiment_can_be_named_and_a_deleted_one_comes_back(run) -> None:
    uri = f"sqlite:///{run.parent / 'mlflow.db'}"
    client = MlflowClient(uri)
    location = (run.parent / "mlflow").as_uri()
    client.delete_experiment(client.create_experiment("summaries", location))
    tracker = plugins.load().build(MLflow, {"mlflow": {"experiment": "summaries"}})
    start(tracker, run)
    tracker.close()
    experiment = client.get_experiment_by_name("summaries")
    assert experiment.lifecycle_stage == "active"
    assert len(client.search_runs([experiment.experiment_id])) == 1


def test_a_store_that_cannot_be_reached_is_reported_once_without_its_password(
    run, monkeypatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = MLflow()
    start(tracker, run)
    with pytest.raises(
        MoalignError, match=r"^MLflow at http://\*\*\*@127\.0\.0\.1:9 does not"
    ) as e:
        tracker.flush()
    assert "secret" not in str(e.value)
    train(tracker)
    tracker.close()
    tracker.close()


def test_a_write_that_fails_is_reported_and_others_are_written(run) -> None:
    tracker = MLflow()
    start(tracker, run)
    for trial in (0, 1):
        begin(tracker, trial)
    tracker.flush()
    store = beside(run)
    store.client.delete_run(store.runs["0"].info.run_id)
    for number in (1, 2):
        step(tracker, 0, number)
        step(tracker, 1, number)
    with pytest.raises(MoalignError, match="active"):
        tracker.flush()
    step(tracker, 0, 3)
    step(tracker, 1, 3)
    with pytest.raises(MoalignError, match="does not take what it is given"):
        tracker.close()
    assert beside(run).values("1", "training/loss") == [(1, 101.0), (2, 102.0), (3, 103.0)]


@pytest.mark.alone
def test_hooks_return_at_once_and_close_does_not_wait_for_ever(run, monkeypatch) -> None:
    wait = threading.Event()

    def slow(self: Any, *_: Any) -> None:
        wait.wait(20)
        raise ConnectionError("too late")

    monkeypatch.setattr(tracking._Store, "__init__", slow)
    monkeypatch.setattr(tracking, "PATIENCE", 0.2)
    tracker = MLflow()
    began = time.monotonic()
    start(tracker, run)
    train(tracker)
    assert time.monotonic() - began < 0.5
    with pytest.raises(MoalignError, match=r"no success for 0\.2 s; \d+ events are not written"):
        tracker.close()
    assert time.monotonic() - began < 2.0
    wait.set()


def test_metrics_are_written_within_a_second_without_a_flush(tracker, run, monkeypatch) -> None:
    monkeypatch.setattr(tracking, "DELAY", 0.05)
    start(tracker, run)
    begin(tracker, 0)
    tracker.flush()
    store = beside(run)
    step(tracker, 0, 1)
    deadline = time.monotonic() + 5.0
    while not store.values("0", "training/loss") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert store.values("0", "training/loss") == [(1, 1.0)]


def test_importing_and_building_it_imports_no_mlflow_and_sets_nothing() -> None:
    code = (
        "import os, sys; before = dict(os.environ); "
        "from moalign_plugins.trackers.mlflow import MLflow; MLflow().close(); "
        "assert not {'mlflow', 'pandas', 'torch'} & set(sys.modules), sys.modules; "
        "assert dict(os.environ) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))


def test_what_the_environment_says_about_telemetry_is_respected(tracker, run, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    monkeypatch.delenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", raising=False)
    start(tracker, run)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"
    assert os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "true"
