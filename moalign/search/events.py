"""The lines of a run's record: one small frozen class per kind of decision or result.

Everything that happened in a run can be told from these and from the files in its checkpoint
folders. ``time`` is seconds since the epoch; it and other wall-clock fields decide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, TypeAdapter, ValidationError

from moalign.execution import printable
from moalign.reporting.statistics import mean_and_stderr
from moalign.search import measurements
from moalign.types import Cost, Objective, Proposal, Split

Value = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A number; NaN is written as null."""

Text = Annotated[str, PlainSerializer(printable)]
"""Words of somebody else's: half a character, as of a broken file name, is written as its code."""

Outcome = Literal["finished", "interrupted", "failed"]


@dataclass(frozen=True)
class Opened:
    """A driver opened the run; the first one says what the run is.

    Attributes:
        fingerprint: of the study: what may not change.
        study: the fully resolved study.
        objectives: all objectives with their bounds, monitored ones included.
        workers: of the executor; those of the first opening decide the logical order.
        trials: how many trials the study is to run in all.
        versions: of Python, moalign and what results depend on.
        plugins: SHA-256 of each plugin file, by path.
        revision: of the source moalign ran from, or None.
        pid: the driver's process.
        host: and its machine.
    """

    time: float
    fingerprint: str
    study: Mapping[str, Any]
    objectives: tuple[Objective, ...]
    workers: int
    trials: int
    versions: Mapping[str, str]
    plugins: Mapping[str, str]
    revision: str | None
    pid: int
    host: str
    event: Literal["opened"] = field(default="opened", kw_only=True)


@dataclass(frozen=True)
class Proposed:
    """A proposal became a trial; its number is the proposal's."""

    time: float
    trial: int
    proposal: Proposal
    event: Literal["proposed"] = field(default="proposed", kw_only=True)


@dataclass(frozen=True)
class Point:
    """What a checkpoint is worth under one condition: raw means, and their standard errors.

    The values are those of all objectives, monitored ones included, in the study's order.
    """

    condition: Mapping[str, float] | None
    values_K: tuple[Value, ...]
    stderr_K: tuple[Value, ...]

    @classmethod
    def of(cls, one: measurements.Measured) -> Point:
        """Sum up what was measured under one condition."""
        mean_K, stderr_K = mean_and_stderr(one.evaluation.values_UK)
        return cls(one.condition, tuple(mean_K.tolist()), tuple(stderr_K.tolist()))


@dataclass(frozen=True)
class Measured:
    """A checkpoint was measured on a split.

    Attributes:
        trial: its number, or that of the base policy.
        step: training steps taken.
        split: on which prompts.
        points: one per condition.
        cost: tokens the trial has spent up to here.
        seconds: wall-clock of the segment.
    """

    time: float
    trial: int
    step: int
    split: Split
    points: tuple[Point, ...]
    cost: Cost
    seconds: float
    event: Literal["measured"] = field(default="measured", kw_only=True)


@dataclass(frozen=True)
class Decided:
    """A trial at a rung goes on, or is stopped."""

    time: float
    trial: int
    step: int
    go_on: bool
    reason: Text
    event: Literal["decided"] = field(default="decided", kw_only=True)


@dataclass(frozen=True)
class Lost:
    """A worker was lost with a trial's segment; the segment is tried again, or given up."""

    time: float
    trial: int
    step: int
    attempt: int
    reason: Text
    event: Literal["lost"] = field(default="lost", kw_only=True)


@dataclass(frozen=True)
class Noted:
    """A trial had something to say to people in training; each sentence once per trial."""

    time: float
    trial: int
    step: int
    note: Text
    event: Literal["noted"] = field(default="noted", kw_only=True)


@dataclass(frozen=True)
class Failed:
    """A trial failed, and stays so until somebody asks again; what it measured before stays.

    Attributes:
        trial: its number; the base policy's if it could not be measured, which ended the study.
        reason: a sentence.
        detail: a traceback, or empty.
    """

    time: float
    trial: int
    reason: Text
    detail: Text
    event: Literal["failed"] = field(default="failed", kw_only=True)


@dataclass(frozen=True)
class Retried:
    """Somebody asked for a trial that failed to be tried again, from its last checkpoint."""

    time: float
    trial: int
    event: Literal["retried"] = field(default="retried", kw_only=True)


@dataclass(frozen=True)
class OpenedTest:
    """The test split is about to be read for these points, ``(trial, step)``."""

    time: float
    points: tuple[tuple[int, int], ...]
    event: Literal["opened-test"] = field(default="opened-test", kw_only=True)


@dataclass(frozen=True)
class Closed:
    """A driver left the run in order."""

    time: float
    outcome: Outcome
    event: Literal["closed"] = field(default="closed", kw_only=True)


Event = (
    Opened | Proposed | Measured | Decided | Lost | Noted | Failed | Retried | OpenedTest | Closed
)

_ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def to_line(event: Event) -> bytes:
    """Return an event as one line of JSON; numbers come back equal to the bit."""
    return _ADAPTER.dump_json(event) + b"\n"


def from_line(line: bytes) -> Event:
    """Return the event that a line holds.

    Raises:
        ValueError: it is no JSON, or not of a known event.
    """
    try:
        return _ADAPTER.validate_json(line, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from error
