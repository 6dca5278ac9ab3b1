"""Part: fronts of trained policies against the training they took.

The driver runs whole studies of a language model. A trial is added at a time, and what is then on
the front is measured on test, so a method can be read at any number of training steps. Choices
(what is on the front, which point a preference takes) are validation's; test reports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import filelock

from benchmarks.comparison.plan import usual_preferences
from benchmarks.search import policies_report
from benchmarks.search.cells import Cell
from benchmarks.search.entries import source
from benchmarks.search.part import Mode, Part, Planned, Room
from benchmarks.search.policies_numbers import COLD, FULL, GRID, SMALL, WARM
from moalign import hookimpl, pareto, plugins
from moalign.components import Strategy
from moalign.plugins import Catalogue
from moalign.search.archive import Run
from moalign.search.artifacts import ensure_base
from moalign.search.driver import run_study
from moalign.search.folders import RunFolder
from moalign.strategies.kept import one_by_one, with_proposal
from moalign.study import bundled
from moalign.study.loading import load
from moalign.study.study import Study
from moalign.types import History, Observation, Proposal
from moalign_plugins.strategies.soups import Soups

BEDS: Final[Mapping[str, tuple[str, ...]]] = {"quick": (), "full": ("arithmetic", "restaurants")}
SEEDS: Final = 3
"""Of the mode's; a cell takes minutes."""

PLAIN: Final = (
    "executor=local",
    "trackers=[]",
    "search.rungs=[]",
    "search.space={weighting.preference: simplex}",
)
"""What all methods share: weights are searched, everything else is the study's own."""


def unbound(bed: str, catalogue: Catalogue) -> list[str]:
    """Return what takes a study's thresholds away: no method keeps to what others do not know."""
    study = load(*bundled.read(bed), catalogue)
    held = [o.name for o in study.objectives if o.at_least is not None]
    return [f"objectives.{name}.at_least=null" for name in held]


@dataclass(frozen=True)
class Method:
    """A way to search.

    Attributes:
        strategy: as a study gives it.
        parts: the strategies that it is made of, whose sources the result depends on.
        steps: training steps that all of its trials may take together.
        soups: measured at the end.
    """

    strategy: str
    parts: tuple[str, ...]
    steps: int
    soups: int = 0


WHOLE: Final = 600
"""Training steps of the grid: 15 weights, 40 steps each."""

_CONTINUATION: Final = f"{{continuation: {{strategy: {COLD}, after: 4, steps: 12}}}}"

METHODS: Final[Mapping[str, Method]] = {
    GRID: Method("{grid: {divisions: 4}}", ("grid",), WHOLE),
    "random": Method("random", ("random",), WHOLE),
    COLD: Method(COLD, (COLD,), WHOLE),
    # As far as it takes to see about as many trials as the others have.
    WARM: Method(_CONTINUATION, ("continuation", COLD), 2 * SMALL),
    FULL: Method(_CONTINUATION, ("continuation", COLD, "soups"), SMALL, soups=12),
    # Four policies from scratch, then four extensions of a quarter of the steps.
    "cmorl": Method("cmorl", ("cmorl",), SMALL),
}


def plan(mode: Mode, catalogue: Catalogue) -> list[Planned]:
    """Return the cells: methods on beds, the longest first."""
    free = {bed: unbound(bed, catalogue) for bed in BEDS[mode.name]}
    return [
        Planned(
            Cell(PART.name, bed, entry, seed),
            {
                "overrides": [
                    *PLAIN,
                    *free[bed],
                    f"search.strategy={method.strategy}",
                    f"seed={seed}",
                ],
                "steps": method.steps,
                "soups": method.soups,
                "sources": [source(catalogue, name) for name in method.parts],
            },
        )
        for bed in BEDS[mode.name]
        for seed in mode.seeds[:SEEDS]
        for entry, method in METHODS.items()
    ]


