"""A plugin file: the arithmetic task with two families of prompts that want different things.

Sums of four numbers want a right answer, however long; sums of two a short one, right or wrong. One
weighting for both must choose: a long sum is right if its steps are shown, and what makes short
sums short takes the steps away. Which family a prompt belongs to also stands in its field
``family``, which no weighting but ``family-weights`` reads. People's preferences, ``pairs``, say it
too: from those a weighting per prompt can learn it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, ClassVar, Final

from moalign import Pair, Prompt, Split, Task, Weighting, Weights, hookimpl
from moalign_plugins.tasks.arithmetic import Arithmetic, _mistaken, _prose, _steps, _terse
from moalign_plugins.weightings.prompt_adapter import PromptAdapter

if TYPE_CHECKING:
    from torch import Tensor

    from moalign import Objective, ResponseScores, Step

WANTS: Final[Mapping[str, Mapping[str, float]]] = {
    "accuracy": {"accuracy": 1.0},
    "brevity": {"brevity": 1.0},
}
"""Each family's own objective, as weights: the utility it is judged by."""

FAMILIES: Final[Mapping[int, str]] = {2: "brevity", 4: "accuracy"}
"""Operands of a sum, and the family that it belongs to; sums of three are left out."""

PAIRS: Final = 600


class TwoFamilies(Arithmetic):
    """Sums of two and of four numbers; the former want a short answer, the latter a right one.

    The prompts are those of ``arithmetic`` without sums of three, so half belong to each family;
    the demonstrations, and with them the base policy, are all of ``arithmetic``. The completions of
    a pair differ in both: one is right and shows its steps, the other is a number alone, and wrong.
    Each family prefers what it wants.

    Source: ours, after the miniature experiment that the prompt-aware weights of arXiv 2511.10656
    call for.
    """

    name: ClassVar[str] = "two-families"

    def prompts(self) -> Sequence[Prompt]:
        """Return the prompts of both families, each with its family as a field."""
        found = []
        for prompt in super().prompts():
            family = FAMILIES.get(len(prompt.fields["operands"]))
            if family is not None:
                found.append(replace(prompt, fields={**prompt.fields, "family": family}))
        return found

    def pairs(self, seed: int, split: Split = "train") -> Sequence[Pair]:
        """Return preferences on the prompts of a split, in an order that the seed chooses."""
        prompts = [prompt for prompt in self.prompts() if prompt.split == split]
        rng = Random(f"two families {seed}")
        return [_pair(prompt, rng) for prompt in rng.sample(prompts, min(PAIRS, len(prompts)))]


def _pair(prompt: Prompt, rng: Random) -> Pair:
    operands = prompt.fields["operands"]
    sure = rng.choice((_steps, _prose))(operands)
    short = _mistaken(_terse(operands), rng)
    if prompt.fields["family"] == "accuracy":
        return Pair(prompt, sure, short)
    return Pair(prompt, short, sure)


class FamilyWeights(Weighting):
    """Weights every prompt as its family wants: what weights per prompt can reach at best.

    It reads the family, which nobody tells a weighting in earnest.
    """

    name: ClassVar[str] = "family-weights"

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check that the objectives are those of the study."""
        names = {o.name for o in objectives}
        assert {name for wants in WANTS.values() for name in wants} <= names, names

    def weigh(self, step: Step) -> Weights | ResponseScores:
        """Return weights per prompt, [P, 1, K]."""
        import torch

        rows = [WANTS[prompt.fields["family"]] for prompt in step.batch.prompts_P]
        values_PK = torch.tensor([[wants.get(n, 0.0) for n in step.names] for wants in rows])
        return Weights(values_PK[:, None])


class DatasetMean(PromptAdapter):
    """Gives every prompt the mean of the weights that ``prompt-adapter`` learns: its ablation.

    What this reaches as well is owed to the mean weights and not to the prompts.
    """

    name: ClassVar[str] = "dataset-mean"

    def prompt_weights(
        self,
        prompts: Sequence[Prompt],
        features: Callable[[], Tensor],  # noqa: ARG002
    ) -> Tensor:
        """Return the same weights for all, [P, K]."""
        import torch

        assert self._prepared is not None, "the host hands over what was prepared"
        names, metrics = self._prepared["names"], self._prepared["metrics"]
        mean_K = torch.tensor([metrics[f"learnt/{name}"] for name in names])
        return (mean_K / mean_K.sum()).expand(len(prompts), -1)


@hookimpl
def moalign_tasks() -> list[type[Task]]:
    """Offer the task."""
    return [TwoFamilies]


@hookimpl
def moalign_weightings() -> list[type[Weighting]]:
    """Offer the weighting that knows the families, and the one that does not tell them apart."""
    return [FamilyWeights, DatasetMean]
