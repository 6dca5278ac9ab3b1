"""Proximal policy optimisation with a value per objective."""

from __future__ import annotations

import letters
import pytest
import testbeds
import torch
from resuming import resumed

from moalign import plugins
from moalign.errors import StudyError
from moalign.maths.normalisation import masked_whiten
from moalign.maths.token_rewards import discounted, generalised_advantages, token_rewards
from moalign.study.loading import load
from moalign.testing.steps import make_batch, make_objectives
from moalign.types import Objective, Rows
from moalign_plugins.optimizers.ppo import Ppo
from moalign_plugins.optimizers.reinforce_pp import ReinforcePlusPlus

NAN = float("nan")
WIDTH = 3


def begun(objectives=("a",), **options) -> Ppo:
    ppo = Ppo(**options)
    given = make_objectives(*objectives) if isinstance(objectives[0], str) else objectives
    ppo.begin(given, WIDTH, 0)
    return ppo


def set_head(ppo: Ppo, weight_KD, bias_K) -> None:
    weight, bias = ppo.parameters()
    with torch.no_grad():
        weight.copy_(torch.tensor(weight_KD))
        bias.copy_(torch.tensor(bias_K))


def batch_of(lengths, hidden_BTD=None, group=None, **more):
    rows, tokens = len(lengths), max(*lengths, 1)
    if hidden_BTD is None:
        generator = torch.Generator().manual_seed(0)
        hidden_BTD = torch.randn(rows, tokens, WIDTH, generator=generator)
    group = group or rows
    lazy = {"hidden": lambda: hidden_BTD}
    return make_batch(rows // group, group, lengths=lengths, lazy=lazy, **more)


def rows_of(batch, old_BT, part=slice(None)) -> Rows:
    return Rows(
        batch.mask_BT[part],
        old_BT[part],
        None,
        total_rows=batch.rows,
        total_tokens=int(batch.mask_BT.sum()),
        max_tokens=8,
        kept={name: kept[part] for name, kept in batch.kept.items()},
    )


# --- generalised advantages -----------------------------------------------------------------------


def estimate(rewards, values, mask, gamma, lam):
    found = generalised_advantages(
        torch.tensor(rewards)[..., None],
        torch.tensor(values)[..., None],
        torch.tensor(mask),
        gamma,
        lam,
    )
    return found[..., 0].tolist()


def test_golden_values_by_hand():
    # Deltas: 0 + .9 * .4 - .5 = -.14; 1 + .9 * .2 - .4 = .78; 2 - .2 = 1.8. With gamma lam = .45:
    # A_3 = 1.8, A_2 = .78 + .45 * 1.8 = 1.59, A_1 = -.14 + .45 * 1.59 = .5755.
    found = estimate([[0.0, 1.0, 2.0]], [[0.5, 0.4, 0.2]], [[1.0, 1.0, 1.0]], 0.9, 0.5)
    assert found[0] == pytest.approx([0.5755, 1.59, 1.8])


def test_the_episode_ends_with_the_last_token_whatever_stands_on_padding():
    whole = estimate([[0.0, 1.0]], [[0.5, 0.4]], [[1.0, 1.0]], 0.9, 0.5)
    padded = estimate([[0.0, 1.0, 7.0]], [[0.5, 0.4, 9.0]], [[1.0, 1.0, 0.0]], 0.9, 0.5)
    assert padded[0] == [*whole[0], 0.0]
    # A_2 = 1 - .4; A_1 = .9 * .4 - .5 + .45 * .6.
    assert whole[0] == pytest.approx([0.13, 0.6])


def test_lambda_ends():
    rewards, values, mask = [[0.3, 1.0, 2.0]], [[0.5, 0.4, 0.2]], [[1.0, 1.0, 1.0]]
    # 0: one step ahead; 1: all rewards to come, less the value.
    assert estimate(rewards, values, mask, 0.9, 0.0)[0] == pytest.approx([0.16, 0.78, 1.8])
    returns = [0.3 + 0.9 + 0.81 * 2, 1 + 0.9 * 2, 2.0]
    expected = [r - v for r, v in zip(returns, values[0], strict=True)]
    assert estimate(rewards, values, mask, 0.9, 1.0)[0] == pytest.approx(expected)


@pytest.mark.parametrize("gamma", [1.0, 0.7])
def test_without_values_and_with_lambda_1_they_are_the_returns_of_reinforce(gamma):
    batch = batch_of([3, 1, 4, 2], group=2)
    scores = torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(1))
    scores[1, 0, 1] = NAN
    rewards = token_rewards(scores.flatten(0, 1), batch)
    nothing = torch.zeros_like(rewards)
    returns = discounted(rewards, batch.mask_BT, gamma)
    torch.testing.assert_close(
        generalised_advantages(rewards, nothing, batch.mask_BT, gamma, 1.0), returns
    )
    # So a head that has learnt nothing makes it REINFORCE++.
    found = begun(("a", "b"), gamma=gamma).advantages(scores, batch)
    torch.testing.assert_close(found, ReinforcePlusPlus(gamma=gamma).advantages(scores, batch))


