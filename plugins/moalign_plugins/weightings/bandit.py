"""Exponential weights over what each objective has gained lately."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le, Lt

from moalign.components import Preference, Weighting
from moalign.maths.normalisation import ROUNDING
from moalign.maths.simplex import raise_to_floor, softmax
from moalign.types import Weights
from moalign.weightings.units import check_floor

if TYPE_CHECKING:
    from moalign.types import Objective, Step


class Bandit(Weighting):
    """Moves weight to the objectives whose scores are rising.

    With J_k the batch mean of objective k, s_k the deviation of its scores, L_k the running level
    and D_k the running deviation, per step and from the second on::

        D_k    = smoothing * D_k + (1 - smoothing) * s_k
        gain_k = clip((J_k - L_k) / D_k, -1, 1)
        L_k    = smoothing * L_k + (1 - smoothing) * J_k
        S_k    = memory * S_k + gain_k
        w_k    = p_k exp(rate S_k) / sum_j p_j exp(rate S_j)      then raised to `floor`

    p is the preference, the start: once gains fade, so do the S_k, and the weights return to it.
    Gains are in deviations of the objective's own scores, so units do not matter. An objective that
    applies to no completion of a batch, or whose scores do not vary, gains nothing.

    Every objective is scored at every step, so all arms are seen: this is exponential weights with
    full information (Hedge, with forgetting), not Exp3, which pulls one arm and has to guess the
    others. `floor` is what Exp3 calls exploration: nothing is lost for good.

    Source:
        "DORB: Dynamically Optimizing Multiple Rewards with Bandits", Pasunuru et al. 2020, arXiv
        2011.07635 (Exp3 picks the reward to train on next; an arm's gain is how its reward has
        grown); exponential weights: Freund and Schapire 1997. Differs: weights instead of one
        reward at a time; gains over a running level in deviations instead of over quantiles of the
        reward's history; forgetting.

    When to use it:
        To spend the training where it pays at the moment: objectives that are learnt at different
        times. Beware: what is easy to raise is not what matters; watch the objectives that rest at
        the floor. Between objectives that trade off, steps that are large beside the deviation of
        the scores make weights swing from end to end around the preference, and the more so the
        higher the `rate`.

    Cost:
        None.

    Example::

        weighting: {bandit: {rate: 0.2, floor: 0.1}}
    """

    name: ClassVar[str] = "bandit"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"rate": 2.0, "memory": 1.0, "smoothing": 0.0, "floor": 0.1},
    )

    def __init__(
        self,
        *,
        preference: Preference | None = None,
        rate: Annotated[float, Ge(0)] = 0.1,
        memory: Annotated[float, Ge(0), Le(1)] = 0.9,
        smoothing: Annotated[float, Ge(0), Lt(1)] = 0.8,
        floor: Annotated[float, Gt(0), Lt(1)] = 0.05,
    ) -> None:
        """Take the options.

        Args:
            preference: where the weights start and return to, by objective; default equal.
            rate: logarithm of a weight per unit of accumulated gain; 0 keeps the preference.
            memory: share of the accumulated gain that is kept at each step; 1 forgets nothing.
            smoothing: share of level and deviation that is kept at each step.
            floor: smallest weight; below 1 / number of objectives.
        """
        self.preference = preference
        self.rate = rate
        self.memory = memory
        self.smoothing = smoothing
        self.floor = floor
        self._level: dict[str, float] = {}
        self._deviation: dict[str, float] = {}
        self._gained: dict[str, float] = {}

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check that the floor leaves room for all objectives."""
        check_floor(self.name, self.floor, objectives)

    def weigh(self, step: Step) -> Weights:
        """Take in this batch's scores and return the weights, [K]."""
        import torch

        metrics: dict[str, float] = {}
        scores_NK = step.scores_PGK.flatten(0, 1).double()
        for name, scores_N in zip(step.names, scores_NK.T, strict=True):
            gain = self._gain(name, scores_N[~scores_N.isnan()].tolist())
            self._gained[name] = self.memory * self._gained.get(name, 0.0) + gain
            metrics[f"gain/{name}"] = gain
        logits_K = [
            (math.log(p) if p > 0 else -math.inf) + self.rate * self._gained[name]
            for name, p in zip(step.names, step.preference_K.double().tolist(), strict=True)
        ]
        weights_K = raise_to_floor(softmax(logits_K), self.floor)
        return Weights(torch.tensor(weights_K, dtype=torch.float32), metrics=metrics)

    def _gain(self, name: str, scores_N: Sequence[float]) -> float:
        """Return how far the mean lies above its level, and move level and deviation."""
        if not scores_N:
            return 0.0
        mean = math.fsum(scores_N) / len(scores_N)
        spread = math.sqrt(math.fsum((s - mean) ** 2 for s in scores_N) / len(scores_N))
        if spread <= ROUNDING * max(map(abs, scores_N)):
            spread = 0.0
        level = self._level.get(name, mean)
        deviation = self._kept(self._deviation.get(name, spread), spread)
        self._level[name], self._deviation[name] = self._kept(level, mean), deviation
        rise = mean - level
        # A step from one constant to another is a gain of unknown size: it counts as a whole one.
        size = max(deviation, abs(rise))
        return rise / size if abs(rise) > ROUNDING * abs(level) else 0.0

    def _kept(self, old: float, new: float) -> float:
        return self.smoothing * old + (1 - self.smoothing) * new

    def state_dict(self) -> dict[str, Any]:
        """Return levels, deviations and accumulated gains, by objective."""
        return {
            "level": dict(self._level),
            "deviation": dict(self._deviation),
            "gained": dict(self._gained),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self._level = {name: float(value) for name, value in state["level"].items()}
        self._deviation = {name: float(value) for name, value in state["deviation"].items()}
        self._gained = {name: float(value) for name, value in state["gained"].items()}
