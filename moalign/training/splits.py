"""Which prompts belong to which split, which are measured, and which a step trains on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import torch

from moalign.components import Task
from moalign.errors import DataError
from moalign.study.study import Study
from moalign.training import seeds
from moalign.types import SPLITS, Prompt, Split

T = TypeVar("T")

SHARES: Final[Mapping[Split, float]] = {
    "train": 0.80,
    "steer": 0.05,
    "validation": 0.05,
    "test": 0.10,
}
"""How prompts without a split are dealt, by a hash of their text."""

FEWEST: Final = 20
"""Fewest prompts in a split that is needed."""

_SALT: Final = "moalign split 1"


def needed_splits(study: Study) -> tuple[Split, ...]:
    """Return the splits that a study reads; steer only if something measures on it."""
    steer = "steer" in study.new_weighting().needs or study.section.training.scale != "none"
    return ("train", "steer", "validation", "test") if steer else ("train", "validation", "test")


def split_prompts(task: Task, needed: Sequence[Split]) -> dict[Split, list[Prompt]]:
    """Return a task's prompts by split.

    A prompt with a split of its own keeps it. The others are dealt to train and to the splits that
    the task gives no prompts for, in proportion of their shares.

    Raises:
        DataError: fewer than :data:`FEWEST` prompts in a needed split, or an id that occurs twice.
    """
    prompts = task.prompts()
    given = {prompt.split for prompt in prompts if prompt.split is not None}
    open_shares = {name: share for name, share in SHARES.items() if name not in given - {"train"}}
    by_split: dict[Split, list[Prompt]] = {name: [] for name in SPLITS}
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise DataError(f"task {task.name}: two prompts have the id {prompt.id!r}")
        seen.add(prompt.id)
        if prompt.split is not None:
            by_split[prompt.split].append(prompt)
        else:
            by_split[_deal(prompt, open_shares)].append(prompt)
    for name in needed:
        if len(by_split[name]) < FEWEST:
            why = "; ".join(task.left_out("prompts"))
            raise DataError(
                f"task {task.name}: the {name} split has {len(by_split[name])} prompts"
                + (f" ({why})" if why else "")
                + f"; it needs at least {FEWEST}. {'Mend that, or give' if why else 'Give'} more "
                "data, or a larger share of it (option `split` of tasks that read files)"
            )
    return by_split


def _deal(prompt: Prompt, shares: Mapping[Split, float]) -> Split:
    digest = hashlib.blake2b(f"{_SALT}\n{prompt.text}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64 * sum(shares.values())
    for name, share in shares.items():
        place -= share
        if place < 0:
            return name
    return "train"


def measured_prompts(prompts: Sequence[Prompt], most: int, seed: int) -> list[Prompt]:
    """Return the prompts of a split that are measured; see :func:`measured`."""
    return measured(prompts, _unit, lambda prompt: (prompt.id,), most, seed)


def measured(
    items: Sequence[T],
    unit: Callable[[T], str],
    name: Callable[[T], tuple[object, ...]],
    most: int,
    seed: int,
) -> list[T]:
    """Return what is measured of a split: at most ``most``, evenly over units.

    Units take turns, each giving its items in an order keyed by the seed, so every unit counts
    alike. With more units than ``most`` some are left out, always the same ones.

    Args:
        items: of the split.
        unit: of an item.
        name: what an item is told apart by.
        most: how many.
        seed: of the study.
    """
    by_unit: dict[str, list[T]] = {}
    for item in sorted(items, key=lambda i: seeds.key(seed, "measured", *name(i))):
        by_unit.setdefault(unit(item), []).append(item)
    chosen: list[T] = []
    rounds = max((len(queue) for queue in by_unit.values()), default=0)
    for turn in range(rounds):
        for queue in by_unit.values():
            if turn < len(queue) and len(chosen) < most:
                chosen.append(queue[turn])
    return chosen


def step_prompts(prompts: Sequence[Prompt], count: int, index: int, *key: object) -> list[Prompt]:
    """Return the prompts of training step ``index``; see :func:`next_of`."""
    return next_of(prompts, _unit, count, index, *key)


def next_of(
    items: Sequence[T], unit: Callable[[T], str], count: int, index: int, *key: object
) -> list[T]:
    """Return what training step ``index`` trains on, evenly over units, as they are measured.

    Units come in shuffled epochs, end to end; a unit gives its items in turn, one per epoch.
    Depends on the step's number only, so there is no position to save.

    Args:
        items: of the split.
        unit: of an item.
        count: items per step.
        index: the step's number.
        *key: of the random numbers.
    """
    by_unit: dict[str, list[T]] = {}
    for item in items:
        by_unit.setdefault(unit(item), []).append(item)
    queues = list(by_unit.values())
    chosen = []
    orders: dict[int, list[int]] = {}
    for position in range(index * count, (index + 1) * count):
        epoch, place = divmod(position, len(queues))
        if epoch not in orders:
            generator = seeds.generator(*key, "order", epoch)
            orders[epoch] = torch.randperm(len(queues), generator=generator).tolist()
        queue = queues[orders[epoch][place]]
        first = seeds.key(*key, "turn", unit(queue[0]))
        chosen.append(queue[(first + epoch) % len(queue)])
    return chosen


def _unit(prompt: Prompt) -> str:
    return prompt.unit