def test_whitening_and_values_are_per_objective():
    batch = batch_of([3, 1, 4, 2], group=2)
    scores = torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(1))
    ppo = begun(("a", "b"), lam=0.9)
    head = [[0.2, -0.1, 0.4], [1.0, 0.5, -0.3]], [0.1, -0.2]
    set_head(ppo, *head)
    found = ppo.advantages(scores, batch)
    tokens = found[batch.mask_BT > 0]
    torch.testing.assert_close(tokens.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(tokens.std(0), torch.ones(2), atol=1e-4, rtol=0)
    assert not found[batch.mask_BT == 0].any()
    for k in range(2):
        alone = begun(("b",), lam=0.9)
        set_head(alone, [head[0][k]], [head[1][k]])
        torch.testing.assert_close(alone.advantages(scores[..., k : k + 1], batch)[..., 0],
                                   found[..., k])  # fmt: skip


def test_rewards_per_token_are_used_as_they_are():
    given = torch.tensor([[[0.5], [2.0]], [[1.0], [99.0]]])  # 99 is padding
    batch = batch_of([2, 1], token_rewards_BTK=given)
    ppo = begun(gamma=0.5)
    ppo.advantages(torch.tensor([[[2.5], [1.0]]]), batch)
    assert batch.kept["returns"][..., 0].tolist() == [[1.5, 2.0], [1.0, 0.0]]


def test_the_scale_of_an_objective_does_not_matter():
    small = (Objective("a", bounds=(0.0, 1.0)),)
    large = (Objective("a", bounds=(0.0, 500.0)),)
    scores = torch.rand(1, 4, 1, generator=torch.Generator().manual_seed(1))
    one, other = batch_of([3, 1, 4, 2]), batch_of([3, 1, 4, 2])
    first = begun(small).advantages(scores, one)
    torch.testing.assert_close(begun(large).advantages(500 * scores, other), first)
    torch.testing.assert_close(other.kept["returns"], one.kept["returns"])


def test_where_all_scores_are_alike_errors_of_the_values_teach_nothing():
    batch = batch_of([3, 1, 4, 2], group=2)
    ppo = begun(("a", "b"))
    set_head(ppo, [[0.2, -0.1, 0.4], [0.2, -0.1, 0.4]], [0.9, 0.9])
    scores = torch.tensor([1.0, 0.0]).expand(2, 2, 2).clone()
    scores[0, 0, 1] = 1.0
    found = ppo.advantages(scores, batch)
    assert not found[..., 0].any()
    assert found[..., 1].any()
    assert batch.kept["returns"][..., 0].any()  # the head still learns


# --- the value loss -------------------------------------------------------------------------------


def value_loss(value, old, returned, clip):
    """Return the value loss of one token and its slope by the value."""
    ppo = begun(value_clip=clip)
    set_head(ppo, [[0.0] * WIDTH], [value])
    batch = batch_of([1])
    ppo.advantages(torch.tensor([[[returned]]]), batch)
    batch.kept |= {"values": torch.tensor([[[old]]]), "returns": torch.tensor([[[returned]]])}
    nothing = torch.zeros(1, 1)
    loss, metrics = ppo.loss(nothing, rows_of(batch, nothing), nothing)
    loss.backward()
    assert float(metrics["value_loss"]) == float(loss.detach())
    return float(loss.detach()), float(ppo.parameters()[1].grad)


@pytest.mark.parametrize(
    ("value", "old", "returned", "loss", "slope"),
    [
        (0.1, 0.1, 1.0, 0.81, -1.8),  # the first pass: nothing is clipped
        (0.25, 0.1, 1.0, 0.5625, -1.5),  # moved by .15
        (0.5, 0.1, 1.0, 0.49, 0.0),  # moved by .4 towards it: counts as .3, pulls no more
        (-0.3, 0.1, 1.0, 1.69, -2.6),  # moved away: full pull back
        (0.5, 0.1, 0.2, 0.09, 0.6),  # moved past it: full pull back
    ],
)
def test_value_clipping_by_hand(value, old, returned, loss, slope):
    found = value_loss(value, old, returned, 0.2)
    assert found == pytest.approx((loss, slope), abs=1e-6)


def test_values_may_move_freely():
    assert value_loss(0.5, 0.1, 1.0, None) == pytest.approx((0.25, -1.0))


def test_the_value_loss_moves_the_head_and_not_the_policy():
    ppo = begun(("a", "b"))
    batch = batch_of([2, 3])
    batch.hidden_BTD.requires_grad_()
    ppo.advantages(torch.tensor([[[1.0, 0.2], [0.0, 0.4]]]), batch)
    assert not batch.kept["values"].requires_grad
    assert not batch.kept["returns"].requires_grad
    hidden = batch.hidden_BTD.detach()
    batch.kept["hidden"] = hidden
    logprobs = torch.full((2, 3), -0.5, requires_grad=True)
    loss, _ = ppo.loss(logprobs, rows_of(batch, logprobs.detach()), torch.zeros(2, 1))
    loss.backward()
    assert not logprobs.grad.any()
    assert all(parameter.grad.any() for parameter in ppo.parameters())


def test_objectives_that_do_not_apply_move_neither_policy_nor_head():
    scores = torch.tensor([[[1.0, NAN], [0.0, NAN], [0.3, 0.8]]])
    ppo, batch = begun(("a", "b")), batch_of([2, 3, 1])
    found = ppo.advantages(scores, batch)
    assert not found[:2, :, 1].any()
    loss, _ = ppo.loss(torch.zeros(3, 3), rows_of(batch, torch.zeros(3, 3)), torch.zeros(3, 1))
    loss.backward()
    weight, bias = ppo.parameters()
    # Objective b: row 2 alone, one token of six, two objectives.
    assert float(bias.grad[1]) == pytest.approx(2 * (0.0 - 0.8) / 12)
    torch.testing.assert_close(weight.grad[1], float(bias.grad[1]) * batch.hidden_BTD[2, 0])
    nothing = torch.full_like(scores, NAN)
    ppo.begin(make_objectives("a", "b"), WIDTH, 0)
    assert not ppo.advantages(nothing, batch).any()
    loss, _ = ppo.loss(torch.zeros(3, 3), rows_of(batch, torch.zeros(3, 3)), torch.zeros(3, 1))
    loss.backward()
    assert not any(parameter.grad.any() for parameter in ppo.parameters())


def test_micro_batches_add_up_for_the_head_too():
    ppo, batch = begun(("a", "b")), batch_of([2, 3, 1, 4], group=2)
    scores = torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(1))
    ppo.advantages(scores, batch)
    nothing = torch.zeros(4, 4)

    def slopes(*parts):
        ppo.parameters()[0].grad = None
        losses = [
            ppo.loss(nothing[p], rows_of(batch, nothing, p), nothing[p, :1])[0] for p in parts
        ]
        sum(losses).backward()
        return ppo.parameters()[0].grad

    torch.testing.assert_close(slopes(slice(0, 1), slice(1, 4)), slopes(slice(None)))


