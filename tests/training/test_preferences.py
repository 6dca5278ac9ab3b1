"""Preferences: which there are, which a step takes, how they are a batch, and how they measure."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import choices
import pytest
import torch
from choices import OF_SAMPLES, new_policy, new_study, new_trial

from moalign import Batch, ContractError, Cost, DataError, Pair, Prompt, RecordError, Reward
from moalign.reporting.points import interval, with_error
from moalign.search.artifacts import check_data, samples
from moalign.search.folders import RunFolder
from moalign.search.measurements import cost_before
from moalign.study.study import Study
from moalign.training import material as material_module
from moalign.training.loop import Trial
from moalign.training.material import material, offered_preferences
from moalign.training.policy import Policy
from moalign.training.preferences import (
    Candidate,
    Written,
    candidates,
    labels,
    measured_candidates,
    preference_batch,
    same_size,
    sampled_candidates,
    step_candidates,
    task_candidates,
)
from moalign.training.splits import split_prompts
from moalign.types import SPLITS

CONDITIONED = "policy={small: {condition: weights}}"
ONLY_AGREEMENT = "objectives={people: {reward: preferred}}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose artifacts all tests share."""
    folder = RunFolder(tmp_path_factory.mktemp("preferences") / "run")
    folder.path.mkdir()
    return folder


def dealt(study):
    return split_prompts(study.task, ())


# --- which there are -----------------------------------------------------------------------------


def test_what_can_be_learnt_from_is_counted_without_a_policy() -> None:
    whole, faulty = new_study(), new_study("task={choices: {faults: {equal: 3, empty: 2}}}")
    count = len(task_candidates(whole, "train", dealt(whole)["train"]).usable)
    assert offered_preferences(whole) == count > 0
    assert offered_preferences(faulty) == count - 5
    assert offered_preferences(new_study(*OF_SAMPLES)) is None
    assert offered_preferences(new_study(*OF_SAMPLES[:1], "training.optimizer=grpo")) is None


def test_pairs_of_a_split_are_those_of_its_prompts(run: RunFolder) -> None:
    """Also where the host deals the prompts, and the task offers every pair for every split."""
    study = new_study("task={choices: {declared: false}}")
    prompts = dealt(study)
    seen: set[str] = set()
    for split in SPLITS:
        found = task_candidates(study, split, prompts[split])
        mine = {candidate.prompt.id for candidate in found.usable}
        assert mine == {prompt.id for prompt in prompts[split]}
        assert not mine & seen, "a pair in two splits"
        assert {candidate.prompt.split for candidate in found.usable} == {split}
        (reason,) = found.skipped
        assert reason == "their prompt is in another split"
        seen |= mine


def test_what_cannot_be_learned_from_is_counted_by_reason(run: RunFolder) -> None:
    study = new_study("task={choices: {faults: {equal: 3, empty: 2, long: 4, elsewhere: 1}}}")
    found = candidates(study, new_policy(study, run, context=40), "train", dealt(study)["train"])
    assert len(found.usable) == 24 - 10
    assert found.skipped == {
        "the two completions are equal": 3,
        "a completion is empty": 2,
        "their prompt is in another split": 1,
        "prompt and completion do not fit into the policy's context of 40 tokens (shorten them, or "
        "take a policy with a longer one)": 4,
    }
    assert found.notes("train")[0] == (
        "3 of 17 preferences of the train split are left out: the two completions are equal"
    )


def test_completions_that_look_alike_are_equal() -> None:
    study = new_study()
    prompt = dealt(study)["train"][0]
    texts = [("yes", "yes "), (" yes", "yes\n"), ("", " "), ("yes ", " "), ("yes ", "no")]
    study.task.pairs = lambda seed, split: [  # type: ignore[method-assign]
        Pair(prompt, chosen, rejected) for chosen, rejected in texts
    ]
    found = task_candidates(study, "train", [prompt])
    assert found.skipped == {"the two completions are equal": 3, "a completion is empty": 1}
    assert [[c.text for c in kept.completions] for kept in found.usable] == [["yes ", "no"]]


def test_weights_in_the_prompt_take_room(run: RunFolder) -> None:
    """A prompt is <bos>, three letters and <sep>, and a digit per objective; a completion 3 + 1."""
    for condition, context, left in (
        ("none", 9, 24),
        ("none", 8, 0),
        ("weights", 11, 24),
        ("weights", 10, 0),
    ):
        study = new_study(f"policy={{small: {{condition: {condition}}}}}")
        policy, prompts = new_policy(study, run, context), dealt(study)["train"]
        if left:
            assert len(candidates(study, policy, "train", prompts).usable) == left
        else:
            with pytest.raises(DataError, match=r"no preference of the train split .* \(24: prom"):
                candidates(study, policy, "train", prompts)


