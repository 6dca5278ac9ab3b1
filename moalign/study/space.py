"""The search space: from a study's ``search.space`` to parameters, and the first proposals."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from moalign.errors import StudyError
from moalign.study.schema import ChoicesSection, RangeSection
from moalign.types import Choice, FloatRange, IntRange, Parameter, Proposal, Simplex

CORNER = 0.8
"""Weight of the favoured objective in a near-corner."""


def parameter(path: str, given: Any, names: Sequence[str]) -> Parameter:
    """Return one search dimension.

    Args:
        path: for error messages.
        given: ``"simplex"``, a range or choices.
        names: the training objectives, the axes of a simplex.

    Raises:
        StudyError: an empty or inverted range, a logarithm of something not positive, or equal
            choices.
    """
    if isinstance(given, ChoicesSection):
        for place, option in enumerate(given.choices):
            if option in given.choices[:place]:  # true equals 1, also to strategies
                twin = given.choices[given.choices.index(option)]
                found = f"{json.dumps(twin)} and {json.dumps(option)}"
                raise StudyError(f"search.space {path}: choices must differ; found {found}")
        return Choice(tuple(given.choices))
    if not isinstance(given, RangeSection):
        return Simplex(tuple(names))
    low, high = given.low, given.high
    if not low < high:
        raise StudyError(f"search.space {path}: low must be below high; found {low} and {high}")
    if given.log and low <= 0:
        raise StudyError(f"search.space {path}: a logarithmic range starts above 0; found {low}")
    if isinstance(low, int) and isinstance(high, int):
        return IntRange(low, high, given.log)
    return FloatRange(float(low), float(high), given.log)


def samples(parameter: Parameter) -> list[Any]:
    """Return values at the ends and inside, to check a study with before any training."""
    if isinstance(parameter, Choice):
        return list(parameter.options)
    if isinstance(parameter, Simplex):
        return [corner(parameter.names, name) for name in parameter.names] + [centre(parameter)]
    return [parameter.low, centre(parameter), parameter.high]


def centre(parameter: Parameter) -> Any:
    """Return the middle of a parameter: equal weights, (geometric) mean, or the first choice."""
    if isinstance(parameter, Simplex):
        return dict.fromkeys(parameter.names, 1.0 / len(parameter.names))
    if isinstance(parameter, Choice):
        return parameter.options[0]
    low, high = parameter.low, parameter.high
    middle = math.sqrt(low * high) if parameter.log else (low + high) / 2
    return round(middle) if isinstance(parameter, IntRange) else middle


def corner(names: Sequence[str], favoured: str, weight: float = CORNER) -> dict[str, float]:
    """Return weights with ``weight`` on one name and the rest shared equally."""
    if len(names) == 1:
        return {favoured: 1.0}
    rest = (1.0 - weight) / (len(names) - 1)
    return {name: weight if name == favoured else rest for name in names}


def first_proposals(space: Mapping[str, Parameter]) -> list[Proposal]:
    """Return the near-corners of the simplex and the centre; other parameters at their middle.

    With several simplex parameters the corners of all are taken together. Without one, the centre
    of the space alone.
    """
    middle = {path: centre(parameter) for path, parameter in space.items()}
    simplexes = {path: p for path, p in space.items() if isinstance(p, Simplex)}
    if not simplexes:
        return [Proposal(middle)] if space else []
    most = max(len(p.names) for p in simplexes.values())
    corners = [
        Proposal(
            middle
            | {path: corner(p.names, p.names[k % len(p.names)]) for path, p in simplexes.items()}
        )
        for k in range(most)
    ]
    return [*corners, Proposal(middle)]
