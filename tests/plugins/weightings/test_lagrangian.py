"""Multipliers: published numbers, closed-form solutions, limits, and mistakes as sentences."""

from __future__ import annotations

import dataclasses
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
    SIMPLEX,
    UNIT_FREE,
    claims,
)

from moalign.errors import OptionError
from moalign.testing.steps import make_batch, make_objectives, make_step
from moalign_plugins.weightings.lagrangian import PATIENCE, Lagrangian

NAN = float("nan")
HOLD = {"learning_rate": 0.0, "proportional": 0.0}
ONE_ROW = make_batch(prompts=1, group=1)


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
    weighting = Lagrangian(primary="a", proportional=0.0)
    found = weighting.weigh(step_of({"a": 0.5, "b": 0.2}, b=0.6))
    first = 1 / (1 + math.exp(-0.01))
    assert found.metrics["multiplier/b"] == pytest.approx(first)
    assert found.metrics["violation/b"] == pytest.approx(0.4)
    found = weighting.weigh(step_of({"a": 0.5, "b": 0.7}, b=0.6))
    velocity = 0.1 * (0.25 * -0.4) + first * (1 - first) * 0.1
    second = 1 / (1 + math.exp(-(0.01 - 0.1 * velocity)))
    assert found.metrics["multiplier/b"] == pytest.approx(second)


def test_squashed_multipliers_answer_a_shortfall_at_once():
    found = Lagrangian(primary="a").weigh(step_of({"a": 0.5, "b": 0.2}, b=0.3))
    u = 0.1 * 0.25 * 0.1
    expected = 1 / (1 + math.exp(-(u + 10 * 0.1)))
    assert found.metrics["multiplier/b"] == pytest.approx(expected)
    for multiplier in ("log", "projected"):
        assert Lagrangian(primary="a", multiplier=multiplier).proportional == 0


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


def climbing(weighting, at_least=None, *, steps=600, rate=0.2):
    """Follow the mixed gradient of v_0 = -x^2 / 2 and v_1 = x; yield every x and multiplier."""
    thresholds = {} if at_least is None else {"b": at_least}
    objectives = make_objectives("a", "b", at_least=thresholds)
    x = 0.0
    for _ in range(steps):
        found = weighting.weigh(toy_step(objectives, -x * x / 2, x))
        primary, other = mixed(found)
        x += rate * (primary * -x + other)
        yield x, found.metrics["multiplier/b"]


def climb(*args, **options):
    """The last x and multiplier."""
    *_, last = climbing(*args, **options)
    return last


def toy_step(objectives, *scores):
    """A step of one completion."""
    return make_step(
        torch.tensor([[scores]]),
        objectives=objectives,
        advantages_BTK=torch.zeros(1, 1, len(scores)),
        batch=ONE_ROW,
    )


@pytest.mark.parametrize("target", [0.5, -0.3])
def test_equal_meets_its_target_from_both_sides(target):
    x, c = climb(Lagrangian(primary="a", equal={"b": target}, learning_rate=1.0, proportional=0.0))
    assert x == pytest.approx(target, abs=1e-5)
    assert c == pytest.approx(target / (1 + target), abs=1e-5)


def test_threshold_that_binds_is_met_exactly():
    x, c = climb(Lagrangian(primary="a", learning_rate=2.0), at_least=0.5)
    assert x == pytest.approx(0.5, abs=1e-5)
    assert c == pytest.approx(1 / 3, abs=1e-5)


def test_threshold_that_holds_anyway_loses_its_weight():
    x, c = climb(Lagrangian(primary="a", learning_rate=50.0), at_least=-0.3)
    assert x == pytest.approx(0.0, abs=2e-3)
    assert c == pytest.approx(1e-3)


