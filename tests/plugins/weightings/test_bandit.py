"""Exponential weights over gains: closed forms, forgetting, units, limits."""

from __future__ import annotations

import math

import pytest
import torch
from weighting_properties import (
    DUPLICATE_SHARES,
    FINITE,
    FROZEN,
    LEAVES_NAN_ALONE,
    ONE_OBJECTIVE,
    PERMUTES,
    RESUMES,
    SCALE_FREE,
    SCORE_SCALE_FREE,
    SHIFT_FREE,
    SIMPLEX,
    UNIT_FREE,
    claims,
)

from moalign.errors import OptionError
from moalign.maths.simplex import softmax
from moalign.testing.steps import make_objectives, make_step
from moalign_plugins.weightings.bandit import Bandit

test_properties = claims(
    Bandit,
    FINITE,
    SIMPLEX,
    PERMUTES,
    RESUMES,
    ONE_OBJECTIVE,
    SCALE_FREE,
    SCORE_SCALE_FREE,
    SHIFT_FREE,
    UNIT_FREE,
    LEAVES_NAN_ALONE,
    DUPLICATE_SHARES,
    FROZEN(lambda: Bandit(rate=0.0)),
)


def batch(*means, deviation=0.1, **options):
    """A step in which every objective has this mean and this deviation."""
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])
    scores = torch.stack([mean + deviation * signs for mean in means], -1)[None]
    return make_step(scores, **options)


def run(weighting, *points, **options):
    for point in points:
        found = weighting.weigh(batch(*point, **options))
    return found


def test_the_first_step_is_the_preference():
    found = run(Bandit(), (0.9, 0.1), preference={"a": 3, "b": 1})
    assert found.values.tolist() == [0.75, 0.25]
    assert found.metrics == {"gain/a": 0.0, "gain/b": 0.0}


def test_gains_are_in_deviations_over_the_running_level():
    weighting = Bandit(rate=1.0, memory=0.5, smoothing=0.5, floor=1e-3)
    found = run(weighting, (0.5, 0.5), (0.55, 0.48))
    assert found.metrics == pytest.approx({"gain/a": 0.5, "gain/b": -0.2}, rel=1e-5)
    assert found.values.tolist() == pytest.approx(softmax([0.5, -0.2]), abs=1e-5)
    # Levels are now .525 and .49; the first gains count half.
    found = run(weighting, (0.55, 0.49))
    assert found.metrics == pytest.approx({"gain/a": 0.25, "gain/b": 0.0}, abs=1e-5)
    assert found.values.tolist() == pytest.approx(softmax([0.5, -0.1]), abs=1e-5)


def test_a_gain_is_measured_by_the_deviation_with_this_batch():
    weighting = Bandit(smoothing=0.5)
    run(weighting, (0.5, 0.5), deviation=0.1)
    found = run(weighting, (0.55, 0.5), deviation=0.4)
    assert found.metrics["gain/a"] == pytest.approx(0.05 / 0.25, rel=1e-5)


def test_one_gain_counts_at_most_a_deviation():
    found = run(Bandit(rate=1.0, floor=1e-3), (0.2, 0.5), (0.9, 0.5))
    assert found.metrics["gain/a"] == pytest.approx(1.0)


def test_weights_return_to_the_preference_when_gains_fade():
    weighting, preference = Bandit(), {"a": 3, "b": 1}
    found = run(weighting, *[(0.1 + 0.02 * t, 0.5) for t in range(20)], preference=preference)
    assert found.values[0] > 0.85
    found = run(weighting, *[(0.5, 0.5)] * 100, preference=preference)
    assert found.values.tolist() == pytest.approx([0.75, 0.25], abs=1e-3)


def test_remembering_everything_it_is_hedge():
    weighting = Bandit(rate=0.7, memory=1.0, floor=1e-6)
    totals = {"a": 0.0, "b": 0.0}
    for t in range(10):
        found = run(weighting, (0.3 + 0.01 * t, 0.6 - 0.005 * t))
        for name in totals:
            totals[name] += found.metrics[f"gain/{name}"]
    assert found.values.tolist() == pytest.approx(softmax([0.7 * totals["a"], 0.7 * totals["b"]]))


def test_nothing_is_lost_for_good():
    weighting = Bandit(rate=50.0, floor=0.1)
    found = run(weighting, (0.5, 0.5), (0.9, 0.1), preference={"a": 1, "b": 0})
    assert found.values.tolist() == pytest.approx([0.9, 0.1])


def test_scores_that_do_not_vary_or_do_not_apply_gain_nothing():
    weighting = Bandit()
    run(weighting, (0.3, 0.5), deviation=0.0)
    assert run(weighting, (0.3, 0.5), deviation=0.0).metrics["gain/a"] == 0.0
    assert run(weighting, (math.nan, 0.5)).metrics["gain/a"] == 0.0
    # From one constant to another: as much as can be gained at once.
    assert run(weighting, (0.4, 0.5), deviation=0.0).metrics["gain/a"] == 1.0


def test_mistakes_are_sentences():
    with pytest.raises(OptionError, match=r"`floor` must be below 1 / 3, as there are 3") as caught:
        Bandit(floor=0.4).check(make_objectives("a", "b", "c"))
    assert caught.value.option == "floor"
