"""What stopped trials count as, for samplers that know full trials only."""

from __future__ import annotations

import math

import pytest
from histories import history, params, seen, soup, warm

from moalign.strategies.stopped import at_full_length
from moalign.types import Proposal
from moalign_plugins.strategies.gp import GaussianProcess
from moalign_plugins.strategies.nsga2 import Nsga2
from moalign_plugins.strategies.nsga3 import Nsga3
from moalign_plugins.strategies.tpe import ParzenEstimator


def at(step, trial, values, share=0.5, **changes):
    return seen(trial, values, share, step=step, full=False, **changes)


def values(observations):
    return {one.trial: one.values_K for one in at_full_length(history(observations))}


def test_a_stopped_trial_gains_what_is_usual():
    """Three trials gain .1, .2 and .6 in a after step 10; the median is .2, whatever the mean."""
    gains = {0: 0.1, 1: 0.2, 2: 0.6}
    known = [at(10, trial, (0.1, 1.0)) for trial in gains]
    known += [seen(trial, (0.1 + gain, 1.0 - trial)) for trial, gain in gains.items()]
    found = values([*known, at(10, 3, (0.4, 5.0))])
    assert found[3] == pytest.approx((0.6, 4.0))
    assert {trial: found[trial] for trial in gains} == {
        trial: (0.1 + gain, 1.0 - trial) for trial, gain in gains.items()
    }


def test_the_last_measurement_counts_with_the_gains_after_its_own_step():
    known = [at(10, 0, (0.1, 1.0)), at(20, 0, (0.3, 2.0)), seen(0, (0.35, 4.0))]
    found = values([*known, at(10, 1, (0.9, 9.0)), at(20, 1, (0.5, 5.0))])
    assert found[1] == pytest.approx((0.55, 7.0))


def test_without_a_trial_that_went_on_it_counts_as_measured():
    only = seen(0, (0.5, 5.0))
    assert values([only, at(10, 1, (0.2, 2.0))])[1] == (0.2, 2.0)
    unmeasured = [at(10, 0, (math.nan, 1.0)), only]
    assert values([*unmeasured, at(10, 1, (0.2, 2.0))])[1] == (0.2, 6.0)


def test_what_was_not_measured_stays_so():
    known = [at(10, 0, (0.1, 1.0)), seen(0, (0.5, 5.0)), at(10, 1, (math.nan, 2.0))]
    found = values(known)[1]
    assert math.isnan(found[0])
    assert found[1] == 6.0


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
    found = at_full_length(history(known, pending={2: Proposal(params(0.5))}))
    assert [(one.trial, one.values_K) for one in found] == [(0, (0.5, 5.0)), (1, (0.2, 2.0))]
    assert [one.full for one in found] == [True, False]


def test_they_stand_in_the_order_in_which_they_ended():
    known = [at(10, 0, (0.1, 1.0)), at(10, 1, (0.1, 1.0)), at(20, 0, (0.2, 2.0)), seen(2, (1, 1))]
    assert [one.trial for one in at_full_length(history(known))] == [1, 0, 2]


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
    untold = history([*rungs, *full], failed={7: Proposal(params(0.95))})
    assert told != strategy.propose(untold, 1, 3)