def test_samples_that_are_equal_count_once() -> None:
    one, two = (Prompt(text, text) for text in "xy")
    cut, whole = Written("a", False), Written("a")
    found = sampled_candidates(
        [one, two, Prompt("z", "z"), Prompt("w", "w")],
        {"x": [cut, whole, cut, Written("b")], "y": [whole, whole], "z": []},
    )
    assert found.usable == (Candidate(one, (cut, whole, Written("b"))),)
    assert found.skipped == {
        "all samples of the prompt are equal": 1,
        "the prompt and rollout.max_tokens do not fit into the policy's context": 1,
    }


def test_samples_that_are_all_equal_leave_nothing_to_learn_from(run: RunFolder) -> None:
    study, same = new_study(*OF_SAMPLES), [Written("a")] * 4
    prompts = dealt(study)["train"]
    with pytest.raises(DataError, match=r"can be used \(24: all samples of the prompt are equal\)"):
        candidates(study, new_policy(study, run), "train", prompts, {p.id: same for p in prompts})


# --- which a step takes --------------------------------------------------------------------------


def many(run: RunFolder, *overrides: str):
    study = new_study(*OF_SAMPLES, *overrides)
    return study, new_trial(study, run).candidates


def test_steps_deal_evenly_over_units(run: RunFolder) -> None:
    """Of 24 prompts, 12 are of one unit and 2 of each of six others; each unit is as frequent."""
    _, found = many(run)
    assert Counter(c.prompt.unit for c in found)["train a"] > 8
    taken = [c for i in range(14) for c in step_candidates(found, 5, 2, i, "key")]
    assert set(Counter(c.prompt.unit for c in taken).values()) == {10}
    assert len({c.prompt.id for c in taken if c.prompt.unit == "train a"}) >= 8, "by turns"


def test_a_step_is_a_function_of_its_number(run: RunFolder) -> None:
    _, found = many(run)
    late = step_candidates(found, 5, 2, 7, "key")
    for index in range(7):
        step_candidates(found, 5, 2, index, "key")
    assert step_candidates(found, 5, 2, 7, "key") == late
    assert step_candidates(found, 5, 2, 7, "other") != late
    assert step_candidates(found, 5, 2, 8, "key") != late


def test_other_completions_each_time() -> None:
    four = Candidate(Prompt("x", "x"), tuple(map(Written, "abcd")))
    seen = Counter(
        completion.text
        for index in range(200)
        for chosen in step_candidates([four], 1, 2, index, "key")
        for completion in chosen.completions
    )
    pairs = {
        tuple(c.text for c in step_candidates([four], 1, 2, index, "key")[0].completions)
        for index in range(200)
    }
    assert len(pairs) == 12, "every ordered pair"
    assert all(70 < count < 130 for count in seen.values())
    assert step_candidates([four], 1, 4, 0, "key") == [four]


def test_fewer_completions_are_filled_up_with_twins() -> None:
    two = Candidate(Prompt("x", "x"), tuple(map(Written, "ab")))
    (filled,) = same_size([two], 5)
    assert [c.text for c in filled.completions] == ["a", "b", "a", "b", "a"]
    assert same_size([two], 2) == [two]


# --- as a batch ----------------------------------------------------------------------------------


def test_a_batch_holds_whole_groups_the_chosen_one_first(run: RunFolder) -> None:
    study = new_study()
    trial = new_trial(study, run)
    batch = trial._preferences()
    assert (batch.group, batch.rows, len(batch.prompts_P)) == (2, 12, 6)
    assert batch.pairs_P is not None
    for p, pair in enumerate(batch.pairs_P):
        assert batch.prompts_P[p] == pair.prompt
        assert batch.raw_texts_B[2 * p : 2 * p + 2] == (pair.chosen, pair.rejected)
        assert batch.prompt_ids_P[p] == tuple(trial.policy.prompt_ids(pair.prompt, None))
    assert batch.conditions_PK is None
    assert batch.finished_B.all()
    assert batch.ids_BT[0].tolist() == trial.policy.completion_ids(batch.raw_texts_B[0])
    for preferred in trial._scored(batch, preferences=True).scores_BK[:, 1].view(6, 2):
        assert preferred.tolist() == [1.0, 0.0]


def test_conditions_are_written_into_prompts(run: RunFolder) -> None:
    trial = new_trial(new_study(CONDITIONED), run)
    batch = trial._preferences()
    assert batch.conditions_PK is not None
    assert torch.allclose(batch.conditions_PK.sum(-1), torch.ones(6))
    assert len({tuple(row) for row in batch.conditions_PK.tolist()}) == 6
    for prompt, ids, row in zip(
        batch.prompts_P, batch.prompt_ids_P, batch.conditions_PK.tolist(), strict=True
    ):
        assert ids == tuple(
            trial.policy.prompt_ids(prompt, dict(zip(("a", "people"), row, strict=True)))
        )
    assert batch.pairs_P is not None


