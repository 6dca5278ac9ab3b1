"""Weights from running means: scalarisers of what the policy as a whole reaches.

A policy that maximises a function s of its objectives' means J moves along
``sum_k ds/dJ_k * gradient_k``: the weights are the slopes of s at the running means, divided by
the sum of their magnitudes. A subclass says what s is.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moalign.components import Weighting
from moalign.types import Weights
from moalign.weightings.units import Ideal, IdealPoint, beyond_notes, free_notes, in_units

if TYPE_CHECKING:
    from torch import Tensor

    from moalign.types import Objective, Step


class MeanWeighting(Weighting):
    """Weighs by a function of regrets: how far the objectives' means lie below an ideal point.

    All in units of the bounds. The mean of objective k moves by each batch to which it applies::

        n_k = decay * n_k + 1,    J_k = J_k + (batch mean - J_k) / n_k

    an exponential moving average without the bias of its start. An objective that a batch misses
    keeps its mean.
    """

    def __init__(self, *, decay: float, ideal: Ideal = "bounds", slack: float = 0.0) -> None:
        """Take the options.

        Args:
            decay: in [0, 1); 0 is the mean of the batch alone.
            ideal: the ideal point; ``best`` is the best running mean so far.
            slack: how far above it the point is put, in units of the bounds.
        """
        self.decay = decay
        self.ideal = ideal
        self.slack = slack
        self._point = IdealPoint(self.name, ideal, slack)
        self._means: dict[str, float] = {}
        self._counts: dict[str, float] = {}

    @abstractmethod
    def slopes(self, regrets_K: Tensor, preference_K: Tensor) -> Tensor:
        """Return the derivative of what is maximised by each objective's mean.

        Args:
            regrets_K: float64; NaN for an objective never seen.
            preference_K: float64, of sum 1.

        Returns:
            [K], of any scale; 0 for an objective never seen. Negative ones must be declared, as
            ``signed`` and ``unnormalised``. All 0 means: the preference.
        """

    @abstractmethod
    def value(self, regrets_K: Tensor, preference_K: Tensor) -> Tensor:
        """Return what is maximised, for the record; NaN if nothing has been seen."""

    def notes(self, step: Step) -> tuple[str, ...]:
        """Return sentences for people about this step: objectives that nothing holds."""
        return free_notes(self.name, step)

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check that every objective has bounds, and the ideal point."""
        self._point.check(objectives)

    def weigh(self, step: Step) -> Weights:
        """Move the means by this batch, and return the weights, [K]."""
        regrets_K = self._point.regrets(self._observe(step), step.objectives)
        preference_K = step.preference_K.double()
        slopes_K = self.slopes(regrets_K, preference_K)
        size = slopes_K.abs().sum()
        weights_K = slopes_K / size if size > 0 else preference_K
        metrics = {f"mean/{name}": self._means[name] for name in step.names if name in self._means}
        metrics |= self._point.metrics()
        value = float(self.value(regrets_K, preference_K))
        if not math.isnan(value):
            metrics["scalarised"] = value
        notes = (*self.notes(step), *beyond_notes(self.name, regrets_K))
        return Weights(weights_K.float(), metrics=metrics, notes=notes)

    def _observe(self, step: Step) -> Tensor:
        """Move the means by this batch and return them, [K]; NaN if never seen."""
        batch_K = in_units(step.mean_scores_K(), step.objectives)
        for name, value in zip(step.names, batch_K.tolist(), strict=True):
            if not math.isnan(value):
                count = self.decay * self._counts.get(name, 0.0) + 1.0
                before = self._means.get(name, value)
                self._counts[name] = count
                self._means[name] = before + (value - before) / count
        return batch_K.new_tensor([self._means.get(name, math.nan) for name in step.names])

    def state_dict(self) -> dict[str, Any]:
        """Return the means, how many batches each is worth, and the best means."""
        return {
            "means": dict(self._means),
            "counts": dict(self._counts),
            "best": self._point.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self._means = {name: float(value) for name, value in state["means"].items()}
        self._counts = {name: float(value) for name, value in state["counts"].items()}
        self._point.load_state_dict(state["best"])
