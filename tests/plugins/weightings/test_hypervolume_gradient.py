"""The hypervolume's gradient as weights: closed forms, fall-back, noise, limits."""

from __future__ import annotations

import dataclasses

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
    SIMPLEX,
    UNIT_FREE,
    claims,
)

from moalign.errors import DataError, OptionError
from moalign.testing.steps import make_evaluation, make_objectives, make_step
from moalign_plugins.weightings.hypervolume_gradient import HypervolumeGradient

EXACT = {"share": 1.0, "smoothing": 0.0, "standard_errors": 0.0, "margin": 0.0}
ZERO = {"a": 0.0, "b": 0.0}

test_properties = claims(
    HypervolumeGradient,
    FINITE,
    SIMPLEX,
    PERMUTES,
    RESUMES,
    ONE_OBJECTIVE,
    LEAVES_NAN_ALONE,
    UNIT_FREE,
    DUPLICATE_SHARES,
    FROZEN(lambda: HypervolumeGradient(share=0.0)),
)


def feed(weighting, *points, **options):
    """Let the weighting measure these means one after the other; return its last weights."""
    for point in points:
        values = dict(zip("abc", ([value] * 2 for value in point), strict=False))
        evaluation = make_evaluation(**values)
        objectives = make_objectives(*values)
        found = weighting.weigh(make_step(objectives=objectives, evaluate=evaluation, **options))
    return found


def close(found, expected):
    torch.testing.assert_close(found.values, torch.tensor(expected), atol=1e-6, rtol=0)


def test_alone_it_weighs_by_the_inverse_height_above_the_reference():
    weighting = HypervolumeGradient(reference={"a": 0.1, "b": 0.2, "c": 0.0}, **EXACT)
    found = feed(weighting, (0.5, 0.4, 0.8))
    inverse = torch.tensor([1 / 0.4, 1 / 0.2, 1 / 0.8])
    close(found, (inverse / inverse.sum()).tolist())
    assert found.metrics["rate/a"] == pytest.approx(0.2 * 0.8)


def test_beside_archived_points_only_uncovered_faces_count():
    weighting = HypervolumeGradient(reference=ZERO, **EXACT)
    feed(weighting, (0.9, 0.3), (0.3, 0.9))
    found = feed(weighting, (0.6, 0.4))
    # Raising a gains a strip from b = .3 to .4; raising b one from a = .3 to .6.
    assert found.metrics["rate/a"] == pytest.approx(0.1)
    assert found.metrics["rate/b"] == pytest.approx(0.3)
    close(found, [0.25, 0.75])
    assert found.metrics["hypervolume"] == pytest.approx(0.27 + 0.27 - 0.09 + 0.3 * 0.1)


def test_a_covered_point_falls_back_to_the_preference():
    weighting = HypervolumeGradient(reference=ZERO, **EXACT)
    feed(weighting, (0.9, 0.9))
    found = feed(weighting, (0.5, 0.5), preference={"a": 3, "b": 1})
    assert (found.metrics["rate/a"], found.metrics["rate/b"]) == (0.0, 0.0)
    close(found, [0.75, 0.25])
    assert len(weighting.state_dict()["archive"]) == 1


def test_share_and_smoothing_mix_with_the_preference():
    half = HypervolumeGradient(reference=ZERO, **{**EXACT, "share": 0.5})
    close(feed(half, (0.75, 0.25), preference={"a": 3, "b": 1}), [0.5 * (0.75 + 0.25), 0.5])
    slow = HypervolumeGradient(reference=ZERO, **{**EXACT, "smoothing": 0.5})
    close(feed(slow, (0.75, 0.25)), [0.375, 0.625])  # from (.5, .5) half-way to (.25, .75)


def test_between_measurements_the_weights_stay():
    measured = []

    def evaluate(split):
        measured.append(split)
        return make_evaluation(a=[0.2 + 0.1 * len(measured)] * 2, b=[0.4] * 2)

    weighting = HypervolumeGradient(every=3, reference=ZERO, **EXACT)
    step = {"objectives": make_objectives("a", "b"), "evaluate": evaluate}
    found = [weighting.weigh(make_step(**step)).values.tolist() for _ in range(6)]
    assert measured == ["steer"] * 2
    assert found[0] == found[1] == found[2] != found[3] == found[4] == found[5]


