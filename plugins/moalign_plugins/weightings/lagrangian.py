"""Multipliers that hold objectives at or above thresholds while one objective is maximised."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from annotated_types import Ge, Gt, Lt

from moalign.errors import OptionError, nearest
from moalign.maths.multipliers import LINEAR, LOG, SIGMOID, TANH, Controller, Multiplier
from moalign.types import Weights
from moalign.weightings.constrained import Constrained, Constraint

if TYPE_CHECKING:
    from torch import Tensor

    from moalign.types import Objective, Step

DAMPING: Final = 10.0
"""Proportional gain of squashed multipliers: a shortfall of .1 moves c from .50 to .73 at once."""

EDGE: Final = 1e-3
"""How close a squashed multiplier may come to its ends: there its slope is 0, and it is stuck."""

SATURATED: Final = 0.99
"""A multiplier beyond this share of its largest value has no room left to answer a violation."""

PATIENCE: Final = 20
"""Steps in a row with a saturated multiplier and a violation that are worth a sentence."""


@dataclass(slots=True)
class _Stuck:
    """How long a multiplier has been at its end.

    Attributes:
        steps: in a row that it is saturated, violation or not.
        violated: of these, those with a violation that it should have ended, in a row.
        total: sum of the objective's means over them.
        told: whether somebody was told.
    """

    steps: int = 0
    violated: int = 0
    total: float = 0.0
    told: bool = False


class Lagrangian(Constrained):
    """Maximises `primary` subject to a threshold for every other objective.

    Each other training objective is a constraint: ``J_i >= at_least``, with the threshold given
    here or else the objective's own, or ``J_i = target`` if `equal` names it. J_i is the mean of
    its raw score over the batch, or over the last `window` completions. With the shortfall
    ``e_i = (target_i - J_i) / (hi_i - lo_i)`` in units of its bounds (raw if it has none), each
    step moves a variable u_i, before the batch is weighted::

        v_i = momentum * v_i + s_i * e_i
        u_i = u_i + learning_rate * v_i
        c_i = form(u_i + proportional * e_i + derivative * rise_i)

    `multiplier` says how c_i, the multiplier, follows from u_i, what its slope s_i is, and which
    advantage is trained on, with N constraints:

    - ``squashed``: c = sigmoid(u), s = c (1 - c); for `equal` c = tanh(u), s = 1 - c^2, and a
      negative c pushes an objective down. Kept 0.001 away from the ends.
      A = (N - sum c) A_primary + sum c_i A_i: the weights are these divided by N, the gain is N.
    - ``log``: c = exp(u), s = c, kept in [floor, maximum]; not for `equal`.
      A = (A_primary + sum c_i A_i) / (1 + sum c).
    - ``projected``: c = u, s = 1, kept in [0, maximum], for `equal` in [-maximum, maximum].
      A = (A_primary + sum c_i A_i) / (1 + sum |c|).

    Proportional and derivative terms damp the oscillation of a plain integral, which in a trial of
    some dozens of steps has hardly moved yet, or swings where its rate is high (the default gain
    was chosen on a seed that `benchmarks/weightings` does not compare). ``rise_i = max(J_i before -
    J_i, 0) / (hi_i - lo_i)`` answers a fall of the objective before it has violated anything (for
    `equal`: the change, of either sign; 0 at the first step). They add to c and never to u: each
    batch that the objective applies to replaces those of the one before. c and u are kept in the
    same limits, so that u never winds up.

    ``updates: minibatch`` moves u before every mini-batch of every epoch, each time by the e_i of
    the whole batch.

    Squashed and log multipliers move slowly near their ends. A threshold that cannot be reached
    drives its multiplier to the upper end, where the primary objective is hardly trained:
    ``saturated/NAME`` counts the steps in a row that it has been there, and after 20 with the
    objective still short a sentence says so.

    An objective that applies to no completion of a batch keeps its multiplier c as it is: u, and
    both terms, which are then those of the last batch that it applied to. A threshold on `primary`
    itself constrains the search only.

    Source:
        ``squashed``: "Confronting Reward Model Overoptimization with Constrained RLHF", arXiv
        2310.04373: mu-PPO with thresholds, xi-PPO with targets; primary is there the `kl` reward.
        Published: ``updates: minibatch, proportional: 0``. Differs: J over the batch, not the
        mini-batch; moved before a mini-batch, not after; violations in units of the bounds and not
        clipped to a gradient norm of 0.5; u starts at 0, not at a random number near it.
        ``log``: PPO-Lagrangian of "Safe RLHF", arXiv 2310.12773, for N constraints. Published:
        ``momentum: 0, window: 128``. Differs: a floor; a batch of more than `window` completions
        counts as a whole.
        ``projected``: dual ascent; with ``training.combine: rewards``, `grpo`, a rate of 0.01 and
        momentum 0 it is the Lagrangian GRPO of the code of CTWA. With momentum 0 and the gains of
        `proportional` and `derivative` it is the PID Lagrangian of Stooke et al., arXiv 2007.03964;
        differs: an upper limit, and no derivative at the first step.

    When to use it:
        "As good as possible, but at least this clear." Thresholds are easier to know than weights.
        Iterates oscillate around the solution, less so with a proportional gain; their average
        converges.

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
        {"primary": "b", "equal": {"a": 0.4}, "updates": "minibatch"},
        {"primary": "a", "multiplier": "log", "window": 128, "delay": 1},
        {"primary": "b", "equal": {"a": 0.4}, "multiplier": "projected", "momentum": 0.0},
        {
            "primary": "a",
            "multiplier": "projected",
            "proportional": 1.0,
            "derivative": 2.0,
            "at_least": {"b": 0.3},
        },
    )

    def __init__(
        self,
        *,
        primary: str,
        at_least: dict[str, float] | None = None,
        equal: dict[str, float] | None = None,
        multiplier: Literal["squashed", "log", "projected"] = "squashed",
        learning_rate: Annotated[float, Ge(0)] = 0.1,
        momentum: Annotated[float, Ge(0), Lt(1)] = 0.1,
        proportional: Annotated[float, Ge(0)] | None = None,
        derivative: Annotated[float, Ge(0)] = 0.0,
        updates: Literal["step", "minibatch"] = "step",
        window: Annotated[int, Ge(1)] | None = None,
        delay: Annotated[int, Ge(0)] = 0,
        initial: dict[str, float] | None = None,
        maximum: Annotated[float, Gt(0)] | None = None,
        floor: Annotated[float, Gt(0)] | None = None,
    ) -> None:
        """Take the options.

        Args:
            primary: name of the objective that is maximised.
            at_least: thresholds in raw units, by objective, for this weighting alone: they replace
                the objectives' own, by which the search goes. One below the bounds is always met,
                and a note says so; one above them is refused.
            equal: targets in raw units, by objective, that are to be met exactly.
            multiplier: the form of the multipliers.
            learning_rate: of u, the gain of the integral; 0 keeps u, and without the two terms
                below the initial multipliers.
            momentum: of u.
            proportional: gain of the present shortfall, in units of u; default 10 squashed, 0
                otherwise.
            derivative: gain of its rise since the last batch that the objective applied to.
            updates: whether u moves once per step or before every mini-batch.
            window: completions, the latest, over which J is averaged; null: this batch.
            delay: steps before the first update.
            initial: first multipliers by objective; default 0.5 squashed (0 for `equal`), 1 log, 0
                projected.
            maximum: largest multiplier, `log` and `projected` only; default 5.
            floor: smallest multiplier, `log` only: from 0 it would never return; default 0.001.
        """
        self.primary = primary
        self.at_least = dict(at_least or {})
        self.equal = dict(equal or {})
        self.multiplier = multiplier
        self.learning_rate = learning_rate
        self.momentum = momentum
        default = DAMPING if multiplier == "squashed" else 0.0
        self.proportional = default if proportional is None else proportional
        self.derivative = derivative
        self.updates = updates
        self.window = window
        self.delay = delay
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
        self._aimed: dict[str, float] = {}
        self._shortfalls: dict[str, float] = {}  # of this step
        self._multipliers: dict[str, Multiplier] = {}
        self._means: dict[str, float] = {}
        self._recent: dict[str, list[float]] = {}
        self._stuck: dict[str, _Stuck] = {}

    # --- before training -----------------------------------------------------------------------

    def _error(self, option: str, problem: str) -> OptionError:
        return OptionError(f"weighting lagrangian: `{option}` {problem}", option)

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check that every objective but the primary has exactly one target, within reach."""
        names = [o.name for o in objectives]
        if self.primary not in names:
            problem = f"names {self.primary!r}, which is not trained on"
            raise self._error("primary", f"{problem}; {nearest(self.primary, names)}")
        others = [name for name in names if name != self.primary]
        for option, given in (("at_least", self.at_least), ("equal", self.equal)):
            for name in given:
                if name not in others:
                    raise self._error(option, f"names {name!r}; {nearest(name, others)}")
        for name in self.at_least:
            if name in self.equal:
                problem = f"names {name!r}, which has a target under `equal` as well"
                raise self._error("at_least", f"{problem}; give it one of the two")
        for o in objectives:
            if o.at_least is not None and o.name in self.equal:
                problem = f"names {o.name!r}, which has `at_least: {o.at_least:g}` as well"
                raise self._error("equal", f"{problem}; give it one of the two")
            if self._threshold(o) is None and o.name not in (self.primary, *self.equal):
                raise OptionError(
                    f"weighting lagrangian: objective {o.name!r} has no target; give it `at_least`,"
                    " or a value under `equal`, or do not train on it (`monitor: true`); only "
                    f"`primary`, {self.primary!r}, goes without"
                )
        self._check_ranges(objectives)
        self._check_initial(objectives)

    def _check_ranges(self, objectives: Sequence[Objective]) -> None:
        for o in objectives:
            if o.bounds is None:
                continue
            (low, high), own = o.bounds, self.at_least.get(o.name)
            if own is not None and own > high:
                raise self._error(
                    "at_least",
                    f"of {o.name!r} must lie within its bounds, {low:g} and {high:g}, or below "
                    f"them, as no mean lies above; found {own:g}. Lower it, or widen "
                    f"`objectives.{o.name}.bounds`",
                )
            target = self.equal.get(o.name)
            if target is not None and not low < target < high:
                raise self._error(
                    "equal",
                    f"of {o.name!r} must lie between its bounds, {low:g} and {high:g}, both "
                    f"excluded, as its mean must be able to pass it; found {target:g}. To push it "
                    "to an end, give it `at_least`, or make it `primary`",
                )

    def check_measured(self, objectives: Sequence[Objective]) -> None:
        """Refuse targets that no policy meets, as they are set for one and the same measure."""
        kept = [o for o in objectives if o.train or o.front]  # what is monitored is held to nothing
        for fixed in kept:
            if fixed.name not in self.equal:
                continue
            target = self.equal[fixed.name]
            for other in kept:
                if other is fixed or not other.measure or other.measure != fixed.measure:
                    continue
                same = f"fixes {fixed.name!r} at {target:g}, but {other.name!r} has the same reward"
                if other.name == self.primary:
                    raise self._error("equal", f"{same} and is to be maximised; drop one of them")
                if other.name in self.equal and self.equal[other.name] != target:
                    problem = f"{same} and is fixed at {self.equal[other.name]:g}"
                    raise self._error("equal", f"{problem}; drop one of them")
                threshold = self._threshold(other)
                if threshold is not None and threshold > target:
                    problem = f"{same} and `at_least: {threshold:g}`"
                    raise self._error("equal", f"{problem}; drop one of them")

    def _check_initial(self, objectives: Sequence[Objective]) -> None:
        constraints = {c.name: c for c in self.constraints(objectives)}
        for name, value in self.initial.items():
            if name not in constraints:
                raise self._error("initial", f"names {name!r}; {nearest(name, constraints)}")
            controller = self._controller(constraints[name])
            if not controller.low <= value <= controller.high:
                problem = f"of {name!r} must lie in [{controller.low:g}, {controller.high:g}]"
                raise self._error("initial", f"{problem}; found {value:g}")

    # --- targets -------------------------------------------------------------------------------

    def _threshold(self, objective: Objective) -> float | None:
        return self.at_least.get(objective.name, objective.at_least)

    def constraints(self, objectives: Sequence[Objective]) -> tuple[Constraint, ...]:
        """Return a constraint for each objective but the primary."""
        found = []
        for o in objectives:
            own = None if o.name == self.primary else self._threshold(o)
            given = self.equal.get(o.name, own)
            if given is not None:
                target = self._aimed.get(o.name, given)
                found.append(Constraint(o.name, target, o.unit, equal=o.name in self.equal))
        return tuple(found)

    def aim(self, targets: Mapping[str, float]) -> None:
        """Hold these targets instead of the study's; nobody is told of one out of reach."""
        self._aimed = dict(targets)

    def _controller(self, constraint: Constraint) -> Controller:
        equal, high = constraint.equal, self.maximum
        if self.multiplier == "squashed":
            form, low, high = (TANH if equal else SIGMOID), EDGE, 1.0 - EDGE
        elif self.multiplier == "log":
            form, low = LOG, self.floor
        else:
            form, low = LINEAR, 0.0
        return Controller(
            form=form,
            low=-high if equal else low,
            high=high,
            rate=self.learning_rate,
            momentum=self.momentum,
            proportional=self.proportional,
            derivative=self.derivative,
        )

    # --- training ------------------------------------------------------------------------------

    def weigh(self, step: Step) -> Weights:
        """Move the multipliers by this batch's violations, and return the weights, [K]."""
        constraints = self.constraints(step.objectives)
        self._observe(step, constraints)
        if self.updates == "step":
            self._move(step, constraints)
        metrics: dict[str, float] = {}
        notes = self._idle(step.objectives)
        for constraint in constraints:
            name = constraint.name
            notes += self._watch(constraint)
            metrics[f"multiplier/{name}"] = self._value(constraint)
            metrics[f"saturated/{name}"] = float(self._stuck[name].steps)
            if name in self._shortfalls:
                metrics[f"violation/{name}"] = constraint.target - self._means[name]
        values_K, gain = self._mix(step, constraints)
        return Weights(values_K, gain=gain, metrics=metrics, notes=tuple(notes))

    def update_minibatch(self, step: Step) -> Weights | None:
        """Move the multipliers again by this step's violations, if `updates` says so."""
        if self.updates == "step":
            return None
        constraints = self.constraints(step.objectives)
        self._move(step, constraints)
        values_K, gain = self._mix(step, constraints)
        return Weights(values_K, gain=gain)

    def _observe(self, step: Step, constraints: Sequence[Constraint]) -> None:
        """Take note of J of the objectives that apply, and of how far they fall short."""
        self._shortfalls = {}
        for constraint in constraints:
            name, controller = constraint.name, self._controller(constraint)
            if name not in self._multipliers:
                start = self.initial.get(name, controller.form.start)
                self._multipliers[name] = controller.start(start)
                self._stuck[name] = _Stuck()
            mean = self._mean(step, name)
            if math.isnan(mean):
                continue
            shortfall = (constraint.target - mean) / constraint.unit
            rise = (self._means.get(name, mean) - mean) / constraint.unit
            self._means[name], self._shortfalls[name] = mean, shortfall
            if step.index >= self.delay:
                rise = rise if constraint.equal else max(rise, 0.0)
                controller.press(self._multipliers[name], shortfall, rise)

    def _mean(self, step: Step, name: str) -> float:
        """Return J; NaN if the objective applies to nothing in this batch."""
        scores_PG = step.scores_PGK[..., step.names.index(name)]
        scores = [score for score in scores_PG.flatten().tolist() if not math.isnan(score)]
        if self.window is None or not scores:
            return float(scores_PG.nanmean())
        kept = [*self._recent.get(name, []), *scores][-max(self.window, len(scores)) :]
        self._recent[name] = kept[-self.window :]
        return math.fsum(kept) / len(kept)

    def _move(self, step: Step, constraints: Sequence[Constraint]) -> None:
        if step.index < self.delay:
            return
        for constraint in constraints:
            if constraint.name in self._shortfalls:
                multiplier = self._multipliers[constraint.name]
                self._controller(constraint).move(multiplier, self._shortfalls[constraint.name])

    def _value(self, constraint: Constraint) -> float:
        return self._controller(constraint).value(self._multipliers[constraint.name])

    def _watch(self, constraint: Constraint) -> list[str]:
        """Count the steps that a multiplier is at its end; say it when they are too many."""
        name, stuck = constraint.name, self._stuck[constraint.name]
        value, high = self._value(constraint), self._controller(constraint).high
        saturated = abs(value) > SATURATED * high
        stuck.steps = stuck.steps + 1 if saturated else 0
        if saturated and name not in self._shortfalls:
            return []
        if not saturated or value * self._shortfalls[name] <= 0:
            stuck.violated, stuck.total = 0, 0.0
            return []
        stuck.violated += 1
        stuck.total += self._means[name]
        if stuck.violated < PATIENCE or stuck.told or self._aimed:
            return []
        stuck.told = True
        short = value > 0
        return [
            f"weighting lagrangian: the multiplier of {name} has been at its end for {PATIENCE} "
            f"steps, and yet {name} averages {stuck.total / stuck.violated:.4g}, "
            f"{'below' if short else 'above'} its target of {constraint.target:g}: that is "
            f"probably out of reach, and {self.primary} is hardly trained; "
            f"{'lower' if short else 'raise'} "
            + self._blamed(constraint)
            + ", or give the policy another start or more steps"
        ]

    def _idle(self, objectives: Sequence[Objective]) -> list[str]:
        """Return a sentence for each threshold of its own that every policy meets."""
        return [
            f"weighting lagrangian: `at_least` of {o.name} is {self.at_least[o.name]:g}, below its "
            f"lower bound, {o.bounds[0]:g}, so it is always met and holds nothing"
            for o in objectives
            if o.bounds is not None and self.at_least.get(o.name, math.inf) < o.bounds[0]
        ]

    def _blamed(self, constraint: Constraint) -> str:
        """Return where a target is set."""
        option = "equal" if constraint.equal else "at_least"
        if option == "equal" or constraint.name in self.at_least:
            return f"`{option}` of {constraint.name}"
        return f"`objectives.{constraint.name}.at_least`"

    def _mix(self, step: Step, constraints: Sequence[Constraint]) -> tuple[Tensor, float]:
        """Return a weight for every objective, [K], and the gain."""
        import torch

        multipliers = {constraint.name: self._value(constraint) for constraint in constraints}
        if not multipliers:
            return torch.ones(1), 1.0
        gain = 1.0
        if self.multiplier == "squashed":
            gain = total = float(len(multipliers))
            mixed = {self.primary: total - sum(multipliers.values()), **multipliers}
        else:
            total = 1.0 + sum(map(abs, multipliers.values()))
            mixed = {self.primary: 1.0, **multipliers}
        return torch.tensor([mixed[name] / total for name in step.names]), gain

    def state_dict(self) -> dict[str, Any]:
        """Return the multipliers, the last J and scores, and how long each is at its end."""
        return {
            "multipliers": {name: asdict(m) for name, m in self._multipliers.items()},
            "means": dict(self._means),
            "recent": {name: list(scores) for name, scores in self._recent.items()},
            "stuck": {name: asdict(stuck) for name, stuck in self._stuck.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self._multipliers = {n: Multiplier(**m) for n, m in state["multipliers"].items()}
        self._means = dict(state["means"])
        self._recent = {name: list(scores) for name, scores in state["recent"].items()}
        self._stuck = {name: _Stuck(**stuck) for name, stuck in state["stuck"].items()}
