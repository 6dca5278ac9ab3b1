"""The contract of an optimizer: fair advantages, an additive loss, and a policy that learns.

What only those that learn from preferences are asked for is in :mod:`moalign.testing.pairs`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from moalign.components import Component, Optimizer
from moalign.testing import pairs
from moalign.testing.contract import Check, Factory, require
from moalign.testing.lessons import (
    OBJECTIVES,
    PROMPTS,
    REFERENCE,
    TOLERANCE,
    added_up,
    begun,
    hostile,
    loss_of,
    made_up_batch,
    made_up_scores,
    micro_batches,
    move,
    require_loss,
    rows_of,
    share,
    widen,
)
from moalign.testing.values import hand_over, same, seeded, select, shown
from moalign.training.contracts import check_selected
from moalign.types import Batch, Rows

GROUP = 4
NEEDS = ("ref_logprobs", "hidden", "greedy_scores")


# --- rollouts ----------------------------------------------------------------------------------


def check_gives_advantages_and_a_loss(factory: Factory) -> None:
    """Advantages are [B, 1, K] or [B, T, K] in float32, the loss is a number with a gradient."""
    optimizer = cast(Any, begun(factory))  # it may return anything
    batch = _batch(factory)
    advantages = optimizer.advantages(_scores(batch), batch)
    tokens, count = batch.mask_BT.shape[1], len(OBJECTIVES)
    shapes = [(batch.rows, 1, count), (batch.rows, tokens, count)]
    require(
        isinstance(advantages, Tensor) and tuple(advantages.shape) in shapes,
        f"advantages must be a tensor [B, 1, K] or [B, T, K], {shapes[0]} or {shapes[1]} here; "
        f"found {getattr(advantages, 'shape', type(advantages).__name__)}",
    )
    require(
        advantages.dtype == torch.float32,
        f"advantages must be float32; found {advantages.dtype}",
    )
    kept: Any
    for name, kept in batch.kept.items():
        require(
            isinstance(kept, Tensor)
            and not kept.requires_grad
            and tuple(kept.shape[:2]) in {(batch.rows,), (batch.rows, tokens)},
            f"batch.kept must hold tensors without gradient, [B] or [B, T, ...]; found "
            f"{name!r}: {getattr(kept, 'shape', type(kept).__name__)}",
        )
    logprobs_BT, rows, advantages_BT = _loss_arguments(optimizer, batch)
    returned = optimizer.loss(logprobs_BT.requires_grad_(), rows, advantages_BT)
    require_loss(returned, "loss")


def check_advantages_are_finite(factory: Factory) -> None:
    """Advantages are finite for tiny, huge, equal and missing scores."""
    for name, scores_PGK in hostile(_scores(_batch(factory))).items():
        advantages = _advantages(begun(factory), scores_PGK, _batch(factory))
        require(
            advantages.isfinite().all(),
            f"advantages must be finite, or the policy is lost; with {name} scores found "
            f"{sorted(set(advantages[~advantages.isfinite()].tolist()))}",
        )
    if "greedy_scores" in factory().needs:
        batch = made_up_batch(
            _batch(factory).group, greedy_PK=torch.full((PROMPTS, len(OBJECTIVES)), torch.nan)
        )
        require(
            _advantages(begun(factory), _scores(batch), batch).isfinite().all(),
            "advantages must be finite where a prompt's likeliest completion has no score (NaN)",
        )


def check_objectives_do_not_mix(factory: Factory) -> None:
    """Advantages of an objective do not depend on the scores of the others."""
    batch = _batch(factory)
    scores_PGK, others_PGK = _scores(batch), _scores(batch, seed=9)
    others_PGK[..., 0] = scores_PGK[..., 0]
    plain = _advantages(begun(factory), scores_PGK, batch)[..., 0]
    changed = _advantages(begun(factory), others_PGK, batch)[..., 0]
    require(
        same(plain, changed, TOLERANCE),
        "column k of the advantages must depend on column k of the scores only, because weights "
        "act afterwards; other scores in the other columns changed it",
    )


def check_follows_the_objectives(factory: Factory) -> None:
    """Objectives in another order get the same advantages in that order."""
    batch, order = _batch(factory), [2, 0, 1]
    scores_PGK = _scores(batch)
    plain = _advantages(begun(factory), scores_PGK, batch)
    other = select(batch, range(PROMPTS), columns=order)
    moved = _advantages(begun(factory, order), scores_PGK[..., order], other)
    require(
        same(moved, plain[..., order], TOLERANCE),
        f"no objective is special; with the objectives in the order {order} the advantages must "
        "be the same ones in that order",
    )


def check_takes_a_single_score(factory: Factory) -> None:
    """It has advantages for one score made of several, too, unless it is `per_objective`."""
    optimizer, batch = begun(factory), _batch(factory)
    if optimizer.per_objective:
        return
    try:
        alone = _advantages(optimizer, _scores(batch)[..., :1], batch)
        found = str(tuple(alone.shape))
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    tokens = batch.mask_BT.shape[1]
    require(
        found in {str((batch.rows, 1, 1)), str((batch.rows, tokens, 1))},
        "with `training.combine: rewards` there is one score for all objectives, so for scores "
        "[P, G, 1] advantages must be [B, 1, 1] or [B, T, 1]; an optimizer that can make nothing "
        f"of such a score says `per_objective`; found {found}",
    )


def check_missing_scores_have_no_influence(factory: Factory) -> None:
    """A NaN score gets advantage 0, and the others what they would get without it."""
    batch = _batch(factory)
    if batch.group <= factory().min_group:
        return  # none of so few may be left out
    scores_PGK = _scores(batch)
    missing_PGK = scores_PGK.clone()
    missing_PGK[:, -1] = torch.nan
    found_PG = _grouped(_advantages(begun(factory, trained=True), missing_PGK, batch))
    require(
        not found_PG[:, -1].any(),
        "NaN says that an objective does not apply, so its advantage must be 0; found "
        f"{shown(found_PG[:, -1])}",
    )
    without = select(batch, range(PROMPTS), range(batch.group - 1))
    alone = _advantages(begun(factory, trained=True), scores_PGK[:, :-1], without)
    require(
        same(found_PG[:, :-1], _grouped(alone), TOLERANCE),
        "NaN must not move the advantages of other completions: they must be those of a group "
        "without the completion that it belongs to, not those of a group where it scored 0",
    )


def check_equal_scores_teach_nothing(factory: Factory) -> None:
    """In a group whose scores are all equal, every advantage is 0, if it compares groups."""
    optimizer, batch = begun(factory), _batch(factory)
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


def check_selects_completions(factory: Factory) -> None:
    """What it selects of each prompt are some of its completions, each once."""
    size = max(2, factory().min_group)
    for group in (size, _at_most(factory(), size + 3)):
        generator = torch.Generator().manual_seed(0)
        random_PG = torch.randn(PROMPTS, group, generator=generator)
        for advantages_PG in (random_PG, torch.zeros(PROMPTS, group), random_PG * 1e10):
            given = advantages_PG.clone()
            with seeded():
                chosen: Any = begun(factory).select(given)
            require(same(given, advantages_PG), "select() must not change the advantages")
            if chosen is None:
                continue
            require(
                isinstance(chosen, Tensor) and chosen.dtype == torch.int64,
                f"select() must return None or an int64 tensor [P, S]; found {chosen!r}",
            )
            check_selected(factory(), chosen, advantages_PG.shape)


def check_zero_advantage_has_no_gradient(factory: Factory) -> None:
    """With advantage 0 the loss pulls nowhere from the policy that sampled, unless a KL does."""
    optimizer, batch = begun(factory), _batch(factory)
    if "ref_logprobs" in optimizer.needs:
        return
    # Elsewhere it may pull back there.
    _, rows, advantages_BT = _loss_arguments(optimizer, batch)
    found = loss_of(optimizer, rows.old_logprobs_BT, rows, torch.zeros_like(advantages_BT))
    require(
        not found.gradient_BT.any(),
        "where all advantages are 0 there is nothing to learn, so the gradient must be 0; found "
        f"{float(found.gradient_BT.abs().max()):.3g}",
    )


def check_padding_changes_nothing(factory: Factory) -> None:
    """What padding holds, and how much of it there is, changes neither advantages nor loss."""
    optimizer, batch = begun(factory, trained=True), _batch(factory)
    wide = _widened(batch)
    tokens = batch.mask_BT.shape[1]
    plain = _advantages(begun(factory, trained=True), _scores(batch), batch)
    found = _advantages(begun(factory, trained=True), _scores(batch), wide)
    if plain.shape[1] == 1:
        agree = same(found, plain, TOLERANCE)
    else:
        mask_BT1 = batch.mask_BT[..., None]
        agree = same(found[:, :tokens] * mask_BT1, plain * mask_BT1, TOLERANCE)
    require(
        agree,
        "padding must change nothing; other values there, and two columns more of it, moved the "
        f"advantages from {shown(plain)} to {shown(found)}",
    )
    logprobs_BT, rows, advantages_BT = _loss_arguments(optimizer, batch)
    short = loss_of(optimizer, logprobs_BT, rows, advantages_BT)
    mask_BT, reference = rows.mask_BT, rows.ref_logprobs_BT
    spoilt = replace(
        rows,
        mask_BT=widen(mask_BT, mask_BT, 0.0),
        old_logprobs_BT=widen(rows.old_logprobs_BT, mask_BT, 4.0),
        ref_logprobs_BT=None if reference is None else widen(reference, mask_BT, -9.0),
        kept=_loss_arguments(optimizer, wide)[1].kept,
    )
    long = loss_of(
        optimizer, widen(logprobs_BT, mask_BT, -5.0), spoilt, widen(advantages_BT, mask_BT, 3.0)
    )
    require(
        same(long.loss, short.loss, TOLERANCE)
        and same(long.gradient_BT[:, :tokens], short.gradient_BT, 1e-6)
        and same(long.own, short.own, TOLERANCE),
        f"padding must change nothing; other values there, and two columns more of it, moved the "
        f"loss from {float(short.loss):.6g} to {float(long.loss):.6g}, or its gradient",
    )


def check_micro_batches_add_up(factory: Factory) -> None:
    """Losses, gradients and metrics of micro-batches add up to those of their mini-batch."""
    optimizer, batch = begun(factory, trained=True), _batch(factory)
    logprobs_BT, rows, advantages_BT = _loss_arguments(optimizer, batch)
    move(optimizer)  # further than when it sampled, so that what it kept matters
    whole = loss_of(optimizer, logprobs_BT, rows, advantages_BT)
    parts = [
        loss_of(optimizer, logprobs_BT[part], share(rows, part), advantages_BT[part])
        for part in micro_batches(rows)
    ]
    wrong = added_up(parts, whole)
    require(
        not wrong,
        "the losses of micro-batches must add up to that of the mini-batch, and so must the "
        f"metrics, so divide by rows.total_rows or rows.total_tokens; {wrong}",
    )


def check_takes_advantages_per_completion(factory: Factory) -> None:
    """If it gives [B, 1, K], an advantage per completion is one for each of its tokens."""
    optimizer, batch = begun(factory), _batch(factory)
    if _advantages(optimizer, _scores(batch), batch).shape[1] > 1:
        return
    logprobs_BT, rows, advantages_BT = _loss_arguments(optimizer, batch)
    first_B1 = advantages_BT[:, :1]
    every_BT = first_B1.expand_as(rows.mask_BT) * rows.mask_BT
    short, long = (loss_of(optimizer, logprobs_BT, rows, given) for given in (first_B1, every_BT))
    require(
        same(short.loss, long.loss, TOLERANCE) and same(short.gradient_BT, long.gradient_BT, 1e-6),
        "advantages are [B, 1] where advantages() gives [B, 1, K], and [B, T] where a weighting or "
        "another row's length makes them so; the same ones in the two shapes gave the losses "
        f"{float(short.loss):.6g} and {float(long.loss):.6g}, or other gradients",
    )


def check_survives_an_exploding_ratio(factory: Factory) -> None:
    """Loss and gradient stay finite far from the policy that sampled, and from the reference."""
    optimizer, batch = begun(factory), _batch(factory)
    logprobs_BT, rows, advantages_BT = _loss_arguments(optimizer, batch)
    for shift in (-1000.0, 1000.0):
        moved = replace(rows, old_logprobs_BT=(rows.old_logprobs_BT + shift) * rows.mask_BT)
        far = moved
        if rows.ref_logprobs_BT is not None:
            far = replace(rows, ref_logprobs_BT=(rows.ref_logprobs_BT + shift) * rows.mask_BT)
        for given in (moved, far):
            found = loss_of(optimizer, logprobs_BT, given, advantages_BT)
            require(
                found.finite,
                "loss and gradient must be finite, so clip the log-ratio before the exponential; "
                f"at a log-ratio of {-shift:g} to the "
                f"{'policy that sampled' if given is moved else 'reference policy'} the loss is "
                f"{float(found.loss)}",
            )


ROLLOUTS: tuple[Check, ...] = (
    check_gives_advantages_and_a_loss,
    check_advantages_are_finite,
    check_objectives_do_not_mix,
    check_follows_the_objectives,
    check_takes_a_single_score,
    check_missing_scores_have_no_influence,
    check_equal_scores_teach_nothing,
    check_selects_completions,
    check_zero_advantage_has_no_gradient,
    check_padding_changes_nothing,
    check_micro_batches_add_up,
    check_takes_advantages_per_completion,
    check_survives_an_exploding_ratio,
)
"""What an optimizer that learns from rollouts is asked for."""


# --- all ---------------------------------------------------------------------------------------


def check_learns(factory: Factory) -> None:
    """Of two answers, the one that is rewarded or preferred becomes likelier."""
    logits = torch.zeros(2, requires_grad=True)
    optimizer = begun(factory)
    start = float(logits.detach().softmax(-1)[0])
    # What holds a policy to the reference may hold it near, but on this side of it.
    least = start + 0.1 if optimizer.learns_from == "rollouts" else REFERENCE[0] + 0.02
    for step in range(25):
        losses = []
        if optimizer.learns_from != "pairs":
            losses.append(_bandit(optimizer, logits, step))
        if optimizer.learns_from != "rollouts":
            losses.append(pairs.bandit(optimizer, logits, step))
        (gradient,) = torch.autograd.grad(torch.stack(losses).sum(), logits)
        with torch.no_grad():
            logits -= 0.03 * gradient.sign()
    end = float(logits.detach().softmax(-1)[0])
    require(
        end > least,
        "a gradient step must make what was rewarded or preferred likelier; after 25 steps on two "
        f"answers, one of which is, its probability went from {start:.2f} to {end:.2f}",
    )


def _bandit(optimizer: Optimizer, logits: Tensor, step: int) -> Tensor:
    """Return the loss of a rollout of two answers, the first of which has all the reward."""
    group = _at_most(optimizer, max(8, optimizer.min_group))
    generator = torch.Generator().manual_seed(step)
    known = logits.detach()
    likeliest = torch.full((PROMPTS, len(OBJECTIVES)), float(known[0] >= known[1]))
    batch = made_up_batch(group, seed=step, tokens=1, greedy_PK=likeliest)
    arms_B = torch.multinomial(known.softmax(-1), batch.rows, True, generator=generator)
    scores_PGK = (arms_B == 0).float().view(PROMPTS, group, 1).repeat(1, 1, len(OBJECTIVES))
    advantages_BT = _advantages(optimizer, scores_PGK, batch).mean(-1)
    logprobs_BT = logits.log_softmax(-1)[arms_B][:, None]
    chosen_PS, chosen_B = _chosen(optimizer, batch, advantages_BT)
    rows = rows_of(
        optimizer,
        batch,
        old_BT=logprobs_BT.detach(),
        reference_BT=torch.tensor(REFERENCE).log()[arms_B][:, None],
        chosen_PS=chosen_PS,
    )
    with seeded(step):
        return optimizer.loss(logprobs_BT[chosen_B], rows, advantages_BT[chosen_B])[0]


def check_begins_alike(factory: Factory) -> None:
    """Two that begin with equal seeds are equal, whatever else was drawn at random."""
    with seeded(1):
        one = begun(factory)
    with seeded(2):
        other = begun(factory)
    states = [optimizer.state_dict() for optimizer in (one, other)]
    parameters = [list(optimizer.parameters()) for optimizer in (one, other)]
    require(
        same(states[0], states[1]) and same(parameters[0], parameters[1]),
        "begin() must draw from its seed only, so that a trial can be repeated; two that began "
        "with equal seeds have other parameters or another state",
    )
    require(
        all(p.requires_grad and p.is_leaf for p in parameters[0]),
        "parameters() must be what can be trained: leaves that require a gradient",
    )


def check_resumes(factory: Factory) -> None:
    """After its state went through a checkpoint, a fresh optimizer goes on as the old one does."""
    optimizer, fresh = begun(factory), begun(factory)
    _go_on(optimizer, factory, 1)
    move(optimizer)
    hand_over(optimizer, fresh)
    found = [_go_on(one, factory, 2) for one in (optimizer, fresh)]
    require(
        same(found[0], found[1]),
        "all that it has learnt must be in its state_dict(); after load_state_dict the next "
        "advantages or losses differ",
    )


def _go_on(optimizer: Optimizer, factory: Factory, seed: int) -> list[Any]:
    """Let an optimizer take a step, and return what it gave."""
    found: list[Any] = []
    if optimizer.learns_from != "pairs":
        batch = _batch(factory)
        found.append(_advantages(optimizer, _scores(batch, seed=seed), batch))
        found.append(loss_of(optimizer, *_loss_arguments(optimizer, batch)).gradient_BT)
    if optimizer.learns_from != "rollouts":
        found.append(pairs.go_on(optimizer, seed))
    return found


def check_needs_what_it_reads(factory: Factory) -> None:
    """It reads what is in `needs`, and nothing else of what has to be computed."""
    optimizer = begun(factory)
    unknown = sorted(optimizer.needs - set(NEEDS))
    require(not unknown, f"`needs` may contain {', '.join(NEEDS)}; found {', '.join(unknown)}")
    read: set[str] = set()
    if optimizer.learns_from != "pairs":
        group = _batch(factory).group
        batch = made_up_batch(group, on_read=read.add)
        _advantages(optimizer, made_up_scores(group), batch)
        read.discard("logprobs")
        secret = sorted(read - optimizer.needs)
        require(
            not secret,
            f"`needs` must name what it reads of a batch, so that the host can provide and count "
            f"it; it reads {', '.join(secret)}, which is not there",
        )
        if "ref_logprobs" in optimizer.needs and _reads_the_reference(optimizer, _batch(factory)):
            read.add("ref_logprobs")
    if optimizer.learns_from != "rollouts" and pairs.reads_the_reference(optimizer):
        read.add("ref_logprobs")
    vain = sorted(optimizer.needs - read)
    require(
        not vain,
        f"what `needs` names costs a forward pass, so it must be read; {', '.join(vain)} is not",
    )


def _reads_the_reference(optimizer: Optimizer, batch: Batch) -> bool:
    """Whether another reference policy changes anything."""
    logprobs_BT, rows, advantages_BT = _loss_arguments(optimizer, batch)
    assert rows.ref_logprobs_BT is not None
    other = replace(rows, ref_logprobs_BT=0.5 * rows.ref_logprobs_BT)
    found = [loss_of(optimizer, logprobs_BT, given, advantages_BT) for given in (rows, other)]
    return not same(
        (found[0].loss, found[0].gradient_BT, found[0].metrics),
        (found[1].loss, found[1].gradient_BT, found[1].metrics),
    )


def check_leaves_its_arguments_alone(factory: Factory) -> None:
    """It changes neither scores nor advantages nor the batch, which others read too."""
    optimizer = begun(factory)
    given: dict[str, Tensor] = {}
    steps: list[Callable[[], Any]] = []
    if optimizer.learns_from != "pairs":
        batch = _batch(factory)
        scores_PGK = _scores(batch)
        scores_PGK[0, 0, 0] = torch.nan
        logprobs_BT, rows, advantages_BT = _loss_arguments(optimizer, batch)
        given |= {
            "scores_PGK": scores_PGK,
            "batch.mask_BT": batch.mask_BT,
            "batch.hidden_BTD": batch.hidden_BTD,
            "advantages_BT": advantages_BT,
            "rows.mask_BT": rows.mask_BT,
            "rows.old_logprobs_BT": rows.old_logprobs_BT,
            **{f"rows.kept[{name!r}]": kept for name, kept in rows.kept.items()},
        }
        steps.append(lambda: _advantages(optimizer, scores_PGK, batch))
        steps.append(lambda: loss_of(optimizer, logprobs_BT, rows, advantages_BT))
    if optimizer.learns_from != "rollouts":
        tensors, step = pairs.arguments(optimizer)
        given |= tensors
        steps.append(step)
    before = {name: tensor.clone() for name, tensor in given.items()}
    for step in steps:
        step()
    for name, tensor in given.items():
        require(same(tensor, before[name]), f"it must not change {name}; work on a copy")


ALL: tuple[Check, ...] = (
    check_learns,
    check_begins_alike,
    check_resumes,
    check_needs_what_it_reads,
    check_leaves_its_arguments_alone,
)
"""What every optimizer is asked for."""

PROPERTIES: tuple[Check, ...] = (*ROLLOUTS, *pairs.PAIRS, *ALL)


def concerning(cls: type[Component]) -> tuple[Check, ...]:
    """Return the properties that an optimizer is asked for, by what it learns from."""
    learns_from = getattr(cls, "learns_from", "both")
    return (
        *(ROLLOUTS if learns_from != "pairs" else ()),
        *(pairs.PAIRS if learns_from != "rollouts" else ()),
        *ALL,
    )


# --- made up -----------------------------------------------------------------------------------


def _batch(factory: Factory) -> Batch:
    """Return a batch with groups from which one completion can be taken away, if there may be."""
    optimizer = factory()
    return made_up_batch(_at_most(optimizer, max(GROUP, optimizer.min_group + 1)))


def _at_most(optimizer: Optimizer, group: int) -> int:
    """Return a group's size, or the largest that the optimizer takes."""
    return group if optimizer.max_group is None else min(group, optimizer.max_group)


