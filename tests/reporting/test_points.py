"""The table of points: membership, names, weights, and the CSV made from it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import pytest

from moalign import Objective
from moalign.errors import RecordError
from moalign.reporting.points import read_points, to_csv
from moalign.types import BASE

MakeRun = Callable[..., Any]


def test_membership_is_decided_on_validation(make_run: MakeRun) -> None:
    table = read_points(make_run())
    assert [(p.id, p.front) for p in table.points] == [
        ("t00", True),
        ("t01", True),
        ("t02-s15", False),
    ]
    assert [p.id for p in table.front] == ["t00", "t01"], "best in the first objective first"
    assert table.base.id == "base"
    assert not table.base.front


def test_values_are_means_with_errors(make_run: MakeRun) -> None:
    run = make_run()
    table = read_points(run)
    for point, seen in zip(table.points, run.observations(), strict=True):
        assert point.means_K(["a", "b"]) == pytest.approx(seen.values_K)
        assert [v.stderr for v in point.values().values()] == pytest.approx(seen.stderr_K)
    assert table.points[0].values("test")
    assert table.points[2].values("test") == {}, "test is read for the front only"
    assert table.complete("test")


def test_a_condition_is_a_point_with_its_own_weights(make_run: MakeRun) -> None:
    conditions = [{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}]
    table = read_points(make_run(trials={0: {30: (0.5, 0.5)}}, conditions=conditions))
    assert [p.id for p in table.points] == ["t00-c1", "t00-c2"]
    assert [p.weights for p in table.points] == conditions
    assert table.points[0].means_K(["a"]) > table.points[1].means_K(["a"])


def test_weights_come_from_the_study_if_nothing_searches_them(make_run: MakeRun) -> None:
    fixed = {"weighting": {"fixed": {"preference": {"a": 3.0, "b": 1.0}}}}
    run = make_run(study=fixed)
    for trial in run.trials.values():
        trial.proposal.params.pop("weighting.preference")
    assert read_points(run).points[0].weights == {"a": 0.75, "b": 0.25}
    run.opened[0].study["weighting"].update({"fixed": {"rate": 1.0}})
    assert read_points(run).points[0].weights is None, "a weighting without a preference"


def test_a_trial_with_a_weighting_of_its_own_has_no_weights(make_run: MakeRun) -> None:
    run = make_run(study={"weighting": {"fixed": {"preference": {"a": 3.0, "b": 1.0}}}})
    run.trials[0].proposal.settings["weighting"] = {"lagrangian": {"primary": "a"}}
    first, second, *_ = read_points(run).points
    assert (first.weights, bool(second.weights)) == (None, True)


def test_parameters_that_settings_replace_are_not_shown(make_run: MakeRun) -> None:
    run = make_run()
    proposal = run.trials[0].proposal
    proposal.params["weighting.temperature"] = 0.5
    kept = {path for path in proposal.params if not path.startswith("weighting.")}
    proposal.settings["weighting"] = {"lagrangian": {"primary": "a"}}
    point = read_points(run).points[0]
    assert set(point.settings()) == kept
    proposal.settings.clear()
    assert set(read_points(run).points[0].settings()) == {*kept, "weighting.temperature"}


def test_monitored_objectives_are_measured_but_no_axis(make_run: MakeRun) -> None:
    objectives = (
        Objective("a", (0.0, 1.0)),
        Objective("b", (0.0, 1.0)),
        Objective("tokens", None, train=False, front=False),
    )
    trials = {0: {30: (0.9, 0.2, 7.0)}, 1: {30: (0.8, 0.1, 9.0)}}
    table = read_points(make_run(trials=trials, objectives=objectives, base=(0.1, 0.1, 5.0)))
    assert table.names == ["a", "b"]
    assert [p.id for p in table.front] == ["t00"], "more tokens do not save t01"
    assert table.points[1].values()["tokens"].mean == pytest.approx(9.0, abs=0.05)


def test_csv_holds_every_point_and_reads_back_exactly(make_run: MakeRun) -> None:
    table = read_points(make_run())
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [row["point"] for row in rows] == ["base", "t00", "t01", "t02-s15"]
    assert [row["front"] for row in rows] == ["0", "1", "1", "0"]
    first = table.points[0]
    assert float(rows[1]["validation.a"]) == first.values()["a"].mean
    assert float(rows[1]["test.b.stderr"]) == first.values("test")["b"].stderr
    assert rows[3]["test.a"] == ""
    assert float(rows[1]["weight.a"]) == 0.5
    assert float(rows[1]["training.learning_rate"]) == 3e-4
    assert rows[1]["tokens.generated"] == "30000"
    assert rows[0]["trial"] == "", "the base policy is no trial"


def test_a_run_that_has_not_measured_its_base_policy(make_run: MakeRun) -> None:
    run = make_run()
    run.base = None
    with pytest.raises(RecordError, match="run toy has not measured its base policy yet"):
        read_points(run)


def test_a_damaged_file_is_named(make_run: MakeRun) -> None:
    run = make_run()
    path = run.folder.measurements(1, 30, "validation")
    path.write_text("{")
    with pytest.raises(RecordError, match=str(path)):
        read_points(run)


def test_a_base_policy_that_failed_says_why(make_run: MakeRun) -> None:
    from moalign.search import events
    from moalign.search.record import Record, read

    folder = make_run().folder
    lines = folder.events.read_text().splitlines(keepends=True)
    folder.events.write_text(lines[0])
    with pytest.raises(RecordError, match="has not measured its base policy yet"):
        read_points(read(folder))
    with Record(folder) as record:
        record.append(events.Failed(2.0, BASE, "reward a gave NaN", ""))
    with pytest.raises(RecordError, match="could not be measured: reward a gave NaN; mend that"):
        read_points(read(folder))
    folder.events.write_text(folder.events.read_text() + lines[0])
    with pytest.raises(RecordError, match="has not measured its base policy yet"):
        read_points(read(folder))  # another driver is trying
