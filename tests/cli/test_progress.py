"""The live view: lines for programs, a panel for people, and the time that is left."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from moalign import Cost, Objective, Observation, Proposal, Start, StepEvent
from moalign.cli import progress
from moalign.cli.progress import ProgressView
from moalign.plugins import check_hooks

MakeRun = Callable[..., Any]

VALUES = {"a": (0.5, 0.01), "b": (0.25, 0.02)}
OBJECTIVES = [Objective("a", (0.0, 1.0)), Objective("b", (0.0, 1.0))]
STUDY = {"training": {"steps": 10}}


class Clock:
    """A clock that stands still until it is moved."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


def view_on(*, terminal: bool = False, trials: int = 4) -> tuple[ProgressView, io.StringIO]:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100, highlight=False, markup=False)
    return ProgressView(console, trials), file


def seen(trial: int, step: int = 10) -> Observation:
    return Observation(trial, step, True, Start(), None, {}, (0.5, 0.2), (0.0, 0.0), Cost())


def run_one(view: ProgressView, trial: int, outcome: str = "finished", reason: str = "") -> None:
    weights = {"weighting.preference": {"a": 0.8, "b": 0.2}, "training.learning_rate": 3e-4}
    view.moalign_trial_started(trial, Proposal(weights))
    view.moalign_step_ended(StepEvent(trial, 5, 0.0, {"objective/a": 0.375}))
    if outcome != "failed":
        view.moalign_segment_ended(trial, [seen(trial)], [VALUES])
    view.moalign_front_updated([seen(trial)], 0.3)
    view.moalign_trial_ended(trial, outcome, reason)


def test_it_is_a_listener_that_the_driver_accepts() -> None:
    view, _ = view_on()
    assert "moalign_step_ended" in check_hooks(view, "the view")


def test_lines(clock: Clock) -> None:
    view, file = view_on()
    view.start()
    for done in (0.1, 0.26, 0.3, 0.55, 1.0):
        view.base(done, "loss 1.5")
    view.moalign_study_started(Path("runs/toy"), STUDY, OBJECTIVES, resumed=False)
    view.moalign_base_measured(VALUES)
    clock.now = 50.0
    view.moalign_trial_started(0, Proposal({}))
    clock.now = 80.0
    run_one(view, 0)
    run_one(view, 1, "failed", "the loss became infinite")
    view.stop()
    assert file.getvalue().splitlines() == [
        "base policy: 26%, loss 1.5",
        "base policy: 55%, loss 1.5",
        "runs/toy: starting; Ctrl-C stops, and the same command goes on",
        "base policy: a 0.500 ± 0.010, b 0.250 ± 0.020",
        "trial 0 (1 of 4) finished at step 10/10, weights .80/.20, learning_rate 0.0003: "
        "a 0.500 ± 0.010, b 0.250 ± 0.020, on the front",
        "about 01:30 left",
        "trial 1 (2 of 4) failed at step 5/10, weights .80/.20, learning_rate 0.0003 "
        "(the loss became infinite), on the front",
        "about 00:30 left",
    ]


def test_a_trial_that_began_elsewhere_says_why_and_a_soup_takes_no_steps(clock: Clock) -> None:
    view, file = view_on(trials=3)
    view.moalign_study_started(Path("runs/toy"), STUDY, OBJECTIVES, resumed=False)
    both = Start(((0, 10), (1, 10)), (0.5, 0.5))
    for trial in (2, 3):
        view.moalign_trial_started(trial, Proposal({}, both, 0, reason="mixes 1/2 t00 and 1/2 t01"))
    clock.now = 10.0
    view.moalign_segment_ended(2, [seen(2, 0)], [VALUES])
    view.moalign_trial_ended(2, "finished", "")
    assert file.getvalue().splitlines()[1:] == [
        "trial 2: mixes 1/2 t00 and 1/2 t01",
        "trial 3: mixes 1/2 t00 and 1/2 t01",
        "trial 2 (1 of 3) finished without training: a 0.500 ± 0.010, b 0.250 ± 0.020",
        "about 00:20 left",
    ]


def test_parameters_that_settings_replace_are_not_told(clock: Clock) -> None:
    view, file = view_on(trials=1)
    view.moalign_study_started(Path("runs/toy"), STUDY, OBJECTIVES, resumed=False)
    weights = {"weighting.preference": {"a": 0.8, "b": 0.2}, "training.learning_rate": 3e-4}
    view.moalign_trial_started(0, Proposal(weights, settings={"weighting": {"x": {}}}))
    view.moalign_trial_ended(0, "failed", "the loss became infinite")
    told = next(line for line in file.getvalue().splitlines() if "failed" in line)
    assert "weights" not in told
    assert "learning_rate 0.0003" in told


