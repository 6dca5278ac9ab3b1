"""How a preference is answered by a soup: an average of trained policies' weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from moalign import pareto
from moalign.reporting import pick
from moalign.reporting.front import reference_K, utility
from moalign.reporting.points import Point, PointTable, interval, with_error
from moalign.reporting.statistics import UtilityDifference, utility_difference
from moalign.search.archive import Run
from moalign.types import Split


@dataclass(frozen=True)
class Answer:
    """The soup that is worth most to a preference, and the best trained policy beside it.

    Attributes:
        preference: weights by front objective.
        soup: the best soup, on validation.
        parts: what it is made of, as text.
        trained: the best policy that was trained, on validation.
        utility: of the soup, on validation, in normalised units.
        other: of the trained policy.
        difference: soup minus trained, paired over the units of ``split``.
        split: test, if both were measured there, else validation.
        best: whichever of both is worth more on validation; one that misses a threshold which the
            other meets is not.
    """

    preference: Mapping[str, float]
    soup: Point
    parts: str
    trained: Point
    utility: UtilityDifference
    other: UtilityDifference
    difference: UtilityDifference
    split: Split
    best: Point

    def sentences(self) -> list[str]:
        """Return the answer for people."""
        wanted, soup, trained = pick.say(self.preference), self.soup.id, self.trained.id
        what = f"{soup} answers {wanted} without training: {self.parts}."
        if self.best is self.trained:
            what = (
                f"No soup is worth more to {wanted} than {trained}, which was trained; the best is "
                f"{soup}: {self.parts}."
            )
        d = self.difference
        return [
            what,
            f"Utility on validation: {with_error(self.utility.value, self.utility.stderr)}; of "
            f"{trained}, the best trained policy there, "
            f"{with_error(self.other.value, self.other.stderr)}.",
            f"{soup} minus {trained} on {self.split}, paired: {with_error(d.value, d.stderr)} "
            f"(95 % interval {interval(d.low, d.high)}).",
        ]


def soups_of(run: Run) -> list[int]:
    """Return the numbers of a run's soups."""
    return [number for number, trial in run.trials.items() if trial.proposal.soup]


def beside_mixtures(run: Run, table: PointTable) -> str:
    """Say what soups add to the front, and what mixing the trained policies reaches without them.

    A mixture draws a policy per prompt and costs nothing either: what soups have to beat. All by
    validation's values, which also chose the points.
    """
    soups = set(soups_of(run))
    groups = (table.points, [p for p in table.points if p.trial not in soups])
    every_NK, trained_NK = (
        pareto.normalise([p.means_K(table.names) for p in points], table.bounds_K2)
        for points in groups
    )
    start_K = reference_K(table)
    return (
        f"Hypervolume on validation: {pareto.hypervolume(trained_NK, start_K):.3f} of what was "
        f"trained, {pareto.hypervolume(every_NK, start_K):.3f} with the soups. To draw one of the "
        "trained policies per prompt reaches "
        f"{pareto.hull_hypervolume(trained_NK, start_K):.3f} (moalign front {run.folder.name} "
        "--mixture)."
    )


def answer(run: Run, table: PointTable, preference: Mapping[str, float]) -> Answer | None:
    """Find the soup that is worth most to a preference; None if none has been measured.

    Of soups, and of trained policies, only those that meet the study's thresholds count, if any do.

    Args:
        run: what its record adds up to.
        table: its points.
        preference: over the front's objectives, summing to 1.
    """
    numbers = set(soups_of(run))
    soups = [point for point in table.points if point.trial in numbers]
    others = [point for point in table.points if point.trial not in numbers]
    if not soups or not others:
        return None
    soup, _ = pick.best(table, pick.candidates(table, soups), preference)
    trained, _ = pick.best(table, pick.candidates(table, others), preference)
    weights = [preference[name] for name in table.names]
    tested = soup.test is not None and trained.test is not None
    split: Split = "test" if tested else "validation"
    return Answer(
        preference=preference,
        soup=soup,
        parts=parts_of(run, table.points, soup.trial),
        trained=trained,
        utility=utility(soup.units_UK(table.names, "validation"), weights, table),
        other=utility(trained.units_UK(table.names, "validation"), weights, table),
        difference=utility_difference(
            soup.units_UK(table.names, split),
            trained.units_UK(table.names, split),
            weights,
            table.bounds_K2,
        ),
        split=split,
        best=pick.best(table, pick.candidates(table, [trained, soup]), preference)[0],
    )


def parts_of(run: Run, points: Sequence[Point], trial: int) -> str:
    """Return what a soup is made of as text, ``1/2 t01 and 1/2 t03``."""
    names = {(point.trial, point.step): point.id.partition("-c")[0] for point in points}
    start = run.trials[trial].proposal.start
    parts = [
        f"{Fraction(share).limit_denominator(1000)} {names[where]}"
        for where, share in zip(start.points, start.shares, strict=True)
    ]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
