"""Options that all optimizers with the clipped loss share: each does what it says."""

from __future__ import annotations

import math
from itertools import product

import pytest
import testbeds
import torch
from tabular import begun, solve
from torch import Tensor

from moalign.components import Optimizer
from moalign.study.loading import load
from moalign.types import Rows
from moalign_plugins.optimizers.dr_grpo import DrGrpo
from moalign_plugins.optimizers.grpo import Grpo
from moalign_plugins.optimizers.ppo import Ppo
from moalign_plugins.optimizers.reinforce_pp import ReinforcePlusPlus
from moalign_plugins.optimizers.reinforce_pp_baseline import ReinforcePlusPlusBaseline
from moalign_plugins.optimizers.remax import Remax
from moalign_plugins.optimizers.riskpo import RiskPo
from moalign_plugins.optimizers.rloo import Rloo

CLIPPED = [Grpo, DrGrpo, Rloo, ReinforcePlusPlusBaseline, Remax, RiskPo]


def loss_and_slope(optimizer, log_ratios, mask, advantages):
    mask = torch.tensor(mask)
    leaf = torch.tensor(log_ratios, requires_grad=True)
    rows = Rows(mask, torch.zeros_like(mask), None, len(mask), int(mask.sum()), 4)
    loss, metrics = optimizer.loss(leaf, rows, torch.tensor(advantages)[:, None])
    loss.backward()
    return float(loss.detach()), leaf.grad.tolist(), float(metrics["clip_fraction"])


@pytest.mark.parametrize("cls", CLIPPED)
def test_clip_higher_lets_what_is_good_grow_further(cls):
    """The ratio is 1.25; a negative advantage is not concerned."""
    given = [[math.log(1.25)]], [[1.0]], [2.0]
    plain = loss_and_slope(cls(aggregation="token-mean"), *given)
    assert plain == (pytest.approx(-2.4), [[0.0]], 1)
    higher = loss_and_slope(cls(aggregation="token-mean", clip_high=0.28), *given)
    assert higher == (pytest.approx(-2.5), [[pytest.approx(-2.5)]], 0)
    low = [[math.log(0.75)]], [[1.0]], [-2.0]
    assert loss_and_slope(cls(aggregation="token-mean", clip_high=0.28), *low)[2] == 1


@pytest.mark.parametrize("cls", CLIPPED)
def test_golden_values_of_the_ratio_of_sequences(cls):
    """Log-ratios .1 and .3: the ratio is exp(.2) for both tokens. The second row has one, .06."""
    given = [[0.1, 0.3], [0.06, 7.0]], [[1.0, 1.0], [1.0, 0.0]], [2.0, -1.0]
    options = {"ratio": "sequence", "aggregation": "seq-mean-token-mean"}
    loss, slope, clipped = loss_and_slope(cls(clip_high=0.3, **options), *given)
    assert loss == pytest.approx((-2 * math.exp(0.2) + math.exp(0.06)) / 2)
    assert slope[0] == pytest.approx([-math.exp(0.2) / 2] * 2)
    assert slope[1] == pytest.approx([math.exp(0.06) / 2, 0.0])
    assert clipped == 0
    # Of one clip, all tokens of a completion stand inside or outside together.
    loss, slope, clipped = loss_and_slope(cls(clip_high=0.2, **options), *given)
    assert loss == pytest.approx((-2 * 1.2 + math.exp(0.06)) / 2)
    assert slope[0] == [0.0, 0.0]
    assert clipped == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("how", "first", "second"),
    [
        ("token-mean", 1 / 4, 1 / 4),
        ("seq-mean-token-sum", 1 / 2, 1 / 2),
        ("seq-mean-token-mean", 1 / 6, 1 / 2),
        ("seq-mean-token-sum-norm", 1 / 8, 1 / 8),
    ],
)
@pytest.mark.parametrize("cls", CLIPPED)
def test_aggregation_says_what_a_token_counts(cls, how, first, second):
    """Completions of three tokens and of one, with a limit of four."""
    given = [[0.0] * 3] * 2, [[1.0] * 3, [1.0, 0.0, 0.0]], [1.0, -1.0]
    _, slope, _ = loss_and_slope(cls(aggregation=how), *given)
    assert slope[0] == pytest.approx([-first] * 3)
    assert slope[1] == pytest.approx([second, 0.0, 0.0])


# --- the divergence, in the loss or as an objective -----------------------------------------------

