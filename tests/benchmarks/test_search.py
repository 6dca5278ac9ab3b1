"""The benchmark of the search: its problems, what is run and run again, and what is said of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from botorch.acquisition.multi_objective import logei
from torch.quasirandom import SobolEngine

from benchmarks.comparison.measures import Difference
from benchmarks.comparison.work import run_cells
from benchmarks.search import (
    __main__ as command,
)
from benchmarks.search import (
    entries,
    fronts,
    fronts_report,
    goals,
    overhead_report,
    results,
    rungs,
    rungs_report,
    studies,
)
from benchmarks.search.baselines import BASELINES
from benchmarks.search.cells import Cell
from benchmarks.search.curves import NOISE, UNITS, Curves
from benchmarks.search.drive import drive, inputs_of
from benchmarks.search.functions import PLAIN, WITH_FIDELITY, Function
from benchmarks.search.part import MODES, Planned, Room, Row
from benchmarks.search.parts import PARTS
from benchmarks.search.problem import Problem
from benchmarks.search.results import Results
from benchmarks.search.work import Desk, Plan, Watch, run_cell
from moalign import plugins
from moalign.errors import StudyError
from moalign.search import events
from moalign.search.archive import Trial
from moalign.types import Cost, Proposal
from moalign_plugins.executors.local import Local

NEW_PLUGIN = '''
from moalign import Strategy, hookimpl


class Newcomer(Strategy):
    """Proposes nothing."""

    name = "newcomer"

    def propose(self, history, n, seed):
        return []


@hookimpl
def moalign_strategies():
    return [Newcomer]
'''


# --- problems ----------------------------------------------------------------------------------


def all_problems() -> list[Problem]:
    return [*(studies.problem_of(name) for name in (*PLAIN, *WITH_FIDELITY)), Curves()]


# Branin's minimum is at (pi, 2.275) of [-5, 10] x [0, 15].
OF_BRANIN = [(math.pi + 5) / 15, 2.275 / 15]
CORNER = (1 - math.exp(-0.5)) * 3  # Currin at (0, 1)


@pytest.mark.parametrize(
    ("name", "inputs", "expected"),
    [
        ("BraninCurrin", OF_BRANIN, (-0.397887, None)),
        ("BraninCurrin", [0, 1], (None, -CORNER)),
        ("DTLZ2", [0, *[0.5] * 5], (-1, 0)),
        ("DTLZ2", [0.5, *[0.5] * 5], (-math.sqrt(0.5), -math.sqrt(0.5))),
        ("DTLZ2", [1, *[0.5] * 4, 1], (0, -1.25)),
        ("ZDT1", [0.25, *[0] * 5], (-0.25, -0.5)),
        ("ZDT1", [1, *[1] * 5], (-1, -10 * (1 - math.sqrt(0.1)))),
        ("ZDT2", [0.5, *[0] * 5], (-0.5, -0.75)),
        ("ZDT3", [0, *[0] * 5], (0, -1)),
        ("ZDT3", [0.25, *[0] * 5], (-0.25, -0.25)),
        ("VehicleSafety", [0] * 5, (-1661.7078225, None, None)),
        ("MOMFBraninCurrin", OF_BRANIN, ((21 - 0.397887) / 22, None)),
        ("MOMFBraninCurrin", [0, 1], (None, (14 - 3) / 15)),
    ],
)
def test_values_are_those_of_the_published_formulas_maximised(
    name: str, inputs: list[float], expected: tuple[float | None, ...]
) -> None:
    found = studies.problem_of(name).values(inputs)
    assert len(found) == len(expected)
    for value, one in zip(found, expected, strict=True):
        assert one is None or value == pytest.approx(one, abs=1e-5)


def test_the_park_functions_at_the_point_where_their_inputs_are_whole() -> None:
    # .6, 0, .5, .8 become 1, 0, 1, 1 before the formulas.
    first = math.sqrt(1 + 1 / 1.0001) / 2 + 4 * math.exp(1 + math.sin(1))
    second = 5 - 2 / 3 * math.e + math.sin(1) - 1
    found = Function("MOMFPark", fidelity=True).values([0.6, 0, 0.5, 0.8])
    assert found == pytest.approx([first / 22 - 0.8, second / 4 - 0.7])


def test_the_fidelity_is_the_share_of_the_steps() -> None:
    problem = Function("MOMFBraninCurrin", fidelity=True)
    assert problem.inputs == 2
    # Without training Currin's value at (0, 1) is held down by a tenth of exp(-1 / 2).
    expected = (14 - (1 - 0.1 * math.exp(-0.5)) * 3) / 15
    assert problem.values([0, 1], 0.0)[1] == pytest.approx(expected)
    assert problem.values([0, 1], 1.0)[1] == pytest.approx((14 - 3) / 15)
    plain = Function("DTLZ2")
    assert plain.values([0.3] * 6, 0.0) == plain.values([0.3] * 6, 1.0)


@pytest.mark.parametrize(
    ("name", "maximum"),
    [
        ("BraninCurrin", 59.36011874867746),
        ("DTLZ2", 1.1**2 - math.pi / 4),
        ("ZDT1", 120 + 2 / 3),
        ("ZDT2", 120 + 1 / 3),
        ("ZDT3", 128.77811613069076),
        ("VehicleSafety", 246.81607081187002),
        ("Penicillin", 2183455.909507436),
        ("MOMFBraninCurrin", 0.5235514158034145),
        ("MOMFPark", 0.08551927363087991),
    ],
)
def test_maxima_are_the_published_ones(name: str, maximum: float) -> None:
    assert studies.problem_of(name).maximum == pytest.approx(maximum, rel=1e-12)


@pytest.mark.parametrize("name", ["DTLZ2", "ZDT1", "ZDT2", "ZDT3"])
def test_a_whole_front_reaches_the_maximum(name: str) -> None:
    problem = Function(name)
    front = -problem.botorch.gen_pareto_front(3000).numpy()
    assert problem.share_of_maximum(front) == pytest.approx(1.0, abs=2e-3)
    assert problem.share_of_maximum(front) <= 1.0 + 1e-9
    assert problem.share_of_maximum(front[::300]) < 0.999
    assert problem.share_of_maximum([problem.worst_K]) == 0.0
    assert problem.share_of_maximum([]) == 0.0


@pytest.mark.parametrize("problem", all_problems(), ids=lambda problem: problem.name)
def test_bounds_hold_what_counts(problem: Problem) -> None:
    rng = np.random.default_rng(0)
    count = 3 if problem.name == "Penicillin" else 200  # a simulation: it takes its time
    values_NK = np.array([problem.values(row) for row in rng.random((count, problem.inputs))])
    assert (np.array(problem.best_K) > problem.worst_K).all()
    assert (values_NK <= problem.best_K).all()
    assert problem.maximum < np.prod(np.subtract(problem.best_K, problem.worst_K))
    assert 0 <= problem.share_of_maximum(values_NK) <= 1.0
    assert problem.values([0.0] * problem.inputs)  # corners are inside
    assert problem.values([1.0] * problem.inputs)


def test_the_maximum_of_the_curves_is_that_of_a_fine_grid() -> None:
    problem = Curves()
    grid = [problem.values((w, u)) for w in np.linspace(0, 1, 300) for u in np.linspace(0.5, 1, 60)]
    assert problem.share_of_maximum(grid) == pytest.approx(1.0, abs=2e-3)


def test_learning_curves_cross() -> None:
    problem = Curves()
    fast, slow = (0.5, 1.0), (0.5, 0.65)
    early = np.subtract(problem.values(fast, 0.25), problem.values(slow, 0.25))
    late = np.subtract(problem.values(fast), problem.values(slow))
    assert (early > 0).all()
    assert (late < 0).all()
    start = problem.values((1.0, 0.6), 0.0)
    assert start == pytest.approx([0.3, 0.4])
    assert problem.values((1.0, 0.6))[1] < start[1]  # what is not wanted is forgotten


def test_noise_is_shared_by_units_and_drawn_by_key() -> None:
    problem, inputs = Curves(), (0.5, 0.5)
    first = np.array(problem.measured(inputs, 1.0, "0/validation/1/40"))
    assert (first == problem.measured(inputs, 1.0, "0/validation/1/40")).all()
    second = np.array(problem.measured(inputs, 1.0, "0/validation/2/40"))
    elsewhere = np.array(problem.measured(inputs, 1.0, "1/validation/1/40"))
    assert first.shape == (UNITS, 2)
    assert np.abs(first.mean(0) - problem.values(inputs)).max() < 0.1
    # Both halves of the noise are NOISE; two policies of a study share one of them.
    assert np.corrcoef(first[:, 0], second[:, 0])[0, 1] > 0.2
    assert abs(np.corrcoef(first[:, 0], elsewhere[:, 0])[0, 1]) < 0.45
    assert (first - problem.values(inputs)).std() == pytest.approx(NOISE * math.sqrt(2), rel=0.3)


# --- the driver on a problem -------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache() -> dict[str, Any]:
    """What the cells of one worker share: the plugins are loaded once."""
    return {}


def driven(folder: Path, cache: dict[str, Any], name: str = "BraninCurrin", **options: Any) -> Any:
    problem = studies.problem_of(name)
    given = {"strategy": "random", "seed": 0} | options
    enough = given.pop("enough", lambda _: False)
    trials = given.pop("trials", 8)
    study = studies.study_of(problem, studies.catalogue(cache), **given)
    return problem, drive(study, folder / "run", trials, enough)


def test_the_driver_sees_the_reference_point_as_lower_bound(tmp_path: Path, cache: Any) -> None:
    problem, found = driven(tmp_path, cache, trials=20)
    run = found.run
    assert run.closed == "finished"
    values = [trial.measured[1].points[0].values_K for trial in run.trials.values()]
    inputs = [inputs_of(problem, trial) for trial in run.trials.values()]
    assert inputs[0] == [0.5, 0.5]  # the middle comes first
    assert [list(one) for one in values] == [problem.values(one) for one in inputs]
    unit = np.prod(np.subtract(problem.best_K, problem.worst_K))
    share = problem.share_of_maximum(values)
    assert 0 < share < 1
    assert run.hypervolume() * unit / problem.maximum == pytest.approx(share)


def test_only_what_the_strategy_is_asked_for_is_timed(tmp_path: Path, cache: Any) -> None:
    _, found = driven(tmp_path, cache)
    assert len(found.suggesting.wall) == len(found.suggesting.cpu) == 7
    tested = len(found.run.front()) + 1
    assert len(found.training.wall) == 8 + 1 + tested  # the base policy is measured, too
    assert sum(found.suggesting.wall) + sum(found.training.wall) < found.whole.wall[0]
    summary = found.suggesting.summary()
    assert summary["median"] <= summary["late"] <= summary["wall"]


def test_a_search_that_has_enough_ends(tmp_path: Path, cache: Any) -> None:
    _, found = driven(tmp_path, cache, trials=20, enough=lambda known: known.proposed >= 5)
    assert len(found.run.trials) == 5
    assert found.run.closed == "finished"


def test_a_grid_that_is_exhausted_counts_what_it_has(tmp_path: Path, cache: Any) -> None:
    planned = Planned(
        Cell("fronts", "BraninCurrin", "grid", 0), {"trials": 28, "warming": 0, "source": ""}
    )
    data = fronts.run(planned, Room(tmp_path, cache))
    assert data["trials"] == 25
    assert len(data["shares"]) == 7
    assert data["shares"] == sorted(data["shares"])
    assert data["shares"][-1] == data["shares"][-2]


@pytest.mark.parametrize("name", ["Optuna TPESampler", "Optuna NSGAIISampler"])
def test_baselines_are_a_function_of_the_seed(name: str) -> None:
    problem, told = studies.problem_of("ZDT1"), []
    first, again, other = (
        BASELINES[name](problem, 4, seed, told.append).values_NK for seed in (0, 0, 1)
    )
    assert first == again != other
    assert np.shape(first) == (4, 2)
    assert told[:4] == [1, 2, 3, 4]


def test_the_loop_of_botorch_begins_with_sobol_points_and_then_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Else it builds a kernel for half a minute, if there is a compiler.
    monkeypatch.setattr(logei, "_C", None)
    monkeypatch.setattr(logei, "_load_attempted", True)
    problem = Curves()
    found = BASELINES["BoTorch qLogNEHVI"](problem, 7, 0, lambda _: None)
    assert np.shape(found.values_NK) == (7, 2)
    sobol = SobolEngine(2, scramble=True, seed=0).draw(7).tolist()
    assert found.values_NK[:6] == [problem.values(inputs) for inputs in sobol[:6]]
    assert found.values_NK[6] not in [problem.values(inputs) for inputs in sobol]


# --- the plan ----------------------------------------------------------------------------------


def test_every_installed_strategy_is_compared_that_a_function_can_be_searched_with(
    tmp_path: Path,
) -> None:
    installed = plugins.load(())
    names = entries.strategies(installed)
    assert names[0] == entries.default()
    assert set(names) == set(installed.names("strategy")) - set(entries.EXCLUDED)
    file = tmp_path / "newcomer.py"
    file.write_text(NEW_PLUGIN)
    assert "newcomer" in entries.strategies(plugins.load([file]))


def test_a_cell_depends_on_the_source_of_its_strategy(tmp_path: Path) -> None:
    file = tmp_path / "newcomer.py"
    digests = set()
    for text in (NEW_PLUGIN, NEW_PLUGIN + "# said\n", NEW_PLUGIN + "CHANGED = 1\n"):
        file.write_text(text)
        digests.add(entries.source(plugins.load([file]), "newcomer"))
    assert len(digests) == 2
    shared = entries._imported(b"from moalign.strategies import nothing\nimport os\n")
    assert [path.parent.name for path in shared] == ["strategies"]


def test_quick_is_a_part_of_full() -> None:
    installed = plugins.load(())
    quick, full = (
        {one.cell for part in PARTS for one in part.plan(MODES[name], installed)}
        for name in ("quick", "full")
    )
    assert quick < full
    beds = {(cell.part, cell.bed) for cell in quick}
    assert {bed for part, bed in beds if part == "fronts"} == {"BraninCurrin", "DTLZ2"}
    assert {cell.seed for cell in quick} == {0, 1, 2}
    assert {cell.seed for cell in full} == set(range(10))
    assert {cell.bed for cell in full if cell.part == "fronts"} == {*PLAIN, *WITH_FIDELITY}
    assert set(BASELINES) <= {cell.entry for cell in full}
    assert len({cell.file for cell in full}) == len(full)
    assert {cell.entry for cell in quick if cell.part == "rungs"} >= {"botorch", "botorch + rungs"}
    for cell in (cell for cell in full if cell.part == "rungs"):
        other = cell.entry.removesuffix(rungs_report.RUNGS)
        assert replace(cell, entry=other) in full
        assert replace(cell, entry=f"{other}{rungs_report.RUNGS}") in full


def test_the_command_line_names_parts_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--plan", "--part", "rungs", "--bed", "curves", "--only", "random", "--seeds", "7"]
    assert command.main(given) == 0
    assert capsys.readouterr().out == "rungs: curves, random, seed 7\n"
    plan, name = command.planned(command.arguments(["--full", "--part", "fronts"]))
    assert (name, {cell.part for cell in plan.cells()}) == ("full-fronts", {"fronts"})
    with pytest.raises(StudyError, match="no cell has it; there are"):
        command.planned(command.arguments(["--set", "trails=8"]))
    with pytest.raises(StudyError, match="nothing is left"):
        command.planned(command.arguments(["--bed", "DTLZ1"]))


# --- cells, run and run again ------------------------------------------------------------------


class Here(Local):
    """Runs any callable; nothing has to import it."""

    name = "here"


def run(desk: Desk, segment: Callable[..., None] = run_cell) -> tuple[Watch, list[Cell]]:
    view = Watch(desk.plan, 1)
    view.console.quiet = True
    ran: list[Cell] = []

    def counted(task: Any, emit: Any, cache: dict[str, Any]) -> None:
        ran.append(Cell(*task.study["cell"]))
        segment(task, emit, cache)

    run_cells(desk, Here(), counted, view)
    return view, ran


FEW = (
    ("fronts", "BraninCurrin", "random"),
    ("fronts", "BraninCurrin", "Optuna TPESampler"),
    ("rungs", "curves", "random"),
    ("rungs", "curves", f"random{rungs_report.RUNGS}"),
    ("overhead", "driver", "no tracker"),
    ("overhead", "archive", "all on the front"),
)


def few(trials: int = 4) -> Plan:
    given = ["--seeds", "0", "--set", f"trials={trials}", "--set", "warming=0"]
    given += ["--set", "points=60", "--set", "updates=3"]
    plan, _ = command.planned(command.arguments(given))
    kept = [p for p in plan.planned if (p.cell.part, p.cell.bed, p.cell.entry) in FEW]
    assert len(kept) == len(FEW)
    return replace(plan, planned=kept)


def test_what_is_done_is_not_run_again_and_what_has_changed_is(tmp_path: Path) -> None:
    desk = Desk(few(), tmp_path)
    left = tmp_path / next(desk.plan.cells()).folder / "run"
    left.mkdir(parents=True)
    (left / "events.jsonl").write_text("what an interrupted run left\n")
    view, ran = run(desk)
    assert view.failed == 0
    assert len(ran) == len(FEW)
    assert not list(tmp_path.glob("unfinished/*/*"))
    assert run(Desk(few(), tmp_path))[1] == []

    longer = Desk(few(trials=12), tmp_path)
    _, ran = run(longer)
    assert {cell.bed for cell in ran} == {"BraninCurrin", "curves", "driver"}
    found = results.gather(longer, "part")
    assert found.missing == 0
    assert not found.broken
    assert dict(found.facts)["time of the cells"].endswith(" for 6 cells, one after another")
    by_name = {(r.bed, r.entry): r.data for rows in found.rows.values() for r in rows}
    assert [row.bed for row in found.rows["fronts"]] == ["BraninCurrin"] * 2
    assert len(by_name["BraninCurrin", "random"]["shares"]) == 3
    assert by_name["curves", "random"]["trials"] == 12
    assert by_name["curves", "random + rungs"]["trials"] > 12
    assert by_name["archive", "all on the front"]["on the front"] == 63
    page = command.publish(found, tmp_path / "results")
    text = page.read_text()
    assert "nan" not in text
    again = results.read(page.with_suffix(".json"))
    assert command.publish(again, tmp_path / "again").read_text() == text
    drawn = sorted(path.name.rpartition("-")[2] for path in page.parent.glob("*.png"))
    assert drawn == ["fronts.png", "rungs.png"]


def test_a_cell_that_fails_is_told_and_tried_again(tmp_path: Path) -> None:
    desk = Desk(replace(few(), planned=few().planned[:2]), tmp_path)

    def broken(task: Any, emit: Any, cache: dict[str, Any]) -> None:
        if task.study["cell"][2] == "random":
            raise ZeroDivisionError("division by zero in a strategy")
        run_cell(task, emit, cache)

    view, _ = run(desk, broken)
    assert view.failed == 1
    found = results.gather(desk, "part")
    assert [(one.entry, one.bed) for one in found.broken] == [("random", "BraninCurrin")]
    text = command.publish(found, tmp_path / "results").read_text()
    assert "division by zero in a strategy" in text
    _, ran = run(desk)
    assert [cell.entry for cell in ran] == ["random"]
    assert not results.gather(desk, "part").broken


def test_the_time_left_goes_by_cells_that_are_alike() -> None:
    view = Watch(few(), 1)
    first, *others = view.waiting
    assert view.alike(first) == view.alike(replace(first, seed=9))
    assert view.alike(first) not in {view.alike(other) for other in others}


# --- rungs -------------------------------------------------------------------------------------


class Line(Problem):
    """Two inputs are the values."""

    name = "line"
    inputs = 2
    worst_K = (0.0, 0.0)
    best_K = (1.0, 1.0)
    maximum = 1.0

    def values(self, inputs: Any, share: float = 1.0) -> list[float]:
        return list(inputs)


def trial(
    number: int, inputs: tuple[float, float], step: int, seen: tuple[float, float] | None = None
) -> Trial:
    """Return a trial that ended at a step; 4 is the full length."""
    params = dict(zip(studies.paths(Line()), inputs, strict=True))
    made = Trial(number, Proposal(params), 4, 0.0)
    for at in range(2, step + 1, 2):
        point = events.Point(None, seen or inputs, (0.0, 0.0))
        made.measured[at] = events.Measured(0.0, number, at, "validation", (point,), Cost(), 0.0)
    if step < 4:
        made.decided[step] = events.Decided(0.0, number, step, False, "too far behind")
    return made


def test_what_is_kept_of_a_study_with_rungs() -> None:
    trials = [
        trial(0, (0.5, 0.5), 4),
        trial(1, (0.2, 0.2), 2),
        trial(2, (0.1, 0.9), 2),  # stopped, though nothing dominates it
        trial(3, (0.5, 0.4), 4, seen=(0.9, 0.6)),  # noise has chosen it
        trial(4, (0.6, 0.5), 4),  # trained beyond the budget
    ]
    found = rungs.summary(Line(), trials, steps=4, budget=12, measured=0.0)
    assert (found["trials"], found["in full"], found["spent"]) == (5, 3, 16)
    assert found["saved"] == pytest.approx(1 - 16 / 20)
    assert (found["optimal"], found["optimal stopped"]) == (2, 1)
    shares = found["shares"]
    assert len(shares) == rungs.PARTS
    assert shares[0] == 0.0  # half a step: nothing has been trained in full
    assert shares[rungs.PARTS // 3 - 1] == pytest.approx(0.25)
    # What is seen to dominate the first trial takes its place, and is worth less.
    assert shares[-1] == pytest.approx(0.2)


def test_measurements_cost_as_much_as_some_steps() -> None:
    """Trials of full length are measured at step 2 and at the end, those that are stopped once."""
    trials = [trial(0, (0.5, 0.5), 4), trial(1, (0.2, 0.2), 2), trial(2, (0.6, 0.6), 4)]
    found = rungs.summary(Line(), trials, steps=4, budget=12, measured=1.0)
    assert found["spent"] == (4 + 2) + (2 + 1) + (4 + 2)
    assert found["saved"] == pytest.approx(1 - 10 / 12)
    assert found["saved in all"] == pytest.approx(1 - 15 / (3 * 5))
    assert found["shares"][-1] == pytest.approx(0.25), "the last one ends beyond the budget"
    free = rungs.summary(Line(), trials, steps=4, budget=12, measured=0.0)
    assert free["shares"][-1] == pytest.approx(0.36)


def rung_row(entry: str, seed: int, **data: Any) -> Row:
    plain = {"shares": [0.2, 0.4, 0.5], "trials": 24, "in full": 24, "spent": 960, "budget": 960,
             "saved": 0.0, "saved in all": 0.0, "measured": 1.33, "optimal": 8,
             "optimal stopped": 0}  # fmt: skip
    return Row("curves", entry, seed, plain | data)


def test_optimal_trials_are_counted_over_all_studies_of_a_seed() -> None:
    rows = [
        rung_row("gp + rungs", 0, optimal=8, **{"optimal stopped": 2}),
        rung_row("random + rungs", 0, optimal=2, **{"optimal stopped": 0}),
        rung_row("gp + rungs", 1, optimal=10, **{"optimal stopped": 0}),
    ]
    found = rungs_report.lost(rows)
    assert (found.value, found.seeds) == (pytest.approx(0.1), 2)


def test_the_same_front_is_found_sooner() -> None:
    rows = [rung_row("gp", seed, shares=[0.2, 0.4, 0.5 + 0.1 * seed]) for seed in (0, 1)]
    rows += [rung_row("gp + rungs", seed, shares=[0.2, 0.5, 0.55], saved=0.4) for seed in (0, 1)]
    assert rungs_report.sooner(rows, "curves", "gp") == {0: pytest.approx(2 / 3)}
    text = "\n".join(rungs_report.section(rows, "gp", {}))
    assert "0.67 (1 of 2)" in text
    assert "which seeds alone may explain" in text


# --- what is said ------------------------------------------------------------------------------


def front_row(
    entry: str, seed: int, share: float, wall: float = 4.0, bed: str = "BraninCurrin"
) -> Row:
    shares = [share * (count + 1) / 10 for count in range(10)]
    timed = {"median": wall / 40, "late": wall / 20, "wall": wall, "cpu": wall}
    return Row(bed, entry, seed, {"shares": shares, "trials": 40, "suggesting": timed,
                                  "whole": {"wall": wall + 1, "cpu": wall}})  # fmt: skip


def document(**rows: list[Row]) -> Results:
    return Results("part", [["date", "2026-01-01"], ["seeds", "0, 1, 2"]], "gp", rows, [], 0)


def three(entry: str, share: float, wall: float = 4.0, bed: str = "BraninCurrin") -> list[Row]:
    return [front_row(entry, seed, share + 0.001 * seed, wall, bed) for seed in range(3)]


def test_goals_are_met_missed_or_open() -> None:
    rows = [*three("gp", 0.97), *three("botorch", 0.90, wall=60.0)]
    found = fronts_report.goals(rows, "gp")
    assert [goal.verdict for goal in found] == ["seen", "seen", "opposite seen", "opposite seen"]
    assert found[1].found.value == pytest.approx(5.0)
    alone = fronts_report.goals([front_row("gp", 0, 0.97)], "gp")
    assert {goal.verdict for goal in alone} == {"one seed"}
    assert fronts_report.goals([*three("gp", 0.97, bed="DTLZ2")], "gp") == []
    near = goals.Goal("", Difference(0.95, 0.94, 0.96, 3), 0.95, higher=True)
    assert near.verdict == "not decided"
    assert near.row[1:] == ["at least 0.95", "0.950 [0.940, 0.960]", "not decided"]


def test_more_trials_than_forty_are_charged_in_proportion() -> None:
    row = front_row("gp", 0, 0.97, wall=29.0)
    longer = replace(row, data={**row.data, "trials": 60})
    assert fronts_report._whole_up_to(40)(longer.data) == pytest.approx(20.0)


def test_what_is_found_early_counts_for_longer() -> None:
    row = front_row("gp", 0, 1.0)
    early = {**row.data, "shares": [0.8, *[1.0] * 9]}
    # Shares are known every 4 evaluations, and none is known before the fourth.
    assert fronts_report.on_average(8)(early) == pytest.approx(0.4)
    assert fronts_report.on_average(40)(row.data) == pytest.approx(0.45)
    assert fronts_report.on_average(40)(early) == pytest.approx(0.88)
    text = "\n".join(fronts_report.section([row], "gp", {}))
    assert "| mean over 40 |" in text
    assert "| 1.000 | 0.450 |" in text


def test_the_best_strategy_for_small_budgets_is_one_that_a_study_can_name() -> None:
    rows = [
        row
        for bed in ("BraninCurrin", "DTLZ2")
        for row in (
            *three("gp", 0.90, bed=bed),
            *three("tpe", 0.60, bed=bed),
            *three("Optuna GPSampler", 0.99, bed=bed),
        )
    ]
    text = "\n".join(fronts_report.section(rows, "gp", {}))
    # Shares grow in proportion to the trials: .36 after 16 of 40.
    assert "After 16 trials `gp` is ahead, at 0.360" in text
    assert "of `tpe` by +0.120" in text
    assert "which seeds alone may explain" not in text
    assert fronts_report.ranks(rows, ["gp", "tpe"], "tpe", 16) == {0: 2.0, 1: 2.0, 2: 2.0}
    assert "| Optuna GPSampler | 0.94 | 5 | 0.99 [0.99, 0.99] | 5.0 |" in text


def test_ranks_are_shared_and_seeds_without_all_problems_left_out() -> None:
    rows = [*three("gp", 0.5), *three("tpe", 0.5), *three("random", 0.1)]
    names = ["gp", "tpe", "random"]
    assert set(fronts_report.ranks(rows, names, "gp", 16).values()) == {1.5}
    rows += [front_row(name, 0, 0.5, bed="DTLZ2") for name in names]
    assert list(fronts_report.over_beds(rows, "gp", 16)) == [0]


def test_the_page_has_every_part_and_no_gaps(tmp_path: Path) -> None:
    timed = {"points": 10_000, "on the front": 40, "both": {"median": 0.004, "worst": 0.02}}
    timed |= dict.fromkeys(overhead_report.STEPS, 0.002)
    rows = document(
        fronts=[*three("gp", 0.97), *three("Optuna GPSampler", 0.94)],
        rungs=[
            rung_row(entry, seed, shares=[0.1, 0.2, 0.5 + 0.01 * (seed + len(entry) % 5)])
            for entry in ("gp", "gp + rungs")
            for seed in range(3)
        ],
        overhead=[
            Row(
                "driver", "no tracker", 0, {"trials": 40, "trial": 0.01, "around": 0.1, "cpu": 1.0}
            ),
            Row("archive", "all on the front", 0, timed),
        ],
    )
    rows = replace(rows, broken=[results.Broken("fronts", "ZDT1", "tpe", 0, "it broke")], missing=2)
    text = command.publish(rows, tmp_path).read_text()
    assert "Of 6 goals: " in text
    assert "**Unfinished: 2 cells have not been run yet.**" in text
    assert "| fronts | ZDT1 | tpe | 1 | it broke |" in text
    assert "10,000 points" in text
    assert "nan" not in text
    assert "![Hypervolume against evaluations](2026-01-01-search-part-fronts.png)" in text


def test_documents_of_different_parts_become_one(tmp_path: Path) -> None:
    first, second = document(fronts=three("gp", 0.9)), document(rungs=[rung_row("gp", 0)])
    whole = results.merged([first, second])
    assert list(whole.rows) == ["fronts", "rungs"]
    assert whole.mode == "fronts-rungs"
    assert whole.date == "2026-01-01"
    more = document(fronts=[replace(row, seed=row.seed + 10) for row in three("gp", 0.9)])
    assert len(results.merged([first, more]).rows["fronts"]) == 2 * len(first.rows["fronts"])
    with pytest.raises(StudyError, match="of the part fronts is in two"):
        results.merged([first, first])
    files = []
    for number, one in enumerate((first, second)):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(results.to_text(one))
    given = ["--report", *map(str, files), "--results", str(tmp_path / "out")]
    assert command.main(given) == 0
    assert (tmp_path / "out" / "2026-01-01-search-fronts-rungs.md").is_file()
    assert command.main([*given, "--name", "mine"]) == 0
    assert (tmp_path / "out" / "2026-01-01-search-mine.md").is_file()
    args = command.arguments(["--quick", "--seeds", "0", "--name", "mine"])
    assert args.name == "mine"


def test_numbers_in_a_document_are_short() -> None:
    text = results.to_text(document(fronts=[front_row("gp", 0, 1 / 3)]))
    data = json.loads(text)["rows"]["fronts"][0]["data"]
    assert data["shares"][-1] == 0.3333
    assert data["suggesting"]["median"] == 0.1
