"""The shortest combination of the gradients."""

from __future__ import annotations

import pytest
import torch
from gradients import (
    CONFLICT,
    OPPOSITE,
    ORTHOGONAL,
    TORCHJD,
    random_gradients,
    resumes,
    shares,
    step_of,
    weights,
)
from weighting_properties import (
    COPIES_KEEP_DIRECTION,
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

from moalign_plugins.weightings.mgda import MGDA

PUBLISHED = {"power": 0, "smoothing": 0}

test_properties = claims(MGDA, FINITE, SIMPLEX, PERMUTES, ONE_OBJECTIVE, RESUMES, SCALE_FREE,
                         DUPLICATE_SHARES)  # fmt: skip
test_properties_of_each_step = claims(
    lambda: MGDA(smoothing=0),
    NO_COMMON_DESCENT_LOST,
    COPIES_KEEP_DIRECTION.without(
        "gradients on a line",
        because="with lengths divided out all three are equal, so a copy changes d's length only",
    ),
)
test_properties_as_published = claims(
    lambda: MGDA(**PUBLISHED), FINITE, SIMPLEX, PERMUTES, SCALE_FREE, DUPLICATE_SHARES,
    NO_COMMON_DESCENT_LOST, COPIES_KEEP_DIRECTION
)  # fmt: skip


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [
        (ORTHOGONAL, [0.8, 0.2]),
        (CONFLICT, [0.6, 0.4]),
        (((1.0, 0.0), (2.0, 1.0)), [1.0, 0.0]),
        (TORCHJD, [0.6, 0.4]),
    ],
)
def test_published_values(gradients, expected):
    assert weights(MGDA(**PUBLISHED), gradients) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("power", "expected"), [(0, [4, 1]), (1, [2, 1]), (2, [1, 1])])
def test_power_decides_how_much_a_short_gradient_counts(power, expected):
    assert weights(MGDA(power=power), ORTHOGONAL) == pytest.approx(shares(*expected))


@pytest.mark.parametrize("power", [0, 1, 2])
def test_what_counts_gains_in_proportion_to_the_preference(power):
    preference = {"a": 0.6, "b": 0.3, "c": 0.1}
    gradients = random_gradients(3)
    found = torch.tensor(weights(MGDA(power=power), gradients, preference), dtype=torch.float64)
    direction = found @ gradients
    assert direction.norm() > 0.01
    target = torch.tensor([*preference.values()]) * gradients.norm(dim=1) ** power
    gains = gradients @ direction / target
    counts = found > 1e-6
    assert counts.sum() >= 2
    assert gains[counts].max() == pytest.approx(float(gains[counts].min()), rel=1e-4)
    assert gains.min() >= gains[counts].min() - 1e-6


def test_a_larger_preference_gives_more_weight_and_zero_gives_none():
    assert weights(MGDA(), ORTHOGONAL, {"a": 3, "b": 1}) == pytest.approx(shares(6, 1))
    assert weights(MGDA(), CONFLICT, {"a": 0, "b": 1}) == [0.0, 1.0]


def test_opposite_objectives_stop_it():
    found = MGDA().weigh(step_of(OPPOSITE))
    assert found.gain == 0.0
    assert "weighting mgda: the objectives' gradients cancel" in found.notes[0]


def test_resume():
    assert resumes(MGDA(), MGDA())
