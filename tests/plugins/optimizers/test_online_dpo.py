"""Sample, rank, learn from the preference; and imitating the best."""

from __future__ import annotations

import json
import math
from typing import Any, ClassVar

import letters
import pytest
import tabular
import testbeds
import torch
from resuming import resumed
from torch import Tensor

from moalign import plugins
from moalign.components import Optimizer
from moalign.errors import OptionError, StudyError
from moalign.maths.kl import kl_estimate
from moalign.maths.normalisation import group_zscore
from moalign.optimizers.lists import ListOptimizer
from moalign.optimizers.utility import UtilityOptimizer, levelled
from moalign.study.loading import load
from moalign.testing.lessons import rows_of
from moalign.testing.steps import make_batch, make_objectives
from moalign.types import Batch
from moalign_plugins.optimizers.adpo import Adpo
from moalign_plugins.optimizers.dpo import Dpo
from moalign_plugins.optimizers.expert_iteration import ExpertIteration
from moalign_plugins.optimizers.grpo import Grpo
from moalign_plugins.optimizers.kto import Kto
from moalign_plugins.optimizers.lipo import Lipo
from moalign_plugins.optimizers.modpo import Modpo
from moalign_plugins.optimizers.online_dpo import OnlineDpo
from moalign_plugins.optimizers.superhf import Superhf

CATALOGUE = plugins.load()


class Passed:
    """What a loss came to after advantages, weights and selection, as the host does it."""

    def __init__(
        self,
        optimizer: Optimizer,
        scores_PGK: Tensor,
        weights: list[float],
        ratios: list[float] | None = None,
    ) -> None:
        """Go through a step; a completion is one token of probability exp(-1).

        Args:
            optimizer: learns from rollouts.
            scores_PGK: raw.
            weights: of the objectives.
            ratios: log-ratio of each row against the reference; default 0.
        """
        prompts, group, objectives = scores_PGK.shape
        optimizer.begin(make_objectives(*"abc"[:objectives]), 1, 0)
        rows = prompts * group
        policy_BT = torch.full((rows, 1), -1.0)
        reference_BT = policy_BT - torch.tensor(ratios or [0.0] * rows)[:, None]
        batch = make_batch(
            prompts,
            group,
            lengths=[1] * rows,
            lazy={"logprobs": lambda: policy_BT, "ref_logprobs": lambda: reference_BT},
        )
        self.batch: Batch = batch
        advantages_B1 = (optimizer.advantages(scores_PGK, batch) * torch.tensor(weights)).sum(-1)
        self.chosen = optimizer.select(advantages_B1.view(prompts, group))
        every = torch.arange(rows).view(prompts, group)
        chosen = (every if self.chosen is None else every.gather(1, self.chosen)).flatten()
        self.rows = rows_of(optimizer, batch, chosen_PS=self.chosen)
        leaf_BT = policy_BT[chosen].requires_grad_()
        loss, self.metrics = optimizer.loss(leaf_BT, self.rows, advantages_B1[chosen])
        self.loss = float(loss.detach())
        (gradient_BT,) = torch.autograd.grad(loss, leaf_BT)
        self.pull = torch.zeros(rows).index_copy(0, chosen, -gradient_BT[:, 0]).view(every.shape)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


# --- online-dpo ---------------------------------------------------------------------------------


def test_dpo_is_the_loss_unless_another_is_named():
    found = CATALOGUE.build(Optimizer, "online-dpo")
    assert isinstance(found._loss, Dpo)
    named = CATALOGUE.build(Optimizer, {"online-dpo": {"loss": {"ipo": {"beta": 0.5}}}})
    assert (named._loss.name, named._loss.beta) == ("ipo", 0.5)


def test_the_best_and_the_worst_by_the_weighted_objectives_are_a_pair():
    # In units of their deviation; b is in other units, which do not matter.
    a, b = [0.0, 1.0, 2.0, 3.0], [300.0, 500.0, 400.0, 0.0]
    scores = torch.tensor([a, b]).T[None]
    found = Passed(OnlineDpo(loss=Dpo(beta=0.5)), scores, [0.3, 0.7], [0.1, 0.7, 0.2, -0.4])
    assert found.chosen is not None
    assert found.chosen.tolist() == [[1, 3]]
    assert found.loss == pytest.approx(softplus(-0.5 * (0.7 + 0.4)))
    slope = 0.5 / (1 + math.exp(0.5 * 1.1))
    assert found.pull[0].tolist() == pytest.approx([0.0, slope, 0.0, -slope])
    assert found.metrics["accuracy"] == 1.0
    assert found.metrics["tied"] == 0.0
    # The other preference, the other pair.
    assert Passed(OnlineDpo(loss=Dpo()), scores, [1.0, 0.0]).chosen.tolist() == [[3, 0]]


