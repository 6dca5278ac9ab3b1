"""Policies that are kept: what each is worth to a preference, and who lies beside whom on a front.

Values are in units of the objectives' bounds: 0 is the lower bound, 1 the upper one. Pure
functions of a history. Shapes: N points, K objectives of the front (the last axis).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from moalign.errors import OptionError
from moalign.types import History, Objective, Observation, Parameter, Proposal, Simplex

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Checkpoint = tuple[int, int]
"""A trial's number and a step: what a trial may start from."""


@dataclass(frozen=True, slots=True)
class Value:
    """What a policy is worth to a preference, in units of the bounds.

    Attributes:
        mean: weighted sum of the normalised objectives.
        stderr: its standard error, as if the objectives' errors were independent.
        missed: the objectives whose threshold it misses.
    """

    mean: float
    stderr: float
    missed: frozenset[str] = frozenset()

    @property
    def rank(self) -> tuple[bool, float]:
        """The smaller the better: what meets all thresholds comes before what does not."""
        return bool(self.missed), -self.mean

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.stderr:.3f}"


def checkpoint(observation: Observation) -> Checkpoint:
    """Return what was measured: a trial at a step."""
    return observation.trial, observation.step


# --- what a policy is worth --------------------------------------------------------------------


def preference_path(history: History, who: str, by: str | None = None) -> str:
    """Return the path of the searched weights that say what a trial is for.

    Args:
        history: gives the space and the front's objectives.
        who: names the strategy in messages.
        by: the path that was asked for, or None.

    Raises:
        OptionError: no weights over objectives of the front are searched, or several and none of
            them is ``weighting.preference``, or ``by`` is none of them.
    """
    axes = {o.name for o in history.objectives}
    paths = [
        path
        for path, dimension in history.space.items()
        if isinstance(dimension, Simplex) and axes & set(dimension.names)
    ]
    if by is not None:
        if by not in paths:
            raise OptionError(
                f"{who}: `by` must name searched weights over objectives of the front, "
                f"{', '.join(paths) or 'of which there are none'}; found {by!r}",
                "by",
            )
        return by
    if "weighting.preference" in paths:
        return "weighting.preference"
    if len(paths) > 1:
        raise OptionError(
            f"{who} values a policy by the weights of the trial that is to go on with it, and the "
            f"space has several: {', '.join(paths)}. Say which with `by`, for example "
            f"`by: {paths[-1]}`",
            "by",
        )
    if not paths:
        raise OptionError(
            f"{who} values a policy by the weights of the trial that is to go on with it, and the "
            f"space has none over {', '.join(sorted(axes))}; found "
            f"{', '.join(history.space) or 'nothing searched'}. Search `weighting.preference: "
            "simplex`, with a weighting that has a preference, such as fixed"
        )
    return paths[0]


def axis_weights(
    objectives: Sequence[Objective], preference: Mapping[str, float]
) -> tuple[float, ...] | None:
    """Return a preference's weights of the front's objectives, summing to 1.

    An objective that is trained but not on the front is not measured in a history: its weight is
    left out, and the others keep their ratios. One on the front that is not trained gets 0.

    Returns:
        K weights, or None if all weight lies off the front.
    """
    weights = [preference.get(o.name, 0.0) for o in objectives]
    total = math.fsum(weights)
    return tuple(w / total for w in weights) if total > 0 else None


def value(
    observation: Observation, objectives: Sequence[Objective], weights_K: Sequence[float]
) -> Value:
    """Return what an observed policy is worth.

    An objective of weight 0 is not looked at. NaN if one with weight was not measured; an error
    that is not known counts as 0.
    """
    mean = variance = 0.0
    for k, (objective, weight) in enumerate(zip(objectives, weights_K, strict=True)):
        if weight > 0:
            span = objective.normalise(1.0) - objective.normalise(0.0)
            error = observation.stderr_K[k]
            mean += weight * objective.normalise(observation.values_K[k])
            variance += 0.0 if math.isnan(error) else (weight * span * error) ** 2
    return Value(mean, math.sqrt(variance), frozenset(missed(observation, objectives)))


