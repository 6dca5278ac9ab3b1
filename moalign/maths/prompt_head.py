"""A small network from a prompt's features to weights on the simplex, and how it is fitted.

Shapes: U distinct prompts, D features, N examples, K objectives. Everything is computed in float64.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

DIMENSIONS: Final = 1024
"""Of the features of a text."""

NORM: Final = 8.0
"""Of the features of a text: about what a few dozen standardised features have."""

LIMIT: Final = 5.0
"""Where a scaled feature is clipped: further out nothing was seen."""

BATCH: Final = 32
DECAY: Final = 0.01
PATIENCE: Final = 10
"""Measurements without improvement after which fitting ends."""

ENOUGH: Final = 1e-4
"""Nats that count as an improvement."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""``loss(log_weights_MK, rows_M) -> losses_M`` of M examples, in nats."""


def text_features(texts: Sequence[str]) -> Tensor:
    """Return hashed counts of what a text is made of: no model is needed.

    Words, marks, pairs of neighbours, up to three characters in a row, and the number of words,
    in lower case. Each falls on a coordinate and a sign by its CRC; counts are taken as
    1 + log(count), and a text's features have the norm :data:`NORM`.

    Returns:
        float32 [N, :data:`DIMENSIONS`]; a row of 0 for a blank text.

    Source: Weinberger et al. 2009, arXiv 0902.2206 (signed feature hashing).
    """
    found = torch.zeros(len(texts), DIMENSIONS, dtype=torch.float64)
    for row, text in zip(found, texts, strict=True):
        for piece, count in Counter(_pieces(text)).items():
            code = zlib.crc32(piece.encode())
            sign = 1.0 if code & 0x10000 else -1.0
            row[code % DIMENSIONS] += sign * (1.0 + math.log(count))
    norms: Tensor = found.norm(dim=1, keepdim=True)
    return (found * (NORM / norms.clamp(min=1e-12))).float()


def _pieces(text: str) -> Iterator[str]:
    text = " ".join(text.lower().split())
    words = re.findall(r"\w+|[^\w\s]", text)
    if not words:
        return
    yield from (f"w {word}" for word in words)
    yield from (f"p {one} {other}" for one, other in itertools.pairwise(words))
    for length in (1, 2, 3):
        yield from (f"c {text[i : i + length]}" for i in range(len(text) - length + 1))
    count = len(words)
    yield f"n {count if count <= 8 else 2 ** int(math.log2(count))}"


def head_weights(head: Mapping[str, Tensor], features_ND: Tensor) -> Tensor:
    """Return the weights that a fitted head gives to prompts, float64 [N, K]."""
    return torch.softmax(_logits(head, _scaled(head, features_ND)), -1)


def _scaled(head: Mapping[str, Tensor], features_ND: Tensor) -> Tensor:
    return ((features_ND.double() - head["centre"]) * head["scale"]).clamp(-LIMIT, LIMIT)


def _logits(head: Mapping[str, Tensor], features_ND: Tensor) -> Tensor:
    if "inner" in head:
        features_ND = torch.tanh(features_ND @ head["inner"].T + head["inner_bias"])
    return features_ND @ head["outer"].T + head["outer_bias"]


@dataclass(frozen=True)
class Fitted:
    """A fitted head.

    Attributes:
        head: its tensors, float64.
        extra: what was fitted with it, by name.
        before: mean loss of the constant weights it started from, in nats, on what judged it.
        after: its own.
        judged: examples that judged it.
        steps: steps taken up to it.
        weights_UK: what it gives to the prompts.
    """

    head: dict[str, Tensor]
    extra: dict[str, Tensor]
    before: float
    after: float
    judged: int
    steps: int
    weights_UK: Tensor


