"""Learning again from earlier rollouts: what is kept, the importance weights, resuming."""

from __future__ import annotations

import copy

import letters
import pytest
import testbeds
import torch
from resuming import resumed

from moalign import plugins
from moalign.errors import StudyError
from moalign.study.loading import load
from moalign.types import Weights

REPLAY = "training.replay={steps: 2, share: 0.5}"
WIDE = "clip_low: 100, clip_high: 100, dual_clip: null"


def study(*overrides):
    given = ("policy.condition=none", "weighting=fixed", "search.space={}", "training.prompts=4")
    catalogue = plugins.load([letters.FILE])
    return load(letters.STUDY, "letters.yaml", catalogue, (*given, *overrides))


def steps(trial, count):
    return [trial.train_step() for _ in range(count)]


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("training.optimizer={grpo: {epochs: 2, kl_coefficient: 0.1}}", "training.minibatches=2"),
        ("policy.condition=weights",),
        ("training.combine=rewards", "training.optimizer=rloo", "training.batch_norm=token"),
        ("training.optimizer=reinforce-pp", "objectives.b.reward=kl", "objectives.b.bounds=[-9,0]"),
        ("training.optimizer={riskpo: {bundle: 2}}",),
        ("training.optimizer=remax", "training.group=1"),
        ("training.optimizer=p3o",),
    ],
    ids=["grpo", "epochs", "conditioned", "rewards", "tokens", "riskpo", "remax", "p3o"],
)
def test_resuming_is_exact(tmp_path, overrides):
    given = study("training.steps=5", REPLAY, *overrides)
    whole = testbeds.new_trial(given)
    history = steps(whole, 4)
    assert "replay/loss" not in history[0]
    assert all("replay/loss" in metrics for metrics in history[1:])
    first = testbeds.new_trial(given)
    steps(first, 2)
    second = resumed(first, testbeds.new_trial(given), tmp_path)
    assert steps(second, 2) == history[2:]
    assert second.cost.to_json() == whole.cost.to_json()
    for mine, theirs in zip(whole.parameters, second.parameters, strict=True):
        assert torch.equal(mine, theirs)


def test_a_rollout_comes_back_as_it_was():
    trial = testbeds.new_trial(
        study(REPLAY, "policy.condition=weights", "training.optimizer={grpo: {kl_coefficient: 1}}")
    )
    inner, seen = trial.replay.keep, []
    trial.replay.keep = lambda lesson, *rest: (seen.append(lesson), inner(lesson, *rest))
    steps(trial, 1)
    cost = trial.cost.to_json()
    lesson, prompts, index = trial.replay.draw(torch.Generator().manual_seed(0), trial.cost)
    then, now = seen[0].batch, lesson.batch
    assert index == 0
    assert len(prompts) == 2
    for name in ("prompts_P", "prompt_ids_P", "texts_B", "raw_texts_B", "group"):
        assert getattr(now, name) == getattr(then, name)
    for name in ("ids_BT", "mask_BT", "finished_B", "conditions_PK", "logprobs_BT"):
        assert torch.equal(getattr(now, name), getattr(then, name))
    assert torch.equal(now.ref_logprobs_BT, then.ref_logprobs_BT)
    assert torch.equal(lesson.scores_BK, seen[0].scores_BK)
    assert trial.cost.to_json() == cost  # nothing is computed again


