"""What a component's stage before training may use: pairs, scores of given texts, features."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from moalign.study.study import Study
from moalign.training.policy import Policy
from moalign.training.rollout import given
from moalign.training.scoring import Column, score
from moalign.training.splits import split_prompts
from moalign.types import Cost, Preparation, Prompt

CHUNK = 256
"""Completions scored at a time."""


def preparation(
    study: Study, policy: Policy, progress: Callable[[float, str], None], cost: Cost
) -> Preparation:
    """Return the context of a stage before training.

    Args:
        study: gives task, objectives, rewards and seed.
        policy: the base policy; log-probabilities that rewards read are its.
        progress: called with the share done in [0, 1] and a few words.
        cost: charged for what is passed forward.
    """
    rewards, sections = study.new_rewards(), study.section.objectives
    names = [o.name for o in study.train_objectives]
    micro_tokens = study.section.training.micro_tokens
    columns = [Column(name, rewards[name], sections[name].output) for name in names]

    def scores(prompts: Sequence[Prompt], completions: Sequence[str]) -> Tensor:
        found = [torch.zeros(0, len(names))]
        for start in range(0, len(prompts), CHUNK):
            part = slice(start, start + CHUNK)
            batch = given(
                policy,
                study.rollout,
                study.task,
                prompts[part],
                completions[part],
                micro_tokens=micro_tokens,
                cost=cost,
            )
            found.append(score(batch, columns).scores_BK.cpu())
        return torch.cat(found)

    def features(prompts: Sequence[Prompt]) -> Tensor:
        ids_P = [policy.prompt_ids(prompt, None) for prompt in prompts]
        cost.forwarded += sum(map(len, ids_P))
        return policy.prompt_features(ids_P, micro_tokens=micro_tokens).cpu()

    return Preparation(
        objectives=study.train_objectives,
        seed=study.seed,
        prompts=tuple(split_prompts(study.task, ("train",))["train"]),
        pairs=tuple(study.task.pairs(study.seed)),
        score=scores,
        features=features,
        progress=progress,
    )
