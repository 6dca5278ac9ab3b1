"""Weights that point where the hypervolume of the measured points grows fastest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Le, Lt

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


class HypervolumeGradient(Weighting):
    """Mixes the preference with the direction in which the archive's hypervolume grows fastest.

    Every `every` steps the policy is measured on the steer split. With v its normalised means, P
    the archive and HV the volume above a reference, the policy gains volume at the rates
    ``s_k = dHV(P + {v}) / dv_k``: the area of that face of v's box which no archived point covers.
    Then::

        q = s / sum(s)
        u = smoothing * u + (1 - smoothing) * q        u starts at the preference
        w = (1 - share) * preference + share * u
        P = P + {v}     if v gains volume

    Alone above the reference, v has ``s_k`` proportional to ``1 / (v_k - reference_k)``: what lags
    gets more weight. Beside archived points it is pushed outward, along the objectives in which
    they leave it room. A point that others cover has no rate in any objective; then q is the
    preference. An objective off the front has no rate, and keeps its preference: the others share
    what they have between them.

    It moves on: what is archived gives no volume twice, so a policy that has left an archived point
    behind is led along the front to where the archive is open, to an end of it if need be. What is
    spread is the archive; the policy that a trial leaves is the last point only.

    Noise: archived points within `standard_errors` standard errors of v in every objective are the
    same point to a measurement, and count neither against it nor beside it; v joins the archive
    only if it gains volume when lowered by as much.

    Source:
        Emmerich and Deutz 2014, "Time complexity and zeros of the hypervolume indicator gradient
        field" (the rates); Wang, Deutz, Bäck and Emmerich 2017, "Hypervolume indicator gradient
        ascent multi-objective optimization", which ascends sum_k s_k grad v_k for a population.
        Ours: one policy against its own past instead of a population, the preference as floor and
        fall-back, smoothing, and the treatment of noise.

    When to use it:
        One run that should pass over the front, parts included that no fixed weights hold on to:
        the gradient is that of a policy-level scalarisation, so concave parts count. To stay at one
        point use `chebyshev`.

    Cost:
        One evaluation of the steer split every `every` steps.

    Example::

        weighting: {hypervolume-gradient: {every: 5, share: 0.7}}
    """

    name: ClassVar[str] = "hypervolume-gradient"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"share": 1.0, "every": 2, "reference": "objectives", "standard_errors": 0.0},
    )
    needs = frozenset({"steer"})

    def __init__(
        self,
        *,
        preference: Preference | None = None,
        share: Annotated[float, Ge(0), Le(1)] = 0.5,
        every: Annotated[int, Ge(1)] = 1,
        smoothing: Annotated[float, Ge(0), Lt(1)] = 0.5,
        reference: Reference = "nadir",
        margin: Annotated[float, Ge(0)] = 0.1,
        standard_errors: Annotated[float, Ge(0)] = 2.0,
    ) -> None:
        """Take the options.

        Args:
            preference: weights by objective that the rest of the weight stays at; default equal.
            share: of the weight that follows the gradient; 0 is `fixed`.
            every: steps from one measurement to the next.
            smoothing: what is kept of the direction at each measurement.
            reference: where volume is measured from; values are raw, by objective, below the upper
                bounds.
            margin: how far below a measured reference, `initial` or `nadir`, in units of the
                bounds; the others are taken as they are.
            standard_errors: how far two points must be apart to be told apart; 0 trusts every
                measurement.
        """
        self.preference = preference
        self.share = share
        self.every = every
        self.smoothing = smoothing
        self.reference = reference
        self.margin = margin
        self.standard_errors = standard_errors
        self._archive_NK: list[list[float]] = []
        self._direction: dict[str, float] = {}
        self._steps = 0

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check that there is an axis, and given reference values."""
        check_axes(f"weighting {self.name}", objectives, self.reference)

    def weigh(self, step: Step) -> Weights:
        """Return the mixed weights, [K]."""
        import torch

        axes = front_axes(step.objectives)
        metrics: dict[str, float] = {}
        notes: tuple[str, ...] = ()
        if self._steps % self.every == 0:
            metrics, notes = self._measure(step, axes)
        self._steps += 1
        held = sum(_of(step, axes).values())
        values = dict(zip(step.names, step.preference_K.double().tolist(), strict=True))
        for name, direction in self._direction.items():
            values[name] = (1 - self.share) * values[name] + self.share * held * direction
        values_K = torch.tensor([values[name] for name in step.names], dtype=torch.float64)
        return Weights((values_K / values_K.sum()).float(), metrics=metrics, notes=notes)

    def _measure(
        self, step: Step, axes: Sequence[Objective]
    ) -> tuple[dict[str, float], tuple[str, ...]]:
        from moalign.pareto import hypervolume, hypervolume_gradient

        point_K, error_K = measured_point(f"weighting {self.name}", step.evaluate("steer"), axes)
        first = not self._archive_NK
        reference_K = reference_point(
            self.reference, self.margin, [*self._archive_NK, point_K], axes
        )
        others_NK = [p for p in self._archive_NK if self._apart(p, point_K, error_K)]
        rates_K = hypervolume_gradient(point_K, others_NK, reference_K).tolist()
        self._follow(rates_K, _of(step, axes))
        before = hypervolume(self._archive_NK, reference_K)
        lowered_K = self._lowered(point_K, error_K)
        if first or hypervolume([*self._archive_NK, lowered_K], reference_K) > before:
            self._archive_NK.append(point_K)
        metrics = {f"rate/{o.name}": rate for o, rate in zip(axes, rates_K, strict=True)}
        metrics["hypervolume"] = hypervolume(self._archive_NK, reference_K)
        blind = first and self.standard_errors > 0 and any(map(math.isnan, error_K))
        return metrics, (f"weighting {self.name}: {ONE_UNIT}",) if blind else ()

    def _apart(
        self, archived_K: Sequence[float], point_K: Sequence[float], error_K: Sequence[float]
    ) -> bool:
        """Return True unless the two may be one point; of unknown noise only equality is sure."""
        return any(
            abs(a - v) > (self.standard_errors * e if math.isfinite(e) else 0.0)
            for a, v, e in zip(archived_K, point_K, error_K, strict=True)
        )

    def _lowered(self, point_K: Sequence[float], error_K: Sequence[float]) -> list[float]:
        if self.standard_errors == 0:
            return list(point_K)
        # An unknown error is NaN, and so is what it lowers: such a point has no volume.
        return [v - self.standard_errors * e for v, e in zip(point_K, error_K, strict=True)]

    def _follow(self, rates_K: Sequence[float], preference: Mapping[str, float]) -> None:
        """Move the direction towards the rates; towards the preference where there are none."""
        total, wanted = math.fsum(rates_K), sum(preference.values())
        equal = dict.fromkeys(preference, 1.0 / len(preference))
        start = {n: p / wanted for n, p in preference.items()} if wanted > 0 else equal
        aim = start
        if total > 0:
            aim = {name: rate / total for name, rate in zip(start, rates_K, strict=True)}
        kept = self._direction or start
        mixed = {n: self.smoothing * kept[n] + (1 - self.smoothing) * aim[n] for n in aim}
        scale = math.fsum(mixed.values())
        self._direction = {name: value / scale for name, value in mixed.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the archive, the direction by objective, and the step count."""
        archive = [list(point) for point in self._archive_NK]
        return {"archive": archive, "direction": dict(self._direction), "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self._archive_NK = [list(point) for point in state["archive"]]
        self._direction = {name: float(value) for name, value in state["direction"].items()}
        self._steps = int(state["steps"])


def _of(step: Step, axes: Sequence[Objective]) -> dict[str, float]:
    """Return the preference for these objectives, by name."""
    preference = dict(zip(step.names, step.preference_K.double().tolist(), strict=True))
    return {o.name: preference[o.name] for o in axes}
