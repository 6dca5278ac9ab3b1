"""Hybrid preference optimisation: pairs, and a divergence from what the policy writes itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge

from moalign.maths.normalisation import group_centre, leave_one_out
from moalign.maths.surrogate import ClippedSurrogate
from moalign.optimizers.games import whole
from moalign.optimizers.preferences import PairwiseOptimizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.optimizers.preferences import Pairs
    from moalign.types import Batch, Rows


class Hypo(PairwiseOptimizer):
    """Learns from pairs as ``dpo``, and holds what the policy writes itself to the reference.

    With h as in ``dpo``, and r the log-ratio of a rollout against the reference policy, summed over
    tokens::

        loss = -log sigmoid(beta h) + kl_coefficient KL(pi, pi_ref)

    The divergence is estimated from rollouts by the policy gradient, with r as what is to be small
    and the mean r of the others in its group as the baseline. The loss of pairs says nothing of
    completions that no pair has, and may make these likely; what is written shows them, and the
    divergence takes them back. Rollouts need no preferences for that: their scores train nothing,
    and are only what weightings look at.

    Source:
        "The Importance of Online Data: Understanding Preference Fine-tuning via Coverage", Song et
        al. 2024, arXiv 2406.01462, algorithm 1. Differs: the baseline, with which the estimate
        stays unbiased; a clip where a batch has several steps; several objectives, whose losses of
        pairs are a weighted sum.

    When to use it:
        Preferences at hand and no reward that could judge rollouts, where ``dpo`` drifts to
        completions that nobody compared; or a weighting that wants to see how the policy scores.

    Cost:
        ``dpo``, and generating a group per prompt with a forward and backward pass and one of the
        reference policy over it.

    Example::

        training: {optimizer: {hypo: {beta: 0.1, kl_coefficient: 0.01}}, prompts: 32, group: 2}
    """

    name: ClassVar[str] = "hypo"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"beta": 1.0, "labels": "soft", "kl_coefficient": 0.1, "epochs": 2},
    )
    learns_from: ClassVar[Literal["rollouts", "pairs", "both"]] = "both"
    min_group: ClassVar[int] = 2
    rewarded: ClassVar[bool] = False

    def __init__(self, *, kl_coefficient: Annotated[float, Ge(0)] = 0.01, **pairwise: Any) -> None:
        """Take the options.

        Args:
            kl_coefficient: weight of the divergence of rollouts from the reference policy.
        """
        super().__init__(**pairwise)
        self.kl_coefficient = kl_coefficient
        self._surrogate = ClippedSurrogate(0.2, 0.2, 3.0, 0.0, "k3", "seq-mean-token-sum")

    def loss_of_pairs(self, pairs: Pairs) -> Tensor:
        """Return ``-log sigmoid(beta h)``."""
        return self.logistic(pairs)

    def advantages(self, scores_PGK: Tensor, batch: Batch) -> Tensor:
        """Return each score from its group's mean, [B, 1, K], for weightings; nothing is learnt."""
        return group_centre(scores_PGK).flatten(0, 1)[:, None]

    def loss(
        self,
        logprobs_BT: Tensor,
        rows: Rows,
        advantages_BT: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the rows' share of the divergence; metrics: see `moalign.maths.surrogate`."""
        assert rows.ref_logprobs_BT is not None, "ref_logprobs are in this optimizer's needs"
        ratios_PG = whole(rows.old_logprobs_BT - rows.ref_logprobs_BT, rows)
        gains_PG = -self.kl_coefficient * leave_one_out(ratios_PG[..., None])[..., 0]
        return self._surrogate.loss(logprobs_BT, rows, gains_PG.view(-1, 1))
