"""What a run's results came from: study, versions, plugin hashes, source revision."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import moalign
from moalign.errors import MoalignError, RecordError
from moalign.search import events
from moalign.search.archive import Run
from moalign.study.document import Document
from moalign.study.loading import checked
from moalign.study.study import Study

_DISTRIBUTIONS = ("torch", "transformers", "tokenizers", "numpy", "optuna", "botorch")


def opening(study: Study, workers: int, trials: int) -> events.Opened:
    """Return the event that a driver begins with."""
    return events.Opened(
        time=time.time(),
        fingerprint=study.fingerprint(),
        study=study.data,
        objectives=study.objectives,
        workers=workers,
        trials=trials,
        versions=versions(study),
        plugins=plugin_hashes(study),
        revision=source_revision(),
        pid=os.getpid(),
        host=socket.gethostname(),
    )


def check_same(run: Run, study: Study) -> None:
    """Check that a run goes on with what it was begun with, as far as results depend on it.

    Raises:
        RecordError: naming what has changed.
    """
    first, name = run.opened[0], run.folder.name
    fork = "give the new study a run of its own with --run NAME, or put the old one back"
    if first.fingerprint != study.fingerprint() and (different := _different(first.study, study)):
        changes = "\n  ".join(different)
        then = first.versions.get("moalign")
        upgraded = "" if then == moalign.__version__ else f" (with moalign {then})"
        raise RecordError(
            f"run {name} was begun with another study{upgraded}; {fork}. What has changed, in the "
            f"file or in a default:\n  {changes}"
        )
    now = plugin_hashes(study)
    if sorted(first.plugins.values()) != sorted(now.values()):
        raise RecordError(
            f"run {name} was begun with the plugin files {', '.join(first.plugins) or '(none)'}; "
            f"given now: {', '.join(now) or '(none)'}, of other contents; {fork}"
        )


def _different(begun_with: Mapping[str, Any], study: Study) -> list[str]:
    """Return what a study changes about the one that a run was begun with.

    A key that is newer than the run counts as its default there: what the run did without it.
    """
    with contextlib.suppress(MoalignError):  # if it is none of this version, its keys are told
        begun_with = checked(Document("study.yaml", dict(begun_with)), study.catalogue).data
    return study.difference(begun_with)


def versions(study: Study) -> dict[str, str]:
    """Return the versions of Python, of plugins' distributions, and of what results depend on."""
    found = {"python": platform.python_version(), "moalign": moalign.__version__}
    for name in _DISTRIBUTIONS:
        found[name] = importlib.metadata.version(name)
    for entry in study.catalogue.entries():
        name, _, version = entry.origin.partition(" ")
        if not entry.origin.startswith("plugin file "):
            found.setdefault(name, version)
    return found


def plugin_hashes(study: Study) -> dict[str, str]:
    """Return the SHA-256 of each plugin file, by path."""
    return {str(file.path): file.sha256 for file in study.catalogue.files}


def source_revision() -> str | None:
    """Return the git commit that moalign runs from, ``-dirty`` if changed; None if from no git."""
    folder = Path(moalign.__file__).parent
    tracked = _git(folder, "ls-files", "--error-unmatch", Path(moalign.__file__).name)
    return (
        _git(folder, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
        if tracked
        else None
    )


def as_yaml(study: Study, opened: events.Opened) -> str:
    """Return the resolved study as a study file, with what it ran with as comments."""
    lines = ["# The study as it ran, every default filled in; it can be run again as it is."]
    lines += [f"# {name} {version}" for name, version in opened.versions.items()]
    lines += [f"# plugin file {path} sha256:{h}" for path, h in opened.plugins.items()]
    lines += [f"# source revision {opened.revision}"] if opened.revision else []
    body = yaml.safe_dump(study.data, sort_keys=False, allow_unicode=True, width=100)
    return "\n".join(lines) + "\n\n" + body


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
