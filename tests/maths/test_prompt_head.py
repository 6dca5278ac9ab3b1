"""A head from features to weights: where it starts, what it reaches, when it stops."""

from __future__ import annotations

import pytest
import torch

from moalign.maths.prompt_head import (
    DIMENSIONS,
    ENOUGH,
    NORM,
    fit_head,
    head_weights,
    text_features,
)

SETTINGS = {
    "standardise": True,
    "hidden": 0,
    "learning_rate": 1e-2,
    "steps": 800,
    "held_out": 0.2,
    "seed": 0,
}


def cross_entropy(targets_NK: torch.Tensor):
    def loss(log_weights_MK, rows_M):
        target = targets_NK[rows_M]
        return (torch.xlogy(target, target) - target * log_weights_MK).sum(-1)

    return loss


def fit(features_UD, targets_UK, **options):
    targets_UK = targets_UK.double()
    return fit_head(
        features_UD,
        torch.arange(len(features_UD)),
        cross_entropy(targets_UK),
        targets_UK.mean(0),
        **SETTINGS | options,
    )


def two_kinds(count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(0)
    kinds = torch.arange(count) % 2
    features = torch.randn(count, 4, generator=drawn)
    features[:, 0] = kinds * 4.0 + 100
    return features, torch.tensor([[0.9, 0.1], [0.2, 0.8]])[kinds]


@pytest.mark.parametrize("hidden", [0, 8])
def test_it_finds_what_the_features_tell(hidden):
    features, targets = two_kinds()
    found = fit(features, targets, hidden=hidden)
    torch.testing.assert_close(found.weights_UK, targets.double(), atol=0.03, rtol=0)
    assert found.after < 0.01 < found.before
    assert found.judged == 12
    torch.testing.assert_close(head_weights(found.head, features), found.weights_UK)


def test_where_features_tell_nothing_the_best_constant_weights_stay():
    drawn = torch.Generator().manual_seed(1)
    features = torch.randn(40, 30, generator=drawn)
    targets = torch.rand(40, 3, generator=drawn).double()
    targets /= targets.sum(-1, keepdim=True)
    found = fit(features, targets)
    assert found.steps == 0
    assert found.after == found.before
    torch.testing.assert_close(found.weights_UK, targets.mean(0).expand(40, -1))


def test_equal_targets_are_given_back_exactly():
    features, _ = two_kinds()
    target = torch.tensor([0.62, 0.27, 0.11], dtype=torch.float64)
    found = fit(features, target.expand(60, -1))
    assert torch.equal(found.weights_UK.float(), target.float().expand(60, -1))


def test_the_mean_of_the_targets_is_the_best_constant():
    """With features that say nothing at all, from another start: the minimiser of forward KL."""
    drawn = torch.Generator().manual_seed(2)
    targets = torch.softmax(3 * torch.randn(50, 3, generator=drawn, dtype=torch.float64), -1)
    found = fit_head(
        torch.ones(50, 2),
        torch.arange(50),
        cross_entropy(targets),
        torch.full((3,), 1 / 3),
        **SETTINGS | {"held_out": 0.0, "steps": 3000},
    )
    best = targets.mean(0)
    torch.testing.assert_close(found.weights_UK[0], best, atol=2e-3, rtol=0)
    wrong = torch.softmax(targets.log().mean(0), -1)  # that of the reverse divergence
    assert (wrong - best).abs().max() > 0.02


def test_prompts_and_not_examples_are_held_out():
    features, targets = two_kinds(20)
    prompts_N = torch.arange(20).repeat_interleave(5)
    seen = []

    def loss(log_weights_MK, rows_M):
        if torch.is_grad_enabled():
            seen.extend(prompts_N[rows_M].tolist())
        return cross_entropy(targets[prompts_N].double())(log_weights_MK, rows_M)

    found = fit_head(features, prompts_N, loss, torch.tensor([0.5, 0.5]), **SETTINGS)
    assert found.judged == 20  # five examples of each of four prompts
    assert len(set(seen)) == 16


def test_equal_seeds_give_equal_heads_and_nothing_global_is_touched():
    features, targets = two_kinds()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, other = (fit(features, targets, hidden=4, steps=50) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one.head[name], other.head[name]) for name in one.head)
    third = fit(features, targets, hidden=4, steps=50, seed=1)
    assert not torch.equal(one.head["inner"], third.head["inner"])


def test_what_is_fitted_beside_it_is_kept_from_the_same_moment():
    features, targets = two_kinds()
    shift = torch.zeros(2, dtype=torch.float64)

    def loss(log_weights_MK, rows_M):
        return cross_entropy(targets.double())(
            torch.log_softmax(log_weights_MK + shift, -1), rows_M
        )

    found = fit_head(
        features,
        torch.arange(60),
        loss,
        torch.tensor([0.5, 0.5]),
        extra={"shift": shift},
        **SETTINGS,
    )
    moved = found.extra["shift"]
    assert moved.abs().max() > 0.01
    with torch.no_grad():
        log_weights = head_weights(found.head, features).log()
        again = cross_entropy(targets.double())(
            torch.log_softmax(log_weights + moved, -1), torch.arange(60)
        )
    assert float(again.mean()) < found.before - ENOUGH


@pytest.mark.parametrize("size", [1e-10, 1e10])
def test_features_of_any_size_are_alike(size):
    features, targets = two_kinds()
    plain = fit(features, targets)
    scaled = fit(features * size, targets)
    torch.testing.assert_close(scaled.weights_UK, plain.weights_UK, atol=1e-4, rtol=0)


def test_features_that_never_vary_and_those_far_away_do_no_harm():
    features, targets = two_kinds()
    features[:, 3] = 7.0
    found = fit(features, targets)
    far = features.clone()
    far[:, 3] = 1e10
    torch.testing.assert_close(head_weights(found.head, far), found.weights_UK)
    assert head_weights(found.head, features * -1e30).isfinite().all()


# --- features of a text ---------------------------------------------------------------------------


def test_features_of_a_text_depend_on_it_alone():
    texts = ["Add 17 and 25.", "say it in few words", "add 17  and 25."]
    features = text_features(texts)
    assert features.shape == (3, DIMENSIONS)
    torch.testing.assert_close(features.norm(dim=1), torch.full((3,), NORM))
    assert torch.equal(features[0], features[2])  # case and spaces do not matter
    assert torch.equal(text_features(texts[1:2])[0], features[1])
    cosine = float(features[0] @ features[1]) / NORM**2
    assert abs(cosine) < 0.5
    assert text_features(["", " \n"]).abs().sum() == 0
    assert text_features([]).shape == (0, DIMENSIONS)


def test_their_values_never_change():
    """They are part of what was learnt: another hash would make old adapters wrong."""
    features = text_features(["ab"])[0]
    found = {i: round(float(v), 4) for i, v in enumerate(features) if v}
    assert found == GOLDEN


GOLDEN = {189: -3.5777, 263: 3.5777, 843: 3.5777, 899: -3.5777, 928: -3.5777}
