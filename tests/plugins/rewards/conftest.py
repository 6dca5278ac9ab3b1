from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch

from moalign.types import Batch, Prompt


def make_batch(
    texts: Sequence[str],
    *,
    fields: Sequence[Mapping[str, Any]] | None = None,
    raw: Sequence[str] | None = None,
    lengths: Sequence[int] | None = None,
    logprobs: Sequence[Sequence[float]] | None = None,
    ref_logprobs: Sequence[Sequence[float]] | None = None,
) -> Batch:
    """A batch of one completion per prompt; tokens are words unless ``lengths`` says otherwise."""
    lengths = lengths or [len(text.split()) + 1 for text in texts]
    width = max(lengths)
    mask = torch.tensor([[float(t < length) for t in range(width)] for length in lengths])
    lazy = {"logprobs": logprobs, "ref_logprobs": ref_logprobs}
    return Batch(
        prompts_P=[
            Prompt(str(i), f"prompt {i}", f) for i, f in enumerate(fields or [{} for _ in texts])
        ],
        group=1,
        prompt_ids_P=[[0]] * len(texts),
        texts_B=texts,
        raw_texts_B=raw or texts,
        ids_BT=mask.long(),
        mask_BT=mask,
        finished_B=torch.ones(len(texts), dtype=torch.bool),
        lazy={name: lambda v=values: torch.tensor(v) for name, values in lazy.items() if values},
    )


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    return make_batch
