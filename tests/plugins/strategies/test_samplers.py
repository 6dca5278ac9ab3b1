from __future__ import annotations

import itertools
import logging
import math
import random
import statistics
import time

import optuna
import pytest

from moalign.errors import OptionError
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
from moalign_plugins.strategies import samplers
from moalign_plugins.strategies.random import draw
from moalign_plugins.strategies.samplers import GaussianProcess, ParzenEstimator

STRATEGIES = {
    "gp": lambda: GaussianProcess(startup=4),
    "tpe": lambda: ParzenEstimator(startup=4),
    "tpe-joint": lambda: ParzenEstimator(startup=4, multivariate=True),
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


def test_the_model_looks_where_both_objectives_are_good():
    """After the random trials, rates near the good one are proposed more often than before."""

    def distance(strategy) -> float:
        found = []
        for seed in range(3):
            (proposal,) = strategy.propose(known(12, seed=seed), 1, seed)
            found.append(abs(math.log10(proposal.params["lr"] / 1e-3)))
        return statistics.mean(found)

    assert distance(GaussianProcess(startup=4)) < 0.5 * distance(GaussianProcess(startup=99))


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


def test_bounds_are_the_units():
    """What is the same in units of the bounds is the same to the strategy."""
    history = known(8)
    scaled = tuple(
        observation(o.trial, o.params, (1000 * o.values_K[0] - 5, o.values_K[1]))
        for o in history.observations
    )
    objectives = (Objective("a", (-5.0, 995.0)), OBJECTIVES[1])
    strategy = ParzenEstimator(startup=4)
    other = History(SPACE, objectives, scaled, {}, 4, 20, 8)
    assert strategy.propose(other, 1, 0) == strategy.propose(history, 1, 0)


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


def test_gp_takes_three_objectives_at_most():
    objectives = tuple(Objective(name, (0.0, 1.0)) for name in "abcd")
    history = History(SPACE, objectives, (), {}, 4, 20, 0)
    with pytest.raises(OptionError, match="up to 3 objectives on the front; found 4"):
        GaussianProcess().check(history)
    ParzenEstimator().check(history)


def test_optunas_logging_is_left_as_it_was(strategy, capfd):
    before = optuna.logging.get_verbosity()
    strategy.propose(known(5), 1, 0)
    assert optuna.logging.get_verbosity() == before == logging.INFO
    assert capfd.readouterr() == ("", "")


@pytest.mark.alone
def test_tpe_is_fast():
    history = known(60)
    ParzenEstimator().propose(history, 1, 0)
    began = time.perf_counter()
    ParzenEstimator().propose(history, 1, 0)
    assert time.perf_counter() - began < 2.0


# --- coordinates -------------------------------------------------------------------------------


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("names", ["a", "ab", "abc", "abcd", "abcde"])
def test_coordinates_and_back(mirrored: bool, names: str):
    space = samplers._Space({"w": Simplex(tuple(names)), "x": FloatRange(0, 1)}, mirrored)
    rng = random.Random(0)
    for _ in range(20):
        weights = draw(Simplex(tuple(names)), rng)
        copies = list(space.flat({"w": weights, "x": 0.5}))
        expected = math.factorial(max(0, len(names) - 1)) if mirrored and len(names) <= 4 else 1
        assert len(copies) == expected
        assert len({tuple(sorted(copy.items())) for copy in copies}) == expected
        for copy in copies:
            assert set(copy) == set(space.distributions())
            assert space.nested(copy)["w"] == pytest.approx(weights)
            assert space.nested(copy)["x"] == 0.5


def test_corners_have_coordinates_inside_the_cube():
    for mirrored, corner in itertools.product((False, True), range(3)):
        space = samplers._Space({"w": Simplex(("a", "b", "c"))}, mirrored)
        weights = {name: float(k == corner) for k, name in enumerate("abc")}
        for copy in space.flat({"w": weights}):
            assert all(0.0 <= value <= 1.0 for value in copy.values())
            assert space.nested(copy)["w"] == pytest.approx(weights)


def test_gaps_between_uniforms_are_uniform_on_the_simplex():
    rng = random.Random(0)
    gaps = [samplers._from_cuts([rng.random(), rng.random()]) for _ in range(4000)]
    for column in zip(*gaps, strict=True):
        assert statistics.mean(column) == pytest.approx(1 / 3, abs=0.01)
        assert statistics.variance(column) == pytest.approx(1 / 18, rel=0.1)