@pytest.mark.parametrize("multiplier", ["log", "projected"])
def test_the_safe_toy_finds_its_multiplier(multiplier):
    # max -(x - 1)^2 / 2 subject to a cost x <= .4: x = .4, multiplier .6.
    objectives = make_objectives("a", "b", at_least={"b": -0.4})
    weighting = Lagrangian(primary="a", multiplier=multiplier, momentum=0.0)
    x = 0.0
    for _ in range(1000):
        found = weighting.weigh(toy_step(objectives, -((x - 1) ** 2) / 2, -x))
        primary, other = mixed(found)
        x += 0.2 * (primary * (1 - x) - other)
    assert x == pytest.approx(0.4, abs=1e-5)
    assert found.metrics["multiplier/b"] == pytest.approx(0.6, abs=1e-5)


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
    gains = {"learning_rate": rate, "proportional": 0.0}
    weighting = Lagrangian(primary="a", multiplier=multiplier, **gains)
    counts = []
    step = step_of({"a": 0.5, "b": 0.0}, b=1.0)
    for _ in range(400):
        found = weighting.weigh(step)
        counts.append(found.metrics["saturated/b"])
    assert counts[0] == 0
    assert counts[-1] > 100
    assert counts[-1] == counts[-2] + 1
    assert found.metrics["multiplier/b"] == pytest.approx(
        {"squashed": 0.999, "log": 5.0, "projected": 5.0}[multiplier]
    )
    # It comes back: no end is absorbing.
    step = step_of({"a": 0.5, "b": 1.0}, b=0.0)
    for _ in range(4000):
        found = weighting.weigh(step)
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
    assert unbounded.metrics["multiplier/b"] == pytest.approx(0.999)  # 10 violations of 20


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
        ({"at_least": {"clarty": 0.1}}, "at_least", "names 'clarty'; did you mean 'clarity'"),
        ({"at_least": {"accuracy": 0.1}}, "at_least", "names 'accuracy'; allowed: brevity"),
        ({"at_least": {"brevity": 0.1}, "equal": {"brevity": 0.2}}, "at_least", "`equal` as well"),
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


# --- what moves a multiplier --------------------------------------------------------------------


def multipliers_of(weighting, means, *, target=0.5, **options):
    """The multiplier of b after each of these means."""
    return [
        weighting.weigh(step_of({"a": 0.5, "b": mean}, b=target), **options).metrics["multiplier/b"]
        for mean in means
    ]


def test_pid_follows_stooke_s_algorithm():
    gains = {"learning_rate": 0.3, "proportional": 0.5, "derivative": 2.0}
    weighting = Lagrangian(primary="a", multiplier="projected", momentum=0.0, **gains)
    means = [0.2, 0.1, 0.6, 0.55, 0.9, 0.3, 0.7, 0.1]
    integral, before, expected = 0.0, means[0], []
    for mean in means:
        violation, rise = 0.5 - mean, max(before - mean, 0.0)
        integral = max(integral + violation, 0.0)
        expected.append(max(0.5 * violation + 0.3 * integral + 2.0 * rise, 0.0))
        before = mean
    found = multipliers_of(weighting, means)
    assert found == pytest.approx(expected, abs=1e-6)
    assert 0.0 in found  # the projection took part
    assert len(set(found)) > 5


def test_pid_acts_on_the_variable_of_a_squashed_multiplier():
    # u = .1 * .25 * .3 = .0075 and the push 2 * .3; then u from there, .4 short, risen by .1.
    weighting = Lagrangian(primary="a", momentum=0.0, proportional=2.0, derivative=3.0)
    first, second = multipliers_of(weighting, [0.2, 0.1])
    u = 0.1 * 0.25 * 0.3
    assert first == pytest.approx(1 / (1 + math.exp(-(u + 0.6))))
    c = 1 / (1 + math.exp(-u))
    u += 0.1 * c * (1 - c) * 0.4
    assert second == pytest.approx(1 / (1 + math.exp(-(u + 0.8 + 0.3))))


def test_the_derivative_answers_a_rise_only_where_a_rise_is_no_violation():
    options = {"primary": "a", "multiplier": "projected", "derivative": 1.0, **HOLD}
    found = multipliers_of(Lagrangian(**options), [0.5, 0.4, 0.9])
    assert found == pytest.approx([0.0, 0.1, 0.0])
    weighting = Lagrangian(equal={"b": 0.5}, **options)
    found = [
        weighting.weigh(step_of({"a": 0.5, "b": mean})).metrics["multiplier/b"]
        for mean in (0.5, 0.4, 0.9)
    ]
    assert found == pytest.approx([0.0, 0.1, -0.5])