def _scores(batch: Batch, seed: int = 0) -> Tensor:
    return made_up_scores(batch.group, seed)


def _widened(batch: Batch) -> Batch:
    """Return a batch with two columns of padding more, and something else on all of it."""
    mask_BT = batch.mask_BT
    lazy = {
        "logprobs": widen(batch.logprobs_BT, mask_BT, 0.0),  # 0 on padding, the host says
        "ref_logprobs": widen(batch.ref_logprobs_BT, mask_BT, 0.0),
        "hidden": widen(batch.hidden_BTD, mask_BT, 2.0),
        "greedy_scores": batch.greedy_scores_PK,
    }
    return Batch(
        prompts_P=batch.prompts_P,
        group=batch.group,
        prompt_ids_P=batch.prompt_ids_P,
        texts_B=batch.texts_B,
        raw_texts_B=batch.raw_texts_B,
        ids_BT=widen(batch.ids_BT, mask_BT, 1),
        mask_BT=widen(mask_BT, mask_BT, 0.0),
        finished_B=batch.finished_B,
        lazy={name: partial(torch.clone, value) for name, value in lazy.items()},
    )


def _advantages(optimizer: Optimizer, scores_PGK: Tensor, batch: Batch) -> Tensor:
    with seeded():
        return optimizer.advantages(scores_PGK, batch)


