"""Faults under real training: killed workers and drivers, a tracker beside them, odd rewards."""

from __future__ import annotations

import hashlib
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from mlflow import MlflowClient
from quick import archive
from typer.testing import CliRunner

from moalign import hookimpl, plugins
from moalign.cli import command_line
from moalign.search.archive import Run
from moalign.search.driver import run_study
from moalign.search.events import Lost, from_line
from moalign.search.folders import RunFolder
from moalign.search.record import read
from moalign.study.loading import load
from moalign.study.study import Study

# What a reward does in training can depend on the trial by `training.group`, which is searched;
# at an evaluation the group is `evaluation.samples`.
FAULTS = '''
import os
import signal

from moalign import Reward, hookimpl

SAMPLES, ODD = 2, 8


class Lethal(Reward):
    """Counts b like slow; in a trial's third step kills its process, if there is a fuse to take."""
    name = "lethal"
    range = (0.0, 1.0)
    def __init__(self): self.steps = 0
    def score(self, batch):
        self.steps += batch.group != SAMPLES
        if self.steps == 3:
            try:
                os.unlink(os.environ["LETHAL_FUSE"])
            except FileNotFoundError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return [t.count("b") / max(len(t), 1) for t in batch.texts_B]


class Faulty(Reward):
    """Wrong where the group is odd, or everywhere: raises, or applies to nothing when measured."""
    name = "faulty"
    range = (0.0, 1.0)
    def __init__(self, fault: str = "nan", everywhere: bool = False):
        self.fault, self.wrong = fault, everywhere
    def score(self, batch):
        self.wrong = self.wrong or batch.group == ODD
        if self.wrong and self.fault == "raises":
            raise LookupError("the judge is away")
        if self.wrong and batch.group == SAMPLES:
            return [float("nan")] * batch.rows
        return [t.count("b") / max(len(t), 1) for t in batch.texts_B]
    def state_dict(self): return {"wrong": self.wrong}
    def load_state_dict(self, state): self.wrong = state["wrong"]


@hookimpl
def moalign_rewards(): return [Lethal, Faulty]
'''

STUDY = """\
study: letters
task: letters
policy: tiny
objectives:
  a: {reward: share}
  b: {reward: slow}
rollout: {eager: {max_tokens: 6}}
training: {optimizer: plain, steps: 6, prompts: 4, group: 4, learning_rate: 1.0e-2}
weighting: drift
evaluation: {prompts: 64, samples: 2}
search:
  strategy: random
  trials: 5
  rungs: [4]
  keep: 0.25
  space:
    weighting.preference: simplex
    training.learning_rate: {low: 1.0e-3, high: 1.0e-1, log: true}
executor: {processes: {workers: 2}}
trackers: []
"""

DRIVER = """
import sys
from pathlib import Path

from moalign import hookimpl, plugins
from moalign.search.driver import run_study
from moalign.study.loading import load

text, folder, *files = sys.argv[1:]


class View:
    @hookimpl
    def moalign_step_ended(self, event):
        print(*[worker.process.pid for worker in executor._workers], flush=True)


study = load(text, "letters.yaml", plugins.load(map(Path, files)))
executor = study.new_executor()
result = run_study(study, Path(folder), executor=executor, listeners=[View()], strict=True)
assert result.outcome == "finished", result.outcome
"""

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")


