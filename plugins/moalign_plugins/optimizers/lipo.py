"""Listwise preference optimisation with lambda weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from moalign.optimizers.lists import ListOptimizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.optimizers.preferences import Groups


class Lipo(ListOptimizer):
    """Compares all pairs of a list, and cares most for those that are wrong at its top.

    With r the log-ratio of a completion against the reference policy, s an objective's scores, and
    tau the rank of a completion by r among those of its list, 1 for the highest::

        loss = sum over s_i > s_j of  -weight_ij log sigmoid(beta (r_i - r_j))
        weight_ij = |2^g_i - 2^g_j| |1 / log(1 + tau_i) - 1 / log(1 + tau_j)| / c
        g_i = (s_i - min s) / (max s - min s),    c = 1 / log 2 - 1 / log 3

    so a pair counts by what its exchange would do to the list's discounted gain. Ranks have no
    gradient. Of log-ratios that are equal up to rounding, as all are before the first step, the
    better completion counts as ranked higher; completions that are equal in both share the mean of
    their ranks. Missing scores are not in the list.

    A list of two is ``dpo``.

    Source:
        "LiPO: Listwise Preference Optimization through Learning-to-Rank", Liu et al. 2024, arXiv
        2402.01878, LiPO-lambda. Differs: gains are of scores brought to [0, 1] within their list,
        so that an objective's units do not matter (there: probabilities to win); divided by c, so
        that a list of two is a pair; several objectives, whose losses are a weighted sum.

    When to use it:
        More than two completions per prompt with graded scores: samples of the base policy
        (``pairs: {source: samples, size: 4}``), or in ``online-dpo`` with ``learn: all``. With
        pairs it is ``dpo``.

    Cost:
        One forward and backward pass over all completions, and a forward pass of the reference
        policy. Nothing is generated.

    Example::

        training: {optimizer: lipo, pairs: {source: samples, samples: 8, size: 4}}
    """

    name: ClassVar[str] = "lipo"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"beta": 1.0, "epochs": 2})

    def loss_of_lists(self, groups: Groups) -> Tensor:
        """Return the weighted sum over pairs, [P, K]."""
        from torch.nn.functional import logsigmoid

        scores, ratios_PG = groups.scores_PGK, groups.ratios_PG
        gains = _gains(scores)
        discounts = 1.0 / (1.0 + _ranks(ratios_PG.detach(), scores, groups.rounding_PG)).log()
        # Axes: prompt, i, j, objective. A comparison with NaN is False.
        better = scores[:, :, None] > scores[:, None]
        exchanged = (discounts[:, :, None] - discounts[:, None]).abs() / OF_TWO
        weights = (gains[:, :, None] - gains[:, None]) * exchanged
        h = (ratios_PG[:, :, None] - ratios_PG[:, None])[..., None]
        return -(weights.masked_fill(~better, 0.0) * logsigmoid(self.beta * h)).sum((1, 2))


OF_TWO = 1.0 / math.log(2.0) - 1.0 / math.log(3.0)
"""What an exchange does to the discounts of a list of two."""


def _gains(scores_PGK: Tensor) -> Tensor:
    """Return 2 to the power of each score between the lowest and highest of its list."""
    low = scores_PGK.nan_to_num(nan=float("inf")).amin(1, keepdim=True)
    high = scores_PGK.nan_to_num(nan=-float("inf")).amax(1, keepdim=True)
    width = (high - low).where(high > low, 1.0)
    gains: Tensor = 2.0 ** ((scores_PGK - low) / width)
    return gains


def _ranks(ratios_PG: Tensor, scores_PGK: Tensor, rounding_PG: Tensor) -> Tensor:
    """Return ranks by log-ratio, then by score, among the completions that have one, from 1."""
    scores = scores_PGK
    listed = (~scores.isnan())[:, None]
    ahead = (ratios_PG[:, None] - ratios_PG[:, :, None])[..., None]
    tied = ahead.abs() <= (rounding_PG[:, None] + rounding_PG[:, :, None])[..., None]
    higher = ~tied & (ahead > 0) | tied & (scores[:, None] > scores[:, :, None])
    same = tied & (scores[:, None] == scores[:, :, None])
    above = (higher & listed).sum(2) + 0.5 * ((same & listed).sum(2) - 1).clamp(min=0)
    return 1.0 + above