def test_a_batch_without_the_objective_keeps_both_terms():
    """They are of the last batch with it, and so is what the next change is measured from."""
    options = {"primary": "a", "multiplier": "projected", "proportional": 1.0, "derivative": 2.0}
    weighting = Lagrangian(**options, learning_rate=0.0)
    # Short of .5 by .1 and fallen by .1; nothing known; fallen by .1 once more.
    found = multipliers_of(weighting, [0.5, 0.4, NAN, NAN, 0.3])
    assert found == pytest.approx([0.0, 0.3, 0.3, 0.3, 0.4])


def test_no_multiplier_winds_up():
    """After however long a violation, the first step beyond the threshold moves it."""
    for multiplier in ("squashed", "log", "projected"):
        weighting = Lagrangian(
            primary="a",
            multiplier=multiplier,
            learning_rate=5.0,
            momentum=0.0,
            proportional=1.0,
        )
        *_, last = multipliers_of(weighting, [0.0] * 60)
        (after,) = multipliers_of(weighting, [0.9])
        assert after < last
        *_, last = multipliers_of(weighting, [1.0] * 60)
        (after,) = multipliers_of(weighting, [0.1])
        assert after > last


def test_a_proportional_term_ends_the_oscillation():
    def unrest(**gains):
        weighting = Lagrangian(
            primary="a", multiplier="projected", learning_rate=0.3, momentum=0.0, **gains
        )
        path = list(climbing(weighting, at_least=0.5, steps=300, rate=0.05))
        return sum(abs(x - 0.5) for x, _ in path[100:]) / 200

    plain, damped = unrest(), unrest(proportional=5.0)
    assert plain > 0.01
    assert damped < plain / 50


@pytest.mark.parametrize("multiplier", ["squashed", "log", "projected"])
def test_per_minibatch_it_moves_before_each(multiplier):
    """As often as it is asked, each time by the shortfall of the batch."""
    options = {"primary": "a", "multiplier": multiplier, "learning_rate": 0.5}
    each, once = Lagrangian(updates="minibatch", **options), Lagrangian(**options)
    step = step_of({"a": 0.5, "b": 0.1}, b=0.6)
    at_first = each.weigh(step)
    at_once = 1 / (1 + math.exp(-10 * 0.5))  # by the proportional gain, before u moves
    start = {"squashed": at_once, "log": 1.0, "projected": 0.0}[multiplier]
    assert at_first.metrics["multiplier/b"] == pytest.approx(start)
    for _ in range(4):
        expected, found = once.weigh(step), each.update_minibatch(step)
        assert torch.equal(found.values, expected.values)
        assert found.gain == expected.gain
        assert once.update_minibatch(step) is None
    assert each.weigh(step).metrics["multiplier/b"] == expected.metrics["multiplier/b"]


def test_per_minibatch_a_missing_objective_moves_nothing():
    weighting = Lagrangian(primary="a", updates="minibatch")
    weighting.weigh(step_of({"a": 0.5, "b": 0.2}, b=0.6))
    moved = weighting.update_minibatch(step_of({"a": 0.5, "b": 0.2}, b=0.6))
    missing = step_of({"a": 0.5, "b": NAN}, b=0.6)
    assert torch.equal(weighting.weigh(missing).values, moved.values)
    assert torch.equal(weighting.update_minibatch(missing).values, moved.values)


def window_step(*scores, index=0):
    objectives = make_objectives("a", "b", at_least={"b": 0.5})
    scores_PGK = torch.tensor([[0.5, score] for score in scores])[:, None]
    return make_step(scores_PGK, objectives=objectives, index=index)


def test_j_is_the_mean_of_the_last_completions():
    weighting = Lagrangian(primary="a", window=3, **HOLD)
    for scores, mean in (
        ((0.1, 0.3), 0.2),
        ((0.8, NAN), 0.4),  # the last three: .1, .3, .8
        ((0.9,), 2.0 / 3.0),  # .3, .8, .9
        ((1.0, 0.0, 0.0, 0.0), 0.25),  # a batch of more counts as a whole
        ((0.6,), 0.2),  # 0, 0, .6
    ):
        found = weighting.weigh(window_step(*scores))
        assert found.metrics["violation/b"] == pytest.approx(0.5 - mean)
    assert "violation/b" not in weighting.weigh(window_step(NAN, NAN)).metrics


