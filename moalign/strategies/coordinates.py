"""A search space as rows of numbers in [0, 1], for strategies that fit a model to it.

Shapes: N rows, D columns.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moalign.maths.simplex import from_uniforms
from moalign.types import Choice, FloatRange, IntRange, Parameter, Simplex


@dataclass(frozen=True, slots=True)
class Block:
    """The columns of one dimension.

    Attributes:
        path: its path in the study.
        dimension: what it may be.
        start: its first column.
        width: how many columns it has.
    """

    path: str
    dimension: Parameter
    start: int
    width: int

    @property
    def columns(self) -> range:
        """Its columns."""
        return range(self.start, self.start + self.width)


class Coordinates:
    """Parameters as rows of D numbers in [0, 1], and back.

    - A number takes one column, linear in it or in its logarithm; an integer owns the half unit on
      either side, and stands in the middle of what it owns.
    - Weights take a column each and stand there as they are: a model sees the geometry of the
      simplex itself, corners included, and no weight is special. A row whose columns do not sum to
      1 means the weights in these proportions (:meth:`params`), so that all of [0, 1] may be
      searched.
    - A choice of two takes one column, 0 or 1; one of more a column per option, of which one is 1.
    - What has only one value takes none.

    Attributes:
        blocks: the dimensions with columns, in order.
        width: D.
    """

    def __init__(self, space: Mapping[str, Parameter]) -> None:
        """Lay out the columns of ``space``."""
        self.space = dict(space)
        blocks: list[Block] = []
        start = 0
        for path, dimension in self.space.items():
            width = _width(dimension)
            if width:
                blocks.append(Block(path, dimension, start, width))
            start += width
        self.blocks = tuple(blocks)
        self.width = start

    def row(self, params: Mapping[str, Any]) -> list[float]:
        """Return the D numbers of ``params``."""
        row: list[float] = []
        for block in self.blocks:
            row += _encode(block.dimension, params[block.path])
        return row

    def params(self, row: Sequence[float]) -> dict[str, Any]:
        """Return the parameters that are nearest to a row: integers rounded, weights normalised."""
        found = {path: _only(dimension) for path, dimension in self.space.items()}
        for block in self.blocks:
            found[block.path] = _decode(block.dimension, [row[column] for column in block.columns])
        return found

    def legal(self, row: Sequence[float]) -> list[float]:
        """Return the row of :meth:`params`."""
        return self.row(self.params(row))

    @property
    def uniforms(self) -> int:
        """How many numbers :meth:`drawn` needs."""
        return sum(_uniforms(block.dimension) for block in self.blocks)

    def drawn(self, uniforms: Sequence[float]) -> list[float]:
        """Map independent uniform numbers to a row of parameters that are uniform in the space."""
        left = iter(uniforms)
        row: list[float] = []
        for block in self.blocks:
            given = list(itertools.islice(left, _uniforms(block.dimension)))
            if isinstance(block.dimension, Simplex):
                row += from_uniforms(given)
            elif isinstance(block.dimension, Choice):
                options = block.dimension.options
                index = min(int(given[0] * len(options)), len(options) - 1)
                row += _encode(block.dimension, options[index])
            else:
                row += given
        return self.legal(row)

    def combinations(self, most: int) -> list[list[float]]:
        """Return every combination of choices as values of :attr:`chosen`; [] if over ``most``."""
        choices = [b.dimension for b in self.blocks if isinstance(b.dimension, Choice)]
        if math.prod(len(choice.options) for choice in choices) > most:
            return []
        encoded = [[_encode(choice, option) for option in choice.options] for choice in choices]
        return [list(itertools.chain(*parts)) for parts in itertools.product(*encoded)]

    @property
    def chosen(self) -> list[int]:
        """The columns of choices."""
        return [c for b in self.blocks if isinstance(b.dimension, Choice) for c in b.columns]

    @property
    def simplexes(self) -> list[range]:
        """The columns of each simplex."""
        return [b.columns for b in self.blocks if isinstance(b.dimension, Simplex)]

    def every(self, most: int) -> list[list[float]]:
        """Return every row of a space of integers and choices; [] if infinite or over ``most``."""
        axes = [list(_values(block.dimension, most)) for block in self.blocks]
        if not all(axes) or math.prod(len(axis) for axis in axes) > most:
            return []
        return [list(itertools.chain(*parts)) for parts in itertools.product(*axes)]


# --- one dimension -----------------------------------------------------------------------------


def _width(dimension: Parameter) -> int:
    if isinstance(dimension, Simplex):
        return len(dimension.names) if len(dimension.names) > 1 else 0
    if isinstance(dimension, Choice):
        count = len(dimension.options)
        return count if count > 2 else count - 1
    return 1


def _uniforms(dimension: Parameter) -> int:
    return len(dimension.names) - 1 if isinstance(dimension, Simplex) else 1


def _only(dimension: Parameter) -> Any:
    """Return the value of a dimension without columns, the first of any other."""
    if isinstance(dimension, Simplex):
        return {name: float(index == 0) for index, name in enumerate(dimension.names)}
    return dimension.options[0] if isinstance(dimension, Choice) else dimension.low


def _values(dimension: Parameter, most: int) -> Iterator[list[float]]:
    """Yield the columns of all its values; none if there are more than ``most``."""
    if isinstance(dimension, Choice):
        yield from (_encode(dimension, option) for option in dimension.options)
    elif isinstance(dimension, IntRange) and dimension.high - dimension.low < most:
        yield from (_encode(dimension, n) for n in range(dimension.low, dimension.high + 1))


def _encode(dimension: Parameter, value: Any) -> list[float]:
    if isinstance(dimension, Simplex):
        return [float(value[name]) for name in dimension.names]
    if isinstance(dimension, Choice):
        # 1, 1.0 and True are equal, but not the same option.
        index = next(
            i
            for i, option in enumerate(dimension.options)
            if option == value and isinstance(option, bool) == isinstance(value, bool)
        )
        if len(dimension.options) == 2:
            return [float(index)]
        return [float(i == index) for i in range(len(dimension.options))]
    low, high = _ends(dimension)
    return [min(max((_scaled(dimension, value) - low) / (high - low), 0.0), 1.0)]


def _decode(dimension: Parameter, columns: Sequence[float]) -> Any:
    if isinstance(dimension, Simplex):
        total = math.fsum(columns)
        if total <= 0:
            columns, total = [1.0] * len(columns), float(len(columns))
        return {name: column / total for name, column in zip(dimension.names, columns, strict=True)}
    if isinstance(dimension, Choice):
        if len(columns) == 1:
            return dimension.options[int(columns[0] >= 0.5)]
        return dimension.options[max(range(len(columns)), key=columns.__getitem__)]
    low, high = _ends(dimension)
    scaled = low + columns[0] * (high - low)
    value = math.exp(scaled) if dimension.log else scaled
    if isinstance(dimension, IntRange):
        value = round(value)
    return min(max(value, dimension.low), dimension.high)


def _ends(dimension: FloatRange | IntRange) -> tuple[float, float]:
    margin = 0.5 if isinstance(dimension, IntRange) else 0.0
    return _scaled(dimension, dimension.low - margin), _scaled(dimension, dimension.high + margin)


def _scaled(dimension: FloatRange | IntRange, value: float) -> float:
    return math.log(value) if dimension.log else float(value)
