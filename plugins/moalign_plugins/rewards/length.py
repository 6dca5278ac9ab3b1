"""Counts what a completion is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from moalign.components import Reward

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from moalign.types import Batch


class Length(Reward):
    """Minus the length of the completion, so that shorter is better.

    Counted in tokens (the end token included), or in words or characters of the surface text. Range
    unbounded below, at most 0. Without a range, so give ``bounds`` to put it on the front, or
    ``monitor: true`` to watch it; ``brevity`` is the same wish on a scale from 0 to 1, and it
    stops counting at a limit.

    For a limit on length, set a threshold: ``at_least: -40`` is at most 40.

    Option ``unit``: ``tokens``, ``words`` or ``characters``.

    Cost: none. Source: ours.

    Example::

        objectives:
          length: {reward: length, bounds: [-64, -1]}
          words:  {reward: {length: {unit: words}}, monitor: true}
    """

    name: ClassVar[str] = "length"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"unit": "words"})

    def __init__(self, *, unit: Literal["tokens", "words", "characters"] = "tokens") -> None:
        self.unit = unit

    def score(self, batch: Batch) -> Tensor | Sequence[int]:
        """Return minus the length of every completion."""
        if self.unit == "tokens":
            return -batch.lengths_B()
        return [-len(text.split() if self.unit == "words" else text) for text in batch.texts_B]
