"""The reward that reads what people prefer."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tabular import begun, rows_of

from moalign import Batch, Pair, Prompt
from moalign.errors import DataError, OptionError
from moalign_plugins.optimizers.madpo import Madpo
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
        ({"score": "tone", "scale": [-0.5, 1.5]}, [[0.5, 0.625], NEITHER, NEITHER]),
    ],
)
def test_what_it_says_of_each_pair(options: dict[str, Any], expected: list[list[float]]) -> None:
    found = torch.tensor(scores(**options))
    assert torch.equal(found.isnan(), torch.tensor(expected).isnan())
    assert torch.equal(found.nan_to_num(9.0), torch.tensor(expected).nan_to_num(9.0))


def test_it_reads_preferences_only() -> None:
    assert Preferred.needs == {"pairs"}
    assert Preferred.range == (0.0, 1.0), "what is measured is a share"


def test_a_score_lies_on_its_scale() -> None:
    with pytest.raises(
        DataError, match=r"'tone' of a preference is 0\.75, outside of the scale 0 to"
    ):
        scores(score="tone", scale=[0.0, 0.6])


@pytest.mark.parametrize(
    ("options", "wrong", "sentence"),
    [
        ({"group": "nort"}, "group", "the group 'nort'; did you mean 'north'? Allowed: north, sou"),
        ({"annotator": "cy"}, "annotator", "the annotator 'cy'; allowed: ann, bo"),
        ({"group": "north", "annotator": "bo"}, "annotator", "the annotator 'bo'; allowed: ann"),
        ({"score": "ton"}, "score", "the score 'ton'; did you mean 'tone'? Allowed: tone, wit"),
        ({"group": "south", "score": "tone"}, "score", "found 'tone', and no preference has a sco"),
        ({"score": "tone", "scale": [0.0, 0.6]}, "scale", "rows.csv, line 2: the score 'tone' of "),
    ],
)
def test_options_that_no_preference_fits(
    options: dict[str, Any], wrong: str, sentence: str
) -> None:
    pairs = [replace(pair, where=f"rows.csv, line {n}") for n, pair in enumerate(PAIRS, 2)]
    with pytest.raises(OptionError, match=re.escape(sentence)) as refusal:
        Preferred(**options).check_pairs(pairs)
    assert refusal.value.option == wrong


@pytest.mark.parametrize(
    ("option", "column"),
    [("group", "a group; "), ("annotator", "an annotator; "), ("score", "a score; ")],
)
def test_where_there_is_nothing_of_a_kind_the_column_is_named(option: str, column: str) -> None:
    with pytest.raises(OptionError, match=rf"no preference has {column}.* from columns? `"):
        Preferred(**{option: "north"}).check_pairs([PAIRS[2]])


def test_of_many_names_the_nearest_are_listed() -> None:
    pairs = [replace(PAIRS[0], annotator=f"person {n}") for n in range(100)]
    with pytest.raises(
        OptionError, match=r"did you mean 'person 1'.*, \.\.\. \(100 in all\)$"
    ) as no:
        Preferred(annotator="person1").check_pairs(pairs)
    assert str(no.value).count("person ") == 9


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"group": "north"},
        {"group": ""},  # those of nobody
        {"group": "north", "score": "tone", "scale": [0.5, 0.75]},
        {"score": "wit"},
    ],
)
def test_options_that_fit(options: dict[str, Any]) -> None:
    Preferred(**options).check_pairs(PAIRS)


@pytest.mark.parametrize("options", [{"scale": [0.0, 1.0]}, {"score": "tone", "scale": [1.0, 1.0]}])
def test_a_scale_is_of_a_score_and_rises(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="lowest and the highest value of `score`"):
        Preferred(**options)


def test_marks_out_of_ten_are_shares_of_their_scale() -> None:
    """Else every margin would be larger than the bounds, which are those of an agreement."""
    optimizer = begun(Madpo(), 1)
    marks = [2.0, 10.0]
    batch = SimpleNamespace(
        pairs_P=[
            replace(PAIRS[0], chosen_scores={"tone": mark}, rejected_scores={"tone": 1.0})
            for mark in marks
        ]
    )
    found = Preferred(score="tone", scale=[1.0, 10.0]).score(batch)  # type: ignore[arg-type]
    nothing_PGT = torch.zeros(2, 2, 1)
    rows = rows_of(optimizer, torch.tensor(found).view(2, 2, 1), nothing_PGT)
    losses_PK, _ = optimizer.losses(nothing_PGT.flatten(0, 1), rows)
    shares = torch.tensor([(mark - 1.0) / 9.0 for mark in marks])
    expected = 2.0 * torch.sigmoid(4.0 * (0.5 - shares)) * math.log(2.0)
    torch.testing.assert_close(losses_PK[:, 0], expected)
