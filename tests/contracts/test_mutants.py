"""Each property of each contract suite is lacked by one broken component, and by nothing else."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from moalign import (
    Component,
    Optimizer,
    Proposal,
    ResponseScores,
    Reward,
    Start,
    Strategy,
    Tracker,
    Weighting,
    Weights,
    hookimpl,
    hookspecs,
)
from moalign.maths.normalisation import group_zscore
from moalign.maths.surrogate import ClippedSurrogate
from moalign.optimizers.preferences import PairwiseOptimizer, groups
from moalign.testing import SUITES, contract, properties, run_contract
from moalign.types import Choice, FloatRange, IntRange

counter = itertools.count(1)


# --- rewards ----------------------------------------------------------------------------------


class GoodReward(Reward):
    name: ClassVar[str] = "good"
    range = (0.0, 1.0)
    needs: ClassVar[frozenset[str]] = frozenset({"field:marks"})
    example_fields: ClassVar[Mapping[str, Sequence[Any]]] = {"marks": ("is", "the", "7")}

    def score(self, batch: Any) -> Any:
        pairs = zip(batch.fields("marks"), batch.texts_B, strict=True)
        return [min((text.count(mark) + len(text)) / 60, 1.0) for mark, text in pairs]


class PerToken(Reward):
    """Good as well: a reward per token, awaited, with two outputs."""

    name: ClassVar[str] = "per-token"
    outputs: ClassVar[tuple[str, ...]] = ("far", "near")
    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "ref_logprobs"})

    async def score(self, batch: Any) -> Any:
        ratio_BT = batch.ref_logprobs_BT - batch.logprobs_BT
        return {"far": ratio_BT, "near": ratio_BT.sum(-1)}


class AgreesWithPeople(Reward):
    """Good as well: what people said of pairs."""

    name: ClassVar[str] = "agrees-with-people"
    range = (0.0, 1.0)
    needs: ClassVar[frozenset[str]] = frozenset({"pairs"})

    def score(self, batch: Any) -> Any:
        north = [pair.group == "north" for pair in batch.pairs_P]
        return [value for one in north for value in ((1.0, 0.0) if one else (math.nan, math.nan))]


class NeedsPairsInVain(AgreesWithPeople):
    def score(self, batch: Any) -> Any:
        return [0.5] * batch.rows


class OneTooFew(GoodReward):
    def score(self, batch: Any) -> Any:
        return super().score(batch)[1:]


class ReadsAnUnknownField(GoodReward):
    def score(self, batch: Any) -> Any:
        return [len(answer) for answer in batch.fields("answer")]


class NeedsSomethingElse(GoodReward):
    needs: ClassVar[frozenset[str]] = frozenset({"field:marks", "attention"})


class LeavesItsRange(GoodReward):
    def score(self, batch: Any) -> Any:
        return [len(text) / 60 for text in batch.texts_B if batch.fields("marks")]


class InfiniteWithoutWords(GoodReward):
    def score(self, batch: Any) -> Any:
        values = super().score(batch)
        pairs = zip(values, batch.texts_B, strict=True)
        return [value if text.split() else -math.inf for value, text in pairs]


class CountsRows(GoodReward):
    def __init__(self) -> None:
        self.calls = 0

    def score(self, batch: Any) -> Any:
        self.calls += 1
        return [min(value + b / 100, 1.0) for b, value in enumerate(super().score(batch))]

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.calls = state["calls"]


class ComparesPrompts(GoodReward):
    range = None

    def score(self, batch: Any) -> Any:
        values = torch.tensor(super().score(batch))
        return values - values.mean()


class Jitters(GoodReward):
    def __init__(self) -> None:
        self.jitter = next(counter) % 7 * 1e-6

    def score(self, batch: Any) -> Any:
        return torch.tensor(super().score(batch)).clamp(0.1, 0.9) + self.jitter

    def state_dict(self) -> dict[str, Any]:
        return {"jitter": self.jitter}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.jitter = state["jitter"]


class ForgetsItsCalls(GoodReward):
    calls = 0

    def score(self, batch: Any) -> Any:
        self.calls += 1
        return [value / self.calls for value in super().score(batch)]


class KeepsAnObject(GoodReward):
    def state_dict(self) -> dict[str, Any]:
        return {"generator": random.Random(0)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class ReadsInSecret(GoodReward):
    def score(self, batch: Any) -> Any:
        return torch.tensor(super().score(batch)) + 0.0 * batch.ref_logprobs_BT.sum(-1)


class NeedsInVain(GoodReward):
    needs: ClassVar[frozenset[str]] = frozenset({"field:marks", "logprobs"})


class WritesIntoTheBatch(GoodReward):
    def score(self, batch: Any) -> Any:
        batch.ids_BT.zero_()
        return super().score(batch)


# --- weightings -------------------------------------------------------------------------------


class GoodWeighting(Weighting):
    name: ClassVar[str] = "good"
    needs: ClassVar[frozenset[str]] = frozenset({"steer"})

    def __init__(self) -> None:
        self.logits: dict[str, float] = {}

    def weigh(self, step: Any) -> Any:
        evaluation = step.evaluate("steer")
        for name in step.names:
            column = [row[evaluation.names.index(name)] for row in evaluation.values_UK]
            moved = self.logits.get(name, 0.0) - math.tanh(sum(column) / len(column))
            self.logits[name] = moved
        logits_K = torch.tensor([self.logits[name] for name in step.names])
        return Weights(logits_K.softmax(-1), gain=1.5)

    def state_dict(self) -> dict[str, Any]:
        return {"logits": dict(self.logits)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.logits = dict(state["logits"])


class Product(Weighting):
    """Good as well: response scores, a weight per prompt at the mini-batches."""

    name: ClassVar[str] = "product"
    declares: ClassVar[frozenset[str]] = frozenset({"response-scores"})

    def weigh(self, step: Any) -> Any:
        scores = step.scores_PGK
        low_K = scores.nan_to_num(torch.inf).flatten(0, 1).amin(0)
        factors_PGK = (scores - low_K.nan_to_num(0.0, posinf=0.0)).nan_to_num(1.0) + 0.1
        return ResponseScores(factors_PGK.log().sum(-1) if step.scores_PGK.shape[-1] > 1
                              else factors_PGK[..., 0])  # fmt: skip


class WrongShape(GoodWeighting):
    def weigh(self, step: Any) -> Any:
        return Weights(super().weigh(step).values[:, None])


class ScoresInSecret(Product):
    declares: ClassVar[frozenset[str]] = frozenset()


class ScoresInVain(GoodWeighting):
    declares: ClassVar[frozenset[str]] = frozenset({"response-scores"})


class UnsuitedExamples(GoodWeighting):
    def check(self, objectives: Any) -> None:
        from moalign import OptionError

        raise OptionError("no objective is called 'z'")


class MissingMakesNaN(GoodWeighting):
    def weigh(self, step: Any) -> Any:
        weights = super().weigh(step)
        return replace(weights, values=weights.values + 0.0 * step.mean_scores_K())


class GainOverflows(GoodWeighting):
    def weigh(self, step: Any) -> Any:
        return replace(super().weigh(step), gain=step.scores_PGK.nan_to_num().amax().exp())


class SumsToTwo(GoodWeighting):
    def weigh(self, step: Any) -> Any:
        weights = super().weigh(step)
        return replace(weights, values=weights.values * min(len(step.names), 2))


class GoesBelowZero(GoodWeighting):
    def weigh(self, step: Any) -> Any:
        weights = super().weigh(step)
        one_K = torch.full_like(weights.values, 1 / len(weights.values))
        return replace(weights, values=weights.values + 50 * (weights.values - one_K))


class PrefersTheFirst(GoodWeighting):
    def weigh(self, step: Any) -> Any:
        values = super().weigh(step).values.clone()
        values[0] += 0.2
        return Weights(values / values.sum())


class HalvesOne(GoodWeighting):
    def weigh(self, step: Any) -> Any:
        weights = super().weigh(step)
        return Weights(weights.values / 2) if len(step.names) == 1 else weights


class JittersWeights(GoodWeighting):
    def __init__(self) -> None:
        super().__init__()
        self.jitter = next(counter) % 7 * 1e-6

    def weigh(self, step: Any) -> Any:
        return Weights(super().weigh(step).values + self.jitter)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "jitter": self.jitter}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.jitter = state["jitter"]


class ForgetsLogits(GoodWeighting):
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class TakesHalfItsState(GoodWeighting):
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.logits = dict(list(state["logits"].items())[:1])


class AsksInSecret(GoodWeighting):
    def weigh(self, step: Any) -> Any:
        step.gram()
        return super().weigh(step)


class NeverAsks(GoodWeighting):
    needs: ClassVar[frozenset[str]] = frozenset({"steer", "losses"})


class WritesIntoTheStep(GoodWeighting):
    def weigh(self, step: Any) -> Any:
        step.advantages_BTK.zero_()
        return super().weigh(step)


class SharesTwice(GoodWeighting):
    """Weights per prompt from a stage before training, which do not sum to 1."""

    needs: ClassVar[frozenset[str]] = frozenset({"steer", "pairs"})
    declares: ClassVar[frozenset[str]] = frozenset({"prompt-weights"})

    def recipe(self) -> Mapping[str, Any]:
        return {}

    def prepare(self, context: Any) -> dict[str, Any]:
        prompts = [pair.prompt for pair in context.pairs]
        return {"mean": context.score(prompts, [p.chosen for p in context.pairs]).mean(0)}

    def load_prepared(self, prepared: Mapping[str, Any]) -> None:
        self.mean_K = prepared["mean"]

    def prompt_weights(self, prompts: Any, features: Any) -> Any:
        return self.mean_K.softmax(-1).expand(len(prompts), -1) * 2


class OneRowForAll(SharesTwice):
    def prompt_weights(self, prompts: Any, features: Any) -> Any:
        return self.mean_K.softmax(-1)[None]


class ReadsPairsUnasked(SharesTwice):
    needs: ClassVar[frozenset[str]] = frozenset({"steer"})

    def prompt_weights(self, prompts: Any, features: Any) -> Any:
        return self.mean_K.softmax(-1).expand(len(prompts), -1)


# --- optimizers -------------------------------------------------------------------------------


class GoodOptimizer(Optimizer):
    name: ClassVar[str] = "good"
    min_group: ClassVar[int] = 2
    surrogate = ClippedSurrogate(0.2, 0.2, 3.0, 0.0, "k3", "token-mean")

    def advantages(self, scores_PGK: Any, batch: Any) -> Any:
        return group_zscore(scores_PGK).flatten(0, 1)[:, None]

    def loss(self, logprobs_BT: Any, rows: Any, advantages_BT: Any) -> Any:
        return self.surrogate.loss(logprobs_BT, rows, advantages_BT)


def ratio(logprobs_BT: Tensor, rows: Any, limit: float = 20.0) -> Tensor:
    return (logprobs_BT - rows.old_logprobs_BT).clamp(-limit, limit).exp()


class Doubles(GoodOptimizer):
    def advantages(self, scores_PGK: Any, batch: Any) -> Any:
        return super().advantages(scores_PGK, batch).double()


class LossPerRow(GoodOptimizer):
    def loss(self, logprobs_BT: Any, rows: Any, advantages_BT: Any) -> Any:
        return logprobs_BT.sum(-1), {}


class Overflows(GoodOptimizer):
    def advantages(self, scores_PGK: Any, batch: Any) -> Any:
        growth = (scores_PGK.nan_to_num().abs().amax() / 1e4).exp()
        return super().advantages(scores_PGK, batch) * growth.clamp(max=3e38) * growth.sqrt()


class MixesObjectives(GoodOptimizer):
    def advantages(self, scores_PGK: Any, batch: Any) -> Any:
        advantages = super().advantages(scores_PGK, batch)
        return advantages + 0.1 * (advantages.sum(-1, keepdim=True) - advantages)


class PrefersTheLast(GoodOptimizer):
    def advantages(self, scores_PGK: Any, batch: Any) -> Any:
        return super().advantages(scores_PGK, batch) * torch.arange(1.0, scores_PGK.shape[-1] + 1)


class MissingIsZero(GoodOptimizer):
    def advantages(self, scores_PGK: Any, batch: Any) -> Any:
        missing = scores_PGK.isnan().flatten(0, 1)[:, None]
        return super().advantages(scores_PGK.nan_to_num(), batch).masked_fill(missing, 0.0)


class MissingIsBad(GoodOptimizer):
    def advantages(self, scores_PGK: Any, batch: Any) -> Any:
        missing = scores_PGK.isnan().flatten(0, 1)[:, None]
        return super().advantages(scores_PGK, batch).masked_fill(missing, -1.0)


class PraisesEquals(GoodOptimizer):
    def advantages(self, scores_PGK: Any, batch: Any) -> Any:
        flat = (scores_PGK.amax(1, keepdim=True) == scores_PGK.amin(1, keepdim=True)).expand_as(
            scores_PGK
        )
        return super().advantages(scores_PGK, batch).masked_fill(flat.flatten(0, 1)[:, None], 0.1)


class AddsEntropy(GoodOptimizer):
    def loss(self, logprobs_BT: Any, rows: Any, advantages_BT: Any) -> Any:
        loss, metrics = super().loss(logprobs_BT, rows, advantages_BT)
        return loss + 0.01 * (logprobs_BT * rows.mask_BT).sum() / rows.total_tokens, metrics


class ReadsPadding(GoodOptimizer):
    def loss(self, logprobs_BT: Any, rows: Any, advantages_BT: Any) -> Any:
        loss, metrics = super().loss(logprobs_BT, rows, advantages_BT)
        padding_B = ((ratio(logprobs_BT, rows) - 1) * (1 - rows.mask_BT)).sum(-1)
        values_B = (advantages_BT * rows.mask_BT).sum(-1)
        return loss - (padding_B * values_B).sum() / rows.total_tokens, metrics


class DividesByItself(GoodOptimizer):
    def loss(self, logprobs_BT: Any, rows: Any, advantages_BT: Any) -> Any:
        tokens = int(rows.mask_BT.sum())
        return super().loss(logprobs_BT, replace(rows, total_tokens=tokens), advantages_BT)


class MeasuresItself(GoodOptimizer):
    def loss(self, logprobs_BT: Any, rows: Any, advantages_BT: Any) -> Any:
        loss, metrics = super().loss(logprobs_BT, rows, advantages_BT)
        return loss, {**metrics, "rows": rows.mask_BT.mean()}


class ClimbsDown(GoodOptimizer):
    def loss(self, logprobs_BT: Any, rows: Any, advantages_BT: Any) -> Any:
        return super().loss(logprobs_BT, rows, -advantages_BT)


class RatioExplodes(GoodOptimizer):
    def loss(self, logprobs_BT: Any, rows: Any, advantages_BT: Any) -> Any:
        change_BT = (logprobs_BT - rows.old_logprobs_BT).masked_fill(rows.mask_BT == 0, 0.0)
        return -(change_BT.exp() * advantages_BT * rows.mask_BT).sum() / rows.total_tokens, {}


class ForgetsItsScale(GoodOptimizer):
    scale = 1.0

    def advantages(self, scores_PGK: Any, batch: Any) -> Any:
        self.scale *= 0.9
        return super().advantages(scores_PGK, batch) * self.scale


class WritesIntoTheScores(GoodOptimizer):
    def advantages(self, scores_PGK: Any, batch: Any) -> Any:
        advantages = super().advantages(scores_PGK, batch)
        scores_PGK.nan_to_num_()
        return advantages


class GoodValues(GoodOptimizer):
    """Good as well: a value head, what it kept for the loss, a column per objective."""

    needs: ClassVar[frozenset[str]] = frozenset({"hidden"})
    per_objective: ClassVar[bool] = True

    def begin(self, objectives: Any, width: int, seed: int) -> None:
        self.head = torch.nn.Linear(width, len(objectives), bias=False)
        torch.nn.init.zeros_(self.head.weight)

    def parameters(self) -> Any:
        return list(self.head.parameters())

    def advantages(self, scores_PGK: Any, batch: Any) -> Any:
        applies_BTK = batch.mask_BT[..., None] * ~scores_PGK.flatten(0, 1).isnan()[:, None]
        returns = super().advantages(scores_PGK, batch) * applies_BTK
        batch.kept |= {"hidden": batch.hidden_BTD, "returns": returns, "applies": applies_BTK}
        return (returns - self.head(batch.hidden_BTD).detach()) * applies_BTK

    def loss(self, logprobs_BT: Any, rows: Any, advantages_BT: Any) -> Any:
        loss, metrics = super().loss(logprobs_BT, rows, advantages_BT)
        errors = self.head(rows.kept["hidden"]) - rows.kept["returns"]
        value_loss = (errors.square() * rows.kept["applies"]).sum() / self.tokens(rows)
        return loss + value_loss, {**metrics, "value_loss": value_loss.detach()}

    def tokens(self, rows: Any) -> Any:
        return rows.total_tokens

    def state_dict(self) -> dict[str, Any]:
        return dict(self.head.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.head.load_state_dict(state)


class GoodSelector(GoodOptimizer):
    """Good as well: compares the two completions of each prompt that it selects."""

    whole_groups: ClassVar[bool] = True

    def select(self, advantages_PG: Any) -> Any:
        return advantages_PG.argsort(dim=1, descending=True, stable=True)[:, [0, -1]]

    def loss(self, logprobs_BT: Any, rows: Any, advantages_BT: Any) -> Any:
        ratios_PG = (ratio(logprobs_BT, rows) * rows.mask_BT).sum(-1).view(-1, rows.group)
        mask_BT = rows.mask_BT
        values_PG = (advantages_BT * mask_BT).sum(-1).view(-1, rows.group)
        spread_P = values_PG[:, 0] - values_PG[:, 1]
        return -(spread_P * (ratios_PG[:, 0] - ratios_PG[:, 1])).sum() / rows.total_rows, {}


class KeepsAGraph(GoodValues):
    def advantages(self, scores_PGK: Any, batch: Any) -> Any:
        advantages = super().advantages(scores_PGK, batch)
        batch.kept["values"] = self.head(batch.hidden_BTD)
        return advantages


class SubtractsThreeScores(GoodOptimizer):
    needs: ClassVar[frozenset[str]] = frozenset({"greedy_scores"})

    def advantages(self, scores_PGK: Any, batch: Any) -> Any:
        baseline_PK = 0.0 * batch.greedy_scores_PK
        return super().advantages(scores_PGK - baseline_PK[:, None], batch)


class SelectsOneTwice(GoodOptimizer):
    def select(self, advantages_PG: Any) -> Any:
        return advantages_PG.argmax(1, keepdim=True).repeat(1, 2)


class SelectsFourOfTwo(GoodOptimizer):
    def select(self, advantages_PG: Any) -> Any:
        return torch.arange(4).expand(len(advantages_PG), 4)


class CountsPadding(GoodOptimizer):
    def advantages(self, scores_PGK: Any, batch: Any) -> Any:
        return super().advantages(scores_PGK, batch) * 6 / batch.mask_BT.shape[1]


class SplitsGroups(GoodOptimizer):
    def loss(self, logprobs_BT: Any, rows: Any, advantages_BT: Any) -> Any:
        logprobs_PG = (logprobs_BT * rows.mask_BT).sum(-1)
        loss, metrics = super().loss(logprobs_BT, rows, advantages_BT)
        return loss + 0.0 * logprobs_PG.view(-1, 4).std(1).sum(), metrics


class DividesValuesByItself(GoodValues):
    def tokens(self, rows: Any) -> Any:
        return rows.mask_BT.sum()


class NeedsAGreedyScore(GoodOptimizer):
    needs: ClassVar[frozenset[str]] = frozenset({"greedy_scores"})
    per_objective: ClassVar[bool] = True

    def advantages(self, scores_PGK: Any, batch: Any) -> Any:
        baseline_BK = batch.greedy_scores_PK.repeat_interleave(batch.group, 0)
        return super().advantages(scores_PGK, batch) * (1 + 0.0 * baseline_BK[:, None])


class SumsAdvantages(GoodOptimizer):
    def loss(self, logprobs_BT: Any, rows: Any, advantages_BT: Any) -> Any:
        mask_BT = rows.mask_BT if advantages_BT.shape[1] > 1 else 1.0
        sums_B1 = (advantages_BT * mask_BT).sum(-1, keepdim=True)
        return super().loss(logprobs_BT, rows, sums_B1)


class DivergenceExplodes(GoodOptimizer):
    needs: ClassVar[frozenset[str]] = frozenset({"ref_logprobs"})

    def loss(self, logprobs_BT: Any, rows: Any, advantages_BT: Any) -> Any:
        loss, metrics = super().loss(logprobs_BT, rows, advantages_BT)
        away_BT = (rows.ref_logprobs_BT - logprobs_BT).masked_fill(rows.mask_BT == 0, 0.0)
        return loss + 0.01 * (away_BT.exp() - away_BT - 1).sum() / rows.total_tokens, metrics


class BeginsAtRandom(GoodValues):
    def begin(self, objectives: Any, width: int, seed: int) -> None:
        super().begin(objectives, width, seed)
        self.unused = torch.nn.Parameter(torch.randn(2))

    def parameters(self) -> Any:
        return [*super().parameters(), self.unused]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "unused": self.unused.detach()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.head.load_state_dict({"weight": state["weight"]})
        self.unused.data = state["unused"]


class ForgetsItsHead(GoodValues):
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class ReadsHiddenInSecret(GoodOptimizer):
    def advantages(self, scores_PGK: Any, batch: Any) -> Any:
        return super().advantages(scores_PGK, batch) + 0.0 * batch.hidden_BTD.sum()


class NeedsTheReferenceInVain(GoodOptimizer):
    needs: ClassVar[frozenset[str]] = frozenset({"ref_logprobs"})


class WritesIntoWhatItKept(GoodValues):
    def loss(self, logprobs_BT: Any, rows: Any, advantages_BT: Any) -> Any:
        found = super().loss(logprobs_BT, rows, advantages_BT)
        rows.kept["returns"].mul_(1 + 1e-6)
        return found


# --- optimizers that learn from preferences ---------------------------------------------------


class GoodPairs(PairwiseOptimizer):
    name: ClassVar[str] = "good-pairs"

    def loss_of_pairs(self, pairs: Any) -> Any:
        return -logsigmoid(pairs.h)


class GoodBoth(GoodPairs):
    """Good as well: rollouts and preferences."""

    learns_from: ClassVar[Literal["rollouts", "pairs", "both"]] = "both"
    min_group: ClassVar[int] = 2
    advantages = GoodOptimizer.advantages
    loss = GoodOptimizer.loss
    surrogate = GoodOptimizer.surrogate


class RanksByTheSum(Optimizer):
    """Good as well: one loss for all objectives, in which the weights choose."""

    name: ClassVar[str] = "ranks-by-the-sum"
    learns_from: ClassVar[Literal["rollouts", "pairs", "both"]] = "pairs"
    needs: ClassVar[frozenset[str]] = frozenset({"ref_logprobs"})

    def applies(self, scores_PGK: Any) -> Any:
        return super().applies(scores_PGK).any(-1, keepdim=True).expand(-1, scores_PGK.shape[-1])

    def pair_loss(self, logprobs_BT: Any, rows: Any, weights_PK: Any) -> Any:
        given = groups(logprobs_BT, rows)
        sums_PG = (given.scores_PGK.nan_to_num() * weights_PK[:, None]).sum(-1)
        pull_PG = torch.tanh(sums_PG - sums_PG.mean(1, keepdim=True))
        losses_PG = -logsigmoid(given.ratios_PG) * pull_PG
        return losses_PG.sum() / rows.counts_K[0].clamp(min=1), {}


class LossPerPrompt(GoodPairs):
    def pair_loss(self, logprobs_BT: Any, rows: Any, weights_PK: Any) -> Any:
        losses_PK, metrics = self.losses(logprobs_BT, rows)
        return (losses_PK.nan_to_num() * weights_PK).sum(-1), metrics


class NothingIsZero(GoodPairs):
    def losses(self, logprobs_BT: Any, rows: Any) -> Any:
        losses_PK, metrics = super().losses(logprobs_BT, rows)
        return losses_PK.where(~losses_PK.isnan(), 0.0), metrics


class MarginOverflows(GoodPairs):
    def loss_of_pairs(self, pairs: Any) -> Any:
        return super().loss_of_pairs(pairs) * (pairs.margin / 1e4).exp()


class DividesByTheLength(GoodPairs):
    def loss_of_pairs(self, pairs: Any) -> Any:
        return super().loss_of_pairs(pairs) - 0.01 * pairs.chosen / pairs.chosen_length


class LogarithmOfZero(GoodPairs):
    def loss_of_pairs(self, pairs: Any) -> Any:
        return -torch.sigmoid(pairs.h).log()


class DividesByTheDistance(GoodPairs):
    def loss_of_pairs(self, pairs: Any) -> Any:
        squares = pairs.chosen_ratio.square() + pairs.rejected_ratio.square()
        return super().loss_of_pairs(pairs) + 0.01 * squares.sqrt()


class FlatAtTheReference(GoodPairs):
    def loss_of_pairs(self, pairs: Any) -> Any:
        return -pairs.h.pow(3)


class TrustsTheFirst(GoodPairs):
    def losses(self, logprobs_BT: Any, rows: Any) -> Any:
        losses_PK, metrics = super().losses(logprobs_BT, rows)
        scores_PGK = rows.scores_BK.view(len(losses_PK), rows.group, -1).nan_to_num()
        return losses_PK * (1 + 0.1 * (scores_PGK.argmax(1) == 0)), metrics


class SumsPadding(GoodPairs):
    def losses(self, logprobs_BT: Any, rows: Any) -> Any:
        losses_PK, metrics = super().losses(logprobs_BT, rows)
        padding_PGT = (logprobs_BT * (1 - rows.mask_BT)).view(len(losses_PK), rows.group, -1)
        return losses_PK + padding_PGT.sum((1, 2))[:, None], metrics


class DividesByItsPrompts(GoodPairs):
    def pair_loss(self, logprobs_BT: Any, rows: Any, weights_PK: Any) -> Any:
        scores_PGK = rows.scores_BK.view(len(weights_PK), rows.group, -1)
        own = replace(rows, counts_K=self.applies(scores_PGK).sum(0))
        return super().pair_loss(logprobs_BT, own, weights_PK)


class CountsItsPrompts(GoodPairs):
    def losses(self, logprobs_BT: Any, rows: Any) -> Any:
        losses_PK, metrics = super().losses(logprobs_BT, rows)
        return losses_PK, {**metrics, "prompts": (~losses_PK.isnan()).float().mean()}


class MixesLosses(GoodPairs):
    def losses(self, logprobs_BT: Any, rows: Any) -> Any:
        losses_PK, metrics = super().losses(logprobs_BT, rows)
        known_PK = losses_PK.where(~losses_PK.isnan(), 0.0)
        return losses_PK + 0.1 * known_PK.sum(-1, keepdim=True), metrics


class LastLossCountsMost(GoodPairs):
    def losses(self, logprobs_BT: Any, rows: Any) -> Any:
        losses_PK, metrics = super().losses(logprobs_BT, rows)
        return losses_PK * torch.arange(1.0, losses_PK.shape[-1] + 1), metrics


class SquaresWeights(GoodPairs):
    def pair_loss(self, logprobs_BT: Any, rows: Any, weights_PK: Any) -> Any:
        return super().pair_loss(logprobs_BT, rows, weights_PK.square())


class ImitatesCopies(GoodPairs):
    def __init__(self) -> None:
        super().__init__(labels="soft")

    def loss_of_pairs(self, pairs: Any) -> Any:
        return super().loss_of_pairs(pairs) - 0.01 * pairs.chosen


class ForgetsItsTemperature(GoodPairs):
    def begin(self, objectives: Any, width: int, seed: int) -> None:
        self.temperature = torch.nn.Parameter(torch.ones(()))

    def parameters(self) -> Any:
        return [self.temperature]

    def loss_of_pairs(self, pairs: Any) -> Any:
        return -logsigmoid(pairs.h * self.temperature.exp())


class NeedsHiddenInVain(GoodPairs):
    needs: ClassVar[frozenset[str]] = frozenset({"ref_logprobs", "hidden"})


class ClampsTheCounts(GoodPairs):
    def pair_loss(self, logprobs_BT: Any, rows: Any, weights_PK: Any) -> Any:
        rows.counts_K.clamp_(min=1)
        return super().pair_loss(logprobs_BT, rows, weights_PK)


# --- strategies -------------------------------------------------------------------------------


class GoodStrategy(Strategy):
    name: ClassVar[str] = "good"

    def key(self, history: Any, seed: int) -> Any:
        return f"{seed}/{history.proposed}"

    def propose(self, history: Any, n: int, seed: int) -> Any:
        rng = random.Random(str(self.key(history, seed)))
        return [Proposal({p: draw(d, rng) for p, d in history.space.items()}) for _ in range(n)]


def draw(dimension: Any, rng: random.Random) -> Any:
    if isinstance(dimension, FloatRange):
        return rng.uniform(dimension.low, dimension.high)
    if isinstance(dimension, IntRange):
        return rng.randint(dimension.low, dimension.high)
    if isinstance(dimension, Choice):
        return rng.choice(dimension.options)
    shares = sorted([0.0, *(rng.random() for _ in dimension.names[1:]), 1.0])
    return {
        name: high - low
        for name, low, high in zip(dimension.names, shares, shares[1:], strict=False)
    }


class ReturnsATuple(GoodStrategy):
    def propose(self, history: Any, n: int, seed: int) -> Any:
        return tuple(super().propose(history, n, seed))


class LeavesADimensionOut(GoodStrategy):
    def propose(self, history: Any, n: int, seed: int) -> Any:
        return [
            Proposal(dict(list(p.params.items())[1:])) for p in super().propose(history, n, seed)
        ]


class TripsOverTheEdge(GoodStrategy):
    def propose(self, history: Any, n: int, seed: int) -> Any:
        proposals = super().propose(history, n, seed)
        return [Proposal({p: 2 * v if isinstance(v, float) else v for p, v in one.params.items()})
                for one in proposals]  # fmt: skip


class Remembers(GoodStrategy):
    calls = 0

    def key(self, history: Any, seed: int) -> Any:
        self.calls += 1
        return super().key(history, seed) + f"/{self.calls}"


class StaysWhereItIs(GoodStrategy):
    def key(self, history: Any, seed: int) -> Any:
        return len(history.pending)


class GivesOneMore(GoodStrategy):
    def propose(self, history: Any, n: int, seed: int) -> Any:
        return super().propose(history, n + (n > 1), seed)


class IgnoresPending(GoodStrategy):
    def key(self, history: Any, seed: int) -> Any:
        return len(history.observations)


class GetsLost(GoodStrategy):
    def propose(self, history: Any, n: int, seed: int) -> Any:
        if len(history.observations) > 20:
            raise IndexError("too many observations")
        return super().propose(history, n, seed)


class StartsFromNothing(GoodStrategy):
    def propose(self, history: Any, n: int, seed: int) -> Any:
        start = Start(((0, 40),), (1.0,)) if history.observations else Start()
        return [replace(proposal, start=start) for proposal in super().propose(history, n, seed)]


class WritesIntoTheHistory(GoodStrategy):
    def propose(self, history: Any, n: int, seed: int) -> Any:
        for observation in history.observations:
            observation.params["seen"] = True
        return super().propose(history, n, seed)


# --- trackers ---------------------------------------------------------------------------------


class GoodTracker(Tracker):
    name: ClassVar[str] = "good"

    @hookimpl
    def moalign_trial_started(self, trial: int) -> None: ...

    @hookimpl
    def moalign_step_ended(self, event: Any) -> None: ...

    @hookimpl
    def moalign_study_ended(self, files: Any) -> None:
        assert all(path.exists() for path in files.values())


class HearsNothing(Tracker):
    name: ClassVar[str] = "hears-nothing"


class MisspellsAnArgument(GoodTracker):
    @hookimpl
    def moalign_front_updated(self, pionts: Any) -> None: ...


class Discovers(GoodTracker):
    @hookimpl
    def moalign_rewards(self) -> Any:
        return []


class RefusesAFront(GoodTracker):
    @hookimpl
    def moalign_front_updated(self, points: Any) -> None:
        raise OSError("disk full")


class RefusesASecondStart(GoodTracker):
    def __init__(self) -> None:
        self.started: set[int] = set()

    @hookimpl
    def moalign_trial_started(self, trial: int) -> None:
        if trial in self.started:
            raise ValueError(f"trial {trial} exists")
        self.started.add(trial)


class RefusesNaN(GoodTracker):
    @hookimpl
    def moalign_step_ended(self, event: Any) -> None:
        {value: int(100 * value) for value in event.metrics.values()}


class ClosesOnce(GoodTracker):
    closed = False

    def close(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        self.closed = True


class HearsAll(GoodTracker):
    """Good as well: takes every argument of every hook."""

    name: ClassVar[str] = "hears-all"
    heard: ClassVar[set[str]] = set()

    @hookimpl
    def moalign_study_started(  # noqa: PLR0917
        self, run, study, objectives, resumed, time, versions, plugins, revision
    ):
        self.heard.add("moalign_study_started")

    @hookimpl
    def moalign_base_measured(self, evaluation, values, time):
        self.heard.add("moalign_base_measured")

    @hookimpl
    def moalign_trial_started(self, trial, proposal, time):
        self.heard.add("moalign_trial_started")

    @hookimpl
    def moalign_step_ended(self, event):
        self.heard.add("moalign_step_ended")

    @hookimpl
    def moalign_segment_ended(self, trial, observations, evaluations, values, time):
        self.heard.add("moalign_segment_ended")

    @hookimpl
    def moalign_trial_ended(self, trial, outcome, reason, time):
        self.heard.add("moalign_trial_ended")

    @hookimpl
    def moalign_front_updated(self, points, hypervolume, trials, time):
        self.heard.add("moalign_front_updated")

    @hookimpl
    def moalign_study_ended(self, run, outcome, files):
        self.heard.add("moalign_study_ended")


# --- the tests --------------------------------------------------------------------------------

GOOD = (
    GoodReward,
    PerToken,
    AgreesWithPeople,
    GoodWeighting,
    Product,
    GoodOptimizer,
    GoodValues,
    GoodSelector,
    GoodPairs,
    GoodBoth,
    RanksByTheSum,
    GoodStrategy,
    GoodTracker,
    HearsAll,
)

MUTANTS: dict[str, dict[str, tuple[type[Component], ...]]] = {
    "reward": {
        "scores_every_completion": (OneTooFew, ReadsAnUnknownField, NeedsSomethingElse),
        "stays_in_its_range": (LeavesItsRange,),
        "is_never_infinite": (InfiniteWithoutWords,),
        "follows_the_rows": (CountsRows,),
        "groups_stand_alone": (ComparesPrompts,),
        "is_deterministic": (Jitters,),
        "resumes": (ForgetsItsCalls, KeepsAnObject),
        "needs_what_it_reads": (ReadsInSecret, NeedsInVain, NeedsPairsInVain),
        "leaves_the_batch_alone": (WritesIntoTheBatch,),
    },
    "weighting": {
        "returns_weights": (WrongShape, UnsuitedExamples, ScoresInSecret, ScoresInVain),
        "is_finite": (MissingMakesNaN, GainOverflows),
        "stays_on_the_simplex": (SumsToTwo, GoesBelowZero),
        "follows_the_names": (PrefersTheFirst,),
        "leaves_one_objective_alone": (HalvesOne,),
        "is_deterministic": (JittersWeights,),
        "resumes": (ForgetsLogits, TakesHalfItsState),
        "needs_what_it_asks_for": (AsksInSecret, NeverAsks, ReadsPairsUnasked),
        "leaves_the_step_alone": (WritesIntoTheStep,),
        "weighs_prompts": (SharesTwice, OneRowForAll),
    },
    "optimizer": {
        "gives_advantages_and_a_loss": (Doubles, LossPerRow, KeepsAGraph),
        "advantages_are_finite": (Overflows, NeedsAGreedyScore),
        "objectives_do_not_mix": (MixesObjectives,),
        "follows_the_objectives": (PrefersTheLast,),
        "takes_a_single_score": (SubtractsThreeScores,),
        "missing_scores_have_no_influence": (MissingIsZero, MissingIsBad),
        "equal_scores_teach_nothing": (PraisesEquals,),
        "selects_completions": (SelectsOneTwice, SelectsFourOfTwo),
        "zero_advantage_has_no_gradient": (AddsEntropy,),
        "padding_changes_nothing": (ReadsPadding, CountsPadding),
        "micro_batches_add_up": (
            DividesByItself,
            MeasuresItself,
            SplitsGroups,
            DividesValuesByItself,
        ),
        "takes_advantages_per_completion": (SumsAdvantages,),
        "survives_an_exploding_ratio": (RatioExplodes, DivergenceExplodes),
        "gives_a_pair_loss": (LossPerPrompt, NothingIsZero),
        "pair_loss_is_finite": (MarginOverflows, DividesByTheLength),
        "survives_exploding_preferences": (LogarithmOfZero,),
        "a_prompt_is_a_set": (TrustsTheFirst,),
        "leaves_the_reference_rightly": (DividesByTheDistance, FlatAtTheReference),
        "padding_of_pairs_changes_nothing": (SumsPadding,),
        "micro_batches_of_pairs_add_up": (DividesByItsPrompts, CountsItsPrompts),
        "losses_do_not_mix": (MixesLosses,),
        "pairs_follow_the_objectives": (LastLossCountsMost,),
        "weights_add_losses_up": (SquaresWeights,),
        "copies_teach_nothing": (ImitatesCopies,),
        "learns": (ClimbsDown,),
        "begins_alike": (BeginsAtRandom,),
        "resumes": (ForgetsItsScale, ForgetsItsHead, ForgetsItsTemperature),
        "needs_what_it_reads": (
            ReadsHiddenInSecret,
            NeedsTheReferenceInVain,
            NeedsHiddenInVain,
        ),
        "leaves_its_arguments_alone": (
            WritesIntoTheScores,
            WritesIntoWhatItKept,
            ClampsTheCounts,
        ),
    },
    "strategy": {
        "proposes": (ReturnsATuple, LeavesADimensionOut),
        "stays_in_the_space": (TripsOverTheEdge,),
        "is_deterministic": (Remembers,),
        "explores": (StaysWhereItIs,),
        "respects_n": (GivesOneMore,),
        "takes_pending_trials": (IgnoresPending,),
        "takes_any_history": (GetsLost,),
        "starts_from_what_is_kept": (StartsFromNothing,),
        "leaves_the_history_alone": (WritesIntoTheHistory,),
    },
    "tracker": {
        "takes_a_study": (HearsNothing, MisspellsAnArgument, Discovers, RefusesAFront),
        "takes_events_again": (RefusesASecondStart,),
        "takes_bad_trials": (RefusesNaN,),
        "closes_twice": (ClosesOnce,),
    },
}


def lacked(kind: str, cls: type[Component]) -> dict[str, str]:
    """The properties that a component lacks, with the sentences that say so."""
    return {f.property: f.message for f in run_contract(kind, cls) if not f.ok}


@pytest.mark.parametrize("cls", GOOD)
def test_a_good_component_has_every_property(cls: type[Component]) -> None:
    findings = run_contract(cls.kind, cls)
    assert {f.property: f.message for f in findings if not f.ok} == {}
    assert [f.property for f in findings] == list(properties(cls.kind, cls))
    assert all(f.message for f in findings)


test_a_class_in_three_lines = contract(GoodWeighting)


def test_a_file_is_found_beside_the_test(tmp_path: Path) -> None:
    """And its own components only are tested, not those that are installed."""
    (tmp_path / "mine.py").write_text(
        "from moalign import Weighting, Weights, hookimpl\n\n\nclass Mine(Weighting):\n"
        '    """Weighs as it is told."""\n\n    name = "mine"\n\n'
        "    def weigh(self, step):\n        return Weights(step.preference_K)\n\n\n"
        "@hookimpl\ndef moalign_weightings():\n    return [Mine]\n"
    )
    text = 'from moalign.testing import contract\n\ntest_contract = contract("mine.py")\n'
    namespace: dict[str, Any] = {}
    exec(compile(text, tmp_path / "test_mine.py", "exec"), namespace)
    (mark,) = namespace["test_contract"].pytestmark
    names, found = mark.args
    assert names == ("check", "build")
    assert [one.id for one in found] == [f"weighting mine: {p}" for p in properties("weighting")]
    for one in found:
        namespace["test_contract"](*one.values)


def test_a_tracker_is_told_everything() -> None:
    HearsAll.heard.clear()
    run_contract("tracker", HearsAll)
    assert HearsAll.heard == set(hookspecs.ANNOUNCE)


@pytest.mark.parametrize("kind", SUITES)
def test_every_property_has_its_mutant(kind: str) -> None:
    assert list(MUTANTS[kind]) == list(properties(kind))


@pytest.mark.parametrize(
    ("kind", "name", "cls"),
    [
        pytest.param(kind, name, cls, id=f"{kind}-{name}-{cls.__name__}")
        for kind, mutants in MUTANTS.items()
        for name, classes in mutants.items()
        for cls in classes
    ],
)
def test_a_mutant_lacks_exactly_its_property(kind: str, name: str, cls: type[Component]) -> None:
    found = lacked(kind, cls)
    assert list(found) == [name], found
    assert len(found[name]) > 40, "the sentence says what was found and what is allowed"
