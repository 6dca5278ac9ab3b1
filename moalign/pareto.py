"""Dominance, fronts, and the numbers that describe a front: pure functions of points.

Every objective is maximised. Shapes: N points, K objectives (the last axis), W preferences,
Z points of a reference front, S measurements in the order of their steps. A row that holds a NaN
was not measured in full: it is on no front and adds nothing to any number. Infinite values are
refused. Wrong input raises ValueError.

Axes are used as they come. Where units matter (`utility` and all below it in this list:
`expected_utility`, `max_utility_loss`, `r2`, `igd`, `igd_plus`, `additive_epsilon`, `sparsity`,
`hypervolume`, `hull_hypervolume`, `maximin`), pass `normalise`d values. Dominance, crowding, the
knee and the bargain do not depend on units.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "additive_epsilon",
    "coverage",
    "crowding_distance",
    "dominance_ranks",
    "dominance_rate",
    "expected_utility",
    "first_on_front",
    "hull_hypervolume",
    "hypervolume",
    "hypervolume_contributions",
    "hypervolume_gradient",
    "igd",
    "igd_plus",
    "is_nondominated",
    "knee",
    "max_utility_loss",
    "maximin",
    "mean_over_steps",
    "nash_bargain",
    "normalise",
    "r2",
    "sparsity",
    "utility",
]

Floats = NDArray[np.float64]


def is_nondominated(values_NK: ArrayLike) -> NDArray[np.bool_]:
    """Mark the points that no other point dominates.

    A dominates B if A is at least as good in every objective and better in one. Of equal points
    only the first is marked, so the marked rows are the front, each of its points once.

    Args:
        values_NK: points, higher is better; rows with a NaN are never marked.

    Returns:
        bool [N].

    Source: Kung, Luccio, Preparata 1975, as implemented in moocore.
    """
    import moocore

    points = _points(values_NK)
    front = _complete(points)
    front[front] = moocore.is_nondominated(points[front], maximise=True)
    return front


def dominance_ranks(values_NK: ArrayLike) -> NDArray[np.int64]:
    """Sort the points into successive fronts; rank 0 is the front.

    Rank r is the front of what is left without the ranks below r. Equal points share a rank (so
    rank 0 can hold more rows than `is_nondominated` marks). Rows with a NaN share a rank of their
    own behind all others.

    Args:
        values_NK: points, higher is better.

    Returns:
        int [N], from 0.

    Source: non-dominated sorting, Deb et al. 2002 (NSGA-II), as implemented in moocore.
    """
    import moocore

    points = _points(values_NK)
    complete = _complete(points)
    ranks = np.zeros(len(points), dtype=np.int64)
    if complete.any():
        ranks[complete] = moocore.pareto_rank(points[complete], maximise=True)
        ranks[~complete] = ranks.max() + 1
    return ranks


def normalise(values_NK: ArrayLike, bounds_K2: ArrayLike) -> Floats:
    """Map each objective linearly so that its lower bound is 0 and its upper bound is 1.

    Values outside the bounds are kept, not clipped.

    Args:
        values_NK: values with any leading axes; NaN stays NaN.
        bounds_K2: (low, high) per objective, finite, low < high.

    Returns:
        Array of the same shape, without a unit.

    Source: moalign's own convention; the study fixes the bounds, so fronts stay comparable.
    """
    values = np.asarray(values_NK, dtype=np.float64)
    bounds = np.asarray(bounds_K2, dtype=np.float64)
    if bounds.ndim != 2 or bounds.shape[1] != 2:
        raise ValueError(
            f"bounds_K2 must have shape (objectives, 2); found {bounds.shape}. "
            "Give one [low, high] per objective."
        )
    low, high = bounds.T
    if not np.isfinite(bounds).all() or not (low < high).all():
        raise ValueError(f"bounds_K2 must be finite with low < high; found {bounds.tolist()}.")
    if values.ndim == 0 or values.shape[-1] != len(bounds):
        raise ValueError(
            f"values must have {len(bounds)} objectives on the last axis, as the bounds have; "
            f"found shape {values.shape}."
        )
    unit: Floats = (values - low) / (high - low)
    return unit


def hypervolume(values_NK: ArrayLike, reference_K: ArrayLike) -> float:
    """Measure the volume between the reference and the points: what at least one dominates.

    Points are clipped at the reference first, so a point below it in any objective adds nothing
    (and never a negative volume). Exact; an empty front has volume 0.

    Args:
        values_NK: points, higher is better.
        reference_K: the corner the volume is measured from.

    Returns:
        Volume >= 0 in the product of the objectives' units.

    Source: Zitzler and Thiele 1999; Guerreiro and Fonseca 2017 (HV3D+, HV4D+), in moocore.
    """
    import moocore

    reference = _vector(reference_K, "reference_K")
    points = _points(values_NK, objectives=len(reference))
    points = np.maximum(points[_complete(points)], reference)
    if not len(points):
        return 0.0
    return float(moocore.hypervolume(points, ref=reference, maximise=True))


def hypervolume_contributions(values_NK: ArrayLike, reference_K: ArrayLike) -> Floats:
    """Say how much hypervolume is lost if one point is taken away, for each point.

    A dominated point contributes 0, and so does each of two equal points. A dominated point also
    lowers the contribution of a point that alone covers it: to compare the points of a front,
    pass that front only.

    Args:
        values_NK: points, higher is better.
        reference_K: as in `hypervolume`.

    Returns:
        float [N], each >= 0.

    Source: exclusive hypervolume, Emmerich et al. 2005 (SMS-EMOA).
    """
    reference = _vector(reference_K, "reference_K")
    points = _points(values_NK, objectives=len(reference))
    contributions = np.zeros(len(points))
    total = hypervolume(points, reference)
    for i in np.flatnonzero(is_nondominated(points)):
        rest = hypervolume(np.delete(points, i, axis=0), reference)
        contributions[i] = max(total - rest, 0.0)
    return contributions


def hypervolume_gradient(
    point_K: ArrayLike, values_NK: ArrayLike, reference_K: ArrayLike
) -> Floats:
    """Say how fast the hypervolume of some points and one more grows as that one improves.

    Entry k is the partial derivative by the point's objective k: the (K - 1)-dimensional volume of
    that face of its box which no point beyond it covers. Exact for any K; upwards, where rising
    and falling differ (a tie in an objective, a point on the reference).

    It is 0 throughout for a point that another beats in every objective, and for one below the
    reference in any: no small step gains volume there.

    Args:
        point_K: the point that moves; finite.
        values_NK: the points that stay, without it.
        reference_K: as in `hypervolume`.

    Returns:
        float [K], each >= 0, in the product of the other objectives' units.

    Source: Emmerich and Deutz 2014, "Time complexity and zeros of the hypervolume indicator
    gradient field"; here each face is measured with `hypervolume`.
    """
    reference = _vector(reference_K, "reference_K")
    point = _vector(point_K, "point_K")
    _same_objectives(len(reference), len(point), "point_K")
    points = _points(values_NK, objectives=len(reference))
    points = points[_complete(points)]
    gradient = np.zeros(len(point))
    if (point < reference).any():
        return gradient
    for k in range(len(point)):
        beyond = points[points[:, k] > point[k]]
        corner, origin = np.delete(point, k), np.delete(reference, k)
        face = float(np.prod(corner - origin))
        if len(point) == 1:
            covered = float(len(beyond) > 0)
        else:
            covered = hypervolume(np.minimum(np.delete(beyond, k, axis=1), corner), origin)
        # What rounding leaves of a face that is covered is no gain.
        gradient[k] = face - covered if face - covered > 1e-12 * face else 0.0
    return gradient


def hull_hypervolume(values_NK: ArrayLike, reference_K: ArrayLike) -> float:
    """Measure the volume between the reference and the mixtures of the points.

    To mix policies is to draw one of them for every prompt. The means of a mixture are the points'
    own, averaged by its shares, so mixtures reach the convex hull of the points. This is the
    hypervolume of all of the hull: never below `hypervolume` of the points.

    A point below the reference counts too, as far as its mixtures come above it.

    Args:
        values_NK: points, higher is better.
        reference_K: the corner the volume is measured from.

    Returns:
        Volume >= 0 in the product of the objectives' units. Exact up to rounding; milliseconds
        up to four objectives, with five .06 s for 20 points.

    Source: volume of a convex hull by Qhull (Barber, Dobkin, Huhdanpaa 1996): what the hull
    dominates is itself convex, and its corners are those of the hull, each with any of its
    objectives lowered to the reference.
    """
    from scipy.spatial import ConvexHull

    reference = _vector(reference_K, "reference_K")
    points = _points(values_NK, objectives=len(reference))
    points = points[is_nondominated(points)] - reference
    for k in range(len(reference)):
        points = _mixed_above(points, k)
    if not len(points) or not (highest := points.max(axis=0)).all():
        return 0.0
    if len(reference) == 1:
        return float(highest[0])
    lowered = np.indices((2,) * len(reference)).reshape(len(reference), -1).T
    corners = np.unique((lowered[:, None] * (points / highest)).reshape(-1, len(reference)), axis=0)
    return float(ConvexHull(corners).volume * highest.prod())


def crowding_distance(values_NK: ArrayLike) -> Floats:
    """Measure how far a point's neighbours are apart, summed over the objectives.

    sum_k (next_k - previous_k) / (max_k - min_k) over the points sorted by objective k. The first
    and the last point of each objective get infinity. An objective without spread adds nothing.
    Points that tie in objective k are ordered by the objectives after it, so the order of the
    rows does not matter. A repeated row (all but its first) and a row with a NaN get 0: keeping
    them keeps nothing. A single point gets infinity.

    Args:
        values_NK: points of one front (or of one rank); nothing is removed for being dominated.

    Returns:
        float [N] in [0, K] or infinity; higher means lonelier.

    Source: Deb et al. 2002 (NSGA-II); C-MORL, arXiv 2410.02236, which picks the points to extend
    by it and divides by 0 if an objective is constant.
    """
    points = _points(values_NK)
    distance = np.zeros(len(points))
    complete = np.flatnonzero(_complete(points))
    distinct = complete[np.unique(points[complete], axis=0, return_index=True)[1]]
    if len(distinct) == 1:
        distance[distinct] = np.inf
    for k in range(points.shape[1]):
        rolled = np.roll(points[distinct], -k, axis=1)
        order = distinct[np.lexsort(rolled.T[::-1])]
        column = points[order, k]
        if not len(order) or column[0] == column[-1]:
            continue
        distance[order[1:-1]] += (column[2:] - column[:-2]) / (column[-1] - column[0])
        distance[order[[0, -1]]] = np.inf
    return distance


def knee(values_NK: ArrayLike) -> int:
    """Find the knee of the front: the point that lies farthest beyond its extremes.

    The hyperplane goes through the best point of each objective; the knee is the front point with
    the largest signed distance from it, towards better values. The choice does not depend on the
    objectives' units. The rest of the definition is for fronts without a clear knee:

    - Objectives in which the front does not vary are left out; a single point is its own knee.
    - If the best points span no hyperplane that falls in every objective (three objectives or
      more: one point is best in two of them), all objectives count equally, each in units of its
      range on the front.
    - Equal distances (within 1e-9 of the front's range, as on a straight front): the point whose
      worst objective, in units of the range, is best; then the first row.
    - A front that is everywhere hollow has no knee; its farthest points are the extremes, and one
      of them is returned.

    Args:
        values_NK: points, higher is better; dominated rows are ignored.

    Returns:
        Row index into `values_NK`.

    Raises:
        ValueError: no row is complete.

    Source: Das 1999 (distance from the hull of the individual optima); the fall-back to the
    ranges is that of NSGA-III, Deb and Jain 2014; the rule for ties is ours.
    """
    points = _points(values_NK)
    rows = np.flatnonzero(is_nondominated(points))
    front = _front(points, "values_NK")
    span = np.ptp(front, axis=0)
    varies = span > 0
    if not varies.any():
        return int(rows[0])
    unit = ((front - front.min(axis=0))[:, varies]) / span[varies]
    height = unit @ _normal(unit)
    farthest = height >= height.max() - 1e-9
    balance = np.where(farthest, unit.min(axis=1), -np.inf)
    return int(rows[np.argmax(balance)])


def maximin(values_NK: ArrayLike) -> int:
    """Find the point whose worst objective is best.

    With objectives that are groups of people it is the point that is best for the worst-off group.
    Of points that are equal there (within 1e-9), the one with the highest sum; then the first row.

    Args:
        values_NK: points, usually `normalise`d: objectives are compared with one another.

    Returns:
        Row index into `values_NK`.

    Raises:
        ValueError: no row is complete.

    Source: the maximin rule, Rawls 1971; as bargaining the egalitarian solution, Kalai 1977. The
    rule for ties is ours.
    """
    points = _points(values_NK)
    _measured(points, "values_NK")
    worst_N = np.where(_complete(points), points.min(axis=1), -np.inf)
    level_N = worst_N >= worst_N.max() - 1e-9
    return int(np.argmax(np.where(level_N, points.sum(axis=1), -np.inf)))


def nash_bargain(values_NK: ArrayLike, disagreement_K: ArrayLike) -> int | None:
    """Find the point with the largest product of gains over what there is without agreement.

    max_f prod_k (f_k - d_k) over the points with f_k > d_k for all k. An objective can be had in
    any units; the choice is the same. Of equal points (products within 1e-9 of each other, as a
    ratio), the first row.

    Args:
        values_NK: points, higher is better.
        disagreement_K: d, what every objective has if nothing is agreed on.

    Returns:
        Row index into `values_NK`; None if no point gains in every objective.

    Source: Nash 1950, "The bargaining problem", on convex sets, where it is unique; for a finite
    set of points, the same product.
    """
    disagreement = _vector(disagreement_K, "disagreement_K")
    gains = _points(values_NK, objectives=len(disagreement)) - disagreement
    agreed_N: NDArray[np.bool_] = np.all(gains > 0, axis=1)
    if not agreed_N.any():
        return None
    logs_N = np.log(np.where(agreed_N[:, None], gains, 1.0)).sum(axis=1)
    best = logs_N[agreed_N].max()
    return int(np.argmax(agreed_N & (logs_N >= best - 1e-9)))


def utility(values_NK: ArrayLike, preference_K: ArrayLike) -> Floats:
    """Weight the objectives of each point by one preference.

    Args:
        values_NK: points, usually `normalise`d.
        preference_K: non-negative, not all zero; divided by its sum, so (3, 1) is (.75, .25).

    Returns:
        float [N] in the values' units; NaN for a row with a NaN.

    Source: linear scalarisation.
    """
    preference = _preferences(np.asarray(preference_K, dtype=np.float64)[None], "preference_K")[0]
    utilities: Floats = _points(values_NK, objectives=len(preference)) @ preference
    return utilities


def expected_utility(values_NK: ArrayLike, preferences_WK: ArrayLike) -> float:
    """Average over the preferences the utility of the point that is best for each.

    Args:
        values_NK: points, usually `normalise`d.
        preferences_WK: one preference per row, each as in `utility`.

    Returns:
        Mean utility, in the values' units; higher is better.

    Raises:
        ValueError: no row is complete.

    Source: expected utility metric, Zintgraf et al. 2015.
    """
    return float(_best_utility(values_NK, preferences_WK, "values_NK").mean())


def max_utility_loss(
    values_NK: ArrayLike, reference_ZK: ArrayLike, preferences_WK: ArrayLike
) -> float:
    """Find the largest utility that a person loses by having this front and not the reference.

    Args:
        values_NK: points of the front that is judged.
        reference_ZK: points of the reference front.
        preferences_WK: one preference per row, each as in `utility`.

    Returns:
        max_w of best reference utility minus best own utility; lower is better, and negative if
        the front is better for every preference.

    Raises:
        ValueError: a set has no complete row.

    Source: maximum utility loss, Zintgraf et al. 2015.
    """
    wanted = _best_utility(reference_ZK, preferences_WK, "reference_ZK")
    return float((wanted - _best_utility(values_NK, preferences_WK, "values_NK")).max())


def r2(values_NK: ArrayLike, preferences_WK: ArrayLike, ideal_K: ArrayLike) -> float:
    """Average over the preferences the smallest weighted Chebyshev distance to the ideal.

    Args:
        values_NK: points, usually `normalise`d.
        preferences_WK: one preference per row, each as in `utility`.
        ideal_K: a point that nothing exceeds. A point beyond it counts as nearer than near.

    Returns:
        mean_w min_f max_k w_k (ideal_k - f_k); lower is better.

    Raises:
        ValueError: no row is complete.

    Source: Hansen and Jaszkiewicz 1998, the unary R2 of Brockhoff et al. 2012, without the
    absolute value, so that exceeding the ideal is never punished.
    """
    preferences = _preferences(preferences_WK, "preferences_WK")
    ideal = _vector(ideal_K, "ideal_K")
    _same_objectives(len(ideal), preferences.shape[1], "preferences_WK")
    regret_FK = ideal - _front(values_NK, "values_NK", objectives=len(ideal))
    return float((preferences[:, None] * regret_FK).max(axis=2).min(axis=1).mean())


def sparsity(values_NK: ArrayLike) -> float:
    """Average the squared gaps between neighbours on the front, each objective sorted by itself.

    Lower is better, but a single point scores 0: never report it alone.

    Args:
        values_NK: points; only the front among them counts, each of its points once.

    Returns:
        sum_k sum_i (f_k,i+1 - f_k,i)^2 / (points - 1); 0 with fewer than two points.

    Source: PGMORL, Xu et al. 2020.
    """
    points = _points(values_NK)
    front = np.sort(points[is_nondominated(points)], axis=0)
    if len(front) < 2:
        return 0.0
    return float((np.diff(front, axis=0) ** 2).sum() / (len(front) - 1))


def igd(values_NK: ArrayLike, reference_ZK: ArrayLike) -> float:
    """Average the distance from each point of the reference front to the nearest of the points.

    Every complete point counts, dominated ones too, so a worse set can score better: prefer
    `igd_plus`. Without a known front the reference is a union of what was found; call the result
    empirical then.

    Args:
        values_NK: points that are judged.
        reference_ZK: points of the reference front; only the front among them counts.

    Returns:
        mean_z min_f ||z - f||_2 >= 0; lower is better.

    Raises:
        ValueError: a set has no complete row.

    Source: inverted generational distance, Coello and Reyes Sierra 2004.
    """
    return float(np.linalg.norm(_gaps(values_NK, reference_ZK), axis=2).min(axis=1).mean())


def igd_plus(values_NK: ArrayLike, reference_ZK: ArrayLike) -> float:
    """Average how far each point of the reference front is from being matched: `igd` of deficits.

    Only what a point lacks counts, not what it has more, so dominated points change nothing.

    Args:
        values_NK: points that are judged.
        reference_ZK: points of the reference front; only the front among them counts.

    Returns:
        mean_z min_f ||max(z - f, 0)||_2 >= 0; lower is better.

    Raises:
        ValueError: a set has no complete row.

    Source: Ishibuchi et al. 2015.
    """
    deficits = np.maximum(_gaps(values_NK, reference_ZK), 0.0)
    return float(np.linalg.norm(deficits, axis=2).min(axis=1).mean())


def additive_epsilon(values_NK: ArrayLike, reference_ZK: ArrayLike) -> float:
    """Find the smallest shift, the same in every objective, after which all reference is matched.

    Args:
        values_NK: points that are judged.
        reference_ZK: points of the reference front.

    Returns:
        max_z min_f max_k (z_k - f_k); lower is better, at most 0 if nothing is missing.

    Raises:
        ValueError: a set has no complete row.

    Source: Zitzler et al. 2003.
    """
    return float(_gaps(values_NK, reference_ZK).max(axis=2).min(axis=1).max())


def coverage(values_NK: ArrayLike, other_MK: ArrayLike) -> float:
    """Say which share of the other set is matched or dominated by some point of this one.

    Not symmetric: report both directions.

    Args:
        values_NK: points of the set that covers.
        other_MK: points of the set that is covered; every complete row counts.

    Returns:
        Share in [0, 1].

    Raises:
        ValueError: a set has no complete row.

    Source: C metric, Zitzler and Thiele 1999.
    """
    points = _measured(values_NK, "values_NK")
    other = _measured(other_MK, "other_MK", objectives=points.shape[1])
    covers_MN: NDArray[np.bool_] = np.all(points >= other[:, None], axis=2)
    return float(covers_MN.any(axis=1).mean())


def dominance_rate(values_NK: ArrayLike, other_NK: ArrayLike) -> float:
    """Say in which share of the rows a point dominates the other set's point of the same row.

    Rows are pairs, such as two methods at equal seeds and preferences. Not symmetric, and both
    directions rarely add up to 1: report both.

    Args:
        values_NK: points of which is asked whether they dominate.
        other_NK: their partners, row by row. A pair with a NaN is left out.

    Returns:
        Share in [0, 1] of the complete pairs.

    Raises:
        ValueError: the sets have different numbers of rows, or no pair is complete.

    Source: Pareto dominance, counted over repetitions as reports of fronts do.
    """
    points = _points(values_NK)
    other = _points(other_NK, "other_NK", objectives=points.shape[1])
    if len(points) != len(other):
        raise ValueError(
            f"other_NK must have {len(points)} rows, one per point; found {len(other)}."
        )
    complete_N = _complete(points) & _complete(other)
    if not complete_N.any():
        raise ValueError("no pair of points is complete; at least one without NaN is needed.")
    points, other = points[complete_N], other[complete_N]
    dominates_N: NDArray[np.bool_] = np.all(points >= other, axis=1) & np.any(
        points > other, axis=1
    )
    return float(dominates_N.mean())


def first_on_front(values_NK: ArrayLike, steps_N: ArrayLike) -> float:
    """Find the step at which the first point of the front was there.

    Args:
        values_NK: points, higher is better.
        steps_N: when each was there: steps, tokens, or evaluations; finite.

    Returns:
        The smallest step of a point on the front; of equal points the earliest counts.

    Raises:
        ValueError: no row is complete.

    Source: the smallest step on a front, with which the analysis of Dynamic Reward Weighting
    (arXiv 2509.11452) labels its fronts over all checkpoints.
    """
    points = _points(values_NK)
    _measured(points, "values_NK")
    steps = _vector(steps_N, "steps_N", per="point")
    if len(steps) != len(points):
        raise ValueError(
            f"steps_N must have {len(points)} numbers, one per point; found {len(steps)}."
        )
    order = np.argsort(steps, kind="stable")
    return float(steps[order][is_nondominated(points[order])][0])


def mean_over_steps(values_S: ArrayLike, steps_S: ArrayLike, end: float) -> float:
    """Average over the steps a number that holds until the next one is measured.

    The area under a curve of, say, hypervolume against steps, divided by its width. It rewards
    what is found early. Before its first measurement the number counts as 0, and a curve that
    ends early keeps what it has.

    Args:
        values_S: the number at each measurement. One that is NaN leaves the earlier one standing.
        steps_S: when: steps, tokens, or evaluations; finite, at least 0, never falling. Of several
            measurements at one step the last counts.
        end: the step up to which is averaged, above 0; what comes later does not count.

    Returns:
        Mean in the values' units.

    Source: area under the curve of an indicator over time, a measure of anytime performance
    (López-Ibáñez and Stützle 2014 take the hypervolume under the attainment curve).
    """
    values = np.asarray(values_S, dtype=np.float64)
    steps = _vector(steps_S, "steps_S", per="measurement")
    if values.shape != steps.shape:
        raise ValueError(
            f"values_S must have {len(steps)} numbers, one per step; found shape {values.shape}."
        )
    if np.isinf(values).any():
        raise ValueError(f"values_S must be finite, or NaN; found {values.tolist()}.")
    if steps[0] < 0 or (np.diff(steps) < 0).any():
        raise ValueError(f"steps_S must be at least 0 and never fall; found {steps.tolist()}.")
    if not (np.isfinite(end) and end > 0):
        raise ValueError(f"end must be a finite number above 0; found {end}.")
    known_S = np.logical_not(np.isnan(values))
    ends = np.append(np.minimum(steps[known_S], end), end)
    return float(values[known_S] @ np.diff(ends) / end)


def _points(
    values_NK: ArrayLike, name: str = "values_NK", *, objectives: int | None = None
) -> Floats:
    """Check a set of points; an empty sequence is a set of none."""
    points: Floats = np.asarray(values_NK, dtype=np.float64)
    if points.shape == (0,):
        points = points.reshape(0, objectives or 1)
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(
            f"{name} must have shape (points, objectives); found {points.shape}. "
            "Give one row per point."
        )
    infinite_N = np.isinf(points).any(axis=1)
    if infinite_N.any():
        row = int(infinite_N.argmax())
        raise ValueError(
            f"{name} holds an infinite value in row {row}; values must be finite, "
            "or NaN where an objective was not measured."
        )
    if objectives is not None:
        _same_objectives(objectives, points.shape[1], name)
    return points


def _same_objectives(expected: int, found: int, name: str) -> None:
    if found != expected:
        raise ValueError(f"{name} must have {expected} objectives; found {found}.")


def _complete(points: Floats) -> NDArray[np.bool_]:
    return np.logical_not(np.isnan(points).any(axis=1))


def _measured(values_NK: ArrayLike, name: str, *, objectives: int | None = None) -> Floats:
    """The complete rows, at least one."""
    points = _points(values_NK, name, objectives=objectives)
    points = points[_complete(points)]
    if not len(points):
        raise ValueError(f"{name} holds no complete point; at least one row without NaN is needed.")
    return points


def _front(values_NK: ArrayLike, name: str, *, objectives: int | None = None) -> Floats:
    """The front among the rows, each of its points once, at least one."""
    points = _measured(values_NK, name, objectives=objectives)
    return points[is_nondominated(points)]


def _gaps(values_NK: ArrayLike, reference_ZK: ArrayLike) -> Floats:
    """What each point lacks to each point of the reference front: [Z, N, K]."""
    reference = _front(reference_ZK, "reference_ZK")
    points = _measured(values_NK, "values_NK", objectives=reference.shape[1])
    gaps: Floats = reference[:, None] - points
    return gaps


def _mixed_above(points: Floats, k: int) -> Floats:
    """The points at or above 0 in objective k, and where mixtures with those below it reach 0."""
    above, below = points[points[:, k] >= 0], points[points[:, k] < 0]
    share = above[:, k, None] / (above[:, k, None] - below[:, k])
    reached = above[:, None] + share[:, :, None] * (below - above[:, None])
    reached[:, :, k] = 0.0
    together = np.concatenate([above, reached.reshape(-1, points.shape[1])])
    return together[is_nondominated(together)]


def _vector(values_K: ArrayLike, name: str, per: str = "objective") -> Floats:
    vector = np.asarray(values_K, dtype=np.float64)
    if vector.ndim != 1 or not vector.size or not np.isfinite(vector).all():
        raise ValueError(f"{name} must be one finite number per {per}; found {vector.tolist()}.")
    return vector


def _preferences(preferences_WK: ArrayLike, name: str) -> Floats:
    """Check the preferences and put each on the simplex."""
    preferences = np.asarray(preferences_WK, dtype=np.float64)
    if preferences.ndim != 2 or not preferences.size:
        raise ValueError(
            f"{name} must hold one number per objective; found shape {preferences.shape}."
        )
    valid_W = np.isfinite(preferences).all(axis=1) & (preferences >= 0).all(axis=1)
    valid_W &= preferences.any(axis=1)
    if not valid_W.all():
        raise ValueError(
            f"{name} must be finite, non-negative and not all zero; "
            f"found {preferences[valid_W.argmin()].tolist()}."
        )
    simplex: Floats = preferences / preferences.sum(axis=1, keepdims=True)
    return simplex


def _best_utility(values_NK: ArrayLike, preferences_WK: ArrayLike, name: str) -> Floats:
    """Per preference, the utility of the best point."""
    preferences = _preferences(preferences_WK, "preferences_WK")
    points = _measured(values_NK, name, objectives=preferences.shape[1])
    best: Floats = (points @ preferences.T).max(axis=0)
    return best


def _normal(unit_FK: Floats) -> Floats:
    """Unit normal of the hyperplane through the best point of each objective."""
    objectives = unit_FK.shape[1]
    # Several points can be best in k: the one that is best in the rest as well is the extreme.
    best = [np.lexsort((unit_FK.sum(axis=1), unit_FK[:, k]))[-1] for k in range(objectives)]
    extremes = unit_FK[best]
    normal: Floats = np.ones(objectives)
    if np.linalg.matrix_rank(extremes) == objectives:
        through: Floats = np.linalg.inv(extremes).sum(axis=1)  # solves extremes @ through = 1
        if (through > 1e-9).all():
            normal = through
    return normal / float(np.linalg.norm(normal))
