"""Weights that depend on the prompt, learnt from preferences before any training."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from moalign.components import Preference, Weighting
from moalign.errors import ContractError, DataError, OptionError
from moalign.types import Weights

if TYPE_CHECKING:
    from torch import Tensor

    from moalign.types import Objective, Preparation, Prompt, Step

VERSION: Final = 1
"""Of what is prepared; another one is prepared anew."""

COLLAPSED: Final = 0.05
"""Share of the largest entropy below which weights count as one-hot."""

Encoder = Literal["policy", "text"]
"""What a prompt is told by: the base policy's mean hidden state, or hashed pieces of its text."""


def _nothing(_extra: Mapping[str, Tensor]) -> dict[str, float]:
    return {}


@dataclass(frozen=True)
class Lesson:
    """What is to be learnt from preferences: N of them, K objectives.

    Attributes:
        loss: in nats, of the examples with the given numbers, from the log-weights of their
            prompts: ``loss(log_weights_MK, rows_M) -> [M]``.
        start_K: the constant weights to start from, all above 0.
        useful_N: which preferences tell anything about weights.
        extra: tensors that `loss` reads and that are fitted with it, by name.
        measured: numbers about what was fitted, from `extra` as it came out.
        notes: sentences for people.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    start_K: Tensor
    useful_N: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    measured: Callable[[Mapping[str, Tensor]], dict[str, float]] = _nothing
    notes: tuple[str, ...] = ()


class PromptWeighting(Weighting):
    """A head from a prompt's features to weights, fitted to the task's preferences.

    A subclass says what is learnt, :meth:`lesson`. For a prompt x the weights are, with f the
    fitted head and a the ``blend``::

        w(x) = (1 - a) * ((1 - floor) * f(x) + floor / K) + a * preference
    """

    declares: frozenset[str] = frozenset({"conditioned", "offline", "prompt-weights"})
    reads_rejected: bool = True
    """Whether the scores of rejected completions are needed."""

    def __init__(
        self,
        *,
        preference: Preference | None,
        blend: float,
        floor: float,
        encoder: Encoder,
        hidden: int,
        learning_rate: float,
        steps: int,
        held_out: float,
    ) -> None:
        """Take the options.

        Args:
            preference: weights by objective, for the blend.
            blend: its share, in [0, 1].
            floor: every weight of the head is at least floor / K.
            encoder: what a prompt is told by.
            hidden: units of a hidden layer; 0 for a linear head.
            learning_rate: of AdamW.
            steps: the most that are taken.
            held_out: share of the prompts that says when to stop.
        """
        self.preference = preference
        self.blend = blend
        self.floor = floor
        self.encoder = encoder
        self.hidden = hidden
        self.learning_rate = learning_rate
        self.steps = steps
        self.held_out = held_out
        self.needs = frozenset({"pairs"} | ({"prompt_features"} if encoder == "policy" else set()))
        self._prepared: Mapping[str, Any] | None = None

    @abstractmethod
    def lesson(self, names: Sequence[str], chosen_NK: Tensor, rejected_NK: Tensor | None) -> Lesson:
        """Return what preferences teach.

        Args:
            names: the K objectives, at least two.
            chosen_NK: raw scores of the chosen completions, float64; NaN where one does not apply.
            rejected_NK: of the rejected ones; None unless :attr:`reads_rejected`.
        """

    def check(self, objectives: Sequence[Objective]) -> None:  # noqa: ARG002
        """Check that a given preference is used."""
        if self.preference is not None and self.blend == 0:
            raise OptionError(
                f"weighting {self.name}: a preference is given, but with `blend: 0` the prompts "
                "alone decide; set `blend` to its share, from 0 to 1, or take the preference out",
                "preference",
            )

    # --- before training -----------------------------------------------------------------------

    def recipe(self) -> Mapping[str, Any]:
        """Return what the fitted head depends on: not `blend`, `floor` and the preference."""
        return {
            "version": VERSION,
            "encoder": self.encoder,
            "hidden": self.hidden,
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "held_out": self.held_out,
        }

    def prepare(self, context: Preparation) -> dict[str, Any]:
        """Fit the head to the task's preferences.

        Raises:
            DataError: there are none, or an objective applies to none, or none tells anything.
        """
        import torch

        from moalign.maths.prompt_head import fit_head, text_features

        names = [o.name for o in context.objectives]
        if not context.pairs:
            raise DataError(
                f"weighting {self.name} learns from preferences between completions, and the task "
                "offers none; take a task with pairs, or another weighting"
            )
        plain: dict[str, Any] = {"names": names, "head": {}, "metrics": {}, "notes": []}
        if len(names) == 1:
            return plain
        context.progress(0.0, "scoring preferences")
        prompts = [pair.prompt for pair in context.pairs]
        chosen_NK = context.score(prompts, [pair.chosen for pair in context.pairs]).double()
        rejected_NK = None
        if self.reads_rejected:
            rejected = context.score(prompts, [pair.rejected for pair in context.pairs])
            rejected_NK = rejected.double()
        self._require_scores(names, chosen_NK, rejected_NK)
        lesson = self.lesson(names, chosen_NK, rejected_NK)
        useful = lesson.useful_N.nonzero().flatten()
        if not len(useful):
            raise DataError(
                f"weighting {self.name}: no preference has two objectives that apply to it, so "
                "nothing says how they compare"
            )
        context.progress(0.3, "reading prompts")
        texts = list(dict.fromkeys(prompts[n].text for n in useful.tolist()))
        number = {text: u for u, text in enumerate(texts)}
        by_text = {prompt.text: prompt for prompt in prompts}
        features_UD = (
            text_features(texts)
            if self.encoder == "text"
            else context.features([by_text[text] for text in texts])
        )
        fitted = fit_head(
            features_UD,
            torch.tensor([number[prompts[n].text] for n in useful.tolist()]),
            lambda log_weights, rows: lesson.loss(log_weights, useful[rows]),
            lesson.start_K,
            standardise=self.encoder == "policy",
            hidden=self.hidden,
            learning_rate=self.learning_rate,
            steps=self.steps,
            held_out=self.held_out,
            seed=context.seed,
            extra=lesson.extra,
            progress=lambda share: context.progress(0.5 + 0.5 * share, "fitting weights"),
        )
        metrics = {
            "pairs": float(len(useful)),
            "prompts": float(len(texts)),
            "fitting_steps": float(fitted.steps),
            "held_out_loss": fitted.after,
            "held_out_loss_constant": fitted.before,
            "learnt_entropy": float(_entropy(fitted.weights_UK)),
            **lesson.measured(fitted.extra),
        }
        means = fitted.weights_UK.mean(0).tolist()
        metrics |= {f"learnt/{name}": mean for name, mean in zip(names, means, strict=True)}
        notes = [*lesson.notes]
        if fitted.steps == 0:
            notes.append(
                f"weighting {self.name}: no weights that depend on the prompt were better on "
                "held-out preferences than the same for all, so every prompt gets the same"
            )
        return {"names": names, "head": fitted.head, "metrics": metrics, "notes": notes}

    def _require_scores(
        self, names: Sequence[str], chosen_NK: Tensor, rejected_NK: Tensor | None
    ) -> None:
        for what, scores_NK in (("chosen", chosen_NK), ("rejected", rejected_NK)):
            for k, name in enumerate(names):
                if scores_NK is not None and scores_NK[:, k].isnan().all():
                    raise DataError(
                        f"weighting {self.name}: objective {name} applies to none of the {what} "
                        "completions, so nothing is known of its weight; take it out of what is "
                        "trained on, or give preferences that it can score"
                    )

    def load_prepared(self, prepared: Mapping[str, Any]) -> None:
        """Take over a fitted head."""
        self._prepared = prepared

    # --- weights -------------------------------------------------------------------------------

    def prompt_weights(self, prompts: Sequence[Prompt], features: Callable[[], Tensor]) -> Tensor:
        """Return the weights that prompts call for, [P, K] float32."""
        import torch

        from moalign.maths.prompt_head import head_weights, text_features

        prepared = self._known()
        names = prepared["names"]
        if not prepared["head"]:
            return torch.ones(len(prompts), 1)
        found_PD = text_features([p.text for p in prompts]) if self.encoder == "text" else None
        weights_PK = head_weights(prepared["head"], features() if found_PD is None else found_PD)
        weights_PK = (1 - self.floor) * weights_PK + self.floor / len(names)
        if self.blend > 0:
            asked = self.preference or dict.fromkeys(names, 1.0)
            total = math.fsum(asked.get(name, 0.0) for name in names)
            own_K = weights_PK.new_tensor([asked.get(name, 0.0) / total for name in names])
            weights_PK = (1 - self.blend) * weights_PK + self.blend * own_K
        return weights_PK.float()

    def weigh(self, step: Step) -> Weights:
        """Return the weights of each prompt, [P, 1, K]; those in the prompts if there are any."""
        conditions_PK = step.batch.conditions_PK
        if conditions_PK is None:
            weights_PK = self.prompt_weights(step.batch.prompts_P, step.prompt_features)
            weights_PK = self._named(weights_PK, step.names)
        else:
            weights_PK = conditions_PK
        prepared = self._known()
        metrics = {"prompt_entropy": float(_entropy(weights_PK.double()))}
        if step.index == 0:
            metrics |= prepared["metrics"]
        return Weights(weights_PK[:, None], metrics=metrics, notes=self._notes(prepared))

    def _known(self) -> Mapping[str, Any]:
        if self._prepared is None:
            raise ContractError(
                f"weighting {self.name} has learnt nothing yet: load_prepared() comes first"
            )
        return self._prepared

    def _named(self, weights_PK: Tensor, names: Sequence[str]) -> Tensor:
        """Return the columns of some of the objectives that were learnt about, of sum 1."""
        learnt = list(self._known()["names"])
        if list(names) == learnt:
            return weights_PK
        unknown = [name for name in names if name not in learnt]
        if unknown:
            raise ContractError(
                f"weighting {self.name} has learnt about {', '.join(learnt)}, not about "
                f"{', '.join(unknown)}"
            )
        picked_PK = weights_PK[:, [learnt.index(name) for name in names]].double()
        return (picked_PK / picked_PK.sum(-1, keepdim=True)).float()

    def _notes(self, prepared: Mapping[str, Any]) -> tuple[str, ...]:
        notes = tuple(prepared["notes"])
        entropy = prepared["metrics"].get("learnt_entropy", 1.0)
        if entropy < COLLAPSED and self.floor == 0 and self.blend == 0:
            notes += (
                f"weighting {self.name}: nearly every prompt has one objective with nearly all "
                "weight, so the others are not trained on there; a higher `temperature` where "
                "there is one, a `floor` or a `blend` leaves them some",
            )
        return notes


def spread(values_NK: Tensor, *, around: Literal["mean", "zero"]) -> tuple[Tensor, list[bool]]:
    """Return values in deviations of each objective, and which objectives are constant.

    Args:
        values_NK: float64, NaN where an objective does not apply; it takes no part.
        around: the mean, with the deviation (ddof 1); or zero, with the root mean square, for
            differences, whose sign says something.

    Returns:
        [N, K], 0 for a constant objective, NaN where it does not apply.
    """
    import torch

    valid_NK = ~values_NK.isnan()
    count_K = valid_NK.sum(0)
    centre_K = values_NK.nanmean(0) if around == "mean" else torch.zeros_like(values_NK[0])
    centred_NK = values_NK - centre_K
    # By the largest first: squares of huge and tiny numbers leave the range of floats.
    largest_K = centred_NK.nan_to_num(0.0).abs().amax(0)
    magnitude_K = values_NK.nan_to_num(0.0).abs().amax(0)
    constant_K = largest_K <= 1e-12 * magnitude_K
    shares_NK = centred_NK / torch.where(constant_K, 1.0, largest_K)
    degrees_K = (count_K - 1 if around == "mean" else count_K).clamp(min=1)
    deviation_K = (shares_NK.nan_to_num(0.0).square().sum(0) / degrees_K).sqrt()
    standard_NK = shares_NK / torch.where(constant_K, 1.0, deviation_K)
    return torch.where(constant_K & valid_NK, 0.0, standard_NK), constant_K.tolist()


def _entropy(weights_PK: Tensor) -> Tensor:
    """Return the mean entropy as a share of the largest, that of equal weights."""
    import torch

    objectives = weights_PK.shape[-1]
    if objectives == 1:
        return weights_PK.new_ones(())
    return -torch.xlogy(weights_PK, weights_PK).sum(-1).mean() / math.log(objectives)
