"""Histories of a search with numbers of one's own choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moalign.types import (
    Cost,
    FloatRange,
    History,
    Objective,
    Observation,
    Parameter,
    Proposal,
    Simplex,
    Start,
)

PATH, RATE = "weighting.preference", "training.learning_rate"
SPACE: Mapping[str, Parameter] = {
    PATH: Simplex(("a", "b")),
    RATE: FloatRange(1e-4, 1e-2, log=True),
}
OBJECTIVES = (Objective("a", (0.0, 1.0)), Objective("b", (0.0, 10.0)))
STEPS = 40


def params(share: float, rate: float = 1e-3) -> dict[str, Any]:
    """Return parameters of `SPACE`; `share` is the weight of a."""
    return {PATH: {"a": share, "b": 1 - share}, RATE: rate}


def seen(trial: int, values: Sequence[float], share: float = 0.5, **changes: Any) -> Observation:
    """Return an observation of a trial from scratch at full length, kept."""
    given: dict[str, Any] = {
        "trial": trial,
        "step": STEPS,
        "full": True,
        "start": Start(),
        "condition": None,
        "params": params(share),
        "values_K": tuple(values),
        "stderr_K": (0.0,) * len(values),
        "cost": Cost(),
        "kept": True,
    }
    return Observation(**{**given, **changes})


def warm(
    trial: int,
    values: Sequence[float],
    source: tuple[int, int],
    share: float = 0.5,
    *,
    steps: int = 12,
    **changes: Any,
) -> Observation:
    """Return an observation of a trial that went on from `source`."""
    start = Start((source,), (1.0,))
    return seen(trial, values, share, start=start, **{"step": steps, **changes})


def soup(trial: int, values: Sequence[float], shares: Mapping[tuple[int, int], float],
         share: float = 0.5, **changes: Any) -> Observation:  # fmt: skip
    """Return an observation of a soup of the policies that `shares` names."""
    start = Start(tuple(shares), tuple(shares.values()))
    return seen(trial, values, share, start=start, **{"step": 0, **changes})


def history(
    observations: Sequence[Observation],
    *,
    pending: Mapping[int, Proposal] | None = None,
    failed: Mapping[int, Proposal] | None = None,
    space: Mapping[str, Parameter] = SPACE,
    objectives: Sequence[Objective] = OBJECTIVES,
    trials: int = 30,
) -> History:
    """Return the history of these observations, of what runs, and of what failed unmeasured."""
    made = {**(failed or {}), **(pending or {})}
    for one in observations:
        if one.trial not in made:
            length = None if one.start.scratch else one.step
            made[one.trial] = Proposal(one.params, one.start, length)
    return History(
        space=dict(space),
        objectives=tuple(objectives),
        observations=tuple(observations),
        pending=dict(pending or {}),
        steps=STEPS,
        trials=trials,
        proposed=max(made, default=-1) + 1,
        made=dict(sorted(made.items())),
        failed=frozenset(failed or {}),
    )