def test_the_value_head_learns_a_return_that_depends_on_the_state():
    """The return is 1 after states of one kind and 0 after those of the other."""
    hidden = torch.zeros(4, 2, WIDTH)
    hidden[[0, 2], :, 0], hidden[[1, 3], :, 1] = 1.0, 1.0
    scores = torch.tensor([1.0, 0.0, 1.0, 0.0]).view(1, 4, 1)
    ppo = begun()
    adam = torch.optim.AdamW(ppo.parameters(), lr=0.05, weight_decay=0.0)
    nothing = torch.zeros(4, 2)
    for _ in range(100):
        batch = batch_of([2, 2, 2, 2], hidden)
        found = ppo.advantages(scores, batch)
        adam.zero_grad()
        ppo.loss(nothing, rows_of(batch, nothing), nothing)[0].backward()
        adam.step()
    values = batch.kept["values"][..., 0]
    torch.testing.assert_close(values[[0, 2]], torch.ones(2, 2), atol=0.03, rtol=0)
    torch.testing.assert_close(values[[1, 3]], torch.zeros(2, 2), atol=0.03, rtol=0)
    plain = generalised_advantages(
        token_rewards(scores[0], batch), batch.kept["values"], batch.mask_BT, 1.0, 1.0
    )
    assert plain.abs().max() < 0.05  # what is predicted is no surprise
    torch.testing.assert_close(found, masked_whiten(plain, batch.mask_BT[..., None]))


