"""REINFORCE with the greedy completion's score as a baseline."""

from __future__ import annotations

import letters
import pytest
import testbeds
import torch
from resuming import resumed

from moalign import plugins
from moalign.errors import StudyError
from moalign.study.loading import load
from moalign.testing.steps import make_batch
from moalign.training.scoring import score
from moalign_plugins.optimizers.remax import Remax

NAN = float("nan")


def test_golden_values():
    greedy = torch.tensor([[0.5, 2.0], [1.0, NAN]])
    batch = make_batch(2, 2, lazy={"greedy_scores": lambda: greedy})
    scores = torch.tensor([[[1.0, 5.0], [NAN, 1.0]], [[0.25, 3.0], [1.0, NAN]]])
    found = Remax().advantages(scores, batch)
    expected = torch.tensor([[0.5, 3.0], [0.0, -1.0], [-0.75, 0.0], [0.0, 0.0]])
    assert torch.equal(found, expected[:, None])


def test_the_baseline_is_unbiased():
    """Two answers, rewards 1 and 0, the first the likelier one: the true gradient is p (1 - p)."""
    p, greedy = 0.7, torch.ones(1, 1)
    batch = make_batch(1, 1, lazy={"greedy_scores": lambda: greedy})
    estimate = 0.0
    for reward, chance, slope in ((1.0, p, 1 - p), (0.0, 1 - p, -p)):
        found = Remax().advantages(torch.tensor([[[reward]]]), batch)
        estimate += chance * float(found) * slope
    assert estimate == pytest.approx(p * (1 - p))


def test_it_needs_no_groups_but_the_greedy_scores():
    assert Remax.min_group == 1
    assert Remax().needs == {"greedy_scores"}
    assert Remax(kl_coefficient=0.1).needs == {"greedy_scores", "ref_logprobs"}


# --- in the loop ----------------------------------------------------------------------------------


PLUGIN = f"""
import sys
sys.path.insert(0, {str(letters.FILE.parent)!r})
from letters import *
from moalign import Reward, Rollout, hookimpl

class Running(Reward):
    "Length of a completion against a running mean: remembers."
    name = "running"
    range = (-8.0, 8.0)
    def __init__(self): self.total, self.count = 0.0, 0
    def score(self, batch):
        self.total += sum(map(len, batch.texts_B)); self.count += batch.rows
        return [len(text) - self.total / self.count for text in batch.texts_B]
    def state_dict(self): return {{"total": self.total, "count": self.count}}
    def load_state_dict(self, state): self.total, self.count = state["total"], state["count"]

class Never(Rollout):
    "Cannot be greedy."
    name = "never"
    max_tokens = 6
    def generate(self, model, prompt_ids_P, **_): raise AssertionError

@hookimpl
def moalign_rewards(): return [LetterShare, Running]

@hookimpl
def moalign_rollouts(): return [Never]
"""


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    file = tmp_path_factory.mktemp("plugin") / "more.py"
    file.write_text(PLUGIN)
    return plugins.load([file])


def study(catalogue, *overrides):
    given = ("policy.condition=none", "weighting=fixed", "training.optimizer=remax")
    return load(letters.STUDY, "letters.yaml", catalogue, (*given, "search.space={}", *overrides))


def test_greedy_scores_are_those_of_the_likeliest_tokens_and_charged(catalogue):
    trial = testbeds.new_trial(study(catalogue, "training.group=1"))
    batch = trial.rollout("train", 0)
    before = trial.cost.to_json()
    found = batch.greedy_scores_PK
    assert batch.greedy_scores_PK is found  # once
    lengths, expected = 0, []
    for ids in batch.prompt_ids_P:
        written = list(ids)
        for _ in range(6):
            with torch.no_grad():
                token = int(trial.policy.model(torch.tensor([written])).logits[0, -1].argmax())
            written.append(token)
            if token in trial.policy.end_ids:
                break
        lengths += len(written) - len(ids)
        text = trial.policy.decode(written[len(ids) :])
        expected.append([text.count(letter) / max(len(text), 1) for letter in "ab"])
    torch.testing.assert_close(found, torch.tensor(expected))
    after = trial.cost.to_json()
    assert after["generated"] - before["generated"] == lengths
    assert after["forwarded"] == before["forwarded"]


def test_nothing_is_sampled_for_optimizers_that_do_not_ask(catalogue):
    trial = testbeds.new_trial(study(catalogue, "training.optimizer=rloo"))
    batch = trial.rollout("train", 0)
    before = trial.cost.generated
    trial.optimizer.advantages(torch.rand(4, 4, 2), batch)
    assert not batch.has("greedy_scores")
    assert trial.cost.generated == before == int(batch.mask_BT.sum())


def test_rewards_learn_nothing_from_greedy_completions(catalogue):
    both = study(catalogue, "objectives.b.reward=running")
    trial = testbeds.new_trial(both)
    batch = trial.rollout("train", 0)
    score(batch, trial.columns)
    before = trial.rewards["b"].state_dict()
    assert batch.greedy_scores_PK.isfinite().all()
    assert trial.rewards["b"].state_dict() == before


def test_a_divergence_as_an_objective_is_at_the_rollouts_temperature(catalogue):
    trial = testbeds.new_trial(
        study(
            catalogue,
            "objectives.b.reward=kl",
            "objectives.b.bounds=[-9, 0]",
            "rollout.temperature=0.7",
        )
    )
    trial.train_step()
    batch = trial.rollout("train", 1)
    assert batch.greedy_scores_PK.isfinite().all()
    assert batch.greedy_scores_PK[:, 1].any()


@pytest.mark.parametrize(
    "overrides",
    [
        ("training.group=1",),
        ("training.optimizer={remax: {epochs: 2}}", "training.minibatches=2"),
        ("policy.condition=weights",),
        ("weighting={mgda: {}}",),
    ],
    ids=["no groups", "epochs and mini-batches", "conditioned", "gram"],
)
def test_resuming_is_exact(catalogue, tmp_path, overrides):
    given = study(catalogue, "objectives.b.reward=running", "training.steps=4", *overrides)
    whole = testbeds.new_trial(given)
    history = [whole.train_step() for _ in range(3)]
    first = testbeds.new_trial(given)
    first.train_step()
    second = resumed(first, testbeds.new_trial(given), tmp_path)
    assert [second.train_step() for _ in range(2)] == history[1:]
    assert second.cost.to_json() == whole.cost.to_json()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("rollout=never",), "rollout never cannot take the likeliest token; use one that can"),
        (("training.combine=rewards",), "treats the objectives one by one"),
        (("weighting=product",), "treats the objectives one by one"),
    ],
)
def test_what_cannot_be_compared_is_refused(catalogue, overrides, sentence):
    with pytest.raises(StudyError, match=sentence):
        study(catalogue, *overrides)
