"""From completions to scores per objective: every reward once, asynchronous ones together."""

from __future__ import annotations

import asyncio
import copy
import inspect
import traceback
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moalign.components import Reward
from moalign.errors import ContractError, MoalignError, NonFiniteError
from moalign.types import Batch


@dataclass(frozen=True)
class Column:
    """One objective's column: which output of which reward."""

    name: str
    reward: Reward
    output: str | None = None


@dataclass(frozen=True)
class Scores:
    """Scores of a batch.

    Attributes:
        scores_BK: raw, float32, NaN where an objective does not apply.
        token_rewards_BTK: per-token rewards, NaN columns where an objective gives none; None if
            no objective gives any.
    """

    scores_BK: Tensor
    token_rewards_BTK: Tensor | None

    def select(self, indices: Sequence[int]) -> Scores:
        """Return some of the columns, in the given order."""
        chosen = list(indices)
        tokens = self.token_rewards_BTK
        if tokens is not None:
            tokens = tokens[..., chosen]
            tokens = None if tokens.isnan().all() else tokens
        return Scores(self.scores_BK[:, chosen], tokens)


def grouped(values_BK: Tensor, batch: Batch) -> Tensor:
    """Return values per row as [P, G, K]."""
    return values_BK.view(len(batch.prompts_P), batch.group, -1)


@contextmanager
def unchanged(columns: Sequence[Column]) -> Iterator[None]:
    """Leave the rewards' states as they were: measuring must not change what is trained on."""
    rewards = {id(column.reward): column.reward for column in columns}
    states = [(reward, copy.deepcopy(reward.state_dict())) for reward in rewards.values()]
    try:
        yield
    finally:
        for reward, state in states:
            reward.load_state_dict(state)


def score(batch: Batch, columns: Sequence[Column]) -> Scores:
    """Score a batch: a reward that serves several columns is called once.

    A reward that scores preferences says nothing of other completions: NaN.

    Raises:
        ContractError: a reward raised, or returned the wrong length, type or outputs.
        NonFiniteError: a reward returned an infinity.
    """
    rewards = {id(column.reward): column.reward for column in columns}
    if batch.pairs_P is None:
        rewards = {name: r for name, r in rewards.items() if "pairs" not in r.needs}
    returned = {name: _call(reward, batch) for name, reward in rewards.items()}
    waiting = {name: value for name, value in returned.items() if inspect.isawaitable(value)}
    if waiting:
        returned |= asyncio.run(_gather(waiting, rewards))
    sequence: list[Tensor] = []
    token: list[Tensor | None] = []
    for column in columns:
        if id(column.reward) not in rewards:
            sequence.append(torch.full_like(batch.mask_BT[:, 0], torch.nan))
            token.append(None)
            continue
        values = _tensor(column, returned[id(column.reward)], batch)
        per_token = values.ndim == 2
        if per_token:
            applies_B = ~(values.isnan() | (batch.mask_BT == 0)).all(-1)
            values = values.nan_to_num(0.0) * batch.mask_BT
            nothing = torch.full_like(values[:, 0], torch.nan)
            sequence.append(torch.where(applies_B, values.sum(-1), nothing))
            token.append(values)
        else:
            sequence.append(values)
            token.append(None)
    scores_BK = torch.stack(sequence, dim=-1)
    if all(values is None for values in token):
        return Scores(scores_BK, None)
    absent = torch.full_like(batch.mask_BT, torch.nan)
    stacked = torch.stack([absent if values is None else values for values in token], dim=-1)
    return Scores(scores_BK, stacked)


def score_preferences(batch: Batch, columns: Sequence[Column]) -> Scores:
    """Score completions that the policy did not write for this step.

    A reward that reads what the policy makes of a completion is about its own: NaN here. It is
    asked nothing, so its state is that of rollouts.
    """
    own = [k for k, c in enumerate(columns) if c.reward.needs & {"logprobs", "hidden"}]
    others = [k for k in range(len(columns)) if k not in own]
    scores_BK = torch.full(
        (batch.rows, len(columns)), torch.nan, device=batch.mask_BT.device, dtype=torch.float32
    )
    if others:
        scores_BK[:, others] = score(batch, [columns[k] for k in others]).scores_BK
    return Scores(scores_BK, None)


def _call(reward: Reward, batch: Batch) -> Any:
    try:
        return reward.score(batch)
    except Exception as error:
        raise _blame(reward, error) from error


async def _gather(
    waiting: Mapping[int, Awaitable[Any]], rewards: Mapping[int, Reward]
) -> dict[int, Any]:
    values = await asyncio.gather(*waiting.values(), return_exceptions=True)
    for name, value in zip(waiting, values, strict=True):
        if isinstance(value, BaseException):
            raise _blame(rewards[name], value) from value
    return dict(zip(waiting, values, strict=True))


def _blame(reward: Reward, error: BaseException) -> MoalignError:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames else ""
    return ContractError(f"reward {reward.name} raised {type(error).__name__}: {error}{place}")


def _tensor(column: Column, returned: Any, batch: Batch) -> Tensor:
    who = f"reward {column.reward.name} (objective {column.name})"
    if column.output is not None:
        if not isinstance(returned, Mapping) or column.output not in returned:
            found = list(returned) if isinstance(returned, Mapping) else type(returned).__name__
            raise ContractError(f"{who} must return its output {column.output!r}; found {found}")
        returned = returned[column.output]
    try:
        values = torch.as_tensor(returned, dtype=torch.float32, device=batch.mask_BT.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ContractError(
            f"{who} must return {batch.rows} numbers; found {type(returned).__name__} ({error})"
        ) from error
    shape = tuple(values.shape)
    if shape not in {(batch.rows,), tuple(batch.mask_BT.shape)}:
        raise ContractError(
            f"{who} must return one number per completion, {batch.rows} of them, or a "
            f"{list(batch.mask_BT.shape)} tensor of per-token rewards; found shape {list(shape)}"
        )
    if torch.isinf(values).any():
        row = int(
            torch.isinf(values.flatten(1).sum(-1) if values.ndim > 1 else values).nonzero()[0]
        )
        raise NonFiniteError(f"{who} is infinite for {batch.texts_B[row]!r}")
    return values.detach()
