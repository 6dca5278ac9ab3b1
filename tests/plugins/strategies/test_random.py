from __future__ import annotations

import random
import statistics

import pytest

from moalign.types import Choice, FloatRange, History, IntRange, Objective, Simplex
from moalign_plugins.strategies.random import Random, draw


def history(space: dict, proposed: int = 0) -> History:
    return History(space, (Objective("a", (0.0, 1.0)),), (), {}, 4, 10, proposed)


def drawn(dimension, count: int = 4000) -> list:
    rng = random.Random(0)
    return [draw(dimension, rng) for _ in range(count)]


def test_numbers_are_uniform_in_their_range_or_in_its_logarithm():
    plain = drawn(FloatRange(2.0, 6.0))
    assert min(plain) >= 2.0
    assert max(plain) <= 6.0
    assert statistics.mean(plain) == pytest.approx(4.0, abs=0.1)
    logarithmic = drawn(FloatRange(1e-4, 1e-2, log=True))
    assert statistics.median(logarithmic) == pytest.approx(1e-3, rel=0.15)


@pytest.mark.parametrize("log", [False, True])
def test_integers_have_their_ends(log: bool):
    values = drawn(IntRange(2, 5, log))
    assert set(values) == {2, 3, 4, 5}
    assert all(type(value) is int for value in values)
    if not log:
        assert min(values.count(v) for v in (2, 3, 4, 5)) > 900  # the ends as often as the rest


def test_weights_are_uniform_on_the_simplex():
    weights = drawn(Simplex(("a", "b", "c")))
    assert all(sum(w.values()) == pytest.approx(1.0) for w in weights)
    for name in ("a", "b", "c"):
        column = [w[name] for w in weights]
        assert statistics.mean(column) == pytest.approx(1 / 3, abs=0.01)
        assert statistics.variance(column) == pytest.approx(1 / 18, rel=0.1)


def test_choices_are_equally_likely():
    values = drawn(Choice(("x", 2, True)))
    assert all(values.count(option) > 1200 for option in ("x", 2, True))


def test_seed_and_number_decide():
    space = {"x": FloatRange(0.0, 1.0), "w": Simplex(("a", "b"))}
    strategy = Random()
    first = strategy.propose(history(space), 3, 7)
    assert first == Random().propose(history(space), 3, 7)
    others = (
        strategy.propose(history(space), 3, 8),
        strategy.propose(history(space, proposed=1), 3, 7),
    )
    assert first not in others
    assert len({p.params["x"] for p in first}) == 3
