"""What trials that were stopped would have come to, for samplers that know full trials only."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from moalign.types import History, Observation


def at_full_length(history: History) -> tuple[Observation, ...]:
    """Return what every trial from scratch came to, or would have come to.

    One that ended early (it was stopped at a rung, or failed later) counts as what was measured
    last, plus what the rest of the training has added to other trials: per objective the median
    over those that were measured at that step and at full length. As long as there is none, it
    counts as what was measured. A sampler that is not told of it proposes the same again: rungs
    then cost a front instead of paying for one.

    Trials that run now are left out. Of several conditions the first counts.

    Returns:
        an observation per trial, in the order in which the last of each became known. Foreseen
        ones keep their ``step``, and are not ``full``.
    """
    seen: dict[int, dict[int, Observation]] = {}
    last: dict[int, Observation] = {}
    for one in history.observations:
        if one.start.scratch and (one.full or 0 < one.step < history.steps):
            steps = seen.setdefault(one.trial, {})
            if one.step not in steps:
                steps[one.step] = one
                last.pop(one.trial, None)
                last[one.trial] = one
    full = {trial: one for trial, one in last.items() if one.full}
    return tuple(
        one
        if one.full
        else _foreseen(one, [(seen[t].get(one.step), end) for t, end in full.items()])
        for trial, one in last.items()
        if one.full or trial not in history.pending
    )


def _foreseen(
    one: Observation, others: Sequence[tuple[Observation | None, Observation]]
) -> Observation:
    """Return a measurement with what others gained after it: ``(then, at the end)`` of each."""
    values = []
    for k, value in enumerate(one.values_K):
        gains = [end.values_K[k] - then.values_K[k] for then, end in others if then is not None]
        known = [gain for gain in gains if math.isfinite(gain)]
        values.append(value + statistics.median(known) if known else value)
    return replace(one, values_K=tuple(values))
