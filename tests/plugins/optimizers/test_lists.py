"""Losses of lists and of single completions: values, limits, optima, and what is left out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tabular import begun, fit, rows_of
from torch import Tensor

from moalign.components import Optimizer
from moalign.errors import OptionError
from moalign.testing.steps import make_objectives
from moalign_plugins.optimizers.adpo import Adpo
from moalign_plugins.optimizers.dpo import Dpo
from moalign_plugins.optimizers.kto import Kto
from moalign_plugins.optimizers.lipo import Lipo
from moalign_plugins.optimizers.pmpo import Pmpo

NAN = math.nan
EVERY: dict[str, Callable[[], Optimizer]] = {"lipo": Lipo, "adpo": Adpo, "kto": Kto, "pmpo": Pmpo}


def losses(
    optimizer: Optimizer, ratios: Sequence[float], scores: Sequence[Any], *, leaf: bool = False
) -> Any:
    """Return the losses of one prompt by objective, [K], and the leaf of log-ratios if asked for.

    A completion is one token, to which the reference gives a log-probability of -2.
    """
    ratios_PGT = torch.tensor(ratios, dtype=torch.float64)[None, :, None].requires_grad_(leaf)
    scores_PGK = torch.tensor(scores, dtype=torch.float64)
    scores_PGK = scores_PGK.view(1, len(ratios), -1)
    reference = torch.full_like(ratios_PGT, -2.0).detach()
    rows = rows_of(begun(optimizer, scores_PGK.shape[-1]), scores_PGK, reference)
    losses_PK, _ = optimizer.losses((reference + ratios_PGT).flatten(0, 1), rows)
    return (losses_PK[0], ratios_PGT) if leaf else losses_PK[0]


def loss(optimizer: Optimizer, ratios: Sequence[float], scores: Sequence[float]) -> float:
    return float(losses(optimizer, ratios, scores))


def pull(optimizer: Optimizer, ratios: Sequence[float], scores: Sequence[float]) -> list[float]:
    """Return how fast the loss falls with each log-ratio."""
    found, leaf = losses(optimizer, ratios, scores, leaf=True)
    (gradient,) = torch.autograd.grad(found.sum(), leaf)
    return (-gradient.flatten()).tolist()


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def discount(rank: float) -> float:
    """Return a rank's discount, in units of what tells the two ranks of a pair apart."""
    return 1 / math.log(1 + rank) / (1 / math.log(2) - 1 / math.log(3))


# --- lipo ---------------------------------------------------------------------------------------


def test_lipo_of_two_is_dpo():
    for ratios in ([3.0, 0.0], [-1.0, 2.0], [0.0, 0.0]):
        for scores in ([1.0, 0.0], [0.2, 0.3], [-7.0, -8.0]):
            assert loss(Lipo(), ratios, scores) == pytest.approx(loss(Dpo(), ratios, scores))


def test_lipo_of_three_by_hand():
    # Ranks by log-ratio: 3, 1, 2. Gains 2^1, 2^0.5, 2^0.
    gains = (2.0, math.sqrt(2.0), 1.0)
    ratios, ranks = (-1.0, 2.0, 0.5), (3, 1, 2)
    expected = 0.0
    for i, j in ((0, 1), (0, 2), (1, 2)):
        weight = (gains[i] - gains[j]) * abs(discount(ranks[i]) - discount(ranks[j]))
        expected += weight * softplus(-0.1 * (ratios[i] - ratios[j]))
    assert loss(Lipo(), ratios, (6.0, 5.0, 4.0)) == pytest.approx(expected)
    # Neither units nor order of the list matter.
    assert loss(Lipo(), ratios, (0.6, 0.5, 0.4)) == pytest.approx(expected)
    assert loss(Lipo(), (0.5, -1.0, 2.0), (4.0, 6.0, 5.0)) == pytest.approx(expected)


def test_lipo_begins_where_all_log_ratios_are_equal():
    # Ranks follow the scores: 1, 2, 3.
    gains, ranks = (2.0, math.sqrt(2.0), 1.0), (1, 2, 3)
    pairs = ((0, 1), (0, 2), (1, 2))
    weights = [(gains[i] - gains[j]) * (discount(ranks[i]) - discount(ranks[j])) for i, j in pairs]
    assert loss(Lipo(), (0.0, 0.0, 0.0), (6.0, 5.0, 4.0)) == pytest.approx(
        math.log(2) * sum(weights)
    )
    first, second, third = pull(Lipo(), (0.0, 0.0, 0.0), (6.0, 5.0, 4.0))
    assert first > second > third
    # Policy and reference are passed in other micro-batches.
    assert loss(Lipo(), (-1e-7, 0.0, 1e-7), (6.0, 5.0, 4.0)) == pytest.approx(
        math.log(2) * sum(weights)
    )
    # Equal in both: they share the ranks 2 and 3, and the pair of them has no loss.
    weight = (2.0 - 1.0) * (discount(1) - discount(2.5))
    assert loss(Lipo(), (0.0, 0.0, 0.0), (6.0, 4.0, 4.0)) == pytest.approx(2 * weight * math.log(2))


