"""Picking a point: preferences, thresholds, rules, ties, and what cannot be had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from moalign import Objective
from moalign.errors import StudyError
from moalign.reporting import pick
from moalign.reporting.points import PointTable, read_points

MakeRun = Callable[..., Any]

TRIALS = {0: {30: (0.9, 0.1)}, 1: {30: (0.8, 0.6)}, 2: {30: (0.3, 0.8)}}


@pytest.fixture
def table(make_run: MakeRun) -> PointTable:
    return read_points(make_run(trials=TRIALS))


def chosen(found: pick.Pick) -> str:
    assert found.point is not None, found.reasons
    return found.point.id


def test_a_preference_takes_the_highest_utility(table: PointTable) -> None:
    assert chosen(pick.pick(table, prefer={"a": 30, "b": 1})) == "t00"
    assert chosen(pick.pick(table, prefer={"a": 1, "b": 1})) == "t01"
    assert chosen(pick.pick(table, prefer={"b": 1})) == "t02"
    assert chosen(pick.pick(table)) == "t01", "without a preference all weigh the same"


def test_utility_is_in_normalised_units(make_run: MakeRun) -> None:
    objectives = (Objective("a", (0.0, 1.0)), Objective("length", (-100.0, 0.0)))
    trials = {0: {30: (0.9, -50.0)}, 1: {30: (0.2, -1.0)}}
    table = read_points(make_run(trials=trials, objectives=objectives, base=(0.1, -90.0)))
    assert chosen(pick.pick(table, prefer={"a": 1, "length": 1})) == "t00", ".70 against .595"


def test_the_reason_names_preference_and_utility(table: PointTable) -> None:
    found = pick.pick(table, prefer={"a": 3, "b": 1})
    a, b = table.points[1].means_K(["a", "b"])
    expected = f"It has the highest utility on validation for a .75, b .25: {(3 * a + b) / 4:.3f}."
    assert (chosen(found), found.reasons[0]) == ("t01", expected)


def test_what_might_be_as_good_is_said(make_run: MakeRun) -> None:
    trials = {0: {30: (0.801, 0.6)}, 1: {30: (0.8, 0.601)}, 2: {30: (0.3, 0.8)}}
    found = pick.pick(read_points(make_run(trials=trials)), prefer={"a": 1, "b": 1})
    assert len(found.reasons) == 2
    rival = "t01" if chosen(found) == "t00" else "t00"
    assert found.reasons[1].startswith(f"Not certainly worse there: {rival} (")
    assert "t02" not in found.reasons[1]


def test_equal_utilities_go_to_the_earlier_trial(make_run: MakeRun) -> None:
    trials = {0: {30: (0.3, 0.7)}, 1: {30: (0.7, 0.3)}}
    table = read_points(make_run(trials=trials, noise=0.0))
    assert chosen(pick.pick(table, prefer={"a": 1, "b": 1})) == "t00"


def test_thresholds_come_first(table: PointTable) -> None:
    assert chosen(pick.pick(table, prefer={"b": 1}, at_least={"a": 0.5})) == "t01"
    assert chosen(pick.pick(table, at_least={"a": 0.85})) == "t00"


def test_a_threshold_nobody_meets(table: PointTable) -> None:
    found = pick.pick(table, at_least={"a": 0.95})
    assert found.point is None
    top = table.points[0].values()["a"].mean
    assert found.reasons == (
        f"No point of the front has a of at least 0.95; the highest is {top:.3f} (t00).",
    )
    found = pick.pick(table, at_least={"a": 0.85, "b": 0.7})
    assert found.point is None
    assert found.reasons[0].startswith("No point of the front has a >= 0.85 and b >= 0.7; one by")


def test_the_studys_own_threshold_holds_unless_nobody_meets_it(make_run: MakeRun) -> None:
    def table(at_least: float) -> PointTable:
        objectives = (Objective("a", (0.0, 1.0)), Objective("b", (0.0, 1.0), at_least=at_least))
        return read_points(make_run(f"b{at_least}", trials=TRIALS, objectives=objectives))

    half, most = table(0.5), table(0.99)
    assert chosen(pick.pick(half, prefer={"a": 1})) == "t01"
    assert chosen(pick.pick(half, prefer={"a": 1}, at_least={"b": 0.0})) == "t00"
    found = pick.pick(most, prefer={"a": 1})
    assert chosen(found) == "t00"
    assert (
        "No point of the front meets the study's b >= 0.99, so it was left aside." in found.reasons
    )


def test_the_knee(table: PointTable) -> None:
    found = pick.pick(table, rule="knee")
    assert chosen(found) == "t01"
    assert found.reasons[0].startswith("It is the knee: the point farthest beyond")


def test_one_or_two_points_have_no_knee(make_run: MakeRun, table: PointTable) -> None:
    two = read_points(make_run("two", trials={0: TRIALS[0], 1: TRIALS[2]}))
    found = pick.pick(two, rule="knee")
    assert chosen(found) == "t00"
    assert found.reasons[0].startswith("There are two points to choose from, both extremes, so")
    found = pick.pick(table, rule="knee", at_least={"a": 0.85})
    assert chosen(found) == "t00"
    assert found.reasons == ("It is the only point to choose, so there is no knee.",)


def test_the_worst_group(table: PointTable) -> None:
    found = pick.pick(table, rule="worst-group")
    assert chosen(found) == "t01"
    b = table.points[1].values()["b"].mean
    assert found.reasons == (
        f"Its worst objective is the best: b, {b:.3f} of the way from the lower bound to the "
        "upper.",
    )
    found = pick.pick(table, rule="worst-group", at_least={"a": 0.85})
    assert chosen(found) == "t00"
    assert found.reasons[1] == "It is the only point to choose."


def test_the_worst_group_is_found_in_units_of_the_bounds(make_run: MakeRun) -> None:
    objectives = (Objective("a", (0.0, 1.0)), Objective("length", (-100.0, 0.0)))
    trials = {0: {30: (0.9, -70.0)}, 1: {30: (0.4, -50.0)}}
    table = read_points(make_run(trials=trials, objectives=objectives, base=(0.1, -90.0)))
    assert chosen(pick.pick(table, rule="worst-group")) == "t01", ".4 against .3"


def test_the_worst_group_of_equal_points(make_run: MakeRun) -> None:
    trials = {0: {30: (0.3, 0.6)}, 1: {30: (0.7, 0.3)}, 2: {30: (0.3, 0.7)}}
    table = read_points(make_run(trials=trials, noise=0.0))
    assert chosen(pick.pick(table, rule="worst-group")) == "t01", "highest sum, earliest trial"


def test_what_might_be_as_good_by_a_rule_is_said(make_run: MakeRun) -> None:
    trials = {0: {30: (0.8, 0.602)}, 1: {30: (0.81, 0.6)}, 2: {30: (0.3, 0.8)}}
    table = read_points(make_run(trials=trials))
    for rule, best, rival in (("worst-group", "t00", "t01"), ("negotiated", "t01", "t00")):
        found = pick.pick(table, rule=rule)
        assert chosen(found) == best, rule
        assert found.reasons[1].startswith(f"Not certainly worse there: {rival} ("), rule
        assert "t02" not in found.reasons[1]


def test_a_lead_is_paired_over_the_units(make_run: MakeRun) -> None:
    table = read_points(make_run(trials=TRIALS, noise=0.2))
    b, a = (p.units_UK(["a", "b"], "validation") for p in table.points[:2])
    for rule in ("preference", "worst-group", "negotiated"):
        found = pick.lead(table, rule, {"a": 0.5, "b": 0.5}, a, b)
        assert found.low < found.value < found.high
        # The noise that all points share is 0.2 / sqrt(40), that of each its fifth.
        assert 0 < found.stderr < 0.02, rule
        same = pick.lead(table, rule, {"a": 0.5, "b": 0.5}, a, a)
        assert (same.value, same.low, same.high) == (0, 0, 0), rule
    worst = pick.lead(table, "worst-group", {"a": 0.5, "b": 0.5}, a, b)
    assert worst.value == pytest.approx(a.mean(0).min() - b.mean(0).min())


def test_negotiated(make_run: MakeRun) -> None:
    # Gains over (.2, .1): .7 x .05, .6 x .2, .1 x .7; the base policy moved, others gain more.
    trials = {0: {30: (0.9, 0.15)}, 1: {30: (0.8, 0.3)}, 2: {30: (0.3, 0.8)}}
    table = read_points(make_run("low", trials=trials, base=(0.2, 0.1), noise=0.01))
    found = pick.pick(table, rule="negotiated")
    assert chosen(found) == "t01"
    assert found.reasons[0].startswith(
        "It has the largest product of gains over the base policy: a +0.600, b +0.200 in units of "
        "the bounds, 0.346 as their geometric mean."
    )
    table = read_points(make_run("high", trials=trials, base=(0.2, 0.28), noise=0.01))
    assert chosen(pick.pick(table, rule="negotiated")) == "t02", ".1 x .52 against .6 x .02"


def test_nothing_to_negotiate(make_run: MakeRun) -> None:
    table = read_points(make_run(trials=TRIALS, base=(0.82, 0.59), noise=0.01))
    found = pick.pick(table, rule="negotiated")
    assert found.point is None
    assert found.reasons[0].startswith(
        "No point that can be chosen gains on the base policy in every objective, so there is "
        "nothing to agree on; t01 comes nearest, with a -0.020, b +0.010 in units of the bounds."
    )


def test_a_base_policy_that_was_not_measured_cannot_be_negotiated_with(make_run: MakeRun) -> None:
    table = read_points(make_run(trials=TRIALS, base=(float("nan"), 0.5)))
    with pytest.raises(StudyError, match="needs the base policy's a, which was not measured"):
        pick.pick(table, rule="negotiated")
    assert chosen(pick.pick(table, rule="worst-group")) == "t01"


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"prefer": {"c": 1}}, "a preference names 'c'; allowed: a, b"),
        ({"prefer": {"a": -1}}, "the preference for 'a' must be finite and >= 0; found -1"),
        ({"prefer": {"a": 0}}, "a preference needs a weight above 0 for one of a, b"),
        ({"at_least": {"aa": 1}}, "a threshold names 'aa'; did you mean 'a'"),
        ({"prefer": {"a": 1}, "rule": "knee"}, "give only one of them"),
        ({"prefer": {"a": 1}, "rule": "negotiated"}, "or the rule 'negotiated'; give only one"),
    ],
)
def test_mistakes(table: PointTable, asked: dict[str, Any], text: str) -> None:
    with pytest.raises(StudyError) as error:
        pick.pick(table, **asked)
    assert text in str(error.value)


def test_preferences_as_text() -> None:
    assert pick.say({"a": 0.5, "b": 0.5}) == "equal weights"
    assert pick.say({"a": 0.75, "b": 0.25, "c": 0.0}) == "a .75, b .25"
    assert pick.say({"a": 1.0}) == "a 1.00"
