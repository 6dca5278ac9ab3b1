"""The contract of a strategy: proposals inside the space, a function of history and seed."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moalign.components import Strategy
from moalign.errors import OptionError
from moalign.testing.contract import Check, Factory, require
from moalign.types import (
    Choice,
    Cost,
    FloatRange,
    History,
    IntRange,
    Objective,
    Observation,
    Parameter,
    Proposal,
    Simplex,
    Start,
)

OBJECTIVES = tuple(Objective(name, (0.0, 1.0)) for name in ("a", "b", "c"))
STEPS, RUNG, TRIALS = 40, 10, 40
FAILED = frozenset({6, 9})
SIMPLEX = Simplex(("a", "b", "c"))
RATE = FloatRange(1e-4, 1e-3, log=True)
SPACES: Mapping[str, Mapping[str, Parameter]] = {
    "mixed": {
        "weighting.preference": SIMPLEX,
        "training.learning_rate": RATE,
        "training.prompts": IntRange(4, 32, log=True),
        "training.optimizer.aggregation": Choice(("token-mean", "seq-mean-token-mean")),
    },
    "simplex": {"weighting.preference": SIMPLEX},
    "numbers": {"training.learning_rate": RATE, "rollout.temperature": FloatRange(0.5, 1.5)},
    "discrete": {
        "training.prompts": IntRange(4, 6),
        "training.optimizer.aggregation": Choice(("token-mean", "seq-mean-token-mean")),
    },
}
"""Spaces that a strategy is tried on; those that its ``check`` refuses are left out."""

KNOWN = 12
"""Observations from which most strategies stop drawing at random."""


def check_proposes(factory: Factory) -> None:
    """It returns a list of proposals that give each dimension of the space a value."""
    spaces = list(_spaces(factory))
    require(spaces, f"check() must accept one of the spaces {', '.join(SPACES)}; it refuses all")
    for name, space in spaces:
        proposals = factory().propose(_history(space, 0), 2, seed=0)
        require(
            isinstance(proposals, list)
            and proposals
            and all(isinstance(proposal, Proposal) for proposal in proposals),
            f"propose() must return a list of at least one Proposal; found {proposals!r} for an "
            f"empty history of the {name} space",
        )
        for proposal in proposals:
            require(
                set(proposal.params) == set(space),
                f"a proposal must give exactly the paths of the space, {', '.join(space)}; found "
                f"{', '.join(proposal.params) or 'none'}",
            )


def check_stays_in_the_space(factory: Factory) -> None:
    """Every value is one that its dimension allows; weights are on the simplex."""
    for _, space in _spaces(factory):
        for known, seed in ((0, 0), (0, 1), (0, 2), (KNOWN, 3)):
            for proposal in factory().propose(_history(space, known), 1, seed):
                for path, dimension in space.items():
                    value = proposal.params[path]
                    require(
                        _allowed(dimension, value),
                        f"{path} must be in {dimension}; found {value!r}",
                    )


def check_is_deterministic(factory: Factory) -> None:
    """Equal history and seed give equal proposals, also from a strategy that was used before."""
    name, space = next(_spaces(factory))
    for known in (1, KNOWN):
        history, used = _history(space, known), factory()
        used.propose(_history(space, 2), 1, seed=5)
        first, second = used.propose(history, 1, seed=7), factory().propose(history, 1, seed=7)
        require(
            first == second,
            "a proposal must be a function of history and seed, without memory, or a study cannot "
            f"be resumed; in the {name} space found {_params(first)} and then {_params(second)}",
        )


def check_explores(factory: Factory) -> None:
    """Other seeds give other proposals, or what it proposed before does, as in a grid."""
    for name, space in _spaces(factory):
        strategy = factory()
        seeds = [strategy.propose(_history(space, 0), 1, seed) for seed in range(4)]
        own: list[Proposal] = []
        for known in range(4):
            own += strategy.propose(_history(space, known, own=own), 1, 0)
        require(
            any(other != seeds[0] for other in seeds) or all(other != own[0] for other in own[1:]),
            f"neither another seed nor a longer history changes the proposal; in the {name} space "
            f"it is always {_params(seeds[0])}",
        )


def check_respects_n(factory: Factory) -> None:
    """It returns as many proposals as were asked for, fewer only if the space is exhausted."""
    for name, space in _spaces(factory):
        for n in (1, 4):
            found = len(factory().propose(_history(space, 1), n, seed=0))
            least = 1 if name == "discrete" else n
            require(
                least <= found <= n,
                f"asked for {n} proposals of the {name} space it must return {n}; found {found}",
            )


def check_takes_pending_trials(factory: Factory) -> None:
    """It takes trials that run now, and does not propose one of them again at once."""
    name, space = next(_spaces(factory))
    running = factory().propose(_history(space, KNOWN), 1, seed=0)
    history = _history(space, KNOWN, pending=running)
    for proposal in factory().propose(history, 1, seed=1):
        require(
            name == "discrete" or proposal not in running,
            "what runs now is in history.pending and must not be proposed again; in the "
            f"{name} space found {_params([proposal])} twice",
        )


def check_takes_any_history(factory: Factory) -> None:
    """It takes 0, 1 or 30 trials, with rungs, warm starts, conditions and failures among them."""
    name, space = next(_spaces(factory))
    for known in (0, 1, 30):
        found = factory().propose(_history(space, known, extras=True), 1, seed=0)
        require(
            len(found) == 1,
            f"it must propose after {known} trials of the {name} space; found {found!r}",
        )


def check_starts_from_what_is_kept(factory: Factory) -> None:
    """A proposal starts from the base policy or from policies that are still on disk."""
    _, space = next(_spaces(factory))
    history = _history(space, KNOWN, extras=True)
    kept = {(o.trial, o.step) for o in history.observations if o.kept}
    for proposal in factory().propose(history, 2, seed=0):
        start = proposal.start
        require(
            set(start.points) <= kept,
            f"a trial can start only from observations that are `kept`, {sorted(kept)}; found "
            f"{list(start.points)}",
        )
        require(
            start.scratch or (len(start.shares) == len(start.points) and _simplex(start.shares)),
            f"a start needs a share for every point, summing to 1; found {start.shares}",
        )


def check_leaves_the_history_alone(factory: Factory) -> None:
    """It does not change the history, which the driver goes on with."""
    _, space = next(_spaces(factory))
    history = _history(space, KNOWN)
    before = copy.deepcopy(history)
    factory().propose(history, 1, seed=0)
    require(history == before, "it must not change the history; work on a copy")


PROPERTIES: tuple[Check, ...] = (
    check_proposes,
    check_stays_in_the_space,
    check_is_deterministic,
    check_explores,
    check_respects_n,
    check_takes_pending_trials,
    check_takes_any_history,
    check_starts_from_what_is_kept,
    check_leaves_the_history_alone,
)


def _spaces(factory: Factory) -> Iterator[tuple[str, Mapping[str, Parameter]]]:
    strategy: Strategy = factory()
    for name, space in SPACES.items():
        try:
            strategy.check(_history(space, 0))
        except OptionError:
            continue
        yield name, space


def _history(
    space: Mapping[str, Parameter],
    known: int,
    *,
    pending: Sequence[Proposal] = (),
    own: Sequence[Proposal] = (),
    extras: bool = False,
) -> History:
    """Return a history of ``known`` trials that ran to their end.

    Args:
        space: the search dimensions.
        known: observations.
        pending: proposals that run now.
        own: proposals whose parameters the trials have, from the first one on; others are random.
        extras: every second trial is kept and was measured at a rung; the last one started warm
            and was measured under another condition as well. Of many trials :data:`FAILED`
            have failed, the second one after a rung.
    """
    observations: list[Observation] = []
    made: dict[int, Proposal] = {}
    for trial in range(known):
        rng = random.Random(trial)
        params: Mapping[str, Any] = (
            own[trial].params
            if trial < len(own)
            else {path: _draw(dimension, rng) for path, dimension in space.items()}
        )
        steps = [RUNG, STEPS] if extras and trial % 2 else [STEPS]
        if extras and trial in FAILED:
            steps = steps[:-1]
        warm = extras and trial == known - 1 and trial > 1
        start = Start(((1, STEPS),), (1.0,)) if warm else Start()
        made[trial] = Proposal(params, start)
        observations += [
            Observation(
                trial=trial,
                step=step,
                full=step == STEPS,
                start=start,
                condition={"a": 1.0, "b": 0.0, "c": 0.0} if warm else None,
                params=params,
                values_K=_values(params, step, rng),
                stderr_K=(0.01, 0.01, 0.01),
                cost=Cost(100 * step, 0, 100 * step),
                kept=extras and trial % 2 == 1 and step == STEPS,
            )
            for step in steps
        ]
    running = {known + i: proposal for i, proposal in enumerate(pending)}
    return History(
        space=dict(space),
        objectives=OBJECTIVES,
        observations=tuple(observations),
        pending=running,
        steps=STEPS,
        trials=TRIALS,
        proposed=known + len(pending),
        made={**made, **running},
        failed=frozenset(FAILED & made.keys()) if extras else frozenset(),
    )


def _values(params: Mapping[str, Any], step: int, rng: random.Random) -> tuple[float, ...]:
    """Return objectives that pull against each other, smooth in the parameters, with noise."""
    preference = params.get("weighting.preference", {"a": 0.4, "b": 0.3, "c": 0.3})
    rate = params.get("training.learning_rate", 3e-4)
    skill = (1.0 - abs(math.log(rate / 4e-4)) / 4) * step / STEPS
    return tuple(
        0.2 + 0.6 * skill * math.sqrt(preference[o.name]) + rng.gauss(0.0, 0.01) for o in OBJECTIVES
    )


def _draw(dimension: Parameter, rng: random.Random) -> Any:
    if isinstance(dimension, FloatRange):
        return rng.uniform(dimension.low, dimension.high)
    if isinstance(dimension, IntRange):
        return rng.randint(dimension.low, dimension.high)
    if isinstance(dimension, Choice):
        return rng.choice(dimension.options)
    draws = [rng.expovariate(1.0) for _ in dimension.names]
    return {name: draw / sum(draws) for name, draw in zip(dimension.names, draws, strict=True)}


def _allowed(dimension: Parameter, value: Any) -> bool:
    if isinstance(dimension, FloatRange):
        return isinstance(value, float | int) and dimension.low <= value <= dimension.high
    if isinstance(dimension, IntRange):
        return type(value) is int and dimension.low <= value <= dimension.high
    if isinstance(dimension, Choice):
        return value in dimension.options
    known = isinstance(value, Mapping) and set(value) == set(dimension.names)
    return known and _simplex(list(value.values()))


def _simplex(weights: Sequence[float]) -> bool:
    return min(weights) >= 0 and math.isclose(sum(weights), 1.0, abs_tol=1e-9)


def _params(proposals: Sequence[Proposal]) -> list[dict[str, Any]]:
    return [dict(proposal.params) for proposal in proposals]
