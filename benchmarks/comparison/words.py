"""Parts that reports share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from benchmarks import table
from benchmarks.comparison import measures
from benchmarks.comparison.measures import Difference, Numbers
from benchmarks.comparison.results import Arena, Results
from benchmarks.comparison.verdicts import Verdict


def signed(difference: Difference) -> str:
    """Return a difference and its interval; empty if there is none."""
    if difference.seeds == 0:
        return ""
    if math.isnan(difference.low):
        return f"{difference.value:+.3f}"
    return f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def moments(results: Results, entry: str) -> str:
    """Return when validation is measured: ``every 10 steps, and after 2 and 5``, by one entry."""
    longest: list[int] = max(
        ([int(m[0]) for m in cell.moments] for cell in results.trained if cell.entry == entry),
        key=len,
        default=[],
    )
    gap = max((b - a for a, b in itertools.pairwise([0, *longest])), default=0)
    early = [str(step) for step in longest if step % max(gap, 1) and step != longest[-1]]
    further = f", and after {' and '.join(early)}" if early else ""
    return f"every {gap} steps{further}"


def unfinished(results: Results) -> list[str]:
    """Return what is to be said if cells are missing."""
    if not results.missing:
        return []
    return [f"**Unfinished: {results.missing} cells have not been run yet.**"]


def counted(verdicts: Sequence[tuple[Verdict, str]]) -> str:
    """Return in words how often a claim was seen.

    Args:
        verdicts: of each finding, and what the finding is about.
    """
    kinds: tuple[Verdict, ...] = ("seen", "opposite seen", "not decided", "one seed")
    told = []
    for kind in kinds:
        about = [name for verdict, name in verdicts if verdict == kind]
        share = f"{len(about)} of {len(verdicts)}"
        if about and kind == "one seed":
            told.append(f"one seed, so nothing can be said, in {share}")
        elif about:
            said = "the opposite seen" if kind == "opposite seen" else kind
            names = f" ({', '.join(about)})" if kind != "not decided" else ""
            told.append(f"{said} in {share}{names}")
    return "; ".join(told)


def value(numbers: Mapping[tuple[str, int], Numbers], label: str, measure: str, places: int) -> str:
    """Return the mean of a measure over the seeds; empty if it does not apply."""
    mean = measures.over_seeds(numbers, label, measure).value
    return "" if math.isnan(mean) else f"{mean:,.{places}f}"


def speeds(numbers: Mapping[tuple[str, int], Numbers], label: str) -> list[str]:
    """Return the steps and the share of the budget that most of the best took, or ``never``."""
    found = []
    seeds = sum(1 for name, _ in numbers if name == label)
    for measure, places in (("steps to 90 %", 0), ("budget to 90 %", 2)):
        mean = measures.over_seeds(numbers, label, measure)
        some = f" ({mean.seeds} of {seeds})" if mean.seeds < seeds else ""
        found.append(f"{mean.value:.{places}f}{some}" if mean.seeds else "never")
    return found


def by_utility(numbers: Mapping[tuple[str, int], Numbers], arena: Arena) -> list[str]:
    """Return the labels of entries that are done, the highest expected utility first."""
    means = {k.label: measures.over_seeds(numbers, k.label, "utility") for k in arena.kinds}
    done = [label for label, mean in means.items() if mean.seeds]
    return sorted(done, key=lambda label: -means[label].value)


def options(arena: Arena, what: str) -> str:
    """Return the options that are not the defaults, as a table.

    Args:
        arena: the bed.
        what: the kind of component that is compared.
    """
    rows = [
        [kind.label, kind.family, _said(kind.options), _said(kind.settings)]
        for kind in arena.kinds
        if kind.options or kind.settings
    ]
    if not rows:
        return f"All {what}s have their default options."
    header = [what, "family", "options", "settings of the study"]
    return "Options that are not the defaults:\n\n" + table.markdown(header, rows)


def _said(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items())


def not_run(results: Results, what: str) -> list[str]:
    """Return what failed, and why, as a section.

    Args:
        results: the document.
        what: the kind of component that is compared.
    """
    if not results.broken:
        return []
    reasons: dict[tuple[str, str, str], int] = {}
    for cell in results.broken:
        key = (cell.entry, cell.bed, cell.reason)
        reasons[key] = reasons.get(key, 0) + 1
    rows = [
        [entry, bed, count, " ".join(reason.split())]
        for (entry, bed, reason), count in reasons.items()
    ]
    return [
        "## What could not be run",
        table.markdown([what, "task", "cells", "reason"], rows),
    ]
