"""The part of the search's benchmark that trains policies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from histories import history, params

from benchmarks.search import policies, policies_numbers, policies_report
from benchmarks.search.cells import Cell
from benchmarks.search.part import MODES, Planned, Room, Row
from moalign import plugins
from moalign.components import Strategy
from moalign.search import proposals
from moalign.strategies.kept import with_proposal
from moalign.study import bundled
from moalign.study.loading import load
from moalign.types import History, Proposal

STUDY = """
study: letters
task: two-letters
policy: small
objectives: {a: {reward: letter-share}, b: {reward: {letter-share: {letter: b}}}}
rollout: {eager: {max_tokens: 6}}
training: {steps: 13, prompts: 2, group: 8}
evaluation: {prompts: 8, samples: 1}
search: {trials: 1, space: {weighting.preference: simplex}}
report: {resamples: 100}
"""
LETTERS = Path(__file__).parent.parent / "support" / "letters.py"


def point(*values: float, soup: bool = False) -> dict[str, Any]:
    kinds = {"soup": soup, "continued": False}
    return {"trial": 0, "step": 1, "validation": list(values), "test": list(values), **kinds}


def front(steps: int, *points: dict[str, Any]) -> dict[str, Any]:
    return {"trials": steps // 40, "steps": steps, "generated": 10 * steps, "points": list(points)}


def row(entry: str, *fronts: dict[str, Any], seed: int = 0) -> Row:
    data = {
        "objectives": ["a", "b"],
        "bounds": [[0.0, 1.0], [0.0, 2.0]],
        "reference": [0.0, 0.0],
        "preferences": [[1.0, 0.0], [0.5, 0.5]],
        "fronts": list(fronts),
    }
    return Row("toy", entry, seed, data)


ROWS = [
    row("grid", front(200, point(0.5, 1.0)), front(600, point(1.0, 0.0), point(0.0, 2.0))),
    row("full method", front(120, point(0.9, 0.0)), front(200, point(0.8, 1.6, soup=True))),
]


def test_a_front_is_read_at_the_steps_it_had_taken():
    assert [policies_numbers.at(ROWS[0], steps).steps for steps in (599, 600, None)] == [200] + [
        600
    ] * 2
    assert policies_numbers.at(ROWS[0], 199) is None


def test_measures_are_in_units_of_the_bounds():
    end = policies_numbers.at(ROWS[0], None)
    found = policies_numbers.measures(ROWS[0], end)
    # Two corners: each utility is the best one's, nothing lies between, all of it by mixing.
    assert found["utility"] == pytest.approx((1.0 + 0.5) / 2)
    assert found["volume"] == pytest.approx(0.0)
    assert found["hull"] == pytest.approx(0.5)
    soup = policies_numbers.measures(ROWS[1], policies_numbers.at(ROWS[1], 200))
    assert soup["volume"] == soup["hull"] == pytest.approx(0.64)


def test_as_many_points_of_both_fronts_can_be_compared():
    def gap(measure: str, equal: bool) -> float:
        return policies_numbers.difference(
            ROWS, "toy", "full method", 200, measure, equal=equal
        ).value

    # Of the grid's corners one is left, which mixes with nothing.
    assert gap("hull", False) == pytest.approx(0.14)
    assert gap("hull", True) == pytest.approx(0.64)
    assert gap("volume", False) == gap("volume", True) == pytest.approx(0.64)


def test_no_method_keeps_to_a_threshold_that_the_measures_do_not_know():
    assert policies.unbound("arithmetic", plugins.load()) == ["objectives.clarity.at_least=null"]
    planned = policies.plan(MODES["full"], plugins.load())
    mine = [one for one in planned if one.cell.bed == "arithmetic"]
    for one in mine:
        study = load(*bundled.read("arithmetic"), plugins.load(), one.settings["overrides"])
        assert all(o.at_least is None for o in study.objectives)


def test_points_are_taken_for_the_volume_they_add():
    values = np.array([[0.1, 0.9], [0.5, 0.6], [0.9, 0.1]])
    assert policies_numbers.most_volume(values, [0.0, 0.0], 1) == [1]
    assert sorted(policies_numbers.most_volume(values, [0.0, 0.0], 9)) == [0, 1, 2]


def test_the_goal_is_the_grids_end_with_few_steps():
    utility, volume, hull = policies_report.goals(ROWS, "gp")
    assert utility.found.value == pytest.approx(0.8 - 0.75)
    assert volume.found.value == pytest.approx(0.64)
    assert hull.found.value == pytest.approx(0.64), "as many points of each"
    text = "\n".join(policies_report.section(ROWS, "gp", {"toy": "toy.png"}))
    assert "full method, at most 200 steps" in text
    assert "+0.050" in text
    assert "toy.png" in text
    assert policies_report.draw(ROWS)["toy"].startswith(b"\x89PNG")


def shifted(rows: list[Row], seed: int, by: float) -> list[Row]:
    """Return the rows as those of another seed, the full method's a little better or worse."""
    found = []
    for one in rows:
        ends = [
            front(f["steps"], *(point(*(v + by for v in p["test"])) for p in f["points"]))
            for f in one.data["fronts"]
        ]
        fronts = ends if one.entry == "full method" else one.data["fronts"]
        found.append(row(one.entry, *fronts, seed=seed))
    return found


