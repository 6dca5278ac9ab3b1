"""What the base class of Gram weightings does for every method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from weighting_properties import FINITE, ONE_OBJECTIVE, PERMUTES, RESUMES, SIMPLEX, claims

from moalign import GramWeighting
from moalign.errors import NonFiniteError
from moalign.maths.gramian import norms
from moalign.testing.steps import make_objectives, make_step


class Inverse(GramWeighting):
    """Coefficients 1 / |g|, and a record of what it was asked."""

    name: ClassVar[str] = "inverse"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.asked: list[Tensor] = []

    def coefficients(self, gram_KK: Tensor) -> Tensor:
        self.asked.append(gram_KK)
        return torch.where(norms(gram_KK) > 0, 1 / norms(gram_KK), 0.0)


class Given(GramWeighting):
    """Coefficients as given."""

    name: ClassVar[str] = "given"
    declares = frozenset({"signed", "unnormalised"})

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = values

    def coefficients(self, gram_KK: Tensor) -> Tensor:
        return torch.tensor(self.values, dtype=torch.float64)


test_properties = claims(Inverse, FINITE, SIMPLEX, PERMUTES, ONE_OBJECTIVE, RESUMES)


def gram_of(*gradients: tuple[float, ...]) -> Tensor:
    g = torch.tensor(gradients, dtype=torch.float64)
    return g @ g.T


def step_of(gram: Tensor, preference: Mapping[str, float] | None = None, **options):
    objectives = make_objectives(*"abcdef"[: len(gram)])
    return make_step(objectives=objectives, gram=gram, preference=preference, **options)


ORTHOGONAL = gram_of((1.0, 0.0), (0.0, 4.0))


def test_coefficients_are_divided_by_their_sum_which_is_recorded():
    found = Inverse().weigh(step_of(ORTHOGONAL))
    assert found.values.tolist() == pytest.approx([0.8, 0.2])
    assert found.values.dtype == torch.float32
    assert found.gain == 1.0
    assert found.metrics["coefficients"] == pytest.approx(1.25)


def test_signed_coefficients_are_divided_by_the_sum_of_magnitudes():
    found = Given(3.0, -1.0).weigh(step_of(ORTHOGONAL))
    assert found.values.tolist() == pytest.approx([0.75, -0.25])


def test_one_objective_has_weight_one_and_no_matrix_is_asked_for():
    step = make_step(objectives=make_objectives("a"))
    with pytest.raises(KeyError):
        step.gram()
    assert Inverse().weigh(step).values.tolist() == [1.0]


def test_the_preference_multiplies_gradients_and_coefficients():
    weighting = Inverse(preference={"a": 3, "b": 1}, smoothing=0)
    found = weighting.weigh(step_of(ORTHOGONAL, {"a": 3, "b": 1}))
    # K p = (1.5, .5): lengths 1.5 and 2, coefficients (1 / 1.5, 1 / 2), multiplied back (1, .25).
    assert norms(weighting.asked[0]).tolist() == pytest.approx([1.5, 2.0])
    assert found.values.tolist() == pytest.approx([0.8, 0.2])


def test_an_objective_of_preference_zero_or_without_gradient_has_weight_zero():
    gram = gram_of((1.0, 0.0), (0.0, 2.0), (1.0, 1.0))
    values = Inverse().weigh(step_of(gram, {"a": 1, "b": 1, "c": 0})).values
    assert values.tolist() == pytest.approx([2 / 3, 1 / 3, 0.0])
    gram[1], gram[:, 1] = 0.0, 0.0
    found = Inverse().weigh(step_of(gram))
    assert found.values[1] == 0
    assert float(found.values.sum()) == pytest.approx(1)
    assert found.gain == 1.0


def test_without_any_gradient_the_weights_are_the_preference():
    preference = {"a": 3, "b": 1}
    found = Inverse().weigh(step_of(torch.zeros(2, 2, dtype=torch.float64), preference))
    assert found.values.tolist() == [0.75, 0.25]
    assert (found.gain, found.notes) == (1.0, ())
    # All the gradient is that of an objective nobody wants.
    found = Inverse().weigh(step_of(gram_of((0.0,), (2.0,)), {"a": 1, "b": 0}))
    assert found.values.tolist() == [1.0, 0.0]


def test_gradients_that_cancel_change_nothing_and_say_so():
    weighting = Inverse()
    for size in (1e-9, 1.0, 1e9):
        found = weighting.weigh(step_of(size * gram_of((1.0, 0.0), (-2.0, 1e-5))))
        assert found.gain == 0.0
        assert found.notes == (
            "weighting inverse: the objectives' gradients cancel, so that no direction is better "
            "than another; steps at which they do change nothing (gain 0)",
        )
    found = Given(0.0, 0.0).weigh(step_of(ORTHOGONAL, {"a": 3, "b": 1}))
    assert found.values.tolist() == [0.75, 0.25]
    assert found.gain == 0.0
    assert Inverse().weigh(step_of(gram_of((1.0, 0.0), (-2.0, 1e-2)))).gain == 1.0


def test_the_metrics_say_how_much_gradients_conflict_and_whom_the_step_harms():
    found = Given(1.0, 1.0).weigh(step_of(gram_of((1.0, 0.0), (-3.0, 3.0))))
    # d = (-1, 1.5): its cosine with the first gradient is -1 / sqrt(3.25).
    assert found.metrics["gradient_cosine"] == pytest.approx(-math.sqrt(0.5))
    assert found.metrics["update_cosine"] == pytest.approx(-2 / math.sqrt(13))


def test_smoothing_averages_over_steps_and_zero_does_not():
    other = gram_of((4.0, 0.0), (0.0, 1.0))
    smooth, sharp = Inverse(), Inverse(smoothing=0)
    for weighting in (smooth, sharp):
        weighting.weigh(step_of(ORTHOGONAL))
    assert sharp.weigh(step_of(other)).values.tolist() == pytest.approx([0.2, 0.8])
    # Log lengths, of weights .9 / 1.9 and 1 / 1.9.
    one, two = (4 ** (1 / 1.9), 4 ** (0.9 / 1.9))
    assert smooth.weigh(step_of(other)).values.tolist() == pytest.approx(
        [two / (one + two), one / (one + two)]
    )


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_smoothing_goes_on_bit_for_bit(stop):
    generator = torch.Generator().manual_seed(0)
    grams = [gram_of(*torch.randn(3, 5, generator=generator).tolist()) for _ in range(6)]
    weighting, fresh = Inverse(), Inverse()
    for gram in grams[:stop]:
        weighting.weigh(step_of(gram))
    fresh.load_state_dict(weighting.state_dict())
    for gram in grams[stop:]:
        left, right = (w.weigh(step_of(gram)) for w in (weighting, fresh))
        assert torch.equal(left.values, right.values)
        assert left.metrics == right.metrics


def test_smoothing_lessens_the_noise_of_the_weights():
    generator = torch.Generator().manual_seed(0)
    true = torch.tensor([[1.0, 0.0, 0.0], [0.3, 0.8, 0.0]])
    spread = {}
    for smoothing in (0.0, 0.9):
        weighting, values = Inverse(smoothing=smoothing), []
        for _ in range(80):
            noisy = true + 0.3 * torch.randn(true.shape, generator=generator)
            values.append(weighting.weigh(step_of(gram_of(*noisy.tolist()))).values[0])
        spread[smoothing] = float(torch.stack(values[20:]).std())
    assert spread[0.9] < 0.4 * spread[0.0]


def test_a_gradient_that_is_not_finite_is_named():
    nan, b = float("nan"), gram_of((1.0,), (1.0,), (1.0,))
    b[1], b[:, 1] = nan, nan
    with pytest.raises(NonFiniteError, match="the gradient of objective b is not finite"):
        Inverse().weigh(step_of(b))
    corner = gram_of((1.0,), (1.0,))
    corner[0, 1] = corner[1, 0] = float("inf")
    with pytest.raises(NonFiniteError, match="the gradient of objective a is not finite"):
        Inverse().weigh(step_of(corner))


def test_the_matrix_of_the_step_is_left_alone():
    gram = gram_of((1.0, 0.5), (0.0, 4.0))
    before = gram.clone()
    for _ in range(3):
        Inverse().weigh(step_of(gram, {"a": 3, "b": 1}))
    assert torch.equal(gram, before)
