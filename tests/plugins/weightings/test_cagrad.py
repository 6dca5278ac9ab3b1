"""The best worst gain near the mean gradient."""

from __future__ import annotations

import pytest
import torch
from gradients import (
    CONFLICT,
    OPPOSITE,
    TORCHJD,
    random_gradients,
    resumes,
    shares,
    step_of,
    weights,
)
from weighting_properties import (
    DUPLICATE_SHARES,
    FINITE,
    FROZEN,
    NO_COMMON_DESCENT_LOST,
    ONE_OBJECTIVE,
    PERMUTES,
    RESUMES,
    SCALE_FREE,
    SIMPLEX,
    claims,
)

from moalign_plugins.weightings.cagrad import CAGrad
from moalign_plugins.weightings.mgda import MGDA

GENTLE = FROZEN(lambda: CAGrad(c=0.0)).without(
    "one objective missing", "one objective left", "one gradient zero", "one gradient left",
    "one after the other",
    because="an objective without gradient gets weight 0, which changes nothing but the length",
)  # fmt: skip

test_properties = claims(
    CAGrad, FINITE, SIMPLEX, PERMUTES, ONE_OBJECTIVE, RESUMES, SCALE_FREE, DUPLICATE_SHARES, GENTLE
)  # fmt: skip
test_properties_of_large_c = claims(lambda: CAGrad(c=1.0, smoothing=0), NO_COMMON_DESCENT_LOST)


def test_published_values():
    assert weights(CAGrad(c=0.4), CONFLICT) == pytest.approx(shares(0.7, 0.5), abs=1e-6)
    assert weights(CAGrad(c=0.5), TORCHJD) == pytest.approx(shares(0.7041, 0.5), abs=1e-4)


@pytest.mark.parametrize(("c", "least", "most"), [(0.4, -2.71, -2.68), (1.0, 0.0, 0.1)])
def test_it_may_lower_an_objective_for_c_below_one(c, least, most):
    gradients = torch.tensor([(1.0, 0.0), (-10.0, 1.0)])
    returned = CAGrad(c=c).weigh(step_of(gradients))
    direction = returned.values * returned.metrics["coefficients"] @ gradients
    assert least <= float(direction[0]) <= most


@pytest.mark.parametrize("seed", range(5))
def test_the_worst_gain_grows_with_c(seed):
    gradients = random_gradients(seed)
    worst = []
    for c in (0.0, 0.2, 0.4, 0.8):
        returned = CAGrad(c=c).weigh(step_of(gradients))
        coefficients = returned.values.double() * returned.metrics["coefficients"]
        worst.append(float((gradients @ (coefficients @ gradients)).min()))
    assert worst == sorted(worst)
    assert worst[-1] > worst[0]


@pytest.mark.parametrize("c", [0.0, 0.4, 1.0, 10.0])
def test_what_is_preferred_ends_nearer_its_optimum_whatever_c(c):
    """Two quadratics, best at (1, 0) and (-1, 0)."""
    ends = []
    for share in (0.2, 0.5, 0.8):
        weighting, theta = CAGrad(c=c), torch.tensor([0.0, 1.0], dtype=torch.float64)
        for _ in range(40):
            gradients = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double() - theta
            found = weighting.weigh(step_of(gradients, {"a": share, "b": 1 - share}))
            theta = theta + 0.1 * found.gain * (found.values.double() @ gradients)
        ends.append(float(theta[0]))
    assert ends[1] == pytest.approx(0.0, abs=1e-6)
    assert ends[0] == pytest.approx(-ends[2], abs=1e-6)
    assert ends[2] > 0.1


def test_a_large_c_is_the_shortest_combination_under_a_preference_too():
    gradients, preference = random_gradients(3), {"a": 0.6, "b": 0.3, "c": 0.1}
    found = torch.tensor(weights(CAGrad(c=1e4), gradients, preference)).double() @ gradients
    expected = torch.tensor(weights(MGDA(power=0), gradients, preference)).double() @ gradients
    assert float(torch.cosine_similarity(found, expected, 0)) == pytest.approx(1.0, abs=1e-5)


def test_opposite_objectives_stop_it_and_only_them():
    assert CAGrad().weigh(step_of(OPPOSITE)).gain == 0.0
    both = CAGrad().weigh(step_of([(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0)]))
    assert both.gain == 1.0
    assert both.values.tolist() == pytest.approx([1 / 3] * 3)


def test_a_small_trace_is_no_threshold():
    tiny = [[1e-4 * value for value in row] for row in CONFLICT]
    found = CAGrad().weigh(step_of(tiny))
    assert found.gain == 1.0
    assert found.values.tolist() == pytest.approx(shares(0.7, 0.5))


def test_resume():
    assert resumes(CAGrad(), CAGrad())
