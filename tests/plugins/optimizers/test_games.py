"""Playing against oneself: sppo, inpo, nash-md, egpo; and pairs with a divergence online: hypo."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import letters
import pytest
import tabular
import testbeds
import torch
from resuming import resumed
from torch import Tensor

from moalign import Reward, Weighting, Weights, hookimpl, plugins
from moalign.components import Optimizer
from moalign.errors import OptionError, StudyError
from moalign.optimizers.games import GameOptimizer
from moalign.study.loading import load
from moalign.testing.lessons import rows_of
from moalign.testing.steps import make_batch, make_objectives
from moalign.types import Objective
from moalign_plugins.optimizers.dpo import Dpo
from moalign_plugins.optimizers.egpo import Egpo
from moalign_plugins.optimizers.hypo import Hypo
from moalign_plugins.optimizers.inpo import Inpo
from moalign_plugins.optimizers.nash_md import NashMd
from moalign_plugins.optimizers.sppo import Sppo

# How probably the first of two arms beats the second: rock, paper, scissors; with other odds, so
# that nobody beats a policy which is not uniform; and with an arm that all others beat.
ROCK = torch.tensor([[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5]]).double()
BIASED = torch.tensor([[0.5, 0.1, 0.7], [0.9, 0.5, 0.2], [0.3, 0.8, 0.5]]).double()
START = torch.tensor([0.6, 0.3, 0.1]).double()
UNIFORM = torch.full((3,), 1 / 3, dtype=torch.float64)
REFERENCE = torch.tensor([0.2, 0.3, 0.5]).double()
UNBEATEN = torch.tensor([3.0, 2.0, 4.0]).double() / 9
"""What none beats in the biased game: each arm beats it half of the time."""


def wins(beats_AA: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what a judge of pairs says of groups of two arms, [S, 2] to [S, 2, 1]."""
    return lambda arms_S2: beats_AA[arms_S2, arms_S2.flip(1)][..., None]


def equilibrium(beats_AA: Tensor, tau: float, reference_A: Tensor, mixture: float = 0.0) -> Tensor:
    """Return where ``pi = pi_ref exp(P(y beats pi^(1 - mixture) pi_ref^mixture) / tau)``.

    That equation is solved, without any optimizer; tau is finite.
    """
    reference_A = reference_A.log()

    def error(logits_A: Tensor) -> Tensor:
        logs_A = logits_A.log_softmax(-1)
        opponent_A = torch.lerp(logs_A, reference_A, mixture).softmax(-1)
        away_A = logs_A - reference_A - beats_AA @ opponent_A / tau
        return (away_A - away_A.mean()).square().sum()

    found_A = tabular.minimum(error, reference_A)
    assert float(error(found_A)) < 1e-14
    return found_A.softmax(-1)


def gradient(
    optimizer: Optimizer,
    logs_A: Tensor,
    beats_AA: Tensor,
    reference_A: Tensor,
    sampled_A: Tensor | None = None,
) -> Tensor:
    """Return the natural gradient of the expected loss of groups of two."""
    found_A = tabular.expected_gradient(
        optimizer,
        logs_A,
        wins(beats_AA),
        torch.ones(1).double(),
        reference_A=reference_A.log(),
        group=2,
        sampled_A=sampled_A,
    )
    return found_A / (logs_A if sampled_A is None else sampled_A).exp()


def played(
    optimizer: Optimizer,
    beats_AA: Tensor,
    reference_A: Tensor = UNIFORM,
    *,
    rate: float,
    steps: int,
    epochs: int = 1,
) -> Tensor:
    """Return the policies of a training that begins at :data:`START`, [steps, A]."""
    logs_A, found = START.log(), []
    for _ in range(steps):
        sampled_A = logs_A
        for _ in range(epochs):
            steep_A = gradient(optimizer, logs_A, beats_AA, reference_A, sampled_A)
            logs_A = (logs_A - rate * steep_A).log_softmax(-1)
        found.append(logs_A.softmax(-1))
    return torch.stack(found)


# --- values by hand -----------------------------------------------------------------------------