def test_ppo_lagrangian_with_its_defaults():
    # Multiplier 1, rate .1, the last 128 costs: 64 of 1 and 64 of 0 are half of what is allowed.
    weighting = Lagrangian(primary="a", multiplier="log", momentum=0.0, window=128)
    first = weighting.weigh(window_step(*[0.0] * 64))
    assert first.metrics["multiplier/b"] == pytest.approx(math.exp(0.1 * 0.5))
    found = weighting.weigh(window_step(*[1.0] * 64))
    assert found.metrics["violation/b"] == pytest.approx(0.0)
    assert found.metrics["multiplier/b"] == pytest.approx(first.metrics["multiplier/b"])
    found = weighting.weigh(window_step(*[1.0] * 64))
    assert found.metrics["violation/b"] == pytest.approx(-0.5)
    for _ in range(500):
        found = weighting.weigh(window_step(*[0.0] * 64))
    assert found.metrics["multiplier/b"] == pytest.approx(5.0)


def test_before_the_delay_is_over_nothing_moves():
    for updates in ("step", "minibatch"):
        weighting = Lagrangian(primary="a", delay=2, proportional=1.0, updates=updates)
        for index in range(3):
            step = window_step(0.0, index=index)
            weighting.weigh(step)
            weighting.update_minibatch(step)
            assert (weighting.weigh(step).metrics["multiplier/b"] == 0.5) == (index < 2)


def test_it_aims_where_it_is_told():
    weighting = Lagrangian(primary="a", equal={"c": 0.3}, proportional=0.0, derivative=5.0)
    step = step_of({"a": 0.5, "b": 0.5, "c": 0.5}, b=0.5)
    plain = [(c.name, c.target, c.equal) for c in weighting.constraints(step.objectives)]
    assert plain == [("b", 0.5, False), ("c", 0.3, True)]
    before = weighting.weigh(step).metrics["multiplier/b"]
    weighting.aim({"b": 0.9, "c": 0.1})
    aimed = [(c.name, c.target, c.equal) for c in weighting.constraints(step.objectives)]
    assert aimed == [("b", 0.9, False), ("c", 0.1, True)]
    found = weighting.weigh(step)
    assert found.metrics["violation/b"] == pytest.approx(0.4)
    # A target that moves is no fall of the objective: the derivative stays silent.
    u = 0.1 * 0.25 * 0.4
    assert before == 0.5
    assert found.metrics["multiplier/b"] == pytest.approx(1 / (1 + math.exp(-u)))


def test_the_lagrangian_grpo_of_ctwa():
    # lambda_k <- [lambda_k + .01 (.9 - J_k)]_+ from 0, and R_0 + sum lambda_k R_k.
    weighting = Lagrangian(primary="a", multiplier="projected", learning_rate=0.01, momentum=0.0)
    lambdas = [0.0, 0.0]
    for means in ((0.2, 0.95), (0.4, 0.85), (0.5, 0.9)):
        lambdas = [max(x + 0.01 * (0.9 - m), 0.0) for x, m in zip(lambdas, means, strict=True)]
        step = step_of({"a": 0.5, "b": means[0], "c": means[1]}, b=0.9, c=0.9)
        found = weighting.weigh(step)
    assert lambdas == pytest.approx([0.016, 0.0005])
    expected = torch.tensor([1.0, *lambdas])
    torch.testing.assert_close(found.values, expected / expected.sum())


# --- out of reach -------------------------------------------------------------------------------


def notes_of(weighting, mean, steps, **thresholds):
    said = []
    for index in range(steps):
        found = weighting.weigh(step_of({"a": 0.5, "b": mean}, **thresholds))
        said += [(index, note) for note in found.notes]
    return said


@pytest.mark.parametrize("multiplier", ["squashed", "log", "projected"])
def test_a_threshold_out_of_reach_is_said_once(multiplier):
    end = {"squashed": 0.999, "log": 5.0, "projected": 5.0}[multiplier]
    weighting = Lagrangian(primary="a", multiplier=multiplier, initial={"b": end})
    ((index, note),) = notes_of(weighting, 0.25, 100, b=0.75)
    assert index == PATIENCE - 1
    assert note == (
        "weighting lagrangian: the multiplier of b has been at its end for 20 steps, and yet b "
        "averages 0.25, below its target of 0.75: that is probably out of reach, and a is hardly "
        "trained; lower `objectives.b.at_least`, or give the policy another start or more steps"
    )


