"""Pairwise proximal policy optimisation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt

from moalign.components import Optimizer
from moalign.maths.normalisation import group_centre
from moalign.optimizers.preferences import pair_indices

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.types import Batch, Rows


class P3o(Optimizer):
    """Learns from differences of rewards between the completions of a prompt, never from rewards.

    For two completions of a prompt, with d the log-ratio ``log pi(y) - log pi_old(y)`` of whole
    completions, A the combined advantage (each objective's score minus the group's mean), and no
    gradient through w::

        q = A_1 - A_2                                     the difference of the weighted rewards
        w = clip(exp(d_1 + d_2), 1 / ratio_clip, ratio_clip)
        g = d_1 - d_2
        loss = max(-q w g, -q w clip(g, -clip, clip)) / 2

    averaged over the pairs of a prompt, then over prompts; a completion that no objective scored
    makes no pair. What is added to an objective's score
    for all completions of a prompt changes nothing. On the policy that sampled, the gradient is
    that of ``rloo`` with ``aggregation: seq-mean-token-sum``; afterwards a pair stops earning
    gradient together, where there each completion or token does alone.

    Source:
        "Pairwise Proximal Policy Optimization", Wu et al. 2023, arXiv 2310.00212: the pairwise
        policy gradient, clipped jointly (its second version), with the defaults of the authors'
        code. Differs: all pairs of a group (there: one pair), and g is measured from the policy
        that sampled (there from the reference, around the same point: another value of the loss,
        the same gradient). The paper subtracts the divergence from the reward: use the ``kl``
        reward as an objective. Its first version, which clips the two completions one by one, is
        left out.

    When to use it:
        Rewards learnt from comparisons, which are defined up to a shift per prompt, with several
        epochs over each rollout. Completions of some dozen tokens: ratios of long ones leave the
        clip at once.

    Cost:
        One forward and backward pass per epoch; whole groups in one micro-batch.

    Example::

        training: {optimizer: {p3o: {epochs: 2}}, group: 4}
    """

    name: ClassVar[str] = "p3o"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"clip": 0.5, "epochs": 2})
    min_group: ClassVar[int] = 2
    whole_groups: ClassVar[bool] = True
    reweighs: ClassVar[bool] = True

    def __init__(
        self,
        *,
        clip: Annotated[float, Gt(0)] = 0.2,
        ratio_clip: Annotated[float, Ge(1)] = 10.0,
        epochs: Annotated[int, Ge(1)] = 1,
    ) -> None:
        """Take the options.

        Args:
            clip: how far the log-ratio of a pair may move, in nats, and still earn gradient.
            ratio_clip: largest importance weight of a pair, and one over the smallest.
            epochs: passes over each rollout; their mini-batches belong to `training.minibatches`.
        """
        self.clip = clip
        self.ratio_clip = ratio_clip
        self.epochs = epochs

    def advantages(self, scores_PGK: Tensor, batch: Batch) -> Tensor:
        """Return each score minus its group's mean, [B, 1, K]; 0 where it is NaN."""
        batch.kept["scored"] = (~scores_PGK.isnan()).any(-1).flatten().float()
        return group_centre(scores_PGK).flatten(0, 1)[:, None]

    def loss(
        self, logprobs_BT: Tensor, rows: Rows, advantages_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the rows' share of the loss.

        Metrics, means over pairs: ``ratio``, the importance weight, and ``clip_fraction``, the
        share that earns no gradient.
        """
        padding = rows.mask_BT == 0
        moved_BT = (logprobs_BT - rows.old_logprobs_BT).masked_fill(padding, 0.0)
        moved_PG = moved_BT.sum(-1).view(-1, rows.group)
        first, second = pair_indices(rows.group)
        # One number per completion; batch_norm: token spreads it over the tokens.
        tokens_BT = advantages_BT.expand_as(moved_BT).masked_fill(padding, 0.0)
        advantage_B = tokens_BT.sum(-1) / rows.mask_BT.sum(-1).clamp(min=1.0)
        if advantages_BT.shape[1] == 1:
            advantage_B = advantages_BT[:, 0]
        advantage_PG = advantage_B.view(-1, rows.group)
        scored_PG = rows.kept["scored"].view(-1, rows.group)
        q_PN = advantage_PG[:, first] - advantage_PG[:, second]
        q_PN = q_PN * scored_PG[:, first] * scored_PG[:, second]
        both_PN = (moved_PG[:, first] + moved_PG[:, second]).detach()
        limit = math.log(self.ratio_clip)
        w_PN = both_PN.clamp(-limit, limit).exp()
        gap_PN = moved_PG[:, first] - moved_PG[:, second]
        plain_PN = -q_PN * w_PN * gap_PN
        clipped_PN = -q_PN * w_PN * gap_PN.clamp(-self.clip, self.clip)
        pairs = rows.total_rows // rows.group * len(first)
        metrics = {
            "ratio": w_PN.sum() / pairs,
            "clip_fraction": (clipped_PN > plain_PN).float().sum() / pairs,
        }
        return plain_PN.maximum(clipped_PN).sum() / (2 * pairs), metrics
