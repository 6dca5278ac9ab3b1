"""The numbers of a front: utilities against the base policy, hypervolume, and their tables."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from moalign import Objective, pareto
from moalign.reporting import pick
from moalign.reporting.front import (
    before_note,
    build_front,
    choice_rows,
    front_rows,
    hypervolume_sentences,
    mean_difference,
    threshold_note,
)
from moalign.reporting.page import front_html
from moalign.reporting.points import read_points, to_csv
from moalign.reporting.report import report_text
from moalign.reporting.statistics import paired_difference
from moalign.study.study import report_preferences

MakeRun = Callable[..., Any]

TRIALS = {0: {30: (0.9, 0.1)}, 1: {30: (0.8, 0.6)}, 2: {30: (0.3, 0.8)}, 3: {15: (0.2, 0.2)}}


def build(run: Any, **options: Any) -> Any:
    table = read_points(run)
    wanted = report_preferences("default", table.names)
    return build_front(table, wanted, **{"resamples": 100, "seed": 0} | options)


def test_points_are_chosen_on_validation_and_measured_on_test(make_run: MakeRun) -> None:
    front = build(make_run(trials=TRIALS))
    assert front.split == "test"
    for choice in front.choices:
        weights = [choice.preference[n] for n in ("a", "b")]
        rows = {
            p.id: pareto.utility([p.means_K(["a", "b"])], weights)[0] for p in front.table.front
        }
        assert choice.point.id == max(rows, key=lambda name: rows[name])
        tested = pareto.utility([choice.point.means_K(["a", "b"], "test")], weights)[0]
        assert choice.utility.value == pytest.approx(tested)
        assert choice.difference.value == pytest.approx(choice.utility.value - choice.base.value)
        assert choice.difference.low < choice.difference.value < choice.difference.high


def test_the_difference_is_paired(make_run: MakeRun) -> None:
    """Units vary much and alike for all points: a paired interval does not see that."""
    choice = build(make_run(trials=TRIALS, noise=0.2)).choices[0]
    assert choice.difference.stderr < choice.utility.stderr / 2


def test_utility_of_one_objective_is_its_normalised_mean(make_run: MakeRun) -> None:
    objectives = (Objective("a", (0.0, 1.0)), Objective("cost", (-10.0, 10.0)))
    trials = {0: {30: (0.9, 0.0)}, 1: {30: (0.1, 5.0)}}
    table = read_points(make_run(trials=trials, objectives=objectives, base=(0.1, -5.0)))
    (choice,) = build_front(table, [{"a": 0.0, "cost": 1.0}], resamples=100, seed=0).choices
    values = choice.point.values("test")["cost"]
    assert choice.utility.value == pytest.approx((values.mean + 10) / 20)
    assert choice.utility.stderr == pytest.approx(values.stderr / 20)
    base = table.base.units_UK(["cost"], "test")
    paired = paired_difference(choice.point.units_UK(["cost"], "test"), base)
    assert choice.difference.low == pytest.approx(paired.low_K[0] / 20)


def test_the_expected_utility_is_the_mean_over_the_preferences(make_run: MakeRun) -> None:
    front = build(make_run(trials=TRIALS))
    values = [choice.difference.value for choice in front.choices]
    assert front.expected.value == pytest.approx(np.mean(values))
    largest = max(choice.difference.stderr for choice in front.choices)
    assert 0 < front.expected.stderr <= largest + 1e-12


def test_one_preference_makes_the_mean_its_own_difference(make_run: MakeRun) -> None:
    table = read_points(make_run(trials=TRIALS))
    front = build_front(table, [{"a": 0.3, "b": 0.7}], resamples=100, seed=0)
    assert front.expected == front.choices[0].difference
    sides = [(np.zeros((4, 2)), {"a": 0.3, "b": 0.7})]
    assert mean_difference(sides, sides, table).value == 0.0


def test_before_test_validation_reports_and_says_so(make_run: MakeRun) -> None:
    front = build(make_run(trials=TRIALS, test=False, closed=None))
    assert front.split == "validation"
    assert "on validation: descriptive" in hypervolume_sentences(front)


def test_hypervolume_is_of_the_front_points(make_run: MakeRun) -> None:
    front = build(make_run(trials=TRIALS))
    values = [p.means_K(["a", "b"], "test") for p in front.table.front]
    assert front.hypervolume.raw == pytest.approx(pareto.hypervolume(values, (0.0, 0.0)))
    assert front.hypervolume.low < front.hypervolume.corrected < front.hypervolume.high
    objectives = (Objective("a", (0.0, 1.0), reference=0.25), Objective("b", (0.0, 1.0)))
    other = build(make_run("other", trials=TRIALS, objectives=objectives))
    assert other.hypervolume.raw == pytest.approx(pareto.hypervolume(values, (0.25, 0.0)))


def test_what_the_last_quarter_of_the_trials_added_is_told(make_run: MakeRun) -> None:
    early = {n: {30: (0.1 + 0.1 * n, 0.7 - 0.1 * n)} for n in range(7)}
    table = read_points(make_run(trials=early))
    assert build_front(table, [{"a": 0.5, "b": 0.5}], resamples=100, seed=0).lately is None
    late = early | {7: {30: (0.9, 0.9)}, 8: {30: (0.05, 0.05)}}
    front = build(make_run("other", trials=late))
    assert front.lately is not None
    assert (front.lately.trials, front.lately.of) == (3, 9)  # trial 6 is one of them
    means = {p.trial: p.means_K(["a", "b"]) for p in front.table.points}
    before = pareto.hypervolume([means[n] for n in range(6)], (0.0, 0.0))
    after = pareto.hypervolume(list(means.values()), (0.0, 0.0))
    assert front.lately.gain.raw == pytest.approx(after - before)
    told = hypervolume_sentences(front)
    assert "The last 3 of 9 trials added +0." in told
    assert "noise alone" not in told
    dominated = late | {6: {30: (0.05, 0.1)}, 7: {30: (0.1, 0.05)}}
    told = hypervolume_sentences(build(make_run("third", trials=dominated)))
    assert "on validation, which noise alone may explain; --trials adds more" in told


def test_choices_keep_the_studys_threshold(make_run: MakeRun) -> None:
    objectives = (Objective("a", (0.0, 1.0)), Objective("b", (0.0, 1.0), at_least=0.5))
    front = build(make_run(trials=TRIALS, objectives=objectives))
    assert "t00" not in {choice.point.id for choice in front.choices}
    assert pick.candidates(front.table) != list(front.table.front)
    _, rows = front_rows(front.table)
    assert rows[0][0] == "t00"
    assert rows[0][2].endswith(" *"), "below the threshold"
    assert not rows[1][2].endswith("*")


def test_tables_as_text(make_run: MakeRun) -> None:
    front = build(make_run(trials=TRIALS))
    header, rows = front_rows(front.table)
    assert header == ["point", "a", "b", "weights", "learning_rate", "trial", "steps"]
    assert [row[0] for row in rows] == ["t00", "t01", "t02", "base"]
    assert rows[0][3:] == [".50/.50", "0.0003", "0", "30"]
    assert rows[-1][3:] == ["", "", "", "0"]
    value = front.table.front[0].values()["a"]
    assert rows[0][1] == f"{value.mean:.3f} ± {value.stderr:.3f}"
    header, rows = choice_rows(front)
    assert [row[0] for row in rows] == ["equal weights", "a .60, b .40", "a .40, b .60", "mean"]
    assert all(len(row) == len(header) for row in rows)


def searched(make_run: MakeRun, params: dict[str, Any], **options: Any) -> Any:
    """A table whose trials have these parameters, and no others."""
    run = make_run(trials=TRIALS, **options)
    for trial in run.trials.values():
        trial.proposal.params.clear()
        trial.proposal.params.update(params)
    return read_points(run)


def test_the_ends_of_a_schedule_stand_under_their_names(make_run: MakeRun) -> None:
    ends = {"weighting.start": {"a": 0.2, "b": 0.8}, "weighting.end": {"a": 1.0, "b": 0.0}}
    own = {"weighting": {"schedule": {"start": None, "end": None}}}
    table = searched(make_run, ends, study=own)
    header, rows = front_rows(table)
    assert header == ["point", "a", "b", "start", "end", "trial", "steps"]
    assert rows[0][3:] == [".20/.80", "1.00/.00", "0", "30"]
    assert rows[-1][3:] == ["", "", "", "0"]
    first = to_csv(table).splitlines()
    cells = dict(zip(first[0].split(","), first[2].split(","), strict=True))
    assert cells["weighting.start.b"] == "0.8"
    assert cells["weighting.end.a"] == "1.0"
    assert "weight.a" not in cells


def test_weights_that_are_not_the_objectives_are_named(make_run: MakeRun) -> None:
    objectives = (Objective("a", (0, 1)), Objective("b", (0, 1)), Objective("c", (0, 1)))
    trials = {0: {30: (0.9, 0.1, 0.5)}}
    run = make_run(trials=trials, objectives=objectives, base=(0.5, 0.5, 0.5))
    run.trials[0].proposal.params.clear()
    weights = {"a": 0.2, "b": 0.8}
    run.trials[0].proposal.params.update(
        {"weighting.preference": weights, "weighting.end": weights}
    )
    assert front_rows(read_points(run))[0][4:6] == ["weights a/b", "end a/b"]


@pytest.mark.parametrize(
    ("paths", "headings"),
    [
        (["objectives.a.at_least", "objectives.b.at_least"], ["a.at_least", "b.at_least"]),
        (["training.clip_norm", "training.optimizer.clip"], ["clip_norm", "clip"]),
        (["weighting.steps", "weighting.a"], ["weighting.steps", "weighting.a"]),
        (["training.rate", "weighting.rate", "x.training.rate"],
         ["training.rate", "weighting.rate", "x.training.rate"]),
    ],
)  # fmt: skip
def test_headings_are_the_shortest_ends_that_name_nothing_else(
    make_run: MakeRun, paths: list[str], headings: list[str]
) -> None:
    header, _ = front_rows(searched(make_run, dict.fromkeys(paths, 0.25)))
    found = header[4:-2]  # after the point, a, b and the weights
    assert [h for h, _ in zip(found, headings, strict=True)] == headings
    assert len(set(header)) == len(header)


def test_the_star_is_explained(make_run: MakeRun) -> None:
    plain = (Objective("a", (0.0, 1.0)), Objective("b", (0.0, 1.0)))
    assert threshold_note(searched(make_run, {}, objectives=plain)) == ""
    limited = (Objective("a", (0.0, 1.0), at_least=0.4), Objective("b", (0.0, 1.0), at_least=0.5))
    told = "* below the study's threshold (a at least 0.4, b at least 0.5)"
    table = searched(make_run, {"training.rate": 1}, name="two", objectives=limited)
    assert threshold_note(table) == told
    for (a, b), end in (
        ((None, 0.9), "(b at least 0.9); no point meets it, so picks leave it aside"),
        ((0.9, 0.9), "(a at least 0.9, b at least 0.9); no point meets them all, so picks leave "
         "them aside"),
    ):  # fmt: skip
        high = (Objective("a", (0.0, 1.0), at_least=a), Objective("b", (0.0, 1.0), at_least=b))
        table = searched(make_run, {"training.rate": 1}, name=f"high-{a}", objectives=high)
        assert threshold_note(table).endswith(end)
    own = {"objectives.a.at_least": 0.1, "objectives.b.at_least": 0.2}
    table = searched(make_run, own, name="three", objectives=limited)
    assert threshold_note(table) == (
        f"{told}, which picks keep to; what a trial was to keep stands under a.at_least, b.at_least"
    )
    one = searched(make_run, {"objectives.b.at_least": 0.2}, name="four", objectives=limited)
    assert threshold_note(one).endswith("stands under at_least")
    assert html.escape(threshold_note(one)) in front_html(
        build_front(one, [{"a": 0.5, "b": 0.5}], resamples=100, seed=0)
    )


def test_what_was_spent_before_training_is_told_once(make_run: MakeRun) -> None:
    run = make_run(trials=TRIALS)
    assert before_note(read_points(run)) == ""
    assert "Before training" not in report_text(run, build(run), {})
    memory, artifact = run.folder.prepared_artifact("x-0"), run.folder.artifacts / "x-1"
    artifact.mkdir(parents=True)
    memory.write_text('{"artifact": "x-1"}')
    (artifact / "cost.json").write_text('{"forwarded": 12345}')
    told = (
        "Before training 0 tokens were sampled and 12,345 passed forward, once for all trials; no "
        "trial's cost has them."
    )
    front = build(run)
    assert before_note(front.table) == told
    assert report_text(run, front, {}).count(told) == 1
    assert front_html(front).count(html.escape(told)) == 1


def test_places_follow_the_bounds(make_run: MakeRun) -> None:
    objectives = (Objective("a", (0.0, 1.0)), Objective("length", (-100.0, 0.0)))
    trials = {0: {30: (0.5, -50.0)}}
    table = read_points(make_run(trials=trials, objectives=objectives, noise=0.0))
    assert front_rows(table)[1][0][1:3] == ["0.500 ± 0.000", "-50.0 ± 0.0"]
