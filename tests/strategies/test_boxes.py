from __future__ import annotations

import math
import random

import pytest

from moalign import pareto
from moalign.strategies.boxes import undominated

LOW, TOP = 0.1, 1.5  # the reference, and above all points


def points(count: int, axes: int, *, ties: bool, seed: int = 0) -> list[list[float]]:
    """Return points near a sphere, so that most are on the front; rounded ones tie."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        draws = [rng.expovariate(1.0) for _ in range(axes)]
        point = [math.sqrt(draw / sum(draws)) for draw in draws]
        found.append([round(x, 1) for x in point] if ties else point)
    return found


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("axes", [2, 3, 4])
@pytest.mark.parametrize("count", [0, 1, 2, 25])
def test_every_point_is_dominated_or_in_one_box(count: int, axes: int, ties: bool):
    front = points(count, axes, ties=ties)
    boxes = undominated(front, [LOW] * axes)
    above = [point for point in front if min(point) > LOW]
    rng = random.Random(1)
    for _ in range(100):
        y = [rng.uniform(LOW, 1.2) for _ in range(axes)]
        holding = sum(
            all(low < x <= high for low, x, high in zip(lower, y, upper, strict=True))
            for lower, upper in boxes
        )
        dominated = any(all(p >= x for p, x in zip(point, y, strict=True)) for point in above)
        assert holding == (not dominated)


@pytest.mark.parametrize("axes", [2, 3, 4])
def test_boxes_and_hypervolume_fill_the_space(axes: int):
    front = points(25, axes, ties=False)
    volume = sum(
        math.prod(max(min(high, TOP) - low, 0.0) for low, high in zip(*box, strict=True))
        for box in undominated(front, [LOW] * axes)
    )
    whole = (TOP - LOW) ** axes
    assert volume + pareto.hypervolume(front, [LOW] * axes) == pytest.approx(whole)


def test_there_are_few():
    assert len(undominated(points(40, 2, ties=False), [LOW] * 2)) <= 41
    assert len(undominated(points(40, 3, ties=False), [LOW] * 3)) <= 81


def test_what_does_not_exceed_the_reference_counts_for_nothing():
    front = [[0.5, 0.5, 0.5], [0.9, LOW, 0.9], [math.nan, 0.9, 0.9], [0.4, 0.4, 0.4]]
    assert undominated(front, [LOW] * 3) == undominated(front[:1], [LOW] * 3)