@pytest.mark.parametrize(
    ("full", "said"),
    [
        (point(0.8, 1.6), "reach those of the grid at its end: a hypervolume of 0.64"),
        (point(0.3, 0.6), "do not reach those of the grid"),
        (point(0.5, 1.99), "can, over these seeds, not be told from those of the grid"),
    ],
)
def test_the_page_says_whether_mixtures_reach_the_grids(full: dict[str, Any], said: str):
    rows = [ROWS[0], row("full method", front(200, full))]
    every = [*rows, *shifted(rows, 1, 0.005), *shifted(rows, 2, 0.01)]
    text = "\n".join(policies_report.section(every, "gp", {}))
    assert f"Those of the full method at 200 steps {said}" in text
    alone = "\n".join(policies_report.section(rows, "gp", {}))
    assert "at the one seed there is, beside those of the grid" in alone
    assert "**Mixtures.**" not in "\n".join(policies_report.section(rows[:1], "gp", {}))


def test_soups_are_held_against_mixtures_of_what_was_there_before():
    trained = [point(1.0, 0.0), point(0.0, 2.0)]
    soups = [
        row("full method", front(80, *trained), {**front(80, *trained, point(*values, soup=True)),
                                                 "trials": 3})
        for values in ((0.4, 0.8), (0.6, 1.2))
    ]  # fmt: skip
    # Mixtures of the corners reach .5. A soup at (.4, .4) adds nothing; one at (.6, .6) bulges.
    hollow = policies_report._soups(soups[:1], "toy")
    assert "reach 0.500 when they are mixed" in hollow
    assert "unmixed, lie -0.340 from that, and mixed, +0.000" in hollow
    assert "unmixed, lie -0.140 from that, and mixed, +0.100" in policies_report._soups(
        soups[1:], "toy"
    )
    assert policies_report._soups([row("full method", front(80, *trained))], "toy") == ""


def test_methods_are_compared_at_the_tokens_of_the_grid():
    # A front of 200 steps has sampled 2,000 tokens here, and the grid 6,000 in all.
    _, table = policies_report._at_tokens(ROWS, "toy")
    lines = {line.split(" | ")[0].strip("| "): line for line in table.splitlines()}
    assert set(lines) >= {"grid, a third of the tokens", "full method, all of the tokens"}
    assert "grid, all of the tokens" not in lines
    # (.5, .5) of the grid, beside its two corners at the end.
    assert "| 200 | 2,000 | -0.250 | +0.250 | -0.250 |" in lines["grid, a third of the tokens"]
    assert (
        "| 200 | 2,000 | +0.050 | +0.640 | +0.140 |" in lines["full method, a third of the tokens"]
    )
    dear = row("random", {**front(40, point(1.0, 2.0)), "generated": 2001})
    _, table = policies_report._at_tokens([*ROWS, dear], "toy")
    assert "random, a third" not in table
    assert "| random, all of the tokens | 40 | 2,001 |" in table
    assert policies_report._at_tokens(ROWS[1:], "toy") == []


def test_what_is_there_early_counts_for_longer():
    _, table = policies_report._over_steps(ROWS, "toy")
    header, _, grid, full = table.splitlines()
    assert "mean over 200 steps" in header
    assert "mean over 600 steps" in header
    # The grid: .25 from step 200 to 600, where only corners are left; nothing before.
    assert "| grid | 0.000 |  | 0.167 |  | 200 |  |  |" in grid
    # (.9, 0) from 120 adds nothing; .64 from step 200 on, though the method has ended.
    # (1, 0) and (0, 1) of the grid: neither dominates (.8, .8), nor is dominated.
    assert "| full method | 0.000 | +0.000 | 0.427 | +0.260 | 120 | 0% | 0% |" in full


def test_the_first_point_that_stays_is_found_by_the_trial_it_comes_from():
    late = {**point(1.0, 2.0), "trial": 1}
    assert policies_report._first(row("gp", front(40, point(0.5, 0.5)), front(80, late))) == 80


def test_who_takes_a_better_point_for_the_same_preference_dominates():
    rows = [row("grid", front(40, point(0.5, 1.0))), row("gp", front(40, point(0.5, 1.2)))]
    assert policies_report._dominance(rows, "toy", "gp") == ("100%", "0%")
    swapped = [row("gp", *rows[0].data["fronts"]), row("grid", *rows[1].data["fronts"])]
    assert policies_report._dominance(swapped, "toy", "gp") == ("0%", "100%")


