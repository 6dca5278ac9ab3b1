"""One score per completion: scalarisers of what a single completion reaches."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moalign.components import Weighting
from moalign.types import ResponseScores
from moalign.weightings.units import Ideal, IdealPoint, beyond_notes, free_notes, in_units

if TYPE_CHECKING:
    from torch import Tensor

    from moalign.types import Objective, Step


class ResponseWeighting(Weighting):
    """Scores completions by a function of their regrets: how far they lie below an ideal point.

    In units of the bounds. The host makes one advantage of the scores, with the optimizer's own
    normalisation; ``training.combine: rewards`` would do nothing, and is refused.

    A missing score counts as its group's mean; an objective that a whole group misses is left out
    there. A completion to which nothing applies has no score.
    """

    declares: frozenset[str] = frozenset({"response-scores"})

    def __init__(self, *, ideal: Ideal = "bounds", slack: float = 0.0) -> None:
        """Take the options.

        Args:
            ideal: the ideal point; ``best`` is the best score so far, this batch included.
            slack: how far above it the point is put, in units of the bounds.
        """
        self.ideal = ideal
        self.slack = slack
        self._point = IdealPoint(self.name, ideal, slack)

    @abstractmethod
    def value(self, regrets_PGK: Tensor, preference_K: Tensor) -> Tensor:
        """Return the score of each completion, [P, G].

        Args:
            regrets_PGK: float64; NaN where an objective is to be left out.
            preference_K: float64, of sum 1.
        """

    def notes(self, step: Step) -> tuple[str, ...]:
        """Return sentences for people about this step: objectives that nothing holds."""
        return free_notes(self.name, step)

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check that every objective has bounds, and the ideal point."""
        self._point.check(objectives)

    def weigh(self, step: Step) -> ResponseScores:
        """Return a score per completion, [P, G]."""
        from moalign.maths.scalarisers import fill_within_groups

        units_PGK = in_units(step.scores_PGK, step.objectives)
        regrets_PGK = self._point.regrets(units_PGK, step.objectives)
        values_PG = self.value(fill_within_groups(regrets_PGK), step.preference_K.double())
        metrics = {**self._point.metrics(), **mean_score(values_PG)}
        notes = (*self.notes(step), *beyond_notes(self.name, regrets_PGK))
        return ResponseScores(values_PG.float(), metrics=metrics, notes=notes)

    def state_dict(self) -> dict[str, Any]:
        """Return the best scores, by objective, in units of the bounds."""
        return {"best": self._point.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self._point.load_state_dict(state["best"])


def mean_score(values_PG: Tensor) -> dict[str, float]:
    """Return the mean score as the metric ``scalarised``; nothing if there is no score."""
    mean = float(values_PG.nanmean())
    return {} if math.isnan(mean) else {"scalarised": mean}
