"""Coefficients of conflicting gradients: published values, closed forms, and brute force."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from moalign.maths.gramian import (
    GramAverage,
    aligned_mtl,
    cagrad,
    cancels,
    cosines,
    dual_projection,
    imtl_g,
    min_norm,
    nash,
    norms,
    pcgrad,
    scaled,
    upgrad,
)

METHODS = {
    "min_norm": min_norm,
    "pcgrad": pcgrad,
    "cagrad": lambda gram: cagrad(gram, 0.4),
    "nash": nash,
    "upgrad": upgrad,
    "dual_projection": dual_projection,
    "imtl_g": imtl_g,
    "aligned_mtl": aligned_mtl,
}
CONFLICT = ((1.0, 0.0), (-1.0, 1.0))
TORCHJD = ((-4.0, 1.0, 1.0), (6.0, 1.0, 1.0))
ROOT = math.sqrt(2 + math.sqrt(2))


def rows(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gram_of(values) -> torch.Tensor:
    jacobian = rows(values) if not isinstance(values, torch.Tensor) else values
    return jacobian @ jacobian.T


def close(found, expected, atol=1e-6):
    torch.testing.assert_close(found, rows(expected), atol=atol, rtol=0)


def random_rows(seed: int, count: int, size: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=generator, dtype=torch.float64)


def hostile() -> dict[str, torch.Tensor]:
    """Gradients, one per row, that solvers trip over."""
    plain = random_rows(1, 4)
    g = random_rows(2, 3)
    near = g[0] + 1e-3 * g[1]
    return {
        "plain": plain,
        "tiny": plain * 1e-10,
        "huge": plain * 1e10,
        "unlike lengths": plain * rows([1e-10, 1.0, 1e10, 1e-3])[:, None],
        "more than dimensions": random_rows(3, 5, 2),
        "on a line": torch.stack([g[0], 2 * g[0], 0.5 * g[0]]),
        "duplicates": torch.stack([g[0], g[1], g[1]]),
        "duplicates of unlike lengths": torch.stack([g[0], g[1], 3 * g[1], g[1]]),
        "near duplicates": torch.stack([g[0], near, g[2]]),
        "opposite": torch.stack([g[0], -g[0]]),
        "opposite and another": torch.stack([g[0], -2 * g[0], g[2]]),
        "nearly opposite": torch.stack([g[0], -near, g[2]]),
        "around the origin": rows([(1, 0), (-0.5, 0.9), (-0.5, -0.8)]),
        "a row of zeros": torch.stack([g[0], 0 * g[0], g[2]]),
        "one left": torch.stack([0 * g[0], g[1], 0 * g[0]]),
        "strong conflict": rows([(1, 0), (-10, 1)]),
        "eight": random_rows(4, 8),
    }


HOSTILE = hostile()
everything = pytest.mark.parametrize("name", HOSTILE)
everyone = pytest.mark.parametrize("method", METHODS)


# --- published values ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "expected", "atol"),
    [
        (min_norm, (0.6, 0.4), 1e-6),
        (pcgrad, (2.2222, 1.5789), 1e-4),
        # Theirs has 1e-4 on the diagonal of the matrix.
        (upgrad, (1.1109, 0.7894), 1e-3),
        (upgrad, (1.11111, 0.78947), 1e-5),
        (dual_projection, (0.6109, 0.5), 1e-3),
        (lambda gram: cagrad(gram, 0.5), (0.7041, 0.5), 1e-4),
        (imtl_g, (0.5923, 0.4077), 1e-4),
        (aligned_mtl, (0.5591, 0.4083), 1e-4),
        (nash, (0.5915, 0.4071), 1e-4),  # their FairGrad with alpha 1
    ],
)
def test_torchjd_values(method, expected, atol):
    close(method(gram_of(TORCHJD)), expected, atol)


def test_torchjd_value_of_nash_up_to_the_length_that_it_gives():
    direction = nash(gram_of(TORCHJD)) @ rows(TORCHJD)
    close(direction / direction[1], (0.0542 / 0.7061, 1, 1), 1e-4)


def test_orthogonal_gradients():
    gram = gram_of(((1.0, 0.0), (0.0, 2.0)))
    close(min_norm(gram), (0.8, 0.2))
    close(nash(gram), (1.0, 0.5))
    close(imtl_g(gram), (2 / 3, 1 / 3))
    for method in (upgrad, dual_projection):
        close(method(gram), (0.5, 0.5))


@pytest.mark.parametrize(
    ("method", "coefficients", "gains"),
    [
        (min_norm, (0.6, 0.4), (0.2, 0.2)),
        (upgrad, (1.0, 0.75), (0.25, 0.5)),
        (dual_projection, (0.5, 0.5), (0.0, 0.5)),
        (pcgrad, (2.0, 1.5), (0.5, 1.0)),
        (lambda gram: cagrad(gram, 0.4), (0.7, 0.5), (0.2, 0.3)),
        (nash, (ROOT, ROOT - 1 / ROOT), (1 / ROOT, 1 / (ROOT - 1 / ROOT))),
        (imtl_g, (0.58579, 0.41421), (0.17157, 0.17157 * math.sqrt(2))),
    ],
)
def test_conflict(method, coefficients, gains):
    gram = gram_of(CONFLICT)
    close(method(gram), coefficients, 1e-5)
    close(gram @ method(gram), gains, 1e-5)


def test_dominated_gradients_have_no_say_in_the_shortest_combination():
    close(min_norm(gram_of(((1.0, 0.0), (2.0, 1.0)))), (1.0, 0.0))


@pytest.mark.parametrize("seed", range(10))
def test_two_gradients_have_a_closed_form(seed):
    jacobian = random_rows(seed, 2, 3)
    one, two = jacobian
    share = ((two - one) @ two / (one - two).square().sum()).clamp(0.0, 1.0)
    close(min_norm(gram_of(jacobian)), (float(share), 1 - float(share)))
    torch.testing.assert_close(pcgrad(gram_of(jacobian)), 2 * upgrad(gram_of(jacobian)), atol=1e-6,
                               rtol=0)  # fmt: skip


def test_cagrad_stays_within_its_radius_and_may_lower_an_objective():
    jacobian = rows(CONFLICT)
    mean = jacobian.mean(0)
    assert float((gram_of(jacobian) @ rows((0.5, 0.5))).min()) == 0
    away = cagrad(gram_of(jacobian), 0.4) @ jacobian - mean
    assert float(away.norm()) == pytest.approx(0.2) == pytest.approx(0.4 * float(mean.norm()))
    strong = gram_of(((1.0, 0.0), (-10.0, 1.0)))
    assert float((strong @ cagrad(strong, 0.4))[0]) == pytest.approx(-2.7, abs=0.02)
    assert float((strong @ cagrad(strong, 1.0)).min()) >= -1e-6
    close(cagrad(strong, 0.0), (0.5, 0.5))


def test_aligned_gradients_are_orthogonal_and_of_one_length():
    gram = gram_of(random_rows(5, 3))
    values, vectors = torch.linalg.eigh(gram)
    root = vectors @ torch.diag((values[0] / values).sqrt()) @ vectors.T
    torch.testing.assert_close(root @ gram @ root.T, values[0] * torch.eye(3, dtype=gram.dtype))
    torch.testing.assert_close(aligned_mtl(gram), root.mean(1))
    preference = rows((0.5, 0.3, 0.2))
    torch.testing.assert_close(aligned_mtl(gram, preference), root @ preference)


def test_an_aligned_component_that_is_rounding_is_left_out():
    copies = torch.cat([random_rows(5, 2), random_rows(5, 2)[1:]])
    found = aligned_mtl(gram_of(copies) * (1 + 1e-8 * torch.eye(3, dtype=copies.dtype)))
    assert float(found[1]) == pytest.approx(float(found[2]), abs=1e-6)
    assert float(found.abs().max()) < 1.5


# --- brute force ---------------------------------------------------------------------------------


def shortest(gram: torch.Tensor) -> float:
    """Return the least squared length over the faces of the simplex, of cosines ``gram``."""
    best = math.inf
    for size in range(1, len(gram) + 1):
        for face in itertools.combinations(range(len(gram)), size):
            part = gram[list(face)][:, list(face)]
            ones = torch.ones(size, dtype=gram.dtype)
            weights = torch.linalg.pinv(part, hermitian=True) @ ones
            null = torch.linalg.eigh(part)[1][:, 0]
            for candidate in (weights, null, -null):
                if candidate.min() >= 0 and candidate.sum() > 0:
                    share = candidate / candidate.sum()
                    best = min(best, float(share @ part @ share))
    return best


def balanced(jacobian: torch.Tensor) -> torch.Tensor:
    """Return the rows of length 1; those of length 0 are left out."""
    lengths = jacobian.norm(dim=1)
    return (jacobian / lengths[:, None])[lengths > 0]


@everything
def test_the_shortest_combination_is_the_shortest(name):
    jacobian = balanced(HOSTILE[name])
    gram = gram_of(jacobian)
    found = min_norm(gram)
    assert float(found.sum()) == pytest.approx(1)
    assert found.min() >= 0
    assert float(found @ gram @ found) == pytest.approx(shortest(gram), abs=1e-7)


@everything
def test_the_shortest_combination_improves_everything(name):
    jacobian = HOSTILE[name]
    found = min_norm(gram_of(jacobian))
    direction = found @ jacobian
    live = jacobian.norm(dim=1) > 0
    slack = (jacobian @ direction - direction.square().sum())[live]
    assert (slack >= -2e-7 * jacobian.norm(dim=1)[live] * jacobian.norm(dim=1)[live].min()).all()


def projected(jacobian: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
    """Return the closest direction in the cone ``J d >= 0``: the best over sets of tight rows."""
    best, least = torch.zeros_like(point), float(point.norm())
    for size in range(len(jacobian) + 1):
        for tight in itertools.combinations(range(len(jacobian)), size):
            part = jacobian[list(tight)]
            candidate = point - torch.linalg.pinv(part) @ (part @ point) if size else point
            distance = float((candidate - point).norm())
            if (jacobian @ candidate).min() >= -1e-9 and distance < least:
                best, least = candidate, distance
    return best


@pytest.mark.parametrize("name", [n for n in HOSTILE if n != "eight"])
def test_projections_are_the_closest_directions_that_harm_nobody(name):
    jacobian = balanced(HOSTILE[name])
    gram, count = gram_of(jacobian), len(jacobian)
    expected = projected(jacobian, jacobian.mean(0))
    torch.testing.assert_close(dual_projection(gram) @ jacobian, expected, atol=2e-4, rtol=0)
    expected = sum(projected(jacobian, row) for row in jacobian) / count
    torch.testing.assert_close(upgrad(gram) @ jacobian, expected, atol=2e-4, rtol=0)


@everything
@pytest.mark.parametrize("method", [upgrad, dual_projection])
def test_projections_harm_nobody(name, method):
    jacobian = HOSTILE[name]
    gains = jacobian @ (method(gram_of(jacobian)) @ jacobian)
    assert (gains >= -1e-6 * jacobian.norm(dim=1) * jacobian.norm(dim=1).max()).all()


@everything
@pytest.mark.parametrize("c", [0.1, 0.4, 0.9, 1.5])
def test_cagrad_is_optimal(name, c):
    """The dual's value at any weights bounds the best worst gain; the two must meet."""
    jacobian = balanced(HOSTILE[name])
    gram, mean = gram_of(jacobian), jacobian.mean(0)
    radius = c * float(mean.norm())
    direction = cagrad(gram, c) @ jacobian
    if float(mean.norm()) < 1e-6:
        assert float(direction.norm()) < 1e-6
        return
    assert float((direction - mean).norm()) <= radius * (1 + 1e-6)
    correction = cagrad(gram, c) - 1 / len(gram)
    assert correction.min() >= -1e-12
    blends = [min_norm(gram) @ jacobian]
    if correction.sum() > 1e-9:
        blends.append(correction / correction.sum() @ jacobian)
    bound = min(float(blend @ mean + radius * blend.norm()) for blend in blends)
    if cancels(gram, min_norm(gram)):
        bound = min(bound, 0.0)
    assert float((jacobian @ direction).min()) == pytest.approx(bound, abs=1e-4)


