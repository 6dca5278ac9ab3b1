"""Points measured on the steer split: their axes, their noise, and where volume starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

from moalign.errors import DataError, OptionError, nearest

if TYPE_CHECKING:
    from moalign.types import Evaluation, Objective

Reference = Literal["initial", "nadir", "objectives"] | dict[str, float]
"""Where volume is measured from: the first measurement, the worst of the measured front, the
objectives' own `reference` (else their lower bounds), or raw values by objective."""

ONE_UNIT: Final = (
    "the steer split has one unit only, so the noise of its means is unknown and no improvement "
    "can be told from it; give the task more steer units, or set standard_errors: 0"
)


def front_axes(objectives: Sequence[Objective]) -> list[Objective]:
    """Return the objectives that are axes of the front, in their order."""
    return [o for o in objectives if o.front]


def check_axes(who: str, objectives: Sequence[Objective], reference: Reference) -> None:
    """Check that there is an axis, and that given reference values leave room above each of them.

    Args:
        who: the weighting, for the message: ``weighting hypervolume``.
        objectives: those trained on.
        reference: the option `reference`.

    Raises:
        OptionError: naming what is missing, or the objective and what was found and is allowed.
    """
    axes = front_axes(objectives)
    names = [o.name for o in axes]
    if not names:
        raise OptionError(
            f"{who}: no objective is both trained on and on the front, so there is no volume; add "
            "`front` to the `use` of one"
        )
    if not isinstance(reference, dict):
        return
    for name in reference:
        if name not in names:
            raise OptionError(
                f"{who}: `reference` names {name!r}; {nearest(name, names)}", "reference"
            )
    missing = [name for name in names if name not in reference]
    if missing:
        raise OptionError(
            f"{who}: `reference` leaves out {', '.join(missing)}; give a raw value for each of "
            f"{', '.join(names)}",
            "reference",
        )
    for o in axes:
        low, high = o.bounds or (-math.inf, math.inf)
        if reference[o.name] >= high:
            raise OptionError(
                f"{who}: `reference` of {o.name!r} must lie below its upper bound, as volume lies "
                f"above it; its bounds are {low:g} and {high:g}, found {reference[o.name]:g}",
                "reference",
            )


def measured_point(
    who: str, evaluation: Evaluation, axes: Sequence[Objective]
) -> tuple[list[float], list[float]]:
    """Return means over units in units of the bounds, and their standard errors.

    Args:
        who: the weighting, for the message.
        evaluation: of the steer split.
        axes: the objectives whose means are wanted.

    Returns:
        two lists of K numbers; a standard error is NaN if there is one unit.

    Raises:
        DataError: an objective applies to no unit.
    """
    point_K, error_K = [], []
    for objective in axes:
        column = evaluation.names.index(objective.name)
        values = [row[column] for row in evaluation.values_UK if not math.isnan(row[column])]
        if not values:
            raise DataError(
                f"{who}: objective {objective.name} applies to no prompt of the steer split, so it "
                "has no mean; give it prompts there, or take it off the front"
            )
        units = [objective.normalise(value) for value in values]
        count, mean = len(units), math.fsum(units) / len(units)
        variance = (
            math.fsum((u - mean) ** 2 for u in units) / (count - 1) if count > 1 else math.nan
        )
        point_K.append(mean)
        error_K.append(math.sqrt(variance / count))
    return point_K, error_K


def reference_point(
    reference: Reference,
    margin: float,
    archive_NK: Sequence[Sequence[float]],
    axes: Sequence[Objective],
) -> list[float]:
    """Return where volume starts, in units of the bounds.

    Args:
        reference: which reference; see :data:`Reference`.
        margin: how far below a measured reference; the others are taken as they are.
        archive_NK: measured points, the first one first; at least one.
        axes: the K objectives.
    """
    if isinstance(reference, Mapping):
        return [o.normalise(reference[o.name]) for o in axes]
    if reference == "objectives":
        return [0.0 if o.reference is None else o.normalise(o.reference) for o in axes]
    if reference == "initial":
        worst_K = list(archive_NK[0])
    else:
        from moalign.pareto import is_nondominated

        marks = is_nondominated(archive_NK)
        front = [p for p, on_front in zip(archive_NK, marks, strict=True) if on_front]
        worst_K = [min(values) for values in zip(*front, strict=True)]
    return [value - margin for value in worst_K]