# --- in the loop ----------------------------------------------------------------------------------

PPO = "training.optimizer={ppo: {}}"


def letters_study(*overrides):
    given = ("policy.condition=none", "weighting=fixed", "search.space={}", PPO, *overrides)
    return load(letters.STUDY, "letters.yaml", plugins.load([letters.FILE]), given)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("training.optimizer={ppo: {epochs: 2, lam: 0.95}}", "training.minibatches=2"),
        ("training.micro_tokens=40",),
        ("policy.condition=weights",),
        ("weighting={mgda: {}}",),
    ],
    ids=["plain", "epochs and mini-batches", "micro-batches", "conditioned", "gram"],
)
def test_resuming_is_exact(tmp_path, overrides):
    study = letters_study("training.steps=5", *overrides)
    whole = testbeds.new_trial(study)
    history = [whole.train_step() for _ in range(4)]
    first = testbeds.new_trial(study)
    for _ in range(2):
        first.train_step()
    second = resumed(first, testbeds.new_trial(study), tmp_path)
    assert [second.train_step() for _ in range(2)] == history[2:]
    for mine, theirs in zip(
        [*whole.parameters, *whole.optimizer.parameters()],
        [*second.parameters, *second.optimizer.parameters()],
        strict=True,
    ):
        assert torch.equal(mine, theirs)
    assert all(parameter.any() for parameter in whole.optimizer.parameters())


