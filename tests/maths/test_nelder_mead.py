"""The simplex search: the path of scipy's, its stops and starts, and the published rules."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import minimize

from moalign.maths.nelder_mead import NelderMead


def bowl(x):
    return sum((k + 1) * (v - 0.3 * k) ** 2 for k, v in enumerate(x))


def rosenbrock(x):
    return sum(100 * (b - a * a) ** 2 + (1 - a) ** 2 for a, b in pairwise(x))


def rough(x):
    """Many local minima, so that all kinds of moves happen."""
    return bowl(x) + 0.3 * sum(math.sin(9 * v) for v in x)


def simplex(count, seed=0):
    return np.random.default_rng(seed).uniform(-2, 2, (count + 1, count)).tolist()


def path(function, start, evaluations, **rules):
    """The points asked for, in order, and the search."""
    search, asked = NelderMead(start, **rules), []
    for _ in range(evaluations):
        asked.append(search.ask())
        search.tell(function(asked[-1]))
    return asked, search


def path_of_scipy(function, start, evaluations, **options):
    asked = []

    def noted(x):
        asked.append(x.tolist())
        return function(x)

    given = {"initial_simplex": start, "maxfev": evaluations, "xatol": 0, "fatol": 0}
    minimize(noted, start[0], method="Nelder-Mead", options=given, **options)
    return asked


@pytest.mark.parametrize("function", [bowl, rosenbrock, rough])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_it_takes_the_path_of_scipy(function, count):
    for seed in range(3):
        start = simplex(count, seed)
        expected = path_of_scipy(function, start, 70)
        found, _ = path(function, start, len(expected))
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_the_paths_compared_take_every_turn():
    seen = set()
    for function, seed in ((rosenbrock, 0), (rough, 1), (rough, 2)):
        search = NelderMead(simplex(2, seed))
        for evaluation in range(70):
            phase = search.state_dict()["phase"]
            seen.add("shrink" if phase == "fill" and evaluation > 2 else phase)
            search.tell(function(search.ask()))
    assert seen == {"fill", "reflect", "expand", "outside", "inside", "shrink"}


def test_with_one_number_and_within_limits_it_takes_the_path_of_scipy():
    expected = path_of_scipy(bowl, [[1.5], [2.0]], 25)
    found, _ = path(bowl, [[1.5], [2.0]], 25)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    low, high = [0.1, -1.0, 0.2], [1.5, 0.2, 1.0]
    start = np.random.default_rng(3).uniform(low, high, (4, 3)).tolist()
    expected = path_of_scipy(bowl, start, 70, bounds=list(zip(low, high, strict=True)))
    found, search = path(bowl, start, 70, low=low, high=high)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert search.best()[0] == pytest.approx([0.1, 0.2, 0.6], abs=1e-2)


def test_it_finds_the_minimum():
    _, search = path(rosenbrock, simplex(2), 150)
    point, value = search.best()
    assert point == pytest.approx([1.0, 1.0], abs=1e-3)
    assert value == rosenbrock(point)
    assert search.spread() < 1e-5


def test_the_published_rules():
    # One number; the simplex is 1 and 2, with values 1 and 4: reflect to 0.
    def after(value, **rules):
        search = NelderMead([[1.0], [2.0]], **rules)
        for known in (1.0, 4.0, value):
            search.tell(known)
        return search

    # r (0) beats the best: e = -1 with a value between those of r and the best.
    for expansion, kept in (("better", 0.0), ("beats", -1.0)):
        search = after(0.2, expansion=expansion)
        assert search.ask() == [-1.0]
        search.tell(0.5)
        assert search.best() == ([kept], 0.2 if kept == 0.0 else 0.5)
    # r is better than the worst only: contract outside, to 0.5, or inside, to 1.5.
    assert after(3.0).ask() == [0.5]
    assert after(3.0, contraction="inside").ask() == [1.5]
    assert after(5.0).ask() == [1.5]


def test_a_failed_contraction_shrinks_to_the_best():
    search = NelderMead([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    for value in (0.0, 1.0, 2.0, 9.0, 9.0):
        search.tell(value)
    assert search.spread() == math.inf
    assert search.ask() == [0.5, 0.0]
    search.tell(0.5)
    assert search.ask() == [0.0, 0.5]
    assert search.best() == ([0.0, 0.0], 0.0)


def test_the_spread_is_the_deviation_of_a_complete_simplex():
    search = NelderMead([[0.0], [1.0]])
    assert search.best() == ([0.0], math.inf)
    search.tell(3.0)
    assert search.spread() == math.inf
    search.tell(5.0)
    assert search.spread() == pytest.approx(1.0)


def test_what_it_has_seen_is_never_lost():
    # While an expansion is pending the reflected point is the best.
    search = NelderMead([[1.0], [2.0]])
    for value in (1.0, 4.0, 0.2):
        search.tell(value)
    assert search.best() == ([0.0], 0.2)


@pytest.mark.parametrize("rules", [{}, {"contraction": "inside", "expansion": "beats"}])
def test_it_goes_on_from_any_point_bit_for_bit(rules):
    start, limits = simplex(3, 4), {"low": [-2.0] * 3, "high": [2.0, math.inf, 1.0]}
    expected, _ = path(rough, start, 60, **rules, **limits)
    search = NelderMead(start, **rules, **limits)
    for point in expected:
        search = NelderMead.from_state(json.loads(json.dumps(search.state_dict())))
        assert search.ask() == point
        assert search.ask() == point  # asking changes nothing
        search.tell(rough(point))


def test_a_value_that_is_no_number_is_refused():
    search = NelderMead([[1.0], [2.0]])
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="must be finite"):
            search.tell(value)
    assert search.ask() == [1.0]
