"""The contract of an optimizer that learns from preferences: what scores say, and nothing else.

``P`` prompts, ``G`` completions each, ``B = P*G`` rows, ``T`` tokens, ``K`` objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from moalign.components import Optimizer
from moalign.testing.contract import Check, Factory, require
from moalign.testing.lessons import (
    OBJECTIVES,
    PROMPTS,
    REFERENCE,
    TOLERANCE,
    Outcome,
    added_up,
    begun,
    hostile,
    made_up_batch,
    made_up_scores,
    micro_batches,
    pair_loss_of,
    require_loss,
    rows_of,
    share,
    widen,
)
from moalign.testing.values import same, seeded, shown
from moalign.types import Rows

FAR = 1000.0
"""A log-ratio that only a policy has that went wrong."""


@dataclass(frozen=True)
class Given:
    """Preferences as a loss sees them.

    Attributes:
        logprobs_BT: under the policy.
        rows: one mini-batch.
        weights_PK: other ones for each prompt, of sum 1.
    """

    logprobs_BT: Tensor
    rows: Rows
    weights_PK: Tensor

    @property
    def scores_PGK(self) -> Tensor:
        """What the objectives say."""
        assert self.rows.scores_BK is not None
        return self.rows.scores_BK.view(PROMPTS, -1, self.rows.scores_BK.shape[-1])


def check_gives_a_pair_loss(factory: Factory) -> None:
    """The loss is a number with a gradient, and one per prompt and objective where it applies."""
    for size in _sizes(factory):
        optimizer = cast(Any, begun(factory))  # it may return anything
        given = _given(optimizer, _partly_missing(size))
        applies: Any = optimizer.applies(given.scores_PGK)
        shape = (PROMPTS, len(OBJECTIVES))
        require(
            isinstance(applies, Tensor)
            and applies.dtype == torch.bool
            and tuple(applies.shape) == shape,
            f"applies() must return a bool tensor [P, K], {shape} here; found {applies!r}",
        )
        leaf_BT = given.logprobs_BT.clone().requires_grad_()
        returned = optimizer.pair_loss(leaf_BT, given.rows, given.weights_PK)
        require_loss(returned, "pair_loss")
        if not _has_losses(optimizer):
            continue
        losses, _ = optimizer.losses(given.logprobs_BT, given.rows)
        require(
            isinstance(losses, Tensor) and tuple(losses.shape) == shape,
            f"losses() must return a tensor [P, K], {shape} here; found "
            f"{getattr(losses, 'shape', type(losses).__name__)}",
        )
        require(
            same(losses.isnan(), ~applies),
            "a loss must be NaN where applies() is False, and nowhere else; NaN is "
            f"{losses.isnan().tolist()}, applies() says {applies.tolist()}",
        )


def check_pair_loss_is_finite(factory: Factory) -> None:
    """Loss and gradient are finite for tiny, huge, equal and missing scores; of none they are 0."""
    for size in _sizes(factory):
        for name, scores_PGK in hostile(made_up_scores(size)).items():
            optimizer = begun(factory)
            found = _require_finite(optimizer, _given(optimizer, scores_PGK), f"with {name} scores")
            require(
                name != "no" or not (found.loss or found.gradient_BT.any()),
                "where no objective says anything, loss and gradient must be 0; found "
                f"{float(found.loss):.6g} and {shown(found.gradient_BT)}",
            )
        optimizer = begun(factory)
        given = _without_tokens(_given(optimizer, made_up_scores(size)))
        _require_finite(optimizer, given, "where a completion has no tokens")


def _require_finite(optimizer: Optimizer, given: Given, where: str) -> Outcome:
    """Hold loss and gradient to be finite, and losses, which could hide NaN from the sum."""
    found = _outcome(optimizer, given)
    require(
        found.finite,
        f"loss and gradient must be finite; {where} the loss is {float(found.loss)}, and its "
        f"gradient {shown(found.gradient_BT)}",
    )
    if _has_losses(optimizer):
        losses = _losses(optimizer, given)[optimizer.applies(given.scores_PGK)]
        require(
            losses.isfinite().all(),
            f"losses must be finite where applies() says so; {where} found {shown(losses)}",
        )
    return found


def check_survives_exploding_preferences(factory: Factory) -> None:
    """Loss and gradient are finite however far the policy is from the reference."""
    for size in _sizes(factory):
        optimizer = begun(factory)
        given = _given(optimizer, made_up_scores(size))
        first_B1 = (torch.arange(len(given.logprobs_BT)) % size == 0).float()[:, None]
        for signs_B1 in (first_B1, -first_B1, 2 * first_B1 - 1, torch.ones_like(first_B1)):
            moved_BT = given.logprobs_BT + FAR * signs_B1 * given.rows.mask_BT
            moved = replace(given, logprobs_BT=moved_BT)
            _require_finite(optimizer, moved, f"at log-ratios of {FAR:g} per token")


def check_a_prompt_is_a_set(factory: Factory) -> None:
    """The completions of a prompt in another order have the same loss and gradient."""
    for size in _sizes(factory):
        optimizer = begun(factory)
        given = _given(optimizer, _partly_missing(size))
        order_PG = torch.arange(PROMPTS * size).view(PROMPTS, size).flip(1)
        plain = _outcome(optimizer, given)
        turned = _outcome(begun(factory), _reordered(given, order_PG.flatten()))
        require(
            same(turned.loss, plain.loss, TOLERANCE)
            and same(turned.gradient_BT, plain.gradient_BT[order_PG.flatten()], 1e-6)
            and same(turned.metrics, plain.metrics, TOLERANCE),
            "scores say which completion is better, and the order says nothing; the other way "
            f"round the loss is {float(turned.loss):.6g} instead of {float(plain.loss):.6g}, or "
            "gradient or metrics differ",
        )


def check_leaves_the_reference_rightly(factory: Factory) -> None:
    """Where the policy is the reference, the loss is finite and pulls the higher score up."""
    for size in _sizes(factory):
        optimizer = begun(factory)
        given = _at_the_reference(optimizer, _partly_missing(size))
        _require_finite(optimizer, given, "where the policy is the reference, as at the beginning,")
        for best in (0, size - 1):
            other = size - 1 - best
            scores_PGK = torch.zeros(PROMPTS, size, len(OBJECTIVES))
            scores_PGK[:, best] = 1.0
            given = _at_the_reference(optimizer, scores_PGK)
            pull_BT = -_outcome(optimizer, given).gradient_BT * given.rows.mask_BT
            pull_PG = pull_BT.sum(-1).view(PROMPTS, size)
            require(
                (pull_PG[:, best] > pull_PG[:, other]).all(),
                "the completion with the higher score must become likelier than the other; where "
                f"completion {best} of {size} has it, it is pulled up by "
                f"{float(pull_PG[0, best]):.3g}, and completion {other} by "
                f"{float(pull_PG[0, other]):.3g}",
            )


def check_padding_of_pairs_changes_nothing(factory: Factory) -> None:
    """What padding holds, and how much of it there is, changes neither loss nor gradient."""
    optimizer = begun(factory)
    given = _given(optimizer, made_up_scores(_sizes(factory)[0]))
    rows, mask_BT = given.rows, given.rows.mask_BT
    reference = rows.ref_logprobs_BT
    spoilt = replace(
        rows,
        mask_BT=widen(mask_BT, mask_BT, 0.0),
        old_logprobs_BT=widen(rows.old_logprobs_BT, mask_BT, 4.0),
        ref_logprobs_BT=None if reference is None else widen(reference, mask_BT, -9.0),
    )
    short = _outcome(optimizer, given)
    wide_BT = widen(given.logprobs_BT, mask_BT, -5.0)
    long = _outcome(begun(factory), replace(given, logprobs_BT=wide_BT, rows=spoilt))
    require(
        same(long.loss, short.loss, TOLERANCE)
        and same(long.gradient_BT[:, : mask_BT.shape[1]], short.gradient_BT, 1e-6)
        and same(long.metrics, short.metrics, TOLERANCE),
        f"padding must change nothing; other values there, and two columns more of it, moved the "
        f"loss from {float(short.loss):.6g} to {float(long.loss):.6g}, or gradient or metrics",
    )


def check_micro_batches_of_pairs_add_up(factory: Factory) -> None:
    """Losses, gradients and metrics of micro-batches of whole groups add up to the mini-batch's."""
    for size in _sizes(factory):
        optimizer = begun(factory, trained=True)
        given = _given(optimizer, _partly_missing(size))
        whole = _outcome(optimizer, given)
        parts = [
            _outcome(
                optimizer,
                Given(
                    given.logprobs_BT[part],
                    share(given.rows, part),
                    given.weights_PK[part.start // size : part.stop // size],
                ),
            )
            for part in micro_batches(given.rows)
        ]
        wrong = added_up(parts, whole)
        require(
            not wrong,
            "the losses of micro-batches must add up to that of the mini-batch, and so must the "
            f"metrics, so divide by rows.counts_K; {wrong}",
        )


def check_losses_do_not_mix(factory: Factory) -> None:
    """The loss of an objective does not depend on the scores of the others."""
    optimizer = begun(factory)
    if not _has_losses(optimizer):
        return
    size = _sizes(factory)[0]
    scores_PGK, others_PGK = made_up_scores(size), made_up_scores(size, seed=9)
    others_PGK[..., 0] = scores_PGK[..., 0]
    plain, changed = (
        _losses(one, _given(one, scores))[:, 0]
        for one, scores in ((optimizer, scores_PGK), (begun(factory), others_PGK))
    )
    require(
        same(plain, changed, TOLERANCE),
        "column k of the losses must depend on column k of the scores only, because weights act "
        f"afterwards; other scores in the other columns moved {shown(plain)} to {shown(changed)}",
    )


def check_pairs_follow_the_objectives(factory: Factory) -> None:
    """Objectives in another order have the same losses in that order, and the same loss."""
    order, size = [2, 0, 1], _sizes(factory)[0]
    plain, moved = begun(factory), begun(factory, order)
    scores_PGK = _partly_missing(size)
    given = _given(plain, scores_PGK)
    other = _given(moved, scores_PGK[..., order])
    other = replace(other, weights_PK=given.weights_PK[:, order])
    found, expected = _outcome(moved, other), _outcome(plain, given)
    agree = same(found.loss, expected.loss, TOLERANCE)
    if agree and _has_losses(plain):
        agree = same(_losses(moved, other), _losses(plain, given)[:, order], TOLERANCE)
    require(
        agree and same(moved.applies(other.scores_PGK), plain.applies(given.scores_PGK)[:, order]),
        f"an objective is known by its name, not by its place; with objectives and weights in the "
        f"order {order} the loss is {float(found.loss):.6g} instead of "
        f"{float(expected.loss):.6g}, or the losses differ",
    )


def check_weights_add_losses_up(factory: Factory) -> None:
    """Where there is a loss per objective, pair_loss is their sum with the weights."""
    optimizer = begun(factory)
    if not _has_losses(optimizer):
        return
    for size in _sizes(factory):
        given = _given(optimizer, _partly_missing(size))
        counts_K = given.rows.counts_K
        assert counts_K is not None
        losses_PK = _losses(begun(factory), given)
        expected = (given.weights_PK * losses_PK / counts_K.clamp(min=1)).nansum()
        found = _outcome(begun(factory), given).loss
        require(
            same(found, expected, TOLERANCE),
            "where losses() exists, weightings rely on pair_loss() being sum_k w_k mean_p loss_pk, "
            f"the mean over rows.counts_K prompts; found {float(found):.6g} instead of "
            f"{float(expected):.6g}",
        )


def check_copies_teach_nothing(factory: Factory) -> None:
    """Copies of one another have no gradient, unless completions are judged one by one."""
    for size in _sizes(factory):
        optimizer = begun(factory)
        alone_PGK = made_up_scores(size)
        alone_PGK[:, 1:] = torch.nan
        if any(optimizer.applies(value * alone_PGK).any() for value in (1.0, 1e3, -1e3)):
            return
        scores_PGK = made_up_scores(size)
        scores_PGK[0] = scores_PGK[0, :1]
        given = _given(optimizer, scores_PGK)
        twins_B = torch.arange(PROMPTS * size)
        twins_B[:size] = 0
        found = _outcome(optimizer, _reordered(given, twins_B))
        require(
            same(found.gradient_BT[:size], torch.zeros_like(found.gradient_BT[:size]), 1e-7),
            "a completion is not better than its copy, so there must be no gradient; found "
            f"{shown(found.gradient_BT[:size])}",
        )


PAIRS: tuple[Check, ...] = (
    check_gives_a_pair_loss,
    check_pair_loss_is_finite,
    check_survives_exploding_preferences,
    check_a_prompt_is_a_set,
    check_leaves_the_reference_rightly,
    check_padding_of_pairs_changes_nothing,
    check_micro_batches_of_pairs_add_up,
    check_losses_do_not_mix,
    check_pairs_follow_the_objectives,
    check_weights_add_losses_up,
    check_copies_teach_nothing,
)
"""What an optimizer that learns from preferences is asked for."""


# --- the part of preferences in what every optimizer is asked for ------------------------------


def bandit(optimizer: Optimizer, logits: Tensor, step: int) -> Tensor:
    """Return the loss of preferences between two answers, of which the first is the better one."""
    size = max(2, optimizer.min_group)
    arms_B = torch.arange(PROMPTS * size) % 2 if size > 2 else torch.tensor([0, 1, 1, 0, 0, 1])
    scores_PGK = (arms_B == 0).float().view(PROMPTS, size, 1).repeat(1, 1, len(OBJECTIVES))
    logprobs_BT = logits.log_softmax(-1)[arms_B][:, None]
    rows = rows_of(
        optimizer,
        made_up_batch(size, seed=step, tokens=1),
        old_BT=logprobs_BT.detach(),
        reference_BT=torch.tensor(REFERENCE).log()[arms_B][:, None],
        scores_PGK=scores_PGK,
    )
    weights_PK = torch.full((PROMPTS, len(OBJECTIVES)), 1 / len(OBJECTIVES))
    with seeded(step):
        return optimizer.pair_loss(logprobs_BT, rows, weights_PK)[0]


def go_on(optimizer: Optimizer, seed: int) -> list[Tensor]:
    """Let an optimizer take a step, and return loss and gradients."""
    given = _given(optimizer, made_up_scores(max(2, optimizer.min_group), seed))
    found = _outcome(optimizer, given)
    return [found.loss, found.gradient_BT, *found.own]


def reads_the_reference(optimizer: Optimizer) -> bool:
    """Whether another reference policy changes anything."""
    given = _given(optimizer, made_up_scores(max(2, optimizer.min_group)))
    reference_BT = given.rows.ref_logprobs_BT
    if reference_BT is None:
        return False
    other = replace(given, rows=replace(given.rows, ref_logprobs_BT=0.5 * reference_BT))
    found = [_outcome(optimizer, one) for one in (given, other)]
    return not same(
        (found[0].loss, found[0].gradient_BT, found[0].metrics),
        (found[1].loss, found[1].gradient_BT, found[1].metrics),
    )


def arguments(optimizer: Optimizer) -> tuple[dict[str, Tensor], Callable[[], Any]]:
    """Return tensors that a step must not change, by name, and the step."""
    scores_PGK = _partly_missing(max(2, optimizer.min_group))
    scores_PGK[..., 2] = torch.nan
    given = _given(optimizer, scores_PGK)
    rows = given.rows
    tensors = {
        "rows.mask_BT": rows.mask_BT,
        "rows.old_logprobs_BT": rows.old_logprobs_BT,
        "rows.ref_logprobs_BT": rows.ref_logprobs_BT,
        "rows.scores_BK": rows.scores_BK,
        "rows.counts_K": rows.counts_K,
        "weights_PK": given.weights_PK,
    }
    return (
        {f"{name} (of preferences)": value for name, value in tensors.items() if value is not None},
        lambda: (optimizer.applies(given.scores_PGK), _outcome(optimizer, given)),
    )


# --- made up -----------------------------------------------------------------------------------


def _sizes(factory: Factory) -> Sequence[int]:
    """Return how many completions of a prompt there are: two, and a list."""
    least = max(2, factory().min_group)
    return (least, max(4, least + 1))


def _partly_missing(size: int) -> Tensor:
    """Return scores of which some are missing, and some equal."""
    scores_PGK = made_up_scores(size)
    scores_PGK[0, :, 1] = torch.nan
    scores_PGK[1, 0, 2] = torch.nan
    scores_PGK[2, :, 0] = 0.3
    return scores_PGK


def _given(optimizer: Optimizer, scores_PGK: Tensor) -> Given:
    """Return preferences with these scores; the policy is not the reference."""
    batch = made_up_batch(scores_PGK.shape[1])
    rows = rows_of(optimizer, batch, scores_PGK=scores_PGK)
    generator = torch.Generator().manual_seed(3)
    weights_PK = torch.rand(PROMPTS, scores_PGK.shape[-1], generator=generator) + 0.1
    return Given(batch.logprobs_BT, rows, weights_PK / weights_PK.sum(-1, keepdim=True))


def _at_the_reference(optimizer: Optimizer, scores_PGK: Tensor) -> Given:
    """Return preferences with these scores; the policy is the reference."""
    given = _given(optimizer, scores_PGK)
    if given.rows.ref_logprobs_BT is None:
        return given
    return replace(given, rows=replace(given.rows, ref_logprobs_BT=given.logprobs_BT))


def _without_tokens(given: Given) -> Given:
    """Return preferences between an empty completion of each prompt and the others."""
    rows = given.rows
    kept_B1 = (torch.arange(len(rows.mask_BT)) % rows.group > 0).float()[:, None]
    reference_BT = rows.ref_logprobs_BT
    emptied = replace(
        rows,
        mask_BT=rows.mask_BT * kept_B1,
        old_logprobs_BT=rows.old_logprobs_BT * kept_B1,
        ref_logprobs_BT=None if reference_BT is None else reference_BT * kept_B1,
    )
    return replace(given, logprobs_BT=given.logprobs_BT * kept_B1, rows=emptied)


def _reordered(given: Given, order_B: Tensor) -> Given:
    """Return preferences with these rows in place of their own."""
    rows, scores_BK = given.rows, given.rows.scores_BK
    reference_BT = rows.ref_logprobs_BT
    assert scores_BK is not None
    moved = replace(
        rows,
        mask_BT=rows.mask_BT[order_B],
        old_logprobs_BT=rows.old_logprobs_BT[order_B],
        ref_logprobs_BT=None if reference_BT is None else reference_BT[order_B],
        scores_BK=scores_BK[order_B],
    )
    return replace(given, logprobs_BT=given.logprobs_BT[order_B], rows=moved)


def _outcome(optimizer: Optimizer, given: Given) -> Outcome:
    return pair_loss_of(optimizer, given.logprobs_BT, given.rows, given.weights_PK)


def _has_losses(optimizer: Optimizer) -> bool:
    return type(optimizer).losses is not Optimizer.losses


def _losses(optimizer: Optimizer, given: Given) -> Tensor:
    with seeded():
        return optimizer.losses(given.logprobs_BT, given.rows)[0].detach()
