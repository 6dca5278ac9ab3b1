"""A run's files on storage that every machine reaches, where no file system does.

What a segment reads is brought to the machine that runs it, and what it writes is brought back::

    <url>/.artifacts/<hash>.tar                    an artifact, shared by runs
    <url>/<run>-<key>/base/*.json                  which artifacts the run uses
    <url>/<run>-<key>/trials/0003/step-00040/
      policy.tar  training.tar                     the folders of a checkpoint
      validation.json                              its measurements, written last

Driver and workers hold a :class:`Mirror` each, of a folder of their own.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from moalign.errors import OptionError, RecordError
from moalign.search.folders import RunFolder, beside_of
from moalign.types import BASE, SegmentTask

_TAR: Final = ".tar"
_MARK: Final = "validation.json"  # what a checkpoint is whole with
_POLICY: Final = f"policy{_TAR}"


def key_of(run: Path) -> str:
    """Return what tells a run from others of its name: a hash of the record's first line.

    Where two machines find the same key under a path, they see the same folder.
    """
    events = RunFolder(run).events
    if not events.is_file():
        return "none"
    with events.open("rb") as lines:
        return hashlib.sha256(lines.readline()).hexdigest()[:12]


def resolved(url: str) -> str:
    """Return a store's URL as any machine reads it: with its protocol, and no relative path.

    Raises:
        OptionError: an unknown protocol, or one whose library is missing.
    """
    import fsspec

    try:
        files, path = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise OptionError(
            f"the store {url} cannot be used: {error}; give a folder's path or a URL that fsspec "
            "knows, such as s3://bucket/runs, and install what it needs",
            "store",
        ) from error
    return str(files.unstrip_protocol(path))


@contextmanager
def _told(url: str, what: str) -> Iterator[None]:
    """Turn whatever a storage library raises into a sentence."""
    try:
        yield
    except Exception as error:
        raise RecordError(
            f"the store {url} could not be {what}: {type(error).__name__}: {error}; once it can, "
            "the same command goes on"
        ) from error


@dataclass(frozen=True)
class Mirror:
    """A run's folder on this machine, and its copy in a store.

    Attributes:
        url: of the store's folder that holds the copies of runs.
        key: of the run, :func:`key_of` where its record lies.
        path: the run's folder here.
    """

    url: str
    key: str
    path: Path
    _known: set[str] = field(default_factory=set, repr=False)  # artifacts seen in the store

    # --- what a segment reads ------------------------------------------------------------------

    def offer(self, task: SegmentTask) -> None:
        """Bring what a segment reads to the store, as far as it is not there."""
        with _told(self.url, "written"):
            self._artifacts_up()
            for trial, step in self._read_by(task):
                self._up(trial, step)

    def fetch(self, task: SegmentTask) -> None:
        """Bring here what a segment reads, and what an earlier attempt at it has written."""
        with _told(self.url, "read"):
            self.path.mkdir(parents=True, exist_ok=True)
            self._artifacts_down()
            for trial, step in (*self._read_by(task), (task.trial, task.until)):
                self._down(trial, step)

    # --- what a segment writes -----------------------------------------------------------------

    def keep(self, task: SegmentTask) -> None:
        """Bring what a segment has written to the store."""
        with _told(self.url, "written"):
            self._artifacts_up()
            for step in sorted({task.since, task.until}):
                self._up(task.trial, step)

    def collect(self, task: SegmentTask) -> None:
        """Bring here what a segment has written."""
        with _told(self.url, "read"):
            self._artifacts_down()
            for step in sorted({task.since, task.until}):
                if step == task.until or not self._run.checkpoint(task.trial, step).is_dir():
                    self._down(task.trial, step)

    def forget(self, trial: int) -> None:
        """Delete what lies here of a trial; the store keeps it."""
        shutil.rmtree(self._run.trial(trial), ignore_errors=True)

    def tidy(self) -> None:
        """Delete from the store what the run has deleted here, and what was left half-written."""
        with _told(self.url, "tidied"):
            files, root = self._files, f"{self._root}/trials"
            for path in files.find(root) if files.exists(root) else ():
                *_, trial, step, name = path.split("/")
                folder = self.path / "trials" / trial / step
                gone = folder.is_dir() and not (folder / name.removesuffix(_TAR)).exists()
                if gone or name.startswith("."):
                    files.rm_file(path)

    # --- folders and files ---------------------------------------------------------------------

    @property
    def _run(self) -> RunFolder:
        return RunFolder(self.path)

    @property
    def _files(self) -> Any:
        import fsspec

        return fsspec.url_to_fs(self.url)[0]

    @property
    def _top(self) -> str:
        import fsspec

        root: str = fsspec.url_to_fs(self.url)[1]
        return root.rstrip("/")

    @property
    def _root(self) -> str:
        return f"{self._top}/{self.path.name}-{self.key}"

    def _read_by(self, task: SegmentTask) -> list[tuple[int, int]]:
        since = [(task.trial, task.since)] if task.since > 0 else []
        return [*since, *(task.start.points if task.since == 0 else ())]

    def _artifacts_up(self) -> None:
        run = self._run
        for folder in run.used_artifacts():
            there = f"{self._top}/.artifacts/{folder.name}{_TAR}"
            if there not in self._known and folder.is_dir():
                if not self._files.exists(there):
                    self._put(folder, there)
                self._known.add(there)
        remembered = set(self._listed("base"))
        for memory in run.base_artifact.parent.glob("*.json"):
            if memory.name not in remembered:
                self._put(memory, f"{self._root}/base/{memory.name}")

    def _artifacts_down(self) -> None:
        run = self._run
        for name in self._listed("base"):
            memory = run.base_artifact.with_name(name)
            if name.endswith(".json") and not memory.exists():
                self._get(f"{self._root}/base/{name}", memory)
        for folder in run.used_artifacts():
            there = f"{self._top}/.artifacts/{folder.name}{_TAR}"
            if not folder.is_dir() and self._files.exists(there):
                self._get(there, folder)

    def _up(self, trial: int, step: int) -> None:
        """Write what the store lacks of a checkpoint; measurements, its mark, last.

        Where the store does not have it whole, nothing of it counts: another attempt at the segment
        may have died on the way, and parts of two attempts make no checkpoint.
        """
        folder = self._run.checkpoint(trial, step)
        where = folder.relative_to(self.path).as_posix()
        there = set(self._listed(where))
        parts = {part.name + _TAR: part for part in _visible(folder) if part.is_dir()}
        if _MARK not in there or not parts.keys() <= there:
            for name in sorted(there, key=lambda name: name != _MARK):  # the mark first
                with suppress(FileNotFoundError):  # another worker is as far
                    self._files.rm_file(f"{self._root}/{where}/{name}")
            there = set()
        parts |= {part.name: part for part in _visible(folder) if part.is_file()}
        for name in sorted(parts, key=lambda name: (parts[name].is_file(), name == _MARK)):
            if name not in there:
                self._put(parts[name], f"{self._root}/{where}/{name}")

    def _down(self, trial: int, step: int) -> None:
        """Read a checkpoint if the store has it whole; of one that stands, measurements only."""
        folder = self._run.checkpoint(trial, step)
        where = folder.relative_to(self.path).as_posix()
        there = self._listed(where)
        if _MARK not in there:
            return
        if folder.is_dir():  # what it lacks the run has deleted
            for name in there:
                if not (name.endswith(_TAR) or (folder / name).exists()):
                    self._get(f"{self._root}/{where}/{name}", folder / name)
            return
        if trial != BASE and _POLICY not in there:  # the run has deleted it, and makes it again
            return
        beside = beside_of(folder)
        for name in there:
            self._get(f"{self._root}/{where}/{name}", beside / name.removesuffix(_TAR))
        _into_place(beside, folder)

    def _listed(self, where: str) -> list[str]:
        """Return the names in a folder of the run's copy."""
        folder = f"{self._root}/{where}"
        self._files.invalidate_cache(folder)
        try:
            paths = self._files.ls(folder, detail=False)
        except FileNotFoundError:
            return []
        names = [str(path).rstrip("/").rpartition("/")[2] for path in paths]
        return [name for name in names if not name.startswith(".")]

    def _put(self, source: Path, target: str) -> None:
        """Write a file, or a folder as one, whole or not at all."""
        folder, _, name = target.rpartition("/")
        beside = f"{folder}/.{name}.{uuid.uuid4().hex}"
        self._files.makedirs(folder, exist_ok=True)
        with _packed(source) as file:
            self._files.put_file(str(file), beside)
        self._files.mv(beside, target)

    def _get(self, source: str, target: Path) -> None:
        """Read a file, or unpack a folder, whole or not at all."""
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = beside_of(target)
        packed = beside.with_name(f"{beside.name}{_TAR}") if source.endswith(_TAR) else beside
        self._files.get_file(source, str(packed))
        if packed != beside:
            with tarfile.open(packed) as tar:
                tar.extractall(beside, filter="data")
            packed.unlink()
        _into_place(beside, target)


def _visible(folder: Path) -> list[Path]:
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if not path.name.startswith(".")]


def _into_place(written: Path, final: Path) -> None:
    """Rename what is written into place; the first one wins."""
    try:
        written.rename(final)
    except OSError:
        if not final.is_dir():
            raise
        shutil.rmtree(written)


@contextmanager
def _packed(source: Path) -> Iterator[Path]:
    """Give a folder as one file beside it for a while; a file as it is."""
    if source.is_file():
        yield source
        return
    packed = beside_of(source)
    try:
        with tarfile.open(packed, "w") as tar:
            for path in _visible(source):
                tar.add(path, path.name)
        yield packed
    finally:
        packed.unlink(missing_ok=True)
