"""The numbers: one per entry and seed, in units of the bounds; tables and claims read these.

Points are chosen and kept by what they measure on validation, and reported on test. Shapes: N
policies, K objectives (the last axis), W preferences, L weights of a lattice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.comparison.plan import BASE, CENTRE
from benchmarks.comparison.results import Arena, Results, Trained
from moalign import pareto
from moalign.reporting.statistics import utility_difference

Floats = NDArray[np.float64]

SHARE: Final = 0.9
"""Of the best improvement of any entry, that counts as having got there."""

FINE: Final = 24
"""Parts of a mixture, and of the weights by which a point is sought beyond the hull."""

Numbers = Mapping[str, float]
"""Measures by name; NaN where one does not apply."""


@dataclass(frozen=True)
class Difference:
    """A mean over seeds and its 95 % interval; NaN ends with one seed only."""

    value: float
    low: float
    high: float
    seeds: int


def of_arena(results: Results, arena: Arena, rival: str) -> dict[tuple[str, int], Numbers]:
    """Return the measures of every entry at every seed where all its cells are done.

    Args:
        results: the document.
        arena: the bed.
        rival: the entry whose policies make the hull, and say how far there is to go. What shares
            its random numbers is nearer to it than what does not, so two entries should be compared
            by it only if it shares them with both or with none.
    """
    found: dict[tuple[str, int], Numbers] = {}
    for seed in results.seeds(arena.name):
        base = results.of(arena.name, BASE, seed)
        complete = {
            kind.label: cells
            for kind in arena.kinds
            for cells in [results.of(arena.name, kind.label, seed)]
            if kind.label != BASE and len(cells) == len(kind.numbers)
        }
        if not base:
            continue
        start_K = normalised(arena, base[0].test_K)
        best = best_reached(arena, base[0], complete)
        usual = best_reached(arena, base[0], {k: v for k, v in complete.items() if k == rival})
        # The base policy is there without training, so mixtures may have it, too.
        hull = [*complete[rival], base[0]] if rival in complete else []
        for label, cells in complete.items():
            volumes = [
                v for v in results.volumes if (v.bed, v.seed, v.entry) == (arena.name, seed, label)
            ]
            found[label, seed] = {
                **_front(arena, cells),
                "volume": volumes[0].corrected if volumes else math.nan,
                "raw volume": volumes[0].raw if volumes else math.nan,
                "beyond": beyond(*_both(arena, cells), *_both(arena, hull)) if hull else math.nan,
                "worst": float((at_centre(arena, cells) - start_K).min(-1).mean()),
                "lowest": float(at_centre(arena, cells).min(-1).mean()),
                **_speed(arena, seed, base[0], cells, best),
                "steps to the rival": capped(arena, reached(arena, base[0], cells, usual, 0)),
                "violation": float(np.mean([violation(arena, c.test_K) for c in cells])),
                "violation beyond noise": float(
                    np.mean([violation(arena, c.test_K) - noise(arena, c) for c in cells])
                ),
                "violation at equal weights": float(
                    np.mean([violation(arena, c.test_K) for c in centre_cells(arena, cells)])
                ),
                "cpu": float(np.mean([c.cpu for c in cells])),
                "seconds": float(np.mean([c.seconds for c in cells])),
                "steps": float(np.mean([c.steps for c in cells])),
                "generated": float(np.mean([c.tokens[0] for c in cells])),
                "forwarded": float(np.mean([c.tokens[1] for c in cells])),
                "backwarded": float(np.mean([c.tokens[2] for c in cells])),
                "spent": float(np.mean([sum(c.tokens) for c in cells]))
                / arena.budgets.get(seed, math.nan),
            }
        found[BASE, seed] = {
            "utility": float(np.mean(start_K @ preferences(arena).T)),
            "lowest": float(start_K.min()),
            "violation": violation(arena, base[0].test_K),
        }
    return found


def averaged(
    numbers: Mapping[tuple[str, int], Numbers], entries: Sequence[str], label: str
) -> dict[tuple[str, int], Numbers]:
    """Return the measures with those of one more entry: at each seed the mean of some others.

    Those that are there count. Of two that are alike the mean has less noise to be compared with.
    """
    found = dict(numbers)
    for seed in {seed for _, seed in numbers}:
        each = [numbers[entry, seed] for entry in entries if (entry, seed) in numbers]
        if each:
            shared = set.intersection(*(set(one) for one in each))
            found[label, seed] = {name: float(np.mean([o[name] for o in each])) for name in shared}
    return found


def over_seeds(numbers: Mapping[tuple[str, int], Numbers], entry: str, measure: str) -> Difference:
    """Return the mean of a measure over the seeds."""
    values = [n.get(measure, math.nan) for (label, _), n in numbers.items() if label == entry]
    return interval([value for value in values if not math.isnan(value)])


def against(
    numbers: Mapping[tuple[str, int], Numbers], entry: str, other: str, measure: str
) -> Difference:
    """Return the mean difference of two entries, paired at equal seeds."""
    mine = {seed: n for (label, seed), n in numbers.items() if label == entry}
    theirs = {seed: n for (label, seed), n in numbers.items() if label == other}
    pairs = [
        mine[seed].get(measure, math.nan) - theirs[seed].get(measure, math.nan)
        for seed in sorted(mine.keys() & theirs.keys())
    ]
    return interval([value for value in pairs if not math.isnan(value)])


def interval(values: Sequence[float]) -> Difference:
    """Return the mean of some seeds' values with Student's interval; seeds are the units."""
    if not values:
        return Difference(math.nan, math.nan, math.nan, 0)
    column = np.asarray(values, dtype=np.float64)[:, None]
    # As a utility of one objective, because a seed's value is no rate, even if it is 0 or 1.
    found = utility_difference(column, np.zeros_like(column), [1.0], [(0.0, 1.0)])
    return Difference(found.value, found.low, found.high, len(values))


# --- one entry at one seed ---------------------------------------------------------------------


def normalised(arena: Arena, values: Sequence[float] | Floats) -> Floats:
    """Return raw values in units of the bounds."""
    return pareto.normalise(values, arena.bounds_K2)


def preferences(arena: Arena) -> Floats:
    """Return the preferences, [W, K]."""
    return np.asarray([arena.preferences[number] for number in sorted(arena.preferences)])


def _both(arena: Arena, cells: Sequence[Trained]) -> tuple[Floats, Floats]:
    """Return the policies on validation and on test, [N, K] each."""
    validation = normalised(arena, np.asarray([c.validation_K for c in cells]))
    return validation, normalised(arena, np.asarray([c.test_K for c in cells]))


def _front(arena: Arena, cells: Sequence[Trained]) -> dict[str, float]:
    validation_NK, test_NK = _both(arena, cells)
    kept = pareto.is_nondominated(validation_NK)
    return {
        "utility": float(chosen_utilities(validation_NK, test_NK, preferences(arena)).mean()),
        "mixed volume": mixed_volume(test_NK[kept], arena.reference_K),
        "sparsity": pareto.sparsity(test_NK[kept]) if kept.sum() > 1 else math.nan,
        "points": float(kept.sum()),
    }


def foreseen(arena: Arena, cells: Sequence[Trained]) -> float:
    """Return the expected utility on validation, where each preference takes what suits it."""
    validation_NK = normalised(arena, np.asarray([c.validation_K for c in cells]))
    return float((validation_NK @ preferences(arena).T).max(0).mean())


def chosen_utilities(validation_NK: Floats, test_NK: Floats, preferences_WK: Floats) -> Floats:
    """Return, per preference, the utility on test of the policy that validation chooses, [W]."""
    chosen_W = (validation_NK @ preferences_WK.T).argmax(0)
    utilities: Floats = (test_NK[chosen_W] * preferences_WK).sum(-1)
    return utilities


def lattice(count: int, parts: int = FINE) -> Floats:
    """Return all weights over ``count`` things that are multiples of 1 / parts, [L, count]."""
    bars = combinations(range(parts + count - 1), count - 1)
    rows = [np.diff([-1, *bar, parts + count - 1]) - 1 for bar in bars]
    return np.asarray(rows, dtype=np.float64) / parts


def mixed_volume(values_NK: Floats, reference_K: Sequence[float]) -> float:
    """Return the hypervolume that mixtures of policies reach.

    To mix is to answer every prompt with a policy drawn at random; its expected objectives are
    those of the policies, averaged by their shares. So mixtures reach the convex hull. Every point
    of its surface mixes at most K policies; all such mixtures on a lattice are taken, so the
    result is a little too small.
    """
    size = min(len(values_NK), values_NK.shape[1])
    shares = lattice(size)
    mixed = [shares @ values_NK[list(few)] for few in combinations(range(len(values_NK)), size)]
    return pareto.hypervolume(np.vstack(mixed), reference_K)


def beyond(
    validation_NK: Floats, test_NK: Floats, hull_validation_MK: Floats, hull_test_MK: Floats
) -> float:
    """Return how far the best policy lies beyond the hull of others; below 0: within it.

    A policy lies beyond the hull where some weights prefer it to every policy of the hull. Policy
    and weights are sought on validation, where the hull's own choice is made too; the difference
    is taken on test, so that the search for the largest one does not flatter it.
    """
    weights_LK = lattice(validation_NK.shape[1])
    theirs_ML = hull_validation_MK @ weights_LK.T
    ahead_NL = validation_NK @ weights_LK.T - theirs_ML.max(0)
    best, where = np.unravel_index(int(ahead_NL.argmax()), ahead_NL.shape)
    rival = int(theirs_ML[:, where].argmax())
    return float((test_NK[best] - hull_test_MK[rival]) @ weights_LK[where])


def violation(arena: Arena, values_K: Sequence[float]) -> float:
    """Return by how much the thresholds are missed, summed, in units of the bounds."""
    missed = 0.0
    for name, value, (low, high) in zip(arena.objectives, values_K, arena.bounds_K2, strict=True):
        if name in arena.thresholds:
            missed += max(arena.thresholds[name] - value, 0.0) / (high - low)
    return missed


def noise(arena: Arena, cell: Trained) -> float:
    """Return what a policy that just meets every threshold is seen to miss, expected.

    The mean of max(e, 0) is s / sqrt(2 pi) for an error e of deviation s.
    """
    return sum(
        error / (high - low) / math.sqrt(2 * math.pi)
        for name, error, (low, high) in zip(
            arena.objectives, cell.stderr_K, arena.bounds_K2, strict=True
        )
        if name in arena.thresholds
    )


def centre_cells(arena: Arena, cells: Sequence[Trained]) -> list[Trained]:
    """Return an entry's cells for equal weights; all of them if it has no preference."""
    kind = next(kind for kind in arena.kinds if kind.label == cells[0].entry)
    return [c for c in cells if c.number == CENTRE or not kind.preference]


