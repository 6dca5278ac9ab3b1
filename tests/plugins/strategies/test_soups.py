"""Averages of trained policies: which are tried, in which order, and what answers a preference."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import quick
from histories import OBJECTIVES, PATH, RATE, STEPS, history, params, seen, soup, warm
from quick import archive, quick_run, quick_study

from moalign.components import Strategy
from moalign.errors import OptionError
from moalign.testing.strategy import PROPERTIES
from moalign.types import History, Objective, Observation, Proposal, Simplex, Start
from moalign_plugins.executors.local import Local
from moalign_plugins.strategies.grid import Grid
from moalign_plugins.strategies.random import Random
from moalign_plugins.strategies.soups import Soups

THREE = tuple(Objective(name, (0.0, 1.0)) for name in "abc")
SPACE3 = {PATH: Simplex(("a", "b", "c"))}

# Two wide gaps on a front of two objectives (b is in tenths): .50 and .42 long; and one of .14.
ENDS = [seen(0, (0.9, 1.0), 0.9), seen(1, (0.1, 8.0), 0.1)]
FRONT = [*ENDS, seen(2, (0.5, 4.0), 0.5), seen(3, (0.4, 5.0), 0.4)]


def corners() -> list[Observation]:
    rows = [(0.9, 0.1, 0.1), (0.1, 0.8, 0.1), (0.1, 0.1, 0.7)]
    weights = [{n: 0.8 if n == m else 0.1 for n in "abc"} for m in "abc"]
    return [
        seen(n, row, params={PATH: w}) for n, (row, w) in enumerate(zip(rows, weights, strict=True))
    ]


def mixed(proposal: Proposal) -> dict[int, float]:
    """Return a soup's shares by trial."""
    assert proposal.steps == 0
    pairs = zip(proposal.start.points, proposal.start.shares, strict=True)
    return {trial: share for (trial, _), share in pairs}


def measured(
    told: Sequence[Observation], strategy: Strategy, value: Any, most: int = 40, **known: Any
) -> list[dict[int, float]]:
    """Ask for one soup after the other and measure each; returns their shares by trial."""
    told, found = list(told), []
    while len(found) < most:
        proposals = strategy.propose(history(told, **known), 1, 0)
        if not proposals:
            return found
        (proposal,) = proposals
        number = max(o.trial for o in told) + 1
        pairs = zip(proposal.start.points, proposal.start.shares, strict=True)
        values, on = value(mixed(proposal))
        given = {"params": proposal.params, "kept": on}
        told.append(soup(number, values, dict(pairs), **given))
        found.append(mixed(proposal))
    raise AssertionError(f"still going after {most}")


def straight(observations: Sequence[Observation]) -> Any:
    rows = {o.trial: o.values_K for o in observations}

    def value(shares: Mapping[int, float]) -> tuple[tuple[float, ...], bool]:
        columns = zip(*(rows[t] for t in shares), strict=True)
        summed = [sum(s * v for s, v in zip(shares.values(), c, strict=True)) for c in columns]
        return tuple(summed), True

    return value


# --- filling the front -------------------------------------------------------------------------


def test_the_widest_gap_is_filled_first():
    found = measured(FRONT, Soups(), straight(FRONT))
    assert found[0] == {0: 0.5, 2: 0.5}
    assert found[1] == {1: 0.5, 3: 0.5}
    assert {0: 0.75, 2: 0.25} in found[2:4]
    assert found[-1] in ({2: 0.25, 3: 0.75}, {2: 0.75, 3: 0.25})
    assert len(found) == 9, "three gaps, three soups each"


def test_soups_that_would_miss_a_threshold_come_last():
    held = (replace(OBJECTIVES[0], at_least=0.5), OBJECTIVES[1])
    found = measured(FRONT, Soups(), straight(FRONT), objectives=held)
    rows = {o.trial: o.values_K for o in FRONT}
    values = [sum(share * rows[t][0] for t, share in shares.items()) for shares in found]
    missed = [value < 0.5 for value in values]
    assert any(missed)
    assert not all(missed)
    assert missed == sorted(missed)


def test_where_the_path_bends_the_emptier_side_comes_next():
    def bent(shares: Mapping[int, float]) -> tuple[tuple[float, ...], bool]:
        share = shares.get(0, 0.0) ** 3  # most of the path looks like trial 1
        return (0.1 + 0.8 * share, 8.0 - 7.0 * share), True

    found = measured(ENDS, Soups(), bent)
    assert found == [{0: 0.5, 1: 0.5}, {0: 0.75, 1: 0.25}, {0: 0.25, 1: 0.75}]
    other = measured(ENDS, Soups(), lambda s: ((0.9 - 0.8 * s[1] ** 3, 1 + 7 * s[1] ** 3), True))
    assert other == [{0: 0.5, 1: 0.5}, {0: 0.25, 1: 0.75}, {0: 0.75, 1: 0.25}]


