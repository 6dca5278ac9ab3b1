"""What is said of fronts of trained policies: against training steps, and beside the grid's."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from benchmarks import table
from benchmarks.comparison.picture import COLOURS, style
from benchmarks.comparison.words import signed
from benchmarks.search import goals as goal
from benchmarks.search import policies_numbers as numbers
from benchmarks.search.goals import Goal
from benchmarks.search.part import Row, Rows, beds, entries
from benchmarks.search.policies_numbers import COLD, FULL, GRID, SMALL, WARM
from moalign import pareto

MEASURES: Final[Mapping[str, str]] = {
    "utility": "expected utility",
    "volume": "hypervolume",
    "hull": "hypervolume of mixtures",
}
"""What is reported, on test."""

SHARES: Final[Mapping[str, float]] = {"a third of the tokens": 1 / 3, "all of the tokens": 1.0}
"""Of what the grid sampled, at which methods are compared."""

REACH: Final[Mapping[str, str]] = {
    "seen": "reach",
    "opposite seen": "do not reach",
    "not decided": "can, over these seeds, not be told from",
    "one seed": "stand, at the one seed there is, beside",
}
"""What the mixtures of one method do to those of another."""

FILLS: Final[Mapping[str, str]] = {
    "seen": "Soups fill the front better than mixing does:",
    "opposite seen": "Mixing fills the front better than soups do:",
    "not decided": "Whether soups or mixing fill the front better is not decided:",
    "one seed": "At the one seed there is,",
}
"""What is said of soups beside mixtures of the policies that were there before."""


def section(rows: Rows, default: str, pictures: Mapping[str, str]) -> list[str]:
    """Return the section of the page."""
    del default
    parts = [
        "## Fronts of trained policies",
        "The driver on language models, a trial at a time. The front, and the point that each of "
        "the preferences takes, are validation's choice; all numbers are test's. Steps are all "
        "training steps of all trials; tokens are those sampled to train and to validate. The base "
        "policy is on no front. Rungs are off: every trial takes all of its steps. Mixtures draw "
        "one of a front's policies for every prompt, which needs no training: what they reach is "
        "what any claim about filling or extending the front has to beat. *Equal numbers of "
        "points*: of both fronts as many as the smaller one has, taken one by one for the "
        "validation hypervolume they add, or where they are mixed, that of their mixtures. No "
        "objective has a threshold: some methods would keep to it, and the measures do not know "
        "it. How far a warm start may fall behind, and how long it warms up, was chosen by looking "
        "at `arithmetic`, seed 0.",
    ]
    for bed in beds(rows):
        parts.append(f"### {bed}")
        parts.append(table.markdown(*_methods(rows, bed)))
        parts.append(table.markdown(*_differences(rows, bed)))
        parts += _mixtures(rows, bed)
        parts += _at_tokens(rows, bed)
        parts += _over_steps(rows, bed)
        parts += _going_on(rows, bed)
        if bed in pictures:
            parts.append(
                f"![Expected utility on {bed}, against training steps and against tokens]"
                f"({pictures[bed]})"
            )
    return parts


def goals(rows: Rows, default: str) -> list[Goal]:
    """Return whether the full method had the grid's values with a third of its steps."""
    del default
    found = []
    for bed in beds(rows):
        for measure in MEASURES:
            says = (
                f"{MEASURES[measure]} on {bed}, equal numbers of points: {FULL} at {SMALL} steps "
                f"minus {GRID} at the end"
            )
            value = numbers.difference(rows, bed, FULL, SMALL, measure, equal=True)
            found.append(Goal(says, value, 0.0, True))
    return found


# --- tables and picture --------------------------------------------------------------------------


def _stages(rows: Rows, bed: str) -> list[tuple[str, int | None]]:
    """Return what is compared: every method within the small budget, and at its end."""
    return [(entry, steps) for entry in entries(rows, bed) for steps in (SMALL, None)]


