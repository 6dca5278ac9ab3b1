"""Preferences to learn from: where they come from, which a step takes, and how they are a batch.

A candidate is a prompt with completions to choose between: a pair of the task, or what the base
policy wrote before any training. What an objective prefers among them its reward says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moalign.components import Task
from moalign.errors import DataError
from moalign.study.study import Study
from moalign.training import seeds
from moalign.training.policy import Policy
from moalign.training.rollout import fitting, given, sample
from moalign.training.splits import measured, next_of
from moalign.types import Batch, Cost, Pair, Prompt, Split

CHUNK = 512
"""Rows sampled at a time."""

TOO_LONG = "the prompt and rollout.max_tokens do not fit into the policy's context"


@dataclass(frozen=True)
class Written:
    """A completion that was sampled before training: its text, and whether it came to its end."""

    text: str
    finished: bool = True


@dataclass(frozen=True)
class Candidate:
    """Completions of one prompt.

    Attributes:
        prompt: what they answer.
        completions: as the policy writes them, all different, two at least.
        pair: the preference that they are; None if they are samples.
    """

    prompt: Prompt
    completions: tuple[Written, ...]
    pair: Pair | None = None


@dataclass(frozen=True)
class Candidates:
    """All there is to learn from on a split.

    Attributes:
        usable: what can be learned from.
        skipped: how many cannot, by a reason for people.
    """

    usable: tuple[Candidate, ...]
    skipped: Mapping[str, int]

    def notes(self, split: Split) -> list[str]:
        """Return what people should know about what was skipped."""
        return [
            f"{count} of {len(self.usable) + count} preferences of the {split} split are left out: "
            f"{reason}"
            for reason, count in self.skipped.items()
        ]

    def require(self, split: Split, task: Task) -> None:
        """Raise unless there is something.

        Raises:
            DataError: there is nothing; it says why.
        """
        if self.usable:
            return
        if not self.skipped:
            why = "; ".join(task.left_out("pairs"))
            raise DataError(
                f"task {task.name} offers no preferences of the {split} split"
                + (f" ({why})" if why else "")
                + "; the task preferences reads them from a file, and so does the task prompts, "
                "from columns `chosen` and `rejected`"
                + ("; or set training.pairs.source: samples" if split == "train" else "")
            )
        why = "; ".join(f"{count}: {words}" for words, count in self.skipped.items())
        raise DataError(f"task {task.name}: no preference of the {split} split can be used ({why})")


def candidates(
    study: Study,
    policy: Policy,
    split: Split,
    prompts: Sequence[Prompt],
    samples: Mapping[str, Sequence[Written]] | None = None,
) -> Candidates:
    """Return the preferences of a split that a policy can read: the task's pairs, or samples.

    Args:
        study: gives task and seed.
        policy: what is to read them.
        split: which.
        prompts: those of the split, as the host dealt them.
        samples: completions by prompt id; None: the task's pairs.

    Raises:
        DataError: there is nothing.
    """
    if samples is not None:
        found = sampled_candidates(prompts, samples)
    else:
        found = task_candidates(study, split, prompts)
    found = _fitting(found, policy, uniform(study))
    found.require(split, study.task)
    return found


def uniform(study: Study) -> dict[str, float] | None:
    """Return equal weights, to stand in a prompt whose others are not known; None: none stand."""
    if study.policy.condition == "none":
        return None
    names = [o.name for o in study.train_objectives]
    return dict.fromkeys(names, 1.0 / len(names))


def task_candidates(study: Study, split: Split, prompts: Sequence[Prompt]) -> Candidates:
    """Return the preferences of a study's task whose prompts are in a split.

    Args:
        study: gives task and seed.
        split: which.
        prompts: those of the split, as the host dealt them.
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    usable: list[Candidate] = []
    skipped: dict[str, int] = {}
    for pair in study.task.pairs(study.seed, split):
        prompt = by_id.get(pair.prompt.id)
        if prompt is None and pair.prompt.split == split:  # the task says so itself
            prompt = pair.prompt
        reason = _reason(pair, prompt)
        if prompt is None or reason:
            skipped[reason] = skipped.get(reason, 0) + 1
            continue
        kept = replace(pair, prompt=replace(prompt, split=split))
        texts = (Written(pair.chosen), Written(pair.rejected))
        usable.append(Candidate(kept.prompt, texts, kept))
    return Candidates(tuple(usable), skipped)


