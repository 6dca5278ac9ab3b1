from __future__ import annotations

import pytest

from moalign_plugins.rewards.steps_shown import StepsShown

FULL = "step 1: 17+48=65; step 2: 65+25=90; step 3: 90+3=93; so the answer is 93"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (FULL, 3),
        ("step 1: 17+48=65; step 2: 65+25=90; so the answer is 93", 2),
        ("step 3: 90+3=93; step 1: 17+48=65", 2),
        ("17+48=65;65+25=90;90+3=93.93", 0),  # no labels
        ("93", 0),
        ("", 0),
        # duplicates
        ("step 1: 17+48=65; step 1: 17+48=65; step 1: 17+48=65", 1),
        ("step 1: 17+48=65; step 2: 17+48=65; step 3: 17+48=65", 1),
        # second guesses
        ("step 1: 17+48=66; step 1: 17+48=65", 0),
        # wrong, or right and not the running sum
        ("step 1: 17+48=55; step 2: 55+25=80; step 3: 80+3=83", 0),
        ("step 1: 17+48=55; step 2: 65+25=90; step 3: 90+3=93", 2),
        ("step 1: 17+25=42; step 2: 42+48=90; step 3: 90+3=93", 1),
        ("step 1: 48+17=65", 0),
        ("step 1: 1+1=2; step 2: 2+2=4; step 3: 4+4=8", 0),
        # labels and numbers are read whole
        ("step 1: 17+48=651", 0),
        ("step 01: 17+48=65", 0),
        ("step 11: 17+48=65", 0),
        ("misstep 1: 17+48=65", 0),
        ("step 1 : 17+48=65", 0),
        ("step 1:17+48=65", 0),
        # more steps than needed
        (FULL + "; step 4: 93+1=94", 3),
    ],
)
def test_counts_labelled_right_steps_of_the_running_sum(batch_of, text, shown):
    batch = batch_of([text], fields=[{"operands": [17, 48, 25, 3]}])
    assert StepsShown().score(batch) == [shown / 3]


def test_a_sum_of_two_needs_one_step(batch_of):
    texts = ["step 1: 2+3=5; so the answer is 5", "5"]
    batch = batch_of(texts, fields=[{"operands": [2, 3]}] * 2)
    assert StepsShown().score(batch) == [1.0, 0.0]
