"""The report: what was done, what was claimed and seen, and all numbers. Text from numbers only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks import table
from benchmarks.comparison import measures, words
from benchmarks.comparison.measures import Numbers
from benchmarks.comparison.plan import BASE, CENTRE
from benchmarks.comparison.results import Arena, Results
from benchmarks.comparison.verdicts import SAID
from benchmarks.comparison.words import signed
from benchmarks.weightings import claims
from benchmarks.weightings.claims import Finding
from benchmarks.weightings.families import family_utilities, family_weights
from benchmarks.weightings.plan import AGAIN, FIXED, MEAN, SHUFFLED
from benchmarks.weightings.two_families import WANTS
from moalign.reporting.pick import say, share

COLUMNS: Final = (
    ("utility", "expected utility", 3),
    ("volume", "hypervolume", 3),
    ("mixed volume", "mixtures", 3),
    ("points", "front", 1),
    ("sparsity", "sparsity", 4),
    ("beyond", "beyond the hull", 3),
    ("worst", "worst gain", 3),
    ("violation", "violation", 3),
    ("steps", "steps", 0),
    ("spent", "spent", 2),
    ("generated", "generated", 0),
    ("seconds", "s per step", 3),
    ("cpu", "CPU s per step", 3),
)


FAMILIES: Final = "two-families"
"""The bed whose page is another: prompts that want different things."""

INTERVALS: Final = (
    "Differences are paired at equal seeds; intervals are Student's, 95 %, with the seeds as "
    "units, each by itself: of twenty differences that are none, one is expected to look like one"
)


def write(results: Results, pictures: Mapping[str, str]) -> str:
    """Return the page.

    Args:
        results: the document.
        pictures: file names by bed.
    """
    usual = [arena for arena in results.arenas if arena.name != FAMILIES]
    numbers = {
        arena.name: measures.of_arena(results, arena, claims.RIVAL) for arena in results.arenas
    }
    found = [f for arena in usual for f in claims.findings(results, arena, numbers[arena.name])]
    parts = _introduction(results)
    if found:
        parts += ["## What was claimed, and what was seen", *_claims(found)]
    for arena in usual:
        parts += _bed(results, arena, numbers[arena.name], pictures.get(arena.name))
    for arena in results.arenas:
        if arena not in usual:
            parts += _families(results, arena, pictures.get(arena.name))
    parts += words.not_run(results, "weighting")
    equal = "tokens" if usual else "steps"
    return table.page(f"Weightings, compared at equal {equal}", parts, results.facts)


# --- what was done -----------------------------------------------------------------------------


def _introduction(results: Results) -> list[str]:
    usual = [arena for arena in results.arenas if arena.name != FAMILIES]
    if not usual:
        return [
            "At each seed the same base policy, the same prompts in the same order, and the same "
            "number of steps, whatever their tokens: generated, passed forward and passed "
            "backward. What an adapter learns before training is not charged. "
            f"{INTERVALS}.",
            *words.unfinished(results),
        ]
    beds = ", ".join(f"`{arena.name}`" for arena in results.arenas)
    parts = [
        f"Every weighting on {beds}: at each seed the same base policy, the same prompts in the "
        "same order, and the same number of tokens. Tokens are those generated, passed forward and "
        "passed backward; whatever a weighting asks for beyond its own batch (measurements on the "
        "steer split, steer batches, further backward passes) is charged to it; what it learns "
        "once, before training (an adapter), is not. The budget is what "
        "`fixed` spends at equal weights in all its steps; no run takes more steps than that. "
        f"Measuring on validation {words.moments(results, FIXED)}, is the benchmark's own, and "
        "free.",
        "A weighting with a preference is trained once per preference; one without (marked *) "
        "is trained as many times with other random numbers, and lets every preference take "
        "what suits it. Points are chosen and kept by validation and reported on test, in "
        "units of the bounds. **Expected utility**: mean over the preferences of the utility "
        "of the point that validation chooses among an entry's policies. **Hypervolume**: of "
        "the points on the front, with the bias of noise taken off; descriptive, as is "
        "**mixtures**, the volume that mixtures of an entry's policies reach (each prompt "
        "answered by one drawn at random), which is not corrected. **Beyond the hull**: how "
        f"far the best policy lies beyond all mixtures of the policies of `{AGAIN}` (`{FIXED}` "
        "trained with other random numbers than all else) and the base policy, sought on "
        "validation and measured on test; a denser set would have a larger hull, and any second "
        f"set sticks out of it here and there: `{FIXED}` says by how much, and is what the others "
        "are compared with. **Worst gain**: smallest gain over the base "
        "policy of any objective, at equal weights. **Violation**: sum of what is missing to "
        "the thresholds, mean over all policies. **Steps** and tokens **generated**: mean per "
        "run, with the share of the budget that was **spent**. **To 90 %**: where an entry's "
        "policies so far, each preference taking the best on validation, have come 90 % of the "
        "way from the base policy to the best of all entries; a claim counts what never got "
        "there as all steps. **s per step** is the median of the clock, other work on the "
        "machine included, **CPU s** the mean of the processor's time, all that a weighting "
        "measures included. The last column has the mean weights over training, at equal "
        f"weights. Claims are judged against `{claims.BOTH}`: the mean of `{FIXED}` and "
        f"`{AGAIN}`.",
        f"{INTERVALS}; nothing is corrected for how many there are.",
    ]
    return parts + words.unfinished(results)


# --- claims ------------------------------------------------------------------------------------


def _claims(found: Sequence[Finding]) -> list[str]:
    rows, sentences = [], []
    for number, claim in enumerate(dict.fromkeys(f.claim for f in found), start=1):
        ours = [finding for finding in found if finding.claim is claim]
        run = [(f.verdict, f"{f.entry} on {f.bed}") for f in ours if f.verdict != "not run"]
        says = f"{claim.says[0].upper()}{claim.says[1:]}"
        sentences.append(f"{number}. {says} ({claim.source}): {words.counted(run) or 'not run'}.")
        rows += [
            [
                number,
                finding.bed,
                finding.entry,
                f"{claim.says_measure}, against `{claim.against}`"
                if claim.against
                else claim.says_measure,
                signed(finding.difference),
                SAID[finding.verdict],
            ]
            for finding in ours
            if finding.verdict != "not run"
        ]
    header = ["claim", "task", "weighting", "measure", "difference", "verdict"]
    return ["\n".join(sentences), table.markdown(header, rows)]


# --- one bed -----------------------------------------------------------------------------------


def _bed(
    results: Results,
    arena: Arena,
    numbers: Mapping[tuple[str, int], Numbers],
    picture: str | None,
) -> list[str]:
    seeds = results.seeds(arena.name)
    asked = [dict(zip(arena.objectives, p, strict=True)) for p in arena.preferences.values()]
    budgets = ", ".join(f"{budget:,}" for budget in arena.budgets.values())
    limits = ", ".join(f"{name} >= {value:g}" for name, value in arena.thresholds.items())
    parts = [
        f"## {arena.name}",
        f"Preferences: {'; '.join(map(say, asked))}. Thresholds: {limits or 'none'}. Seeds: "
        f"{', '.join(map(str, seeds))}. Budget per run: {budgets} tokens; at most {arena.steps} "
        "steps.",
    ]
    if picture:
        parts.append(f"![The points of every weighting on {arena.name}]({picture})")
    header = [
        "weighting",
        *(said for _, said, _ in COLUMNS[:1]),
        f"minus {FIXED}",
        *(said for _, said, _ in COLUMNS[1:]),
        "steps to 90 %",
        "budget to 90 %",
        f"mean {'/'.join(arena.objectives)}",
    ]
    rows = [
        [*_row(arena, numbers, label), _weights(results, arena, label)]
        for label in words.by_utility(numbers, arena)
    ]
    parts += [table.markdown(header, rows), *_hull(numbers), words.options(arena, "weighting")]
    return parts


def _row(arena: Arena, numbers: Mapping[tuple[str, int], Numbers], label: str) -> list[str]:
    kind = next(kind for kind in arena.kinds if kind.label == label)
    cells = []
    for measure, _, places in COLUMNS:
        mean = measures.over_seeds(numbers, label, measure)
        own = label == claims.RIVAL and measure == "beyond"  # of its own hull
        cells.append("" if own or math.isnan(mean.value) else f"{mean.value:,.{places}f}")
    difference = measures.against(numbers, label, FIXED, "utility")
    compared = "" if label == FIXED else signed(difference)
    mark = "" if kind.preference or label == BASE else " *"
    speeds = ["", ""] if label == BASE else words.speeds(numbers, label)
    return [label + mark, cells[0], compared, *cells[1:], *speeds]


def _weights(results: Results, arena: Arena, label: str) -> str:
    """Return the mean weights over training at equal weights, or of all runs without any."""
    kind = next(kind for kind in arena.kinds if kind.label == label)
    rows = [
        cell.weights_K
        for cell in results.trained
        if (cell.bed, cell.entry) == (arena.name, label) and cell.weights_K and label != BASE
        if cell.number == CENTRE or not kind.preference
    ]
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return "/".join(map(share, means))


def _hull(numbers: Mapping[tuple[str, int], Numbers]) -> list[str]:
    """Return what mixtures of the ``fixed`` policies reach."""
    utility = measures.over_seeds(numbers, FIXED, "utility")
    raw = measures.over_seeds(numbers, FIXED, "raw volume")
    mixed = measures.over_seeds(numbers, FIXED, "mixed volume")
    if not utility.seeds:
        return []
    labels = dict.fromkeys(label for label, _ in numbers if label not in (BASE, FIXED))
    higher = [
        label
        for label in labels
        if measures.over_seeds(numbers, label, "raw volume").value > mixed.value
    ]
    told = ", ".join(higher) if higher else "none"
    return [
        f"The hull: mixtures of the `fixed` policies reach expected utility {utility.value:.3f}, "
        "that of the policies themselves (the best mixture for a linear utility is a policy), and "
        f"hypervolume {mixed.value:.3f} where the policies alone reach {raw.value:.3f} (neither "
        f"corrected). Entries whose own policies, unmixed, reach more than the hull: {told}."
    ]


# --- two families ------------------------------------------------------------------------------


def _families(results: Results, arena: Arena, picture: str | None) -> list[str]:
    numbers = family_utilities(results, arena, WANTS)
    measured = (*WANTS, "mean")
    wants = "; ".join(
        f"`{family}` wants {say(weights) if len(weights) > 1 else f'{next(iter(weights))} alone'}"
        for family, weights in WANTS.items()
    )
    rows = []
    for label in dict.fromkeys(label for label, _ in numbers):
        values = [measures.over_seeds(numbers, label, name) for name in measured]
        differences = [
            "" if label in (FIXED, BASE) else
            signed(measures.against(numbers, label, FIXED, name))
            for name in measured
        ]  # fmt: skip
        pairs = zip(values, differences, strict=True)
        found = family_weights(results, arena, numbers, label)
        weights = [
            "/".join(map(share, found[family])) if family in found else "" for family in WANTS
        ]
        named = f"best single {FIXED}" if label == FIXED else label
        spent = f"{measures.over_seeds(numbers, label, 'tokens').value:,.0f}"
        rows.append([named, *(f"{v.value:.3f} {d}".strip() for v, d in pairs), *weights, spent])
    names = "/".join(arena.objectives)
    weighed = [f"weights {names} for `{family}`" for family in WANTS]
    header = ["weighting", *measured, *weighed, "tokens"]
    parts = [
        "## Two families of prompts",
        f"Half of the prompts are sums of two numbers, half of four, and they want different "
        f"things: {wants}. "
        f"The **best single {FIXED}** is one weighting for both families: the one with the highest "
        f"mean over them on validation. It was {_best(arena, numbers)}; tried were "
        f"{_tried(arena)}. `family-weights` is told the families, so it shows what weights "
        "per prompt can reach; `prompt-adapter` has to learn them from preferences. "
        f"`{SHUFFLED}` learns those of other prompts, and `{MEAN}` gives all prompts the mean of "
        "what `prompt-adapter` learns. Utility on test, the difference to the best single "
        f"{FIXED}, and the mean weights in training:",
        table.markdown(header, rows),
    ]
    if picture:
        parts.append(f"![What each family gets by its own objective]({picture})")
    findings = claims.family_findings(arena, numbers, list(WANTS))
    for claim in claims.FAMILY_CLAIMS:
        told = [
            f"- {finding.entry}, {family}: {signed(finding.difference)}, {SAID[finding.verdict]}"
            for family, finding in findings
            if finding.claim is claim and finding.verdict != "not run"
        ]
        if told:
            says = f"{claim.says[0].upper()}{claim.says[1:]}"
            parts.append(f"Claim: {says} ({claim.source}).\n\n" + "\n".join(told))
    return parts


def _tried(arena: Arena) -> str:
    """Return the fixed weightings that the best one was chosen from."""
    asked = [dict(zip(arena.objectives, p, strict=True)) for p in arena.preferences.values()]
    return "; ".join(map(say, asked))


def _best(arena: Arena, numbers: Mapping[tuple[str, int], Numbers]) -> str:
    """Return which fixed weighting was the best on which seeds."""
    seeds: dict[int, list[int]] = {}
    for (label, seed), own in numbers.items():
        if label == FIXED:
            seeds.setdefault(int(own["number"]), []).append(seed)
    return "; ".join(
        f"{say(dict(zip(arena.objectives, arena.preferences[number], strict=True)))} "
        f"(seed {', '.join(map(str, found))})"
        for number, found in seeds.items()
    )