def test_the_test_measurements_are_a_phase_of_their_own(clock: Clock) -> None:
    view, file = view_on(trials=1)
    view.moalign_study_started(Path("runs/toy"), STUDY, OBJECTIVES, resumed=False)
    run_one(view, 0)
    assert file.getvalue().splitlines()[-1] == "measuring the front on test"
    view, _ = view_on(terminal=True, trials=2)
    view.moalign_study_started(Path("runs/toy"), STUDY, OBJECTIVES, resumed=False)
    run_one(view, 0)
    assert "on test" not in drawn(view)
    run_one(view, 1)
    assert "2 of 2 trials · 1 on the front" in drawn(view)
    assert "measuring the front on test" in drawn(view)


@pytest.mark.parametrize("test", [True, False])
def test_a_resumed_run_measures_on_test_what_was_not(
    make_run: MakeRun, clock: Clock, test: bool
) -> None:
    run = make_run(closed="interrupted", test=test)
    view, file = view_on(trials=3)
    view.moalign_study_started(run.folder.path, STUDY, OBJECTIVES, resumed=True)
    assert ("measuring the front on test" in file.getvalue()) is not test


def test_a_moment_is_not_told(clock: Clock) -> None:
    view, file = view_on(trials=3)
    view.moalign_study_started(Path("runs/toy"), STUDY, OBJECTIVES, resumed=False)
    view.moalign_trial_started(0, Proposal({}))
    clock.now = 2.0
    run_one(view, 0)
    assert view._left() == "", "two trials of two seconds are left"
    clock.now = 3.0
    assert view._left() == "00:06"
    assert "left" not in file.getvalue()


def test_a_line_is_never_cut() -> None:
    view, file = view_on()
    view.moalign_study_started(Path("runs") / ("x" * 300), STUDY, OBJECTIVES, resumed=False)
    assert len(file.getvalue().splitlines()) == 1


def test_time_left_counts_what_runs_now(clock: Clock) -> None:
    view, _ = view_on(trials=2)
    view.moalign_study_started(Path("runs/toy"), STUDY, OBJECTIVES, resumed=False)
    view.moalign_base_measured(VALUES)
    assert view._left() == "", "nothing has been done, so nothing is known"
    view.moalign_trial_started(0, Proposal({}))
    view.moalign_step_ended(StepEvent(0, 5, 0.0, {}))
    clock.now = 10.0
    assert view._left() == "00:30", "half a trial took 10 s; one and a half are left"


def drawn(view: ProgressView) -> str:
    console = Console(file=io.StringIO(), width=100, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(view._panel())
    return captured.get()


def test_the_panel(clock: Clock) -> None:
    view, _ = view_on(terminal=True)
    view.base(0.4, "loss 1.5")
    assert "base policy: loss 1.5" in drawn(view)
    view.moalign_study_started(Path("runs/toy"), STUDY, OBJECTIVES, resumed=False)
    view.moalign_base_measured(VALUES)
    run_one(view, 0)
    view.moalign_trial_started(1, Proposal({"weighting.preference": {"a": 0.3, "b": 0.7}}))
    view.moalign_step_ended(StepEvent(1, 3, 0.0, {"objective/a": 0.375, "objective/b": 0.125}))
    clock.now = 3.0
    shown = drawn(view)
    assert "1 of 4 trials · 1 on the front · hypervolume 0.300 · 00:03 · about" in shown
    (row,) = (line for line in shown.splitlines() if "3/10" in line)
    assert row.split() == ["1", "3/10", "0.38", "0.12", "weights", ".30/.70"]


def test_a_terminal_gets_a_panel_that_goes_away(clock: Clock) -> None:
    view, file = view_on(terminal=True)
    view.start()
    view.moalign_study_started(Path("runs/toy"), STUDY, OBJECTIVES, resumed=False)
    view.moalign_study_ended()
    view.stop()
    assert "0 of 4 trials" in file.getvalue()
    assert view._live is None


def test_a_resumed_run_counts_what_stands(make_run: MakeRun, clock: Clock) -> None:
    run = make_run(closed="interrupted", test=False)
    view, file = view_on(trials=5)
    view.moalign_study_started(run.folder.path, STUDY, OBJECTIVES, resumed=True)
    assert "going on, 3 of 5 trials are done" in file.getvalue()
    clock.now = 10.0
    view.moalign_trial_started(3, Proposal({}))
    clock.now = 20.0
    assert view._left() == "", "what an earlier command did says nothing about the speed of this"
    run_one(view, 3)
    assert "trial 3 (4 of 5) finished" in file.getvalue()
    assert view._left() == "00:10"


def test_the_ends_of_a_schedule_have_their_names() -> None:
    ends = {"weighting.start": {"a": 0.2, "b": 0.8}, "weighting.end": {"a": 1.0, "b": 0.0}}
    view, file = view_on(terminal=True)
    view.start()
    view.moalign_study_started(Path("runs/toy"), STUDY, OBJECTIVES, resumed=False)
    view.moalign_trial_started(0, Proposal(ends))
    view.moalign_trial_ended(0, "finished", "")
    view.stop()
    assert "start .20/.80, end 1.00/.00" in file.getvalue()
