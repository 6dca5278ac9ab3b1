from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from lines import measured, opened, proposed

from moalign.search.archive import Run
from moalign.search.folders import RunFolder
from moalign.search.stopping import Decision, Reached, at_rung, decide, ranking
from moalign.types import Proposal, Start

ORIGIN = (0.0, 0.0)
# Hypervolume .37; without 0 or without 1 it is .31, without 2 it is .28; 3 lies behind 2.
FOUR = {0: (0.8, 0.2), 1: (0.2, 0.8), 2: (0.5, 0.5), 3: (0.4, 0.4)}


def reached(points: dict, stderr: float = 0.0) -> dict[int, Reached]:
    return {t: Reached([p], [[stderr] * len(p)]) for t, p in points.items()}


def test_front_first_then_contribution_then_number():
    assert ranking(reached(FOUR), ORIGIN) == [2, 0, 1, 3]


def test_a_point_that_was_not_measured_in_full_is_last():
    points = {**FOUR, 4: (math.nan, 0.99)}
    assert ranking(reached(points), ORIGIN) == [2, 0, 1, 3, 4]


def test_a_trial_stands_where_its_best_point_stands_and_counts_with_all_of_them():
    # Trial 0 covers both ends (.12 together), though each end alone is worth less than the middle.
    two = Reached([(0.8, 0.2), (0.2, 0.8), (0.1, 0.1)], [[0.0, 0.0]] * 3)
    others = reached({1: (0.5, 0.5), 2: (0.4, 0.4)})
    assert ranking({0: two, **others}, ORIGIN) == [0, 1, 2]


def test_outside_the_reference_there_is_nothing_to_contribute():
    points = {0: (0.9, -0.1), 1: (0.5, 0.5), 2: (-0.2, 0.95)}
    assert ranking(reached(points), ORIGIN) == [1, 0, 2]


def test_nobody_is_ahead_of_what_dominates_it():
    rng = random.Random(0)
    for _ in range(20):
        points = {t: tuple(rng.random() for _ in range(3)) for t in range(12)}
        order = ranking(reached(points), (0.0, 0.0, 0.0))
        assert sorted(order) == list(range(12))
        for place, trial in enumerate(order):
            for behind in order[place:]:
                better = zip(points[behind], points[trial], strict=True)
                assert behind == trial or not all(b > t for b, t in better)


def test_the_order_of_the_trials_does_not_matter():
    shuffled = {t: FOUR[t] for t in (3, 1, 0, 2)}
    assert ranking(reached(shuffled), ORIGIN) == ranking(reached(FOUR), ORIGIN)


RANKED = (
    "ranked {} of 4, by dominance and then by the hypervolume that it adds, of which the first {} "
    "go on"
)
RAISED = "; even 1.5 standard errors better in every objective "


@pytest.mark.parametrize(
    ("trial", "keep", "go_on", "reason"),
    [
        (2, 0.5, True, RANKED.format(1, 2)),
        (0, 0.5, True, RANKED.format(2, 2)),
        (1, 0.6, True, RANKED.format(3, 3)),
        (3, 0.5, False, RANKED.format(4, 2) + RAISED + "trial 2 would dominate it"),
        (3, 1.0, True, RANKED.format(4, 4)),
        (3, 0.2, True, "4 of the 5 trials needed for a ranking are here"),
    ],
)
def test_the_share_that_goes_on(trial: int, keep: float, go_on: bool, reason: str):
    assert decide(trial, reached(FOUR), keep, ORIGIN) == Decision(go_on, reason)


@pytest.mark.parametrize(
    ("stderr", "go_on", "end"),
    [
        (0.0, False, "trial 2 would dominate it"),
        (0.06, False, "trial 2 would dominate it"),  # (.49, .49)
        (0.08, True, "would be number 1"),  # (.52, .52) covers trial 2 and is worth .11
        (math.nan, False, "trial 2 would dominate it"),
    ],
)
def test_within_its_error_bars_of_surviving_a_trial_goes_on(stderr: float, go_on: bool, end: str):
    four = reached(FOUR) | {3: Reached([FOUR[3]], [[stderr, stderr]])}
    decision = decide(3, four, 0.5, ORIGIN)
    assert decision.go_on is go_on
    assert decision.reason.endswith(end)


def test_nobody_within_its_error_bars_of_the_front_is_stopped():
    rng = random.Random(1)
    stopped = spared = 0
    for _ in range(25):
        error = rng.choice([0.0, 0.05])
        points = {t: tuple(rng.random() for _ in range(3)) for t in range(12)}
        for trial, point in points.items():
            decision = decide(trial, reached(points, error), 0.3, (0.0, 0.0, 0.0))
            raised = [value + 1.5 * error for value in point]
            beaten = any(
                all(b >= r for b, r in zip(other, raised, strict=True))
                for t, other in points.items()
                if t != trial
            )
            stopped += not decision.go_on
            spared += decision.reason.endswith("nothing would dominate it")
            assert decision.go_on or beaten
    assert min(stopped, spared) > 20


