"""A softmax table over a few responses of one token each, trained by an optimizer's own loss.

No model, no loop, no sampling: what an optimizer converges to, to many digits. All in float64.

``P`` prompts, ``A`` responses of each, ``K`` objectives. Log-probabilities are ``log_softmax`` of
a table of logits [P, A].

- :func:`fit` minimises the loss of an optimizer that learns from pairs over all responses;
- :func:`solve` follows the expected gradient of one that learns from rollouts: the mean over every
  group of responses that could have been sampled, weighted by its probability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from moalign.components import Optimizer
from moalign.testing.steps import make_batch, make_objectives
from moalign.types import Rows

NAMES = "abcdefgh"


def begun(optimizer: Optimizer, objectives: int, width: int = 1) -> Optimizer:
    """Return an optimizer that knows its objectives: ``a``, ``b``, ... with bounds (0, 1)."""
    optimizer.begin(make_objectives(*NAMES[:objectives]), width, 0)
    return optimizer


def rows_of(
    optimizer: Optimizer,
    scores_PGK: Tensor,
    reference_PGT: Tensor,
    old_PGT: Tensor | None = None,
    mask_PGT: Tensor | None = None,
) -> Rows:
    """Return whole groups as the rows of one mini-batch.

    Args:
        optimizer: says which prompts count, if it learns from preferences.
        scores_PGK: raw scores, NaN where an objective does not apply.
        reference_PGT: log-probabilities under the reference policy.
        old_PGT: under the policy that sampled; default: the reference.
        mask_PGT: default: every token counts.
    """
    prompts, group, tokens = reference_PGT.shape
    old_PGT = reference_PGT if old_PGT is None else old_PGT
    mask_PGT = torch.ones_like(reference_PGT) if mask_PGT is None else mask_PGT
    preferences = optimizer.learns_from != "rollouts"
    return Rows(
        mask_BT=mask_PGT.flatten(0, 1),
        old_logprobs_BT=old_PGT.flatten(0, 1),
        ref_logprobs_BT=reference_PGT.flatten(0, 1) if "ref_logprobs" in optimizer.needs else None,
        total_rows=prompts * group,
        total_tokens=int(mask_PGT.sum()),
        max_tokens=tokens,
        group=group if optimizer.whole_groups else 1,
        scores_BK=scores_PGK.flatten(0, 1) if preferences else None,
        counts_K=optimizer.applies(scores_PGK).sum(0) if preferences else None,
    )


def fit(
    optimizer: Optimizer,
    scores_PGK: Tensor,
    weights_K: Sequence[float],
    reference_PA: Tensor,
    groups_PG: Sequence[Sequence[int]] | None = None,
) -> Tensor:
    """Return the policy that minimises the loss of an optimizer that learns from pairs.

    Args:
        optimizer: after ``begin``.
        scores_PGK: of the responses of each prompt, or of each group.
        weights_K: of the objectives.
        reference_PA: probabilities of the reference policy, where training begins.
        groups_PG: which responses are compared, of a single prompt: each a prompt of its own for
            the optimizer, so that pairs may have scores that no list of scores gives (a cycle);
            default: all responses of each prompt.

    Returns:
        probabilities, [P, A].
    """
    reference_PA = reference_PA.double().log()

    def grouped(logs_PA: Tensor) -> Tensor:
        logs_PG = logs_PA if groups_PG is None else logs_PA[0, torch.tensor(groups_PG)]
        return logs_PG[..., None]

    rows = rows_of(optimizer, scores_PGK.double(), grouped(reference_PA))
    weights_PK = torch.tensor(weights_K).double().expand(len(scores_PGK), -1)

    def loss(logits_PA: Tensor) -> Tensor:
        logprobs_BT = grouped(logits_PA.log_softmax(-1)).flatten(0, 1)
        return optimizer.pair_loss(logprobs_BT, rows, weights_PK)[0]

    return minimum(loss, reference_PA).softmax(-1)


def minimum(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Return where a smooth loss is least, by L-BFGS from ``start``."""
    found = start.detach().clone().requires_grad_()
    search = torch.optim.LBFGS(
        [found],
        max_iter=500,
        tolerance_grad=1e-12,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        search.zero_grad()
        value = loss(found)
        value.backward()
        return value

    search.step(closure)
    return found.detach()


def solve(
    optimizer: Optimizer,
    scores_AK: Tensor,
    weights_K: Sequence[float],
    reference_A: Tensor,
    *,
    group: int = 2,
    prompts: int | None = None,
    rate: float = 0.5,
    steps: int = 80,
) -> Tensor:
    """Return where the expected update of an optimizer that learns from rollouts leads, [A].

    Args:
        optimizer: after ``begin``; its loss adds up over rows.
        scores_AK: of the responses.
        weights_K: of the objectives' advantages.
        reference_A: probabilities of the reference policy, where training begins.
        group: completions per prompt; A ** group of them are passed through at each step.
        prompts: see :func:`expected_gradient`.
        rate: of the steps, which are along the natural gradient of the table.
        steps: how many.
    """
    reference_A = reference_A.double().log()
    logits_A = reference_A.clone()
    weights = torch.tensor(weights_K).double()
    for _ in range(steps):
        gradient_A = expected_gradient(
            optimizer,
            logits_A.log_softmax(-1),
            scores_AK.double(),
            weights,
            reference_A=reference_A,
            group=group,
            prompts=prompts,
        )
        logits_A = logits_A - rate * gradient_A / logits_A.softmax(-1)
    return logits_A.softmax(-1)


def expected_gradient(
    optimizer: Optimizer,
    logprobs_A: Tensor,
    scores: Tensor | Callable[[Tensor], Tensor],
    weights_K: Tensor,
    *,
    reference_A: Tensor,
    group: int,
    prompts: int | None = None,
    sampled_A: Tensor | None = None,
) -> Tensor:
    """Return the mean gradient of the loss by the table, over all groups that may be sampled, [A].

    A loss adds up over rows, so one call serves all groups: the gradient by each row's
    log-probability is weighted afterwards by how probable its group was.

    Args:
        optimizer: its loss.
        logprobs_A: of the policy that learns.
        scores: of the responses, [A, K]; or of groups of them, a function of their numbers [S, G]
            that gives [S, G, K].
        weights_K: of the objectives' advantages.
        reference_A: log-probabilities of the reference policy.
        group: G.
        prompts: groups of a batch, for an optimizer that compares a score with the whole batch:
            the mean is over all batches of so many. None: it looks at each group by itself.
        sampled_A: of the policy that samples; default: the one that learns.
    """
    rows_per_set = group * (prompts or 1)
    responses_SR = torch.tensor(list(product(range(len(logprobs_A)), repeat=rows_per_set)))
    sets, responses_PG = len(responses_SR), responses_SR.view(-1, group)
    scores_PGK = scores[responses_PG] if isinstance(scores, Tensor) else scores(responses_PG)
    advantages_BTK, kept = advantages(optimizer, scores_PGK, prompts or sets)
    advantages_BT = (advantages_BTK * weights_K).sum(-1)
    sampled_A = (logprobs_A if sampled_A is None else sampled_A).detach()
    sampled_PGT = sampled_A[responses_PG][..., None]
    rows = rows_of(optimizer, scores_PGK, reference_A[responses_PG][..., None], sampled_PGT)
    rows = replace(rows, kept=kept)
    leaf_BT = logprobs_A.detach()[responses_PG].view(-1, 1).requires_grad_()
    loss, _ = optimizer.loss(leaf_BT, rows, advantages_BT)
    (slope_BT,) = torch.autograd.grad(loss, leaf_BT)
    probable_B = sampled_A[responses_SR].sum(-1).exp().repeat_interleave(rows_per_set)
    # The loss is a mean over the sets; what is wanted is the mean under their probabilities.
    slope_B = sets * probable_B * slope_BT[:, 0]
    table_A = logprobs_A.detach().clone().requires_grad_()
    moved = (slope_B * table_A.log_softmax(-1)[responses_PG.flatten()]).sum()
    (gradient_A,) = torch.autograd.grad(moved, table_A)
    return gradient_A


def advantages(
    optimizer: Optimizer, scores_PGK: Tensor, prompts: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return advantages of groups in batches of ``prompts``, [B, 1, K], and what is left beside."""
    found, kept = [], []
    for part_PGK in scores_PGK.split(prompts):
        count, group, _ = part_PGK.shape
        nothing = torch.zeros(count * group, 1, 1)
        batch = make_batch(
            count, group, lengths=[1] * (count * group), lazy={"hidden": lambda n=nothing: n}
        )
        found.append(optimizer.advantages(part_PGK, batch))
        kept.append(batch.kept)
    return torch.cat(found), {name: torch.cat([one[name] for one in kept]) for name in kept[0]}
