"""One trial's training, top to bottom: rollout, scores, advantages, weights, loss, update.

``P`` prompts, ``G`` completions each, ``B = P*G`` rows, ``T`` tokens, ``K`` training objectives.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from moalign.components import Optimizer, Stateful, Weighting
from moalign.errors import ContractError, NonFiniteError
from moalign.maths.combine import combine, scalarise, scalarise_tokens
from moalign.study.study import Study
from moalign.training import seeds
from moalign.training.coefficients import coefficients
from moalign.training.contracts import (
    check_advantages,
    check_prompt_weights,
    check_returned,
)
from moalign.training.evaluation import Evaluator
from moalign.training.gradients import GradientEngine, MicroBatch, PolicyGradients
from moalign.training.metrics import describe
from moalign.training.notes import Notes
from moalign.training.policy import Policy, micro_batches
from moalign.training.rollout import sample
from moalign.training.scoring import Column, grouped, score, unchanged
from moalign.training.splits import needed_splits, split_prompts, step_prompts
from moalign.types import (
    Batch,
    Cost,
    Evaluation,
    Objective,
    Prompt,
    ResponseScores,
    Rows,
    Split,
    Step,
    Weights,
)


class Trial:
    """A policy in training.

    Attributes:
        index: training steps taken.
        cost: tokens spent so far, measurements included.
        notes: what the last step has to say to people that no step before it has said.
    """

    def __init__(
        self,
        study: Study,
        trial: int,
        policy: Policy,
        total: int,
        *,
        calibration: tuple[Tensor, Tensor] | None = None,
        prepared: Mapping[str, Any] | None = None,
    ) -> None:
        """Set up a trial at step 0.

        Args:
            study: with the trial's values filled in.
            trial: its number, part of every random key.
            policy: where it begins.
            total: full length, the schedule's horizon.
            calibration: mean and deviation per training objective, [K] each, for
                ``scale: calibrated``.
            prepared: what the weighting's own stage before training gave, if it has one.
        """
        self.study = study
        self.trial = trial
        self.policy = policy
        self.total = total
        self.calibration = calibration
        self.index = 0
        self.cost = Cost()
        self.notes: tuple[str, ...] = ()
        self._notes = Notes()
        self.training = study.section.training
        self.objectives: tuple[Objective, ...] = study.train_objectives
        self.preference_K = torch.tensor([study.preference[o.name] for o in self.objectives])
        self.weighting: Weighting = study.new_weighting()
        if prepared is not None:
            self.weighting.load_prepared(prepared)
        self.optimizer: Optimizer = study.new_optimizer()
        self.rewards = study.new_rewards()
        sections = study.section.objectives
        self.columns = [Column(n, r, sections[n].output) for n, r in self.rewards.items()]
        trained = [o.name for o in self.objectives]
        self.trained = [k for k, c in enumerate(self.columns) if c.name in trained]
        self.prompts = split_prompts(study.task, needed_splits(study))
        reads_weights = study.policy.condition == "weights"
        asks = reads_weights and "prompt-weights" in self.weighting.declares
        self.evaluator = Evaluator(
            study, self.prompts, self.columns, self._prompt_weights if asks else None
        )
        self.parameters = [p for _, p in policy.trainable()]
        self.engine = GradientEngine(policy, self.training.gradients)
        self.torch_optimizer = torch.optim.AdamW(
            self.parameters,
            lr=self.training.learning_rate,
            betas=(0.9, 0.999),
            weight_decay=self.training.weight_decay,
        )

    # --- the step ------------------------------------------------------------------------------

    def train_step(self) -> dict[str, float]:
        """Take one training step and return what there is to record about it.

        Raises:
            NonFiniteError: a reward, weight, loss or gradient is not finite; the update that it
                would have made is not made.
            ContractError: a component returned what its contract does not allow.
        """
        # For components that draw from torch's own generator; ours are keyed.
        torch.manual_seed(seeds.key(self.study.seed, self.trial, self.index))
        rate = self.learning_rate()
        batch = self.rollout("train", self.index)
        everything = score(batch, self.columns)
        scores = everything.select(self.trained)
        batch.token_rewards_BTK = scores.token_rewards_BTK
        scores_PGK = grouped(scores.scores_BK, batch)
        advantages_BTK = self._advantages(scores_PGK, batch)
        gradients = self._gradients(batch, advantages_BTK)
        step = self._step(batch, scores_PGK, advantages_BTK, rate, gradients)
        returned = self.weighting.weigh(step)
        check_returned(self.weighting, returned, step)
        metrics = describe(step, returned, [c.name for c in self.columns], everything)
        metrics |= self._update(step, returned, rate, gradients)
        self.notes = self._notes.new([*returned.notes, *gradients.notes(), *self._notes.flat(step)])
        self.index += 1
        return metrics

    def _advantages(self, scores_PGK: Tensor, batch: Batch) -> Tensor:
        advantages = self.optimizer.advantages(scores_PGK, batch)
        check_advantages(self.optimizer, advantages, batch, scores_PGK.shape[-1])
        return advantages

    def learning_rate(self) -> float:
        """Return this step's learning rate: warm-up, then the schedule over the full length."""
        t = self.training
        if self.index < t.warmup:
            return t.learning_rate * (self.index + 1) / t.warmup
        done = (self.index - t.warmup) / max(self.total - t.warmup, 1)
        if t.schedule == "linear":
            return t.learning_rate * (1.0 - done)
        if t.schedule == "cosine":
            return t.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))
        return t.learning_rate

    def rollout(self, split: Split, index: int) -> Batch:
        """Sample this step's batch from the current policy."""
        t, key = self.training, (self.study.seed, self.trial)
        prompts = step_prompts(self.prompts[split], t.prompts, index, *key, split)
        conditions_PK = self._conditions(prompts, index)
        rows = len(prompts) * t.group
        batch = sample(
            self.policy,
            self.study.rollout,
            self.study.task,
            prompts,
            group=t.group,
            seeds_B=[seeds.key(*key, index, split, "rollout", b) for b in range(rows)],
            conditions_PK=conditions_PK,
            names=[o.name for o in self.objectives],
            micro_tokens=t.micro_tokens,
            cost=self.cost,
        )
        self.cost.generated += int(batch.mask_BT.sum())
        return batch

    def _conditions(self, prompts: Sequence[Prompt], index: int) -> Tensor | None:
        """Return the weights each prompt is conditioned on, [P, K]: drawn uniformly on the simplex.

        If the weighting has weights per prompt, every second prompt has those instead: the policy
        learns to follow them, and anybody else's.
        """
        if self.study.policy.condition == "none":
            return None
        generator = seeds.generator(self.study.seed, self.trial, index, "conditions")
        draws = torch.rand(len(prompts), len(self.objectives), generator=generator)
        exponential = -torch.log1p(-draws)
        conditions_PK = exponential / exponential.sum(-1, keepdim=True)
        if self.evaluator.own_conditions is not None:
            conditions_PK[::2] = self.evaluator.own_conditions(prompts[::2])
        return conditions_PK

    def _step(
        self,
        batch: Batch,
        scores_PGK: Tensor,
        advantages_BTK: Tensor,
        rate: float,
        gradients: PolicyGradients,
    ) -> Step:
        needs = self.weighting.needs
        return Step(
            objectives=self.objectives,
            preference_K=self.preference_K,
            index=self.index,
            total=self.total,
            learning_rate=rate,
            scores_PGK=scores_PGK.cpu(),
            advantages_BTK=advantages_BTK.cpu(),
            batch=batch,
            gram=(lambda probes: self._gram(gradients, probes)) if "gram" in needs else None,
            gradient_norms=gradients.norms_K if "gram" in needs else None,
            prompt_features=(lambda: self._prompt_features(batch.prompts_P))
            if "prompt_features" in needs
            else None,
            evaluate=self._evaluate_during_training if "steer" in needs else None,
        )

    def _combined(self, step: Step, returned: Weights | ResponseScores) -> Tensor:
        """Return the advantage that the loss uses, [B, T] or [B, 1], on the policy's device."""
        batch, device = step.batch, self.policy.device
        whiten = self.training.batch_norm
        if isinstance(returned, ResponseScores):
            values_PG1 = returned.values_PG[..., None].to(device)
            return self._from_one_score(values_PG1, None, batch, 1.0)
        values = returned.values.to(device)
        gain = returned.gain
        gain = gain.to(device) if isinstance(gain, Tensor) and gain.ndim else float(gain)
        if self.training.combine == "advantages":
            advantages = step.advantages_BTK.to(device)
            return combine(advantages, values, batch=batch, gain=gain, batch_norm=whiten)
        scores_PGK, scale_K = self._scaled(step.scores_PGK.to(device))
        summed_PG1 = scalarise(scores_PGK, values)[..., None]
        tokens_BT1 = scalarise_tokens(scores_PGK, values, batch, scale_K)
        return self._from_one_score(summed_PG1, tokens_BT1, batch, gain)

    def _from_one_score(
        self, scores_PG1: Tensor, tokens_BT1: Tensor | None, batch: Batch, gain: float | Tensor
    ) -> Tensor:
        """Return the advantage of a single score per completion (and its spread over tokens)."""
        raw_BTK = batch.token_rewards_BTK
        batch.token_rewards_BTK = tokens_BT1
        alone_BT1 = self._advantages(scores_PG1, batch)
        batch.token_rewards_BTK = raw_BTK
        ones = torch.ones(1, device=self.policy.device)
        whiten = self.training.batch_norm
        return combine(alone_BT1, ones, batch=batch, gain=gain, batch_norm=whiten)

    def _scaled(self, scores_PGK: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return calibrated scores and what they were divided by."""
        if self.calibration is None:
            return scores_PGK, None
        mean_K, deviation_K = (value.to(scores_PGK) for value in self.calibration)
        return (scores_PGK - mean_K) / deviation_K, deviation_K

    def _update(
        self,
        step: Step,
        returned: Weights | ResponseScores,
        rate: float,
        gradients: PolicyGradients,
    ) -> dict[str, float]:
        """Take the gradient steps of one rollout and return their mean metrics.

        If the batch's gradients are known, and the update is one step on the whole batch, their
        pass serves it, too.
        """
        batch = step.batch
        for group in self.torch_optimizer.param_groups:
            group["lr"] = rate
        on_policy = self.optimizer.epochs == 1 and self.training.minibatches == 1
        if not on_policy:
            gradients.free()  # they are of the whole batch, and of the policy that sampled it
        old_BT = None if on_policy and not batch.has("logprobs") else batch.logprobs_BT
        advantages_BT = self._combined(step, returned)
        totals: dict[str, float] = {}
        updates = 0
        for epoch in range(self.optimizer.epochs):
            for rows in self._mini_batches(batch, epoch):
                changed = self.weighting.update_minibatch(step)
                if changed is not None:
                    check_returned(self.weighting, changed, step)
                    advantages_BT = self._combined(step, changed)
                known = gradients if on_policy else None
                metrics = self._mini_batch(batch, rows, advantages_BT, old_BT, known)
                for name, value in metrics.items():
                    totals[name] = totals.get(name, 0.0) + value
                updates += 1
        gradients.free()
        return {name: value / updates for name, value in totals.items()} | gradients.metrics

    def _mini_batches(self, batch: Batch, epoch: int) -> list[Tensor]:
        """Deal whole prompts to mini-batches at random; return the rows of each."""
        prompts = len(batch.prompts_P)
        rows_PG = torch.arange(batch.rows).view(prompts, batch.group)
        count = self.training.minibatches
        if count == 1:
            return [rows_PG.flatten()]
        key = (self.study.seed, self.trial, self.index, "minibatches", epoch)
        order = torch.randperm(prompts, generator=seeds.generator(*key))
        return [rows_PG[part].flatten() for part in order.tensor_split(count)]

    def _mini_batch(
        self,
        batch: Batch,
        rows: Tensor,
        advantages_BT: Tensor,
        old_BT: Tensor | None,
        gradients: PolicyGradients | None,
    ) -> dict[str, float]:
        """Accumulate the gradients of a mini-batch over its micro-batches and take one step."""
        self.torch_optimizer.zero_grad(set_to_none=True)
        parts = self._micro_batches(batch, rows)

        def pass_back(logprobs: Iterable[Tensor]) -> dict[str, Tensor]:
            given = zip(parts, logprobs, strict=True)
            return self._pass_back(batch, rows, given, advantages_BT, old_BT)

        leaves = None if gradients is None else gradients.leaves()
        totals = None
        if gradients is not None and leaves is not None:
            totals = pass_back(leaves)
            if not gradients.assign(leaves):
                totals = None
        if totals is None:
            if gradients is not None:
                gradients.free()  # room for the pass
            totals = pass_back(self._logprobs(batch, part) for part in parts)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.training.clip_norm)
        if not (torch.isfinite(norm) and torch.isfinite(totals["loss"])):
            raise NonFiniteError(
                f"the loss ({float(totals['loss'])}) or its gradient (norm {float(norm)}) is not "
                f"finite at step {self.index + 1}; a lower training.learning_rate may help"
            )
        self.torch_optimizer.step()
        return {name: float(value) for name, value in totals.items()} | {
            "gradient_norm": float(norm)
        }

    def _pass_back(
        self,
        batch: Batch,
        rows: Tensor,
        parts: Iterable[tuple[Tensor, Tensor]],
        advantages_BT: Tensor,
        old_BT: Tensor | None,
    ) -> dict[str, Tensor]:
        """Pass the loss of a mini-batch back to log-probabilities; return its metrics.

        Args:
            batch: gives mask and reference.
            rows: of the mini-batch.
            parts: its micro-batches: their rows and log-probabilities [B, T], one at a time.
            advantages_BT: of the whole batch.
            old_BT: log-probabilities of the whole batch under the policy that sampled; None: the
                ones that are passed back to, without gradient.
        """
        totals: dict[str, Tensor] = {}
        for part, logprobs_BT in parts:
            longest = logprobs_BT.shape[1]
            old = logprobs_BT.detach() if old_BT is None else old_BT[part, :longest]
            share = self._share(batch, rows, part, old)
            loss, metrics = self.optimizer.loss(logprobs_BT, share, advantages_BT[part, :longest])
            loss.backward()  # type: ignore[no-untyped-call]
            metrics = {**metrics, "loss": loss}
            known_BT, mask_BT = logprobs_BT.detach(), share.mask_BT
            metrics["entropy"] = -(known_BT * mask_BT).sum() / share.total_tokens
            if batch.has("ref_logprobs"):  # else it would have to be computed for this alone
                ratio_BT = known_BT - batch.ref_logprobs_BT[part, :longest]
                metrics["kl"] = (ratio_BT * mask_BT).sum() / share.total_rows
            for name, value in metrics.items():
                totals[name] = totals.get(name, torch.zeros(())) + value.detach().cpu()
        return totals

    def _share(self, batch: Batch, rows: Tensor, part: Tensor, old_BT: Tensor) -> Rows:
        """Return a micro-batch of a mini-batch's rows as a loss sees it."""
        longest = old_BT.shape[1]
        needs_reference = "ref_logprobs" in self.optimizer.needs
        return Rows(
            mask_BT=batch.mask_BT[part, :longest],
            old_logprobs_BT=old_BT,
            ref_logprobs_BT=batch.ref_logprobs_BT[part, :longest] if needs_reference else None,
            total_rows=len(rows),
            total_tokens=int(batch.mask_BT[rows].sum()),
            max_tokens=self.study.rollout.max_tokens,
        )

    def _micro_batches(self, batch: Batch, rows: Tensor) -> list[Tensor]:
        prompt_lengths = torch.tensor([len(ids) for ids in batch.prompt_ids_P])
        lengths_B = batch.lengths_B().cpu() + prompt_lengths.repeat_interleave(batch.group)
        parts = micro_batches(lengths_B[rows].tolist(), self.training.micro_tokens)
        return [rows[torch.tensor(part)] for part in parts]

    def _logprobs(self, batch: Batch, rows: Tensor, backwards: int = 1) -> Tensor:
        """Forward some rows with gradient, to be passed back so many times; [rows, longest]."""
        longest = int(batch.lengths_B()[rows].max())
        tokens = self._tokens(batch, rows)
        self.cost.add(Cost(forwarded=tokens, backwarded=backwards * tokens))
        return self.policy.logprobs(
            [batch.prompt_ids_P[int(b) // batch.group] for b in rows],
            batch.ids_BT[rows, :longest],
            batch.mask_BT[rows, :longest],
            temperature=self.study.rollout.temperature,
        )

    @staticmethod
    def _tokens(batch: Batch, rows: Tensor) -> int:
        """Return how many tokens a pass over some rows is charged for."""
        prompts = sum(len(batch.prompt_ids_P[int(b) // batch.group]) for b in rows)
        return int(batch.mask_BT[rows].sum()) + prompts

    # --- what a weighting may ask for ----------------------------------------------------------

    def _gram(self, gradients: PolicyGradients, probes: tuple[str, ...]) -> Tensor:
        for probe in probes:
            if probe != "steer":
                raise ContractError(
                    f"weighting {self.weighting.name} asks for the probe {probe!r}; there is "
                    "'steer' only"
                )
        return gradients.gram(*[self._steer_gradient() for _ in probes])

    def _steer_gradient(self) -> PolicyGradients:
        """Return the gradient of what is preferred on a batch of the steer split."""
        steer = self.rollout("steer", self.index)
        with unchanged(self.columns):
            scores = score(steer, self.columns).select(self.trained)
        steer.token_rewards_BTK = scores.token_rewards_BTK
        steer_BTK = self._advantages(grouped(scores.scores_BK, steer), steer)
        preferred_K = self.preference_K.to(steer_BTK) * len(self.preference_K)
        return self._gradients(steer, (preferred_K * steer_BTK).sum(-1, keepdim=True))

    def _gradients(self, batch: Batch, advantages_BTK: Tensor) -> PolicyGradients:
        """Return the gradient of each column of advantages, computed when it is asked for."""
        rows = torch.arange(batch.rows)
        owed = 0.0  # half a pass over an odd number of tokens: rounded once, not per micro-batch

        def spend(part: Tensor, passes: float) -> None:
            nonlocal owed
            owed += passes * self._tokens(batch, part)
            whole = int(owed)
            owed -= whole
            self.cost.add(Cost(backwarded=whole))

        def micro_batch(part: Tensor) -> MicroBatch:
            def objectives(logprobs_BT: Tensor) -> Tensor:
                share = self._share(batch, rows, part, logprobs_BT)
                columns_BTK = advantages_BTK[part, : logprobs_BT.shape[1]]
                return coefficients(self.optimizer, logprobs_BT, share, columns_BTK)

            return MicroBatch(
                mask_BT=batch.mask_BT[part, : int(batch.lengths_B()[part].max())],
                logprobs=lambda: self._logprobs(batch, part, backwards=0),
                coefficients=objectives,
                spend=lambda passes: spend(part, passes),
            )

        def parts() -> list[MicroBatch]:
            return [micro_batch(part) for part in self._micro_batches(batch, rows)]

        # One projection per step: what is compared is projected alike.
        sketch = self.engine.sketch(self.study.seed, self.trial, self.index)
        return PolicyGradients(self.engine, parts, advantages_BTK.shape[-1], sketch)

    def _prompt_features(self, prompts: Sequence[Prompt]) -> Tensor:
        ids_P = [self.policy.prompt_ids(prompt, None) for prompt in prompts]
        self.cost.forwarded += sum(map(len, ids_P))
        return self.policy.prompt_features(ids_P, micro_tokens=self.training.micro_tokens).cpu()

    def _prompt_weights(self, prompts: Sequence[Prompt]) -> Tensor:
        """Return the weights that prompts call for, [P, K], held to their contract."""
        weights_PK = self.weighting.prompt_weights(prompts, lambda: self._prompt_features(prompts))
        check_prompt_weights(self.weighting, weights_PK, len(prompts), self.objectives)
        return weights_PK.float()

    def _evaluate_during_training(self, split: Split) -> Evaluation:
        return self.evaluator.evaluate(self.policy, split, self._own_condition(), self.cost)

    def _own_condition(self) -> Mapping[str, float] | None:
        if self.study.policy.condition == "none" or self.evaluator.own_conditions is not None:
            return None  # nothing is written, or what each prompt calls for
        return self.study.preference

    # --- measuring and recording ---------------------------------------------------------------

    def measure(self, split: Split) -> list[tuple[Mapping[str, float] | None, Evaluation]]:
        """Measure the policy on a split under each of the study's conditions."""
        return [
            (condition, self.evaluator.evaluate(self.policy, split, condition, self.cost))
            for condition in self.study.conditions
        ]

    def reward_states(self) -> dict[str, Any]:
        """Return the states of the rewards that keep one; measuring depends on them."""
        states = {name: reward.state_dict() for name, reward in self.rewards.items()}
        return {name: state for name, state in states.items() if state}

    def load_reward_states(self, states: Mapping[str, Any]) -> None:
        """Take over states that :meth:`reward_states` returned."""
        for name, state in states.items():
            self.rewards[name].load_state_dict(state)

    def state(self) -> dict[str, Any]:
        """Return all that is needed to go on, beside the policy's weights."""
        return {
            "index": self.index,
            "total": self.total,
            "cost": self.cost.to_json(),
            "torch_optimizer": self.torch_optimizer.state_dict(),
            "components": {name: part.state_dict() for name, part in self._stateful().items()},
            "notes": self._notes.state_dict(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state that :meth:`state` returned."""
        self.index = int(state["index"])
        self.cost = Cost(**state["cost"])
        self.torch_optimizer.load_state_dict(state["torch_optimizer"])
        for name, part in self._stateful().items():
            part.load_state_dict(state["components"][name])
        if "notes" in state:  # checkpoints of earlier versions have none
            self._notes.load_state_dict(state["notes"])

    def _stateful(self) -> dict[str, Stateful]:
        rewards = {f"reward/{name}": reward for name, reward in self.rewards.items()}
        return {"weighting": self.weighting, "optimizer": self.optimizer, **rewards}
