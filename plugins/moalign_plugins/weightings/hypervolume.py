"""A gain that grows when the policy reaches new ground on the front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt

from moalign.components import Preference, Weighting
from moalign.errors import DataError, OptionError, nearest
from moalign.types import Weights

if TYPE_CHECKING:
    from moalign.types import Evaluation, Objective, Step


class Hypervolume(Weighting):
    """Keeps the preference, and scales the update by how much hypervolume the policy has gained.

    Every `every` steps the policy is measured on the steer split. With v its normalised means, P
    the archive of measured points and HV the volume above a reference::

        dHV  = max(HV(P + {v}) - HV(P), 0)
        gain = floor + span * tanh(dHV / scale)
        P    = P + {v}     if dHV > 0

    The gain serves the steps until the next measurement; it is 1 until the second. Objectives are
    normalised by their bounds, points are clipped at the reference, and only objectives on the
    front count.

    The reference is `initial` (the first measurement) or `nadir` (per objective the worst of the
    archive's non-dominated points), each lowered by `margin`, or values given by objective. With
    `initial` and margin 0 nothing counts that does not beat the start in *every* objective.

    An improvement within noise does not count: v lowered by `standard_errors` standard errors in
    every objective must still gain volume, that is, beat each archived point in some objective.

    Volumes are shares of the box between the bounds, and products: with three objectives, going
    from (.5, .5, .5) to (.51, .5, .5) gains 0.0025, to (.55, .55, .55) 0.04. `scale` is the
    improvement that counts as large; with the published 1 the gain hardly leaves `floor`.

    ``apply_to`` says what the gain multiplies. ``advantage``: the combined advantage, after all
    normalisation. ``reward``: the weights; with ``training.combine: rewards`` that is the reward
    before normalisation, which `grpo` and `reinforce-pp` cancel and `rloo` and `dr-grpo` feel; with
    ``combine: advantages`` it equals ``advantage``. Batch normalisation would cancel it too, and
    is refused.

    Source:
        "Learning to Optimize Multi-Objective Alignment Through Dynamic Reward Weighting", arXiv
        2509.11452, section 4, algorithm 1, equation 1. Published behaviour: ``training.combine:
        rewards`` with ``{apply_to: reward, reference: initial, margin: 0, standard_errors: 0,
        scale: 1}``. Differs: objectives are normalised (theirs mix accuracies and token counts);
        the first point is in the archive; points below the reference count 0 (the authors' routine
        gives negative volumes or fails); the split is steer, never the one that picks policies.

    When to use it:
        To give more force to updates while they pay. It changes no proportion between objectives:
        with AdamW a steady gain does nothing, only its changes do.

    Cost:
        One evaluation of the steer split every `every` steps.

    Example::

        weighting: {hypervolume: {every: 5, reference: {accuracy: 0.5, conciseness: 0.2}}}
    """

    name: ClassVar[str] = "hypervolume"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"apply_to": "reward", "reference": "initial", "margin": 0.0},
    )
    needs: ClassVar[frozenset[str]] = frozenset({"steer"})

    def __init__(
        self,
        *,
        preference: Preference | None = None,
        apply_to: Literal["advantage", "reward"] = "advantage",
        every: Annotated[int, Ge(1)] = 1,
        reference: Literal["initial", "nadir"] | dict[str, float] = "nadir",
        margin: Annotated[float, Ge(0)] = 0.1,
        standard_errors: Annotated[float, Ge(0)] = 2.0,
        scale: Annotated[float, Gt(0)] = 0.01,
        floor: Annotated[float, Ge(0)] = 0.5,
        span: Annotated[float, Ge(0)] = 1.5,
    ) -> None:
        """Take the options.

        Args:
            preference: weights by objective; default equal.
            apply_to: what the gain multiplies.
            every: steps from one measurement to the next.
            reference: where volume is measured from; values are raw, by objective.
            margin: how far below the measured reference, in units of the bounds; given values are
                taken as they are.
            standard_errors: how far an improvement must exceed the noise; 0 counts all.
            scale: improvement, a share of the box between the bounds, at which tanh is 0.76.
            floor: the gain without improvement.
            span: what the largest improvement adds to it; 0, with floor 1, is `fixed`.
        """
        self.preference = preference
        self.apply_to = apply_to
        self.every = every
        self.reference = reference
        self.margin = margin
        self.standard_errors = standard_errors
        self.scale = scale
        self.floor = floor
        self.span = span
        if apply_to == "reward":
            self.declares = frozenset({"unnormalised"})
        self._archive_NK: list[list[float]] = []
        self._gain = 1.0
        self._steps = 0

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check that there is an axis, and that given reference values name each of them."""
        names = [o.name for o in _axes(objectives)]
        if not names:
            raise OptionError(
                "weighting hypervolume: no objective is both trained on and on the front, so there "
                "is no volume; add `front` to the `use` of one"
            )
        if not isinstance(self.reference, dict):
            return
        for name in self.reference:
            if name not in names:
                raise OptionError(
                    f"weighting hypervolume: `reference` names {name!r}; {nearest(name, names)}",
                    "reference",
                )
        missing = [name for name in names if name not in self.reference]
        if missing:
            raise OptionError(
                f"weighting hypervolume: `reference` leaves out {', '.join(missing)}; give a raw "
                f"value for each of {', '.join(names)}",
                "reference",
            )

    def weigh(self, step: Step) -> Weights:
        """Return the preference, and the gain."""
        metrics = {}
        if self._steps % self.every == 0:
            metrics = self._measure(step)
        self._steps += 1
        metrics["meta_reward"] = self._gain
        if self.apply_to == "reward":
            return Weights(step.preference_K * self._gain, metrics=metrics)
        return Weights(step.preference_K, gain=self._gain, metrics=metrics)

    def _measure(self, step: Step) -> dict[str, float]:
        from moalign.pareto import hypervolume

        axes = _axes(step.objectives)
        point_K, error_K = _point(step.evaluate("steer"), axes)
        if not self._archive_NK:
            self._archive_NK = [point_K]
            return {}
        reference_K = self._reference_K(axes)
        before = hypervolume(self._archive_NK, reference_K)

        def improvement(candidate_K: list[float]) -> float:
            return max(hypervolume([*self._archive_NK, candidate_K], reference_K) - before, 0.0)

        gained = improvement(point_K)
        if self.standard_errors > 0:
            surely_K = [v - self.standard_errors * e for v, e in zip(point_K, error_K, strict=True)]
            gained = gained if improvement(surely_K) > 0 else 0.0
        if gained > 0:
            self._archive_NK.append(point_K)
        self._gain = self.floor + self.span * math.tanh(gained / self.scale)
        return {"hypervolume": before + gained, "improvement": gained}

    def _reference_K(self, axes: Sequence[Objective]) -> list[float]:
        from moalign.pareto import is_nondominated

        if isinstance(self.reference, dict):
            return [o.normalise(self.reference[o.name]) for o in axes]
        if self.reference == "initial":
            worst_K = self._archive_NK[0]
        else:
            marks = is_nondominated(self._archive_NK)
            front = [p for p, on_front in zip(self._archive_NK, marks, strict=True) if on_front]
            worst_K = [min(values) for values in zip(*front, strict=True)]
        return [value - self.margin for value in worst_K]

    def state_dict(self) -> dict[str, Any]:
        """Return the archive (its first point is the first measurement), gain and step count."""
        archive = [list(point) for point in self._archive_NK]
        return {"archive": archive, "gain": self._gain, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self._archive_NK = [list(point) for point in state["archive"]]
        self._gain = float(state["gain"])
        self._steps = int(state["steps"])


def _axes(objectives: Sequence[Objective]) -> list[Objective]:
    return [o for o in objectives if o.front]


def _point(evaluation: Evaluation, axes: Sequence[Objective]) -> tuple[list[float], list[float]]:
    """Return normalised means over units, and their standard errors (NaN for one unit)."""
    point_K, error_K = [], []
    for objective in axes:
        column = evaluation.names.index(objective.name)
        values = [row[column] for row in evaluation.values_UK if not math.isnan(row[column])]
        if not values:
            raise DataError(
                f"weighting hypervolume: objective {objective.name} applies to no prompt of the "
                "steer split, so it has no mean; give it prompts there, or take it off the front"
            )
        units = [objective.normalise(value) for value in values]
        count, mean = len(units), math.fsum(units) / len(units)
        variance = (
            math.fsum((u - mean) ** 2 for u in units) / (count - 1) if count > 1 else math.nan
        )
        point_K.append(mean)
        error_K.append(math.sqrt(variance / count))
    return point_K, error_K
