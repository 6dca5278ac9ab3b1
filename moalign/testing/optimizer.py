"""The contract of an optimizer that learns from rollouts: fair advantages and an additive loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from moalign.components import Optimizer
from moalign.testing.contract import Check, Factory, require
from moalign.testing.values import hand_over, random_batch, same, seeded, select, shown
from moalign.types import Batch, Rows

PROMPTS, GROUP, OBJECTIVES = 3, 4, 3
TOLERANCE = 1e-5


def check_gives_advantages_and_a_loss(factory: Factory) -> None:
    """Advantages are [B, 1, K] or [B, T, K] in float32, the loss is a number with a gradient."""
    optimizer = factory()
    require(
        optimizer.learns_from != "pairs",
        "the suite knows nothing yet of optimizers that learn from pairs only",
    )
    batch = _batch(factory)
    advantages: Any = _advantages(optimizer, _scores(batch), batch)
    tokens = batch.mask_BT.shape[1]
    shapes = [(batch.rows, 1, OBJECTIVES), (batch.rows, tokens, OBJECTIVES)]
    require(
        isinstance(advantages, Tensor) and tuple(advantages.shape) in shapes,
        f"advantages must be a tensor [B, 1, K] or [B, T, K], {shapes[0]} or {shapes[1]} here; "
        f"found {getattr(advantages, 'shape', type(advantages).__name__)}",
    )
    require(
        advantages.dtype == torch.float32,
        f"advantages must be float32; found {advantages.dtype}",
    )
    logprobs_BT, rows, advantages_BT = _loss_arguments(optimizer, batch)
    returned = optimizer.loss(logprobs_BT.requires_grad_(), rows, advantages_BT)
    require(
        isinstance(returned, tuple) and len(returned) == 2,
        f"loss() must return the loss and a dict of metrics; found {returned!r}",
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


def check_advantages_are_finite(factory: Factory) -> None:
    """Advantages are finite for tiny, huge, equal and missing scores."""
    batch = _batch(factory)
    for name, scores_PGK in _hostile(_scores(batch)).items():
        advantages = _advantages(factory(), scores_PGK, batch)
        require(
            advantages.isfinite().all(),
            f"advantages must be finite, or the policy is lost; with {name} scores found "
            f"{sorted(set(advantages[~advantages.isfinite()].tolist()))}",
        )


def check_objectives_do_not_mix(factory: Factory) -> None:
    """Advantages of an objective do not depend on the scores of the others."""
    batch = _batch(factory)
    scores_PGK, others_PGK = _scores(batch), _scores(batch, seed=9)
    others_PGK[..., 0] = scores_PGK[..., 0]
    plain = _advantages(factory(), scores_PGK, batch)[..., 0]
    changed = _advantages(factory(), others_PGK, batch)[..., 0]
    require(
        same(plain, changed, TOLERANCE),
        "column k of the advantages must depend on column k of the scores only, because weights "
        "act afterwards; other scores in the other columns changed it",
    )


def check_follows_the_objectives(factory: Factory) -> None:
    """Objectives in another order get the same advantages in that order."""
    batch, order = _batch(factory), [2, 0, 1]
    scores_PGK = _scores(batch)
    plain = _advantages(factory(), scores_PGK, batch)
    moved = _advantages(factory(), scores_PGK[..., order], batch)
    require(
        same(moved, plain[..., order], TOLERANCE),
        f"no objective is special; with the objectives in the order {order} the advantages must "
        "be the same ones in that order",
    )


def check_missing_scores_have_no_influence(factory: Factory) -> None:
    """A NaN score gets advantage 0, and the others what they would get without it."""
    batch = _batch(factory)
    scores_PGK = _scores(batch)
    missing_PGK = scores_PGK.clone()
    missing_PGK[:, -1] = torch.nan
    found = _advantages(factory(), missing_PGK, batch)
    found_PG = _grouped(found)
    require(
        not found_PG[:, -1].any(),
        "NaN says that an objective does not apply, so its advantage must be 0; found "
        f"{shown(found_PG[:, -1])}",
    )
    without = select(batch, range(PROMPTS), range(batch.group - 1))
    expected = _grouped(_advantages(factory(), scores_PGK[:, :-1], without))
    require(
        same(found_PG[:, :-1], expected, TOLERANCE),
        "NaN must not move the advantages of other completions: they must be those of a group "
        "without the completion that it belongs to, not those of a group where it scored 0",
    )


def check_equal_scores_teach_nothing(factory: Factory) -> None:
    """In a group whose scores are all equal, every advantage is 0, if it compares groups."""
    optimizer, batch = factory(), _batch(factory)
    if optimizer.min_group < 2:
        return
    scores_PGK = _scores(batch)
    scores_PGK[0] = 0.7
    found = _grouped(_advantages(optimizer, scores_PGK, batch))[0]
    require(
        not found.any(),
        f"a group without spread says nothing, so its advantages must be 0 exactly; found "
        f"{shown(found)} for equal scores",
    )


def check_zero_advantage_has_no_gradient(factory: Factory) -> None:
    """With advantage 0 the loss pulls nowhere, unless a term of its own (KL) does."""
    optimizer, batch = factory(), _batch(factory)
    if "ref_logprobs" in optimizer.needs:
        return
    logprobs_BT, rows, advantages_BT = _loss_arguments(optimizer, batch)
    _, gradient_BT, _ = _loss(optimizer, logprobs_BT, rows, torch.zeros_like(advantages_BT))
    require(
        not gradient_BT.any(),
        "where all advantages are 0 there is nothing to learn, so the gradient must be 0; found "
        f"{float(gradient_BT.abs().max()):.3g}",
    )


def check_padding_changes_nothing(factory: Factory) -> None:
    """What padding holds, and how much of it there is, changes neither loss nor gradient."""
    optimizer, batch = factory(), _batch(factory)
    logprobs_BT, rows, advantages_BT = _loss_arguments(optimizer, batch)
    loss, gradient_BT, _ = _loss(optimizer, logprobs_BT, rows, advantages_BT)
    padding_BT = torch.nn.functional.pad(rows.mask_BT, (0, 2)) == 0

    def spoil(values_BT: Tensor, value: float) -> Tensor:
        return torch.nn.functional.pad(values_BT, (0, 2)).masked_fill(padding_BT, value)

    reference = rows.ref_logprobs_BT
    spoilt = replace(
        rows,
        mask_BT=spoil(rows.mask_BT, 0.0),
        old_logprobs_BT=spoil(rows.old_logprobs_BT, 4.0),
        ref_logprobs_BT=None if reference is None else spoil(reference, -9.0),
    )
    wide_loss, wide_gradient_BT, _ = _loss(
        optimizer, spoil(logprobs_BT, -5.0), spoilt, spoil(advantages_BT, 3.0)
    )
    tokens = rows.mask_BT.shape[1]
    require(
        same(wide_loss, loss, TOLERANCE) and same(wide_gradient_BT[:, :tokens], gradient_BT, 1e-6),
        f"padding must change nothing; other values there, and two columns more of it, moved the "
        f"loss from {float(loss):.6g} to {float(wide_loss):.6g}, or its gradient",
    )


def check_micro_batches_add_up(factory: Factory) -> None:
    """Losses, gradients and metrics of micro-batches add up to those of their mini-batch."""
    optimizer, batch = factory(), _batch(factory)
    logprobs_BT, rows, advantages_BT = _loss_arguments(optimizer, batch)
    loss, gradient_BT, metrics = _loss(optimizer, logprobs_BT, rows, advantages_BT)
    parts = []
    for part in (slice(0, 5), slice(5, 6), slice(6, None)):
        reference = rows.ref_logprobs_BT
        share = replace(
            rows,
            mask_BT=rows.mask_BT[part],
            old_logprobs_BT=rows.old_logprobs_BT[part],
            ref_logprobs_BT=None if reference is None else reference[part],
        )
        parts.append(_loss(optimizer, logprobs_BT[part], share, advantages_BT[part]))
    total = sum(float(part[0]) for part in parts)
    require(
        same(total, float(loss), TOLERANCE)
        and same(torch.cat([p[1] for p in parts]), gradient_BT, 1e-6),
        f"the losses of micro-batches must add up to that of the mini-batch, so divide by "
        f"rows.total_rows or rows.total_tokens; they add up to {total:.6g}, not {float(loss):.6g}",
    )
    for name, value in metrics.items():
        shares = sum(float(part[2][name]) for part in parts)
        require(
            same(shares, float(value), TOLERANCE),
            f"so must the metrics; {name!r} adds up to {shares:.6g}, not {float(value):.6g}",
        )


def check_learns(factory: Factory) -> None:
    """Of two answers, the one that is rewarded becomes likelier."""
    logits = torch.zeros(2, requires_grad=True)
    optimizer: Optimizer = factory()
    start = float(logits.detach().softmax(-1)[0])
    group = max(8, optimizer.min_group)
    for step in range(20):
        batch = _batch(factory, seed=step, group=group, tokens=1)
        generator = torch.Generator().manual_seed(step)
        probabilities = logits.detach().softmax(-1)
        arms_B = torch.multinomial(probabilities, batch.rows, True, generator=generator)
        scores_PGK = (arms_B == 0).float().view(PROMPTS, group, 1)
        advantages_BT = _advantages(optimizer, scores_PGK, batch)[..., 0]
        logprobs_BT = logits.log_softmax(-1)[arms_B][:, None]
        reference = torch.full_like(logprobs_BT, 0.5).log().detach()
        rows = _rows(optimizer, batch, logprobs_BT.detach(), reference)
        loss, _ = optimizer.loss(logprobs_BT, rows, advantages_BT)
        (gradient,) = torch.autograd.grad(loss, logits)
        with torch.no_grad():
            logits -= 0.1 * gradient.sign()
    end = float(logits.detach().softmax(-1)[0])
    require(
        end > start + 0.1,
        "a gradient step must make what was rewarded likelier; after 20 steps on two answers, one "
        f"of which is rewarded, its probability went from {start:.2f} to {end:.2f}",
    )


def check_survives_an_exploding_ratio(factory: Factory) -> None:
    """Loss and gradient stay finite when the policy has moved far from the one that sampled."""
    optimizer, batch = factory(), _batch(factory)
    logprobs_BT, rows, advantages_BT = _loss_arguments(optimizer, batch)
    for shift in (-1000.0, 1000.0):
        moved = replace(rows, old_logprobs_BT=(rows.old_logprobs_BT + shift) * rows.mask_BT)
        loss, gradient_BT, _ = _loss(optimizer, logprobs_BT, moved, advantages_BT)
        require(
            loss.isfinite() and gradient_BT.isfinite().all(),
            f"loss and gradient must be finite, so clip the log-ratio before the exponential; at a "
            f"log-ratio of {-shift:g} the loss is {float(loss)}",
        )


def check_resumes(factory: Factory) -> None:
    """After its state went through a checkpoint, a fresh optimizer goes on as the old one does."""
    optimizer, fresh, batch = factory(), factory(), _batch(factory)
    _advantages(optimizer, _scores(batch, seed=1), batch)
    hand_over(optimizer, fresh)
    pairs = [_advantages(one, _scores(batch, seed=2), batch) for one in (optimizer, fresh)]
    logprobs_BT, rows, advantages_BT = _loss_arguments(factory(), batch)
    losses = [_loss(one, logprobs_BT, rows, advantages_BT)[:2] for one in (optimizer, fresh)]
    require(
        same(pairs[0], pairs[1]) and same(losses[0], losses[1]),
        "all that it has learnt must be in its state_dict(); after load_state_dict the next "
        "advantages or losses differ",
    )


def check_leaves_its_arguments_alone(factory: Factory) -> None:
    """It changes neither scores nor advantages nor the batch, which others read too."""
    optimizer, batch = factory(), _batch(factory)
    scores_PGK = _scores(batch)
    scores_PGK[0, 0, 0] = torch.nan
    logprobs_BT, rows, advantages_BT = _loss_arguments(optimizer, batch)
    given = {
        "scores_PGK": scores_PGK,
        "batch.mask_BT": batch.mask_BT,
        "advantages_BT": advantages_BT,
        "rows.mask_BT": rows.mask_BT,
        "rows.old_logprobs_BT": rows.old_logprobs_BT,
    }
    before = {name: tensor.clone() for name, tensor in given.items()}
    _advantages(optimizer, scores_PGK, batch)
    _loss(optimizer, logprobs_BT, rows, advantages_BT)
    for name, tensor in given.items():
        require(same(tensor, before[name]), f"it must not change {name}; work on a copy")


PROPERTIES: tuple[Check, ...] = (
    check_gives_advantages_and_a_loss,
    check_advantages_are_finite,
    check_objectives_do_not_mix,
    check_follows_the_objectives,
    check_missing_scores_have_no_influence,
    check_equal_scores_teach_nothing,
    check_zero_advantage_has_no_gradient,
    check_padding_changes_nothing,
    check_micro_batches_add_up,
    check_learns,
    check_survives_an_exploding_ratio,
    check_resumes,
    check_leaves_its_arguments_alone,
)


def _batch(factory: Factory, *, seed: int = 0, group: int | None = None, tokens: int = 6) -> Batch:
    """Return a batch with groups from which one completion can be taken away."""
    size = max(GROUP, factory().min_group + 1) if group is None else group
    return random_batch(prompts=PROMPTS, group=size, tokens=tokens, seed=seed)


def _scores(batch: Batch, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(PROMPTS, batch.group, OBJECTIVES, generator=generator)


def _hostile(scores_PGK: Tensor) -> dict[str, Tensor]:
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


def _advantages(optimizer: Optimizer, scores_PGK: Tensor, batch: Batch) -> Tensor:
    with seeded():
        return optimizer.advantages(scores_PGK, batch)


def _grouped(advantages_BTK: Tensor) -> Tensor:
    """Return advantages as [P, G, T, K]."""
    return advantages_BTK.view(PROMPTS, -1, *advantages_BTK.shape[1:])


def _loss_arguments(optimizer: Optimizer, batch: Batch) -> tuple[Tensor, Rows, Tensor]:
    """Return log-probabilities a little off the old ones, rows, and advantages of both signs."""
    generator = torch.Generator().manual_seed(0)
    noise_BT = 0.1 * torch.randn(batch.mask_BT.shape, generator=generator)
    advantages_BT = torch.randn(batch.mask_BT.shape, generator=generator) * batch.mask_BT
    rows = _rows(optimizer, batch, batch.logprobs_BT, batch.ref_logprobs_BT)
    return (batch.logprobs_BT + noise_BT) * batch.mask_BT, rows, advantages_BT


def _rows(optimizer: Optimizer, batch: Batch, old_BT: Tensor, reference_BT: Tensor) -> Rows:
    """Return a batch as the rows of a mini-batch; the reference only if it is needed."""
    return Rows(
        mask_BT=batch.mask_BT,
        old_logprobs_BT=old_BT,
        ref_logprobs_BT=reference_BT if "ref_logprobs" in optimizer.needs else None,
        total_rows=batch.rows,
        total_tokens=int(batch.mask_BT.sum()),
        max_tokens=batch.mask_BT.shape[1],
    )


def _loss(
    optimizer: Optimizer, logprobs_BT: Tensor, rows: Rows, advantages_BT: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return loss, its gradient by the log-probabilities, and metrics."""
    leaf_BT = logprobs_BT.detach().clone().requires_grad_()
    with seeded():
        loss, metrics = optimizer.loss(leaf_BT, rows, advantages_BT)
    (gradient_BT,) = torch.autograd.grad(loss, leaf_BT)
    return loss.detach(), gradient_BT, metrics
