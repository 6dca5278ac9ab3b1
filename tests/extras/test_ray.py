"""Studies on a Ray cluster of several nodes, all on this machine: nodes and drivers that die."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import letters
import pytest
from deleting import Deleting, extending
from quick import archive, quick_run
from tasks import segment, task
from typer.testing import CliRunner

from moalign import OptionError, StepEvent, StudyError, hookimpl, plugins
from moalign.cli import command_line
from moalign.execution import shipped
from moalign.search import events
from moalign.search.driver import run_study
from moalign.search.folders import RunFolder
from moalign.search.record import read
from moalign.study.loading import load
from moalign_plugins.executors import ray as ray_executor
from moalign_plugins.executors.processes import Processes
from moalign_plugins.executors.ray import Ray

pytestmark = [pytest.mark.extras, pytest.mark.timeout(300)]

SUPPORT = Path(__file__).parent.parent / "support"
NODE = {"include_dashboard": False, "object_store_memory": 80 * 2**20, "num_gpus": 0}
HANG = json.dumps([{"trial": 2, "step": 3, "kind": "hang"}])

DRIVER = """
import os
import signal
import sys
from pathlib import Path

from quick import quick_run

from moalign import hookimpl
from moalign_plugins.executors.ray import Ray


class View:
    @hookimpl
    def moalign_trial_started(self, trial):
        if trial == 2:
            ready = [worker for worker in executor._workers if worker.ready]
            print(*[worker.where.split()[3] for worker in ready], flush=True)

    @hookimpl
    def moalign_step_ended(self, event):
        if how == "kill" and (event.trial, event.step) == (2, 3):
            os.kill(os.getpid(), signal.SIGKILL)


class Fatal(Ray):
    def submit(self, task):
        if how == "decided" and (task.trial, task.since) == (2, 4):  # the record lets it go on
            os.kill(os.getpid(), signal.SIGKILL)
        super().submit(task)


signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background job
folder, how, *address = sys.argv[1:]
executor = Fatal(workers=2, address=address[0] if address else None)
result = quick_run(Path(folder), executor=executor, listeners=[View()], strict=True)
print(result.outcome, flush=True)
"""


class Nodes:
    """A cluster whose head only keeps the books, and its nodes of one CPU each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
        self.nodes = [self.cluster.add_node(**NODE, num_cpus=1) for _ in range(2)]

    @property
    def address(self) -> str:
        return self.cluster.address

    def kill(self, name: str) -> None:
        (node,) = [node for node in self.nodes if node.node_id == name]
        self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    made = Nodes()
    yield made
    made.cluster.shutdown()