def test_each_prompt_is_learned_with_the_weights_in_it(run: RunFolder) -> None:
    trial = new_trial(new_study(CONDITIONED), run)
    seen = []
    original = trial.optimizer.pair_loss

    def watched(logprobs_BT, rows, weights_PK):
        seen.append((weights_PK, rows.scores_BK))
        return original(logprobs_BT, rows, weights_PK)

    trial.optimizer.pair_loss = watched  # type: ignore[method-assign]
    batch = trial._preferences()
    trial.train_step()
    ((weights_PK, _),) = seen
    assert batch.conditions_PK is not None
    rows = {tuple(row) for row in batch.conditions_PK.tolist()}
    assert {tuple(row) for row in weights_PK.tolist()} == rows


def test_samples_have_no_pairs_and_keep_their_ends(run: RunFolder) -> None:
    study = new_study(*OF_SAMPLES)
    policy = new_policy(study, run)
    four = Candidate(
        Prompt("x", "x"), (Written("ab"), Written("ab", False), Written("", False), Written(""))
    )
    batch = preference_batch(study, policy, [four], conditions_PK=None, cost=Cost())
    assert batch.pairs_P is None
    assert batch.finished_B.tolist() == [True, False, False, True]
    end = min(policy.end_ids)
    rows = [ids[: int(n)].tolist() for ids, n in zip(batch.ids_BT, batch.lengths_B(), strict=True)]
    assert rows[0] == [*rows[1], end]
    assert rows[2] == rows[3] == [end], "a completion has a token"


def test_labels_are_the_sign_of_what_is_better() -> None:
    nan = math.nan
    scores_PGK = torch.tensor(
        [[[0.1, 1.0], [0.1, nan], [0.1, 3.0]], [[0.0, nan], [1.0, nan], [5.0, nan]]]
    )
    found = labels(scores_PGK)[:, 0]
    assert found.T.tolist() == [[0, 0, 0, -1, -1, 1], [-1, 0, 1, 0, 0, 0]]
    equal = torch.full((1, 7, 1), 0.1) * 3  # whose mean is not any of them
    assert labels(equal).abs().sum() == 0


# --- agreement -----------------------------------------------------------------------------------


def shares(trial: Trial, split="validation") -> dict[str, list[float]]:
    evaluation = trial.measure(split)[0][1]
    rows = list(zip(*evaluation.values_UK, strict=True))
    return dict(zip(evaluation.names, map(list, rows), strict=True))


@pytest.mark.parametrize("overrides", [(), (CONDITIONED,)], ids=["plain", "conditioned"])
def test_the_base_policy_agrees_with_half(run: RunFolder, overrides: tuple[str, ...]) -> None:
    trial = new_trial(new_study(*overrides), run)
    for split in ("validation", "test"):
        assert set(shares(trial, split)["people"]) == {0.5}


def test_agreement_is_the_share_of_pairs_whose_better_one_became_likelier(run: RunFolder) -> None:
    """The policy is moved at random; the reference stays. Counted with plain forward passes."""
    study = new_study(ONLY_AGREEMENT, "search.space={}")
    trial = new_trial(study, run)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trial.parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    reference = new_policy(study, run)

    def logprob(policy: Policy, prompt: Prompt, text: str) -> float:
        ids = torch.tensor([policy.completion_ids(text)])
        mask = torch.ones(ids.shape)
        with torch.no_grad():
            return float(policy.logprobs([policy.prompt_ids(prompt, None)], ids, mask).sum())

    def ratio(prompt: Prompt, text: str) -> float:
        return logprob(trial.policy, prompt, text) - logprob(reference, prompt, text)

    by_unit: dict[str, list[float]] = {}
    for pair in study.task.pairs(0, "validation"):
        right = ratio(pair.prompt, pair.chosen) > ratio(pair.prompt, pair.rejected)
        by_unit.setdefault(pair.prompt.unit, []).append(float(right))
    ((_, evaluation),) = trial.measure("validation")
    assert evaluation.samples == ()
    found = dict(zip(evaluation.units, [row[0] for row in evaluation.values_UK], strict=True))
    assert found == pytest.approx({u: sum(v) / len(v) for u, v in by_unit.items()})
    assert 0 < sum(found.values()) < len(found), "some, not all"


def test_agreement_beside_what_is_written(run: RunFolder) -> None:
    """Both kinds of objective of one unit lie in one row, and do not disturb each other."""
    three = (
        "objectives={a: {reward: letter-share}, people: {reward: preferred}, "
        "south: {reward: {preferred: {group: south}}}, b: {reward: {letter-share: {letter: b}}, "
        "monitor: true}}"
    )
    trial = new_trial(new_study(three, "search.space={}"), run)
    for _ in range(3):
        trial.train_step()
    both = shares(trial)
    assert list(both) == ["a", "people", "south", "b"]
    alone = new_trial(new_study("objectives={a: {reward: letter-share}}", "search.space={}"), run)
    alone.policy.load_state(trial.policy.state())
    assert sorted(shares(alone)["a"]) == sorted(both["a"])
    assert all(len(values) == 7 for values in both.values())


