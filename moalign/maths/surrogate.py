"""The clipped policy-gradient loss that the on-policy optimizers share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from moalign.maths.aggregate import Aggregation, aggregate
from moalign.maths.kl import LARGEST_LOG_RATIO, LossEstimator, kl_estimate

if TYPE_CHECKING:
    from torch import Tensor

    from moalign.types import Rows


Ratio = Literal["token", "sequence"]
"""What is clipped: each token's ratio, or the completion's geometric mean of them."""


@dataclass(frozen=True, slots=True)
class ClippedSurrogate:
    """Proximal policy optimisation's clipped loss, with dual clip and a KL term.

    With ratio ``r = exp(logprob - old logprob)`` and advantage A, per token::

        l = max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high))
        l = min(l, -A dual_clip)     where A < 0
        loss = aggregate(l + kl_coefficient * KL estimate)

    With ``ratio: sequence`` every token of a completion has ``r = exp(mean_t(logprob_t - old_t))``.

    Source: Schulman et al. 2017, arXiv 1707.06347, equation 7; dual clip: Ye et al. 2020, arXiv
    1912.09729; separate bounds: Yu et al. 2025, arXiv 2503.14476 (DAPO); ratio of sequences: Zheng
    et al. 2025, arXiv 2507.18071 (GSPO).

    Attributes:
        clip_low: how far below 1 a ratio may still earn gradient, > 0.
        clip_high: how far above 1, > 0.
        dual_clip: the ratio from which a bad token earns no more gradient, > 1; None for no limit.
        kl_coefficient: weight of the divergence from the reference, >= 0.
        kl_estimator: how that divergence is estimated.
        aggregation: how token losses become one.
        ratio: of each token, or one for all tokens of a completion.
    """

    clip_low: float
    clip_high: float
    dual_clip: float | None
    kl_coefficient: float
    kl_estimator: LossEstimator
    aggregation: Aggregation
    ratio: Ratio = "token"

    @property
    def needs(self) -> frozenset[str]:
        """What an optimizer with this loss needs of the host."""
        return frozenset({"ref_logprobs"}) if self.kl_coefficient > 0 else frozenset()

    def loss(
        self, logprobs_BT: Tensor, rows: Rows, advantages_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the rows' share of the loss and of its metrics, as `Optimizer.loss` says.

        Metrics, all means over the mini-batch's tokens: ``ratio``; ``clip_fraction``, the tokens
        whose gradient the clip removed; ``kl_old``, the divergence from the sampling policy (k3);
        ``kl_ref``, that from the reference, if it is in the loss.
        """
        padding = rows.mask_BT == 0
        # Masked before the exponential: what padding holds reaches neither value nor gradient.
        log_ratio_BT = (logprobs_BT - rows.old_logprobs_BT).masked_fill(padding, 0.0)
        if self.ratio == "sequence":
            lengths_B1 = rows.mask_BT.sum(-1, keepdim=True).clamp(min=1.0)
            log_ratio_BT = (log_ratio_BT.sum(-1, keepdim=True) / lengths_B1) * rows.mask_BT
        ratio_BT = log_ratio_BT.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
        losses_BT, clipped_BT = self._token_losses(ratio_BT, advantages_BT)
        old = kl_estimate(logprobs_BT.detach(), rows.old_logprobs_BT, "k3")
        means = {"ratio": ratio_BT.detach(), "clip_fraction": clipped_BT, "kl_old": old}
        if self.kl_coefficient > 0:
            assert rows.ref_logprobs_BT is not None, "ref_logprobs are in this optimizer's needs"
            reference_BT = rows.ref_logprobs_BT.masked_fill(padding, 0.0)
            policy_BT = logprobs_BT.masked_fill(padding, 0.0)
            kl_BT = kl_estimate(policy_BT, reference_BT, self.kl_estimator)
            losses_BT = losses_BT + self.kl_coefficient * kl_BT
            means["kl_ref"] = kl_BT.detach()
        metrics = {name: aggregate(value, rows, "token-mean") for name, value in means.items()}
        return aggregate(losses_BT, rows, self.aggregation), metrics

    def _token_losses(self, ratio_BT: Tensor, advantages_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss per token, and 1.0 where the clip removed its gradient."""
        bad = advantages_BT < 0
        clamped_BT = ratio_BT.clamp(1.0 - self.clip_low, 1.0 + self.clip_high)
        losses_BT = (-advantages_BT * ratio_BT).maximum(-advantages_BT * clamped_BT)
        too_high = (ratio_BT > 1.0 + self.clip_high) & (advantages_BT > 0)
        too_low = (ratio_BT < 1.0 - self.clip_low) & bad
        clipped = too_high | too_low
        if self.dual_clip is not None:
            limited_BT = losses_BT.minimum(-advantages_BT * self.dual_clip)
            losses_BT = limited_BT.where(bad, losses_BT)
            clipped = clipped | ((ratio_BT > self.dual_clip) & bad)
        return losses_BT, clipped.float()
