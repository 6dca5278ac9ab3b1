"""Weights that keep the training signal in touch with every objective."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from annotated_types import Ge, Gt, Le, Lt

from moalign.components import Preference, Weighting
from moalign.errors import OptionError, nearest
from moalign.maths.combine import scalarise
from moalign.maths.normalisation import EPSILON, ROUNDING
from moalign.maths.simplex import raise_to_floor, softmax
from moalign.types import Weights
from moalign.weightings.units import check_floor

if TYPE_CHECKING:
    from torch import Tensor

    from moalign.types import Objective, Step

CORRELATION: Final = 0.2
"""Default target: equal weights of K independent objectives give 1 / sqrt(K) each, so with three
it asks for a third of what they would have without conflict."""

LARGEST: Final = 20.0
"""Largest logarithm of a weight that is not normalised."""


class CovarianceTarget(Weighting):
    """Raises the weight of an objective whose score the training signal hardly correlates with.

    The signal is what the present weights make of this batch: per completion s, the weighted sum
    of advantages. With c_k the correlation of s with the raw score of objective k among the
    completions of a prompt, averaged over prompts, per step::

        e_k = (1 - average) e_k + average c_k                          e_k starts at the first c_k
        u_k = u_k + rate max(target_k - e_k, 0)                        0 if J_k >= enough_k
        w   = softmax(u)                                               raised to `floor`

    u starts at the logarithm of the preference, and J_k is the batch mean. Policy gradient moves
    an objective in proportion to its covariance with the signal, so an objective whose c_k is
    negative is being trained down. The new weights serve the batch they were computed from.

    A deficit only ever raises a weight; on the simplex that lowers the others, until all objectives
    have their target or share what cannot be had. An objective whose scores vary within no group
    has no correlation at a step, and its weight stays against the others'.

    ``statistic: covariance`` is in units of raw score times signal: targets then need a look at
    the scores, and a saturated objective has covariance 0 and is raised for ever unless `enough`
    stops it. ``signal: rewards`` takes the weighted sum of raw scores, standardised over the batch:
    what ``training.combine: rewards`` trains on. ``normalise: none`` returns exp(u), whose sum
    grows: a rising learning rate, which batch normalisation and the normalisation of combined
    rewards cancel.

    Source:
        The method called CTWA (covariance targeted weight adaptation) by its public code,
        github.com/yining610/ctwa. Published: ``training.combine: rewards`` with ``{statistic:
        covariance, signal: rewards, normalise: none, rate: 0.05}`` and targets .15 for accuracy,
        .08 for the others; `enough` 1 and .95. Differs: objectives by name, not by position; the
        signal is that before the update, on-policy and unclipped (theirs is measured after it, with
        the clipped ratio, and serves the next batch); correlations and the simplex by default.

    When to use it:
        Where one objective drowns the others, or is being traded away, and a small pull against
        it will do. Thresholds on the scores themselves are `lagrangian`'s.

    Cost:
        None.

    Example::

        weighting:
          covariance-target:
            target: {accuracy: 0.3, conciseness: 0.1, clarity: 0.1}
    """

    name: ClassVar[str] = "covariance-target"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {
            "statistic": "covariance",
            "signal": "rewards",
            "normalise": "none",
            "target": {"a": 0.15, "b": 0.08, "c": 0.08},
            "enough": {"a": 0.9},
        },
    )

    def __init__(
        self,
        *,
        preference: Preference | None = None,
        target: float | dict[str, float] | None = None,
        enough: dict[str, float] | None = None,
        statistic: Literal["correlation", "covariance"] = "correlation",
        signal: Literal["advantages", "rewards"] = "advantages",
        normalise: Literal["simplex", "none"] = "simplex",
        rate: Annotated[float, Ge(0)] = 0.1,
        average: Annotated[float, Gt(0), Le(1)] = 0.1,
        floor: Annotated[float, Gt(0), Lt(1)] = 0.01,
    ) -> None:
        """Take the options.

        Args:
            preference: where the weights start, by objective; default equal.
            target: the statistic that each objective is to have, for all or by objective; default
                0.2 for correlations.
            enough: raw mean scores by objective from which a weight is raised no further.
            statistic: what is compared with the target.
            signal: what it is taken of, as `training.combine` makes it.
            normalise: whether weights are divided by their sum.
            rate: step size of the logarithms of the weights; 0 keeps the preference.
            average: share of the newest statistic in its moving average.
            floor: smallest weight on the simplex; below 1 / number of objectives.
        """
        self.preference = preference
        self.target = target
        self.enough = dict(enough or {})
        self.statistic = statistic
        self.signal = signal
        self.normalise = normalise
        self.rate = rate
        self.average = average
        self.floor = floor
        if normalise == "none":
            self.declares = frozenset({"unnormalised"})
        if target is None and statistic == "covariance":
            raise self._error(
                "target",
                "must be given for statistic covariance, which is in units of raw scores; "
                "statistic correlation needs none",
            )
        if statistic == "correlation":
            for value in target.values() if isinstance(target, dict) else [target or 0.0]:
                if not -1 <= value < 1:
                    raise self._error(
                        "target", f"is a correlation, from -1 to below 1; found {value:g}"
                    )
        self._logs: dict[str, float] = {}
        self._averages: dict[str, float] = {}

    def _error(self, option: str, problem: str) -> OptionError:
        return OptionError(f"weighting covariance-target: `{option}` {problem}", option)

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check that targets name every objective, and that the floor leaves room for all."""
        names = [o.name for o in objectives]
        given = self.target if isinstance(self.target, dict) else dict.fromkeys(names, 0.0)
        for option, values in (("target", given), ("enough", self.enough)):
            for name in values:
                if name not in names:
                    raise self._error(option, f"names {name!r}; {nearest(name, names)}")
        missing = [name for name in names if name not in given]
        if missing:
            problem = f"leaves out {', '.join(missing)}; give one for each of {', '.join(names)}"
            raise self._error("target", f"{problem}, or one number for all")
        for o in objectives:
            value = self.enough.get(o.name)
            if value is not None and o.bounds is not None and not _within(value, o.bounds):
                low, high = o.bounds
                problem = f"of {o.name!r} must lie within its bounds, [{low:g}, {high:g}]"
                raise self._error("enough", f"{problem}; found {value:g}")
        if self.normalise == "simplex":
            check_floor(self.name, self.floor, objectives)

    def weigh(self, step: Step) -> Weights:
        """Measure the signal of the present weights, and return the raised ones, [K]."""
        import torch

        if not self._logs:
            start = dict(zip(step.names, step.preference_K.double().tolist(), strict=True))
            self._take({name: math.log(max(p, 1e-8)) for name, p in start.items()})
        means = dict(zip(step.names, step.mean_scores_K().tolist(), strict=True))
        found = dict(zip(step.names, self._statistics(step), strict=True))
        deficits: dict[str, float] = {}
        metrics: dict[str, float] = {}
        for name, value in found.items():
            deficits[name] = 0.0
            if not math.isnan(value):
                kept = self._averages.get(name, value)
                self._averages[name] = (1 - self.average) * kept + self.average * value
                metrics[f"{self.statistic}/{name}"] = self._averages[name]
                if not means[name] >= self.enough.get(name, math.inf):
                    deficits[name] = max(self._wanted(name) - self._averages[name], 0.0)
        self._take({name: self._logs[name] + self.rate * d for name, d in deficits.items()})
        metrics |= {f"deficit/{name}": deficit for name, deficit in deficits.items()}
        return Weights(torch.tensor(self._weights(step.names)), metrics=metrics)

    def _wanted(self, name: str) -> float:
        if isinstance(self.target, dict):
            return self.target[name]
        return CORRELATION if self.target is None else self.target

    def _take(self, logs: Mapping[str, float]) -> None:
        """Keep the logarithms of the weights: of normalised ones, at or above the floor."""
        if self.normalise == "none":
            self._logs = {name: min(log, LARGEST) for name, log in logs.items()}
            return
        weights_K = raise_to_floor(softmax(list(logs.values())), self.floor)
        self._logs = {name: math.log(w) for name, w in zip(logs, weights_K, strict=True)}

    def _weights(self, names: Sequence[str]) -> list[float]:
        logs_K = [self._logs[name] for name in names]
        return softmax(logs_K) if self.normalise == "simplex" else [math.exp(u) for u in logs_K]

    def _statistics(self, step: Step) -> list[float]:
        """Return each objective's statistic, averaged over prompts; NaN where there is none."""
        import torch

        scores_PGK = step.scores_PGK.double()
        weights_K = torch.tensor(self._weights(step.names), dtype=torch.float64)
        if self.signal == "rewards":
            signal_PG = _standardised(scalarise(scores_PGK, weights_K))
        else:
            signal_PG = _per_completion(step, weights_K)
        return [self._statistic(scores_PG, signal_PG) for scores_PG in scores_PGK.unbind(-1)]

    def _statistic(self, scores_PG: Tensor, signal_PG: Tensor) -> float:
        values = []
        for scores_G, signal_G in zip(scores_PG, signal_PG, strict=True):
            valid_G = ~scores_G.isnan()
            if int(valid_G.sum()) < 2:
                continue
            score_G, deviation = _centred(scores_G[valid_G])
            other_G, spread = _centred(signal_G[valid_G])
            covariance = float((score_G * other_G).mean())
            if self.statistic == "covariance":
                values.append(covariance)
            elif deviation > 0 and spread > 0:
                values.append(max(-1.0, min(1.0, covariance / deviation / spread)))
        return math.fsum(values) / len(values) if values else math.nan

    def state_dict(self) -> dict[str, Any]:
        """Return the logarithms of the weights and the averages, by objective."""
        return {"logs": dict(self._logs), "averages": dict(self._averages)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self._logs = {name: float(value) for name, value in state["logs"].items()}
        self._averages = {name: float(value) for name, value in state["averages"].items()}


def _within(value: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] <= value <= bounds[1]


def _centred(values_G: Tensor) -> tuple[Tensor, float]:
    """Return values minus their mean, and their deviation (ddof 0); 0 for rounding alone."""
    centred_G = values_G - values_G.mean()
    if values_G.max() - values_G.min() <= ROUNDING * values_G.abs().max():
        return centred_G * 0.0, 0.0
    return centred_G, float(centred_G.square().mean().sqrt())


def _per_completion(step: Step, weights_K: Tensor) -> Tensor:
    """Return the weighted advantage of every completion, [P, G]: its mean over tokens."""
    combined_BT = (step.advantages_BTK.double() * weights_K).sum(-1)
    if combined_BT.shape[-1] == 1:
        return combined_BT.view(step.scores_PGK.shape[:2])
    mask_BT = step.batch.mask_BT.to(combined_BT)
    means_B = (combined_BT * mask_BT).sum(-1) / mask_BT.sum(-1).clamp(min=1.0)
    return means_B.view(step.scores_PGK.shape[:2])


def _standardised(values_PG: Tensor) -> Tensor:
    """Return values minus the batch's mean, divided by its deviation; NaN stays and counts not."""
    present_N = values_PG[~values_PG.isnan()]
    if len(present_N) < 2:
        return values_PG * 0.0
    return (values_PG - present_N.mean()) / (present_N.std() + EPSILON)