def test_three_corners_give_thirteen_soups():
    known = {"space": SPACE3, "objectives": THREE}
    found = measured(corners(), Soups(), straight(corners()), **known)
    assert len(found) == 13
    assert len({tuple(sorted(s.items())) for s in found}) == 13
    assert {0: 1 / 3, 1: 1 / 3, 2: 1 / 3} in found
    assert sum(len(shares) == 3 for shares in found) == 4
    assert all(sum(shares.values()) == pytest.approx(1.0) for shares in found)


def test_only_neighbours_are_mixed():
    found = measured(FRONT, Soups(), straight(FRONT))
    assert {tuple(shares) for shares in found} == {(0, 2), (2, 3), (1, 3)}


def test_only_what_was_trained_and_is_kept_on_the_front_is_mixed():
    others = [
        seen(4, (0.2, 2.0), 0.5),  # dominated
        seen(5, (0.95, 0.1), 0.5, kept=False),
        soup(6, (0.6, 4.0), {(0, STEPS): 0.625, (1, STEPS): 0.375}),
    ]
    found = measured([*ENDS, *others], Soups(), straight(ENDS))
    assert {tuple(shares) for shares in found} == {(0, 1)}
    warmed = [ENDS[0], warm(1, (0.1, 8.0), (0, STEPS))]
    (proposal,) = Soups().propose(history(warmed), 1, 0)
    assert proposal.start.points == ((0, STEPS), (1, 12)), "it was trained, if not from scratch"


def test_a_soup_stands_in_for_a_policy_that_it_pushed_off_the_front():
    gone = seen(0, (0.9, 1.0), 0.9, kept=False)
    better = soup(2, (0.9, 2.0), {(0, STEPS): 0.75, (1, STEPS): 0.25})
    told = [gone, ENDS[1], better]
    halves = Soups(divisions=2)
    (proposal,) = halves.propose(history(told), 1, 0)
    assert dict(zip(proposal.start.points, proposal.start.shares, strict=True)) == {
        (1, STEPS): 0.5,
        (2, 0): 0.5,
    }
    told.append(soup(3, (0.5, 5.0), {(1, STEPS): 0.5, (2, 0): 0.5}))
    assert not halves.propose(history(told), 1, 0), "a soup of soups is not mixed once more"


def test_the_same_soup_mixed_in_another_way_is_not_tried_again():
    gone = seen(0, (0.9, 1.0), 0.9, kept=False)
    told = [
        gone,
        ENDS[1],
        soup(2, (0.9, 2.0), {(0, STEPS): 0.75, (1, STEPS): 0.25}),
        soup(3, (0.2, 2.0), {(0, STEPS): 0.375, (1, STEPS): 0.625}, kept=False),
    ]
    assert not Soups(divisions=2).propose(history(told), 1, 0)


def test_what_was_tried_is_not_tried_again():
    half = Proposal(params(0.5), Start(((1, STEPS), (0, STEPS)), (0.5, 0.5)), 0)
    for how in ("pending", "failed"):
        (proposal,) = Soups().propose(history(ENDS, **{how: {2: half}}), 1, 0)
        assert mixed(proposal) in ({0: 0.25, 1: 0.75}, {0: 0.75, 1: 0.25})
    four = Soups().propose(history(ENDS), 4, 0)
    assert [mixed(p)[0] for p in four[:1]] == [0.5]
    assert sorted(mixed(p)[0] for p in four) == [0.25, 0.5, 0.75]


def test_most_soups():
    assert len(measured(FRONT, Soups(count=4), straight(FRONT))) == 4
    assert len(Soups(count=4).propose(history(FRONT), 9, 0)) == 4
    assert len(measured(ENDS, Soups(divisions=8), straight(ENDS))) == 7


def test_nothing_to_mix():
    alone = [seen(0, (0.5, 5.0)), seen(1, (0.2, 2.0))]
    nothing = [[], [ENDS[0]], alone, [seen(0, (0.5, 5.0), condition=c) for c in (None, {"a": 1})]]
    for observations in nothing:
        assert Soups().propose(history(observations), 3, 0) == []


def test_one_policy_under_several_conditions_is_one_policy():
    one = [
        seen(0, values, condition=condition)
        for values, condition in (
            ((0.9, 1.0), {"a": 1.0, "b": 0.0}),
            ((0.1, 9.0), {"a": 0.0, "b": 1.0}),
        )
    ]
    assert Soups().propose(history(one), 1, 0) == []
    other = seen(1, (0.5, 6.0), condition={"a": 0.5, "b": 0.5})
    found = measured([*one, other], Soups(), lambda s: ((0.0, 0.0), False))
    assert {tuple(shares) for shares in found} == {(0, 1)}
    assert len(found) == 3, "a soup is measured under every condition at once"


