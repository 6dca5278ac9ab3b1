"""Weights that change with the time, as a study says beforehand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt
from pydantic import BaseModel, ConfigDict

from moalign.components import Preference, Weighting
from moalign.errors import OptionError, nearest
from moalign.types import Weights

if TYPE_CHECKING:
    from moalign.types import Objective, Step


class Stage(BaseModel):
    """Weights on the way.

    Attributes:
        at: when they are reached.
        weights: one per objective, divided by their sum.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    at: Annotated[float, Gt(0)]
    weights: Preference


class Schedule(Weighting):
    """Goes from one set of weights to another while training runs.

    The time t is the share of the trial's full length that is over: 0 at its first step, 1 at its
    last. With ``unit: steps`` it is the number of the step, from 0. Until `begin` the weights are
    those of `start`, from `finish` on those of `end`; `stages` lie between. From one of them, at
    time t_i with weights w_i, to the next, with x = (t - t_i) / (t_{i+1} - t_i)::

        linear: w = (1 - x) w_i + x w_{i+1}
        cosine: the same with x = (1 - cos(pi x)) / 2, at rest at both ends
        step:   w = w_i

    A rung is no end: a trial that is stopped early has followed the first part of the schedule.

    A schedule has no preference. A search takes its ends, each a simplex:
    ``search.space: {weighting.start: simplex, weighting.end: simplex}``.

    Source:
        Folklore. Asked for in trl#3036, trl#5657 and OpenRLHF#929, where no trainer offers it.

    When to use it:
        Easy objectives first (the format), hard ones later (the answer), or a penalty that fades
        in once there is something to penalise.

    Cost:
        None.

    Example::

        weighting:
          schedule:
            start: {accuracy: 1, conciseness: 0, clarity: 0}
            end: {accuracy: 1, conciseness: 1, clarity: 1}
            begin: 0.25
            shape: cosine

    Example::

        weighting:
          schedule:
            start: {accuracy: 0, conciseness: 1, clarity: 1}
            stages: [{at: 20, weights: {accuracy: 1, conciseness: 1, clarity: 1}}]
            end: {accuracy: 3, conciseness: 1, clarity: 1}
            finish: 60
            unit: steps
            shape: step
    """

    name: ClassVar[str] = "schedule"
    declares: frozenset[str] = frozenset({"offline"})
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {
            "start": {"a": 1, "b": 0, "c": 0},
            "stages": [{"at": 2, "weights": {"a": 1, "b": 1, "c": 0}}],
            "end": {"a": 1, "b": 1, "c": 2},
            "finish": 4,
            "unit": "steps",
            "shape": "cosine",
        },
    )

    def __init__(
        self,
        *,
        start: Preference | None = None,
        end: Preference | None = None,
        stages: list[Stage] | None = None,
        begin: Annotated[float, Ge(0)] = 0.0,
        finish: Annotated[float, Gt(0)] = 1.0,
        unit: Literal["share", "steps"] = "share",
        shape: Literal["linear", "cosine", "step"] = "linear",
    ) -> None:
        """Take the options.

        Args:
            start: the first weights, by objective; default equal.
            end: the last weights, by objective; default equal.
            stages: weights between them, each with the time `at` which it is reached; rising.
            begin: when the weights leave `start`.
            finish: when the weights have reached `end`.
            unit: of times: shares of the full length, 0 to 1, or numbers of steps.
            shape: how the weights go from one to the next.
        """
        self.start = start
        self.end = end
        self.stages = tuple(stages or ())
        self.begin = begin
        self.finish = finish
        self.unit = unit
        self.shape = shape
        if unit == "share" and finish > 1:
            problem = f"must be at most 1, the whole length; found {finish:g}"
            raise self._error("finish", f"{problem}. To give numbers of steps, set unit: steps")
        if unit == "share" and shape == "step" and finish == 1:
            problem = "is when `end` takes over; with shape step it must be below 1"
            raise self._error("finish", f"{problem}, or `end` would serve the last step only")
        if begin >= finish:
            raise self._error("begin", f"must be below `finish`, {finish:g}; found {begin:g}")
        times = [begin, *(stage.at for stage in self.stages), finish]
        if sorted(set(times)) != times:
            raise self._error(
                "stages",
                f"must rise, between `begin`, {begin:g}, and `finish`, {finish:g}; found "
                f"{', '.join(f'{time:g}' for time in times[1:-1])}",
            )

    def _error(self, option: str, problem: str) -> OptionError:
        return OptionError(f"weighting schedule: `{option}` {problem}", option)

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check that the weights of start, end and every stage name each objective."""
        names = [o.name for o in objectives]
        for option, given in (("start", self.start), ("end", self.end)):
            if given is not None:
                self._check_names(option, f"`{option}`", given, names)
        for stage in self.stages:
            self._check_names("stages", f"the stage at {stage.at:g}", stage.weights, names)

    def _check_names(
        self, option: str, what: str, given: Mapping[str, float], names: Sequence[str]
    ) -> None:
        for name in given:
            if name not in names:
                problem = f"{what} names {name!r}, which is not trained on; {nearest(name, names)}"
                raise OptionError(f"weighting schedule: {problem}", option)
        missing = [name for name in names if name not in given]
        if missing:
            raise OptionError(
                f"weighting schedule: {what} leaves out {', '.join(missing)}; give a weight for "
                f"each of {', '.join(names)} (0 is allowed)",
                option,
            )

    def weigh(self, step: Step) -> Weights:
        """Return the weights at this step, [K]."""
        import torch

        last = step.total - 1
        time = step.index / max(last, 1) if self.unit == "share" else float(step.index)
        values_K = torch.tensor(self._at(time, step.names), dtype=torch.float64)
        values_K = values_K / values_K.sum()
        notes: tuple[str, ...] = ()
        if self.unit == "steps" and self.finish > last:
            notes = (
                f"weighting schedule: `finish` is {self.finish:g}, but the last step of this trial "
                f"is number {last}, so its weights never reach `end`",
            )
        return Weights(values_K.float(), metrics={"time": time}, notes=notes)

    def _at(self, time: float, names: Sequence[str]) -> list[float]:
        """Return the weights of a time, by position of the objective."""
        knots = [
            (self.begin, _shares(self.start, names)),
            *((stage.at, _shares(stage.weights, names)) for stage in self.stages),
            (self.finish, _shares(self.end, names)),
        ]
        if time <= self.begin:
            return knots[0][1]
        for (at, before_K), (until, after_K) in itertools.pairwise(knots):
            if time < until:
                x = self._eased((time - at) / (until - at))
                return [(1 - x) * b + x * a for b, a in zip(before_K, after_K, strict=True)]
        return knots[-1][1]

    def _eased(self, x: float) -> float:
        """Return how far the weights are, where the time has gone a share x of the way."""
        if self.shape == "step":
            return 0.0
        return x if self.shape == "linear" else 0.5 * (1.0 - math.cos(math.pi * x))


def _shares(given: Mapping[str, float] | None, names: Sequence[str]) -> list[float]:
    """Return weights that sum to 1, by position; equal ones if none are given."""
    if given is None:
        return [1.0 / len(names)] * len(names)
    total = math.fsum(given[name] for name in names)
    return [given[name] / total for name in names]
