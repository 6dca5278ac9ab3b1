"""A problem as a study: its inputs are searched, its values are the objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.search.curves import Curves
from benchmarks.search.functions import FUNCTIONS
from benchmarks.search.problem import Problem
from moalign import plugins
from moalign.plugins import Catalogue
from moalign.study.document import Document
from moalign.study.loading import checked
from moalign.study.study import Study

STAND_INS: Final = Path(__file__).with_name("stand_ins.py")


def problem_of(name: str) -> Problem:
    """Return a problem by its name."""
    return Curves() if name == Curves.name else FUNCTIONS[name]()


def catalogue(cache: dict[str, Any]) -> Catalogue:
    """Return the installed plugins and the stand-ins; loaded once per worker."""
    if "catalogue" not in cache:
        cache["catalogue"] = plugins.load([STAND_INS])
    found: Catalogue = cache["catalogue"]
    return found


def study_of(
    problem: Problem,
    catalogue: Catalogue,
    *,
    strategy: str,
    seed: int,
    steps: int = 1,
    rungs: Sequence[int] = (),
    keep: float = 0.5,
    trackers: Sequence[str] = (),
) -> Study:
    """Return a study of a problem, checked.

    Args:
        problem: what is searched.
        catalogue: the plugins, stand-ins among them.
        strategy: its name; it has its default options.
        seed: of the study.
        steps: of a full-length trial.
        rungs: steps at which trials are ranked.
        keep: share of them that goes on.
        trackers: their names.

    Raises:
        StudyError: there is no such strategy.
    """
    objectives = {
        f"f{number + 1}": {
            "reward": {"problem": {"number": number}},
            "bounds": [float(worst), float(best)],
        }
        for number, (worst, best) in enumerate(zip(problem.worst_K, problem.best_K, strict=True))
    }
    data: Mapping[str, Any] = {
        "study": problem.name,
        "seed": seed,
        "task": {"problem": {"problem": problem.name}},
        "policy": "problem",
        "objectives": objectives,
        "rollout": "problem",
        "training": {"optimizer": "problem", "steps": steps},
        "weighting": "inputs",
        "search": {
            "strategy": strategy,
            "rungs": list(rungs),
            "keep": keep,
            "space": {path: {"low": 0.0, "high": 1.0} for path in paths(problem)},
        },
        "executor": "local",
        "trackers": list(trackers),
    }
    return checked(Document("the study of a problem", dict(data)), catalogue)


def paths(problem: Problem) -> list[str]:
    """Return where the inputs of a problem stand in its study, in their order."""
    return [f"weighting.x{number}" for number in range(problem.inputs)]
