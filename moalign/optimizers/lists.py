"""Losses that look at all completions of a prompt at once, or at each one by itself.

``P`` prompts, ``G`` completions of each, ``T`` tokens, ``K`` objectives.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt

from moalign.components import Optimizer
from moalign.errors import OptionError, nearest
from moalign.maths.normalisation import group_zscore
from moalign.optimizers.preferences import compared, groups, pair_metrics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from moalign.optimizers.preferences import Groups
    from moalign.types import Objective, Rows

EQUAL = 1e-6
"""Deviations from a group's mean up to which a score counts as equal to it: rounding."""


class ListOptimizer(Optimizer):
    """Has one loss for all completions of a prompt; a pair is a list of two.

    A subclass gives :meth:`loss_of_lists`, and :meth:`applies` if it learns from something else
    than two scores that differ. The objectives' losses are added with the weights: ``sum_k w_k
    mean_p loss_pk``.

    A subclass with options of its own takes the rest as ``**lists``.
    """

    learns_from: ClassVar[Literal["rollouts", "pairs", "both"]] = "pairs"
    whole_groups: ClassVar[bool] = True
    needs: frozenset[str] = frozenset({"ref_logprobs"})

    def __init__(
        self, *, beta: Annotated[float, Gt(0)] = 0.1, epochs: Annotated[int, Ge(1)] = 1
    ) -> None:
        """Take the options.

        Args:
            beta: strength of the pull to the reference policy.
            epochs: passes over each batch of preferences.
        """
        self.beta = beta
        self.epochs = epochs

    @abstractmethod
    def loss_of_lists(self, groups: Groups) -> Tensor:
        """Return the loss of each prompt, [P, K], finite; what it is where it does not apply is
        not read."""

    def losses(self, logprobs_BT: Tensor, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of each prompt for each objective, [P, K], and metrics.

        The metrics are those of :func:`moalign.optimizers.preferences.pair_metrics`, over all
        pairs of completions.
        """
        import torch

        given = groups(logprobs_BT, rows)
        applies_PK = self.applies(given.scores_PGK)
        losses_PK = self.loss_of_lists(given).masked_fill(~applies_PK, torch.nan)
        pairs, missing = compared(given)
        counted = ~missing & (pairs.margin > 0) & applies_PK[:, None]
        return losses_PK, pair_metrics(pairs, counted, rows)


class LabelledOptimizer(ListOptimizer):
    """Calls completions good or bad one by one, and compares none with another.

    For an objective with a threshold, good is what scores at least that. For the others, good is
    what scores above the mean of its group, and bad what scores below it, so that of two the
    better one is good and the worse one bad, and equal ones are neither. A missing score is
    neither.

    A subclass with options of its own takes the rest as ``**labelled``.
    """

    def __init__(self, *, thresholds: dict[str, float] | None = None, **lists: Any) -> None:
        """Take the options.

        Args:
            thresholds: by objective, in its own units, what a good completion scores at least;
                default: more than the mean of its group.
        """
        super().__init__(**lists)
        self.thresholds = dict(thresholds or {})
        self._at_least_K: list[float | None] = []

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check that each threshold is one of an objective that is trained on."""
        names = [objective.name for objective in objectives]
        for name in self.thresholds:
            if name not in names:
                raise OptionError(
                    f"optimizer {self.name}, option thresholds: {name!r} is no training "
                    f"objective; {nearest(name, names)}",
                    "thresholds",
                )

    def begin(self, objectives: Sequence[Objective], width: int, seed: int) -> None:  # noqa: ARG002
        """Find the objectives' places."""
        self._at_least_K = [self.thresholds.get(objective.name) for objective in objectives]

    def labels(self, scores_PGK: Tensor) -> Tensor:
        """Return 1 for what is good, -1 for what is bad, 0 for what is neither, [P, G, K]."""
        import torch

        assert self._at_least_K or not self.thresholds, "begin() comes first"
        deviations = group_zscore(scores_PGK)
        labels = deviations.sign().masked_fill(deviations.abs() <= EQUAL, 0.0)
        for k, at_least in enumerate(self._at_least_K):
            if at_least is not None:
                scores_PG = scores_PGK[..., k]
                good = torch.where(scores_PG >= at_least, 1.0, -1.0)
                labels[..., k] = good.masked_fill(scores_PG.isnan(), 0.0)
        return labels

    def applies(self, scores_PGK: Tensor) -> Tensor:
        """Return where some completion is good or bad."""
        return (self.labels(scores_PGK) != 0).any(1)


def mean_where(values_PGK: Tensor, where_PGK: Tensor) -> Tensor:
    """Return the mean over the completions of a prompt that count, [P, K]; 0 if none does."""
    return values_PGK.masked_fill(~where_PGK, 0.0).sum(1) / where_PGK.sum(1).clamp(min=1)
