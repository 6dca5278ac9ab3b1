"""The direction that bargaining objectives agree on."""

from __future__ import annotations

import math

import pytest
import torch
from gradients import (
    CONFLICT,
    OPPOSITE,
    ORTHOGONAL,
    random_gradients,
    resumes,
    shares,
    step_of,
    weights,
)
from weighting_properties import (
    DUPLICATE_SHARES,
    FINITE,
    NO_COMMON_DESCENT_LOST,
    ONE_OBJECTIVE,
    PERMUTES,
    RESUMES,
    SCALE_FREE,
    SIMPLEX,
    claims,
)

from moalign_plugins.weightings.nash_mtl import NashMTL

test_properties = claims(
    NashMTL, FINITE, SIMPLEX, PERMUTES, ONE_OBJECTIVE, RESUMES, SCALE_FREE, DUPLICATE_SHARES
)
test_properties_of_each_step = claims(lambda: NashMTL(smoothing=0), NO_COMMON_DESCENT_LOST)


def test_published_values():
    assert weights(NashMTL(), ORTHOGONAL) == pytest.approx(shares(1, 0.5))
    root = math.sqrt(2 + math.sqrt(2))
    assert weights(NashMTL(), CONFLICT) == pytest.approx(shares(root, root - 1 / root), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_preference_is_bargaining_power(seed):
    gradients, preference = random_gradients(seed), {"a": 5, "b": 3, "c": 2}
    found = torch.tensor(weights(NashMTL(), gradients, preference), dtype=torch.float64)
    gains = gradients @ (found @ gradients)
    assert gains.min() > 0
    assert shares(*(found * gains).tolist()) == pytest.approx([0.5, 0.3, 0.2], abs=1e-4)
    # No direction of the same length has a larger weighted product of gains.
    length, powers = float((found @ gradients).norm()), torch.tensor([0.5, 0.3, 0.2]).double()
    best = float(powers @ gains.log())
    generator = torch.Generator().manual_seed(seed)
    for _ in range(50):
        other = found @ gradients + 0.1 * length * torch.randn(5, generator=generator).double()
        others = gradients @ (other / other.norm() * length)
        assert others.min() <= 0 or float(powers @ others.log()) <= best + 1e-9


def test_a_preference_of_zero_leaves_the_table():
    assert weights(NashMTL(), CONFLICT, {"a": 0, "b": 1}) == [0.0, 1.0]


def test_copies_bargain_twice():
    found = weights(NashMTL(), [(2.0, 0.0), (2.0, 0.0), (0.0, 4.0)])
    assert found == pytest.approx(shares(math.sqrt(2) / 4, math.sqrt(2) / 4, 0.25))


@pytest.mark.parametrize("gradients", [OPPOSITE, [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0)]])
def test_without_an_agreement_nothing_changes(gradients):
    assert NashMTL().weigh(step_of(gradients)).gain == 0.0


def test_resume():
    assert resumes(NashMTL(), NashMTL())
