"""What survives `kill -9`: the archive, always; a driver's workers, for two seconds at most."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import quick
from deleting import Deleting, extending
from quick import Pairs, archive, quick_run

from moalign import RecordError, StudyError, hookimpl
from moalign.plugins import Entry
from moalign.reporting.report import write_report
from moalign.search import events
from moalign.search.driver import Result
from moalign.search.folders import RunFolder
from moalign.search.record import read
from moalign.study.loading import load
from moalign.types import BASE
from moalign_plugins.executors.processes import Processes
from moalign_plugins.strategies.botorch import BoTorch
from moalign_plugins.strategies.cmorl import ConstrainedExtension
from moalign_plugins.strategies.nsga2 import Nsga2
from moalign_plugins.strategies.nsga3 import Nsga3
from moalign_plugins.weightings.lagrangian import Lagrangian

SUPPORT = Path(__file__).parent.parent / "support"
MOMENTS = 8
HANG = json.dumps([{"trial": 2, "step": 3, "kind": "hang"}])

DRIVER = """
import signal
import sys
import time
from pathlib import Path
from quick import Processes, quick_run
from moalign import hookimpl

class View:
    @hookimpl
    def moalign_trial_started(self, trial):
        if trial == 2:
            print(*[worker.process.pid for worker in executor._workers], flush=True)

    @hookimpl
    def moalign_study_ended(self):
        time.sleep(float(sys.argv[2]))

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background job
executor = Processes(workers=2)
def leaving(steps):
    print(steps, flush=True)

print(quick_run(Path(sys.argv[1]), executor=executor, listeners=[View()], leaving=leaving).outcome)
"""


def script(*arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(SUPPORT), **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


FROM_EACH_OTHER = (
    "search.strategy={soups: {strategy: {continuation: {strategy: random, steps: 3, after: 2}}, "
    "every: 3}}",
    "search.trials=10",
    "search.rungs=[2]",
)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("workers", "changes"),
    [(1, ()), (3, ()), (1, FROM_EACH_OTHER), (3, FROM_EACH_OTHER)],
    ids=["one", "three", "one, from each other", "three, from each other"],
)
def test_a_driver_killed_at_any_moment_goes_on_to_the_same_archive(
    tmp_path: Path, workers: int, changes: tuple[str, ...]
):
    given = (str(tmp_path), str(MOMENTS), str(workers), *changes)
    with script(str(SUPPORT / "killing.py"), *given) as process:
        told = json.loads(process.stdout.read())
    assert process.returncode == 0
    assert told["different"] == []
    assert told["wrong"] == []
    assert len(set(told["moments"])) == MOMENTS
    assert told["calls"] > 200
    if changes:
        assert any("steps=0" in proposal for proposal in told["proposals"]), "a soup"
        assert any("steps=3" in proposal for proposal in told["proposals"]), "a warm start"


@pytest.mark.e2e
@pytest.mark.parametrize("workers", [2, 3])
def test_in_order_of_arrival_nothing_is_lost_or_done_twice(tmp_path: Path, workers: int):
    """A driver that goes on hears of its workers in another order: the archives may differ."""
    changes = ("search.order=arrival", "search.trials=8")
    given = (str(tmp_path), "5", str(workers), *changes)
    with script(str(SUPPORT / "killing.py"), *given) as process:
        told = json.loads(process.stdout.read())
    assert process.returncode == 0
    assert told["wrong"] == []
    assert len(set(told["moments"])) == 5
    assert told["calls"] > 200


def ended_within(seconds: float, workers: list[int]) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, workers))


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")


@needs_proc
@pytest.mark.alone
def test_ctrl_c_ends_the_workers_and_leaves_the_run_in_order(tmp_path: Path):
    with script("-c", DRIVER, str(tmp_path / "mine"), "0", QUICK_FAULTS=HANG) as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline().startswith("{"), "from where trials go on"
        assert process.stdout.read() == "interrupted\n"
    assert process.returncode == 0
    assert ended_within(0.5, workers)
    assert read(RunFolder(tmp_path / "mine")).closed == "interrupted"
    resumed = quick_run(tmp_path / "mine", executor=Processes(workers=2))
    whole = quick_run(tmp_path / "whole", executor=Processes(workers=2))
    assert archive(resumed.run) == archive(whole.run)


@needs_proc
@pytest.mark.alone
def test_ctrl_c_again_waits_for_no_tracker_and_leaves_no_worker(tmp_path: Path):
    with script("-c", DRIVER, str(tmp_path / "mine"), "60", QUICK_FAULTS=HANG) as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline().startswith("{"), "said while a tracker is waited for"
        assert ended_within(2.0, workers)
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == ""
        process.wait(10)
    assert not any(map(alive, workers))
    resumed = quick_run(tmp_path / "mine", executor=Processes(workers=2))
    whole = quick_run(tmp_path / "whole", executor=Processes(workers=2))
    assert archive(resumed.run) == archive(whole.run)


@needs_proc
@pytest.mark.alone
def test_workers_of_a_killed_driver_end_and_the_study_goes_on(tmp_path: Path):
    with script("-c", DRIVER, str(tmp_path / "mine"), "0", QUICK_FAULTS=HANG) as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        time.sleep(0.2)
        process.kill()
    assert ended_within(2.0, workers)
    resumed = quick_run(tmp_path / "mine", executor=Processes(workers=2))
    whole = quick_run(tmp_path / "whole", executor=Processes(workers=2))
    assert archive(resumed.run) == archive(whole.run)
    assert archive(read(RunFolder(tmp_path / "mine"))) == archive(whole.run)


# --- between a rung's decision and what follows from it ------------------------------------------

DECIDED = """
import os
import signal
import sys
from pathlib import Path

