"""Group relative policy optimisation, and what it shares with its relatives."""

from __future__ import annotations

import math

import pytest
import torch

from moalign.errors import OptionError
from moalign.options import check_options
from moalign.testing.steps import make_batch
from moalign.types import Rows
from moalign_plugins.optimizers.dr_grpo import DrGrpo
from moalign_plugins.optimizers.grpo import Grpo
from moalign_plugins.optimizers.reinforce_pp import ReinforcePlusPlus
from moalign_plugins.optimizers.rloo import Rloo

OPTIMIZERS = [Grpo, DrGrpo, Rloo, ReinforcePlusPlus]
NAN = float("nan")


def advantages_of(optimizer, rewards):
    scores = torch.tensor(rewards)[None, :, None]
    return optimizer.advantages(scores, make_batch(1, len(rewards)))


def test_golden_values():
    found = advantages_of(Grpo(), [1.0, 0.0, 0.0, 1.0])
    assert found.shape == (4, 1, 1)
    expected = torch.tensor([0.86602, -0.86602, -0.86602, 0.86602])
    torch.testing.assert_close(found[:, 0, 0], expected, atol=1e-5, rtol=0)


def test_it_divides_by_the_deviation():
    once, tenfold = (advantages_of(Grpo(), [s, 0.0, 0.3 * s]) for s in (1.0, 10.0))
    torch.testing.assert_close(once, tenfold, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cls", OPTIMIZERS)
def test_equal_scores_and_missing_scores_teach_nothing(cls):
    assert not advantages_of(cls(), [0.7, 0.7, 0.7]).any()
    assert not advantages_of(cls(), [NAN, NAN]).any()
    found = advantages_of(cls(), [1.0, NAN, 0.0])
    assert found.isfinite().all()
    assert not found[1].any()


@pytest.mark.parametrize("cls", OPTIMIZERS)
def test_reference_is_needed_only_for_a_kl_term(cls):
    assert cls().needs == frozenset()
    assert cls(kl_coefficient=0.01).needs == {"ref_logprobs"}


@pytest.mark.parametrize("cls", OPTIMIZERS)
def test_options_reach_the_loss(cls):
    mask = torch.ones(2, 3)
    rows = Rows(mask, torch.zeros(2, 3), torch.full((2, 3), -0.4), 2, 6, 8)
    logprobs, advantages = torch.full((2, 3), 0.3), torch.tensor([[1.0], [-1.0]])

    def loss(**options):
        return float(cls(**options).loss(logprobs, rows, advantages)[0])

    token_mean = loss(aggregation="token-mean")
    assert token_mean == pytest.approx((-1.2 + math.exp(0.3)) / 2, rel=1e-5)
    assert loss(aggregation="seq-mean-token-sum") == pytest.approx(3 * token_mean, rel=1e-5)
    assert loss(aggregation="seq-mean-token-sum-norm") == pytest.approx(
        3 / 8 * token_mean, rel=1e-5
    )
    wide = loss(aggregation="token-mean", clip_high=0.5)
    assert wide == pytest.approx(0, abs=1e-6)
    low = cls(aggregation="token-mean", clip_low=0.5).loss(-3 * logprobs, rows, advantages)[0]
    assert float(low) == pytest.approx((0.5 - math.exp(-0.9)) / 2, rel=1e-5)
    dual = loss(aggregation="token-mean", dual_clip=1.25)
    assert dual == pytest.approx((-1.2 + 1.25) / 2, rel=1e-5)
    for estimator, size in (("mse", 0.245), ("k3", math.exp(-0.7) - 0.3)):
        with_kl = loss(aggregation="token-mean", kl_coefficient=0.5, kl_estimator=estimator)
        assert with_kl - token_mean == pytest.approx(0.5 * size, rel=1e-4)
    assert cls(epochs=3).epochs == 3


@pytest.mark.parametrize("cls", OPTIMIZERS)
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("clip_low", 0.0),
        ("clip_high", -0.1),
        ("dual_clip", 1.0),
        ("kl_coefficient", -1.0),
        ("kl_estimator", "k2"),
        ("kl_estimator", "k1"),  # its gradient does not pull
        ("aggregation", "mean"),
        ("epochs", 0),
    ],
)
def test_options_outside_their_bounds_are_refused(cls, option, value):
    with pytest.raises(OptionError, match=option):
        check_options(cls, {option: value})


def test_groups_of_one_are_below_the_minimum_of_those_that_compare():
    assert [cls.min_group for cls in OPTIMIZERS] == [2, 2, 2, 1]
