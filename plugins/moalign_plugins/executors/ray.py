"""Workers on a Ray cluster: one that is there, or one of this machine's own while it is needed."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import queue
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

from annotated_types import Ge, Gt

from moalign.components import SegmentFunction
from moalign.errors import OptionError, RecordError, StudyError
from moalign.execution import (
    Worker,
    WorkersExecutor,
    forget,
    function_at,
    run_task,
    shipped,
    unpacked,
)
from moalign.types import SegmentDone, SegmentTask, StepEvent, WorkerEvent

STARTS: Final = 5
"""How many workers in a row may die before their first word."""

_OBJECTS: Final = 100 * 2**20  # bytes of an embedded cluster's object store; it holds tasks only
_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_KNOCKING: Final = 10.0  # seconds that a cluster's head gets to answer
_PATIENCE: Final = 5.0  # seconds that a worker gets to start before anybody looks for its room
_LONG: Final = 60.0  # seconds of waiting for a start that has room, and is told all the same
_TIDYING: Final = 5.0  # seconds that nodes get to delete their scratch folders


@dataclass(eq=False, kw_only=True)
class _Worker(Worker):
    """A worker's actor, the reference or the stream that it speaks next on, and where it is."""

    actor: Any
    speaks: Any
    begun: bool = False
    since: float = field(default_factory=time.monotonic)
    where: str = "a Ray worker"
    node: str = ""