def _reason(pair: Pair, prompt: Prompt | None) -> str:
    if prompt is None:
        return "their prompt is in another split"
    chosen, rejected = pair.chosen.strip(), pair.rejected.strip()  # what nobody sees is no choice
    if chosen == rejected:
        return "the two completions are equal"
    if not (chosen and rejected):
        return "a completion is empty"
    return ""


def sampled_candidates(
    prompts: Sequence[Prompt], samples: Mapping[str, Sequence[Written]]
) -> Candidates:
    """Return the samples of prompts, by prompt id, as candidates; equal ones count once."""
    usable: list[Candidate] = []
    skipped: dict[str, int] = {}
    for prompt in prompts:
        if prompt.id not in samples:
            continue
        different = tuple(dict.fromkeys(samples[prompt.id]))
        if len(different) < 2:
            reason = "all samples of the prompt are equal" if different else TOO_LONG
            skipped[reason] = skipped.get(reason, 0) + 1
            continue
        usable.append(Candidate(prompt, different))
    return Candidates(tuple(usable), skipped)


def sampled_texts(
    study: Study,
    policy: Policy,
    prompts: Sequence[Prompt],
    count: int,
    progress: Callable[[float, str], None],
) -> tuple[dict[str, list[Written]], Cost]:
    """Let a policy write for prompts; return its completions by prompt id, and what it took.

    A policy that reads weights is given equal ones. For a prompt that is too long it writes
    nothing: its list is empty.

    Args:
        study: gives task, rollout and seed.
        policy: the base policy.
        prompts: what it writes for.
        count: completions of each.
        progress: called with the share done in [0, 1] and a few words.
    """
    names, condition = [o.name for o in study.train_objectives], uniform(study)
    written: dict[str, list[Written]] = {prompt.id: [] for prompt in prompts}
    cost = Cost()
    per_chunk = max(1, CHUNK // count)
    prompts = fitting(policy, study.rollout, prompts, condition)
    for start in range(0, len(prompts), per_chunk):
        progress(start / len(prompts), "sampling completions to choose between")
        part = prompts[start : start + per_chunk]
        uniform_PK = torch.full((len(part), len(names)), 1.0 / len(names))
        batch = sample(
            policy,
            study.rollout,
            study.task,
            part,
            group=count,
            seeds_B=[seeds.key(study.seed, "samples", p.id, n) for p in part for n in range(count)],
            conditions_PK=None if condition is None else uniform_PK,
            names=names,
            micro_tokens=study.section.training.micro_tokens,
            cost=cost,
        )
        cost.generated += int(batch.mask_BT.sum())
        every = zip(batch.raw_texts_B, batch.finished_B.tolist(), strict=True)
        completions = [Written(text, finished) for text, finished in every]
        for p, prompt in enumerate(part):
            written[prompt.id] = completions[p * count : (p + 1) * count]
    return written, cost


def _fitting(
    candidates: Candidates, policy: Policy, condition: Mapping[str, float] | None
) -> Candidates:
    """Return the candidates that the policy can read whole; the others are counted as skipped."""
    room = policy.context
    if room is None or not candidates.usable:
        return candidates
    around = len(policy.prompt_ids(candidates.usable[0].prompt, condition))

    def fits(candidate: Candidate) -> bool:
        texts = [completion.text for completion in candidate.completions]
        most = len(candidate.prompt.text.encode()) + max(len(text.encode()) for text in texts)
        if around + most + 1 <= room:  # as in `fitting`; 1 for the end
            return True
        longest = max(len(policy.completion_ids(text)) for text in texts)
        return len(policy.prompt_ids(candidate.prompt, condition)) + longest <= room

    usable = tuple(filter(fits, candidates.usable))
    missing = len(candidates.usable) - len(usable)
    reason = (
        f"prompt and completion do not fit into the policy's context of {room} tokens (shorten "
        "them, or take a policy with a longer one)"
    )
    skipped = {**candidates.skipped, reason: missing} if missing else candidates.skipped
    return Candidates(usable, skipped)


def step_candidates(
    candidates: Sequence[Candidate], count: int, size: int, index: int, *key: object
) -> list[Candidate]:
    """Return the candidates of training step ``index``, ``size`` completions of each.

    Dealt as prompts are, evenly over units; of more completions than that other ones each time,
    drawn by the step's number.
    """
    chosen = next_of(candidates, _unit, count, index, *key)
    found = []
    for place, candidate in enumerate(chosen):
        among = candidate.completions
        if len(among) > size:
            generator = seeds.generator(*key, "candidates", index, place)
            picks = torch.randperm(len(among), generator=generator)[:size].tolist()
            found.append(replace(candidate, completions=tuple(among[i] for i in picks)))
        else:
            found.append(candidate)
    return found


def measured_candidates(candidates: Sequence[Candidate], most: int, seed: int) -> list[Candidate]:
    """Return the candidates of a split that are measured: all of at most ``most`` prompts.

    Prompts are taken evenly over units. One is measured whole: of two groups who were asked the
    same, none is cut.

    Args:
        candidates: of the split.
        most: how many prompts.
        seed: of the study.
    """
    by_prompt: dict[str, list[Candidate]] = {}
    for candidate in sorted(candidates, key=_name):
        by_prompt.setdefault(candidate.prompt.id, []).append(candidate)
    chosen = measured(
        list(by_prompt.values()),
        lambda of_prompt: of_prompt[0].prompt.unit,
        lambda of_prompt: (of_prompt[0].prompt.id,),
        most,
        seed,
    )
    return [candidate for of_prompt in chosen for candidate in of_prompt]


def _name(candidate: Candidate) -> tuple[str, ...]:
    return candidate.prompt.id, *(completion.text for completion in candidate.completions)


def _unit(candidate: Candidate) -> str:
    return candidate.prompt.unit


def preference_batch(
    study: Study,
    policy: Policy,
    candidates: Sequence[Candidate],
    *,
    conditions_PK: Tensor | None,
    cost: Cost,
) -> Batch:
    """Return candidates with equally many completions as a batch; nothing is sampled.

    Args:
        study: gives task, rollout and the names of the objectives.
        policy: its tokenizer reads the completions; lazy values are its.
        candidates: P of them.
        conditions_PK: weights written into the prompts, or None.
        cost: charged for lazy values when they are computed.
    """
    pairs = [candidate.pair for candidate in candidates if candidate.pair is not None]
    completions = [c for candidate in candidates for c in candidate.completions]
    return given(
        policy,
        study.rollout,
        study.task,
        [candidate.prompt for candidate in candidates],
        [completion.text for completion in completions],
        finished_B=[completion.finished for completion in completions],
        group=len(candidates[0].completions),
        conditions_PK=conditions_PK,
        names=[o.name for o in study.train_objectives],
        pairs_P=pairs if len(pairs) == len(candidates) else None,
        micro_tokens=study.section.training.micro_tokens,
        cost=cost,
    )


def same_size(candidates: Sequence[Candidate], size: int) -> list[Candidate]:
    """Return candidates with exactly ``size`` completions: those that have fewer repeat some.

    A repeated completion has the scores of its twin, so nobody prefers one to the other.
    """
    return [
        replace(c, completions=(c.completions * size)[:size]) if len(c.completions) < size else c
        for c in candidates
    ]


def labels(scores_PGK: Tensor) -> Tensor:
    """Return +1 for what an objective scores above its group's mean, -1 below, else 0; [B, 1, K].

    What stands for advantages where nothing is rolled out.
    """
    missing = scores_PGK.isnan()
    low_P1K = scores_PGK.masked_fill(missing, torch.inf).amin(1, keepdim=True)
    high_P1K = scores_PGK.masked_fill(missing, -torch.inf).amax(1, keepdim=True)
    # The mean of equal numbers may differ from them in the last bit.
    equal = ~(low_P1K < high_P1K)
    signs = (scores_PGK - scores_PGK.nanmean(1, keepdim=True)).sign()
    return signs.masked_fill(missing | equal, 0.0).flatten(0, 1)[:, None].float()
