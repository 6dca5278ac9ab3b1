"""Direct preference optimisation that cares less for length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Le

from moalign.optimizers.preferences import PairwiseOptimizer, pair_indices

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.optimizers.preferences import Groups, Pairs


class LdDpo(PairwiseOptimizer):
    """Counts the tokens that only the longer of two completions has at a discount.

    A summed log-ratio grows with the number of tokens, so ``dpo`` moves long completions most, and
    a policy that follows it writes ever longer ones. Here, with n the length of the shorter one::

        l(y) = sum_{t <= n} log ratio_t + alpha sum_{t > n} log ratio_t
        loss = -log sigmoid(beta (l(chosen) - l(rejected)))

    With ``alpha: 1``, and for two completions of one length, it is ``dpo``.

    Source:
        "Length Desensitization in Direct Preference Optimization", Liu et al. 2024, arXiv
        2409.06411. Differs: several objectives, whose losses are a weighted sum.

    When to use it:
        Completions grow longer under ``dpo`` than their readers want. An objective for brevity is
        the other way, and the one that says what it costs.

    Cost:
        One forward and backward pass over both completions, and a forward pass of the reference
        policy. Nothing is generated. Memory: numbers per token for every pair of a prompt.

    Example::

        training: {optimizer: {ld-dpo: {alpha: 0.5}}, prompts: 32}
    """

    name: ClassVar[str] = "ld-dpo"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"alpha": 0.0, "labels": "soft"})

    def __init__(self, *, alpha: Annotated[float, Ge(0), Le(1)] = 0.5, **pairwise: Any) -> None:
        """Take the options.

        Args:
            alpha: what a token beyond the shorter length counts; 1 is `dpo`, 0 cuts it off.
        """
        super().__init__(**pairwise)
        self.alpha = alpha

    def loss_of_pairs(self, pairs: Pairs) -> Tensor:
        """Return ``-log sigmoid(beta h)``."""
        return self.logistic(pairs)

    def ratios(self, groups: Groups) -> tuple[Tensor, Tensor]:
        """Return the log-ratios with what is beyond the shorter length discounted, [P, N] each."""
        import torch

        first, second = pair_indices(groups.mask_PGT.shape[1])
        shorter_PN1 = groups.lengths_PG[:, first].minimum(groups.lengths_PG[:, second])[..., None]
        tokens_PGT = groups.logprobs_PGT - groups.ref_logprobs_PGT
        place_PGT = groups.mask_PGT.cumsum(-1)

        def discounted(which: list[int]) -> Tensor:
            tokens_PNT = tokens_PGT[:, which]
            beyond_PNT = place_PGT[:, which] > shorter_PN1
            return torch.where(beyond_PNT, self.alpha * tokens_PNT, tokens_PNT).sum(-1)

        return discounted(first), discounted(second)
