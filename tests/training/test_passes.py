"""Passes over preferences and rollouts: gradients, resuming, cost; optimizers of every sort."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from choices import OF_SAMPLES, new_study, new_trial, spent
from resuming import resumed

from moalign import Cost, Optimizer, SegmentTask, Start, plugins
from moalign.search.folders import RunFolder
from moalign.search.segments import run_segment
from moalign.training.loop import Trial

CONDITIONED = "policy={small: {condition: weights}}"
PLAIN = "search.space={}"
TWICE = ("training.minibatches=2",)
LETTERS = "objectives={a: {reward: letter-share}, b: {reward: {letter-share: {letter: b}}}}"
ONLINE = (LETTERS, "training.group=4")
GROUPS = (
    "objectives={north: {reward: {preferred: {group: north}}}, "
    "south: {reward: {preferred: {group: south}}}}"
)
GRADED = "objectives.people={reward: {preferred: {score: tone, scale: [0, 4]}}}"
PPO = "training.optimizer={ppo: {epochs: 2, lam: 0.9, value_learning_rate: 0.05}}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose artifacts all tests share."""
    folder = RunFolder(tmp_path_factory.mktemp("passes") / "run")
    folder.path.mkdir()
    return folder


def steps(trial: Trial, count: int) -> list[dict[str, float]]:
    return [trial.train_step() for _ in range(count)]


# --- resuming ------------------------------------------------------------------------------------

CASES = {
    "dpo": (),
    "dpo twice": ("training.optimizer={dpo: {epochs: 2}}", *TWICE),
    "dpo on samples": OF_SAMPLES,
    "dpo on four samples": (*OF_SAMPLES, "training.pairs.size=4"),
    "dpo with weights in the prompt": (CONDITIONED,),
    "dpo for groups": (GROUPS, "weighting={group-robust: {losses: optimizer, rate: 0.5}}"),
    "dpo with a gram matrix": ("weighting=mgda", PLAIN),
    "modpo": ("training.optimizer={modpo: {primary: people}}",),
    "modpo on samples": ("training.optimizer={modpo: {primary: b, labels: soft}}", *OF_SAMPLES),
    "ppo": (*ONLINE, PPO, *TWICE, "training.schedule=linear", "training.warmup=2"),
    "ppo with a gram matrix": (*ONLINE, "training.optimizer=ppo", "weighting=mgda", PLAIN),
    "both": ("training.optimizer={both-ways: {epochs: 2}}", "training.group=4", *TWICE),
    "selected": (*ONLINE, "training.optimizer=extremes", *TWICE),
}


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES.keys())
def test_resuming_is_exact(run: RunFolder, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    study = new_study(*overrides)
    whole = new_trial(study, run)
    history = steps(whole, 4)
    first = new_trial(study, run)
    steps(first, 2)
    second = resumed(first, new_trial(study, run), tmp_path)
    assert steps(second, 2) == history[2:]
    for name, tensor in whole.policy.state().items():
        assert torch.equal(tensor, second.policy.state()[name]), name
    for one, other in zip(whole.optimizer.parameters(), second.optimizer.parameters(), strict=True):
        assert torch.equal(one, other)
    assert whole.cost == second.cost
    assert any(m["gradient_norm"] > 0 for m in history)


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES.keys())
def test_micro_batches_change_nothing_but_rounding(
    run: RunFolder, overrides: tuple[str, ...]
) -> None:
    one = new_trial(new_study(*overrides), run)
    many = new_trial(new_study(*overrides, "training.micro_tokens=24"), run)
    for a, b in zip(steps(one, 2), steps(many, 2), strict=True):
        assert a == pytest.approx(b, rel=2e-3, abs=1e-4)
    assert one.cost == many.cost


GRADED = "objectives.people.reward={preferred: {score: tone, scale: [0, 4]}}"
OFFERED = [
    entry.cls
    for entry in plugins.load().entries(Optimizer.kind)
    if issubclass(entry.cls, Optimizer) and entry.cls.learns_from != "rollouts"
]


