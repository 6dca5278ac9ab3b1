"""Estimators of the divergence from a reference, per token, from one sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from torch import Tensor

KlEstimator = Literal["k1", "mse", "k3"]
"""How a token's divergence is estimated from its log-ratio ``r = logprob - reference logprob``.

- ``k1``: r. Unbiased, of either sign; its gradient does not pull towards the reference (its mean is
  0), so it is for measuring, not for a loss.
- ``mse``: r**2 / 2. Biased, low variance; its gradient is that of the divergence.
- ``k3``: exp(-r) - 1 + r. Unbiased, never negative; on-policy its gradient is that of the reverse
  divergence, KL(reference || policy), so a loss ends elsewhere with it than with ``mse``.
"""

LossEstimator = Literal["mse", "k3"]
"""The estimators that a loss may have: those whose gradient pulls towards the reference."""

LARGEST: Final = 10.0
"""An estimate of k3 is cut off here: its gradient grows as exp(-r) and would drown the rest."""

LARGEST_LOG_RATIO: Final = 20.0
"""A log-ratio is cut off here before it is exponentiated, so that no value becomes infinite."""


def kl_estimate(logprobs_BT: Tensor, ref_logprobs_BT: Tensor, estimator: KlEstimator) -> Tensor:
    """Return an estimate of KL(policy || reference) per token, in nats.

    Args:
        logprobs_BT: under the policy that sampled the tokens.
        ref_logprobs_BT: under the reference.
        estimator: see :data:`KlEstimator`.

    Returns:
        [B, T]; the mean over samples is the divergence for k1, and for k3 below its cut-off.

    Source: Schulman, "Approximating KL divergence", 2020; cut-offs as in verl.
    """
    log_ratio_BT = logprobs_BT - ref_logprobs_BT
    if estimator == "k1":
        return log_ratio_BT
    if estimator == "mse":
        return 0.5 * log_ratio_BT.square()
    inverse_BT = (-log_ratio_BT).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    return (inverse_BT.exp() - inverse_BT - 1.0).clamp(max=LARGEST)
