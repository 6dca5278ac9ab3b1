"""Trials go on from the policy that is worth most to them; from scratch where that led nowhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import quick
from histories import OBJECTIVES, PATH, STEPS, history, params, seen, soup, warm
from quick import archive, quick_run, quick_study

from moalign.components import Component, Strategy
from moalign.errors import OptionError
from moalign.options import construct
from moalign.testing.strategy import PROPERTIES
from moalign.types import (
    FloatRange,
    History,
    IntRange,
    Observation,
    Proposal,
    Simplex,
    Start,
)
from moalign_plugins.strategies.cmorl import ConstrainedExtension
from moalign_plugins.strategies.continuation import Continuation
from moalign_plugins.strategies.grid import Grid
from moalign_plugins.strategies.random import Random


class Asked(Strategy):
    """Proposes what it is told, and remembers what it was shown."""

    name = "asked"
    corners_first = False

    def __init__(self, *proposals: Proposal) -> None:
        self.proposals = list(proposals) or [Proposal(params(0.5))]
        self.shown: list[History] = []

    def propose(self, history: History, n: int, seed: int) -> list[Proposal]:
        self.shown.append(history)
        return self.proposals[:n]


CORNERS = [seen(0, (0.9, 1.0), 0.8), seen(1, (0.2, 8.0), 0.2), seen(2, (0.5, 6.0), 0.5)]


def proposed(
    observations: Sequence[Observation],
    share: float,
    *,
    after: int = 3,
    margin: float = -0.5,
    **known: Any,
) -> Proposal:
    inner = Asked(Proposal(params(share)))
    given = history(observations, **known)
    return Continuation(strategy=inner, after=after, margin=margin).propose(given, 1, 0)[0]


# --- where a trial begins ----------------------------------------------------------------------


def test_a_trial_begins_from_the_policy_that_is_worth_most_to_it():
    for share, source in ((0.9, 0), (0.1, 1), (0.5, 2)):
        found = proposed(CORNERS, share)
        assert found.start == Start(((source, STEPS),), (1.0,))
        assert found.steps == 12
        assert found.params == params(share)
    assert found.reason == (
        "continues t02 at step 40, the best of 3 kept policies by its own value, 0.550 ± 0.000"
    )


def test_its_learning_rate_rises_at_first():
    assert proposed(CORNERS, 0.9).settings == {"training.warmup": 6}
    given = history(CORNERS)
    for options, warmup in (({"steps": 5}, 2), ({"warmup": 3}, 3), ({"warmup": 0}, 0)):
        strategy = Continuation(strategy=Asked(), after=3, **options)
        assert strategy.propose(given, 1, 0)[0].settings == {"training.warmup": warmup}
    searched = replace(given, space={**given.space, "training.warmup": IntRange(0, 9)})
    assert Continuation(strategy=Asked(), after=3).propose(searched, 1, 0)[0].settings == {}


def test_what_warms_up_is_known_again_as_a_warm_start():
    first = proposed(CORNERS, 0.7)
    stalled = warm(3, (0.1, 1.0), (2, STEPS), 0.7)
    given = replace(history([*CORNERS, stalled]), made={3: first})
    found = Continuation(strategy=Asked(), after=3).propose(given, 1, 0)[0]
    assert (found.params, found.start) == (params(0.7), Start()), "it made no progress"
    other = replace(first, settings={"weighting": {"fixed": {}}})
    given = replace(given, made={3: other})
    assert not Continuation(strategy=Asked(), after=3).propose(given, 1, 0)[0].start.scratch


def test_not_the_nearest_weights_but_the_value_decides():
    collapsed = seen(2, (0.1, 1.0), 0.5)
    found = proposed([CORNERS[0], seen(1, (0.2, 8.5), 0.2), collapsed], 0.5)
    assert found.start.points == ((1, STEPS),), "trial 2 has the weights of the target itself"


def test_only_what_is_kept_can_be_gone_on_with():
    gone = seen(0, (0.9, 1.0), 0.8, kept=False)
    assert proposed([gone, *CORNERS[1:]], 0.9).start.points == ((2, STEPS),)
    none = [seen(o.trial, o.values_K, kept=False) for o in CORNERS]
    assert proposed(none, 0.9) == Proposal(params(0.9))


def test_soups_and_trials_at_a_rung_can_be_gone_on_with():
    mixed = soup(3, (0.8, 7.0), {(0, STEPS): 0.5, (1, STEPS): 0.5})
    found = proposed([*CORNERS, mixed], 0.5)
    assert found.start.points == ((3, 0),)
    assert found.reason.startswith("continues t03, a soup, the best of 4 kept policies")
    rung = seen(3, (0.8, 7.0), step=10, full=False)
    found = proposed([*CORNERS, rung], 0.5)
    assert found.start.points == ((3, 10),)
    assert found.reason.startswith("continues t03-s10 at step 10,")


def test_a_policy_that_reads_weights_counts_with_its_best_condition():
    either = [
        seen(3, (0.1, 1.0), condition={"a": 0.5, "b": 0.5}),
        seen(3, (0.95, 5.0), condition={"a": 1.0, "b": 0.0}),
    ]
    assert proposed([*CORNERS, *either], 0.9).start.points == ((3, STEPS),)


HELD = (OBJECTIVES[0], replace(OBJECTIVES[1], at_least=5.0))


def test_a_policy_that_meets_all_thresholds_comes_first():
    assert proposed(CORNERS, 0.9, objectives=HELD).start.points == ((2, STEPS),), "0 misses b"
    none = [seen(o.trial, (o.values_K[0], 4.0)) for o in CORNERS]
    assert proposed(none, 0.9, objectives=HELD).start.points == ((0, STEPS),)
    either = [
        seen(3, (0.95, 1.0), condition={"a": 1.0, "b": 0.0}),
        seen(3, (0.6, 7.0), condition={"a": 0.5, "b": 0.5}),
    ]
    assert proposed([*CORNERS, *either], 0.9, objectives=HELD).start.points == ((3, STEPS),)


def test_before_there_are_enough_results_trials_begin_from_scratch():
    assert proposed(CORNERS, 0.5, after=4) == Proposal(params(0.5))
    assert not proposed([*CORNERS, seen(3, (0.4, 4.0))], 0.5, after=4).start.scratch
    rungs = [seen(n, (0.4, 4.0), step=10, full=False) for n in (3, 4)]
    assert proposed([*CORNERS, *rungs], 0.5, after=4).start.scratch


def test_a_weight_off_the_front_says_nothing_of_where_to_begin():
    space = {PATH: Simplex(("a", "b", "off"))}
    three = {PATH: {"a": 0.1, "b": 0.0, "off": 0.9}}
    given = history([seen(o.trial, o.values_K, params=three) for o in CORNERS], space=space)
    strategy = Continuation(strategy=Asked(Proposal(three)), after=3)
    assert strategy.propose(given, 1, 0)[0].start.points == ((0, STEPS),)
    nothing = Proposal({PATH: {"a": 0.0, "b": 0.0, "off": 1.0}})
    strategy = Continuation(strategy=Asked(nothing), after=3)
    assert strategy.propose(given, 1, 0) == [nothing]


def test_what_the_other_strategy_proposes_with_a_start_of_its_own_is_left_alone():
    own = Proposal(params(0.5), Start(((0, STEPS),), (1.0,)), 5, {"training.warmup": 1}, "mine")
    strategy = Continuation(strategy=Asked(own), after=1)
    assert strategy.propose(history(CORNERS), 1, 0) == [own]


# --- falling back ------------------------------------------------------------------------------


def test_without_progress_the_same_is_tried_from_scratch_once():
    stalled = warm(3, (0.5, 5.9), (2, STEPS), 0.4)
    found = proposed([*CORNERS, stalled], 0.7)
    assert (found.params, found.start, found.steps) == (params(0.4), Start(), None)
    assert found.reason == (
        "trial 3 made no progress from t02 at step 40 (0.560 ± 0.000 to 0.554 ± 0.000), so its "
        "parameters are tried from scratch"
    )
    # While it runs, when it has ended, and when it has failed.
    again = Proposal(params(0.4))
    assert not proposed([*CORNERS, stalled], 0.7, pending={4: again}).start.scratch
    assert not proposed([*CORNERS, stalled, seen(4, (0.3, 3.0), 0.4)], 0.7).start.scratch
    assert not proposed([*CORNERS, stalled], 0.7, failed={4: again}).start.scratch


def test_a_threshold_that_is_missed_now_is_no_progress():
    better = warm(3, (0.9, 4.0), (2, STEPS), 0.6)  # .54 + .16 beside .30 + .24
    assert not proposed([*CORNERS, better], 0.7).start.scratch
    found = proposed([*CORNERS, better], 0.7, objectives=HELD)
    assert (found.params, found.start) == (params(0.6), Start())
    assert found.reason == (
        "trial 3 misses the threshold of b, which t02 at step 40 meets, so its parameters are "
        "tried from scratch"
    )


def test_what_was_tried_from_scratch_before_is_not_tried_again():
    stalled = warm(3, (0.5, 5.0), (0, STEPS), 0.8)
    assert not proposed([*CORNERS, stalled], 0.7).start.scratch


@pytest.mark.parametrize("margin", [-0.5, 0.5])
def test_progress_is_counted_in_standard_errors(margin: float):
    def next_after(rise: float, error: float) -> Proposal:
        source = seen(2, (0.5, 6.0), 0.5, stderr_K=(error, 0.0))
        after = warm(3, (0.5 + rise, 6.0), (2, STEPS), 0.45, stderr_K=(error, 0.0))
        return proposed([*CORNERS[:2], source, after], 0.7, margin=margin)

    # The value of weights .45/.55 rises by .45 times the rise of a, and so does its error.
    least = margin * 0.02 * math.sqrt(2)
    assert not next_after(least + 1e-4, 0.02).start.scratch
    assert next_after(least - 1e-4, 0.02).params == params(0.45)
    assert next_after(0.0, 0.0).start.scratch is (margin > 0), "to stand still is no progress"
    assert not next_after(1e-9, 0.0).start.scratch
    assert next_after(-1e-9, 0.0).params == params(0.45)


def test_a_trial_that_failed_on_its_way_is_tried_from_scratch():
    lost = Proposal(params(0.6), Start(((2, STEPS),), (1.0,)), 12)
    found = proposed(CORNERS, 0.7, failed={3: lost})
    assert found.params == params(0.6)
    assert found.reason.startswith("trial 3 began elsewhere and failed, so its parameters")
    assert not proposed(CORNERS, 0.7, pending={3: lost}).start.scratch, "it may yet end well"


def test_several_at_once():
    stalled = [warm(n, (0.5, 5.0), (2, STEPS), share) for n, share in ((3, 0.5), (4, 0.6))]
    stalled[0] = warm(3, (0.5, 5.0), (2, STEPS), 0.55)
    strategy = Continuation(strategy=Asked(Proposal(params(0.7))), after=3)
    found = strategy.propose(history([*CORNERS, *stalled]), 3, 0)
    assert [p.params for p in found] == [params(0.55), params(0.6), params(0.7)]
    assert [p.start.scratch for p in found] == [True, True, False]


# --- what the other strategy sees --------------------------------------------------------------


def shown(observations: Sequence[Observation], **known: Any) -> History:
    inner = Asked()
    Continuation(strategy=inner, after=3).propose(history(observations, **known), 1, 0)
    return inner.shown[-1]


def test_progress_counts_as_a_full_trial_from_scratch():
    rung = warm(3, (0.5, 6.1), (2, STEPS), 0.4, step=10, full=False)
    onwards = warm(3, (0.5, 7.0), (2, STEPS), 0.4)
    view = shown([*CORNERS, rung, onwards])
    assert [o.trial for o in view.plain()] == [0, 1, 2, 3]
    (counted,) = (o for o in view.observations if o.trial == 3)
    assert (counted.step, counted.full, counted.start) == (STEPS, True, Start())
    assert counted.values_K == (0.5, 7.0)
    assert view.made[3] == Proposal(params(0.4))
    assert view.proposed == 4
    assert not any(o.kept for o in view.observations)


def test_what_runs_on_is_awaited():
    running = Proposal(params(0.4), Start(((2, STEPS),), (1.0,)), 12, reason="goes on")
    rung = warm(3, (0.5, 7.0), (2, STEPS), 0.4, step=10, full=False)
    view = shown([*CORNERS, rung], pending={3: running})
    assert view.awaited() == (Proposal(params(0.4)),)
    assert [o.trial for o in view.observations] == [0, 1, 2]


def test_soups_and_what_made_no_progress_have_never_been():
    mixed = soup(3, (0.8, 7.0), {(0, STEPS): 0.5, (1, STEPS): 0.5})
    stalled = warm(4, (0.5, 1.0), (2, STEPS), 0.4)
    again = seen(5, (0.6, 5.0), 0.4)
    view = shown([*CORNERS, mixed, stalled, again])
    assert [o.trial for o in view.observations] == [0, 1, 2, 5]
    assert sorted(view.made) == [0, 1, 2, 5]
    assert view.proposed == 4
    pending = {6: Proposal(params(0.5), Start(((0, STEPS),), (1.0,)), 0)}
    assert shown([*CORNERS], pending=pending).pending == {}


def test_a_grid_misses_nothing():
    space = {PATH: Simplex(("a", "b"))}
    strategy, plain = Continuation(strategy=Grid(divisions=8), after=2), Grid(divisions=8)
    told: list[Observation] = []
    drawn = []
    while found := strategy.propose(history(told, space=space), 1, 0):
        (proposal,) = found
        worth = (proposal.params[PATH]["a"], 10 * proposal.params[PATH]["b"])
        if proposal.start.scratch:
            told.append(seen(len(told), worth, params=proposal.params))
        else:  # none makes progress
            source = proposal.start.points[0]
            told.append(warm(len(told), (0.0, 0.0), source, params=proposal.params))
            drawn.append(proposal.params)
        assert len(told) < 30
    whole = [p.params for p in plain.propose(history([], space=space), 9, 0)]
    scratch = [o.params for o in told if o.start.scratch]
    assert sorted(map(str, scratch)) == sorted(map(str, whole))
    assert len(drawn) == 7


# --- options -----------------------------------------------------------------------------------


def test_the_options_are_those_of_a_study():
    asked = []

    def build(base: type[Component], reference: Any) -> Component:
        asked.append((base, reference))
        return Random()

    built = construct(Continuation, {"strategy": {"tpe": {}}, "steps": 9}, build)
    assert isinstance(built, Continuation)
    assert (built.steps, built.after) == (9, 4)
    construct(Continuation, {}, build)
    assert asked == [(Strategy, {"tpe": {}}), (Strategy, "botorch")]
    assert Continuation(strategy=Random()).corners_first
    assert not Continuation(strategy=Grid()).corners_first
    assert Continuation.corners_first


def test_check():
    Continuation(strategy=Random()).check(history([]))
    with pytest.raises(OptionError, match=r"`steps` must lie below training\.steps") as caught:
        Continuation(strategy=Random(), steps=40).check(history([]))
    assert caught.value.option == "steps"
    with pytest.raises(OptionError, match=r"`warmup` must be at most `steps` \(12\)") as caught:
        Continuation(strategy=Random(), warmup=13).check(history([]))
    assert caught.value.option == "warmup"
    bare = history([], space={"training.learning_rate": FloatRange(1e-4, 1e-2)})
    with pytest.raises(OptionError, match="strategy continuation values a policy by the weights"):
        Continuation(strategy=Random()).check(bare)
    dense = Continuation(strategy=Grid(points=10_000, divisions=100))
    with pytest.raises(OptionError, match="strategy grid: the space has"):
        dense.check(history([]))
    both = {PATH: Simplex(tuple(o.name for o in history([]).objectives))}
    within = Continuation(strategy=ConstrainedExtension())
    with pytest.raises(OptionError, match="`strategy: cmorl` says itself where its trials begin"):
        within.check(history([], space=both))


@pytest.mark.parametrize("check", PROPERTIES, ids=lambda check: check.__name__)
def test_contract(check):
    check(lambda: Continuation(strategy=Random(), after=2))


# --- in a study --------------------------------------------------------------------------------

WARM = ("search.strategy={continuation: {strategy: random, steps: 3, after: 3}}",)


def study(*overrides: str):
    return quick_study(*WARM, "search.rungs=[]", "search.trials=10", *overrides)


def test_a_study_goes_on_along_its_front(tmp_path):
    run = quick_run(tmp_path / "mine", study=study()).run
    trials = list(run.trials.values())
    assert [t.outcome for t in trials] == ["finished"] * 10
    assert all(t.proposal.start.scratch for t in trials[:3])
    ahead = [t for t in trials if not t.proposal.start.scratch]
    assert len(ahead) >= 4
    assert all(t.total == 3 and t.proposal.reason.startswith("continues t") for t in ahead)
    again = [t for t in trials[3:] if t.proposal.start.scratch]
    assert all("from scratch" in t.proposal.reason for t in again)
    # All of the front's policies are there and measured on test, though sources are gone.
    assert all(run.folder.policy(o.trial, o.step).is_dir() for o in run.front())
    assert {(o.trial, o.step) for o in run.front()} <= set(run.tests)


def test_interrupted_it_ends_the_same(tmp_path):
    whole = quick_run(tmp_path / "whole", study=study()).run

    def stops(task, emit, cache):
        if task.trial == 6:
            raise KeyboardInterrupt
        quick.quick_segment(task, emit, cache)

    assert quick_run(tmp_path / "mine", study=study(), segment=stops).outcome == "interrupted"
    resumed = quick_run(tmp_path / "mine", study=study())
    assert archive(resumed.run)["trials"] == archive(whole)["trials"]


def test_a_trial_that_fails_on_its_way_is_tried_from_scratch_once(tmp_path, monkeypatch):
    monkeypatch.setenv("QUICK_FAULTS", '[{"trial": 3, "step": 1, "kind": "non-finite"}]')
    trials = quick_run(tmp_path / "mine", study=study("search.trials=6")).run.trials
    assert [t.outcome for t in trials.values()][3:] == ["failed", "finished", "finished"]
    assert trials[4].proposal.params == trials[3].proposal.params
    assert trials[4].proposal.start.scratch
    assert trials[5].proposal.params != trials[3].proposal.params
