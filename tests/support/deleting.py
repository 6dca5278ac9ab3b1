"""Studies whose trials go on from one another, and somebody who deletes what they go on from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from quick import Pairs, quick_run, quick_study

from moalign import hookimpl
from moalign.components import Strategy
from moalign.search.archive import Run
from moalign.search.folders import RunFolder
from moalign.types import Proposal, Start


class Extending(Strategy):
    """Every second trial goes on from the latest policy of those that are kept."""

    name = "extending"
    corners_first = False

    def propose(self, history, n, seed):
        share = 0.1 + 0.8 * (seed % 1000) / 1000
        params = {
            "weighting.preference": {"a": share, "b": 1 - share},
            "training.learning_rate": 3e-4,
        }
        kept = [o for o in history.observations if o.kept]
        if history.proposed % 2 == 0 or not kept:
            return [Proposal(params)]
        last = max((o.trial, o.step) for o in kept)
        return [Proposal(params, Start((last,), (1.0,)), steps=3)]


def extending(folder: Path, trials: int = 6, **options: Any) -> Run:
    study = quick_study(f"search.trials={trials}")
    object.__setattr__(study, "strategy", Extending())
    options = {"executor": Pairs(), **options}
    return quick_run(folder, study=study, strict=True, **options).run


class Deleting:
    """Deletes what a trial starts from, when the trial is proposed."""

    def __init__(self, folder: Path, part: str = ""):
        self.folder, self.part = RunFolder(folder), part
        self.deleted: list[tuple[int, int]] = []

    @hookimpl
    def moalign_trial_started(self, proposal):
        for point in proposal.start.points:
            self.deleted.append(point)
            shutil.rmtree(self.folder.checkpoint(*point) / self.part, ignore_errors=True)
