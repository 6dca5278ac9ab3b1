"""What was published about weightings, as data, and whether it was seen here.

A claim compares one measure of some entries with that of another entry, paired at equal seeds. Its
verdict follows from the 95 % interval of the difference over seeds and from nothing else. Each
interval stands alone: of twenty differences that are none, one is expected to look like one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.comparison import measures
from benchmarks.comparison.measures import Difference, Numbers, normalised
from benchmarks.comparison.results import Arena, Results
from benchmarks.comparison.verdicts import Verdict, judge, judge_alike
from benchmarks.weightings.plan import AGAIN, FAMILIES, FIXED, MEAN, SHUFFLED


@dataclass(frozen=True)
class Claim:
    """A published claim.

    Attributes:
        says: what is claimed, in our words.
        source: who claims it, and where it stands.
        entries: labels that it is about.
        measure: what it is about, a key of :mod:`measures`; ``apart`` for claims of no effect.
        says_measure: that measure in words.
        higher: whether the claim is that the measure is higher than that of ``against``.
        against: the label that it is compared with.
    """

    says: str
    source: str
    entries: tuple[str, ...]
    measure: str
    says_measure: str
    higher: bool = True
    against: str = FIXED


@dataclass(frozen=True)
class Finding:
    """A claim about one entry on one bed.

    Attributes:
        claim: what was claimed.
        bed: where.
        entry: about which.
        difference: entry minus ``against``; for claims of no effect, how far they are apart.
        verdict: what the difference says.
    """

    claim: Claim
    bed: str
    entry: str
    difference: Difference
    verdict: Verdict


CLAIMS: Final = (
    Claim(
        "the gain of hypervolume-guided weighting does nothing under group normalisation",
        "algebra (a group's scores are divided by their deviation); arXiv 2509.11452 reports gains",
        ("hypervolume, as published",),
        "apart",
        "distance at equal steps on validation",
        against="fixed, rewards summed",
    ),
    Claim(
        "hypervolume-guided weights beat fixed ones",
        "arXiv 2509.11452, section 4",
        ("hypervolume", "hypervolume-gradient"),
        "utility",
        "expected utility",
    ),
    Claim(
        "weights that follow the gradients' influence get to the front in fewer steps",
        "arXiv 2509.11452, section 5: 6.1 steps fewer on average",
        ("influence",),
        "capped steps",
        "steps to 90 % of the best",
        higher=False,
    ),
    Claim(
        "weights that follow the gradients' influence beat fixed ones",
        "arXiv 2509.11452, section 5",
        ("influence",),
        "utility",
        "expected utility",
    ),
    Claim(
        "normalising each objective and then the batch beats summing rewards first",
        "GDPO, arXiv 2601.05242",
        ("fixed, batch norm",),
        "utility",
        "expected utility",
        against="fixed, rewards summed",
    ),
    Claim(
        "scalarisers that are not linear reach points that no mixture of linear ones does",
        "arXiv 2402.19078 and older",
        (*FAMILIES["scalarisers per policy"], *FAMILIES["scalarisers per response"]),
        "beyond",
        "utility beyond the hull",
        against=AGAIN,
    ),
    Claim(
        "weights that resolve conflicts of gradients serve the worst objective better than equal "
        "ones",
        "MGDA, PCGrad, CAGrad, Nash-MTL and their kin (arXiv 1810.04650, 2001.06782, 2110.14048, "
        "2202.01017)",
        FAMILIES["conflicting gradients"],
        "worst",
        "smallest gain of any objective",
    ),
    Claim(
        "weights for the worst case lift the lowest objective",
        "arXiv 2402.08925, 2405.20304, 2605.05750",
        FAMILIES["worst case"],
        "lowest",
        "lowest objective",
    ),
    Claim(
        "multipliers hold objectives at their thresholds",
        "arXiv 2310.04373, 2310.12773",
        ("lagrangian",),
        "violation",
        "violation of the thresholds",
        higher=False,
    ),
    Claim(
        "learnt weights beat fixed ones",
        "CTWA, AMFT (arXiv 2508.06944), ParetoDA and others",
        ("covariance-target", "bandit", "meta-gradient", "pareto-direction"),
        "utility",
        "expected utility",
    ),
    Claim(
        "weights per prompt beat fixed ones",
        "arXiv 2511.10656",
        ("prompt-adapter", "context-router"),
        "utility",
        "expected utility",
    ),
)

FAMILY_CLAIMS: Final = (
    Claim(
        "weights per prompt serve each family of prompts better than the best single fixed "
        "weighting serves it",
        "arXiv 2511.10656, theorem 5.1",
        ("prompt-adapter", "family-weights"),
        "{family}",
        "own utility",
    ),
    Claim(
        "weights per prompt serve each family of prompts better than the best single fixed "
        "weighting serves the families on average",
        "as the test bed without a language model has it",
        ("prompt-adapter", "family-weights"),
        "{family} over the mean",
        "own utility",
        against="",
    ),
    Claim(
        "what weights per prompt gain is owed to the prompts, not to the mean of their weights",
        "an ablation of arXiv 2511.10656",
        ("prompt-adapter",),
        "{family}",
        "own utility",
        against=MEAN,
    ),
    Claim(
        "what weights per prompt gain is lost if they are learnt from preferences on other prompts",
        "an ablation of arXiv 2511.10656",
        ("prompt-adapter",),
        "{family}",
        "own utility",
        against=SHUFFLED,
    ),
)
"""On the bed with two families, judged for each family by itself; no ``against``: the measure is a
difference already."""


def findings(
    results: Results, arena: Arena, numbers: Mapping[tuple[str, int], Numbers]
) -> list[Finding]:
    """Return what all claims come to on one bed."""
    found = []
    for claim in CLAIMS:
        for entry in claim.entries:
            if claim.measure == "apart":
                gaps = apart(results, arena, entry, claim.against)
                difference = measures.interval(gaps)
                verdict = judge_alike(difference)
            else:
                difference = measures.against(numbers, entry, claim.against, claim.measure)
                verdict = judge(difference, higher=claim.higher)
            found.append(Finding(claim, arena.name, entry, difference, verdict))
    return found


def family_findings(
    arena: Arena, numbers: Mapping[tuple[str, int], Numbers], families: Sequence[str]
) -> list[tuple[str, Finding]]:
    """Return what the claims about families come to, for each family by its name."""
    found = []
    for claim in FAMILY_CLAIMS:
        for entry in claim.entries:
            for family in families:
                measure = claim.measure.format(family=family)
                difference = (
                    measures.against(numbers, entry, claim.against, measure)
                    if claim.against
                    else measures.over_seeds(numbers, entry, measure)
                )
                finding = Finding(claim, arena.name, entry, difference, judge(difference))
                found.append((family, finding))
    return found


def apart(results: Results, arena: Arena, entry: str, other: str) -> list[float]:
    """Return, per seed, how far two entries are apart on validation at equal numbers and steps.

    The mean absolute difference over cells, moments and objectives, in units of the bounds.
    """
    found = []
    for seed in results.seeds(arena.name):
        theirs = {
            (c.number, moment[0]): moment[2:]
            for c in results.of(arena.name, other, seed)
            for moment in c.moments
        }
        gaps = [
            np.abs(normalised(arena, m[2:]) - normalised(arena, theirs[c.number, m[0]])).mean()
            for c in results.of(arena.name, entry, seed)
            for m in c.moments
            if (c.number, m[0]) in theirs
        ]
        if gaps:
            found.append(float(np.mean(gaps)))
    return found