def loss_and_pull(
    optimizer: Optimizer,
    scores: list[float],
    *,
    moved: list[float] | None = None,
    ratios: list[float] | None = None,
) -> tuple[float, list[float], dict[str, Tensor]]:
    """Return the loss of one group of completions of two tokens, how it pulls at each, and metrics.

    Args:
        optimizer: learns from rollouts.
        scores: of its one objective.
        moved: log-ratio of each completion against the policy that sampled; default 0.
        ratios: of that policy against the reference; default 0.
    """
    group = len(scores)
    old_BT = torch.full((group, 2), -1.0)
    reference_BT = old_BT - 0.5 * torch.tensor(ratios or [0.0] * group)[:, None]
    batch = make_batch(
        1,
        group,
        lengths=[2] * group,
        lazy={"logprobs": lambda: old_BT, "ref_logprobs": lambda: reference_BT},
    )
    advantages_BT = optimizer.advantages(torch.tensor(scores)[None, :, None], batch)[..., 0]
    known_BT = old_BT + 0.5 * torch.tensor(moved or [0.0] * group)[:, None]
    leaf_BT = known_BT.clone().requires_grad_()
    rows = rows_of(optimizer, batch)
    loss, metrics = optimizer.loss(leaf_BT, replace(rows, kept=batch.kept), advantages_BT)
    (slope_BT,) = torch.autograd.grad(loss, leaf_BT)
    assert torch.equal(slope_BT[:, 0], slope_BT[:, 1])
    return float(loss.detach()), (-slope_BT[:, 0]).tolist(), metrics


SIGMOID = 1 / (1 + math.exp(-0.8))


@pytest.mark.parametrize(
    ("options", "scores", "margin"),
    [
        ({"units": "score"}, [1.0, 0.2], SIGMOID - 0.5),
        ({}, [1.0, 0.2], 1 / (1 + math.exp(-math.sqrt(2))) - 0.5),
        ({"preference": "comparison"}, [1.0, 0.2], 0.5),
        ({"preference": "comparison"}, [0.2, 0.2], 0.0),
        ({"preference": "wins"}, [0.9, 0.1], 0.4),
        ({"preference": "wins"}, [0.0, 1.0], -0.5),
        ({"preference": "wins"}, [math.nan, 1.0], 0.0),
    ],
)
def test_utilities_say_who_wins(options: Any, scores: list[float], margin: float):
    loss, pull, metrics = loss_and_pull(Sppo(eta=3.0, **options), scores)
    assert loss == pytest.approx((3.0 * margin) ** 2, abs=1e-5)
    assert pull == pytest.approx([3.0 * margin, -3.0 * margin], abs=1e-5)
    assert metrics["decided"] == pytest.approx(2 * abs(margin), abs=1e-5)


def test_sppo_is_a_regression_on_how_often_a_completion_wins():
    # Of three: the first beats both others, the second one of them.
    moved = [0.3, -0.2, 0.1]
    loss, pull, metrics = loss_and_pull(
        Sppo(eta=2.0, preference="comparison"), [0.9, 0.5, 0.1], moved=moved
    )
    errors = [0.3 - 1.0, -0.2 - 0.0, 0.1 + 1.0]
    assert loss == pytest.approx(sum(e**2 for e in errors) / 3)
    assert pull == pytest.approx([-2 * e / 3 for e in errors])
    assert metrics["decided"] == pytest.approx(1.0)


def test_inpo_is_anchored_in_the_last_policy_and_the_reference():
    optimizer = Inpo(tau=0.1, eta=0.4, preference="wins")
    loss, pull, _ = loss_and_pull(optimizer, [0.9, 0.1], moved=[0.3, -0.2], ratios=[0.6, -0.4])
    # h(pi) - h(pi_t) is 0.5, h(pi_t) - h(pi_ref) is 1, of which a quarter counts.
    error = 0.5 + 0.25 * 1.0 - 0.4 / 0.4
    assert loss == pytest.approx(error**2, rel=1e-5)
    assert pull == pytest.approx([-2 * error, 2 * error], rel=1e-5)


def test_inpo_takes_all_pairs_of_a_group():
    optimizer = Inpo(tau=0.5, eta=0.5, preference="comparison")
    loss, _, _ = loss_and_pull(optimizer, [3.0, 2.0, 1.0], ratios=[0.5, 0.2, 0.0])
    assert loss == pytest.approx((0.7**2 + 0.5**2 + 0.8**2) / 3)


