"""The report: what was done, the claim about MODPO, and all numbers. Text from numbers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks import table
from benchmarks.comparison import measures, words
from benchmarks.comparison.measures import Numbers
from benchmarks.comparison.plan import BASE
from benchmarks.comparison.results import SAMPLES, Arena, Results
from benchmarks.comparison.verdicts import ALIKE, SAID
from benchmarks.optimizers import claims, rates
from benchmarks.optimizers.claims import MEASURES
from benchmarks.optimizers.plan import PAYER, VARIANTS
from moalign.reporting.pick import say

ByBed = Mapping[str, Mapping[tuple[str, int], Numbers]]

FRONT: Final = (
    ("volume", "hypervolume", 3),
    ("mixed volume", "mixtures", 3),
    ("points", "front", 1),
)
COST: Final = (
    ("steps", "steps", 0),
    ("generated", "generated", 0),
    ("forwarded", "forwarded", 0),
    ("backwarded", "backwarded", 0),
    ("spent", "spent", 2),
)


def write(results: Results, pictures: Mapping[str, str]) -> str:
    """Return the page.

    Args:
        results: the document.
        pictures: file names by bed.
    """
    tried = {arena.name: rates.tried(arena) for arena in results.arenas}
    parts = _introduction(results, tried)
    results = rates.settled(results)
    numbers = {a.name: measures.of_arena(results, a, PAYER) for a in results.arenas}
    parts += _modpo(results, numbers)
    for arena in results.arenas:
        parts += _bed(results, arena, numbers[arena.name], pictures.get(arena.name))
    parts += words.not_run(results, "optimizer")
    return table.page("Optimizers, compared at equal tokens", parts, results.facts)


# --- what was done -----------------------------------------------------------------------------


def _introduction(results: Results, tried: Mapping[str, Sequence[float]]) -> list[str]:
    beds = ", ".join(f"`{arena.name}`" for arena in results.arenas)
    sampled = any(what == SAMPLES for what, _ in results.facts)
    return [
        f"Optimizers on {beds}, with their default options and fixed weights: at each seed the "
        "same base policy, and the same number of tokens per run, one run per preference. Compute "
        "is the sum of tokens generated, passed forward and passed backward, the reference "
        f"policy's passes included. The budget is what `{PAYER}` spends at equal weights in all "
        "its steps. An optimizer that rolls nothing out takes cheaper steps, so its runs may have "
        f"more of them within the budget (most steps per run: {_most_steps(results)}). Measuring "
        f"on validation {words.moments(results, PAYER)} of `{PAYER}` is the benchmark's "
        "own, and free.",
        "What learns from preferences compares samples of the base policy, which the objectives' "
        "own rewards tell apart: no annotator, no learnt reward model. Sampling happens once per "
        "task and seed"
        + (f" (see “{SAMPLES}” below)" if sampled else "")
        + ", for all optimizers alike; each pays all of it, divided evenly among its runs, before "
        "its first step. That is in the columns below. Rewards are charged for the passes of the "
        "reference policy that they read, and for nothing else.",
        _rates(tried),
        "Points are chosen and kept by validation and reported on test, in units of the bounds. "
        "**Expected utility**: mean over the preferences of the utility of the point that "
        "validation chooses among an entry's policies. **Hypervolume**: of the points on the "
        "**front**, with the bias of noise taken off. **Mixtures**: the volume that mixtures of "
        "an entry's policies reach (each prompt answered by one drawn at random), the hull, not "
        "corrected. **Worst gain**: smallest gain over the base policy of any objective, at equal "
        "weights. **Steps** and tokens by kind: mean per run, with the share of the budget that "
        "was **spent**. **Budget to 90 %**: where an entry's policies so far have come 90 % of "
        "the way from the base policy to the best of all entries, on validation.",
        "Differences are paired at equal seeds; intervals are Student's, 95 %, with the seeds as "
        "units, each by itself: of twenty differences that are none, one is expected to look like "
        "one.",
        *words.unfinished(results),
    ]


def _most_steps(results: Results) -> str:
    found = []
    for arena in results.arenas:
        most = {int(k.settings.get("training.steps", arena.steps)) for k in arena.kinds}
        found.append(f"{' or '.join(map(str, sorted(most)))} on {arena.name}")
    return ", ".join(found)


def _rates(tried: Mapping[str, Sequence[float]]) -> str:
    if all(len(multiples) < 2 for multiples in tried.values()):
        return (
            "All have the study's learning rate: none is tuned, and one that is better at another "
            "rate is shown below what it can reach."
        )
    told = "; ".join(
        f"{' and '.join(f'{m:g}' for m in multiples)} on {bed}" for bed, multiples in tried.items()
    )
    return (
        f"Everything was trained at several multiples of the study's learning rate ({told}), each "
        "with the whole budget. An entry counts at the one with the highest expected utility on "
        "validation at the first seed, at all seeds alike; the column **rate** has it."
    )


# --- MODPO -------------------------------------------------------------------------------------


def _modpo(results: Results, numbers: ByBed) -> list[str]:
    found = [f for a in results.arenas for f in claims.findings(a, numbers[a.name])]
    found = [finding for finding in found if finding.verdict != "not run"]
    if not found:
        return []
    sentences, rows = [], []
    for number, claim in enumerate(dict.fromkeys(f.claim for f in found), start=1):
        ours = [finding for finding in found if finding.claim is claim]
        about = [(f.verdict, f"{MEASURES[f.measure]} against {f.against} on {f.bed}") for f in ours]
        asked = claim.source or "for comparison"
        says = f"{claim.says[0].upper()}{claim.says[1:]}"
        sentences.append(f"{number}. {says} ({asked}): {words.counted(about)}.")
        rows += [
            [
                number,
                f.bed,
                claim.entry,
                f.against,
                MEASURES[f.measure],
                words.signed(f.difference),
                f"> {-claim.slack:g}" if claim.slack else "> 0",
                SAID[f.verdict],
            ]
            for f in ours
        ]
    header = ["claim", "task", "entry", "minus", "measure", "difference", "claimed", "verdict"]
    parts = [
        "## MODPO and weighted online training",
        f"“The same front” is read as no worse by more than {ALIKE:g}, in units of the bounds: "
        "seen if the whole interval of the difference lies above that, the opposite if it lies "
        "below.",
        "\n".join(sentences),
        table.markdown(header, rows),
    ]
    for arena in results.arenas:
        parts += _fronts(arena, numbers[arena.name])
    return parts


def _fronts(arena: Arena, numbers: Mapping[tuple[str, int], Numbers]) -> list[str]:
    """Return the table of the entries that the claim is about."""
    about = {v.optimizer for v in VARIANTS} | {v.label for v in VARIANTS}
    labels = [k.label for k in arena.kinds if k.label in about]
    rows = [
        [
            label,
            words.value(numbers, label, "utility", 3),
            *(words.value(numbers, label, name, places) for name, _, places in (*FRONT, *COST)),
        ]
        for label in labels
        if measures.over_seeds(numbers, label, "utility").seeds
    ]
    header = ["entry", "expected utility", *(said for _, said, _ in (*FRONT, *COST))]
    return [f"On {arena.name}, per run:\n\n{table.markdown(header, rows)}"] if rows else []


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
    parts = [
        f"## {arena.name}",
        f"Preferences: {'; '.join(map(say, asked))}. Seeds: {', '.join(map(str, seeds))}. Budget "
        f"per run: {budgets} tokens.",
    ]
    if picture:
        parts.append(f"![The points of every optimizer on {arena.name}]({picture})")
    kinds = {kind.label: kind for kind in arena.kinds}
    rated = any("training.learning_rate" in kind.settings for kind in arena.kinds)
    header = [
        "optimizer",
        "family",
        *(["rate"] if rated else []),
        "expected utility",
        f"minus {PAYER}",
        *(said for _, said, _ in FRONT),
        "worst gain",
        *(said for _, said, _ in COST),
        "s per step",
        "budget to 90 %",
    ]
    rows = []
    for label in words.by_utility(numbers, arena):
        difference = measures.against(numbers, label, PAYER, "utility")
        kind = kinds[label]
        own = str(kind.settings.get("training.learning_rate", "the study's"))
        rows.append(
            [
                label,
                "" if label == BASE else kind.family,
                *(["" if label == BASE else own] if rated else []),
                words.value(numbers, label, "utility", 3),
                "" if label == PAYER else words.signed(difference),
                *(words.value(numbers, label, name, places) for name, _, places in FRONT),
                words.value(numbers, label, "worst", 3),
                *(words.value(numbers, label, name, places) for name, _, places in COST),
                words.value(numbers, label, "seconds", 3),
                "" if label == BASE else words.speeds(numbers, label)[1],
            ]
        )
    return [*parts, table.markdown(header, rows), words.options(arena, "optimizer")]
