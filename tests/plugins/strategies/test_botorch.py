from __future__ import annotations

import logging
import math
import random
import time
from dataclasses import replace

import pytest
import torch
from botorch.acquisition.multi_objective import logei
from botorch.exceptions.errors import ModelFittingError

from moalign import pareto
from moalign.study.space import first_proposals
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
from moalign_plugins.strategies import botorch as module
from moalign_plugins.strategies.botorch import BoTorch
from moalign_plugins.strategies.random import Random, draw

SPACE = {"w": Simplex(("a", "b")), "lr": FloatRange(1e-4, 1e-2, log=True)}
OBJECTIVES = (Objective("a", (0.0, 1.0)), Objective("b", (0.0, 10.0)))
STEPS = 4


def measured(params: dict, step: int = STEPS) -> tuple[float, float]:
    """Two objectives that pull against each other; a good rate is good for both."""
    skill = (1.0 - abs(math.log10(params["lr"] / 1e-3)) ** 2 / 2) * math.sqrt(step / STEPS)
    return skill * params["w"]["a"] ** 0.5, 10 * skill * params["w"]["b"] ** 0.5


def observation(trial: int, params: dict, values: tuple | None = None, **changes) -> Observation:
    values = measured(params, changes.get("step", STEPS)) if values is None else values
    return Observation(
        **{
            "trial": trial,
            "step": STEPS,
            "full": True,
            "start": Start(),
            "condition": None,
            "params": params,
            "values_K": values,
            "stderr_K": (0.01,) * len(values),
            "cost": Cost(),
            **changes,
        }
    )


def known(count: int, *, pending: tuple[Proposal, ...] = (), seed: int = 0, space=SPACE) -> History:
    rng = random.Random(seed)
    observations = []
    for trial in range(count):
        params = {path: draw(dimension, rng) for path, dimension in space.items()}
        observations.append(observation(trial, params))
    running = {count + i: proposal for i, proposal in enumerate(pending)}
    return History(space, OBJECTIVES, tuple(observations), running, STEPS, 20, count + len(running))


def changed(history: History, change) -> History:
    return replace(history, observations=tuple(map(change, history.observations)))


def only(history: History, seed: int = 0, **options) -> Proposal:
    (proposal,) = BoTorch(startup=2, **options).propose(history, 1, seed)
    return proposal


def is_allowed(proposal: Proposal) -> bool:
    weights = proposal.params["w"].values()
    return (
        math.isclose(sum(weights), 1.0, abs_tol=1e-9)
        and min(weights) >= 0
        and 1e-4 <= proposal.params["lr"] <= 1e-2
    )


def search(strategy, seed: int, trials: int) -> float:
    """Return the hypervolume of a search of ``trials``, in units of the bounds."""
    space = {**SPACE, "lr": FloatRange(1e-5, 1e-2, log=True)}
    observations: list[Observation] = []
    first = first_proposals(space)
    for trial in range(trials):
        history = History(space, OBJECTIVES, tuple(observations), {}, STEPS, trials, trial)
        own = [] if trial < len(first) else strategy.propose(history, 1, 100 * seed + trial)
        (proposal,) = own or first[trial : trial + 1]
        observations.append(observation(trial, dict(proposal.params)))
    return pareto.hypervolume([(o.values_K[0], o.values_K[1] / 10) for o in observations], [0, 0])


def test_it_finds_more_than_random_search():
    """Five proposals after the corners and the centre beat nine of ten random searches."""
    found = [search(BoTorch(startup=3), seed, 8) for seed in range(2)]
    lucky = sorted(search(Random(), seed, 8) for seed in range(10))[-2]
    assert min(found) > lucky


# --- a function of the history -----------------------------------------------------------------


def test_equal_arguments_give_equal_proposals_whatever_stands_outside():
    history = known(6)
    torch.manual_seed(1)
    first = BoTorch(startup=2).propose(history, 2, 3)
    torch.manual_seed(2)
    torch.set_num_threads(2)
    state = torch.random.get_rng_state()
    try:
        assert BoTorch(startup=2).propose(history, 2, 3) == first
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert BoTorch(startup=2).propose(history, 1, 4) != first[:1]


