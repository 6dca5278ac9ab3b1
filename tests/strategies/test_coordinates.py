from __future__ import annotations

import random
import statistics

import pytest

from moalign.strategies.coordinates import Coordinates
from moalign.types import Choice, FloatRange, IntRange, Simplex

SPACE = {
    "w": Simplex(("a", "b", "c")),
    "rate": FloatRange(1e-4, 1e-2, log=True),
    "one": Simplex(("only",)),
    "n": IntRange(2, 9, log=True),
    "flag": Choice((True, 1)),
    "kind": Choice(("x", True, 1)),
    "fixed": Choice(("y",)),
}
COORDINATES = Coordinates(SPACE)


def drawn(count: int, coordinates: Coordinates = COORDINATES) -> list[list[float]]:
    rng = random.Random(0)
    return [
        coordinates.drawn([rng.random() for _ in range(coordinates.uniforms)]) for _ in range(count)
    ]


def test_parameters_and_back():
    assert COORDINATES.width == 3 + 1 + 0 + 1 + 1 + 3 + 0
    for row in drawn(50):
        params = COORDINATES.params(row)
        again = COORDINATES.params(COORDINATES.row(params))
        assert list(params) == list(SPACE)
        assert again["w"] == pytest.approx(params["w"])
        assert again["rate"] == pytest.approx(params["rate"])
        for path in ("one", "n", "flag", "kind", "fixed"):
            assert again[path] == params[path]
            assert type(again[path]) is type(params[path])
        assert all(0.0 <= value <= 1.0 for value in row)
        assert COORDINATES.legal(row) == pytest.approx(row)


def test_what_is_drawn_is_uniform():
    """Weights have the variance of the uniform simplex, the rate is even in its logarithm."""
    rows = drawn(4000)
    for column in range(3):
        weights = [row[column] for row in rows]
        assert statistics.mean(weights) == pytest.approx(1 / 3, abs=0.01)
        assert statistics.variance(weights) == pytest.approx(1 / 18, rel=0.1)
    assert statistics.mean(row[3] for row in rows) == pytest.approx(0.5, abs=0.02)
    kinds = [COORDINATES.params(row)["kind"] for row in rows]
    assert sum(kind == "x" for kind in kinds) / len(kinds) == pytest.approx(1 / 3, abs=0.03)


def test_proportions_are_weights():
    space = Coordinates({"w": Simplex(("a", "b"))})
    assert space.params([0.5, 0.5]) == space.params([1.0, 1.0]) == space.params([0.0, 0.0])
    assert space.params([0.3, 0.0]) == {"w": {"a": 1.0, "b": 0.0}}


def test_corners_are_points_like_any_other():
    corner = {"w": {"a": 0.0, "b": 1.0, "c": 0.0}}
    space = Coordinates({"w": SPACE["w"]})
    assert space.row(corner) == [0.0, 1.0, 0.0]
    assert space.params([0.0, 1.0, 0.0]) == corner


def test_integers_own_the_half_unit_around_them():
    space = Coordinates({"n": IntRange(4, 6)})
    assert [space.params([u])["n"] for u in (0.0, 0.32, 0.34, 0.66, 0.67, 1.0)] == [
        4,
        4,
        5,
        5,
        6,
        6,
    ]
    assert space.legal([0.4]) == pytest.approx([0.5])


def test_values_outside_are_clipped():
    space = Coordinates({"rate": SPACE["rate"]})
    assert space.row({"rate": 1.0}) == [1.0]
    assert space.params([1.0]) == {"rate": 1e-2}


def test_finite_spaces_are_listed():
    space = Coordinates({"n": IntRange(4, 6), "kind": SPACE["kind"]})
    rows = space.every(9)
    assert len({str(space.params(row)) for row in rows}) == 9
    assert space.every(8) == []
    assert COORDINATES.every(10**6) == []
    assert len(COORDINATES.combinations(6)) == 6
    assert COORDINATES.combinations(5) == []
    assert [COORDINATES.blocks[i].path for i in range(3)] == ["w", "rate", "n"]
    assert COORDINATES.chosen == [5, 6, 7, 8]
    assert COORDINATES.simplexes == [range(3)]
