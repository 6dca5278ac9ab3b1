"""Thresholds searched inside one run: toys with known optima, budgets, names, resuming."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from weighting_properties import (
    FINITE,
    LEAVES_NAN_ALONE,
    ONE_OBJECTIVE,
    PERMUTES,
    RESUMES,
    SIMPLEX,
    claims,
)

from moalign.errors import DataError, OptionError
from moalign.testing.steps import make_batch, make_evaluation, make_objectives, make_step
from moalign_plugins.weightings.fixed import Fixed
from moalign_plugins.weightings.lagrangian import Lagrangian
from moalign_plugins.weightings.nelder_mead_lagrangian import NelderMeadLagrangian

ONE_ROW = make_batch(prompts=1, group=1)
NAN = float("nan")


def search(*, equal=None, score="score", lagrangian=None, **options):
    inner = Lagrangian(primary="a", equal=equal, **(lagrangian or {}))
    return NelderMeadLagrangian(constrained=inner, score=score, **options)


def asked_at(weighting, index, means, measured=None, *, total=80, seed=0, at_least=None):
    """One step, and whether the policy was measured."""
    calls = []
    objectives = make_objectives(*means, at_least=at_least)

    def evaluate(split):
        calls.append(split)
        values = {**means, "score": 0.0} | (measured or {})
        return make_evaluation(**{name: [value] for name, value in values.items()})

    step = make_step(
        torch.tensor([[list(means.values())]]),
        objectives=objectives,
        index=index,
        total=total,
        advantages_BTK=torch.zeros(1, 1, len(means)),
        batch=ONE_ROW,
        evaluate=evaluate,
    )
    torch.manual_seed(seed)
    return weighting.weigh(step), calls


class Toy:
    """A policy (x, y) that goes where the targets are; the score has its top at (.7, .4)."""

    def __init__(self, weighting, *, total, names=("b", "c"), speed=1.0):
        self.weighting, self.total, self.names, self.speed = weighting, total, names, speed
        self.at = {"b": 0.2, "c": 0.1}
        self.measured = 0

    def score(self):
        return 1 - 3 * (self.at["b"] - 0.7) ** 2 - 2 * (self.at["c"] - 0.4) ** 2

    def run(self, begin=0, end=None):
        found = []
        for index in range(begin, self.total if end is None else end):
            means = {"a": 0.0} | {name: self.at[name] for name in self.names}
            weights, calls = asked_at(
                self.weighting, index, means, {"score": self.score()}, total=self.total
            )
            self.measured += len(calls)
            for name in self.names:
                gap = weights.metrics[f"target/{name}"] - self.at[name]
                self.at[name] += self.speed * gap
            found.append(weights)
        return found


def targets(weights):
    return {n.partition("/")[2]: v for n, v in weights.metrics.items() if n.startswith("target/")}


EQUAL = {"b": 0.5, "c": 0.5}


def test_it_finds_the_best_targets():
    toy = Toy(search(equal=EQUAL, share=0.01, stop=1e-6, tolerance=1e-6), total=200)
    found = toy.run()
    assert targets(found[-1]) == pytest.approx({"b": 0.7, "c": 0.4}, abs=0.02)
    assert toy.at == pytest.approx({"b": 0.7, "c": 0.4}, abs=0.02)
    ((index, note),) = [(i, note) for i, w in enumerate(found) for note in w.notes]
    assert "thetas the best, with a score of 1, is b 0." in note
    assert targets(found[index]) == targets(found[-1])  # to the end


def test_targets_belong_to_names():
    """In whatever order the objectives stand, each goes to its own best value."""
    paths = []
    for names in (("b", "c"), ("c", "b")):
        options = {"share": 0.02, "stop": 1e-6, "tolerance": 1e-6}
        equal = {name: EQUAL[name] for name in names}
        toy = Toy(search(equal=equal, **options), total=200, names=names)
        paths.append([targets(w) for w in toy.run()])
    assert paths[0] == paths[1]
    assert paths[0][-1]["b"] > 0.6
    assert paths[0][-1]["c"] < 0.5


def test_a_target_has_its_share_of_the_steps_and_the_best_the_last():
    toy = Toy(search(equal=EQUAL, stop=1e-9), total=80, speed=0.01)
    found = toy.run()
    changes = [i for i in range(1, 80) if targets(found[i]) != targets(found[i - 1])]
    scored = [i for i, w in enumerate(found) if "score" in w.metrics]
    assert scored == [10, 20, 30, 40, 50, 60, 70]
    assert set(scored[:-1]) <= set(changes) <= set(scored)
    assert toy.measured == 8  # the start, and seven thetas
    assert found[-1].metrics["thetas"] == 7
    best = max(scored, key=lambda i: found[i].metrics["score"])
    assert targets(found[79]) == targets(found[best - 1])
    assert [i for i, w in enumerate(found) if w.notes] == [70]


def test_a_target_that_is_reached_makes_room_for_the_next():
    weighting = search(equal=EQUAL)
    near = {"a": 0.0, "b": 0.48, "c": 0.52}
    first, calls = asked_at(weighting, 0, near)
    assert calls == ["steer"]
    assert targets(first) == EQUAL
    # Half a step is not enough, nor is one of the two.
    _, calls = asked_at(weighting, 1, near | {"c": 0.53})
    assert calls == []
    second, calls = asked_at(weighting, 2, near, {"score": 0.3})
    assert calls == ["steer"]
    assert second.metrics["score"] == pytest.approx(0.3)
    assert targets(second) != EQUAL
    _, calls = asked_at(weighting, 3, near)
    assert calls == []


def test_the_first_simplex():
    start = {"a": 0.0, "b": 0.2, "c": 0.6}
    for first in ("given", "random"):
        weighting = search(equal=EQUAL, first=first)
        asked_at(weighting, 0, start, seed=3)
        points = weighting.state_dict()["search"]["points"]
        draws = torch.rand(
            3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
        ).tolist()
        expected = [[0.2 + u * 0.8, 0.6 + v * 0.4] for u, v in draws]
        if first == "given":
            expected[0] = [0.5, 0.5]
        assert points == [pytest.approx(point) for point in expected]
    again = search(equal=EQUAL)
    asked_at(again, 0, start, seed=4)
    assert again.state_dict()["search"]["points"][1] != pytest.approx(points[1])


def test_targets_stay_within_the_bounds():
    weighting = search(equal={"b": 0.9}, share=0.05, stop=1e-9, tolerance=1e-9)
    values = [0.5]
    for index in range(60):
        mean = values[-1]  # the policy gets there at once, and the more the better
        found, _ = asked_at(weighting, index, {"a": 0.0, "b": mean}, {"score": mean}, total=60)
        values.append(targets(found)["b"])
    assert max(values) == 1.0
    assert min(values) >= 0.0


def test_a_known_target_is_not_trained_again():
    weighting = search(equal={"b": 0.5}, tolerance=0.9, stop=1e-9)
    asked_at(weighting, 0, {"a": 0.0, "b": 0.0}, total=80)
    found, calls = asked_at(weighting, 10, {"a": 0.0, "b": 0.0}, {"score": 0.4}, total=80)
    # Whatever the next theta is, .5 is close to it, and answers for it, until nothing is left.
    assert calls == ["steer"]
    assert found.metrics["thetas"] == 1
    assert len(found.notes) == 1
    assert targets(found) == {"b": 0.5}


def test_the_score_in_units_of_the_bounds():
    def scored(score, /, **measured):
        weighting = search(equal={"b": 0.5}, score=score)
        objectives = {"a": 0.0, "b": 0.0}
        asked_at(weighting, 0, objectives)
        found, _ = asked_at(weighting, 10, objectives, measured)
        return found.metrics["score"]

    assert scored("b", b=0.3) == pytest.approx(0.3)
    assert scored("score", score=42.0) == pytest.approx(42.0)
    assert scored({"a": 3.0, "b": 1.0}, a=0.2, b=0.6) == pytest.approx(0.3)
    weighting = search(equal={"b": 0.5}, score="b")
    wide = [dataclasses.replace(o, bounds=(0.0, 4.0)) for o in make_objectives("a", "b")]
    for index, value in ((0, 0.0), (10, 3.0)):
        step = make_step(
            torch.zeros(1, 1, 2),
            objectives=wide,
            index=index,
            total=80,
            evaluate=make_evaluation(a=[0.0, NAN], b=[value, value]),
        )
        found = weighting.weigh(step)
    assert found.metrics["score"] == pytest.approx(0.75)


def test_thresholds_are_searched_like_targets():
    weighting = search(share=0.02)
    found, _ = asked_at(weighting, 0, {"a": 0.0, "b": 0.4}, at_least={"b": 0.6})
    assert targets(found) == {"b": 0.6}
    assert found.metrics["violation/b"] == pytest.approx(0.2)
    assert weighting.declares == frozenset()
    assert search(equal={"b": 0.5}).declares == {"signed"}


def test_minibatches_are_the_nested_weighting_s():
    weighting = search(equal={"b": 0.5}, lagrangian={"updates": "minibatch"})
    found, _ = asked_at(weighting, 0, {"a": 0.0, "b": 0.4})
    step = make_step(
        torch.tensor([[[0.0, 0.4]]]), objectives=make_objectives("a", "b"), batch=ONE_ROW
    )
    moved = weighting.update_minibatch(step)
    assert moved.values[1] > found.values[1]


def test_without_constraints_there_is_nothing_to_search():
    found, calls = asked_at(search(), 0, {"a": 0.3})
    assert calls == []
    assert found.values.tolist() == [1.0]


def test_resumed_anywhere_it_goes_on_bit_for_bit():
    options = {"equal": EQUAL, "share": 0.06, "lagrangian": {"updates": "minibatch"}}
    whole = Toy(search(**options), total=80, speed=0.4)
    expected = whole.run()
    for stop in (0, 1, 3, 10, 33, 60, 79):
        first = Toy(search(**options), total=80, speed=0.4)
        first.run(0, stop)
        second = Toy(search(**options), total=80, speed=0.4)
        second.at = dict(first.at)
        second.weighting.load_state_dict(json.loads(json.dumps(first.weighting.state_dict())))
        for old, new in zip(expected[stop:], second.run(stop), strict=True):
            assert torch.equal(old.values, new.values)
            assert old.metrics == new.metrics
            assert old.notes == new.notes


@pytest.mark.parametrize(
    ("options", "option", "sentence"),
    [
        ({"share": 0.3}, "share", "of 0.3 leaves room for 2 thetas and the best; 2 targets need 3"),
        ({"score": {"b": 1.0, "d": 1.0}}, "score", "names 'd'; allowed: a, b, c"),
    ],
)
def test_mistakes_found_with_the_objectives(options, option, sentence):
    weighting = search(equal=EQUAL, **options)
    with pytest.raises(OptionError, match=sentence) as caught:
        weighting.check(make_objectives("a", "b", "c"))
    assert caught.value.option == option


def test_the_nested_weighting_is_checked():
    with pytest.raises(OptionError, match="objective 'c' has no target"):
        search(equal={"b": 0.5}).check(make_objectives("a", "b", "c"))
    free = [dataclasses.replace(o, bounds=None) for o in make_objectives("a", "b")]
    with pytest.raises(OptionError, match="'b' needs `bounds`, between which its target"):
        search(equal={"b": 0.5}).check(free)
    part = [free[0], make_objectives("b")[0]]
    with pytest.raises(OptionError, match="weighs 'a', which needs `bounds` for that"):
        search(equal={"b": 0.5}, score={"a": 1.0}).check(part)


@pytest.mark.parametrize("score", [{"a": -1.0, "b": 2.0}, {"a": 0.0}, {}])
def test_weights_of_a_score_must_be_weights(score):
    with pytest.raises(OptionError, match="needs weights >= 0, one of them above 0"):
        search(score=score)


def test_only_what_has_targets_can_be_steered():
    with pytest.raises(OptionError, match="takes a weighting with targets, lagrangian; found fix"):
        NelderMeadLagrangian(constrained=Fixed(), score="a")


def test_a_score_that_nothing_measures_is_found_before_training():
    measured = make_objectives("a", "b", "score")
    search(equal={"b": 0.5}, score="score").check_measured(measured)
    with pytest.raises(OptionError, match="names 'scoer'; did you mean 'score'") as caught:
        search(equal={"b": 0.5}, score="scoer").check_measured(measured)
    assert caught.value.option == "score"
    same = [dataclasses.replace(o, measure="one") for o in measured]
    with pytest.raises(OptionError, match="'a' has the same reward and is to be maximised"):
        search(equal={"b": 0.5}).check_measured(same)


def test_a_score_without_prompts_is_found_at_the_first_step():
    with pytest.raises(DataError, match="objective score applies to no prompt of the steer"):
        asked_at(search(equal={"b": 0.5}), 0, {"a": 0.0, "b": 0.1}, {"score": NAN})


# The claims' trials have 40 steps: a theta for each. Its targets, like those of `equal`, are in raw
# units, and what counts as close is relative to them, so it claims nothing of scales.
test_properties = claims(
    lambda: search(score="b", share=0.025),
    *(FINITE, LEAVES_NAN_ALONE, ONE_OBJECTIVE, PERMUTES, RESUMES, SIMPLEX),
)
