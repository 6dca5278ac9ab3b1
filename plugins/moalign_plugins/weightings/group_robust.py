"""Weights that grow, step by step, on the objectives with the largest losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge

from moalign.components import Preference, Weighting
from moalign.maths.simplex import softmax
from moalign.types import Weights
from moalign.weightings.units import in_units, require_bounds

if TYPE_CHECKING:
    from moalign.types import Objective, Step


class GroupRobust(Weighting):
    """Plays the adversary: weight moves to where the loss is, by exponentiated gradient.

    With l_k the loss of objective k at this step, before the batch is weighted::

        q_k ~ q_k exp(rate * l_k)

    among the objectives that the batch has, which together keep their weight; the others keep
    theirs, so that to be absent is not to do well (``absent: decay``: they count as loss 0). The
    weights start at the preference; one of 0 stays 0. The average of q and of the policy over steps
    goes to a saddle point: the policy whose worst loss is least, and the weights that show it.

    ``losses`` says what l_k is. ``shortfall``: how far the batch mean lies below the upper bound,
    (hi - mean) / (hi - lo). ``optimizer``: what a preference optimizer lost on each objective's
    pairs; objectives are then groups of people, and their rewards are not looked at.

    ``scale: count`` sums losses over the batch instead, and divides by the share of all prompts
    that the objective applies to. On average that is the mean times the prompts of a batch; it is
    more where a batch has more of a group than its share.

    The smaller the rate, the longer the memory: at 0.01 and a loss 0.5 above the others', a weight
    doubles against theirs in 140 steps. A rate without limit is `maxmin` on summed losses. What
    counts is rate times loss: losses of `ipo` are some tens where those of `dpo` are below 1, so
    with it the rate must be as much smaller, or the weights jump between the groups.

    Source:
        "Group Robust Preference Optimization", arXiv 2405.20304; the update is that of
        group DRO, Sagawa et al. 2020, arXiv 1911.08731. There groups are groups of people, and
        losses those of DPO or IPO. The authors' code has ``absent: decay`` and ``scale: count``,
        for which their rate of 5e-7 is meant: study `published-group-robust`. Differs: groups'
        shares are those of the batches so far, there those of the data set; their adjustment by C /
        sqrt(group size), off there, is left out.

    When to use it:
        As `maxmin`, with the memory in the weights instead of in the means: no flips, if rate times
        loss is small, and a mixture of objectives as the result.

    Cost:
        None.

    Example::

        weighting: {group-robust: {rate: 0.05}}
    """

    name: ClassVar[str] = "group-robust"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"losses": "optimizer", "rate": 0.1},
        {"absent": "decay", "scale": "count"},
    )

    def __init__(
        self,
        *,
        preference: Preference | None = None,
        rate: Annotated[float, Ge(0)] = 0.01,
        losses: Literal["shortfall", "optimizer"] = "shortfall",
        absent: Literal["keep", "decay"] = "keep",
        scale: Literal["mean", "count"] = "mean",
    ) -> None:
        """Take the options.

        Args:
            preference: where the weights start; default equal.
            rate: of log weights per unit of loss; 0 keeps the preference.
            losses: where losses come from; `optimizer` needs one that learns from pairs.
            absent: what becomes of the weight of an objective that a batch misses.
            scale: the mean loss of an objective, or the sum over its prompts by its share of all.
        """
        self.preference = preference
        self.rate = rate
        self.losses = losses
        self.absent = absent
        self.scale = scale
        if losses == "optimizer":
            self.needs = frozenset({"losses"})
            self.declares = frozenset({"offline"})
        self._log_weights: dict[str, float] = {}
        self._seen: dict[str, int] = {}  # prompts of each objective so far

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check that every objective has bounds, if these are read."""
        if self.losses == "shortfall":
            require_bounds(self.name, objectives)

    def weigh(self, step: Step) -> Weights:
        """Move the weights by this batch's losses, and return them, [K]."""
        import torch

        if not self._log_weights:
            given = zip(step.names, step.preference_K.tolist(), strict=True)
            self._log_weights = {name: math.log(weight) for name, weight in given if weight > 0}
        found = zip(step.names, self._losses(step), strict=True)
        losses = {name: loss for name, loss in found if not math.isnan(loss)}
        self._move(losses if self.scale == "mean" else self._summed(losses, step), step.names)
        weights_K = softmax([self._log_weights.get(name, -math.inf) for name in step.names])
        metrics = {f"loss/{name}": loss for name, loss in losses.items()}
        return Weights(torch.tensor(weights_K, dtype=torch.float32), metrics=metrics)

    def _losses(self, step: Step) -> list[float]:
        """Return the losses, NaN for an objective that the batch misses."""
        if self.losses == "shortfall":
            return (1.0 - in_units(step.mean_scores_K(), step.objectives)).tolist()
        assert step.losses_K is not None, "the host provides what `needs` names"
        return step.losses_K.tolist()

    def _summed(self, losses: Mapping[str, float], step: Step) -> dict[str, float]:
        """Return sums of losses over the batch, by the objectives' shares of all prompts so far."""
        counts = dict(zip(step.names, self._prompts(step), strict=True))
        for name, count in counts.items():
            self._seen[name] = self._seen.get(name, 0) + count
        total = sum(self._seen.values())
        return {
            name: loss * counts[name] * total / self._seen[name] if counts[name] else 0.0
            for name, loss in losses.items()
        }

    def _prompts(self, step: Step) -> list[int]:
        """Return how many of the batch's prompts each objective applies to."""
        if self.losses == "shortfall":
            return (~step.scores_PGK.isnan()).any(1).sum(0).tolist()
        return step.applies_PK.sum(0).tolist()

    def _move(self, losses: Mapping[str, float], names: Sequence[str]) -> None:
        """Move the weights of those that have a loss, and keep the sum of these weights."""
        if self.absent == "decay":
            losses = {**dict.fromkeys(names, 0.0), **losses}
        before = {n: self._log_weights[n] for n in losses if n in self._log_weights}
        if len(before) < 2:
            return
        moved = {n: log_weight + self.rate * losses[n] for n, log_weight in before.items()}
        shift = _log_sum(list(before.values())) - _log_sum(list(moved.values()))
        self._log_weights |= {n: log_weight + shift for n, log_weight in moved.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return log weights, absent where the weight is 0, and prompts so far, by objective."""
        return {"log_weights": dict(self._log_weights), "seen": dict(self._seen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self._log_weights = {name: float(value) for name, value in state["log_weights"].items()}
        seen = state.get("seen", {})  # checkpoints of earlier versions have none
        self._seen = {name: int(count) for name, count in seen.items()}


def _log_sum(values: Sequence[float]) -> float:
    """Return log(sum(exp(values))), computed without overflow."""
    largest = max(values)
    return largest + math.log(math.fsum(math.exp(value - largest) for value in values))
