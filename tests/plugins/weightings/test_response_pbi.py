"""PBI per completion: along the ray and off it."""

from __future__ import annotations

import math

import pytest
import torch
from weighting_properties import (
    FINITE,
    LEAVES_NAN_ALONE,
    ONE_OBJECTIVE,
    PERMUTES,
    RESUMES,
    UNIT_FREE,
    claims,
)

from moalign.testing.steps import make_step
from moalign_plugins.weightings.response_pbi import ResponsePbi

ONE = ONE_OBJECTIVE.without(
    "tiny scores",
    "scores of unlike scales",
    "one after the other",
    because="1 minus a tiny score is 1 in float32",
)

test_properties = claims(ResponsePbi, FINITE, PERMUTES, ONE, RESUMES, UNIT_FREE, LEAVES_NAN_ALONE)


def scores_of(*rows, weighting=None, **options):
    step = make_step(torch.tensor([rows]), **options)
    return (weighting or ResponsePbi()).weigh(step).values_PG[0].tolist()


def test_along_and_off_the_ray():
    found = scores_of((0.2, 0.5), (0.4, 0.4), weighting=ResponsePbi(penalty=5.0))
    assert found == pytest.approx([-(1.3 + 5 * 0.3) / math.sqrt(2), -1.2 / math.sqrt(2)])
    plain = scores_of((0.2, 0.5), (0.4, 0.4), weighting=ResponsePbi(penalty=0.0))
    assert plain == pytest.approx([-1.3 / math.sqrt(2), -1.2 / math.sqrt(2)])


def test_a_balanced_completion_can_beat_a_better_one():
    better, balanced = scores_of((0.9, 0.5), (0.5, 0.5), weighting=ResponsePbi(penalty=5.0))
    assert balanced > better


def test_by_default_a_good_completion_is_worth_more_than_a_useless_one():
    good, useless = scores_of((1.0, 0.3, 1.0), (0.0, 0.0, 0.0))
    assert good > useless
    published = scores_of((1.0, 0.3, 1.0), (0.0, 0.0, 0.0), weighting=ResponsePbi(penalty=5.0))
    assert published[0] < published[1]


@pytest.mark.parametrize(("ray", "on_it"), [("inverse", 0), ("weights", 1)])
def test_which_ray(ray, on_it):
    # Regrets (.3, .6) and (.6, .3); a has twice the preference.
    rows = ((0.7, 0.4), (0.4, 0.7))
    found = scores_of(*rows, weighting=ResponsePbi(ray=ray), preference={"a": 2, "b": 1})
    assert found[on_it] == pytest.approx(-math.hypot(0.3, 0.6))
    assert found[1 - on_it] < found[on_it]


def test_a_penalty_too_small_for_the_ray_is_told():
    step = make_step(torch.tensor([((0.7, 0.4), (0.4, 0.7))]), preference={"a": 2, "b": 1})
    assert "response-pbi: with `ray: inverse`" in ResponsePbi(penalty=0.5).weigh(step).notes[0]
    assert ResponsePbi().weigh(step).notes == ()
