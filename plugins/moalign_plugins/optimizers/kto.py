"""Kahneman-Tversky optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge

from moalign.optimizers.lists import LabelledOptimizer, mean_where

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.optimizers.preferences import Groups


class Kto(LabelledOptimizer):
    """Makes good completions likelier and bad ones less so, as gains and losses from a point.

    With r the log-ratio of a completion against the reference policy, and z the mean of r over the
    completions of its prompt, not below 0 and without gradient: what the policy has moved away from
    the reference there::

        loss of a good one = desirable   (1 - sigmoid(beta (r - z)))
        loss of a bad one  = undesirable (1 - sigmoid(beta (z - r)))

    averaged over the completions of a prompt that are one or the other. Of a pair, an objective
    calls the higher score good and the lower one bad; of more, those above and below their mean;
    with ``thresholds`` each completion is judged by itself, so all may be good. The losses
    saturate: a hopeless completion is let go.

    Source:
        "KTO: Model Alignment as Prospect Theoretic Optimization", Ethayarajh et al. 2024, arXiv
        2402.01306, equations 7 and 8. Differs from it and from TRL in z: there it is one number for
        a batch, from completions paired with other prompts; here each prompt has its own, from its
        completions, which costs no pass and does not depend on how a batch is divided. On what the
        policy itself sampled (in ``online-dpo`` with ``learn: all``) it is an unbiased estimate of
        the divergence before it is cut off at 0. A mean over prompts of means over completions,
        there one over completions.

    When to use it:
        Judgements of single completions, or noisy pairs. Where good ones are rare, raise
        ``desirable``: the two sides should carry about equal weight.

    Cost:
        One forward and backward pass over all completions, and a forward pass of the reference
        policy. Nothing is generated.

    Example::

        training: {optimizer: {kto: {thresholds: {accuracy: 1}, undesirable: 0.5}}}
    """

    name: ClassVar[str] = "kto"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"desirable": 1.5, "undesirable": 0.5, "beta": 1.0},
    )

    def __init__(
        self,
        *,
        desirable: Annotated[float, Ge(0)] = 1.0,
        undesirable: Annotated[float, Ge(0)] = 1.0,
        **labelled: Any,
    ) -> None:
        """Take the options.

        Args:
            desirable: weight of good completions.
            undesirable: weight of bad ones; above the other: losses loom larger than gains.
        """
        super().__init__(**labelled)
        self.desirable = desirable
        self.undesirable = undesirable

    def loss_of_lists(self, groups: Groups) -> Tensor:
        """Return the mean over good and bad completions, [P, K]."""
        import torch

        ratios_PG = groups.ratios_PG
        point_P1 = ratios_PG.detach().mean(1, keepdim=True).clamp(min=0.0)
        labels = self.labels(groups.scores_PGK)
        gains = labels * (self.beta * (ratios_PG - point_P1))[..., None]
        weights = torch.where(labels > 0, self.desirable, self.undesirable)
        return mean_where(weights * torch.sigmoid(-gains), labels != 0)
