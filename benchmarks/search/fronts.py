"""Part: how much of a known front each strategy finds, against evaluations.

Every strategy is driven by the real driver; samplers of Optuna and BoTorch, used plainly, are the
baselines. Problems with a fidelity are evaluated at the full one.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from benchmarks.search import fronts_report
from benchmarks.search.baselines import BASELINES
from benchmarks.search.cells import Cell
from benchmarks.search.drive import Clock, drive
from benchmarks.search.entries import source, strategies
from benchmarks.search.fronts_report import EVERY
from benchmarks.search.functions import PLAIN, WITH_FIDELITY
from benchmarks.search.part import Mode, Part, Planned, Room
from benchmarks.search.problem import Problem
from benchmarks.search.studies import catalogue, problem_of, study_of
from moalign.plugins import Catalogue

NAME: Final = "fronts"

BEDS: Final[Mapping[str, Sequence[str]]] = {
    "quick": ("BraninCurrin", "DTLZ2"),
    "full": (*PLAIN, *WITH_FIDELITY),
}

TRIALS: Final[Mapping[str, int]] = {"quick": 40, "full": 60}

SLOW: Final[Mapping[str, Sequence[str]]] = {"quick": ("BoTorch qLogNEHVI",), "full": ()}
"""Baselines that would take most of the time."""

WARMING: Final = 11
"""Trials before anything is timed, once per worker and entry: libraries are loaded then."""


def plan(mode: Mode, installed: Catalogue) -> list[Planned]:
    """Return the cells, seed by seed."""
    libraries = {name: version(name) for name in ("optuna", "botorch", "torch")}
    sources = {name: source(installed, name) for name in strategies(installed)}
    sources |= dict.fromkeys([name for name in BASELINES if name not in SLOW[mode.name]], "")
    return [
        Planned(
            Cell(NAME, bed, entry, seed),
            {
                "trials": TRIALS[mode.name],
                "warming": WARMING,
                "source": digest,
                "libraries": libraries,
            },
        )
        for seed in mode.seeds
        for bed in BEDS[mode.name]
        for entry, digest in sources.items()
    ]


def run(planned: Planned, room: Room) -> dict[str, Any]:
    """Search one problem once."""
    cell, trials = planned.cell, planned.settings["trials"]
    warming, warm = planned.settings["warming"], room.cache.setdefault("warm", set())
    if warming and cell.entry not in warm:
        aside = replace(room, folder=room.folder / "warming", told=lambda _: None)
        _search(problem_of("BraninCurrin"), cell, warming, aside)
        warm.add(cell.entry)
    problem = problem_of(cell.bed)
    values_NK, suggesting, whole = _search(problem, cell, trials, room)
    shares = [
        problem.share_of_maximum(values_NK[:count]) for count in range(EVERY, trials + 1, EVERY)
    ]
    return {
        "shares": shares,
        "trials": len(values_NK),
        "suggesting": suggesting.summary(),
        "whole": {"wall": whole.wall[0], "cpu": whole.cpu[0]},
    }


def _search(
    problem: Problem, cell: Cell, trials: int, room: Room
) -> tuple[list[Sequence[float]], Clock, Clock]:
    """Return the values that were found, and what that took."""
    if cell.entry in BASELINES:
        asked = BASELINES[cell.entry](problem, trials, cell.seed, room.told)
        return list(asked.values_NK), asked.suggesting, asked.whole
    study = study_of(problem, catalogue(room.cache), strategy=cell.entry, seed=cell.seed)
    driven = drive(study, _fresh(room.folder / "run"), trials, told=room.told)
    found = [trial.measured[1].points[0].values_K for trial in driven.run.trials.values()]
    return list(found), driven.suggesting, driven.whole


def _fresh(folder: Path) -> Path:
    """Return a folder without what an interrupted run left: its seconds would not be all."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


PART: Final = Part(NAME, plan, run, fronts_report.section, fronts_report.goals, fronts_report.draw)
