"""Scalarisers: golden values, limits, slopes against differences of values, what is left out."""

from __future__ import annotations

import math

import pytest
import torch

from moalign.maths.scalarisers import (
    LARGEST,
    augmented_chebyshev,
    augmented_chebyshev_slopes,
    chebyshev,
    chebyshev_slopes,
    direction,
    fill_within_groups,
    pbi,
    pbi_slopes,
    product,
    shares,
    soft_minimum,
    straight_penalty,
)

NAN = math.nan


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


HALVES = vector(0.5, 0.5)
REGRETS = vector(0.8, 0.5)


# --- Chebyshev -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("temperature", "value"), [(0.0, 0.4), (1.0, 1.02096), (0.1, 0.42014), (0.01, 0.40000)]
)
def test_published_values(temperature, value):
    assert float(-chebyshev(REGRETS, HALVES, temperature)) == pytest.approx(value, abs=5e-6)


def test_published_slopes():
    found = chebyshev_slopes(REGRETS, HALVES, 0.1)
    torch.testing.assert_close(found, vector(0.40879, 0.09121), atol=5e-6, rtol=0)
    torch.testing.assert_close(chebyshev_slopes(REGRETS, HALVES), vector(0.5, 0.0))


def test_only_chebyshev_reaches_what_no_weights_do():
    front_NK = torch.tensor([(1.0, 0.0), (0.0, 1.0), (0.4, 0.4)], dtype=torch.float64)
    values_N = chebyshev(1.0 - front_NK, HALVES)
    assert int(values_N.argmax()) == 2
    assert values_N.tolist() == pytest.approx([-0.5, -0.5, -0.3])
    for share in torch.linspace(0, 1, 101, dtype=torch.float64):
        linear_N = front_NK @ torch.stack([share, 1 - share])
        assert int(linear_N.argmax()) != 2


@pytest.mark.parametrize("temperature", [1e-300, 1e-3, 0.1, 10.0, 1e6])
def test_smooth_lies_above_the_maximum_by_at_most_its_bound(temperature):
    regrets_NK = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)).double()
    weights_K = vector(0.4, 0.3, 0.2, 0.1)
    excess_N = chebyshev(regrets_NK, weights_K) - chebyshev(regrets_NK, weights_K, temperature)
    assert (excess_N >= -1e-12).all()
    assert (excess_N <= temperature * math.log(4) * (1 + 1e-12) + 1e-12).all()


def test_ties_share_and_near_ties_within_rounding_too():
    torch.testing.assert_close(shares(vector(2.0, 2.0, 1.0), 0.0), vector(0.5, 0.5, 0.0))
    torch.testing.assert_close(shares(vector(2.0, 2.0 + 1e-7), 0.0), vector(0.5, 0.5))
    torch.testing.assert_close(shares(vector(2.0, 2.0 + 1e-5), 0.0), vector(0.0, 1.0))
    # The limit of the smooth slopes: w times an equal share.
    weights_K, regrets_K = vector(0.75, 0.25), vector(0.2, 0.6)
    hard, smooth = (chebyshev_slopes(regrets_K, weights_K, t) for t in (0.0, 1e-6))
    torch.testing.assert_close(hard, vector(0.375, 0.125))
    torch.testing.assert_close(smooth, hard)


def test_a_high_temperature_gives_the_weights():
    weights_K = vector(0.7, 0.2, 0.1)
    slopes_K = chebyshev_slopes(vector(0.9, 0.1, 0.4), weights_K, 1e9)
    torch.testing.assert_close(slopes_K / slopes_K.sum(), weights_K)


def test_beyond_the_ideal_the_formula_goes_on():
    assert float(chebyshev(vector(-0.2, -0.6), HALVES)) == pytest.approx(0.1)
    torch.testing.assert_close(chebyshev_slopes(vector(-0.2, -0.6), HALVES), vector(0.5, 0.0))


# --- slopes are the derivatives of values --------------------------------------------------------

