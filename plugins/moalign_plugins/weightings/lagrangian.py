"""Multipliers that hold objectives at or above thresholds while one objective is maximised."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from annotated_types import Ge, Gt, Lt

from moalign.components import Weighting
from moalign.errors import OptionError, nearest
from moalign.types import Weights

if TYPE_CHECKING:
    from moalign.types import Objective, Step

EDGE: Final = 1e-3
"""How close a squashed multiplier may come to its ends: there its slope is 0, and it is stuck."""

SATURATED: Final = 0.99
"""A multiplier beyond this share of its largest value has no room left to answer a violation."""


@dataclass(frozen=True, slots=True)
class _Form:
    """A multiplier c as a function of the variable u that moves.

    Attributes:
        value: c of u.
        inverse: u of c.
        slope: dc/du as a function of c.
        start: c before the first step.
    """

    value: Callable[[float], float]
    inverse: Callable[[float], float]
    slope: Callable[[float], float]
    start: float


# By way of tanh a sigmoid does not overflow.
_SIGMOID: Final = _Form(
    lambda u: 0.5 * (1.0 + math.tanh(0.5 * u)),
    lambda c: math.log(c / (1.0 - c)),
    lambda c: c * (1.0 - c),
    0.5,
)
_TANH: Final = _Form(math.tanh, math.atanh, lambda c: 1.0 - c * c, 0.0)
_LOG: Final = _Form(math.exp, math.log, lambda c: c, 1.0)
_PROJECTED: Final = _Form(float, float, lambda _: 1.0, 0.0)


@dataclass(frozen=True, slots=True)
class _Constraint:
    """An objective to be kept at or above its target, or at it.

    Attributes:
        name: of the objective.
        target: in raw units.
        unit: what a violation is divided by: the width of the bounds, 1 without any.
        equal: whether values above the target violate it too.
    """

    name: str
    target: float
    unit: float
    equal: bool


class Lagrangian(Weighting):
    """Maximises `primary` subject to a threshold for every other objective.

    Each other training objective is a constraint: ``J_i >= at_least``, with the threshold of the
    objective, or ``J_i = target`` if `equal` names it. J_i is the batch mean of its raw score. With
    the violation ``d_i = (J_i - target_i) / (hi_i - lo_i)`` in units of its bounds (raw if it has
    none), each step moves a variable u_i, before the batch is weighted::

        v_i = momentum * v_i + s_i * d_i
        u_i = u_i - learning_rate * v_i

    `multiplier` says how u_i becomes the multiplier c_i, what its slope s_i is, and which advantage
    is trained on, with N constraints:

    - ``squashed``: c = sigmoid(u), s = c (1 - c); for `equal` c = tanh(u), s = 1 - c^2, and a
      negative c pushes an objective down. Kept 0.001 away from the ends.
      A = (N - sum c) A_primary + sum c_i A_i: the weights are these divided by N, the gain is N.
    - ``log``: c = exp(u), s = c, kept in [floor, maximum]; not for `equal`.
      A = (A_primary + sum c_i A_i) / (1 + sum c).
    - ``projected``: c = u, s = 1, kept in [0, maximum], for `equal` in [-maximum, maximum].
      A = (A_primary + sum c_i A_i) / (1 + sum |c|).

    Squashed and log multipliers move slowly near their ends. A threshold that cannot be reached
    drives its multiplier to the upper end, where the primary objective is hardly trained: watch
    ``saturated/NAME``, the number of steps in a row that it has been there.

    An objective that applies to no completion of a batch keeps its multiplier. A threshold on
    `primary` itself constrains the search only.

    Source:
        ``squashed``: "Confronting Reward Model Overoptimization with Constrained RLHF", arXiv
        2310.04373 (mu-PPO with thresholds, xi-PPO with targets; primary: minus the KL
        to the reference). Differs: one update per step, from batch means of scores and not per
        mini-batch; violations in units of the bounds and not clipped to a gradient norm of 0.5; u
        starts at 0, not at a random number near it.
        ``log``: "Safe RLHF", arXiv 2310.12773, generalised from one constraint to N; J is the mean
        of this batch, not of the last 128 episodes. `momentum: 0` is theirs.
        ``projected``: dual ascent; with ``training.combine: rewards``, `grpo`, a rate of 0.01 and
        momentum 0 it is the Lagrangian GRPO of the code of CTWA.

    When to use it:
        "As good as possible, but at least this clear." Thresholds are easier to know than weights.
        Iterates oscillate around the solution; their average converges.

    Cost:
        None.

    Example::

        objectives:
          accuracy: {reward: exact-answer}
          clarity:  {reward: steps-shown, at_least: 0.5}
        weighting: {lagrangian: {primary: accuracy}}
    """

    name: ClassVar[str] = "lagrangian"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"primary": "a"},
        {"primary": "b", "equal": {"a": 0.4}},
        {"primary": "a", "multiplier": "log"},
        {"primary": "b", "equal": {"a": 0.4}, "multiplier": "projected", "momentum": 0.0},
    )

    def __init__(
        self,
        *,
        primary: str,
        equal: dict[str, float] | None = None,
        multiplier: Literal["squashed", "log", "projected"] = "squashed",
        learning_rate: Annotated[float, Ge(0)] = 0.1,
        momentum: Annotated[float, Ge(0), Lt(1)] = 0.1,
        initial: dict[str, float] | None = None,
        maximum: Annotated[float, Gt(0)] | None = None,
        floor: Annotated[float, Gt(0)] | None = None,
    ) -> None:
        """Take the options.

        Args:
            primary: name of the objective that is maximised.
            equal: targets in raw units, by objective, that are to be met exactly.
            multiplier: the form of the multipliers.
            learning_rate: of u; 0 keeps the initial multipliers.
            momentum: of u.
            initial: first multipliers by objective; default 0.5 squashed (0 for `equal`), 1 log, 0
                projected.
            maximum: largest multiplier, `log` and `projected` only; default 5.
            floor: smallest multiplier, `log` only: from 0 it would never return; default 0.001.
        """
        self.primary = primary
        self.equal = dict(equal or {})
        self.multiplier = multiplier
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.initial = dict(initial or {})
        self.maximum = 5.0 if maximum is None else maximum
        self.floor = 1e-3 if floor is None else floor
        if multiplier == "squashed" and maximum is not None:
            raise self._error("maximum", "is for multipliers log and projected; squashed end at 1")
        if multiplier != "log" and floor is not None:
            raise self._error("floor", f"is for multiplier log; found multiplier {multiplier}")
        if multiplier == "log" and self.floor >= self.maximum:
            raise self._error("floor", f"must be below {self.maximum:g}; found {self.floor:g}")
        if multiplier == "log" and self.equal:
            raise self._error(
                "equal", "needs multipliers of both signs, squashed or projected; found log"
            )
        if self.equal:
            signed = {"signed", "unnormalised"} if multiplier == "projected" else {"signed"}
            self.declares = frozenset(signed)
        self._u: dict[str, float] = {}
        self._velocity: dict[str, float] = {}
        self._saturated: dict[str, int] = {}

    def _error(self, option: str, problem: str) -> OptionError:
        return OptionError(f"weighting lagrangian: `{option}` {problem}", option)

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check that every objective but the primary has exactly one target."""
        names = [o.name for o in objectives]
        if self.primary not in names:
            problem = f"names {self.primary!r}, which is not trained on"
            raise self._error("primary", f"{problem}; {nearest(self.primary, names)}")
        others = [name for name in names if name != self.primary]
        for name in self.equal:
            if name not in others:
                raise self._error("equal", f"names {name!r}; {nearest(name, others)}")
        for o in objectives:
            if o.at_least is not None and o.name in self.equal:
                problem = f"names {o.name!r}, which has `at_least: {o.at_least:g}` as well"
                raise self._error("equal", f"{problem}; give it one of the two")
            if o.at_least is None and o.name not in (self.primary, *self.equal):
                raise OptionError(
                    f"weighting lagrangian: objective {o.name!r} has no target; give it `at_least`,"
                    " or a value under `equal`, or do not train on it (`monitor: true`); only "
                    f"`primary`, {self.primary!r}, goes without"
                )
        self._check_initial(objectives)

    def _check_initial(self, objectives: Sequence[Objective]) -> None:
        constraints = {c.name: c for c in self._constraints(objectives)}
        for name, value in self.initial.items():
            if name not in constraints:
                raise self._error("initial", f"names {name!r}; {nearest(name, constraints)}")
            low, high = self._limits(constraints[name])
            if not low <= value <= high:
                problem = f"of {name!r} must lie in [{low:g}, {high:g}]"
                raise self._error("initial", f"{problem}; found {value:g}")

    def _constraints(self, objectives: Sequence[Objective]) -> Iterator[_Constraint]:
        for o in objectives:
            unit = 1.0 if o.bounds is None else o.bounds[1] - o.bounds[0]
            if o.name in self.equal:
                yield _Constraint(o.name, self.equal[o.name], unit, equal=True)
            elif o.name != self.primary and o.at_least is not None:
                yield _Constraint(o.name, o.at_least, unit, equal=False)

    def _form(self, constraint: _Constraint) -> _Form:
        if self.multiplier == "squashed":
            return _TANH if constraint.equal else _SIGMOID
        return _LOG if self.multiplier == "log" else _PROJECTED

    def _limits(self, constraint: _Constraint) -> tuple[float, float]:
        """Return the smallest and largest multiplier."""
        high = 1.0 - EDGE if self.multiplier == "squashed" else self.maximum
        if constraint.equal:
            return -high, high
        return {"squashed": EDGE, "log": self.floor, "projected": 0.0}[self.multiplier], high

    def weigh(self, step: Step) -> Weights:
        """Move the multipliers by this batch's violations, and return the weights, [K]."""
        import torch

        means = dict(zip(step.names, step.mean_scores_K().tolist(), strict=True))
        multipliers: dict[str, float] = {}
        metrics: dict[str, float] = {}
        for constraint in self._constraints(step.objectives):
            name, mean = constraint.name, means[constraint.name]
            multipliers[name] = self._moved(constraint, mean)
            metrics[f"multiplier/{name}"] = multipliers[name]
            metrics[f"saturated/{name}"] = float(self._saturated[name])
            if not math.isnan(mean):
                metrics[f"violation/{name}"] = constraint.target - mean
        weights, gain = self._mix(multipliers)
        values_K = [weights[name] for name in step.names]
        return Weights(torch.tensor(values_K, dtype=torch.float32), gain=gain, metrics=metrics)

    def _moved(self, constraint: _Constraint, mean: float) -> float:
        """Move one multiplier by one step and return it; as it is if the mean is NaN."""
        name, form = constraint.name, self._form(constraint)
        low, high = self._limits(constraint)
        if name not in self._u:
            start = min(max(self.initial.get(name, form.start), low), high)
            self._u[name], self._velocity[name] = form.inverse(start), 0.0
            self._saturated[name] = 0
        if not math.isnan(mean):
            violation = (mean - constraint.target) / constraint.unit
            slope = form.slope(form.value(self._u[name]))
            self._velocity[name] = self.momentum * self._velocity[name] + slope * violation
            moved = self._u[name] - self.learning_rate * self._velocity[name]
            self._u[name] = min(max(moved, form.inverse(low)), form.inverse(high))
        value = form.value(self._u[name])
        saturated = abs(value) > SATURATED * high
        self._saturated[name] = self._saturated[name] + 1 if saturated else 0
        return value

    def _mix(self, multipliers: Mapping[str, float]) -> tuple[dict[str, float], float]:
        """Return a weight for every objective, and the gain."""
        if not multipliers:
            return {self.primary: 1.0}, 1.0
        if self.multiplier == "squashed":
            count = float(len(multipliers))
            mixed = {self.primary: count - sum(multipliers.values()), **multipliers}
            return {name: weight / count for name, weight in mixed.items()}, count
        total = 1.0 + sum(map(abs, multipliers.values()))
        return {n: w / total for n, w in {self.primary: 1.0, **multipliers}.items()}, 1.0

    def state_dict(self) -> dict[str, Any]:
        """Return the variables behind the multipliers, their velocities and saturation counts."""
        return {
            "u": dict(self._u),
            "velocity": dict(self._velocity),
            "saturated": dict(self._saturated),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self._u = {name: float(value) for name, value in state["u"].items()}
        self._velocity = {name: float(value) for name, value in state["velocity"].items()}
        self._saturated = {name: int(value) for name, value in state["saturated"].items()}
