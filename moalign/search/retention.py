"""What stays on disk: numbers always, policies while they are of use, training state while live.

A folder called ``policy`` or ``training`` is always whole: one that is no longer wanted is renamed
first and deleted then.
"""

from __future__ import annotations

import shutil
from collections.abc import Container
from pathlib import Path

from moalign.search.archive import Run
from moalign.search.folders import RunFolder

Checkpoint = tuple[int, int]
"""A trial's number and a step."""


def wanted(run: Run, visible: Container[int]) -> tuple[set[Checkpoint], set[Checkpoint]]:
    """Return the checkpoints whose policy, and those whose training state, is still of use.

    A policy is kept if one of its points is on the front of the visible trials, if a live trial
    starts from it, or if its trial is not visible yet. Live and failed trials keep their latest
    checkpoint whole.

    Args:
        run: the state of the run.
        visible: numbers of the trials whose results the strategy has seen.
    """
    policies = run.kept(visible)
    latest = set()
    for trial in run.trials.values():
        if trial.outcome in (None, "failed"):
            latest.add((trial.number, trial.step))
        if trial.outcome is None:
            policies.update(trial.proposal.start.points)
        if trial.number not in visible:
            policies.update((trial.number, step) for step in trial.measured)
    return policies | latest, latest


def prune(run: Run, visible: Container[int], done: set[tuple[int, int, str]]) -> None:
    """Delete what is no longer of use.

    Args:
        run: the state of the run.
        visible: see :func:`wanted`.
        done: what was deleted before, as trial, step and name; grows.
    """
    policies, trainings = wanted(run, visible)
    for trial in run.trials.values():
        for step in trial.measured:
            for name, kept in (("policy", policies), ("training", trainings)):
                gone = (trial.number, step, name)
                if (trial.number, step) not in kept and gone not in done:
                    _delete(run.folder.checkpoint(trial.number, step) / name)
                    done.add(gone)


def sweep(folder: RunFolder) -> None:
    """Delete what killed workers and a killed driver left half-written or half-deleted."""
    for place in ("base", "trials/*", "base/step-*", "trials/*/step-*"):
        for leftover in folder.path.glob(f"{place}/.*"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def _delete(folder: Path) -> None:
    if folder.is_dir():
        doomed = folder.with_name(f".{folder.name}")
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
