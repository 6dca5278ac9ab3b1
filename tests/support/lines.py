"""Short ways to write the events of a record: two objectives on the front, values from 0 to 10."""

from __future__ import annotations

from moalign.search import events
from moalign.types import Cost, Objective, Proposal


def opened(*, order="logical", bounds_b=(0.0, 10.0), workers=2, trials=8) -> events.Opened:
    return events.Opened(
        time=0.0,
        fingerprint="f",
        study={"training": {"steps": 4}, "search": {"order": order, "keep": 0.5}},
        objectives=(
            Objective("a", (0.0, 10.0)),
            Objective("watched", None, train=False, front=False),
            Objective("b", bounds_b),
        ),
        workers=workers,
        trials=trials,
        versions={},
        plugins={},
        revision=None,
        pid=1,
        host="here",
    )


def proposed(trial: int, proposal: Proposal = Proposal({})) -> events.Proposed:  # noqa: B008
    return events.Proposed(0.0, trial, proposal)


def measured(
    trial: int, step: int, *values, stderr=(0.0, 0.0), split="validation"
) -> events.Measured:
    """One point per pair of values of ``a`` and ``b``."""
    points = tuple(
        events.Point(None if len(values) == 1 else {"a": i}, (a, 7.0, b), (stderr[0], 0, stderr[1]))
        for i, (a, b) in enumerate(values)
    )
    return events.Measured(0.0, trial, step, split, points, Cost(generated=step), 0.0)