def test_several_proposals_are_those_made_one_after_the_other():
    first, second = BoTorch(startup=2).propose(known(6), 2, 3)
    assert first.params != second.params
    assert BoTorch(startup=2).propose(known(6), 1, 3) == [first]
    assert BoTorch(startup=2).propose(known(6, pending=(first,)), 1, 3) == [second]


def test_botorchs_kernel_is_neither_built_nor_used(monkeypatch):
    """Whether a compiler is there must not change what is proposed."""

    def refused(*args):
        raise AssertionError("the compiled kernel was used")

    monkeypatch.setattr(logei, "_C", refused)
    monkeypatch.setattr(logei, "_load_attempted", False)
    only(known(3))
    assert logei._C is refused
    assert logei._load_attempted is False


def test_nothing_is_printed_or_logged(capfd, caplog):
    with caplog.at_level(logging.WARNING):
        only(changed(known(3), lambda o: replace(o, values_K=(0.5, 5.0))))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


# --- startup -----------------------------------------------------------------------------------


def test_it_spreads_out_before_there_is_a_model():
    """Each point keeps away from the others: nearest neighbours are farther than at random."""

    def nearest(strategy) -> float:
        history, rows = known(0), []
        for number in range(8):
            (proposal,) = strategy.propose(replace(history, proposed=number), 1, number)
            pending = {**history.pending, number: proposal}
            history = replace(history, pending=pending)
            rows.append((proposal.params["w"]["a"], math.log10(proposal.params["lr"]) / 2))
        return min(math.dist(a, b) for a in rows for b in rows if a is not b)

    assert nearest(BoTorch(startup=20)) > 2 * nearest(Random())


def test_the_model_takes_over_after_startup(monkeypatch):
    calls = []
    fit = module.fit
    monkeypatch.setattr(module, "fit", lambda *given: calls.append(1) or fit(*given))
    BoTorch(startup=4).propose(known(3), 1, 0)
    assert not calls
    BoTorch(startup=4).propose(known(4), 1, 0)
    assert calls


def test_a_model_that_cannot_be_fitted_is_said(monkeypatch):
    def fails(*given):
        raise ModelFittingError("All attempts to fit the model have failed.")

    apart = BoTorch(startup=9).propose(known(4), 1, 0)[0]
    monkeypatch.setattr(module, "fit", fails)
    proposal = only(known(4))
    assert proposal.params == apart.params
    assert proposal.reason == (
        "drawn apart from what is known, because the model failed: "
        "All attempts to fit the model have failed."
    )
    assert apart.reason == ""


# --- what it reads -----------------------------------------------------------------------------


def test_what_runs_now_is_not_proposed_again():
    first = only(known(6))
    second = only(known(6, pending=(first,)))
    distance = abs(first.params["w"]["a"] - second.params["w"]["a"])
    assert distance + abs(math.log10(first.params["lr"] / second.params["lr"])) > 0.05


def test_warm_starts_other_conditions_and_shorter_trials_are_not_read():
    plain = known(4)
    first = plain.observations[0]
    extras = (
        *plain.observations,
        observation(0, first.params, (0.8, 8.0), condition={"a": 1.0, "b": 0.0}),
        observation(5, first.params, (0.9, 9.0), start=Start(((0, 4),), (1.0,))),
        observation(6, first.params, (0.9, 9.0), step=2, full=True),
        observation(7, first.params, (0.9, 9.0), step=0, full=True),
        observation(8, first.params, (math.nan, math.nan)),
    )
    assert only(replace(plain, observations=extras)) == only(plain)


def test_the_measured_errors_are_read():
    """A single trial that looks best by far draws proposals to it, unless it was measured badly."""
    history = known(8)
    outlier = observation(8, {"w": {"a": 0.5, "b": 0.5}, "lr": 1e-2}, (0.95, 9.5))
    trusted = replace(history, observations=(*history.observations, outlier), proposed=9)
    doubted = replace(
        trusted, observations=(*history.observations, replace(outlier, stderr_K=(0.5, 5.0)))
    )
    assert only(trusted).params["lr"] > only(doubted).params["lr"]
    assert only(doubted).params["lr"] < 3e-3


