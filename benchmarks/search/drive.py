"""The real driver on the study of a problem, and the seconds that its strategy takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.search import segment
from benchmarks.search.problem import Problem
from benchmarks.search.studies import paths
from moalign.components import Strategy
from moalign.search.archive import Run, Trial
from moalign.search.driver import run_study
from moalign.study.study import Study
from moalign.types import History, Proposal, SegmentTask


@dataclass
class Clock:
    """Seconds of something that is done again and again: on the wall, and of the CPU."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure one time."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)

    def summary(self) -> dict[str, float]:
        """Return median, 95th percentile and sum on the wall, and the sum of the CPU."""
        return {
            "median": median(self.wall),
            "late": float(np.quantile(self.wall, 0.95)),
            "wall": sum(self.wall),
            "cpu": sum(self.cpu),
        }


@dataclass(frozen=True)
class Driven:
    """What a driver did.

    Attributes:
        run: the state of the run.
        suggesting: the strategy's share, one time per suggestion that it was asked for.
        training: the segments' share.
        whole: all of it.
    """

    run: Run
    suggesting: Clock
    training: Clock
    whole: Clock


def drive(
    study: Study,
    folder: Path,
    trials: int,
    enough: Callable[[History], bool] = lambda _: False,
    told: Callable[[int], None] = lambda _: None,
) -> Driven:
    """Run a study of a problem in this process; without a base policy, and without a report.

    Args:
        study: see ``studies.py``.
        folder: of the run.
        trials: how many trials, at most.
        enough: whether to propose no more.
        told: called with the number of suggestions so far.
    """
    suggesting, training, whole = Clock(), Clock(), Clock()

    def timed(task: SegmentTask, emit: Callable[..., None], cache: dict[str, Any]) -> None:
        with training.running():
            segment.run_segment(task, emit, cache)

    strategy = _timed(study.strategy, suggesting, enough, told)
    with whole.running():
        result = run_study(
            study,
            folder,
            trials=trials,
            strategy=strategy,
            segment=timed,
            prepare=lambda *_: None,
        )
    return Driven(result.run, suggesting, training, whole)


def _timed(
    strategy: Strategy,
    clock: Clock,
    enough: Callable[[History], bool],
    told: Callable[[int], None],
) -> Strategy:
    """Put a clock before a strategy's own method: all else of the object stays as it is."""
    plain = strategy.propose

    def propose(history: History, n: int, seed: int) -> list[Proposal]:
        if enough(history):
            return []
        with clock.running():
            found = plain(history, n, seed)
        told(len(clock.wall))
        return found

    strategy.propose = propose  # type: ignore[method-assign]
    return strategy


def inputs_of(problem: Problem, trial: Trial) -> list[float]:
    """Return the inputs that a trial had."""
    return [float(trial.proposal.params[path]) for path in paths(problem)]
