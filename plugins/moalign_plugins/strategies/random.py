"""Random search: the baseline that every other strategy has to beat."""

from __future__ import annotations

import math
import random
from typing import Any, ClassVar

from moalign.components import Strategy
from moalign.maths.simplex import from_uniforms
from moalign.types import Choice, FloatRange, History, IntRange, Parameter, Proposal


class Random(Strategy):
    """Draws every parameter independently and uniformly.

    Numbers are uniform in their range, or in its logarithm; weights are uniform on the simplex.
    Nothing is learnt from results, so it needs none: with many workers, or as a baseline for
    claims about other strategies (Bergstra and Bengio 2012).

    Example:
        ``search: {strategy: random}``
    """

    name: ClassVar[str] = "random"

    def propose(self, history: History, n: int, seed: int) -> list[Proposal]:
        """Draw ``n`` proposals; the number of earlier ones counts as part of the seed."""
        rng = random.Random(f"{seed}/{history.proposed}")
        return [
            Proposal({path: draw(dimension, rng) for path, dimension in history.space.items()})
            for _ in range(n)
        ]


def draw(dimension: Parameter, rng: random.Random) -> Any:
    """Return a value drawn uniformly from one dimension."""
    if isinstance(dimension, Choice):
        return dimension.options[rng.randrange(len(dimension.options))]
    if isinstance(dimension, FloatRange | IntRange):
        # An integer owns the half unit on either side of it.
        margin = 0.5 if isinstance(dimension, IntRange) else 0.0
        low, high = dimension.low - margin, dimension.high + margin
        value = (
            math.exp(rng.uniform(math.log(low), math.log(high)))
            if dimension.log
            else rng.uniform(low, high)
        )
        if isinstance(dimension, IntRange):
            value = round(value)
        return min(max(value, dimension.low), dimension.high)
    weights = from_uniforms([rng.random() for _ in dimension.names[1:]])
    return dict(zip(dimension.names, weights, strict=True))
