"""What optimizers learn from in the suites: made-up rollouts and preferences, as the host has them.

``P`` prompts, ``G`` completions each, ``B = P*G`` rows, ``S`` of a prompt's that are learned from,
``T`` tokens, ``K`` objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from moalign.components import Optimizer
from moalign.errors import OptionError
from moalign.testing.contract import Factory, require
from moalign.testing.steps import make_objectives
from moalign.testing.values import HIDDEN, random_batch, same, seeded
from moalign.types import Batch, Rows

OBJECTIVES = make_objectives("a", "b", "c", at_least={"b": 0.4, "c": 0.6})
PROMPTS = 3
TOLERANCE = 1e-5
REFERENCE = (0.55, 0.45)
"""What the reference policy says of two answers, the first of which is the better one."""


def begun(factory: Factory, order: Sequence[int] = range(3), *, trained: bool = False) -> Optimizer:
    """Return a fresh optimizer, ready for a trial.

    Args:
        factory: makes it.
        order: of the objectives a, b and c.
        trained: as if its own parameters had moved from where they begin.
    """
    optimizer: Optimizer = factory()
    objectives = [OBJECTIVES[k] for k in order]
    try:
        optimizer.check(objectives)
    except OptionError as error:
        raise AssertionError(
            "its `examples` must suit the objectives a, b (at_least 0.4) and c (at_least 0.6); "
            f"check() says: {error}"
        ) from error
    optimizer.begin(objectives, HIDDEN, 0)
    if trained:
        move(optimizer)
    return optimizer


def require_loss(returned: Any, method: str) -> None:
    """Require what a loss must return: one number with a gradient, and numbers by name."""
    require(
        isinstance(returned, tuple) and len(returned) == 2,
        f"{method}() must return the loss and a dict of metrics; found {returned!r}",
    )
    loss, metrics = returned
    require(
        isinstance(loss, Tensor) and loss.shape == () and loss.requires_grad,
        f"the loss must be one number, as a tensor with a gradient; found {loss!r}",
    )
    require(
        all(isinstance(value, Tensor) and value.shape == () for value in metrics.values()),
        f"each metric must be a tensor with one number; found {metrics!r}",
    )


def move(optimizer: Optimizer) -> None:
    """Move an optimizer's own parameters a little, as training does."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in optimizer.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def made_up_batch(
    group: int,
    *,
    seed: int = 0,
    tokens: int = 6,
    greedy_PK: Tensor | None = None,
    on_read: Callable[[str], None] = lambda _name: None,
) -> Batch:
    """Return a batch of three prompts with so many completions each."""
    return random_batch(
        prompts=PROMPTS,
        group=group,
        tokens=tokens,
        seed=seed,
        greedy_PK=greedy_PK,
        on_read=on_read,
    )