@contextmanager
def joined(nodes: Nodes, **environment: str) -> Iterator[None]:
    """Join the cluster as a process that gives its workers an environment."""
    import ray

    quiet = {"log_to_driver": False, "logging_level": "error"}
    ray.init(nodes.address, runtime_env={"env_vars": environment}, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the quick study adds up to with two workers that nothing happens to."""
    return archive(
        quick_run(tmp_path_factory.mktemp("whole") / "mine", executor=Processes(workers=2)).run
    )


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ended_within(seconds: float, pids: list[int]) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))


def driver(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def lost(folder: Path) -> list[events.Lost]:
    lines = RunFolder(folder).events.read_bytes().splitlines()
    return [event for event in map(events.from_line, lines) if isinstance(event, events.Lost)]


# --- a cluster of this machine's own -----------------------------------------------------------


def test_ctrl_c_ends_a_study_and_the_cluster_that_was_started_for_it(
    tmp_path: Path, whole: dict[str, Any]
):
    with driver(tmp_path / "mine", "wait", QUICK_FAULTS=HANG) as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert workers
        cluster = children(process.pid)
        assert len(cluster) >= 2
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all of the group
        assert process.stdout.read() == "interrupted\n"
    assert process.returncode == 0
    assert ended_within(10.0, [*workers, *cluster])
    assert read(RunFolder(tmp_path / "mine")).closed == "interrupted"
    assert archive(quick_run(tmp_path / "mine", executor=Processes(workers=2)).run) == whole


def test_a_killed_driver_takes_its_own_cluster_with_it(tmp_path: Path):
    with driver(tmp_path / "mine", "kill") as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        cluster = children(process.pid)
        assert cluster
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert ended_within(20.0, [*workers, *cluster])


def children(parent: int) -> list[int]:
    """Return the processes that a process has started and not seen the end of."""
    found = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(pid) for file in found for pid in file.read_text().split()]


# --- a cluster that is there -------------------------------------------------------------------


def test_a_cluster_is_joined_and_left_as_it_was(
    tmp_path: Path, nodes: Nodes, whole: dict[str, Any]
):
    import ray

    executor = Ray(address=nodes.address)
    result = quick_run(tmp_path / "mine", executor=executor)
    assert executor.workers == 2  # as many as there is room for
    assert archive(result.run) == whole
    assert not ray.is_initialized()
    with joined(nodes):
        assert [node["Alive"] for node in ray.nodes()] == [True] * 3
        # A process that has joined stays in, and the workers were no more than asked for.
        executor = Ray(workers=1)
        executor.open(segment)
        executor.close()
        assert ray.is_initialized()
        for wanted, room in ((Ray(workers=3), "2 of 3"), (Ray(workers=1, gpus=0.5), "0 of 1")):
            with pytest.warns(UserWarning, match=f"the Ray cluster has room for {room} workers"):
                wanted.open(segment)


def test_a_cluster_that_is_not_there_is_a_sentence():
    with pytest.raises(StudyError, match=r"the Ray cluster at 127\.0\.0\.1:1 cannot be joined: "):
        Ray(address="127.0.0.1:1").open(segment)
    with pytest.raises(OptionError, match="the driver has to run on a machine of the cluster"):
        Ray(address="ray://head:10001")


@pytest.mark.parametrize("how", ["kill", "decided"])
def test_a_driver_that_is_killed_takes_its_workers_along_and_another_goes_on(
    tmp_path: Path, nodes: Nodes, whole: dict[str, Any], how: str
):
    """In the middle of a segment, and between a rung's decision and the next segment."""
    with driver(tmp_path / "mine", how, nodes.address) as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert workers
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert ended_within(20.0, workers)
    left = read(RunFolder(tmp_path / "mine"))
    assert left.closed is None
    assert (4 in left.trials[2].decided) == (how == "decided")
    result = quick_run(tmp_path / "mine", executor=Ray(workers=2, address=nodes.address))
    assert archive(result.run) == whole


@pytest.mark.filterwarnings("ignore:.* was deleted; it is made again:UserWarning")
def test_a_checkpoint_that_somebody_deletes_is_made_again_by_a_node(tmp_path: Path, nodes: Nodes):
    deleting = Deleting(tmp_path / "mine")
    executor = Ray(workers=2, address=nodes.address)
    found = extending(tmp_path / "mine", executor=executor, listeners=[deleting])
    assert deleting.deleted
    assert archive(found) == archive(extending(tmp_path / "whole", executor=Processes(workers=2)))


def test_the_command_joins_a_cluster(tmp_path: Path, nodes: Nodes):
    study = tmp_path / "letters.yaml"
    study.write_text(STUDY)
    given = ["pareto", study, "--plugin", letters.FILE, "--out", tmp_path / "runs"]
    ray = ["--executor", "ray", "--address", nodes.address]  # two nodes: two workers
    done = CliRunner().invoke(command_line(), [str(word) for word in (*given, *ray)])
    assert done.exit_code == 0, done.output
    run = read(RunFolder(tmp_path / "runs" / "letters"))
    assert run.closed == "finished"
    assert run.opened[0].study["executor"]["ray"]["address"] == nodes.address
    alone = ["--run", "alone"]  # the study asks for `local`
    done = CliRunner().invoke(command_line(), [str(word) for word in (*given, *alone)])
    assert done.exit_code == 0, done.output
    assert archive(read(RunFolder(tmp_path / "runs" / "alone"))) == archive(run)


STUDY = letters.STUDY.replace("steps: 2, prompts", "steps: 4, prompts").replace(
    "search: {strategy: random, trials: 1,", "search: {strategy: random, trials: 3, rungs: [2],"
)


class Shipping(Ray):
    """Loses the plugin file as soon as it has been read for the workers."""

    name = "shipping"

    def _send(self, worker, message):
        import ray

        for path, _ in getattr(message, "plugins", ()):
            if path.is_file():
                self._files[message.plugins] = ray.put(shipped(message))
                path.unlink()
        super()._send(worker, message)


def test_nodes_that_share_no_files_train_through_a_store(
    tmp_path: Path, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
):
    """With a plugin file that only the driver has, an artifact, and real checkpoints."""
    monkeypatch.setattr(ray_executor, "_TIDYING", 60.0)  # a machine that runs tests is busy
    runs = {}
    for place in ("alone", "apart"):
        plugin = tmp_path / place / "mine.py"
        plugin.parent.mkdir()
        shutil.copy(letters.FILE, plugin)
        study = load(STUDY, "letters.yaml", plugins.load([plugin]))
        executor = None
        if place == "apart":
            executor = Shipping(
                workers=2, address=nodes.address, store=str(tmp_path / "store"), timeout=10
            )
        result = run_study(study, tmp_path / place / "mine", executor=executor, strict=True)
        assert result.outcome == "finished"
        runs[place] = result.run
    assert not (tmp_path / "apart" / "mine.py").exists()
    alone, apart = (everything(run) for run in runs.values())
    assert apart == alone
    assert {p.name for p in (tmp_path / "store").iterdir()} >= {".artifacts"}
    kept = {p.parent.name for p in (tmp_path / "store").rglob("training.tar")}
    assert kept == set()
    assert not list(Path(tempfile.gettempdir(), f"moalign-{os.getuid()}").iterdir())


def everything(run: Any) -> dict[str, Any]:
    paths = sorted(run.folder.path.glob("trials/**/*.safetensors"))
    weights = {path.relative_to(run.folder.path).as_posix(): path.read_bytes() for path in paths}
    assert weights
    return archive(run) | {"weights": weights}


def seen_by(executor: Ray) -> tuple[set[str], set[float]]:
    """Keep an executor busy until all its workers have; return their nodes and their devices."""
    executor.open(segment)
    devices: dict[float, float] = {}
    deadline = time.monotonic() + 120
    for number in itertools.count():
        executor.submit(task(number, "wait"))
        heard = [event for event in executor.wait(1.0) if isinstance(event, StepEvent)]
        devices |= {step.metrics["process"]: step.metrics["devices"] for step in heard}
        if len(devices) == executor.workers:
            break
        assert time.monotonic() < deadline, devices
    places = {worker.node for worker in executor._workers}
    executor.close()
    return places, set(devices.values())


def test_two_workers_share_a_device_and_one_that_asks_for_none_sees_none(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
):
    """The device is a number in the cluster's books: what a worker is told it may use."""
    with monkeypatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "0")
        node = nodes.cluster.add_node(**{**NODE, "num_gpus": 1}, num_cpus=2)
    try:
        shares = Ray(gpus=0.5, workers=2, address=nodes.address)
        assert seen_by(shares) == ({node.node_id}, {1})
        usual = Ray(workers=1, address=nodes.address)  # there is one, so it is asked for
        assert seen_by(usual) == ({node.node_id}, {1})
        alone = Ray(gpus=0, cpus=2, address=nodes.address)  # where there are two CPUs is a device
        assert seen_by(alone) == ({node.node_id}, {0})
    finally:
        nodes.cluster.remove_node(node)


