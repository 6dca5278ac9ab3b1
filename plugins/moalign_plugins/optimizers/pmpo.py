"""Preference optimisation as probabilistic inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le

from moalign.optimizers.lists import LabelledOptimizer, mean_where

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.optimizers.preferences import Groups

LARGEST_LOG_RATIO = 2.0
"""From here on the divergence of a token grows linearly instead of exponentially."""


class Pmpo(LabelledOptimizer):
    """Imitates good completions, avoids bad ones, and stays near the reference policy.

    With r the log-ratio of a completion against the reference policy::

        loss = -alpha mean_good r + (1 - alpha) mean_bad r + beta KL(reference || policy)

    over the completions of a prompt; what there is none of adds nothing, so either kind will do.
    The divergence is estimated on all completions, as if the reference policy had written them:
    ``mean sum_t (exp(d_t) - 1 - d_t)`` with d_t the log-ratio of a token, and linear beyond 2.

    To avoid a completion has no end: the loss falls without limit unless the divergence pulls
    harder. Where n of G completions are bad, beta must be above ``(1 - alpha) G / n``: above 0.5
    for pairs and the default alpha. With good ones only any beta will do.

    The optimum over all completions, where it exists, is proportional to ``alpha good - (1 - alpha)
    bad + beta pi_ref``, with good and bad the distributions of those.

    Source:
        "Preference Optimization as Probabilistic Inference", Abdolmaleki et al. 2024, arXiv
        2410.04166. Differs: log-ratios instead of log-probabilities, which have the same gradient
        and a loss of 0 before the first step; an estimate of the divergence with the same mean that
        is never negative, and 0 at the reference; several objectives, whose losses are a weighted
        sum.

    When to use it:
        Judgements of one kind only, and where good and bad should have weights of their own.

    Cost:
        One forward and backward pass over all completions, and a forward pass of the reference
        policy. Nothing is generated.

    Example::

        training: {optimizer: {pmpo: {alpha: 0.9, beta: 0.5}}}
    """

    name: ClassVar[str] = "pmpo"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"alpha": 1.0, "beta": 0.1, "epochs": 2},
    )

    def __init__(
        self,
        *,
        alpha: Annotated[float, Ge(0), Le(1)] = 0.75,
        beta: Annotated[float, Gt(0)] = 1.0,
        **labelled: Any,
    ) -> None:
        """Take the options.

        Args:
            alpha: weight of good completions; bad ones have the rest.
            beta: weight of the divergence from the reference policy.
        """
        super().__init__(beta=beta, **labelled)
        self.alpha = alpha

    def loss_of_lists(self, groups: Groups) -> Tensor:
        """Return what good, bad and divergence add up to, [P, K]."""
        labels = self.labels(groups.scores_PGK)
        ratios = groups.ratios_PG[..., None].expand_as(labels)
        good, bad = mean_where(ratios, labels > 0), mean_where(ratios, labels < 0)
        divergence_P = _excess(groups.logprobs_PGT - groups.ref_logprobs_PGT).sum(-1).mean(1)
        return (1 - self.alpha) * bad - self.alpha * good + self.beta * divergence_P[:, None]


def _excess(ratios: Tensor) -> Tensor:
    """Return ``exp(d) - 1 - d``, never negative; beyond the largest log-ratio its tangent."""
    near = ratios.clamp(max=LARGEST_LOG_RATIO)
    return near.exp() * (1.0 + ratios - near) - 1.0 - ratios
