"""Loss aggregation: hand-computed values, shares that add up, padding that says nothing."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from moalign.maths.aggregate import Aggregation, aggregate
from moalign.types import Rows

MODES = get_args(Aggregation)


def rows_of(mask_BT: torch.Tensor, whole_BT: torch.Tensor | None = None) -> Rows:
    whole_BT = mask_BT if whole_BT is None else whole_BT
    return Rows(
        mask_BT=mask_BT,
        old_logprobs_BT=torch.zeros_like(mask_BT),
        ref_logprobs_BT=None,
        total_rows=len(whole_BT),
        total_tokens=int(whole_BT.sum()),
        max_tokens=10,
    )


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("token-mean", (1 + 2 + 3 + 10) / 4),
        ("seq-mean-token-sum", (6 + 10) / 2),
        ("seq-mean-token-mean", (2 + 10) / 2),
        ("seq-mean-token-sum-norm", (6 + 10) / 2 / 10),
    ],
)
def test_golden_values(how, expected):
    values = torch.tensor([[1.0, 2.0, 3.0], [10.0, float("nan"), float("inf")]])
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    assert float(aggregate(values, rows_of(mask), how)) == pytest.approx(expected)


@pytest.mark.parametrize("how", MODES)
def test_micro_batches_add_up(how):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(7, 5, generator=generator)
    lengths = torch.tensor([5, 1, 3, 0, 2, 4, 1])[:, None]
    mask = (torch.arange(5) < lengths).float()
    whole = aggregate(values, rows_of(mask), how)
    for cuts in ([3, 4], [1] * 7, [2, 5], [7]):
        parts = zip(values.split(cuts), mask.split(cuts), strict=True)
        shares = sum(aggregate(v, rows_of(m, mask), how) for v, m in parts)
        torch.testing.assert_close(shares, whole)


@pytest.mark.parametrize("how", MODES)
def test_longer_padding_changes_nothing(how):
    values, mask = torch.rand(3, 4), torch.ones(3, 4)
    padded = torch.cat([values, torch.full((3, 2), 1e9)], 1)
    longer = torch.cat([mask, torch.zeros(3, 2)], 1)
    assert torch.equal(
        aggregate(padded, rows_of(longer), how), aggregate(values, rows_of(mask), how)
    )


@pytest.mark.parametrize("how", MODES)
def test_a_mini_batch_without_tokens_is_zero(how):
    assert float(aggregate(torch.ones(2, 3), rows_of(torch.zeros(2, 3)), how)) == 0