def _methods(rows: Rows, bed: str) -> tuple[list[str], list[list[str]]]:
    header = ["method", "trials", "steps", "tokens sampled", "points (mixed)", *MEASURES.values()]
    lines = []
    for entry, steps in _stages(rows, bed):
        seen = [r for r in rows if (r.bed, r.entry) == (bed, entry)]
        found = [front for r in seen if (front := numbers.at(r, steps)) is not None]
        if not found:
            continue
        lines.append(
            [
                _named(entry, steps),
                _mean([f.trials for f in found]),
                _mean([f.steps for f in found]),
                f"{np.mean([f.generated for f in found]):,.0f}",
                f"{_mean([len(f.test_NK) for f in found])} ({_mean([f.kinds[2] for f in found])})",
                *(
                    goal.plain(goal.mean(numbers.read(rows, bed, entry, steps, m)))
                    for m in MEASURES
                ),
            ]
        )
    return header, lines


def _differences(rows: Rows, bed: str) -> tuple[list[str], list[list[str]]]:
    header = [f"minus {GRID} at its end", *MEASURES.values()]
    header += [f"{name}, equal numbers of points" for name in MEASURES.values()]
    lines = [
        [
            _named(entry, steps),
            *(
                signed(numbers.difference(rows, bed, entry, steps, m, equal=equal))
                for equal in (False, True)
                for m in MEASURES
            ),
        ]
        for entry, steps in _stages(rows, bed)
        if (entry, steps) != (GRID, None)
    ]
    return header, lines


def _mixtures(rows: Rows, bed: str) -> list[str]:
    """Say whether mixtures of the full method's policies reach those of the grid's, and soups."""
    mine = goal.mean(numbers.read(rows, bed, FULL, SMALL, "hull"))
    theirs = goal.mean(numbers.read(rows, bed, GRID, None, "hull"))
    difference = numbers.difference(rows, bed, FULL, SMALL, "hull")
    if not difference.seeds:
        return []
    reach = REACH[Goal("", difference, 0.0, higher=True).verdict]
    text = (
        f"**Mixtures.** Those of the {FULL} at {SMALL} steps "
        f"{reach} those of the {GRID} at its end: a hypervolume of {goal.plain(mine)} beside "
        f"{goal.plain(theirs)}, {signed(difference)}."
    )
    return [f"{text} {_soups(rows, bed)}".rstrip()]


def _soups(rows: Rows, bed: str) -> str:
    """Say what soups add to mixtures of the policies that were there before them."""
    ends = {r.seed: (r, numbers.fronts(r)) for r in rows if (r.bed, r.entry) == (bed, FULL)}
    found = {}
    for seed, (row, every) in ends.items():
        before = next(front for front in every if front.steps == every[-1].steps)
        if before.trials < every[-1].trials:
            found[seed] = numbers.measures(row, before), numbers.measures(row, every[-1])
    if not found:
        return ""
    mixed = goal.mean({seed: before["hull"] for seed, (before, _) in found.items()})
    beside = {
        measure: goal.mean(
            {seed: end[measure] - before["hull"] for seed, (before, end) in found.items()}
        )
        for measure in ("volume", "hull")
    }
    fills = FILLS[Goal("", beside["volume"], 0.0, higher=True).verdict]
    return (
        f"Its policies before any soup reach {goal.plain(mixed)} when they are mixed. {fills} "
        f"its points with soups, unmixed, lie {signed(beside['volume'])} from that, and mixed, "
        f"{signed(beside['hull'])}."
    )


def _at_tokens(rows: Rows, bed: str) -> list[str]:
    """Return what methods have at a share of the grid's tokens, as a table."""
    grid = {r.seed: (r, numbers.fronts(r)[-1]) for r in rows if (r.bed, r.entry) == (bed, GRID)}
    lines = []
    for entry in entries(rows, bed):
        ours = [r for r in rows if (r.bed, r.entry) == (bed, entry) and r.seed in grid]
        for name, share in SHARES.items():
            found = {
                row.seed: (row, front)
                for row in ours
                if (front := numbers.within(row, share * grid[row.seed][1].generated)) is not None
            }
            if not found or (entry, share) == (GRID, 1.0):
                continue
            lines.append(
                [
                    f"{entry}, {name}",
                    _mean([front.steps for _, front in found.values()]),
                    f"{np.mean([front.generated for _, front in found.values()]):,.0f}",
                    *(
                        signed(
                            goal.mean(
                                {
                                    seed: numbers.measures(*mine)[measure]
                                    - numbers.measures(*grid[seed])[measure]
                                    for seed, mine in found.items()
                                }
                            )
                        )
                        for measure in MEASURES
                    ),
                ]
            )
    if not lines:
        return []
    measured = [f"{MEASURES[m]}, minus {GRID}'s" for m in MEASURES]
    header = [f"at most, of the {GRID}'s tokens", "steps", "tokens sampled", *measured]
    return ["**At equal tokens**, beside the grid at its end:", table.markdown(header, lines)]


