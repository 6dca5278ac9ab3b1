"""Earlier rollouts, to be learned from again.

``P`` prompts, ``G`` completions each, ``B = P*G`` rows, ``T`` tokens, ``K`` training objectives.

A rollout is kept as what a checkpoint can hold (texts, numbers, tensors on the CPU), and made anew
from that whenever it is used: what a resumed trial learns from is what it would have been.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from moalign.components import Completions
from moalign.errors import ContractError
from moalign.study.study import Study
from moalign.training.passes import Lesson, all_rows
from moalign.training.policy import Policy
from moalign.training.rollout import restored
from moalign.training.scoring import Scores
from moalign.types import Cost, Prompt, ResponseScores, Weights

_COMPUTED = ("logprobs", "ref_logprobs", "greedy_scores")
"""Lazy values that are kept if they are known; the first is, always."""


class Replay:
    """The last rollouts of a trial."""

    def __init__(self, study: Study, policy: Policy, prompts: Sequence[Prompt]) -> None:
        """Set up; empty.

        Args:
            study: says how many are kept.
            policy: reads prompts and completions.
            prompts: those of the train split.
        """
        self._study = study
        self._policy = policy
        self._prompts = {prompt.id: prompt for prompt in prompts}
        self._kept: list[dict[str, Any]] = []

    @property
    def on(self) -> bool:
        """Whether any rollout is kept at all."""
        return self._study.section.training.replay.steps > 0

    def keep(self, lesson: Lesson, returned: Weights | ResponseScores, index: int) -> None:
        """Keep the rollout of step `index`, and forget the oldest one too many."""
        if not self.on:
            return
        if isinstance(returned, ResponseScores):
            raise ContractError(
                "a weighting that scores completions has no weights for earlier rollouts; set "
                "training.replay.steps: 0"
            )
        batch = lesson.batch
        kept = {
            "index": index,
            "prompts": [prompt.id for prompt in batch.prompts_P],
            "group": batch.group,
            "ids": batch.ids_BT,
            "mask": batch.mask_BT,
            "finished": batch.finished_B,
            "conditions": batch.conditions_PK,
            "scores": lesson.scores_BK,
            "token_rewards": batch.token_rewards_BTK,
            "weights": returned.values,
            "gain": returned.gain,
            **{name: getattr(batch, _attribute(name)) for name in _COMPUTED if batch.has(name)},
        }
        on_cpu = {
            n: v.detach().cpu().clone() if isinstance(v, Tensor) else v for n, v in kept.items()
        }
        self._kept = [*self._kept, on_cpu][-self._study.section.training.replay.steps :]

    def draw(self, generator: torch.Generator, cost: Cost) -> tuple[Lesson, Tensor, int] | None:
        """Return one of the rollouts at random, the prompts to learn from, and its step's index.

        Args:
            generator: draws.
            cost: charged for lazy values.

        Returns:
            None if there is none yet.
        """
        if not self._kept:
            return None
        kept = self._kept[int(torch.randint(len(self._kept), (1,), generator=generator))]
        lesson = self._lesson(kept, cost)
        prompts = len(lesson.batch.prompts_P)
        count = max(1, round(self._study.section.training.replay.share * prompts))
        chosen = torch.randperm(prompts, generator=generator)[:count].sort().values
        return lesson, chosen, kept["index"]

    def weights(self, index: int, returned: Weights) -> Weights:
        """Return the weights for an earlier rollout: today's, but of single prompts those of then.

        Args:
            index: of its step.
            returned: what the weighting says today.
        """
        kept = next(kept for kept in self._kept if kept["index"] == index)
        values, gain = returned.values, returned.gain
        return Weights(
            values if values.ndim == 1 else kept["weights"],
            gain=kept["gain"] if isinstance(gain, Tensor) and gain.ndim else gain,
        )

    def _lesson(self, kept: Mapping[str, Any], cost: Cost) -> Lesson:
        study, device = self._study, self._policy.device

        def there(name: str) -> Tensor:
            value: Tensor = kept[name].to(device)
            return value

        batch = restored(
            self._policy,
            study.rollout,
            study.task,
            [self._prompts[name] for name in kept["prompts"]],
            Completions(there("ids"), there("mask"), there("finished")),
            group=kept["group"],
            conditions_PK=kept["conditions"],
            names=[o.name for o in study.train_objectives],
            micro_tokens=study.section.training.micro_tokens,
            cost=cost,
            known={name: there(name) for name in _COMPUTED if name in kept},
        )
        if kept["token_rewards"] is not None:
            batch.token_rewards_BTK = there("token_rewards")
        scores_BK = there("scores")
        return Lesson(batch, Scores(scores_BK, None), scores_BK, False, all_rows(batch))

    def state(self) -> list[dict[str, Any]]:
        """Return all that is kept, the oldest first."""
        return list(self._kept)

    def load_state(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Take over a state that :meth:`state` returned."""
        self._kept = [dict(kept) for kept in state]


def _attribute(name: str) -> str:
    return "greedy_scores_PK" if name == "greedy_scores" else f"{name}_BT"