def test_points_within_noise_of_each_other_are_one():
    near = make_evaluation(a=[0.55, 0.65], b=[0.35, 0.45])  # (.6, .4), standard errors .05
    step = make_step(objectives=make_objectives("a", "b"), evaluate=near)
    # Measured exactly, (.62, .38) leaves only the strip above .38 to gain by raising a.
    for errors, rate in ((0.0, 0.4 - 0.38), (1.0, 0.4)):
        weighting = HypervolumeGradient(reference=ZERO, **{**EXACT, "standard_errors": errors})
        feed(weighting, (0.62, 0.38))
        found = weighting.weigh(step)
        assert found.metrics["rate/a"] == pytest.approx(rate)
        assert found.metrics["rate/b"] == pytest.approx(0.6)
    assert len(weighting.state_dict()["archive"]) == 1  # no sure gain


def test_an_objective_off_the_front_keeps_its_preference():
    objectives = list(make_objectives("a", "b"))
    objectives.append(dataclasses.replace(objectives[0], name="kl", bounds=None, front=False))
    evaluation = make_evaluation(a=[0.75] * 2, b=[0.25] * 2, kl=[-9.0] * 2)
    weighting = HypervolumeGradient(reference=ZERO, **EXACT)
    preference = {"a": 1, "b": 1, "kl": 2}
    step = make_step(objectives=objectives, evaluate=evaluation, preference=preference)
    close(weighting.weigh(step), [0.125, 0.375, 0.5])


def test_one_unit_is_no_measure_of_noise_and_says_so():
    evaluation = make_evaluation(a=[0.5], b=[0.5])
    step = make_step(objectives=make_objectives("a", "b"), evaluate=evaluation)
    (sentence,) = HypervolumeGradient().weigh(step).notes
    assert "one unit only" in sentence
    assert HypervolumeGradient(standard_errors=0.0).weigh(step).notes == ()


def climb(weights_of, t=0.3, steps=200):
    """Ascend w_a a + w_b b along the hollow front (t^2, (1 - t)^2); return every t."""
    path = [t]
    for _ in range(steps):
        a, b = weights_of((t**2, (1 - t) ** 2))
        t = min(max(t + 0.02 * (a * 2 * t - b * 2 * (1 - t)), 0.0), 1.0)
        path.append(t)
    return path


def test_it_holds_and_crosses_the_hollow_part_of_a_front_that_fixed_weights_leave():
    def new():
        return HypervolumeGradient(reference={"a": -0.1, "b": -0.1}, **EXACT)

    assert climb(lambda _: (0.5, 0.5))[-1] == 0.0
    # Without a past it maximises the box, whose best place on this front is the middle.
    assert climb(lambda point: feed(new(), point).values.tolist())[-1] == pytest.approx(
        0.5, abs=0.02
    )
    # Against its own past it moves on along the front, and the archive fills it.
    weighting = new()
    path = climb(lambda point: feed(weighting, point).values.tolist())
    assert path == sorted(path)
    assert path[-1] > 0.95
    assert len(weighting.state_dict()["archive"]) > 20


def test_mistakes_are_sentences():
    objectives = make_objectives("accuracy", "brevity")
    with pytest.raises(OptionError, match="names 'acuracy'; did you mean 'accuracy'") as caught:
        HypervolumeGradient(reference={"acuracy": 0.1, "brevity": 0.2}).check(objectives)
    assert caught.value.option == "reference"
    with pytest.raises(OptionError, match="weighting hypervolume-gradient: no objective is both"):
        HypervolumeGradient().check([dataclasses.replace(o, front=False) for o in objectives])
    nan = float("nan")
    with pytest.raises(DataError, match="objective b applies to no prompt of the steer split"):
        feed(HypervolumeGradient(), (0.5, nan))
