"""What a kept policy is worth, who its neighbours are, and what a mixture's parameters are."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from histories import OBJECTIVES, PATH, RATE, SPACE, history, params, seen, soup

from moalign.errors import OptionError
from moalign.strategies import kept
from moalign.types import Choice, Proposal, Simplex


def test_a_value_is_in_units_of_the_bounds():
    one = seen(0, (0.5, 2.0), stderr_K=(0.03, 0.4))
    found = kept.value(one, OBJECTIVES, (0.25, 0.75))
    assert found.mean == pytest.approx(0.25 * 0.5 + 0.75 * 0.2)
    assert found.stderr == pytest.approx(math.hypot(0.25 * 0.03, 0.75 * 0.04))


def test_what_has_no_weight_is_not_looked_at():
    one = seen(0, (0.5, math.nan), stderr_K=(math.nan, math.nan))
    assert kept.value(one, OBJECTIVES, (1.0, 0.0)) == kept.Value(0.5, 0.0)
    assert math.isnan(kept.value(one, OBJECTIVES, (0.5, 0.5)).mean)


def test_weights_off_the_front_are_left_out():
    assert kept.axis_weights(OBJECTIVES, {"a": 0.2, "b": 0.2, "off": 0.6}) == (0.5, 0.5)
    assert kept.axis_weights(OBJECTIVES, {"a": 0.5, "off": 0.5}) == (1.0, 0.0)
    assert kept.axis_weights(OBJECTIVES, {"off": 1.0}) is None


def test_a_policy_is_worth_what_it_is_under_its_best_condition():
    low, high = seen(0, (0.2, 9.0), condition={"a": 0, "b": 1}), seen(0, (0.8, 1.0))
    found = kept.values_by_policy([low, high], OBJECTIVES, (1.0, 0.0))
    assert found == {(0, 40): (high, kept.Value(0.8, 0.0))}
    assert kept.values_by_policy([seen(1, (math.nan, 1.0))], OBJECTIVES, (0.5, 0.5)) == {}


def test_of_equal_values_the_earlier_trial_is_first():
    both = [seen(3, (0.5, 5.0)), seen(1, (0.5, 5.0)), seen(2, (0.9, 9.0))]
    worth = kept.values_by_policy(both, OBJECTIVES, (0.5, 0.5))
    assert [o.trial for o, _ in kept.ranked(worth)] == [2, 1, 3]


@pytest.mark.parametrize(
    ("space", "by", "text"),
    [
        ({RATE: SPACE[RATE]}, None, "the space has none over a, b; found training.learning_rate"),
        ({}, None, "found nothing searched"),
        ({PATH: Simplex(("x", "y"))}, None, "the space has none over a, b"),
        ({"w.start": SPACE[PATH], "w.end": SPACE[PATH]}, None, "w.start, w.end. Say which with"),
        (SPACE, "w.start", "`by` must name searched weights .*, weighting.preference; found"),
    ],
)
def test_without_weights_to_value_by_it_is_refused(space, by, text):
    with pytest.raises(OptionError, match=text):
        kept.preference_path(history([], space=space), "strategy x", by)


def test_the_weights_to_value_by():
    several = {"w.end": SPACE[PATH], **SPACE}
    assert kept.preference_path(history([], space=several), "x") == PATH
    assert kept.preference_path(history([], space=several), "x", "w.end") == "w.end"
    one = {"w.end": SPACE[PATH]}
    assert kept.preference_path(history([], space=one), "x") == "w.end"


# --- neighbours --------------------------------------------------------------------------------


def test_on_a_front_of_two_objectives_neighbours_are_next_to_each_other():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a = np.sort(rng.random(9))
        order = rng.permutation(9)
        points = np.stack([a, np.sort(rng.random(9))[::-1]], axis=1)[order]
        found = {frozenset(order[[i, j]].tolist()) for i, j in kept.neighbours(points)}
        assert found == {frozenset((i, i + 1)) for i in range(8)}


def test_three_corners_are_neighbours_until_a_point_lies_between_them():
    corners = np.eye(3)
    assert kept.neighbours(corners) == [(0, 1), (0, 2), (1, 2)]
    middle = np.array([[0.4, 0.4, 0.4]])
    assert kept.neighbours(np.concatenate([corners, middle])) == [(0, 3), (1, 3), (2, 3)]


def test_neighbours_connect_all_points():
    points = np.random.default_rng(1).random((12, 3))
    reached = {0}
    pairs = kept.neighbours(points)
    for _ in range(12):
        reached |= set(itertools.chain(*(p for p in pairs if reached & set(p))))
    assert reached == set(range(12))


def test_equal_points_and_few():
    assert kept.neighbours(np.zeros((0, 2))) == []
    assert kept.neighbours([[1.0, 2.0]]) == []
    assert (0, 1) in kept.neighbours([[1.0, 2.0], [1.0, 2.0], [3.0, 1.0]])


# --- parameters of a mixture -------------------------------------------------------------------


def test_weights_are_mixed_and_other_values_are_those_of_the_largest_share():
    mixed = kept.mixed_params(SPACE, [params(0.8, 1e-3), params(0.2, 5e-3)], [0.25, 0.75])
    assert mixed[PATH] == pytest.approx({"a": 0.35, "b": 0.65})
    assert mixed[RATE] == 5e-3
    assert (
        kept.mixed_params(SPACE, [params(0.8, 1e-3), params(0.2, 5e-3)], [0.5, 0.5])[RATE] == 1e-3
    )
    space = {**SPACE, "kind": Choice(("x", "y"))}
    both = [{**params(1.0), "kind": "x"}, {**params(0.0), "kind": "y"}]
    assert kept.mixed_params(space, both, [0.1, 0.9])["kind"] == "y"


def test_what_was_proposed_is_known_from_anywhere():
    known = history([seen(0, (0.5, 5.0)), soup(1, (0.5, 5.0), {(0, 40): 1.0})])
    later = kept.with_proposal(known, Proposal(params(0.3)))
    found = kept.proposals_so_far(later)
    assert list(found) == [0, 1, 2]
    assert [p.soup for p in found.values()] == [False, True, False]
    assert later.proposed == 3
    assert list(known.made) == [0, 1], "the history is left alone"


def test_names():
    assert seen(3, (0, 0)).name == "t03"
    assert seen(3, (0, 0), step=15, full=False).name == "t03-s15"
    assert str(kept.Value(0.5, 0.02)) == "0.500 ± 0.020"
    assert kept.checkpoint(seen(3, (0, 0))) == (3, 40)
