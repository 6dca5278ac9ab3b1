"""Weights that each prompt calls for, learnt from the scores of preferred completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from moalign.components import Preference
from moalign.weightings.prompts import Encoder, Lesson, PromptWeighting, spread

if TYPE_CHECKING:
    from torch import Tensor


class PromptAdapter(PromptWeighting):
    """Gives each prompt the weights of what people prefer there: a small head, fitted beforehand.

    Before training, the K rewards score the preferred completion y+ (and the rejected one, y-) of
    every preference x that the task offers. With r^ the scores in deviations from their mean over
    all preferences, the target of a prompt and what is minimised are::

        w*(x)   = softmax(r^(x, y+) / temperature)
        L       = mean over x of KL(w*(x) || f(x))

    where f is a linear layer (or one hidden layer) on features of the prompt, and a softmax. An
    objective that does not apply to a preference is left out of its target and of f(x) there. The
    head that is kept is the best on prompts held out; it starts from the mean of w*, which is the
    best that constant weights can do, and keeps it if nothing beats it. Then, frozen, for all
    completions of a prompt::

        w(x) = (1 - blend) * ((1 - floor) * f(x) + floor / K) + blend * preference

    **targets.** ``scores``: high scores of what is preferred count, as published. That turns
    against an objective on which even good answers score low where it matters most (harmlessness,
    on harmful prompts), and says nothing for one that preferred answers always reach. ``margins``:
    what decides counts, r(y+) - r(y-) in root mean squares (0 stays 0: a tie says nothing).

    **scores.** ``standardised``: as above, so that a reward's unit does not matter. ``raw``: as
    the rewards give them; the one with the largest unit then wins.

    **encoder.** ``policy``: the mean of the base policy's last hidden states over the prompt.
    ``text``: hashed words and characters of the prompt; needs no model when the adapter is used.

    **Preference.** It is used in the blend only: with ``blend: 0`` prompts alone decide, and to
    give or search a preference is refused.

    With the policy's ``condition: weights`` half of the prompts are trained under their own w(x)
    and half under random weights, and each is weighed by what stands in it. The policy then obeys
    the adapter when it is used, and a person's own weights too: ``moalign sample``.

    With the default temperature, one deviation more in one objective is a factor of 22,000 in its
    favour: targets are nearly one-hot, and only their mean over similar prompts is not. The metric
    ``prompt_entropy`` is the entropy of the weights as a share of the largest, and a note says if
    nearly all weight went to one objective.

    Source:
        "Preference Orchestrator: Prompt-Aware Multi-Objective Alignment for Large Language
        Models", arXiv 2511.10656, equations 7 and 9, known to us from its abstract and its
        reviews: it was withdrawn, and no code was found. Target and temperature are theirs.
        Inferred: the direction of the divergence, and standardising (their abstract says
        normalised, its readers raw: ``scores: raw``). Ours: margins, floor, the encoders (theirs
        is XLM-RoBERTa, fine-tuned), and the random half of a policy that reads weights.

    When to use it:
        Prompts of several kinds, preferences that say what is wanted of each, and nobody who can
        write down weights. Compare with `fixed` at the metrics ``learnt/NAME``, the mean weights,
        and with ``control: shuffled``: what they reach as well is not owed to the prompts.

    Cost:
        Once per study, scoring the preferences and reading their prompts, seconds of fitting;
        then, with ``encoder: policy``, a forward pass over the prompts of a step.

    Example::

        task: {prompts: {path: mine.jsonl}}         # with the columns chosen and rejected
        weighting: {prompt-adapter: {targets: margins, temperature: 0.5, floor: 0.1}}
    """

    name: ClassVar[str] = "prompt-adapter"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {
            "encoder": "text",
            "targets": "margins",
            "scores": "raw",
            "hidden": 8,
            "steps": 60,
            "floor": 0.1,
            "blend": 0.25,
        },
    )

    def __init__(
        self,
        *,
        preference: Preference | None = None,
        blend: Annotated[float, Ge(0), Le(1)] = 0.0,
        targets: Literal["scores", "margins"] = "scores",
        scores: Literal["standardised", "raw"] = "standardised",
        temperature: Annotated[float, Gt(0)] = 0.1,
        floor: Annotated[float, Ge(0), Le(1)] = 0.0,
        encoder: Encoder = "policy",
        hidden: Annotated[int, Ge(0), Le(4096)] = 0,
        learning_rate: Annotated[float, Gt(0)] = 1e-3,
        steps: Annotated[int, Ge(1)] = 3000,
        held_out: Annotated[float, Ge(0), Le(0.5)] = 0.2,
        control: Literal["none", "shuffled"] = "none",
    ) -> None:
        """Take the options.

        Args:
            preference: a person's weights by objective, for the blend; default equal.
            blend: share of the preference in the weights; 0 leaves it unused.
            targets: what makes an objective weigh: high scores of what is preferred, or what
                tells it from what is rejected.
            scores: in deviations of each objective, or as they are.
            temperature: of the target; higher is closer to equal weights.
            floor: share of the weight that is spread equally, so that none is below floor / K.
            encoder: what a prompt is told by.
            hidden: units of a hidden layer; 0 for a linear head.
            learning_rate: of the head, by AdamW.
            steps: the most mini-batches of 32 preferences.
            held_out: share of the prompts that says when to stop; 0: none.
            control: `shuffled` gives every prompt the target of another one, to see what is owed
                to the prompts.
        """
        super().__init__(
            preference=preference,
            blend=blend,
            floor=floor,
            encoder=encoder,
            hidden=hidden,
            learning_rate=learning_rate,
            steps=steps,
            held_out=held_out,
        )
        self.targets = targets
        self.scores = scores
        self.temperature = temperature
        self.control = control
        self.reads_rejected = targets == "margins"

    def recipe(self) -> Mapping[str, Any]:
        """Return what the head depends on."""
        return {
            **super().recipe(),
            "targets": self.targets,
            "scores": self.scores,
            "temperature": self.temperature,
            "control": self.control,
        }

    def lesson(self, names: Sequence[str], chosen_NK: Tensor, rejected_NK: Tensor | None) -> Lesson:
        """Return the targets, and the divergence from them."""
        import torch

        values_NK = chosen_NK if rejected_NK is None else chosen_NK - rejected_NK
        notes: tuple[str, ...] = ()
        if self.scores == "standardised":
            around: Literal["mean", "zero"] = "mean" if self.targets == "scores" else "zero"
            values_NK, constant_K = spread(values_NK, around=around)
            notes = tuple(
                f"weighting {self.name}: objective {name} is the same for all preferences "
                f"(`targets: {self.targets}`), so nothing speaks for or against its weight"
                for name, constant in zip(names, constant_K, strict=True)
                if constant
            )
        applies_NK = ~values_NK.isnan()
        useful_N = applies_NK.sum(-1) >= 2
        targets_NK = target_weights(values_NK, self.temperature)
        if self.control == "shuffled":
            order = torch.randperm(len(targets_NK), generator=torch.Generator().manual_seed(0))
            targets_NK, applies_NK = targets_NK[order], applies_NK[order]
            useful_N = useful_N[order]
        mean_K = targets_NK[useful_N].nanmean(0).nan_to_num(1.0 / len(names)).clamp(min=1e-12)

        def loss(log_weights_MK: Tensor, rows_M: Tensor) -> Tensor:
            applies = applies_NK[rows_M]
            target = targets_NK[rows_M].nan_to_num(0.0)
            left = log_weights_MK.masked_fill(~applies, -torch.inf)
            log_f = (log_weights_MK - left.logsumexp(-1, keepdim=True)).masked_fill(~applies, 0.0)
            return (torch.xlogy(target, target) - target * log_f).sum(-1)

        return Lesson(loss=loss, start_K=mean_K / mean_K.sum(), useful_N=useful_N, notes=notes)


def target_weights(values_NK: Tensor, temperature: float) -> Tensor:
    """Return softmax(values / temperature) over the objectives that apply; NaN elsewhere."""
    import torch

    missing_NK = values_NK.isnan()
    centred_NK = values_NK - values_NK.nan_to_num(-torch.inf).amax(-1, keepdim=True)
    logits_NK = (centred_NK / temperature).masked_fill(missing_NK, -torch.inf)
    return torch.softmax(logits_NK, -1).masked_fill(missing_NK, torch.nan)
