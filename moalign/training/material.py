"""What a trial learns from and is measured on, as far as its policy can read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moalign.errors import DataError
from moalign.study.study import Study
from moalign.training.policy import Policy
from moalign.training.preferences import Candidate, Written, candidates, uniform
from moalign.training.rollout import fitting
from moalign.training.splits import needed_splits, split_prompts
from moalign.types import Prompt, Split


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
    study: Study, policy: Policy, samples: Mapping[str, Sequence[Written]] | None = None
) -> Material:
    """Return what a trial works on.

    Args:
        study: gives task, objectives and optimizer.
        policy: what is to read it.
        samples: completions of the base policy by prompt id, for ``pairs: {source: samples}``.

    Raises:
        DataError: nothing is left of a split that is needed.
        ValueError: the study wants samples, and none are given.
    """
    learns_from = study.new_optimizer().learns_from
    compares = learns_from != "rollouts"
    if compares and samples is None and study.section.training.pairs.source == "samples":
        raise ValueError("training.pairs.source is samples, and none were given")
    needs = [reward.needs for reward in study.new_rewards().values()]
    needed = needed_splits(study)
    sampled = {split for split in needed if any("pairs" not in n for n in needs)} | {"steer"}
    compared = {split for split in needed if any("pairs" in n for n in needs)}
    sampled = sampled - {"train"} | ({"train"} if learns_from != "pairs" else set())
    compared = compared - {"train"} | ({"train"} if compares else set())
    prompts: dict[Split, Sequence[Prompt]] = dict(split_prompts(study.task, needed))
    preferences: dict[Split, Sequence[Candidate]] = {}
    notes: list[str] = []
    for split in needed:
        if split in compared:
            own = samples if split == "train" else None
            found = candidates(study, policy, split, prompts[split], own)
            preferences[split] = found.usable
            notes += found.notes(split)
        if split in sampled:
            prompts[split], said = usable_prompts(study, policy, split, prompts[split])
            notes += said
    return Material(prompts, preferences, tuple(notes))


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
