"""What a trial learns from and is measured on, as far as its policy can read it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from moalign.components import Optimizer, Reward, Task
from moalign.errors import DataError, OptionError
from moalign.study.document import parse
from moalign.study.study import Study
from moalign.training.policy import Policy
from moalign.training.preferences import (
    Candidate,
    Written,
    candidates,
    measured_candidates,
    task_candidates,
    uniform,
)
from moalign.training.rollout import fitting
from moalign.training.scoring import Column, score, unchanged
from moalign.training.splits import FEWEST, needed_splits, split_prompts
from moalign.types import Batch, Prompt, Split

MOST_TRIED: Final = 2048
"""Most preferences whose texts a reward scores only to see what it says nothing of: of a large
file that would cost more than training on some of it."""


@dataclass(frozen=True)
class Material:
    """Prompts and preferences of a trial.

    Attributes:
        prompts: all of each split; where completions are sampled, those that leave room for one.
        preferences: what is learned from (train), and what agreement is measured on (the others);
            only of the splits where either happens.
        notes: what people should know about what was left out.
    """

    prompts: Mapping[Split, Sequence[Prompt]]
    preferences: Mapping[Split, Sequence[Candidate]]
    notes: tuple[str, ...]


def material(
    study: Study,
    policy: Policy,
    rewards: Mapping[str, Reward],
    samples: Mapping[str, Sequence[Written]] | None = None,
) -> Material:
    """Return what a trial works on.

    Args:
        study: gives task, objectives and optimizer.
        policy: what is to read it.
        rewards: of the study's objectives, by name; their states stay as they are.
        samples: completions of the base policy by prompt id, for ``pairs: {source: samples}``.

    Raises:
        DataError: nothing is left of a split that is needed.
        ValueError: the study wants samples, and none are given.
    """
    from_samples = study.section.training.pairs.source == "samples"
    compared, sampled = compared_splits(study), sampled_splits(study)
    if "train" in compared and from_samples and samples is None:
        raise ValueError("training.pairs.source is samples, and none were given")
    prompts: dict[Split, Sequence[Prompt]] = dict(split_prompts(study.task, needed_splits(study)))
    preferences: dict[Split, Sequence[Candidate]] = {}
    notes: list[str] = []
    for split in compared:
        own = samples if split == "train" and from_samples else None
        found = candidates(study, policy, split, prompts[split], own)
        preferences[split] = found.usable
        notes += found.notes(split)
    notes += _unsaid(study, rewards, preferences.get("train", ()))
    notes += _rough(study, rewards, preferences)
    for split in sampled:
        prompts[split], said = usable_prompts(study, policy, split, prompts[split])
        notes += said
    return Material(prompts, preferences, tuple(notes))


def _unsaid(study: Study, rewards: Mapping[str, Reward], learned: Sequence[Candidate]) -> list[str]:
    """Return which objectives lack scores of what is learned from.

    One loss for all objectives goes without every score that is missing. Where each has a loss of
    its own, what it says nothing of by design is none of its business: groups of other people, or
    prompts with nothing to cover. A preference that it covers should have what it reads.
    """
    optimizer = study.new_optimizer()
    shared = type(optimizer).losses is Optimizer.losses
    without = (
        f", and optimizer {optimizer.name} has one loss for all objectives: there it goes without"
        if shared
        else ": they lack the score that it reads, and it learns nothing from them"
    )
    notes = []
    for objective in study.train_objectives:
        reward = rewards[objective.name]
        if not _reads_texts_only(reward) or not (shared or "pairs" in reward.needs):
            continue
        read = list(learned)
        if not shared:
            read = [c for c in learned if c.pair is not None and reward.covers(c.pair)]
        tried = read if _judges_pairs(reward) else read[:MOST_TRIED]
        column = Column(objective.name, reward, study.section.objectives[objective.name].output)
        missing = _missing(study.task, column, tried)
        if missing:
            which = f"{len(read)}" if tried == read else f"the first {len(tried)} of {len(read)}"
            notes.append(
                f"objective {objective.name} says nothing of {missing} of {which} preferences of "
                f"the train split{without}"
            )
    return notes


def _missing(task: Task, column: Column, read: Sequence[Candidate]) -> int:
    """Return how many preferences have a completion that an objective gives no score."""
    by_size: dict[int, list[Candidate]] = {}
    for candidate in read:
        by_size.setdefault(len(candidate.completions), []).append(candidate)
    with unchanged([column]):
        scores = [
            score(unread_batch(task, same), [column]).scores_BK.view(-1, size)
            for size, same in by_size.items()
        ]
    return sum(int(scores_PG.isnan().any(1).sum()) for scores_PG in scores)


def _reads_texts_only(reward: Reward) -> bool:
    """Return whether a reward can be asked before training, for next to nothing.

    One that reads the policy cannot; one that is awaited asks somebody else, who may be dear.
    """
    reads = {need for need in reward.needs if not need.startswith("field:")}
    return reads <= {"pairs"} and not inspect.iscoroutinefunction(reward.score)


def _rough(
    study: Study,
    rewards: Mapping[str, Reward],
    preferences: Mapping[Split, Sequence[Candidate]],
) -> list[str]:
    """Return which objectives are measured by agreement on few units.

    A note, not an error: units may hold many prompts each, and a first try measures little.
    """
    sections, notes = study.section.objectives, []
    for split, found in preferences.items():
        for name, reward in rewards.items():
            if split == "train" or not _judges_pairs(reward):
                continue
            column = Column(name, reward, sections[name].output)
            units = len(_measured_units(study, column, found))
            if units < FEWEST:
                notes.append(
                    f"objective {name} is measured on {_count(units)} of the {split} split, and "
                    f"below {FEWEST} a standard error is rough: "
                    f"{_more_units(study, split, column, found)}"
                )
    return notes


def _measured_units(study: Study, column: Column, found: Sequence[Candidate]) -> set[str]:
    """Return the units on which an objective is measured by agreement."""
    measured = measured_candidates(found, study.section.evaluation.prompts, study.seed)
    return _concerned_units(study.task, column, measured)


def _more_units(study: Study, split: Split, column: Column, found: Sequence[Candidate]) -> str:
    """Return what makes an objective be measured on more units."""
    have, most = len(_concerned_units(study.task, column, found)), study.section.evaluation.prompts
    data = (
        f"give more data that concerns it, or a larger share of it to {split} (option `split` of "
        "tasks that read files)"
    )
    if have > len(_measured_units(study, column, found)):
        return f"raise evaluation.prompts ({most}; the split has {_count(have)}), or {data}"
    return data


def _count(units: int) -> str:
    return "1 unit" if units == 1 else f"{units} units"


def _concerned_units(task: Task, column: Column, read: Sequence[Candidate]) -> set[str]:
    """Return the units with a preference about which an objective says something."""
    return {read[p].prompt.unit for p in _concerned(task, column, read)}


def _concerned(task: Task, column: Column, read: Sequence[Candidate]) -> list[int]:
    """Return which preferences have a completion that an objective prefers."""
    if not read:
        return []
    scores_P2 = _pair_scores(task, column, read)
    prefers_P = (scores_P2[:, 0] != scores_P2[:, 1]) & ~scores_P2.isnan().any(1)
    return prefers_P.nonzero().flatten().tolist()


def _pair_scores(task: Task, column: Column, read: Sequence[Candidate]) -> Tensor:
    """Return an objective's scores of preferences between two completions, [P, 2]."""
    with unchanged([column]):
        return score(unread_batch(task, read), [column]).scores_BK.view(-1, 2)


