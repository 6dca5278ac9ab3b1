"""Common ascent under a held-out preference: closed forms, limits, hostile gradients."""

from __future__ import annotations

import math

import pytest
import torch
from weighting_properties import (
    DUPLICATE_SHARES,
    FINITE,
    LEAVES_NAN_ALONE,
    NO_COMMON_DESCENT_LOST,
    ONE_OBJECTIVE,
    PERMUTES,
    RESUMES,
    SCALE_FREE,
    SIMPLEX,
    claims,
)

from moalign.errors import NonFiniteError
from moalign.maths.gramian import dual_projection
from moalign.testing.steps import make_objectives, make_step
from moalign_plugins.weightings.pareto_direction import ParetoDirection

test_properties = claims(
    ParetoDirection,
    FINITE,
    SIMPLEX,
    PERMUTES,
    RESUMES,
    ONE_OBJECTIVE,
    SCALE_FREE,
    LEAVES_NAN_ALONE,
    DUPLICATE_SHARES,
)
test_properties_of_single_steps = claims(
    lambda: ParetoDirection(smoothing=0.0), NO_COMMON_DESCENT_LOST
)


def step_of(gradients, probe, **options):
    rows = torch.tensor([*gradients, probe]).double()
    objectives = make_objectives(*"abcdef"[: len(gradients)])
    return make_step(objectives=objectives, gram=rows @ rows.T, **options)


def weigh(gradients, probe, *, preference=None, **options):
    return ParetoDirection(**options).weigh(step_of(gradients, probe, preference=preference))


def close(found, expected):
    torch.testing.assert_close(found.values, torch.tensor(expected), atol=1e-5, rtol=0)


def test_without_conflict_the_weights_are_the_tilted_preference():
    found = weigh([(1.0, 0.0), (0.0, 3.0)], (0.6, 0.8), preference={"a": 3, "b": 1}, sharpness=5.0)
    raised = [0.75 * math.exp(5 * 0.6), 0.25 * math.exp(5 * 0.8)]
    close(found, [w / sum(raised) for w in raised])
    assert found.metrics["agreement/a"] == pytest.approx(0.6)
    assert found.metrics["preference/b"] == pytest.approx(raised[1] / sum(raised))


def test_under_conflict_nobody_loses():
    # q is almost all on a; b, which a would worsen by 1, gets half of a's weight to stay even.
    found = weigh([(1.0, 0.0), (-1.0, 1.0)], (1.0, 0.0), sharpness=50.0)
    close(found, [2 / 3, 1 / 3])
    # The mean gradient (0, .5) conflicts with neither.
    close(weigh([(1.0, 0.0), (-1.0, 1.0)], (1.0, 0.0), sharpness=0.0), [0.5, 0.5])


@pytest.mark.parametrize("seed", range(4))
def test_deaf_to_the_held_out_gradient_it_is_the_projected_mean(seed):
    gradients = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)).double()
    probe = torch.ones(4).double()
    found = weigh(gradients.tolist(), probe.tolist(), sharpness=0.0).values.double()
    expected = dual_projection(gradients @ gradients.T)
    torch.testing.assert_close(found, expected / expected.sum(), atol=1e-6, rtol=0)


def test_it_turns_towards_the_held_out_gradient():
    gradients, probe = [(1.0, 0.1, 0.0), (-0.2, 1.0, 0.0), (0.0, -0.3, 1.0)], (0.2, 1.0, 0.1)
    heard = []
    for sharpness in (0.0, 0.5, 1.0):
        weights = weigh(gradients, probe, sharpness=sharpness).values.double()
        direction = weights @ torch.tensor(gradients).double()
        held_out = torch.tensor(probe).double()
        heard.append(float(torch.cosine_similarity(direction, held_out, dim=0)))
    assert heard == sorted(heard)
    assert heard[-1] > heard[0] + 0.2


def test_the_average_outlasts_a_noisy_step():
    weighting = ParetoDirection(smoothing=0.9, sharpness=3.0)
    for _ in range(20):
        weighting.weigh(step_of([(1.0, 0.0), (0.0, 1.0)], (1.0, 0.0)))
    found = weighting.weigh(step_of([(1.0, 0.0), (0.0, 1.0)], (0.0, 1.0)))
    assert found.values[0] > 0.8


def test_opposite_gradients_stand_still_and_say_so():
    found = weigh([(1.0, 0.0), (-1.0, 0.0)], (1.0, 0.0))
    assert found.gain == 0.0
    assert "gradients cancel" in found.notes[0]


def test_gradients_that_are_missing():
    preference = {"a": 3, "b": 1}
    close(weigh([(0.0, 0.0), (0.0, 0.0)], (1.0, 0.0), preference=preference), [0.75, 0.25])
    close(weigh([(1.0, 0.0), (0.0, 1.0)], (0.0, 0.0), preference=preference), [0.75, 0.25])
    close(weigh([(1.0, 0.0), (0.0, 0.0)], (1.0, 0.0), preference=preference), [1.0, 0.0])
    with pytest.raises(NonFiniteError, match="gradient of objective b is not finite"):
        weigh([(1.0, 0.0), (math.nan, 0.0)], (1.0, 0.0))
    with pytest.raises(NonFiniteError, match="on the steer split is not finite"):
        weigh([(1.0, 0.0), (0.0, 1.0)], (math.inf, 0.0))
