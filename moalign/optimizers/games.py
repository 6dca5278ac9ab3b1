"""Learning from rollouts as from a game: the completions of a prompt win against one another.

What is looked for is no best completion but a policy that none beats: with preferences that go
round in a circle there is no best one. ``P`` prompts, ``G`` completions of each, ``B`` rows, ``T``
tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from moalign.errors import OptionError
from moalign.optimizers.preferences import pair_indices
from moalign.optimizers.utility import Units, UtilityOptimizer, levelled, utilities

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from moalign.types import Objective, Rows

Winning = Literal["bradley-terry", "comparison", "wins"]
"""How probably a completion with utility u beats one with utility v.

- ``bradley-terry``: sigmoid(u - v).
- ``comparison``: 1 if u is larger, 0 if v is, 1/2 if they are equal.
- ``wins``: the scores are it: for each of two completions the probability, in [0, 1], of being
  better than the other one, as a judge of pairs gives it. Only so can A beat B, B beat C and C beat
  A. Objectives are averaged with the weights.
"""


class GameOptimizer(UtilityOptimizer):
    """Learns from rollouts by who wins among the completions of a prompt.

    A subclass with options of its own takes the rest as ``**game``.
    """

    whole_groups: ClassVar[bool] = True

    def __init__(
        self, *, preference: Winning = "bradley-terry", units: Units | None = None
    ) -> None:
        """Take the options.

        Args:
            preference: how probably a completion beats another: `bradley-terry`, the sigmoid of the
                difference of their utilities; `comparison`, 1 for the higher one; or `wins`: that
                is what the scores say, of the two completions of a group.
            units: of each objective before weights act: its `deviation` in the group, or its
                `score`; null: the deviation, and of `wins` the score.
        """
        if preference == "wins" and units == "deviation":
            raise OptionError(
                f"optimizer {self.name}, option units: with preference: wins the scores are "
                "probabilities, and in units of their deviation they are none; leave it out, or "
                "set units: score",
                "units",
            )
        super().__init__(units=units or ("score" if preference == "wins" else "deviation"))
        self.preference: Winning = preference
        self.scalable = preference != "wins"
        self.max_group = 2 if preference == "wins" else None

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check that scores which are to say how probably a completion wins lie in [0, 1]."""
        if self.preference != "wins":
            return
        for objective in objectives:
            low, high = objective.bounds or (-float("inf"), float("inf"))
            if low < 0 or high > 1:
                found = f"has the bounds [{low:g}, {high:g}]" if objective.bounds else "has none"
                raise OptionError(
                    f"optimizer {self.name}, option preference: wins takes scores for "
                    f"probabilities of winning, with bounds in [0, 1]; objective {objective.name} "
                    f"{found}; train on a reward that judges pairs, or set preference: "
                    "bradley-terry or comparison",
                    "preference",
                )

    def margins(self, rows: Rows, advantages_BT: Tensor) -> Tensor:
        """Return ``P(i beats j) - 1/2``, [P, G, G]: that of j against i is minus as much."""
        import torch

        utilities_B, nothing_B = utilities(rows, advantages_BT)
        shape = (-1, rows.group)
        values_PG = levelled(utilities_B.view(shape), nothing_B.view(shape))
        differences_PGG = values_PG[:, :, None] - values_PG[:, None]
        if self.preference == "comparison":
            return 0.5 * differences_PGG.sign()
        if self.preference == "wins":  # both are from the mean of the two, 1/2
            return (0.5 * differences_PGG).clamp(-0.5, 0.5)
        return 0.5 * torch.tanh(0.5 * differences_PGG)  # sigmoid(x) - 1/2


def whole(values_BT: Tensor, rows: Rows) -> Tensor:
    """Return the sum of a value per token over each completion, [P, G]."""
    return values_BT.masked_fill(rows.mask_BT == 0, 0.0).sum(-1).view(-1, rows.group)


def of_others(values_PGG: Tensor) -> Tensor:
    """Return the mean over the other completions of the group, [P, G].

    Args:
        values_PGG: of each completion against each other one; 0 against itself.
    """
    return values_PGG.sum(2) / max(values_PGG.shape[2] - 1, 1)


def regression(
    logprobs_BT: Tensor, anchor_BT: Tensor, margins_PGG: Tensor, strength: float, rows: Rows
) -> Tensor:
    """Return the rows' share of the squared error of who wins, over all pairs of completions.

    With h the difference of two completions' log-probabilities, each from its anchor::

        loss = mean of (h - (P(first beats second) - 1/2) / strength)^2

    Args:
        logprobs_BT: under the policy, with gradient.
        anchor_BT: log-probabilities that a policy would have if all completions were equal.
        margins_PGG: who wins.
        strength: of the pull to the anchor.
        rows: whole groups.
    """
    first, second = pair_indices(rows.group)
    moved_PG = whole(logprobs_BT - anchor_BT, rows)
    errors_PN = moved_PG[:, first] - moved_PG[:, second] - margins_PGG[:, first, second] / strength
    return errors_PN.square().sum() / max(len(first), 1) / prompts_of(rows)


def decided(margins_PGG: Tensor, rows: Rows) -> dict[str, Tensor]:
    """Return the rows' share of a metric.

    ``decided``: how clear it is who wins, on average: 0 if nobody does, 1 if it is certain.
    """
    return {"decided": of_others(2.0 * margins_PGG.abs()).mean(1).sum() / prompts_of(rows)}


def prompts_of(rows: Rows) -> int:
    """Return how many prompts the mini-batch has."""
    return max(rows.total_rows // rows.group, 1)
