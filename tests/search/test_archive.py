from __future__ import annotations

import math
import random
from collections.abc import Container, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from lines import measured, opened, proposed

from moalign import pareto
from moalign.search import events
from moalign.search.archive import Run
from moalign.search.folders import RunFolder
from moalign.types import Cost, Observation, Proposal, Start


def run_of(*lines: events.Event, **options) -> Run:
    run = Run(RunFolder(Path("runs/mine")))
    for event in (opened(**options), *lines):
        run.apply(event)
    return run


def names(observations) -> list[tuple[int, int]]:
    return [(o.trial, o.step) for o in observations]


def test_a_trial_lives_until_it_is_measured_in_full_stopped_or_failed():
    run = run_of(*[proposed(t) for t in range(4)])
    assert [t.number for t in run.live()] == [0, 1, 2, 3]
    for event in (
        measured(0, 2, (1, 1)),
        events.Decided(0.0, 0, 2, True, "fine"),
        measured(0, 4, (2, 2)),
        measured(1, 2, (1, 1)),
        events.Decided(0.0, 1, 2, False, "too far behind"),
        measured(2, 2, (1, 1)),
        events.Failed(0.0, 2, "it broke", ""),
        events.Lost(0.0, 3, 2, 0, "a worker died"),
    ):
        run.apply(event)
    assert [t.outcome for t in run.trials.values()] == ["finished", "stopped", "failed", None]
    assert [t.reason for t in run.trials.values()] == ["", "too far behind", "it broke", ""]
    assert [t.step for t in run.trials.values()] == [4, 2, 2, 0]
    assert [(lost.trial, lost.reason) for lost in run.lost_workers] == [(3, "a worker died")]
    assert run.trials[2].ended_by(4)
    assert not run.trials[3].ended_by(2)


def test_a_trial_that_failed_lives_again_if_somebody_asks():
    run = run_of(*[proposed(t) for t in range(3)], measured(0, 2, (1, 1)))
    with pytest.raises(ValueError, match="trial 0 has not failed"):
        run.apply(events.Retried(0.0, 0))
    run.apply(events.Failed(0.0, 0, "it broke", ""))
    assert [t.number for t in run.live()] == [1, 2]
    run.apply(events.Retried(0.0, 0))
    assert [t.number for t in run.live()] == [0, 1, 2]  # the first to go on
    assert (run.trials[0].outcome, run.trials[0].reason, run.trials[0].step) == (None, "", 2)
    run.apply(events.Decided(0.0, 1, 2, False, "too far behind"))
    run.apply(events.Failed(0.0, 1, "it broke", ""))
    run.apply(events.Retried(0.0, 1))
    assert run.trials[1].outcome == "stopped"
    assert [t.number for t in run.live()] == [0, 2]


def test_observations_are_those_of_the_front_objectives():
    warm = Proposal({"x": 3}, Start(((0, 2),), (1.0,)), steps=2)
    run = run_of(proposed(0), proposed(1, warm), measured(1, 2, (3, 4), stderr=(0.1, 0.2)))
    (observation,) = run.observations()
    assert (observation.trial, observation.step, observation.full) == (1, 2, True)
    assert (observation.values_K, observation.stderr_K) == ((3, 4), (0.1, 0.2))
    assert (observation.params, observation.start) == ({"x": 3}, warm.start)
    assert observation.cost == Cost(generated=2)


@pytest.mark.parametrize(
    ("order", "expected"),
    [("logical", [(0, 2), (0, 4), (1, 2)]), ("arrival", [(1, 2), (0, 2), (0, 4)])],
)
def test_the_order_in_which_results_count(order: str, expected: list):
    arrived = [measured(1, 2, (1, 9)), measured(0, 2, (2, 2)), measured(0, 4, (3, 3))]
    run = run_of(proposed(0), proposed(1), *arrived, order=order)
    assert names(run.observations()) == expected
    assert names(run.observations(visible=range(1))) == [(0, 2), (0, 4)]


def test_the_front_holds_rungs_and_conditions_and_no_base_policy():
    run = run_of(
        proposed(0),
        proposed(1),
        measured(-1, 0, (10, 10)),
        measured(0, 2, (5, 1)),
        measured(0, 4, (1, 5)),
        measured(1, 4, (4, 4), (0, 0), (4.5, 3)),
        measured(1, 2, (4, 4)),
        measured(0, 4, (9, 9), split="test"),
    )
    assert [(o.trial, o.step, o.condition) for o in run.front()] == [
        (0, 2, None),
        (0, 4, None),
        (1, 2, None),  # of equal points, the first
        (1, 4, {"a": 2}),
    ]
    # In tenths: .1 x .5 + .3 x .4 + .05 x .3 + .05 x .1
    assert run.hypervolume() == pytest.approx(0.19)
    assert run.base is not None
    assert run.base.step == 0
    assert list(run.tests) == [(0, 4)]


def test_hypervolume_starts_at_the_reference():
    run = run_of(proposed(0), measured(0, 4, (5, 5)), bounds_b=(0.0, 20.0))
    assert run.hypervolume() == pytest.approx(0.5 * 0.25)
    assert run.reference_K == (0.0, 0.0)


