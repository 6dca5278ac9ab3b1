"""Grid search: every combination of a few values per dimension."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final

from annotated_types import Ge

from moalign.components import Strategy
from moalign.errors import OptionError
from moalign.types import Choice, History, Parameter, Proposal, Simplex

LARGEST: Final = 100_000  # proposals; more than anybody trains


class Grid(Strategy):
    """Tries every combination of evenly spaced values, in an order shuffled once and for all.

    A number takes ``points`` values from its lowest to its highest, evenly spaced or evenly spaced
    in its logarithm; a choice takes all its values; weights take all multiples of
    ``1 / divisions`` that sum to 1, corners included: ``C(divisions + K - 1, K - 1)`` of them.
    The order is shuffled, so that fewer trials than combinations still cover the space; when all
    are done the study ends. Each is tried once, from scratch at full length: what failed is not
    tried again, and warm starts, soups and what another strategy proposed leave nothing out. For
    pictures of a whole space of one or two dimensions.

    Example:
        ``search: {strategy: {grid: {divisions: 5}}, trials: 21}``
    """

    name: ClassVar[str] = "grid"
    corners_first: ClassVar[bool] = False

    def __init__(
        self, *, points: Annotated[int, Ge(2)] = 5, divisions: Annotated[int, Ge(1)] = 4
    ) -> None:
        """Take the resolution.

        Args:
            points: values of a number.
            divisions: steps from one corner of a simplex to another.
        """
        self.points = points
        self.divisions = divisions

    def check(self, history: History) -> None:
        """Refuse a grid that nobody can finish."""
        size = math.prod(len(axis) for axis in self._axes(history))
        if size > LARGEST:
            raise OptionError(
                f"strategy grid: the space has {size} combinations; at most {LARGEST} are allowed, "
                "so lower `points` or `divisions`, or search fewer dimensions"
            )

    def propose(self, history: History, n: int, seed: int) -> list[Proposal]:
        """Return combinations that nobody has tried; fewer than ``n``, or none, at the end."""
        axes = self._axes(history)
        sizes = [len(axis) for axis in axes]
        order = list(range(math.prod(sizes)))
        random.Random(0).shuffle(order)
        tried = {
            _key(proposal.params)
            for proposal in history.made.values()
            if proposal.start.scratch and proposal.steps is None and not proposal.settings
        }
        combinations = (
            dict(zip(history.space, _combination(axes, number), strict=True)) for number in order
        )
        new = (params for params in combinations if _key(params) not in tried)
        return [Proposal(params) for params in itertools.islice(new, n)]

    def _axes(self, history: History) -> list[list[Any]]:
        return [self._values(dimension) for dimension in history.space.values()]

    def _values(self, dimension: Parameter) -> list[Any]:
        if isinstance(dimension, Choice):
            return list(dimension.options)
        if isinstance(dimension, Simplex):
            return [
                dict(zip(dimension.names, [part / self.divisions for part in parts], strict=True))
                for parts in _compositions(self.divisions, len(dimension.names))
            ]
        shares = [index / (self.points - 1) for index in range(self.points)]
        low, high = dimension.low, dimension.high
        if dimension.log:
            inside = [low * (high / low) ** share for share in shares[1:-1]]
        else:
            inside = [low + share * (high - low) for share in shares[1:-1]]
        values = [low, *inside, high]
        if isinstance(low, int) and isinstance(high, int):
            return list(dict.fromkeys(round(value) for value in values))
        return values


def _key(params: Mapping[str, Any]) -> str:
    """Return text that tells two combinations apart, and 1 from True."""
    return json.dumps(params, sort_keys=True)


def _combination(axes: list[list[Any]], number: int) -> list[Any]:
    """Return one element of the axes' product by its number."""
    values = []
    for axis in reversed(axes):
        number, index = divmod(number, len(axis))
        values.append(axis[index])
    return values[::-1]


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Yield all ways to write ``total`` as an ordered sum of non-negative parts."""
    for bars in itertools.combinations(range(total + parts - 1), parts - 1):
        edges = (-1, *bars, total + parts - 1)
        yield tuple(right - left - 1 for left, right in itertools.pairwise(edges))
