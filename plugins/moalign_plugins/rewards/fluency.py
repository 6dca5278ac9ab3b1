"""Reads as the reference policy would have written it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from moalign.components import Reward

if TYPE_CHECKING:
    from torch import Tensor

    from moalign.types import Batch


class Fluency(Reward):
    """The geometric mean probability of the completion's tokens under the reference policy.

    ``fluency = exp(mean_t log p_ref(y_t | x, y_<t))`` over the completion's tokens, the end token
    included: one over the perplexity. The reference policy is the study's frozen base policy, so
    this says how usual a completion is for it, not how good. Range (0, 1); a copy of the base
    policy that samples at temperature 1 scores about exp(-entropy per token).

    A mean over tokens does not punish length, and one that is cut off has no end token to pay for.

    Cost: one forward pass of the reference policy over the batch, shared with every component
    that needs it.

    Source: ours; perplexity as usually defined.

    Example::

        objectives:
          fluency: {reward: fluency}
    """

    name: ClassVar[str] = "fluency"
    range = (0.0, 1.0)
    needs: ClassVar[frozenset[str]] = frozenset({"ref_logprobs"})

    def score(self, batch: Batch) -> Tensor:
        """Return [B], higher is more usual."""
        total_B = (batch.ref_logprobs_BT.float() * batch.mask_BT).sum(-1)
        return (total_B / batch.mask_BT.sum(-1)).exp()
