"""Max-min weights: the lowest mean, hard and smooth."""

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
    SHIFT_FREE,
    SIMPLEX,
    UNIT_FREE,
    WORST_FIRST,
    claims,
)

from moalign.testing.steps import make_step
from moalign_plugins.weightings.maxmin import Maxmin

test_properties = claims(
    Maxmin,
    FINITE,
    SIMPLEX,
    PERMUTES,
    ONE_OBJECTIVE,
    RESUMES,
    SHIFT_FREE,
    UNIT_FREE,
    LEAVES_NAN_ALONE,
    DUPLICATE_SHARES,
    WORST_FIRST,
    FROZEN(lambda: Maxmin(temperature=1e30), uniform=True).without(
        "one objective missing",
        "one objective left",
        "nothing applies",
        because="an objective that was never seen has no weight",
    ),
)


def step_at(*means: float, **options):
    return make_step(torch.tensor(means).expand(1, 2, -1).clone(), **options)


@pytest.mark.parametrize("temperature", [0.0, 0.05])
def test_the_lowest_takes_all(temperature):
    found = Maxmin(temperature=temperature).weigh(step_at(0.2, 0.9))
    assert found.values.tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
    assert found.metrics["scalarised"] == pytest.approx(0.2, abs=1e-6)


def test_ties_share_equally():
    assert Maxmin(temperature=0.0).weigh(step_at(0.4, 0.4, 0.9)).values.tolist() == [0.5, 0.5, 0]


def test_smooth_weights():
    found = Maxmin(temperature=0.5).weigh(step_at(0.2, 0.9)).values
    assert float(found[0] / found[1]) == pytest.approx(math.exp(0.7 / 0.5), rel=1e-5)
    rule_of_thumb = Maxmin().weigh(step_at(0.4, 0.5)).values
    assert float(rule_of_thumb[0] / rule_of_thumb[1]) == pytest.approx(7.4, abs=0.1)
    uniform = Maxmin(temperature=1e9).weigh(step_at(0.2, 0.9, 0.4)).values
    torch.testing.assert_close(uniform, torch.full((3,), 1 / 3))


def test_a_running_mean_does_not_follow_every_batch():
    weighting = Maxmin(temperature=0.0)
    for _ in range(10):
        weighting.weigh(step_at(0.4, 0.5))
    assert weighting.weigh(step_at(0.6, 0.5)).values.tolist() == [1.0, 0.0]
    assert Maxmin(temperature=0.0, decay=0.0).weigh(step_at(0.6, 0.5)).values.tolist() == [0, 1]