def test_egpo_is_ipo_with_the_probability_of_winning():
    loss, pull, _ = loss_and_pull(
        Egpo(tau=0.5, preference="wins"), [0.7, 0.3], moved=[0.3, 0.0], ratios=[0.1, -0.2]
    )
    error = 0.6 - 0.2 / 0.5
    assert loss == pytest.approx(error**2)
    assert pull == pytest.approx([-2 * error, 2 * error])


def test_nash_md_weighs_opponents_as_the_mixture_has_them():
    optimizer = NashMd(tau=0.2, mixture=0.5, preference="comparison", clip=9.0)
    ratios, scores = [0.8, -0.6, 0.2], [3.0, 2.0, 1.0]
    _, pull, _ = loss_and_pull(optimizer, scores, ratios=ratios)
    weights = [math.exp(-0.5 * r) for r in ratios]
    gains = [
        sum(
            w * (0.5 * (1 if s > t else -1) - 0.2 * (r - q))
            for w, t, q in zip(weights, scores, ratios, strict=True)
            if t != s
        )
        / 2
        for s, r in zip(scores, ratios, strict=True)
    ]
    assert pull == pytest.approx([gain / 3 for gain in gains])


def test_the_weight_of_an_opponent_is_bounded():
    optimizer = NashMd(tau=1e-6, mixture=1.0, preference="comparison")
    _, pull, _ = loss_and_pull(optimizer, [1.0, 0.0], ratios=[0.0, -50.0])
    assert pull == pytest.approx([10 * 0.5 / 2, -0.5 / 2], rel=1e-3)


def test_hypo_pulls_back_what_the_policy_writes_oftener_than_the_reference():
    loss, pull, _ = loss_and_pull(
        Hypo(kl_coefficient=0.1), [math.nan, math.nan], ratios=[0.8, -0.2]
    )
    assert pull == pytest.approx([-0.1 * 1.0 / 2, 0.1 * 1.0 / 2])
    assert loss == pytest.approx(0.0, abs=1e-7)


def test_hypo_has_the_pair_loss_of_dpo():
    scores = torch.tensor([[1.0, 0.3], [0.2, 0.9]])[..., None]
    logs_PGT = torch.tensor([[-1.0, -2.0], [-0.5, -1.5]])[..., None]
    found = []
    for optimizer in (Hypo(beta=0.7), Dpo(beta=0.7)):
        rows = tabular.rows_of(tabular.begun(optimizer, 1), scores, 0.9 * logs_PGT)
        found.append(float(optimizer.pair_loss(logs_PGT.view(-1, 1), rows, torch.ones(2, 1))[0]))
    assert found[0] == found[1]


def test_hypos_rollouts_have_the_gradient_of_the_divergence():
    logs_A = torch.tensor([0.5, 0.3, 0.2]).double().log().requires_grad_()
    reference_A = START.log()
    known_A = logs_A.log_softmax(-1)
    divergence = (known_A.exp() * (known_A - reference_A)).sum()
    (expected,) = torch.autograd.grad(divergence, logs_A)
    found = tabular.expected_gradient(
        Hypo(kl_coefficient=0.3),
        logs_A.detach(),
        torch.zeros(3, 1),
        torch.ones(1),
        reference_A=reference_A,
        group=3,
    )
    torch.testing.assert_close(found, 0.3 * expected, atol=1e-6, rtol=0)


GAMES = [
    Sppo(),
    Sppo(preference="comparison"),
    Inpo(),
    NashMd(units="score"),
    NashMd(preference="comparison"),
    Egpo(),
]


@pytest.mark.parametrize("optimizer", GAMES, ids=lambda o: f"{o.name} {o.preference}")
def test_a_shift_of_the_scores_changes_nothing(optimizer: GameOptimizer):
    scores, moved, ratios = [0.25, 0.75, 0.5], [0.1, 0.0, -0.2], [0.3, -0.1, 0.4]
    plain = loss_and_pull(optimizer, scores, moved=moved, ratios=ratios)
    shifted = loss_and_pull(optimizer, [s - 8.0 for s in scores], moved=moved, ratios=ratios)
    assert shifted[0] == pytest.approx(plain[0], rel=1e-5)
    assert shifted[1] == pytest.approx(plain[1], rel=1e-5)


@pytest.mark.parametrize("optimizer", GAMES, ids=lambda o: f"{o.name} {o.preference}")
def test_equal_utilities_teach_nothing(optimizer: GameOptimizer):
    _, pull, metrics = loss_and_pull(optimizer, [0.1 + 0.2, 0.3, 0.3])
    assert pull == [0.0, 0.0, 0.0]
    assert metrics["decided"] == 0.0