def test_a_soup_stands_in_the_space_and_says_where_it_comes_from():
    far = [ENDS[0], seen(1, (0.1, 8.0), params=params(0.1, 5e-3))]
    (half,) = Soups().propose(history(far), 1, 0)
    assert half.params[PATH] == pytest.approx({"a": 0.5, "b": 0.5})
    assert half.params[RATE] == 1e-3
    assert half.start == Start(((0, STEPS), (1, STEPS)), (0.5, 0.5))
    assert half.reason == (
        "mixes 1/2 t00 and 1/2 t01, 0.532 from whatever is measured if the path is straight"
    )


# --- answering a preference --------------------------------------------------------------------

TRAINED = [
    seen(0, (0.9, 1.0), 0.9),
    seen(1, (0.1, 9.0), 0.1),
    seen(2, (0.7, 5.0), 0.7),
    seen(3, (0.3, 8.0), 0.3),
]


def test_a_preference_is_answered_from_the_three_that_are_worth_most_to_it():
    strategy = Soups(preference={"a": 3, "b": 1})
    found = measured(TRAINED, strategy, lambda s: ((0.0, 0.0), False))
    assert len(found) == 13
    assert set(itertools.chain(*found)) == {0, 2, 3}, "worth .70, .65 and .425; the other .30"
    assert max(map(len, found)) == 3
    # Evenly at first, the pair that is worth most before the others; then nearer to the best.
    assert found[:4] == [
        {0: 0.5, 2: 0.5},
        {0: 0.5, 3: 0.5},
        {2: 0.5, 3: 0.5},
        {0: 1 / 3, 2: 1 / 3, 3: 1 / 3},
    ]
    assert found[4] == {0: 0.75, 2: 0.25}


def test_a_preference_is_answered_within_the_thresholds_first():
    held = (replace(OBJECTIVES[0], at_least=0.5), OBJECTIVES[1])
    found = measured(
        TRAINED, Soups(preference={"b": 1}), lambda s: ((0.0, 0.0), False), objectives=held
    )
    assert set(itertools.chain(*found)) == {0, 1, 2}, "of those that miss it only the best, 1"
    rows = {o.trial: o.values_K for o in TRAINED}
    missed = [sum(share * rows[t][0] for t, share in shares.items()) < 0.5 for shares in found]
    assert any(missed)
    assert missed == sorted(missed)


def test_fewer_than_three_will_do():
    found = measured(ENDS, Soups(preference={"a": 1}), straight(ENDS))
    assert sorted(shares[0] for shares in found) == [0.25, 0.5, 0.75]
    assert Soups(preference={"a": 1}).propose(history(ENDS[:1]), 1, 0) == []


def test_soups_of_other_policies_do_not_count_against_a_preference():
    before = [soup(4 + n, (0.0, 0.0), {(0, STEPS): s, (1, STEPS): 1 - s}, kept=False)
              for n, s in enumerate((0.25, 0.5, 0.75))]  # fmt: skip
    told = [*TRAINED, *before]
    a, both = Soups(count=2, preference={"a": 3, "b": 1}), Soups(count=2)
    assert len(measured(told, a, lambda s: ((0.0, 0.0), False))) == 2
    assert both.propose(history(told), 1, 0) == []


def test_a_preference_off_the_front_is_refused():
    with pytest.raises(OptionError, match="`preference` names 'd', which is not on the front; "):
        Soups(preference={"a": 1, "d": 1}).check(history([]))
    Soups(preference={"a": 1}).check(history([]))


# --- within a search ---------------------------------------------------------------------------


def test_every_so_many_trials_one_is_a_soup():
    strategy = Soups(strategy=Random(), every=4)
    found = strategy.propose(history(FRONT), 8, 0)
    # Four trials were made; numbers 7 and 11 are the soups' turns.
    assert [p.steps == 0 for p in found] == [False] * 3 + [True] + [False] * 3 + [True]
    plain = [p.params for p in found if p.steps is None]
    assert len({repr(p) for p in plain}) == 6


def test_without_anything_to_mix_the_other_strategy_has_the_turn():
    strategy = Soups(strategy=Random(), every=2)
    assert all(p.steps is None for p in strategy.propose(history([FRONT[0]]), 4, 0))