def test_the_running_mean_is_that_of_the_violated_steps():
    weighting = Lagrangian(primary="a", multiplier="projected", initial={"b": 5.0})
    assert notes_of(weighting, 0.2, PATIENCE // 2, b=0.7) == []
    ((_, note),) = notes_of(weighting, 0.4, PATIENCE, b=0.7)
    assert "averages 0.3, below its target of 0.7" in note


def test_a_threshold_of_its_own_replaces_the_objective_s_and_is_blamed():
    weighting = Lagrangian(
        primary="a", at_least={"b": 0.3}, multiplier="projected", initial={"b": 5.0}
    )
    ((_, note),) = notes_of(weighting, 0.2, 30, b=0.75)
    assert "below its target of 0.3" in note
    assert "lower `at_least` of b" in note
    alone = Lagrangian(primary="a", at_least={"b": 0.3, "c": -7.0})
    alone.check(make_objectives("a", "b", "c", at_least={"b": 0.9}))
    assert [c.target for c in alone.constraints(make_objectives("a", "b", "c"))] == [0.3, -7.0]


def test_thresholds_of_its_own_lie_below_their_upper_bound():
    free = [dataclasses.replace(o, bounds=None) for o in make_objectives("a", "b")]
    for target, refused in ((7.0, True), (1.0, False), (0.0, False), (-3.0, False)):
        weighting = Lagrangian(primary="a", at_least={"b": target})
        weighting.check(free)
        if refused:
            sentence = "`at_least` of 'b' must lie within its bounds, 0 and 1, or.* found 7. Lower"
            with pytest.raises(OptionError, match=sentence) as caught:
                weighting.check(make_objectives("a", "b"))
            assert caught.value.option == "at_least"
        else:
            weighting.check(make_objectives("a", "b"))


def test_a_threshold_below_the_bounds_is_always_met_and_said_to_be():
    weighting = Lagrangian(primary="a", at_least={"b": 0.3, "c": -3.0})
    step = step_of({"a": 0.5, "b": 0.5, "c": 0.0}, b=0.9)
    found = weighting.weigh(step)
    assert found.notes == (
        "weighting lagrangian: `at_least` of c is -3, below its lower bound, 0, so it is always "
        "met and holds nothing",
    )
    assert found.metrics["violation/c"] == -3.0
    free = tuple(dataclasses.replace(o, bounds=None) for o in step.objectives)
    assert weighting.weigh(make_step(step.scores_PGK, objectives=free)).notes == ()


def test_equal_is_said_at_either_end():
    for end, mean, words in (
        (5.0, 0.1, "averages 0.1, below its target of 0.5"),
        (-5.0, 0.9, "averages 0.9, above its target of 0.5"),
    ):
        weighting = Lagrangian(
            primary="a", equal={"b": 0.5}, multiplier="projected", initial={"b": end}
        )
        ((_, note),) = notes_of(weighting, mean, 30)
        assert words in note
        assert ("lower `equal` of b" if end > 0 else "raise `equal` of b") in note


def test_nothing_is_said_of_a_multiplier_that_does_its_work():
    for mean, options in (
        (0.9, {"initial": {"b": 0.999}, **HOLD}),  # met
        (0.1, {}),  # short, but with room left
    ):
        assert notes_of(Lagrangian(primary="a", **options), mean, 60, b=0.5) == []
    weighting = Lagrangian(primary="a", initial={"b": 0.999}, **HOLD)
    for _ in range(10):  # met now and then
        assert notes_of(weighting, 0.1, PATIENCE - 1, b=0.5) == []
        assert notes_of(weighting, 0.6, 1, b=0.5) == []
    weighting.aim({"b": 0.5})  # somebody else's target
    assert notes_of(weighting, 0.1, 60, b=0.5) == []


def test_what_was_said_is_remembered():
    options = {"primary": "a", "multiplier": "projected", "initial": {"b": 5.0}}
    for steps, more in ((10, 1), (30, 0)):
        weighting, fresh = Lagrangian(**options), Lagrangian(**options)
        notes_of(weighting, 0.1, steps, b=0.5)
        fresh.load_state_dict(weighting.state_dict())
        assert len(notes_of(fresh, 0.1, 60, b=0.5)) == more


@pytest.mark.parametrize("target", [0.0, 1.0, -0.2, 1.5])
def test_a_target_at_or_beyond_the_bounds_is_refused(target):
    weighting = Lagrangian(primary="a", equal={"b": target})
    sentence = "of 'b' must lie between its bounds, 0 and 1, both excluded.*found"
    with pytest.raises(OptionError, match=sentence) as caught:
        weighting.check(make_objectives("a", "b"))
    assert caught.value.option == "equal"
    free = [dataclasses.replace(o, bounds=None) for o in make_objectives("a", "b")]
    weighting.check(free)


@pytest.mark.parametrize(
    ("equal", "at_least", "sentence"),
    [
        ({"b": 0.4, "c": 0.6}, {}, "fixes 'b' at 0.4, but 'c' has the same reward and is fixed"),
        ({"b": 0.4}, {"c": 0.6}, "'c' has the same reward and `at_least: 0.6`; drop one"),
        ({"b": 0.4, "c": 0.4}, {}, None),
        ({"b": 0.4}, {"c": 0.3}, None),
        ({}, {"b": 0.4, "c": 0.6}, None),
    ],
)
def test_targets_that_contradict_each_other(equal, at_least, sentence):
    given = make_objectives("a", "b", "c", at_least=at_least)
    same = [dataclasses.replace(o, measure="" if o.name == "a" else "one") for o in given]
    weighting = Lagrangian(primary="a", equal=equal)
    weighting.check_measured(given)
    if sentence is None:
        weighting.check_measured(same)
        return
    with pytest.raises(OptionError, match=sentence) as caught:
        weighting.check_measured(same)
    assert caught.value.option == "equal"


def test_what_is_fixed_cannot_be_maximised_as_well():
    objectives = [dataclasses.replace(o, measure="one") for o in make_objectives("a", "b")]
    with pytest.raises(OptionError, match="'a' has the same reward and is to be maximised; drop"):
        Lagrangian(primary="a", equal={"b": 0.4}).check_measured(objectives)


def test_targets_are_compared_with_thresholds_of_the_search():
    """An objective that is on the front only is held to its threshold by the strategies."""
    given = make_objectives("a", "b", "c", at_least={"c": 0.6})
    same = [dataclasses.replace(o, measure="" if o.name == "a" else "one") for o in given]
    front = [dataclasses.replace(o, train=o.name != "c") for o in same]
    weighting = Lagrangian(primary="a", equal={"b": 0.4})
    with pytest.raises(OptionError, match=r"'c' has the same reward and `at_least: 0\.6`"):
        weighting.check_measured(front)
    monitored = [dataclasses.replace(o, front=o.name != "c") for o in front]
    weighting.check_measured(monitored)


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
# bounds meet them differently.
test_squashed = claims(lambda: Lagrangian(primary="a"), SIMPLEX, *CLAIMED)
test_log = claims(lambda: Lagrangian(primary="a", multiplier="log"), SIMPLEX, *CLAIMED)
test_projected = claims(lambda: Lagrangian(primary="a", multiplier="projected"), SIMPLEX, *CLAIMED)
# A target of `equal` is an option, which neither a copy nor another unit takes along.
test_equal = claims(
    lambda: Lagrangian(primary="b", equal={"a": 0.4}),
    *(FINITE, LEAVES_NAN_ALONE, PERMUTES, RESUMES, SCALE_FREE),
)
test_pid = claims(
    lambda: Lagrangian(
        primary="a", multiplier="projected", proportional=2.0, derivative=3.0, window=20, delay=1
    ),
    SIMPLEX,
    *CLAIMED,
)
# At rate 0 it is `fixed` at the initial multipliers: here those of the preference .5, .3, .2.
test_frozen = claims(
    lambda: Lagrangian(primary="a", multiplier="log"),
    FROZEN(lambda: Lagrangian(primary="a", multiplier="log", initial={"b": 0.6, "c": 0.4}, **HOLD)),
)