def test_what_is_missing_counts_as_the_mean_of_its_group():
    scores = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [math.nan, 1.0]])[None]
    assert Passed(OnlineDpo(loss=Dpo()), scores, [1.0, 0.0]).chosen.tolist() == [[0, 1]]
    scores[0, :, 0] = math.nan
    assert Passed(OnlineDpo(loss=Dpo()), scores, [0.5, 0.5]).chosen[0, 0] == 2


def test_scores_may_keep_their_units():
    scores = torch.tensor([[0.0, 1.0], [9.0, 0.5], [5.0, 0.0]])[None]
    by_deviation = Passed(OnlineDpo(loss=Dpo()), scores, [0.3, 0.7])
    by_score = Passed(OnlineDpo(loss=Dpo(), units="score"), scores, [0.3, 0.7])
    assert by_deviation.chosen.tolist() == [[0, 2]]
    assert by_score.chosen.tolist() == [[1, 0]]


@pytest.mark.parametrize("units", ["deviation", "score"])
def test_equal_utilities_are_no_preference(units: Any):
    # The objectives cancel, up to rounding and the epsilon of their normalisation.
    a = torch.tensor([0.1, 0.2, 0.30000001, 0.7])
    cancelling = torch.stack([a, 1.0 - a if units == "score" else 1000 * (1.0 - a)], -1)
    scores = torch.stack([cancelling, torch.full((4, 2), 0.3), torch.full((4, 2), math.nan)])
    found = Passed(OnlineDpo(loss=Dpo(), units=units), scores, [0.5, 0.5])
    assert not found.pull.any()
    assert found.loss == 0.0
    assert found.metrics["tied"] == 1.0
    assert found.chosen.shape == (3, 2)


def test_the_loss_is_a_mean_over_all_prompts():
    scores = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])[..., None]
    found = Passed(OnlineDpo(loss=Dpo()), scores, [1.0], [3.0, 0.0, 0.0, 0.0, 3.0, 0.0])
    assert found.loss == pytest.approx((softplus(-0.3) + softplus(0.3)) / 3)
    assert found.metrics["tied"] == pytest.approx(1 / 3)


def test_values_that_hardly_differ_are_levelled():
    values = torch.tensor([[3.0, 1.0, 1.05, 2.0, 0.95], [0.0, 1.0, 2.0, 3.0, 4.0]])
    found = levelled(values, torch.full_like(values, 0.1))
    expected = torch.tensor([[3.0, 0.95, 0.95, 2.0, 0.95], [0.0, 1.0, 2.0, 3.0, 4.0]])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("loss", [Lipo(beta=0.7), Adpo(beta=0.7), Kto(beta=0.7), Dpo(beta=0.7)])
def test_a_loss_of_lists_gets_the_whole_group(loss: Optimizer):
    scores = torch.tensor([[0.4, 0.1, 0.9], [0.3, 0.2, 0.1]])[..., None]
    ratios = [0.3, -0.1, 0.2, 0.0, 0.5, -0.4]
    online = OnlineDpo(loss=loss, learn="all", units="score")
    found = Passed(online, scores, [1.0], ratios)
    assert found.chosen is None
    reference_PGT = torch.full((2, 3, 1), -1.0) - torch.tensor(ratios).view(2, 3, 1)
    rows = tabular.rows_of(tabular.begun(loss, 1), scores, reference_PGT)
    expected, _ = loss.pair_loss(torch.full((6, 1), -1.0), rows, torch.ones(2, 1))
    assert found.loss == pytest.approx(float(expected))


@pytest.mark.parametrize("loss", [Grpo(), Modpo(primary="a")])
def test_what_has_no_loss_of_pairs_is_refused(loss: Optimizer):
    with pytest.raises(OptionError, match="it takes an optimizer with a loss of pairs") as it:
        OnlineDpo(loss=loss)
    assert it.value.option == "loss"


def test_the_objective_of_the_loss_is_called_utility():
    online = OnlineDpo(loss=Kto(thresholds={"utility": 0.5}), learn="all")
    online.check(make_objectives("a", "b"))
    with pytest.raises(OptionError, match="'a' is no training objective"):
        OnlineDpo(loss=Kto(thresholds={"a": 0.5})).check(make_objectives("a", "b"))
    # Both are worth the mean of their group, 0, which is too little.
    assert (Passed(online, torch.ones(1, 2, 1), [1.0]).pull < 0).all()


class Remembering(ListOptimizer):
    """Counts its losses."""

    name: ClassVar[str] = "remembering"
    count = 0

    def loss_of_lists(self, groups: Any) -> Tensor:
        self.count += 1
        return groups.logprobs_PG.sum(1, keepdim=True)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Any) -> None:
        self.count = state["count"]


