"""A gain that grows when the policy reaches new ground on the front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from annotated_types import Ge, Gt

from moalign.components import Preference, Weighting
from moalign.types import Weights
from moalign.weightings.measured import (
    ONE_UNIT,
    Reference,
    check_axes,
    front_axes,
    measured_point,
    reference_point,
)

if TYPE_CHECKING:
    from moalign.types import Objective, Step

PATIENCE: Final = 5
"""Measurements below the initial reference after which people are told."""


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
    archive's non-dominated points), each lowered by `margin`; or `objectives` (their own
    `reference` in the study, else their lower bounds) or values given by objective. With `initial`
    and margin 0 nothing counts that does not beat the start in *every* objective; a note says so
    where it keeps happening.

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
        gives negative volumes or fails); the split is steer, never the one that picks policies;
        it is sampled as every measurement is, with the study's fixed draws, not greedily.

    When to use it:
        To give more force to updates while they pay. It changes no proportion between objectives:
        with AdamW a steady gain does nothing, only its changes do.

    Cost:
        One evaluation of the steer split every `every` steps.

    Example::

        weighting:
          hypervolume:
            every: 5
            reference: {accuracy: 0.5, conciseness: 0.2, clarity: 0.2}
    """

    name: ClassVar[str] = "hypervolume"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"apply_to": "reward", "reference": "initial", "margin": 0.0},
    )
    needs: frozenset[str] = frozenset({"steer"})

    def __init__(
        self,
        *,
        preference: Preference | None = None,
        apply_to: Literal["advantage", "reward"] = "advantage",
        every: Annotated[int, Ge(1)] = 1,
        reference: Reference = "nadir",
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
            reference: where volume is measured from; values are raw, by objective, below the upper
                bounds.
            margin: how far below a measured reference, `initial` or `nadir`, in units of the
                bounds; the others are taken as they are.
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
        self._below = 0

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check that there is an axis, and given reference values."""
        check_axes(f"weighting {self.name}", objectives, self.reference)

    def weigh(self, step: Step) -> Weights:
        """Return the preference, and the gain."""
        metrics: dict[str, float] = {}
        notes: tuple[str, ...] = ()
        if self._steps % self.every == 0:
            metrics, notes = self._measure(step)
        self._steps += 1
        metrics["meta_reward"] = self._gain
        if self.apply_to == "reward":
            return Weights(step.preference_K * self._gain, metrics=metrics, notes=notes)
        return Weights(step.preference_K, gain=self._gain, metrics=metrics, notes=notes)

    def _measure(self, step: Step) -> tuple[dict[str, float], tuple[str, ...]]:
        from moalign.pareto import hypervolume

        axes = front_axes(step.objectives)
        evaluation = step.evaluate("steer")
        point_K, error_K = measured_point(f"weighting {self.name}", evaluation, axes)
        if not self._archive_NK:
            self._archive_NK = [point_K]
            alone = self.standard_errors > 0 and any(map(math.isnan, error_K))
            return {}, (f"weighting {self.name}: {ONE_UNIT}",) if alone else ()
        reference_K = reference_point(self.reference, self.margin, self._archive_NK, axes)
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
        found = {"hypervolume": before + gained, "improvement": gained}
        return found, self._stuck([v < r for v, r in zip(point_K, reference_K, strict=True)])

    def _stuck(self, below_K: Sequence[bool]) -> tuple[str, ...]:
        """Return a sentence if the policy has stayed below the initial reference for long."""
        self._below = self._below + 1 if any(below_K) else 0
        if self.reference != "initial" or self._below < PATIENCE:
            return ()
        return (
            f"weighting {self.name}: the last {PATIENCE} measurements were below the reference in "
            "some objective, so they gained no volume and the gain rests at its floor; a larger "
            "`margin`, or `reference: nadir`, lets the policy give way in one objective",
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the archive (its first point is the first measurement), the gain, and counts."""
        archive = [list(point) for point in self._archive_NK]
        return {
            "archive": archive,
            "gain": self._gain,
            "steps": self._steps,
            "below": self._below,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self._archive_NK = [list(point) for point in state["archive"]]
        self._gain = float(state["gain"])
        self._steps = int(state["steps"])
        self._below = int(state["below"])
