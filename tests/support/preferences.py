"""A stage before training from plain numbers: preferences whose scores are given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moalign.components import Weighting
from moalign.testing.steps import make_objectives
from moalign.testing.values import through_checkpoint
from moalign.types import Pair, Preparation, Prompt


def context(
    texts: Sequence[str],
    chosen: Sequence[Sequence[float]],
    rejected: Sequence[Sequence[float]] | None = None,
    *,
    names: str = "abc",
    features: Tensor | None = None,
    seed: int = 0,
) -> Preparation:
    """Return preferences of prompts with these texts, and the scores of their completions.

    Args:
        texts: a prompt's text per preference.
        chosen: scores of the preferred completions, one row per preference.
        rejected: of the others; default 0.
        names: of the objectives, a letter each; as many as there are scores.
        features: one row per preference, of its prompt; default one-hot by distinct text.
        seed: the study's.
    """
    count = len(chosen[0])
    zeros = [[0.0] * count] * len(texts)
    scores = {"chosen": chosen, "rejected": rejected or zeros}
    prompts = [Prompt(str(n), text) for n, text in enumerate(texts)]
    distinct = list(dict.fromkeys(texts))

    def score(asked: Sequence[Prompt], completions: Sequence[str]) -> Tensor:
        rows = zip(asked, completions, strict=True)
        return torch.tensor([list(scores[c][int(p.id)]) for p, c in rows], dtype=torch.float32)

    def features_of(asked: Sequence[Prompt]) -> Tensor:
        if features is not None:
            return torch.stack([features[int(p.id)] for p in asked]).float()
        return torch.eye(len(distinct))[[distinct.index(p.text) for p in asked]]

    return Preparation(
        objectives=make_objectives(*names[:count]),
        seed=seed,
        prompts=tuple(prompts),
        pairs=tuple(Pair(p, "chosen", "rejected") for p in prompts),
        score=score,
        features=features_of,
        progress=lambda _share, _words: None,
    )


def prepared(weighting: Weighting, given: Preparation) -> Weighting:
    """Let a weighting learn from preferences, by way of a checkpoint, and return it."""
    weighting.load_prepared(through_checkpoint(type(weighting).prepare(weighting, given)))
    return weighting


def never() -> Tensor:
    """Stand for the features of prompts where nobody should ask for them."""
    raise AssertionError("the features were asked for")


def families(
    count: int = 60, *, seed: int = 0, noise: float = 0.1
) -> tuple[list[str], list[list[float]], list[list[float]]]:
    """Return two kinds of prompts: the first wants ``a``, the second ``b``; ``c`` is constant.

    Returns:
        texts, scores of the chosen and of the rejected completions.
    """
    drawn = torch.Generator().manual_seed(seed)
    texts, chosen, rejected = [], [], []
    for n in range(count):
        first = n % 2 == 0
        texts.append(f"{'add the numbers' if first else 'say in few words'} {n}")
        spread = [[a, b, 0.0] for a, b in (noise * torch.randn(2, 2, generator=drawn)).tolist()]
        good = [0.9, 0.1, 0.5] if first else [0.1, 0.9, 0.5]
        bad = [0.1, 0.2, 0.5] if first else [0.2, 0.1, 0.5]
        chosen.append([g + s for g, s in zip(good, spread[0], strict=True)])
        rejected.append([b + s for b, s in zip(bad, spread[1], strict=True)])
    return texts, chosen, rejected