def test_the_gradient_has_the_importance_weights():
    """Of a policy over arms, where everything can be computed by hand."""
    options = f"training.optimizer={{dr-grpo: {{{WIDE}, aggregation: token-mean}}}}"
    given = testbeds.front_study(
        "convex", options, "training.replay={steps: 1, share: 1.0}", "training.clip_norm=1.0e9",
        "weighting.preference={x: 0.3, y: 0.7}",
    )  # fmt: skip
    trial = testbeds.new_trial(given)
    steps(trial, 1)
    lesson, _, _ = trial.replay.draw(torch.Generator().manual_seed(0), trial.cost)
    # A step without its replay, then the replay alone.
    alone = testbeds.new_trial(given)
    alone.load_state(copy.deepcopy(trial.state()))
    alone.policy.load_state(trial.policy.state())
    alone._learn_again = lambda returned: {}
    steps(alone, 1)
    now = testbeds.chosen(alone).float()
    arms = lesson.batch.ids_BT[:, 0]
    scores = lesson.scores_BK @ torch.tensor([0.3, 0.7])
    ratio = now[arms] / lesson.batch.logprobs_BT[:, 0].exp()
    assert ratio.max() > 1.2
    slopes = torch.eye(len(now))[arms] - now  # of the log-probability by the logits
    centred = scores - scores.mean()
    expected = -(centred * ratio)[:, None] * slopes / len(arms)
    metrics = steps(trial, 1)[0]
    found = trial.parameters[0].grad[: len(now), 0]
    torch.testing.assert_close(found, expected.sum(0), atol=1e-5, rtol=1e-4)
    assert metrics["replay/ratio"] == pytest.approx(float(ratio.mean()), rel=1e-4)
    assert metrics["replay/age"] == 1


def test_a_policy_that_stands_still_has_weights_of_1():
    trial = testbeds.new_trial(study(REPLAY, "training.learning_rate=1.0e-30"))
    for metrics in steps(trial, 3)[1:]:
        assert metrics["replay/ratio"] == pytest.approx(1)
        assert metrics["replay/clip_fraction"] == 0


def test_no_more_rollouts_are_kept_than_asked_for_and_all_are_drawn():
    trial = testbeds.new_trial(study(REPLAY, "training.steps=12"))
    ages = [metrics["replay/age"] for metrics in steps(trial, 12)[1:]]
    assert set(ages) == {1, 2}
    assert [kept["index"] for kept in trial.replay.state()] == [10, 11]


def test_it_costs_a_pass_over_the_share_and_one_for_the_old_log_probabilities():
    plain, replaying = (
        testbeds.new_trial(study("training.learning_rate=1.0e-30", *more))
        for more in ((), ("training.replay={steps: 1, share: 1.0}",))
    )
    steps(plain, 1)
    steps(replaying, 1)
    first = plain.cost.backwarded
    assert replaying.cost.backwarded == first
    assert replaying.cost.forwarded == 2 * first
    assert replaying.cost.generated == plain.cost.generated
    steps(plain, 1)
    steps(replaying, 1)
    assert replaying.cost.backwarded == plain.cost.backwarded + first
    assert replaying.cost.forwarded == 2 * plain.cost.forwarded + first
    assert replaying.cost.generated == plain.cost.generated


def test_nothing_is_kept_unless_asked_for():
    trial = testbeds.new_trial(study())
    metrics = steps(trial, 2)[1]
    assert trial.state()["replay"] == []
    assert not [name for name in metrics if name.startswith("replay/")]
    trial.load_state({k: v for k, v in trial.state().items() if k != "replay"})  # of before


def test_weights_are_those_of_now_but_of_single_prompts_those_of_then():
    trial = testbeds.new_trial(study(REPLAY))
    replay, lesson = trial.replay, trial._scored(trial.rollout("train", 0))
    per_prompt = torch.rand(4, 1, 2)
    replay.keep(lesson, Weights(per_prompt, gain=torch.ones(4, 1)), 0)
    now = torch.tensor([0.3, 0.7])
    assert torch.equal(replay.weights(0, Weights(now, gain=2.0)).values, now)
    assert replay.weights(0, Weights(now, gain=2.0)).gain == 2.0
    found = replay.weights(0, Weights(torch.rand(4, 1, 2), gain=torch.zeros(4, 1)))
    assert torch.equal(found.values, per_prompt)
    assert torch.equal(found.gain, torch.ones(4, 1))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("training.optimizer=ppo",), "optimizer ppo has no importance weights.*such as grpo"),
        (("training.optimizer=dpo",), "optimizer dpo has no importance weights"),
        (("weighting=mgda",), "weighting mgda weighs the gradients of this step's rollout"),
        (("weighting=product",), "weighting product scores the completions of this step's"),
        (("training.replay.share=0",), "training.replay.share"),
    ],
)
def test_what_does_not_fit_is_refused(overrides, sentence):
    with pytest.raises(StudyError, match=sentence):
        study(REPLAY, *overrides)
