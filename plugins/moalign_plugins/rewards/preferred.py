"""Whether a completion is the one that people prefer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from moalign.components import Reward

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moalign.types import Batch, Pair


class Preferred(Reward):
    """1 for the completion of a preference that was chosen, 0 for the other one.

    It reads the preferences of the task, so it trains only optimizers that learn from pairs. What
    is measured is how often the policy agrees: the share of held-out pairs whose chosen completion
    has become likelier, against the reference policy, than the other; 1/2 at the base policy.

    With ``group`` it speaks for one group of people: pairs of others are none of its business. One
    objective per group makes the groups objectives, and the weighting weighs them. With ``score``
    it compares what people said of one side of the completions, instead of the choice as a whole.

    Cost:
        None; measuring takes a forward pass of policy and reference over the pairs.

    Example::

        objectives:
          north: {reward: {preferred: {group: north}}}
          south: {reward: {preferred: {group: south}}}
    """

    name: ClassVar[str] = "preferred"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"group": "north"},
        {"score": "fluency"},
    )
    needs: ClassVar[frozenset[str]] = frozenset({"pairs"})
    range = (0.0, 1.0)

    def __init__(
        self,
        *,
        group: str | None = None,
        annotator: str | None = None,
        score: str | None = None,
    ) -> None:
        """Take the options.

        Args:
            group: only preferences of this group; null: all.
            annotator: only preferences of this person; null: all.
            score: the name of a score that the task gives with its preferences; null: the choice.
        """
        self.group = group
        self.annotator = annotator
        self.of = score

    def score(self, batch: Batch) -> list[float]:
        """Return a number for each completion; NaN for pairs of others, or without the score."""
        assert batch.pairs_P is not None, "the host gives a reward that needs pairs no others"
        values: list[float] = []
        for pair in batch.pairs_P:
            values += self._values(pair)
        return values

    def _values(self, pair: Pair) -> tuple[float, float]:
        nothing = (math.nan, math.nan)
        if self.group not in {None, pair.group} or self.annotator not in {None, pair.annotator}:
            return nothing
        if self.of is None:
            return 1.0, 0.0
        if self.of not in pair.chosen_scores or self.of not in pair.rejected_scores:
            return nothing
        return pair.chosen_scores[self.of], pair.rejected_scores[self.of]