def fit_head(
    features_UD: Tensor,
    prompts_N: Tensor,
    loss: Loss,
    start_K: Tensor,
    *,
    standardise: bool,
    hidden: int,
    learning_rate: float,
    steps: int,
    held_out: float,
    seed: int,
    extra: Mapping[str, Tensor] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Fitted:
    """Fit a head by AdamW on mini-batches; what is held out says when to stop.

    It starts from constant weights for every prompt, and is only left where examples that it was
    not fitted to get a lower loss: so it is never worse there than the best weights without it.

    Args:
        features_UD: of the distinct prompts.
        prompts_N: the prompt of each example.
        loss: of some examples, given the log-weights of their prompts.
        start_K: the constant weights, all above 0.
        standardise: each feature by its deviation; else all by one number, to a norm of
            :data:`NORM`. They are centred in both cases.
        hidden: units of a hidden layer; 0 for a linear head.
        learning_rate: of AdamW.
        steps: the most that are taken.
        held_out: share of the prompts that judge; if that is less than one prompt, what it is
            fitted to judges.
        seed: of the order, of what is held out, and of the hidden layer.
        extra: leaf tensors that `loss` reads and that are fitted as well, in place.
        progress: called with the share of the steps taken, now and then.
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(features_UD)
    held_U = torch.zeros(count, dtype=torch.bool)
    held_U[torch.randperm(count, generator=generator)[: int(held_out * count)]] = True
    learnt = (~held_U[prompts_N]).nonzero().flatten()
    judged = held_U[prompts_N].nonzero().flatten()
    if not len(judged):
        judged = learnt
    head = _scales(features_UD[~held_U].double(), standardise)
    head |= _start(_scaled(head, features_UD), start_K, hidden, generator)
    inputs_UD = _scaled(head, features_UD)
    fitted = {n: t for n, t in head.items() if n not in {"centre", "scale"}}
    biases = {n: t for n, t in fitted.items() if n.endswith("bias")} | dict(extra or {})
    matrices = [t for n, t in fitted.items() if n not in biases]
    everything = fitted | dict(extra or {})
    for tensor in everything.values():
        tensor.requires_grad_()
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": DECAY},
            {"params": list(biases.values()), "weight_decay": 0.0},
        ],
        lr=learning_rate,
    )

    def losses(rows: Tensor) -> Tensor:
        log_weights = torch.log_softmax(_logits(head, inputs_UD[prompts_N[rows]]), -1)
        return loss(log_weights, rows)

    def judge() -> float:
        with torch.no_grad():
            return float(losses(judged).mean())

    def copies() -> dict[str, Tensor]:
        return {n: t.detach().clone() for n, t in everything.items()}

    before = best = judge()
    kept, kept_at, waited, step = copies(), 0, 0, 0
    every = max(10, -(-len(learnt) // BATCH))
    while step < steps and waited < PATIENCE:
        order = learnt[torch.randperm(len(learnt), generator=generator)]
        for rows in torch.split(order, BATCH):
            optimizer.zero_grad()
            losses(rows).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            if step % every == 0 or step == steps:
                if progress is not None:
                    progress(step / steps)
                found = judge()
                waited += 1
                if found < best - ENOUGH:
                    best, kept, kept_at, waited = found, copies(), step, 0
            if step == steps or waited == PATIENCE:
                break
    head = {**{n: t for n, t in head.items() if n not in fitted}, **{n: kept[n] for n in fitted}}
    return Fitted(
        head=head,
        extra={n: kept[n] for n in extra or {}},
        before=before,
        after=best,
        judged=len(judged),
        steps=kept_at,
        weights_UK=head_weights(head, features_UD),
    )


def _scales(features_UD: Tensor, standardise: bool) -> dict[str, Tensor]:
    """Return what centres features and scales them: each by its deviation, or all to one norm."""
    centre_D = features_UD.mean(0)
    spread_D = features_UD.std(0, correction=0)
    flat_D = spread_D <= 1e-6 * features_UD.abs().amax(0)
    if standardise:
        scale_D = 1.0 / spread_D.clamp(min=1e-300)
    else:
        scale_D = (NORM / spread_D.norm().clamp(min=1e-300)).expand_as(spread_D)
    return {"centre": centre_D, "scale": torch.where(flat_D, 0.0, scale_D)}


def _start(
    inputs_UD: Tensor, start_K: Tensor, hidden: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return a head that gives the constant weights to every prompt."""
    head: dict[str, Tensor] = {}
    width = inputs_UD.shape[1]
    if hidden:
        size = inputs_UD.square().sum(1).mean().sqrt().clamp(min=1e-12)
        drawn = torch.randn(hidden, width, generator=generator, dtype=torch.float64)
        head["inner"] = drawn / size
        head["inner_bias"] = torch.zeros(hidden, dtype=torch.float64)
        width = hidden
    # No objective is told from another by chance: they follow their names, not their positions.
    head["outer"] = torch.zeros(len(start_K), width, dtype=torch.float64)
    head["outer_bias"] = start_K.double().log()
    return head
