"""Passes over a batch: micro-batches forward, the loss back to what is trained; charged.

``P`` prompts, ``G`` completions each, ``B = P*G`` rows, ``S`` of a prompt's that are learned from,
``T`` tokens, ``K`` objectives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor
from torch.nn import Parameter

from moalign.components import Optimizer
from moalign.errors import NonFiniteError
from moalign.study.study import Study
from moalign.training.coefficients import coefficients, loss_coefficients
from moalign.training.gradient_sums import Sketch
from moalign.training.gradients import GradientEngine, MicroBatch, PolicyGradients
from moalign.training.policy import Policy, micro_batches
from moalign.training.scoring import Scores
from moalign.types import Batch, Cost, Rows


@dataclass(frozen=True)
class Lesson:
    """A batch to learn from, and what the loss reads beside log-probabilities.

    Attributes:
        batch: rollouts or preferences.
        everything: scores of all objectives, monitored ones included.
        scores_BK: of the training objectives, raw.
        preferences: whether nobody sampled it for this step: completions to choose between.
        rows_PS: the rows that are learned from, int64.
        advantages_BT: of rollouts, once the weights are known: combined, [B, T] or [B, 1].
        weights_PK: of preferences, once they are known.
    """

    batch: Batch
    everything: Scores
    scores_BK: Tensor
    preferences: bool
    rows_PS: Tensor
    advantages_BT: Tensor | None = None
    weights_PK: Tensor | None = None

    def prompts(self, rows: Tensor) -> Tensor:
        """Return the prompt of each of some whole groups of rows."""
        return rows[:: self.rows_PS.shape[1]] // self.batch.group


def all_rows(batch: Batch) -> Tensor:
    """Return every row of a batch, a line per prompt: [P, G]."""
    return torch.arange(batch.rows).view(-1, batch.group)


class Passes:
    """Forward and backward passes of one trial.

    Attributes:
        cost: what they are charged to.
    """

    def __init__(
        self, study: Study, policy: Policy, optimizer: Optimizer, engine: GradientEngine, cost: Cost
    ) -> None:
        self._training = study.section.training
        self._rollout = study.rollout
        self._policy = policy
        self._optimizer = optimizer
        self._engine = engine
        self._parameters = [parameter for _, parameter in policy.trainable()]
        self._own: Sequence[Parameter] = optimizer.parameters()
        self.cost = cost

    # --- a mini-batch --------------------------------------------------------------------------

    def back(
        self,
        lessons: Sequence[tuple[Lesson, Tensor]],
        old: Sequence[Tensor | None],
        known: PolicyGradients | None,
        step: int,
    ) -> dict[str, float]:
        """Leave the gradient of a mini-batch's loss, clipped, where it belongs.

        Args:
            lessons: what it is made of, and the rows of each, [P, S].
            old: per lesson log-probabilities of the whole batch under the policy that sampled;
                None: those of the pass itself.
            known: the gradients of the objectives on the same rows, which may spare the pass.
            step: its number, from 1, for messages.

        Returns:
            metrics, among them the loss.

        Raises:
            NonFiniteError: the loss or its gradient is not finite.
        """
        totals = None if known is None else self._reused(lessons, old, known)
        if totals is None:
            self._forget()
            if known is not None:
                known.free()  # room for the pass
            totals = {}
            for (lesson, rows_PS), old_BT in zip(lessons, old, strict=True):
                parts = self._micro_batches(lesson, rows_PS)
                logprobs = (self._logprobs(lesson.batch, part) for part in parts)
                self._back(lesson, rows_PS, zip(parts, logprobs, strict=True), old_BT, totals)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._training.clip_norm)
        loss = totals["loss"]
        if not (torch.isfinite(norm) and torch.isfinite(loss)):
            raise NonFiniteError(
                f"the loss ({float(loss)}) or its gradient (norm {float(norm)}) is not "
                f"finite at step {step}; a lower training.learning_rate may help"
            )
        metrics = {name: float(value) for name, value in totals.items()}
        metrics["gradient_norm"] = float(norm)
        if self._own:
            own = torch.nn.utils.clip_grad_norm_(self._own, self._training.clip_norm)
            if not torch.isfinite(own):
                raise NonFiniteError(
                    f"the gradient of what optimizer {self._optimizer.name} trains beside the "
                    f"policy has the norm {float(own)} at step {step}; a lower learning rate of "
                    "its own may help"
                )
            metrics["own_gradient_norm"] = float(own)
        return metrics

    def _forget(self) -> None:
        for parameter in chain(self._parameters, self._own):
            parameter.grad = None

    def _reused(
        self,
        lessons: Sequence[tuple[Lesson, Tensor]],
        old: Sequence[Tensor | None],
        known: PolicyGradients,
    ) -> dict[str, Tensor] | None:
        """Return the metrics if the known gradients gave that of the loss, else None."""
        leaves = known.leaves()
        if leaves is None:
            return None
        self._forget()
        totals: dict[str, Tensor] = {}
        ((lesson, rows_PS),), (old_BT,) = lessons, old
        parts = self._micro_batches(lesson, rows_PS)
        self._back(lesson, rows_PS, zip(parts, leaves, strict=True), old_BT, totals)
        return totals if known.assign(leaves) else None

    def _back(
        self,
        lesson: Lesson,
        rows_PS: Tensor,
        parts: Iterable[tuple[Tensor, Tensor]],
        old_BT: Tensor | None,
        totals: dict[str, Tensor],
    ) -> None:
        """Pass the loss of a mini-batch back to log-probabilities; add to the metrics.

        Args:
            lesson: what is learned.
            rows_PS: of the mini-batch.
            parts: its micro-batches: their rows and log-probabilities [B, T], one at a time.
            old_BT: as for :meth:`back`.
            totals: is added to.
        """
        batch = lesson.batch
        for part, logprobs_BT in parts:
            longest = logprobs_BT.shape[1]
            old = logprobs_BT.detach() if old_BT is None else old_BT[part, :longest]
            rows = self.rows(lesson, rows_PS, part, old)
            if lesson.preferences:
                assert lesson.weights_PK is not None
                weights_PK = lesson.weights_PK[lesson.prompts(part)]
                loss, metrics = self._optimizer.pair_loss(logprobs_BT, rows, weights_PK)
            else:
                assert lesson.advantages_BT is not None
                advantages_BT = lesson.advantages_BT[part, :longest]
                loss, metrics = self._optimizer.loss(logprobs_BT, rows, advantages_BT)
            loss.backward()  # type: ignore[no-untyped-call]
            metrics = {**metrics, "loss": loss}
            known_BT, mask_BT = logprobs_BT.detach(), rows.mask_BT
            if not lesson.preferences:  # of what the policy wrote; of data it says nothing
                metrics["entropy"] = -(known_BT * mask_BT).sum() / rows.total_tokens
                if batch.has("ref_logprobs"):  # else it would have to be computed for this alone
                    ratio_BT = known_BT - batch.ref_logprobs_BT[part, :longest]
                    metrics["kl"] = (ratio_BT * mask_BT).sum() / rows.total_rows
            for name, value in metrics.items():
                totals[name] = totals.get(name, torch.zeros(())) + value.detach().cpu()

    def rows(self, lesson: Lesson, rows_PS: Tensor, part: Tensor, old_BT: Tensor) -> Rows:
        """Return a micro-batch of a mini-batch's rows as a loss sees them.

        Args:
            lesson: gives the batch.
            rows_PS: of the mini-batch.
            part: rows of the micro-batch.
            old_BT: its log-probabilities under the policy that sampled.
        """
        batch, longest = lesson.batch, old_BT.shape[1]
        counts_K = None
        if lesson.preferences:
            counts_K = self._optimizer.applies(lesson.scores_BK[rows_PS]).sum(0)
        return Rows(
            mask_BT=batch.mask_BT[part, :longest],
            old_logprobs_BT=old_BT,
            ref_logprobs_BT=batch.ref_logprobs_BT[part, :longest]
            if "ref_logprobs" in self._optimizer.needs
            else None,
            total_rows=rows_PS.numel(),
            total_tokens=int(batch.mask_BT[rows_PS.flatten()].sum()),
            max_tokens=self._rollout.max_tokens,
            group=rows_PS.shape[1] if self._whole(lesson) else 1,
            scores_BK=lesson.scores_BK[part] if lesson.preferences else None,
            counts_K=counts_K,
            kept={
                name: kept[part, :longest] if kept.ndim > 1 else kept[part]
                for name, kept in batch.kept.items()
            },
        )

    def _whole(self, lesson: Lesson) -> bool:
        return self._optimizer.whole_groups or lesson.preferences

    # --- micro-batches -------------------------------------------------------------------------

    def _micro_batches(self, lesson: Lesson, rows_PS: Tensor) -> list[Tensor]:
        """Return the rows of each micro-batch; whole groups if the loss compares them."""
        batch = lesson.batch
        prompt_lengths_P = torch.tensor([len(ids) for ids in batch.prompt_ids_P])
        lengths_B = batch.lengths_B().cpu() + prompt_lengths_P.repeat_interleave(batch.group)
        limit = self._training.micro_tokens
        if not self._whole(lesson):
            rows = rows_PS.flatten()
            return [rows[torch.tensor(p)] for p in micro_batches(lengths_B[rows].tolist(), limit)]
        sizes_P = lengths_B[rows_PS].amax(1) * rows_PS.shape[1]
        return [rows_PS[torch.tensor(p)].flatten() for p in micro_batches(sizes_P.tolist(), limit)]

    def _logprobs(self, batch: Batch, rows: Tensor, backwards: int = 1) -> Tensor:
        """Forward some rows with gradient, to be passed back so many times; [rows, longest]."""
        longest = int(batch.lengths_B()[rows].max())
        tokens = self._tokens(batch, rows)
        self.cost.add(Cost(forwarded=tokens, backwarded=backwards * tokens))
        return self._policy.logprobs(
            [batch.prompt_ids_P[int(b) // batch.group] for b in rows],
            batch.ids_BT[rows, :longest],
            batch.mask_BT[rows, :longest],
            temperature=self._rollout.temperature,
        )

    @staticmethod
    def _tokens(batch: Batch, rows: Tensor) -> int:
        """Return how many tokens a pass over some rows is charged for."""
        prompts = sum(len(batch.prompt_ids_P[int(b) // batch.group]) for b in rows)
        return int(batch.mask_BT[rows].sum()) + prompts

    # --- gradients per objective ---------------------------------------------------------------

    def gradients(
        self, lesson: Lesson, columns_BTK: Tensor, sketch: Sketch | None
    ) -> PolicyGradients:
        """Return the gradient of each objective, computed when it is asked for.

        Args:
            lesson: the batch.
            columns_BTK: advantages per objective; those of preferences are not read.
            sketch: a random projection, or None.
        """
        batch, rows_PG = lesson.batch, all_rows(lesson.batch)
        owed = 0.0  # half a pass over an odd number of tokens: rounded once, not per micro-batch

        def spend(part: Tensor, passes: float) -> None:
            nonlocal owed
            owed += passes * self._tokens(batch, part)
            whole = int(owed)
            owed -= whole
            self.cost.add(Cost(backwarded=whole))

        def micro_batch(part: Tensor) -> MicroBatch:
            def objectives(logprobs_BT: Tensor) -> Tensor:
                rows = self.rows(lesson, rows_PG, part, logprobs_BT)
                if lesson.preferences:
                    return loss_coefficients(self._optimizer, logprobs_BT, rows)
                longest_BTK = columns_BTK[part, : logprobs_BT.shape[1]]
                return coefficients(self._optimizer, logprobs_BT, rows, longest_BTK)

            return MicroBatch(
                mask_BT=batch.mask_BT[part, : int(batch.lengths_B()[part].max())],
                logprobs=lambda: self._logprobs(batch, part, backwards=0),
                coefficients=objectives,
                spend=lambda passes: spend(part, passes),
            )

        def parts() -> list[MicroBatch]:
            return [micro_batch(part) for part in self._micro_batches(lesson, rows_PG)]

        return PolicyGradients(self._engine, parts, columns_BTK.shape[-1], sketch)


def mini_batches(prompts: int, count: int, generator: torch.Generator) -> Sequence[Tensor]:
    """Deal whole prompts to mini-batches at random; return those of each."""
    if count == 1:
        return [torch.arange(prompts)]
    return torch.randperm(prompts, generator=generator).tensor_split(count)
