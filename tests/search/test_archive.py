from __future__ import annotations

from pathlib import Path

import pytest
from lines import measured, opened, proposed

from moalign.search import events
from moalign.search.archive import Run
from moalign.search.folders import RunFolder
from moalign.types import Cost, Proposal, Start


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
    assert run.trials[2].ended_by(4)
    assert not run.trials[3].ended_by(2)


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
