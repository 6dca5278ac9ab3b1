"""What every executor does, and what processes do besides."""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Iterator

import pytest
from tasks import lambda_like, segment, task

from moalign import Executor, OptionError, SegmentDone, SegmentFailed, StepEvent
from moalign.execution import WorkersExecutor
from moalign.plugins import load
from moalign_plugins.executors import processes as processes_module
from moalign_plugins.executors.local import Local
from moalign_plugins.executors.processes import Processes
from moalign_plugins.executors.ray import Ray

EXECUTORS = {
    "local": Local,
    "processes": lambda: Processes(workers=2),
    "ray": lambda: Ray(workers=2, cpus=0.5),
}
ELSEWHERE = ["processes", pytest.param("ray", marks=pytest.mark.extras)]


@pytest.fixture(scope="module")
def on_ray() -> Iterator[Executor]:
    """An executor that all tests share, because a cluster and its workers start slowly."""
    owner = Ray(workers=1)  # its cluster is there until the end
    owner.open(segment)
    executor = EXECUTORS["ray"]()
    yield executor
    executor.close()
    owner.close()


def opened(request) -> Iterator[Executor]:
    shared = request.param == "ray"
    executor = request.getfixturevalue("on_ray") if shared else EXECUTORS[request.param]()
    executor.open(segment)
    yield executor
    if not shared:
        executor.close()


@pytest.fixture(params=["local", *ELSEWHERE])
def executor(request) -> Iterator[Executor]:
    yield from opened(request)


@pytest.fixture(params=ELSEWHERE)
def elsewhere(request) -> Iterator[Executor]:
    """One whose segments run in other processes."""
    yield from opened(request)


@pytest.fixture
def processes() -> Iterator[Processes]:
    executor = Processes(workers=2)
    executor.open(segment)
    yield executor
    executor.close()


def events_of(executor: Executor, ends: int) -> list:
    """Wait until so many segments have ended."""
    events: list = []
    deadline = time.monotonic() + 60
    while sum(not isinstance(e, StepEvent) for e in events) < ends:
        assert time.monotonic() < deadline, events
        events += executor.wait(0.2)
    return events


def ended(events: list) -> dict[int, SegmentDone | SegmentFailed]:
    return {e.trial: e for e in events if not isinstance(e, StepEvent)}


def metrics(events: list, trial: int) -> dict[str, float]:
    return next(e.metrics for e in events if isinstance(e, StepEvent) and e.trial == trial)


# --- every executor ----------------------------------------------------------------------------


def test_segments_end_and_their_steps_come_first(executor: Executor):
    for trial in range(5):
        executor.submit(task(trial))
    events = events_of(executor, 5)
    assert sorted(ended(events)) == [0, 1, 2, 3, 4]
    for trial in range(5):
        mine = [e for e in events if e.trial == trial]
        assert [e.step for e in mine[:-1]] == [1, 2]
        assert isinstance(mine[-1], SegmentDone)
        assert (mine[-1].step, mine[-1].split) == (2, "validation")
        assert mine[-1].seconds >= 0
    assert executor.wait(0.0) == []


def test_a_trial_is_remembered_until_it_is_forgotten(executor: Executor):
    executor.submit(task(7))
    assert metrics(events_of(executor, 1), 7)["known"] == 0
    executor.submit(task(7))
    assert metrics(events_of(executor, 1), 7)["known"] == 1
    executor.forget(7)
    executor.forget(8)  # of which nothing is held
    executor.submit(task(7))
    assert metrics(events_of(executor, 1), 7)["known"] == 0


@pytest.mark.parametrize(
    ("what", "reason", "fatal", "detail"),
    [
        ("contract", "the weights have the wrong shape", False, ""),
        ("bug", "KeyError: 'accuracy'", False, "in segment"),
        ("missing", "FileNotFoundError: [Errno 2] No such file: 'x.json'", False, "in segment"),
        ("record", "the checkpoint is damaged", True, ""),
        (
            "full",
            "nothing can be written: [Errno 28] No space left on device; make room and run the "
            "same command again",
            True,
            "in segment",
        ),
    ],
)
def test_a_segment_that_raises_says_why(
    executor: Executor, what: str, reason: str, fatal: bool, detail: str
):
    executor.submit(task(1, what))
    executor.submit(task(2))
    events = ended(events_of(executor, 2))
    failed = events[1]
    assert isinstance(failed, SegmentFailed)
    assert (failed.step, failed.split, failed.retry) == (2, "validation", False)
    said, places = re.subn(r" \(\w+\.py line \d+\)$", "", failed.reason)
    assert (said, failed.fatal) == (reason, fatal)
    assert places == (detail != "" and not fatal)
    assert detail in failed.detail
    assert bool(failed.detail) == bool(detail)
    assert isinstance(events[2], SegmentDone)  # the worker goes on