def test_warm_starts_are_read_beside_the_same_search_without_them():
    cold = row("botorch", *(front(40 * n, point(0.1 * n, 1.0)) for n in range(1, 7)))
    lengths = (40, 40, 12, 12, 40, 12)  # one made no progress
    totals = [sum(lengths[: n + 1]) for n in range(len(lengths))]
    warm = row("continuation", *(front(t, point(0.1 * n, 1.4)) for n, t in enumerate(totals, 1)))
    (said, table) = policies_report._going_on([cold, warm], "toy")
    assert "Over the seeds 3 trials did. 1 more" in said
    rows = {line.split(" | ")[0].strip("| "): line for line in table.splitlines()}
    # Utilities: 0.1 n and (0.1 n + b / 2) / 2; b counts in units of its bounds.
    assert "| 156 | 240 | +0.050 | +0.120 |" in rows["equal numbers of trials"]
    # 120 steps of botorch, three trials; 156 of continuation, six trials.
    assert "| 156 | 120 | +0.275 | +0.270 |" in rows["equal steps"]


def test_the_plan_trains_in_the_full_mode_only():
    installed = plugins.load(())
    assert policies.plan(MODES["quick"], installed) == []
    planned = policies.plan(MODES["full"], installed)
    assert len({one.cell for one in planned}) == 2 * 3 * len(policies.METHODS)
    assert all(f"seed={one.cell.seed}" in one.settings["overrides"] for one in planned)


@pytest.mark.parametrize("bed", policies.BEDS["full"])
def test_constrained_training_can_search_the_bundled_studies(bed: str):
    planned = next(
        one
        for one in policies.plan(MODES["full"], plugins.load(()))
        if (one.cell.bed, one.cell.entry) == (bed, "cmorl")
    )
    assert planned.settings["steps"] == 200
    study = load(*bundled.read(bed), plugins.load(), planned.settings["overrides"])
    assert study.strategy.name == "cmorl"
    assert study.section.training.steps == 40
    proposals.check(study, study.strategy, 8)  # trials in full, and extensions of each objective


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    """Return where a cell is run, with the plugins of the study of letters."""
    load = plugins.load
    monkeypatch.setattr(policies.plugins, "load", lambda files=(): load(files or [LETTERS]))
    (tmp_path / "study.yaml").write_text(STUDY)
    made = Room(tmp_path / "out" / "unfinished" / "policies" / "mine")
    made.folder.mkdir(parents=True)
    return made


def letters(tmp_path: Path, entry: str, **settings: int) -> Planned:
    """Return a cell of the plan, on the study of letters, which has no thresholds either."""
    every = policies.plan(MODES["full"], plugins.load(()))
    planned = next(one for one in every if (one.cell.entry, one.cell.bed) == (entry, "restaurants"))
    cell = Cell("policies", str(tmp_path / "study.yaml"), entry, 0)
    return Planned(cell, {**planned.settings, **settings})


def test_a_cell_of_constrained_training_spends_all_its_steps(tmp_path: Path, room: Room):
    fronts = policies.run(letters(tmp_path, "cmorl", steps=42), room)["fronts"]
    # Two corners and the centre of 13 steps each; then an extension of a quarter.
    assert [front["steps"] for front in fronts] == [13, 26, 39, 42]


@pytest.mark.filterwarnings("ignore:trial .* trains nothing")  # so small a toy may saturate
def test_a_cell_is_a_search_by_the_driver(tmp_path: Path, room: Room):
    planned = letters(tmp_path, policies.FULL, steps=66, soups=2)
    # Slowly, so that a policy has not lost one of its letters before another one differs from it.
    planned.settings["overrides"] += ["seed=4", "training.learning_rate=3.0e-3"]
    told: list[int] = []
    room.told = told.append
    found = policies.run(planned, room)
    fronts = found["fronts"]
    assert [front["trials"] for front in fronts] == list(range(1, len(fronts) + 1))
    # Two corners, the centre and one more of 13 steps; then 12 more, or 13 from scratch again.
    assert [front["steps"] for front in fronts[:4]] == [13, 26, 39, 52]
    taken = fronts[4]["steps"]
    assert taken in (52 + 12, 52 + 13)
    # The rest are soups, which take none.
    assert len(fronts) > 5
    assert all(front["steps"] == taken for front in fronts[5:])
    assert told[-1] == fronts[-1]["steps"]
    assert all(set(p) >= {"validation", "test"} for f in fronts for p in f["points"])
    # An interrupted cell goes on with what is there, and another one finds the base policy.
    assert policies.run(planned, room) == found
    artifacts = tmp_path / "out" / "artifacts"
    assert sum(path.is_dir() for path in artifacts.iterdir()) == 1


def test_what_cannot_be_afforded_is_passed_over():
    class Two(Strategy):
        """Proposes trials of 13 steps and of 5, by turns; asked anew, the same."""

        name = "two"

        def propose(self, history: History, n: int, seed: int) -> list[Proposal]:
            steps = 13 if len(history.made) % 2 == 0 else 5
            return [Proposal(params(0.5), steps=steps)]

    known, lengths = replace(history([]), steps=13), []
    within = policies.Within(Two(), 30)
    while found := within.propose(known, 1, 0):
        known = with_proposal(known, found[0])
        lengths.append(found[0].steps)
    assert lengths == [13, 5, 5, 5], "2 steps are left, and nothing is that short"
    assert policies.Within(Two(), 30).propose(history([]), 3, 0)[2].steps == 5
