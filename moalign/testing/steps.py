"""Steps and batches from plain tensors: what a weighting or an optimizer is tested with.

No model, no task: a default for everything, so that a test names only what it is about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from moalign.maths.normalisation import group_zscore
from moalign.types import Batch, Cost, Evaluation, Objective, Prompt, Split, Step

if TYPE_CHECKING:
    from torch import Tensor


def make_objectives(
    *names: str, at_least: Mapping[str, float] | None = None
) -> tuple[Objective, ...]:
    """Return training objectives with bounds (0, 1), on the front, with the given thresholds."""
    thresholds = at_least or {}
    return tuple(Objective(n, bounds=(0.0, 1.0), at_least=thresholds.get(n)) for n in names)


def make_batch(
    prompts: int = 2,
    group: int = 4,
    *,
    lengths: Sequence[int] | None = None,
    conditions_PK: Tensor | None = None,
    token_rewards_BTK: Tensor | None = None,
    lazy: Mapping[str, Callable[[], Tensor]] | None = None,
) -> Batch:
    """Return a batch of invented prompts and completions.

    Args:
        prompts: P.
        group: G.
        lengths: completion tokens per row, end token included; default 3 each.
        conditions_PK: weights written into the prompts.
        token_rewards_BTK: per-token rewards.
        lazy: functions for ``logprobs``, ``ref_logprobs`` and ``hidden``.
    """
    import torch

    rows = prompts * group
    lengths_B = torch.tensor([3] * rows if lengths is None else list(lengths))
    tokens = max(int(lengths_B.max()), 1)
    mask_BT = (torch.arange(tokens) < lengths_B[:, None]).float()
    texts = [f"completion {b}" for b in range(rows)]
    return Batch(
        prompts_P=[Prompt(id=str(p), text=f"prompt {p}") for p in range(prompts)],
        group=group,
        prompt_ids_P=[[1, 2]] * prompts,
        texts_B=texts,
        raw_texts_B=texts,
        ids_BT=torch.full((rows, tokens), 3) * mask_BT.long(),
        mask_BT=mask_BT,
        finished_B=torch.ones(rows, dtype=torch.bool),
        conditions_PK=conditions_PK,
        token_rewards_BTK=token_rewards_BTK,
        lazy=lazy,
    )


def make_evaluation(**values_U: Sequence[float]) -> Evaluation:
    """Return an evaluation from the values per unit of each objective, by name; NaN is allowed."""
    columns = [[float(value) for value in column] for column in values_U.values()]
    units = tuple(str(u) for u in range(len(columns[0])))
    rows = [list(row) for row in zip(*columns, strict=True)]
    return Evaluation(names=tuple(values_U), units=units, values_UK=rows, cost=Cost())


def make_step(
    scores_PGK: Tensor | None = None,
    *,
    objectives: Sequence[Objective] | None = None,
    preference: Mapping[str, float] | None = None,
    index: int = 0,
    total: int = 100,
    learning_rate: float = 1e-3,
    advantages_BTK: Tensor | None = None,
    batch: Batch | None = None,
    losses_K: Tensor | None = None,
    gram: Tensor | None = None,
    gradient_norms_K: Tensor | None = None,
    prompt_features: Tensor | None = None,
    evaluate: Callable[[Split], Evaluation] | Evaluation | None = None,
) -> Step:
    """Return a step from plain tensors.

    Args:
        scores_PGK: raw scores; default: 2 prompts, 4 completions, uniform in [0, 1) from seed 0,
            an objective ``a``, ``b``, ``c``... per entry of `objectives` (3 by default).
        objectives: default: one per column of the scores, named ``a``, ``b``, ``c``...
        preference: weights by objective, divided by their sum; absent ones 0; default equal.
        index: number of the step.
        total: steps in all.
        learning_rate: of the step.
        advantages_BTK: default: z-scores within groups.
        batch: default: completions of 3 tokens.
        losses_K: for weightings that need ``losses``.
        gram: [K + probes, K + probes], for weightings that need ``gram``.
        gradient_norms_K: of everything trained, likewise; default: roots of the Gram's diagonal.
        prompt_features: [P, D], for weightings that need ``prompt_features``.
        evaluate: a measurement, or a function from a split to one, for those that need ``steer``.
    """
    import torch

    if scores_PGK is None:
        count = 3 if objectives is None else len(objectives)
        scores_PGK = torch.rand(2, 4, count, generator=torch.Generator().manual_seed(0))
    prompts, group, count = scores_PGK.shape
    if objectives is None:
        objectives = make_objectives(*(chr(ord("a") + k) for k in range(count)))
    given = dict.fromkeys([o.name for o in objectives], 1.0) if preference is None else preference
    weights_K = torch.tensor([given.get(o.name, 0.0) for o in objectives], dtype=torch.float64)
    if advantages_BTK is None:
        advantages_BTK = group_zscore(scores_PGK).flatten(0, 1)[:, None]
    norms_K = gradient_norms_K
    if norms_K is None and gram is not None:
        norms_K = gram.diagonal()[:count].double().clamp(min=0.0).sqrt()
    return Step(
        objectives=objectives,
        preference_K=(weights_K / weights_K.sum()).float(),
        index=index,
        total=total,
        learning_rate=learning_rate,
        scores_PGK=scores_PGK,
        advantages_BTK=advantages_BTK,
        batch=make_batch(prompts, group) if batch is None else batch,
        losses_K=losses_K,
        gram=None if gram is None else lambda _probes: gram,
        gradient_norms=None if norms_K is None else lambda: norms_K,
        prompt_features=None if prompt_features is None else lambda: prompt_features,
        evaluate=(lambda _split: evaluate) if isinstance(evaluate, Evaluation) else evaluate,
    )