@pytest.mark.parametrize("stderr", [0.0, math.nan])
def test_errors_of_nothing_and_unknown_ones(stderr: float):
    assert is_allowed(only(changed(known(5), lambda o: replace(o, stderr_K=(stderr,) * 2))))


def test_stopped_trials_change_what_is_proposed():
    """Early measurements show which rates are good before any full trial has shown it."""
    rates = (1.1e-4, 1.2e-4, 8e-3, 9e-3)
    full = tuple(
        observation(i, {"w": {"a": i / 3, "b": 1 - i / 3}, "lr": rate})
        for i, rate in enumerate(rates)
    )
    stopped = tuple(
        observation(4 + i, {"w": {"a": 0.5, "b": 0.5}, "lr": rate}, step=step, full=False)
        for i, rate in enumerate((3e-4, 1e-3, 3e-3))
        for step in (1, 2)
    )
    early = tuple(observation(o.trial, o.params, step=2, full=False) for o in full)
    history = replace(known(0), observations=full, proposed=7)
    taught = replace(history, observations=(*early, *full, *stopped))
    miss = abs(math.log10(only(taught).params["lr"] / 1e-3))
    assert miss < 0.15
    assert miss < abs(math.log10(only(history).params["lr"] / 1e-3))


def test_rungs_alone_will_do():
    history = changed(known(4), lambda o: observation(o.trial, o.params, step=2, full=False))
    proposal = only(history)
    assert is_allowed(proposal)
    assert proposal.reason == ""


def test_a_threshold_that_no_trial_has_met_is_gone_for():
    """Objective b of at least 8 needs a weight on b of at least .64 and a good rate."""
    constrained = (OBJECTIVES[0], replace(OBJECTIVES[1], at_least=8.0))
    history = known(10)
    assert max(o.values_K[1] for o in history.observations) < 7.5
    assert measured(only(history).params)[1] < 7.5
    assert measured(only(replace(history, objectives=constrained)).params)[1] > 8.0


def test_bounds_are_the_units():
    """What is the same in units of the bounds is the same to the strategy."""
    history = known(5)
    scaled = changed(
        history,
        lambda o: replace(
            o, values_K=(1024 * o.values_K[0], o.values_K[1]), stderr_K=(10.24, 0.01)
        ),
    )
    wide = replace(scaled, objectives=(Objective("a", (0.0, 1024.0)), OBJECTIVES[1]))
    assert only(wide).params["lr"] == pytest.approx(only(history).params["lr"], rel=1e-3)


# --- awkward histories -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda o: replace(o, values_K=(0.5, 5.0)),
        lambda o: replace(o, values_K=(0.5, o.values_K[1])),
        lambda o: replace(o, params={"w": {"a": 0.5, "b": 0.5}, "lr": 1e-3}),
        lambda o: replace(o, params={"w": {"a": 1.0, "b": 0.0}, "lr": 1e-2}),
        lambda o: replace(o, values_K=(math.nan if o.trial % 2 else 0.5, o.values_K[1])),
        lambda o: replace(o, values_K=(math.nan, math.inf)) if o.trial else o,
        lambda o: replace(o, values_K=(-50.0 - o.trial, -50.0)),
    ],
    ids=["constant", "one-constant", "equal", "corners", "holes", "hardly-any", "below"],
)
def test_awkward_results(change):
    proposal = only(changed(known(4), change))
    assert is_allowed(proposal)
    assert proposal.reason == ""


@pytest.mark.parametrize("axes", [1, 3, 5])
def test_any_number_of_objectives(axes: int):
    names = "abcde"[:axes]
    rng = random.Random(0)
    space = {"w": Simplex(tuple("abcde"))}
    observations = []
    for trial in range(6):
        params = {"w": draw(space["w"], rng)}
        values = tuple(math.sqrt(params["w"][name]) for name in names)
        observations.append(observation(trial, params, values))
    objectives = tuple(Objective(name, (0.0, 1.0)) for name in names)
    history = History(space, objectives, tuple(observations), {}, STEPS, 20, 6)
    first = only(history)
    assert first.params not in [o.params for o in observations]
    if axes == 1:
        assert first.params["w"]["a"] > max(o.params["w"]["a"] for o in observations)


