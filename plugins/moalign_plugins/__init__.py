"""moalign's own plugins: every algorithm, one file each, found like anyone else's.

A file in the folder of its kind is enough: each hook offers the component classes that the modules
of its folder define. None of them imports torch when it is imported.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TypeVar

from moalign import (
    Component,
    Executor,
    Optimizer,
    PolicySource,
    Reward,
    Rollout,
    Strategy,
    Task,
    Tracker,
    Weighting,
    hookimpl,
)

C = TypeVar("C", bound=Component)


def _classes(folder: str, base: type[C]) -> list[type[C]]:
    package = importlib.import_module(f"{__name__}.{folder}")
    modules = [
        importlib.import_module(f"{package.__name__}.{found.name}")
        for found in pkgutil.iter_modules(package.__path__)
    ]
    return [
        member
        for module in modules
        for member in vars(module).values()
        if isinstance(member, type)
        and issubclass(member, base)
        and member.__module__ == module.__name__
        and not member.__name__.startswith("_")
    ]


@hookimpl
def moalign_tasks() -> list[type[Task]]:
    """Offer the tasks in ``tasks/``."""
    return _classes("tasks", Task)


@hookimpl
def moalign_rewards() -> list[type[Reward]]:
    """Offer the rewards in ``rewards/``."""
    return _classes("rewards", Reward)


@hookimpl
def moalign_weightings() -> list[type[Weighting]]:
    """Offer the weightings in ``weightings/``."""
    return _classes("weightings", Weighting)


@hookimpl
def moalign_optimizers() -> list[type[Optimizer]]:
    """Offer the optimizers in ``optimizers/``."""
    return _classes("optimizers", Optimizer)


@hookimpl
def moalign_rollouts() -> list[type[Rollout]]:
    """Offer the rollouts in ``rollouts/``."""
    return _classes("rollouts", Rollout)


@hookimpl
def moalign_policies() -> list[type[PolicySource]]:
    """Offer the policy sources in ``policies/``."""
    return _classes("policies", PolicySource)


@hookimpl
def moalign_strategies() -> list[type[Strategy]]:
    """Offer the strategies in ``strategies/``."""
    return _classes("strategies", Strategy)


@hookimpl
def moalign_executors() -> list[type[Executor]]:
    """Offer the executors in ``executors/``."""
    return _classes("executors", Executor)


@hookimpl
def moalign_trackers() -> list[type[Tracker]]:
    """Offer the trackers in ``trackers/``."""
    return _classes("trackers", Tracker)