@everything
def test_nash_coefficients_solve_their_equations(name):
    gram = gram_of(HOSTILE[name])
    preference = torch.linspace(1.0, 2.0, len(gram), dtype=gram.dtype)
    found = nash(gram, preference / preference.sum())
    live = norms(gram) > 0
    assert (found[live] > 0).all()
    assert (found[~live] == 0).all()
    if cancels(gram, min_norm(gram)):
        assert cancels(gram, found)  # no direction improves all: there is no agreement
        return
    powers = preference[live] / preference[live].mean()
    products = ((gram @ found) * found)[live]
    torch.testing.assert_close(products, powers, atol=2e-3, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_pcgrad_is_the_mean_over_all_orders(seed):
    jacobian = random_rows(seed, 4, 3)
    expected = torch.zeros(3, dtype=jacobian.dtype)
    for i in range(4):
        orders = list(itertools.permutations([j for j in range(4) if j != i]))
        for order in orders:
            part = jacobian[i]
            for j in order:
                along = float(part @ jacobian[j])
                if along < 0:
                    part = part - along / float(jacobian[j] @ jacobian[j]) * jacobian[j]
            expected += part / len(orders)
    torch.testing.assert_close(pcgrad(gram_of(jacobian)) @ jacobian, expected)


def test_drawn_orders_follow_from_the_seed_and_average_to_the_mean():
    gram = gram_of(random_rows(3, 4, 2))
    assert torch.equal(pcgrad(gram, orders=1, seed=5), pcgrad(gram, orders=1, seed=5))
    draws = torch.stack([pcgrad(gram, orders=1, seed=seed) for seed in range(200)])
    assert len(draws.unique(dim=0)) > 5
    noise = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - pcgrad(gram)).abs() <= 4 * noise + 1e-9).all()
    many = gram_of(random_rows(9, 8, 4))
    close(pcgrad(many, seed=1) / pcgrad(many, seed=2), [1.0] * 8, 0.2)


