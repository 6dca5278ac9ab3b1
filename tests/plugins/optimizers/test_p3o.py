"""Pairwise proximal policy optimisation."""

from __future__ import annotations

import math

import letters
import pytest
import testbeds
import torch
from resuming import resumed

from moalign import plugins
from moalign.errors import StudyError
from moalign.maths.combine import combine
from moalign.study.loading import load
from moalign.testing.steps import make_batch
from moalign.types import Rows
from moalign_plugins.optimizers.p3o import P3o
from moalign_plugins.optimizers.rloo import Rloo

NAN = float("nan")


def rows_of(batch, old_BT, group) -> Rows:
    return Rows(
        batch.mask_BT,
        old_BT,
        None,
        total_rows=batch.rows,
        total_tokens=int(batch.mask_BT.sum()),
        max_tokens=8,
        group=group,
        kept=dict(batch.kept),
    )


def loss_and_slope(scores_PGK, moved_BT, batch, weights=None, **options):
    """Return loss, gradient by log-probabilities and metrics, moved from those of before."""
    p3o = P3o(**options)
    weights = torch.ones(scores_PGK.shape[-1]) if weights is None else weights
    advantages = combine(p3o.advantages(scores_PGK, batch), weights, batch=batch)
    old = -torch.ones_like(batch.mask_BT) * batch.mask_BT
    leaf = (old + moved_BT).requires_grad_()
    loss, metrics = p3o.loss(leaf, rows_of(batch, old, batch.group), advantages)
    loss.backward()
    return loss.detach(), leaf.grad, {name: float(value) for name, value in metrics.items()}


def pair(moved_1, moved_2, difference=1.0, **options):
    scores = torch.tensor([[[difference], [0.0]]])
    batch = make_batch(1, 2, lengths=[1, 1])
    return loss_and_slope(scores, torch.tensor([[moved_1], [moved_2]]), batch, **options)


@pytest.mark.parametrize(
    ("moved", "difference", "loss", "slope", "metrics"),
    [
        ((0.0, 0.0), 1.0, 0.0, -0.5, (1.0, 0)),  # on the policy that sampled
        ((0.1, 0.0), 1.0, -0.5 * math.exp(0.1) * 0.1, -0.5 * math.exp(0.1), (math.exp(0.1), 0)),
        ((0.2, -0.1), 1.0, -0.5 * math.exp(0.1) * 0.2, 0.0, (math.exp(0.1), 1)),  # went far enough
        ((-0.2, 0.1), 1.0, 0.15 * math.exp(-0.1), -0.5 * math.exp(-0.1), (math.exp(-0.1), 0)),
        ((0.2, -0.1), -1.0, 0.15 * math.exp(0.1), 0.5 * math.exp(0.1), (math.exp(0.1), 0)),
        ((2.0, 2.0), 1.0, 0.0, -5.0, (10.0, 0)),  # both far likelier: the weight ends at 10
        ((-2.0, -2.0), 1.0, 0.0, -0.05, (0.1, 0)),
        ((0.0, 0.0), 0.0, 0.0, 0.0, (1.0, 0)),
    ],
)
def test_golden_values_of_a_pair(moved, difference, loss, slope, metrics):
    found, gradient, told = pair(*moved, difference=difference)
    assert float(found) == pytest.approx(loss, abs=1e-6)
    assert gradient.flatten().tolist() == pytest.approx([slope, -slope], abs=1e-6)
    ratio, clipped = metrics
    assert told == pytest.approx({"ratio": ratio, "clip_fraction": clipped})


def test_options_reach_the_loss():
    wide = pair(0.2, -0.1, clip=0.5)
    assert float(wide[0]) == pytest.approx(-0.15 * math.exp(0.1))
    assert pair(2.0, 2.0, ratio_clip=1.0)[2]["ratio"] == 1.0
    assert P3o(epochs=3).epochs == 3


def test_a_shift_that_depends_on_the_prompt_only_changes_nothing_at_all():
    generator = torch.Generator().manual_seed(0)
    batch = make_batch(3, 4, lengths=[1, 2, 3, 4] * 3)
    scores = torch.randint(0, 64, (3, 4, 2), generator=generator) / 8
    scores[0, 1, 0] = NAN
    shift = torch.tensor([[5.0, -3.0], [-1024.0, 7.5], [0.125, 64.0]])[:, None]
    moved = 0.1 * torch.randn(12, 4, generator=generator) * batch.mask_BT
    weights = torch.tensor([0.3, 0.7])
    plain = loss_and_slope(scores, moved, batch, weights)
    shifted = loss_and_slope(scores + shift, moved, batch, weights)
    assert torch.equal(plain[0], shifted[0])
    assert torch.equal(plain[1], shifted[1])
    assert plain[1].any()


