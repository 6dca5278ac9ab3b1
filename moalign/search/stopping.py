"""Which trials go on at a rung, when there are several objectives. Pure functions.

Shapes: N points, K objectives of the front (the last axis), higher is better. Values are
normalised by the objectives' bounds.

Source: ours. The sorting is that of NSGA-II (Deb et al. 2002) with the hypervolume contribution of
SMS-EMOA (Emmerich et al. 2005) inside a front; the share that goes on, taken over the trials that
have reached the rung so far, is that of asynchronous successive halving (Li et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moalign import pareto
from moalign.search.archive import Run, Trial

BARS: Final = 1.5
"""Standard errors that a trial is given before it is stopped.

Where curves cross under noise, 1 stopped 7.6 % of the truly Pareto-optimal trials of a study, 1.5
stopped 1.2 %, and 2 none; of the steps rungs then saved 11, 6 and 4 % (`curves` in
``benchmarks.search --part rungs``, `gp`, ten seeds; the front of 1.5 and of 2 was the same).
"""


@dataclass(frozen=True)
class Reached:
    """What one trial is worth at a rung: a point per condition.

    Attributes:
        values_NK: normalised means; NaN where an objective was not measured.
        stderr_NK: their standard errors, in the same units; NaN counts as 0.
    """

    values_NK: Sequence[Sequence[float]]
    stderr_NK: Sequence[Sequence[float]]

    def raised(self) -> Reached:
        """Return it :data:`BARS` standard errors better in every objective."""
        values = np.asarray(self.values_NK) + BARS * np.nan_to_num(np.asarray(self.stderr_NK))
        return Reached(values.tolist(), self.stderr_NK)


@dataclass(frozen=True)
class Decision:
    """Whether a trial goes on, and why, in one sentence."""

    go_on: bool
    reason: str


def at_rung(run: Run, trial: Trial, step: int) -> Decision | None:
    """Decide whether a trial at a rung goes on, or return None while it is not its turn.

    Only trials that begin at the base policy and have the study's full length are compared; any
    other goes on. In a run with logical order a trial is compared with those of lower number, as
    soon as nothing more can become known about these; else with all that have arrived.
    """
    if not comparable(run, trial):
        return Decision(True, "it began elsewhere or ends elsewhere than the others")
    others = [t for t in run.trials.values() if comparable(run, t)]
    if run.logical:
        others = [t for t in others if t.number <= trial.number]
        if not all(t.ended_by(step) for t in others):
            return None
    axes = run.front_objectives
    spans = [o.normalise(1.0) - o.normalise(0.0) for o in axes]
    reached = {
        t.number: Reached(
            [run.normalised(run.axes(p.values_K)) for p in t.measured[step].points],
            [
                [error * span for error, span in zip(run.axes(p.stderr_K), spans, strict=True)]
                for p in t.measured[step].points
            ],
        )
        for t in others
        if step in t.measured
    }
    keep: float = run.opened[0].study["search"]["keep"]
    decision = decide(trial.number, reached, keep, run.reference_K)
    return replace(decision, reason=f"at step {step}: {decision.reason}")


def comparable(run: Run, trial: Trial) -> bool:
    """Return whether a trial is ranked at rungs: it has its full length, from scratch."""
    return trial.proposal.start.scratch and trial.total == run.steps


def decide(
    trial: int, reached: Mapping[int, Reached], keep: float, reference_K: ArrayLike
) -> Decision:
    """Decide whether a trial goes on.

    The n trials that have reached the rung are ranked by :func:`ranking`. The first
    ``ceil(keep * n)`` go on. A trial behind them goes on too if, were it :data:`BARS` standard
    errors better in every objective and the others as measured, it would be among them, or no other
    trial would dominate it: it is within its error bars of surviving, or of the front. Nobody is
    stopped while n is at most K + 1 (the near-corners and the centre, which a study tries first,
    span the front and are no measure for one another) or below ``1 / keep``.

    Args:
        trial: whose fate it is.
        reached: the trials to compare, this one included, by number.
        keep: share that goes on, in (0, 1].
        reference_K: where hypervolume starts.
    """
    count = len(reached)
    objectives = len(reached[trial].values_NK[0])
    fewest = max(objectives + 2, math.ceil(1 / keep))
    if count < fewest:
        return Decision(True, f"{count} of the {fewest} trials needed for a ranking are here")
    places = math.ceil(keep * count)
    place = ranking(reached, reference_K).index(trial) + 1
    where = (
        f"ranked {place} of {count}, by dominance and then by the hypervolume that it adds, of "
        f"which the first {places} go on"
    )
    if place <= places:
        return Decision(True, where)
    raised = {**reached, trial: reached[trial].raised()}
    better = f"{BARS:g} standard errors better in every objective"
    best = ranking(raised, reference_K).index(trial) + 1
    if best <= places:
        return Decision(True, f"{where}; {better} it would be number {best}")
    if not _complete(reached[trial]).any():
        return Decision(False, f"{where}; it was not measured in all objectives")
    rival = _above(raised, trial)
    if rival is None:
        return Decision(True, f"{where}; {better} nothing would dominate it")
    return Decision(False, f"{where}; even {better} trial {rival} would dominate it")


def _above(reached: Mapping[int, Reached], trial: int) -> int | None:
    """Return a trial that dominates one, if possible all of its points.

    None: a point of it is dominated by no other trial.
    """
    others = {t: np.asarray(r.values_NK) for t, r in reached.items() if t != trial}
    mine_NK = np.asarray(reached[trial].values_NK)[_complete(reached[trial])]
    rivals = [
        {t for t, by in others.items() if ((by >= point).all(1) & (by > point).any(1)).any()}
        for point in mine_NK
    ]
    if not all(rivals):
        return None
    return min(set.intersection(*rivals) or set.union(*rivals))


def _complete(reached: Reached) -> NDArray[np.bool_]:
    """Return which points of a trial were measured in all objectives."""
    missing_N: NDArray[np.bool_] = np.isnan(np.asarray(reached.values_NK)).any(axis=1)
    return ~missing_N


def ranking(reached: Mapping[int, Reached], reference_K: ArrayLike) -> list[int]:
    """Rank trials: by non-dominated sorting, then by hypervolume contribution.

    A trial stands where its best point stands, among the points of all trials sorted into
    successive fronts. Inside a front the contribution of a trial is the hypervolume that the
    front loses without all of the trial's points on it. Equal ones keep the order of their
    numbers. A point that was not measured in full stands behind all others.

    Returns:
        the trials' numbers, best first.
    """
    owners = np.array([trial for trial, r in reached.items() for _ in r.values_NK])
    points_NK = np.array([point for r in reached.values() for point in r.values_NK], dtype=float)
    ranks_N = pareto.dominance_ranks(points_NK)
    keys = {}
    for trial in reached:
        rank = int(ranks_N[owners == trial].min())
        front_N = ranks_N == rank
        lost = _volume(points_NK[front_N], reference_K) - _volume(
            points_NK[front_N & (owners != trial)], reference_K
        )
        keys[trial] = (rank, -lost, trial)
    return sorted(reached, key=keys.__getitem__)


def _volume(points_NK: NDArray[np.float64], reference_K: ArrayLike) -> float:
    return pareto.hypervolume(points_NK, reference_K)
