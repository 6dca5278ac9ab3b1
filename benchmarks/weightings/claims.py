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
from benchmarks.comparison.verdicts import ALIKE, Verdict, judge, judge_alike
from benchmarks.weightings.plan import (
    AGAIN,
    FAMILIES,
    FASTER_GROUPS,
    FIXED,
    MEAN,
    ON_REWARD,
    PUBLISHED,
    SHUFFLED,
    SUMMED,
    UNDAMPED,
)

RIVAL: Final = AGAIN
"""Makes the hull, and says how far there is to go. All others share their random numbers with
``fixed``: by a hull of its policies they could only be compared with what shares nothing."""

BOTH: Final = "fixed, mean of two"
"""The mean of ``fixed`` and ``fixed, again``: less noisy to be compared with than one of them."""


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
        against: the label that it is compared with; empty: the measure itself is claimed to be
            none, or is a difference already.
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
        "the gain of hypervolume-guided weighting does nothing where it multiplies rewards that "
        "are then normalised by group",
        "algebra (a group's scores are divided by their deviation); arXiv 2509.11452 reports gains",
        (ON_REWARD, PUBLISHED),
        "apart",
        "distance at equal steps on validation",
        against=SUMMED,
    ),
    Claim(
        "hypervolume-guided weights beat fixed ones",
        "arXiv 2509.11452, section 4; `hypervolume` multiplies the advantage instead",
        ("hypervolume", "hypervolume, every 5"),
        "utility",
        "expected utility",
        against=BOTH,
    ),
    Claim(
        "hypervolume-guided weights beat fixed ones, as published",
        "arXiv 2509.11452, section 4",
        (PUBLISHED,),
        "utility",
        "expected utility",
        against=SUMMED,
    ),
    Claim(
        "weights that follow the hypervolume's partial derivatives beat fixed ones",
        "the gradient of Emmerich and Deutz as weights, which is ours",
        ("hypervolume-gradient",),
        "utility",
        "expected utility",
        against=BOTH,
    ),
    Claim(
        "weights that follow the gradients' influence get to the front in fewer steps",
        "arXiv 2509.11452, section 5: 6.1 steps fewer on average, of up to 360",
        ("influence",),
        "steps to the rival",
        f"steps to 90 % of what `{AGAIN}` reaches",
        higher=False,
    ),
    Claim(
        "weights that follow the gradients' influence beat fixed ones",
        "arXiv 2509.11452, section 5",
        ("influence",),
        "utility",
        "expected utility",
        against=BOTH,
    ),
    Claim(
        "normalising each objective and then the batch beats summing rewards first",
        "GDPO, arXiv 2601.05242",
        ("fixed, batch norm",),
        "utility",
        "expected utility",
        against=SUMMED,
    ),
    Claim(
        "scalarisers that are not linear reach points that no mixture of linear ones does",
        "arXiv 2402.19078 and older",
        (*FAMILIES["scalarisers per policy"], *FAMILIES["scalarisers per response"]),
        "beyond",
        f"utility beyond the hull of `{AGAIN}`",
    ),
    Claim(
        "weights that resolve conflicts of gradients serve the worst objective better than equal "
        "ones",
        "MGDA, PCGrad, CAGrad, Nash-MTL and their kin (arXiv 1810.04650, 2001.06782, 2110.14048, "
        "2202.01017)",
        FAMILIES["conflicting gradients"],
        "worst",
        "smallest gain of any objective",
        against=BOTH,
    ),
    Claim(
        "weights for the worst case lift the lowest objective",
        "arXiv 2402.08925, 2405.20304, 2605.05750",
        (*FAMILIES["worst case"], FASTER_GROUPS),
        "lowest",
        "lowest objective",
        against=BOTH,
    ),
    Claim(
        "multipliers hold objectives at their thresholds",
        "arXiv 2310.04373, 2310.12773",
        ("lagrangian", UNDAMPED, "nelder-mead-lagrangian"),
        "violation beyond noise",
        f"violation of the thresholds, beyond that of noise, at most {ALIKE:g}",
        against="",
    ),
    Claim(
        "multipliers leave thresholds less violated than equal weights do",
        "arXiv 2310.04373, 2310.12773",
        ("lagrangian", UNDAMPED, "nelder-mead-lagrangian"),
        "violation at equal weights",
        "violation of the thresholds, at equal weights",
        higher=False,
        against=BOTH,
    ),
    Claim(
        "learnt weights beat fixed ones",
        "CTWA; DORB (arXiv 2011.07635) as `bandit`; AMFT (arXiv 2508.06944, reported withdrawn) as "
        "`meta-gradient`; ParetoDA as `pareto-direction`",
        ("covariance-target", "bandit", "meta-gradient", "pareto-direction"),
        "utility",
        "expected utility",
        against=BOTH,
    ),
    Claim(
        "weights per prompt beat fixed ones, where all prompts are judged alike",
        "arXiv 2511.10656; MiCRo (arXiv 2505.24846) as `context-router`; what they are for is "
        "the bed with two families",
        ("prompt-adapter", "prompt-adapter, scores", "context-router"),
        "utility",
        "expected utility",
        against=BOTH,
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
    numbers = measures.averaged(numbers, (FIXED, AGAIN), BOTH)
    for claim in CLAIMS:
        for entry in claim.entries:
            if claim.measure == "apart":
                gaps = apart(results, arena, entry, claim.against)
                difference = measures.interval(gaps)
                verdict = judge_alike(difference)
            elif not claim.against:
                difference = measures.over_seeds(numbers, entry, claim.measure)
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
