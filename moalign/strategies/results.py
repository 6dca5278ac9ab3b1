"""What trials came to, or would have come to, for samplers and models that know full trials only.

Shapes: N trials, K objectives of the front. Values are in units of the objectives' bounds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from moalign.types import History, Objective, Observation

FENCE: Final = 1.5  # distances between the quartiles
FEWEST: Final = 4  # results that have quartiles


@dataclass(frozen=True, slots=True)
class Result:
    """What a trial from scratch came to at full length.

    Attributes:
        trial: its number.
        params: its parameters.
        values_K: in units of the bounds; NaN where it was not measured.
    """

    trial: int
    params: Mapping[str, Any]
    values_K: tuple[float, ...]


def results(history: History) -> list[Result]:
    """Return what every trial from scratch came to, would have come to, or is taken to be worth.

    - One that was trained in full: what was measured, of several conditions the first.
    - One that was stopped at a rung: what was measured last, plus what the rest of the training has
      added to other trials, per objective the median over those that were measured at that step and
      at full length. As long as there is none, it counts as what was measured. It is lifted to the
      upper bound at most. A sampler that is not told of it proposes the same again: rungs then cost
      a front instead of paying for one.
    - One that failed: in every objective the worst of all others, whatever it measured before. Left
      out, it is proposed again until the trials are spent. As long as there are no others, it is
      left out.

    Trials that run now are left out, and so are those that began elsewhere.

    Returns:
        in the order in which the last of each became known; one that failed before the first that
        has a larger number.
    """
    seen: dict[int, dict[int, Observation]] = {}
    last: dict[int, Observation] = {}
    for one in history.observations:
        counts = one.start.scratch and (one.full or 0 < one.step < history.steps)
        if counts and one.trial not in history.failed:
            steps = seen.setdefault(one.trial, {})
            if one.step not in steps:
                steps[one.step] = one
                last.pop(one.trial, None)
                last[one.trial] = one
    full = {trial: one for trial, one in last.items() if one.full}
    found = []
    for trial, one in last.items():
        values = normalised(one, history.objectives)
        if not one.full:
            if trial in history.pending:
                continue
            others = [(seen[t][one.step], end) for t, end in full.items() if one.step in seen[t]]
            values = _foreseen(values, others, history.objectives)
        found.append(Result(trial, one.params, values))
    return _with_failed(found, history)


def normalised(observation: Observation, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """Return the K values in units of the bounds."""
    pairs = zip(objectives, observation.values_K, strict=True)
    return tuple(objective.normalise(value) for objective, value in pairs)


def worst(values_NK: Sequence[Sequence[float]]) -> tuple[float, ...] | None:
    """Return the lowest value of each objective; None if one of them was never measured."""
    known = [[v for v in column if math.isfinite(v)] for column in zip(*values_NK, strict=True)]
    return tuple(map(min, known)) if known and all(known) else None


def floors(
    values_NK: Sequence[Sequence[float]], objectives: Sequence[Objective]
) -> tuple[float, ...]:
    """Return the values below which a model is not told results apart.

    One collapsed policy, its divergence at twenty times the bounds, would make all others look
    alike to a model of standardised values. So outliers count as this much, per objective Tukey's
    fence: the lower quartile less 1.5 times the distance between the quartiles. Where much lies far
    below the reference nothing is an outlier: a model needs these slopes to find its way up. It is
    never above the reference of the hypervolume, or the lower bound, nor above a threshold, which
    have to be told from both sides. With fewer than four results there is none.

    Source: Tukey 1977, "Exploratory Data Analysis".
    """
    found = []
    for k, objective in enumerate(objectives):
        known = [row[k] for row in values_NK if math.isfinite(row[k])]
        if len(known) < FEWEST:
            found.append(-math.inf)
            continue
        low, _, high = statistics.quantiles(known, n=4, method="inclusive")
        limits = [low - FENCE * (high - low)]
        limits += [0.0 if objective.reference is None else objective.normalise(objective.reference)]
        limits += [] if objective.at_least is None else [objective.normalise(objective.at_least)]
        found.append(min(limits))
    return tuple(found)


def _foreseen(
    values_K: Sequence[float],
    others: Sequence[tuple[Observation, Observation]],
    objectives: Sequence[Objective],
) -> tuple[float, ...]:
    """Return values with what others gained after them: each was measured then, and at the end."""
    changes = [
        [end - then for then, end in zip(*(normalised(o, objectives) for o in pair), strict=True)]
        for pair in others
    ]
    found = []
    for k, value in enumerate(values_K):
        known = [gains[k] for gains in changes if math.isfinite(gains[k])]
        gain = statistics.median(known) if known else 0.0
        found.append(min(value + gain, max(value, 1.0)))
    return tuple(found)


def _with_failed(found: list[Result], history: History) -> list[Result]:
    least = worst([result.values_K for result in found])
    if least is None:
        return found
    for number in sorted(history.failed):
        proposal = history.made.get(number)
        if proposal is None or not proposal.start.scratch or proposal.steps is not None:
            continue
        after = next((i for i, r in enumerate(found) if r.trial > number), len(found))
        found.insert(after, Result(number, proposal.params, least))
    return found