def test_on_the_policy_that_sampled_it_is_leave_one_out():
    batch = make_batch(3, 4, lengths=[1, 2, 3, 4] * 3)
    scores = torch.rand(3, 4, 1, generator=torch.Generator().manual_seed(0))
    found = loss_and_slope(scores, torch.zeros(12, 4), batch)[1]
    old = torch.zeros(12, 4, requires_grad=True)
    rloo = Rloo(aggregation="seq-mean-token-sum")
    advantages = rloo.advantages(scores, batch)[..., 0]
    rloo.loss(old, rows_of(batch, old.detach(), 1), advantages)[0].backward()
    torch.testing.assert_close(found, old.grad)


def test_a_prompt_is_the_mean_of_its_pairs_and_a_batch_that_of_its_prompts():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(2, 3, 1, generator=generator)
    moved = 0.2 * torch.randn(2, 3, 1, generator=generator)
    batch = make_batch(2, 3, lengths=[1] * 6)
    whole = float(loss_and_slope(scores, moved.view(6, 1), batch)[0])
    alone = [
        float(
            loss_and_slope(
                scores[p : p + 1, [i, j]], moved[p, [i, j]], make_batch(1, 2, lengths=[1, 1])
            )[0]
        )
        for p in range(2)
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    assert whole == pytest.approx(sum(alone) / 6, abs=1e-6)


def test_what_was_not_scored_is_left_alone_wherever_the_policy_has_gone():
    scores = torch.tensor([1.0, 0.0, NAN]).view(1, 3, 1)
    batch = make_batch(1, 3, lengths=[1, 1, 1])
    moved = torch.tensor([[0.1], [-0.05], [0.5]])
    _, slopes, _ = loss_and_slope(scores, moved, batch)
    assert float(slopes[2]) == 0.0
    elsewhere = loss_and_slope(scores, moved + torch.tensor([[0.0], [0.0], [0.4]]), batch)
    assert torch.equal(slopes, elsewhere[1])
    assert slopes[:2].all()


def test_an_advantage_per_token_counts_as_its_mean():
    batch = make_batch(1, 2, lengths=[3, 1])
    batch.kept["scored"] = torch.ones(2)
    old = torch.zeros(2, 3)
    rows = rows_of(batch, old, 2)
    logprobs = torch.tensor([[0.1, 0.0, 0.0], [0.0, 5.0, 5.0]])
    per_token = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 9.0, 9.0]])
    one = P3o().loss(logprobs, rows, per_token)[0]
    other = P3o().loss(logprobs, rows, torch.tensor([[2.0], [-1.0]]))[0]
    torch.testing.assert_close(one, other)


# --- in the loop ----------------------------------------------------------------------------------


def study(*overrides):
    given = ("policy.condition=none", "weighting=fixed", "training.optimizer=p3o")
    catalogue = plugins.load([letters.FILE])
    return load(letters.STUDY, "letters.yaml", catalogue, (*given, "search.space={}", *overrides))


def test_the_rewarded_arm_becomes_likelier():
    given = ("training.optimizer={p3o: {epochs: 2}}", "weighting.preference={x: 1, y: 0}")
    trial = testbeds.train(testbeds.front_study("concave", *given), 40)
    assert testbeds.chosen(trial)[-1] > 0.9


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("training.optimizer={p3o: {epochs: 2}}", "training.minibatches=2"),
        ("training.batch_norm=token",),
        ("policy.condition=weights",),
        ("weighting={mgda: {}}",),
    ],
    ids=["plain", "epochs and mini-batches", "batch norm", "conditioned", "gram"],
)
def test_resuming_is_exact_and_micro_batches_change_nothing(tmp_path, overrides):
    given = study("training.steps=4", *overrides)
    whole = testbeds.new_trial(given)
    history = [whole.train_step() for _ in range(3)]
    first = testbeds.new_trial(given)
    first.train_step()
    second = resumed(first, testbeds.new_trial(given), tmp_path)
    assert [second.train_step() for _ in range(2)] == history[1:]
    small = testbeds.new_trial(study("training.steps=4", *overrides, "training.micro_tokens=30"))
    assert small.train_step() == pytest.approx(history[0], rel=1e-3, abs=1e-4)
    if "mgda" in str(overrides):
        assert history[0]["gram/reused"] == 1.0


def test_one_completion_cannot_be_compared():
    with pytest.raises(StudyError, match="group must be at least 2"):
        study("training.group=1")