# --- where they lead ----------------------------------------------------------------------------


def test_what_none_beats_is_computed_rightly():
    torch.testing.assert_close(equilibrium(ROCK, 0.2, UNIFORM), UNIFORM, atol=1e-9, rtol=0)
    torch.testing.assert_close(BIASED @ UNBEATEN, torch.full((3,), 0.5).double())
    # For tau near 0 the reference does not matter.
    found = equilibrium(BIASED, 0.003, REFERENCE)
    torch.testing.assert_close(found, UNBEATEN, atol=0.01, rtol=0)


@pytest.mark.parametrize("mixture", [0.0, 0.25, 1.0])
@pytest.mark.parametrize(("beats", "reference"), [(ROCK, UNIFORM), (BIASED, REFERENCE)])
def test_the_last_policy_of_nash_md_is_the_equilibrium(
    mixture: float, beats: Tensor, reference: Tensor
):
    optimizer = NashMd(tau=0.3, mixture=mixture, preference="wins")
    found = played(optimizer, beats, reference, rate=2.0, steps=40)[-1]
    expected = equilibrium(beats, 0.3, reference, mixture)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("beats", "reference"), [(ROCK, UNIFORM), (BIASED, REFERENCE)])
def test_the_last_policy_of_egpo_is_the_equilibrium(beats: Tensor, reference: Tensor):
    optimizer, rate, logs_A = Egpo(tau=0.1, preference="wins"), 0.1, START.log()
    for _ in range(30):
        ahead_A = (logs_A - rate * gradient(optimizer, logs_A, beats, reference)).log_softmax(-1)
        logs_A = (logs_A - rate * gradient(optimizer, ahead_A, beats, reference)).log_softmax(-1)
    expected = equilibrium(beats, 0.1, reference)
    torch.testing.assert_close(logs_A.softmax(-1), expected, atol=1e-5, rtol=0)


def test_without_extrapolation_it_would_go_round():
    found = played(Egpo(tau=0.1, preference="wins"), ROCK, rate=0.1, steps=60)
    assert float((found[-20:] - UNIFORM).abs().amax(1).min()) > 0.2


@pytest.mark.parametrize(("beats", "expected"), [(ROCK, UNIFORM), (BIASED, UNBEATEN)])
def test_sppo_goes_round_and_its_mean_is_the_equilibrium(beats: Tensor, expected: Tensor):
    # A step of half the curvature lands where the regression is solved.
    found = played(Sppo(eta=1.0, preference="wins"), beats, rate=0.5, steps=200)
    assert float((found.mean(0) - expected).abs().max()) < 0.03
    assert float((found[-50:] - expected).abs().amax(1).min()) > 0.2


@pytest.mark.parametrize(("beats", "reference"), [(ROCK, UNIFORM), (BIASED, REFERENCE)])
def test_the_mean_policy_of_inpo_is_the_equilibrium(beats: Tensor, reference: Tensor):
    optimizer = Inpo(tau=0.1, eta=1.0, preference="wins")
    found = played(optimizer, beats, reference, rate=0.25, steps=100, epochs=2)
    expected = equilibrium(beats, 0.1, reference)
    assert float((found.mean(0) - expected).abs().max()) < 0.03
    assert float((found[-1] - expected).abs().max()) < 0.003  # eta is large enough