def values_by_policy(
    observations: Iterable[Observation],
    objectives: Sequence[Objective],
    weights_K: Sequence[float],
) -> dict[Checkpoint, tuple[Observation, Value]]:
    """Return what each policy is worth, with the observation that says so.

    A policy that reads weights in its prompt was measured under several conditions, and whoever
    uses it may write any of them: it is worth what it is under the best one, of those that meet
    the thresholds if any does. Policies whose value is not known are left out.
    """
    found: dict[Checkpoint, tuple[Observation, Value]] = {}
    for observation in observations:
        worth, where = value(observation, objectives, weights_K), checkpoint(observation)
        if math.isnan(worth.mean):
            continue
        if where not in found or worth.rank < found[where][1].rank:
            found[where] = observation, worth
    return found


def missed(observation: Observation, objectives: Sequence[Objective]) -> set[str]:
    """Return the names of the objectives whose threshold a policy misses."""
    return {
        o.name
        for o, value in zip(objectives, observation.values_K, strict=True)
        if o.at_least is not None and value < o.at_least
    }


def ranked(
    worth: Mapping[Checkpoint, tuple[Observation, Value]],
) -> list[tuple[Observation, Value]]:
    """Return policies with their values, the best first; of equal ones the earlier trial.

    Those that meet all thresholds come before those that do not, as when a point is picked.
    """
    order = sorted(worth, key=lambda where: (worth[where][1].rank, where))
    return [worth[where] for where in order]


# --- neighbours on a front ---------------------------------------------------------------------


def neighbours(values_NK: ArrayLike) -> list[tuple[int, int]]:
    """Return the pairs of points between which no other point lies.

    A third point lies between two if it is inside the ball that has them at the ends of a diameter:
    d(i, k)^2 + d(j, k)^2 < d(i, j)^2. On a front of two objectives these are the points next to
    each other; three corners with nothing between them are neighbours all.

    Args:
        values_NK: complete, in comparable units.

    Returns:
        pairs ``i < j`` of rows, rising.

    Source: Gabriel and Sokal 1969, the Gabriel graph.
    """
    import numpy as np

    values = np.asarray(values_NK, dtype=np.float64)
    squares_NN = ((values[:, None] - values[None]) ** 2).sum(-1)
    found = []
    for i in range(len(values)):
        for j in range(i + 1, len(values)):
            detours_N = squares_NN[i] + squares_NN[j]
            if not (detours_N < squares_NN[i, j] * (1.0 - 1e-9)).any():
                found.append((i, j))
    return found


# --- proposals ---------------------------------------------------------------------------------


def proposals_so_far(history: History) -> dict[int, Proposal]:
    """Return every proposal by trial number: those that failed, too, if the history tells them."""
    seen = {
        o.trial: Proposal(o.params, o.start, steps=0 if o.full and o.step == 0 else None)
        for o in history.observations
    }
    return {**seen, **history.pending, **history.made}


def with_proposal(history: History, proposal: Proposal) -> History:
    """Return the history once a proposal runs."""
    new = {history.proposed: proposal}
    return replace(
        history,
        pending={**history.pending, **new},
        made={**history.made, **new},
        proposed=history.proposed + 1,
    )


def one_by_one(
    history: History, n: int, next_one: Callable[[History], Proposal | None]
) -> list[Proposal]:
    """Return up to ``n`` proposals, each made knowing that those before it run.

    Args:
        history: what is known before the first.
        n: at most so many.
        next_one: returns the next proposal, or None if there is none.
    """
    found: list[Proposal] = []
    while len(found) < n and (proposal := next_one(history)) is not None:
        found.append(proposal)
        history = with_proposal(history, proposal)
    return found


def mixed_params(
    space: Mapping[str, Parameter],
    params_N: Sequence[Mapping[str, Any]],
    shares_N: Sequence[float],
) -> dict[str, Any]:
    """Return parameters that stand for a soup of policies.

    Weights are mixed by the shares; any other value is that of the largest share, of equal ones
    the first.
    """
    first = params_N[max(range(len(params_N)), key=lambda n: (shares_N[n], -n))]
    mixed: dict[str, Any] = {}
    for path, dimension in space.items():
        if isinstance(dimension, Simplex):
            pairs = list(zip(params_N, shares_N, strict=True))
            sums = {n: math.fsum(s * p[path][n] for p, s in pairs) for n in dimension.names}
            total = math.fsum(sums.values())
            mixed[path] = {name: weight / total for name, weight in sums.items()}
        else:
            mixed[path] = first[path]
    return mixed