def test_lipo_cares_most_for_the_top():
    # The same two neighbours are the wrong way round, at the top or at the bottom.
    scores = (4.0, 3.0, 2.0, 1.0)
    top = pull(Lipo(), (0.9, 1.0, -1.0, -2.0), scores)
    bottom = pull(Lipo(), (2.0, 1.0, -1.0, -0.9), scores)
    assert top[0] - top[1] > bottom[2] - bottom[3]


# --- adpo ---------------------------------------------------------------------------------------


def test_adpo_of_two_is_soft_dpo_less_the_entropy_of_its_labels():
    for ratios, scores in (([3.0, 0.0], [1.0, 0.0]), ([-1.0, 2.0], [0.2, 0.9])):
        p = sigmoid((scores[0] - scores[1]) / 0.5)
        entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
        soft = loss(Dpo(beta=0.3, labels="soft"), ratios, [s / 0.5 for s in scores])
        found = loss(Adpo(beta=0.3, tau=0.5), ratios, scores)
        assert found == pytest.approx(soft - entropy)
        # What training sees is the same.
        pulled = pull(Dpo(beta=0.3, labels="soft"), ratios, [s / 0.5 for s in scores])
        assert pull(Adpo(beta=0.3, tau=0.5), ratios, scores) == pytest.approx(pulled)


def test_adpo_of_three_by_hand():
    # q = softmax(log 4, log 2, 0) = 4/7, 2/7, 1/7; p = softmax(0, log 2, 0) = 1/4, 1/2, 1/4.
    scores, ratios = (math.log(4), math.log(2), 0.0), (0.0, 2 * math.log(2), 0.0)
    wanted, found = (4 / 7, 2 / 7, 1 / 7), (1 / 4, 1 / 2, 1 / 4)
    expected = sum(q * math.log(q / p) for q, p in zip(wanted, found, strict=True))
    assert loss(Adpo(beta=0.5), ratios, scores) == pytest.approx(expected)
    # A constant on all scores or all log-ratios is nothing.
    shifted = loss(Adpo(beta=0.5), [r + 5 for r in ratios], [s - 3 for s in scores])
    assert shifted == pytest.approx(expected)


def test_adpo_is_zero_at_its_target():
    scores = (1.0, 0.2, -0.5)
    ratios = [s / (0.5 * 2.0) for s in scores]
    assert loss(Adpo(beta=2.0, tau=0.5), ratios, scores) == pytest.approx(0.0, abs=1e-12)
    assert pull(Adpo(beta=2.0, tau=0.5), ratios, scores) == pytest.approx([0.0] * 3, abs=1e-12)


def test_adpo_with_a_small_tau_wants_the_best_one_only():
    cold = loss(Adpo(beta=1.0, tau=1e-4), (0.3, 0.1, 0.0), (0.5, 0.6, 0.1))
    chosen = math.log(sum(math.exp(r - 0.1) for r in (0.3, 0.1, 0.0)))
    assert cold == pytest.approx(chosen)


@pytest.mark.parametrize(("beta", "tau"), [(1.0, 1.0), (0.4, 0.7)])
def test_adpo_s_optimum_is_the_reference_times_the_target(beta: float, tau: float):
    reference = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).double()
    scores = torch.tensor([[0.1, 0.7, 0.4, 1.0]]).double()
    found = fit(begun(Adpo(beta=beta, tau=tau), 1), scores[..., None], [1.0], reference)
    expected = reference * (scores / (tau * beta)).exp()
    torch.testing.assert_close(found, expected / expected.sum(), atol=1e-6, rtol=0)


# --- kto ----------------------------------------------------------------------------------------


def test_kto_of_a_pair_by_hand():
    # z = (3 - 1) / 2 = 1
    expected = (1 - sigmoid(0.1 * (3 - 1)) + 1 - sigmoid(0.1 * (1 + 1))) / 2
    assert loss(Kto(), (3.0, -1.0), (1.0, 0.0)) == pytest.approx(expected)
    # The other way round, with weights.
    weighted = (1.5 * (1 - sigmoid(-0.2)) + 0.5 * (1 - sigmoid(-0.2))) / 2
    kto = Kto(desirable=1.5, undesirable=0.5)
    assert loss(kto, (-1.0, 3.0), (1.0, 0.0)) == pytest.approx(weighted)
    # The point is not below 0: both have become less likely.
    expected = (1 - sigmoid(-0.1) + 1 - sigmoid(0.1 * 3)) / 2
    assert loss(Kto(), (-1.0, -3.0), (1.0, 0.0)) == pytest.approx(expected)


