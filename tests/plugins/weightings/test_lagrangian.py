"""Multipliers: published numbers, closed-form solutions, limits, and mistakes as sentences."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from weighting_properties import (
    DUPLICATE_SHARES,
    FINITE,
    LEAVES_NAN_ALONE,
    ONE_OBJECTIVE,
    PERMUTES,
    RESUMES,
    SCALE_FREE,
    SIMPLEX,
    UNIT_FREE,
    claims,
)

from moalign.errors import OptionError
from moalign.testing.steps import make_objectives, make_step
from moalign_plugins.weightings.lagrangian import Lagrangian

NAN = float("nan")
HOLD = {"learning_rate": 0.0}


def step_of(means, **at_least):
    """A step whose scores are these means, by name, with the given thresholds."""
    objectives = make_objectives(*means, at_least=at_least)
    scores = torch.tensor([list(means.values())])[:, None].expand(1, 2, len(means))
    return make_step(scores.clone(), objectives=objectives)


def mixed(weights) -> list[float]:
    """The coefficients of the advantages in the loss."""
    return (weights.gain * weights.values).tolist()


def test_squashed_weights_sum_to_the_number_of_constraints():
    weighting = Lagrangian(primary="a", initial={"b": 0.8, "c": 0.1}, **HOLD)
    found = weighting.weigh(step_of({"a": 0.5, "b": 0.5, "c": 0.5}, b=0.1, c=0.9))
    assert mixed(found) == pytest.approx([1.1, 0.8, 0.1])
    assert float(found.values.sum()) == pytest.approx(1)
    assert found.values.min() >= 0
    assert found.gain == 2.0


def test_squashed_step_by_hand():
    # u0 = 0; u1 = -.1 * .25 * (.2 - .6) = .01; then v = .1 v + slope * d.
    weighting = Lagrangian(primary="a")
    found = weighting.weigh(step_of({"a": 0.5, "b": 0.2}, b=0.6))
    first = 1 / (1 + math.exp(-0.01))
    assert found.metrics["multiplier/b"] == pytest.approx(first)
    assert found.metrics["violation/b"] == pytest.approx(0.4)
    found = weighting.weigh(step_of({"a": 0.5, "b": 0.7}, b=0.6))
    velocity = 0.1 * (0.25 * -0.4) + first * (1 - first) * 0.1
    second = 1 / (1 + math.exp(-(0.01 - 0.1 * velocity)))
    assert found.metrics["multiplier/b"] == pytest.approx(second)


def test_log_multiplier_golden_values():
    # Cost above its limit by .5, .5, then below by .5: 1 -> 1.05127 -> 1.10801 -> 1.04829.
    weighting = Lagrangian(primary="a", multiplier="log", momentum=0.0)
    for score, expected in ((0.0, 1.05127), (0.0, 1.10801), (1.0, 1.04829)):
        found = weighting.weigh(step_of({"a": 0.5, "b": score}, b=0.5))
        assert found.metrics["multiplier/b"] == pytest.approx(expected, abs=1e-5)
        total = 1 + expected
        assert mixed(found) == pytest.approx([1 / total, expected / total], abs=1e-5)


def test_projected_multiplier_by_hand():
    weighting = Lagrangian(primary="a", multiplier="projected", learning_rate=0.01, momentum=0.0)
    for score, expected in ((0.4, 0.005), (0.0, 0.014), (1.0, 0.013), (3.0, 0.0)):
        found = weighting.weigh(step_of({"a": 0.5, "b": score}, b=0.9))
        assert found.metrics["multiplier/b"] == pytest.approx(expected)
    assert mixed(found) == [1.0, 0.0]


def climb(weighting, at_least=None, *, steps=4000, rate=0.05, start=0.0):
    """Follow the mixed gradient of v_0 = -x^2 / 2 and v_1 = x; return the last x and multiplier."""
    thresholds = {} if at_least is None else {"b": at_least}
    objectives = make_objectives("a", "b", at_least=thresholds)
    x = start
    for _ in range(steps):
        scores = torch.tensor([-x * x / 2, x]).expand(1, 1, 2)
        advantages = torch.zeros(1, 1, 2)
        found = weighting.weigh(make_step(scores, objectives=objectives, advantages_BTK=advantages))
        primary, other = mixed(found)
        x += rate * (primary * -x + other)
    return x, found.metrics["multiplier/b"]


@pytest.mark.parametrize("target", [0.5, -0.3])
def test_equal_meets_its_target_from_both_sides(target):
    x, c = climb(Lagrangian(primary="a", equal={"b": target}, learning_rate=0.3))
    assert x == pytest.approx(target, abs=1e-3)
    assert c == pytest.approx(target / (1 + target), abs=1e-3)


def test_threshold_that_binds_is_met_exactly():
    x, c = climb(Lagrangian(primary="a", learning_rate=0.5), at_least=0.5)
    assert x == pytest.approx(0.5, abs=1e-3)
    assert c == pytest.approx(1 / 3, abs=1e-3)


def test_threshold_that_holds_anyway_loses_its_weight():
    x, c = climb(Lagrangian(primary="a", learning_rate=20.0), at_least=-0.3)
    assert x == pytest.approx(0.0, abs=5e-3)
    assert c == pytest.approx(1e-3)


@pytest.mark.parametrize("multiplier", ["log", "projected"])
def test_the_safe_toy_finds_its_multiplier(multiplier):
    # max -(x - 1)^2 / 2 subject to a cost x <= .4: x = .4, multiplier .6.
    objectives = make_objectives("a", "b", at_least={"b": -0.4})
    weighting = Lagrangian(primary="a", multiplier=multiplier, momentum=0.0)
    x = 0.0
    for _ in range(4000):
        scores = torch.tensor([-((x - 1) ** 2) / 2, -x]).expand(1, 1, 2)
        advantages = torch.zeros(1, 1, 2)
        found = weighting.weigh(make_step(scores, objectives=objectives, advantages_BTK=advantages))
        primary, other = mixed(found)
        x += 0.05 * (primary * (1 - x) - other)
    assert x == pytest.approx(0.4, abs=1e-3)
    assert found.metrics["multiplier/b"] == pytest.approx(0.6, abs=2e-3)


def test_satisfied_thresholds_lose_weight_at_every_step():
    weighting = Lagrangian(primary="a")
    previous = math.inf
    for _ in range(50):
        found = weighting.weigh(step_of({"a": 0.5, "b": 0.9, "c": 0.6}, b=0.5, c=0.5))
        current = found.metrics["multiplier/b"] + found.metrics["multiplier/c"]
        assert current < previous
        previous = current


@pytest.mark.parametrize("multiplier", ["squashed", "log", "projected"])
def test_learning_rate_zero_keeps_the_initial_multipliers(multiplier):
    weighting = Lagrangian(primary="a", multiplier=multiplier, **HOLD)
    expected = {"squashed": 0.5, "log": 1.0, "projected": 0.0}[multiplier]
    for _ in range(3):
        found = weighting.weigh(step_of({"a": 0.5, "b": 0.1}, b=0.9))
        assert found.metrics["multiplier/b"] == pytest.approx(expected)


def test_without_constraints_only_the_primary_objective_is_left():
    found = Lagrangian(primary="a").weigh(step_of({"a": 0.3}))
    assert found.values.tolist() == [1.0]
    assert found.gain == 1.0


@pytest.mark.parametrize("multiplier", ["squashed", "log", "projected"])
def test_a_threshold_out_of_reach_saturates_and_says_so(multiplier):
    rate = 5.0 if multiplier == "squashed" else 0.5
    weighting = Lagrangian(primary="a", multiplier=multiplier, learning_rate=rate)
    counts = []
    for _ in range(400):
        found = weighting.weigh(step_of({"a": 0.5, "b": 0.0}, b=1.0))
        counts.append(found.metrics["saturated/b"])
    assert counts[0] == 0
    assert counts[-1] > 100
    assert counts[-1] == counts[-2] + 1
    assert found.metrics["multiplier/b"] == pytest.approx(
        {"squashed": 0.999, "log": 5.0, "projected": 5.0}[multiplier]
    )
    # It comes back: no end is absorbing.
    for _ in range(4000):
        found = weighting.weigh(step_of({"a": 0.5, "b": 1.0}, b=0.0))
    assert found.metrics["multiplier/b"] < 0.5
    assert found.metrics["saturated/b"] == 0


def test_log_multipliers_keep_to_their_floor():
    weighting = Lagrangian(
        primary="a", multiplier="log", learning_rate=5.0, floor=0.01, maximum=2.0
    )
    for score, expected in ((1.0, 0.01), (0.0, 2.0)):
        for _ in range(500):
            found = weighting.weigh(step_of({"a": 0.5, "b": score}, b=0.5))
        assert found.metrics["multiplier/b"] == pytest.approx(expected)


def test_signed_multipliers_push_down():
    for multiplier in ("squashed", "projected"):
        weighting = Lagrangian(primary="a", multiplier=multiplier, equal={"b": 0.2})
        for _ in range(20):
            found = weighting.weigh(step_of({"a": 0.5, "b": 0.9}))
        assert found.values[1] < 0 < found.values[0]
        assert found.values.abs().sum() == pytest.approx(
            1 if multiplier == "projected" else float(found.values[0] - found.values[1])
        )


def test_it_declares_what_it_returns():
    assert Lagrangian(primary="a").declares == frozenset()
    assert Lagrangian(primary="a", multiplier="log").declares == frozenset()
    assert Lagrangian(primary="a", equal={"b": 0.1}).declares == {"signed"}
    projected = Lagrangian(primary="a", equal={"b": 0.1}, multiplier="projected")
    assert projected.declares == {"signed", "unnormalised"}


def test_violations_are_in_units_of_the_bounds():
    small = step_of({"a": 0.5, "b": 0.2}, b=0.6)
    raw = [dataclasses.replace(o, bounds=(0.0, 50.0)) for o in small.objectives]
    raw[1] = dataclasses.replace(raw[1], at_least=30.0)
    large = make_step(small.scores_PGK * 50, objectives=raw)
    found = [Lagrangian(primary="a").weigh(step) for step in (small, large)]
    torch.testing.assert_close(found[0].values, found[1].values)
    assert found[1].metrics["violation/b"] == pytest.approx(20.0)
    bare = [dataclasses.replace(o, bounds=None) for o in raw]
    unbounded = Lagrangian(primary="a").weigh(make_step(large.scores_PGK, objectives=bare))
    assert unbounded.metrics["multiplier/b"] == pytest.approx(1 / (1 + math.exp(-0.5)))


def test_a_batch_without_the_objective_moves_nothing():
    weighting = Lagrangian(primary="a")
    before = weighting.weigh(step_of({"a": 0.5, "b": 0.2}, b=0.6))
    found = weighting.weigh(step_of({"a": 0.5, "b": NAN}, b=0.6))
    assert torch.equal(found.values, before.values)
    assert "violation/b" not in found.metrics
    partly = torch.tensor([[[0.5, NAN], [0.5, 0.2]]])
    objectives = make_objectives("a", "b", at_least={"b": 0.6})
    found = Lagrangian(primary="a").weigh(make_step(partly, objectives=objectives))
    assert torch.equal(found.values, before.values)


def test_it_follows_a_permutation_of_the_objectives():
    plain = Lagrangian(primary="b").weigh(step_of({"a": 0.1, "b": 0.2, "c": 0.9}, a=0.5, c=0.2))
    moved = Lagrangian(primary="b").weigh(step_of({"c": 0.9, "a": 0.1, "b": 0.2}, a=0.5, c=0.2))
    torch.testing.assert_close(moved.values, plain.values[[2, 0, 1]])


@pytest.mark.parametrize("multiplier", ["squashed", "log", "projected"])
def test_state_goes_round(multiplier):
    options = {"primary": "a", "multiplier": multiplier, "learning_rate": 2.0}
    weighting, fresh = Lagrangian(**options), Lagrangian(**options)
    for score in (0.0, 0.1, 0.9):
        weighting.weigh(step_of({"a": 0.5, "b": score}, b=0.6))
    fresh.load_state_dict(weighting.state_dict())
    for score in (0.3, 0.7, 0.0, 0.0):
        step = step_of({"a": 0.5, "b": score}, b=0.6)
        before, after = weighting.weigh(step), fresh.weigh(step)
        assert torch.equal(before.values, after.values)
        assert before.metrics == after.metrics


@pytest.mark.parametrize(
    ("options", "option", "sentence"),
    [
        (
            {"primary": "acuracy"},
            "primary",
            "'acuracy', which is not trained on; did you mean 'acc",
        ),
        ({"equal": {"clarty": 0.1}}, "equal", "names 'clarty'; did you mean 'clarity'"),
        ({"equal": {"accuracy": 0.1}}, "equal", "names 'accuracy'; allowed: brevity, clarity"),
        ({"equal": {"clarity": 0.1, "brevity": 0.2}}, "equal", "`at_least: 0.5` as well; give"),
        ({}, None, "objective 'brevity' has no target; give it `at_least`"),
        ({"equal": {"brevity": 0.2}, "initial": {"accuracy": 0.1}}, "initial", "names 'accuracy'"),
        (
            {"equal": {"brevity": 0.2}, "initial": {"clarity": 1.5}},
            "initial",
            r"`initial` of 'clarity' must lie in \[0.001, 0.999\]; found 1.5",
        ),
        (
            {"equal": {"brevity": 0.2}, "initial": {"brevity": -7}, "multiplier": "projected"},
            "initial",
            r"`initial` of 'brevity' must lie in \[-5, 5\]; found -7",
        ),
    ],
)
def test_mistakes_found_with_the_objectives(options, option, sentence):
    objectives = make_objectives("accuracy", "brevity", "clarity", at_least={"clarity": 0.5})
    weighting = Lagrangian(**{"primary": "accuracy", **options})
    with pytest.raises(OptionError, match=sentence) as caught:
        weighting.check(objectives)
    assert caught.value.option == option


@pytest.mark.parametrize(
    ("options", "option", "sentence"),
    [
        ({"maximum": 3.0}, "maximum", "is for multipliers log and projected; squashed end at 1"),
        ({"floor": 0.1}, "floor", "is for multiplier log; found multiplier squashed"),
        ({"floor": 5.0, "multiplier": "log"}, "floor", "must be below 5; found 5"),
        ({"equal": {"b": 0.1}, "multiplier": "log"}, "equal", "needs multipliers of both signs"),
    ],
)
def test_options_that_do_not_go_together(options, option, sentence):
    with pytest.raises(OptionError, match=sentence) as caught:
        Lagrangian(primary="a", **options)
    assert caught.value.option == option


def test_good_options_pass():
    objectives = make_objectives("accuracy", "brevity", "clarity", at_least={"clarity": 0.5})
    Lagrangian(primary="accuracy", equal={"brevity": 0.3}, initial={"brevity": -0.2}).check(
        objectives
    )


CLAIMED = (
    DUPLICATE_SHARES,
    FINITE,
    LEAVES_NAN_ALONE,
    ONE_OBJECTIVE,
    PERMUTES,
    RESUMES,
    SCALE_FREE,
    UNIT_FREE,
)
# Its thresholds are in the objectives' own units: scores that are scaled or shifted without their
# bounds meet them differently. It has no preference, so no limit is `fixed` at one.
test_squashed = claims(lambda: Lagrangian(primary="a"), SIMPLEX, *CLAIMED)
test_log = claims(lambda: Lagrangian(primary="a", multiplier="log"), SIMPLEX, *CLAIMED)
test_projected = claims(lambda: Lagrangian(primary="a", multiplier="projected"), SIMPLEX, *CLAIMED)
