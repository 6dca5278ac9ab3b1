"""Losses that compare completions two at a time: DPO and its kin.

``P`` prompts, ``G`` completions of each, ``N = G (G - 1) / 2`` pairs of these, ``T`` tokens, ``K``
objectives.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from moalign.components import Optimizer
from moalign.errors import ContractError
from moalign.maths.normalisation import ROUNDING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from moalign.types import Objective, Rows

Labels = Literal["hard", "soft"]
"""What a difference of scores says: `hard`: the higher one is better; `soft`: it is better with
probability sigmoid(difference), the Bradley-Terry model."""


@dataclass(frozen=True)
class Groups:
    """Whole groups of completions with what a loss may know of them.

    Attributes:
        logprobs_PGT: under the policy, with gradient; 0 on padding.
        ref_logprobs_PGT: under the reference policy.
        mask_PGT: 1.0 on completion tokens.
        scores_PGK: raw, NaN where an objective does not apply.
    """

    logprobs_PGT: Tensor
    ref_logprobs_PGT: Tensor
    mask_PGT: Tensor
    scores_PGK: Tensor

    @property
    def ratios_PG(self) -> Tensor:
        """Log-ratio of each completion, ``log pi(y) - log pi_ref(y)``, summed over its tokens."""
        return (self.logprobs_PGT - self.ref_logprobs_PGT).sum(-1)

    @property
    def logprobs_PG(self) -> Tensor:
        """Log-probability of each completion."""
        return self.logprobs_PGT.sum(-1)

    @property
    def lengths_PG(self) -> Tensor:
        """Tokens of each completion."""
        return self.mask_PGT.sum(-1)

    @property
    def rounding_PG(self) -> Tensor:
        """How large a log-ratio may be that is 0: passes in other micro-batches round otherwise."""
        return ROUNDING * (self.lengths_PG - self.logprobs_PG.detach())


def groups(logprobs_BT: Tensor, rows: Rows) -> Groups:
    """Return rows of whole groups by prompt; what padding holds is cleared."""
    assert rows.ref_logprobs_BT is not None, "`ref_logprobs` must be in the optimizer's needs"
    assert rows.scores_BK is not None, "rows of preferences have scores"
    shape = (-1, rows.group, logprobs_BT.shape[-1])
    padding = rows.mask_BT == 0
    return Groups(
        logprobs_BT.masked_fill(padding, 0.0).view(shape),
        rows.ref_logprobs_BT.masked_fill(padding, 0.0).view(shape),
        rows.mask_BT.view(shape),
        rows.scores_BK.view(-1, rows.group, rows.scores_BK.shape[-1]),
    )


@dataclass(frozen=True)
class Pairs:
    """All pairs of completions, each seen as if the one with the higher score had been chosen.

    Every tensor is [P, N, K]. Where an objective prefers neither, the first one stands as chosen.

    Attributes:
        h: log-ratio of the chosen minus that of the rejected; log-ratios are against the reference.
        margin: score of the chosen minus that of the rejected, >= 0 (unless swapped); 0 where one
            is missing.
        chosen: log-probability of the chosen completion.
        rejected: log-probability of the rejected one.
        chosen_ratio: log-ratio of the chosen one.
        rejected_ratio: log-ratio of the rejected one.
        chosen_length: tokens of the chosen one.
        rejected_length: tokens of the rejected one.
    """

    h: Tensor
    margin: Tensor
    chosen: Tensor
    rejected: Tensor
    chosen_ratio: Tensor
    rejected_ratio: Tensor
    chosen_length: Tensor
    rejected_length: Tensor

    def swapped(self) -> Pairs:
        """Return the same pairs as if the other one had been chosen."""
        return Pairs(
            -self.h,
            -self.margin,
            self.rejected,
            self.chosen,
            self.rejected_ratio,
            self.chosen_ratio,
            self.rejected_length,
            self.chosen_length,
        )


class PairwiseOptimizer(Optimizer):
    """Sums a loss over pairs of completions, of which each objective prefers one.

    A subclass gives the loss of a pair (:meth:`loss_of_pairs`); it may change the log-ratios that
    are compared (:meth:`ratios`), or what soft labels say (:meth:`probability`).
    For objective k and a prompt, over the pairs (i, j) of its completions whose scores differ::

        loss_pk = mean of loss_of_pairs(chosen, rejected)          labels: hard
        loss_pk = mean of p loss(i, j) + (1 - p) loss(j, i)        labels: soft
                  with p = sigmoid(s_ik - s_jk), and pairs of equal scores too

    The objectives' losses are added with the weights: ``sum_k w_k mean_p loss_pk``.

    A subclass with options of its own takes the rest as ``**pairwise``; one that has no use for
    ``labels`` names ``beta`` and ``epochs`` itself.
    """

    learns_from: ClassVar[Literal["rollouts", "pairs", "both"]] = "pairs"
    whole_groups: ClassVar[bool] = True
    needs: frozenset[str] = frozenset({"ref_logprobs"})

    def __init__(
        self,
        *,
        beta: Annotated[float, Gt(0)] = 0.1,
        labels: Labels = "hard",
        epochs: Annotated[int, Ge(1)] = 1,
    ) -> None:
        """Take the options.

        Args:
            beta: strength of the pull to the reference policy, in units of the score.
            labels: `hard`: the higher score is better; `soft`: it is with the probability that the
                Bradley-Terry model gives to the difference, so scores have to be graded.
            epochs: passes over each batch of pairs.
        """
        self.beta = beta
        self.labels: Labels = labels
        self.graded = self.graded or labels == "soft"
        self.epochs = epochs

    @abstractmethod
    def loss_of_pairs(self, pairs: Pairs) -> Tensor:
        """Return the loss of each pair for each objective, [P, N, K], finite."""

    def logistic(self, pairs: Pairs) -> Tensor:
        """Return ``-log sigmoid(beta h)``, the loss of ``dpo``, [P, N, K]."""
        from torch.nn.functional import logsigmoid

        return -logsigmoid(self.beta * pairs.h)

    def probability(self, pairs: Pairs) -> Tensor:
        """Return how probably the chosen one is better, for soft labels, [P, N, K]."""
        import torch

        return torch.sigmoid(pairs.margin)

    def ratios(self, groups: Groups) -> tuple[Tensor, Tensor] | None:  # noqa: ARG002
        """Return the log-ratios that are compared, of the first and second of each pair, [P, N].

        None: those of whole completions.
        """
        return None

    def applies(self, scores_PGK: Tensor) -> Tensor:
        """Return where an objective has a loss: two scores that differ, or with soft labels any."""
        if self.labels == "hard":
            return super().applies(scores_PGK)
        return (~scores_PGK.isnan()).sum(1) >= 2

    def losses(self, logprobs_BT: Tensor, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of each prompt for each objective, [P, K], and metrics.

        The metrics are those of :func:`pair_metrics`.
        """
        import torch

        given = groups(logprobs_BT, rows)
        pairs, missing = compared(given, self.ratios(given))
        counted = ~missing if self.labels == "soft" else ~missing & (pairs.margin > 0)
        losses = self._checked(pairs)
        if self.labels == "soft":
            p = self.probability(pairs)
            losses = p * losses + (1 - p) * self._checked(pairs.swapped())
        count_PK = counted.sum(1)
        mean_PK = losses.masked_fill(~counted, 0.0).sum(1) / count_PK.clamp(min=1)
        metrics = pair_metrics(pairs, counted & (pairs.margin > 0), rows)
        return mean_PK.masked_fill(count_PK == 0, torch.nan), metrics

    def _checked(self, pairs: Pairs) -> Tensor:
        """Return the loss of each pair; of another shape it would be spread over all of them."""
        losses = self.loss_of_pairs(pairs)
        if losses.shape != pairs.h.shape:
            raise ContractError(
                f"optimizer {self.name}: loss_of_pairs() returned the shape {list(losses.shape)}; "
                f"it must be that of pairs.h, [P, N, K], here {list(pairs.h.shape)}: a loss for "
                "each pair and objective, which the base class averages"
            )
        return losses