def test_a_unit_without_pairs_of_a_group_has_no_value(run: RunFolder) -> None:
    one = (
        "objectives={a: {reward: letter-share}, one: {reward: {preferred: {annotator: person 0}}}}"
    )
    trial = new_trial(new_study(one), run)
    study = new_study(one)
    having = {p.prompt.unit for p in study.task.pairs(0, "validation") if p.annotator == "person 0"}
    evaluation = trial.measure("validation")[0][1]
    for unit, (a, of_one) in zip(evaluation.units, evaluation.values_UK, strict=True):
        assert not math.isnan(a)
        assert math.isnan(of_one) == (unit not in having)
    assert 0 < len(having) < len(evaluation.units)


def test_the_better_one_by_a_score_may_be_the_rejected_one(run: RunFolder) -> None:
    """Scores of 2 are equal to the other completion's: they prefer none."""
    tone = "objectives={tone: {reward: {preferred: {score: tone}}}}"
    trial = new_trial(new_study(tone, "search.space={}", "evaluation.prompts=24"), run)
    with torch.no_grad():  # towards the letter a, which is chosen in most pairs
        trial.policy.model.get_output_embeddings().weight[4] += 1.0
    values: dict[str, list[float]] = {}
    for pair in trial.study.task.pairs(0, "validation"):
        margin = pair.chosen_scores["tone"] - pair.rejected_scores["tone"]
        if margin:
            batch = preference_batch(
                trial.study,
                trial.policy,
                [Candidate(pair.prompt, (Written(pair.chosen), Written(pair.rejected)), pair)],
                conditions_PK=None,
                cost=Cost(),
            )
            first, second = (batch.logprobs_BT - batch.ref_logprobs_BT).sum(-1).tolist()
            right = (first > second) == (margin > 0)
            values.setdefault(pair.prompt.unit, []).append(float(right))
    ((_, evaluation),) = trial.measure("validation")
    found = {
        unit: row[0]
        for unit, row in zip(evaluation.units, evaluation.values_UK, strict=True)
        if not math.isnan(row[0])
    }
    assert found == pytest.approx({u: sum(v) / len(v) for u, v in values.items()})
    assert {0.0, 1.0} & set(found.values())


def asked_twice(prompts: int, units: int | None = None) -> list[Candidate]:
    """Preferences of two groups about each prompt; south judges what north does not."""
    found = []
    for n in range(prompts):
        prompt = Prompt(f"p{n}", f"p{n}", unit="" if units is None else f"u{n % units}")
        for group, texts in (("north", "ab"), ("south", "cd")):
            written = (Written(texts[0]), Written(texts[1]))
            found.append(Candidate(prompt, written, Pair(prompt, texts[0], texts[1], group=group)))
    return found


def test_prompts_are_measured_whole() -> None:
    """At most so many prompts, each with the preferences of all groups."""
    found = asked_twice(36)
    groups = Counter(c.pair.group for c in measured_candidates(found, 20, 0) if c.pair)
    assert groups == {"north": 20, "south": 20}
    assert len(measured_candidates(found, 40, 0)) == 72
    chosen = measured_candidates(found, 20, 0)
    assert set(Counter(c.prompt.id for c in chosen).values()) == {2}
    assert measured_candidates(found[::-1], 20, 0) == chosen, "whatever the order"
    assert measured_candidates(found, 20, 1) != chosen
    few = [c for c in found if c.prompt.id != "p0"] + found[:1]
    assert len({c.prompt.id for c in measured_candidates(few, 36, 0)}) == 36


def test_measured_prompts_are_dealt_evenly_over_units() -> None:
    """A unit with one more prompt, or with more preferences of a prompt, has no larger share."""
    found = asked_twice(30, units=3) + asked_twice(1, units=3) * 5
    prompts = {c.prompt.id: c.prompt.unit for c in measured_candidates(found, 9, 0)}
    assert Counter(prompts.values()) == {"u0": 3, "u1": 3, "u2": 3}


def only_of(study, group: str, counts: dict[str, int]):
    """Let a group have so many preferences of each split, on units of their own."""

    def pairs(seed, split="train"):
        mine = [p for p in study.task.prompts() if p.split == split]
        return [
            Pair(prompt, "aac", "bbc", group=group if n < counts.get(split, 24) else "other")
            for n, prompt in enumerate(mine)
        ]

    plain = study.task.prompts()
    alone = [Prompt(p.id, p.text, {}, split=p.split) for p in plain]
    study.task.prompts = lambda: alone  # type: ignore[method-assign]
    study.task.pairs = pairs  # type: ignore[method-assign]
    return study


SOUTH = "objectives={people: {reward: preferred}, south: {reward: {preferred: {group: south}}}}"


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_group_of_one_unit_is_refused_before_training(split: str) -> None:
    with pytest.raises(
        DataError,
        match=rf"objective south: the preferences of the {split} split that concern it and are "
        r"measured are of 1 unit, .*: give more data .* share of it to .* \(option `split`",
    ):
        check_data(only_of(new_study(SOUTH), "south", {split: 1}))
    check_data(only_of(new_study(SOUTH), "south", {split: 2, "train": 1}))