def test_kto_has_no_gradient_through_its_point():
    beta, half = 0.1, sigmoid(0.2) * (1 - sigmoid(0.2))
    found = pull(Kto(), (3.0, -1.0), (1.0, 0.0))
    assert found == pytest.approx([beta * half / 2, -beta * half / 2])


def test_kto_of_a_group_calls_good_what_is_above_its_mean():
    point = (2.0 + 0.0 + 1.0) / 3
    good, bad = 1 - sigmoid(0.1 * (2.0 - point)), 1 - sigmoid(0.1 * (point - 0.0))
    # The third is the mean itself, and neither.
    found = loss(Kto(), (2.0, 0.0, 1.0), (0.9, 0.1, 0.5))
    assert found == pytest.approx((good + bad) / 2)


def test_kto_may_judge_each_completion_by_itself():
    kto = Kto(thresholds={"b": 0.5})
    # a compares, b has all good and then all bad, at its own threshold.
    scores = [[1.0, 0.5], [0.0, 0.9]]
    good = (1 - sigmoid(0.1 * (3 - 1)) + 1 - sigmoid(0.1 * (-1 - 1))) / 2
    found = losses(kto, (3.0, -1.0), scores).tolist()
    assert found == pytest.approx([loss(Kto(), (3.0, -1.0), (1.0, 0.0)), good])
    both = losses(kto, (3.0, -1.0), [[0.2, 0.3], [0.2, 0.3]])
    assert both[0].isnan()
    bad = (1 - sigmoid(0.1 * (1 - 3)) + 1 - sigmoid(0.1 * (1 + 1))) / 2
    assert float(both[1]) == pytest.approx(bad)


def test_a_threshold_of_no_objective_is_refused():
    for optimizer in (Kto(thresholds={"bb": 1.0}), Pmpo(thresholds={"bb": 1.0})):
        with pytest.raises(OptionError, match="'bb' is no training objective; did you mean") as it:
            optimizer.check(make_objectives("aa", "b"))
        assert it.value.option == "thresholds"


TRL_1_16 = 0.37406
"""What TRL 1.16.0 returned for the pair below."""


def trl_kto(policy_BT: Tensor, reference_BT: Tensor) -> float:
    """Return TRL's loss of one pair whose divergence is estimated on the pair itself."""
    import trl

    zeros = torch.zeros_like(policy_BT)

    def model(**_: Any) -> Any:
        return SimpleNamespace(
            log_probs=policy_BT, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
        )

    model.training = False  # type: ignore[attr-defined]
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(
            device="cpu", gather_for_metrics=lambda value: value, gather=lambda value: value
        ),
        model=model,
        aux_loss_enabled=False,
        beta=0.3,
        desirable_weight=1.5,
        undesirable_weight=0.5,
        calculate_KL=True,
        loss_type="kto",
        precompute_ref_logps=True,
        _tp_size=1,
        _total_train_tokens=0,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    trainer._compute_kl_logps = partial(trl.KTOTrainer._compute_kl_logps, trainer)
    rows, tokens = policy_BT.shape
    ids, ones = torch.zeros(rows, tokens + 1).long(), torch.ones(rows, tokens + 1).long()
    inputs = {
        "label": torch.tensor([True, False]),
        "ref_logps": reference_BT.sum(-1),
        "ref_KL_logps": reference_BT.sum(-1),
    }
    for prefix in ("", "KL_"):
        inputs |= {
            f"{prefix}input_ids": ids,
            f"{prefix}attention_mask": ones,
            f"{prefix}completion_mask": ones,
        }
    return float(trl.KTOTrainer._compute_loss(trainer, model, inputs, False))


def kto_pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    policy, reference = (-3 * torch.rand(2, 4, generator=generator) for _ in "pr")
    return policy, reference


def our_kto(policy_BT: Tensor, reference_BT: Tensor) -> float:
    kto = begun(Kto(beta=0.3, desirable=1.5, undesirable=0.5), 1)
    rows = rows_of(kto, torch.tensor([[[1.0], [0.0]]]), reference_BT[None])
    return float(kto.losses(policy_BT, rows)[0])


def test_kto_equals_what_trl_returned():
    assert our_kto(*kto_pair()) == pytest.approx(TRL_1_16, abs=5e-6)


@pytest.mark.extras
@pytest.mark.timeout(300)  # importing TRL takes its time
def test_kto_equals_what_trl_returns():
    policy, reference = kto_pair()
    assert our_kto(policy, reference) == pytest.approx(trl_kto(policy, reference), abs=1e-6)


