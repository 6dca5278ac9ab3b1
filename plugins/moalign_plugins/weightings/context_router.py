"""Weights that each prompt calls for, as the mixture of objectives that explains preferences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from annotated_types import Ge, Gt, Le

from moalign.components import Preference
from moalign.weightings.prompts import Encoder, Lesson, PromptWeighting, spread

if TYPE_CHECKING:
    from torch import Tensor

FIRST: Final = 4.0
"""Where learning the sharpness starts: a margin of one root mean square decides 98 of 100."""

SHARPEST: Final = 20.0
"""The sharpness that learning does not exceed: without a limit, separable preferences have none."""


class ContextRouter(PromptWeighting):
    """Gives each prompt the weights with which its objectives explain what people prefer there.

    Each preference is taken to be decided by one objective, drawn with the weights of its prompt:
    a mixture of K Bradley-Terry models, whose heads are the objectives' rewards. With m_k the
    margin r_k(y+) - r_k(y-) in root mean squares over all preferences, for a preference of prompt x
    what is maximised is the logarithm of::

        P(y+ > y-) = sum_k w_k(x) * sigmoid(beta_k * m_k)

    over a head w (a linear layer, or one hidden layer, on features of the prompt, and a softmax)
    and the sharpness beta_k > 0 of each objective. An objective that does not apply to one of the
    two is left out, and the weights of the others are divided by their sum. The head that is kept
    is the best on prompts held out; it starts from equal weights, and keeps them if nothing beats
    them. Then, frozen, for all completions of a prompt, with f the fitted head::

        w(x) = (1 - blend) * ((1 - floor) * f(x) + floor / K) + blend * preference

    The likelihood of one preference is linear in w: by itself it asks for all weight on the
    objective that speaks most for y+. What keeps weights inside is that prompts that look alike
    are decided by different objectives. An objective that ties, or that prefers y-, loses weight.
    The fit may end in a local optimum, where an objective that is wrong for most kinds of prompts
    has lost the one kind that it explains: look at ``learnt/NAME``, its mean weight.

    **encoder.** ``policy``: the mean of the base policy's last hidden states over the prompt.
    ``text``: hashed words and characters of the prompt; needs no model when the weights are used.

    **Preference.** It is used in the blend only: with ``blend: 0`` prompts alone decide, and to
    give or search a preference is refused.

    With the policy's ``condition: weights`` half of the prompts are trained under their own w(x)
    and half under random weights, and each is weighed by what stands in it.

    Source:
        "MiCRo: Mixture Modeling and Context-aware Routing for Personalized Preference Learning",
        arXiv 2505.24846, known to us from its abstract. Differs: there the heads are learnt from
        the preferences as well, here they are the study's rewards, so that a weight belongs to a
        named objective and only the router and the sharpness are fitted; their second stage, which
        adapts the mixture weights online from a few labelled contexts, is left out: the weights
        are frozen before training.

    When to use it:
        Preferences that were decided by different considerations for different kinds of prompts,
        and rewards that measure these. `prompt-adapter` asks how good preferred answers are; this
        one, which objective would have told them from the rejected ones.

    Cost:
        Once per study, scoring both completions of every preference and reading their prompts,
        seconds of fitting; then, with ``encoder: policy``, a forward pass over the prompts of a
        step.

    Example::

        task: {prompts: {path: mine.jsonl}}         # with the columns chosen and rejected
        weighting: {context-router: {floor: 0.1}}
    """

    name: ClassVar[str] = "context-router"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {
            "encoder": "text",
            "hidden": 8,
            "steps": 60,
            "sharpness": 2.0,
            "floor": 0.1,
            "blend": 0.25,
        },
    )

    def __init__(
        self,
        *,
        preference: Preference | None = None,
        blend: Annotated[float, Ge(0), Le(1)] = 0.0,
        sharpness: Literal["learned"] | Annotated[float, Gt(0), Le(SHARPEST)] = "learned",
        floor: Annotated[float, Ge(0), Le(1)] = 0.0,
        encoder: Encoder = "policy",
        hidden: Annotated[int, Ge(0), Le(4096)] = 0,
        learning_rate: Annotated[float, Gt(0)] = 1e-3,
        steps: Annotated[int, Ge(1)] = 3000,
        held_out: Annotated[float, Ge(0), Le(0.5)] = 0.2,
    ) -> None:
        """Take the options.

        Args:
            preference: a person's weights by objective, for the blend; default equal.
            blend: share of the preference in the weights; 0 leaves it unused.
            sharpness: beta, one for all objectives; or learned for each, from 4 on, at most 20.
            floor: share of the weight that is spread equally, so that none is below floor / K.
            encoder: what a prompt is told by.
            hidden: units of a hidden layer; 0 for a linear head.
            learning_rate: of head and sharpness, by AdamW.
            steps: the most mini-batches of 32 preferences.
            held_out: share of the prompts that says when to stop; 0: none.
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
        self.sharpness = sharpness

    def recipe(self) -> Mapping[str, Any]:
        """Return what the head depends on."""
        return {**super().recipe(), "sharpness": self.sharpness}

    def lesson(self, names: Sequence[str], chosen_NK: Tensor, rejected_NK: Tensor | None) -> Lesson:
        """Return the likelihood of the preferences under a mixture of the objectives."""
        import torch

        assert rejected_NK is not None
        margins_NK, constant_K = spread(chosen_NK - rejected_NK, around="zero")
        applies_NK = ~margins_NK.isnan()
        margins_NK = margins_NK.nan_to_num(0.0)
        learned = self.sharpness == "learned"
        first = FIRST if self.sharpness == "learned" else float(self.sharpness)
        log_sharpness_K = torch.full((len(names),), math.log(first), dtype=torch.float64)

        def loss(log_weights_MK: Tensor, rows_M: Tensor) -> Tensor:
            applies = applies_NK[rows_M]
            sharpness_K = log_sharpness_K.clamp(max=math.log(SHARPEST)).exp()
            log_p = torch.nn.functional.logsigmoid(sharpness_K * margins_NK[rows_M])
            log_w = log_weights_MK.masked_fill(~applies, -torch.inf)
            return log_w.logsumexp(-1) - (log_w + log_p).logsumexp(-1)

        def measured(extra: Mapping[str, Tensor]) -> dict[str, float]:
            found_K = extra.get("log_sharpness", log_sharpness_K).detach()
            values = found_K.clamp(max=math.log(SHARPEST)).exp().tolist()
            return {f"sharpness/{name}": value for name, value in zip(names, values, strict=True)}

        return Lesson(
            loss=loss,
            start_K=torch.full_like(log_sharpness_K, 1.0 / len(names)),
            useful_N=applies_NK.sum(-1) >= 2,
            extra={"log_sharpness": log_sharpness_K} if learned else {},
            measured=measured,
            notes=tuple(
                f"weighting {self.name}: objective {name} is equal for both completions of every "
                "preference, so it explains none"
                for name, constant in zip(names, constant_K, strict=True)
                if constant
            ),
        )