def test_too_few_measured_prompts_are_told_from_too_little_data() -> None:
    for most, raises in ((1, True), (2, False)):
        study = only_of(new_study(SOUTH, f"evaluation.prompts={most}"), "south", {})
        if raises:
            with pytest.raises(
                DataError,
                match=r"objective people: .* of the validation split .* are of 1 unit, .*: raise "
                r"evaluation.prompts \(1; the split has 24 units\), or give more data",
            ):
                check_data(study)
        else:
            check_data(study)


def test_a_group_of_few_units_is_a_note(run: RunFolder) -> None:
    for count, noted in ((3, True), (19, True), (20, False)):
        study = only_of(new_study(SOUTH), "south", {"test": count})
        check_data(study)
        trial = new_trial(study, run)
        trial.train_step()
        told = (
            f"objective south is measured on {count} units of the test split, and below 20 a "
            "standard error is rough: give more data that concerns it, or a larger share of it to "
            "test (option `split` of tasks that read files)"
        )
        assert trial.notes == ((told,) if noted else ())


def test_what_one_unit_does_not_tell_is_a_question_mark() -> None:
    assert with_error(0.5, math.nan) == "0.500 ± ?"
    assert with_error(math.nan, math.nan) == "? ± ?"
    assert with_error(0.25, 0.125, 1, "+") == "+0.2 ± 0.1"
    assert interval(math.nan, math.nan) == "? to ?"
    assert interval(-0.5, 0.25) == "-0.500 to +0.250"


def test_measuring_agreement_is_charged(run: RunFolder) -> None:
    """Two passes, of policy and reference, over prompt (5 tokens) and completion (4)."""
    trial = new_trial(new_study(ONLY_AGREEMENT, "search.space={}"), run)
    trial.measure("validation")
    assert trial.cost == Cost(forwarded=2 * 24 * 2 * 9)


def test_held_out_pairs_are_not_learned_from(run: RunFolder) -> None:
    trial = new_trial(new_study(), run)
    learned = {c.prompt.id for c in trial.candidates}
    for split in ("validation", "test"):
        held_out = {c.prompt.id for c in trial.evaluator.preferences[split]}
        assert len(held_out) == 24
        assert not held_out & learned


# --- samples -------------------------------------------------------------------------------------


def test_samples_are_made_once_remembered_and_counted(tmp_path: Path, monkeypatch) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    study = new_study(*OF_SAMPLES)
    new_policy(study, folder)
    before = cost_before(folder)
    assert before is not None
    first = samples(study, folder)
    assert first is not None
    assert len(first) == 24
    assert {len(written) for written in first.values()} == {4}
    monkeypatch.setattr("moalign.search.artifacts.sampled_texts", lambda *_: pytest.fail("again"))
    assert samples(new_study(*OF_SAMPLES), folder) == first
    (artifact,) = folder.artifacts.glob("samples-*")
    cost = Cost(**json.loads((artifact / "cost.json").read_text()))
    assert 24 * 4 <= cost.generated <= 24 * 4 * 6
    assert (cost.forwarded, cost.backwarded) == (0, 0)
    assert cost_before(folder) == before == cost
    assert samples(new_study(), folder) is None, "pairs of the task need none"
    assert samples(new_study("training.optimizer=grpo", *OF_SAMPLES), folder) is None
    with pytest.raises(pytest.fail.Exception, match="again"):
        samples(new_study(*OF_SAMPLES, "training.pairs.samples=5"), folder)


