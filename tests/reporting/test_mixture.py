"""Mixtures of a front's points: what they reach, which is picked, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from moalign import Objective, pareto
from moalign.errors import StudyError
from moalign.reporting import mixture, pick
from moalign.reporting.front import Front, build_front
from moalign.reporting.points import PointTable, read_points
from moalign.reporting.statistics import mean_and_stderr

MakeRun = Callable[..., Any]

TRIALS = {0: {30: (0.9, 0.1)}, 1: {30: (0.8, 0.6)}, 2: {30: (0.3, 0.8)}, 3: {30: (0.5, 0.7)}}
NAMES = ["a", "b"]


@pytest.fixture
def table(make_run: MakeRun) -> PointTable:
    return read_points(make_run(trials=TRIALS))


def front_of(table: PointTable) -> Front:
    preferences = [{"a": 0.5, "b": 0.5}, {"a": 0.9, "b": 0.1}]
    return build_front(table, preferences, resamples=10, seed=0)


def shares(found: mixture.Mixture) -> dict[str, float]:
    return {point.id: share for point, share in found.parts}


def means(found: mixture.Mixture) -> list[float]:
    values = found.values()
    return [values[name].mean for name in NAMES]


# --- what mixtures reach -----------------------------------------------------------------------


def test_the_points_that_mixtures_need(table: PointTable) -> None:
    found = mixture.reach(front_of(table))
    assert [point.id for point in found.corners] == ["t00", "t01", "t02"]
    assert list(found.instead) == ["t03"]
    instead = mixture.Mixture(found.instead["t03"], ())
    assert set(shares(instead)) == {"t01", "t02"}
    assert (np.array(means(instead)) > table.points[3].means_K(NAMES)).all()
    header, rows = mixture.reach_rows(found)
    assert header == ["point", "a", "b", "mixtures"]
    assert [row[0] for row in rows] == ["t00", "t01", "t03", "t02"]
    assert [row[-1][:7] for row in rows] == ["needed", "needed", "as good", "needed"]


def test_hypervolume_and_utility_of_mixtures(table: PointTable) -> None:
    front = front_of(table)
    found = mixture.reach(front)
    assert found.split == "test"
    unit_NK = [point.means_K(NAMES, "test") for point in table.front]
    assert found.points == pytest.approx(front.hypervolume.raw)
    assert found.mixtures == pareto.hull_hypervolume(unit_NK, [0, 0]) > found.points
    assert found.utility == pytest.approx(np.mean([c.utility.value for c in front.choices]))
    first, second = mixture.reach_sentences(found)
    assert first.startswith(f"Hypervolume {found.mixtures:.3f} of the mixtures, {found.points:.3f}")
    assert second.startswith(f"Expected utility {found.utility:.3f} on test, of mixtures as of")


def test_fronts_of_one_and_two_points(make_run: MakeRun) -> None:
    one = mixture.reach(front_of(read_points(make_run("one", trials={0: {30: (0.9, 0.4)}}))))
    assert (len(one.corners), one.instead) == (1, {})
    assert one.mixtures == pytest.approx(one.points)
    two = {0: {30: (1.0, 0.0)}, 1: {30: (0.0, 1.0)}}
    found = mixture.reach(front_of(read_points(make_run("two", trials=two, noise=0.0))))
    assert len(found.corners) == 2
    assert (found.points, found.mixtures) == pytest.approx((0.0, 0.5))


def test_thresholds_are_left_aside_in_the_expected_utility(make_run: MakeRun) -> None:
    objectives = (Objective("a", (0.0, 1.0)), Objective("b", (0.0, 1.0), at_least=0.5))
    table = read_points(make_run(trials=TRIALS, objectives=objectives))
    found = mixture.reach(front_of(table))
    assert "on test, thresholds aside, of mixtures" in mixture.reach_sentences(found)[1]
    free = mixture.reach(front_of(read_points(make_run("free", trials=TRIALS))))
    assert found.utility == pytest.approx(free.utility)


# --- picking -----------------------------------------------------------------------------------


def test_a_threshold_that_few_points_meet_is_met_in_the_mean(table: PointTable) -> None:
    found = mixture.pick_mixture(table, at_least={"a": 0.85})
    assert set(shares(found)) == {"t00", "t01"}
    a, b = means(found)
    assert a == pytest.approx(0.85)
    single = pick.pick(table, at_least={"a": 0.85}).point
    assert single is not None
    assert b > single.values()["b"].mean + 0.2
    rule, against, margin = found.reasons
    assert rule == (
        f"It has the highest utility on validation for equal weights: {(a + b) / 2:.3f}."
    )
    less = (a + b) / 2 - sum(single.means_K(NAMES)) / 2
    assert against.startswith(f"The best single point, t00, has {less:.3f} less (95 % interval")
    assert margin.startswith("It just has a >= 0.85 on validation; ask for a little more")


def test_thresholds_that_only_mixtures_meet(table: PointTable) -> None:
    found = mixture.pick_mixture(table, prefer={"a": 1}, at_least={"a": 0.6, "b": 0.62})
    assert means(found)[1] == pytest.approx(0.62)
    assert means(found)[0] > 0.6
    assert "No single point of the front has a >= 0.6 and b >= 0.62." in found.reasons


def test_thresholds_that_no_mixture_meets(table: PointTable) -> None:
    found = mixture.pick_mixture(table, at_least={"a": 0.85, "b": 0.6})
    assert found.parts == ()
    assert found.values() == {}
    start = "No mixture of the front's points has a >= 0.85 and b >= 0.6; the closest, t01 9"
    assert found.reasons[0].startswith(start)
    found = mixture.pick_mixture(table, at_least={"a": 0.95})
    top = table.points[0].values()["a"].mean
    assert found.reasons == (
        f"No mixture of the front's points has a >= 0.95; the closest, t00, has a {top:.3f}.",
    )


def test_a_preference_alone_needs_no_mixture(table: PointTable) -> None:
    for wanted in ({"a": 1.0}, {"a": 1.0, "b": 1.0}, {"b": 1.0}, None):
        found = mixture.pick_mixture(table, prefer=wanted)
        chosen = pick.pick(table, prefer=wanted).point
        assert chosen is not None
        assert shares(found) == {chosen.id: 1.0}
        assert found.reasons[1].startswith(f"It is a point, {chosen.id}; no mixture is better: wi")


def test_the_worst_group_of_mixtures_is_level(table: PointTable) -> None:
    found = mixture.pick_mixture(table, rule="worst-group")
    a, b = means(found)
    assert a == pytest.approx(b)
    single = pick.pick(table, rule="worst-group").point
    assert single is not None
    assert a > min(single.means_K(NAMES)) + 0.03
    assert found.reasons[0].startswith(f"Its worst objective is the best: a and b, {a:.3f} of the")
    assert found.reasons[1].startswith("The best single point, t01, has 0.0")


def test_mixtures_negotiate(make_run: MakeRun) -> None:
    ends = {0: {30: (1.0, 0.0)}, 1: {30: (0.0, 1.0)}}
    table = read_points(make_run("ends", trials=ends, base=(0.1, 0.1), noise=0.0))
    found = mixture.pick_mixture(table, rule="negotiated")
    assert means(found) == pytest.approx([0.5, 0.5], abs=1e-4)
    assert found.reasons[1] == "No single point gains on the base policy in every objective."
    assert pick.pick(table, rule="negotiated").point is None
    limited = mixture.pick_mixture(table, rule="negotiated", at_least={"a": 0.7})
    assert means(limited) == pytest.approx([0.7, 0.3], abs=1e-4)
    table = read_points(make_run("good", trials=ends, base=(0.6, 0.6), noise=0.0))
    found = mixture.pick_mixture(table, rule="negotiated")
    assert found.parts == ()
    assert "; the closest, t00 50.0 %, t01 50.0 %, has a -0.100, b -0.100 in" in found.reasons[0]


def test_the_studys_own_threshold_holds_unless_no_mixture_meets_it(make_run: MakeRun) -> None:
    def table(at_least: float) -> PointTable:
        objectives = (Objective("a", (0.0, 1.0)), Objective("b", (0.0, 1.0), at_least=at_least))
        return read_points(make_run(f"b{at_least}", trials=TRIALS, objectives=objectives))

    half = table(0.62)
    found = mixture.pick_mixture(half, prefer={"a": 1})
    assert means(found)[1] == pytest.approx(0.62)
    found = mixture.pick_mixture(half, prefer={"a": 1}, at_least={"b": 0.0})
    assert shares(found) == {"t00": 1.0}
    found = mixture.pick_mixture(table(0.9), prefer={"a": 1})
    assert shares(found) == {"t00": 1.0}
    assert "No mixture meets the study's b >= 0.9, so it was left aside." in found.reasons


def test_a_threshold_on_a_monitored_objective(make_run: MakeRun) -> None:
    objectives = (
        Objective("a", (0.0, 1.0)),
        Objective("b", (0.0, 1.0)),
        Objective("m", None, train=False, front=False),
    )
    trials = {0: {30: (0.9, 0.1, 40.0)}, 1: {30: (0.1, 0.9, 10.0)}}
    table = read_points(
        make_run(trials=trials, objectives=objectives, base=(0.5, 0.5, 0.0), noise=0.0)
    )
    found = mixture.pick_mixture(table, prefer={"b": 1}, at_least={"m": 25.0})
    assert shares(found) == pytest.approx({"t00": 0.5, "t01": 0.5})
    assert found.values()["m"].mean == pytest.approx(25.0)


def test_values_and_errors_are_those_of_the_mixed_units(table: PointTable) -> None:
    found = mixture.pick_mixture(table, rule="worst-group")
    for split in ("validation", "test"):
        mixed = sum(share * p.units_UK(NAMES, split) for p, share in found.parts)
        mean_K, stderr_K = mean_and_stderr(mixed)
        values = found.values(split)
        assert [values[name].mean for name in NAMES] == pytest.approx(mean_K)
        assert [values[name].stderr for name in NAMES] == pytest.approx(stderr_K)


def test_test_stays_empty_where_it_was_not_measured(make_run: MakeRun) -> None:
    found = mixture.pick_mixture(read_points(make_run(trials=TRIALS, test=False)))
    assert found.values("test") == {}
    assert set(found.values()) == {"a", "b"}


def test_no_mixture_uses_more_points_than_there_are_objectives(make_run: MakeRun) -> None:
    rng = np.random.default_rng(0)
    rows = np.abs(rng.normal(size=(9, 3)))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    objectives = tuple(Objective(name, (0.0, 1.0)) for name in "abc")
    trials = {i: {30: tuple(row)} for i, row in enumerate(rows)}
    table = read_points(make_run(trials=trials, objectives=objectives, base=(0.1, 0.1, 0.1)))
    for asked in ({"rule": "worst-group"}, {"rule": "negotiated"}, {"at_least": {"a": 0.62}}):
        assert 1 <= len(mixture.pick_mixture(table, **asked).parts) <= 3, asked


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"prefer": {"c": 1}}, "a preference names 'c'; allowed: a, b"),
        ({"at_least": {"aa": 1}}, "a threshold names 'aa'; did you mean 'a'"),
        ({"rule": "knee"}, "mixtures have no knee"),
        ({"prefer": {"a": 1}, "rule": "worst-group"}, "give only one of them"),
    ],
)
def test_mistakes(table: PointTable, asked: dict[str, Any], text: str) -> None:
    with pytest.raises(StudyError) as error:
        mixture.pick_mixture(table, **asked)
    assert text in str(error.value)


def test_shares_as_text(table: PointTable) -> None:
    first, second = table.points[:2]
    assert mixture.say_parts(((first, 0.625), (second, 0.375))) == "t00 62.5 %, t01 37.5 %"
    assert mixture.say_parts(((first, 1.0),)) == "t00"
