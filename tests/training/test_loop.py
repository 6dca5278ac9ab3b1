"""The training loop: what a step does, what it refuses, and that resuming changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from resuming import resumed

from moalign import ContractError, NonFiniteError, Weights
from moalign.search.artifacts import base_folder
from moalign.search.folders import RunFolder
from moalign.study.study import Study
from moalign.training.loop import Trial
from moalign.training.policy import Policy, choose_device_and_dtype
from moalign.training.scoring import grouped, score
from moalign.types import Rows

NewStudy = Callable[..., Study]


def new_policy(study: Study, runs: Path) -> Policy:
    folder = base_folder(study, RunFolder(runs / "letters"))
    names = [o.name for o in study.train_objectives]
    return Policy(
        study.policy.load(folder, names),
        *choose_device_and_dtype("cpu"),
        lambda: study.policy.load(folder, names),
    )


def new_trial(study: Study, runs: Path, number: int = 0) -> Trial:
    return Trial(study, number, new_policy(study, runs), study.section.training.steps)


def run(trial: Trial, steps: int) -> list[dict[str, float]]:
    return [trial.train_step() for _ in range(steps)]


def weights_of(trial: Trial) -> dict[str, torch.Tensor]:
    return trial.policy.state()


def test_learns_what_is_rewarded(new_study: NewStudy, runs: Path) -> None:
    study = new_study(
        "objectives.b.use=[front]",
        "training.steps=40",
        "training.prompts=8",
        "training.group=8",
        "search.space={}",
    )
    history = run(new_trial(study, runs), 40)
    before = sum(m["objective/a"] for m in history[:5]) / 5
    after = sum(m["objective/a"] for m in history[-5:]) / 5
    assert after > before + 0.3


def test_metrics_tell_the_step(new_study: NewStudy, runs: Path) -> None:
    metrics = new_trial(new_study(), runs).train_step()
    for name in ("a", "b"):
        for group in ("objective", "weight", "advantage_share", "flat_groups"):
            assert f"{group}/{name}" in metrics
    assert metrics["weight/a"] + metrics["weight/b"] == pytest.approx(1.0)
    assert metrics["advantage_share/a"] + metrics["advantage_share/b"] == pytest.approx(1.0)
    assert metrics["ratio"] == pytest.approx(1.0)
    assert {"loss", "entropy", "length", "learning_rate", "gradient_norm", "gain"} <= set(metrics)
    assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("training.optimizer=two-passes", "training.minibatches=2"),
        ("objectives.b.reward=running", "objectives.b.bounds=[-8,8]"),
        ("weighting=product-of-scores", "search.space={}"),
        ("policy={tiny: {condition: weights}}",),
        ("training.combine=rewards", "training.schedule=cosine", "training.warmup=2"),
        ("objectives.a.reward={share: {skip: c}}", "training.batch_norm=token"),
    ],
    ids=lambda overrides: "+".join(overrides) or "plain",
)
def test_resuming_is_exact(
    new_study: NewStudy, runs: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    study = new_study(*overrides)
    whole = new_trial(study, runs)
    history = run(whole, 6)

    first = new_trial(study, runs)
    run(first, 3)
    second = resumed(first, new_trial(study, runs), tmp_path)
    assert run(second, 3) == history[3:]
    for name, tensor in weights_of(whole).items():
        assert torch.equal(tensor, weights_of(second)[name]), name
    assert whole.cost == second.cost


def test_micro_batches_change_nothing_but_rounding(new_study: NewStudy, runs: Path) -> None:
    one = new_trial(new_study(), runs)
    many = new_trial(new_study("training.micro_tokens=20"), runs)
    for a, b in zip(run(one, 2), run(many, 2), strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)


def test_trials_draw_their_own_numbers(new_study: NewStudy, runs: Path) -> None:
    study = new_study()
    assert new_trial(study, runs, 0).train_step() == new_trial(study, runs, 0).train_step()
    assert new_trial(study, runs, 0).train_step() != new_trial(study, runs, 1).train_step()


def test_a_weighting_gets_what_it_needs(new_study: NewStudy, runs: Path) -> None:
    trial = new_trial(new_study("weighting=probing", "search.space={}"), runs)
    spent = trial.cost.backwarded
    metrics = trial.train_step()
    assert metrics["weighting/units"] == 16
    # One shared forward per objective set and probe is charged on top of the update.
    assert trial.cost.backwarded > spent


def test_gram_is_the_product_of_gradients(new_study: NewStudy, runs: Path) -> None:
    """Against one plain backward pass per objective, through the optimizer's own loss."""
    study = new_study("weighting=probing", "search.space={}")
    trial = new_trial(study, runs)
    batch = trial.rollout("train", 0)
    advantages = torch.randn(batch.rows, 1, 2, generator=torch.Generator().manual_seed(0))
    gram = trial._gradients(trial._scored(batch), advantages).gram()
    rows = []
    for k in range(2):
        logprobs = trial.policy.logprobs(
            [batch.prompt_ids_P[b // 4] for b in range(16)], batch.ids_BT, batch.mask_BT
        )
        rows_B = Rows(batch.mask_BT, logprobs.detach(), None, 16, int(batch.mask_BT.sum()), 6)
        loss, _ = trial.optimizer.loss(logprobs, rows_B, advantages[..., k])
        grads = torch.autograd.grad(-loss, trial.parameters)
        rows.append(torch.cat([g.flatten() for g in grads]).double())
    expected = torch.stack(rows) @ torch.stack(rows).T
    assert (gram - expected).norm() / expected.norm() < 1e-4


@pytest.mark.parametrize(
    ("returns", "error", "message"),
    [
        ("short", ContractError, "must return one number per completion, 16 of them"),
        ("infinite", NonFiniteError, "reward odd \\(objective b\\) is infinite for"),
        ("text", ContractError, "must return 16 numbers; found list"),
        ("raises", ContractError, "reward odd raised LookupError: the judge is away"),
    ],
)
def test_bad_rewards(
    new_study: NewStudy, runs: Path, returns: str, error: type[Exception], message: str
) -> None:
    trial = new_trial(new_study(f"objectives.b.reward={{odd: {{returns: {returns}}}}}"), runs)
    with pytest.raises(error, match=message):
        trial.train_step()


def test_a_reward_that_applies_to_nothing_trains_nothing(new_study: NewStudy, runs: Path) -> None:
    trial = new_trial(new_study("objectives.b.reward={odd: {returns: nan}}"), runs)
    metrics = trial.train_step()
    assert "objective/b" not in metrics
    assert metrics["advantage_share/b"] == 0.0


@pytest.mark.parametrize(
    ("returns", "error", "message"),
    [
        ("negative", ContractError, "negative weight \\(-1.0\\) without declaring 'signed'"),
        ("unnormalised", ContractError, "weights that sum to 2, not 1, without declaring"),
        ("long", ContractError, "one per objective: a, b"),
        ("nan", NonFiniteError, "weights that are not finite"),
        ("one", ContractError, r"weights of shape \[1\]; they must be \[K\]"),
        ("nothing", ContractError, "returned NoneType; it must return moalign.Weights"),
        ("flat-response", ContractError, r"response scores of shape \[16\]; they must be \[P, G\]"),
        ("gain-P", ContractError, r"a finite number or a \[P, 1\] = \[4, 1\] tensor"),
        ("gain-nan", ContractError, "returned the gain nan"),
    ],
)
def test_bad_weights(
    new_study: NewStudy, runs: Path, returns: str, error: type[Exception], message: str
) -> None:
    study = new_study(f"weighting={{wrong: {{returns: {returns}}}}}", "search.space={}")
    with pytest.raises(error, match=message):
        new_trial(study, runs).train_step()


def test_a_loss_that_explodes_leaves_the_policy(new_study: NewStudy, runs: Path) -> None:
    trial = new_trial(new_study("training.optimizer=explodes"), runs)
    before = weights_of(trial)
    with pytest.raises(NonFiniteError, match="a lower training"):
        trial.train_step()
    for name, tensor in before.items():
        assert torch.equal(tensor, weights_of(trial)[name])


def test_schedules_end_at_the_full_length(new_study: NewStudy, runs: Path) -> None:
    for schedule, middle in (("linear", 0.5), ("cosine", 0.5), ("constant", 1.0)):
        trial = new_trial(new_study(f"training.schedule={schedule}", "training.steps=8"), runs)
        trial.index = 4
        assert trial.learning_rate() == pytest.approx(middle * 1e-2)
    trial = new_trial(new_study("training.warmup=4"), runs)
    assert trial.learning_rate() == pytest.approx(0.25 * 1e-2)


def test_per_token_rewards_add_up(new_study: NewStudy, runs: Path) -> None:
    trial = new_trial(new_study("objectives.b.reward=per-token"), runs)
    batch = trial.rollout("train", 0)
    from moalign.training.scoring import score

    scores = score(batch, trial.columns)
    assert scores.token_rewards_BTK is not None
    assert scores.token_rewards_BTK[..., 0].isnan().all()
    summed = scores.token_rewards_BTK[..., 1].sum(-1)
    assert torch.equal(summed, scores.scores_BK[:, 1])
    counted = torch.tensor([float(t.count("a")) for t in batch.texts_B])
    assert torch.equal(summed, counted)


def test_backwards_of_the_gram_are_charged(new_study: NewStudy, runs: Path) -> None:
    plain = new_trial(new_study(), runs)
    probing = new_trial(new_study("weighting=probing", "search.space={}"), runs)
    plain.train_step()
    probing.train_step()
    tokens = plain.cost.backwarded
    # Two objectives by one pass, which serves the update, too: 1.5 backwards; the steer probe is
    # one over its own batch.
    assert 2.0 * tokens < probing.cost.backwarded < 3.0 * tokens


def test_the_steer_probe_is_the_gradient_of_what_is_preferred(
    new_study: NewStudy, runs: Path
) -> None:
    def norm(preference: str) -> float:
        trial = new_trial(new_study("weighting=fixed", f"weighting.preference={preference}"), runs)
        return float(trial._steer_gradient().norms_K())

    def own(k: int) -> float:
        trial = new_trial(new_study("weighting=fixed"), runs)
        steer = trial.rollout("steer", 0)
        scores = score(steer, trial.columns).scores_BK
        advantages_BTK = trial.optimizer.advantages(grouped(scores, steer), steer)
        return float(trial._gradients(trial._scored(steer), advantages_BTK[..., [k]]).norms_K())

    assert norm("{a: 1, b: 0}") == pytest.approx(2 * own(0), rel=1e-5)
    assert norm("{a: 0, b: 1}") == pytest.approx(2 * own(1), rel=1e-5)
    assert norm("{a: 1, b: 1}") != pytest.approx(norm("{a: 1, b: 0}"), rel=1e-2)


def test_weights_may_move_with_every_mini_batch(new_study: NewStudy, runs: Path) -> None:
    given = ("weighting=each-mini-batch", "search.space={}", "training.minibatches=2")
    trial = new_trial(new_study(*given), runs)
    trial.train_step()
    assert trial.weighting.calls == 2  # type: ignore[attr-defined]
    still = new_trial(new_study("weighting=fixed", "training.minibatches=2"), runs)
    still.train_step()
    assert any(
        not torch.equal(tensor, weights_of(still)[name])
        for name, tensor in weights_of(trial).items()
    )


def test_recorded_weights_are_those_of_the_updates(new_study: NewStudy, runs: Path) -> None:
    given = ("weighting=each-mini-batch", "search.space={}", "training.minibatches=2")
    metrics = new_trial(new_study(*given), runs).train_step()
    assert metrics["weight/a"] == pytest.approx((0.5 + 0.25) / 2)
    assert metrics["weight/b"] == pytest.approx((0.5 + 0.75) / 2)
    assert metrics["gain"] == 1.0


def test_weights_of_a_mini_batch_are_checked(new_study: NewStudy, runs: Path) -> None:
    given = ("weighting=each-mini-batch", "search.space={}", "training.minibatches=2")
    trial = new_trial(new_study(*given), runs)
    trial.weighting.update_minibatch = lambda _step: Weights(torch.tensor([2.0, -1.0]))
    before = weights_of(trial)
    with pytest.raises(ContractError, match="negative weight"):
        trial.train_step()
    for name, tensor in before.items():
        assert torch.equal(tensor, weights_of(trial)[name])


@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_gain_of_0_changes_nothing(new_study: NewStudy, runs: Path, minibatches: int) -> None:
    """Neither momentum, nor weight decay, nor a penalty on the divergence moves the policy."""
    study = new_study(
        "training.optimizer={grpo: {kl_coefficient: 0.1}}",
        "training.weight_decay=0.1",
        f"training.minibatches={minibatches}",
    )
    trial = new_trial(study, runs)
    for _ in range(2):
        trial.train_step()
    before, moments = weights_of(trial), deepcopy(trial.torch_optimizer.state_dict())
    moves = trial.weighting.weigh
    trial.weighting.weigh = lambda step: replace(moves(step), gain=0.0)
    metrics = trial.train_step()
    assert (metrics["gain"], trial.index) == (0.0, 3)
    assert metrics["gradient_norm"] > 0, "the penalty alone would have moved it"
    for name, tensor in before.items():
        assert torch.equal(tensor, weights_of(trial)[name])
    assert str(moments) == str(trial.torch_optimizer.state_dict())
    partly = torch.zeros(4, 1)
    partly[0] = 1.0
    trial.weighting.weigh = lambda step: replace(moves(step), gain=partly)
    trial.train_step()
    assert any(not torch.equal(t, weights_of(trial)[name]) for name, t in before.items())


def test_monitored_objectives_are_recorded(new_study: NewStudy, runs: Path) -> None:
    trial = new_trial(new_study("objectives.b.monitor=true", "search.space={}"), runs)
    metrics = trial.train_step()
    assert {"objective/a", "objective/b"} <= set(metrics)
    assert "weight/b" not in metrics


def test_measuring_pairs_rewards_that_draw(new_study: NewStudy, runs: Path) -> None:
    trial = new_trial(new_study("objectives.b.reward=noisy"), runs)
    first = trial.measure("validation")[0][1].values_UK
    torch.rand(3)
    assert trial.measure("validation")[0][1].values_UK == first


def test_measuring_leaves_rewards_alone(new_study: NewStudy, runs: Path) -> None:
    given = ("objectives.b.reward=running", "objectives.b.bounds=[-8,8]")
    trial = new_trial(new_study(*given), runs)
    trial.train_step()
    before = trial.rewards["b"].state_dict()
    trial.measure("validation")
    assert trial.rewards["b"].state_dict() == before


def test_per_token_rewards_may_be_missing_on_tokens_only(new_study: NewStudy, runs: Path) -> None:
    trial = new_trial(new_study("objectives.b.reward=padded"), runs)
    batch = trial.rollout("train", 0)
    from moalign.training.scoring import score

    missing = score(batch, trial.columns).scores_BK[:, 1].isnan()
    assert torch.equal(missing, batch.lengths_B() % 2 == 1)
    assert missing.any()
    assert not missing.all()


def test_token_rewards_are_spread_without_changing_sums(new_study: NewStudy, runs: Path) -> None:
    from moalign.maths.combine import scalarise, scalarise_tokens

    trial = new_trial(new_study("objectives.b.reward=padded"), runs)
    batch = trial.rollout("train", 0)
    from moalign.training.scoring import score

    scores = score(batch, trial.columns)
    batch.token_rewards_BTK = scores.token_rewards_BTK
    scale_K = torch.tensor([0.5, 2.0])
    scores_PGK = (scores.scores_BK.view(4, 4, 2) - 0.3) / scale_K
    weights = torch.tensor([0.25, 0.75])
    tokens_BT1 = scalarise_tokens(scores_PGK, weights, batch, scale_K)
    assert tokens_BT1 is not None
    summed = scalarise(scores_PGK, weights).flatten()
    assert torch.allclose(tokens_BT1[..., 0].sum(-1), summed, atol=1e-5)
    assert (tokens_BT1[..., 0] * (1 - batch.mask_BT) == 0).all()


def test_kl_is_recorded_where_the_reference_is_used(new_study: NewStudy, runs: Path) -> None:
    trial = new_trial(new_study("objectives.b.reward=kl", "objectives.b.bounds=[-9,0]"), runs)
    metrics = [trial.train_step() for _ in range(3)]
    assert metrics[0]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert metrics[2]["kl"] == pytest.approx(-metrics[2]["objective/b"], abs=1e-4)
    assert "kl" not in new_trial(new_study(), runs).train_step()