@pytest.mark.parametrize("seed", range(5))
def test_imtl_projections_are_equal_or_follow_the_preference(seed):
    jacobian = random_rows(seed, 4)
    units = jacobian / jacobian.norm(dim=1, keepdim=True)
    found = units @ (imtl_g(gram_of(jacobian)) @ jacobian)
    assert found.min() > 0
    torch.testing.assert_close(found, found.mean().expand(4), atol=1e-9, rtol=0)
    preference = rows((0.1, 0.2, 0.3, 0.4))
    found = units @ (imtl_g(gram_of(jacobian), preference) @ jacobian)
    torch.testing.assert_close(found / found.sum(), preference)


def test_imtl_does_not_turn_against_all_objectives():
    # The plain sum of v is negative here: divided by it, every projection would be.
    jacobian = rows([(1, 0, 0), (0.6, 0.8, 0), (0.9, 0.5, 0.05)])
    jacobian = jacobian / jacobian.norm(dim=1, keepdim=True) * rows([1.0, 1.0, 0.01])[:, None]
    v = torch.linalg.solve(gram_of(jacobian), jacobian.norm(dim=1))
    assert v.sum() < 0
    assert (gram_of(jacobian) @ imtl_g(gram_of(jacobian))).min() > 0


# --- what all have in common ---------------------------------------------------------------------


