from __future__ import annotations

import pytest

from moalign.errors import OptionError
from moalign.types import Choice, FloatRange, History, IntRange, Objective, Simplex
from moalign_plugins.strategies.grid import Grid


def everything(strategy: Grid, space: dict) -> list[dict]:
    """Ask for one proposal after the other until there is none."""
    found: list[dict] = []
    while True:
        known = History(space, (Objective("a", (0.0, 1.0)),), (), {}, 4, 10, len(found))
        proposals = strategy.propose(known, 1, seed=len(found))
        if not proposals:
            return found
        found.append(dict(proposals[0].params))


def test_every_combination_once():
    space = {
        "lr": FloatRange(1e-4, 1e-2, log=True),
        "n": IntRange(1, 3),
        "kind": Choice(("x", "y")),
    }
    found = everything(Grid(points=3), space)
    assert len(found) == 3 * 3 * 2
    assert sorted({p["lr"] for p in found}) == pytest.approx([1e-4, 1e-3, 1e-2])
    assert {p["n"] for p in found} == {1, 2, 3}
    assert len({tuple(p.values()) for p in found}) == 18
    assert all(type(p["n"]) is int for p in found)


def test_weights_are_all_multiples_that_sum_to_one():
    found = everything(Grid(divisions=4), {"w": Simplex(("a", "b", "c"))})
    assert len(found) == 15  # C(6, 2)
    weights = {tuple(p["w"].values()) for p in found}
    assert (1.0, 0.0, 0.0) in weights
    assert (0.25, 0.5, 0.25) in weights
    assert all(sum(w) == 1.0 for w in weights)
    assert everything(Grid(divisions=1), {"w": Simplex(("a",))}) == [{"w": {"a": 1.0}}]


def test_the_order_is_shuffled_and_always_the_same():
    space = {"x": FloatRange(0.0, 1.0), "y": FloatRange(0.0, 1.0)}
    found = everything(Grid(), space)
    assert found == everything(Grid(), space)
    assert [p["x"] for p in found] != sorted(p["x"] for p in found)
    assert len({p["x"] for p in found[:8]}) >= 4  # a few trials already cover the range


def test_several_at_once_are_the_next_ones():
    space = {"x": FloatRange(0.0, 1.0)}
    known = History(space, (), (), {}, 4, 10, 2)
    several = [dict(p.params) for p in Grid().propose(known, 2, 0)]
    assert several == everything(Grid(), space)[2:4]
    assert len(Grid().propose(History(space, (), (), {}, 4, 10, 4), 3, 0)) == 1


def test_integers_that_round_to_the_same_are_one():
    assert len(everything(Grid(points=9), {"n": IntRange(1, 4)})) == 4


def test_a_grid_nobody_can_finish_is_refused():
    space = {f"x{i}": FloatRange(0.0, 1.0) for i in range(8)}
    with pytest.raises(OptionError, match="the space has 390625 combinations; at most 100000"):
        Grid().check(History(space, (), (), {}, 4, 10, 0))
