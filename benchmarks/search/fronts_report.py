"""What is said of strategies on functions with known fronts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from benchmarks import table
from benchmarks.comparison.measures import Difference
from benchmarks.comparison.words import signed
from benchmarks.search.baselines import BASELINES
from benchmarks.search.goals import Goal, mean, paired, plain
from benchmarks.search.part import Rows, beds, by_seed, entries
from benchmarks.search.picture import Line, panels
from moalign import pareto

EVERY: Final = 4
"""Evaluations between two numbers of a cell."""

KNOWN: Final[Mapping[str, tuple[float, float | None]]] = {
    "random": (0.05, None),
    "Optuna NSGAIISampler": (0.02, None),
    "Optuna TPESampler": (0.44, None),
    "optuna-integration's BoTorchSampler": (0.90, 52.0),
    "Optuna GPSampler": (0.94, 5.0),
}
"""Measured by others before: share of the maximum on BraninCurrin after 40 trials, 3 seeds, and
seconds of the whole search on one core, where they are known."""

KNOWN_BED: Final = "BraninCurrin"
KNOWN_TRIALS: Final = 40
BUDGETS: Final = (16, 24, 32, 40)
"""Small budgets: a study has 16 trials unless it says otherwise."""

PICTURE: Final = "fronts"

Measure = Callable[[Mapping[str, Any]], float]


def after(trials: int) -> Measure:
    """Return how to read the share of the maximum after some evaluations."""

    def share(data: Mapping[str, Any]) -> float:
        shares: Sequence[float] = data["shares"]
        return shares[trials // EVERY - 1]

    return share


def on_average(trials: int) -> Measure:
    """Return how to read the mean share over so many evaluations: the area under the curve."""

    def share(data: Mapping[str, Any]) -> float:
        known = range(EVERY, trials + 1, EVERY)
        return pareto.mean_over_steps(data["shares"][: len(known)], known, trials)

    return share


def _seconds(what: str, which: str) -> Measure:
    return lambda data: float(data[what][which])


def longest(rows: Rows) -> int:
    """Return how many evaluations the cells have, at least."""
    return min(EVERY * len(row.data["shares"]) for row in rows)


def small(rows: Rows) -> list[int]:
    """Return the small budgets that the cells reach."""
    reached = longest(rows)
    return [budget for budget in BUDGETS if budget <= reached] or [reached]


def strategies(rows: Rows) -> list[str]:
    """Return the entries that a study can name."""
    return [entry for entry in entries(rows) if entry not in BASELINES]


# --- goals -------------------------------------------------------------------------------------


def goals(rows: Rows, default: str) -> list[Goal]:
    """Return the goals on BraninCurrin after 40 trials."""
    if KNOWN_BED not in beds(rows) or longest(rows) < KNOWN_TRIALS:
        return []

    def found(entry: str, measure: Measure) -> Difference:
        return mean(by_seed(rows, KNOWN_BED, entry, measure))

    share = after(KNOWN_TRIALS)
    where = f"on {KNOWN_BED}, {KNOWN_TRIALS} trials"
    kept = [
        Goal(f"share of the maximum {where}: `{default}`, the default", found(default, share),
             0.95, higher=True),
        Goal(f"seconds of the whole study {where}: `{default}`",
             found(default, _whole_up_to(KNOWN_TRIALS)), 10.0, higher=False, places=1),
        Goal(f"share of the maximum {where}: `botorch`", found("botorch", share),
             0.95, higher=True),
        Goal("seconds per suggestion there, 95th percentile: `botorch`",
             found("botorch", _seconds("suggesting", "late")), 2.0, higher=False, places=2),
    ]  # fmt: skip
    return [goal for goal in kept if goal.found.seeds]


def _whole_up_to(trials: int) -> Measure:
    """Return how to read a study's seconds; one of more trials counts in proportion."""
    return lambda data: float(data["whole"]["wall"]) * min(1.0, trials / data["trials"])


# --- the section -------------------------------------------------------------------------------