WEIGHTS = vector(0.5, 0.3, 0.2)
INVERSE, PUBLISHED = direction(WEIGHTS, "inverse"), direction(WEIGHTS, "weights")
PAIRS = {
    "chebyshev": (lambda r: chebyshev(r, WEIGHTS), lambda r: chebyshev_slopes(r, WEIGHTS)),
    "smooth": (lambda r: chebyshev(r, WEIGHTS, 0.1), lambda r: chebyshev_slopes(r, WEIGHTS, 0.1)),
    "augmented": (
        lambda r: augmented_chebyshev(r, WEIGHTS, 0.05),
        lambda r: augmented_chebyshev_slopes(r, WEIGHTS, 0.05),
    ),
    "pbi": (lambda r: pbi(r, INVERSE, 5.0), lambda r: pbi_slopes(r, INVERSE, 5.0)),
    "published pbi": (lambda r: pbi(r, PUBLISHED, 2.0), lambda r: pbi_slopes(r, PUBLISHED, 2.0)),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("missing", [(), (1,), (0, 2)])
def test_slopes_are_differences_of_values(name, missing):
    value, slopes = PAIRS[name]
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        regrets_K = torch.randn(3, generator=generator).double()
        regrets_K[list(missing)] = NAN
        found_K = slopes(regrets_K)
        for k in range(3):
            if k in missing:
                assert found_K[k] == 0
                continue
            step_K = torch.zeros(3, dtype=torch.float64)
            step_K[k] = 1e-6
            rise = value(regrets_K - step_K) - value(regrets_K + step_K)
            assert float(found_K[k]) == pytest.approx(float(rise) / 2e-6, abs=1e-5)


@pytest.mark.parametrize("weights", [(0.5, 0.3, 0.2), (0.1, 0.1, 0.8), (0.3, 0.7)])
@pytest.mark.parametrize("ray", ["inverse", "weights"])
def test_from_the_straight_penalty_on_the_ray_is_best_on_a_straight_front(weights, ray):
    ray_K = direction(vector(*weights), ray)
    least = straight_penalty(ray_K)
    assert 0 < least < math.sqrt(len(weights) - 1)
    on_it_K = (len(weights) - 1) * ray_K / ray_K.sum()  # values of sum 1, so regrets of sum K - 1
    steps_NK = torch.randn(500, len(weights), generator=torch.Generator().manual_seed(0)).double()
    others_NK = on_it_K + 0.1 * (steps_NK - steps_NK.mean(1, keepdim=True))

    def holds(penalty):
        return bool((pbi(others_NK, ray_K, penalty) < pbi(on_it_K, ray_K, penalty)).all())

    assert holds(1.05 * least)
    assert not holds(0.8 * least)


def test_the_straight_penalty_is_at_most_the_root_of_the_other_objectives():
    assert straight_penalty(vector(0.2, 0.2, 0.2)) == pytest.approx(0.0, abs=1e-7)
    assert straight_penalty(vector(0.4)) == 0.0
    assert straight_penalty(direction(vector(0.3, 0.7), "inverse")) == pytest.approx(0.4)
    assert straight_penalty(vector(1.0, 0.0, 0.0)) == pytest.approx(math.sqrt(2))


# --- augmented -----------------------------------------------------------------------------------


def test_augmentation_prefers_the_one_that_is_not_dominated():
    good, better = vector(0.5, 0.5), vector(0.5, 0.2)
    assert chebyshev(good, HALVES) == chebyshev(better, HALVES)
    assert augmented_chebyshev(good, HALVES, 0.05) < augmented_chebyshev(better, HALVES, 0.05)
    assert float(augmented_chebyshev(better, HALVES, 0.1)) == pytest.approx(-0.25 - 0.1 * 0.35)
    torch.testing.assert_close(
        augmented_chebyshev_slopes(better, HALVES, 0.1), vector(0.5 * 1.1, 0.5 * 0.1)
    )


# --- PBI -----------------------------------------------------------------------------------------


def test_pbi_is_the_distance_along_and_off_the_ray():
    # Regrets (3, 1) and the diagonal: 4 / sqrt 2 along it and 2 / sqrt 2 off it.
    assert float(pbi(vector(3.0, 1.0), vector(2.0, 2.0), 5.0)) == pytest.approx(
        -(4 + 5 * 2) / math.sqrt(2)
    )
    torch.testing.assert_close(
        pbi_slopes(vector(3.0, 1.0), vector(2.0, 2.0), 5.0), vector(6.0, -4.0) / math.sqrt(2)
    )


def test_on_the_ray_its_slope_is_the_ray():
    ray_K = direction(WEIGHTS, "inverse")
    for length in (1e-9, 0.3, 1e9):
        found = pbi_slopes(ray_K * length, ray_K, 5.0)
        torch.testing.assert_close(found, ray_K / ray_K.norm())
    assert pbi_slopes(torch.zeros(3), ray_K, 5.0).isfinite().all()


def test_the_inverse_ray_is_where_chebyshev_is_best():
    weighted_K = direction(WEIGHTS, "inverse") * WEIGHTS
    torch.testing.assert_close(weighted_K, weighted_K[:1].expand(3))
    torch.testing.assert_close(direction(WEIGHTS, "weights"), WEIGHTS)
    nothing = direction(vector(1.0, 0.0), "inverse")
    assert float(nothing[0] / nothing.norm()) < 1e-5


# --- soft minimum --------------------------------------------------------------------------------


def test_soft_minimum_goes_from_the_mean_to_the_minimum():
    values_NK = torch.randn(100, 3, generator=torch.Generator().manual_seed(2)).double()
    mean_N = values_NK @ WEIGHTS
    variance_N = values_NK.square() @ WEIGHTS - mean_N.square()
    torch.testing.assert_close(soft_minimum(values_NK, WEIGHTS, 0.0), mean_N)
    torch.testing.assert_close(soft_minimum(values_NK, WEIGHTS, 1e-12), mean_N)
    torch.testing.assert_close(
        soft_minimum(values_NK, WEIGHTS, 1e3), values_NK.amin(-1), atol=2e-3, rtol=0
    )
    for kappa in (1e-2, 1e-3):
        second = mean_N - kappa / 2 * variance_N
        # The next term is kappa squared times a sixth of the third moment.
        assert (soft_minimum(values_NK, WEIGHTS, kappa) - second).abs().max() < 2 * kappa**2
    falling = torch.stack([soft_minimum(values_NK, WEIGHTS, k) for k in (0.0, 0.1, 1.0, 10.0)])
    assert (falling.diff(dim=0) <= 1e-12).all()


def test_soft_minimum_closed_form():
    found = soft_minimum(vector(1.0, -1.0), HALVES, 1.0)
    assert float(found) == pytest.approx(-math.log(math.cosh(1.0)))


# --- product -------------------------------------------------------------------------------------


def test_product_of_margins():
    values_NK = torch.tensor([[0.2, 0.9], [0.7, 0.5]], dtype=torch.float64)
    found = product(values_NK, values_NK.amin(0), 0.1)
    assert found.tolist() == pytest.approx([0.1 * 0.5, 0.6 * 0.1])
    # Below the reference two bad ones do not make a good one.
    assert float(product(vector(-3.0, -3.0), vector(0.0, 0.0), 0.1)) == pytest.approx(0.01)
    assert float(product(vector(1e20, 1e20), vector(0.0, 0.0), 0.1)) == LARGEST


# --- what is left out ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        chebyshev,
        lambda v, w: chebyshev(v, w, 0.1),
        lambda v, w: augmented_chebyshev(v, w, 0.05),
        lambda v, w: soft_minimum(v, w, 1.0),
    ],
    ids=["chebyshev", "smooth", "augmented", "soft minimum"],
)
def test_nan_and_a_weight_of_zero_leave_an_objective_out(value):
    both, without = vector(-0.3, 0.4, -9.0), vector(-0.3, 0.4)
    expected = value(without, vector(0.6, 0.4))
    torch.testing.assert_close(value(vector(-0.3, 0.4, NAN), vector(0.6, 0.4, 0.5)), expected)
    torch.testing.assert_close(value(both, vector(0.6, 0.4, 0.0)), expected)
    assert value(vector(NAN, NAN), HALVES).isnan()
    assert value(vector(NAN, 1.0), vector(1.0, 0.0)).isnan()


