"""Stays near the reference policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from moalign.components import Reward

if TYPE_CHECKING:
    from torch import Tensor

    from moalign.types import Batch


class KL(Reward):
    """Minus the divergence from the reference policy, in nats per completion.

    Per token ``r_t = -(log pi(y_t | x, y_<t) - log p_ref(y_t | x, y_<t))``; the score is their sum
    over the completion. Its mean over samples of the policy estimates ``-KL(pi || p_ref)`` of whole
    completions, without bias; a single completion may score above 0.

    As an objective, KL can be traded, thresholded or put under a multiplier like any other; a
    penalty inside the loss is an option of the optimizers. No range: give ``bounds`` to put it on
    the front, or ``monitor: true`` to watch it.

    Cost: one forward pass of the reference policy over the batch, shared with every component
    that needs it.

    Source: the estimator k1 of J. Schulman, "Approximating KL Divergence" (2020).

    Example::

        objectives:
          closeness: {reward: kl, bounds: [-20, 0], at_least: -5}
    """

    name: ClassVar[str] = "kl"
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})

    def score(self, batch: Batch) -> Tensor:
        """Return per-token rewards [B, T], 0 on padding; the score is their sum."""
        return (batch.ref_logprobs_BT.float() - batch.logprobs_BT.float()) * batch.mask_BT