def section(rows: Rows, default: str, pictures: Mapping[str, str]) -> list[str]:
    """Return the section."""
    parts = [
        "## Strategies on functions with known fronts",
        "The real driver, with an executor in its own process and a stand-in for training; one "
        "trial is one evaluation, at full fidelity. Numbers are hypervolume over that of the whole "
        "front, from BoTorch's reference point; where BoTorch's maximum was found by a search, a "
        "number may exceed 1 by a little. **Baselines** are samplers of Optuna and BoTorch, used "
        "plainly, without moalign. Objectives are maximised with the reference point as lower "
        "bound. The driver's first trial is the middle of the space, for every strategy that does "
        "not ask otherwise.",
    ]
    if PICTURE in pictures:
        parts.append(f"![Hypervolume against evaluations]({pictures[PICTURE]})")
    parts += _small_budgets(rows, default)
    parts += _known(rows)
    for bed in beds(rows):
        parts += [f"### {bed}", _bed(rows, bed, default)]
    parts.append(
        "**Mean over** some evaluations is the area under the curve: what was found early counts "
        f"for longer. A share is known every {EVERY} evaluations and counts until the next. "
        "**s per suggestion**: median and 95th percentile of what the strategy takes, on the wall; "
        "**CPU s**: of the whole search, all threads; **s**: of the whole search on the wall, "
        "evaluations included. Libraries were loaded before."
    )
    return parts


def _bed(rows: Rows, bed: str, default: str) -> str:
    budgets = [*small(rows), *([longest(rows)] if longest(rows) > BUDGETS[-1] else [])]
    last = budgets[-1]
    reference = by_seed(rows, bed, default, after(last))
    lines = []
    for entry in entries(rows, bed):
        own = by_seed(rows, bed, entry, after(last))
        lines.append(
            [
                f"{entry} (default)" if entry == default else entry,
                *(f"{mean(by_seed(rows, bed, entry, after(b))).value:.3f}" for b in budgets),
                plain(mean(own)),
                plain(mean(by_seed(rows, bed, entry, on_average(last)))),
                "" if entry == default else signed(paired(own, reference)),
                *(
                    f"{mean(by_seed(rows, bed, entry, _seconds(what, which))).value:.{places}f}"
                    for what, which, places in (
                        ("suggesting", "median", 3),
                        ("suggesting", "late", 3),
                        ("whole", "cpu", 1),
                        ("whole", "wall", 1),
                    )
                ),
            ]
        )
    lines.sort(key=lambda line: -float(line[len(budgets)]))
    header = [
        "entry",
        *(f"after {budget}" for budget in budgets),
        f"after {last}, interval",
        f"mean over {last}",
        f"minus {default}",
        "s per suggestion",
        "95 %",
        "CPU s",
        "s",
    ]
    return table.markdown(header, lines)


def _known(rows: Rows) -> list[str]:
    """Return the table of figures that were known before, beside ours."""
    if KNOWN_BED not in beds(rows) or longest(rows) < KNOWN_TRIALS:
        return []
    ours = entries(rows, KNOWN_BED)
    names = [*KNOWN, *(entry for entry in ours if entry not in KNOWN)]
    lines = []
    for name in names:
        share, seconds = KNOWN.get(name, (None, None))
        here = mean(by_seed(rows, KNOWN_BED, name, after(KNOWN_TRIALS)))
        took = mean(by_seed(rows, KNOWN_BED, name, _whole_up_to(KNOWN_TRIALS)))
        lines.append(
            [
                name,
                "" if share is None else f"{share:.2f}",
                "" if seconds is None else f"{seconds:g}",
                plain(here, 2),
                f"{took.value:.1f}" if took.seeds else "",
            ]
        )
    header = ["entry", "known share", "known s", "share here", "s here"]
    return [
        f"### Against what was known: {KNOWN_BED}, {KNOWN_TRIALS} trials",
        table.markdown(header, lines),
    ]


# --- small budgets -----------------------------------------------------------------------------


