from __future__ import annotations

import pytest
import torch

from moalign.strategies import maximise as module
from moalign.strategies.coordinates import Coordinates
from moalign.strategies.maximise import maximise
from moalign.types import Choice, FloatRange, IntRange, Simplex

WEIGHTS = Coordinates({"w": Simplex(("a", "b", "c"))})
MIXED = Coordinates(
    {
        "x": FloatRange(0.0, 1.0),
        "w": Simplex(("a", "b")),
        "n": IntRange(1, 5),
        "kind": Choice(("p", "q", "r")),
    }
)


def near(target: list[float]):
    """A score that is best, 0, at a row."""
    return lambda rows: -((rows - torch.tensor(target, dtype=torch.double)) ** 2).sum(-1)


def best(score, coordinates: Coordinates, *, good=(), taken=(), seed=0) -> list[float]:
    return maximise(score, coordinates, good=good, taken=taken, seed=seed)


@pytest.mark.parametrize(
    "target",
    [[0.0, 1.0, 0.0], [0.0, 0.37, 0.63], [0.21, 0.33, 0.46], [1 / 3, 1 / 3, 1 / 3]],
    ids=["corner", "edge", "inside", "centre"],
)
def test_weights_are_found_wherever_they_are(target: list[float]):
    assert best(near(target), WEIGHTS) == pytest.approx(target, abs=1e-4)


def test_every_kind_of_dimension_is_searched():
    target = MIXED.row({"x": 0.123, "w": {"a": 0.9, "b": 0.1}, "n": 4, "kind": "q"})
    assert best(near(target), MIXED) == pytest.approx(target, abs=1e-4)


def test_scores_are_those_of_allowed_rows():
    """Whatever is scored at the end has whole numbers; what is scored at all is on the simplex."""
    seen = []

    def score(rows: torch.Tensor) -> torch.Tensor:
        assert torch.allclose(rows[:, 1:3].sum(-1), torch.ones(len(rows), dtype=torch.double))
        seen.append(rows.detach().clone())
        return rows.sum(-1)

    row = best(score, MIXED)
    assert row in seen[-1].tolist()
    for one in seen[-1].tolist():
        assert MIXED.legal(one) == pytest.approx(one)


def test_a_finite_space_is_exhausted_before_anything_is_repeated():
    space = Coordinates({"n": IntRange(1, 2), "kind": Choice(("p", "q"))})
    taken: list[list[float]] = []
    for _ in range(4):
        taken.append(best(near([0.0, 0.0]), space, taken=taken))
    assert len({str(row) for row in taken}) == 4
    assert best(near([0.0, 0.0]), space, taken=taken) == taken[0]


def test_choices_alone_are_drawn_where_they_are_too_many_to_list(monkeypatch):
    monkeypatch.setattr(module, "ENUMERATED", 4)
    space = Coordinates({str(i): Choice(("p", "q")) for i in range(4)})
    assert best(near([1.0, 0.0, 1.0, 1.0]), space) == [1.0, 0.0, 1.0, 1.0]


def test_a_taken_row_is_not_returned_while_there_is_another():
    score = near([0.0, 1.0, 0.0])
    assert best(score, WEIGHTS, taken=[[0.0, 1.0, 0.0]]) != [0.0, 1.0, 0.0]


def test_good_rows_are_looked_around():
    """A narrow peak beside a good row is found, which drawing alone misses."""
    target = torch.tensor([0.612, 0.388, 0.0], dtype=torch.double)

    def score(rows: torch.Tensor) -> torch.Tensor:
        return (-((rows - target) ** 2).sum(-1) / 1e-3).exp()

    row = best(score, WEIGHTS, good=[[0.6, 0.38, 0.02]])
    assert row == pytest.approx(target.tolist(), abs=1e-3)


def test_equal_arguments_give_equal_rows_whatever_the_global_generator():
    score = near([0.2, 0.5, 0.3])
    torch.manual_seed(1)
    first = best(score, WEIGHTS, good=[[0.5, 0.5, 0.0]], seed=3)
    torch.manual_seed(2)
    assert best(score, WEIGHTS, good=[[0.5, 0.5, 0.0]], seed=3) == first


def test_scores_that_are_not_numbers_are_the_worst():
    space = Coordinates({"n": IntRange(1, 4)})

    def score(rows: torch.Tensor) -> torch.Tensor:
        return torch.where(rows[:, 0] > 0.5, torch.nan, rows[:, 0])

    assert space.params(best(score, space)) == {"n": 2}
