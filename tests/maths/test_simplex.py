"""Softmax, projections and stick-breaking."""

from __future__ import annotations

import math
import random

import pytest

from moalign.maths.simplex import (
    from_uniforms,
    nearby,
    project,
    raise_to_floor,
    softmax,
    to_uniforms,
)


def test_softmax_golden_value():
    assert softmax([0.3, 0.1, 0.2]) == pytest.approx([0.36717, 0.30061, 0.33222], abs=1e-5)


@pytest.mark.parametrize("logits", [[1e308, 0.0], [-1e308, -1e308], [-math.inf, 3.0], [5.0]])
def test_softmax_of_extreme_logits_is_on_the_simplex(logits):
    weights = softmax(logits)
    assert math.fsum(weights) == pytest.approx(1)
    assert min(weights) >= 0


def test_projection_leaves_the_simplex_alone_and_clips_the_rest():
    assert project([0.2, 0.5, 0.3]) == pytest.approx([0.2, 0.5, 0.3])
    assert project([2.0, 0.0]) == [1.0, 0.0]
    assert project([0.0, 0.0, 0.0]) == pytest.approx([1 / 3] * 3)
    assert project([-7.0]) == [1.0]


def test_projection_is_the_closest_point():
    rng = random.Random(0)
    for _ in range(50):
        point = [rng.gauss(0, 1) for _ in range(4)]
        best = math.dist(project(point), point)
        assert math.fsum(project(point)) == pytest.approx(1)
        assert min(project(point)) >= 0
        for _ in range(50):
            other = from_uniforms([rng.random() for _ in range(3)])
            assert math.dist(other, point) >= best - 1e-12


def test_floor_raises_and_keeps_the_ratios_of_the_rest():
    assert raise_to_floor([0.9, 0.08, 0.02], 0.05) == pytest.approx(
        [0.95 * 0.9 / 0.98, 0.95 * 0.08 / 0.98, 0.05]
    )
    # Scaling down pushes the second below the floor as well.
    assert raise_to_floor([0.84, 0.16, 0.0], 0.15) == pytest.approx([0.7, 0.15, 0.15])
    assert raise_to_floor([1.0, 0.0], 0.5) == [0.5, 0.5]
    assert raise_to_floor([0.6, 0.4], 0.0) == [0.6, 0.4]
    assert raise_to_floor([1.0], 1e-8) == [1.0]


def test_floor_is_the_closest_point_in_divergence():
    def divergence(u, w):
        return math.fsum(a * math.log(a / b) for a, b in zip(u, w, strict=True))

    rng = random.Random(1)
    for _ in range(30):
        weights = from_uniforms([rng.random() for _ in range(3)])
        best = raise_to_floor(weights, 0.1)
        assert math.fsum(best) == pytest.approx(1)
        assert min(best) >= 0.1
        for _ in range(30):
            other = [0.1 + 0.6 * w for w in from_uniforms([rng.random() for _ in range(3)])]
            assert divergence(other, weights) >= divergence(best, weights) - 1e-12


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_sticks_there_and_back(k):
    rng = random.Random(k)
    for _ in range(100):
        uniforms = [rng.random() for _ in range(k - 1)]
        weights = from_uniforms(uniforms)
        assert len(weights) == k
        assert min(weights) >= 0
        assert math.fsum(weights) == pytest.approx(1)
        assert to_uniforms(weights) == pytest.approx(uniforms, abs=1e-9)


@pytest.mark.parametrize(
    "weights", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.8, 0.1, 0.1], [1 / 3] * 3]
)
def test_corners_and_near_corners_have_uniforms(weights):
    uniforms = to_uniforms(weights)
    assert all(0 <= u <= 1 for u in uniforms)
    assert from_uniforms(uniforms) == pytest.approx(weights, abs=1e-12)


def test_uniforms_give_uniform_weights():
    rng, draws = random.Random(0), 20_000
    weights = [from_uniforms([rng.random(), rng.random()]) for _ in range(draws)]
    for k in range(3):
        column = [w[k] for w in weights]
        # Dirichlet(1, 1, 1): mean 1/3, P(w > x) = (1 - x)^2.
        assert math.fsum(column) / draws == pytest.approx(1 / 3, abs=0.005)
        for x in (0.2, 0.5, 0.8):
            assert sum(w > x for w in column) / draws == pytest.approx((1 - x) ** 2, abs=0.012)


# --- weights nearby ----------------------------------------------------------------------------


def degrees(a, b):
    cosine = math.fsum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
    return math.degrees(math.acos(min(cosine, 1.0)))


@pytest.mark.parametrize("weights", [[0.5, 0.5], [1.0, 0.0], [0.7, 0.2, 0.1], [0.0, 0.0, 1.0, 0.0]])
def test_nearby_weights_are_on_the_simplex_and_within_the_angle(weights):
    found = nearby(weights, 200, 30.0, 0)
    assert found[0] == weights
    assert len(found) == 200
    assert len({tuple(each) for each in found}) > 100
    for each in found:
        assert math.fsum(each) == pytest.approx(1)
        assert min(each) >= 0
        assert degrees(each, weights) <= 30 + 1e-6
    assert max(degrees(each, weights) for each in found) > 25, "and they use it"


def test_nearby_weights_follow_the_seed():
    assert nearby([0.6, 0.4], 5, 30.0, "a") == nearby([0.6, 0.4], 9, 30.0, "a")[:5]
    assert nearby([0.6, 0.4], 5, 30.0, "a") != nearby([0.6, 0.4], 5, 30.0, "b")
    assert nearby([3.0, 2.0], 1, 30.0, 0) == [[0.6, 0.4]]


def test_nearby_to_all_sides_alike():
    found = nearby([1 / 3] * 3, 3000, 20.0, 1)
    for k in range(3):
        assert math.fsum(each[k] for each in found) / 3000 == pytest.approx(1 / 3, abs=0.01)


def test_no_neighbours_in_one_dimension_or_at_no_angle():
    assert nearby([1.0], 3, 30.0, 0) == [[1.0]] * 3
    for each in nearby([0.6, 0.4], 4, 0.0, 0):
        assert each == pytest.approx([0.6, 0.4])
