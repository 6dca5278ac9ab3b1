"""Short is good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Gt

from moalign.components import Reward

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moalign.types import Batch


class Brevity(Reward):
    """One minus the length of the surface text as a share of a limit.

    ``brevity = 1 - min(n / limit, 1)``, with n words (split at white space) or characters: 1 for
    an empty text, 0 from the limit on. Range (0, 1).

    Pick a limit that most completions stay below, because there is no gradient beyond it. On its
    own this objective is best served by silence; set another one against it.

    Options: ``limit`` in units; ``unit``, ``words`` or ``characters``.

    Cost: none. Source: ours; linear, so that a word is worth the same in short and long texts.

    Example::

        objectives:
          brevity: {reward: {brevity: {limit: 30}}}
          terse:   {reward: {brevity: {limit: 80, unit: characters}}}
    """

    name: ClassVar[str] = "brevity"
    range = (0.0, 1.0)
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"limit": 4},
        {"limit": 30, "unit": "characters"},
    )

    def __init__(
        self,
        *,
        limit: Annotated[int, Gt(0)],
        unit: Literal["words", "characters"] = "words",
    ) -> None:
        self.limit = limit
        self.unit = unit

    def score(self, batch: Batch) -> list[float]:
        """Return the score of every surface text."""
        lengths = [len(text.split() if self.unit == "words" else text) for text in batch.texts_B]
        return [1 - min(length / self.limit, 1) for length in lengths]