def _judges_pairs(reward: Reward) -> bool:
    """Return whether a reward says what it says of preferences without a policy."""
    return {need for need in reward.needs if not need.startswith("field:")} == {"pairs"}


def compared_splits(study: Study) -> list[Split]:
    """Return the splits of which preferences are read: to learn from, or to measure agreement."""
    learned = study.new_optimizer().learns_from != "rollouts"
    measured = any("pairs" in reward.needs for reward in study.new_rewards().values())
    return [s for s in needed_splits(study) if (learned if s == "train" else measured)]


def sampled_splits(study: Study) -> list[Split]:
    """Return the splits for whose prompts completions are sampled."""
    learned = study.new_optimizer().learns_from != "pairs"
    measured = any("pairs" not in reward.needs for reward in study.new_rewards().values())
    return [
        s
        for s in needed_splits(study)
        if (learned if s == "train" else measured or (learned and s == "steer"))
    ]


def offered_preferences(study: Study) -> int | None:
    """Return how many of the task's preferences can be learnt from, or None if none are.

    No policy has read them: some may be too long for it.
    """
    if (
        study.new_optimizer().learns_from == "rollouts"
        or study.section.training.pairs.source == "samples"
    ):
        return None
    prompts = split_prompts(study.task, needed_splits(study))["train"]
    return len(task_candidates(study, "train", prompts).usable)


def check_preferences(study: Study, prompts: Mapping[Split, Sequence[Prompt]]) -> None:
    """Check, before a policy is built, that there are preferences where they are read.

    Args:
        study: gives task, objectives and optimizer.
        prompts: by split, as the host dealt them.

    Raises:
        DataError: a split offers none, or none that concerns an objective which reads them, or they
            are not what its options say, or an objective is measured on one unit, which has no
            standard error.
    """
    rewards, sections = study.new_rewards(), study.section.objectives
    trained = {objective.name for objective in study.train_objectives}
    for split in compared_splits(study):
        if split == "train" and study.section.training.pairs.source == "samples":
            continue
        found = task_candidates(study, split, prompts[split])
        found.require(split, study.task)
        read = list(found.usable)
        if split != "train":
            read = measured_candidates(read, study.section.evaluation.prompts, study.seed)
        for name, reward in rewards.items():
            if not _judges_pairs(reward) or (split == "train" and name not in trained):
                continue
            column = Column(name, reward, sections[name].output)
            _check_options(study, split, column, read)
            _check_concerned(study, split, column, read)
            if split != "train" and len(_concerned_units(study.task, column, read)) < 2:
                raise DataError(
                    f"objective {name}: the preferences of the {split} split that concern it and "
                    f"are measured are of 1 unit, which has no standard error; at least 2 are "
                    f"needed, and {FEWEST} for a good one: "
                    f"{_more_units(study, split, column, found.usable)}"
                )
        if split == "train":
            judged = {n: r for n, r in rewards.items() if n in trained and _judges_pairs(r)}
            columns = [Column(n, reward, sections[n].output) for n, reward in judged.items()]
            _check_heard(study, columns, read)


