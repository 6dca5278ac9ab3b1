"""The space that no point of a front dominates, cut into boxes: pure Python, for small fronts."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence

Box = tuple[tuple[float, ...], tuple[float, ...]]
"""The lower and the upper corner of a box; upper bounds may be infinite."""


def undominated(points_NK: Sequence[Sequence[float]], reference_K: Sequence[float]) -> list[Box]:
    """Cut what lies above the reference and below no point into disjoint boxes.

    A sweep from above along the last axis: between two points the cut of the other axes stays as
    it is, so a box is emitted when a point changes it. With N points there are at most N + 1 boxes
    in two dimensions and 2 N + 1 in three; in four as many as the cuts of three have changes, up
    to about N squared. Points that do not exceed the reference in every objective count for
    nothing, dominated ones and NaN too.

    Args:
        points_NK: points, higher is better; K from 2 up, but there are many boxes from 4 up.
        reference_K: where the space begins; finite.

    Returns:
        the boxes, in no particular order.

    Source: the sweep of Beume et al. 2009 (hypervolume in three dimensions), kept as boxes.
    """
    above = [
        tuple(point)
        for point in points_NK
        if all(x > r for x, r in zip(point, reference_K, strict=True))
    ]
    return list(_cut(above, tuple(reference_K)))


def _cut(points: list[tuple[float, ...]], reference: tuple[float, ...]) -> Iterator[Box]:
    if len(reference) == 2:
        yield from _steps(points, reference)
    elif len(reference) == 3:
        yield from _strips(points, reference)
    else:
        yield from _sweep(points, reference)


def _steps(points: list[tuple[float, ...]], reference: tuple[float, ...]) -> Iterator[Box]:
    """One box per step of the staircase, each as high as the plane."""
    left, best = math.inf, reference[1]
    for x, y in sorted(points, reverse=True):
        if y > best:
            yield (x, best), (left, math.inf)
            left, best = x, y
    yield (reference[0], best), (left, math.inf)


def _strips(points: list[tuple[float, ...]], reference: tuple[float, ...]) -> Iterator[Box]:
    """Sweep the third axis; the plane is cut into strips, each with a floor and a ceiling.

    Strip i goes from ``ends[i - 1]`` (or the reference) to ``ends[i]`` along the first axis, from
    ``floors[i]`` upwards along the second, and has been there since ``ceilings[i]``.
    """
    ends, floors, ceilings = [math.inf], [reference[1]], [math.inf]
    for x, y, z in sorted(points, key=lambda point: (-point[2], *point[:2])):
        last = bisect_left(ends, x)  # the strip that x is in
        if floors[last] >= y:
            continue
        # Floors fall from left to right: those that the point raises are first, ..., last.
        first = last
        while first > 0 and floors[first - 1] < y:
            first -= 1
        begin = ends[first - 1] if first else reference[0]
        left = begin
        for i in range(first, last + 1):
            right = min(ends[i], x)
            if z < ceilings[i]:
                yield (left, floors[i], z), (right, math.inf, ceilings[i])
            left = right
        # One strip up to x; what lies beyond x of the last one goes on as it is.
        rest = last if ends[last] > x else last + 1
        ends[first:rest], floors[first:rest], ceilings[first:rest] = [x], [y], [z]
    left = reference[0]
    for end, floor, ceiling in zip(ends, floors, ceilings, strict=True):
        yield (left, floor, reference[2]), (end, math.inf, ceiling)
        left = end


def _sweep(points: list[tuple[float, ...]], reference: tuple[float, ...]) -> Iterator[Box]:
    """Sweep the last axis; a box of the others is emitted when a point makes it disappear."""
    since = dict.fromkeys(_cut([], reference[:-1]), math.inf)
    above: list[tuple[float, ...]] = []
    for point in sorted(points, key=lambda point: -point[-1]):
        below = point[:-1]
        if any(_covers(other, below) for other in above):
            continue
        above = [*(other for other in above if not _covers(below, other)), below]
        now = set(_cut(above, reference[:-1]))
        for box in [box for box in since if box not in now]:
            ceiling = since.pop(box)
            if point[-1] < ceiling:
                yield _stacked(box, point[-1], ceiling)
        since |= dict.fromkeys(sorted(box for box in now if box not in since), point[-1])
    for box, ceiling in since.items():
        yield _stacked(box, reference[-1], ceiling)


def _covers(point: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(mine >= its for mine, its in zip(point, other, strict=True))


def _stacked(box: Box, floor: float, ceiling: float) -> Box:
    return (*box[0], floor), (*box[1], ceiling)
