"""Anchored direct preference optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Gt

from moalign.optimizers.lists import ListOptimizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.optimizers.preferences import Groups


class Adpo(ListOptimizer):
    """Moves the policy, seen from the reference policy, to a target distribution over each list.

    With r the log-ratios of the completions of a prompt against the reference policy, which is the
    anchor, and s an objective's scores::

        q = softmax(s / tau),  p = softmax(beta r)
        loss = KL(q || p)

    Its optimum is ``pi_ref exp(s / (tau beta))``. A list of two is ``dpo`` with soft labels, for
    scores s / tau, less the entropy of the labels: the loss is 0 where nothing is left to learn,
    so the losses of objectives can be compared. With a small tau the target is the best completion.

    Completions with equal scores are wanted to be equally likely, against the reference policy; a
    missing score takes its completion off the objective's list.

    Source:
        "ADPO: Anchored Direct Preference Optimization", Wang 2025, arXiv 2510.18913. Differs: beta
        is the inverse of its anchor temperature; the anchor is the reference policy, never an
        earlier state of the policy; several objectives, whose losses are a weighted sum.

    When to use it:
        Graded scores, in units that mean something: how much better counts, not only which.
        Several completions per prompt.

    Cost:
        One forward and backward pass over all completions, and a forward pass of the reference
        policy. Nothing is generated.

    Example::

        training: {optimizer: {adpo: {tau: 0.5}}, pairs: {source: samples, samples: 8, size: 4}}
    """

    name: ClassVar[str] = "adpo"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"beta": 1.0, "tau": 0.2})
    graded: bool = True

    def __init__(self, *, tau: Annotated[float, Gt(0)] = 1.0, **lists: Any) -> None:
        """Take the options.

        Args:
            tau: temperature of the target, in units of the score.
        """
        super().__init__(**lists)
        self.tau = tau

    def applies(self, scores_PGK: Tensor) -> Tensor:
        """Return where two completions have a score."""
        return (~scores_PGK.isnan()).sum(1) >= 2

    def loss_of_lists(self, groups: Groups) -> Tensor:
        """Return the divergence of the policy from the target, [P, K]."""
        scores, missing = groups.scores_PGK, groups.scores_PGK.isnan()
        # From the highest: large scores keep their differences. Not infinite: neither is a result.
        low = scores.nan_to_num(nan=-float("inf"))
        wanted = (low - low.amax(1, keepdim=True)) / self.tau
        wanted = wanted.masked_fill(missing, NEVER).log_softmax(1)
        ratios = (self.beta * groups.ratios_PG)[..., None].expand_as(scores)
        ratios = ratios - ratios.detach().masked_fill(missing, -float("inf")).amax(1, keepdim=True)
        found = ratios.masked_fill(missing, NEVER).log_softmax(1)
        return (wanted.exp() * (wanted - found)).masked_fill(missing, 0.0).sum(1)


NEVER = -1e30
"""The logit of what is not on a list."""
