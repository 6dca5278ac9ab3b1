"""The reward that reads what people prefer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from moalign import Batch, Pair, Prompt
from moalign_plugins.rewards.preferred import Preferred

ASKED = Prompt("1", "how are you")
PAIRS = [
    Pair(
        ASKED,
        "well",
        "ill",
        group="north",
        annotator="ann",
        chosen_scores={"tone": 0.5, "wit": 1.0},
        rejected_scores={"tone": 0.75, "wit": 1.0},
    ),
    Pair(
        ASKED,
        "ill",
        "well",
        group="south",
        annotator="bo",
        chosen_scores={"tone": -2.0},
        rejected_scores={"wit": 3.0},
    ),
    Pair(ASKED, "so so", "well"),
]
NEITHER = [math.nan, math.nan]


def scores(**options: Any) -> list[list[float]]:
    """Return the scores of the pairs, chosen and rejected."""
    texts = [text for pair in PAIRS for text in (pair.chosen, pair.rejected)]
    batch = Batch(
        prompts_P=[pair.prompt for pair in PAIRS],
        group=2,
        prompt_ids_P=[[1]] * len(PAIRS),
        texts_B=texts,
        raw_texts_B=texts,
        ids_BT=torch.zeros(len(texts), 1, dtype=torch.long),
        mask_BT=torch.ones(len(texts), 1),
        finished_B=torch.ones(len(texts), dtype=torch.bool),
        pairs_P=PAIRS,
    )
    found = Preferred(**options).score(batch)
    assert len(found) == len(texts)
    return [found[2 * p : 2 * p + 2] for p in range(len(PAIRS))]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[1.0, 0.0]] * 3),
        ({"group": "north"}, [[1.0, 0.0], NEITHER, NEITHER]),
        ({"group": "south"}, [NEITHER, [1.0, 0.0], NEITHER]),
        ({"group": "west"}, [NEITHER] * 3),
        ({"annotator": "bo"}, [NEITHER, [1.0, 0.0], NEITHER]),
        ({"group": "north", "annotator": "bo"}, [NEITHER] * 3),
        ({"score": "tone"}, [[0.5, 0.75], NEITHER, NEITHER]),
        ({"score": "wit"}, [[1.0, 1.0], NEITHER, NEITHER]),
        ({"score": "tone", "group": "south"}, [NEITHER] * 3),
    ],
)
def test_what_it_says_of_each_pair(options: dict[str, str], expected: list[list[float]]) -> None:
    found = torch.tensor(scores(**options))
    assert torch.equal(found.isnan(), torch.tensor(expected).isnan())
    assert torch.equal(found.nan_to_num(9.0), torch.tensor(expected).nan_to_num(9.0))


def test_it_reads_preferences_only() -> None:
    assert Preferred.needs == {"pairs"}
    assert Preferred.range == (0.0, 1.0), "what is measured is a share"