def test_closing_twice_is_safe_and_drops_what_is_queued(executor: Executor):
    for trial in range(4):
        executor.submit(task(trial))
    executor.close()
    executor.close()
    assert executor.wait(0.0) == []


def test_an_executor_can_be_closed_before_anything_ran(executor: Executor):
    executor.close()


# --- workers in other processes ------------------------------------------------------------------


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch):
    """Let this machine have as many GPUs as is said."""
    import torch

    def have(count: int, visible: str | None = None) -> None:
        monkeypatch.setattr(processes_module, "_DRIVERS", ("/dev/null",))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return have


@pytest.mark.parametrize(
    ("count", "visible", "found"),
    [
        (0, None, []),
        (0, "0", []),  # named, and not there
        (2, None, ["0", "1"]),
        (2, "5, 3", ["5", "3"]),
        (1, "3,9", ["3"]),  # CUDA stops at the first that is not there
        (1, "MIG-4f", ["MIG-4f"]),
    ],
)
def test_the_gpus_of_a_machine_say_how_many_workers_there_are(gpus, count, visible, found):
    gpus(count, visible)
    assert processes_module._gpus() == found
    assert Processes().workers == (len(found) or len(os.sched_getaffinity(0)))
    assert Processes(workers=3).workers == 3


def test_a_machine_without_gpus_is_told_by_its_devices(monkeypatch):
    monkeypatch.setattr(processes_module, "_DRIVERS", ("/dev/is-not-there",))
    monkeypatch.setitem(sys.modules, "torch", None)  # an import would raise
    assert processes_module._gpus() == []


def test_workers_are_dealt_over_gpus(gpus):
    gpus(2, "3,5")
    executor = Processes(workers=3)
    executor.open(segment)
    try:
        for trial in range(3):
            executor.submit(task(trial, "wait"))
        first = events_of(executor, 3)
        assert [w.gpu for w in executor._workers] == ["3", "5", "3"]
        assert {metrics(first, trial)["device"] for trial in range(3)} == {3.0, 5.0}
        executor.submit(task(3, "kill"))  # what takes its place takes its GPU
        assert isinstance(ended(events_of(executor, 1))[3], SegmentFailed)
        for trial in range(4, 7):
            executor.submit(task(trial, "wait"))
        events_of(executor, 3)
        assert sorted(w.gpu for w in executor._workers) == ["3", "3", "5"]
    finally:
        executor.close()


def test_one_gpu_is_left_to_be_found(gpus):
    gpus(1)
    executor = Processes(workers=2)
    executor.open(segment)
    try:
        executor.submit(task(0))
        assert math.isnan(metrics(events_of(executor, 1), 0)["devices"])
    finally:
        executor.close()


def test_segments_run_elsewhere_with_the_threads_they_ask_for(elsewhere: WorkersExecutor):
    elsewhere.close()
    elsewhere.open(segment)
    assert elsewhere._workers == []  # none before there is work
    while len(elsewhere._workers) < 2 or not all(worker.ready for worker in elsewhere._workers):
        for trial in range(10, 12):
            elsewhere.submit(task(trial, "wait"))
        events_of(elsewhere, 2)
    for trial in range(2):
        elsewhere.submit(task(trial, "wait"))
    events = events_of(elsewhere, 2)
    workers = {metrics(events, trial)["process"] for trial in range(2)}
    assert len(workers) == 2
    assert os.getpid() not in workers
    assert metrics(events, 0)["threads"] == 3


def test_a_trial_goes_back_to_the_worker_that_holds_it(elsewhere: WorkersExecutor):
    for trial in range(20, 22):
        elsewhere.submit(task(trial, "wait"))
    events = events_of(elsewhere, 2)
    before = {trial: metrics(events, trial)["process"] for trial in range(20, 22)}
    for trial in (21, 20):
        elsewhere.submit(task(trial))
        again = metrics(events_of(elsewhere, 1), trial)
        assert (again["process"], again["known"]) == (before[trial], 1)


def test_a_worker_that_is_killed_is_reported_and_replaced(elsewhere: WorkersExecutor):
    elsewhere.submit(task(1))
    pid = int(metrics(events_of(elsewhere, 1), 1)["process"])
    elsewhere.submit(task(1, "kill"))
    failed = ended(events_of(elsewhere, 1))[1]
    assert isinstance(failed, SegmentFailed)
    assert failed.retry
    assert not failed.fatal
    said = {
        "processes": f"the worker process {pid} was killed by SIGKILL",
        "ray": f"the Ray worker {pid} on 127.0.0.1 is gone: The actor is dead because its worker "
        "process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly "
        "exits with a connection error code 2. End of file",
    }
    assert failed.reason == said[elsewhere.name]
    elsewhere.submit(task(1, attempt=1))
    events = events_of(elsewhere, 1)
    assert isinstance(ended(events)[1], SegmentDone)
    assert metrics(events, 1)["process"] != pid


