"""A plugin file beside ``letters.py``: preferences of all sorts, and optimizers that use them.

Prompts are two letters, the first of which is the unit; a tenth of the units have most prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import letters
import torch
from torch import Tensor

from moalign import Cost, Optimizer, Pair, Prompt, Split, Task, hookimpl, plugins
from moalign.optimizers.preferences import PairwiseOptimizer
from moalign.search.artifacts import ensure_base, prepared, samples
from moalign.search.folders import RunFolder
from moalign.study.loading import load
from moalign.study.study import Study
from moalign.training.loop import Trial
from moalign.training.policy import Policy
from moalign.types import SPLITS

FILE = Path(__file__)

STUDY = """\
study: choices
task: choices
policy: small
objectives:
  a: {reward: letter-share}
  people: {reward: preferred}
rollout: {eager: {max_tokens: 6}}
training: {optimizer: dpo, steps: 6, prompts: 6, learning_rate: 1.0e-2}
weighting: fixed
evaluation: {prompts: 24, samples: 1}
search: {strategy: random, trials: 2, space: {weighting.preference: simplex}}
executor: local
trackers: []
"""

OF_SAMPLES = (
    "objectives={a: {reward: letter-share}, b: {reward: {letter-share: {letter: b}}}}",
    "training.pairs={source: samples, samples: 4, prompts: 24}",
)

Fault = Literal["equal", "empty", "long", "elsewhere", "scoreless"]


class Choices(Task):
    """Two groups of people, north and south, who agree in half of what they are asked."""

    name: ClassVar[str] = "choices"

    def __init__(
        self,
        *,
        faults: dict[Fault, int] | None = None,
        splits: list[Split] | None = None,
        declared: bool = True,
    ) -> None:
        """Take the options.

        Args:
            faults: how many of the preferences of a split are bad in which way, the first ones.
            splits: those with preferences; null: all.
            declared: whether prompts say which split they are of.
        """
        self.faults = faults or {}
        self.splits = splits
        self.declared = declared

    def prompts(self) -> Sequence[Prompt]:
        """24 prompts of each split: 12 of unit a, and 2 of each of six others."""
        found = []
        for n, split in enumerate(SPLITS):
            texts = [f"a{x}{'abcd'[n]}" for x in "abcdefgh"] + [f"a{x}" + "efgh"[n] for x in "abcd"]
            texts += [f"{u}{x}{'abcd'[n]}" for u in "bcdefg" for x in "ab"]
            of = split if self.declared else None
            found += [Prompt(t, t, {}, unit=f"{split} {t[0]}", split=of) for t in texts]
        return found

    def pairs(self, seed: int, split: Split = "train") -> Sequence[Pair]:
        if self.splits is not None and split not in self.splits:
            return ()
        mine = [p for p in self.prompts() if p.split == split or not self.declared]
        found = [self._pair(prompt, n) for n, prompt in enumerate(mine)]
        for number, fault in enumerate(
            [f for f, count in self.faults.items() for _ in range(count)]
        ):
            found[number] = self._spoilt(found[number], fault, split)
        return found

    @staticmethod
    def _pair(prompt: Prompt, n: int) -> Pair:
        north = n % 2 == 0
        chosen, rejected = ("aac", "bbc") if north or n % 4 == 1 else ("bbc", "aac")
        return Pair(
            prompt,
            chosen,
            rejected,
            group="north" if north else "south",
            annotator=f"person {n % 3}",
            chosen_scores={"tone": float(n % 5)},
            rejected_scores={"tone": 2.0},
        )

    def _spoilt(self, pair: Pair, fault: Fault, split: Split) -> Pair:
        chosen, rejected, prompt = pair.chosen, pair.rejected, pair.prompt
        if fault == "equal":
            rejected = chosen
        elif fault == "empty":
            rejected = " "
        elif fault == "long":
            chosen = "a" * 60
        elif fault == "elsewhere":
            other = "test" if split == "train" else "train"
            prompt = next(p for p in self.prompts() if p.split == other)
        return Pair(prompt, chosen, rejected, group=pair.group)


class BothWays(PairwiseOptimizer):
    """REINFORCE on rollouts, and DPO on preferences."""

    name: ClassVar[str] = "both-ways"
    learns_from: ClassVar[Literal["rollouts", "pairs", "both"]] = "both"
    whole_groups: ClassVar[bool] = False

    def __init__(self, *, online: float = 1.0, offline: float = 1.0, epochs: int = 1) -> None:
        super().__init__(beta=1.0, epochs=epochs)
        self.online, self.offline = online, offline

    def loss_of_pairs(self, pairs: Any) -> Tensor:
        return self.logistic(pairs)

    def advantages(self, scores_PGK: Tensor, batch: Any) -> Tensor:
        centred = scores_PGK - scores_PGK.nanmean(1, keepdim=True)
        return centred.nan_to_num(0.0).flatten(0, 1)[:, None]

    def loss(
        self, logprobs_BT: Tensor, rows: Any, advantages_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        ratio = (logprobs_BT - rows.old_logprobs_BT).exp()
        loss = -(ratio * advantages_BT * rows.mask_BT).sum() / rows.total_tokens
        return self.online * loss, {"online_loss": loss.detach()}

    def pair_loss(
        self, logprobs_BT: Tensor, rows: Any, weights_PK: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().pair_loss(logprobs_BT, rows, weights_PK)
        self.weights_PK = weights_PK
        return self.offline * loss, metrics | {"offline_loss": loss.detach()}


class Extremes(Optimizer):
    """Learns from the best and the worst completion of a prompt only."""

    name: ClassVar[str] = "extremes"
    whole_groups: ClassVar[bool] = True

    def advantages(self, scores_PGK: Tensor, batch: Any) -> Tensor:
        centred = scores_PGK - scores_PGK.nanmean(1, keepdim=True)
        batch.kept["row"] = torch.arange(batch.rows)
        return centred.nan_to_num(0.0).flatten(0, 1)[:, None]

    def select(self, advantages_PG: Tensor) -> Tensor:
        order = advantages_PG.argsort(1)
        self.selected = torch.stack([order[:, -1], order[:, 0]], 1)
        return self.selected

    def loss(
        self, logprobs_BT: Tensor, rows: Any, advantages_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert rows.group == 2
        self.seen = [*getattr(self, "seen", []), *rows.kept["row"].tolist()]
        best, worst = (logprobs_BT.sum(-1)[i::2] for i in (0, 1))
        loss = -(best - worst).sum() / rows.total_rows
        return loss, {"rows": torch.tensor(len(logprobs_BT) / rows.total_rows)}


class ReadsOld(PairwiseOptimizer):
    """A pair loss that reads the policy at the beginning of the step."""

    name: ClassVar[str] = "reads-old"
    needs: frozenset[str] = frozenset({"ref_logprobs", "logprobs"})

    def loss_of_pairs(self, pairs: Any) -> Tensor:
        return self.logistic(pairs)

    def losses(self, logprobs_BT: Tensor, rows: Any) -> tuple[Tensor, dict[str, Tensor]]:
        losses, metrics = super().losses(logprobs_BT, rows)
        moved = ((logprobs_BT.detach() - rows.old_logprobs_BT).abs() * rows.mask_BT).sum()
        return losses, metrics | {"moved": moved / rows.total_tokens}


@hookimpl
def moalign_tasks() -> list[type[Task]]:
    return [Choices]


@hookimpl
def moalign_optimizers() -> list[type[Optimizer]]:
    return [BothWays, Extremes, ReadsOld]


# --- trials --------------------------------------------------------------------------------------


def new_study(*overrides: str, text: str = STUDY) -> Study:
    """Load the study with overrides."""
    return load(text, "choices.yaml", plugins.load([letters.FILE, FILE]), overrides)


def new_policy(study: Study, run: RunFolder, context: int | None = None) -> Policy:
    """Return the base policy, with a context of so many tokens."""
    names = [o.name for o in study.train_objectives]
    folder = ensure_base(study, run, lambda share, words: None)
    device = torch.device("cpu")
    policy = Policy(
        study.policy.load(folder, names),
        device,
        torch.float32,
        lambda: study.policy.load(folder, names),
    )
    if context is not None:
        policy.model.config.max_position_embeddings = context
    return policy


def new_trial(study: Study, run: RunFolder, number: int = 0, context: int | None = None) -> Trial:
    """Return a trial at step 0."""
    policy = new_policy(study, run, context)
    given: Mapping[str, Any] = {"prepared": prepared(study, run), "samples": samples(study, run)}
    return Trial(study, number, policy, study.section.training.steps, **given)


def spent(trial: Trial) -> Cost:
    """Return a copy of what a trial has spent."""
    return Cost(**trial.cost.to_json())
