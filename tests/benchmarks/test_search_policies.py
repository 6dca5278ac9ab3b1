"""The part of the search's benchmark that trains policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.search import policies, policies_report
from benchmarks.search.cells import Cell
from benchmarks.search.part import MODES, Planned, Room, Row
from moalign import plugins

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
    assert [policies_report.at(ROWS[0], steps).steps for steps in (599, 600, None)] == [200] + [
        600
    ] * 2
    assert policies_report.at(ROWS[0], 199) is None


def test_measures_are_in_units_of_the_bounds():
    end = policies_report.at(ROWS[0], None)
    found = policies_report.measures(ROWS[0], end, 1)
    # Two corners: each utility is the best one's, nothing lies between, all of it by mixing.
    assert found["utility"] == pytest.approx((1.0 + 0.5) / 2)
    assert found["volume"] == pytest.approx(0.0)
    assert found["hull"] == pytest.approx(0.5)
    soup = policies_report.measures(ROWS[1], policies_report.at(ROWS[1], 200), 1)
    assert soup["volume"] == soup["equal"] == pytest.approx(0.64)


def test_points_are_taken_for_the_volume_they_add():
    values = np.array([[0.1, 0.9], [0.5, 0.6], [0.9, 0.1]])
    assert policies_report.most_volume(values, [0.0, 0.0], 1) == [1]
    assert sorted(policies_report.most_volume(values, [0.0, 0.0], 9)) == [0, 1, 2]


def test_the_goal_is_the_grids_end_with_few_steps():
    utility, volume = policies_report.goals(ROWS, "gp")
    assert utility.found.value == pytest.approx(0.8 - 0.75)
    assert volume.found.value == pytest.approx(0.64)
    text = "\n".join(policies_report.section(ROWS, "gp", {"toy": "toy.png"}))
    assert "full method, at most 200 steps" in text
    assert "+0.050" in text
    assert "toy.png" in text
    assert policies_report.draw(ROWS)["toy"].startswith(b"\x89PNG")


def test_warm_starts_are_read_beside_the_same_search_without_them():
    cold = row("gp", *(front(40 * n, point(0.1 * n, 1.0)) for n in range(1, 7)))
    lengths = (40, 40, 12, 12, 40, 12)  # one made no progress
    totals = [sum(lengths[: n + 1]) for n in range(len(lengths))]
    warm = row("continuation", *(front(t, point(0.1 * n, 1.4)) for n, t in enumerate(totals, 1)))
    (said, table) = policies_report._going_on([cold, warm], "toy")
    assert "Over the seeds 3 trials did. 1 more" in said
    rows = {line.split(" | ")[0].strip("| "): line for line in table.splitlines()}
    # Utilities: 0.1 n and (0.1 n + b / 2) / 2; b counts in units of its bounds.
    assert "| 156 | 240 | +0.050 | +0.120 |" in rows["equal numbers of trials"]
    # 120 steps of gp, three trials; 156 of continuation, six trials.
    assert "| 156 | 120 | +0.275 | +0.270 |" in rows["equal steps"]


def test_the_plan_trains_in_the_full_mode_only():
    installed = plugins.load(())
    assert policies.plan(MODES["quick"], installed) == []
    planned = policies.plan(MODES["full"], installed)
    assert len({one.cell for one in planned}) == 2 * 3 * len(policies.METHODS)
    assert all(f"seed={one.cell.seed}" in one.settings["overrides"] for one in planned)


def test_a_cell_is_a_search_by_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    load = plugins.load
    monkeypatch.setattr(policies.plugins, "load", lambda files=(): load(files or [LETTERS]))
    study = tmp_path / "study.yaml"
    study.write_text(STUDY)
    planned = next(
        one for one in policies.plan(MODES["full"], load(())) if one.cell.entry == policies.FULL
    )
    cell = Cell("policies", str(study), policies.FULL, 0)
    room = Room(tmp_path / "out" / "unfinished" / "policies" / "mine")
    room.folder.mkdir(parents=True)
    told: list[int] = []
    room.told = told.append
    found = policies.run(Planned(cell, {**planned.settings, "steps": 66, "soups": 2}), room)
    fronts = found["fronts"]
    assert [front["trials"] for front in fronts] == list(range(1, len(fronts) + 1))
    # Three corners and the centre of 13 steps; then 12 more, or 13 from scratch again.
    assert [front["steps"] for front in fronts[:4]] == [13, 26, 39, 52]
    taken = fronts[4]["steps"]
    assert taken in (52 + 12, 52 + 13)
    # The rest are soups, which take none.
    assert len(fronts) > 5
    assert all(front["steps"] == taken for front in fronts[5:])
    assert told[-1] == fronts[-1]["steps"]
    assert all(set(p) >= {"validation", "test"} for f in fronts for p in f["points"])
    # An interrupted cell goes on with what is there, and another one finds the base policy.
    again = policies.run(Planned(cell, {**planned.settings, "steps": 66, "soups": 2}), room)
    assert again == found
    artifacts = tmp_path / "out" / "artifacts"
    assert sum(path.is_dir() for path in artifacts.iterdir()) == 1