@everyone
@everything
def test_finite_and_zero_for_gradients_of_zero(method, name):
    jacobian = HOSTILE[name]
    found = METHODS[method](gram_of(jacobian))
    assert found.isfinite().all()
    assert (found[jacobian.norm(dim=1) == 0] == 0).all()
    if method not in ("imtl_g", "aligned_mtl"):
        assert found.min() >= 0
    live = jacobian.norm(dim=1) > 0
    torch.testing.assert_close(found[live], METHODS[method](gram_of(jacobian[live])))


@everyone
@everything
def test_the_order_of_the_objectives_does_not_matter(method, name):
    if (method, name) == ("pcgrad", "eight"):
        return  # drawn orders
    jacobian = HOSTILE[name]
    order = torch.randperm(len(jacobian), generator=torch.Generator().manual_seed(3))
    plain = METHODS[method](gram_of(jacobian))
    moved = METHODS[method](gram_of(jacobian)[order][:, order])
    parts, other = plain * jacobian.norm(dim=1), moved * jacobian[order].norm(dim=1)
    scale = float(parts.abs().max()) or 1.0
    torch.testing.assert_close(other / scale, parts[order] / scale, atol=1e-5, rtol=0)


@everyone
@pytest.mark.parametrize("size", [1e-10, 1e-3, 1e10])
def test_the_scale_of_all_gradients_does_not_matter(method, size):
    jacobian = random_rows(1, 4)
    plain = METHODS[method](gram_of(jacobian))
    found = METHODS[method](gram_of(jacobian * size))
    torch.testing.assert_close(found / found.sum(), plain / plain.sum(), atol=1e-6, rtol=0)


