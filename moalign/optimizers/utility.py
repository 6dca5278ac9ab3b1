"""Learning from rollouts by what a completion is worth, all objectives together.

``P`` prompts, ``G`` completions of each, ``B`` rows, ``T`` tokens, ``K`` objectives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge

from moalign.components import Optimizer
from moalign.maths.aggregate import Aggregation, aggregate
from moalign.maths.combine import CANCELLED
from moalign.maths.normalisation import group_centre, group_zscore

if TYPE_CHECKING:
    from torch import Tensor

    from moalign.types import Batch, Rows

Units = Literal["deviation", "score"]
"""What an objective's scores are measured in before weights act: their `deviation` in the group, so
that weights mean the same whatever an objective's scale; or the `score` as its reward gives it.
Both from the group's mean, which a missing score counts as."""


class UtilityOptimizer(Optimizer):
    """Learns from rollouts by their utility: the weighted sum of the objectives' scores.

    Utilities that differ by less than :data:`moalign.maths.combine.CANCELLED` times the largest
    single advantage in their group are equal: where objectives cancel, what is left is rounding and
    the epsilon of their normalisation, and to prefer one completion by that would be to train on
    noise.

    A subclass with options of its own takes the rest as ``**utility``.
    """

    min_group: ClassVar[int] = 2
    shiftable: ClassVar[bool] = False

    def __init__(self, *, units: Units = "deviation") -> None:
        """Take the options.

        Args:
            units: of each objective before weights act: its `deviation` in the group, or its
                `score`.
        """
        self.units: Units = units

    def advantages(self, scores_PGK: Tensor, batch: Batch) -> Tensor:
        """Return each score in its units, from its group's mean, [B, 1, K]; 0 where it is NaN."""
        comparable = group_zscore if self.units == "deviation" else group_centre
        advantages_PGK = comparable(scores_PGK)
        largest_P = advantages_PGK.abs().amax((1, 2))
        batch.kept["largest"] = largest_P.repeat_interleave(batch.group)
        return advantages_PGK.flatten(0, 1)[:, None]


def utilities(rows: Rows, advantages_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Return what each row is worth, and the difference up to which that is nothing, [B] each.

    Args:
        rows: of an optimizer that left ``largest`` for them.
        advantages_BT: combined; [B, T], or [B, 1].
    """
    mask_BT = rows.mask_BT
    summed_B = advantages_BT.expand_as(mask_BT).masked_fill(mask_BT == 0, 0.0).sum(-1)
    return summed_B / mask_BT.sum(-1).clamp(min=1.0), CANCELLED * rows.kept["largest"]


def levelled(values_PG: Tensor, tolerance_PG: Tensor) -> Tensor:
    """Return values with those of a group that hardly differ made equal: to the lowest of them.

    Args:
        values_PG: finite.
        tolerance_PG: how far neighbours in order may be apart and still count as equal.
    """
    import torch

    ordered_PG, order_PG = values_PG.sort(dim=1, stable=True)
    apart_PG = torch.ones_like(ordered_PG, dtype=torch.bool)
    apart_PG[:, 1:] = ordered_PG.diff(dim=1) > tolerance_PG[:, 1:]
    lowest_PG = ordered_PG.where(apart_PG, -float("inf")).cummax(1).values
    return torch.empty_like(values_PG).scatter_(1, order_PG, lowest_PG)


class ImitationOptimizer(UtilityOptimizer):
    """Imitates the best completions of each group.

    Over the ``best`` completions of each group with the highest utility u, as far as they are
    better than their group's mean, which is 0::

        loss = aggregation(-logprob_t [u > 0])

    A completion that is no better than the mean of its group counts as loss 0 in the average: in a
    group of equal utilities nothing is imitated.
    """

    def __init__(
        self,
        *,
        best: Annotated[int, Ge(1)] = 1,
        aggregation: Aggregation = "token-mean",
        epochs: Annotated[int, Ge(1)] = 1,
        **utility: Any,
    ) -> None:
        """Take the options.

        Args:
            best: how many completions of a group are imitated at most.
            aggregation: what the loss is averaged over; see `moalign.maths.aggregate`.
            epochs: passes over what was chosen of each rollout.
        """
        super().__init__(**utility)
        self.best = best
        self.aggregation: Aggregation = aggregation
        self.epochs = epochs

    def select(self, advantages_PG: Tensor) -> Tensor:
        """Return the best completions of each prompt, [P, S]."""
        return advantages_PG.argsort(dim=1, descending=True, stable=True)[:, : self.best]

    def loss(
        self, logprobs_BT: Tensor, rows: Rows, advantages_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the rows' share of the loss.

        Metric: ``imitated``, the share of the chosen completions that are better than their
        group's mean.
        """
        utilities_B, nothing_B = utilities(rows, advantages_BT)
        imitated_B = (utilities_B > nothing_B).float()
        loss = aggregate(-logprobs_BT * imitated_B[:, None], rows, self.aggregation)
        return loss, {"imitated": imitated_B.sum() / rows.total_rows}