@pytest.mark.parametrize("weighting", ["mgda", "upgrad", "cagrad"])
def test_a_gram_weighting_does_not_double_the_gradient_of_the_head(weighting):
    """At the first step it is the one of `fixed`, however the update is made."""
    fixed = testbeds.new_trial(letters_study("training.clip_norm=1.0e9"))
    fixed.train_step()
    trial = testbeds.new_trial(
        letters_study(f"weighting={{{weighting}: {{}}}}", "training.clip_norm=1.0e9")
    )
    metrics = trial.train_step()
    assert "gram/reused" in metrics
    for mine, theirs in zip(
        trial.optimizer.parameters(), fixed.optimizer.parameters(), strict=True
    ):
        assert mine.grad.any()
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_an_update_of_known_gradients_trains_the_head_once(monkeypatch):
    """Also where the known gradients turn out not to span the update, and a pass follows."""
    from moalign.training.gradients import PolicyGradients

    study = letters_study("weighting={mgda: {}}", "training.clip_norm=1.0e9")
    used = testbeds.new_trial(study)
    assert used.train_step()["gram/reused"] == 1.0
    monkeypatch.setattr(PolicyGradients, "assign", lambda self, leaves: False)
    unused = testbeds.new_trial(study)
    assert unused.train_step()["gram/reused"] == 0.0
    for mine, theirs in zip(
        used.optimizer.parameters(), unused.optimizer.parameters(), strict=True
    ):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_the_pass_for_the_hidden_states_is_charged():
    with_head = testbeds.new_trial(letters_study())
    without = testbeds.new_trial(letters_study("training.optimizer=reinforce-pp"))
    with_head.train_step()
    without.train_step()
    assert with_head.cost.generated == without.cost.generated
    assert with_head.cost.forwarded == 2 * without.cost.forwarded
    assert with_head.cost.backwarded == without.cost.backwarded


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("training.combine=rewards",), "treats the objectives one by one.*combine: advantages"),
        (("weighting={product: {}}",), "treats the objectives one by one.*such as fixed"),
    ],
)
def test_sums_of_objectives_are_refused(overrides, sentence):
    with pytest.raises(StudyError, match=sentence):
        letters_study(*overrides)


# --- with `lagrangian` ----------------------------------------------------------------------------


ARMS = (
    "training.optimizer={ppo: {gamma: 0.99, lam: 0.95, epochs: 2}}",
    "training.minibatches=2",
    "training.prompts=4",
    "training.group=8",
    "training.learning_rate=0.05",
)


def history(text: str, weighting: str, steps: int):
    given = (*ARMS, f"weighting={{lagrangian: {{{weighting}}}}}")
    trial = testbeds.new_trial(load(text, "arms.yaml", testbeds.catalogue(), given))
    return [trial.train_step() for _ in range(steps)]


def mean(steps, name: str) -> float:
    return sum(metrics[f"objective/{name}"] for metrics in steps) / len(steps)


@pytest.mark.parametrize(
    ("threshold", "expected"),
    # All arms are equally likely at first, where x is .375.
    [pytest.param(0.6, 0.6, id="missed"), pytest.param(0.1, 0.375, id="met anyway")],
)
def test_mu_ppo_goes_no_further_from_the_reference_than_the_threshold_asks(threshold, expected):
    near = "  near: {reward: kl, bounds: [-3, 0], use: [train]}\n"
    text = testbeds.text("concave", x=f", at_least: {threshold}")
    text = text.replace("objectives:\n", f"objectives:\n{near}")
    quick = "primary: near, learning_rate: 0.5, proportional: 4.0, updates: minibatch"
    assert mean(history(text, quick, 50)[-20:], "x") == pytest.approx(expected, abs=0.07)


def test_xi_ppo_pushes_down_what_is_above_its_target():
    """`flat` has nothing to teach; b is .41 at first, and swings around its target."""
    text = testbeds.text("three", flat="", b="")
    weighting = (
        "primary: flat, equal: {b: 0.25}, learning_rate: 0.5, proportional: 4.0, updates: minibatch"
    )
    found = history(text, weighting, 50)
    assert mean(found[:1], "b") > 0.35
    assert mean(found[10:], "b") == pytest.approx(0.25, abs=0.07)
    assert min(metrics["weighting/multiplier/b"] for metrics in found) < -0.4


def test_ppo_lagrangian_gives_up_reward_until_the_limit_holds():
    """x is the reward, y minus a cost: x alone would end at 1, where y is 0."""
    text = testbeds.text("convex", x="", y=", at_least: 0.7")
    found = history(text, "primary: x, multiplier: log, initial: {y: 1.0}, learning_rate: 0.5", 40)[
        -15:
    ]
    assert mean(found, "y") == pytest.approx(0.7, abs=0.07)
    assert mean(found, "x") > 0.6