def _grouped(advantages_BTK: Tensor) -> Tensor:
    """Return advantages as [P, G, T, K]."""
    return advantages_BTK.view(PROMPTS, -1, *advantages_BTK.shape[1:])


def _chosen(
    optimizer: Optimizer, batch: Batch, advantages_BT: Tensor
) -> tuple[Tensor | None, Tensor]:
    """Return what it selects of each prompt, [P, S] or None, and the rows that are left."""
    every_PG = torch.arange(batch.rows).view(-1, batch.group)
    mean_B = (advantages_BT * batch.mask_BT).sum(-1) / batch.mask_BT.sum(-1)
    with seeded():
        chosen_PS = optimizer.select(mean_B.view(every_PG.shape))
    rows_PS = every_PG if chosen_PS is None else every_PG.gather(1, chosen_PS)
    return chosen_PS, rows_PS.flatten()


def _loss_arguments(optimizer: Optimizer, batch: Batch) -> tuple[Tensor, Rows, Tensor]:
    """Return log-probabilities a little off the old ones, rows, and advantages of both signs.

    Only of what the optimizer selects, and after it has seen the scores, as in training.
    """
    generator = torch.Generator().manual_seed(0)
    noise_BT = 0.1 * torch.randn(batch.mask_BT.shape, generator=generator)
    advantages_BT = torch.randn(batch.mask_BT.shape, generator=generator) * batch.mask_BT
    _advantages(optimizer, _scores(batch), batch)
    chosen_PS, chosen_B = _chosen(optimizer, batch, advantages_BT)
    rows = rows_of(optimizer, batch, chosen_PS=chosen_PS)
    logprobs_BT = (batch.logprobs_BT + noise_BT) * batch.mask_BT
    return logprobs_BT[chosen_B], rows, advantages_BT[chosen_B]
