"""What trials count as that were stopped, failed or collapsed, for samplers and models."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from histories import OBJECTIVES, PATH, RATE, history, params, seen, soup, warm

from moalign.strategies.results import floors, results, worst
from moalign.types import Choice, IntRange, Proposal, Start
from moalign_plugins.strategies.botorch import BoTorch
from moalign_plugins.strategies.gp import GaussianProcess
from moalign_plugins.strategies.nsga2 import Nsga2
from moalign_plugins.strategies.nsga3 import Nsga3
from moalign_plugins.strategies.tpe import ParzenEstimator


def at(step, trial, values, share=0.5, **changes):
    return seen(trial, values, share, step=step, full=False, **changes)


def values(observations, **options):
    """Return results by trial, in units of the bounds, which are [0, 1] for a and [0, 10] for b."""
    return {one.trial: one.values_K for one in results(history(observations, **options))}


def test_a_stopped_trial_gains_what_is_usual():
    """Three trials gain .1, .2 and .6 in a after step 10; the median is .2, whatever the mean."""
    gains = {0: 0.1, 1: 0.2, 2: 0.6}
    known = [at(10, trial, (0.1, 5.0)) for trial in gains]
    known += [seen(trial, (0.1 + gain, 5.0 - trial)) for trial, gain in gains.items()]
    found = values([*known, at(10, 3, (0.4, 7.0))])
    assert found[3] == pytest.approx((0.6, 0.6))
    for trial, gain in gains.items():
        assert found[trial] == pytest.approx((0.1 + gain, 0.5 - trial / 10))


def test_the_last_measurement_counts_with_the_gains_after_its_own_step():
    known = [at(10, 0, (0.1, 1.0)), at(20, 0, (0.3, 2.0)), seen(0, (0.35, 4.0))]
    found = values([*known, at(10, 1, (0.9, 9.0)), at(20, 1, (0.5, 5.0))])
    assert found[1] == pytest.approx((0.55, 0.7))


def test_nothing_is_foreseen_above_the_upper_bound():
    known = [at(10, 0, (0.1, 1.0)), seen(0, (0.6, 9.0))]
    assert values([*known, at(10, 1, (0.7, 11.0))])[1] == pytest.approx((1.0, 1.1))


def test_without_a_trial_that_went_on_it_counts_as_measured():
    only = seen(0, (0.5, 5.0))
    assert values([only, at(10, 1, (0.2, 2.0))])[1] == (0.2, 0.2)
    unmeasured = [at(10, 0, (math.nan, 1.0)), only]
    assert values([*unmeasured, at(10, 1, (0.2, 2.0))])[1] == pytest.approx((0.2, 0.6))


def test_what_was_not_measured_stays_so():
    known = [at(10, 0, (0.1, 1.0)), seen(0, (0.5, 5.0)), at(10, 1, (math.nan, 2.0))]
    found = values(known)[1]
    assert math.isnan(found[0])
    assert found[1] == pytest.approx(0.6)


def test_what_failed_is_the_worst_of_the_others_wherever_it_failed():
    """Trial 1 failed at once, trial 2 after a rung at which it was the best of all."""
    rung = at(10, 2, (0.99, 9.9))
    failed = {1: Proposal(params(0.1)), 2: Proposal(params(0.2))}
    known = [seen(0, (0.5, 2.0)), rung, seen(3, (0.3, 6.0))]
    found = results(history(known, failed=failed))
    assert [one.trial for one in found] == [0, 1, 2, 3]
    assert [one.values_K for one in found[1:3]] == [(0.3, 0.2)] * 2
    assert found[1].params == params(0.1)
    assert values([], failed=failed) == {}, "there is nothing yet to be as bad as"


def test_what_failed_after_it_began_elsewhere_says_nothing():
    start = Start(((0, 40),), (1.0,))
    failed = {1: Proposal(params(0.1), start, 12), 2: Proposal(params(0.2), start, 0)}
    assert list(values([seen(0, (0.5, 2.0))], failed=failed)) == [0]


def test_outliers_below_the_reference_count_as_the_fence():
    (a, _), rows = OBJECTIVES, [(value,) for value in (0.5, 0.7, -20.0, 0.6, 0.8)]
    assert floors(rows, [a]) == (0.0,), "the lower bound, below the fence at .2"
    assert floors(rows, [replace(a, reference=0.4)]) == pytest.approx((0.2,))
    assert floors(rows, [replace(a, reference=0.4, at_least=0.1)]) == (0.1,)
    far = [(value,) for value in (-2.5, -2.3, -50.0, -2.4, -2.2)]
    assert floors(far, [a]) == pytest.approx((-2.8,))
    spread = [(-20.0 * n,) for n in range(8)]
    assert floors(spread, [a])[0] < -140.0, "there is no outlier"
    assert floors([*rows[:3], (math.nan,)], [a]) == (-math.inf,)


def test_the_worst_is_that_of_each_objective():
    assert worst([(0.5, 0.2), (-20.0, 0.6), (0.6, math.nan)]) == (-20.0, 0.2)
    assert worst([(0.5, math.nan)]) is None
    assert worst([]) is None


def test_only_trials_from_scratch_that_have_ended_count():
    """Not one that runs, nor warm starts, soups, the base policy or further conditions."""
    known = [
        seen(0, (0.5, 5.0)),
        seen(0, (0.9, 9.0), condition={"a": 1.0, "b": 0.0}),
        at(10, 1, (0.2, 2.0)),
        at(10, 1, (0.8, 8.0), condition={"a": 1.0, "b": 0.0}),
        at(10, 2, (0.3, 3.0)),
        warm(3, (0.6, 6.0), (0, 40)),
        warm(4, (0.6, 6.0), (0, 40), steps=6, full=False),
        soup(5, (0.6, 6.0), {(0, 40): 1.0}),
        at(0, 6, (0.1, 1.0)),
    ]
    found = results(history(known, pending={2: Proposal(params(0.5))}))
    assert [(one.trial, one.values_K) for one in found] == [(0, (0.5, 0.5)), (1, (0.2, 0.2))]


def test_they_stand_in_the_order_in_which_they_ended():
    known = [at(10, 0, (0.1, 1.0)), at(10, 1, (0.1, 1.0)), at(20, 0, (0.2, 2.0)), seen(2, (1, 1))]
    assert [one.trial for one in results(history(known))] == [1, 0, 2]


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(GaussianProcess(startup=4), id="gp"),
        pytest.param(ParzenEstimator(startup=4), id="tpe"),
        pytest.param(Nsga2(population=4), id="nsga2"),
        pytest.param(Nsga3(population=4), id="nsga3"),
    ],
)
def test_samplers_of_optuna_are_told_of_stopped_trials(strategy):
    """What was stopped counts like a trial that came to as much, and not like none."""
    full = [seen(n, (0.1 * n, 9.0 - n), 0.1 + 0.1 * n) for n in range(7)]
    rungs = [at(10, n, (0.1 * n, 8.0 - n), 0.1 + 0.1 * n) for n in range(7)]
    stopped, as_if = at(10, 7, (0.9, 8.0), 0.95), seen(7, (0.9, 9.0), 0.95)
    told = strategy.propose(history([*rungs, *full, stopped]), 1, 3)
    assert told == strategy.propose(history([*rungs, *full, as_if]), 1, 3)
    untold = [*rungs, *full]
    assert told != strategy.propose(history([*untold, seen(7, (0.0, 0.0), 0.95)]), 1, 3)
    failed = strategy.propose(history(untold, failed={7: Proposal(params(0.95))}), 1, 3)
    assert failed == strategy.propose(history([*untold, seen(7, (0.0, 3.0), 0.95)]), 1, 3)


@pytest.mark.parametrize(
    ("strategy", "trials"),
    [
        pytest.param(BoTorch(startup=4), 12, id="botorch"),
        pytest.param(ParzenEstimator(startup=4), 24, id="tpe"),
    ],
)
def test_where_trials_fail_no_more_are_sent(strategy, trials):
    """Quality rises with the rate, and above 2e-3 every trial fails: 35 % of the space."""
    observations, failed = [], {}
    for trial in range(trials):
        known = history(observations, failed=failed)
        (proposal,) = strategy.propose(known, 1, trial)
        share, rate = proposal.params[PATH]["a"], proposal.params[RATE]
        skill = 0.5 + 0.25 * math.log10(rate / 1e-4)
        if rate > 2e-3:
            failed[trial] = proposal
        else:
            values = (skill * share**0.5, 10 * skill * (1 - share) ** 0.5)
            observations.append(seen(trial, values, params=proposal.params))
    late = [number for number in failed if number >= trials // 2]
    assert len(late) <= trials // 8


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(GaussianProcess(startup=4), id="gp"),
        pytest.param(ParzenEstimator(startup=4), id="tpe"),
    ],
)
def test_nothing_is_tried_twice_as_long_as_something_is_left(strategy):
    space = {"kind": Choice(("x", "y", "z")), "n": IntRange(1, 3)}
    observations = []
    for trial in range(10):
        known = history(observations, space=space)
        (proposal,) = strategy.propose(known, 1, trial)
        worth = proposal.params["n"] / 4
        observations.append(seen(trial, (worth, 10 * worth), params=proposal.params))
    tried = [tuple(one.params.values()) for one in observations]
    assert len(set(tried[:9])) == 9
    assert tried[9] in tried[:9], "there is nothing else left"