def at_centre(arena: Arena, cells: Sequence[Trained]) -> Floats:
    """Return the policies of :func:`centre_cells` on test. [N, K]"""
    return normalised(arena, np.asarray([c.test_K for c in centre_cells(arena, cells)]))


# --- speed -------------------------------------------------------------------------------------


def course(
    arena: Arena, base: Trained, cells: Sequence[Trained], axis: int
) -> tuple[list[float], list[float]]:
    """Return how expected utility on validation rises with what was spent.

    At every point of the axis all policies that were measured up to there count, the base policy
    among them: each preference takes the best.

    Args:
        arena: gives bounds and preferences.
        base: the base policy.
        cells: of one entry and seed.
        axis: 0: steps, 1: tokens.
    """
    wanted = preferences(arena)
    start = (0.0, normalised(arena, base.moments[0][2:]) @ wanted.T)
    moments = [
        (moment[axis], normalised(arena, moment[2:]) @ wanted.T)
        for cell in cells
        for moment in cell.moments
    ]
    places, heights, best_W = [0.0], [float(start[1].mean())], start[1]
    for place, utilities_W in sorted(moments, key=lambda pair: pair[0]):
        best_W = np.maximum(best_W, utilities_W)
        if place == places[-1]:
            heights[-1] = float(best_W.mean())
        else:
            places.append(place)
            heights.append(float(best_W.mean()))
    return places, heights