def test_what_is_kept_is_on_the_front_of_what_is_visible():
    first, better = measured(0, 4, (5, 5)), measured(1, 4, (6, 6))
    run = run_of(proposed(0), proposed(1), first, better)
    assert [o.kept for o in run.observations()] == [False, True]
    assert [o.kept for o in run.observations(visible=range(1))] == [True]
    # A finished run has deleted what later trials dominate, whoever may see them.
    run.apply(events.Closed(0.0, "finished"))
    assert [o.kept for o in run.observations(visible=range(1))] == [False]


def test_no_trials_no_front():
    run = run_of()
    assert run.front() == ()
    assert run.hypervolume() == 0.0


# --- brought up to date, or computed anew ------------------------------------------------------


def history(rng: random.Random, order: str) -> Iterator[events.Event]:
    """Yield what may happen in a run: few values, so that many points are equal; some missing."""
    live: dict[int, int] = {}
    for trial in range(12):
        yield proposed(trial)
        live[trial] = 0
        while len(live) > rng.randint(0, 2):
            number = rng.choice(list(live))
            live[number] += 2
            values = [
                tuple(math.nan if rng.random() < 0.05 else rng.randint(0, 5) for _ in range(2))
                for _ in range(rng.randint(1, 3))
            ]
            yield measured(number, live[number], *values)
            fate = rng.random()
            if live[number] == 4:
                del live[number]
            elif fate < 0.2:
                del live[number]
                yield events.Decided(0.0, number, 2, False, "too far behind")
            elif fate < 0.3:
                del live[number]
                yield events.Failed(0.0, number, "it broke", "")
        if rng.random() < 0.1 and not live:
            yield events.Closed(0.0, "finished")
            yield opened(order=order, bounds_b=(0.0, rng.choice([10.0, 20.0])))


def plainly(
    run: Run, seen: list[events.Measured], visible: Container[int] | None
) -> tuple[Observation, ...]:
    """Return what ``run.observations`` should, from all that was measured."""
    in_order = sorted(seen, key=lambda m: (m.trial, m.step)) if run.logical else seen
    observed = [
        Observation(m.trial, m.step, m.step == 4, Start(), point.condition, {},
                    run.axes(point.values_K), run.axes(point.stderr_K), m.cost)
        for m in in_order
        for point in m.points
    ]  # fmt: skip
    shown = [visible is None or o.trial in visible for o in observed]
    judged = [o for o, show in zip(observed, shown, strict=True) if show or o.trial < run.settled]
    values_NK = [o.values_K for o in judged]
    marks = pareto.is_nondominated(values_NK) if judged else []
    kept = {(o.trial, o.step) for o, mark in zip(judged, marks, strict=True) if mark}
    return tuple(
        replace(o, kept=(o.trial, o.step) in kept)
        for o, show in zip(observed, shown, strict=True)
        if show
    )


@pytest.mark.parametrize("order", ["logical", "arrival"])
@pytest.mark.parametrize("seed", range(30))
def test_what_is_brought_up_to_date_is_what_would_be_computed_anew(order: str, seed: int):
    rng = random.Random(seed)
    run, seen, made = run_of(order=order), [], 0
    for event in history(rng, order):
        run.apply(event)
        seen += [event] if isinstance(event, events.Measured) else []
        made += isinstance(event, events.Proposed)
        if rng.random() < 0.3:
            continue  # several at once, too
        visible = rng.choice([range(rng.randint(0, made)), {0, made - 2, made}, range(made)])
        told = run.observations(visible)
        assert repr(told) == repr(plainly(run, seen, visible))  # NaN is like NaN there
        assert run.kept(visible) == {(o.trial, o.step) for o in told if o.kept}
        every = plainly(run, seen, None)
        assert repr(run.observations()) == repr(every)
        assert repr(run.observed(made - 1, 2)) == repr(
            tuple(o for o in every if (o.trial, o.step) == (made - 1, 2))
        )
        marks = pareto.is_nondominated([o.values_K for o in every]) if every else []
        front = tuple(o for o, mark in zip(every, marks, strict=True) if mark)
        assert repr(run.front()) == repr(front)
        volume = pareto.hypervolume([run.normalised(o.values_K) for o in front], run.reference_K)
        assert run.hypervolume() == volume
        assert [t.number for t in run.live()] == [
            t.number for t in run.trials.values() if t.outcome is None
        ]


def test_a_front_that_stays_is_the_same_object():
    run = run_of(proposed(0), proposed(1), proposed(2), measured(0, 4, (5, 5)))
    before = run.front()
    run.apply(measured(1, 4, (4, 4)))
    assert run.front() is before
    run.apply(measured(2, 4, (6, 4)))
    assert run.front() is not before


def test_a_value_that_no_front_can_hold_is_refused_every_time():
    run = run_of(proposed(0), measured(0, 4, (math.inf, 5)))
    for _ in range(2):
        with pytest.raises(ValueError, match="infinite"):
            run.front()
