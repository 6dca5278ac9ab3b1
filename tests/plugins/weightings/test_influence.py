"""Mirror steps on gradient influence: golden values and invariants."""

from __future__ import annotations

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
    SCALE_FREE,
    SCORE_SCALE_FREE,
    SHIFT_FREE,
    SIMPLEX,
    UNIT_FREE,
    claims,
)

from moalign.errors import NonFiniteError, OptionError
from moalign.maths.simplex import softmax
from moalign.testing.steps import make_objectives, make_step
from moalign_plugins.weightings.influence import Influence


def gram_of(*gradients: tuple[float, ...]) -> torch.Tensor:
    g = torch.tensor(gradients, dtype=torch.float64)
    return g @ g.T


def step_of(gram: torch.Tensor, **options):
    return make_step(objectives=make_objectives(*"abcdef"[: len(gram)]), gram=gram, **options)


def diagonal(*influence: float) -> torch.Tensor:
    return torch.diag(torch.tensor(influence, dtype=torch.float64))


def rough_gram(seed: int = 0, count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return gram_of(*torch.randn(count, 5, generator=generator).tolist())


def close(weights, expected, **tolerance):
    tolerance = tolerance or {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(weights.values, torch.tensor(expected), **tolerance)


def test_a_equal_gradients_change_nothing():
    found = Influence().weigh(
        step_of(gram_of((1, 2), (1, 2), (1, 2)), preference={"a": 2, "b": 1, "c": 1})
    )
    close(found, [0.5, 0.25, 0.25])


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("max_norm", [1.0, 1e-3, None])
def test_b_weights_stay_inside_the_simplex(size, max_norm):
    weighting = Influence(rate=10.0, max_norm=max_norm)
    for seed in range(20):
        values = weighting.weigh(step_of(size * rough_gram(seed))).values
        assert values.isfinite().all()
        assert values.min() > 0
        assert float(values.sum()) == pytest.approx(1)


def test_c_a_constant_added_to_all_influences_changes_nothing():
    gram = diagonal(0.3, 0.1, 0.2)
    moved = gram + 0.4 / 3  # adds .4 to every row sum
    plain, shifted = (Influence(max_norm=None).weigh(step_of(g)).values for g in (gram, moved))
    torch.testing.assert_close(shifted, plain)


def test_d_golden_value():
    found = Influence(rate=0.1).weigh(step_of(gram_of((1, 0), (0, 0.5))))
    close(found, [0.51874, 0.48126])
    assert found.metrics == pytest.approx({"influence/a": 1.0, "influence/b": 0.25})


def test_e_constant_influence_golden_value():
    weighting = Influence(rate=0.1)
    for _ in range(10):
        found = weighting.weigh(step_of(diagonal(0.3, 0.1, 0.2)))
    close(found, [0.36717, 0.30061, 0.33222])
    assert softmax([0.3, 0.1, 0.2]) == pytest.approx(found.values.tolist(), abs=1e-6)


def test_f_rate_zero_keeps_the_preference():
    weighting = Influence(rate=0.0)
    for seed in range(5):
        found = weighting.weigh(step_of(rough_gram(seed), preference={"a": 3, "b": 1, "c": 4}))
    close(found, [0.375, 0.125, 0.5], atol=1e-7, rtol=0)


def test_g_it_follows_a_permutation_of_the_objectives():
    gram, order = rough_gram(), [2, 0, 1]
    plain = Influence(rate=1.0).weigh(step_of(gram)).values
    moved = Influence(rate=1.0).weigh(step_of(gram[order][:, order])).values
    torch.testing.assert_close(moved, plain[order])


def test_copies_of_an_objective_have_equal_influence():
    g = torch.randn(2, 5, generator=torch.Generator().manual_seed(3)).tolist()
    found = Influence(rate=1.0).weigh(step_of(gram_of(tuple(g[0]), tuple(g[1]), tuple(g[1]))))
    assert found.metrics["influence/b"] == found.metrics["influence/c"]
    assert found.values[1] == found.values[2]


def test_constant_influence_ends_on_the_largest_and_at_the_floor():
    weighting = Influence(rate=5.0, floor=0.05)
    for _ in range(50):
        found = weighting.weigh(step_of(diagonal(0.9, 0.3, 0.6)))
    close(found, [0.9, 0.05, 0.05])


def test_a_weight_of_zero_can_come_back():
    weighting = Influence(rate=5.0)
    for _ in range(10):
        found = weighting.weigh(step_of(diagonal(0.0, 1.0), preference={"a": 1.0}))
    assert found.values[1] > 0.99


def test_clipping_bounds_the_influence_and_small_norms_are_cosines():
    gram = gram_of((300.0, 0.0), (400.0, 300.0), (0.0, 0.5))
    clipped = Influence().weigh(step_of(gram)).metrics
    # Unit vectors (1, 0), (.8, .6) and the untouched (0, .5).
    expected = {"influence/a": 1.8, "influence/b": 0.8 + 1 + 0.3, "influence/c": 0.3 + 0.25}
    assert clipped == pytest.approx(expected)
    cosines = Influence(max_norm=1e-6).weigh(step_of(gram)).metrics
    expected = {"influence/a": 1.8, "influence/b": 0.8 + 1 + 0.6, "influence/c": 0.6 + 1}
    assert cosines == pytest.approx(expected)
    raw = Influence(max_norm=None).weigh(step_of(gram_of((3.0, 0.0), (4.0, 3.0)))).metrics
    assert raw == pytest.approx({"influence/a": 21.0, "influence/b": 37.0})


def test_it_clips_by_the_norms_of_the_whole_gradients():
    gram = gram_of((0.3, 0.0), (0.4, 0.3))
    norms_K = torch.tensor([2.0, 5.0], dtype=torch.float64)
    found = Influence().weigh(step_of(gram, gradient_norms_K=norms_K)).metrics
    assert found["influence/a"] == pytest.approx(0.09 / 4 + 0.12 / 10)
    assert found["influence/b"] == pytest.approx(0.25 / 25 + 0.12 / 10)
    unclipped = Influence(max_norm=None).weigh(step_of(gram, gradient_norms_K=norms_K)).metrics
    assert unclipped["influence/a"] == pytest.approx(0.09 + 0.12)


def test_self_term_can_be_left_out():
    gram = gram_of((3.0, 0.0), (4.0, 3.0))
    found = Influence(max_norm=None, self_term="exclude").weigh(step_of(gram))
    assert found.metrics == pytest.approx({"influence/a": 12.0, "influence/b": 12.0})
    close(found, [0.5, 0.5])


def test_accumulated_influence_is_averaged_and_applied_at_the_end():
    weighting = Influence(accumulate=2)
    first = weighting.weigh(step_of(diagonal(0.8, 0.0)))
    close(first, [0.5, 0.5])
    second = weighting.weigh(step_of(diagonal(0.4, 0.2)))
    close(second, softmax([0.06, 0.01]))
    once = Influence().weigh(step_of(diagonal(0.6, 0.1)))
    torch.testing.assert_close(second.values, once.values)


def test_the_step_follows_the_learning_rate_relative_to_its_peak():
    weighting = Influence(rate=0.1)
    # Warm-up to 1e-3, then decay to half, then 0: shares 1, 1, .5, 0 of the rate.
    for rate in (1e-4, 1e-3, 5e-4, 0.0):
        found = weighting.weigh(step_of(diagonal(1.0, 0.0), learning_rate=rate))
    close(found, softmax([0.25, 0.0]))
    idle = Influence().weigh(step_of(diagonal(1.0, 0.0), learning_rate=0.0))
    close(idle, [0.5, 0.5])


def test_one_objective_has_weight_one_exactly():
    assert Influence().weigh(step_of(diagonal(0.7))).values.tolist() == [1.0]


def test_state_goes_round():
    options = {"rate": 1.0, "accumulate": 3}
    weighting, fresh = Influence(**options), Influence(**options)
    for seed in range(4):
        weighting.weigh(step_of(rough_gram(seed), learning_rate=1e-3 / (seed + 1)))
    fresh.load_state_dict(weighting.state_dict())
    for seed in range(4, 10):
        step = step_of(rough_gram(seed), learning_rate=1e-4)
        assert torch.equal(weighting.weigh(step).values, fresh.weigh(step).values)


def test_mistakes_are_sentences():
    with pytest.raises(OptionError, match=r"`floor` must be below 1 / 3, as there are 3") as caught:
        Influence(floor=0.4).check(make_objectives("a", "b", "c"))
    assert caught.value.option == "floor"
    Influence(floor=0.3).check(make_objectives("a", "b", "c"))
    with pytest.raises(NonFiniteError, match="gradient of objective b is not finite"):
        Influence().weigh(step_of(diagonal(1.0, float("nan"))))


def test_a_gradient_that_is_not_finite_is_named_though_it_spoils_the_rows_of_the_others():
    gram = torch.ones(3, 3, dtype=torch.float64)
    gram[1], gram[:, 1] = float("nan"), float("nan")
    with pytest.raises(NonFiniteError, match="the gradient of objective b is not finite"):
        Influence().weigh(step_of(gram))


test_properties = claims(
    lambda: Influence(rate=1.0),
    DUPLICATE_SHARES,
    FINITE,
    LEAVES_NAN_ALONE,
    ONE_OBJECTIVE,
    PERMUTES,
    RESUMES,
    SCORE_SCALE_FREE,
    SHIFT_FREE,
    SIMPLEX,
    UNIT_FREE,
    FROZEN(lambda: Influence(rate=0.0)),
)
# Of cosines alone, as `max_norm` is below every gradient.
test_cosines = claims(lambda: Influence(max_norm=1e-30), FINITE, ONE_OBJECTIVE, SCALE_FREE)
