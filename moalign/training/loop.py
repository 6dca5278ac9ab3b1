"""One trial's training, top to bottom: batch, scores, advantages, weights, loss, update.

``P`` prompts, ``G`` completions each, ``B = P*G`` rows, ``T`` tokens, ``K`` training objectives.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from moalign.components import Optimizer, Stateful, Weighting
from moalign.errors import ContractError
from moalign.maths.combine import combine, scalarise, scalarise_tokens
from moalign.study.study import Study
from moalign.training import seeds
from moalign.training.contracts import (
    check_advantages,
    check_prompt_weights,
    check_returned,
    check_selected,
)
from moalign.training.evaluation import Evaluator
from moalign.training.gradients import GradientEngine, PolicyGradients
from moalign.training.material import material
from moalign.training.metrics import describe, describe_weights, norm_gap
from moalign.training.notes import Notes
from moalign.training.passes import Lesson, Passes, all_rows, mini_batches
from moalign.training.policy import Policy
from moalign.training.preferences import (
    Written,
    labels,
    preference_batch,
    same_size,
    step_candidates,
)
from moalign.training.replay import Replay
from moalign.training.rollout import sample
from moalign.training.scoring import Column, grouped, score, score_preferences, unchanged
from moalign.training.splits import step_prompts
from moalign.types import (
    Batch,
    Cost,
    Evaluation,
    Objective,
    Prompt,
    ResponseScores,
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
        samples: Mapping[str, Sequence[Written]] | None = None,
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
            samples: completions of the base policy by prompt id, for ``pairs: {source: samples}``.

        Raises:
            DataError: no prompt or no preference of a split can be used.
            ContractError: the policy has no reference policy, and something reads it.
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
        self._check_reference()
        found = material(study, policy, self.rewards, samples)
        self.prompts, self._left_out = found.prompts, found.notes
        self.candidates = found.preferences.get("train", ())
        reads_weights = study.policy.condition == "weights"
        asks = reads_weights and "prompt-weights" in self.weighting.declares
        self.evaluator = Evaluator(
            study,
            self.prompts,
            self.columns,
            preferences=found.preferences,
            own_conditions=self._prompt_weights if asks else None,
        )
        self.parameters = [p for _, p in policy.trainable()]
        self.engine = GradientEngine(policy, self.training.gradients)
        self.optimizer.begin(self.objectives, policy.width, seeds.key(study.seed, trial, "begin"))
        for parameter in self.optimizer.parameters():  # in place: a copy would be no leaf
            parameter.data = parameter.data.to(policy.device)
        self.replay = Replay(study, policy, self.prompts["train"])
        self.passes = Passes(study, policy, self.optimizer, self.engine, self.cost)
        self.torch_optimizer = torch.optim.AdamW(
            self._parameter_groups(),
            lr=self.training.learning_rate,
            betas=(0.9, 0.999),
            weight_decay=self.training.weight_decay,
        )

    def _check_reference(self) -> None:
        """Refuse a policy without reference before anything is compared with it."""
        readers = {
            f"optimizer {self.optimizer.name}": self.optimizer.needs & {"ref_logprobs"},
            f"weighting {self.weighting.name}": self.weighting.needs & {"prompt_features"},
        } | {
            f"reward {reward.name} (objective {name})": reward.needs & {"ref_logprobs", "pairs"}
            for name, reward in self.rewards.items()
        }
        for who, needs in readers.items():
            if needs:
                self.policy.require_reference(who)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = [{"params": self.parameters}]
        own = list(self.optimizer.parameters())
        if own:
            groups.append({"params": own, "weight_decay": 0.0})
        return groups

    # --- the step ------------------------------------------------------------------------------

    def train_step(self) -> dict[str, float]:
        """Take one training step and return what there is to record about it.

        Raises:
            NonFiniteError: a reward, weight, loss or gradient is not finite; the update that it
                would have made is not made.
            ContractError: a component returned what its contract does not allow.
        """
        # For components that draw from torch's own generator; ours are keyed.
        seeds.seed_torch(seeds.key(self.study.seed, self.trial, self.index))
        rate = self.learning_rate()
        self._set_learning_rate(rate)
        back = self._extrapolate(rate) if self.optimizer.extrapolates else None
        lessons = self._lessons()
        first = lessons[0]  # what the weighting looks at: the rollout, if there is one
        step, returned, gradients = self._weighed(first, rate)
        metrics = describe(step, returned, [c.name for c in self.columns], first)
        last, told = self._update(lessons, step, returned, gradients, back)
        metrics |= told
        metrics |= self._learn_again(last)
        self.replay.keep(first, last, self.index)
        said = [
            *returned.notes,
            *gradients.notes(),
            *self._flat(step, lessons),
            *self._left_out,
        ]
        self.notes = self._notes.new(said)
        self.index += 1
        return metrics

    def _flat(self, step: Step, lessons: Sequence[Lesson]) -> list[str]:
        """Return what to say of objectives that none of the lessons tells anything."""
        first, *others = lessons
        found = [(first, step.advantages_BTK), *((other, self._columns(other)) for other in others)]
        learned = [
            (lesson.preferences, columns_BTK)
            for lesson, columns_BTK in found
            if lesson.preferences or self.optimizer.rewarded
        ]
        preferences, columns = zip(*learned, strict=True)
        return self._notes.flat(step.names, columns, preferences=all(preferences))

    def _weighed(
        self, first: Lesson, rate: float
    ) -> tuple[Step, Weights | ResponseScores, PolicyGradients]:
        """Return what the weighting saw of a step, what it said, and the objectives' gradients."""
        columns_BTK = self._columns(first)
        gradients = self._gradients(first, columns_BTK)
        step = self._step(first, columns_BTK, rate, gradients)
        returned = self.weighting.weigh(step)
        check_returned(self.weighting, returned, step)
        return step, returned, gradients

    def _extrapolate(self, rate: float) -> Callable[[], None]:
        """Take a step on a rollout of its own; return what takes the policy back from there.

        What components learn from that rollout is forgotten at once; what it costs is not.
        """
        trained = [*self.parameters, *self.optimizer.parameters()]
        values = [parameter.detach().clone() for parameter in trained]
        moments = copy.deepcopy(self.torch_optimizer.state_dict())
        parts = self._stateful().values()
        states = [copy.deepcopy(part.state_dict()) for part in parts]
        lessons = self._lessons("extrapolation")
        self._update(lessons, *self._weighed(lessons[0], rate))
        for part, state in zip(parts, states, strict=True):
            part.load_state_dict(state)

        def back() -> None:
            for parameter, value in zip(trained, values, strict=True):
                parameter.data.copy_(value)
            self.torch_optimizer.load_state_dict(moments)

        return back

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

    def _lessons(self, purpose: str = "rollout") -> list[Lesson]:
        """Return what this step learns from: a rollout, preferences, or both; scored."""
        found = []
        if self.optimizer.learns_from != "pairs":
            found.append(self._scored(self.rollout("train", self.index, purpose)))
        if self.optimizer.learns_from != "rollouts":
            found.append(self._scored(self._preferences(), preferences=True))
        return found

    def _scored(self, batch: Batch, preferences: bool = False) -> Lesson:
        if preferences:  # monitored objectives are about what the policy itself writes
            everything = scores = score_preferences(batch, [self.columns[k] for k in self.trained])
        else:
            everything = score(batch, self.columns)
            scores = everything.select(self.trained)
        batch.token_rewards_BTK = scores.token_rewards_BTK
        return Lesson(batch, everything, scores.scores_BK, preferences, all_rows(batch))

    def _columns(self, lesson: Lesson) -> Tensor:
        """Return advantages per objective, or of preferences what each objective prefers."""
        scores_PGK = grouped(lesson.scores_BK, lesson.batch)
        if lesson.preferences:
            return labels(scores_PGK)
        return self._advantages(scores_PGK, lesson.batch)

    def _advantages(self, scores_PGK: Tensor, batch: Batch) -> Tensor:
        advantages = self.optimizer.advantages(scores_PGK, batch)
        check_advantages(self.optimizer, advantages, batch, scores_PGK.shape[-1])
        return advantages

    def rollout(self, split: Split, index: int, purpose: str = "rollout") -> Batch:
        """Sample this step's batch from the current policy; other purposes, other samples."""
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
            seeds_B=[seeds.key(*key, index, split, purpose, b) for b in range(rows)],
            conditions_PK=conditions_PK,
            names=[o.name for o in self.objectives],
            micro_tokens=t.micro_tokens,
            cost=self.cost,
        )
        self.cost.generated += int(batch.mask_BT.sum())
        batch.offer("greedy_scores", lambda: self._greedy_scores(prompts, conditions_PK))
        return batch

    def _greedy_scores(self, prompts: Sequence[Prompt], conditions_PK: Tensor | None) -> Tensor:
        """Return raw scores of each prompt's greedy completion, [P, K]; the rewards learn nothing.

        Asked for before the update: the policy is the one that sampled.
        """
        batch = sample(
            self.policy,
            self.study.rollout,
            self.study.task,
            prompts,
            group=1,
            seeds_B=[0] * len(prompts),
            conditions_PK=conditions_PK,
            names=[o.name for o in self.objectives],
            micro_tokens=self.training.micro_tokens,
            cost=self.cost,
            greedy=True,
        )
        self.cost.generated += int(batch.mask_BT.sum())
        columns = [self.columns[k] for k in self.trained]
        with unchanged(columns):
            return score(batch, columns).scores_BK

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

    def _preferences(self) -> Batch:
        """Return this step's preferences; nothing is sampled."""
        t, key = self.training, (self.study.seed, self.trial)
        size = t.pairs.size
        chosen = step_candidates(self.candidates, t.prompts, size, self.index, *key, "preferences")
        return preference_batch(
            self.study,
            self.policy,
            same_size(chosen, size),
            conditions_PK=self._conditions([c.prompt for c in chosen], self.index),
            cost=self.cost,
        )

    def _step(
        self,
        lesson: Lesson,
        columns_BTK: Tensor,
        rate: float,
        gradients: PolicyGradients,
    ) -> Step:
        needs, batch = self.weighting.needs, lesson.batch
        return Step(
            objectives=self.objectives,
            preference_K=self.preference_K,
            index=self.index,
            total=self.total,
            learning_rate=rate,
            scores_PGK=grouped(lesson.scores_BK, batch).cpu(),
            advantages_BTK=columns_BTK.cpu(),
            batch=batch,
            losses_K=self._losses(lesson) if "losses" in needs else None,
            applies_PK=self.optimizer.applies(grouped(lesson.scores_BK, batch)).cpu()
            if "losses" in needs
            else None,
            gram=(lambda probes: self._gram(gradients, probes)) if "gram" in needs else None,
            gradient_norms=gradients.norms_K if "gram" in needs else None,
            prompt_features=(lambda: self._prompt_features(batch.prompts_P))
            if "prompt_features" in needs
            else None,
            evaluate=self._evaluate_during_training if "steer" in needs else None,
        )

    @torch.no_grad()
    def _losses(self, lesson: Lesson) -> Tensor:
        """Return the mean loss per objective before the update, [K]; NaN where it has none."""
        logprobs_BT = lesson.batch.logprobs_BT
        rows = self.passes.rows(lesson, lesson.rows_PS, lesson.rows_PS.flatten(), logprobs_BT)
        losses_PK, _ = self.optimizer.losses(logprobs_BT, rows)
        return losses_PK.nanmean(0).cpu()

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

    def _taught(self, lesson: Lesson, step: Step, returned: Weights | ResponseScores) -> Lesson:
        """Return a lesson with what its loss needs to know of the weights."""
        if not lesson.preferences:
            advantages_BT = self._combined(step, returned)
            return replace(
                lesson, advantages_BT=advantages_BT, rows_PS=self._selected(lesson, advantages_BT)
            )
        if isinstance(returned, ResponseScores):
            raise ContractError(
                f"weighting {self.weighting.name} scores completions, and optimizer "
                f"{self.optimizer.name} learns from preferences, which need weights"
            )
        prompts, objectives = len(lesson.batch.prompts_P), len(self.objectives)
        weights = (returned.values * torch.as_tensor(returned.gain).unsqueeze(-1)).float()
        if weights.ndim > 1 and step.batch is lesson.batch:
            weights = weights.mean(1)
        elif weights.ndim > 1:  # those of a rollout, whose prompts are others
            weights = self._weights_beside(lesson, weights)
        weights_PK = weights.to(self.policy.device).expand(prompts, objectives)
        return replace(lesson, weights_PK=weights_PK)

    @staticmethod
    def _weights_beside(lesson: Lesson, weights_PGK: Tensor) -> Tensor:
        """Return the weights of preferences beside a rollout with weights per prompt.

        Those that stand in their prompts, if any do; else what the rollout's have in common.

        Returns:
            [P, K] or [K].
        """
        conditions_PK = lesson.batch.conditions_PK
        mean_K = weights_PGK.mean((0, 1))
        return mean_K if conditions_PK is None else conditions_PK.to(mean_K) * mean_K.sum()

    def _selected(self, lesson: Lesson, advantages_BT: Tensor) -> Tensor:
        """Return the rows that the loss learns from, [P, S]."""
        rows_PG, mask_BT = all_rows(lesson.batch), lesson.batch.mask_BT
        mean_B = (advantages_BT * mask_BT).sum(-1) / mask_BT.sum(-1).clamp(min=1)
        chosen_PS = self.optimizer.select(mean_B.view(rows_PG.shape))
        if chosen_PS is None:
            return rows_PG
        check_selected(self.optimizer, chosen_PS, rows_PG.shape)
        return rows_PG.gather(1, chosen_PS.cpu())

    def _update(
        self,
        lessons: Sequence[Lesson],
        step: Step,
        returned: Weights | ResponseScores,
        gradients: PolicyGradients,
        back: Callable[[], None] | None = None,
    ) -> tuple[Weights | ResponseScores, dict[str, float]]:
        """Take the gradient steps of one batch; return the last one's weights and mean metrics.

        If the batch's gradients are known, and the update is one step on the whole batch, their
        pass serves it, too. ``back`` takes the policy to where the step is taken from.
        """
        epochs, count = self.optimizer.epochs, self.training.minibatches
        once = epochs == 1 and count == 1
        old = [None if self._own_pass(ls, once) else ls.batch.logprobs_BT for ls in lessons]
        taught = [self._taught(lesson, step, returned) for lesson in lessons]
        known = gradients if once and len(lessons) == 1 else None
        if known is None:
            gradients.free()  # they are of the whole batch, and of the policy that sampled it
        totals: dict[str, float] = {}
        used: list[Weights | ResponseScores] = []
        for epoch in range(epochs):
            key = (self.study.seed, self.trial, self.index, "minibatches", epoch)
            dealt = [mini_batches(len(ls.rows_PS), count, seeds.generator(*key)) for ls in lessons]
            for prompts in zip(*dealt, strict=True):
                changed = self.weighting.update_minibatch(step)
                if changed is not None:
                    check_returned(self.weighting, changed, step)
                    returned = changed
                    taught = [self._taught(lesson, step, returned) for lesson in lessons]
                used.append(returned)
                parts = [(ls, ls.rows_PS[p]) for ls, p in zip(taught, prompts, strict=True)]
                for name, value in self.passes.back(parts, old, known, self.index + 1).items():
                    totals[name] = totals.get(name, 0.0) + value
                if back is not None:
                    back()
                self._descend(returned)
        gradients.free()
        means = {name: value / (epochs * count) for name, value in totals.items()}
        means |= describe_weights(step, used)
        means |= norm_gap(step, returned, gradients, means["gradient_norm"])
        return returned, means | gradients.metrics

    def _descend(self, used: Weights | ResponseScores) -> None:
        """Take the optimizer's step, unless the weights say that there is nothing to learn."""
        if isinstance(used, ResponseScores) or not used.still:
            self.torch_optimizer.step()

    def _learn_again(self, returned: Weights | ResponseScores) -> dict[str, float]:
        """Take a gradient step on an earlier rollout and return its metrics, ``replay/...``.

        Old log-probabilities and scores are those of then; advantages are computed anew, under the
        weights of now. Nothing but the policy learns from it.
        """
        generator = seeds.generator(self.study.seed, self.trial, self.index, "replay")
        drawn = self.replay.draw(generator, self.cost)
        if drawn is None or isinstance(returned, ResponseScores):
            return {}
        lesson, prompts, index = drawn
        state = copy.deepcopy(self.optimizer.state_dict())
        step = Step(
            objectives=self.objectives,
            preference_K=self.preference_K,
            index=self.index,
            total=self.total,
            learning_rate=self.learning_rate(),
            scores_PGK=grouped(lesson.scores_BK, lesson.batch).cpu(),
            advantages_BTK=self._columns(lesson).cpu(),
            batch=lesson.batch,
        )
        weights = self.replay.weights(index, returned)
        taught = self._taught(lesson, step, weights)
        self.optimizer.load_state_dict(state)
        parts = [(taught, taught.rows_PS[prompts])]
        metrics = self.passes.back(parts, [lesson.batch.logprobs_BT], None, self.index + 1)
        self._descend(weights)
        told = {f"replay/{name}": value for name, value in metrics.items()}
        return {**told, "replay/age": float(self.index - index)}

    def _own_pass(self, lesson: Lesson, once: bool) -> bool:
        """Return whether the old log-probabilities are those of the pass that trains."""
        if self.replay.on:
            return False  # they are kept
        if lesson.preferences and "logprobs" not in self.optimizer.needs:
            return True  # nobody reads them
        return once and not lesson.batch.has("logprobs")

    def _set_learning_rate(self, rate: float) -> None:
        """Set the policy's learning rate; what the optimizer trains beside it follows."""
        policy, *own = self.torch_optimizer.param_groups
        policy["lr"] = rate
        for group in own:
            group["lr"] = self.optimizer.own_learning_rate * rate / self.training.learning_rate

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
        state = copy.deepcopy(self.optimizer.state_dict())
        with unchanged(self.columns):
            steer = self._scored(self.rollout("steer", self.index))
        steer_BTK = self._columns(steer)
        self.optimizer.load_state_dict(state)
        preferred_K = self.preference_K.to(steer_BTK) * len(self.preference_K)
        return self._gradients(steer, (preferred_K * steer_BTK).sum(-1, keepdim=True))

    def _gradients(self, lesson: Lesson, columns_BTK: Tensor) -> PolicyGradients:
        """Return the gradient of each column of advantages, computed when it is asked for."""
        # One projection per step: what is compared is projected alike.
        sketch = self.engine.sketch(self.study.seed, self.trial, self.index)
        return self.passes.gradients(lesson, columns_BTK, sketch)

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
            "replay": self.replay.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state that :meth:`state` returned."""
        self.index = int(state["index"])
        self.cost = self.passes.cost = Cost(**state["cost"])
        self.torch_optimizer.load_state_dict(state["torch_optimizer"])
        for name, part in self._stateful().items():
            part.load_state_dict(state["components"][name])
        if "notes" in state:  # checkpoints of earlier versions have none
            self._notes.load_state_dict(state["notes"])
        self.replay.load_state(state.get("replay", []))

    def _stateful(self) -> dict[str, Stateful]:
        rewards = {f"reward/{name}": reward for name, reward in self.rewards.items()}
        return {"weighting": self.weighting, "optimizer": self.optimizer, **rewards}