def best_reached(arena: Arena, base: Trained, complete: Mapping[str, Sequence[Trained]]) -> float:
    """Return the highest expected utility that any entry reaches on validation."""
    ends = [course(arena, base, cells, 0)[1][-1] for cells in complete.values()]
    return max(ends, default=math.nan)


def reached(arena: Arena, base: Trained, cells: Sequence[Trained], best: float, axis: int) -> float:
    """Return where 90 % of the way from the base policy to the best is behind; linear between.

    NaN if it never is.
    """
    places, heights = course(arena, base, cells, axis)
    target = heights[0] + SHARE * (best - heights[0])
    if best - heights[0] <= 0:
        return math.nan
    for i in range(1, len(places)):
        if heights[i] >= target:
            rise = heights[i] - heights[i - 1]
            part = (target - heights[i - 1]) / rise if rise > 0 else 0.0
            return places[i - 1] + part * (places[i] - places[i - 1])
    return math.nan


def capped(arena: Arena, steps: float) -> float:
    """Return a number of steps; all of them for what never got there."""
    return arena.steps if math.isnan(steps) else steps


def _speed(
    arena: Arena, seed: int, base: Trained, cells: Sequence[Trained], best: float
) -> dict[str, float]:
    """Return what 90 % of the best takes; ``capped`` counts what never got there as the longest."""
    budget = arena.budgets.get(seed, math.nan)
    steps = reached(arena, base, cells, best, 0)
    share = reached(arena, base, cells, best, 1) / budget
    return {
        "steps to 90 %": steps,
        "budget to 90 %": share,
        "capped steps": capped(arena, steps),
        "capped budget": 1.0 if math.isnan(share) else share,
    }
