"""Weightings that hold objectives at targets, which another weighting may move."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moalign.components import Weighting

if TYPE_CHECKING:
    from moalign.types import Objective


@dataclass(frozen=True, slots=True)
class Constraint:
    """An objective to be kept at or above its target, or at it.

    Attributes:
        name: of the objective.
        target: in raw units.
        unit: what a violation is divided by: the width of the bounds, 1 without any.
        equal: whether values above the target violate it too.
    """

    name: str
    target: float
    unit: float
    equal: bool


class Constrained(Weighting):
    """Holds some objectives at targets."""

    @abstractmethod
    def constraints(self, objectives: Sequence[Objective]) -> tuple[Constraint, ...]:
        """Return a constraint for each objective that has a target, in the objectives' order."""

    @abstractmethod
    def aim(self, targets: Mapping[str, float]) -> None:
        """Hold these raw targets, by objective, from now on, instead of the study's.

        Not part of the state: who moves the targets sets them again after loading.
        """