@pytest.mark.parametrize("cls", OFFERED, ids=lambda cls: cls.name)
def test_every_optimizer_that_learns_from_pairs_trains_and_resumes(
    run: RunFolder, tmp_path: Path, cls: type[Optimizer]
) -> None:
    options = json.dumps({cls.name: cls.examples[0]})
    study = new_study(f"training.optimizer={options}", GRADED, "training.group=2", *TWICE)
    whole = new_trial(study, run)
    before = {name: tensor.clone() for name, tensor in whole.policy.state().items()}
    history = steps(whole, 2)
    assert all(math.isfinite(metrics["loss"]) for metrics in history)
    assert any(not torch.equal(before[name], now) for name, now in whole.policy.state().items())
    assert (whole.cost.generated > 0) == (cls.learns_from == "both")
    first = new_trial(study, run)
    steps(first, 1)
    second = resumed(first, new_trial(study, run), tmp_path)
    assert steps(second, 1) == history[1:]
    for name, tensor in whole.policy.state().items():
        assert torch.equal(tensor, second.policy.state()[name]), name
    assert whole.cost == second.cost


def test_all_that_learn_from_pairs_are_tried() -> None:
    assert {"dpo", "modpo", "lipo", "kto", "hypo"} <= {cls.name for cls in OFFERED}


def killed(task: SegmentTask, cache: dict[str, Any], after: int) -> None:
    """Run a segment in a process of its own, which dies at a step."""
    child = os.fork()
    if child == 0:

        def die(event: Any) -> None:
            if event.step == after:
                os.kill(os.getpid(), signal.SIGKILL)

        run_segment(task, die, cache)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


@pytest.mark.parametrize(
    "name", ["dpo on samples", "dpo for groups", "modpo", "ppo", "dpo with a gram matrix"]
)
def test_a_killed_segment_is_made_again_to_the_bit(
    run: RunFolder, name: str, tmp_path: Path
) -> None:
    study = new_study(*CASES[name], "training.steps=4")
    plugins = tuple((file.path, file.sha256) for file in study.catalogue.files)

    def task(folder: str, since: int, until: int) -> SegmentTask:
        path = run.path.with_name(folder)
        return SegmentTask(
            run=path, trial=0, study=study.data, start=Start(), since=since, until=until, total=4,
            plugins=plugins,
        )  # fmt: skip

    whole, broken = (f"{name} {which} {tmp_path.name}" for which in ("whole", "broken"))
    for folder in (whole, broken):
        run.path.with_name(folder).mkdir()
    run_segment(task(whole, 0, 2), lambda event: None, {})
    run_segment(task(whole, 2, 4), lambda event: None, {})
    run_segment(task(broken, 0, 2), lambda event: None, {})
    killed(task(broken, 2, 4), {}, after=3)
    assert not RunFolder(run.path.with_name(broken)).checkpoint(0, 4).exists()
    run_segment(task(broken, 2, 4), lambda event: None, {})
    for step in (2, 4):
        ours, theirs = (
            files_of(RunFolder(run.path.with_name(folder)).checkpoint(0, step))
            for folder in (whole, broken)
        )
        assert ours == theirs
        assert "policy/policy.safetensors" in ours


# --- gradients of preferences --------------------------------------------------------------------