def compared(groups: Groups, ratios: tuple[Tensor, Tensor] | None = None) -> tuple[Pairs, Tensor]:
    """Return all pairs of completions, and where an objective says nothing of one, [P, N, K].

    Args:
        groups: the completions.
        ratios: the log-ratios that :attr:`Pairs.h` is the difference of, of the first and second
            of each pair, [P, N]; None: those of whole completions.
    """
    import torch

    first, second = pair_indices(groups.mask_PGT.shape[1])
    difference = groups.scores_PGK[:, first] - groups.scores_PGK[:, second]
    missing = difference.isnan()
    difference = difference.nan_to_num(0.0)
    swap = difference < 0

    def split(values_PG: Tensor) -> tuple[Tensor, Tensor]:
        one, other = values_PG[:, first, None], values_PG[:, second, None]
        return torch.where(swap, other, one), torch.where(swap, one, other)

    chosen_ratio, rejected_ratio = split(groups.ratios_PG)
    h = chosen_ratio - rejected_ratio
    if ratios is not None:
        plain = (ratios[0] - ratios[1])[..., None]
        h = torch.where(swap, -plain, plain)
    chosen, rejected = split(groups.logprobs_PG)
    lengths = split(groups.lengths_PG)
    pairs = Pairs(h, difference.abs(), chosen, rejected, chosen_ratio, rejected_ratio, *lengths)
    return pairs, missing


def pair_metrics(pairs: Pairs, counted: Tensor, rows: Rows) -> dict[str, Tensor]:
    """Return shares of ``accuracy`` and ``margin``, which add up over micro-batches.

    ``accuracy`` is the share of pairs whose better completion the policy has made likelier than
    the other, against the reference; what it has not moved apart counts one half, and so does a
    prompt of which an objective prefers nothing. ``margin`` is the mean log-ratio of the better one
    minus that of the other. Both are means over the prompts of each objective, then over the
    objectives; 1/2 and 0 at the reference policy.

    Args:
        pairs: all of the rows.
        counted: which of them count, [P, N, K].
        rows: give the counts of the mini-batch.
    """
    assert rows.counts_K is not None, "rows of preferences have counts"
    per_prompt = rows.counts_K.clamp(min=1) * counted.sum(1).clamp(min=1)
    shares = counted / per_prompt[:, None] / max(int((rows.counts_K > 0).sum()), 1)
    h = pairs.h.detach()
    # As `Groups.rounding_PG` of both.
    lengths = pairs.chosen_length + pairs.rejected_length
    nothing = ROUNDING * (lengths - pairs.chosen.detach() - pairs.rejected.detach())
    leans = (h > nothing).float() - (h < -nothing).float()
    half = 0.5 * len(rows.mask_BT) / max(rows.total_rows, 1)
    return {"accuracy": half + 0.5 * (shares * leans).sum(), "margin": (shares * h).sum()}


def ranges(objectives: Sequence[Objective]) -> Tensor:
    """Return how far apart the bounds of each objective are, [K]; 1 where it has none."""
    import torch

    return torch.tensor([objective.unit for objective in objectives])


def pair_indices(size: int) -> tuple[list[int], list[int]]:
    """Return first and second of all pairs of ``size`` things, in order."""
    pairs = [(i, j) for i in range(size) for j in range(i + 1, size)]
    return [i for i, _ in pairs], [j for _, j in pairs]
