"""Part: trials are stopped at rungs, or not, at equal cost.

Cost is counted in training steps; a measurement costs some, and a trial that stands at rungs is
measured there as well. Without rungs every trial is trained in full. With rungs the study goes on
until as much is spent. What counts are trials that were trained in full: the front is chosen by
what was measured, and its volume is that of the true values. A trial is truly Pareto-optimal if no
other trial of its study dominates it, by the true values that all of them have, or would have, at
full length.
"""

from __future__ import annotations

import inspect
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.search import rungs_report
from benchmarks.search.cells import Cell
from benchmarks.search.curves import Curves
from benchmarks.search.drive import drive, inputs_of
from benchmarks.search.entries import default, source, strategies
from benchmarks.search.functions import WITH_FIDELITY
from benchmarks.search.part import Mode, Part, Planned, Room
from benchmarks.search.problem import Problem
from benchmarks.search.rungs_report import RUNGS
from benchmarks.search.studies import catalogue, problem_of, study_of
from benchmarks.sources import digest
from moalign import pareto
from moalign.plugins import Catalogue
from moalign.search import stopping
from moalign.search.archive import Trial
from moalign.types import History

NAME: Final = "rungs"

BEDS: Final[Mapping[str, Sequence[str]]] = {
    "quick": ("MOMFBraninCurrin", Curves.name),
    "full": (*WITH_FIDELITY, Curves.name),
}

BESIDE: Final = ("botorch", "gp", "random")
"""Strategies beside the default: two that learn from stopped trials, and one from none."""

TRIALS: Final = 24
"""As many trials in full as the steps are for."""

STEPS: Final = 40
AT: Final = (10, 20)
KEEP: Final = 0.5
"""As in the study ``arithmetic``."""

MEASURED: Final = 1.33
"""What a measurement costs, in training steps: 512 completions that are sampled on `arithmetic`,
where a step samples 128 and passes them forward and backward."""

PARTS: Final = 24
"""Of the cost, after each of which a number is kept."""


def plan(mode: Mode, installed: Catalogue) -> list[Planned]:
    """Return the cells, seed by seed."""
    names = [name for name in strategies(installed) if name in {default(), *BESIDE}]
    rule = digest([Path(inspect.getfile(stopping))])
    return [
        Planned(
            Cell(NAME, bed, f"{name}{RUNGS if stops else ''}", seed),
            {
                "strategy": name,
                "trials": TRIALS,
                "steps": STEPS,
                "rungs": list(AT) if stops else [],
                "keep": KEEP,
                "measured": MEASURED,
                "source": source(installed, name),
                **({"rule": rule} if stops else {}),
            },
        )
        for seed in mode.seeds
        for bed in BEDS[mode.name]
        for name in names
        for stops in (False, True)
    ]


def run(planned: Planned, room: Room) -> dict[str, Any]:
    """Search one problem once, until the budget is spent."""
    cell, settings = planned.cell, planned.settings
    problem, steps, each = problem_of(cell.bed), settings["steps"], settings["measured"]
    budget = settings["trials"] * (steps + each)
    study = study_of(
        problem,
        catalogue(room.cache),
        strategy=settings["strategy"],
        seed=cell.seed,
        steps=steps,
        rungs=settings["rungs"],
        keep=settings["keep"],
    )
    folder = room.folder / "run"
    shutil.rmtree(folder, ignore_errors=True)
    most = math.ceil(budget / min(settings["rungs"], default=steps))
    driven = drive(study, folder, most, lambda known: _spent(known, each) >= budget, room.told)
    return summary(problem, list(driven.run.trials.values()), steps, budget, each)


def _spent(history: History, measured: float) -> float:
    """Return the steps of all trials so far, and what their measurements cost."""
    latest: dict[int, int] = {}
    for one in history.observations:
        latest[one.trial] = max(one.step, latest.get(one.trial, 0))
    return sum(latest.values()) + measured * len(history.observations)


def summary(
    problem: Problem, trials: Sequence[Trial], steps: int, budget: float, measured: float
) -> dict[str, Any]:
    """Return what is kept of a study whose trials ran one after the other.

    Args:
        problem: tells the true values.
        trials: in order.
        steps: of a full-length trial.
        budget: cost that counts, in steps.
        measured: what a measurement costs, in steps.
    """
    true_NK = [problem.values(inputs_of(problem, trial)) for trial in trials]
    optimal_N = pareto.is_nondominated(true_NK)
    stopped = [trial.outcome == "stopped" for trial in trials]
    ends, spent = [], 0.0
    for trial in trials:
        spent += trial.step + measured * len(trial.measured)
        ends.append(spent)
    whole = len(trials) * (steps + measured)
    shares = []
    for part in range(1, PARTS + 1):
        known = [
            number
            for number, trial in enumerate(trials)
            if steps in trial.measured and ends[number] <= budget * part / PARTS
        ]
        seen = [trials[number].measured[steps].points[0].values_K for number in known]
        kept = pareto.is_nondominated(seen) if seen else []
        front = [true_NK[number] for number, keep in zip(known, kept, strict=True) if keep]
        shares.append(problem.share_of_maximum(front) if front else 0.0)
    return {
        "shares": shares,
        "trials": len(trials),
        "in full": sum(steps in trial.measured for trial in trials),
        "spent": spent,
        "budget": budget,
        "measured": measured,
        "saved": 1 - sum(trial.step for trial in trials) / (steps * len(trials)),
        "saved in all": 1 - spent / whole,
        "optimal": int(optimal_N.sum()),
        "optimal stopped": sum(
            bool(on) and stop for on, stop in zip(optimal_N, stopped, strict=True)
        ),
    }


PART: Final = Part(NAME, plan, run, rungs_report.section, rungs_report.goals, rungs_report.draw)