def test_a_grid_misses_nothing_and_soups_follow_when_it_ends():
    space = {PATH: Simplex(("a", "b"))}
    strategy, whole = Soups(strategy=Grid(divisions=6), every=3), Grid(divisions=6)
    known = history(ENDS, space=space)
    found = strategy.propose(known, 40, 0)
    trained = [p for p in found if p.steps is None]
    wanted = whole.propose(known, 9, 0)
    assert [p.params for p in trained] == [p.params for p in wanted]
    assert sum(p.steps == 0 for p in found) == 3
    assert not Soups(strategy=Grid()).corners_first
    assert Soups().corners_first


def test_without_weights_to_train_for_there_would_be_one_policy(tmp_path):
    """Refused within a search; a run that is there may have policies all the same."""
    space = {RATE: quick_study().space[RATE]}
    refusal = (
        r"and the space has none; found training\.learning_rate\. Add `weighting\.preference: "
    )
    with pytest.raises(OptionError, match=refusal):
        Soups().check(history([], space=space))
    Soups(strategy=Random()).check(history([], space=space))
    given = "search.space={training.learning_rate: {low: 1.0e-4, high: 1.0e-3}}"
    with pytest.raises(OptionError, match="strategy soups without a `strategy`"):
        quick_run(tmp_path / "mine", study=study("soups", given))
    added = Soups()
    added.corners_first = False
    added.check(history([], space=space))


def test_check_asks_the_other_strategy():
    with pytest.raises(OptionError, match="strategy grid: the space has"):
        Soups(strategy=Grid(points=10_000, divisions=100)).check(history([]))


@pytest.mark.parametrize("check", PROPERTIES, ids=lambda check: check.__name__)
def test_contract(check):
    check(lambda: Soups(strategy=Random(), every=2))


# --- in a study --------------------------------------------------------------------------------


def study(strategy: str, *overrides: str):
    return quick_study(f"search.strategy={strategy}", "search.rungs=[]", *overrides)


def test_corners_and_soups_of_them(tmp_path):
    run = quick_run(tmp_path / "mine", study=study("soups", "search.trials=12")).run
    assert len(run.trials) == 9, "two near-corners, the centre, and six soups between them"
    soups = [t for t in run.trials.values() if t.total == 0]
    assert [t.outcome for t in soups] == ["finished"] * 6
    assert all(t.proposal.reason.startswith("mixes ") for t in soups)
    assert all(run.folder.policy(o.trial, o.step).is_dir() for o in run.front())
    assert {(o.trial, o.step) for o in run.front()} <= set(run.tests)


@pytest.mark.parametrize("order", ["logical", "arrival"])
def test_with_a_worker_for_every_corner_soups_wait_for_what_they_are_made_of(tmp_path, order):
    """None can be proposed while the corners are under way, and that is not the end."""
    given = study("soups", "search.trials=12", f"search.order={order}")
    run = quick_run(tmp_path / "mine", study=given, executor=Workers(4)).run
    totals = [t.total for t in run.trials.values()]
    assert totals[:4] == [6, 6, 6, 0]
    assert len(totals) >= 9, "at least those that one worker finds"
    assert not any(totals[3:])


def test_soups_and_continuation_within_a_search(tmp_path):
    both = "{soups: {strategy: {continuation: {strategy: random, steps: 3, after: 3}}, every: 3}}"
    whole = quick_run(tmp_path / "whole", study=study(both, "search.trials=12")).run
    kinds = [(t.total, t.proposal.start.scratch) for t in whole.trials.values()]
    assert (0, False) in kinds
    assert (3, False) in kinds

    def stops(task, emit, cache):
        if task.trial == 7:
            raise KeyboardInterrupt
        quick.quick_segment(task, emit, cache)

    quick_run(tmp_path / "mine", study=study(both, "search.trials=12"), segment=stops)
    resumed = quick_run(tmp_path / "mine", study=study(both, "search.trials=12"))
    assert archive(resumed.run)["trials"] == archive(whole)["trials"]


class Workers(Local):
    """Several workers as far as the driver can tell."""

    name = "workers"

    def __init__(self, workers):
        super().__init__()
        self.workers = workers


def test_added_to_a_finished_run_they_know_all_of_it(tmp_path):
    """With several workers a proposal does not know the latest trials; these have long ended."""
    seen_by: list[History] = []

    class Noted(Soups):
        name = "noted"
        corners_first = False

        def propose(self, history, n, seed):
            seen_by.append(history)
            return super().propose(history, n, seed)

    plain = study("random", "search.trials=4")
    quick_run(tmp_path / "mine", study=plain, executor=Workers(2))
    more = quick_run(
        tmp_path / "mine", study=plain, executor=Workers(2), trials=7, strategy=Noted()
    )
    assert {o.trial for o in seen_by[0].observations} == {0, 1, 2, 3}
    assert seen_by[0].pending == {}
    assert [t.total for t in more.run.trials.values()] == [6] * 4 + [0] * 3
    assert len({t.proposal.start for t in more.run.trials.values()}) == 4
