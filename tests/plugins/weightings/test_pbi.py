"""PBI weights: to the ray and along it, with what is ahead pushed down."""

from __future__ import annotations

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
    UNIT_FREE,
    WORST_FIRST,
    claims,
)

from moalign.maths.scalarisers import direction, pbi
from moalign.testing.steps import make_step
from moalign_plugins.weightings.pbi import Pbi

test_properties = claims(
    Pbi,
    FINITE,
    PERMUTES,
    ONE_OBJECTIVE,
    RESUMES,
    UNIT_FREE,
    LEAVES_NAN_ALONE,
    DUPLICATE_SHARES,
    WORST_FIRST,
)


def step_at(*means: float, **options):
    return make_step(torch.tensor(means).expand(1, 2, -1).clone(), **options)


def test_what_is_ahead_of_the_ray_is_pushed_down():
    found = Pbi(penalty=5.0).weigh(step_at(0.2, 0.5))
    assert found.values.tolist() == pytest.approx([6 / 10, -4 / 10])
    d1, d2 = 1.3 / math.sqrt(2), 0.3 / math.sqrt(2)
    assert found.metrics["scalarised"] == pytest.approx(-(d1 + 5 * d2))
    gentle = Pbi(penalty=0.5).weigh(step_at(0.2, 0.5))
    assert gentle.values.tolist() == pytest.approx([0.75, 0.25])
    at_default = Pbi().weigh(step_at(0.2, 0.5))
    assert at_default.values.tolist() == pytest.approx([1.0, 0.0])
    assert Pbi().declares == {"signed", "unnormalised"}


def test_the_default_penalty_is_twice_what_a_straight_front_needs_and_no_less_than_1():
    # tan of the angle between (1 / w_k) and (1, 1): .4 at 3:7 and .8 at 1:9.
    for preference, penalty in (((3, 7), 1.0), ((1, 9), 1.6)):
        step = step_at(0.2, 0.5, preference=dict(zip("ab", preference, strict=True)))
        default, same = Pbi().weigh(step), Pbi(penalty=penalty).weigh(step)
        torch.testing.assert_close(default.values, same.values)
        assert default.metrics["scalarised"] == pytest.approx(same.metrics["scalarised"])
        assert default.notes == ()


def test_the_larger_the_penalty_the_less_it_goes_along_the_ray():
    """Beside the ray, on either side of it: what is left when the two are averaged."""
    shares = []
    for penalty in (1.0, 2.0, 5.0):
        either = [Pbi(penalty=penalty).weigh(step_at(*m)).values for m in ((0.4, 0.5), (0.5, 0.4))]
        shares.append(float(sum(either).sum()) / 2)
    assert shares == pytest.approx([1.0, 0.5, 0.2])


def test_on_the_ray_it_goes_along_it():
    assert Pbi().weigh(step_at(0.4, 0.4)).values.tolist() == pytest.approx([0.5, 0.5])
    # Twice the preference, half the regret.
    inverse = Pbi().weigh(step_at(0.7, 0.4, preference={"a": 2, "b": 1}))
    assert inverse.values.tolist() == pytest.approx([1 / 3, 2 / 3])
    published = Pbi(ray="weights").weigh(step_at(0.4, 0.7, preference={"a": 2, "b": 1}))
    assert published.values.tolist() == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize(("ray", "ratio"), [("inverse", 0.5), ("weights", 2.0)])
def test_it_leads_to_the_ray(ray, ratio):
    weighting, means = Pbi(ray=ray, decay=0.0), [0.1, 0.1]
    for _ in range(300):
        step = step_at(*means, preference={"a": 2, "b": 1})
        weights = weighting.weigh(step).values.tolist()
        # A front on which what one gains the other loses: only the difference moves.
        move = 0.002 * (weights[0] - weights[1])
        means = [means[0] + move, means[1] - move]
    assert (1 - means[0]) / (1 - means[1]) == pytest.approx(ratio, abs=0.02)


FRONTS = {"line": lambda x: 1 - x, "circle": lambda x: (1 - x * x).sqrt(), "concave": lambda x: (
    1 - x.sqrt()).square()}  # fmt: skip


@pytest.mark.parametrize("front", FRONTS)
def test_what_is_preferred_is_better_at_the_best_point_of_a_front(front):
    x = torch.linspace(0, 1, 1001, dtype=torch.float64)
    regrets = 1 - torch.stack([x, FRONTS[front](x)], -1)

    shares = [torch.tensor([share, 1 - share]) for share in (0.1, 0.3, 0.5, 0.7, 0.9)]

    def best(ray, penalty):
        return [float(x[pbi(regrets, direction(w, ray), penalty).argmax()]) for w in shares]

    by_default = [float(x[Pbi().value(regrets, w).argmax()]) for w in shares]
    for penalty in (2.0, 5.0):
        assert best("inverse", penalty) == sorted(best("inverse", penalty))
    assert by_default == sorted(by_default)
    # Small penalties turn it round, which is what the note is about.
    assert best("inverse", 0.3)[0] > best("inverse", 0.3)[-1]


def test_a_penalty_too_small_for_the_ray_is_told():
    preference = {"a": 2, "b": 1}
    note = Pbi(penalty=0.5).weigh(step_at(0.2, 0.5, preference=preference)).notes[0]
    assert "weighting pbi: with `ray: inverse` and a `penalty` of 0.5" in note
    assert note.endswith("set `penalty` to 0.67 or more")  # 2 tan of the angle: 2 (2 - 1) / (2 + 1)
    assert Pbi(penalty=0.67).weigh(step_at(0.2, 0.5, preference=preference)).notes == ()
    assert Pbi(penalty=0.5).weigh(step_at(0.2, 0.5)).notes == ()
    published = Pbi(penalty=0.5, ray="weights")
    assert published.weigh(step_at(0.2, 0.5, preference=preference)).notes == ()
    assert Pbi(penalty=0.5).weigh(step_at(0.2)).notes == ()


def test_a_preference_of_zero_frees_nothing():
    step = step_at(0.2, 0.3, preference={"a": 0, "b": 1})
    for ray in ("inverse", "weights"):
        found = Pbi(ray=ray).weigh(step)
        assert found.values.isfinite().all()
        assert (found.values.abs() > 0.1).all()
        assert found.notes == ()
