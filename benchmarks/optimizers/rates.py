"""Which learning rate counts, where an entry was trained at several multiples of the study's.

An entry's rate is the one with the highest expected utility on validation at the first seed, where
every preference takes the policy that suits it. It is chosen once per task, and counts at all
seeds and preferences; what training at the others took is charged to nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.comparison.measures import foreseen
from benchmarks.comparison.plan import BASE
from benchmarks.comparison.results import Arena, Results
from benchmarks.optimizers.plan import RATE


def tried(arena: Arena) -> list[float]:
    """Return the multiples that were trained on a bed, as labels say them; 1 comes first."""
    ends = [label.partition(RATE)[2] for label in (k.label for k in arena.kinds if k.label != BASE)]
    return [float(end) if end else 1.0 for end in dict.fromkeys(ends)]


def chosen(results: Results, arena: Arena) -> dict[str, str]:
    """Return the label that counts for every entry, by the label without a rate."""
    ours: dict[str, list[str]] = {}
    for kind in arena.kinds:
        ours.setdefault(kind.label.partition(RATE)[0], []).append(kind.label)
    return {entry: _best(results, arena, labels) for entry, labels in ours.items()}


def _best(results: Results, arena: Arena, labels: Sequence[str]) -> str:
    if len(labels) == 1:
        return labels[0]
    first = min(results.seeds(arena.name), default=0)
    complete = {kind.label: len(kind.numbers) for kind in arena.kinds}

    def utility(label: str) -> float:
        cells = results.of(arena.name, label, first)
        done = len(cells) == complete[label]
        return foreseen(arena, cells) if done else -float("inf")

    return max(labels, key=utility)  # of equals the first: the study's own rate


def settled(results: Results) -> Results:
    """Return a document with every entry at the rate that counts, under its label without one."""
    by_bed = {arena.name: chosen(results, arena) for arena in results.arenas}
    names = {
        bed: {label: entry for entry, label in labels.items()} for bed, labels in by_bed.items()
    }
    return replace(
        results,
        arenas=[
            replace(
                arena,
                kinds=[
                    replace(kind, label=names[arena.name][kind.label])
                    for kind in arena.kinds
                    if kind.label in names[arena.name]
                ],
            )
            for arena in results.arenas
        ],
        trained=[
            replace(cell, entry=names[cell.bed][cell.entry])
            for cell in results.trained
            if cell.entry in names[cell.bed]
        ],
        volumes=[
            replace(volume, entry=names[volume.bed][volume.entry])
            for volume in results.volumes
            if volume.entry in names[volume.bed]
        ],
    )
