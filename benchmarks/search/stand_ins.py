"""Plugins without a language model: a study that names them searches the inputs of a problem.

They are never asked for anything; ``segment.py`` stands in for training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from moalign import (
    Optimizer,
    PolicySource,
    Reward,
    Rollout,
    Task,
    Weighting,
    hookimpl,
)

Class = type[Any]


def _refuse() -> NoReturn:
    raise AssertionError("there is no language model here")


class ProblemTask(Task):
    """Names the problem."""

    name = "problem"

    def __init__(self, *, problem: str) -> None:
        """Take the name of the problem."""
        self.problem = problem

    def prompts(self) -> NoReturn:
        """Refuse."""
        _refuse()


class ProblemValue(Reward):
    """Stands for one of a problem's values."""

    name = "problem"

    def __init__(self, *, number: int) -> None:
        """Take the number of the value, from 0."""
        self.number = number

    def score(self, *_: object) -> NoReturn:
        """Refuse."""
        _refuse()


class NoPolicy(PolicySource):
    """No model."""

    name = "problem"

    def recipe(self, *_: object) -> dict[str, Any]:
        """Return what it is built from: nothing."""
        return {}

    def build(self, *_: object) -> NoReturn:
        """Refuse."""
        _refuse()

    def load(self, *_: object) -> NoReturn:
        """Refuse."""
        _refuse()


class NoRollout(Rollout):
    """Samples nothing."""

    name = "problem"
    max_tokens = 1

    def generate(self, *_: object, **__: object) -> NoReturn:
        """Refuse."""
        _refuse()


class NoOptimizer(Optimizer):
    """Has no loss."""

    name = "problem"


class Inputs(Weighting):
    """Holds the inputs of a problem, each in [0, 1], where a search can reach them."""

    name = "inputs"

    def __init__(
        self,
        *,
        x0: float = 0.5,
        x1: float = 0.5,
        x2: float = 0.5,
        x3: float = 0.5,
        x4: float = 0.5,
        x5: float = 0.5,
        x6: float = 0.5,
    ) -> None:
        """Take the inputs; a problem reads as many as it has."""
        self.inputs: Sequence[float] = (x0, x1, x2, x3, x4, x5, x6)

    def weigh(self, *_: object) -> NoReturn:
        """Refuse."""
        _refuse()


@hookimpl
def moalign_tasks() -> list[Class]:
    """Offer the task."""
    return [ProblemTask]


@hookimpl
def moalign_rewards() -> list[Class]:
    """Offer the reward."""
    return [ProblemValue]


@hookimpl
def moalign_policies() -> list[Class]:
    """Offer the policy."""
    return [NoPolicy]


@hookimpl
def moalign_rollouts() -> list[Class]:
    """Offer the rollout."""
    return [NoRollout]


@hookimpl
def moalign_optimizers() -> list[Class]:
    """Offer the optimizer."""
    return [NoOptimizer]


@hookimpl
def moalign_weightings() -> list[Class]:
    """Offer the weighting."""
    return [Inputs]