class Ray(WorkersExecutor[_Worker]):
    """Runs segments in the workers of a Ray cluster, on this machine or on many.

    Needs ``pip install 'moalign[ray]'``. Without ``address`` a cluster of this machine's own is
    started, reachable from this machine only, and shut down at the end; its workers do what those
    of ``processes`` do, which start faster. With ``address`` the driver joins a cluster that is
    there, on one of its machines, and leaves it as it was. moalign has to be installed on every
    node, in the same version; plugin files are brought along.

    A worker keeps a trial between segments, and a trial's next segment goes to the worker that
    holds it if that worker is free; any other goes on from the checkpoint. A worker that dies, its
    node with it, or that hangs longer than ``timeout`` allows, is reported and replaced as soon as
    the cluster has room, and its segment may be tried again. Workers die with the driver.

    Checkpoints lie in the run's folder, which all nodes have to share (``--out`` names a folder of
    a shared file system). If there is none, ``store`` names storage that all of them reach: workers
    bring there what they write, and read from there what others wrote. The run's folder has
    everything, too; the store's copy keeps what the run keeps, and may be deleted once the run is
    finished.

    A process that has joined a cluster by itself stays in that one. ``training.threads`` sets the
    threads of each worker. Where the cluster has GPUs a trial asks for one, unless ``gpus`` says
    otherwise: ``gpus: 0`` trains on CPUs, whatever the node has; ``gpus: 0.5`` lets two workers
    share a GPU, which then has to hold both.

    Example:
        ``executor: {ray: {address: "head:6379", workers: 8, gpus: 1, store: "s3://bucket/runs"}}``
    """

    name: ClassVar[str] = "ray"

    def __init__(
        self,
        *,
        workers: Annotated[int, Ge(1)] | None = None,
        cpus: Annotated[float, Gt(0)] = 1.0,
        gpus: Annotated[float, Ge(0)] | None = None,
        address: str | None = None,
        timeout: Annotated[float, Gt(0)] | None = None,
        store: str | None = None,
    ) -> None:
        """Take where the cluster is, what a trial needs of it, and how nodes share files.

        Args:
            workers: how many trials run at a time; default: as many as the machine, or the cluster
                at the moment when it is joined, has CPUs and GPUs for.
            cpus: CPUs that a trial asks for.
            gpus: GPUs that a trial asks for; a fraction shares one; default: one if the cluster has
                any, else none.
            address: of the cluster, ``HOST:PORT`` of its head or ``auto`` for the one that this
                machine belongs to; default: a cluster of this machine's own.
            timeout: minutes that a segment may take; then its worker is killed. Default: any.
            store: folder or fsspec URL where nodes find each other's files; default: they share
                the run's folder.
        """
        if address is not None and "://" in address:
            raise OptionError(
                f"found {address!r}; the driver has to run on a machine of the cluster: give "
                "HOST:PORT of its head, or auto",
                "address",
            )
        super().__init__(workers=workers or max(1, int(_cores() / cpus)), timeout=timeout)
        self._asked = {"num_cpus": cpus, "num_gpus": gpus or 0.0}
        self._finds_gpus = gpus is None
        self._address = address
        self._store = store
        self._counted = workers is None
        self._mine = False  # whether close() has to leave the cluster, or to end it
        self._nodes: set[str] = set()  # where its workers have been
        self._keys: set[str] = set()  # of the runs that they worked on
        self._failed_starts = 0
        self._told = 0  # how many workers people know to be waiting for room
        self._files: dict[tuple[tuple[Path, str], ...], Any] = {}
        self._mirrors: dict[Path, Any] = {}

    # --- the cluster ---------------------------------------------------------------------------

    def open(self, segment: SegmentFunction) -> None:
        """Join the cluster, or start one; workers start when there is work.

        Raises:
            OptionError: Ray or what the store needs is not installed, or this machine has too few
                GPUs.
            StudyError: the cluster cannot be joined.
        """
        super().open(segment)
        ray = _library()
        if self._store is not None:
            from moalign import store

            self._store = store.resolved(self._store)
        if not ray.is_initialized():
            self._start_cluster(ray) if self._address is None else self._join(ray)
            self._mine = True
        self._see_gpus(ray)
        room = self._room(ray)
        if self._counted:
            self.workers = max(1, room)
        elif room < self.workers:
            warnings.warn(_has_room_for(room, self.workers), stacklevel=2)
            self._told = self.workers - room

    def _start_cluster(self, ray: Any) -> None:
        asked = {name: math.ceil(self.workers * each) for name, each in self._asked.items()}
        with _loopback():
            ray.init(
                "local",
                num_cpus=asked["num_cpus"],
                num_gpus=None if asked["num_gpus"] or self._finds_gpus else 0,
                include_dashboard=False,
                object_store_memory=_OBJECTS,
                _node_ip_address="127.0.0.1",
                **_QUIET,
            )
        if not self._room(ray):
            ray.shutdown()
            raise OptionError(
                f"found {self._asked['num_gpus']:g}, and this machine has no such GPU that Ray "
                "finds; train on CPUs with 0, or name a cluster with `address`",
                "gpus",
            )

    def _join(self, ray: Any) -> None:
        assert self._address is not None
        try:
            host, _, port = self._address.rpartition(":")
            if host:  # Ray itself would knock for minutes
                socket.create_connection((host.strip("[]"), int(port)), _KNOCKING).close()
            ray.init(self._address, **_QUIET)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise StudyError(
                f"the Ray cluster at {self._address} cannot be joined: {reason}; `ray start "
                "--head` starts one, and `ray start --address HOST:PORT` adds this machine to one"
            ) from error

    def _see_gpus(self, ray: Any) -> None:
        """Ask for a GPU per trial if that is left open and there is a whole one."""
        if self._finds_gpus:
            found = [node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["Alive"]]
            self._asked["num_gpus"] = float(max(found, default=0.0) >= 1.0)

    def _room(self, ray: Any) -> int:
        """Return how many workers fit on the nodes that are there."""
        free = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        keys = {"num_cpus": "CPU", "num_gpus": "GPU"}
        asked = {keys[name]: each for name, each in self._asked.items() if each}
        return sum(
            min(int(node.get(key, 0.0) / each + 1e-9) for key, each in asked.items())
            for node in free
        )

    def close(self) -> None:
        """End all workers, and leave the cluster, or end it if it was started here."""
        workers, self._workers, self._queue = self._workers, [], []
        for worker in workers:
            self._kill(worker)
        if self._keys:
            self._tidy()
        self._keys.clear()
        self._mirrors.clear()
        self._files.clear()
        if self._mine:
            _library().shutdown()
            self._mine = False

    def _tidy(self) -> None:
        """Delete what nodes kept while they worked, and in the store what the run has deleted."""
        ray = _library()
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        on = [On(node, soft=False) for node in self._nodes & alive]
        tasks = [ray.remote(_clear).options(num_cpus=0, scheduling_strategy=each) for each in on]
        waiting = [task.remote(sorted(self._keys)) for task in tasks]
        for mirror in self._mirrors.values():
            try:
                mirror.tidy()
            except RecordError as error:  # nothing that anybody needs
                warnings.warn(str(error), stacklevel=3)
        if waiting:
            ray.wait(waiting, num_returns=len(waiting), timeout=_TIDYING)

    # --- workers -------------------------------------------------------------------------------

    def _start(self, task: SegmentTask) -> _Worker:
        ray = _library()
        variables = dict.fromkeys(_THREADS, str(task.threads))
        if not self._asked["num_gpus"]:
            variables["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides none from who asks for none
        if (named := os.environ.get("MOALIGN_PLUGINS")) is not None:
            variables["MOALIGN_PLUGINS"] = named
        actor = (
            ray.remote(_Actor)
            .options(
                **self._asked,
                max_restarts=0,
                max_task_retries=0,
                scheduling_strategy="SPREAD",
                runtime_env={"env_vars": variables},
            )
            .remote(self._segment, sys.path, os.getcwd(), self._store)
        )
        return _Worker(ready=False, actor=actor, speaks=actor.hello.remote())

    def _send(self, worker: _Worker, message: SegmentTask | int) -> None:
        if isinstance(message, int):
            worker.actor.forget.remote(message)
            return
        task = replace(message, run=message.run.absolute())
        if task.plugins not in self._files:
            self._files[task.plugins] = _library().put(shipped(task))
        from moalign.store import Mirror, key_of

        key = key_of(task.run)
        if self._store is not None or (task.plugins and self._address is not None):
            self._keys.add(key)
        if self._store is not None:
            mirror = self._mirrors.setdefault(task.run, Mirror(self._store, key, task.run))
            mirror.offer(task)
        worker.begun = False
        worker.speaks = worker.actor.run.remote(task, key, self._files[task.plugins])

    def _began(self, worker: _Worker) -> None:
        """Leave the clock alone: it starts with the worker's first word about the segment."""

    def _kill(self, worker: _Worker) -> None:
        _library().kill(worker.actor, no_restart=True)

    def _look_for_room(self) -> None:
        """Warn once of workers that wait for a node: one may be lost, or others fill them all."""
        waits = [time.monotonic() - worker.since for worker in self._workers if not worker.ready]
        if len(waits) <= self._told or max(waits) < _PATIENCE:
            return
        count, room = len(self._workers), self._room(_library())
        if room < count:
            words = _has_room_for(room, count)
        elif max(waits) >= _LONG:
            words = (
                f"{len(waits)} of {count} workers have not started within {_LONG:g} seconds, "
                "perhaps because other work fills the Ray cluster; they start once they can"
            )
        else:
            return
        warnings.warn(words, stacklevel=4)
        self._told = len(waits)

    def _listen(self, seconds: float) -> list[WorkerEvent]:
        self._look_for_room()
        by_voice = {w.speaks: w for w in self._workers if w.speaks is not None}
        if not by_voice:
            return []
        ray, events = _library(), list[WorkerEvent]()
        if ray.wait(list(by_voice), timeout=seconds)[0]:
            spoken, _ = ray.wait(list(by_voice), num_returns=len(by_voice), timeout=0)
            for voice in spoken:
                events += self._heard(ray, by_voice[voice])
        return events

    def _heard(self, ray: Any, worker: _Worker) -> list[WorkerEvent]:
        """Return all that a worker has to say at this moment."""
        events: list[WorkerEvent] = []
        try:
            if not worker.ready:
                worker.where, worker.node = ray.get(worker.speaks)
                worker.ready, worker.speaks = True, None
                self._failed_starts = 0
                self._nodes.add(worker.node)
            while worker.speaks is not None and ray.wait([worker.speaks], timeout=0)[0]:
                said = ray.get(next(worker.speaks))
                if said is None:
                    worker.begun = True
                    super()._began(worker)
                    continue
                ended, event = said
                if ended:
                    events.append(self._collected(worker, event))
                    worker.speaks = None
                    self._ended(worker)
                else:
                    events.append(event)
        except ray.exceptions.RayError as error:
            events += self._silenced(worker, error)
        return events

    def _collected(self, worker: _Worker, event: WorkerEvent) -> WorkerEvent:
        """Bring here what a segment has written, before anyone is told that it ended."""
        if self._store is not None and isinstance(event, SegmentDone) and worker.task is not None:
            task = worker.task
            self._mirrors[task.run.absolute()].collect(task)
        return event

    def _silenced(self, worker: _Worker, error: Exception) -> list[WorkerEvent]:
        """Strike off a worker that will say no more; what it had not begun is handed to another."""
        self._kill(worker)
        if not worker.ready:
            self._failed_starts += 1
            if getattr(error, "actor_init_failed", False) or self._failed_starts >= STARTS:
                raise StudyError(
                    f"no worker could be started on the Ray cluster: {_cause(error)}; moalign and "
                    "what the study needs have to be installed on every node"
                ) from error
        away = isinstance(error, _library().exceptions.RayActorError)
        if worker.task is not None and not worker.begun and away:
            self._queue.insert(0, worker.task)
            self._ended(worker)
        return self._gone(worker, f"{worker.where} is gone: {_cause(error)}")


_QUIET: Final = {"log_to_driver": False, "logging_level": "error"}


def _library() -> Any:
    """Import Ray, which then reports nothing to its makers.

    Raises:
        OptionError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise OptionError(
            "executor ray needs the package ray; run: pip install 'moalign[ray]'"
        ) from error


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Let Ray start a cluster that is reachable from this machine only.

    On Linux it takes the network's address for 127.0.0.1 unless it is told, as it tells itself on
    other systems, that there is no cluster to be.
    """
    constants = importlib.import_module("ray._private.ray_constants")
    before = getattr(constants, "ENABLE_RAY_CLUSTER", None)
    constants.ENABLE_RAY_CLUSTER = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before  # type: ignore[attr-defined]


def _has_room_for(room: int, workers: int) -> str:
    which = "the others" if room else "they"
    return (
        f"the Ray cluster has room for {room} of {workers} workers; {which} start once it has "
        "room for them"
    )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cause(error: Exception) -> str:
    """Return what Ray says happened, without what it says of itself and of what may be."""
    if type(error).__name__ == "ActorUnavailableError":
        return "it cannot be reached any more"
    lines = [line.strip() for line in str(error).splitlines() if not line.startswith("\t")]
    text = next((line for line in reversed(lines) if line), type(error).__name__)
    return text.partition(" Some common causes")[0].rstrip(".")


# --- in the worker -----------------------------------------------------------------------------


class _Actor:
    """A worker: runs one segment after the other and remembers its trials."""

    def __init__(self, segment: str, path: list[str], folder: str, store: str | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        known = {*sys.path}
        sys.path += [entry for entry in path if entry not in known and Path(entry).is_dir()]
        with contextlib.suppress(OSError):  # files that a study names are relative to it
            os.chdir(folder)
        self._segment = function_at(segment)
        self._store = store
        self._mirrors: dict[tuple[str, str], Any] = {}
        self._cache: dict[str, Any] = {}
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def hello(self) -> tuple[str, str]:
        """Say who it is, and on which node."""
        ray = _library()
        name = f"the Ray worker {os.getpid()} on {ray.util.get_node_ip_address()}"
        return name, ray.get_runtime_context().get_node_id()

    def run(self, task: SegmentTask, key: str, files: Mapping[Path, bytes]) -> Iterator[Any]:
        """Run a segment: yield None first, then ``(False, event)`` each, ``(True, event)`` last.

        It runs in a thread of its own, so that what it says is passed on while it runs.
        """
        said: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

        def here(task: SegmentTask, emit: Callable[[StepEvent], None], cache: Any) -> None:
            self._here(task, key, files, emit, cache)

        def job() -> None:
            try:
                said.put((True, run_task(here, task, lambda e: said.put((False, e)), self._cache)))
            except BaseException as error:  # an exit: the worker is lost
                said.put((True, error))

        yield None
        self._jobs.put(job)
        ended = False
        while not ended:
            ended, event = said.get()
            if isinstance(event, BaseException):
                raise event
            yield ended, event

    def forget(self, trial: int) -> None:
        """Let go of a trial."""
        forget(self._cache, trial)
        for mirror in self._mirrors.values():
            mirror.forget(trial)

    def _work(self) -> None:
        while True:
            self._jobs.get()()

    def _here(
        self,
        task: SegmentTask,
        key: str,
        files: Mapping[Path, bytes],
        emit: Callable[[StepEvent], None],
        cache: dict[str, Any],
    ) -> None:
        """Run a segment on files of this node."""
        task = unpacked(task, files, _scratch(key) / "plugins")
        if self._store is None:
            self._check_shared(task.run, key)
            self._segment(task, emit, cache)
            return
        mirror = self._mirror(task.run.name, key)
        mirror.fetch(task)
        self._segment(replace(task, run=mirror.path), emit, cache)
        mirror.keep(task)

    def _check_shared(self, run: Path, key: str) -> None:
        from moalign.store import key_of

        if key_of(run) != key:
            raise RecordError(
                f"{self.hello()[0]} does not see the run's folder {run}: put it on a file system "
                "that all nodes share (--out names its place), or give the executor a `store`"
            )

    def _mirror(self, name: str, key: str) -> Any:
        """Return where this worker keeps a run's files; artifacts are those of the whole node."""
        from moalign.store import Mirror

        if (name, key) not in self._mirrors:
            own, artifacts = _scratch(key) / str(os.getpid()), _scratch(key) / ".artifacts"
            for folder in (own, artifacts):
                folder.mkdir(parents=True, exist_ok=True)
            if not (own / ".artifacts").exists():
                (own / ".artifacts").symlink_to(artifacts)
            assert self._store is not None
            self._mirrors[name, key] = Mirror(self._store, key, own / name)
        return self._mirrors[name, key]


def _scratch(key: str) -> Path:
    """Return where this node keeps what belongs to a run while the run goes on.

    Raises:
        RecordError: somebody else's folder has its name.
    """
    root = Path(tempfile.gettempdir()) / f"moalign-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise RecordError(f"{root} belongs to somebody else; set TMPDIR on the nodes")
    node: str = _library().get_runtime_context().get_node_id()
    return root / f"{key}-{node}"


def _clear(keys: list[str]) -> None:
    """Delete what a node has kept of runs."""
    for key in keys:
        shutil.rmtree(_scratch(key), ignore_errors=True)
