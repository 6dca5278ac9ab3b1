"""A problem whose front is known: what stands for training a policy and measuring it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from moalign import pareto


class Problem(ABC):
    """A function of D inputs in [0, 1] with K values, each of them maximised.

    Attributes:
        name: of the study, too.
        inputs: how many (D).
        worst_K: the point that hypervolume is measured from; an objective's lower bound.
        best_K: about what each objective reaches alone; an objective's upper bound. It sets the
            scale only: no share of the maximum depends on it.
        maximum: the hypervolume of the whole front, in raw units.
    """

    name: str
    inputs: int
    worst_K: tuple[float, ...]
    best_K: tuple[float, ...]
    maximum: float

    @abstractmethod
    def values(self, inputs: Sequence[float], share: float = 1.0) -> list[float]:
        """Return the true values.

        Args:
            inputs: D numbers in [0, 1].
            share: of the training that is done, in [0, 1]; what has no fidelity ignores it.
        """

    def measured(self, inputs: Sequence[float], share: float, key: str) -> list[list[float]]:
        """Return what is measured, per unit: here the true values, twice, so without an error.

        Args:
            inputs: as above.
            share: as above.
            key: of the noise: the study's seed, the trial and the step.
        """
        del key
        return [self.values(inputs, share)] * 2

    def share_of_maximum(self, values_NK: Sequence[Sequence[float]]) -> float:
        """Return the hypervolume of some points over that of the whole front."""
        points_NK = np.asarray(values_NK, dtype=np.float64).reshape(-1, len(self.worst_K))
        return pareto.hypervolume(points_NK, self.worst_K) / self.maximum