def test_a_node_that_dies_in_the_middle_of_a_segment_changes_nothing(
    tmp_path: Path, nodes: Nodes, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """The last one: a node is gone afterwards."""
    executor = Ray(workers=2, address=nodes.address)
    killed = []

    class View:
        @hookimpl
        def moalign_step_ended(self, event):
            if (event.trial, event.step) == (2, 3) and not killed:
                (worker,) = [w for w in executor._workers if w.task and w.task.trial == 2]
                killed.append(worker)
                nodes.kill(worker.node)

        @hookimpl
        def moalign_trial_started(self, trial):
            """Let the cluster notice before the study is over."""
            import ray

            while trial == 5 and any(
                node["Alive"] and node["NodeID"] == killed[0].node for node in ray.nodes()
            ):
                time.sleep(0.2)

    monkeypatch.setattr(ray_executor, "_PATIENCE", 0.0)
    hang = json.dumps([{"trial": 2, "step": 4, "kind": "hang", "times": 1}])
    either = r" is gone: |has room for"
    with joined(nodes, QUICK_FAULTS=hang), pytest.warns(UserWarning, match=either) as told:
        result = quick_run(tmp_path / "mine", executor=executor, listeners=[View()], strict=True)
    lost_one, no_room = sorted((str(one.message) for one in told), reverse=True)
    assert lost_one.startswith(f"trial 2 at step 4: {killed[0].where} is gone: ")
    assert lost_one.endswith("; the segment is tried again (attempt 2 of 3)")
    assert no_room == (
        "the Ray cluster has room for 1 of 2 workers; the others start once it has room for them"
    )
    assert archive(result.run) == whole
    (event,) = lost(tmp_path / "mine")
    assert (event.trial, event.step, event.attempt) == (2, 4, 0)
    assert event.reason.startswith(f"{killed[0].where} is gone: ")
    assert "\n" not in event.reason
