"""Schedules: shapes in closed form, times, ends that a search takes, mistakes as sentences."""

from __future__ import annotations

import math

import pytest
import torch
from weighting_properties import FINITE, ONE_OBJECTIVE, PERMUTES, RESUMES, SIMPLEX, claims

from moalign import plugins
from moalign.errors import OptionError, StudyError
from moalign.options import construct
from moalign.study import bundled
from moalign.study.loading import load, with_values
from moalign.testing.steps import make_objectives, make_step
from moalign.types import Simplex
from moalign_plugins.weightings.schedule import Schedule

A, B = {"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}

test_properties = claims(
    lambda: new(start={"a": 3, "b": 1, "c": 0}, end={"a": 1, "b": 2, "c": 5}),
    FINITE,
    SIMPLEX,
    PERMUTES,
    RESUMES,
)
test_alone = claims(Schedule, ONE_OBJECTIVE)


def new(**options):
    """Build it as a study does, stages from plain data."""
    return construct(Schedule, options, lambda *_: pytest.fail("nothing is nested"))


def path(weighting, total=5, names="ab"):
    """Return the weight of the second objective at every step."""
    steps = [
        make_step(objectives=make_objectives(*names), index=i, total=total) for i in range(total)
    ]
    return [float(weighting.weigh(step).values[1]) for step in steps]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ({"begin": 0.5}, [0.0, 0.0, 0.0, 0.5, 1.0]),
        ({"finish": 0.5}, [0.0, 0.5, 1.0, 1.0, 1.0]),
        ({"shape": "cosine"}, [0.0, (1 - math.sqrt(0.5)) / 2, 0.5, (1 + math.sqrt(0.5)) / 2, 1.0]),
        ({"shape": "step", "finish": 0.5}, [0.0, 0.0, 1.0, 1.0, 1.0]),
        ({"unit": "steps", "begin": 1, "finish": 3}, [0.0, 0.0, 0.5, 1.0, 1.0]),
        ({"unit": "steps", "shape": "step", "finish": 3}, [0.0, 0.0, 0.0, 1.0, 1.0]),
    ],
)
def test_shapes(options, expected):
    assert path(new(start=A, end=B, **options)) == pytest.approx(expected)


def test_stages_lie_between():
    stages = [{"at": 0.5, "weights": B}, {"at": 0.75, "weights": {"a": 3, "b": 1}}]
    found = path(new(start=A, end=A, stages=stages))
    assert found == pytest.approx([0.0, 0.5, 1.0, 0.25, 0.0])
    stages = [{"at": 0.25, "weights": B}, {"at": 0.5, "weights": {"a": 1, "b": 1}}]
    steps = path(new(start=A, end=A, stages=stages, shape="step", finish=0.75))
    assert steps == pytest.approx([0.0, 1.0, 0.5, 0.0, 0.0])


def test_weights_are_shares_whatever_their_sum():
    found = path(new(start={"a": 10, "b": 30}, end={"a": 0.1, "b": 0.1}))
    assert found == pytest.approx([0.75, 0.6875, 0.625, 0.5625, 0.5])


def test_equal_ends_are_fixed_and_absent_ends_equal_weights():
    ends = {"a": 3, "b": 1}
    assert path(new(start=ends, end=ends)) == [0.25] * 5
    assert path(new()) == [0.5] * 5


def test_it_follows_the_full_length_and_one_step_is_a_start():
    halfway = make_step(objectives=make_objectives("a", "b"), index=20, total=41)
    torch.testing.assert_close(new(start=A, end=B).weigh(halfway).values, torch.tensor([0.5, 0.5]))
    assert path(new(start=A, end=B), total=1) == [0.0]


def test_a_schedule_that_outlasts_the_trial_says_so():
    step = make_step(objectives=make_objectives("a", "b"), total=5)
    (sentence,) = new(start=A, end=B, unit="steps", finish=5).weigh(step).notes
    assert "the last step of this trial is number 4" in sentence
    assert new(start=A, end=B, unit="steps", finish=4).weigh(step).notes == ()


@pytest.mark.parametrize(
    ("options", "option", "message"),
    [
        ({"finish": 1.5}, "finish", "at most 1, the whole length; found 1.5. To give numbers of"),
        ({"shape": "step"}, "finish", "with shape step it must be below 1"),
        ({"begin": 0.5, "finish": 0.5}, "begin", "must be below `finish`, 0.5; found 0.5"),
        (
            {"stages": [{"at": 0.6, "weights": A}, {"at": 0.4, "weights": A}]},
            "stages",
            "must rise, between `begin`, 0, and `finish`, 1; found 0.6, 0.4",
        ),
        ({"stages": [{"at": 1, "weights": A}]}, "stages", "must rise"),
        ({"stages": [{"at": 0.5, "wieghts": A}]}, "stages", "it has no key 'wieghts'; did you"),
        ({"stages": [{"at": 0.5, "weights": {"a": -1}}]}, "stages", "must be finite and >= 0"),
        ({"start": {"a": 0, "b": 0}}, "start", "at least one weight must be > 0"),
        ({"start": {"a": 1}}, "start", "`start` leaves out b; give a weight for each of a, b"),
        ({"end": {"a": 1, "b": 1, "c": 1}}, "end", "`end` names 'c', which is not trained on"),
        (
            {"stages": [{"at": 0.5, "weights": {"b": 1}}]},
            "stages",
            "the stage at 0.5 leaves out a; give a weight for each",
        ),
    ],
)
def test_mistakes_are_sentences(options, option, message):
    with pytest.raises(OptionError) as caught:
        new(**options).check(make_objectives("a", "b"))
    assert message in str(caught.value)
    assert caught.value.option == option


def test_a_search_takes_the_ends_and_says_what_there_is_instead_of_a_preference():
    text, source = bundled.read("arithmetic")
    catalogue = plugins.load()
    text = text.replace("weighting: fixed", "weighting: schedule")
    with pytest.raises(StudyError, match=r"one can search: weighting\.start, weighting\.end"):
        load(text, source, catalogue)
    ends = "weighting.start: simplex\n    weighting.end: simplex"
    study = load(text.replace("weighting.preference: simplex", ends), source, catalogue)
    names = ("accuracy", "conciseness", "clarity")
    assert study.space["weighting.start"] == study.space["weighting.end"] == Simplex(names)
    start = {"accuracy": 0.2, "conciseness": 0.2, "clarity": 0.6}
    changed = with_values(study, {"weighting.start": start})
    assert changed.new_weighting().start == start
    assert set(changed.preference.values()) == {1 / 3}
