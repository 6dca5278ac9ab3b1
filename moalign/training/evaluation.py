"""Measuring a policy on a split, with the same random numbers for every policy.

Most objectives are measured by what the policy writes. One whose reward needs ``pairs`` is measured
by how often the policy agrees with it: the share of held-out pairs whose better completion has
become likelier, against the reference policy, than the other. At the base policy that is 1/2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from moalign.errors import DataError
from moalign.study.study import Study
from moalign.training import seeds
from moalign.training.policy import Policy
from moalign.training.preferences import (
    Candidate,
    measured_candidates,
    preference_batch,
)
from moalign.training.rollout import sample
from moalign.training.scoring import Column, grouped, score, unchanged
from moalign.training.splits import measured_prompts
from moalign.types import Batch, Cost, Evaluation, Prompt, Split

SAMPLES_KEPT = 8
"""How many completions an evaluation keeps for people to read."""

CHUNK = 512
"""Rows sampled at a time."""


class Evaluator:
    """Measures policies of one study."""

    def __init__(
        self,
        study: Study,
        prompts: Mapping[Split, Sequence[Prompt]],
        columns: Sequence[Column],
        *,
        preferences: Mapping[Split, Sequence[Candidate]] | None = None,
        own_conditions: Callable[[Sequence[Prompt]], Tensor] | None = None,
    ) -> None:
        """Set up.

        Args:
            study: gives prompts, samples, rollout and seed.
            prompts: by split; those that leave room for a completion.
            columns: every objective, monitored ones included; stateful rewards are left as they
                were before.
            preferences: by split, for objectives that are measured by agreement.
            own_conditions: the weights, [P, K], that prompts call for, which are written into them
                where a policy reads weights and nobody asks for others; None: nothing is written.
        """
        self.study = study
        self.prompts = prompts
        self.columns = list(columns)
        self._written = [k for k, c in enumerate(self.columns) if "pairs" not in c.reward.needs]
        self._agreed = [k for k, c in enumerate(self.columns) if "pairs" in c.reward.needs]
        self.preferences = preferences or {}
        self.own_conditions = own_conditions

    def evaluate(
        self, policy: Policy, split: Split, condition: Mapping[str, float] | None, cost: Cost
    ) -> Evaluation:
        """Measure a policy.

        Random numbers are keyed by (study seed, split, prompt, sample), so two policies are
        compared on the same draws.

        Args:
            policy: what is measured.
            split: on which prompts.
            condition: weights written into the prompts; None: what each calls for, or none.
            cost: charged.

        Raises:
            DataError: an objective applied to no prompt of the split.
        """
        spent = Cost()
        prompts: list[Prompt] = []
        values_PK = torch.zeros(0, len(self.columns), dtype=torch.float64)
        samples: tuple[Mapping[str, Any], ...] = ()
        if self._written:
            prompts, scores_PSK, samples = self.sampled_scores(policy, split, condition, spent)
            values_PK = scores_PSK.double().nanmean(1)
        if self._agreed:
            compared, agreement_PK = self._agreement(policy, split, condition, spent)
            prompts, values_PK = [*prompts, *compared], torch.cat([values_PK, agreement_PK])
        cost.add(spent)
        names = tuple(column.name for column in self.columns)
        units = list(dict.fromkeys(prompt.unit for prompt in prompts))
        values_UK = []
        for unit in units:
            mine = torch.tensor([prompt.unit == unit for prompt in prompts])
            values_UK.append(values_PK[mine].nanmean(0).tolist())
        for k, name in enumerate(names):
            if all(math.isnan(row[k]) for row in values_UK):
                raise DataError(
                    f"objective {name} applies to no prompt of the {split} split, so it cannot be "
                    "measured"
                )
        return Evaluation(names, tuple(units), values_UK, spent, samples)

    def sampled_scores(
        self, policy: Policy, split: Split, condition: Mapping[str, float] | None, cost: Cost
    ) -> tuple[list[Prompt], Tensor, tuple[Mapping[str, Any], ...]]:
        """Sample completions for the measured prompts of a split and score them.

        Returns:
            the P prompts, raw scores [P, samples, K] with NaN where an objective does not apply,
            and a few completions for people.
        """
        with unchanged(self.columns):
            return self._sampled_scores(policy, split, condition, cost)

    def _sampled_scores(
        self, policy: Policy, split: Split, condition: Mapping[str, float] | None, cost: Cost
    ) -> tuple[list[Prompt], Tensor, tuple[Mapping[str, Any], ...]]:
        study, settings = self.study, self.study.section.evaluation
        prompts = measured_prompts(self.prompts[split], settings.prompts, study.seed)
        trained = [o.name for o in study.train_objectives]
        scores: list[Tensor] = []
        samples: list[Mapping[str, Any]] = []
        per_chunk = max(1, CHUNK // settings.samples)
        for start in range(0, len(prompts), per_chunk):
            part = prompts[start : start + per_chunk]
            conditions_PK = self._conditions(part, condition, trained)
            batch = sample(
                policy,
                study.rollout,
                study.task,
                part,
                group=settings.samples,
                seeds_B=[
                    seeds.key(study.seed, split, prompt.id, number)
                    for prompt in part
                    for number in range(settings.samples)
                ],
                conditions_PK=conditions_PK,
                names=trained,
                micro_tokens=study.section.training.micro_tokens,
                cost=cost,
            )
            cost.generated += int(batch.mask_BT.sum())
            # For rewards that draw from torch's own generator: every policy the same numbers.
            with torch.random.fork_rng(devices=[]):
                seeds.seed_torch(seeds.key(study.seed, split, start))
                scores_BK = self._scores(batch, self._written)
            scores.append(scores_BK.view(len(part), settings.samples, -1))
            for p in range(min(len(part), SAMPLES_KEPT - len(samples))):
                b = p * settings.samples
                named = zip(self.columns, scores_BK[b].tolist(), strict=True)
                samples.append(
                    {
                        "prompt": part[p].text,
                        "text": batch.texts_B[b],
                        "scores": {c.name: None if math.isnan(v) else v for c, v in named},
                    }
                )
        return prompts, torch.cat(scores), tuple(samples)

    def _scores(self, batch: Batch, columns: Sequence[int]) -> Tensor:
        """Return raw scores of some columns, NaN in the others; [B, K] on the CPU."""
        scores_BK = torch.full((batch.rows, len(self.columns)), torch.nan)
        chosen = [self.columns[k] for k in columns]
        scores_BK[:, list(columns)] = score(batch, chosen).scores_BK.cpu()
        return scores_BK

    def _agreement(
        self, policy: Policy, split: Split, condition: Mapping[str, float] | None, cost: Cost
    ) -> tuple[list[Prompt], Tensor]:
        """Return prompts of pairs, and whether the policy agrees with each objective, [P, K].

        1 if it does, 0 if not, 1/2 if it finds both equally likely against the reference; NaN
        where an objective prefers neither.
        """
        study = self.study
        chosen = measured_candidates(
            self.preferences[split], study.section.evaluation.prompts, study.seed
        )
        trained = [o.name for o in study.train_objectives]
        agreement = []
        for start in range(0, len(chosen), CHUNK // 2):
            part = chosen[start : start + CHUNK // 2]
            conditions_PK = self._conditions([c.prompt for c in part], condition, trained)
            batch = preference_batch(study, policy, part, conditions_PK=conditions_PK, cost=cost)
            scores_P2K = grouped(self._scores(batch, self._agreed), batch)
            ratios_B = (batch.logprobs_BT - batch.ref_logprobs_BT).sum(-1).double().cpu()
            gain_P1 = ratios_B.view(-1, 2, 1)[:, 0] - ratios_B.view(-1, 2, 1)[:, 1]
            margin_PK = (scores_P2K[:, 0] - scores_P2K[:, 1]).double()
            agrees_PK = 0.5 + 0.5 * gain_P1.sign() * margin_PK.sign()
            prefers = (margin_PK > 0) | (margin_PK < 0)  # the sign of a NaN is 0
            agreement.append(agrees_PK.masked_fill(~prefers, torch.nan))
        return [c.prompt for c in chosen], torch.cat(agreement)

    def _conditions(
        self, prompts: Sequence[Prompt], condition: Mapping[str, float] | None, names: Sequence[str]
    ) -> Tensor | None:
        """Return the weights written into prompts, [P, K], or None."""
        if condition is not None:
            row_K = torch.tensor([condition[name] for name in names])
            return row_K.expand(len(prompts), -1)
        return None if self.own_conditions is None else self.own_conditions(prompts)
