"""Standard errors, paired comparisons and intervals: closed forms, refusals, seeded simulations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from moalign import pareto
from moalign.reporting import statistics

Floats = NDArray[np.float64]
NAN = float("nan")


# --- means ------------------------------------------------------------------------------------


def test_mean_and_stderr_skip_the_units_an_objective_does_not_apply_to() -> None:
    mean, stderr = statistics.mean_and_stderr([(1.0, 0.2), (NAN, 0.4), (4.0, 0.9), (7.0, 0.1)])
    assert mean == pytest.approx([4.0, 0.4])
    assert stderr == pytest.approx([3 / math.sqrt(3), np.std([0.2, 0.4, 0.9, 0.1], ddof=1) / 2])


def test_stderr_of_few_units() -> None:
    mean, stderr = statistics.mean_and_stderr([(NAN, 0.3, 1.0), (NAN, NAN, NAN)])
    assert np.isnan(mean).tolist() == [True, False, False]
    assert np.isnan(stderr).tolist() == [True, True, False]
    assert stderr[2] == pytest.approx(math.sqrt(0.75 * 0.25))  # one success in one try


@pytest.mark.parametrize(("ones", "shrunk"), [(0, True), (4, True), (5, False), (50, False)])
def test_stderr_of_a_rate_near_its_ends(ones: int, shrunk: bool) -> None:
    n = 100
    rate = np.repeat([1.0, 0.0], [ones, n - ones])
    mean, stderr = statistics.mean_and_stderr(np.stack([rate, 1 - rate], axis=1))
    q = (ones + 0.5) / (n + 1)
    plain = math.sqrt(ones / n * (1 - ones / n) / (n - 1))
    assert mean == pytest.approx([ones / n, 1 - ones / n])
    assert stderr == pytest.approx([math.sqrt(q * (1 - q) / n) if shrunk else plain] * 2)


def test_a_rate_counts_its_own_units_only() -> None:
    values = np.concatenate([np.ones((10, 1)), np.full((90, 1), NAN)])
    _, stderr = statistics.mean_and_stderr(values)
    q = 10.5 / 11
    assert stderr == pytest.approx([math.sqrt(q * (1 - q) / 10)])


def test_a_constant_that_is_no_rate_has_no_spread() -> None:
    _, stderr = statistics.mean_and_stderr(np.full((10, 1), 0.5))
    assert stderr.tolist() == [0.0]


# --- bootstrap --------------------------------------------------------------------------------


def test_bootstrap_indices_are_seeded_and_uniform() -> None:
    drawn = statistics.bootstrap_indices(7, 5000, seed=3)
    assert drawn.shape == (5000, 7)
    assert (drawn == statistics.bootstrap_indices(7, 5000, seed=3)).all()
    assert (drawn != statistics.bootstrap_indices(7, 5000, seed=4)).any()
    assert np.bincount(drawn.ravel()) / drawn.size == pytest.approx(np.full(7, 1 / 7), abs=0.01)


# --- paired differences -----------------------------------------------------------------------


def test_paired_difference_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(30, 4)), rng.normal(size=(30, 4))
    a += b + np.array([0, 0.3, -0.6, 1])
    a[:5, 1] = NAN
    b[3:9, 1] = NAN
    found = statistics.paired_difference(a, b, alpha=0.1)
    assert found.units_K.tolist() == [30, 21, 30, 30]
    for k in range(4):
        d = (a - b)[:, k]
        expected = stats.ttest_1samp(d[~np.isnan(d)], 0)
        interval = expected.confidence_interval(0.9)
        assert found.value_K[k] == pytest.approx(np.nanmean(d))
        assert found.low_K[k] == pytest.approx(interval.low, rel=1e-3)
        assert found.high_K[k] == pytest.approx(interval.high, rel=1e-3)
        assert found.pvalue_K[k] == pytest.approx(expected.pvalue, rel=0.02, abs=2e-9)


@pytest.mark.parametrize("units", [20, 50, 400])
def test_student_tails_and_quantiles_match(units: int) -> None:
    """Unit values with a chosen t: a difference of 1 with the standard error 1 / t."""
    for p in (0.5, 0.05, 1e-3, 1e-5):
        t = stats.t.isf(p / 2, units - 1)
        noise = np.tile([1.0, -1.0], units // 2)
        noise *= math.sqrt(units - 1) / t
        found = statistics.paired_difference(
            (1 + noise)[:, None], np.zeros((units, 1)), alpha=max(p, 1e-4)
        )
        reach = stats.t.isf(max(p, 1e-4) / 2, units - 1) / t
        assert found.stderr_K[0] == pytest.approx(1 / t)
        assert found.high_K[0] - 1 == pytest.approx(reach, rel=2e-3)
        assert found.pvalue_K[0] == pytest.approx(p, rel=0.03)


def test_paired_difference_is_antisymmetric() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.uniform(size=(25, 2)), (rng.uniform(size=(25, 2)) < 0.9).astype(float)
    forth, back = statistics.paired_difference(a, b), statistics.paired_difference(b, a)
    np.testing.assert_allclose(forth.value_K, -back.value_K)
    np.testing.assert_allclose(forth.low_K, -back.high_K)
    np.testing.assert_allclose(forth.pvalue_K, back.pvalue_K)


def test_what_units_share_does_not_widen_the_interval() -> None:
    rng = np.random.default_rng(2)
    hardness = 10 * rng.normal(size=(50, 1))
    a, b = rng.normal(size=(50, 1)), rng.normal(size=(50, 1))
    alone = statistics.paired_difference(a, b)
    shared = statistics.paired_difference(a + hardness, b + hardness)
    assert shared.stderr_K == pytest.approx(alone.stderr_K)


def test_equal_points_do_not_differ() -> None:
    values = np.random.default_rng(3).uniform(size=(30, 2))
    found = statistics.paired_difference(values, values)
    assert found.value_K.tolist() == found.low_K.tolist() == found.high_K.tolist() == [0, 0]
    assert found.pvalue_K.tolist() == [1, 1]


def test_two_rates_that_never_fail_still_have_an_interval() -> None:
    found = statistics.paired_difference(np.ones((100, 1)), np.ones((100, 1)))
    assert found.value_K[0] == 0
    assert found.stderr_K[0] == pytest.approx(math.sqrt(2 / 102 / 102))
    assert found.low_K[0] == pytest.approx(-found.high_K[0])
    assert found.high_K[0] == pytest.approx(stats.t.isf(0.025, 99) * math.sqrt(2) / 102, rel=1e-4)
    assert found.pvalue_K[0] == 1


def test_rates_use_the_counts_of_either_kind_until_both_are_plenty() -> None:
    def stderr(won: int, lost: int) -> float:
        a = np.repeat([1.0, 0.0, 1.0], [won, lost, 100 - won - lost])
        b = np.repeat([0.0, 1.0, 1.0], [won, lost, 100 - won - lost])
        return float(statistics.paired_difference(a[:, None], b[:, None]).stderr_K[0])

    assert stderr(20, 4) == pytest.approx(math.sqrt((26 / 102 - (16 / 102) ** 2) / 102))
    assert stderr(4, 20) == stderr(20, 4)
    assert stderr(20, 5) == pytest.approx(math.sqrt((0.25 - 0.15**2) / 99))


def test_whether_a_pair_is_of_rates_depends_on_the_units_of_both() -> None:
    a, b = np.ones((50, 1)), np.ones((50, 1))
    a[0], b[0], a[1], b[1] = 0.5, NAN, NAN, 0.5
    assert statistics.paired_difference(a, b).stderr_K[0] == pytest.approx(math.sqrt(2 / 50 / 50))
    b[2] = 0.5
    spread = np.std([0.5] + [0.0] * 47, ddof=1) / math.sqrt(48)
    assert statistics.paired_difference(a, b).stderr_K[0] == pytest.approx(spread)


def test_few_differences_are_no_strong_evidence() -> None:
    """Three wins and no loss: 0.25 by the exact sign test, whatever the other units say."""
    won = np.zeros((100, 1))
    won[:3] = 1
    assert statistics.paired_difference(won, np.zeros((100, 1))).pvalue_K[0] == 0.25
    won[:3] = 0.001  # no rate; the same three wins
    assert statistics.paired_difference(won, np.zeros((100, 1))).pvalue_K[0] == 0.25
    utility = statistics.utility_difference(won, np.zeros((100, 1)), (1,), [(0, 1)])
    assert utility.pvalue == 0.25


def test_differences_without_spread() -> None:
    b = np.linspace(0, 1, 6)[:, None]
    found = statistics.paired_difference(b + 0.5, b)
    assert found.value_K[0] == pytest.approx(0.5)
    assert found.high_K[0] - found.low_K[0] == pytest.approx(0, abs=1e-12)
    assert found.pvalue_K[0] == 2.0**-5


def test_too_few_units_are_no_evidence() -> None:
    found = statistics.paired_difference([(1.0, NAN), (NAN, 2.0)], [(0.0, 1.0), (1.0, NAN)])
    assert found.units_K.tolist() == [1, 0]
    assert found.value_K[0] == 1
    assert np.isnan([found.value_K[1], *found.stderr_K, *found.low_K, *found.high_K]).all()
    assert found.pvalue_K.tolist() == [1, 1]


def test_paired_intervals_cover_the_true_difference() -> None:
    """4,000 simulated comparisons at once, as objectives of one call; 95 % promised."""
    rng = np.random.default_rng(4)
    units, repeats = 40, 4000
    hardness = rng.exponential(size=(units, repeats))
    a = hardness + rng.exponential(size=(units, repeats))
    b = hardness + rng.exponential(size=(units, repeats)) - 0.3
    found = statistics.paired_difference(a, b)
    covered = (found.low_K <= 0.3) & (found.high_K >= 0.3)
    assert covered.mean() == pytest.approx(0.95, abs=0.012)
    same = statistics.paired_difference(a, b + 0.3)
    assert (same.pvalue_K <= 0.05).mean() == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize(("win", "loss"), [(0.3, 0.2), (0.1, 0.1), (0.2, 0.02), (0.05, 0.0)])
def test_intervals_of_paired_rates_cover_the_true_difference(win: float, loss: float) -> None:
    rng = np.random.default_rng(5)
    u = rng.uniform(size=(100, 4000))
    a = np.where(u < win, 1.0, np.where(u < win + loss, 0.0, 1.0))
    b = np.where(u < win, 0.0, 1.0)
    found = statistics.paired_difference(a, b)
    covered = (found.low_K <= win - loss) & (found.high_K >= win - loss)
    assert 0.94 <= covered.mean() <= 0.985


# --- Holm -------------------------------------------------------------------------------------


def test_holm_known() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.9]).tolist() == [1.0, 1.0]
    assert statistics.holm([]).tolist() == []


def test_holm_keeps_the_shape_and_lies_between_raw_and_bonferroni() -> None:
    raw = np.random.default_rng(6).uniform(size=(5, 3)) ** 3
    adjusted = statistics.holm(raw)
    assert adjusted.shape == raw.shape
    assert (adjusted >= raw).all()
    assert (adjusted <= np.minimum(raw * raw.size, 1)).all()
    assert (np.diff(adjusted.ravel()[np.argsort(raw.ravel())]) >= 0).all()


# --- utility ----------------------------------------------------------------------------------


def test_utility_difference_is_the_t_test_of_unit_utilities() -> None:
    rng = np.random.default_rng(7)
    a, b = rng.uniform(size=(40, 2)), rng.uniform(size=(40, 2))
    bounds = [(-1, 1), (0, 10)]
    found = statistics.utility_difference(a, b, (3, 1), bounds, alpha=0.1)
    per_unit = (a - b) @ (0.75 / 2, 0.25 / 10)
    expected = stats.ttest_1samp(per_unit, 0)
    interval = expected.confidence_interval(0.9)
    assert found.value == pytest.approx(per_unit.mean())
    assert found.stderr == pytest.approx(per_unit.std(ddof=1) / math.sqrt(40))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-3)
    assert found.pvalue == pytest.approx(expected.pvalue, rel=0.01)
    assert found.units == 40


def test_utility_difference_is_that_of_the_points_utilities() -> None:
    rng = np.random.default_rng(8)
    a, b = rng.uniform(size=(30, 3)), rng.uniform(size=(30, 3))
    a[:12, 1] = b[:12, 1] = NAN  # does not apply to these units
    bounds, preference = [(0, 1), (-2, 2), (0, 5)], (0.2, 0.5, 0.3)
    means = np.stack([np.nanmean(a, axis=0), np.nanmean(b, axis=0)])
    utilities = pareto.utility(pareto.normalise(means, bounds), preference)
    found = statistics.utility_difference(a, b, preference, bounds)
    assert found.value == pytest.approx(utilities[0] - utilities[1])
    assert found.units == 30


def test_utility_difference_leaves_objectives_without_weight_out() -> None:
    rng = np.random.default_rng(9)
    a, b = rng.uniform(size=(30, 2)), rng.uniform(size=(30, 2))
    bounds = [(0, 1), (0, 1)]
    alone = statistics.utility_difference(a[:, :1], b[:, :1], (1,), bounds[:1])
    a[:, 1] = NAN
    assert statistics.utility_difference(a, b, (1, 0), bounds) == alone
    unknown = statistics.utility_difference(a, b, (1, 1), bounds)
    assert math.isnan(unknown.value)
    assert unknown.pvalue == 1


def test_utility_difference_of_one_unit_and_of_equal_points() -> None:
    one = statistics.utility_difference([(0.7,)], [(0.2,)], (1,), [(0, 1)])
    assert one.value == pytest.approx(0.5)
    assert math.isnan(one.stderr)
    assert (one.pvalue, one.units) == (1, 1)
    values = np.random.default_rng(10).uniform(size=(30, 2))
    same = statistics.utility_difference(values, values, (1, 1), [(0, 1)] * 2)
    assert (same.value, same.stderr, same.pvalue) == (0, 0, 1)


def test_utility_intervals_cover_the_true_difference_with_missing_values() -> None:
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(800):
        hardness = rng.normal(size=(60, 1))
        a = 1 + hardness + rng.normal(size=(60, 2))
        b = hardness * (1, -1) + rng.normal(size=(60, 2))
        a[rng.uniform(size=(60, 2)) < (0, 0.4)] = NAN
        found = statistics.utility_difference(a, b, (1, 3), [(0, 2), (0, 4)])
        covered += found.low <= 0.25 * 1 / 2 + 0.75 * 1 / 4 <= found.high
    assert covered / 800 == pytest.approx(0.95, abs=0.025)


# --- distinct points --------------------------------------------------------------------------


def test_pairwise_distinct_tells_apart_what_differs_in_any_objective() -> None:
    rng = np.random.default_rng(12)
    hardness = rng.uniform(size=(80, 2))
    shifts = [(0, 0), (0, 0), (0.5, 0), (0, -0.5)]
    points = [hardness + shift + 0.1 * rng.normal(size=(80, 2)) for shift in shifts]
    distinct = statistics.pairwise_distinct(points)
    expected = ~np.eye(4, dtype=bool)
    expected[0, 1] = expected[1, 0] = False
    assert (distinct == expected).all()
    assert statistics.largest_distinct_subset(distinct) == [0, 2, 3]


def test_pairwise_distinct_adjusts_over_all_pairs_and_objectives() -> None:
    """A pair that differs at 0.02 alone is not told apart among 3 pairs and 2 objectives."""
    noise = np.tile([1.0, -1.0], 20)
    shift = np.std(noise, ddof=1) / math.sqrt(40) * stats.t.isf(0.01, 39)
    base = np.zeros((40, 1))
    moved = (noise + shift)[:, None]
    assert statistics.pairwise_distinct([base, moved])[0, 1]
    wide = [np.hstack([base, base]), np.hstack([moved, base]), np.hstack([base, base])]
    assert not statistics.pairwise_distinct(wide).any()
    assert statistics.pairwise_distinct(wide, alpha=0.15)[0, 1]


def test_pairwise_distinct_rarely_errs_when_nothing_differs() -> None:
    rng = np.random.default_rng(13)
    wrong = sum(
        statistics.pairwise_distinct(list(rng.normal(size=(5, 40, 3)))).any() for _ in range(200)
    )
    assert wrong / 200 <= 0.08


def test_pairwise_distinct_of_a_single_point() -> None:
    assert statistics.pairwise_distinct([np.ones((5, 2))]).tolist() == [[False]]


def symmetric(points: int, density: float, seed: int) -> NDArray[np.bool_]:
    upper = np.triu(np.random.default_rng(seed).uniform(size=(points, points)) < density, 1)
    return upper | upper.T


@pytest.mark.parametrize("seed", range(12))
def test_largest_distinct_subset_is_the_first_of_the_largest(seed: int) -> None:
    matrix = symmetric(9, density=0.3 + 0.05 * seed, seed=seed)
    cliques = [
        chosen
        for size in range(10)
        for chosen in itertools.combinations(range(9), size)
        if all(matrix[i, j] for i, j in itertools.combinations(chosen, 2))
    ]
    largest = max(len(chosen) for chosen in cliques)
    first = min(chosen for chosen in cliques if len(chosen) == largest)
    assert statistics.largest_distinct_subset(matrix) == list(first)


def test_largest_distinct_subset_of_special_matrices() -> None:
    assert statistics.largest_distinct_subset(np.zeros((0, 0))) == []
    assert statistics.largest_distinct_subset(np.zeros((4, 4))) == [0]
    assert statistics.largest_distinct_subset(np.ones((30, 30))) == list(range(30))
    groups = np.kron(1 - np.eye(10), np.ones((3, 3)))  # ten groups of three look-alikes
    assert statistics.largest_distinct_subset(groups) == list(range(0, 30, 3))


def test_largest_distinct_subset_is_exact_where_the_bound_is_weak() -> None:
    """Six rings of five, all joined: at most two of each ring, but a ring needs three colours."""
    ring = np.roll(np.eye(5), 1, axis=1)
    matrix = np.kron(np.eye(6), ring + ring.T) + np.kron(1 - np.eye(6), np.ones((5, 5)))
    found = statistics.largest_distinct_subset(matrix)
    assert len(found) == 12
    assert found == statistics.largest_distinct_subset(matrix, visits=10**9)


def test_largest_distinct_subset_does_not_try_every_choice_among_look_alikes() -> None:
    """Six groups of three, then apart from them seven distinct points: few visits will do."""
    matrix = np.zeros((25, 25))
    matrix[:18, :18] = np.kron(1 - np.eye(6), np.ones((3, 3)))
    matrix[18:, 18:] = 1
    assert statistics.largest_distinct_subset(matrix, visits=40) == list(range(18, 25))
    assert statistics.largest_distinct_subset(matrix, visits=5) == [0, 3, 6, 9]


# --- hypervolume ------------------------------------------------------------------------------


def test_hypervolume_interval_of_points_without_noise() -> None:
    points = [np.full((20, 2), p) for p in [(3.0, 1.0), (1.0, 3.0), (2.0, 2.0)]]
    found = statistics.hypervolume_interval(points, [(0, 10), (0, 10)], (0, 0), resamples=20)
    for volume in (found.raw, found.corrected, found.low, found.high):
        assert volume == pytest.approx(0.06)


def test_hypervolume_interval_reflects_jointly_resampled_volumes() -> None:
    """The definition, spelt out with loops."""
    rng = np.random.default_rng(14)
    points = list(rng.uniform(1, 3, size=(4, 15, 2)))
    points[1][:6, 0] = NAN
    bounds, reference = [(1, 3), (0, 4)], (0.1, 0.1)

    def volume(rows: NDArray[np.int64]) -> float:
        means = [np.nanmean(values[rows], axis=0) for values in points]
        return pareto.hypervolume(pareto.normalise(means, bounds), reference)

    found = statistics.hypervolume_interval(
        points, bounds, reference, resamples=50, seed=9, alpha=0.2
    )
    drawn = [volume(rows) for rows in statistics.bootstrap_indices(15, 50, seed=9)]
    raw = volume(np.arange(15))
    assert found.raw == pytest.approx(raw)
    assert found.corrected == pytest.approx(2 * raw - np.mean(drawn))
    assert found.low == pytest.approx(2 * raw - np.quantile(drawn, 0.9))
    assert found.high == pytest.approx(2 * raw - np.quantile(drawn, 0.1))


def test_hypervolume_interval_clips_at_the_reference_only_inside_the_volume() -> None:
    """One unit is far below the bounds: its mean counts as it is, no unit value is clipped."""
    values = np.array([[1.0, 1.0]] * 9 + [[-4.0, 1.0]])
    found = statistics.hypervolume_interval([values], [(0, 1), (0, 1)], (0, 0), resamples=5)
    assert found.raw == pytest.approx(0.5)


def test_a_resample_in_which_an_objective_never_applies_has_no_such_point() -> None:
    values = np.ones((3, 2))
    values[1:, 0] = NAN
    found = statistics.hypervolume_interval([values], [(0, 2)] * 2, (0, 0), resamples=200, seed=1)
    empty = (statistics.bootstrap_indices(3, 200, seed=1) != 0).all(axis=1).mean()
    assert found.raw == pytest.approx(0.25)
    assert found.corrected == pytest.approx(0.5 - 0.25 * (1 - empty))


def test_what_some_points_add_is_a_difference_of_two_volumes() -> None:
    rng = np.random.default_rng(5)
    points = [rng.uniform(0, 10, (15, 2)) for _ in range(4)]
    bounds, reference, late = [(0, 10), (0, 10)], (0.1, 0.2), [False, True, False, True]

    def gain(rows: np.ndarray) -> float:
        means = pareto.normalise([p[rows].mean(0) for p in points], bounds)
        early = means[[0, 2]]
        return pareto.hypervolume(means, reference) - pareto.hypervolume(early, reference)

    found = statistics.hypervolume_gain(
        points, late, bounds, reference, resamples=50, seed=9, alpha=0.2
    )
    drawn = [gain(rows) for rows in statistics.bootstrap_indices(15, 50, seed=9)]
    raw = gain(np.arange(15))
    assert found.raw == pytest.approx(raw)
    assert found.corrected == pytest.approx(2 * raw - np.mean(drawn))
    assert found.low == pytest.approx(2 * raw - np.quantile(drawn, 0.9))
    assert found.high == pytest.approx(2 * raw - np.quantile(drawn, 0.1))


@pytest.mark.parametrize(("radius", "holds"), [(0.7, 0.9), (0.8, 0.75)])
def test_points_that_add_nothing_are_told_from_points_that_add_something(
    radius: float, holds: float
) -> None:
    """Twelve points on a true front; four more on it, or beyond it."""
    angle = np.linspace(0.1, 1.47, 12)
    front = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    true = np.concatenate([0.7 * front, radius * front[::3]])
    truth = pareto.hypervolume(true, (0, 0)) - pareto.hypervolume(true[:12], (0, 0))
    late, found = [False] * 12 + [True] * 4, []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        noise = rng.normal(0, 0.3, (16, 60, 2)) + rng.normal(0, 0.2, (1, 60, 2))
        points = list(true[:, None] + noise)
        bounds, reference = [(0, 1), (0, 1)], (0, 0)
        found.append(
            statistics.hypervolume_gain(points, late, bounds, reference, resamples=100, seed=seed)
        )
    assert all(one.raw >= 0 for one in found)
    assert np.mean([one.low <= truth <= one.high for one in found]) >= holds
    seen = np.mean([one.low > 0 for one in found])
    if truth:
        assert seen >= 0.8
    else:
        assert seen <= 0.1
        assert np.mean([one.corrected for one in found]) < np.mean([one.raw for one in found])


def test_hypervolume_of_noisy_rates_is_biased_upwards_and_the_basic_bootstrap_helps() -> None:
    """Twelve points on a true front, 100 binary prompts each."""
    angle = np.linspace(0, math.pi / 2, 12)
    true = 0.2 + 0.6 * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    truth = pareto.hypervolume(true, (0, 0))
    raw, corrected, basic, percentile = [], [], [], []
    for seed in range(80):
        uniform = np.random.default_rng(seed).uniform(size=(12, 100, 2))
        points = list((uniform < true[:, None]).astype(float))
        found = statistics.hypervolume_interval(
            points, [(0, 1), (0, 1)], (0, 0), resamples=150, seed=seed
        )
        raw.append(found.raw - truth)
        corrected.append(found.corrected - truth)
        basic.append(found.low <= truth <= found.high)
        percentile.append(2 * found.raw - found.high <= truth <= 2 * found.raw - found.low)
    assert np.mean(raw) > 0.012
    assert abs(np.mean(corrected)) < np.mean(raw) / 3
    assert np.mean(basic) >= 0.9
    assert np.mean(percentile) <= 0.65


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: statistics.mean_and_stderr([1.0, 2.0]),
            r"values_UK must have shape \(units, objectives\), at least one of each; "
            r"found \(2,\)\.",
        ),
        (
            lambda: statistics.mean_and_stderr([(math.inf,)]),
            "values_UK holds an infinite value; values must be finite, or NaN where an objective "
            "does not apply.",
        ),
        (
            lambda: statistics.paired_difference([(1.0,)], [(1.0,), (2.0,)]),
            r"a_UK and b_UK must hold the same units and objectives; "
            r"found \(1, 1\) and \(2, 1\)\.",
        ),
        (
            lambda: statistics.utility_difference([(1.0,)], [(1.0,), (2.0,)], (1,), [(0, 1)]),
            r"a_UK and b_UK must hold the same units and objectives",
        ),
        (
            lambda: statistics.paired_difference([(1.0,)], [(1.0,)], alpha=5),
            "alpha must lie between 0 and 1; found 5",
        ),
        (
            lambda: statistics.hypervolume_interval([[(1.0,)]], [(0, 1)], (0,), alpha=0),
            "alpha must lie between 0 and 1; found 0",
        ),
        (
            lambda: statistics.bootstrap_indices(0, 10, seed=0),
            "A bootstrap needs at least 1 unit and 1 resample; found 0 and 10.",
        ),
        (
            lambda: statistics.holm([0.1, NAN]),
            r"P-values must lie in \[0, 1\]; found a value outside or NaN.",
        ),
        (
            lambda: statistics.holm([0.1, 1.1]),
            r"P-values must lie in \[0, 1\]",
        ),
        (
            lambda: statistics.pairwise_distinct([]),
            "values_NUK holds no point; give one table of unit values per point.",
        ),
        (
            lambda: statistics.pairwise_distinct([np.ones((3, 2)), np.ones((2, 2))]),
            r"Every point must hold the same units and objectives; values_NUK\[0\] has shape "
            r"\(3, 2\), values_NUK\[1\] has \(2, 2\)\.",
        ),
        (
            lambda: statistics.largest_distinct_subset(np.ones((2, 3))),
            r"distinct_NN must be square; found shape \(2, 3\)\.",
        ),
        (
            lambda: statistics.largest_distinct_subset([(0, 1), (0, 0)]),
            "distinct_NN must be symmetric; found a pair marked in one order only.",
        ),
    ],
)
def test_wrong_input_is_refused_with_a_sentence(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()