def test_nan_leaves_an_objective_out_of_pbi_and_product():
    ray_K = vector(0.6, 0.4, 0.5)
    torch.testing.assert_close(
        pbi(vector(0.3, 0.4, NAN), ray_K, 5.0), pbi(vector(0.3, 0.4), ray_K[:2], 5.0)
    )
    assert pbi(vector(NAN, NAN), HALVES, 5.0).isnan()
    zero_2 = vector(0.0, 0.0)
    assert float(product(vector(0.4, NAN), zero_2, 0.1)) == pytest.approx(0.5)
    assert product(vector(NAN, NAN), zero_2, 0.1).isnan()


def test_nothing_left_has_no_slope():
    for slopes in (chebyshev_slopes, lambda r, w: chebyshev_slopes(r, w, 0.1)):
        assert slopes(vector(NAN, NAN), HALVES).tolist() == [0.0, 0.0]
        assert slopes(vector(NAN, 1.0), vector(1.0, 0.0)).tolist() == [0.0, 0.0]


def test_a_missing_score_takes_its_groups_mean():
    scores_PGK = torch.tensor(
        [[[0.1, 0.2], [0.5, NAN], [NAN, NAN]], [[0.3, NAN], [0.4, NAN], [0.8, NAN]]]
    )
    filled_PGK = fill_within_groups(scores_PGK)
    expected = torch.tensor(
        [[[0.1, 0.2], [0.5, 0.2], [NAN, NAN]], [[0.3, NAN], [0.4, NAN], [0.8, NAN]]]
    )
    torch.testing.assert_close(filled_PGK, expected, equal_nan=True)


@pytest.mark.parametrize("size", [1e-10, 1e10, 1e30])
def test_any_size_is_finite(size):
    regrets_NK = size * torch.randn(50, 3, generator=torch.Generator().manual_seed(3)).double()
    ray_K = direction(WEIGHTS, "inverse")
    for found in (
        chebyshev(regrets_NK, WEIGHTS),
        chebyshev(regrets_NK, WEIGHTS, 0.01),
        chebyshev_slopes(regrets_NK, WEIGHTS, 0.01),
        augmented_chebyshev(regrets_NK, WEIGHTS, 0.05),
        pbi(regrets_NK, ray_K, 5.0),
        pbi_slopes(regrets_NK, ray_K, 5.0),
        soft_minimum(regrets_NK, WEIGHTS, 1.0),
        product(regrets_NK, regrets_NK.amin(0), 0.1),
    ):
        assert found.isfinite().all()
