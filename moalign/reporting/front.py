"""What a front says: its points, utility at each preference, hypervolume. Numbers, no drawing.

Membership and picks are decided on validation; test only reports (DESIGN 9). Before test has been
measured, validation reports too, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from moalign.reporting import pick
from moalign.reporting.points import Point, PointTable, interval, with_error
from moalign.reporting.statistics import (
    Floats,
    HypervolumeInterval,
    UtilityDifference,
    hypervolume_gain,
    hypervolume_interval,
    utility_difference,
)
from moalign.types import Split


@dataclass(frozen=True)
class Choice:
    """What the front offers at one preference, in normalised units.

    Attributes:
        preference: weights by front objective.
        point: the one that validation would choose.
        utility: of the point; ``low`` and ``high`` are a 95 % interval.
        base: of the base policy.
        difference: point minus base, paired over the units.
    """

    preference: Mapping[str, float]
    point: Point
    utility: UtilityDifference
    base: UtilityDifference
    difference: UtilityDifference


FEWEST: Final = 8
"""Trials from which on it is worth asking what the last of them added."""

RESAMPLED: Final = 200_000
"""Points that are resampled to say that, all resamples together; there are at least 100."""


@dataclass(frozen=True)
class Lately:
    """What the last quarter of a run's trials added to the hypervolume, on validation.

    Attributes:
        trials: how many these are.
        of: how many were measured.
        gain: in normalised units, with its bias taken off.
    """

    trials: int
    of: int
    gain: HypervolumeInterval


@dataclass(frozen=True)
class Front:
    """A front and its numbers.

    Attributes:
        table: all points.
        split: where ``choices`` and ``hypervolume`` were measured: test, or validation as long
            as test has not been measured.
        choices: one per preference of the report.
        expected: mean utility over the preferences, minus that of the base policy.
        hypervolume: of the front points, bias-corrected; descriptive.
        lately: what the last trials added; None if there are few.
    """

    table: PointTable
    split: Split
    choices: tuple[Choice, ...]
    expected: UtilityDifference
    hypervolume: HypervolumeInterval
    lately: Lately | None = None


def build_front(
    table: PointTable, preferences: Sequence[Mapping[str, float]], *, resamples: int, seed: int
) -> Front:
    """Compute the numbers of a front.

    Args:
        table: at least one point of it is on the front.
        preferences: over the front objectives, each summing to 1.
        resamples: of the bootstrap of the hypervolume.
        seed: of the bootstrap.
    """
    split: Split = "test" if table.complete("test") else "validation"
    points = pick.candidates(table)
    choices = tuple(_choice(table, points, wanted, split) for wanted in preferences)
    return Front(
        table=table,
        split=split,
        choices=choices,
        expected=mean_difference(
            [(c.point.units_UK(table.names, split), c.preference) for c in choices],
            [(table.base.units_UK(table.names, split), c.preference) for c in choices],
            table,
        ),
        hypervolume=hypervolume_interval(
            [point.units_UK(table.names, split) for point in table.front],
            table.bounds_K2,
            reference_K(table),
            resamples=resamples,
            seed=seed,
        ),
        lately=_lately(table, resamples, seed),
    )


def _lately(table: PointTable, resamples: int, seed: int) -> Lately | None:
    trials = sorted({point.trial for point in table.points})
    if len(trials) < FEWEST:
        return None
    late = trials[-math.ceil(len(trials) / 4) :]
    gain = hypervolume_gain(
        [point.units_UK(table.names, "validation") for point in table.points],
        [point.trial >= late[0] for point in table.points],
        table.bounds_K2,
        reference_K(table),
        resamples=min(resamples, max(100, RESAMPLED // len(table.points))),
        seed=seed,
    )
    return Lately(len(late), len(trials), gain)


def reference_K(table: PointTable) -> list[float]:
    """Return where hypervolume starts, in normalised units."""
    return [o.normalise(o.reference) if o.reference is not None else 0.0 for o in table.axes]


def _choice(
    table: PointTable, points: Sequence[Point], preference: Mapping[str, float], split: Split
) -> Choice:
    chosen, _ = pick.best(table, points, preference)
    mine, base = chosen.units_UK(table.names, split), table.base.units_UK(table.names, split)
    weights = [preference[name] for name in table.names]
    return Choice(
        preference=preference,
        point=chosen,
        utility=utility(mine, weights, table),
        base=utility(base, weights, table),
        difference=utility_difference(mine, base, weights, table.bounds_K2),
    )


def utility(values_UK: Floats, weights_K: Sequence[float], table: PointTable) -> UtilityDifference:
    """Return a point's own utility with its standard error: the difference to the lower bounds."""
    lows_K = np.array([low for low, _ in table.bounds_K2])
    lows_UK = np.where(np.isnan(values_UK), np.nan, lows_K)
    return utility_difference(values_UK, lows_UK, weights_K, table.bounds_K2)


def mean_difference(
    a: Sequence[tuple[Floats, Mapping[str, float]]],
    b: Sequence[tuple[Floats, Mapping[str, float]]],
    table: PointTable,
) -> UtilityDifference:
    """Return the difference of two mean utilities over the same preferences, paired over units.

    Args:
        a: unit values and preference of the point chosen at each preference.
        b: the same for the other side, in the same order.
        table: gives names and bounds.
    """
    weights = [w[name] / len(a) for _, w in a for name in table.names]
    return utility_difference(
        np.hstack([values for values, _ in a]),
        np.hstack([values for values, _ in b]),
        weights,
        table.bounds_K2 * len(a),
    )


# --- as text -----------------------------------------------------------------------------------