@everyone
def test_a_trace_of_a_millionth_is_no_threshold(method):
    gram = gram_of(CONFLICT) / 3  # trace 1
    plain, small = METHODS[method](gram), METHODS[method](gram * 1e-6)
    torch.testing.assert_close(small / small.sum(), plain / plain.sum(), atol=1e-9, rtol=0)
    assert plain[0] != pytest.approx(plain[1]) or method == "dual_projection"


@everyone
def test_one_gradient_is_left_alone(method):
    found = METHODS[method](rows([[4.0]]))
    length = {"nash": 0.5, "cagrad": 1.4}.get(method, 1.0)
    close(found, [length])


@everyone
def test_copies_share_alike(method):
    g = random_rows(7, 3)
    found = METHODS[method](gram_of(torch.stack([g[0], g[1], g[2], g[1]])))
    assert float(found[1]) == pytest.approx(float(found[3]), abs=1e-6)


@everyone
@pytest.mark.parametrize("noise", [1e-7, 1e-4])
def test_a_matrix_that_rounding_made_indefinite(method, noise):
    generator = torch.Generator().manual_seed(1)
    gram = gram_of(HOSTILE["duplicates of unlike lengths"])
    rounding = torch.randn(4, 4, generator=generator, dtype=torch.float64) * noise
    bent = gram * (1 + rounding + rounding.T)
    assert torch.linalg.eigvalsh(bent).min() < 0
    assert METHODS[method](bent).isfinite().all()


@pytest.mark.parametrize("seed", range(5))
def test_without_conflict_nothing_is_corrected(seed):
    gram = gram_of(random_rows(seed, 4).abs())
    close(pcgrad(gram), [1.0] * 4)
    close(upgrad(gram), [0.25] * 4)
    close(dual_projection(gram), [0.25] * 4)


@pytest.mark.parametrize("seed", range(5))
def test_gains_of_upgrad_are_linear_in_the_length_of_each_gradient(seed):
    jacobian = random_rows(seed, 3)
    one, two = rows((1.0, 2.0, 0.5)), rows((3.0, 0.1, 1.0))

    def direction(lengths):
        scaled_rows = jacobian * lengths[:, None]
        return upgrad(gram_of(scaled_rows)) @ scaled_rows

    torch.testing.assert_close(direction(one + two), direction(one) + direction(two), atol=1e-6,
                               rtol=0)  # fmt: skip


@everyone
def test_opposite_gradients_cancel(method):
    gram = gram_of(((1.0, 0.0), (-1.0, 0.0)))
    found = METHODS[method](gram)
    assert cancels(gram, found)
    if method == "cagrad":
        assert (found == 0).all()


@pytest.mark.parametrize("method", ["min_norm", "upgrad", "dual_projection", "pcgrad", "cagrad"])
def test_a_copy_of_an_objective_keeps_what_theory_says(method):
    jacobian = random_rows(11, 3)
    copied = torch.cat([jacobian, jacobian[:1]])
    one = METHODS[method](gram_of(jacobian)) @ jacobian
    two = METHODS[method](gram_of(copied)) @ copied
    same = bool(torch.allclose(one / one.norm(), two / two.norm(), atol=1e-5))
    assert same == (method == "min_norm")  # the hull is the same, the mean is another


def test_a_copy_bargains_too():
    # Orthogonal: the copied gradient gets sqrt(2) / |g| in all instead of 1 / |g|.
    found = nash(gram_of(((2.0, 0.0), (2.0, 0.0), (0.0, 4.0))))
    close(found, (math.sqrt(2) / 4, math.sqrt(2) / 4, 0.25))