LONG = (
    "training.prompts=16",
    "training.group=16",
    "training.steps=80",
    "training.learning_rate=0.1",
    "training.schedule=linear",
)
VALUES = torch.tensor(testbeds.table("concave")["x"], dtype=torch.float64)


def trained(objectives: str, *overrides: str) -> torch.Tensor:
    """Return the probabilities of the arms after training; all are equal at first."""
    text = testbeds.text("concave", x="")
    text = text.replace("objectives:\n", f"objectives:\n{objectives}")
    study = load(text, "arms.yaml", testbeds.catalogue(), (*LONG, *overrides))
    return testbeds.chosen(testbeds.train(study))


@pytest.mark.parametrize("optimizer", ["rloo", "remax"])
def test_a_divergence_in_the_loss_ends_at_the_closed_form(optimizer):
    """``pi_ref exp(r / beta)``, beta = .5."""
    options = "kl_coefficient: 0.5, kl_estimator: mse, aggregation: token-mean"
    found = trained("", f"training.optimizer={{{optimizer}: {{{options}}}}}")
    torch.testing.assert_close(found, (VALUES / 0.5).softmax(0), atol=0.04, rtol=0)


@pytest.mark.parametrize("optimizer", ["dr-grpo", "p3o"])
def test_a_divergence_as_an_objective_ends_there_too(optimizer):
    """Weights of 2/3 and 1/3: beta = .5."""
    found = trained(
        "  near: {reward: kl, use: [train]}\n",
        f"training.optimizer={optimizer}",
        "weighting.preference={x: 2, near: 1}",
    )
    torch.testing.assert_close(found, (VALUES / 0.5).softmax(0), atol=0.04, rtol=0)


# --- in units of a deviation, which depends on the policy -----------------------------------------

SCORES = torch.tensor([[0.3, 0.0], [0.1, 0.2], [0.0, 0.4]], dtype=torch.float64)
REFERENCE = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
WEIGHTS = [0.7, 0.3]
BETA = 0.8


def mean_advantages(policy_A: Tensor, prompts: int, group: int, over: tuple[int, ...]) -> Tensor:
    """Return what each arm's advantage is on average, in batches that a policy samples, [A].

    Scores are taken from the mean over the dimensions ``over`` of a batch [P, G], and divided by
    the deviation over the whole batch.
    """
    arms_SR = torch.tensor(list(product(range(len(policy_A)), repeat=prompts * group)))
    values_SPGK = SCORES[arms_SR].view(-1, prompts, group, SCORES.shape[1])
    centred = values_SPGK - values_SPGK.mean([1 + d for d in over], keepdim=True)
    deviation = (centred.square().sum((1, 2)) / (prompts * group - 1)).sqrt()
    weighted_S = (centred[:, 0, 0] / (deviation + 1e-6)) @ torch.tensor(WEIGHTS).double()
    weighted_S = weighted_S * policy_A[arms_SR[:, 1:]].prod(-1)  # of which company the first is in
    return torch.zeros_like(policy_A).index_add(0, arms_SR[:, 0], weighted_S)


@pytest.mark.parametrize(
    ("cls", "prompts", "group", "over"),
    [
        (Grpo, 1, 3, (0, 1)),
        (Ppo, 3, 1, (0, 1)),
        (ReinforcePlusPlus, 3, 1, (0, 1)),
        (ReinforcePlusPlusBaseline, 2, 2, (1,)),
    ],
)
def test_divided_scores_end_where_the_policy_agrees_with_its_own_advantages(
    cls: type[Optimizer], prompts: int, group: int, over: tuple[int, ...]
):
    """``pi = pi_ref exp(A(pi) / beta)``: no ``exp(r / beta)``, as the scale of r cancels."""

    def trained(scale: float) -> Tensor:
        optimizer = begun(cls(kl_coefficient=BETA, kl_estimator="mse"), 2)
        given = {"group": group, "prompts": prompts, "rate": 1.0, "steps": 12}
        return solve(optimizer, scale * SCORES, WEIGHTS, REFERENCE, **given)

    found = trained(1.0)
    expected = (REFERENCE.log() + mean_advantages(found, prompts, group, over) / BETA).softmax(0)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(found, trained(10.0), atol=1e-5, rtol=0)
    utility = SCORES @ torch.tensor(WEIGHTS).double()
    plain = (REFERENCE.log() + utility / BETA).softmax(0)
    assert float((found - plain).abs().max()) > 0.05