def front_rows(table: PointTable, split: Split = "validation") -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the front as text; the base policy is the last row."""
    names = [o.name for o in table.objectives]
    measured = [n for n in names if n in table.base.values(split)]
    weighted = list(next((p.weights for p in table.front if p.weights), {}))
    headings = _headings(table)
    header = ["point", *measured]
    if weighted:
        header.append(_of("weights", weighted, names))
    for path, heading in headings.items():
        value = next(p.params[path] for p in table.front if path in p.params)
        header.append(_of(heading, list(value), names) if isinstance(value, Mapping) else heading)
    header += _LAST
    rows = []
    for point in (*table.front, table.base):
        row = [point.id, *(_value(table, point, name, split) for name in measured)]
        if weighted:
            row.append(_shares(point.weights or {}))
        row += [_setting(point.params.get(path, "")) for path in headings]
        row += ["" if point is table.base else str(point.trial), str(point.step)]
        rows.append(row)
    return header, rows


def _headings(table: PointTable) -> dict[str, str]:
    """Return for each searched path the shortest end of it that names nothing else."""
    paths = list(dict.fromkeys(path for p in table.front for path in p.settings()))
    taken = {"point", "weights", *_LAST, *(o.name for o in table.objectives)}

    def heading(path: str) -> str:
        parts = path.split(".")
        ends = [".".join(parts[start:]) for start in reversed(range(len(parts)))]
        others = [f".{other}" for other in paths if other != path]
        free = (e for e in ends if e not in taken and not any(o.endswith(f".{e}") for o in others))
        return next(free, path)

    return {path: heading(path) for path in paths}


_LAST: Final = ["trial", "steps"]


def _of(heading: str, weighted: Sequence[str], names: Sequence[str]) -> str:
    """Return the heading of a column of weights; it names them if they are not the objectives'."""
    return heading if list(weighted) == list(names) else f"{heading} {'/'.join(weighted)}"


def _shares(weights: Mapping[str, float]) -> str:
    return "/".join(pick.share(weight) for weight in weights.values())


def _setting(value: object) -> str:
    return _shares(value) if isinstance(value, Mapping) else number(value)


def threshold_note(table: PointTable) -> str:
    """Return what the star in :func:`front_rows` means; empty if the study has no threshold."""
    limits = pick.thresholds(table)
    if not limits:
        return ""
    told = ", ".join(f"{name} at least {value:g}" for name, value in limits.items())
    note, met = f"* below the study's threshold ({told})", pick.meeting(table.front, limits)
    headings = _headings(table)
    own = [headings[path] for name in limits if (path := f"objectives.{name}.at_least") in headings]
    if own and met:
        note += ", which picks keep to"
    if own:
        note += f"; what a trial was to keep stands under {', '.join(own)}"
    if not met:
        all_of, them = ("it", "it") if len(limits) == 1 else ("them all", "them")
        note += f"; no point meets {all_of}, so picks leave {them} aside"
    return note


def before_note(table: PointTable) -> str:
    """Return what was spent before training, which no point's cost counts; empty if nothing was."""
    if table.before is None:
        return ""
    return (
        f"Before training {table.before.generated:,} tokens were sampled and "
        f"{table.before.forwarded:,} passed forward, once for all trials; no trial's cost has them."
    )


def choice_rows(front: Front) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the utilities as text; the last row is their mean."""
    header = ["preference", "point", "utility", "base policy", "difference", "95 % interval"]
    rows = [
        [
            pick.say(c.preference),
            c.point.id,
            with_error(c.utility.value, c.utility.stderr),
            with_error(c.base.value, c.base.stderr),
            f"{c.difference.value:+.3f}",
            interval(c.difference.low, c.difference.high),
        ]
        for c in front.choices
    ]
    if len(rows) > 1:
        mine = np.mean([c.utility.value for c in front.choices])
        base = np.mean([c.base.value for c in front.choices])
        e = front.expected
        told = [f"{mine:.3f}", f"{base:.3f}", f"{e.value:+.3f}", interval(e.low, e.high)]
        rows.append(["mean", "", *told])
    return header, rows


def hypervolume_sentences(front: Front) -> str:
    """Return the hypervolume, and what the last trials added: is it worth going on?"""
    h = front.hypervolume
    corrected, low = max(h.corrected, 0.0), max(h.low, 0.0)  # no volume is negative
    told = (
        f"Hypervolume {corrected:.3f} (95 % interval {low:.3f} to {h.high:.3f}; {h.raw:.3f} before "
        f"its bias is taken off), on {front.split}: descriptive, not for comparing runs."
    )
    if front.lately is None:
        return told
    gain = front.lately.gain
    noise = ", which noise alone may explain" if gain.low <= 0 else ""
    return (
        f"{told} The last {front.lately.trials} of {front.lately.of} trials added "
        f"{gain.corrected:+.3f} (95 % interval {gain.low:+.3f} to {gain.high:+.3f}) on "
        f"validation{noise}; --trials adds more of them."
    )


def _value(table: PointTable, point: Point, name: str, split: Split) -> str:
    value = point.values(split).get(name)
    if value is None:
        return ""
    objective = next(o for o in table.objectives if o.name == name)
    low, high = objective.bounds or (0.0, 1.0)
    places = max(0, 3 - max(0, round(np.log10(high - low))))
    short = "" if objective.at_least is None or value.mean >= objective.at_least else " *"
    return with_error(value.mean, value.stderr, places) + short


def number(value: object) -> str:
    """Return a parameter as short text."""
    if isinstance(value, Mapping):
        return pick.say(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