@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [
        (Inpo(tau=0.3, eta=0.6, units="score"), 0.25),
        (Egpo(tau=0.3, units="score"), 0.25),
        (NashMd(tau=0.3, mixture=0.0, units="score"), 2.0),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_with_utilities_they_lead_to_what_wins_oftenest(optimizer: Optimizer, rate: float):
    scores = torch.tensor([[1.0, 0.1], [0.2, 0.9], [0.4, 0.5]])
    weights = [0.3, 0.7]
    utility = scores.double() @ torch.tensor(weights).double()
    beats = (utility[:, None] - utility).sigmoid()
    found = tabular.solve(optimizer, scores, weights, START, group=2, rate=rate, steps=40)
    torch.testing.assert_close(found, equilibrium(beats, 0.3, START), atol=1e-5, rtol=0)


# --- before training ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "overrides", "sentence"),
    [
        ({"sppo": {"preference": "wins"}}, ["training.group=4"], "compares 2 completions of one"),
        ({"sppo": {"preference": "wins", "units": "deviation"}}, [], "leave it out, or set units"),
        (
            {"sppo": {"preference": "wins"}},
            ["objectives.b={reward: length, bounds: [-6, -1]}"],
            r"objective b has the bounds \[-6, -1\]",
        ),
        ({"inpo": {"tau": 0.4, "eta": 0.3}}, [], "eta must be at least tau"),
        ("egpo", ["training.minibatches=2"], "set minibatches: 1"),
        ("egpo", ["training.replay.steps=2"], "has no importance weights"),
        ("hypo", ["weighting=mgda"], "learns nothing from how rollouts score"),
        ("hypo", ["training.combine=rewards"], "learns nothing of that"),
        ("hypo", ["training.group=1"], "at least 2"),
    ],
)
def test_what_cannot_work_is_refused_before_training(optimizer: Any, overrides: Any, sentence: str):
    with pytest.raises(StudyError, match=sentence):
        letters_study(optimizer, *overrides)


def test_wins_are_scores_of_two():
    assert [NashMd(preference="wins").max_group, NashMd().max_group] == [2, None]
    assert [Sppo(preference="wins").units, Sppo().units, Sppo(units="score").units] == [
        "score",
        "deviation",
        "score",
    ]
    with pytest.raises(OptionError) as it:
        Egpo(preference="wins", units="deviation")
    assert it.value.option == "units"


@pytest.mark.parametrize(
    ("bounds", "found"),
    [((-64.0, -1.0), r"has the bounds \[-64, -1\]"), ((0.0, 1.5), r"\[0, 1.5\]"),
     ((-1.0, 1.0), r"\[-1, 1\]"), (None, "has none")],
)  # fmt: skip
def test_wins_are_scores_from_0_to_1(bounds: tuple[float, float] | None, found: str):
    objectives = [*make_objectives("a"), Objective("size", bounds)]
    for cls in (Sppo, Inpo, NashMd, Egpo):
        cls().check(objectives)
        cls(preference="wins").check([*objectives[:1], Objective("half", (0.0, 0.5))])
        sentence = rf"{cls.name}.* objective size .*{found}; .* bradley-terry or comparison"
        with pytest.raises(OptionError, match=sentence) as it:
            cls(preference="wins").check(objectives)
        assert it.value.option == "preference"


# --- in the loop --------------------------------------------------------------------------------


class Judged(Reward):
    """How probably an arm beats the other one of its group, in the biased game."""

    name: ClassVar[str] = "judged"
    range = (0.0, 1.0)

    def score(self, batch: Any) -> list[float]:
        if batch.group != 2:
            return [math.nan] * batch.rows
        arms_P2 = torch.tensor([int(text) for text in batch.texts_B]).view(-1, 2)
        return wins(BIASED)(arms_P2).flatten().tolist()


class Counting(Weighting):
    """Counts how often it is asked."""

    name: ClassVar[str] = "counting"
    count = 0

    def weigh(self, step: Any) -> Weights:
        self.count += 1
        return Weights(step.preference_K)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Any) -> None:
        self.count = state["count"]


@hookimpl
def moalign_rewards() -> list[type[Reward]]:
    return [Judged]


@hookimpl
def moalign_weightings() -> list[type[Weighting]]:
    return [Counting]


LOOPS: list[Any] = [
    {"sppo": {"epochs": 2}},
    {"inpo": {"epochs": 2, "preference": "comparison"}},
    {"nash-md": {"mixture": 0.25, "epochs": 2}},
    "egpo",
    "hypo",
]


@pytest.mark.parametrize("optimizer", LOOPS, ids=str)
def test_resuming_is_exact_and_the_policy_may_read_weights(optimizer: Any, tmp_path):
    overrides = () if optimizer == "egpo" else ("training.minibatches=2",)
    study = letters_study(optimizer, "policy={small: {condition: weights}}", *overrides)
    whole = testbeds.new_trial(study)
    whole.train_step()
    second = resumed(whole, testbeds.new_trial(study), tmp_path)
    expected = [whole.train_step() for _ in range(2)]
    found = [second.train_step() for _ in range(2)]
    assert str(found) == str(expected)
    assert second.cost == whole.cost
    assert all(math.isfinite(step["loss"]) for step in found)


@pytest.mark.parametrize("optimizer", LOOPS[:4], ids=str)
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