# --- pmpo ---------------------------------------------------------------------------------------


def excess(d: float) -> float:
    return math.exp(d) - 1 - d


def test_pmpo_by_hand():
    ratios, scores = (0.5, -0.4, 0.1), (0.9, 0.1, 0.2)
    divergence = sum(excess(r) for r in ratios) / 3
    expected = -0.6 * 0.5 + 0.4 * (-0.4 + 0.1) / 2 + 0.7 * divergence
    assert loss(Pmpo(alpha=0.6, beta=0.7), ratios, scores) == pytest.approx(expected)
    assert loss(Pmpo(), (0.0, 0.0), (1.0, 0.0)) == 0.0


def test_pmpo_s_divergence_grows_no_faster_than_its_tangent():
    only_good = Pmpo(alpha=1.0, beta=1.0)
    near, far = pull(only_good, (2.0, 0.0), (1.0, 0.0)), pull(only_good, (9.0, 0.0), (1.0, 0.0))
    assert near == pytest.approx([1.0 - (math.exp(2) - 1) / 2, 0.0])
    assert far == pytest.approx(near)


def test_pmpo_takes_either_kind_alone():
    good = Pmpo(alpha=1.0, thresholds={"a": 0.0})
    bad = Pmpo(alpha=0.0, thresholds={"a": 2.0})
    assert pull(good, (0.0, 0.0), (1.0, 0.5)) == pytest.approx([0.5, 0.5])
    assert pull(bad, (0.0, 0.0), (1.0, 0.5)) == pytest.approx([-0.5, -0.5])
    # What there is none of adds nothing.
    assert pull(Pmpo(alpha=1.0, thresholds={"a": 2.0}), (0.0, 0.0), (1.0, 0.5)) == [0.0, 0.0]


def test_pmpo_s_optimum_is_in_closed_form():
    # All four, as often as a uniform reference writes them: two good, two bad.
    reference = torch.full((1, 4), 0.25).double()
    scores = torch.tensor([[1.0, 0.9, 0.1, 0.0]]).double()[..., None]
    alpha, beta = 0.8, 0.9
    found = fit(begun(Pmpo(alpha=alpha, beta=beta), 1), scores, [1.0], reference)
    good, bad = torch.tensor([[0.5, 0.5, 0, 0]]), torch.tensor([[0, 0, 0.5, 0.5]])
    expected = alpha * good - (1 - alpha) * bad + beta * reference
    torch.testing.assert_close(found, expected / expected.sum(), atol=1e-6, rtol=0)


# --- what they share ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_a_missing_score_takes_its_completion_off_the_list(name: str):
    ratios, scores = (0.4, -0.3, 0.1), (1.0, 0.2, 0.5)
    if name in {"kto", "pmpo"}:  # their point and divergence are the policy's own
        ratios = (0.4, -0.3, 0.05)
    four = loss(EVERY[name](), (*ratios, sum(ratios) / 3), (*scores, NAN))
    if name == "pmpo":
        extra = excess(sum(ratios) / 3) / 4 - sum(excess(r) for r in ratios) / 12
        four -= Pmpo().beta * extra
    assert four == pytest.approx(loss(EVERY[name](), ratios, scores))


@pytest.mark.parametrize("name", EVERY)
def test_objectives_have_losses_of_their_own(name: str):
    ratios = (0.4, -0.3, 0.1)
    first, second = (1.0, 0.2, 0.5), (0.0, 3.0, 0.5)
    scores = [[a, b, 0.7, NAN] for a, b in zip(first, second, strict=True)]
    found = losses(EVERY[name](), ratios, scores)
    apart = [loss(EVERY[name](), ratios, s) for s in (first, second)]
    assert found[:2].tolist() == pytest.approx(apart)
    assert found[3].isnan()
    # Equal scores say something to adpo only: that all should be equally likely.
    assert bool(found[2].isnan()) == (name != "adpo")


@pytest.mark.parametrize("name", EVERY)
def test_the_better_one_becomes_likelier(name: str):
    first, second = pull(EVERY[name](), (0.0, 0.0), (0.3, 0.8))
    assert first < 0 < second


@pytest.mark.parametrize("name", EVERY)
def test_the_weighted_sum_may_be_a_compromise(name: str):
    # Two objectives that want opposite things, equally: none of the two is pulled up more.
    optimizer = EVERY[name]()
    found, leaf = losses(optimizer, (0.0, 0.0), [[1.0, 0.0], [0.0, 1.0]], leaf=True)
    (gradient,) = torch.autograd.grad(found.sum(), leaf)
    torch.testing.assert_close(gradient[0, 0], gradient[0, 1])
