"""The contract of a weighting: finite weights on the simplex that follow names, not positions.

The steps have the objectives ``a``, ``b`` (``at_least`` 0.4) and ``c`` (``at_least`` 0.6), with
bounds (0, 1), and can be asked for everything; what is asked for is compared with ``needs``.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from moalign.components import Weighting
from moalign.errors import OptionError
from moalign.maths.normalisation import group_zscore
from moalign.testing.contract import Check, Factory, require
from moalign.testing.values import (
    hand_over,
    nobody,
    random_batch,
    same,
    seeded,
    shown,
    through_checkpoint,
)
from moalign.types import (
    Cost,
    Evaluation,
    Objective,
    Pair,
    Preparation,
    Prompt,
    ResponseScores,
    Split,
    Step,
    Weights,
)

PROMPTS, GROUP, UNITS, STEPS = 3, 4, 6, 3
OBJECTIVES = (
    Objective("a", (0.0, 1.0)),
    Objective("b", (0.0, 1.0), at_least=0.4),
    Objective("c", (0.0, 1.0), at_least=0.6),
)
PREFERENCE = (0.5, 0.3, 0.2)
NEEDS = ("gram", "steer", "prompt_features", "losses", "pairs")
ORDER = (2, 0, 1)
TOLERANCE = 1e-5


def check_returns_weights(factory: Factory) -> None:
    """It returns Weights broadcastable to [P, G, K], or ResponseScores [P, G]."""
    weighting: Weighting = factory()
    unknown = sorted(weighting.needs - set(NEEDS))
    require(not unknown, f"`needs` may contain {', '.join(NEEDS)}; found {', '.join(unknown)}")
    try:
        weighting.check(OBJECTIVES)
    except OptionError as error:
        raise AssertionError(
            "its `examples` must suit the objectives a, b (at_least 0.4) and c (at_least 0.6); "
            f"check() says: {error}"
        ) from error
    shape = (PROMPTS, GROUP, len(OBJECTIVES))
    returned: Any
    for returned in _run(weighting):
        scores = isinstance(returned, ResponseScores)
        require(
            scores == ("response-scores" in weighting.declares),
            f"it returned {type(returned).__name__}, and `declares` must contain "
            "'response-scores' if, and only if, it returns ResponseScores",
        )
        if isinstance(returned, ResponseScores):
            require(
                tuple(returned.values_PG.shape) == shape[:2],
                f"values_PG must have the shape {shape[:2]}; found "
                f"{tuple(returned.values_PG.shape)}",
            )
            continue
        require(
            isinstance(returned, Weights) and isinstance(returned.values, Tensor),
            f"it must return Weights(tensor), or ResponseScores(tensor); found {returned!r}",
        )
        require(
            _broadcasts(returned.values, shape),
            "weights must be broadcastable to [P, G, K], so [K], [P, 1, K] or [P, G, K] with K "
            f"last; found {tuple(returned.values.shape)} for {shape}",
        )
        gain = torch.as_tensor(returned.gain)
        require(
            _broadcasts(gain, (PROMPTS, 1)),
            f"the gain must be a number or a tensor [P, 1]; found {tuple(gain.shape)}",
        )


def check_is_finite(factory: Factory) -> None:
    """Weights and gain are finite for tiny, huge, equal and missing scores."""
    for trouble in TROUBLES:
        for returned in _run(factory(), trouble=trouble):
            if isinstance(returned, ResponseScores):
                applies_PG = ~trouble.scores(_scores(0)).isnan().all(-1)
                found = returned.values_PG[applies_PG]
            else:
                gain = torch.as_tensor(returned.gain, dtype=torch.float64)
                found = torch.cat([returned.values.double().flatten(), gain.flatten()])
            require(
                found.isfinite().all(),
                f"weights and gain must be finite whatever the scores, or the policy is lost; with "
                f"{trouble.name} scores found {sorted(set(found[~found.isfinite()].tolist()))}",
            )


def check_stays_on_the_simplex(factory: Factory) -> None:
    """Weights are not negative and sum to 1, unless it declares otherwise."""
    for trouble in TROUBLES:
        weighting = factory()
        for returned in _run(weighting, trouble=trouble):
            if isinstance(returned, ResponseScores) or not returned.values.isfinite().all():
                continue
            least = float(returned.values.min())
            require(
                "signed" in weighting.declares or least >= 0,
                "weights must not be negative unless `declares` contains 'signed'; found "
                f"{least:.6g} with {trouble.name} scores",
            )
            sums = returned.values.double().sum(-1)
            require(
                "unnormalised" in weighting.declares or same(sums, torch.ones_like(sums), 1e-4),
                "weights must sum to 1 unless `declares` contains 'unnormalised'; found sums "
                f"{shown(sums)} with {trouble.name} scores",
            )


def check_follows_the_names(factory: Factory) -> None:
    """Objectives in another order get the same weights in that order."""
    moved = [OBJECTIVES[k].name for k in ORDER]
    for plain, other in zip(_run(factory()), _run(factory(), order=ORDER), strict=True):
        left, right = _numbers(plain), _numbers(other)
        if isinstance(plain, Weights):
            left["values"] = plain.values[..., list(ORDER)]
        require(
            same(left, right, TOLERANCE),
            f"weights belong to objectives, not to positions; with the objectives in the order "
            f"{', '.join(moved)} found {shown(right['values'])} instead of {shown(left['values'])}",
        )


def check_leaves_one_objective_alone(factory: Factory) -> None:
    """With one objective the weight is 1: what is left is the plain optimizer."""
    weighting = factory()
    try:
        weighting.check(OBJECTIVES[:1])
    except OptionError:
        return  # it says itself that it needs more
    for index, returned in enumerate(_run(weighting, order=(0,))):
        if isinstance(returned, ResponseScores):
            found = group_zscore(returned.values_PG[..., None])
            expected = group_zscore(_scores(index)[..., :1])
            require(
                same(found, expected, 1e-3),
                "with one objective the response scores must rank as its scores do, up to an "
                "increasing line, so that they agree after normalisation",
            )
        elif "unnormalised" not in weighting.declares:
            require(
                same(returned.values, torch.ones_like(returned.values), TOLERANCE),
                f"with one objective its weight must be 1; found {shown(returned.values)}",
            )


def check_is_deterministic(factory: Factory) -> None:
    """Two equal weightings give the same steps the same weights."""
    first, second = ([_numbers(r) for r in _run(factory())] for _ in range(2))
    require(
        same(first, second),
        "equal steps must get equal weights, or no run can be repeated; two equal weightings gave "
        "them different ones",
    )


def check_resumes(factory: Factory) -> None:
    """After its state went through a checkpoint, a fresh weighting goes on as the old one does."""
    weighting, fresh = factory(), factory()
    _run(weighting)
    hand_over(weighting, fresh)
    next_steps = range(STEPS, STEPS + 2)
    old, new = ([_numbers(r) for r in _run(w, next_steps)] for w in (weighting, fresh))
    require(
        same(old, new),
        "all that it has learnt must be in its state_dict(); after load_state_dict the next "
        f"weights are {shown(new[0]['values'])} instead of {shown(old[0]['values'])}",
    )


def check_needs_what_it_asks_for(factory: Factory) -> None:
    """`needs` names what it asks of the step, all of it and no more."""
    weighting, asked = factory(), set[str]()
    _run(weighting, range(2 * STEPS), on_read=asked.add)
    for need in sorted(asked - weighting.needs):
        raise AssertionError(
            f"it asks for {need!r}, so `needs` must contain it, or the host does not provide it; "
            f"found {sorted(weighting.needs)}"
        )
    for need in sorted(weighting.needs - asked):
        raise AssertionError(
            f"`needs` contains {need!r}, but in {2 * STEPS} steps it never asks for it; take it out"
        )


def check_leaves_the_step_alone(factory: Factory) -> None:
    """It changes no tensor of the step, which the optimizer reads too."""
    weighting = factory()
    prepare(weighting)
    for index in range(STEPS):
        step = _step(index)
        given = {
            "scores_PGK": step.scores_PGK,
            "advantages_BTK": step.advantages_BTK,
            "preference_K": step.preference_K,
            "batch.mask_BT": step.batch.mask_BT,
            "gram()": step.gram(),
        }
        before = {name: tensor.clone() for name, tensor in given.items()}
        _ask(weighting, step)
        for name, tensor in given.items():
            require(same(tensor, before[name]), f"it must not change step.{name}; work on a copy")


def check_weighs_prompts(factory: Factory) -> None:
    """With `prompt-weights` declared, prompt_weights() returns [P, K] on the simplex."""
    weighting = factory()
    if "prompt-weights" not in weighting.declares:
        return
    prepare(weighting)
    step = _step(0)
    weights_PK = weighting.prompt_weights(step.batch.prompts_P, step.prompt_features)
    shape = (PROMPTS, len(OBJECTIVES))
    require(
        tuple(weights_PK.shape) == shape,
        f"prompt_weights() must return [P, K] = {shape}; found {tuple(weights_PK.shape)}",
    )
    sums = weights_PK.double().sum(-1)
    require(
        bool((weights_PK >= 0).all()) and same(sums, torch.ones_like(sums), 1e-4),
        f"prompt_weights() must not be negative and sum to 1; found sums {shown(sums)}",
    )


PROPERTIES: tuple[Check, ...] = (
    check_returns_weights,
    check_is_finite,
    check_stays_on_the_simplex,
    check_follows_the_names,
    check_leaves_one_objective_alone,
    check_is_deterministic,
    check_resumes,
    check_needs_what_it_asks_for,
    check_leaves_the_step_alone,
    check_weighs_prompts,
)


@dataclass(frozen=True)
class _Trouble:
    """A word for some scores, and what they are made of: ordinary ones times, plus."""

    name: str
    times: float = 1.0
    plus: float = 0.0
    missing: tuple[int, ...] = ()

    def scores(self, scores_PGK: Tensor) -> Tensor:
        changed_PGK = scores_PGK * self.times + self.plus
        changed_PGK[..., list(self.missing)] = torch.nan
        return changed_PGK


ORDINARY = _Trouble("ordinary")
TROUBLES = (
    ORDINARY,
    _Trouble("tiny", times=1e-10),
    _Trouble("huge", times=1e10),
    _Trouble("negative", times=-1e3),
    _Trouble("equal", times=0.0, plus=0.3),
    _Trouble("one objective's missing", missing=(1,)),
    _Trouble("no", missing=(0, 1, 2)),
)


def _scores(index: int) -> Tensor:
    generator = torch.Generator().manual_seed(index)
    return torch.rand(PROMPTS, GROUP, len(OBJECTIVES), generator=generator)


class _Step(Step):
    """A step that says when its losses are read."""

    def __init__(self, on_read: Callable[[str], None], **values: Any) -> None:
        self._on_read = on_read
        super().__init__(**values)

    def __getattribute__(self, name: str) -> Any:
        if name == "losses_K":
            self._on_read("losses")
        return super().__getattribute__(name)


def _step(
    index: int,
    order: Sequence[int] = (0, 1, 2),
    trouble: _Trouble = ORDINARY,
    on_read: Callable[[str], None] = nobody,
) -> Step:
    """Return a step with the objectives in this order; everything else is the same in any order."""
    columns = list(order)
    generator = torch.Generator().manual_seed(1000 + index)
    scores_PGK = trouble.scores(_scores(index))[..., columns]
    gradients_KN = torch.randn(len(OBJECTIVES) + 1, 9, generator=generator, dtype=torch.float64)
    features_PD = torch.randn(PROMPTS, 5, generator=generator)
    values_UK = torch.rand(UNITS, len(OBJECTIVES), generator=generator) * trouble.times
    losses_K = torch.rand(len(OBJECTIVES), generator=generator) * trouble.times
    gradients_KN[list(trouble.missing)] = 0.0
    gradients_KN *= abs(trouble.times)
    losses_K[list(trouble.missing)] = torch.nan

    def gram(probes: tuple[str, ...]) -> Tensor:
        on_read("gram")
        for probe in probes:
            on_read(probe)
        rows_KN = gradients_KN[[*columns, *[-1] * len(probes)]]
        return rows_KN @ rows_KN.T

    def gradient_norms() -> Tensor:
        on_read("gram")
        return gradients_KN[columns].square().sum(1).sqrt()

    def prompt_features() -> Tensor:
        on_read("prompt_features")
        return features_PD

    def evaluate(split: Split) -> Evaluation:
        on_read(split)
        named = {o.name: values_UK[:, k].tolist() for k, o in enumerate(OBJECTIVES)}
        measured = {"monitored": [math.nan, 7.0] * (UNITS // 2), **named}
        rows = [list(row) for row in zip(*measured.values(), strict=True)]
        return Evaluation(tuple(measured), tuple(map(str, range(UNITS))), rows, Cost())

    preference_K = torch.tensor([PREFERENCE[k] for k in columns])
    return _Step(
        on_read,
        objectives=[OBJECTIVES[k] for k in columns],
        preference_K=preference_K / preference_K.sum(),
        index=index,
        total=10 * STEPS,
        learning_rate=1e-3,
        scores_PGK=scores_PGK,
        advantages_BTK=group_zscore(scores_PGK).flatten(0, 1)[:, None],
        batch=random_batch(prompts=PROMPTS, group=GROUP, seed=index),
        losses_K=losses_K[columns],
        gram=gram,
        gradient_norms=gradient_norms,
        prompt_features=prompt_features,
        evaluate=evaluate,
    )


def _run(
    weighting: Weighting, indices: Sequence[int] = range(STEPS), **options: Any
) -> list[Weights | ResponseScores]:
    """Return what a weighting gives for steps in turn, new weights for mini-batches included."""
    prepare(weighting, options.get("order", (0, 1, 2)), options.get("on_read", nobody))
    return [given for index in indices for given in _ask(weighting, _step(index, **options))]


def prepare(
    weighting: Weighting,
    order: Sequence[int] = (0, 1, 2),
    on_read: Callable[[str], None] = nobody,
) -> None:
    """Let a weighting go through its stage before training, once, if it has one."""
    if weighting.recipe() is None or weighting in _PREPARED:
        return
    _PREPARED.add(weighting)
    prepared = through_checkpoint(type(weighting).prepare(weighting, _preparation(order, on_read)))
    weighting.load_prepared(prepared)


_PREPARED: WeakSet[Weighting] = WeakSet()


class _Preparation(Preparation):
    """What a stage before training is given; it says when its preferences are read."""

    on_read: Callable[[str], None] = staticmethod(nobody)

    def __getattribute__(self, name: str) -> Any:
        if name == "pairs":
            object.__getattribute__(self, "on_read")(name)
        return object.__getattribute__(self, name)


def _preparation(order: Sequence[int], on_read: Callable[[str], None]) -> Preparation:
    """Return twenty preferences between invented completions, and their scores."""
    prompts = [Prompt(str(p), f"prompt {p}") for p in range(20)]

    def score(prompts: Sequence[Prompt], completions: Sequence[str]) -> Tensor:
        rows = zip(prompts, completions, strict=True)
        drawn = [_drawn(f"{prompt.id} {text}", len(OBJECTIVES)) for prompt, text in rows]
        return torch.stack(drawn)[:, list(order)]

    def features(prompts: Sequence[Prompt]) -> Tensor:
        return torch.stack([_drawn(prompt.text, 5) for prompt in prompts])

    context = _Preparation(
        objectives=tuple(OBJECTIVES[k] for k in order),
        seed=0,
        prompts=tuple(prompts),
        pairs=tuple(Pair(prompt, "chosen", "rejected") for prompt in prompts),
        score=score,
        features=features,
        progress=lambda _share, _words: None,
    )
    object.__setattr__(context, "on_read", on_read)  # it is frozen
    return context


def _drawn(key: str, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    return torch.rand(count, generator=generator)


def _ask(weighting: Weighting, step: Step) -> list[Weights | ResponseScores]:
    with seeded(step.index):
        returned = weighting.weigh(step)
        updated = weighting.update_minibatch(step)
    return [returned] if updated is None else [returned, updated]


def _broadcasts(values: Tensor, shape: tuple[int, ...]) -> bool:
    try:
        values.expand(shape)
    except RuntimeError:
        return False
    return values.ndim == 0 or values.shape[-1] == shape[-1]


def _numbers(returned: Weights | ResponseScores) -> dict[str, Any]:
    if isinstance(returned, ResponseScores):
        return {"values": returned.values_PG}
    return {"values": returned.values, "gain": torch.as_tensor(returned.gain)}