def test_the_state_is_that_of_the_loss():
    online, fresh = (OnlineDpo(loss=Remembering(epochs=3)) for _ in range(2))
    assert online.epochs == 3
    Passed(online, torch.rand(2, 2, 1), [1.0])
    fresh.load_state_dict(online.state_dict())
    assert fresh._loss.count == online._loss.count == 1


@pytest.mark.parametrize(
    ("loss", "group", "tau"),
    [
        (Dpo(beta=0.5, labels="soft"), 2, 1.0),
        (Dpo(beta=0.5, labels="soft"), 3, 1.0),
        (Adpo(beta=0.5), 2, 1.0),
        (Adpo(beta=0.5, tau=2.0), 3, 2.0),
    ],
)
def test_the_optimum_is_that_of_the_weighted_scores(loss: Optimizer, group: int, tau: float):
    scores = torch.tensor([[1.0, 0.1], [0.2, 0.9], [0.4, 0.5]])
    reference, weights = torch.tensor([0.5, 0.2, 0.3]).double(), [0.3, 0.7]
    online = tabular.begun(OnlineDpo(loss=loss, learn="all", units="score"), 2)
    found = tabular.solve(online, scores, weights, reference, group=group, rate=10.0, steps=60)
    utility = scores.double() @ torch.tensor(weights).double()
    expected = reference * (utility / (tau * 0.5)).exp()
    torch.testing.assert_close(found, expected / expected.sum(), atol=1e-7, rtol=0)


# --- expert-iteration, superhf ------------------------------------------------------------------


def test_the_best_of_the_group_are_imitated():
    scores = torch.tensor([[0.0, 3.0, 2.0, 1.0], [9.0, 0.0, 0.0, 0.0]])[..., None]
    one = Passed(ExpertIteration(), scores, [1.0])
    assert one.chosen.tolist() == [[1], [0]]
    assert one.loss == pytest.approx(1.0)  # every token has log-probability -1
    assert one.pull.tolist() == [[0.0, 0.5, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0]]
    # The second best of the second group is no better than the mean, and is not imitated.
    two = Passed(ExpertIteration(best=2), scores, [1.0])
    assert two.pull.tolist() == [[0.0, 0.25, 0.25, 0.0], [0.25, 0.0, 0.0, 0.0]]
    assert two.metrics["imitated"] == 0.75
    # Of more than there are: all that are better than the mean.
    assert (Passed(ExpertIteration(best=9), scores, [1.0]).pull > 0).sum() == 3


@pytest.mark.parametrize("optimizer", [ExpertIteration(best=2), Superhf(best=2)])
def test_of_equal_utilities_none_is_imitated(optimizer: UtilityOptimizer):
    a = torch.tensor([0.1, 0.2, 0.3, 0.7])
    cancelling = torch.stack([a, 1000 * (1.0 - a)], -1)
    scores = torch.stack([cancelling, torch.full((4, 2), 0.3), torch.full((4, 2), math.nan)])
    found = Passed(optimizer, scores, [0.5, 0.5])
    assert not found.pull.any()
    assert found.metrics["imitated"] == 0.0


def test_superhf_adds_a_pull_to_the_reference():
    scores = torch.tensor([[1.0, 0.0], [0.5, 0.5]])[..., None]
    ratios = [0.8, 0.0, -0.6, 0.0]
    plain = Passed(ExpertIteration(), scores, [1.0], ratios)
    found = Passed(Superhf(kl_coefficient=0.5), scores, [1.0], ratios)
    values = torch.tensor([-1.0, -1.0]), torch.tensor([-1.8, -0.4])
    prior = kl_estimate(*values, "k3")
    assert found.loss == pytest.approx(plain.loss + 0.5 * float(prior.mean()))
    assert found.metrics["kl_ref"] == pytest.approx(float(prior.mean()))
    # What has become likelier is pulled down, and up what has become less likely, imitated or not.
    pulls = (found.pull - plain.pull)[:, 0]
    assert pulls[0] < 0 < pulls[1]


# --- in the loop --------------------------------------------------------------------------------

LOOPS = [
    "online-dpo",
    {"online-dpo": {"loss": {"dpo": {"epochs": 2}}}},
    {"online-dpo": {"loss": "lipo", "learn": "all"}},
    {"online-dpo": {"loss": {"adpo": {"beta": 1.0}}, "learn": "all"}},
    {"online-dpo": {"loss": "pmpo", "learn": "all"}},
    {"expert-iteration": {"best": 2, "epochs": 2}},
    "superhf",
]


@pytest.mark.parametrize("optimizer", LOOPS, ids=str)
def test_the_preferred_arm_is_found(optimizer: Any):
    study = testbeds.family_study(
        f"training.optimizer={json.dumps(optimizer)}",
        "training.steps=25",
        "training.group=8",
        "training.learning_rate=0.2",
        "weighting={fixed: {preference: {accuracy: 0.9, brevity: 0.1}}}",
    )
    trial = testbeds.train(study)
    for family in ("accuracy", "brevity"):
        assert testbeds.chosen(trial, family)[0] > 0.6


