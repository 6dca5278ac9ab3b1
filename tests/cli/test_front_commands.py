"""``front``, ``compare``, ``sample``, ``studies``, ``clean``, ``ui`` on runs that stand already."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from moalign import Objective
from moalign.cli import command_line, runs
from moalign.cli.common import pairs
from moalign.errors import StudyError

MakeRun = Callable[..., Any]

TRIALS = {0: {30: (0.9, 0.1)}, 1: {30: (0.8, 0.6)}, 2: {30: (0.3, 0.8)}, 3: {15: (0.2, 0.1)}}


def moalign(*arguments: object, **options: Any) -> Result:
    return CliRunner().invoke(command_line(), [str(a) for a in arguments], **options)


@pytest.fixture
def out(make_run: MakeRun, tmp_path: Path) -> Path:
    make_run(trials=TRIALS)
    return tmp_path / "runs"


# --- front -------------------------------------------------------------------------------------


def test_front_shows_everything(out: Path) -> None:
    done = moalign("front", "toy", "--out", out)
    assert done.exit_code == 0, done.output
    for part in (
        "toy: a front of 3 points from 4 trials, on validation",
        "Utility at each preference, on test, against the base policy",
        "Hypervolume",
        "test was opened once",
        f"moalign front toy --prefer a=3,b=1 --out {out}",
    ):
        assert part in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith(" t0")] == [
        "t00",
        "t01",
        "t02",
    ]


def test_a_run_is_named_or_a_path(out: Path) -> None:
    assert moalign("front", out / "toy").stdout == moalign("front", "toy", "--out", out).stdout


def test_a_run_that_is_not_there(out: Path, tmp_path: Path) -> None:
    done = moalign("front", "toi", "--out", out)
    assert done.exit_code == 2
    assert done.stderr == (
        f"Error: no run is called 'toi' in {out}/; did you mean 'toy'? Allowed: toy\n"
    )
    done = moalign("front", "toy", "--out", tmp_path / "none")
    assert "there are no runs; moalign pareto makes one" in done.stderr


@pytest.mark.parametrize(
    ("asked", "point"),
    [
        (["--prefer", "a=1,b=1"], "t01"),
        (["--prefer", "b=1", "--at-least", "a=0.5"], "t01"),
        (["--at-least", "a=.85"], "t00"),
        (["--knee"], "t01"),
        (["--worst-group"], "t01"),
        (["--negotiated"], "t01"),
        (["--worst-group", "--at-least", "a=.85"], "t00"),
        (["--point", "t03-s15"], "t03-s15"),
        (["--point", "base"], "base"),
    ],
)
def test_a_point_is_picked(out: Path, asked: list[str], point: str) -> None:
    done = moalign("front", "toy", "--out", out, *asked)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0].split()[0] == point
    assert "> prompt 0 <x>" in done.stdout
    assert "<b>&</b>" in done.stdout, "text of a model is printed as it is"


def test_a_pick_says_what_made_it(out: Path) -> None:
    text = moalign("front", "toy", "--out", out, "--prefer", "a=3,b=1").stdout
    assert "It has the highest utility on validation for a .75, b .25" in text
    assert "weights  equal weights" in text
    assert "training.learning_rate  0.0003" in text
    assert f'moalign sample toy "..." --point t01 --out {out}' in text


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (["--prefer", "c=1"], "a preference names 'c'; allowed: a, b"),
        (["--prefer", "a"], "--prefer a: write --prefer NAME=NUMBER,...; found 'a'"),
        (["--at-least", "a=0.99"], "No point of the front has a of at least 0.99; the highest is"),
        (["--point", "t9"], "no point is called 't9'; "),
        (["--point", "t01", "--knee"], "--point names the point already"),
        (["--knee", "--prefer", "a=1"], "give only one of them"),
        (["--export", "x"], "--export needs a point: add --prefer, --at-least, --knee, --worst-"),
        (["--knee", "--negotiated"], "--knee and --negotiated are ways to pick; give only one of"),
        (["--prefer", "a=1", "--worst-group"], "a preference or the rule 'worst-group'; give only"),
        (["--point", "t01", "--worst-group"], "--point names the point already"),
        (["--mixture", "--knee"], "mixtures have no knee"),
        (["--mixture", "--point", "t01"], "--point names one point, which is no mixture"),
        (["--mixture", "--prefer", "c=1"], "a preference names 'c'; allowed: a, b"),
        (["--mixture", "--at-least", "c=1"], "a threshold names 'c'; allowed: a, b"),
        (["--mixture", "--at-least", "a=.9,b=.7"], "No mixture of the front's points has a >= 0.9"),
        (["--mixture", "--export", "x"], "--export needs a point"),
    ],
)
def test_mistakes_are_one_sentence(out: Path, asked: list[str], text: str) -> None:
    done = moalign("front", "toy", "--out", out, *asked)
    assert done.exit_code == 2
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_mixtures_of_a_front(out: Path) -> None:
    done = moalign("front", "toy", "--out", out, "--mixture")
    assert done.exit_code == 0, done.output
    for part in (
        "A mixture answers every prompt with a policy drawn at random.",
        "of the mixtures, ",
        "for a linear utility the best mixture is a point",
        f"moalign front toy --mixture --worst-group --out {out}",
    ):
        assert part in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(" t0")]
    assert [(row[0], row[-1]) for row in rows] == [(f"t0{i}", "needed") for i in range(3)]


def test_a_mixture_is_picked(out: Path) -> None:
    done = moalign("front", "toy", "--out", out, "--mixture", "--at-least", "a=.85")
    assert done.exit_code == 0, done.output
    first, why, against, *_ = done.stdout.splitlines()
    assert first.startswith("mixture: t00 5")
    assert ", t01 4" in first
    assert why.startswith("It has the highest utility on validation for equal weights: 0.59")
    assert against.startswith("The best single point, t00, has 0.09")
    (row,) = [line.split() for line in done.stdout.splitlines() if line.startswith(" a ")]
    assert row[1:4] == ["0.850", "±", "0.007"]
    assert len(row) == 10, "validation, test and the base policy"
    for asked in (["--worst-group"], ["--negotiated"], ["--prefer", "b=1", "--at-least", "a=.5"]):
        text = moalign("front", "toy", "--out", out, "--mixture", *asked).stdout
        assert text.splitlines()[0].count("%") == 2, asked


def test_a_front_that_nobody_gains_on(make_run: MakeRun, tmp_path: Path) -> None:
    make_run(trials={0: {30: (0.9, 0.1)}, 1: {30: (0.1, 0.9)}}, base=(0.6, 0.6))
    for more in ([], ["--mixture"]):
        done = moalign("front", "toy", "--out", tmp_path / "runs", "--negotiated", *more)
        assert done.exit_code == 2
        assert "so there is nothing to agree on; " in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_thresholds_are_marked(make_run: MakeRun, tmp_path: Path) -> None:
    objectives = (Objective("a", (0.0, 1.0)), Objective("b", (0.0, 1.0), at_least=0.5))
    make_run(trials=TRIALS, objectives=objectives)
    text = moalign("front", "toy", "--out", tmp_path / "runs").stdout
    assert "* below the study's threshold (b at least 0.5)" in text


def test_a_damaged_record_is_a_sentence(out: Path) -> None:
    events = out / "toy" / "events.jsonl"
    lines = events.read_text().splitlines(keepends=True)
    events.write_text("".join([lines[0], "{}\n", *lines[1:]]))
    done = moalign("front", "toy", "--out", out)
    assert done.exit_code == 2
    assert f"{events} line 2" in done.stderr


def test_looking_at_a_front_imports_nothing_heavy(out: Path) -> None:
    code = (
        "import sys; from moalign.cli import main; "
        f"sys.argv = ['moalign', 'front', 'toy', '--out', {str(out)!r}, '--knee']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = ('torch', 'matplotlib', 'plotly', 'mlflow', 'optuna', 'transformers')\n"
        "print('heavy:', [name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("heavy: []\n"), done.stdout


# --- compare -----------------------------------------------------------------------------------


def test_compare(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("poor", {0: {30: (0.5, 0.5)}})
    make_run("good", {0: {30: (0.6, 0.6)}})
    done = moalign("compare", "poor", "good", "--out", tmp_path / "runs")
    assert done.exit_code == 0, done.output
    assert "Utility on test, in normalised units: good minus poor, paired." in done.stdout
    assert "equal weights" in done.stdout
    assert "+0.100" in done.stdout
    make_run("other", study={"task": {"another": {}}})
    done = moalign("compare", "poor", "other", "--out", tmp_path / "runs")
    assert done.exit_code == 2
    assert "runs poor and other cannot be compared: the task is" in done.stderr


# --- studies, ui -------------------------------------------------------------------------------


def test_studies_are_listed_with_their_titles() -> None:
    text = moalign("studies").stdout
    for part in ("restaurants", "arithmetic", "Sums:"):
        assert part in text


def test_ui_starts_a_server_on_this_machine_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        called.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    done = moalign("ui", "--out", tmp_path)
    assert done.exit_code == 2
    assert f"{tmp_path / 'mlflow.db'} does not exist; moalign pareto makes it" in done.stderr
    (tmp_path / "mlflow.db").touch()
    assert moalign("ui", "--out", tmp_path, "--port", "5123").exit_code == 0
    (command,) = called
    assert command[:4] == [sys.executable, "-m", "mlflow", "server"]
    given = dict(zip(command[4::2], command[5::2], strict=True))
    assert given["--backend-store-uri"] == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert given["--host"] == "127.0.0.1"
    assert given["--default-artifact-root"] == str(tmp_path / "mlflow")
    assert given["--port"] == "5123"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    done = moalign("ui", "--out", tmp_path)
    assert "the runs are tracked at http://elsewhere" in done.stderr


# --- clean -------------------------------------------------------------------------------------


@pytest.fixture
def cluttered(out: Path) -> Path:
    """A finished run in which everything was kept, and what a killed worker left."""
    for trial, step in ((0, 30), (1, 30), (3, 15)):
        for kind in ("policy", "training"):
            folder = out / "toy" / "trials" / f"{trial:04d}" / f"step-{step:05d}" / kind
            folder.mkdir()
            (folder / "weights").write_bytes(b"0" * 1000)
    (out / "toy" / "trials" / "0002" / ".step-00030.0.77" / ".policy").mkdir(parents=True)
    return out


def test_clean_never_lists_a_point_of_the_front(cluttered: Path) -> None:
    found = {str(path.relative_to(cluttered / "toy")) for path in runs.removable(cluttered)}
    assert found == {
        "trials/0000/step-00030/training",
        "trials/0001/step-00030/training",
        "trials/0003/step-00015/training",
        "trials/0003/step-00015/policy",
        "trials/0002/.step-00030.0.77",
    }


def test_clean_asks_first(cluttered: Path) -> None:
    policy = cluttered / "toy" / "trials" / "0003" / "step-00015" / "policy"
    done = moalign("clean", "--out", cluttered, input="n\n")
    assert done.exit_code == 0
    assert "Delete 5 folders?" in done.stdout
    assert policy.is_dir()
    done = moalign("clean", "--out", cluttered, input="")
    assert done.exit_code == 0
    assert done.stdout.endswith(
        "\nthere was no answer, so nothing was deleted; --yes deletes without asking\n"
    )
    assert "Abort" not in done.output
    assert policy.is_dir(), "no answer is no"
    done = moalign("clean", "--out", cluttered, "--yes")
    assert "deleted 5 folders" in done.stdout
    assert not policy.exists()
    assert (cluttered / "toy" / "trials" / "0000" / "step-00030" / "policy").is_dir()
    assert "nothing to delete" in moalign("clean", "--out", cluttered, "--yes").stdout
    assert moalign("front", "toy", "--out", cluttered).exit_code == 0


def test_clean_without_permission_is_a_sentence(
    cluttered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(runs.shutil, "rmtree", refused)
        done = moalign("clean", "--out", cluttered, "--yes")
    assert done.exit_code == 2
    assert "cannot be deleted ([Errno 13] Permission denied); the same command" in done.stderr
    lock = cluttered / "toy" / "lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()  # even for root no file can be opened there
    done = moalign("clean", "--out", cluttered, "--yes")
    assert done.exit_code == 2
    assert f"Error: {cluttered / 'toy'} cannot be locked (" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (cluttered / "toy" / "trials" / "0003" / "step-00015" / "policy").is_dir()


def test_clean_leaves_an_unfinished_and_a_running_run_alone(
    make_run: MakeRun, tmp_path: Path
) -> None:
    import filelock

    open_run = make_run("open", closed="interrupted")
    open_run.folder.training(0, 30).mkdir()
    held = make_run("held")
    held.folder.training(0, 30).mkdir()
    (tmp_path / "runs" / ".artifacts" / "0123456789abcdef").mkdir(parents=True)
    with filelock.FileLock(held.folder.lock):
        assert list(runs.removable(tmp_path / "runs")) == []
    assert [p.name for p in runs.removable(tmp_path / "runs")] == ["training"], "held no longer"


def test_clean_deletes_a_base_policy_that_no_run_uses(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, unused = out / ".artifacts" / "used", out / ".artifacts" / "unused"
    used.mkdir(parents=True)
    unused.mkdir()
    assert list(runs.removable(out)) == [], "the toy study cannot be loaded, so nobody knows"
    monkeypatch.setattr(runs, "_artifacts", lambda run: {used})
    assert list(runs.removable(out)) == [unused]
    monkeypatch.setattr(runs, "_artifacts", lambda run: {used, out / ".artifacts" / "other"})
    assert list(runs.removable(out)) == [], "one of them may be its base policy"


# --- sample ------------------------------------------------------------------------------------


def test_sample_of_a_run_whose_plugins_are_gone(out: Path) -> None:
    done = moalign("sample", "toy", "hello", "--out", out)
    assert done.exit_code == 2
    assert "no task is called 'toy-task'" in done.stderr


def test_a_plugin_file_that_was_moved_is_told(out: Path, tmp_path: Path) -> None:
    import json

    events = out / "toy" / "events.jsonl"
    first, *rest = events.read_text().splitlines()
    gone = tmp_path / "gone.py"
    opened = json.loads(first) | {"plugins": {str(gone): "0"}}
    events.write_text("\n".join([json.dumps(opened), *rest, ""]))
    for command in (["sample", "toy", "hello"], ["front", "toy", "--knee", "--export", "x"]):
        done = moalign(*command, "--out", out)
        assert done.exit_code == 2
        assert done.stderr == (
            f"Error: the run's plugin file {gone} is gone; give it with --plugin\n"
        )
    (tmp_path / "here.py").touch()
    done = moalign("sample", "toy", "hello", "--out", out, "--plugin", tmp_path / "here.py")
    assert "here.py offers nothing" in done.stderr, "the given file is loaded instead"


# --- what to type next -------------------------------------------------------------------------


def test_commands_find_the_run_and_the_point(make_run: MakeRun, monkeypatch: Any) -> None:
    from moalign.reporting.commands import pick_command, sample_command
    from moalign.reporting.points import read_points

    run = make_run(trials=TRIALS)
    parent = run.folder.path.parent
    point = read_points(run).front[0]
    assert sample_command(run, point) == f'moalign sample toy "..." --point t00 --out {parent}'
    monkeypatch.chdir(parent.parent)
    run.folder = type(run.folder)(Path("runs/toy"))
    assert sample_command(run, point) == 'moalign sample toy "..." --point t00'
    assert pick_command(run, ["a"]) == "moalign front toy --knee"
    run.folder = type(run.folder)(Path("my runs/toy"))
    assert pick_command(run, ["a", "b"]).endswith("--prefer a=3,b=1 --out 'my runs'")


# --- pairs -------------------------------------------------------------------------------------


def test_pairs() -> None:
    assert pairs("--prefer", "a=3, b = .5") == {"a": 3.0, "b": 0.5}
    for text in ("", "a", "a=", "=1", "a=x", "a=nan", "a=inf", "a=1,,b=2"):
        with pytest.raises(StudyError, match="write --prefer NAME=NUMBER"):
            pairs("--prefer", text)
    with pytest.raises(StudyError, match="'a' is given twice"):
        pairs("--prefer", "a=1,a=2")