def test_a_trial_of_several_points_is_on_the_front_with_one_of_them():
    four = reached(FOUR)
    two = Reached([FOUR[3], (0.1, 0.95)], [[0.0, 0.0]] * 2)
    assert decide(3, {**four, 3: two}, 0.25, ORIGIN).go_on
    # No single trial dominates both of these.
    two = Reached([(0.1, 0.7), (0.7, 0.1)], [[0.0, 0.0]] * 2)
    assert decide(3, {**four, 3: two}, 0.25, ORIGIN).reason.endswith("trial 0 would dominate it")


def test_what_was_not_measured_is_no_reason_to_go_on():
    decision = decide(
        3, {**reached(FOUR), 3: Reached([(math.nan, 0.99)], [[0.1, 0.1]])}, 0.5, ORIGIN
    )
    assert decision == Decision(
        False, RANKED.format(4, 2) + "; it was not measured in all objectives"
    )


def test_the_first_corners_and_the_centre_are_never_stopped():
    for count in range(1, 4):
        few = reached({t: (0.5 - t / 10, 0.5 - t / 10) for t in range(count)})
        assert decide(count - 1, few, 0.5, ORIGIN).go_on
    # With three objectives four trials come first, so the fifth is the first that may stop.
    worse = {t: (0.5 - t / 10,) * 3 for t in range(5)}
    last = decide(4, reached(worse), 0.5, (0.0, 0.0, 0.0))
    assert not last.go_on
    del worse[0]
    assert decide(4, reached(worse), 0.5, (0.0, 0.0, 0.0)).go_on


# --- in a run ----------------------------------------------------------------------------------


def run_of(*events, **options) -> Run:
    run = Run(RunFolder(Path("run")))
    for event in (opened(**options), *events):
        run.apply(event)
    return run


def at_two(points: dict[int, tuple[float, float]]) -> list:
    return [measured(trial, 2, values) for trial, values in points.items()]


def test_in_logical_order_a_trial_waits_for_those_before_it():
    proposals = [proposed(t) for t in range(5)]
    run = run_of(*proposals, *at_two({0: (8, 2), 1: (2, 8), 3: (4, 4), 4: (9, 9)}))
    assert at_rung(run, run.trials[1], 2).reason.startswith("at step 2: 2 of the 4")
    assert at_rung(run, run.trials[3], 2) is None  # trial 2 is still on its way
    run.apply(measured(2, 2, (5, 5)))
    decision = at_rung(run, run.trials[3], 2)  # trial 4 has arrived but comes later
    assert not decision.go_on
    assert decision.reason == f"at step 2: {RANKED.format(4, 2)}{RAISED}trial 2 would dominate it"


def test_in_order_of_arrival_whoever_is_here_counts():
    proposals = [proposed(t) for t in range(5)]
    run = run_of(*proposals, *at_two({0: (8, 2), 1: (2, 8), 3: (4, 4)}), order="arrival")
    assert at_rung(run, run.trials[3], 2).reason.startswith("at step 2: 3 of the 4")
    run.apply(measured(4, 2, (9, 9)))
    assert at_rung(run, run.trials[3], 2).reason.startswith("at step 2: ranked 4 of 4")


def test_values_and_errors_are_compared_in_units_of_the_bounds():
    # Objective b has bounds (0, 100): 5 of it is less than .1 of a.
    run = run_of(*[proposed(t) for t in range(4)], bounds_b=(0.0, 100.0))
    points = {0: (8, 20), 1: (2, 80), 2: (5, 50), 3: (4, 40)}
    for trial, values in points.items():
        run.apply(measured(trial, 2, values, stderr=(1.5, 15.0)))
    assert at_rung(run, run.trials[3], 2).reason.endswith("would be number 1")


def test_a_failed_trial_is_not_waited_for_and_others_kinds_are_not_compared():
    warm = Proposal({}, Start(((0, 2),), (1.0,)))
    longer = Proposal({}, steps=8)
    run = run_of(
        proposed(0),
        proposed(1, warm),
        proposed(2, longer),
        proposed(3),
        *at_two({0: (8, 2), 1: (1, 1), 2: (9, 9), 3: (4, 4)}),
    )
    other = "it began elsewhere or ends elsewhere than the others"
    assert at_rung(run, run.trials[1], 2) == Decision(True, other)
    assert at_rung(run, run.trials[2], 2) == Decision(True, other)
    assert at_rung(run, run.trials[3], 2).reason.startswith("at step 2: 2 of the 4")
