"""What was published about MODPO, as data, and whether it was seen here.

A finding compares one measure of two entries, paired at equal seeds. "The same front" is read as
"no worse by more than ALIKE": seen if the whole interval of the difference lies above -ALIKE, the
opposite if it lies below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.comparison import measures
from benchmarks.comparison.measures import Difference, Numbers
from benchmarks.comparison.results import Arena
from benchmarks.comparison.verdicts import ALIKE, Verdict, judge
from benchmarks.optimizers.plan import ONLINE, THIRD

MEASURES: Final[Mapping[str, str]] = {
    "utility": "expected utility",
    "volume": "hypervolume",
    "mixed volume": "hypervolume of mixtures",
}
"""What is compared of two fronts."""


@dataclass(frozen=True)
class Claim:
    """Something to find out about two entries.

    Attributes:
        says: it, in our words.
        source: who claims it, and where it stands; empty: asked for comparison only.
        entry: the label that it is about.
        against: the labels that it is compared with.
        slack: how much less still counts.
    """

    says: str
    source: str
    entry: str
    against: tuple[str, ...]
    slack: float = 0.0


@dataclass(frozen=True)
class Finding:
    """A claim about one measure on one bed.

    Attributes:
        claim: what was claimed.
        bed: where.
        against: compared with which entry.
        measure: of the fronts; a key of :data:`MEASURES`.
        difference: entry minus ``against``.
        verdict: what the difference says.
    """

    claim: Claim
    bed: str
    against: str
    measure: str
    difference: Difference
    verdict: Verdict


CLAIMS: Final = (
    Claim(
        "MODPO reaches the front of weighted online training with a third of its compute",
        "arXiv 2310.03708, abstract and section 4",
        f"modpo, {THIRD}",
        ONLINE,
        slack=ALIKE,
    ),
    Claim(
        "with the same compute MODPO reaches more than weighted online training",
        "",
        "modpo",
        ONLINE,
    ),
    Claim(
        "with a third of the compute each, MODPO reaches more than weighted online training",
        "",
        f"modpo, {THIRD}",
        tuple(f"{name}, {THIRD}" for name in ONLINE),
    ),
)


def findings(arena: Arena, numbers: Mapping[tuple[str, int], Numbers]) -> list[Finding]:
    """Return what all claims come to on one bed."""
    found = []
    for claim in CLAIMS:
        for other in claim.against:
            for measure in MEASURES:
                difference = measures.against(numbers, claim.entry, other, measure)
                verdict = judge(difference, slack=claim.slack)
                found.append(Finding(claim, arena.name, other, measure, difference, verdict))
    return found