def plain_gradients(trial: Trial, lesson: Any) -> torch.Tensor:
    """Return each objective's gradient, [K, N], by a backward pass over all rows at once."""
    batch = lesson.batch
    rows_PG = lesson.rows_PS
    found = []
    for parameter in trial.parameters:
        parameter.grad = None
    for k in range(len(trial.objectives)):
        logprobs_BT = trial.policy.logprobs(
            [batch.prompt_ids_P[b // batch.group] for b in range(batch.rows)],
            batch.ids_BT,
            batch.mask_BT,
        )
        rows = trial.passes.rows(lesson, rows_PG, rows_PG.flatten(), logprobs_BT.detach())
        losses_PK, _ = trial.optimizer.losses(logprobs_BT, rows)
        (-losses_PK[:, k].nanmean()).backward()  # type: ignore[no-untyped-call]
        found.append(torch.cat([p.grad.flatten() for p in trial.parameters if p.grad is not None]))
        for parameter in trial.parameters:
            parameter.grad = None
    return torch.stack(found).double()


@pytest.mark.parametrize("micro_tokens", [2048, 24])
@pytest.mark.parametrize(
    "overrides",
    [(), (GROUPS,), (*OF_SAMPLES, "training.pairs.size=4"),
     (GRADED, "training.optimizer={dpo: {labels: soft}}")],
    ids=["pairs", "groups", "four samples", "soft"],
)  # fmt: skip
def test_the_gram_matrix_is_that_of_plain_passes(
    run: RunFolder, overrides: tuple[str, ...], micro_tokens: int
) -> None:
    study = new_study(*overrides, "weighting=mgda", PLAIN, f"training.micro_tokens={micro_tokens}")
    trial = new_trial(study, run)
    steps(trial, 2)  # away from where all log-ratios are 0
    (lesson,) = trial._lessons()
    gradients = trial._gradients(lesson, trial._columns(lesson))
    gram = gradients.gram()
    gradients_KN = plain_gradients(trial, lesson)
    expected = gradients_KN @ gradients_KN.T
    assert (gram - expected).norm() / expected.norm() < 1e-4
    assert torch.allclose(gradients.norms_K(), expected.diagonal().sqrt(), rtol=1e-4)
    assert gradients.metrics["gram/one_pass"] in {0.0, 1.0}


def test_the_update_of_known_gradients_is_the_plain_one(run: RunFolder) -> None:
    """``mgda`` pays for its Gram matrix, and the step is made of what it paid for."""

    def trained(*overrides: str) -> Trial:
        trial = new_trial(new_study("weighting=mgda", PLAIN, *overrides), run)
        original = trial.passes._reused
        if overrides:
            trial.passes._reused = lambda *given: None  # type: ignore[method-assign]
        metrics = steps(trial, 3)
        assert [m["gram/reused"] for m in metrics] == [0.0 if overrides else 1.0] * 3
        trial.passes._reused = original  # type: ignore[method-assign]
        return trial

    reused, plain = trained(), trained("training.prompts=6")
    for name, tensor in plain.policy.state().items():
        assert torch.allclose(tensor, reused.policy.state()[name], atol=2e-4), name
    assert reused.cost.backwarded < plain.cost.backwarded


def test_known_gradients_are_not_used_where_weights_differ_by_prompt(run: RunFolder) -> None:
    """``fixed`` follows the weights in the prompts: no sum of the objectives' gradients."""
    trial = new_trial(new_study(LETTERS, CONDITIONED), run)
    batch = trial._preferences()
    lesson = trial._scored(batch, preferences=True)
    gradients = trial._gradients(lesson, trial._columns(lesson))
    gradients.norms_K()
    plain = new_trial(new_study(LETTERS, CONDITIONED), run)
    rows = lesson.rows_PS
    taught = [
        (replace(lesson, weights_PK=batch.conditions_PK), rows),
    ]
    ours = trial.passes.back(taught, [None], gradients, 1)
    theirs = plain.passes.back(taught, [None], None, 1)
    assert gradients.metrics["gram/reused"] == 0.0
    assert ours == pytest.approx(theirs)
    for one, other in zip(trial.parameters, plain.parameters, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad)


# --- losses per group ----------------------------------------------------------------------------


def test_group_robust_reads_the_losses_of_this_batch(run: RunFolder) -> None:
    rate = 0.5
    study = new_study(GROUPS, f"weighting={{group-robust: {{losses: optimizer, rate: {rate}}}}}")
    trial = new_trial(study, run)
    weights_K = torch.full((2,), 0.5)
    for _ in range(4):
        lesson = trial._scored(trial._preferences(), preferences=True)
        losses_K = trial._losses(lesson)
        metrics = trial.train_step()
        assert metrics["weighting/loss/north"] == pytest.approx(float(losses_K[0]), rel=1e-6)
        moved_K = weights_K * (rate * losses_K).exp()
        weights_K = moved_K / moved_K.sum()
        assert metrics["weight/north"] == pytest.approx(float(weights_K[0]), rel=1e-5)
        assert metrics["loss/south"] == pytest.approx(float(losses_K[1]), rel=1e-6)
        total = float((weights_K * losses_K).sum())
        assert metrics["loss"] == pytest.approx(total, rel=1e-5)
    assert weights_K[0] != weights_K[1]


def test_ties_count_where_they_have_a_loss(run: RunFolder) -> None:
    seen = []
    for labels in ("hard", "soft"):
        study = new_study(
            GRADED,
            f"training.optimizer={{dpo: {{labels: {labels}}}}}",
            "training.prompts=20",
            "weighting={group-robust: {losses: optimizer, scale: count}}",
            "search.space={}",
        )
        trial = new_trial(study, run)
        weigh = trial.weighting.weigh
        trial.weighting.weigh = lambda step, weigh=weigh: seen.append(step) or weigh(step)
        trial.train_step()
    hard, soft = (dict(zip(s.names, s.applies_PK.sum(0).tolist(), strict=True)) for s in seen)
    assert hard["people"] < soft["people"] == 20


def test_a_group_that_a_batch_misses_keeps_its_weight(run: RunFolder) -> None:
    study = new_study(
        GROUPS,
        "training.prompts=1",
        "weighting={group-robust: {losses: optimizer, rate: 0.5}}",
        "weighting.preference={north: 3, south: 1}",
    )
    trial = new_trial(study, run)
    missed = set()
    for _ in range(8):
        metrics = trial.train_step()
        missed |= {name for name in ("north", "south") if f"loss/{name}" not in metrics}
        assert metrics["weight/north"] == pytest.approx(0.75)
        assert metrics["gradient_norm"] > 0
    assert missed == {"north", "south"}, "each batch is of one group"


# --- cost ----------------------------------------------------------------------------------------

TOKENS = 6 * 2 * (5 + 4)
"""Six pairs: prompts of <bos>, three letters and <sep>; completions of three letters and <eos>."""


@pytest.mark.parametrize(
    ("overrides", "cost"),
    [
        ((), Cost(0, 2 * TOKENS, TOKENS)),
        (("training.optimizer={dpo: {epochs: 3}}", *TWICE), Cost(0, 4 * TOKENS, 3 * TOKENS)),
        (("weighting=mgda", PLAIN), Cost(0, 2 * TOKENS, 3 * TOKENS // 2)),
        ((GROUPS, "weighting={group-robust: {losses: optimizer}}"), Cost(0, 3 * TOKENS, TOKENS)),
        (("training.optimizer={modpo: {primary: a}}",), Cost(0, 2 * TOKENS, TOKENS)),
        (("training.optimizer=reads-old",), Cost(0, 2 * TOKENS, TOKENS)),
        (("training.optimizer={reads-old: {epochs: 2}}",), Cost(0, 4 * TOKENS, 2 * TOKENS)),
    ],
    ids=["dpo", "epochs", "gram", "losses", "modpo", "old", "old twice"],
)
def test_a_step_on_pairs_is_charged(run: RunFolder, overrides: tuple[str, ...], cost: Cost) -> None:
    """Own pass and reference; nothing is generated."""
    trial = new_trial(new_study(*overrides), run)
    trial.train_step()
    assert spent(trial) == cost


def test_old_log_probabilities_are_those_before_the_step(run: RunFolder) -> None:
    trial = new_trial(new_study("training.optimizer={reads-old: {epochs: 2}}"), run)
    assert trial.train_step()["moved"] > 1e-3
    once = new_trial(new_study("training.optimizer=reads-old"), run)
    assert once.train_step()["moved"] == 0.0


# --- PPO -----------------------------------------------------------------------------------------


def test_the_value_head_has_a_group_of_its_own_and_follows_the_schedule(run: RunFolder) -> None:
    study = new_study(*ONLINE, PPO, "training.schedule=linear", "training.weight_decay=0.1")
    trial = new_trial(study, run)
    policy, own = trial.torch_optimizer.param_groups
    assert own["weight_decay"] == 0.0
    assert policy["weight_decay"] == 0.1
    assert [tuple(p.shape) for p in own["params"]] == [(2, 16), (2,)]
    assert all(parameter.is_leaf for parameter in own["params"])
    metrics = steps(trial, 4)
    assert trial.learning_rate() == pytest.approx(1e-2 * 2 / 6)
    assert policy["lr"] == pytest.approx(1e-2 * 3 / 6)
    assert own["lr"] == pytest.approx(0.05 * 3 / 6)
    assert all(m["own_gradient_norm"] > 0 for m in metrics)
    head = torch.cat([p.detach().flatten() for p in trial.optimizer.parameters()])
    assert head.abs().max() > 0.05


def test_the_value_loss_does_not_move_the_policy(run: RunFolder) -> None:
    """Values are in units of the bounds: a thousandth of them makes the loss a million times."""

    def moved(high: float) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        letter = f"{{reward: letter-share, bounds: [0, {high}]}}"
        trial = new_trial(
            new_study(
                f"objectives={{a: {letter}}}", "training.group=4", PLAIN, "training.optimizer=ppo"
            ),
            run,
        )
        metrics = trial.train_step()
        return trial.policy.state(), metrics

    (light, one), (heavy, other) = moved(1.0), moved(0.001)
    assert other["value_loss"] > 1e5 * one["value_loss"] > 0
    assert other["own_gradient_norm"] > 100 * one["own_gradient_norm"]
    assert other["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-3)
    for name, tensor in light.items():
        assert torch.allclose(tensor, heavy[name], atol=1e-4), name


def test_values_are_learned(run: RunFolder) -> None:
    """Of an objective that all completions satisfy alike, whatever the policy does."""
    constant = "objectives={a: {reward: letter-share}, z: {reward: {regex: {pattern: '.*'}}}}"
    given = "training.optimizer={ppo: {value_learning_rate: 0.05, value_clip: null}}"
    trial = new_trial(new_study(constant, given, "training.group=4", "training.steps=40"), run)
    history = steps(trial, 40)
    assert history[-1]["value_error"] < 0.5 * history[0]["value_error"]


# --- both, and selected --------------------------------------------------------------------------


def test_an_optimizer_may_learn_from_both(run: RunFolder) -> None:
    study = new_study("training.optimizer=both-ways", "training.group=4")
    trial = new_trial(study, run)
    rollout, preferences = trial._lessons()
    assert (rollout.preferences, preferences.preferences) == (False, True)
    assert (rollout.batch.group, preferences.batch.group) == (4, 2)
    assert rollout.scores_BK[:, 1].isnan().all(), "people say nothing of what the policy writes"
    assert not preferences.scores_BK[:, 1].isnan().any()
    trial = new_trial(study, run)
    metrics = trial.train_step()
    assert metrics["loss"] == pytest.approx(metrics["online_loss"] + metrics["offline_loss"])
    assert {"objective/a", "accuracy", "entropy"} <= set(metrics)
    assert trial.cost.generated > 0

    def gradient(online: float, offline: float) -> torch.Tensor:
        option = f"training.optimizer={{both-ways: {{online: {online}, offline: {offline}}}}}"
        trial = new_trial(new_study(option, "training.group=4", "training.clip_norm=1000"), run)
        trial.train_step()
        return torch.cat([p.grad.flatten() for p in trial.parameters if p.grad is not None])

    both = gradient(1.0, 1.0)
    assert torch.allclose(both, gradient(1.0, 0.0) + gradient(0.0, 1.0), atol=1e-5)
    assert gradient(0.0, 1.0).norm() > 0


def test_what_only_preferences_train_is_not_called_flat(run: RunFolder) -> None:
    z = "objectives={people: {reward: preferred}, z: {reward: {letter-share: {letter: z}}}}"
    given = ("training.optimizer=both-ways", "training.group=2", "training.prompts=2")
    trial = new_trial(new_study(z, *given), run)
    said: list[str] = []
    for _ in range(6):
        trial.train_step()
        said += [note for note in trial.notes if "a standard error is rough" not in note]
    assert len(said) == 1
    assert said[0].startswith("objective z scored all completions of every prompt alike")


def test_what_scores_of_rollouts_do_not_train_is_told_by_preferences_alone(run: RunFolder) -> None:
    # hypo learns from pairs only; people prefer nothing in these, rollouts have different letters.
    tied = "objectives={people: {reward: preferred}, z: {reward: {letter-share: {letter: h}}}}"
    given = ("training.optimizer=hypo", "training.group=4", "training.prompts=4")
    trial = new_trial(new_study(tied, *given), run)
    said: list[str] = []
    for _ in range(6):
        trial.train_step()
        said += [note for note in trial.notes if "a standard error is rough" not in note]
    assert [note for note in said if note.startswith("objective z preferred no completion")]


def test_beside_a_rollout_prompts_keep_the_weights_in_them(run: RunFolder) -> None:
    given = ("training.optimizer=both-ways", "training.group=4")
    trial = new_trial(new_study(*given, CONDITIONED), run)
    batch = trial._preferences()
    trial.train_step()
    assert batch.conditions_PK is not None
    weights_PK = trial.optimizer.weights_PK  # type: ignore[attr-defined]
    ours, theirs = (torch.tensor(sorted(v.tolist())) for v in (weights_PK, batch.conditions_PK))
    assert torch.allclose(ours, theirs)
    plain = new_trial(new_study(*given, "weighting={fixed: {preference: {a: 3, people: 1}}}"), run)
    plain.train_step()
    assert plain.optimizer.weights_PK.tolist() == [[0.75, 0.25]] * 6  # type: ignore[attr-defined]


def test_what_is_about_the_policys_own_words_says_nothing_of_preferences(run: RunFolder) -> None:
    study = new_study(
        "training.optimizer=both-ways", "training.group=4",
        "objectives={people: {reward: preferred}, near: {reward: kl, bounds: [-9, 9]}}",
    )  # fmt: skip
    rollout, preferences = new_trial(study, run)._lessons()
    assert not rollout.scores_BK[:, 1].isnan().any()
    assert preferences.scores_BK[:, 1].isnan().all()
    assert not preferences.batch.has("logprobs")


def test_only_what_is_selected_is_passed_forward(run: RunFolder) -> None:
    trial = new_trial(new_study(*ONLINE, "training.optimizer=extremes"), run)
    forwarded: list[int] = []
    original: Callable[..., torch.Tensor] = trial.policy.logprobs

    def watched(prompt_ids_B: Any, ids_BT: Any, mask_BT: Any, **given: Any) -> torch.Tensor:
        forwarded.append(int(mask_BT.sum()) + sum(map(len, prompt_ids_B)))
        return original(prompt_ids_B, ids_BT, mask_BT, **given)

    trial.policy.logprobs = watched  # type: ignore[method-assign]
    metrics = trial.train_step()
    seen = trial.optimizer.seen  # type: ignore[attr-defined]
    chosen = trial.optimizer.selected  # type: ignore[attr-defined]
    expected = {int(4 * p + g) for p, row in enumerate(chosen.tolist()) for g in row}
    assert set(seen) == expected
    assert len(seen) == 12
    assert metrics["rows"] == pytest.approx(1.0)
    assert sum(forwarded) == trial.cost.forwarded == trial.cost.backwarded
    everything = new_trial(new_study(*ONLINE, "training.optimizer=dr-grpo"), run)
    everything.train_step()
    assert trial.cost.forwarded < 0.75 * everything.cost.forwarded
