from __future__ import annotations

import itertools
import logging
import math
import random
import statistics
from dataclasses import replace

import optuna
import pytest

from moalign.strategies.optuna import Space, from_cuts
from moalign.types import (
    Choice,
    Cost,
    FloatRange,
    History,
    IntRange,
    Objective,
    Observation,
    Proposal,
    Simplex,
    Start,
)
from moalign_plugins.strategies.gp import GaussianProcess
from moalign_plugins.strategies.nsga2 import Nsga2
from moalign_plugins.strategies.nsga3 import Nsga3
from moalign_plugins.strategies.random import draw
from moalign_plugins.strategies.tpe import ParzenEstimator

STRATEGIES = {
    "gp": lambda: GaussianProcess(startup=4),
    "tpe": lambda: ParzenEstimator(startup=4),
    "tpe-joint": lambda: ParzenEstimator(startup=4, multivariate=True),
    "nsga2": lambda: Nsga2(population=4),
    "nsga3": lambda: Nsga3(population=4),
}
SPACE = {"w": Simplex(("a", "b")), "lr": FloatRange(1e-4, 1e-2, log=True)}
OBJECTIVES = (Objective("a", (0.0, 1.0)), Objective("b", (0.0, 10.0)))


@pytest.fixture(params=STRATEGIES)
def strategy(request):
    return STRATEGIES[request.param]()


def observation(trial: int, params: dict, values: tuple, **changes) -> Observation:
    return Observation(
        **{
            "trial": trial,
            "step": 4,
            "full": True,
            "start": Start(),
            "condition": None,
            "params": params,
            "values_K": values,
            "stderr_K": (0.0,) * len(values),
            "cost": Cost(),
            **changes,
        }
    )


def measured(params: dict) -> tuple[float, float]:
    """Two objectives that pull against each other; a good rate is good for both."""
    skill = 1.0 - abs(math.log10(params["lr"] / 1e-3)) / 2
    return skill * params["w"]["a"] ** 0.5, 10 * skill * params["w"]["b"] ** 0.5


def known(count: int, *, pending: tuple[Proposal, ...] = (), seed: int = 0) -> History:
    rng = random.Random(seed)
    observations = []
    for trial in range(count):
        params = {path: draw(dimension, rng) for path, dimension in SPACE.items()}
        observations.append(observation(trial, params, measured(params)))
    running = {count + i: proposal for i, proposal in enumerate(pending)}
    return History(SPACE, OBJECTIVES, tuple(observations), running, 4, 20, count + len(running))


def test_equal_history_and_seed_give_equal_proposals(strategy):
    history = known(8)
    first = strategy.propose(history, 2, 3)
    assert first == strategy.propose(history, 2, 3)
    assert first[0] != first[1]
    assert first != strategy.propose(history, 2, 4)


def test_what_runs_now_is_taken_into_account(strategy):
    (first,) = strategy.propose(known(8), 1, 3)
    (second,) = strategy.propose(known(8, pending=(first,)), 1, 3)
    assert second.params != first.params


def test_soups_and_warm_starts_that_run_now_are_not_awaited(strategy):
    history = known(8)
    params = history.observations[0].params
    start = Start(((0, 4),), (1.0,))
    others = (Proposal(params, start), Proposal(params, start, steps=0))
    more = replace(history, pending={8 + i: other for i, other in enumerate(others)})
    assert strategy.propose(more, 1, 3) == strategy.propose(history, 1, 3)


def test_rungs_warm_starts_and_other_conditions_are_not_read(strategy):
    plain = known(6)
    first = plain.observations[0]
    extras = (
        observation(0, first.params, (0.9, 9.0), step=2, full=False),
        *plain.observations,
        observation(0, first.params, (0.8, 8.0), condition={"a": 1.0, "b": 0.0}),
        observation(6, first.params, (0.9, 9.0), start=Start(((0, 4),), (1.0,))),
        observation(7, first.params, (math.nan, 9.0)),
    )
    more = History(SPACE, OBJECTIVES, extras, {}, 4, 20, 6)
    assert strategy.propose(more, 1, 0) == strategy.propose(plain, 1, 0)


