"""Asking a strategy for a trial, and what is done about an answer that is none.

A strategy that raises, or returns what is no proposal, ends the study: there is nothing to record.
Values that cannot be run are recorded, and cost that trial only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from moalign.components import Strategy
from moalign.errors import MoalignError, StudyError
from moalign.execution import told
from moalign.types import (
    Choice,
    FloatRange,
    History,
    IntRange,
    Parameter,
    Proposal,
    Simplex,
    Start,
)

_NEAR = 1e-9  # how far rounding may take a value out of its range, relative to its ends


def ask(strategy: Strategy, known: History, seed: int) -> Proposal | None:
    """Return the next proposal in plain data, or None if the space is exhausted.

    Raises:
        StudyError: the strategy raised, or returned what is no proposal.
    """
    who, trial = f"strategy {strategy.name}", f"trial {known.proposed}"
    try:
        answer: object = strategy.propose(known, 1, seed)
    except Exception as error:
        reason = str(error) if isinstance(error, MoalignError) else told(error)
        raise StudyError(f"{who} could not propose {trial}: {reason}; {_STANDS}") from error
    if not _proposals(answer):
        raise StudyError(
            f"{who} should have returned a list of proposals for {trial}; found {answer!r}; "
            f"{_STANDS}"
        )
    if not answer:
        return None
    try:
        if not (wrong := _malformed(answer[0], known)):
            return _plain(answer[0])
    except (TypeError, ValueError) as error:  # parts of other types than they must be
        wrong = f"{error}, in {answer[0]!r}"
    raise StudyError(f"{who} proposed {trial} wrongly: {wrong}; {_STANDS}")


def _proposals(answer: object) -> TypeGuard[list[Proposal]]:
    return isinstance(answer, list) and all(isinstance(each, Proposal) for each in answer)


_STANDS = "all that finished stands, and once it is mended the same command goes on"


def check_values(space: Mapping[str, Parameter], proposal: Proposal) -> None:
    """Check that a proposal gives every dimension of the space a value that it allows.

    Raises:
        StudyError: naming the path, what was found and what is allowed.
    """
    params = proposal.params
    if missing := [path for path in space if path not in params]:
        raise StudyError(f"it leaves out {', '.join(missing)}; give every path that is searched")
    if extra := [path for path in params if path not in space]:
        raise StudyError(
            f"it gives {', '.join(extra)}, which the space does not have; a value that is not "
            "searched belongs into `settings`"
        )
    for path, dimension in space.items():
        if not _allows(dimension, params[path]):
            raise StudyError(f"{path}: found {params[path]!r}; the space has {_said(dimension)}")


def _malformed(proposal: Proposal, known: History) -> str:
    """Return what is wrong with a proposal beside its values; empty if nothing is."""
    for name in ("params", "settings"):
        values: object = getattr(proposal, name)
        if not isinstance(values, Mapping):
            return f"`{name}` must be a mapping of paths to values; found {values!r}"
    steps: object = proposal.steps
    start: object = proposal.start
    if steps is not None and (type(steps) is not int or steps < 0):
        return f"`steps` must be None or a whole number >= 0; found {steps!r}"
    if not isinstance(start, Start):
        return f"`start` must be a Start; found {start!r}"
    kept = {(o.trial, o.step) for o in known.observations if o.kept}
    if unknown := [point for point in start.points if point not in kept]:
        return (
            f"it starts from {unknown[0]!r}, and a trial can start only from what is `kept` in the "
            f"history as (trial, step): {', '.join(map(str, sorted(kept))) or 'nothing yet'}"
        )
    one = math.isclose(math.fsum(start.shares), 1.0, abs_tol=1e-6)
    if len(start.shares) != len(start.points) or (start.points and not one):
        return f"a start needs a share for each point, summing to 1; found {start.shares!r}"
    return ""


def _plain(proposal: Proposal) -> Proposal:
    """Return a proposal that comes back from the record as it was."""
    start = Start(
        tuple((int(trial), int(step)) for trial, step in proposal.start.points),
        tuple(map(float, proposal.start.shares)),
    )
    params, settings = _data(proposal.params), _data(proposal.settings)
    return Proposal(params, start, proposal.steps, settings, str(proposal.reason))


def _data(value: Any) -> Any:
    """Return what JSON can say; text for what it cannot, which no value is then mistaken for."""
    if isinstance(value, Mapping):
        return {str(key): _data(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_data(item) for item in value]
    if hasattr(value, "item"):  # a number of numpy's or torch's
        value = value.item()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    return value if value is None or isinstance(value, bool | int | str) else repr(value)


def _allows(dimension: Parameter, value: Any) -> bool:
    if isinstance(dimension, Choice):
        return any(_same(value, _data(option)) for option in dimension.options)
    if isinstance(dimension, Simplex):
        if not isinstance(value, Mapping) or set(value) != set(dimension.names):
            return False
        weights = list(value.values())
        numbers = all(_number(weight) and weight >= -_NEAR for weight in weights)
        return numbers and math.isclose(math.fsum(weights), 1.0, abs_tol=1e-6)
    if not _number(value) or (isinstance(dimension, IntRange) and not isinstance(value, int)):
        return False
    slack = _NEAR * max(abs(dimension.low), abs(dimension.high))
    return bool(dimension.low - slack <= value <= dimension.high + slack)


def _same(value: Any, option: Any) -> bool:
    """Return whether two values are equal; true is not 1."""
    return isinstance(value, bool) == isinstance(option, bool) and bool(value == option)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _said(dimension: Parameter) -> str:
    if isinstance(dimension, Choice):
        return f"one of {', '.join(map(repr, dimension.options))}"
    if isinstance(dimension, Simplex):
        return f"weights >= 0 of {', '.join(dimension.names)} that sum to 1"
    kind = "a number" if isinstance(dimension, FloatRange) else "a whole number"
    return f"{kind} from {dimension.low} to {dimension.high}"
