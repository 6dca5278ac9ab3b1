"""Whether a completion is the one that people prefer."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

from annotated_types import MaxLen, MinLen

from moalign.components import Reward
from moalign.errors import DataError, OptionError, nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from moalign.types import Batch, Pair

MOST_NAMED: Final = 8
"""Most names that a message lists."""

READ_FROM: Final = {
    "group": ("a group", "column `group`, or the one that its option `group` names"),
    "annotator": (
        "an annotator",
        "column `annotator`, or the one that its option `annotator` names",
    ),
    "score": (
        "a score",
        "columns `chosen_scores` and `rejected_scores`, or those that its option `scores` names",
    ),
}
"""What a preference may have, and where the task ``preferences`` reads it from."""


class Preferred(Reward):
    """1 for the completion of a preference that was chosen, 0 for the other one.

    It reads the preferences of the task, so it trains only optimizers that learn from pairs. What
    is measured is how often the policy agrees: the share of held-out pairs whose chosen completion
    has become likelier, against the reference policy, than the other; 1/2 at the base policy.

    With ``group`` it speaks for one group of people: pairs of others are none of its business. One
    objective per group makes the groups objectives, and the weighting weighs them. With ``score``
    it compares what people said of one side of the completions, instead of the choice as a whole.
    Most optimizers ask only which is better, or take the difference in the score's own unit. Those
    that learn by margins (``mmpo``, ``madpo``, ``adpo``) need ``score``: of choices every margin is
    1. Those that read it as a share of the objective's bounds (the first two) want marks from 1 to
    10 as ``scale: [1, 10]``: the bounds of this objective are those of what is measured, 0 and 1.

    Source:
        Ours. The share is what is called reward accuracy in "Direct Preference Optimization",
        Rafailov et al. 2023, arXiv 2305.18290; groups as in "Group Robust Preference
        Optimization", Ramesh et al. 2024, arXiv 2405.20304.

    When to use it:
        Preferences of people, as such: one objective, or one per group where groups disagree.

    Cost:
        None; measuring takes a forward pass of policy and reference over the pairs.

    Example::

        training: {optimizer: dpo}
        objectives:
          north: {reward: {preferred: {group: north}}}
          south: {reward: {preferred: {group: south}}}
    """

    name: ClassVar[str] = "preferred"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"group": "north"},
        {"score": "fluency"},
        {"score": "fluency", "scale": [0.0, 5.0]},
    )
    needs: ClassVar[frozenset[str]] = frozenset({"pairs"})
    range = (0.0, 1.0)

    def __init__(
        self,
        *,
        group: str | None = None,
        annotator: str | None = None,
        score: str | None = None,
        scale: Annotated[list[float], MinLen(2), MaxLen(2)] | None = None,
    ) -> None:
        """Take the options.

        Args:
            group: only preferences of this group; null: all.
            annotator: only preferences of this person; null: all.
            score: the name of a score that the task gives with its preferences; null: the choice.
            scale: lowest and highest value of that score, which become 0 and 1; null: as it is.
        """
        if scale is not None and (score is None or not scale[0] < scale[1]):
            raise OptionError(
                "reward preferred, option scale: it must be the lowest and the highest value of "
                f"`score`; found {scale} with score: {score}",
                "scale",
            )
        self.group = group
        self.annotator = annotator
        self.of = score
        self.graded = score is not None
        self.scale = scale

    def score(self, batch: Batch) -> list[float]:
        """Return a number for each completion; NaN for pairs of others, or without the score."""
        assert batch.pairs_P is not None, "the host gives a reward that needs pairs no others"
        values: list[float] = []
        for pair in batch.pairs_P:
            values += self._values(pair)
        return values

    def covers(self, pair: Pair) -> bool:
        """Return whether a preference is of the group and the person that are asked for."""
        return self.group in {None, pair.group} and self.annotator in {None, pair.annotator}

    def check_pairs(self, pairs: Sequence[Pair]) -> None:
        """Raise if no preference has the group, person or score, or a score is off its scale."""
        read = list(pairs)
        for option, wanted in (("group", self.group), ("annotator", self.annotator)):
            if wanted is not None:
                _require(option, wanted, {getattr(pair, option) for pair in read})
                read = [pair for pair in read if getattr(pair, option) == wanted]
        if self.of is None:
            return
        _require(
            "score", self.of, {n for p in read for n in {*p.chosen_scores} & {*p.rejected_scores}}
        )
        for pair in read:
            for scores in (pair.chosen_scores, pair.rejected_scores):
                if self.of in scores and self._off(scores[self.of]):
                    raise OptionError(
                        f"{pair.where or f'prompt {pair.prompt.id}'}: "
                        f"{self._said(scores[self.of])}; mend it, or widen `scale`",
                        "scale",
                    )

    def _values(self, pair: Pair) -> tuple[float, float]:
        nothing = (math.nan, math.nan)
        if not self.covers(pair):
            return nothing
        if self.of is None:
            return 1.0, 0.0
        if self.of not in pair.chosen_scores or self.of not in pair.rejected_scores:
            return nothing
        return self._scaled(pair.chosen_scores[self.of]), self._scaled(
            pair.rejected_scores[self.of]
        )

    def _scaled(self, value: float) -> float:
        if self.scale is None:
            return value
        low, high = self.scale
        if self._off(value):
            raise DataError(self._said(value))
        return (value - low) / (high - low)

    def _off(self, value: float) -> bool:
        return self.scale is not None and not self.scale[0] <= value <= self.scale[1]

    def _said(self, value: float) -> str:
        low, high = self.scale or (math.nan, math.nan)
        return (
            f"the score {self.of!r} of a preference is {value:g}, outside of the scale {low:g} to "
            f"{high:g}"
        )


def _require(option: str, wanted: str, have: Collection[str]) -> None:
    """Raise unless what is wanted is there."""
    if wanted in have:
        return
    what, place = READ_FROM[option]
    names = sorted(filter(None, have))
    if not names:
        raise OptionError(
            f"found {wanted!r}, and no preference has {what}; the task preferences reads it from "
            f"{place}",
            option,
        )
    more = f", ... ({len(names)} in all)" if len(names) > MOST_NAMED else ""
    if more:
        names = difflib.get_close_matches(wanted, names, MOST_NAMED, cutoff=0.0)
    raise OptionError(
        f"no preference has the {option} {wanted!r}; {nearest(wanted, names)}{more}", option
    )