def test_preference_is_bargaining_power():
    found = nash(gram_of(((1.0, 0.0), (0.0, 2.0))), rows((0.8, 0.2)))
    close(found, (math.sqrt(1.6), math.sqrt(0.4) / 2))
    close(nash(gram_of(CONFLICT), rows((0.0, 1.0))), (0.0, 1 / math.sqrt(2)))


def test_large_c_comes_close_to_the_shortest_combination():
    gram = gram_of(random_rows(12, 3))
    far = cagrad(gram, 100.0)
    torch.testing.assert_close(far / far.sum(), min_norm(gram), atol=0.02, rtol=0)


# --- helpers and the average ---------------------------------------------------------------------


def test_helpers():
    gram = gram_of(((3.0, 0.0), (3.0, 4.0), (0.0, 0.0)))
    close(norms(gram), (3.0, 5.0, 0.0))
    close(cosines(gram).flatten(), (1.0, 0.6, 0.0, 0.6, 1.0, 0.0, 0.0, 0.0, 0.0))
    close(scaled(gram, rows((2.0, 1.0, 1.0)))[0], (36.0, 18.0, 0.0))
    assert cancels(gram, rows((0.0, 0.0, 1.0)))
    assert not cancels(gram, rows((1.0, -0.5, 0.0)))
    near = gram_of(((1.0, 0.0), (-1.0, 1e-4)))
    assert cancels(near, rows((1.0, 1.0)))
    assert cancels(near * 1e-18, rows((1e9, 1e9)))
    assert not cancels(near, rows((1.0, 0.9)))


def test_the_average_starts_without_bias_and_forgets():
    gram = gram_of(random_rows(1, 3))
    average = GramAverage(0.9)
    torch.testing.assert_close(average.update(gram), gram)
    torch.testing.assert_close(average.update(gram), gram)
    other = gram_of(random_rows(2, 3))
    for _ in range(300):
        found = average.update(other)
    torch.testing.assert_close(found, other)
    assert torch.equal(GramAverage(0.0).update(gram), gram)


def test_the_average_weighs_cosines_and_log_lengths_by_age():
    average = GramAverage(0.5)
    average.update(rows([[1.0, 0.0], [0.0, 1.0]]))
    found = average.update(rows([[64.0, 8.0], [8.0, 1.0]]))
    # Weights 1/3 and 2/3: the length is 8 ** (2/3) = 4, the cosine 2/3.
    close(found.flatten(), (16.0, 8 / 3, 8 / 3, 1.0))


def test_one_large_step_does_not_rule_the_average():
    average = GramAverage(0.9)
    gram = gram_of(random_rows(1, 2))
    for _ in range(10):
        average.update(gram)
    found = average.update(gram * 1e20)
    torch.testing.assert_close(cosines(found), cosines(gram))
    assert float(norms(found).max() / norms(gram).max()) < 1e3


def test_the_average_skips_objectives_without_gradient():
    average = GramAverage(0.9)
    gram = gram_of(random_rows(1, 3))
    average.update(gram)
    hole = gram.clone()
    hole[1], hole[:, 1] = 0.0, 0.0
    assert (average.update(hole)[1] == 0).all()
    torch.testing.assert_close(average.update(gram), gram)


def test_the_average_of_objectives_that_never_meet_is_one_of_gradients():
    average = GramAverage(0.9)
    # Cosines of a with b, a with c and b with c that no three vectors have at once.
    for first, second, cosine in ((0, 1, 1.0), (0, 2, 1.0), (1, 2, -1.0)):
        gram = torch.zeros(3, 3, dtype=torch.float64)
        gram[first, first] = gram[second, second] = 1.0
        gram[first, second] = gram[second, first] = cosine
        average.update(gram)
    found = average.update(torch.eye(3, dtype=torch.float64) * 1e-6)
    assert torch.linalg.eigvalsh(found)[0] >= -1e-12 * found.trace()


def test_the_average_resumes():
    average, fresh = GramAverage(0.9), GramAverage(0.9)
    assert average.state_dict() == {}
    for seed in range(4):
        average.update(gram_of(random_rows(seed, 3)))
    fresh.load_state_dict(average.state_dict())
    for seed in range(4, 6):
        gram = gram_of(random_rows(seed, 3))
        assert torch.equal(average.update(gram), fresh.update(gram))
