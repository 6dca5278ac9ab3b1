"""Splits: disjoint, stable, even over units; step prompts depend on the step only."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import pytest

from moalign import DataError, Prompt, Task
from moalign.training.splits import FEWEST, measured_prompts, split_prompts, step_prompts
from moalign.types import SPLITS


class Given(Task):
    """A task with given prompts."""

    name: ClassVar[str] = "given"

    def __init__(self, prompts: list[Prompt]) -> None:
        self._prompts = prompts

    def prompts(self) -> list[Prompt]:
        return self._prompts


def numbered(count: int, **fields: object) -> list[Prompt]:
    return [Prompt(str(i), f"prompt {i}", **fields) for i in range(count)]  # type: ignore[arg-type]


def test_hash_split_has_the_stated_shares() -> None:
    splits = split_prompts(Given(numbered(4000)), SPLITS)
    sizes = {name: len(prompts) / 4000 for name, prompts in splits.items()}
    assert sizes == pytest.approx(
        {"train": 0.8, "steer": 0.05, "validation": 0.05, "test": 0.1}, abs=0.015
    )
    ids = [p.id for prompts in splits.values() for p in prompts]
    assert sorted(ids) == sorted(map(str, range(4000)))


def test_hash_split_does_not_depend_on_order_or_company() -> None:
    all_splits = split_prompts(Given(numbered(4000)), SPLITS)
    few = split_prompts(Given(list(reversed(numbered(2000)))), ("train",))
    for name in SPLITS:
        assert {p.id for p in few[name]} <= {p.id for p in all_splits[name]}


def test_equal_texts_stay_together() -> None:
    twins = [Prompt(f"{i}-{copy}", f"text {i}") for i in range(500) for copy in range(2)]
    splits = split_prompts(Given(twins), ("train",))
    for prompts in splits.values():
        assert all(count == 2 for count in Counter(p.text for p in prompts).values())


def test_a_task_keeps_its_test_set() -> None:
    given = numbered(1000) + [Prompt(f"t{i}", f"t {i}", split="test") for i in range(50)]
    splits = split_prompts(Given(given), ("train",))
    assert {p.id for p in splits["test"]} == {f"t{i}" for i in range(50)}
    assert len(splits["train"]) == pytest.approx(1000 * 0.8 / 0.9, rel=0.05)


def test_a_task_with_all_splits_keeps_them() -> None:
    given = [Prompt(f"{s}{i}", f"{s} {i}", split=s) for s in SPLITS for i in range(30)]  # type: ignore[arg-type]
    splits = split_prompts(Given(given), SPLITS)
    assert all({p.split for p in prompts} == {name} for name, prompts in splits.items())


def test_too_few_and_double_ids_are_errors() -> None:
    with pytest.raises(DataError, match=f"it needs at least {FEWEST}"):
        split_prompts(Given(numbered(100)), ("validation",))
    with pytest.raises(DataError, match="two prompts have the id '1'"):
        split_prompts(Given([*numbered(3), Prompt("1", "again")]), ())


def test_measured_prompts_are_even_over_units() -> None:
    prompts = [Prompt(f"{u}-{i}", f"{u} {i}", unit=str(u)) for u in range(10) for i in range(u + 1)]
    chosen = measured_prompts(prompts, 20, seed=0)
    counts = Counter(p.unit for p in chosen)
    assert len(chosen) == 20
    assert len(counts) == 10
    assert all(counts[str(u)] >= min(u + 1, 2) for u in range(10))
    assert measured_prompts(list(reversed(prompts)), 20, seed=0)[:10] == chosen[:10]
    assert len(measured_prompts(prompts, 1000, seed=0)) == len(prompts)


def test_step_prompts_pass_over_all_prompts_in_turn() -> None:
    prompts = numbered(7)
    seen = [p.id for index in range(7) for p in step_prompts(prompts, 3, index, 0, "key")]
    for epoch in range(3):
        assert sorted(seen[7 * epoch : 7 * (epoch + 1)]) == sorted(map(str, range(7)))
    assert seen[:7] != seen[7:14]
    again = [p.id for p in step_prompts(prompts, 3, 4, 0, "key")]
    assert again == seen[12:15]
