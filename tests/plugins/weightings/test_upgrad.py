"""The mean of the gradients, each projected onto the cone that harms nobody."""

from __future__ import annotations

import pytest
from gradients import AGREEING, CONFLICT, OPPOSITE, TORCHJD, resumes, shares, step_of, weights
from weighting_properties import (
    DUPLICATE_SHARES,
    FINITE,
    NO_COMMON_DESCENT_LOST,
    NO_CONFLICT_NO_CHANGE,
    ONE_OBJECTIVE,
    PERMUTES,
    PREFERENCE_SCALES_ROWS,
    RESUMES,
    SCALE_FREE,
    SIMPLEX,
    claims,
)

from moalign_plugins.weightings.upgrad import UPGrad

test_properties = claims(
    UPGrad, FINITE, SIMPLEX, PERMUTES, ONE_OBJECTIVE, RESUMES, SCALE_FREE, DUPLICATE_SHARES,
    NO_CONFLICT_NO_CHANGE
)  # fmt: skip
test_properties_of_each_step = claims(
    lambda: UPGrad(smoothing=0), NO_COMMON_DESCENT_LOST, PREFERENCE_SCALES_ROWS
)


def test_published_values():
    assert weights(UPGrad(), CONFLICT) == pytest.approx(shares(1, 0.75))
    assert weights(UPGrad(), TORCHJD) == pytest.approx(shares(1.11111, 0.78947), abs=1e-5)


def test_the_sum_of_the_coefficients_is_recorded():
    assert UPGrad().weigh(step_of(CONFLICT)).metrics["coefficients"] == pytest.approx(1.75)


def test_without_conflict_it_is_the_preference():
    preference = {"a": 5, "b": 3, "c": 2}
    assert weights(UPGrad(), AGREEING, preference) == pytest.approx([0.5, 0.3, 0.2])


def test_the_preference_multiplies_each_projection():
    # The projections are (.5, .5) = g_1 + g_2 / 2 and (0, 1) = g_1 + g_2.
    found = weights(UPGrad(), CONFLICT, {"a": 3, "b": 1})
    assert found == pytest.approx(shares(3 + 1, 1.5 + 1))


def test_opposite_objectives_stop_it_and_only_them():
    assert UPGrad().weigh(step_of(OPPOSITE)).gain == 0.0
    both = UPGrad().weigh(step_of([(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0)]))
    assert both.gain == 1.0
    assert both.values.tolist() == pytest.approx(shares(2, 2, 1))


def test_a_small_trace_is_no_threshold():
    tiny = [[1e-4 * value for value in row] for row in CONFLICT]
    assert weights(UPGrad(), tiny) == pytest.approx(shares(1, 0.75))


def test_resume():
    assert resumes(UPGrad(), UPGrad())