@pytest.fixture(scope="module")
def files(plugin_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The plugin files: the tiny world, and the rewards that go wrong."""
    faults = tmp_path_factory.mktemp("faults") / "faults.py"
    faults.write_text(FAULTS)
    return [plugin_file, faults]


@pytest.fixture
def folder(runs: Path, tmp_path: Path) -> Path:
    """A folder for runs that share the base policy."""
    (tmp_path / ".artifacts").symlink_to(runs / ".artifacts")
    return tmp_path


@pytest.fixture(scope="module")
def whole(runs: Path, plugin_file: Path) -> dict[str, Any]:
    """What a run adds up to that nothing happened to; in this process, where it is quickest."""
    run = runs / "undisturbed"
    study = load(STUDY, "letters.yaml", plugins.load([plugin_file]), ["executor=local"])
    result = run_study(study, run, strict=True)
    assert result.outcome == "finished"
    assert {trial.outcome for trial in result.run.trials.values()} == {"finished", "stopped"}
    return everything(result.run)


def study_of(files: list[Path], *overrides: str) -> Study:
    return load(STUDY, "letters.yaml", plugins.load(files), overrides)


def everything(run: Run) -> dict[str, Any]:
    """Return all but wall-clock, and the weights to the bit."""
    weights = {
        str(path.relative_to(run.folder.path)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.folder.path.glob("trials/**/*.safetensors"))
    }
    assert weights
    return archive(run) | {"weights": weights}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ended_within(seconds: float, workers: list[int]) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, workers))


# --- killed workers, killed drivers ------------------------------------------------------------


@pytest.mark.e2e
def test_a_worker_killed_in_a_segment_changes_nothing(
    files: list[Path], folder: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fuse = folder / "fuse"
    fuse.touch()
    monkeypatch.setenv("LETHAL_FUSE", str(fuse))
    study = study_of(files, "objectives.b.reward=lethal")
    with pytest.warns(UserWarning, match=r"SIGKILL; the segment is tried again \(attempt 2 of 3\)"):
        result = run_study(study, folder / "run", strict=True)
    assert not fuse.exists()
    lines = RunFolder(folder / "run").events.read_bytes().splitlines()
    (lost,) = [event for event in map(from_line, lines) if isinstance(event, Lost)]
    assert (lost.step, lost.attempt) == (4, 0)
    assert "was killed by SIGKILL" in lost.reason
    assert everything(result.run) == whole


@needs_proc
@pytest.mark.e2e
def test_a_driver_killed_in_training_goes_on_to_the_same_archive(
    files: list[Path], folder: Path, whole: dict[str, Any]
) -> None:
    """Once: ``tests/search/test_faults.py`` kills drivers, which train nothing, at many moments.

    There it is measured how soon workers end, too.
    """
    command = [sys.executable, "-c", DRIVER, STUDY, str(folder / "run"), str(files[0])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        told = [process.stdout.readline() for _ in range(9)]  # of 20 steps at least
        process.kill()
    assert process.returncode == -signal.SIGKILL
    workers = [int(pid) for pid in told[-1].split()]
    assert workers
    assert ended_within(30.0, workers)
    assert read(RunFolder(folder / "run")).closed is None
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert everything(read(RunFolder(folder / "run"))) == whole


# --- a tracker beside four workers -------------------------------------------------------------


def unsynced(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA synchronous = OFF")  # creating tables waits for the disk 700 times


@pytest.fixture
def store(folder: Path) -> Iterator[str]:
    """An empty store where the tracker looks for one."""
    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", unsynced)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    MlflowClient(uri).search_experiments()
    yield uri
    sqlalchemy.event.remove(sqlalchemy.Engine, "connect", unsynced)


class Steps:
    """Remembers what every step said."""

    def __init__(self) -> None:
        self.told: dict[tuple[int, str], list[tuple[int, float]]] = {}

    @hookimpl
    def moalign_step_ended(self, event: Any) -> None:
        for name, value in event.metrics.items():
            key = name if "/" in name else f"training/{name}"
            if not math.isnan(value):
                self.told.setdefault((event.trial, key), []).append((event.step, value))


@pytest.mark.e2e
def test_mlflow_has_every_step_of_four_workers_once(
    files: list[Path], folder: Path, store: str
) -> None:
    steps = Steps()
    given = ["executor={processes: {workers: 4}}", "trackers=[mlflow]", "training.steps=3"]
    study = study_of(files, *given, "search.trials=8", "search.rungs=[]")
    result = run_study(study, folder / "run", listeners=[steps], strict=True)
    assert [trial.outcome for trial in result.run.trials.values()] == ["finished"] * 8
    client = MlflowClient(store)
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    parts = {run.data.tags["moalign.part"]: run for run in found}
    assert sorted(parts) == sorted([*map(str, range(8)), "base", "study"])
    assert len(found) == len(parts), "a run was made twice"
    parent = parts["study"].info.run_id
    children = [run for part, run in parts.items() if part != "study"]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent}
    assert {run.info.status for run in found} == {"FINISHED"}
    assert {trial for trial, _ in steps.told} == set(range(8))
    assert {"objective/a", "training/loss"} <= {key for _, key in steps.told}
    for (trial, key), told in steps.told.items():
        assert [step for step, _ in told] == [1, 2, 3]
        history = client.get_metric_history(parts[str(trial)].info.run_id, key)
        assert sorted((m.step, m.value) for m in history) == told


# --- rewards that go wrong ---------------------------------------------------------------------

ONE_TRIAL = (
    "executor=local",
    "search.strategy=grid",
    "search.trials=3",
    "search.rungs=[]",
    "search.space={training.group: {choices: [4, 8, 6]}}",
    "training.steps=2",
)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (
            "nan",
            "objective b applies to no prompt of the validation split, so it cannot be measured",
        ),
        ("raises", "reward faulty raised LookupError: the judge is away"),
    ],
)
def test_a_reward_that_goes_wrong_in_one_trial_costs_that_trial_only(
    files: list[Path], folder: Path, fault: str, reason: str
) -> None:
    study = study_of(files, *ONE_TRIAL, f"objectives.b.reward={{faulty: {{fault: {fault}}}}}")
    result = run_study(study, folder / "run", strict=True)
    assert result.outcome == "finished"
    trials = {t.proposal.params["training.group"]: t for t in result.run.trials.values()}
    assert {group: trial.outcome for group, trial in trials.items()} == {
        4: "finished",
        6: "finished",
        8: "failed",
    }
    assert trials[8].reason.startswith(reason)
    front = {observation.trial for observation in result.run.front()}
    assert front
    assert front <= {trials[4].number, trials[6].number}
    assert {trial for trial, _ in result.run.tests} == {-1, *front}


@pytest.mark.parametrize("fault", ["nan", "raises"])
def test_a_reward_that_goes_wrong_on_the_base_policy_ends_the_command_with_the_reason(
    files: list[Path], folder: Path, fault: str
) -> None:
    (folder / "letters.yaml").write_text(STUDY)
    given = [*ONE_TRIAL, f"objectives.b.reward={{faulty: {{fault: {fault}, everywhere: true}}}}"]
    words = ["pareto", str(folder / "letters.yaml"), "--out", str(folder), "--run", "run"]
    words += [word for file in files for word in ("--plugin", str(file))]
    words += [word for override in given for word in ("--set", override)]
    done = CliRunner().invoke(command_line(), words)
    assert done.exit_code == 2, done.output
    reason = {
        "nan": "objective b applies to no prompt of the validation split, so it cannot be measured",
        "raises": "reward faulty raised LookupError: the judge is away",
    }[fault]
    told = " ".join(done.stderr.split())
    assert f"the base policy could not be measured on validation: {reason}" in told
    run = read(RunFolder(folder / "run"))
    assert run.closed == "failed"
    assert not run.observations()