def _check_heard(study: Study, columns: Sequence[Column], read: Sequence[Candidate]) -> None:
    """Raise if an objective says nothing of any preference that one loss for all learns from."""
    optimizer = study.new_optimizer()
    if type(optimizer).losses is not Optimizer.losses:
        return
    optimizer.begin(study.train_objectives, 1, study.seed)
    names = [objective.name for objective in study.train_objectives]
    # A reward of texts scores every completion; which one it prefers does not matter here.
    scores_P2K = torch.tensor([1.0, 0.0])[None, :, None].repeat(len(read), 1, len(names))
    for column in columns:
        scores_P2K[..., names.index(column.name)] = _pair_scores(study.task, column, read)
    learned_P1 = optimizer.applies(scores_P2K).any(1, keepdim=True)
    heard_K = (learned_P1 & ~scores_P2K.isnan().any(1)).any(0)
    for name, heard in zip(names, heard_K.tolist(), strict=True):
        if not heard:
            raise DataError(
                f"objective {name} has no score for both completions of any of the "
                f"{int(learned_P1.sum())} preferences that optimizer {optimizer.name} learns from, "
                "so it would train nothing; give preferences that have what it reads, or leave it "
                "out of training with `monitor: true`"
            )


def _check_options(study: Study, split: Split, column: Column, read: Sequence[Candidate]) -> None:
    """Raise if preferences are not what the options of an objective's reward say."""
    pairs = [candidate.pair for candidate in read if candidate.pair is not None]
    try:
        column.reward.check_pairs(pairs)
    except OptionError as error:
        option = (error.option,) if error.option else ()
        key = ("objectives", column.name, "reward", column.reward.name, *option)
        raise DataError(
            f"{_place(study, key)}: {error} (read: the {len(pairs)} preferences of the {split} "
            f"split of task {study.task.name})"
        ) from error


def _place(study: Study, key: tuple[str, ...]) -> str:
    """Return file and key, and the line, if the value there is the file's own."""
    value: Any = study.data
    if study.text:
        doc = parse(study.text, study.source)
        written: Any = doc.data
        for part in key:
            value = value.get(part) if isinstance(value, Mapping) else None
            written = written.get(part) if isinstance(written, Mapping) else None
        if value is not None and value == written:
            return doc.where(key)
    return f"{study.source}, key {'.'.join(key)}"


def _check_concerned(study: Study, split: Split, column: Column, read: Sequence[Candidate]) -> None:
    """Raise unless a preference says something about an objective."""
    if not _concerned(study.task, column, read):
        raise DataError(
            f"objective {column.name}: reward {column.reward.name} prefers neither completion in "
            f"any of the {len(read)} preferences of the {split} split of task {study.task.name}"
        )


def unread_batch(task: Task, chosen: Sequence[Candidate]) -> Batch:
    """Return preferences as a batch that no policy has read: without tokens and lazy values.

    All have equally many completions.
    """
    texts = [(c.prompt, written.text) for c in chosen for written in c.completions]
    pairs = [candidate.pair for candidate in chosen if candidate.pair is not None]
    return Batch(
        prompts_P=[candidate.prompt for candidate in chosen],
        group=len(chosen[0].completions),
        prompt_ids_P=[()] * len(chosen),
        texts_B=[task.surface(prompt, text) for prompt, text in texts],
        raw_texts_B=[text for _, text in texts],
        ids_BT=torch.zeros(len(texts), 1, dtype=torch.long),
        mask_BT=torch.ones(len(texts), 1),
        finished_B=torch.tensor([w.finished for c in chosen for w in c.completions]),
        pairs_P=pairs if len(pairs) == len(chosen) else None,
    )


def usable_prompts(
    study: Study, policy: Policy, split: Split, prompts: Sequence[Prompt]
) -> tuple[list[Prompt], list[str]]:
    """Return the prompts of a split that a policy can answer, and what to say of the others.

    Raises:
        DataError: it can answer none.
    """
    found = fitting(policy, study.rollout, prompts, uniform(study))
    if len(found) == len(prompts):
        return found, []
    what = (
        f"of the {split} split are left out: they and a completion of rollout.max_tokens "
        f"({study.rollout.max_tokens}) do not fit into the policy's context of {policy.context} "
        "tokens"
    )
    if not found:
        raise DataError(
            f"task {study.task.name}: all {len(prompts)} prompts {what}; lower max_tokens, or "
            "shorten the prompts"
        )
    return found, [f"{len(prompts) - len(found)} of {len(prompts)} prompts {what}"]
