from __future__ import annotations

import itertools
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from moalign import pareto
from moalign.strategies.genetic import GeneticStrategy
from moalign.strategies.optuna import Space, own_seed
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
from moalign_plugins.strategies.nsga2 import Nsga2
from moalign_plugins.strategies.nsga3 import Nsga3
from moalign_plugins.strategies.random import Random

KINDS = {"nsga2": Nsga2, "nsga3": Nsga3}
SPACE = {"x": FloatRange(0.0, 1.0), "y": FloatRange(1e-3, 1.0, log=True), "n": IntRange(0, 50)}
UNIT = (0.0, 1.0)


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def objectives(count: int, **changes) -> tuple[Objective, ...]:
    return tuple(Objective("abcde"[k], UNIT, **changes) for k in range(count))


def trade_off(params) -> tuple[float, ...]:
    """Two objectives of numbers in [0, 1] that pull against each other in the first of them."""
    first, *others = params.values()
    skill = 1.0 - sum((float(other) / 50 - 0.01) ** 2 for other in others)
    return skill * first, skill * (1.0 - first**2)


def observed(trial: int, params, values) -> Observation:
    zeros = (0.0,) * len(values)
    return Observation(trial, 4, True, Start(), None, dict(params), tuple(values), zeros, Cost())


def history(results, axes, *, space=SPACE, running=(), trials: int = 200) -> History:
    """Return what is known once `results`, pairs of parameters and values, are in."""
    observations = tuple(observed(i, *result) for i, result in enumerate(results))
    pending = {len(results) + i: proposal for i, proposal in enumerate(running)}
    made = {i: Proposal(params) for i, (params, _) in enumerate(results)} | pending
    return History(space, axes, observations, pending, 4, trials, len(made), made)


def drawn(count: int, *, space=SPACE, seed: int = 0) -> list[dict]:
    known = History(space, objectives(2), (), {}, 4, 200, 0)
    return [dict(p.params) for p in Random().propose(known, count, seed)]


def asked(strategy: GeneticStrategy, known: History):
    """Return the study that is asked for the next trial, and this trial before it is anything."""
    space = Space(known.space, strategy.coordinates)
    study = strategy.rebuilt(known, space)
    strategy.prepare(study, space)
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    study.ask()
    return study, study.trials[-1]


def parents(strategy: GeneticStrategy, known: History) -> set[int]:
    """Return the trials that may be parents of the next one."""
    study, trial = asked(strategy, known)
    sampler = strategy.sampler(Space(known.space, strategy.coordinates), 0)
    generation = sampler.get_trial_generation(study, trial)
    return {parent.number for parent in sampler.get_parent_population(study, generation)}


def children(strategy: GeneticStrategy, known: History, count: int) -> list[dict]:
    """Return the parameters, as Optuna sees them, that many seeds give the next trial."""
    study, trial = asked(strategy, known)
    space = Space(known.space, strategy.coordinates)
    return [
        strategy.sampler(space, seed).sample_relative(study, trial, space.distributions())
        for seed in range(count)
    ]


pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


# --- generations -------------------------------------------------------------------------------


@pytest.mark.parametrize("at_least", [None, 0.3])
def test_a_rebuilt_study_has_the_parents_and_the_children_of_a_live_one(kind, at_least):
    """Beside a study in which Optuna itself writes down generations and parents."""
    strategy, population = kind(population=5), 5
    axes = (Objective("a", UNIT, at_least=at_least), Objective("b", UNIT), Objective("c", UNIT))
    space = Space(SPACE, strategy.coordinates)
    live = optuna.create_study(directions=["minimize"] * 3)
    results, equal, inherited = [], 0, 0
    for number in range(40):
        known = history(results, axes)
        generation = number // population
        if number % population == 0:
            plain = strategy.sampler_class()(population_size=population, seed=generation)
            plain.get_parent_population(live, generation)
        seed = own_seed(3, number)
        live.sampler = strategy.sampler_class()(population_size=population, seed=seed)
        expected = {t.number for t in live.sampler.get_parent_population(live, generation)}
        trial = live.ask(space.distributions())
        assert live.sampler.get_trial_generation(live, trial._cached_frozen_trial) == generation
        assert parents(strategy, known) == expected
        # What the live one has drawn anew is another number here; what it has of parents, none.
        child = trial.relative_params
        if not any(child == dict(params) for params, _ in results):
            (proposal,) = strategy.propose(known, 1, 3)
            assert {name: proposal.params[name] for name in child} == child
            equal += 1
            inherited += len(child)
        a, b = trade_off(trial.params)
        values = (a, b, trial.params["x"] * trial.params["n"] / 50)
        if at_least is not None:
            trial.set_constraint("a", at_least - values[0])
        live.tell(trial, [-value for value in values])
        results.append((trial.params, values))
    assert equal > 30
    assert inherited > 40