def made_up_scores(group: int, seed: int = 0) -> Tensor:
    """Return scores of three objectives in [0, 1), [P, G, K]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(PROMPTS, group, len(OBJECTIVES), generator=generator)


def hostile(scores_PGK: Tensor) -> dict[str, Tensor]:
    """Return scores that real rewards give on bad days, by a word for them."""
    nothing, column = torch.full_like(scores_PGK, torch.nan), scores_PGK.clone()
    column[..., 1] = torch.nan
    one = scores_PGK.clone()
    one[0, 1:] = torch.nan
    far = scores_PGK.clone()
    far[0, 0] = 1e10
    return {
        "ordinary": scores_PGK,
        "tiny": scores_PGK * 1e-10,
        "huge": scores_PGK * 1e10,
        "shifted": scores_PGK + 1e6,
        "equal": torch.full_like(scores_PGK, 0.3),
        "no": nothing,
        "one objective's missing": column,
        "one completion's": one,
        "one outlying": far,
    }


# --- rows --------------------------------------------------------------------------------------


def rows_of(
    optimizer: Optimizer,
    batch: Batch,
    *,
    old_BT: Tensor | None = None,
    reference_BT: Tensor | None = None,
    chosen_PS: Tensor | None = None,
    scores_PGK: Tensor | None = None,
) -> Rows:
    """Return a batch, as one mini-batch, as the host shows it to a loss.

    Args:
        optimizer: is shown what it needs.
        batch: rollouts or preferences.
        old_BT: log-probabilities under the policy that sampled; default: the batch's.
        reference_BT: under the reference policy; default: the batch's.
        chosen_PS: rows that are learned from; default: all.
        scores_PGK: of preferences.
    """
    every_PG = torch.arange(batch.rows).view(-1, batch.group)
    rows_PS = every_PG if chosen_PS is None else every_PG.gather(1, chosen_PS)
    chosen = rows_PS.flatten()
    old_BT = batch.logprobs_BT if old_BT is None else old_BT
    if "ref_logprobs" in optimizer.needs:
        reference_BT = batch.ref_logprobs_BT if reference_BT is None else reference_BT
    else:
        reference_BT = None
    whole = optimizer.whole_groups or scores_PGK is not None
    return Rows(
        mask_BT=batch.mask_BT[chosen],
        old_logprobs_BT=old_BT[chosen],
        ref_logprobs_BT=None if reference_BT is None else reference_BT[chosen],
        total_rows=len(chosen),
        total_tokens=int(batch.mask_BT[chosen].sum()),
        max_tokens=batch.mask_BT.shape[1],
        group=rows_PS.shape[1] if whole else 1,
        scores_BK=None if scores_PGK is None else scores_PGK.flatten(0, 1)[chosen],
        counts_K=None if scores_PGK is None else optimizer.applies(scores_PGK).sum(0),
        kept={name: kept[chosen] for name, kept in batch.kept.items()},
    )


def share(rows: Rows, part: slice) -> Rows:
    """Return a micro-batch of a mini-batch."""
    reference, scores = rows.ref_logprobs_BT, rows.scores_BK
    return replace(
        rows,
        mask_BT=rows.mask_BT[part],
        old_logprobs_BT=rows.old_logprobs_BT[part],
        ref_logprobs_BT=None if reference is None else reference[part],
        scores_BK=None if scores is None else scores[part],
        kept={name: kept[part] for name, kept in rows.kept.items()},
    )


def micro_batches(rows: Rows) -> list[slice]:
    """Return the rows of three micro-batches, or fewer; whole groups if the loss compares them."""
    groups = len(rows.mask_BT) // rows.group
    cuts = sorted({0, groups // 2, groups // 2 + 1, groups})
    return [slice(a * rows.group, b * rows.group) for a, b in pairwise(cuts)]


def widen(values_BT: Tensor, mask_BT: Tensor, value: float) -> Tensor:
    """Return values per token with two columns more, and something else on all padding."""
    extra = [0, 0] * (values_BT.ndim - 2) + [0, 2]
    padding = torch.nn.functional.pad(mask_BT, (0, 2)) == 0
    padding = padding.view(*padding.shape, *[1] * (values_BT.ndim - 2))
    return torch.nn.functional.pad(values_BT, extra).masked_fill(padding, value)


# --- losses ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a loss came to.

    Attributes:
        loss: the number.
        gradient_BT: by the log-probabilities.
        own: gradients by the optimizer's own parameters.
        metrics: by name.
    """

    loss: Tensor
    gradient_BT: Tensor
    own: tuple[Tensor, ...]
    metrics: dict[str, Tensor]

    @property
    def finite(self) -> bool:
        """Whether loss and gradients are."""
        return all(bool(v.isfinite().all()) for v in (self.loss, self.gradient_BT, *self.own))


def outcome(
    optimizer: Optimizer,
    logprobs_BT: Tensor,
    loss_of: Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]],
) -> Outcome:
    """Return what a loss of log-probabilities came to."""
    leaf_BT = logprobs_BT.detach().clone().requires_grad_()
    with seeded():
        loss, metrics = loss_of(leaf_BT)
    sources = [leaf_BT, *optimizer.parameters()]
    gradient_BT, *own = torch.autograd.grad(
        loss, sources, allow_unused=True, materialize_grads=True
    )
    return Outcome(loss.detach(), gradient_BT, tuple(own), metrics)


def loss_of(
    optimizer: Optimizer, logprobs_BT: Tensor, rows: Rows, advantages_BT: Tensor
) -> Outcome:
    """Return what the loss of rollouts came to."""
    return outcome(optimizer, logprobs_BT, lambda x: optimizer.loss(x, rows, advantages_BT))


def pair_loss_of(
    optimizer: Optimizer, logprobs_BT: Tensor, rows: Rows, weights_PK: Tensor
) -> Outcome:
    """Return what the loss of preferences came to."""
    return outcome(optimizer, logprobs_BT, lambda x: optimizer.pair_loss(x, rows, weights_PK))


def added_up(parts: Sequence[Outcome], whole: Outcome) -> str:
    """Return what of some micro-batches does not add up to their mini-batch, or nothing."""
    total = sum(float(part.loss) for part in parts)
    if not same(total, float(whole.loss), TOLERANCE):
        return f"their losses add up to {total:.6g}, not {float(whole.loss):.6g}"
    if not same(torch.cat([part.gradient_BT for part in parts]), whole.gradient_BT, 1e-6):
        return "their gradients differ from that of the mini-batch"
    for n, gradient in enumerate(whole.own):
        if not same(torch.stack([part.own[n] for part in parts]).sum(0), gradient, TOLERANCE):
            return "the gradients of its own parameters do not add up"
    for name, value in whole.metrics.items():
        shares = sum(float(part.metrics[name]) for part in parts)
        if not same(shares, float(value), TOLERANCE):
            return f"the metric {name!r} adds up to {shares:.6g}, not {float(value):.6g}"
    return ""