@pytest.mark.parametrize(
    ("axes", "used"), [(1, "scalarised"), (2, "hypervolume"), (4, "hypervolume"), (5, "scalarised")]
)
def test_hypervolume_up_to_four_objectives_and_a_chebyshev_value_beyond(axes, used, monkeypatch):
    asked = []

    class Enough(Exception):
        pass

    def noted(name):
        def function(*given, **options):
            asked.append((name, len(options["constraints"])))
            raise Enough

        return function

    for name in ("hypervolume", "scalarised"):
        monkeypatch.setattr(module, f"{name}_improvement", noted(name))
    objectives = tuple(Objective(name, (0.0, 1.0)) for name in "abcde"[:axes])
    values = [tuple(0.1 * (trial + k) for k in range(axes)) for trial in range(3)]
    history = replace(
        changed(known(3), lambda o: replace(o, values_K=values[o.trial], stderr_K=(0.01,) * axes)),
        objectives=(replace(objectives[0], at_least=0.2), *objectives[1:]),
    )
    with pytest.raises(Enough):
        only(history)
    assert asked == [(used, 1)]


def test_every_kind_of_dimension():
    space = {
        "w": Simplex(("a", "b", "c")),
        "one": Simplex(("only",)),
        "n": IntRange(2, 9, log=True),
        "kind": Choice(("x", True, 3)),
        "x": FloatRange(0.0, 2.0),
    }
    rng = random.Random(0)
    observations = []
    for trial in range(5):
        params = {path: draw(dimension, rng) for path, dimension in space.items()}
        observations.append(observation(trial, params, (rng.random(), rng.random())))
    proposal = only(History(space, OBJECTIVES, tuple(observations), {}, STEPS, 20, 5))
    assert sum(proposal.params["w"].values()) == pytest.approx(1.0)
    assert proposal.params["one"] == {"only": 1.0}
    assert type(proposal.params["n"]) is int
    assert 2 <= proposal.params["n"] <= 9
    assert proposal.params["kind"] in ("x", True, 3)
    assert 0 <= proposal.params["x"] <= 2


def test_a_finite_space_is_tried_whole():
    space = {"kind": Choice(("x", "y", "z")), "flag": Choice((True, False))}
    tried: list[Observation] = []
    for trial in range(6):
        history = History(space, OBJECTIVES, tuple(tried), {}, STEPS, 20, trial)
        params = dict(BoTorch(startup=1).propose(history, 1, trial)[0].params)
        tried.append(observation(trial, params, (float(trial % 3), 10.0 - trial)))
    assert len({str(o.params) for o in tried}) == 6


def test_nothing_to_search():
    history = History({}, OBJECTIVES, (), {}, STEPS, 20, 0)
    assert BoTorch().propose(history, 2, 0) == [Proposal({}), Proposal({})]


@pytest.mark.alone
def test_a_proposal_takes_two_seconds_at_most():
    """A hundred trials, three objectives, nearly all of them on the front; CPU seconds."""
    rng = random.Random(0)
    space = {"w": Simplex(tuple("abc")), "lr": SPACE["lr"], "x": FloatRange(0.0, 1.0)}
    observations = []
    for trial in range(100):
        params = {path: draw(dimension, rng) for path, dimension in space.items()}
        skill = 1.0 - abs(math.log10(params["lr"] / 1e-3)) / 4
        values = tuple(skill * math.sqrt(params["w"][name]) for name in "abc")
        observations.append(observation(trial, params, values))
    objectives = tuple(Objective(name, (0.0, 1.0)) for name in "abc")
    history = History(space, objectives, tuple(observations), {}, STEPS, 200, 100)
    only(known(3))
    began = time.process_time()
    only(history)
    assert time.process_time() - began < 4.0  # two on an idle machine