def test_a_threshold_that_is_missed_draws_proposals_away_from_there(strategy):
    """Objective b of at least 7 needs a weight on b of about a half or more."""
    constrained = (OBJECTIVES[0], Objective("b", (0.0, 10.0), at_least=7.0))

    def mean_weight(objectives) -> float:
        weights = []
        for seed in range(4):
            history = known(14, seed=seed)
            changed = History(SPACE, objectives, history.observations, {}, 4, 20, 14)
            (proposal,) = strategy.propose(changed, 1, seed)
            weights.append(proposal.params["w"]["b"])
        return statistics.mean(weights)

    assert mean_weight(constrained) > mean_weight(OBJECTIVES)


def test_every_kind_of_dimension(strategy):
    space = {
        "w": Simplex(("a", "b", "c")),
        "one": Simplex(("only",)),
        "n": IntRange(2, 9, log=True),
        "kind": Choice(("x", True, 3)),
        "x": FloatRange(0.0, 2.0),
    }
    rng = random.Random(0)
    observations = []
    for trial in range(6):
        params = {path: draw(dimension, rng) for path, dimension in space.items()}
        observations.append(observation(trial, params, (rng.random(), rng.random())))
    history = History(space, OBJECTIVES, tuple(observations), {}, 4, 20, 6)
    (proposal,) = strategy.propose(history, 1, 0)
    assert sum(proposal.params["w"].values()) == pytest.approx(1.0)
    assert min(proposal.params["w"].values()) >= 0
    assert proposal.params["one"] == {"only": 1.0}
    assert type(proposal.params["n"]) is int
    assert 2 <= proposal.params["n"] <= 9
    assert proposal.params["kind"] in ("x", True, 3)
    assert 0 <= proposal.params["x"] <= 2


def test_nothing_to_search(strategy):
    history = History({}, OBJECTIVES, (), {}, 4, 20, 0)
    assert strategy.propose(history, 2, 0) == [Proposal({}), Proposal({})]


def test_a_single_objective_will_do(strategy):
    history = known(6)
    observations = tuple(
        observation(o.trial, o.params, o.values_K[:1]) for o in history.observations
    )
    one = History(SPACE, OBJECTIVES[:1], observations, {}, 4, 20, 6)
    assert strategy.propose(one, 1, 0)[0].params["lr"] > 0


def test_optunas_logging_is_left_as_it_was(strategy, capfd):
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.INFO)  # somebody may have changed it
    try:
        strategy.propose(known(5), 1, 0)
        assert optuna.logging.get_verbosity() == logging.INFO
    finally:
        optuna.logging.set_verbosity(before)
    assert capfd.readouterr() == ("", "")


# --- coordinates -------------------------------------------------------------------------------


@pytest.mark.parametrize("coordinates", ["stick", "cuts", "mirrored-cuts"])
@pytest.mark.parametrize("names", ["a", "ab", "abc", "abcd", "abcde"])
def test_coordinates_and_back(coordinates: str, names: str):
    space = Space({"w": Simplex(tuple(names)), "x": FloatRange(0, 1)}, coordinates)
    mirrored = coordinates == "mirrored-cuts"
    rng = random.Random(0)
    for _ in range(20):
        weights = draw(Simplex(tuple(names)), rng)
        copies = list(space.flat({"w": weights, "x": 0.5}))
        expected = math.factorial(max(0, len(names) - 1)) if mirrored and len(names) <= 4 else 1
        assert len(copies) == space.copies == expected
        assert len({tuple(sorted(copy.items())) for copy in copies}) == expected
        for copy in copies:
            assert set(copy) == set(space.distributions())
            assert space.nested(copy)["w"] == pytest.approx(weights)
            assert space.nested(copy)["x"] == 0.5


def test_corners_have_coordinates_inside_the_cube():
    for coordinates, corner in itertools.product(("stick", "cuts", "mirrored-cuts"), range(3)):
        space = Space({"w": Simplex(("a", "b", "c"))}, coordinates)
        weights = {name: float(k == corner) for k, name in enumerate("abc")}
        for copy in space.flat({"w": weights}):
            assert all(0.0 <= value <= 1.0 for value in copy.values())
            assert space.nested(copy)["w"] == pytest.approx(weights)


def test_gaps_between_uniforms_are_uniform_on_the_simplex():
    rng = random.Random(0)
    gaps = [from_cuts([rng.random(), rng.random()]) for _ in range(4000)]
    for column in zip(*gaps, strict=True):
        assert statistics.mean(column) == pytest.approx(1 / 3, abs=0.01)
        assert statistics.variance(column) == pytest.approx(1 / 18, rel=0.1)
