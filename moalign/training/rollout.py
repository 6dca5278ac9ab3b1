"""From prompts to a batch: render, sample, decode, and offer log-probabilities on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from moalign.components import Completions, Rollout, Task
from moalign.training.policy import Policy, micro_batches
from moalign.types import Batch, Cost, Pair, Prompt


def fitting(
    policy: Policy,
    rollout: Rollout,
    prompts: Sequence[Prompt],
    condition: Mapping[str, float] | None,
) -> list[Prompt]:
    """Return the prompts after which the policy's context has room for a whole completion.

    Args:
        policy: what is to read them.
        rollout: gives the token limit of a completion.
        prompts: any number.
        condition: weights as they may stand in the prompts, or None.
    """
    if policy.context is None or not prompts:
        return list(prompts)
    room = policy.context - rollout.max_tokens
    # A text has no more tokens than bytes, and the first prompt no fewer than stand around any:
    # most prompts need not be tokenized.
    around = len(policy.prompt_ids(prompts[0], condition))
    return [
        prompt
        for prompt in prompts
        if around + len(prompt.text.encode()) <= room
        or len(policy.prompt_ids(prompt, condition)) <= room
    ]


def sample(
    policy: Policy,
    rollout: Rollout,
    task: Task,
    prompts: Sequence[Prompt],
    *,
    group: int,
    seeds_B: Sequence[int],
    conditions_PK: Tensor | None,
    names: Sequence[str],
    micro_tokens: int,
    cost: Cost,
    greedy: bool = False,
) -> Batch:
    """Sample completions and return them as a batch.

    Args:
        policy: what samples.
        rollout: the engine.
        task: makes surface texts.
        prompts: P prompts.
        group: G completions each.
        seeds_B: one seed per row.
        conditions_PK: weights written into the prompts, or None.
        names: the K objectives that the conditions are about.
        micro_tokens: most tokens, padding included, in one forward pass of the lazy values.
        cost: charged for the lazy values when they are computed; sampling is the caller's.
        greedy: take the likeliest tokens. Log-probabilities stay those of the rollout.
    """
    prompt_ids = _prompt_ids(policy, prompts, conditions_PK, names)
    engine = rollout.greedy() if greedy else rollout
    completions = policy.generate(engine, prompt_ids, group=group, seeds_B=seeds_B)
    return _batch(
        policy,
        rollout,
        task,
        prompts,
        prompt_ids=prompt_ids,
        completions=completions,
        group=group,
        conditions_PK=conditions_PK,
        micro_tokens=micro_tokens,
        cost=cost,
    )


def given(
    policy: Policy,
    rollout: Rollout,
    task: Task,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    *,
    finished_B: Sequence[bool] | None = None,
    group: int = 1,
    conditions_PK: Tensor | None = None,
    names: Sequence[str] = (),
    pairs_P: Sequence[Pair] | None = None,
    micro_tokens: int,
    cost: Cost,
) -> Batch:
    """Return given completions as a batch: what a policy would have written.

    Args:
        policy: its tokenizer reads the completions; lazy values are its.
        rollout: gives the temperature of log-probabilities.
        task: makes surface texts.
        prompts: P prompts.
        texts: their B completions, without the end token, which is added.
        finished_B: False for one that was cut off, which gets no end token; None: all are whole.
        group: G, completions of each prompt.
        conditions_PK: weights written into the prompts, or None.
        names: the K objectives that the conditions are about.
        pairs_P: the preferences that they are, or None.
        micro_tokens: most tokens, padding included, in one forward pass of the lazy values.
        cost: charged for the lazy values.
    """
    prompt_ids = _prompt_ids(policy, prompts, conditions_PK, names)
    finished = [True] * len(texts) if finished_B is None else list(finished_B)
    rows = [
        # One that was cut off after special tokens only has nothing but an end to it.
        ids if whole or len(ids) == 1 else ids[:-1]
        for ids, whole in zip(map(policy.completion_ids, texts), finished, strict=True)
    ]
    longest = max(map(len, rows))
    ids = [[*row, *[policy.pad_id] * (longest - len(row))] for row in rows]
    mask = [[1.0] * len(row) + [0.0] * (longest - len(row)) for row in rows]
    completions = Completions(
        ids_BT=torch.tensor(ids, device=policy.device),
        mask_BT=torch.tensor(mask, device=policy.device),
        finished_B=torch.tensor(finished, device=policy.device),
    )
    return _batch(
        policy,
        rollout,
        task,
        prompts,
        prompt_ids=prompt_ids,
        completions=completions,
        group=group,
        conditions_PK=conditions_PK,
        pairs_P=pairs_P,
        micro_tokens=micro_tokens,
        cost=cost,
    )


def restored(
    policy: Policy,
    rollout: Rollout,
    task: Task,
    prompts: Sequence[Prompt],
    completions: Completions,
    *,
    group: int,
    conditions_PK: Tensor | None,
    names: Sequence[str],
    micro_tokens: int,
    cost: Cost,
    known: Mapping[str, Tensor],
) -> Batch:
    """Return a batch that was sampled earlier, perhaps by another policy.

    Args:
        policy: gives prompts and texts.
        rollout: gives the temperature of log-probabilities.
        task: makes surface texts.
        prompts: P prompts.
        completions: what was sampled.
        group: G completions each.
        conditions_PK: weights written into the prompts, or None.
        names: the K objectives that the conditions are about.
        micro_tokens: most tokens, padding included, in one forward pass of the lazy values.
        cost: charged for the lazy values that are not known.
        known: lazy values as they were then; the others are this policy's.
    """
    batch = _batch(
        policy,
        rollout,
        task,
        prompts,
        prompt_ids=_prompt_ids(policy, prompts, conditions_PK, names),
        completions=completions,
        group=group,
        conditions_PK=conditions_PK,
        micro_tokens=micro_tokens,
        cost=cost,
    )
    for name, value in known.items():
        batch.offer(name, lambda value=value: value)  # type: ignore[misc]
    return batch


def _batch(
    policy: Policy,
    rollout: Rollout,
    task: Task,
    prompts: Sequence[Prompt],
    *,
    prompt_ids: Sequence[Sequence[int]],
    completions: Completions,
    group: int,
    conditions_PK: Tensor | None,
    pairs_P: Sequence[Pair] | None = None,
    micro_tokens: int,
    cost: Cost,
) -> Batch:
    lengths = completions.mask_BT.sum(-1).long().tolist()
    ids = completions.ids_BT.tolist()
    raw_texts = policy.decode_all([row[:n] for row, n in zip(ids, lengths, strict=True)])
    texts = [task.surface(prompts[b // group], text) for b, text in enumerate(raw_texts)]

    def forward(compute: Callable[[list[Sequence[int]], Tensor, Tensor], Tensor]) -> Tensor:
        rows_ids: list[Sequence[int]] = [prompt_ids[b // group] for b in range(len(texts))]
        sizes = [len(p) + n for p, n in zip(rows_ids, lengths, strict=True)]
        cost.add(Cost(forwarded=sum(sizes)))
        mask_BT = completions.mask_BT
        out: Tensor | None = None
        for part in micro_batches(sizes, micro_tokens):
            longest = max(lengths[b] for b in part)
            rows = torch.tensor(part, device=mask_BT.device)
            ids_BT = completions.ids_BT[rows, :longest]
            with torch.no_grad():
                values = compute([rows_ids[b] for b in part], ids_BT, mask_BT[rows, :longest])
            if out is None:
                out = values.new_zeros(*mask_BT.shape, *values.shape[2:])
            out[rows, :longest] = values
        assert out is not None
        return out

    def logprobs(prompt_ids: list[Sequence[int]], ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        return policy.logprobs(prompt_ids, ids_BT, mask_BT, temperature=rollout.temperature)

    def reference(prompt_ids: list[Sequence[int]], ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        return policy.reference_logprobs(
            prompt_ids, ids_BT, mask_BT, temperature=rollout.temperature
        )

    return Batch(
        prompts_P=prompts,
        group=group,
        prompt_ids_P=prompt_ids,
        texts_B=texts,
        raw_texts_B=raw_texts,
        ids_BT=completions.ids_BT,
        mask_BT=completions.mask_BT,
        finished_B=completions.finished_B,
        conditions_PK=conditions_PK,
        pairs_P=pairs_P,
        lazy={
            "logprobs": lambda: forward(logprobs),
            "ref_logprobs": lambda: forward(reference),
            "hidden": lambda: forward(policy.hidden),
        },
    )


def _prompt_ids(
    policy: Policy, prompts: Sequence[Prompt], conditions_PK: Tensor | None, names: Sequence[str]
) -> list[list[int]]:
    conditions: Sequence[Mapping[str, float] | None] = [None] * len(prompts)
    if conditions_PK is not None:
        conditions = [dict(zip(names, row, strict=True)) for row in conditions_PK.tolist()]
    return [policy.prompt_ids(p, c) for p, c in zip(prompts, conditions, strict=True)]