@pytest.mark.parametrize("optimizer", LOOPS[1:], ids=str)
def test_resuming_is_exact_and_the_policy_may_read_weights(optimizer: Any, tmp_path):
    study = letters_study(optimizer, "weights")
    whole = testbeds.new_trial(study)
    whole.train_step()
    second = resumed(whole, testbeds.new_trial(study), tmp_path)
    expected = [whole.train_step() for _ in range(2)]
    found = [second.train_step() for _ in range(2)]
    assert str(found) == str(expected)
    assert all(math.isfinite(step["loss"]) for step in found)


def test_each_prompt_ranks_its_completions_by_the_weights_in_it():
    larger = ("training.prompts=12", "training.group=12", "rollout.max_tokens=12")
    study = letters_study("online-dpo", "weights", *larger)
    trial = testbeds.new_trial(study)
    rollout, select = trial.rollout, trial.optimizer.select
    batches: list[Batch] = []
    chosen: list[Tensor | None] = []

    def rolled(*given: Any) -> Batch:
        batches.append(rollout(*given))
        return batches[-1]

    def selected(advantages_PG: Tensor) -> Tensor | None:
        chosen.append(select(advantages_PG))
        return chosen[-1]

    trial.rollout, trial.optimizer.select = rolled, selected  # type: ignore[method-assign]
    trial.train_step()
    (batch,), (chosen_P2,) = batches, chosen
    assert batch.conditions_PK is not None
    assert len({tuple(row) for row in batch.conditions_PK.tolist()}) == 12
    shares = [[t.count(letter) / max(len(t), 1) for letter in "ab"] for t in batch.texts_B]
    units_PGK = group_zscore(torch.tensor(shares).view(12, 12, 2))
    utilities_PG = (units_PGK * batch.conditions_PK[:, None]).sum(-1)
    ends = torch.stack([utilities_PG.amax(1), utilities_PG.amin(1)], 1)
    torch.testing.assert_close(utilities_PG.gather(1, chosen_P2), ends)
    assert (ends[:, 0] > ends[:, 1]).any()
    # By the weights of another prompt another one would be best.
    turned_PG = (units_PGK * batch.conditions_PK.roll(1, 0)[:, None]).sum(-1)
    assert (turned_PG.gather(1, chosen_P2)[:, 0] < turned_PG.amax(1) - 1e-3).any()


def test_it_does_not_matter_how_a_batch_is_divided():
    found = []
    for tokens in (20, 100000):
        study = letters_study("online-dpo", "none", f"training.micro_tokens={tokens}")
        trial = testbeds.new_trial(study)
        found.append([trial.train_step() for _ in range(2)][-1])
    few, many = found
    for name in ("loss", "accuracy", "margin", "tied", "gradient_norm"):
        assert few[name] == pytest.approx(many[name], rel=1e-3, abs=1e-5)


def test_rewards_may_be_summed_before():
    study = letters_study("online-dpo", "none", "training.combine=rewards")
    assert math.isfinite(testbeds.new_trial(study).train_step()["loss"])


@pytest.mark.parametrize(
    ("optimizer", "weighting", "sentence"),
    [
        ("online-dpo", "mgda", "chooses what it learns from by all of them together"),
        ("online-dpo", "{group-robust: {losses: optimizer}}", "reads a loss per objective"),
        ("{online-dpo: {loss: grpo}}", "fixed", "takes an optimizer with a loss of pairs"),
        ("{online-dpo: {loss: {dpo: {beta: 0}}}}", "fixed", "option 'beta' should be float > 0"),
    ],
)
def test_what_cannot_work_is_refused_before_training(optimizer, weighting, sentence):
    with pytest.raises(StudyError, match=sentence):
        testbeds.family_study(f"training.optimizer={optimizer}", f"weighting={weighting}")


def test_an_option_of_the_default_loss_may_be_set_and_searched():
    study = testbeds.family_study(
        "training.optimizer=online-dpo",
        "training.optimizer.loss.beta=0.7",
        "search.space={training.optimizer.loss.beta: {low: 0.1, high: 1.0}}",
    )
    assert study.new_optimizer()._loss.beta == 0.7


def letters_study(optimizer: Any, condition: str, *overrides: str):
    """Return a study of letters, with two objectives and two mini-batches."""
    return load(
        letters.STUDY,
        "letters.yaml",
        plugins.load([letters.FILE]),
        (
            f"training.optimizer={json.dumps(optimizer)}",
            f"policy={{small: {{condition: {condition}}}}}",
            "weighting=fixed",
            "training.minibatches=2",
            *overrides,
        ),
    )