@pytest.mark.parametrize("weighting", ["mgda", "{lagrangian: {primary: a}}", "chebyshev"])
def test_weightings_that_look_at_gradients_or_scores_go_with_games(weighting: str):
    for optimizer in LOOPS[:4]:
        study = testbeds.three_study(
            f"training.optimizer={json.dumps(optimizer)}",
            f"weighting={weighting}",
            "training.group=4",
        )
        assert math.isfinite(testbeds.train(study, steps=2).train_step()["loss"])


def test_hypo_stays_near_the_reference():
    found = {}
    for strength in (0.0, 1.0):
        optimizer = {"hypo": {"beta": 0.1, "kl_coefficient": strength}}
        study = testbeds.family_study(
            f"training.optimizer={json.dumps(optimizer)}",
            "training.steps=20",
            "training.learning_rate=0.1",
            "objectives={accuracy: {reward: preferred}, brevity: {reward: preferred}}",
        )
        found[strength] = float(testbeds.chosen(testbeds.train(study), "accuracy")[0])
    assert 0.34 < found[1.0] < found[0.0] - 0.2


def test_egpo_steps_from_where_it_was_with_the_gradient_from_where_it_would_go():
    study = letters_study("egpo")
    trial = testbeds.new_trial(study)
    trial.train_step()
    spent = trial.cost.generated
    before = [p.detach().clone() for p in trial.parameters]
    seen: list[list[Tensor]] = []
    rolled: list[tuple[str, list[str]]] = []
    rollout, step = trial.rollout, trial.torch_optimizer.step

    def watched(split: Any, index: int, purpose: str = "rollout") -> Any:
        batch = rollout(split, index, purpose)
        rolled.append((purpose, [p.id for p in batch.prompts_P]))
        return batch

    def stepped() -> None:
        seen.append([p.detach().clone() for p in trial.parameters])
        step()
        seen.append([p.detach().clone() for p in trial.parameters])

    trial.rollout, trial.torch_optimizer.step = watched, stepped  # type: ignore[assignment]
    trial.train_step()
    start, ahead, back, after = seen
    assert [purpose for purpose, _ in rolled] == ["extrapolation", "rollout"]
    assert rolled[0][1] == rolled[1][1]
    assert same(start, before)
    assert same(back, before)
    assert not same(ahead, before)
    assert not same(after, ahead)
    assert trial.cost.generated >= spent + 2 * 4 * 2
    # AdamW remembers one gradient per step.
    moments = trial.torch_optimizer.state_dict()["state"].values()
    assert {float(m["step"]) for m in moments} == {2.0}


def test_what_a_weighting_learns_from_the_rollout_before_is_forgotten():
    trial = testbeds.new_trial(judged_study({"egpo": {"preference": "wins"}}, "weighting=counting"))
    for _ in range(3):
        trial.train_step()
    assert trial.weighting.state_dict() == {"count": 3}


def test_a_judge_of_pairs_is_a_reward():
    options = {"tau": 0.3, "eta": 1.0, "preference": "wins"}
    study = judged_study({"inpo": options}, "training.steps=60", "training.schedule=linear")
    trial = testbeds.train(study)
    expected = equilibrium(BIASED, 0.3, UNIFORM)
    for family in ("accuracy", "brevity"):
        assert float((testbeds.chosen(trial, family) - expected).abs().max()) < 0.02


def judged_study(optimizer: Any, *overrides: str):
    """Return a study of three arms, of which a judge compares two at a time."""
    text = testbeds.text("families", a="").replace("arm-value: {of: a}", "judged: {}")
    return load(
        text,
        "arms.yaml",
        plugins.load([testbeds.FILE, Path(__file__)]),
        (
            f"training.optimizer={json.dumps(optimizer)}",
            "training.prompts=20",
            "training.group=2",
            "training.learning_rate=0.1",
            *overrides,
        ),
    )


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def letters_study(optimizer: Any, *overrides: str):
    """Return a study of letters, with two objectives."""
    return load(
        letters.STUDY,
        "letters.yaml",
        plugins.load([letters.FILE]),
        (
            f"training.optimizer={json.dumps(optimizer)}",
            "policy={small: {condition: none}}",
            "weighting=fixed",
            *(() if "training.group" in str(overrides) else ("training.group=2",)),
            *overrides,
        ),
    )