def test_a_segment_that_hangs_is_ended_when_its_time_is_up(elsewhere: WorkersExecutor):
    """The clock is its own: the next one is not cut short, and what waits has no clock."""
    elsewhere.submit(task(0))
    events_of(elsewhere, 1)
    elsewhere.timeout = 0.05
    try:
        elsewhere.submit(task(1, "sleep"))
        for trial in (2, 3, 4):
            elsewhere.submit(task(trial, "wait"))
        events = events_of(elsewhere, 4)
    finally:
        elsewhere.timeout = None
    failed = ended(events)[1]
    assert isinstance(failed, SegmentFailed)
    assert failed.retry
    assert failed.reason == "the segment did not end within 0.05 minutes"
    assert all(isinstance(ended(events)[trial], SegmentDone) for trial in (2, 3, 4))
    elsewhere.submit(task(1, attempt=1))
    again = events_of(elsewhere, 1)
    assert isinstance(ended(again)[1], SegmentDone)
    assert metrics(again, 1)["process"] != metrics(events, 1)["process"]


def test_a_worker_that_dies_idle_is_replaced_without_a_word(elsewhere: WorkersExecutor):
    elsewhere.submit(task(1))
    pid = int(metrics(events_of(elsewhere, 1), 1)["process"])
    os.kill(pid, 9)
    if elsewhere.name == "processes":  # else it is noticed when it is called
        deadline = time.monotonic() + 10
        while elsewhere._workers and time.monotonic() < deadline:
            assert elsewhere.wait(0.1) == []
    elsewhere.submit(task(1))
    assert metrics(events_of(elsewhere, 1), 1)["process"] != pid


@pytest.mark.parametrize(
    ("option", "value"), [("timeout", 0.0), ("workers", 0), ("cpus", 0.0), ("gpus", -1.0)]
)
def test_options_are_checked(option: str, value: float):
    catalogue = load()
    for name in ("processes", "ray"):
        if name == "ray" or option in ("timeout", "workers"):
            with pytest.raises(OptionError, match=option):
                catalogue.build(Executor, {name: {option: value}})


def test_a_missing_library_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    executor = Ray()  # a study that names it can be read
    with pytest.raises(OptionError, match=r"needs the package ray; run: pip install 'moalign\[ray"):
        executor.open(segment)
    executor.close()


def test_cores_are_shared_out_among_workers():
    cores = len(os.sched_getaffinity(0))
    assert Ray().workers == cores
    assert Ray(cpus=0.5).workers == 2 * cores
    assert Ray(cpus=10 * cores).workers == 1


# --- processes ---------------------------------------------------------------------------------


def test_a_worker_that_exits_is_reported_too(processes: Processes):
    processes.submit(task(1, "exit"))
    failed = ended(events_of(processes, 1))[1]
    assert isinstance(failed, SegmentFailed)
    assert failed.retry
    assert failed.reason.endswith(" ended with 3")


def test_a_worker_that_dies_before_it_reads_its_task_is_a_lost_one(processes: Processes):
    processes.submit(task(1))
    pid = int(metrics(events_of(processes, 1), 1)["process"])
    os.kill(pid, 9)
    processes._workers[0].process.wait()
    processes.submit(task(1))
    failed = ended(events_of(processes, 1))[1]
    assert isinstance(failed, SegmentFailed)
    assert failed.retry


def test_workers_ignore_ctrl_c(processes: Processes):
    processes.submit(task(1, "interrupt-me"))
    assert isinstance(ended(events_of(processes, 1))[1], SegmentDone)


@pytest.mark.alone
def test_closing_ends_busy_workers_at_once(processes: Processes):
    for trial in range(2):
        processes.submit(task(trial, "sleep"))
    while len(processes.wait(0.2)) < 1:
        pass
    workers = [worker.process for worker in processes._workers]
    began = time.monotonic()
    processes.close()
    assert time.monotonic() - began < 5
    assert all(process.returncode is not None for process in workers)


def test_only_a_function_that_workers_can_import_is_taken():
    with pytest.raises(TypeError, match="no module-level function"):
        Processes(workers=1).open(lambda_like())


def test_one_worker_per_core_by_default():
    assert Processes().workers == len(os.sched_getaffinity(0))
    assert Local().workers == 1
