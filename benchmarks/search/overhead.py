"""Part: what the driver adds to a trial, and what it takes to bring a large archive up to date."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, median
from typing import Any, Final

import numpy as np

from benchmarks.search import overhead_report
from benchmarks.search.cells import Cell
from benchmarks.search.drive import Clock, drive
from benchmarks.search.overhead_report import ARCHIVE, DRIVER, PLAIN, TRACKED
from benchmarks.search.part import Mode, Part, Planned, Room
from benchmarks.search.studies import catalogue, problem_of, study_of
from moalign.plugins import Catalogue
from moalign.search import events, retention
from moalign.search.archive import Run
from moalign.search.folders import RunFolder
from moalign.types import Cost, Objective, Proposal

NAME: Final = "overhead"
TRIALS: Final = 40
POINTS: Final = 10_000
UPDATES: Final = 20
OBJECTIVES: Final = ("a", "b", "c")

FRONTS: Final[Mapping[str, float]] = {"some on the front": 0.2, "all on the front": 0.0}
"""How points are spread below a sphere, which is the front if they all lie on it."""

SEEDS: Final[Mapping[str, int]] = {"quick": 1, "full": 3}


def plan(mode: Mode, installed: Catalogue) -> list[Planned]:
    """Return the cells, seed by seed."""
    del installed
    driver = {"trials": TRIALS}
    archive = {"points": POINTS, "updates": UPDATES}
    return [
        planned
        for seed in mode.seeds[: SEEDS[mode.name]]
        for planned in (
            *(Planned(Cell(NAME, DRIVER, entry, seed), driver) for entry in (PLAIN, TRACKED)),
            *(Planned(Cell(NAME, ARCHIVE, entry, seed), archive) for entry in FRONTS),
        )
    ]


def run(planned: Planned, room: Room) -> dict[str, Any]:
    """Measure one of them."""
    measure = _driver if planned.cell.bed == DRIVER else _archive
    return measure(planned, room)


def _driver(planned: Planned, room: Room) -> dict[str, Any]:
    """Run a study that trains nothing, and subtract what segments and strategy took."""
    cell = planned.cell
    study = study_of(
        problem_of("BraninCurrin"),
        catalogue(room.cache),
        strategy="random",
        seed=cell.seed,
        trackers=("mlflow",) if cell.entry == TRACKED else (),
    )
    folder = room.folder / "run"
    shutil.rmtree(room.folder, ignore_errors=True)  # with the tracker's own store beside it
    driven = drive(study, folder, planned.settings["trials"], told=room.told)
    began = [trial.time for trial in driven.run.trials.values()]
    between = (began[-1] - began[0]) / (len(began) - 1)
    own = median(driven.training.wall) + median(driven.suggesting.wall)
    return {
        "trials": len(began),
        "trial": between - own,
        "around": driven.whole.wall[0] - (began[-1] - began[0]),
        "cpu": driven.whole.cpu[0],
    }


def _archive(planned: Planned, room: Room) -> dict[str, Any]:
    """Do what the driver does after a measurement, with many points in the archive."""
    settings, rng = planned.settings, np.random.default_rng(planned.cell.seed)
    count = settings["points"] + settings["updates"]
    points_NK = _points(rng, count, FRONTS[planned.cell.entry])
    run = Run(RunFolder(room.folder / "run"))
    run.apply(_opened(count))
    for trial, point in enumerate(points_NK[: settings["points"]]):
        _add(run, trial, point)
    done: set[tuple[int, int, str]] = set()

    def prune() -> None:
        retention.prune(run, range(len(run.trials)), done)

    steps: dict[str, Callable[[], object]] = {
        "front": run.front,
        "hypervolume": run.hypervolume,
        "observations": lambda: run.observations(range(len(run.trials))),
        "pruning": prune,
    }
    for step in steps.values():  # the first time, as after a restart
        step()
    clocks = {name: Clock() for name in steps}
    for trial in range(settings["points"], count):
        _add(run, trial, points_NK[trial])
        for name, step in steps.items():
            with clocks[name].running():
                step()
        room.told(trial - settings["points"] + 1)
    both = np.asarray(clocks["front"].wall) + clocks["hypervolume"].wall
    return {
        "points": settings["points"],
        "on the front": len(run.front()),
        "both": {"median": float(np.median(both)), "worst": float(both.max())},
        **{name: mean(clock.wall) for name, clock in clocks.items()},
    }


def _points(rng: np.random.Generator, count: int, spread: float) -> np.ndarray:
    directions = np.abs(rng.normal(size=(count, len(OBJECTIVES))))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    found: np.ndarray = directions * rng.uniform(0.5, 1.0, size=(count, 1)) ** spread
    return found


def _opened(trials: int) -> events.Opened:
    return events.Opened(
        time=0.0,
        fingerprint="",
        study={"training": {"steps": 1}, "search": {"order": "logical", "keep": 0.5}},
        objectives=tuple(Objective(name, (0.0, 1.0)) for name in OBJECTIVES),
        workers=1,
        trials=trials,
        versions={},
        plugins={},
        revision=None,
        pid=0,
        host="",
    )


def _add(run: Run, trial: int, point: Sequence[float]) -> None:
    point = events.Point(None, tuple(float(value) for value in point), (0.0,) * len(point))
    run.apply(events.Proposed(0.0, trial, Proposal({})))
    run.apply(events.Measured(0.0, trial, 1, "validation", (point,), Cost(), 0.0))


PART: Final = Part(NAME, plan, run, overhead_report.section, overhead_report.goals)