def test_damaged_samples_are_a_sentence(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    study = new_study(*OF_SAMPLES)
    samples(study, folder)
    (artifact,) = folder.artifacts.glob("samples-*")
    for text in ("half", '{"a": [1]}', '{"a": [[1, 2, 3]]}'):
        (artifact / "texts.json").write_text(text)
        with pytest.raises(RecordError, match=r"samples cannot be read .*; delete the folder"):
            samples(study, folder)


def test_more_samples_begin_with_the_same(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    four = samples(new_study(*OF_SAMPLES), folder)
    five = samples(new_study(*OF_SAMPLES, "training.pairs.samples=5"), folder)
    assert four is not None
    assert five is not None
    assert {name: written[:4] for name, written in five.items()} == four


def test_a_trial_without_its_samples_is_no_trial_on_pairs(run: RunFolder) -> None:
    study = new_study(*OF_SAMPLES)
    with pytest.raises(ValueError, match="source is samples, and none were given"):
        Trial(study, 0, new_policy(study, run), 6)


def test_of_what_the_policy_writes_nothing_is_said_where_it_writes_nothing(run: RunFolder) -> None:
    written = {"length", "finished", "entropy", "kl", "objective/a"}
    assert not written & set(new_trial(new_study(), run).train_step())
    online = new_study(
        "training.optimizer=grpo", "objectives.people.monitor=true", "search.space={}"
    )
    assert written - {"kl"} <= set(new_trial(online, run).train_step())


# --- bad input -----------------------------------------------------------------------------------


def without_rough(notes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the notes that do not say how few units the task has: 7 of each split."""
    return tuple(note for note in notes if "a standard error is rough" not in note)


def test_what_is_left_out_is_said_once(run: RunFolder) -> None:
    study = new_study("task={choices: {faults: {equal: 3, long: 2}}}")
    trial = new_trial(study, run, context=40)
    trial.train_step()
    assert len(left_out := without_rough(trial.notes)) == 6, "two reasons in three splits"
    assert len(trial.notes) == 8, "and 7 units are few in two splits"
    assert trial.notes[0] == (
        "3 of 22 preferences of the train split are left out: the two completions are equal"
    )
    assert any("of the test split" in note for note in left_out)
    trial.train_step()
    assert trial.notes == ()
    resumed = new_trial(study, run, context=40)
    resumed.load_state(trial.state())
    resumed.train_step()
    assert resumed.notes == ()


def test_margins_that_are_missing_are_counted(run: RunFolder) -> None:
    scored = "objectives={people: {reward: preferred}, tone: {reward: {preferred: {score: tone}}}}"
    faults = "task={choices: {faults: {scoreless: 5}}}"
    modpo = "training.optimizer={modpo: {primary: people}}"
    trial = new_trial(new_study(scored, faults, modpo), run)
    trial.train_step()
    assert without_rough(trial.notes) == (
        "objective tone says nothing of 5 of 24 preferences of the train split, and optimizer "
        "modpo has one loss for all objectives: there it goes without",
    )
    trial = new_trial(new_study(scored, modpo), run)
    trial.train_step()
    assert without_rough(trial.notes) == ()


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ("score: tone", "5 of 24"),
        ("score: tone, group: north", "3 of 12"),
        ("score: tone, annotator: person 0", ""),  # those without are nobody's
        ("group: north", ""),
        ("annotator: person 0", ""),
    ],
)
def test_a_score_that_is_missing_is_told_from_what_is_of_others(
    run: RunFolder, options: str, missing: str
) -> None:
    """Where every objective has a loss of its own."""
    read = f"objectives.tone={{reward: {{preferred: {{{options}}}}}}}"
    study = new_study("task={choices: {faults: {scoreless: 5}}}", read)
    assert without_rough(notes_of(study, run)) == (
        (
            f"objective tone says nothing of {missing} preferences of the train split: they lack "
            "the score that it reads, and it learns nothing from them",
        )
        if missing
        else ()
    )


MODPO = "training.optimizer={modpo: {primary: people}}"


def notes_of(
    study: Study,
    run: RunFolder,
    samples: Mapping[str, Sequence[Written]] | None = None,
    **others: Reward,
) -> tuple[str, ...]:
    """Return what is said of a study's material, with other rewards for some objectives."""
    rewards = study.new_rewards() | others
    return material(study, new_policy(study, run), rewards, samples).notes


def test_prompts_that_have_no_margin_are_counted(tmp_path: Path) -> None:
    """Acts without values, of which slot coverage says nothing."""
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    data = (
        "task={restaurants: {preferences: omissions}}",
        "objectives={people: {reward: preferred}, coverage: {reward: slot-coverage}, "
        "brevity: {reward: {brevity: {limit: 30}}}}",
    )
    assert notes_of(new_study(*data, MODPO), run) == (
        "objective coverage says nothing of 291 of 1616 preferences of the train split, and "
        "optimizer modpo has one loss for all objectives: there it goes without",
    )
    assert notes_of(new_study(*data), run) == (), "dpo has a loss for each"


class OfLong(Reward):
    """The share of b in long texts; it says nothing of others, and counts what it was asked."""

    name = "of-long"
    range = (0.0, 1.0)

    def __init__(self) -> None:
        self.asked = 0

    def score(self, batch: Batch) -> list[float]:
        self.asked += batch.rows
        return [t.count("b") / len(t) if len(t) > 2 else math.nan for t in batch.texts_B]

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.asked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.asked = state["asked"]


def test_margins_of_samples_are_counted_too(run: RunFolder) -> None:
    study = new_study(*OF_SAMPLES, "training.optimizer={modpo: {primary: a}}")
    ids = [prompt.id for prompt in dealt(study)["train"]]
    written = [["aaa", "bbb"], ["aaa", "bbb", "aab", "bb"], ["a", "b"], ["aba", "bab", "baa"]]
    samples = {
        i: [Written(text) for text in texts] for i, texts in zip(ids[:4], written, strict=True)
    }
    assert notes_of(study, run, samples) == ()
    reward = OfLong()
    assert notes_of(study, run, samples, b=reward) == (
        "objective b says nothing of 2 of 4 preferences of the train split, and optimizer modpo "
        "has one loss for all objectives: there it goes without",
    )
    assert reward.asked == 0, "it is as it was before it was asked"


def test_a_reward_is_asked_beforehand_only_where_that_is_cheap(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Judge(OfLong):
        async def score(self, batch: Batch) -> list[float]:  # type: ignore[override]
            raise AssertionError("that would have cost money")

    class Reader(OfLong):
        needs = frozenset({"ref_logprobs"})

    study = new_study(MODPO)
    assert without_rough(notes_of(study, run, a=Judge())) == ()
    assert without_rough(notes_of(study, run, a=Reader())) == ()
    monkeypatch.setattr(material_module, "MOST_TRIED", 10)
    monkeypatch.setattr(OfLong, "score", lambda _, batch: [math.nan] * batch.rows)
    (said,) = without_rough(notes_of(study, run, a=OfLong()))
    assert "objective a says nothing of 10 of the first 10 of 24 preferences" in said


def test_prompts_that_leave_no_room_for_a_completion_are_left_out(run: RunFolder) -> None:
    """<bos>, the text, <sep> and 6 tokens of completion, in a context of 12: 4 letters fit."""
    study = new_study(
        "training.optimizer=grpo",
        "training.group=2",
        "objectives.people.use=[front]",
        "search.space={}",
    )
    prompts = list(study.task.prompts())
    long = [
        Prompt(p.id, p.text + "bcd", {}, unit=p.unit, split=p.split)
        for p in prompts
        if p.text[1] == "b"
    ]
    kept = [p for p in prompts if p.text[1] != "b"]
    study.task.prompts = lambda: [*kept, *long]  # type: ignore[method-assign]
    trial = new_trial(study, run, context=12)
    assert not {p.id for p in long} & {p.id for s in SPLITS for p in trial.prompts[s]} - {
        p.id for p in trial.prompts["steer"]
    }
    trial.train_step()
    assert trial.notes[-3:] == tuple(
        f"{sum(p.split == split for p in long)} of 24 prompts of the {split} split are left out: "
        "they and a completion of rollout.max_tokens (6) do not fit into the policy's context of "
        "12 tokens"
        for split in ("train", "validation", "test")
    )
    trial.measure("validation")
    with pytest.raises(DataError, match=r"all 24 prompts of the train split .* lower max_tokens"):
        new_trial(study, run, context=10)


def test_samples_are_not_made_for_prompts_that_are_too_long(run: RunFolder) -> None:
    from moalign.training.preferences import sampled_texts

    study = new_study(*OF_SAMPLES)
    policy = new_policy(study, run, context=12)
    prompts = [Prompt("short", "ab"), Prompt("long", "abcdefgh")]
    written, cost = sampled_texts(study, policy, prompts, 2, lambda share, words: None)
    assert (len(written["short"]), written["long"]) == (2, [])
    assert 2 <= cost.generated <= 12


def test_a_policy_without_reference_is_refused(run: RunFolder) -> None:
    study = new_study("objectives={a: {reward: letter-share}}", "search.space={}")
    made = new_policy(study, run)
    alone = Policy(made._loaded, torch.device("cpu"), torch.float32)
    with pytest.raises(ContractError, match=r"optimizer dpo compares .* given none"):
        Trial(study, 0, alone, 6)
    agreed = new_study("training.optimizer=rloo", "objectives.people.monitor=true",
                       "search.space={}")  # fmt: skip
    with pytest.raises(ContractError, match=r"reward preferred \(objective people\) compares"):
        Trial(agreed, 0, alone, 6)
    Trial(new_study("training.optimizer=rloo", "objectives={a: {reward: letter-share}}",
                    "search.space={}"), 0, alone, 6)  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("task={choices: {splits: [validation, test]}}",),
            r"choices offers no preferences of the train split; the task preferences .*source: "
            "samples$",
        ),
        (
            ("task={choices: {splits: [train, test]}}",),
            r"offers no preferences of the validation split; the task preferences reads them from "
            r"a file, and so does the task prompts, from columns `chosen` and `rejected`$",
        ),
        (
            ("task={choices: {splits: [train, validation]}}", "training.optimizer=grpo",
             "objectives.people.monitor=true", "search.space={}"),
            r"no preferences of the test split",
        ),
        (
            ("task={choices: {faults: {equal: 20, empty: 4}}}",),
            r"no preference of the train split can be used \(20: the two completions are equal; "
            r"4: a completion is empty\)",
        ),
        (
            ("objectives.people.reward={preferred: {score: fluency}}",),
            r"^choices\.yaml, key objectives\.people\.reward\.preferred\.score: no preference has "
            r"the score 'fluency'; allowed: tone \(read: the 24 preferences of the train split of "
            r"task choices\)$",
        ),
        (
            ("objectives.people.reward={preferred: {group: west}}",
             "training.optimizer={modpo: {primary: people}}"),
            r"preferred\.group: no preference has the group 'west'; .*[aA]llowed: north, south \(",
        ),
        (
            ("objectives.people.reward={preferred: {score: tone, scale: [0, 3]}}",),
            r"preferred\.scale: prompt a\w+: the score 'tone' of a preference is 4, outside of the "
            r"scale 0 to 3; mend it, or widen `scale`",
        ),
        (
            ("objectives.people.reward={preferred: {group: north, annotator: nobody}}",
             "objectives.people.use=[front]", "search.space={}"),
            r"annotator: no preference has the annotator 'nobody'; .* 24 preferences of the "
            "validation split",
        ),
    ],
    ids=["train", "validation", "monitored", "none left", "score", "primary", "scale", "front"],
)  # fmt: skip
def test_a_task_without_the_preferences_is_refused_before_a_policy_is_built(
    overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        check_data(new_study(*overrides))


def test_a_wrong_option_is_blamed_where_it_stands() -> None:
    text = choices.STUDY.replace("preferred}", "{preferred: {group: west}}}")
    line = text.splitlines().index("  people: {reward: {preferred: {group: west}}}") + 1
    key = r"key objectives\.people\.reward\.preferred\.group: no preference has the group 'west'"
    with pytest.raises(DataError, match=rf"^choices\.yaml line {line}, {key}"):
        check_data(new_study(text=text))
    set_elsewhere = "objectives.people.reward={preferred: {group: west}}"
    north = text.replace("west", "north")
    with pytest.raises(DataError, match=rf"^choices\.yaml, {key}"):
        check_data(new_study(set_elsewhere, text=north))


def test_where_nothing_is_preferred_the_objective_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    study = new_study("objectives.people.reward={preferred: {score: tone}}")
    ties = [replace(p, rejected_scores=p.chosen_scores) for p in study.task.pairs(0, "train")]
    monkeypatch.setattr(study.task, "pairs", lambda seed, split="train": ties)
    with pytest.raises(
        DataError,
        match=r"objective people: reward preferred prefers neither completion in any of the 24 "
        r"preferences of the train split of task choices$",
    ):
        check_data(study)


def test_one_loss_for_all_has_to_meet_the_scores_of_each() -> None:
    apart = (
        "objectives={north: {reward: {preferred: {group: north}}}, "
        "south: {reward: {preferred: {group: south}}}}",
        "search.space={}",
    )
    check_data(new_study(*apart))
    with pytest.raises(
        DataError,
        match=r"objective south has no score for both completions of any of the 12 preferences "
        r"that optimizer modpo learns from, .* `monitor: true`",
    ):
        check_data(new_study(*apart, "training.optimizer={modpo: {primary: north}}"))
    beside = "objectives.south={reward: letter-share}"
    check_data(new_study(*apart, beside, "training.optimizer={modpo: {primary: north}}"))


def test_where_preferences_are_not_read_they_may_be_missing() -> None:
    nobody = ("task={choices: {splits: []}}", "search.space={}")
    check_data(new_study(*nobody, *OF_SAMPLES))
    written = "objectives={a: {reward: letter-share}}"
    check_data(new_study(*nobody, written, "training.optimizer=grpo"))
    check_data(new_study())


def test_an_objective_that_prefers_nothing_is_named_in_words_of_preferences(run: RunFolder) -> None:
    flat = "objectives={a: {reward: letter-share}, z: {reward: {letter-share: {letter: z}}}}"
    trial = new_trial(new_study(flat, "training.optimizer={modpo: {primary: z}}"), run)
    said = []
    for _ in range(6):
        trial.train_step()
        said += trial.notes
    assert said == [
        "objective z preferred no completion to another for 5 steps in a row, so it trains "
        "nothing; preferences that concern it, or a finer reward, may tell them apart"
    ]


def test_a_file_with_half_a_pair_is_refused_with_its_line(tmp_path: Path) -> None:
    from moalign import plugins
    from moalign.study.loading import load

    rows = [{"prompt": f"p{i}", "chosen": "yes", "rejected": "no"} for i in range(600)]
    del rows[7]["rejected"]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    text = choices.STUDY.replace("task: choices", f"task: {{prompts: {{path: {path}}}}}")
    text = text.replace("policy: small", "policy: {pretrained: {model: nobody/none}}")
    text = text.replace("letter-share", "{brevity: {limit: 9}}")
    study = load(text, "half.yaml", plugins.load())
    with pytest.raises(DataError, match=r"pairs\.jsonl, line 8: column 'chosen' is filled"):
        check_data(study)


def test_a_pair_may_bring_a_prompt_of_its_own_if_it_says_the_split() -> None:
    study = new_study()
    own = Prompt("own", "ha", split="train")
    study.task.pairs = lambda seed, split: [  # type: ignore[method-assign]
        Pair(own, "a", "b"),
        Pair(Prompt("lost", "hb"), "a", "b"),
    ]
    found = task_candidates(study, "train", dealt(study)["train"])
    assert [c.prompt.id for c in found.usable] == ["own"]
    assert sum(found.skipped.values()) == 1


def test_what_the_reference_finds_likely_may_be_learned_from_pairs(run: RunFolder) -> None:
    """Fluency reads the reference only, so it is a property of the text."""
    study = new_study("objectives.a={reward: fluency, bounds: [-9, 0]}")
    metrics = new_trial(study, run).train_step()
    assert metrics["flat_groups/a"] == 0.0
    assert metrics["gradient_norm"] > 0
