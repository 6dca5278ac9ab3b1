"""The contract of a reward: scores follow their completions, keep their range, need what they say.

A reward that reads fields of the prompts shows some values of each in ``example_fields``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from moalign.components import Reward
from moalign.errors import ContractError, NonFiniteError
from moalign.testing.contract import Check, Factory, require
from moalign.testing.values import (
    LAZY,
    hand_over,
    nobody,
    random_batch,
    same,
    seeded,
    select,
    shown,
)
from moalign.training.scoring import Column, Scores, score
from moalign.types import Batch

PROMPTS, GROUP = 4, 3
TOLERANCE = 1e-5


def check_scores_every_completion(factory: Factory) -> None:
    """It returns a number per completion or token for each output, whatever the texts are."""
    reward = factory()
    for need in reward.needs:
        kind, _, name = need.partition(":")
        require(
            need in {*LAZY, "pairs"} or (kind == "field" and name in reward.example_fields),
            f"`needs` may contain {', '.join(LAZY)}, pairs, and field:NAME where "
            f"`example_fields` shows some values of NAME; found {need!r}",
        )
    for batch in _batches(reward):
        try:
            _finite_scores(reward, batch)
        except ContractError as error:
            raise AssertionError(
                f"{error}; if it reads a field of the prompts, name it in `needs` and show some "
                "values in `example_fields`"
                if isinstance(error.__cause__, KeyError)
                else str(error)
            ) from error


def check_stays_in_its_range(factory: Factory) -> None:
    """Every score is inside `range`, if it has one; also for empty and very long completions."""
    for batch in _batches(factory()):
        reward = factory()
        low, high = reward.range or (-math.inf, math.inf)
        for name, values_B in _finite_scores(reward, batch).items():
            outside = values_B[(values_B < low - TOLERANCE) | (values_B > high + TOLERANCE)]
            require(
                len(outside) == 0,
                f"scores must be inside `range` {reward.range}, because objectives are normalised "
                f"by it; found {shown(outside)} of {name}",
            )


def check_is_never_infinite(factory: Factory) -> None:
    """No score is infinite, also for empty and very long completions; NaN is allowed."""
    for batch in _batches(factory()):
        try:
            _score(factory(), batch)
        except NonFiniteError as error:
            raise AssertionError(
                f"a score must be a number, or NaN if the objective does not apply: {error}"
            ) from error


def check_follows_the_rows(factory: Factory) -> None:
    """Prompts in another order, each with its group, get the same scores in that order."""
    order = [2, 0, 3, 1]
    for batch in _batches(factory()):
        plain = _finite_scores(factory(), batch)
        moved = _finite_scores(factory(), select(batch, order))
        rows = [p * batch.group + g for p in order for g in range(batch.group)]
        for name, values_B in plain.items():
            require(
                same(moved[name], values_B[rows], TOLERANCE),
                f"a score must belong to its completion, not to its place in the batch; with the "
                f"prompts in the order {order} {name} is {shown(moved[name])} instead of "
                f"{shown(values_B[rows])}",
            )


def check_groups_stand_alone(factory: Factory) -> None:
    """Without a state, a group scored alone gets the scores that it has in the whole batch."""
    reward = factory()
    batch = _batch(reward)
    whole = _finite_scores(reward, batch)
    if reward.state_dict():
        return
    for p in range(PROMPTS):
        alone = _finite_scores(factory(), select(batch, [p]))
        for name, values_B in whole.items():
            expected = values_B[p * batch.group : (p + 1) * batch.group]
            require(
                same(alone[name], expected, TOLERANCE),
                "the score of a completion must not depend on other prompts' completions, unless "
                f"the reward keeps a state; alone {name} is {shown(alone[name])}, in the batch "
                f"{shown(expected)}",
            )


def check_is_deterministic(factory: Factory) -> None:
    """Two equal rewards give the same completions the same scores."""
    for batch in _batches(factory()):
        first, second = _finite_scores(factory(), batch), _finite_scores(factory(), batch)
        require(
            same(first, second),
            "equal completions must get equal scores, or no run can be repeated; two equal rewards "
            "gave them different ones",
        )


def check_resumes(factory: Factory) -> None:
    """After its state went through a checkpoint, a fresh reward scores on as the old one does."""
    reward, fresh = factory(), factory()
    _finite_scores(reward, _batch(reward, seed=1))
    hand_over(reward, fresh)
    batch = _batch(reward, seed=2)
    require(
        same(_finite_scores(reward, batch), _finite_scores(fresh, batch)),
        "all that it has learnt must be in its state_dict(); after load_state_dict the next scores "
        "differ",
    )


def check_needs_what_it_reads(factory: Factory) -> None:
    """`needs` names the lazy values and fields that it reads, all of them and no others."""
    reward = factory()
    read: set[str] = set()
    for batch in _batches(reward, on_read=read.add):
        _finite_scores(reward, batch)
    for need in sorted(read - reward.needs):
        raise AssertionError(
            f"it reads {need!r}, so `needs` must contain it, or the host does not provide it; "
            f"found {sorted(reward.needs)}"
        )
    for need in sorted(reward.needs - read):
        raise AssertionError(
            f"`needs` contains {need!r}, which costs time, but nothing reads it; take it out"
        )


def check_leaves_the_batch_alone(factory: Factory) -> None:
    """It changes no tensor of the batch, which the other rewards and the loss read too."""
    reward = factory()
    for batch in _batches(reward):
        before = {name: getattr(batch, name).clone() for name in TENSORS}
        _finite_scores(reward, batch)
        for name in TENSORS:
            require(
                same(getattr(batch, name), before[name]),
                f"it must not change batch.{name}; work on a copy",
            )


PROPERTIES: tuple[Check, ...] = (
    check_scores_every_completion,
    check_stays_in_its_range,
    check_is_never_infinite,
    check_follows_the_rows,
    check_groups_stand_alone,
    check_is_deterministic,
    check_resumes,
    check_needs_what_it_reads,
    check_leaves_the_batch_alone,
)


STRANGE = ("", " ", "\n\t", "naïve 你好 🙂", "a" * 5000, "word " * 2000, "\\(.*[", "<name> <b>")
TENSORS = ("ids_BT", "mask_BT", "finished_B", *LAZY.values())


def _batch(
    reward: Reward,
    seed: int = 0,
    on_read: Callable[[str], None] = nobody,
    **options: Any,
) -> Batch:
    pairs = "pairs" in reward.needs
    return random_batch(
        prompts=PROMPTS,
        group=2 if pairs else GROUP,
        seed=seed,
        fields=reward.example_fields,
        pairs=pairs,
        on_read=on_read,
        **options,
    )


def _batches(reward: Reward, on_read: Callable[[str], None] = nobody) -> Iterator[Batch]:
    """Yield an ordinary batch, and one of empty, endless, foreign and unlikely completions."""
    yield _batch(reward, on_read=on_read)
    yield _batch(reward, seed=1, on_read=on_read, spread=1000.0, texts=STRANGE)


def _score(reward: Reward, batch: Batch) -> dict[str, Tensor]:
    """Return scores [B] by output, as the host reads them."""
    columns = [Column(name, reward, name) for name in reward.outputs]
    columns = columns or [Column(reward.name, reward)]
    with seeded():
        scores: Scores = score(batch, columns)
    return {column.name: scores.scores_BK[:, k] for k, column in enumerate(columns)}


def _finite_scores(reward: Reward, batch: Batch) -> dict[str, Tensor]:
    """Return scores by output; infinite ones are another property's business."""
    try:
        return _score(reward, batch)
    except NonFiniteError:
        return {}
