from __future__ import annotations

import pytest

from moalign_plugins.rewards.exact_answer import ExactAnswer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 1.0),
        ("17+48=65;65+25=90.90", 1.0),
        ("step 1: 17+48=65; step 2: 65+25=90; so the answer is 90", 1.0),
        ("17+48=65;65+25=90", 1.0),
        ("step 1: 17+48=64; so the answer is 90", 1.0),  # the way there is another reward's
        ("91", 0.0),
        ("17+48=65;65+25=90.91", 0.0),
        ("step 1: 17+48=65; step 2: 65+25=90; so the answer is 65", 0.0),
        ("190", 0.0),
        ("090", 0.0),
        ("-90", 0.0),
        ("1,90", 0.0),
        ("90.", 0.0),
        ("90 ", 0.0),
        ("90\n", 0.0),
        ("90;90+1", 0.0),
        ("65+90", 0.0),
        ("step 1: 90", 0.0),
        ("is 90", 0.0),
        ("\u0669\u0660", 0.0),
        ("90.so the answer is ", 0.0),
        ("", 0.0),
    ],
)
def test_the_final_number_decides(batch_of, text, expected):
    assert ExactAnswer().score(batch_of([text], fields=[{"answer": 90}])) == [expected]


def test_each_row_is_held_against_its_own_answer(batch_of):
    batch = batch_of(["90", "90", "5"], fields=[{"answer": 90}, {"answer": 5}, {"answer": 5}])
    assert ExactAnswer().score(batch) == [1.0, 0.0, 1.0]
