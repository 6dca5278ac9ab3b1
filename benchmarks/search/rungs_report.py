"""What is said of stopping trials at rungs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from benchmarks import table
from benchmarks.comparison.measures import Difference
from benchmarks.comparison.words import signed
from benchmarks.search.goals import Goal, mean, plain
from benchmarks.search.part import Row, Rows, beds, by_seed, entries
from benchmarks.search.picture import Line, panels

RUNGS: Final = " + rungs"
"""What the label of an entry ends with whose trials are stopped."""

MOST_LOST: Final = 0.05
PICTURE: Final = "rungs"


def final(data: Mapping[str, Any]) -> float:
    """Return the share of the maximum when the budget is spent."""
    return float(data["shares"][-1])


def lost(rows: Rows) -> Difference:
    """Return the share of truly Pareto-optimal trials that were stopped, of all rows of a seed."""
    optimal: dict[int, int] = {}
    stopped: dict[int, int] = {}
    for row in rows:
        optimal[row.seed] = optimal.get(row.seed, 0) + row.data["optimal"]
        stopped[row.seed] = stopped.get(row.seed, 0) + row.data["optimal stopped"]
    return mean({seed: stopped[seed] / count for seed, count in optimal.items() if count})


def strategies(rows: Rows) -> list[str]:
    """Return the strategies that were run with rungs and without."""
    names = entries(rows)
    return [name for name in names if f"{name}{RUNGS}" in names]


def _stopping(rows: Rows, name: str) -> list[Row]:
    return [row for row in rows if row.entry == f"{name}{RUNGS}"]


# --- goals -------------------------------------------------------------------------------------


def goals(rows: Rows, default: str) -> list[Goal]:
    """Return the goals: few optimal trials stopped, and no worse a front for as much."""
    if default not in strategies(rows):
        return []
    every = [row for row in rows if row.entry.endswith(RUNGS)]
    gains = over_beds(rows, lambda bed: _gain(rows, bed, default))
    return [
        Goal("truly Pareto-optimal trials that rungs stopped, all strategies", lost(every),
             MOST_LOST, higher=False),
        Goal(f"the same, `{default}` alone", lost(_stopping(rows, default)),
             MOST_LOST, higher=False),
        Goal(f"share of the maximum that rungs add at equal cost: `{default}`", mean(gains),
             0.0, higher=True),
    ]  # fmt: skip


def over_beds(rows: Rows, of_bed: Callable[[str], Mapping[int, float]]) -> dict[int, float]:
    """Return the mean over all beds of what each gives, by seed that has all of them."""
    found = [of_bed(bed) for bed in beds(rows)]
    whole = set.intersection(*(set(one) for one in found))
    return {seed: sum(one[seed] for one in found) / len(found) for seed in sorted(whole)}


def _gain(rows: Rows, bed: str, name: str) -> dict[int, float]:
    """Return by how much rungs raise the final share, by seed."""
    with_rungs = by_seed(rows, bed, f"{name}{RUNGS}", final)
    without = by_seed(rows, bed, name, final)
    return {seed: with_rungs[seed] - without[seed] for seed in with_rungs.keys() & without.keys()}


# --- the section -------------------------------------------------------------------------------


def section(rows: Rows, default: str, pictures: Mapping[str, str]) -> list[str]:
    """Return the section."""
    budget, measured = (max(row.data[name] for row in rows) for name in ("budget", "measured"))
    parts = [
        "## Stopping trials at rungs",
        f"Each study may spend {budget:,.0f} training steps, of which a measurement on validation "
        f"costs {measured:g}. Without rungs every trial is trained in full and measured once; with "
        "rungs trials are measured and ranked at them and the weaker ones stopped, and the study "
        "goes on until as much is spent, so it tries more. Counted are trials trained in full: "
        "the front is chosen by what was measured, and its **share** of the maximum is that of the "
        "true values. **Steps saved** is the share of the steps that the study's trials would have "
        "taken in full, **cost saved** the same with what the measurements cost. A trial is truly "
        "**Pareto-optimal** if by the true values at full length no other trial of its study, "
        "stopped or not, dominates it. The fidelity of the MOMF problems is the share of the "
        "steps; `curves` are learning curves that cross, measured with noise.",
    ]
    if PICTURE in pictures:
        parts.append(f"![Hypervolume against steps]({pictures[PICTURE]})")
    lines = [_line(rows, bed, name, default) for bed in beds(rows) for name in strategies(rows)]
    header = [
        "problem",
        "strategy",
        "share without",
        "share with rungs",
        "with minus without",
        "cost to as much",
        "trials without",
        "with",
        "steps saved",
        "cost saved",
        "optimal trials",
        "of these stopped",
    ]
    parts.append(table.markdown(header, lines))
    parts.append(
        "**Cost to as much**: after which share of the budget the study with rungs had found as "
        "much as the one without had at the end, mean over the seeds where it did."
    )
    return [*parts, *(_said(rows, name) for name in strategies(rows))]


def _line(rows: Rows, bed: str, name: str, default: str) -> list[object]:
    stopping = f"{name}{RUNGS}"

    def average(entry: str, what: str) -> float:
        return mean(by_seed(rows, bed, entry, lambda data: float(data[what]))).value

    reached = sooner(rows, bed, name)
    seeds = len(by_seed(rows, bed, stopping, final))
    some = f" ({len(reached)} of {seeds})" if len(reached) < seeds else ""
    ours = [row for row in _stopping(rows, name) if row.bed == bed]
    return [
        bed,
        f"{name} (default)" if name == default else name,
        plain(mean(by_seed(rows, bed, name, final))),
        plain(mean(by_seed(rows, bed, stopping, final))),
        signed(mean(_gain(rows, bed, name))),
        f"{mean(reached).value:.2f}{some}" if reached else "never",
        f"{average(name, 'trials'):.0f}",
        f"{average(stopping, 'trials'):.0f}",
        f"{average(stopping, 'saved'):.0%}",
        f"{average(stopping, 'saved in all'):.0%}",
        f"{average(stopping, 'optimal'):.1f}",
        plain(lost(ours)),
    ]


def sooner(rows: Rows, bed: str, name: str) -> dict[int, float]:
    """Return by seed after which share of the budget rungs had found as much as no rungs do."""
    without = by_seed(rows, bed, name, final)
    found = {}
    for row in rows:
        if (row.bed, row.entry) == (bed, f"{name}{RUNGS}") and row.seed in without:
            shares = row.data["shares"]
            places = [place for place, share in enumerate(shares) if share >= without[row.seed]]
            if places:
                found[row.seed] = (places[0] + 1) / len(shares)
    return found


def _said(rows: Rows, name: str) -> str:
    """Return in words what stopping does for a strategy, over all problems."""
    gain = mean(over_beds(rows, lambda bed: _gain(rows, bed, name)))
    saved = {
        what: mean(over_beds(rows, lambda bed, w=what: _average_of(rows, bed, name, w)))
        for what in ("saved", "saved in all")
    }
    if math.isnan(gain.low):
        certain = "one seed, so nothing can be said"
    elif gain.low > 0:
        certain = "a gain"
    elif gain.high < 0:
        certain = "a loss"
    else:
        certain = "which seeds alone may explain"
    stopped = lost(_stopping(rows, name))
    return (
        f"`{name}`, mean over the problems: at equal cost rungs change the share by "
        f"{signed(gain)}, {certain}; per trial they save {saved['saved'].value:.0%} of the steps "
        f"and {saved['saved in all'].value:.0%} of the cost; of the truly Pareto-optimal trials "
        f"they stop {plain(stopped)}."
    )


def _average_of(rows: Rows, bed: str, name: str, what: str) -> dict[int, float]:
    return by_seed(rows, bed, f"{name}{RUNGS}", lambda data: float(data[what]))


# --- the picture -------------------------------------------------------------------------------


def draw(rows: Rows) -> Mapping[str, bytes]:
    """Return the picture: a panel per problem; dashes for studies without rungs."""
    names = strategies(rows)
    if not names:
        return {}
    budget = max(row.data["budget"] for row in rows)
    lines = {}
    for bed in beds(rows):
        drawn = []
        for colour, name in enumerate(names):
            for entry in (name, f"{name}{RUNGS}"):
                shares = [r.data["shares"] for r in rows if (r.bed, r.entry) == (bed, entry)]
                if shares:
                    steps = [budget * (k + 1) / len(shares[0]) for k in range(len(shares[0]))]
                    drawn.append(Line(entry, steps, shares, colour, dashed=entry == name))
        lines[bed] = drawn
    return {
        PICTURE: panels(
            lines,
            "Hypervolume over that of the whole front, trials trained in full",
            "cost, in training steps",
            "share of the maximum",
        )
    }
