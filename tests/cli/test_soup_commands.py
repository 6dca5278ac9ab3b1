"""``soup``: mix, mix more, answer, refuse, stop. Nothing is trained here."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from moalign.cli import command_line
from moalign.errors import NonFiniteError
from moalign.reporting.points import read_points
from moalign.search.archive import Run
from moalign.search.folders import RunFolder
from moalign.search.record import read
from moalign.types import BASE

Moalign = Callable[..., Result]
SETTINGS = ("search.rungs=[]", "search.trials=3")
PLAIN = tuple(word for setting in SETTINGS for word in ("--set", setting))


@pytest.fixture
def moalign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Moalign:
    """Call a command; segments and the export are of a quick kind."""
    import quick

    from moalign.reporting import export
    from moalign.search import artifacts, segments

    (tmp_path / "quick.yaml").write_text(quick.TEXT)
    monkeypatch.setenv("MOALIGN_PLUGINS", "")
    monkeypatch.setattr(artifacts, "check_data", lambda study: None)
    monkeypatch.setattr(segments, "run_segment", quick.quick_segment)
    monkeypatch.setattr(
        artifacts, "ensure_base", lambda study, run, progress: progress(1.0, "here")
    )
    monkeypatch.setattr(export, "export_front", lambda study, run, table: run.folder.path / "front")

    def call(command: str, *options: object) -> Result:
        name = tmp_path / "quick.yaml" if command == "pareto" else "quick"
        given = ["--plugin", quick.__file__] if command in ("pareto", "soup") else []
        arguments = [command, name, *given, "--out", tmp_path / "runs", *options]
        return CliRunner().invoke(command_line(), [str(a) for a in arguments])

    return call


@pytest.fixture
def searched(moalign: Moalign, tmp_path: Path) -> Moalign:
    """A finished run of three policies, without its report, which takes longest."""
    search(tmp_path)
    return moalign


def search(tmp_path: Path, *settings: str, **options: Any) -> None:
    import quick

    quick.quick_run(tmp_path / "runs" / "quick", *SETTINGS, *settings, **options)


def run_of(tmp_path: Path) -> Run:
    return read(RunFolder(tmp_path / "runs" / "quick"))


def forbidden(task: Any, emit: Any, cache: Any) -> None:
    raise AssertionError(f"trial {task.trial} was run again")


def test_soups_fill_the_front(searched: Moalign, tmp_path: Path) -> None:
    done = searched("soup")
    assert done.exit_code == 0, done.output
    assert "trial 3: mixes 1/2 t00 and 1/2 t02, " in done.stdout
    assert "trial 3 (4 of 9) finished without training, weights " in done.stdout
    assert "quick: a front of 9 points from 9 trials" in done.stdout
    run = run_of(tmp_path)
    assert [trial.total for trial in run.trials.values()] == [6] * 3 + [0] * 6
    assert run.closed == "finished"
    assert {(o.trial, o.step) for o in run.front()} <= set(run.tests)
    assert "9 trials (9 finished)" in (run.folder.path / "report.md").read_text()
    assert re.search(r"^t03,3,0,1,", (run.folder.path / "points.csv").read_text(), re.MULTILINE)


def test_the_run_stays_finished(searched: Moalign, monkeypatch: Any) -> None:
    from moalign.search import segments

    searched("soup", "--count", 2)
    monkeypatch.setattr(segments, "run_segment", forbidden)
    done = searched("pareto", *PLAIN)
    assert done.exit_code == 0, done.output
    told = "is finished; nothing to train (--trials above 5 adds trials: 2 of these are soups)"
    assert told in done.stdout
    assert "a front of 5 points from 5 trials" in done.stdout
    assert "a front of 5 points from 5 trials" in searched("front").stdout


def test_the_same_command_again_measures_nothing(
    searched: Moalign, tmp_path: Path, monkeypatch: Any
) -> None:
    from moalign.search import segments

    searched("soup", "--count", 2)
    record = (tmp_path / "runs" / "quick" / "events.jsonl").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(segments, "run_segment", forbidden)
        again = searched("soup", "--count", 2)
    assert again.exit_code == 0, again.output
    assert "has 2 soups; nothing to measure (a higher --count tries more)" in again.stdout
    assert "a front of 5 points from 5 trials" in again.stdout
    said = re.search(
        r"Hypervolume on validation: (0\.\d{3}) of what was trained, (0\.\d{3}) with the "
        r"soups\. To draw one of the trained policies per prompt reaches (0\.\d{3})",
        again.stdout,
    )
    trained, every, mixed = map(float, said.groups())
    assert trained < min(every, mixed)
    assert (tmp_path / "runs" / "quick" / "events.jsonl").read_bytes() == record
    assert "trial 5 (6 of 9)" in searched("soup").stdout
    monkeypatch.setattr(segments, "run_segment", forbidden)
    assert (
        "has 6 soups; nothing to measure (there is nothing left to mix)" in searched("soup").stdout
    )


def test_a_preference_is_answered(searched: Moalign, tmp_path: Path, monkeypatch: Any) -> None:
    from moalign.search import segments

    done = searched("soup", "--prefer", "a=3,b=2")
    assert done.exit_code == 0, done.output
    # The concave front lies above its chords: near the aim of a trained policy none is better.
    answer = done.stdout[done.stdout.rindex("\n\n") :].splitlines()[2:]
    said = r"(t\d\d answers|No soup is worth more to) a \.60, b \.40 "
    assert re.match(said, answer[0])
    assert re.match(r"Utility on validation: 0\.\d{3} ± 0\.\d{3}; of t\d\d, the best", answer[1])
    assert re.match(r"t\d\d minus t\d\d on test, paired: [+-]0\.\d{3} ± ", answer[2])
    assert "moalign sample quick" in answer[3]
    soups = [t for t in run_of(tmp_path).trials.values() if t.total == 0]
    assert len(soups) == 13, "all that three policies give"
    monkeypatch.setattr(segments, "run_segment", forbidden)
    again = searched("soup", "--prefer", "a=3,b=2")
    assert again.exit_code == 0, again.output
    assert "has 13 soups; nothing to measure (there is nothing left to mix)" in again.stdout
    assert again.stdout.splitlines()[-4:] == answer[:4]


def test_an_answer_keeps_to_the_thresholds(moalign: Moalign, tmp_path: Path) -> None:
    """The corner of `a` is worth most to it, and misses what is asked of `b`, as do soups near."""
    search(tmp_path, "objectives.b.at_least=0.5")
    done = moalign("soup", "--prefer", "a=1")
    assert done.exit_code == 0, done.output
    table = read_points(run_of(tmp_path))
    found = re.search(r"(t\d\d) answers|more to a 1\.00 than (t\d\d)", done.stdout)
    assert found is not None, done.stdout
    name = found[1] or found[2]
    chosen = next(p for p in table.points if p.id == name)
    assert chosen.values()["b"].mean >= 0.5
    assert max(table.points, key=lambda p: p.values()["a"].mean).values()["b"].mean < 0.5


def test_ctrl_c_and_the_same_command_goes_on(
    searched: Moalign, tmp_path: Path, monkeypatch: Any
) -> None:
    from moalign.search import segments

    with monkeypatch.context() as patched:
        patched.setattr(segments, "run_segment", stopping(5, KeyboardInterrupt()))
        done = searched("soup", "--count", 4)
    assert done.exit_code == 130
    assert "Stopped. Nothing that finished is lost; the same command goes on." in done.stdout
    done = searched("soup", "--count", 4)
    assert done.exit_code == 0, done.output
    assert len(run_of(tmp_path).trials) == 7
    assert run_of(tmp_path).closed == "finished"


def test_pareto_goes_on_with_what_soup_left(searched: Moalign, monkeypatch: Any) -> None:
    from moalign.search import segments

    with monkeypatch.context() as patched:
        patched.setattr(segments, "run_segment", stopping(3, KeyboardInterrupt()))
        searched("soup", "--count", 1)
    done = searched("pareto", *PLAIN)
    assert done.exit_code == 0, done.output
    assert "a front of 4 points from 4 trials" in done.stdout


# --- what cannot be mixed ----------------------------------------------------------------------


def refused(done: Result, text: str) -> None:
    assert done.exit_code == 2, done.output
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1


def stopping(trial: int, error: BaseException) -> Any:
    import quick

    def segment(task: Any, emit: Any, cache: Any) -> None:
        if task.trial >= trial:
            raise error
        quick.quick_segment(task, emit, cache)

    return segment


def test_a_run_that_has_hardly_begun(moalign: Moalign, tmp_path: Path) -> None:
    search(tmp_path, segment=stopping(BASE, KeyboardInterrupt()))
    refused(moalign("soup"), "run quick has not measured its base policy yet")


def test_a_run_whose_training_was_interrupted(moalign: Moalign, tmp_path: Path) -> None:
    search(tmp_path, segment=stopping(2, KeyboardInterrupt()))
    refused(moalign("soup"), "run quick is not finished, and policies that are still to come")


def test_more_training_that_was_interrupted(searched: Moalign, tmp_path: Path) -> None:
    search(tmp_path, trials=6, segment=stopping(3, KeyboardInterrupt()))
    refused(searched("soup"), "run quick is not finished, ")


def test_a_run_without_a_front(moalign: Moalign, tmp_path: Path) -> None:
    search(tmp_path, segment=stopping(0, NonFiniteError("the loss became infinite")))
    refused(moalign("soup"), "run quick has no measured trial, so it has no front; trial 2 failed")


def test_a_front_of_one_policy(moalign: Moalign, tmp_path: Path) -> None:
    search(tmp_path, trials=1)
    text = "the front of run quick is one policy, of trial 0, so there is nothing to mix it with;"
    refused(moalign("soup"), text)


def test_policies_that_are_gone(searched: Moalign, tmp_path: Path) -> None:
    gone = run_of(tmp_path).folder.policy(1, 6)
    shutil.rmtree(gone)
    refused(searched("soup"), f"has lost policies of its front, so they cannot be mixed: {gone};")


def test_a_wrong_preference(searched: Moalign) -> None:
    refused(searched("soup", "--prefer", "c=1"), "a preference names 'c'; allowed: a, b")
    refused(searched("soup", "--prefer", "a"), "--prefer a: write --prefer NAME=NUMBER,...")


def test_no_such_run(moalign: Moalign) -> None:
    refused(moalign("soup"), "no run is called 'quick'")
