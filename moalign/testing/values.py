"""What the suites share: made-up batches, exact comparison, states through a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from moalign.components import Stateful
from moalign.testing.contract import require
from moalign.training.checkpoint import load_state, save_state
from moalign.training.seeds import seed_torch
from moalign.types import Batch, Pair, Prompt

LAZY = {"logprobs": "logprobs_BT", "ref_logprobs": "ref_logprobs_BT", "hidden": "hidden_BTD"}
"""Attribute of a batch that each lazy value is read from."""

WORDS = ("it", "is", "near", "the", "river", "cheap", "7", "42", "a.", "and", "good", "food")
HIDDEN = 8
OBJECTIVES = 3


def nobody(read: str) -> None:
    """Take no note of what is read."""


def random_batch(
    *,
    prompts: int = 4,
    group: int = 4,
    tokens: int = 6,
    seed: int = 0,
    spread: float = 1.0,
    fields: Mapping[str, Sequence[Any]] | None = None,
    texts: Sequence[str] | None = None,
    greedy_PK: Tensor | None = None,
    pairs: bool = False,
    on_read: Callable[[str], None] = nobody,
) -> Batch:
    """Return a batch of made-up prompts and completions of different lengths.

    It provides every lazy value, whoever asks.

    Args:
        prompts: P.
        group: G.
        tokens: T, the longest completion.
        seed: another seed gives another batch.
        spread: multiplies log-probabilities and hidden states.
        fields: values by field name; prompt i has value i modulo their number.
        texts: the completions, repeated; default: common words and words of the fields' values.
        greedy_PK: scores of each prompt's likeliest completion; default: uniform, of 3 objectives.
        pairs: its two completions per prompt are preferences, of the groups ``north`` and
            ``south``, with scores ``fluency``.
        on_read: called with the name of each lazy value, ``field:NAME`` for each field, and
            ``pairs``, that is read.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = prompts * group
    lengths_B = torch.randint(1, tokens + 1, (rows,), generator=generator)
    lengths_B[int(torch.randint(rows, (1,), generator=generator))] = tokens
    mask_BT = (torch.arange(tokens) < lengths_B[:, None]).float()
    fields_P = [
        {name: values[p % len(values)] for name, values in (fields or {}).items()}
        for p in range(prompts)
    ]
    if texts is None:
        words_P = [[*WORDS, *_words(list(known.values())) * 4] for known in fields_P]
        picks_BT = torch.randint(10**6, (rows, tokens), generator=generator).tolist()
        words_B = [words_P[b // group] for b in range(rows)]
        texts = [
            " ".join(words[pick % len(words)] for pick in picks[:length])
            for words, picks, length in zip(words_B, picks_BT, lengths_B.tolist(), strict=True)
        ]
    texts_B = [texts[b % len(texts)] for b in range(rows)]
    lazy = {
        "logprobs": -torch.rand(rows, tokens, generator=generator) * mask_BT,
        "ref_logprobs": -torch.rand(rows, tokens, generator=generator) * mask_BT,
        "hidden": torch.randn(rows, tokens, HIDDEN, generator=generator) * mask_BT[..., None],
    }

    if greedy_PK is None:
        drawn = torch.Generator().manual_seed(seed)
        greedy_PK = torch.rand(prompts, OBJECTIVES, generator=drawn)

    def provide(name: str) -> Tensor:
        on_read(name)
        return greedy_PK if name == "greedy_scores" else lazy[name] * spread

    prompts_P = [
        Prompt(id=f"p{p}", text=f"prompt {p}", fields=_Fields(known, on_read))
        for p, known in enumerate(fields_P)
    ]
    batch = Batch(
        prompts_P=prompts_P,
        group=group,
        prompt_ids_P=[[1, 2 + p] for p in range(prompts)],
        texts_B=texts_B,
        raw_texts_B=texts_B,
        ids_BT=(torch.randint(3, 20, (rows, tokens), generator=generator) * mask_BT).long(),
        mask_BT=mask_BT,
        finished_B=lengths_B < tokens,
        lazy={name: partial(provide, name) for name in (*lazy, "greedy_scores")},
    )
    if pairs:
        batch.pairs_P = _Pairs(
            (
                Pair(
                    prompt,
                    texts_B[2 * p],
                    texts_B[2 * p + 1],
                    group=("north", "south")[p % 2],
                    chosen_scores={"fluency": 1 / (p + 1)},
                    rejected_scores={"fluency": 1 / (p + 2)},
                )
                for p, prompt in enumerate(prompts_P)
            ),
            on_read,
        )
    return batch


class _Pairs(tuple[Pair, ...]):
    """Preferences that say when they are read."""

    _note: Callable[[str], None]

    def __new__(cls, pairs: Iterable[Pair], note: Callable[[str], None]) -> _Pairs:
        made = super().__new__(cls, pairs)
        made._note = note
        return made

    def __iter__(self) -> Iterator[Pair]:
        self._note("pairs")
        return super().__iter__()


class _Fields(dict[str, Any]):
    """Fields of a prompt that say when they are read."""

    def __init__(self, fields: Mapping[str, Any], note: Callable[[str], None]) -> None:
        super().__init__(fields)
        self._note = note

    def __getitem__(self, name: str) -> Any:
        self._note(f"field:{name}")
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._note(f"field:{name}")
        return super().get(name, default)


def _words(value: Any) -> list[str]:
    """Return the texts that a field's value is made of."""
    if isinstance(value, list | tuple):
        return [word for item in value for word in _words(item)]
    return [str(value)]


def select(
    batch: Batch,
    order: Sequence[int],
    members: Sequence[int] | None = None,
    columns: Sequence[int] = range(OBJECTIVES),
) -> Batch:
    """Return the batch with these prompts, in this order, and these members of their groups.

    Args:
        batch: a made-up one.
        order: prompts.
        members: completions of each; default: all.
        columns: the objectives, in this order.
    """
    members = range(batch.group) if members is None else members
    rows = [p * batch.group + g for p in order for g in members]
    return Batch(
        prompts_P=[batch.prompts_P[p] for p in order],
        group=len(members),
        prompt_ids_P=[batch.prompt_ids_P[p] for p in order],
        texts_B=[batch.texts_B[b] for b in rows],
        raw_texts_B=[batch.raw_texts_B[b] for b in rows],
        ids_BT=batch.ids_BT[rows],
        mask_BT=batch.mask_BT[rows],
        finished_B=batch.finished_B[rows],
        pairs_P=None if batch.pairs_P is None else [list(batch.pairs_P)[p] for p in order],
        lazy={
            **{name: partial(_rows_of, batch, name, rows) for name in LAZY},
            "greedy_scores": lambda: batch.greedy_scores_PK[list(order)][:, list(columns)],
        },
    )


def _rows_of(batch: Batch, name: str, rows: list[int]) -> Tensor:
    value: Tensor = getattr(batch, LAZY[name])
    return value[rows]


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Start torch's own generator from a seed, as every training step does."""
    with torch.random.fork_rng(devices=[]):
        seed_torch(seed)
        yield


def same(left: Any, right: Any, tolerance: float = 0.0) -> bool:
    """Whether two nested values are equal; NaN equals NaN, and numbers may differ a little.

    Args:
        left: tensors, numbers, text, None, and lists and mappings of these.
        right: the same.
        tolerance: relative and absolute.
    """
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(
            same(value, right[key], tolerance) for key, value in left.items()
        )
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(
            same(a, b, tolerance) for a, b in zip(left, right, strict=True)
        )
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        close = torch.isclose if left.shape == right.shape else None
        return close is not None and bool(
            close(left.double(), right.double(), tolerance, tolerance, equal_nan=True).all()
        )
    if isinstance(left, int | float) and isinstance(right, int | float):
        both_nan = math.isnan(left) and math.isnan(right)
        return both_nan or math.isclose(left, right, rel_tol=tolerance, abs_tol=tolerance)
    return bool(left == right)


def shown(value: Any) -> str:
    """Return numbers as a person compares them: six digits, few of them."""
    numbers = [f"{number:.6g}" for number in torch.as_tensor(value).flatten().tolist()]
    more = ", ..." if len(numbers) > 6 else ""
    return f"[{', '.join(numbers[:6])}{more}]"


def hand_over(component: Stateful, fresh: Stateful) -> None:
    """Give a component's state to a fresh one, by way of a checkpoint on disk."""
    state = component.state_dict()
    fresh.load_state_dict(through_checkpoint(state))
    require(
        same(fresh.state_dict(), state),
        "load_state_dict(state) must take over the whole state, so that state_dict() returns it; "
        f"found {fresh.state_dict()!r} for {state!r}",
    )


def through_checkpoint(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state as it is read back from a checkpoint on disk."""
    with TemporaryDirectory() as folder:
        try:
            save_state(state, Path(folder), "state")
        except TypeError as error:
            raise AssertionError(f"its state cannot be put into a checkpoint: {error}") from error
        return load_state(Path(folder), "state")
