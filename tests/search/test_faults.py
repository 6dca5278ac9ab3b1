"""What survives `kill -9`: the archive, always; a driver's workers, for two seconds at most."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from quick import archive, quick_run

from moalign.search.folders import RunFolder
from moalign.search.record import read
from moalign_plugins.executors.processes import Processes

SUPPORT = Path(__file__).parent.parent / "support"
MOMENTS = 20
HANG = json.dumps([{"trial": 2, "step": 3, "kind": "hang"}])

DRIVER = """
import signal
import sys
from pathlib import Path
from quick import Processes, quick_run
from moalign import hookimpl

class View:
    @hookimpl
    def moalign_trial_started(self, trial):
        if trial == 2:
            print(*[worker.process.pid for worker in executor._workers], flush=True)

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background job
executor = Processes(workers=2)
print(quick_run(Path(sys.argv[1]), executor=executor, listeners=[View()]).outcome)
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


@pytest.mark.e2e
def test_a_driver_killed_at_any_moment_goes_on_to_the_same_archive(tmp_path: Path):
    with script(str(SUPPORT / "killing.py"), str(tmp_path), str(MOMENTS)) as process:
        told = json.loads(process.stdout.read())
    assert process.returncode == 0
    assert told["different"] == []
    assert len(set(told["moments"])) == MOMENTS
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
    with script("-c", DRIVER, str(tmp_path / "mine"), QUICK_FAULTS=HANG) as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "interrupted\n"
    assert process.returncode == 0
    assert ended_within(0.5, workers)
    assert read(RunFolder(tmp_path / "mine")).closed == "interrupted"
    resumed = quick_run(tmp_path / "mine", executor=Processes(workers=2))
    whole = quick_run(tmp_path / "whole", executor=Processes(workers=2))
    assert archive(resumed.run) == archive(whole.run)


@needs_proc
@pytest.mark.alone
def test_workers_of_a_killed_driver_end_and_the_study_goes_on(tmp_path: Path):
    with script("-c", DRIVER, str(tmp_path / "mine"), QUICK_FAULTS=HANG) as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        time.sleep(0.2)
        process.kill()
    assert ended_within(2.0, workers)
    resumed = quick_run(tmp_path / "mine", executor=Processes(workers=2))
    whole = quick_run(tmp_path / "whole", executor=Processes(workers=2))
    assert archive(resumed.run) == archive(whole.run)
    assert archive(read(RunFolder(tmp_path / "mine"))) == archive(whole.run)
