"""Multi-objective DPO: values, and the optimum that it shares with online training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from tabular import begun, fit, rows_of, solve
from torch import Tensor

from moalign.errors import OptionError
from moalign.testing.steps import make_objectives
from moalign_plugins.optimizers.dpo import Dpo
from moalign_plugins.optimizers.dr_grpo import DrGrpo
from moalign_plugins.optimizers.modpo import Modpo
from moalign_plugins.optimizers.rloo import Rloo


def loss_of(
    optimizer: Modpo | Dpo,
    ratios: tuple[float, float],
    scores: Sequence[Sequence[float]],
    weights: Sequence[float],
) -> float:
    """Return the loss of a pair by its log-ratios, and scores of each by objective."""
    begun(optimizer, len(weights))
    reference = torch.full((1, 2, 1), -2.0, dtype=torch.float64)
    logprobs_BT = reference[0] + torch.tensor(ratios, dtype=torch.float64)[:, None]
    rows = rows_of(optimizer, torch.tensor([scores], dtype=torch.float64), reference)
    weights_PK = torch.tensor([weights], dtype=torch.float64)
    return float(optimizer.pair_loss(logprobs_BT, rows, weights_PK)[0])


def test_golden_value():
    # Margins .3 and .1: the logit is (0.1 * 3 - 0.5 * (0.3 - 0.1)) / 0.5 = 0.4.
    scores = [[1.0, 0.3], [0.0, 0.1]]
    found = loss_of(Modpo(primary="a", beta=0.1), (2.0, -1.0), scores, [0.5, 0.5])
    assert found == pytest.approx(0.51302, abs=5e-6)
    # The same, listed the other way round.
    swapped = loss_of(Modpo(primary="a", beta=0.1), (-1.0, 2.0), scores[::-1], [0.5, 0.5])
    assert swapped == pytest.approx(0.51302, abs=5e-6)
    # And with the objectives in another order.
    turned = [row[::-1] for row in scores]
    other = loss_of(Modpo(primary="b", beta=0.1), (2.0, -1.0), turned, [0.5, 0.5])
    assert other == pytest.approx(0.51302, abs=5e-6)


@pytest.mark.parametrize("labels", ["hard", "soft"])
@pytest.mark.parametrize("weight", [0.25, 0.5, 1.0])
def test_a_constant_margin_is_dpo_with_beta_over_the_weight(weight: float, labels: str):
    scores = [[0.2, 0.7], [0.9, 0.7]]
    modpo, dpo = Modpo(primary="a", beta=0.1, labels=labels), Dpo(beta=0.1 / weight, labels=labels)
    found = loss_of(modpo, (2.0, -1.0), scores, [weight, 1 - weight])
    expected = loss_of(dpo, (2.0, -1.0), [row[:1] for row in scores], [1.0])
    assert found == pytest.approx(expected)


def test_the_other_preference_mirrors_the_loss():
    """Chosen and rejected changed round, the logit has the other sign, margins and all."""
    modpo, weights = Modpo(primary="a", beta=0.1), [0.4, 0.6]
    plain = loss_of(modpo, (2.0, -1.0), [[1.0, 0.3], [0.0, 0.1]], weights)
    swapped = loss_of(modpo, (2.0, -1.0), [[0.0, 0.3], [1.0, 0.1]], weights)
    logit = (0.1 * 3 - 0.6 * (0.3 - 0.1)) / 0.4
    assert plain == pytest.approx(math.log1p(math.exp(-logit)))
    assert swapped == pytest.approx(math.log1p(math.exp(logit)))
    # Which one is preferred is only the sign of what they differ by.
    mirrored = loss_of(modpo, (-2.0, 1.0), [[0.0, -0.3], [1.0, -0.1]], weights)
    assert mirrored == pytest.approx(plain)


@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_the_order_of_the_completions_does_not_matter(labels: str):
    modpo, scores = Modpo(primary="a", labels=labels), [[0.9, 0.3, 0.5], [0.2, 0.8, 0.1]]
    found = loss_of(modpo, (2.0, -1.0), scores, [0.4, 0.3, 0.3])
    assert loss_of(modpo, (-1.0, 2.0), scores[::-1], [0.4, 0.3, 0.3]) == pytest.approx(found)


def test_all_weight_on_the_primary_objective_is_dpo():
    scores = [[0.2, 5.0], [0.9, -3.0]]
    found = loss_of(Modpo(primary="a"), (2.0, -1.0), scores, [1.0, 0.0])
    assert found == pytest.approx(loss_of(Dpo(), (2.0, -1.0), scores, [1.0, 0.0]))


def test_a_policy_like_the_reference_has_a_loss_of_log_2_without_margins():
    scores = [[1.0, 0.3], [0.0, 0.3]]
    assert loss_of(Modpo(primary="a"), (0.7, 0.7), scores, [0.5, 0.5]) == pytest.approx(math.log(2))


def test_a_missing_margin_counts_as_none():
    missing = loss_of(Modpo(primary="a"), (2.0, -1.0), [[1.0, 0.3], [0.0, math.nan]], [0.5, 0.5])
    none = loss_of(Modpo(primary="a"), (2.0, -1.0), [[1.0, 0.3], [0.0, 0.3]], [0.5, 0.5])
    assert missing == pytest.approx(none)


def test_the_primary_weight_has_a_floor():
    scores = [[1.0, 0.3], [0.0, 0.1]]
    found = loss_of(Modpo(primary="a", least_weight=0.05), (2.0, -1.0), scores, [0.0, 1.0])
    assert found == pytest.approx(math.log1p(math.exp(-(0.3 - 0.2) / 0.05)))


def test_the_primary_objective_must_be_one():
    with pytest.raises(OptionError, match=r"'acuracy' is no training objective; .*accuracy"):
        Modpo(primary="acuracy").check(make_objectives("accuracy", "brevity"))


# --- the optimum --------------------------------------------------------------------------------

REFERENCE = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.2, 0.6]], dtype=torch.float64)
SCORES = torch.tensor(
    [
        [[0.2, 0.9, 0.5], [1.3, 0.1, 0.0], [0.7, 0.4, 1.0], [-0.5, 1.1, 0.3]],
        [[1.0, 0.0, 0.2], [0.0, 1.0, 0.8], [2.0, -1.0, 0.1], [0.5, 0.5, 0.5]],
    ],
    dtype=torch.float64,
)
BETA = 0.5


def best(weights: Sequence[float], beta: float = BETA) -> Tensor:
    """Return the policy of the greatest weighted reward minus beta times the divergence."""
    weighted_PA = SCORES @ torch.tensor(weights, dtype=torch.float64)
    return (REFERENCE.log() + weighted_PA / beta).softmax(-1)


WEIGHTS = [[0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [1.0, 0.0, 0.0]]


@pytest.mark.parametrize("primary", ["a", "b"])
@pytest.mark.parametrize("weights", WEIGHTS[:2])
def test_modpo_reaches_the_optimum_of_the_weighted_reward(weights: list[float], primary: str):
    modpo = begun(Modpo(primary=primary, beta=BETA, labels="soft"), 3)
    found = fit(modpo, SCORES, weights, REFERENCE)
    torch.testing.assert_close(found, best(weights), atol=1e-6, rtol=0)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_online_training_reaches_the_same_optimum(weights: list[float]):
    # The gradient of `mse` is that of the divergence; that of k1 is 0, that of k3 another one's.
    for scores_AK, reference_A, expected_A in zip(SCORES, REFERENCE, best(weights), strict=True):
        rloo = Rloo(kl_coefficient=BETA, kl_estimator="mse")
        found = solve(rloo, scores_AK, weights, reference_A)
        torch.testing.assert_close(found, expected_A, atol=1e-5, rtol=0)
        # A baseline that the completion itself is part of shrinks rewards by (G - 1) / G.
        dr_grpo = DrGrpo(kl_coefficient=BETA / 2, kl_estimator="mse")
        found = solve(dr_grpo, scores_AK, weights, reference_A, rate=1.0)
        torch.testing.assert_close(found, expected_A, atol=1e-5, rtol=0)


def test_dpo_with_summed_losses_does_not():
    # Which is what modpo is for: a weighted sum of labels is not the label of a weighted sum.
    weights = WEIGHTS[0]
    found = fit(Dpo(beta=4 * BETA, labels="soft"), 4 * SCORES, weights, REFERENCE)
    assert (found - best(weights)).abs().max() > 0.05
    modpo = begun(Modpo(primary="a", beta=4 * BETA, labels="soft"), 3)
    found = fit(modpo, 4 * SCORES, weights, REFERENCE)
    torch.testing.assert_close(found, best(weights), atol=1e-6, rtol=0)