def test_what_runs_now_has_a_place_in_its_generation(kind):
    """With several workers a generation does not grow, and who comes late is a parent, too."""
    strategy, axes = kind(population=6), objectives(2)
    results = [(params, trade_off(params)) for params in drawn(14)]
    waiting = [Proposal(params) for params in drawn(4, seed=1)]
    assert parents(strategy, history(results[:5], axes)) == set()
    assert parents(strategy, history(results[:5], axes, running=waiting[:1])) == set(range(5))
    assert parents(strategy, history(results[:6], axes, running=waiting[:3])) == set(range(6))
    assert len(parents(strategy, history(results[:10], axes, running=waiting[:2]))) == 6
    # Fewer than two that have ended: nobody to cross, so the child is drawn at random.
    few = history(results[:1], axes, running=[Proposal(params) for params in drawn(5, seed=2)])
    assert parents(strategy, few) == set()
    assert len(strategy.propose(few, 2, 0)) == 2


def test_what_will_not_be_a_full_result_has_none(kind):
    """Soups and warm starts that run now count for nothing."""
    results = [(params, trade_off(params)) for params in drawn(9)]
    (params,) = drawn(1, seed=1)
    start = Start(((0, 4),), (1.0,))
    waiting = [Proposal(params, start), Proposal(params, start, 0), Proposal(params, steps=2)]
    strategy, known = kind(), history(results, objectives(2))
    other = replace(known, pending={9 + i: proposal for i, proposal in enumerate(waiting)})
    assert strategy.propose(other, 1, 0) == strategy.propose(known, 1, 0)


def test_parents_are_the_best_of_two_generations(kind):
    """A generation that is worse in everything leaves no parents behind."""
    good = [({"x": x / 10, "y": 0.5, "n": 1}, (x / 10, 1 - x / 10)) for x in range(1, 6)]
    bad = [(params, (0.05 * a, 0.05 * b)) for params, (a, b) in good]
    strategy, axes = kind(population=5), objectives(2)
    assert parents(strategy, history(good + bad, axes)) == set(range(5))
    assert parents(strategy, history(bad + good, axes)) == set(range(5, 10))


def test_who_misses_a_threshold_is_no_parent_once_enough_meet_it(kind):
    axes = (Objective("a", UNIT, at_least=0.5), Objective("b", UNIT))
    results = [
        ({"x": i / 100, "y": 0.5, "n": i}, (0.55 + i / 100, 0.1) if i % 2 else (0.4, 0.9))
        for i in range(12)
    ]
    strategy = kind(population=6)
    meeting = {i for i in range(12) if i % 2}
    assert parents(strategy, history(results, axes)) == meeting
    # With too few of them, all of these, and of the others those that miss least.
    results[1] = (results[1][0], (0.2, 0.9))
    results[0] = (results[0][0], (0.45, 0.0))
    assert parents(strategy, history(results, axes)) == meeting - {1} | {0}
    # No threshold: who is good at b is.
    assert parents(strategy, history(results, objectives(2))) - meeting


# --- children ----------------------------------------------------------------------------------


def test_children_are_made_of_their_parents(kind):
    """Each parameter is some parent's, but for one in D on average."""
    strategy = kind(population=6)
    known = history([(p, trade_off(p)) for p in drawn(12)], objectives(2))
    chosen = [known.made[i].params for i in parents(strategy, known)]
    made = children(strategy, known, 200)
    theirs = {params[name] for params in chosen for name in ("x", "y")}
    own = [params[name] for params in made for name in ("x", "y")]
    assert sum(value in theirs for value in own) / len(own) == pytest.approx(2 / 3, abs=0.08)
    # Numbers of two parents meet in one child.
    whole = {(params["x"], params["y"]) for params in chosen}
    assert any(
        {params["x"], params["y"]} <= theirs and (params["x"], params["y"]) not in whole
        for params in made
    )


