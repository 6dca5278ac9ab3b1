"""From a loss per token to the loss of a mini-batch, in shares that add up over micro-batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from moalign.types import Rows

Aggregation = Literal[
    "token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"
]
"""What is averaged over what.

- ``token-mean``: over all tokens of the mini-batch; long completions count more.
- ``seq-mean-token-sum``: over completions, of the sum over tokens: the plain policy gradient.
- ``seq-mean-token-mean``: over completions, of the mean over tokens; completions count equally, so
  a token of a long one counts less.
- ``seq-mean-token-sum-norm``: over completions, of the sum divided by the rollout's token limit: a
  constant multiple of the plain policy gradient.
"""


def aggregate(values_BT: Tensor, rows: Rows, how: Aggregation) -> Tensor:
    """Return these rows' share of a mini-batch's aggregated value.

    The divisors are totals of the mini-batch, so the shares of its micro-batches add up to its
    value, however it was divided.

    Args:
        values_BT: one value per token; what the mask hides is never read.
        rows: the mask and the mini-batch's totals.
        how: see :data:`Aggregation`.

    Returns:
        a scalar; a completion without tokens adds 0.

    Source: the four modes as verl names them. Its ``seq-mean-token-sum-norm`` omits the division by
    the number of completions in some versions; here it is always a mean over them.
    """
    sums_B = values_BT.masked_fill(rows.mask_BT == 0, 0.0).sum(-1)
    if how == "token-mean":
        return sums_B.sum() / max(rows.total_tokens, 1)
    if how == "seq-mean-token-mean":
        sums_B = sums_B / rows.mask_BT.sum(-1).clamp(min=1.0)
    elif how == "seq-mean-token-sum-norm":
        sums_B = sums_B / rows.max_tokens
    return sums_B.sum() / rows.total_rows
