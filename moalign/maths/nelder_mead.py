"""Nelder and Mead's simplex search as a state machine: ask for a point, tell its value.

One of our own, as a value costs hours of training here: the search must stop between any two of
them, go into a checkpoint, and go on bit for bit. ``scipy.optimize.minimize`` calls the function
itself, and has neither ask and tell nor a state to keep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

REFLECTION: Final = 1.0
EXPANSION: Final = 2.0
CONTRACTION: Final = 0.5
SHRINKAGE: Final = 0.5

Point = list[float]


class NelderMead:
    """Minimises a function of N numbers.

    With the N + 1 points in order of their values, c the mean of all but the worst w::

        reflect    r = c + (c - w)      takes the place of w if better than the second worst
        expand     e = c + 2 (c - w)    tried if r is better than the best
        contract   c + (c - w) / 2      (outside) tried if r is better than w only
                   c - (c - w) / 2      (inside) if it is not
        shrink     p = best + (p - best) / 2     if the contraction is no better than r (outside)
                                                 or w (inside); these are evaluated again

    Points are clipped to the limits.

    Args:
        simplex: N + 1 points of N numbers.
        low: least values, N; None: no limits.
        high: largest values, N; with ``low``.
        contraction: ``inside`` never contracts outside.
        expansion: when e takes the place of w and not r: if ``better`` than r, or if it ``beats``
            the best so far, r or not.

    Source: Nelder and Mead 1965, with the rules of Lagarias et al. 1998, as in scipy; the other
    two rules are those of arXiv 2310.04373, algorithm 3.
    """

    def __init__(
        self,
        simplex: Sequence[Sequence[float]],
        *,
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
        contraction: Literal["both", "inside"] = "both",
        expansion: Literal["better", "beats"] = "better",
    ) -> None:
        """Nothing is evaluated yet; see the class."""
        count = len(simplex[0])
        assert len(simplex) == count + 1, "a simplex of N numbers has N + 1 points"
        self.low = [-math.inf] * count if low is None else list(low)
        self.high = [math.inf] * count if high is None else list(high)
        self.contraction = contraction
        self.expansion = expansion
        self._points = [self._clipped(point) for point in simplex]
        self._values: list[float] = []  # of the first points; of all of them, in order, later
        self._phase = "fill"
        self._reflected: Point = []
        self._reflected_value = 0.0

    def ask(self) -> Point:
        """Return the point whose value is wanted; the same until it is told."""
        if self._phase == "fill":
            return list(self._points[len(self._values)])
        return {
            "reflect": lambda: self._beyond(REFLECTION),
            "expand": lambda: self._beyond(REFLECTION * EXPANSION),
            "outside": lambda: self._beyond(REFLECTION * CONTRACTION),
            "inside": lambda: self._beyond(-CONTRACTION),
        }[self._phase]()

    def tell(self, value: float) -> None:
        """Take the value of the point that :meth:`ask` returns.

        Raises:
            ValueError: it is not finite.
        """
        if not math.isfinite(value):
            raise ValueError(f"a value must be finite; found {value}")
        point = self.ask()
        {
            "fill": self._fill,
            "reflect": self._after_reflection,
            "expand": self._after_expansion,
            "outside": self._after_outside,
            "inside": self._after_inside,
        }[self._phase](point, value)

    def best(self) -> tuple[Point, float]:
        """Return the best point and its value; the first point, with infinity, if none has one."""
        pairs = list(zip(self._points, self._values, strict=False))
        if self._phase == "expand":
            pairs.append((self._reflected, self._reflected_value))
        point, value = min(pairs, key=lambda pair: pair[1], default=(self._points[0], math.inf))
        return list(point), value

    def spread(self) -> float:
        """Return the deviation (ddof 0) of the simplex's values; infinity until it is complete."""
        if len(self._values) < len(self._points):
            return math.inf
        mean = math.fsum(self._values) / len(self._values)
        return math.sqrt(math.fsum((v - mean) ** 2 for v in self._values) / len(self._values))

    def state_dict(self) -> dict[str, Any]:
        """Return all that it knows, limits and rules included, as plain data."""
        return {
            "points": [list(point) for point in self._points],
            "values": list(self._values),
            "phase": self._phase,
            "reflected": list(self._reflected),
            "reflected_value": self._reflected_value,
            "low": list(self.low),
            "high": list(self.high),
            "contraction": self.contraction,
            "expansion": self.expansion,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> NelderMead:
        """Return the search that :meth:`state_dict` described."""
        rules = {name: state[name] for name in ("low", "high", "contraction", "expansion")}
        search = cls(state["points"], **rules)
        search._values = list(state["values"])
        search._phase = str(state["phase"])
        search._reflected = list(state["reflected"])
        search._reflected_value = float(state["reflected_value"])
        return search

    def _clipped(self, point: Sequence[float]) -> Point:
        ends = zip(point, self.low, self.high, strict=True)
        return [min(max(float(x), low), high) for x, low, high in ends]

    def _beyond(self, factor: float) -> Point:
        """Return the centre plus so many times its distance from the worst point."""
        worst, others = self._points[-1], self._points[:-1]
        centre = [math.fsum(column) / len(others) for column in zip(*others, strict=True)]
        return self._clipped([c + factor * (c - w) for c, w in zip(centre, worst, strict=True)])

    def _fill(self, _point: Point, value: float) -> None:
        self._values.append(value)
        if len(self._values) == len(self._points):
            self._sort()

    def _after_reflection(self, point: Point, value: float) -> None:
        self._reflected, self._reflected_value = point, value
        if value < self._values[0]:
            self._phase = "expand"
        elif value < self._values[-2]:
            self._accept(point, value)
        elif value < self._values[-1] and self.contraction == "both":
            self._phase = "outside"
        else:
            self._phase = "inside"

    def _after_expansion(self, point: Point, value: float) -> None:
        limit = self._reflected_value if self.expansion == "better" else self._values[0]
        if value < limit:
            self._accept(point, value)
        else:
            self._accept(self._reflected, self._reflected_value)

    def _after_outside(self, point: Point, value: float) -> None:
        if value <= self._reflected_value:
            self._accept(point, value)
        else:
            self._shrink()

    def _after_inside(self, point: Point, value: float) -> None:
        if value < self._values[-1]:
            self._accept(point, value)
        else:
            self._shrink()

    def _accept(self, point: Point, value: float) -> None:
        self._points[-1], self._values[-1] = point, value
        self._sort()

    def _shrink(self) -> None:
        best = self._points[0]
        self._points[1:] = [
            self._clipped([b + SHRINKAGE * (x - b) for x, b in zip(point, best, strict=True)])
            for point in self._points[1:]
        ]
        self._values = self._values[:1]
        self._phase = "fill"

    def _sort(self) -> None:
        """Put the points in order, equal ones in the order of their age; reflect next."""
        order = sorted(range(len(self._values)), key=self._values.__getitem__)
        self._points = [self._points[i] for i in order]
        self._values = [self._values[i] for i in order]
        self._phase = "reflect"
