"""Scores completions by a soft minimum of their standardised scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge

from moalign.components import Preference, Weighting
from moalign.maths.normalisation import group_zscore
from moalign.maths.scalarisers import soft_minimum
from moalign.types import ResponseScores
from moalign.weightings.responses import mean_score

if TYPE_CHECKING:
    from moalign.types import Step


class Rvpo(Weighting):
    """Scores a completion between the mean and the minimum of its objectives' z-scores.

    With Z_k the completion's z-score in objective k within its group (deviation with ddof 1), and w
    the preference::

        s = -(1 / kappa) log sum_k w_k exp(-kappa Z_k)

    For small kappa this is the weighted mean less kappa / 2 times the weighted variance over
    objectives: completions that are good in some and bad in others lose. ``kappa: 0`` is the mean,
    that is `fixed` with ``combine: advantages``; a large kappa is the minimum of the objectives
    that have a preference, where how much no longer counts.

    The preference enters as the weights of the average inside the logarithm, so that equal ones
    are the published rule and kappa 0 is linear.

    The host makes one advantage of these scores with the optimizer's own normalisation: centred
    again with `dr-grpo`, divided by their deviation too with `grpo`. ``training.combine`` plays no
    part; ``batch_norm`` acts as in GDPO.

    A missing score has z-score 0, its group's mean: left out of one completion's minimum it would
    be an advantage over those whose score is known. What a whole group misses is left out there.
    An objective in which all of a group are equal has z-score 0 too, and counts: it is a ceiling
    of 0 to the minimum.

    Source:
        "RVPO: Risk-Sensitive Alignment via Variance Regularization", arXiv 2605.05750, with equal
        weights; read in its abstract and in others' summaries, which give no default of kappa.
        Differs: the preference; centred within groups once more.

    When to use it:
        Many objectives (rubrics, constraints) in no common unit, where easy ones should not make
        up for a failed one.

    Cost:
        None.

    Example::

        weighting: {rvpo: {kappa: 2.0}}
    """

    name: ClassVar[str] = "rvpo"
    declares: frozenset[str] = frozenset({"response-scores"})
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"kappa": 0.0}, {"kappa": 20.0})

    def __init__(
        self, *, preference: Preference | None = None, kappa: Annotated[float, Ge(0)] = 1.0
    ) -> None:
        """Take the options.

        Args:
            preference: weights of the average inside the logarithm, by objective; default equal.
            kappa: aversion to differences between objectives, per unit of z-score.
        """
        self.preference = preference
        self.kappa = kappa

    def weigh(self, step: Step) -> ResponseScores:
        """Return a score per completion, [P, G]."""
        missing_PGK = step.scores_PGK.isnan()
        nowhere_PGK = missing_PGK.all(1, keepdim=True) | missing_PGK.all(-1, keepdim=True)
        zscores_PGK = group_zscore(step.scores_PGK).masked_fill(nowhere_PGK, math.nan)
        values_PG = soft_minimum(zscores_PGK, step.preference_K, self.kappa)
        return ResponseScores(values_PG.float(), metrics=mean_score(values_PG))