def _over_steps(rows: Rows, bed: str) -> list[str]:
    """Return how soon methods have what they have, as a table."""
    longest = max(front.steps for r in rows if r.bed == bed for front in numbers.fronts(r)[-1:])
    spans = sorted({SMALL, longest})
    lines = []
    for entry in entries(rows, bed):
        ours = {r.seed: r for r in rows if (r.bed, r.entry) == (bed, entry)}
        means = []
        for span in spans:
            mine, theirs = (_on_average(rows, bed, name, span) for name in (entry, GRID))
            means.append(goal.plain(goal.mean(mine)))
            means.append("" if entry == GRID else signed(goal.paired(mine, theirs)))
        first = [_first(row) for row in ours.values()]
        lines.append([entry, *means, _mean(first), *_dominance(rows, bed, entry)])
    header = ["method"]
    for span in spans:
        header += [f"hypervolume, mean over {span} steps", f"minus {GRID}'s"]
    header += ["steps to a point that stays", f"dominates {GRID}'s", f"dominated by {GRID}'s"]
    return [
        "**Over the steps.** The mean over steps is the area under the curve: what is there early "
        "counts for longer, nothing is there before the first trial has ended, and a method that "
        "ended keeps what it has. *A point that stays* is the first one of the last front. "
        f"*Dominates*: which share of the points that seeds and preferences take at the end is "
        f"better than the {GRID}'s for the same preference in one objective on test, and worse in "
        "none.",
        table.markdown(header, lines),
    ]


def _on_average(rows: Rows, bed: str, entry: str, steps: int) -> dict[int, float]:
    """Return the mean hypervolume of a method over so many steps, by seed."""
    found = {}
    for row in rows:
        if (row.bed, row.entry) == (bed, entry):
            every = numbers.fronts(row)
            volumes = [pareto.hypervolume(f.test_NK, row.data["reference"]) for f in every]
            found[row.seed] = pareto.mean_over_steps(volumes, [f.steps for f in every], steps)
    return found


def _first(row: Row) -> float:
    """Return how many steps all trials had taken when the first point of the last front ended."""
    every = numbers.fronts(row)
    return pareto.first_on_front(
        every[-1].validation_NK, [every[number].steps for number in every[-1].numbers]
    )


def _dominance(rows: Rows, bed: str, entry: str) -> tuple[str, str]:
    """Return which share of the points taken dominates the grid's, and which is dominated."""
    ends = {
        (r.entry, r.seed): numbers.taken(r, numbers.fronts(r)[-1]) for r in rows if r.bed == bed
    }
    seeds = sorted(seed for name, seed in ends if name == entry and (GRID, seed) in ends)
    if entry == GRID or not seeds:
        return "", ""
    mine, theirs = (np.vstack([ends[name, seed] for seed in seeds]) for name in (entry, GRID))
    return (
        f"{pareto.dominance_rate(mine, theirs):.0%}",
        f"{pareto.dominance_rate(theirs, mine):.0%}",
    )


