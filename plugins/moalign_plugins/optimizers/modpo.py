"""Multi-objective direct preference optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from moalign.components import Optimizer
from moalign.errors import OptionError, nearest
from moalign.optimizers.preferences import Labels, compared, groups, pair_indices, pair_metrics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from moalign.types import Objective, Rows


class Modpo(Optimizer):
    """Learns one objective from preferences, and the others from margins inside the logit.

    With weights w, the primary objective 0, whose scores say which completion is chosen, h as in
    ``dpo`` and r_k the raw scores of the others::

        x = (beta h - sum_{k > 0} w_k (r_k(chosen) - r_k(rejected))) / w_0
        loss = -log sigmoid(x)

    Its optimum is that of online training on the weighted sum of rewards with a divergence of
    strength beta: ``pi_ref exp(sum_k w_k r_k / beta)``, if the primary preferences are those of a
    Bradley-Terry model with reward r_0 (``labels: soft`` makes them so). With all weight on the
    primary objective it is ``dpo``. One training per weight vector; a search gives these.

    A margin that is missing counts as 0. A weight of the primary objective below ``least_weight``
    is raised to it: the loss grows as 1 / w_0.

    Source:
        "Beyond One-Preference-Fits-All Alignment", Zhou et al. 2024, arXiv 2310.03708, equation 9.
        Differs: margins are the objectives' own scores instead of reward models; soft labels.

    When to use it:
        Preferences for one objective and scores for the others, or scores for all; a front for the
        price of one training without generation per point.

    Cost:
        One forward and backward pass over both completions, and a forward pass of the reference
        policy. Nothing is generated.

    Example::

        training: {optimizer: {modpo: {primary: accuracy, beta: 0.1}}, pairs: {source: samples}}
    """

    name: ClassVar[str] = "modpo"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"primary": "a"},
        {"primary": "b", "beta": 1.0, "labels": "soft"},
    )
    learns_from: ClassVar[Literal["rollouts", "pairs", "both"]] = "pairs"
    whole_groups: ClassVar[bool] = True
    needs: frozenset[str] = frozenset({"ref_logprobs"})

    def __init__(
        self,
        *,
        primary: str,
        beta: Annotated[float, Gt(0)] = 0.1,
        labels: Labels = "hard",
        least_weight: Annotated[float, Gt(0), Le(1)] = 0.05,
        epochs: Annotated[int, Ge(1)] = 1,
    ) -> None:
        """Take the options.

        Args:
            primary: the objective whose scores say which completion is chosen.
            beta: strength of the pull to the reference policy, in units of the weighted scores.
            labels: `hard`: the higher score is chosen; `soft`: it is with the probability that the
                Bradley-Terry model gives to the difference.
            least_weight: of the primary objective.
            epochs: passes over each batch of pairs.
        """
        self.primary = primary
        self.beta = beta
        self.labels = labels
        self.least_weight = least_weight
        self.epochs = epochs
        self._first: int | None = None

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check that the primary objective is one that is trained on."""
        names = [objective.name for objective in objectives]
        if self.primary not in names:
            raise OptionError(
                f"optimizer modpo, option primary: {self.primary!r} is no training objective; "
                f"{nearest(self.primary, names)}",
                "primary",
            )

    def begin(self, objectives: Sequence[Objective], width: int, seed: int) -> None:
        """Find the primary objective's place."""
        self._first = [objective.name for objective in objectives].index(self.primary)

    def applies(self, scores_PGK: Tensor) -> Tensor:
        """Return where there is a loss: the primary objective's column only."""
        import torch

        assert self._first is not None, "begin() comes first"
        applies_PK = super().applies(scores_PGK)
        if self.labels == "soft":
            applies_PK = (~scores_PGK.isnan()).sum(1) >= 2
        primary_K = torch.arange(scores_PGK.shape[-1], device=scores_PGK.device) == self._first
        return applies_PK & primary_K

    def pair_loss(
        self, logprobs_BT: Tensor, rows: Rows, weights_PK: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the rows' share of the loss; metrics are those of :func:`pair_metrics`."""
        import torch
        from torch.nn.functional import logsigmoid

        assert self._first is not None, "begin() comes first"
        assert rows.counts_K is not None, "rows of preferences have counts"
        given, first = groups(logprobs_BT, rows), self._first
        pairs, missing = compared(given)
        counted = ~missing if self.labels == "soft" else ~missing & (pairs.margin > 0)
        primary = torch.arange(weights_PK.shape[1], device=counted.device) == first
        counted = counted & primary
        # The others' margins, in the direction that the primary objective chose.
        others_P1K = weights_PK.masked_fill(primary, 0.0)[:, None]
        bonus_PN = (others_P1K * _margins(given.scores_PGK, first)).sum(-1)
        weight_P1 = weights_PK[:, first].clamp(min=self.least_weight)[:, None]
        x_PN = (self.beta * pairs.h[..., first] - bonus_PN) / weight_P1
        losses_PN = -logsigmoid(x_PN)
        if self.labels == "soft":
            p_PN = torch.sigmoid(pairs.margin[..., first])
            losses_PN = p_PN * losses_PN - (1 - p_PN) * logsigmoid(-x_PN)
        counted_PN = counted[..., first]
        means_P = losses_PN.masked_fill(~counted_PN, 0.0).sum(1) / counted_PN.sum(1).clamp(min=1)
        loss = means_P.sum() / rows.counts_K[first].clamp(min=1)
        return loss, pair_metrics(pairs, counted & (pairs.margin > 0), rows)


def _margins(scores_PGK: Tensor, first: int) -> Tensor:
    """Return every objective's score of the chosen completion minus the other's, [P, N, K]."""
    one, other = pair_indices(scores_PGK.shape[1])
    difference = scores_PGK[:, one] - scores_PGK[:, other]
    sign = difference[..., first].nan_to_num(0.0).sign()
    return (difference * sign.where(sign != 0, 1.0)[..., None]).nan_to_num(0.0)
