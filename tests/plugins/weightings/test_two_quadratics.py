"""Two quadratics that conflict, without a model: who lowers an objective, and where it ends.

f_1 = -|theta - (1, 0)|^2 / 2 and f_2 = -STEEP |theta - (-1, 0)|^2 / 2. The Pareto set is the line
between the optima. The mean gradient is that of the steep one, and gives up the other for it.
"""

from __future__ import annotations

import pytest
import torch
from gradients import step_of

from moalign.components import Weighting
from moalign.plugins import load

CATALOGUE = load()
STEEP = 25.0
START = (0.0, 2.0)


def gradients_at(theta):
    """Gradients to ascend, [2, 2]."""
    return torch.stack(
        [torch.tensor([1.0, 0.0]) - theta, STEEP * (torch.tensor([-1.0, 0.0]) - theta)]
    ).double()


def named(name: str, **options) -> Weighting:
    return CATALOGUE.build(Weighting, {name: options})


def climb(weighting, preference=None, steps=150, rate=0.05):
    """Return where steps of one length end, and the least that one did for each objective.

    What a step does to an objective, to first order, is in units of both their lengths.
    """
    theta, worst = torch.tensor(START).double(), [1.0, 1.0]
    for index in range(steps):
        gradients = gradients_at(theta)
        found = weighting.weigh(step_of(gradients, preference, index))
        direction = found.values.double() @ gradients
        size = float(direction.norm())
        if float(found.gain) == 0 or size < 1e-3:
            break
        gains = (gradients @ direction) / (gradients.norm(dim=1) * size)
        worst = [min(w, g) for w, g in zip(worst, gains.tolist(), strict=True)]
        theta = theta + rate * direction / max(size, 1.0)
    return theta, worst


METHODS = {
    "mgda": {}, "nash-mtl": {}, "upgrad": {}, "dual-proj": {}, "pcgrad": {}, "imtl-g": {},
    "aligned-mtl": {}, "cagrad": {"c": 1.0},
}  # fmt: skip


def test_the_mean_gradient_gives_up_the_flat_objective():
    theta, worst = climb(named("fixed"))
    assert worst[0] < -0.3
    assert theta[0] < -0.9


@pytest.mark.parametrize("name", ["mgda", "nash-mtl", "upgrad", "dual-proj", "pcgrad", "cagrad"])
def test_no_step_lowers_an_objective(name):
    theta, worst = climb(named(name, smoothing=0.0, **METHODS[name]))
    # Two gradients that are all but opposite leave rounding and the regularisation of a solver.
    assert min(worst) > -0.02
    assert abs(float(theta[1])) < 0.15
    assert -1 < float(theta[0]) < 1


@pytest.mark.parametrize("name", sorted(METHODS))
def test_it_comes_to_the_line_between_the_optima(name):
    theta, _ = climb(named(name, smoothing=0.0, **METHODS[name]))
    g, h = gradients_at(theta)
    assert float(g @ h / (g.norm() * h.norm())) < -0.9


def test_cagrad_may_lower_one_where_conflict_is_strong_and_c_small():
    gradients = torch.tensor([(1.0, 0.0), (-10.0, 1.0)]).double()
    lowered = {}
    for c in (0.4, 1.0):
        found = named("cagrad", c=c).weigh(step_of(gradients))
        direction = found.values.double() * found.metrics["coefficients"] @ gradients
        lowered[c] = float((gradients @ direction)[0])
    assert lowered[0.4] == pytest.approx(-2.7, abs=0.05)
    assert lowered[1.0] >= -1e-6


@pytest.mark.parametrize("name", ["mgda", "nash-mtl", "upgrad", "dual-proj"])
def test_three_objectives_gain_together_or_not_at_all(name):
    # A third one whose optimum is above the line: the Pareto set is the triangle.
    corners = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]).double()
    weighting, theta = named(name, smoothing=0.0), torch.tensor([3.0, 2.0]).double()
    values = -(corners - theta).square().sum(1)
    for index in range(150):
        gradients = corners - theta
        found = weighting.weigh(step_of(gradients, index=index))
        move = 0.05 * float(found.gain) * (found.values.double() @ gradients)
        theta = theta + move
        before, values = values, -(corners - theta).square().sum(1)
        assert (values >= before - move.square().sum() - 1e-6).all()  # the square is curvature
    inside = theta[1] >= -0.05 and theta[1] <= 1.05 - theta[0].abs()
    assert inside
