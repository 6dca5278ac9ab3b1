"""A plugin file: the arithmetic task with two families of prompts that want different things.

Sums of four numbers want their steps shown, sums of two want a bare answer; which family a prompt
belongs to stands in its field ``family``, which no weighting but ``family-weights`` reads. People's
preferences, ``pairs``, say it too: from those a weighting per prompt can learn it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, ClassVar, Final

from moalign import Pair, Prompt, Split, Task, Weighting, Weights, hookimpl
from moalign_plugins.tasks.arithmetic import Arithmetic, _prose, _terse

if TYPE_CHECKING:
    from moalign import Objective, ResponseScores, Step

FAMILIES: Final[Mapping[int, str]] = {2: "brief", 4: "steps"}
"""Operands of a sum, and the family that it belongs to; sums of three are left out."""

WANTS: Final[Mapping[str, Mapping[str, float]]] = {
    "brief": {"conciseness": 1.0},
    "steps": {"accuracy": 0.5, "clarity": 0.5},
}
"""Each family's own objective, as weights: the utility it is judged by."""

PAIRS: Final = 600


class TwoFamilies(Arithmetic):
    """Sums of two and of four numbers; the former want brevity, the latter their steps shown.

    The prompts are those of ``arithmetic`` without sums of three, so half belong to each family;
    so are the demonstrations, and with them the base policy. A pair prefers what its prompt's
    family wants: both completions are right, one terse, one in steps.

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
        return [_pair(prompt) for prompt in rng.sample(prompts, min(PAIRS, len(prompts)))]


def _pair(prompt: Prompt) -> Pair:
    operands = prompt.fields["operands"]
    brief, steps = _terse(operands), _prose(operands)
    if prompt.fields["family"] == "brief":
        return Pair(prompt, brief, steps)
    return Pair(prompt, steps, brief)


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


@hookimpl
def moalign_tasks() -> list[type[Task]]:
    """Offer the task."""
    return [TwoFamilies]


@hookimpl
def moalign_weightings() -> list[type[Weighting]]:
    """Offer the weighting that knows the families."""
    return [FamilyWeights]
