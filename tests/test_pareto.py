"""Fronts and front metrics: golden values, closed forms, invariants, brute force."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from random import Random

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from moalign import pareto

Floats = NDArray[np.float64]
NAN = float("nan")
bounded = settings(derandomize=True, max_examples=60, deadline=None, database=None)


def grids(max_points: int = 7, max_objectives: int = 4, high: int = 4) -> st.SearchStrategy[Floats]:
    """Small integer points: ties, duplicates and dominated points are common, volumes exact."""
    shape = st.tuples(st.integers(1, max_points), st.integers(1, max_objectives))
    return shape.flatmap(lambda s: arrays(float, s, elements=st.integers(0, high).map(float)))


def cells(points: Floats, high: int = 4) -> int:
    """Hypervolume from 0 by counting the unit cells that some point covers."""
    corners = np.indices((high,) * points.shape[1]).reshape(points.shape[1], -1).T + 1
    return int((corners[:, None] <= points[None]).all(axis=2).any(axis=1).sum())


# The test vector of E1 that several metrics share.
F = [(1, 0), (0, 1), (0.7, 0.7)]
W = [(0, 1), (0.25, 0.75), (0.5, 0.5), (0.75, 0.25), (1, 0)]
Z = [(1, 0), (0.8, 0.8), (0, 1)]

STEPS = np.array([1, 3, 5, 7, 8, 9, 13, 14, 17, 19])
CONVEX = np.array([0.7, 8.2, 11.5, 14.0, 15.1, 16.1, 19.6, 20.3, 22.4, 23.7])
CONCAVE = np.array([1, 2, 3, 5, 8, 16, 24, 50, 74, 124.0])


def sea(treasure: Floats, gamma: float) -> Floats:
    """The deep-sea-treasure front: discounted treasure against discounted negative time."""
    if gamma == 1:
        return np.stack([treasure, -STEPS.astype(float)], axis=1)
    time_lost = (1 - gamma**STEPS) / (1 - gamma)
    return np.stack([gamma ** (STEPS - 1) * treasure, -time_lost], axis=1)


# The lowest value of the factor by which DH3 and DH4 multiply their second objective, near .85.
NEAR = np.linspace(0.8, 0.9, 100_001)
WELLS = 0.8 * np.exp(-(((NEAR - 0.35) / 0.25) ** 2)) + np.exp(-(((NEAR - 0.85) / 0.03) ** 2))
DEEPEST = float((2 - WELLS).min())


# --- golden values ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "volume"),
    [
        ([(3, 1), (1, 3), (2, 2)], 6),
        ([(1, 2, 3), (3, 1, 2), (2, 3, 1)], 13),
        (F, 0.49),
        ([(0.3, 0.5, 0.2, 0.9)], 0.027),
    ],
)
def test_hypervolume_known(points: list[tuple[float, ...]], volume: float) -> None:
    assert pareto.hypervolume(points, np.zeros(len(points[0]))) == pytest.approx(volume, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_hypervolume_of_the_lattices(n: int) -> None:
    line = [(i, n - 1 - i) for i in range(n)]
    beyond = [(i, n - i) for i in range(n + 1)]
    plane = [(x, y, n - 1 - x - y) for x in range(n) for y in range(n - x)]
    assert pareto.hypervolume(-np.array(line), [-n, -n]) == n**2 - n * (n - 1) / 2
    assert pareto.hypervolume(-np.array(line + beyond), [-n, -n]) == n**2 - n * (n - 1) / 2
    assert pareto.hypervolume(-np.array(plane), [-n] * 3) == n**3 - (n - 1) * n * (n + 1) / 6


@pytest.mark.parametrize("objectives", [2, 3, 4, 5])
def test_hypervolume_of_unit_vectors_among_dominated_points(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    inner = rng.integers(1, 10, size=(40, objectives))
    points = -np.concatenate([inner, np.eye(objectives)])
    volume = pareto.hypervolume(points, [-10] * objectives)
    assert volume == pytest.approx(10**objectives - 1, abs=1e-9)


@pytest.mark.parametrize(
    ("treasure", "floor", "gamma", "volume"),
    [
        (CONVEX, -25, 1, 401.8),
        (CONVEX, -25, 0.99, 360.4009463758157),
        (CONCAVE, -25, 1, 1155.0),
        (CONCAVE, -25, 0.99, 1101.3844295193444),
        (CONVEX, -50, 1, 994.3),
        (CONVEX, -50, 0.99, 854.8503500349924),
        (CONCAVE, -50, 1, 4255.0),
        (CONCAVE, -50, 0.99, 3688.3770900146155),
    ],
)
def test_hypervolume_of_deep_sea_treasure(
    treasure: Floats, floor: float, gamma: float, volume: float
) -> None:
    points = sea(treasure, gamma)
    assert pareto.is_nondominated(points).all()
    assert pareto.hypervolume(points, [0, floor]) == pytest.approx(volume, abs=1e-9)


def test_linear_utility_sees_only_the_ends_of_the_concave_sea() -> None:
    points = sea(CONCAVE, 1)
    found = {int(np.argmax(pareto.utility(points, (w, 1 - w)))) for w in np.linspace(0, 1, 1001)}
    assert found == {0, 9}


@pytest.mark.parametrize(
    ("front", "reference", "exact"),
    [
        (lambda x: 1 - np.sqrt(x), 11, 120 + 2 / 3),  # ZDT1
        (lambda x: 1 - x**2, 11, 120 + 1 / 3),  # ZDT2
        (lambda x: np.sqrt(1 - x**2), 1.1, 1.1**2 - math.pi / 4),  # DTLZ2, two objectives
        (lambda x: 1 - np.sqrt(x) - x * np.sin(10 * np.pi * x), 11, 128.77811613069076),  # ZDT3
        (lambda x: 1 - x**2, 1.1, 1.1**2 - 2 / 3),  # DH1, DH2
        (lambda x: DEEPEST * (1 - np.sqrt(x)), 1.1, 0.8815508302052821),  # DH3
        (lambda x: (DEEPEST - x) * (1 - np.sqrt(x)), 1.1, 0.9815500000000001),  # DH4
    ],
)
def test_hypervolume_of_sampled_fronts_approaches_the_integral_from_below(
    front: Callable[[Floats], Floats], reference: float, exact: float
) -> None:
    x = np.linspace(0, 1, 10001)
    points = -np.stack([x, front(x)], axis=1)
    volume = pareto.hypervolume(points, [-reference, -reference])
    assert exact - 1.1e-4 < volume < exact


@pytest.mark.parametrize(
    ("objectives", "parts", "reference"), [(2, 1000, 400), (3, 30, 400), (4, 10, 2)]
)
def test_hypervolume_of_dtlz1(objectives: int, parts: int, reference: float) -> None:
    """Of a lattice on its front, the simplex of sum 1/2, exactly; BoTorch forgets the m!."""
    bars = itertools.combinations(range(parts + objectives - 1), objectives - 1)
    ends = [(-1, *bar, parts + objectives - 1) for bar in bars]
    points = -(np.diff(np.array(ends), axis=1) - 1) / (2 * parts)
    assert pareto.is_nondominated(points).all()
    missed = math.comb(parts + objectives - 1, objectives) / (2 * parts) ** objectives
    volume = pareto.hypervolume(points, [-reference] * objectives)
    assert reference**objectives - volume == pytest.approx(missed, rel=1e-4)
    if objectives == 2:
        assert volume == pytest.approx(159999.875, abs=2e-4)


def test_hypervolume_of_dtlz2_in_three_objectives() -> None:
    rise, turn = (angles.ravel() for angles in np.mgrid[0:1:61j, 0:1:61j] * np.pi / 2)
    points = -np.stack([np.cos(rise) * np.cos(turn), np.cos(rise) * np.sin(turn), np.sin(rise)], 1)
    exact = 1.1**3 - math.pi / 6
    assert exact - 0.02 < pareto.hypervolume(points, [-1.1] * 3) < exact


def test_hypervolume_of_c2dtlz2() -> None:
    """What of the quarter circle is near its ends or its middle; the best of a search is below."""
    angle = np.linspace(0, np.pi / 2, 20_001)
    points = np.stack([np.cos(angle), np.sin(angle)], 1)
    ends = np.linalg.norm(points[:, None] - np.eye(2), axis=2).min(1) <= 0.2
    middle = np.linalg.norm(points - math.sqrt(0.5), axis=1) <= 0.2 * math.sqrt(2)
    volume = pareto.hypervolume(-points[ends | middle], [-1.1, -1.1])
    assert 0.3996406303723544 < volume < 0.3996406303723544 + 1e-3


def test_golden_values_of_the_other_metrics() -> None:
    assert pareto.expected_utility(F, W) == pytest.approx(0.84, abs=1e-12)
    assert pareto.sparsity(F) == pytest.approx(0.58, abs=1e-12)
    assert pareto.r2(F, W, (1, 1)) == pytest.approx(0.12, abs=1e-12)
    assert pareto.igd(F, Z) == pytest.approx(math.sqrt(0.02) / 3, abs=1e-12)
    assert pareto.igd_plus(F, Z) == pytest.approx(0.04714, abs=5e-6)
    assert pareto.additive_epsilon(F, Z) == pytest.approx(0.1, abs=1e-12)
    assert pareto.max_utility_loss(F, Z, W) == pytest.approx(0.1, abs=1e-12)
    assert pareto.coverage(F, Z) == pytest.approx(2 / 3)
    assert pareto.coverage(Z, F) == 1.0


def test_crowding_of_cmorl() -> None:
    distance = pareto.crowding_distance([(0, 4), (1, 2), (3, 1), (4, 0)])
    assert distance.tolist() == [math.inf, 1.5, 1.25, math.inf]


def test_linear_scalarisation_misses_the_hollow_point_and_chebyshev_finds_it() -> None:
    hollow = [(1, 0), (0, 1), (0.4, 0.4)]
    for w in np.linspace(0, 1, 101):
        assert np.argmax(pareto.utility(hollow, (w, 1 - w))) != 2
    assert pareto.r2(hollow, [(0.5, 0.5)], (1, 1)) == pytest.approx(0.3)
    assert pareto.r2(hollow[:2], [(0.5, 0.5)], (1, 1)) == pytest.approx(0.5)


# --- dominance --------------------------------------------------------------------------------


def dominates(a: Floats, b: Floats) -> bool:
    return bool((a >= b).all() and (a > b).any())


@bounded
@given(grids(max_objectives=5))
def test_nondominated_by_definition(points: Floats) -> None:
    expected = [
        not any(dominates(q, p) for q in points) and not any((q == p).all() for q in points[:i])
        for i, p in enumerate(points)
    ]
    assert pareto.is_nondominated(points).tolist() == expected


@bounded
@given(grids(max_objectives=5))
def test_ranks_by_definition(points: Floats) -> None:
    ranks = pareto.dominance_ranks(points)
    assert ranks.min() == 0
    for p, rank in zip(points, ranks, strict=True):
        above = [r for q, r in zip(points, ranks, strict=True) if dominates(q, p)]
        assert rank == max(above, default=-1) + 1


def test_nondominated_keeps_the_first_of_many_equal_points_in_every_dimension() -> None:
    for objectives in (1, 2, 3, 4, 5, 8):
        points = np.tile(np.eye(objectives), (40, 1))
        front = pareto.is_nondominated(points)
        assert np.flatnonzero(front).tolist() == list(range(objectives))


def test_rows_with_nan_are_never_on_the_front() -> None:
    points = [(NAN, 9), (1, 1), (2, 0), (9, NAN), (0, 0)]
    assert pareto.is_nondominated(points).tolist() == [False, True, True, False, False]
    assert pareto.dominance_ranks(points).tolist() == [2, 0, 0, 2, 1]
    assert pareto.dominance_ranks([(NAN, 1), (1, NAN)]).tolist() == [0, 0]
    assert pareto.hypervolume(points, (0, 0)) == 1.0
    assert pareto.hypervolume_contributions([(NAN, 9), (2, 3)], (0, 0)).tolist() == [0, 6]
    assert pareto.crowding_distance(points)[[0, 3]].tolist() == [0, 0]
    assert np.isnan(pareto.utility(points, (1, 1))).tolist() == [True, False, False, True, False]
    assert pareto.expected_utility(points, [(1, 0)]) == 2.0
    assert pareto.knee([(NAN, 9), (1, 0), (0, 1), (0.9, 0.9)]) == 3


def test_empty_sets() -> None:
    assert pareto.is_nondominated([]).tolist() == []
    assert pareto.dominance_ranks(np.empty((0, 3))).tolist() == []
    assert pareto.hypervolume([], (0, 0, 0)) == 0.0
    assert pareto.hypervolume([(NAN, 1)], (0, 0)) == 0.0
    assert pareto.hypervolume_contributions([], (0, 0)).shape == (0,)
    assert pareto.crowding_distance([]).tolist() == []
    assert pareto.sparsity([]) == 0.0


# --- hypervolume ------------------------------------------------------------------------------


@bounded
@given(grids(max_objectives=5))
def test_hypervolume_counts_cells(points: Floats) -> None:
    volume = pareto.hypervolume(points, np.zeros(points.shape[1]))
    assert volume == pytest.approx(cells(points), abs=1e-9)


@bounded
@given(grids(), st.randoms(use_true_random=False))
def test_hypervolume_ignores_order_duplicates_and_dominated_points(
    points: Floats, random: Random
) -> None:
    reference = np.zeros(points.shape[1])
    volume = pareto.hypervolume(points, reference)
    rows, axes = list(range(len(points))), list(range(points.shape[1]))
    random.shuffle(rows)
    random.shuffle(axes)
    more = np.concatenate([points, points, np.maximum(points - 1, 0)])
    assert pareto.hypervolume(points[rows][:, axes], reference) == pytest.approx(volume, abs=1e-9)
    assert pareto.hypervolume(more, reference) == pytest.approx(volume, abs=1e-9)
    assert pareto.hypervolume(points + 0.5, reference + 0.5) == pytest.approx(volume, abs=1e-9)


@bounded
@given(grids())
def test_hypervolume_never_falls_and_below_the_reference_adds_nothing(points: Floats) -> None:
    reference = np.full(points.shape[1], 2.0)
    volumes = [pareto.hypervolume(points[:n], reference) for n in range(len(points) + 1)]
    assert volumes[0] == 0.0
    assert (np.diff(volumes) >= -1e-12).all()
    above = points[(points > reference).all(axis=1)]
    assert volumes[-1] == pytest.approx(pareto.hypervolume(above, reference), abs=1e-9)
    assert volumes[-1] == pytest.approx(cells(np.maximum(points - 2, 0), high=2), abs=1e-9)


def test_below_the_reference_in_the_last_axis_is_zero_not_negative() -> None:
    assert pareto.hypervolume([(1, 1), (2, -1)], (0, 0)) == 1.0
    assert pareto.hypervolume([(2, -1)], (0, 0)) == 0.0
    assert pareto.hypervolume([(-1, -1)], (0, 0)) == 0.0


@bounded
@given(grids(max_objectives=4))
def test_contributions_are_what_removing_the_point_loses(points: Floats) -> None:
    reference = np.zeros(points.shape[1])
    contributions = pareto.hypervolume_contributions(points, reference)
    for i, contribution in enumerate(contributions):
        lost = cells(points) - cells(np.delete(points, i, axis=0))
        assert contribution == pytest.approx(lost, abs=1e-9)


def test_contributions_known() -> None:
    contributions = pareto.hypervolume_contributions([(3, 1), (1, 3), (2, 2), (1, 1)], (0, 0))
    assert contributions.tolist() == [1, 1, 1, 0]
    assert pareto.hypervolume_contributions([(2, 2), (2, 2)], (0, 0)).tolist() == [0, 0]
    assert pareto.hypervolume_contributions([(3, 3), (2, 2)], (0, 0)).tolist() == [5, 0]


@pytest.mark.alone
def test_three_hundred_points_in_three_objectives_take_less_than_20_ms() -> None:
    directions = np.abs(np.random.default_rng(0).normal(size=(300, 3)))
    points = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    assert pareto.is_nondominated(points).all()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        volume = pareto.hypervolume(points, (0, 0, 0))
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.020
    assert 0.45 < volume < math.pi / 6


# --- the other metrics ------------------------------------------------------------------------


@bounded
@given(grids(max_objectives=3), st.integers(0, 10**6))
def test_dominated_points_and_duplicates_change_no_compliant_metric(
    points: Floats, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    objectives = points.shape[1]
    preferences = rng.dirichlet(np.ones(objectives), size=6)
    reference = rng.uniform(0, 5, size=(5, objectives))
    more = np.concatenate([points, points[:1], points - rng.uniform(0, 2, size=points.shape)])
    ideal = np.full(objectives, 5.0)
    for metric in (
        lambda p: pareto.expected_utility(p, preferences),
        lambda p: pareto.max_utility_loss(p, reference, preferences),
        lambda p: pareto.r2(p, preferences, ideal),
        lambda p: pareto.igd_plus(p, reference),
        lambda p: pareto.additive_epsilon(p, reference),
        pareto.sparsity,
        lambda p: pareto.coverage(p, reference),
    ):
        assert metric(more) == pytest.approx(metric(points), abs=1e-12)


def test_metrics_agree_with_moocore() -> None:
    rng = np.random.default_rng(1)
    points, other = rng.uniform(size=(8, 3)), rng.uniform(size=(12, 3))
    reference = other[pareto.is_nondominated(other)]
    for own, theirs in (
        (pareto.igd, moocore.igd),
        (pareto.igd_plus, moocore.igd_plus),
        (pareto.additive_epsilon, moocore.epsilon_additive),
    ):
        assert own(points, other) == pytest.approx(theirs(points, reference, maximise=True))


def test_a_better_front_is_better() -> None:
    better = [(1, 0), (0, 1), (0.8, 0.8)]
    assert pareto.expected_utility(better, W) > pareto.expected_utility(F, W)
    assert pareto.r2(better, W, (1, 1)) < pareto.r2(F, W, (1, 1))
    assert pareto.igd_plus(better, Z) == 0 < pareto.igd_plus(F, Z)
    assert pareto.additive_epsilon(better, Z) == 0
    assert pareto.additive_epsilon([(2, 2)], Z) == -1
    assert pareto.max_utility_loss(better, F, W) == 0
    assert pareto.max_utility_loss([(2, 2)], F, W) == -1


def test_igd_punishes_a_better_point_and_igd_plus_does_not() -> None:
    beyond = [(1, 0), (0, 1), (0.9, 0.9)]
    assert pareto.igd(beyond, Z) > 0
    assert pareto.igd_plus(beyond, Z) == 0


def test_utility_puts_the_preference_on_the_simplex() -> None:
    points = [(0.2, 0.6), (1, 0)]
    assert pareto.utility(points, (3, 1)) == pytest.approx([0.3, 0.75])
    assert pareto.utility(points, (0.75, 0.25)) == pytest.approx([0.3, 0.75])
    assert pareto.expected_utility(F, np.array(W) * 7) == pytest.approx(0.84)
    assert pareto.r2(F, np.array(W) * 7, (1, 1)) == pytest.approx(0.12)


def test_sparsity_of_few_points() -> None:
    assert pareto.sparsity([(1, 2)]) == 0.0
    assert pareto.sparsity([(1, 2), (1, 2)]) == 0.0
    assert pareto.sparsity([(0, 1), (1, 0)]) == 2.0


def test_normalise() -> None:
    values = [[[5.0, -1.0], [NAN, 3.0]]]
    unit = pareto.normalise(values, [(0, 10), (-1, 1)])
    np.testing.assert_array_equal(unit, [[[0.5, 0.0], [NAN, 2.0]]])


# --- crowding ---------------------------------------------------------------------------------


@bounded
@given(grids(), st.randoms(use_true_random=False))
def test_crowding_follows_the_rows_and_ignores_units(points: Floats, random: Random) -> None:
    distance = pareto.crowding_distance(points)
    scaled = points * np.arange(1.0, points.shape[1] + 1) + 3
    assert pareto.crowding_distance(scaled) == pytest.approx(distance)
    distinct, first = np.unique(points, axis=0, return_index=True)
    rows = list(range(len(distinct)))
    random.shuffle(rows)
    assert pareto.crowding_distance(distinct[rows]) == pytest.approx(distance[first][rows])
    assert (np.delete(distance, first) == 0).all()


def test_crowding_does_not_depend_on_the_order_of_the_objectives() -> None:
    points = np.random.default_rng(2).uniform(size=(12, 3))
    for axes in itertools.permutations(range(3)):
        assert pareto.crowding_distance(points[:, axes]) == pytest.approx(
            pareto.crowding_distance(points)
        )


def test_crowding_of_degenerate_sets() -> None:
    constant = [(0, 5, 1), (1, 5, 0), (0.5, 5, 0.5)]
    assert pareto.crowding_distance(constant).tolist() == [math.inf, math.inf, 2.0]
    assert pareto.crowding_distance([(1, 1)]).tolist() == [math.inf]
    assert pareto.crowding_distance([(1, 1), (1, 1)]).tolist() == [math.inf, 0]
    repeated = [(0, 4), (1, 2), (1, 2), (3, 1), (4, 0)]
    assert pareto.crowding_distance(repeated).tolist() == [math.inf, 1.5, 0, 1.25, math.inf]


# --- knee -------------------------------------------------------------------------------------


def test_knee_bulges_most() -> None:
    front = np.array([(0, 1), (0.5, 0.95), (0.9, 0.9), (0.97, 0.4), (1, 0)])
    assert pareto.knee(front) == 2
    assert pareto.knee(front * (1000, 0.001) - (7, 7)) == 2
    assert pareto.knee(front[:, ::-1]) == 2
    assert pareto.knee(np.concatenate([[(0.5, 0.5), (0.9, 0.89)], front])) == 4


def test_knee_in_three_objectives_is_farthest_from_the_plane_through_the_best_points() -> None:
    # Plane through the rows 0..2: 0.6 x + 0.6 y + z = 1 (not x + y + z = 1, which picks row 4).
    front = np.array([(1, 0, 0.4), (0, 1, 0.4), (0, 0, 1), (0.5, 0.5, 0.75), (0.9, 0.9, 0.05)])
    distance = front @ (0.6, 0.6, 1)
    assert distance[:3] == pytest.approx([1, 1, 1])
    assert np.argmax(distance) == 3
    assert np.argmax(front.sum(axis=1)) == 4
    assert pareto.knee(front) == 3


def test_knee_takes_as_extreme_the_best_of_those_that_tie() -> None:
    # Rows 0 and 1 are both best in x; row 0 lacks less, and the plane through it picks row 4.
    front = np.array(
        [(1, 0.5, 0), (1, 0, 0.2), (0, 1, 0), (0, 0, 1), (0.5, 0.2, 0.6), (0.5, 0.7, 0)]
    )
    assert np.argmax(front @ np.linalg.solve(front[[0, 2, 3]], np.ones(3))) == 4
    assert np.argmax(front @ np.linalg.solve(front[[1, 2, 3]], np.ones(3))) == 0
    assert pareto.knee(front) == 4


def test_knee_without_a_plane_counts_objectives_equally() -> None:
    # Row 0 is best in two objectives, so the best points span no plane.
    front = np.array([(1, 1, 0), (0, 0, 1), (0.9, 0.1, 0.6), (0.6, 0.6, 0.9)])
    assert pareto.knee(front) == 3
    assert pareto.knee(front * (1000, 1, 1)) == 3
    # The plane through rows 0 to 2 rises in x (normal (-.8, 1, 1)) and would pick row 3.
    front = np.array([(1, 0.9, 0.9), (0, 1, 0), (0, 0, 1), (0.2, 0.95, 0.85)])
    assert np.argmax(front @ (-0.8, 1, 1)) == 3
    assert pareto.knee(front) == 0


def test_knee_of_a_straight_front_is_the_middle_in_spite_of_rounding() -> None:
    x = np.linspace(0, 0.7, 15)
    front = np.stack([x, 3 * (0.7 - x)], axis=1)
    assert len({float(h) for h in front @ (3, 1)}) > 1
    assert pareto.knee(front) == 7


def test_knee_of_degenerate_fronts() -> None:
    assert pareto.knee([(3, 4)]) == 0
    assert pareto.knee([(1, 1), (3, 4), (3, 4)]) == 1
    assert pareto.knee([(2,), (5,), (3,)]) == 1
    assert pareto.knee([(1, 0), (0, 1)]) == 0
    assert pareto.knee([(1, 0), (0.75, 0.25), (0.5, 0.5), (0, 1)]) == 2  # straight: most balanced
    assert pareto.knee([(1, 5, 0), (0, 5, 1), (0.7, 5, 0.7)]) == 2  # one constant objective
    assert pareto.knee([(0.4, 0.4), (1, 0), (0, 1)]) == 1  # hollow: an extreme


@bounded
@given(grids(max_objectives=3))
def test_knee_is_on_the_front_and_does_not_depend_on_units(points: Floats) -> None:
    knee = pareto.knee(points)
    assert pareto.is_nondominated(points)[knee]
    assert pareto.knee(points * 4.0 - 3) == knee


# --- mixtures: the hull -----------------------------------------------------------------------


def lattice(count: int, parts: int) -> Floats:
    """All shares of `count` points that are multiples of 1 / parts."""
    grid = np.indices((parts + 1,) * count).reshape(count, -1).T
    return grid[grid.sum(axis=1) == parts] / parts


@pytest.mark.parametrize(
    ("points", "reference", "volume"),
    [
        ([(1, 0), (0, 1)], (0, 0), 1 / 2),  # the points alone have 0
        (np.eye(3), (0, 0, 0), 1 / 6),
        (np.eye(4), (0, 0, 0, 0), 1 / 24),
        ([(1, 0.5), (0.5, 1)], (0, 0), 0.875),  # 3/4 of the points and half of the notch
        ([(1, 1)], (0, 0), 1),
        ([(3,), (2,)], (1,), 2),
        ([(2, -1), (-1, 2)], (0, 0), 1 / 2),  # both below the reference, mixtures above it
        ([(2, -1), (0, 1)], (0, 0), 1 / 2),
        ([(1, -1), (-1, 1)], (0, 0), 0),  # through the reference
        ([(-1, -1)], (0, 0), 0),
        ([(1, 0)], (0, 0), 0),
        ([(1, 0), (0, 1), (NAN, 9)], (0, 0), 1 / 2),
        ([], (0, 0), 0),
        ([(NAN, 1)], (0, 0), 0),
        ([(1e6, 0), (0, 1e-6)], (0, 0), 1 / 2),
    ],
)
def test_hull_hypervolume_known(points, reference, volume) -> None:
    assert pareto.hull_hypervolume(points, reference) == pytest.approx(volume, abs=1e-12)


@pytest.mark.parametrize(("objectives", "parts"), [(2, 60), (3, 16)])
def test_hull_hypervolume_is_that_of_many_mixtures(objectives: int, parts: int) -> None:
    rng = np.random.default_rng(0)
    for low in (0.0, -0.4):  # some points below the reference in the second round
        points = rng.uniform(low, 1, (5, objectives))
        few = itertools.combinations(points, objectives)
        mixtures = np.concatenate([lattice(objectives, parts) @ np.array(part) for part in few])
        counted = pareto.hypervolume(mixtures, np.zeros(objectives))
        exact = pareto.hull_hypervolume(points, np.zeros(objectives))
        # Every mixture lies within 1 / parts of one that was counted, from above.
        assert counted - 1e-12 <= exact <= counted + objectives * (1 - low) / parts


@bounded
@given(grids(max_objectives=3), st.integers(0, 3), st.data())
def test_hull_hypervolume_of_more_points_is_no_less(
    points: Floats, level: int, data: st.DataObject
) -> None:
    reference = np.full(points.shape[1], float(level))
    volume = pareto.hull_hypervolume(points, reference)
    assert volume >= pareto.hypervolume(points, reference) - 1e-9
    row = data.draw(arrays(float, points.shape[1], elements=st.integers(0, 4).map(float)))
    more = pareto.hull_hypervolume(np.vstack([points, row]), reference)
    assert more >= volume - 1e-9
    worse = points - 1.0  # each dominated
    mixed = points.mean(axis=0, keepdims=True)
    same = pareto.hull_hypervolume(np.vstack([worse, mixed, points, points]), reference)
    assert same == pytest.approx(volume, abs=1e-9)
    moved = pareto.hull_hypervolume(points[:, ::-1] * 2.0 + 1, reference * 2 + 1)
    assert moved == pytest.approx(volume * 2 ** points.shape[1], abs=1e-9)


# --- the worst objective, the bargain ---------------------------------------------------------


def test_maximin_looks_at_the_worst_objective() -> None:
    assert pareto.maximin([(1, 0), (0, 1), (0.4, 0.5), (NAN, 9)]) == 2
    assert pareto.maximin([(0.4, 0.5), (0.6, 0.4), (0.4, 0.4)]) == 1, "ties: the highest sum"
    assert pareto.maximin([(0.4, 0.6), (0.6, 0.4)]) == 0, "then the first"
    assert pareto.maximin([(3,), (5,)]) == 1
    with pytest.raises(ValueError, match="no complete point"):
        pareto.maximin([(NAN, 1)])


@bounded
@given(grids())
def test_maximin_is_the_best_of_the_worst(points: Floats) -> None:
    chosen = pareto.maximin(points)
    assert points[chosen].min() == points.min(axis=1).max()
    assert pareto.is_nondominated(np.vstack([points[chosen], points]))[0], "it is on the front"


def test_nash_bargain_known() -> None:
    points = [(1, 0), (0.7, 0.6), (0.5, 0.8), (0.1, 1), (NAN, 9)]
    assert pareto.nash_bargain(points, (0, 0)) == 1  # .42 against .40
    assert pareto.nash_bargain(points, (0.2, 0.5)) == 2  # .09 against .05
    assert pareto.nash_bargain(points, (0.7, 0.6)) is None, "no gain is no agreement"
    assert pareto.nash_bargain([(2, 3), (3, 2)], (0, 0)) == 0, "ties: the first"
    assert pareto.nash_bargain([], (0, 0)) is None
    with pytest.raises(ValueError, match="disagreement_K"):
        pareto.nash_bargain(points, (0, NAN))


@bounded
@given(grids(max_objectives=3), st.integers(-1, 3))
def test_nash_bargain_does_not_depend_on_units(points: Floats, level: int) -> None:
    disagreement = np.full(points.shape[1], float(level))
    chosen = pareto.nash_bargain(points, disagreement)
    gains = points - disagreement
    able = (gains > 0).all(axis=1)
    assert (chosen is None) == (not able.any())
    if chosen is not None:
        assert gains[chosen].prod() == gains[able].prod(axis=1).max()
        units = np.arange(points.shape[1]) + 2.0
        assert pareto.nash_bargain(points * units - 3, disagreement * units - 3) == chosen


# --- over seeds and steps ----------------------------------------------------------------------


def test_dominance_rate_counts_pairs() -> None:
    mine = [(1, 1), (1, 1), (1, 0), (2, 2), (NAN, 9), (9, 9)]
    theirs = [(1, 0), (1, 1), (0, 1), (3, 3), (0, 0), (0, NAN)]
    assert pareto.dominance_rate(mine, theirs) == 1 / 4, "equal points dominate nothing"
    assert pareto.dominance_rate(theirs, mine) == 1 / 4
    assert pareto.dominance_rate(mine[:1], theirs[:1]) == 1.0


def test_the_first_point_of_the_front_is_the_earliest_that_stays_on_it() -> None:
    points = [(0, 2), (1, 1), (2, 0), (1, 2), (NAN, 9)]
    assert pareto.first_on_front(points, [10, 0, 30, 20, 0]) == 20, "(0, 2) is dominated, too"
    assert pareto.first_on_front([(1, 1), (1, 1)], [7, 3]) == 3, "equal points: the earliest"


@bounded
@given(grids(max_objectives=3))
def test_the_first_step_is_that_of_a_point_that_nothing_dominates(points: Floats) -> None:
    steps = np.arange(len(points))[::-1]
    dominated = [((points >= p).all(1) & (points > p).any(1)).any() for p in points]
    assert pareto.first_on_front(points, steps) == steps[~np.array(dominated)].min()


def test_the_mean_over_steps_is_the_area_under_steps() -> None:
    # 0 for 2 steps, .5 for 3, 1 for 5: 1.5 + 5 of 10.
    assert pareto.mean_over_steps([0.5, 1.0], [2, 5], 10) == pytest.approx(0.65)
    assert pareto.mean_over_steps([0.5, 1.0], [2, 5], 4) == pytest.approx(0.25), "cut off"
    assert pareto.mean_over_steps([0.5, 1.0], [2, 5], 2) == 0.0
    assert pareto.mean_over_steps([0.5, NAN, 1.0], [2, 4, 5], 10) == pytest.approx(0.65)
    assert pareto.mean_over_steps([0.5, 0.7, 1.0], [2, 5, 5], 10) == pytest.approx(0.65)
    assert pareto.mean_over_steps([3.0], [0], 7) == pytest.approx(3.0)
    assert pareto.mean_over_steps([NAN], [0], 7) == 0.0


def test_who_finds_the_same_sooner_has_the_higher_mean_over_steps() -> None:
    early = pareto.mean_over_steps([0.2, 0.8, 0.8], [1, 2, 3], 4)
    late = pareto.mean_over_steps([0.2, 0.2, 0.8], [1, 2, 3], 4)
    assert early - late == pytest.approx(0.6 / 4)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: pareto.dominance_rate([(1, 1)], [(1, 1), (2, 2)]),
            r"other_NK must have 1 rows, one per point; found 2\.",
        ),
        (
            lambda: pareto.dominance_rate([(1, NAN)], [(1, 1)]),
            "no pair of points is complete; at least one without NaN is needed",
        ),
        (
            lambda: pareto.first_on_front([(NAN, 1)], [1]),
            "values_NK holds no complete point",
        ),
        (
            lambda: pareto.first_on_front([(1, 1)], [1, 2]),
            r"steps_N must have 1 numbers, one per point; found 2\.",
        ),
        (
            lambda: pareto.mean_over_steps([1.0], [1, 2], 3),
            r"values_S must have 2 numbers, one per step; found shape \(1,\)\.",
        ),
        (
            lambda: pareto.mean_over_steps([1.0, 2.0], [2, 1], 3),
            r"steps_S must be at least 0 and never fall; found \[2\.0, 1\.0\]\.",
        ),
        (
            lambda: pareto.mean_over_steps([math.inf], [1], 3),
            r"values_S must be finite, or NaN; found \[inf\]\.",
        ),
        (
            lambda: pareto.mean_over_steps([1.0], [NAN], 3),
            r"steps_S must be one finite number per measurement; found \[nan\]",
        ),
        (
            lambda: pareto.mean_over_steps([1.0], [1], 0),
            r"end must be a finite number above 0; found 0\.",
        ),
    ],
)
def test_wrong_steps_are_refused_with_a_sentence(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: pareto.is_nondominated([1, 2, 3]),
            r"values_NK must have shape \(points, objectives\); found \(3,\)\. "
            r"Give one row per point\.",
        ),
        (
            lambda: pareto.dominance_ranks([(0, 1), (math.inf, 2)]),
            "values_NK holds an infinite value in row 1; values must be finite, "
            "or NaN where an objective was not measured.",
        ),
        (
            lambda: pareto.hypervolume([(1, 2, 3)], (0, 0)),
            "values_NK must have 2 objectives; found 3.",
        ),
        (
            lambda: pareto.hypervolume([(1, 2)], (0, NAN)),
            r"reference_K must be one finite number per objective; found \[0.0, nan\]",
        ),
        (
            lambda: pareto.expected_utility([(NAN, 1)], [(1, 1)]),
            "values_NK holds no complete point; at least one row without NaN is needed.",
        ),
        (
            lambda: pareto.knee([]),
            "values_NK holds no complete point",
        ),
        (
            lambda: pareto.igd([(1, 1)], [(NAN, 1)]),
            "reference_ZK holds no complete point",
        ),
        (
            lambda: pareto.igd([(1, 1)], [(1, 1, 1)]),
            "values_NK must have 3 objectives; found 2.",
        ),
        (
            lambda: pareto.coverage([(1, 1)], [(1,)]),
            "other_MK must have 2 objectives; found 1.",
        ),
        (
            lambda: pareto.utility([(1, 1)], (1, -1)),
            r"preference_K must be finite, non-negative and not all zero; found \[1.0, -1.0\]",
        ),
        (
            lambda: pareto.expected_utility([(1, 1)], [(1, 1), (0, 0)]),
            r"preferences_WK must be finite, non-negative and not all zero; found \[0.0, 0.0\]",
        ),
        (
            lambda: pareto.expected_utility([(1, 1)], [(1, NAN)]),
            r"preferences_WK must be finite, non-negative and not all zero; found \[1.0, nan\]",
        ),
        (
            lambda: pareto.r2([(1, 1)], (1, 1), (1, 1)),
            r"preferences_WK must hold one number per objective; found shape \(2,\)",
        ),
        (
            lambda: pareto.r2([(1, 1)], [(1, 1, 1)], (1, 1)),
            "preferences_WK must have 2 objectives; found 3.",
        ),
        (
            lambda: pareto.normalise([(1, 1)], [(0, 1), (1, 1)]),
            "bounds_K2 must be finite with low < high; found",
        ),
        (
            lambda: pareto.normalise([(1, 1)], [0, 1]),
            r"bounds_K2 must have shape \(objectives, 2\); found \(2,\)",
        ),
        (
            lambda: pareto.normalise([(1, 1, 1)], [(0, 1), (0, 1)]),
            r"values must have 2 objectives on the last axis, as the bounds have; "
            r"found shape \(1, 3\)",
        ),
    ],
)
def test_wrong_input_is_refused_with_a_sentence(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


# --- the gradient of the hypervolume ------------------------------------------------------------


def test_hypervolume_gradient_in_closed_form() -> None:
    alone = pareto.hypervolume_gradient([0.5, 0.4, 0.2], np.zeros((0, 3)), [0, 0, 0])
    assert alone == pytest.approx([0.08, 0.1, 0.2])  # the faces of its box
    front = [(3, 1), (1, 3)]
    assert pareto.hypervolume_gradient([2, 2], front, [0, 0]) == pytest.approx([1, 1])
    assert pareto.hypervolume_gradient([2, 1.5], front, [0, 0]) == pytest.approx([0.5, 1])
    assert pareto.hypervolume_gradient([4, 0.5], front, [0, 0]) == pytest.approx([0.5, 1])
    assert pareto.hypervolume_gradient([2.0], [(1.0,)], [0.0]).tolist() == [1.0]
    assert pareto.hypervolume_gradient([1.0], [(2.0,)], [0.0]).tolist() == [0.0]


def test_hypervolume_gradient_is_zero_where_no_small_step_gains() -> None:
    for point in ([1, 1], [2.9, 0.9], [-0.1, 9], [9, -0.1]):
        assert pareto.hypervolume_gradient(point, [(3, 1.1), (1, 3)], [0, 0]).tolist() == [0, 0]


def test_hypervolume_gradient_looks_upwards_at_ties() -> None:
    assert pareto.hypervolume_gradient([2, 2], [(2, 2)], [0, 0]).tolist() == [2, 2]
    assert pareto.hypervolume_gradient([2, 2], [(2, 3)], [0, 0]).tolist() == [2, 0]
    assert pareto.hypervolume_gradient([0, 2], [], [0, 0]).tolist() == [2, 0]


@pytest.mark.parametrize("objectives", [1, 2, 3, 4, 5])
def test_hypervolume_gradient_agrees_with_finite_differences(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    compared = 0
    for _ in range(40):
        points = rng.random((int(rng.integers(0, 8)), objectives))
        point, reference = 0.2 + rng.random(objectives), np.full(objectives, 0.1)
        found = pareto.hypervolume_gradient(point, points, reference)
        before = pareto.hypervolume([*points, point], reference)
        for k in range(objectives):
            raised = point.copy()
            raised[k] += 1e-7
            slope = (pareto.hypervolume([*points, raised], reference) - before) / 1e-7
            assert found[k] == pytest.approx(slope, abs=1e-5)
            compared += found[k] > 0
    assert compared > 20


@bounded
@given(grids())
def test_hypervolume_gradient_counts_the_cells_of_a_face(points: Floats) -> None:
    point, others, reference = points[0], points[1:], np.zeros(points.shape[1])
    found = pareto.hypervolume_gradient(point, others, reference)
    for k in range(points.shape[1]):
        raised = point.copy()
        raised[k] += 1  # on integer points volume is linear up to the next integer
        gained = cells(np.vstack([others, raised]), high=5) - cells(np.vstack([others, point]), 5)
        assert found[k] == pytest.approx(gained)


def test_hypervolume_gradient_refuses_another_number_of_objectives() -> None:
    with pytest.raises(ValueError, match="point_K must have 2 objectives; found 3"):
        pareto.hypervolume_gradient([1, 2, 3], [(1, 2)], [0, 0])
