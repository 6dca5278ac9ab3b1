"""``pareto`` and ``train``: run, show again, go on, add, refuse, stop. Nothing is trained here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from moalign.cli import command_line
from moalign.cli.pareto import what_stops
from moalign.errors import DataError, NonFiniteError
from moalign.types import BASE

Moalign = Callable[..., Result]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    import quick

    path = tmp_path / "quick.yaml"
    path.write_text(quick.TEXT)
    return path


@pytest.fixture
def moalign(tmp_path: Path, study: Path, monkeypatch: pytest.MonkeyPatch) -> Moalign:
    """Call a command on the quick study; its segments and its export are of a quick kind."""
    import quick

    from moalign.reporting import export
    from moalign.search import artifacts, segments

    monkeypatch.setenv("MOALIGN_PLUGINS", "")
    monkeypatch.setattr(artifacts, "check_data", lambda study: None)
    monkeypatch.setattr(segments, "run_segment", quick.quick_segment)
    monkeypatch.setattr(
        artifacts, "ensure_base", lambda study, run, progress: progress(1.0, "here")
    )
    monkeypatch.setattr(export, "export_front", lambda study, run, table: run.folder.path / "front")

    def call(command: str, *options: object, name: object = study) -> Result:
        given = ["--plugin", quick.__file__, "--out", tmp_path / "runs"]
        arguments = [command, name, *given, *options]
        return CliRunner().invoke(command_line(), [str(a) for a in arguments])

    return call


def forbidden(task: Any, emit: Any, cache: Any) -> None:
    raise AssertionError(f"trial {task.trial} was trained again")


def test_a_study_from_beginning_to_end(moalign: Moalign, tmp_path: Path) -> None:
    done = moalign("pareto")
    assert done.exit_code == 0, done.output
    text = done.stdout
    assert f"{tmp_path}/runs/quick: starting; Ctrl-C stops, and the same command goes on" in text
    assert "base policy: a 0." in text
    for trial in range(6):
        assert f"trial {trial} (" in text
    assert "(6 of 6)" in text
    assert "stopped at step 2/6" in text
    assert "Utility at each preference, on test" in text
    assert f"moalign front quick --prefer a=3,b=1 --out {tmp_path}/runs" in text
    folder = tmp_path / "runs" / "quick"
    for name in ("study.yaml", "events.jsonl", "points.csv", "front.png", "front.html"):
        assert (folder / name).is_file()
    assert "6 trials (3 finished, 3 stopped)" in (folder / "report.md").read_text()


def test_the_same_command_shows_a_finished_front(
    moalign: Moalign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moalign.search import segments

    first = moalign("pareto")
    record = (tmp_path / "runs" / "quick" / "events.jsonl").read_bytes()
    monkeypatch.setattr(segments, "run_segment", forbidden)
    again = moalign("pareto")
    assert again.exit_code == 0, again.output
    assert "runs/quick is finished; nothing to train (--trials N adds trials)" in again.stdout
    front = first.stdout[first.stdout.index("quick: a front of") :]
    assert again.stdout.endswith(front)
    assert (tmp_path / "runs" / "quick" / "events.jsonl").read_bytes() == record


def test_a_finished_front_comes_at_once(moalign: Moalign, tmp_path: Path, study: Path) -> None:
    import quick

    moalign("pareto")
    arguments = ["pareto", study, "--plugin", quick.__file__, "--out", tmp_path / "runs"]
    code = (
        "import sys; from moalign.cli import main; "
        f"sys.path.insert(0, {str(Path(quick.__file__).parent)!r}); "
        f"sys.argv = {['moalign', *map(str, arguments)]!r}\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = ('torch', 'matplotlib', 'plotly', 'mlflow', 'optuna', 'transformers')\n"
        "print('heavy:', [name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "is finished; nothing to train" in done.stdout
    assert done.stdout.endswith("heavy: []\n"), done.stdout


def test_trials_are_added(moalign: Moalign) -> None:
    assert moalign("pareto", "--trials", 3).exit_code == 0
    more = moalign("pareto", "--trials", 5)
    assert more.exit_code == 0, more.output
    assert "going on, 3 of 5 trials are done" in more.stdout
    assert "trial 4 (5 of 5)" in more.stdout
    assert "trial 2 (" not in more.stdout
    assert "is finished" in moalign("pareto", "--trials", 4).stdout


def test_a_plan_runs_nothing(moalign: Moalign, tmp_path: Path, monkeypatch: Any) -> None:
    from moalign.search import artifacts

    monkeypatch.setattr(artifacts, "base_folder", lambda study, folder: tmp_path / "none")
    done = moalign("pareto", "--plan")
    assert done.exit_code == 0, done.output
    assert f"run     {tmp_path}/runs/quick" in done.stdout
    assert "trials  6 in all, 0 done" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_a_search_of_nothing_says_so_at_the_start(moalign: Moalign) -> None:
    nothing, soon = ("--set", "search.space={}"), ("--max-hours", 0)
    start = "nothing is searched: 2 trials differ in their random numbers only"
    assert moalign("pareto", *nothing, "--trials", 2, *soon).stdout.startswith(start)
    for done in (
        moalign("pareto", *nothing, "--trials", 1, "--run", "one", *soon),
        moalign("pareto", "--trials", 2, "--run", "searched", *soon),
        moalign("train", "--set", "search.trials=2", *soon),
    ):
        assert done.exit_code == 0, done.output
        assert "nothing is searched" not in done.stdout


def test_a_plan_refuses_what_the_start_refuses(
    moalign: Moalign, tmp_path: Path, monkeypatch: Any
) -> None:
    from moalign.search import artifacts

    def refuse(study: Any) -> None:
        raise DataError("the task offers no preferences")

    monkeypatch.setattr(artifacts, "check_data", refuse)
    for options in (["--plan"], []):
        done = moalign("pareto", *options)
        assert done.exit_code == 2
        assert "the task offers no preferences" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", ".hidden", "-x", "a b"])
@pytest.mark.parametrize("command", ["pareto", "train"])
def test_a_run_has_a_plain_name(moalign: Moalign, tmp_path: Path, command: str, name: str) -> None:
    done = moalign(command, f"--run={name}")
    assert done.exit_code == 2
    assert f"--run {name}: a run's name begins with a letter or a digit" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_changed_study_is_refused_or_forked(moalign: Moalign) -> None:
    assert moalign("pareto").exit_code == 0
    changed = moalign("pareto", "--set", "training.learning_rate=0.1")
    assert changed.exit_code == 2
    assert "run quick was begun with another study" in changed.stderr
    assert "training.learning_rate: 0.0005 -> 0.1" in changed.stderr
    forked = moalign("pareto", "--set", "training.learning_rate=0.1", "--run", "other")
    assert forked.exit_code == 0, forked.output
    assert "other: a front of" in forked.stdout


def interrupt_at(monkeypatch: pytest.MonkeyPatch, trial: int, error: BaseException) -> None:
    import quick

    from moalign.search import segments

    def segment(task: Any, emit: Any, cache: Any) -> None:
        if task.trial == trial:
            raise error
        quick.quick_segment(task, emit, cache)

    monkeypatch.setattr(segments, "run_segment", segment)


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(
    moalign: Moalign, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import quick

    from moalign.search import segments

    interrupt_at(monkeypatch, 2, KeyboardInterrupt())
    done = moalign("pareto")
    assert done.exit_code == 130
    assert "Stopped. Nothing that finished is lost; the same command goes on." in done.stdout
    assert done.stderr == "Stopping. The same command goes on, with trial 2 from step 0.\n"
    assert not (tmp_path / "runs" / "quick" / "report.md").exists()
    monkeypatch.setattr(segments, "run_segment", quick.quick_segment)
    done = moalign("pareto")
    assert done.exit_code == 0, done.output
    assert "going on, 2 of 6 trials are done" in done.stdout
    assert "trial 0 (" not in done.stdout


def test_ctrl_c_while_the_base_policy_is_built(
    moalign: Moalign, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moalign.search import artifacts

    def build(study: Any, run: Any, progress: Any) -> None:
        progress(0.3, "loss 2.0")
        raise KeyboardInterrupt

    monkeypatch.setattr(artifacts, "ensure_base", build)
    done = moalign("pareto")
    assert done.exit_code == 130
    assert "base policy: 30%, loss 2.0" in done.stdout
    assert "the same command goes on" in done.stdout
    assert done.stderr.endswith("goes on, with the base policy from the beginning.\n")


def test_ctrl_c_says_what_is_waited_for_and_what_goes_on_from_where() -> None:
    from quick import quick_study

    workers = quick_study("executor=processes", "trackers=[notes, broken]")
    assert what_stops(workers, {0: 20, 1: 0}) == (
        "Stopping: waiting for the workers to end and notes and broken to write what is left; "
        "Ctrl-C again does not wait, and may leave that half written. The same command goes on, "
        "with trial 0 from step 20, trial 1 from step 0."
    )
    assert what_stops(quick_study("executor=processes"), {}) == (
        "Stopping: waiting for the workers to end; Ctrl-C again does not wait. The same command "
        "goes on."
    )


def test_the_time_is_up(moalign: Moalign) -> None:
    done = moalign("pareto", "--max-hours", 0)
    assert done.exit_code == 0, done.output
    assert "The time is up. Nothing that finished is lost" in done.stdout


def test_a_study_in_which_every_trial_fails(
    moalign: Moalign, monkeypatch: pytest.MonkeyPatch
) -> None:
    import quick

    from moalign.search import segments

    def segment(task: Any, emit: Any, cache: Any) -> None:
        if task.trial != BASE:
            raise NonFiniteError("the loss became infinite")
        quick.quick_segment(task, emit, cache)

    monkeypatch.setattr(segments, "run_segment", segment)
    done = moalign("pareto")
    assert done.exit_code == 1
    assert "No trial could be measured, so there is no front." in done.stdout
    assert "trial 5: " in done.stdout
    assert "the loss became infinite" in done.stdout
    assert "the same command with --retry-failed tries them again" in done.stdout
    monkeypatch.setattr(segments, "run_segment", quick.quick_segment)
    assert moalign("pareto").exit_code == 1  # a mistake is not paid for twice unasked
    done = moalign("pareto", "--retry-failed")
    assert done.exit_code == 0, done.output
    assert "going on, 0 of 6 trials are done" in done.stdout
    assert "failed" not in done.stdout
    done = moalign("pareto", "--retry-failed")
    assert done.exit_code == 0, done.output
    assert "no trial has failed, so there is none to try again" in done.stdout
    assert "is finished; nothing to train" in done.stdout


@pytest.mark.filterwarnings("default")
def test_a_tracker_that_fails_is_a_line(moalign: Moalign) -> None:
    done = moalign("pareto", "--set", "trackers=[broken]")
    assert done.exit_code == 0, done.output
    assert "warning: tracker broken failed in moalign_step_ended" in done.output
    assert "announce.py" not in done.output, "a person needs no line of our code"


def test_strict_stops_at_it(moalign: Moalign) -> None:
    done = moalign("pareto", "--set", "trackers=[broken]", "--strict")
    assert isinstance(done.exception, OSError), "an unexpected error keeps its traceback"


def test_train_is_one_trial_without_a_search(moalign: Moalign, tmp_path: Path) -> None:
    done = moalign("train", "--set", "weighting.preference={a: 3, b: 1}")
    assert done.exit_code == 0, done.output
    assert "trial 0 (1 of 1) finished at step 6/6" in done.stdout
    assert "a front of 1 point from 1 trial" in done.stdout
    assert ".75/.25" in done.stdout, "the weights of the study are those of the trial"
    record = tmp_path / "runs" / "quick-train" / "events.jsonl"
    opened = json.loads(record.read_text().splitlines()[0])
    assert opened["study"]["search"]["space"] == {}
    assert "is finished" in moalign("train", "--set", "weighting.preference={a: 3, b: 1}").stdout


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--set", "training.stesp=3"], "did you mean 'steps'?"),
        (["--set", "training.steps"], "--set training.steps: write --set path=value"),
        (["--set", "weighting=fixd"], "no weighting is called 'fixd'"),
        (["--plugin", "nothing.py"], "nothing.py: there is no Python file of this name"),
        (
            ["--executor", "prozesses"],
            "no executor is called 'prozesses'; did you mean 'processes'",
        ),
        (
            ["--executor", "local", "--address", "head:6379"],
            "executor local has no option 'address'",
        ),
    ],
)
def test_mistakes_are_one_sentence(moalign: Moalign, options: list[str], text: str) -> None:
    done = moalign("pareto", *options)
    assert done.exit_code == 2
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_where_segments_run_is_an_option(moalign: Moalign, tmp_path: Path) -> None:
    """The study, whose executor is local, stays what it is; --set has the last word."""
    given = ["--executor", "processes", "--set", "executor.workers=2"]
    assert moalign("pareto", *given, "--trials", 2).exit_code == 0
    record = tmp_path / "runs" / "quick" / "events.jsonl"
    opened = json.loads(record.read_text().splitlines()[0])
    assert opened["study"]["executor"] == {"processes": {"workers": 2, "timeout": None}}
    assert moalign("pareto", "--trials", 3).exit_code == 0
    assert moalign("train", *given).exit_code == 0


def test_an_address_goes_to_the_executor_as_it_is_written() -> None:
    from moalign.cli.pareto import load_study, where_segments_run

    for address in ("10.0.0.1:6379", "[::1]:6379", "auto"):
        study = load_study("restaurants", None, where_segments_run("ray", address))
        assert study.data["executor"]["ray"]["address"] == address


def test_a_study_that_is_not_there(moalign: Moalign) -> None:
    done = moalign("pareto", name="restaurant")
    assert done.exit_code == 2
    assert "'restaurant' is neither a study file nor a bundled study; did you mean" in done.stderr


def test_a_folder_that_cannot_be_written(moalign: Moalign, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    done = moalign("pareto")
    assert done.exit_code == 2
    assert "nothing can be written there" in done.stderr


def test_a_report_that_cannot_be_written(moalign: Moalign, tmp_path: Path) -> None:
    moalign("pareto", "--max-hours", 0)
    folder = tmp_path / "runs" / "quick"
    (folder / "front.png").mkdir()
    done = moalign("pareto")
    assert done.exit_code == 2
    assert f"{folder}: the report cannot be written (" in done.stderr
    assert "the same command writes it once there is room" in done.stderr
    assert not (folder / ".front.png").exists()
    (folder / "front.png").rmdir()
    done = moalign("pareto")
    assert done.exit_code == 0, done.output
    assert "going on, 6 of 6 trials are done" in done.stdout
    assert (folder / "front.png").is_file()


def test_two_drivers_on_one_run(moalign: Moalign, tmp_path: Path) -> None:
    import filelock

    moalign("pareto", "--trials", 2)
    with filelock.FileLock(tmp_path / "runs" / "quick" / "lock"):
        done = moalign("pareto", "--trials", 3)
    assert done.exit_code == 2
    assert "run quick is being driven by process" in done.stderr
