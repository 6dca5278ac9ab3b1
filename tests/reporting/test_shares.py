"""Shares of mixtures: closed forms, brute force, and what no other mixture can beat."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moalign import pareto
from moalign.reporting import shares
from moalign.reporting.statistics import Floats, mean_and_stderr

NAN = float("nan")
CORNERS = np.eye(2)
few = settings(derandomize=True, max_examples=20, deadline=None, database=None)


def free(points: Floats) -> Floats:
    """No thresholds."""
    return np.zeros((len(points), 0))


def lattice(count: int, parts: int) -> Floats:
    grid = np.indices((parts + 1,) * count).reshape(count, -1).T
    return grid[grid.sum(axis=1) == parts] / parts


def fronts(low: int = 0) -> st.SearchStrategy[Floats]:
    """Two to four points of two or three objectives in [low / 8, 1], with ties."""
    shape = st.tuples(st.integers(2, 4), st.integers(2, 3))
    return shape.flatmap(
        lambda s: arrays(float, s, elements=st.integers(low, 8).map(lambda i: i / 8))
    )


def is_share(found: Floats, points: Floats, columns: int = 0) -> None:
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()
    assert np.count_nonzero(found) <= points.shape[1] + columns


# --- closed forms ------------------------------------------------------------------------------


def test_between_two_corners_both_rules_take_the_middle() -> None:
    assert shares.maximin_shares(CORNERS, free(CORNERS)) == pytest.approx([0.5, 0.5])
    assert shares.bargain_shares(CORNERS, free(CORNERS)) == pytest.approx([0.5, 0.5])
    cube = np.eye(3)
    assert shares.maximin_shares(cube, free(cube)) == pytest.approx([1 / 3] * 3)
    assert shares.bargain_shares(cube, free(cube)) == pytest.approx([1 / 3] * 3)


def test_a_bargain_is_struck_in_any_units_and_the_worst_objective_is_not() -> None:
    # s (4, 0) + (1 - s) (0, 1): the product is largest at s = 1/2, the worst best at s = 1/5.
    points = np.array([(4.0, 0.0), (0.0, 1.0)])
    assert shares.bargain_shares(points, free(points)) == pytest.approx([0.5, 0.5], abs=1e-4)
    assert shares.maximin_shares(points, free(points)) == pytest.approx([0.2, 0.8])


def test_a_bargain_shares_what_there_is_over_the_disagreement() -> None:
    # On x + y = 1 from (d, 0): gains x - d and y are equal, so x = (1 + d) / 2.
    gains = CORNERS - (0.4, 0.0)
    found = shares.bargain_shares(gains, free(gains))
    assert found == pytest.approx([0.7, 0.3], abs=1e-4)
    # With the threshold y >= .4 it can only come as near as that.
    limited = shares.bargain_shares(gains, CORNERS[:, 1:] - 0.4)
    assert limited == pytest.approx([0.6, 0.4], abs=1e-6)


def test_what_no_mixture_gains_on() -> None:
    assert shares.bargain_shares(CORNERS - 0.5, free(CORNERS)) is None, "not by more than nothing"
    assert shares.bargain_shares(CORNERS - (2, 0), free(CORNERS)) is None
    assert shares.bargain_shares(CORNERS, CORNERS - 0.6) is None, "thresholds out of reach"


def test_utility_within_thresholds() -> None:
    assert shares.best_shares([1, 0], free(CORNERS)) == pytest.approx([1, 0])
    assert shares.best_shares([1, 0], CORNERS[:, 1:] - 0.3) == pytest.approx([0.7, 0.3])
    assert shares.best_shares([1, 0], CORNERS - 0.6) is None
    found = shares.level_shares(CORNERS - 0.6, [1, 1])
    assert found is not None
    assert found[0] == pytest.approx([0.5, 0.5])
    assert found[1] == pytest.approx(-0.1)
    assert shares.level_shares(CORNERS - 0.6, [1, 0])[1] == pytest.approx(-0.2)
    assert shares.level_shares(CORNERS - (0.6, 2), [1, 0]) is None


def test_of_mixtures_with_equal_worst_objectives_the_highest_sum() -> None:
    points = np.array([(0.5, 0.5), (0.5, 0.9), (0.5, 0.7)])
    assert shares.maximin_shares(points, free(points)) == pytest.approx([0, 1, 0])


def test_a_single_point_is_its_own_mixture() -> None:
    point = np.array([[0.3, 0.6]])
    for found in (
        shares.maximin_shares(point, free(point)),
        shares.bargain_shares(point, free(point)),
        shares.best_shares([0.4], free(point)),
    ):
        assert found == pytest.approx([1.0])


# --- brute force -------------------------------------------------------------------------------


@few
@given(fronts(), st.integers(0, 6))
def test_no_other_mixture_is_better(points: Floats, eighths: int) -> None:
    excess = points[:, :1] - eighths / 8
    all_shares = lattice(len(points), 8)
    meeting = all_shares[(all_shares @ excess >= -1e-9).all(axis=1)] @ points
    weights = np.arange(points.shape[1]) + 1.0
    best = shares.best_shares(points @ weights, excess)
    worst = shares.maximin_shares(points, excess)
    if (points[:, 0] < eighths / 8).all():
        assert best is worst is None
        return
    for found in (best, worst):
        is_share(found, points)
        assert (found @ excess >= -1e-9).all()
    if len(meeting):
        assert best @ points @ weights >= (meeting @ weights).max() - 2e-9
        assert (worst @ points).min() >= meeting.min(axis=1).max() - 2e-9
    else:
        assert (excess < 0).any()


@few
@given(fronts(low=-4))
def test_no_other_mixture_strikes_a_better_bargain(gains: Floats) -> None:
    found = shares.bargain_shares(gains, free(gains))
    others = lattice(len(gains), 12) @ gains
    others = others[(others > 1e-6).all(axis=1)]
    if found is None:
        assert not len(others)
        return
    is_share(found, gains)
    reached = found @ gains
    assert (reached > 0).all()
    best = np.log(others).sum(axis=1).max() if len(others) else -np.inf
    assert np.log(reached).sum() >= best - 2e-9
    # It lies on the hull: no mixture has more of everything.
    assert shares.level_shares(gains - reached, np.ones(gains.shape[1]))[1] <= 1e-6
    # Objectives in other units, and points that mixtures do not need, change nothing.
    again = np.vstack([gains.mean(axis=0), gains, gains - 0.5])
    same = shares.bargain_shares(again * 7, free(again)) @ again
    assert np.log(same).sum() == pytest.approx(np.log(reached).sum(), abs=5e-9)


def test_larger_fronts_come_out_within_their_bound() -> None:
    rng = np.random.default_rng(0)
    for objectives in (2, 3, 5):
        gains = rng.normal(0.4, 1, (20, objectives))
        found = shares.bargain_shares(gains, free(gains))
        is_share(found, gains)
        # At the best mixture no point's gains, weighed by 1 / z, exceed those of the mixture.
        assert (gains @ (1 / (found @ gains))).max() <= objectives + 1e-3


# --- corners -----------------------------------------------------------------------------------


def test_corners_of_the_hull() -> None:
    points = [(1, 0), (0, 1), (0.5, 0.5), (0.4, 0.4), (NAN, 3), (0.7, 0.6), (1, 0)]
    assert np.flatnonzero(shares.hull_vertices(points)).tolist() == [0, 1, 5]
    assert shares.hull_vertices([(1, 0), (0.5, 0.5), (0, 1)]).tolist() == [True, False, True]
    assert shares.hull_vertices([(0.5, 0.5)]).tolist() == [True]
    assert shares.hull_vertices([(1, 2), (2, 1)]).tolist() == [True, True]
    assert shares.hull_vertices([(NAN, 1)]).tolist() == [False]
    almost = [(0, 1), (0.5, 0.8), (0.5, 0.8 + 1e-13), (1, 0)]
    assert shares.hull_vertices(almost).sum() == 3, "one of two that differ by rounding"


@few
@given(fronts())
def test_the_other_points_are_not_needed(points: Floats) -> None:
    marked = shares.hull_vertices(points)
    reference = np.zeros(points.shape[1])
    every = pareto.hull_hypervolume(points, reference)
    assert pareto.hull_hypervolume(points[marked], reference) == pytest.approx(every, abs=1e-9)
    needed = points[marked]
    for i in range(len(needed)):
        others = np.delete(needed, i, axis=0)
        if len(others):
            assert shares.level_shares(others - needed[i], np.ones(points.shape[1]))[1] < 0


# --- unit values -------------------------------------------------------------------------------


def test_unit_values_are_mixed_before_errors_are_computed() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 1, (50, 1))  # the same units are hard for both
    a, b = (hard + rng.normal(0, 0.1, (50, 2)) for _ in range(2))
    a[3] = b[3] = NAN
    mixed = shares.mix([a, b], [0.3, 0.7])
    assert np.isnan(mixed[3]).all()
    mean, stderr = mean_and_stderr(mixed)
    assert mean == pytest.approx(0.3 * mean_and_stderr(a)[0] + 0.7 * mean_and_stderr(b)[0])
    known = np.delete(0.3 * a + 0.7 * b, 3, axis=0)
    assert stderr == pytest.approx(known.std(axis=0, ddof=1) / 7)
    apart = np.hypot(0.3 * mean_and_stderr(a)[1], 0.7 * mean_and_stderr(b)[1])
    assert (stderr > 1.2 * apart).all(), "not as if the units were others for each"


def test_a_unit_that_one_policy_has_nothing_to_say_on_counts_by_the_others() -> None:
    a, b = np.array([[1.0, NAN], [NAN, NAN]]), np.array([[0.0, 4.0], [3.0, NAN]])
    assert shares.mix([a, b], [0.25, 0.75]) == pytest.approx(
        np.array([[0.25, 4.0], [3.0, NAN]]), nan_ok=True
    )


def test_values_that_were_not_measured_are_refused() -> None:
    for wrong in ([[NAN, 1.0]], np.zeros((0, 2))):
        with pytest.raises(ValueError, match="Leave out points that were not measured"):
            shares.maximin_shares(wrong, free(np.asarray(wrong)))