from quick import Pairs, quick_run

folder, where, trial, since = sys.argv[1:]


class Fatal(Pairs):
    def submit(self, task):
        if where == "submit" and (task.trial, task.since) == (int(trial), int(since)):
            os.kill(os.getpid(), signal.SIGKILL)
        super().submit(task)

    def forget(self, number):
        if where == "forget" and number == int(trial):
            os.kill(os.getpid(), signal.SIGKILL)
        super().forget(number)


quick_run(Path(folder), executor=Fatal())
"""


@pytest.mark.parametrize(
    ("where", "trial", "since", "go_on"),
    [("submit", 1, 2, True), ("submit", 2, 4, True), ("forget", 3, 2, False)],
)
def test_a_driver_killed_right_after_a_decision_goes_on_to_the_same_archive(
    tmp_path: Path, where: str, trial: int, since: int, go_on: bool
):
    with script("-c", DECIDED, str(tmp_path / "mine"), where, str(trial), str(since)) as process:
        process.wait()
    assert process.returncode == -signal.SIGKILL
    record = RunFolder(tmp_path / "mine").events.read_bytes().splitlines()
    last = events.from_line(record[-1])
    assert isinstance(last, events.Decided)
    assert (last.trial, last.step, last.go_on) == (trial, since, go_on)
    resumed = quick_run(tmp_path / "mine", executor=Pairs())
    assert archive(resumed.run) == archive(quick_run(tmp_path / "whole", executor=Pairs()).run)


# --- folders that somebody deletes ---------------------------------------------------------------

made_again = pytest.mark.filterwarnings("ignore:.* was deleted; it is made again:UserWarning")


@made_again
@pytest.mark.parametrize("part", ["", "policy"])
def test_a_policy_that_a_trial_is_about_to_start_from_is_made_again(tmp_path: Path, part: str):
    deleting = Deleting(tmp_path / "mine", part)
    found = extending(tmp_path / "mine", listeners=[deleting])
    assert len(set(deleting.deleted)) > 1
    assert archive(found) == archive(extending(tmp_path / "whole"))


@made_again
def test_what_it_starts_from_in_turn_is_made_again_too(tmp_path: Path):
    chain = extending(tmp_path / "mine")
    starts = {n: t.proposal.start.points for n, t in chain.trials.items()}
    assert any(starts[number] for points in starts.values() for number, _ in points)

    class All(Deleting):
        @hookimpl
        def moalign_trial_started(self, proposal):
            if proposal.start.points:
                shutil.rmtree(self.folder.path / "trials")

    found = extending(tmp_path / "again", listeners=[All(tmp_path / "again")])
    assert archive(found) == archive(chain)


@made_again
def test_one_that_cannot_be_made_again_costs_the_trials_that_wait_for_it(tmp_path: Path):
    deleting = Deleting(tmp_path / "mine")

    def failing(task, emit, cache):
        if (task.trial, task.until) in deleting.deleted and task.split == "validation":
            raise ZeroDivisionError("not again")
        quick.quick_segment(task, emit, cache)

    with pytest.raises(
        StudyError, match=r"trial \d at step \d is gone and could not be made again"
    ):
        extending(tmp_path / "mine", listeners=[deleting], segment=failing)
    found = read(RunFolder(tmp_path / "mine"))
    waited = [t for t in found.trials.values() if not t.proposal.start.scratch]
    assert {t.outcome for t in waited} == {"failed"}
    assert {t.outcome for t in found.trials.values()} >= {"finished"}
    for trial in waited:
        point = "trial {} at step {}".format(*trial.proposal.start.points[0])
        reason = f"{point} is gone and could not be made again, so nothing can start from there: "
        assert trial.reason.startswith(reason + "ZeroDivisionError: not again")


@made_again
def test_what_is_gone_again_once_it_was_made_is_an_error_and_no_loop(tmp_path: Path):
    quick_run(tmp_path / "mine")
    (front, *_) = read(RunFolder(tmp_path / "mine")).front()
    policy = RunFolder(tmp_path / "mine").policy(front.trial, front.step)
    shutil.rmtree(policy)
    calls = []

    def forgetful(task, emit, cache):
        calls.append(task)
        quick.quick_segment(task, emit, cache)
        shutil.rmtree(policy)

    with pytest.raises(RecordError, match=r"has been made again, and still lacks its policy"):
        quick_run(tmp_path / "mine", trials=7, segment=forgetful)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("trials/0003/step-00002", ["trial 3 at step 2"]),
        ("trials/0000", [f"trial 0 at step {step}" for step in (2, 4, 6)]),
        ("trials/0001/step-00006/policy", ["trial 1 at step 6"]),
        ("base/step-00000", ["the base policy"]),
    ],
)
def test_what_is_deleted_of_a_finished_run_is_made_again_for_its_report(
    tmp_path: Path, gone: str, named: list[str]
):
    whole = archive(quick_run(tmp_path / "mine").run)
    shutil.rmtree(tmp_path / "mine" / gone)
    assert read(RunFolder(tmp_path / "mine")).lost()
    prepared = []
    with pytest.warns(UserWarning, match="was deleted") as told:
        again = quick_run(
            tmp_path / "mine",
            prepare=lambda *_: prepared.append(1),
            report=lambda run: write_report(run, {}),
        )
    assert [str(one.message) for one in told] == [
        f"{what} was deleted; it is made again" for what in named
    ]
    assert prepared == [1]
    assert archive(again.run) == whole
    assert not again.run.lost()


# --- values without a difference -----------------------------------------------------------------


def with_values(change: Callable[[list[float]], list[float]]) -> Callable[..., None]:
    """Return a quick segment that measures something else; in this process only."""

    def segment(task, emit, cache):
        with pytest.MonkeyPatch.context() as patch:
            original = quick._evaluation

            def changed(*args: Any) -> Any:
                found = original(*args)
                return replace(found, values_UK=[change(list(row)) for row in found.values_UK])

            patch.setattr(quick, "_evaluation", changed)
            quick.quick_segment(task, emit, cache)

    return segment


STRATEGIES = {
    "random": 14,
    "gp": 14,
    "tpe": 14,
    "grid": 14,
    "{nsga2: {population: 4}}": 14,
    "{nsga3: {population: 4}}": 14,
    "{continuation: {strategy: random, steps: 3, after: 3}}": 14,
    "{soups: {strategy: random, every: 3}}": 14,
    "cmorl": 14,
    "{botorch: {startup: 4}}": 7,
}
"""Trials by strategy; some seconds of a CPU in all."""


def asked(folder: Path, strategy: str, *changes: str, **options: Any) -> Result:
    """Run the quick study with any strategy, and write its report."""
    catalogue = quick.quick_catalogue()
    for kind in (BoTorch, ConstrainedExtension, Lagrangian, Nsga2, Nsga3):
        catalogue.add(Entry(kind, "here"))
    given = (f"search.strategy={strategy}", f"search.trials={STRATEGIES[strategy]}", *changes)
    study = load(quick.TEXT, "quick.yaml", catalogue, given)
    return quick_run(folder, study=study, report=lambda run: write_report(run, {}), **options)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("constant", [("a",), ("a", "b")])
def test_an_objective_that_is_constant_stops_nothing(
    tmp_path: Path, strategy: str, constant: tuple[str, ...]
):
    def change(row: list[float]) -> list[float]:
        return [0.5 if name in constant else v for name, v in zip("ab", row[:2], strict=True)] + [
            row[2]
        ]

    values = with_values(change)
    found = asked(tmp_path / "mine", strategy, "search.rungs=[2]", segment=values)
    assert found.outcome == "finished"
    assert len(found.run.trials) == STRATEGIES[strategy]
    assert {t.outcome for t in found.run.trials.values()} <= {"finished", "stopped"}
    assert len(found.run.front()) == 1
    assert "0.500 ± 0.000" in found.files["report"].read_text()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_when_no_trial_is_feasible_there_are_a_front_and_a_sentence(tmp_path: Path, strategy: str):
    found = asked(tmp_path / "mine", strategy, "objectives.b.at_least=0.99")
    assert found.outcome == "finished"
    assert {t.outcome for t in found.run.trials.values()} <= {"finished", "stopped"}
    assert len(found.run.front()) > 1
    elsewhere = [t for t in found.run.trials.values() if not t.proposal.start.scratch]
    assert bool(elsewhere) == any(n in strategy for n in ("cmorl", "continuation", "soups"))
    assert {(BASE, 0), *((o.trial, o.step) for o in found.run.front())} == set(found.run.tests)
    sentence = "(b at least 0.99); no point meets it, so picks leave it aside"
    assert sentence in found.files["report"].read_text()