def run(planned: Planned, room: Room) -> dict[str, Any]:
    """Search, a trial at a time, and return the front at each number of trials."""
    settings = planned.settings
    study = load(*bundled.read(planned.cell.bed), plugins.load(), settings["overrides"])
    folder = room.folder / "run"
    _share_artifacts(study, folder, room.folder.parents[2] / "artifacts")
    stages: list[Strategy] = [Within(study.strategy, settings["steps"])]
    if settings["soups"]:
        stages.append(Soups(count=settings["soups"]))
    fronts, counted = list[dict[str, Any]](), _Steps(room.told)
    for strategy in stages:
        while True:
            state = run_study(
                study, folder, trials=len(fronts) + 1, strategy=strategy, listeners=[counted]
            ).run
            # More than one if an interrupted cell goes on, none if nothing is left to propose.
            new = range(len(fronts), len(state.trials))
            if not new:
                break
            fronts += [_front(state, number + 1) for number in new]
    names = [o.name for o in study.front_objectives]
    return {
        "objectives": names,
        "bounds": [list(o.bounds) for o in study.front_objectives if o.bounds],
        "reference": list(state.reference_K),
        "preferences": [
            [preference[name] for name in names] for preference in usual_preferences(names)
        ],
        "fronts": fronts,
    }


PASSED_OVER: Final = 5
"""Proposals in a row that take too many steps, after which no shorter one is expected."""


class Within(Strategy):
    """Proposes what another strategy does, while the steps of all trials stay within a number.

    What takes more steps than there are left is passed over: the other strategy is asked again, as
    if it ran.
    """

    name = "within"

    def __init__(self, strategy: Strategy, steps: int) -> None:
        """Take the other strategy, and how many steps there are."""
        self.strategy = strategy
        self.steps = steps
        self.corners_first = strategy.corners_first  # type: ignore[misc]

    def propose(self, history: History, n: int, seed: int) -> list[Proposal]:
        """Return the other's proposals that can be afforded."""
        return one_by_one(history, n, lambda known: self._next(known, seed))

    def _next(self, history: History, seed: int) -> Proposal | None:
        left = self.steps - sum(_length(p, history) for p in history.made.values())
        for _ in range(PASSED_OVER if left > 0 else 0):
            proposal = next(iter(self.strategy.propose(history, 1, seed)), None)
            if proposal is None or _length(proposal, history) <= left:
                return proposal
            history = with_proposal(history, proposal)
        return None


def _length(proposal: Proposal, history: History) -> int:
    return history.steps if proposal.steps is None else proposal.steps


class _Steps:
    """Counts training steps for the progress bar."""

    def __init__(self, told: Callable[[int], None]) -> None:
        self._told = told
        self._count = 0

    @hookimpl
    def moalign_step_ended(self) -> None:
        """Count one."""
        self._count += 1
        self._told(self._count)


def _share_artifacts(study: Study, folder: Path, shared: Path) -> None:
    """Let all cells take base policies from one folder, and build each of them once."""
    shared.mkdir(parents=True, exist_ok=True)
    here = RunFolder(folder).artifacts
    here.parent.mkdir(parents=True, exist_ok=True)
    if not here.is_symlink():
        here.symlink_to(shared.resolve())
    folder.mkdir(exist_ok=True)
    with filelock.FileLock(shared / f"{study.name}-{study.seed}.lock"):
        ensure_base(study, RunFolder(folder), lambda _share, _words: None)


def _front(state: Run, count: int) -> dict[str, Any]:
    """Return what the first trials have cost, and the points of their front."""
    trials = [state.trials[number] for number in range(count)]
    latest = [trial.measured[trial.step] for trial in trials if trial.measured]
    seen = state.observations(range(count))
    marks = pareto.is_nondominated([one.values_K for one in seen])
    return {
        "trials": count,
        "steps": sum(trial.step for trial in trials),
        "generated": sum(measured.cost.generated for measured in latest),
        "points": [_point(state, one) for one, on in zip(seen, marks, strict=True) if on],
    }


def _point(state: Run, seen: Observation) -> dict[str, Any]:
    tested = state.tests[seen.trial, seen.step]
    values = next(p.values_K for p in tested.points if p.condition == seen.condition)
    return {
        "trial": seen.trial,
        "step": seen.step,
        "soup": not seen.start.scratch and seen.step == 0,
        "continued": not seen.start.scratch and seen.step > 0,
        "validation": list(seen.values_K),
        "test": list(state.axes(values)),
    }


PART: Final = Part(
    name="policies",
    plan=plan,
    run=run,
    section=policies_report.section,
    goals=policies_report.goals,
    draw=policies_report.draw,
)
