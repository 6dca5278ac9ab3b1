"""Shares of mixtures by linear programming: pure functions of arrays.

A mixture answers every prompt with one of N policies, drawn at random with shares s_i >= 0 that
sum to 1. Its means are those of the policies, averaged by the shares, so what a mixture is asked
for is linear in s. Every result is a corner of its linear program, and no mixture that cannot be
improved needs more policies than there are objectives and other columns of ``excess_NC``.

Shapes: N points, K objectives, C thresholds. ``excess_NC`` is by how much each point exceeds each
threshold, in any unit near 1; a mixture meets them if ``shares @ excess_NC >= 0``. All values are
finite; wrong input raises ValueError. Results are deterministic.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moalign import pareto
from moalign.reporting.statistics import Floats

__all__ = [
    "bargain_shares",
    "best_shares",
    "hull_vertices",
    "level_shares",
    "maximin_shares",
    "mix",
]

_TIGHT = 1e-10  # feasibility and optimality of the linear programs
_NONE = 1e-9  # a share or a difference below this is rounding
_ROUNDS = 200


def mix(values_NUK: ArrayLike, shares_N: ArrayLike) -> Floats:
    """Return a mixture's unit values: what each unit gets on average over the draw.

    Where an objective does not apply to a unit under some of the policies, the others' shares
    count for all; under none of them, it is NaN.

    Args:
        values_NUK: one table of unit values per point, the same units in the same order.
        shares_N: positive, sum 1.

    Returns:
        float [U, K].

    Source: the mean of a mixture distribution.
    """
    values = np.asarray(values_NUK, dtype=np.float64)
    known = ~np.isnan(values)
    weights = np.asarray(shares_N, dtype=np.float64)[:, None, None] * known
    total = weights.sum(axis=0)
    summed = (weights * np.where(known, values, 0.0)).sum(axis=0)
    mixed: Floats = np.divide(summed, total, out=np.full_like(total, np.nan), where=total > 0)
    return mixed


def best_shares(utility_N: ArrayLike, excess_NC: ArrayLike) -> Floats | None:
    """Find the mixture with the highest utility that meets the thresholds.

    max_s s @ utility_N, subject to s @ excess_NC >= 0.

    Args:
        utility_N: of each point.
        excess_NC: over the thresholds; shape [N, 0] if there are none.

    Returns:
        Shares [N]; None if no mixture meets the thresholds.
    """
    utility, excess = _finite(utility_N, 1), _finite(excess_NC, 2)
    solved = _maximise(utility, -excess.T, np.zeros(excess.shape[1]), free=0)
    return None if solved is None else _cleaned(solved)


def level_shares(excess_NC: ArrayLike, rises_C: ArrayLike) -> tuple[Floats, float] | None:
    """Find the mixture that exceeds some thresholds by as much as possible, the least of them.

    max_s,t t, subject to s @ excess_NC >= t * rises_C.

    Args:
        excess_NC: over the thresholds, at least one.
        rises_C: 1 where the excess counts, 0 where a threshold has only to be met; one 1 or more.

    Returns:
        Shares [N] and the excess t, negative if these thresholds cannot all be met; None if those
        with a 0 cannot.
    """
    excess, rises = _finite(excess_NC, 2), _finite(rises_C, 1)
    rows = np.column_stack([-excess.T, rises])
    gain = np.append(np.zeros(len(excess)), 1.0)
    solved = _maximise(gain, rows, np.zeros(len(rises)), free=1)
    return None if solved is None else (_cleaned(solved[:-1]), float(solved[-1]))


def maximin_shares(unit_NK: ArrayLike, excess_NC: ArrayLike) -> Floats | None:
    """Find the mixture whose worst objective is best; of those, one with the highest sum.

    Args:
        unit_NK: normalised points.
        excess_NC: over thresholds; shape [N, 0] if there are none.

    Returns:
        Shares [N]; None if no mixture meets the thresholds.

    Source: as `moalign.pareto.maximin`, over the convex hull.
    """
    unit, excess = _finite(unit_NK, 2), _finite(excess_NC, 2)
    rises = np.repeat([1.0, 0.0], [unit.shape[1], excess.shape[1]])
    found = level_shares(np.hstack([unit, excess]), rises)
    if found is None:
        return None
    shares, worst = found
    kept = best_shares(unit.sum(axis=1), np.hstack([unit - worst + _NONE, excess]))
    return shares if kept is None else kept


def bargain_shares(gains_NK: ArrayLike, excess_NC: ArrayLike) -> Floats | None:
    """Find the mixture with the largest product of gains.

    max_s sum_k log z_k with z = s @ gains_NK, which is concave and has one best z. Every logarithm
    is bounded from above by its tangents, log z <= log c + (z - c) / c: a linear program, whose
    solution gives the next tangents, until its bound is reached within 1e-9.

    Args:
        gains_NK: over what there is without agreement, in any units, also negative.
        excess_NC: over thresholds; shape [N, 0] if there are none.

    Returns:
        Shares [N]; None if no mixture that meets the thresholds gains in every objective (by more
        than 1e-6 of the largest gain there).

    Source: Nash 1950, on the convex hull; cutting planes: Kelley 1960.
    """
    gains, excess = _finite(gains_NK, 2), _finite(excess_NC, 2)
    count, objectives = gains.shape
    largest = gains.max(axis=0)
    if (largest <= 0).any():
        return None
    unit = gains / largest  # the choice does not depend on units
    rises = np.repeat([1.0, 0.0], [objectives, excess.shape[1]])
    found = level_shares(np.hstack([unit, excess]), rises)
    if found is None or found[1] <= 1e-6:
        return None
    shares, best_K = found[0], found[0] @ unit
    tangents = [np.ones(objectives), best_K]
    utility = np.repeat([0.0, 1.0], [count, objectives])
    for _ in range(_ROUNDS):
        touched = np.stack(tangents)
        # theta_k - z_k / c <= log c - 1 per tangent, and the thresholds.
        rows = [
            np.column_stack([-np.outer(1 / touched[:, k], unit[:, k]), column])
            for k in range(objectives)
            for column in [np.tile(np.eye(objectives)[k], (len(touched), 1))]
        ]
        rows.append(np.hstack([-excess.T, np.zeros((excess.shape[1], objectives))]))
        limits = np.concatenate([(np.log(touched) - 1).T.ravel(), np.zeros(excess.shape[1])])
        solved = _maximise(utility, np.vstack(rows), limits, free=objectives)
        if solved is None:  # the thresholds are met by `shares`, so this is rounding
            break
        reached_K = solved[:count] @ unit
        bound = float(solved[count:].sum())
        if (reached_K > 0).all() and np.log(reached_K).sum() > np.log(best_K).sum():
            shares, best_K = _cleaned(solved[:count]), reached_K
        if bound - np.log(best_K).sum() <= _NONE:
            break
        tangents.append(np.maximum(reached_K, best_K / 10))
    # The same z from as few policies as it takes.
    at_least = np.hstack([unit - best_K * (1 - _NONE), excess])
    fewer = best_shares(unit @ (1 / best_K), at_least)
    return shares if fewer is None else fewer


def hull_vertices(values_NK: ArrayLike) -> NDArray[np.bool_]:
    """Mark the points that mixtures need: no mixture of the others is as good in every objective.

    What the marked points' mixtures reach, those of all points do not exceed. They are the points
    that alone are best for some preference. "As good" is to within 1e-9 of an objective's range.

    Args:
        values_NK: points, higher is better; rows with a NaN are never marked, of equal ones the
            first can be.

    Returns:
        bool [N].

    Source: extreme points of the convex hull and what it dominates.
    """
    marked = pareto.is_nondominated(values_NK)
    values = np.asarray(values_NK, dtype=np.float64)
    if not marked.any():
        return marked
    spread = np.ptp(values[marked], axis=0)
    unit = values / np.where(spread > 0, spread, 1.0)
    everywhere = np.ones(values.shape[1])
    for i in np.flatnonzero(marked)[::-1]:
        others = marked.copy()
        others[i] = False
        if others.any():
            found = level_shares(unit[others] - unit[i], everywhere)
            marked[i] = found is None or found[1] < -_NONE
    return marked


def _finite(values: ArrayLike, axes: int) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != axes or not len(array) or not np.isfinite(array).all():
        raise ValueError(
            f"a mixture needs finite values with {axes} axes for at least one point; found shape "
            f"{array.shape}. Leave out points that were not measured."
        )
    return array


def _maximise(gain: Floats, rows: Floats, limits: Floats, *, free: int) -> Floats | None:
    """Maximise ``x @ gain`` with ``rows @ x <= limits``; x holds shares, then free variables.

    Raises:
        ArithmeticError: the solver gave up.
    """
    from scipy.optimize import linprog

    count = len(gain) - free
    found = linprog(
        -gain,
        A_ub=rows,
        b_ub=limits,
        A_eq=np.repeat([[1.0, 0.0]], [count, free], axis=1),
        b_eq=[1.0],
        bounds=[(0, None)] * count + [(None, None)] * free,
        method="highs-ds",  # the simplex method ends in a corner
        options={"primal_feasibility_tolerance": _TIGHT, "dual_feasibility_tolerance": _TIGHT},
    )
    if found.status == 2:  # infeasible
        return None
    if found.status != 0:
        raise ArithmeticError(f"a mixture's linear program was not solved: {found.message}")
    solved: Floats = found.x
    return solved


def _cleaned(shares_N: Floats) -> Floats:
    """Shares without those that are rounding, summing to 1."""
    kept = np.where(shares_N > _NONE, shares_N, 0.0)
    cleaned: Floats = kept / kept.sum()
    return cleaned