def _going_on(rows: Rows, bed: str) -> list[str]:
    """Return what trials that go on with a policy save, and what they cost."""
    pairs = _side_by_side(rows, bed)
    if not pairs:
        return []
    said = [_courses(warm) for _, warm in pairs.values()]
    went, again = (sum(column) for column in zip(*said, strict=True))
    header = [f"{WARM} beside {COLD}", "steps", f"steps of {COLD}",
              f"expected utility, minus {COLD}'s", f"hypervolume, minus {COLD}'s"]  # fmt: skip
    lines = []
    for name, cut in (("equal numbers of trials", _equal_trials), ("equal steps", _equal_steps)):
        cuts = {seed: cut(cold, warm) for seed, (cold, warm) in pairs.items()}
        differences = [
            goal.mean(
                {
                    seed: numbers.measures(pairs[seed][1], warm)[measure]
                    - numbers.measures(pairs[seed][0], cold)[measure]
                    for seed, (cold, warm) in cuts.items()
                }
            )
            for measure in ("utility", "volume")
        ]
        lines.append(
            [
                name,
                _mean([warm.steps for _, warm in cuts.values()]),
                _mean([cold.steps for cold, _ in cuts.values()]),
                *map(signed, differences),
            ]
        )
    return [
        f"**Warm starts.** `{WARM}` is `{COLD}` whose trials, once four have ended, go on with the "
        f"policy that is worth most to them. Over the seeds {went} trials did. {again} more were "
        "trained in full after that, nearly all because such a trial had made no progress and its "
        "parameters were tried from scratch; the steps below include both.",
        table.markdown(header, lines),
    ]


def _side_by_side(rows: Rows, bed: str) -> dict[int, tuple[Row, Row]]:
    """Return the cells without and with warm starts, by seed."""
    found = {(r.entry, r.seed): r for r in rows if r.bed == bed}
    seeds = sorted({seed for _, seed in found})
    return {
        seed: (found[COLD, seed], found[WARM, seed])
        for seed in seeds
        if (COLD, seed) in found and (WARM, seed) in found
    }


def _courses(row: Row) -> tuple[int, int]:
    """Return how many trials went on, and how many were trained in full after the first of them."""
    totals = [0, *(front.steps for front in numbers.fronts(row))]
    lengths = [after - before for before, after in itertools.pairwise(totals)]
    whole = max(lengths)
    first = next((n for n, length in enumerate(lengths) if length < whole), len(lengths))
    late = lengths[first:]
    return sum(length < whole for length in late), sum(length == whole for length in late)


def _equal_trials(cold: Row, warm: Row) -> tuple[numbers.Front, numbers.Front]:
    """Return both fronts after as many trials as the shorter of them has."""
    count = min(len(row.data["fronts"]) for row in (cold, warm))
    return numbers.fronts(cold)[count - 1], numbers.fronts(warm)[count - 1]


def _equal_steps(cold: Row, warm: Row) -> tuple[numbers.Front, numbers.Front]:
    """Return both fronts within as many steps as the one that took fewer has taken."""
    steps = min(row.data["fronts"][-1]["steps"] for row in (cold, warm))
    within = [[f for f in numbers.fronts(row) if f.steps <= steps][-1] for row in (cold, warm)]
    return within[0], within[1]


def _named(entry: str, steps: int | None) -> str:
    return f"{entry}, at its end" if steps is None else f"{entry}, at most {steps} steps"


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.1f}".removesuffix(".0")


def draw(rows: Rows) -> Mapping[str, bytes]:
    """Return for each bed a picture of expected utility against training steps and tokens."""
    from matplotlib.figure import Figure

    found = {}
    for bed in beds(rows):
        figure = Figure(figsize=(11.0, 4.2), layout="constrained")
        by_steps, by_tokens = figure.subplots(1, 2, sharey=True)
        for panel in (by_steps, by_tokens):
            style(panel)
        for number, entry in enumerate(entries(rows, bed)):
            seen = [r for r in rows if (r.bed, r.entry) == (bed, entry)]
            for row in seen:
                every = numbers.fronts(row)
                utilities = [numbers.measures(row, front)["utility"] for front in every]
                for panel, cost in (
                    (by_steps, [front.steps for front in every]),
                    (by_tokens, [front.generated / 1e6 for front in every]),
                ):
                    panel.step(
                        cost,
                        utilities,
                        where="post",
                        color=COLOURS[number % len(COLOURS)],
                        alpha=0.8,
                        label=entry if row is seen[0] else None,
                    )
        by_steps.axvline(SMALL, color="0.7", linewidth=0.8, linestyle=":")
        by_steps.set_xlabel("training steps, all trials together")
        by_tokens.set_xlabel("tokens sampled, all trials together, millions")
        by_steps.set_ylabel("expected utility on test")
        by_steps.legend(frameon=False)
        figure.suptitle(f"{bed}: a line per seed")
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=120)
        found[bed] = buffer.getvalue()
    return found