def test_what_is_drawn_at_random_does_not_depend_on_how_the_rest_was_made(kind):
    """Optuna draws it from the very number that says whether two parents are crossed."""
    space = {f"x{i}": FloatRange(0.0, 1.0) for i in range(3)}
    results = [(params, trade_off(params)) for params in drawn(6, space=space)]
    known = history(results, objectives(2), space=space)
    theirs = {params["x0"] for params, _ in results}
    made = [params["x0"] for params in children(kind(population=6), known, 100)]
    crossed = [np.random.RandomState(seed).rand() for seed in range(100)]
    pairs = [(x, u) for x, u in zip(made, crossed, strict=True) if x not in theirs]
    assert len(pairs) > 20
    assert not any(x == u for x, u in pairs)
    assert abs(np.corrcoef(np.array(pairs).T)[0, 1]) < 0.5


def test_no_trial_is_run_twice(kind):
    """Most children of two parameters, one a choice, would be known otherwise."""
    strategy, axes = kind(), objectives(2)
    space = {"x": FloatRange(0.0, 1.0), "c": Choice(("p", "q"))}
    known = history([], axes, space=space)
    results: list = []
    for number in range(50):
        (proposal,) = strategy.propose(known, 1, number)
        results.append((proposal.params, (proposal.params["x"], 1 - proposal.params["x"])))
        known = history(results, axes, space=space)
    assert len({tuple(params.values()) for params, _ in results}) == 50
    small = {"c": Choice(("p", "q")), "n": IntRange(1, 2)}
    results = [({"c": c, "n": n}, (n / 2, 0.5)) for c, n in itertools.product("pq", (1, 2))] * 3
    assert strategy.propose(history(results, axes, space=small), 2, 0)  # nothing else is left


# --- as strategies -----------------------------------------------------------------------------

OTHER_PROCESS = """
import sys
sys.path.insert(0, {folder!r})
from test_genetic import KINDS, drawn, history, objectives, trade_off
results = [(params, trade_off(params)) for params in drawn(15)]
for kind in KINDS.values():
    print(kind().propose(history(results, objectives(2)), 2, 4))
"""


def test_another_process_proposes_the_same():
    code = OTHER_PROCESS.format(folder=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    results = [(params, trade_off(params)) for params in drawn(15)]
    known = history(results, objectives(2))
    mine = [str(kind().propose(known, 2, 4)) for kind in KINDS.values()]
    assert done.stdout.splitlines() == mine


def test_two_hundred_trials_beat_as_many_at_random(kind):
    """ZDT1 (Zitzler et al. 2000) of four numbers, its objectives to be lowered.

    In one study that goes on, which is quicker; a rebuilt one has the same parents.
    """
    space = Space({f"x{i}": FloatRange(0.0, 1.0) for i in range(4)}, "cuts")
    strategy = kind()

    def zdt1(first, *others):
        g = 1.0 + 9.0 * sum(others) / len(others)
        return first, g * (1.0 - math.sqrt(first / g))

    def volume(sampler) -> float:
        study = optuna.create_study(directions=["minimize"] * 2)
        for number in range(200):
            study.sampler = sampler(own_seed(0, number))
            trial = study.ask(space.distributions())
            study.tell(trial, zdt1(*trial.params.values()))
        return pareto.hypervolume([[-value for value in t.values] for t in study.trials], [-1, -2])

    genetic = volume(lambda seed: strategy.sampler(space, seed))
    assert genetic > volume(lambda seed: optuna.samplers.RandomSampler(seed=seed)) + 0.5


def test_nsga3_keeps_one_of_every_direction_of_five_objectives():
    """Ten results, two of which fall short in the same objective: one of each two is a parent."""
    results = []
    for high, low in ((0.8, 0.1), (0.79, 0.12)):
        for k in range(5):
            values = tuple(low if j == k else high for j in range(5))
            results.append(({"x": k / 10 + high / 10, "y": 0.5, "n": k}, values))
    chosen = parents(Nsga3(population=5), history(results, objectives(5)))
    assert {number % 5 for number in chosen} == set(range(5))


def test_five_objectives(kind):
    """Weights of five objectives, each trial good at what its weights ask for; from the corners."""
    space = {"w": Simplex(tuple("abcde")), "lr": FloatRange(1e-4, 1e-2, log=True)}

    def aligned(params):
        skill = 1.0 - abs(math.log10(params["lr"] / 1e-3)) / 2
        return tuple(skill * math.sqrt(weight) for weight in params["w"].values())

    def volume(strategy) -> float:
        results = [(p.params, aligned(p.params)) for p in first_proposals(space)]
        while len(results) < 60:
            known = history(results, objectives(5), space=space)
            (proposal,) = strategy.propose(known, 1, len(results))
            results.append((proposal.params, aligned(proposal.params)))
        return pareto.hypervolume([values for _, values in results], [0.0] * 5)

    assert volume(kind()) > 1.15 * volume(Random())