def _small_budgets(rows: Rows, default: str) -> list[str]:
    """Say which strategy is best for small budgets."""
    budgets = small(rows)
    names = [name for name in strategies(rows) if over_beds(rows, name, budgets[0])]
    if not names:
        return []
    told = []
    for budget in budgets:
        scores = {name: over_beds(rows, name, budget) for name in names}
        ranked = sorted(names, key=lambda name: -mean(scores[name]).value)
        told.append(_best(scores, ranked, budget, default))
    last = budgets[-1]
    lines = [
        [
            f"{name} (default)" if name == default else name,
            *(plain(mean(over_beds(rows, name, budget))) for budget in budgets),
            *(f"{mean(ranks(rows, names, name, budget)).value:.1f}" for budget in budgets),
        ]
        for name in sorted(names, key=lambda name: -mean(over_beds(rows, name, last)).value)
    ]
    header = [
        "strategy",
        *(f"share after {budget}" for budget in budgets),
        *(f"rank after {budget}" for budget in budgets),
    ]
    return [
        "### Which strategy for small budgets",
        f"Mean over {', '.join(beds(rows))}, by seed; **rank** is the mean place among the "
        "strategies, 1 is the best; every function counts alike there, whatever its shares.",
        "\n".join(f"- {line}" for line in told),
        table.markdown(header, lines),
    ]


def over_beds(rows: Rows, entry: str, trials: int) -> dict[int, float]:
    """Return the mean over all beds of the share of the maximum, by seed that has all of them."""
    found = [by_seed(rows, bed, entry, after(trials)) for bed in beds(rows)]
    whole = set.intersection(*(set(one) for one in found))
    return {seed: float(np.mean([one[seed] for one in found])) for seed in sorted(whole)}


def ranks(rows: Rows, names: Sequence[str], entry: str, trials: int) -> dict[int, float]:
    """Return the mean over all beds of an entry's place, by seed; equal ones share their places."""
    shares = {
        (bed, name): by_seed(rows, bed, name, after(trials)) for bed in beds(rows) for name in names
    }
    found = {}
    for seed in over_beds(rows, entry, trials):
        places = []
        for bed in beds(rows):
            mine = shares[bed, entry][seed]
            theirs = [shares[bed, name][seed] for name in names if seed in shares[bed, name]]
            ahead = sum(share > mine for share in theirs)
            level = sum(share == mine for share in theirs)
            places.append(1 + ahead + (level - 1) / 2)
        found[seed] = float(np.mean(places))
    return found


def _best(
    scores: Mapping[str, Mapping[int, float]], ranked: Sequence[str], budget: int, default: str
) -> str:
    """Return in words which strategy is ahead after some trials, and whether that is certain."""
    first = ranked[0]
    text = f"After {budget} trials `{first}` is ahead, at {plain(mean(scores[first]))}"
    rivals = [*ranked[1:2], *([default] if default in ranked[2:] else [])]
    for rival in rivals:
        difference = paired(scores[first], scores[rival])
        certain = "" if difference.low > 0 else ", which seeds alone may explain"
        text += f"; of `{rival}` by {signed(difference)}{certain}"
    return f"{text}."


# --- the picture -------------------------------------------------------------------------------


def draw(rows: Rows) -> Mapping[str, bytes]:
    """Return the picture: a panel per function."""
    names = entries(rows)
    ours = strategies(rows)
    plainly = [name for name in names if name not in ours]
    lines = {}
    for bed in beds(rows):
        drawn = []
        for name in entries(rows, bed):
            shares = [row.data["shares"] for row in rows if (row.bed, row.entry) == (bed, name)]
            colour = (ours if name in ours else plainly).index(name)
            x = [EVERY * (place + 1) for place in range(min(map(len, shares)))]
            drawn.append(
                Line(name, x, [one[: len(x)] for one in shares], colour, dashed=name in plainly)
            )
        lines[bed] = drawn
    return {
        PICTURE: panels(
            lines,
            "Hypervolume over that of the whole front; mean over seeds and its standard error",
            "evaluations",
            "share of the maximum",
        )
    }
