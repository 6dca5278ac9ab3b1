"""All cells as one compact document: what is committed, and what a report is made of.

Values are in raw units. The values of single prompts stay behind in the cells' files; what needs
them (the bias of a hypervolume, means by family) is computed here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import table
from benchmarks.comparison import cells
from benchmarks.comparison.cells import Done
from benchmarks.comparison.plan import BASE, Cell, Ground
from benchmarks.comparison.work import Desk
from moalign import pareto
from moalign.errors import StudyError
from moalign.reporting.statistics import hypervolume_interval, mean_and_stderr

RESAMPLES: Final = 300

SAMPLES: Final = "tokens of samples, by task and seed"
"""What the facts call the cost of what the base policies wrote to be learned from."""

TIME: Final = "time of the cells"
"""What the facts call how long the cells took, measuring included, building base policies not."""


@dataclass(frozen=True)
class Trained:
    """One cell.

    Attributes:
        bed: which it belongs to.
        seed: of the study.
        entry: its label.
        number: of its preference, or which run of an entry without one.
        steps: taken.
        tokens: generated, forwarded, backwarded.
        seconds: per step, the median.
        weights_K: mean weight per objective; empty for scores per response.
        moments: ``[step, tokens, value per objective...]`` on validation; the last one is the end.
        test_K: means at the end.
        stderr_K: their standard errors.
        groups: means on validation and on test by family of prompts; empty if there are none.
        group_weights: mean weights by family of prompts.
        cpu: seconds of the processor per step, the mean; NaN in documents that lack it.
        notes: what the training had to say.
    """

    bed: str
    seed: int
    entry: str
    number: int
    steps: int
    tokens: list[int]
    seconds: float
    weights_K: list[float]
    moments: list[list[float]]
    test_K: list[float]
    stderr_K: list[float]
    groups: dict[str, list[list[float]]] = field(default_factory=dict)
    group_weights: dict[str, list[float]] = field(default_factory=dict)
    cpu: float = math.nan
    notes: list[str] = field(default_factory=list)

    @property
    def validation_K(self) -> list[float]:
        """Means on validation at the end."""
        return self.moments[-1][2:]


@dataclass(frozen=True)
class Broken:
    """A cell that failed."""

    bed: str
    seed: int
    entry: str
    number: int
    reason: str


@dataclass(frozen=True)
class Volume:
    """Hypervolume of one entry's front at one seed, on test."""

    bed: str
    seed: int
    entry: str
    raw: float
    corrected: float


@dataclass(frozen=True)
class Kind:
    """An entry, as far as the report needs it; `digest` is of its code, as in the plan."""

    label: str
    family: str
    options: Mapping[str, Any]
    settings: Mapping[str, Any]
    preference: bool
    numbers: list[int]
    digest: str = ""


@dataclass(frozen=True)
class Arena:
    """A bed, as far as the report needs it.

    Attributes:
        name: of the bed.
        objectives: their names, the order of every K.
        bounds_K2: what counts as 0 and 1.
        reference_K: where hypervolume starts, in units of the bounds.
        thresholds: ``at_least`` by objective.
        preferences: asked for, by number.
        steps: most steps of a cell.
        budgets: tokens by seed.
        kinds: the entries.
    """

    name: str
    objectives: list[str]
    bounds_K2: list[list[float]]
    reference_K: list[float]
    thresholds: Mapping[str, float]
    preferences: dict[int, list[float]]
    steps: int
    budgets: dict[int, int]
    kinds: list[Kind]


@dataclass(frozen=True)
class Results:
    """The document.

    Attributes:
        mode: quick, full, a test bed, or part.
        facts: date, commit, command, versions, time.
        arenas: the beds.
        trained: the cells that were run.
        broken: the cells that failed.
        missing: how many have not been run.
        volumes: hypervolumes, with their bias taken off.
    """

    mode: str
    facts: list[list[str]]
    arenas: list[Arena]
    trained: list[Trained]
    broken: list[Broken]
    missing: int
    volumes: list[Volume]

    @property
    def date(self) -> str:
        """The day of the measurements."""
        return next(value for what, value in self.facts if what == "date").partition(",")[0]

    def arena(self, name: str) -> Arena:
        """Return a bed by its name."""
        return next(arena for arena in self.arenas if arena.name == name)

    def seeds(self, bed: str) -> list[int]:
        """Return the seeds of a bed."""
        return sorted({cell.seed for cell in self.trained if cell.bed == bed})

    def of(self, bed: str, entry: str, seed: int) -> list[Trained]:
        """Return an entry's cells at one seed, by number."""
        found = [c for c in self.trained if (c.bed, c.entry, c.seed) == (bed, entry, seed)]
        return sorted(found, key=lambda cell: cell.number)


# --- from the cells' files ---------------------------------------------------------------------


def gather(desk: Desk, mode: str, workers: int = 1) -> Results:
    """Read all cells of a plan.

    Args:
        desk: the plan and its folder.
        mode: what the document is called.
        workers: how many cells run at once, for how long all of them take.
    """
    trained, broken, volumes, missing, walls = [], [], [], 0, []
    fronts: dict[tuple[str, int, str], list[Done]] = {}
    for cell in desk.plan.cells():
        done = desk.done(cell)
        if done is not None:
            desk.book(cell, done)
            trained.append(_trained(cell, done))
            walls.append(done.wall)
            fronts.setdefault((cell.bed, cell.seed, cell.entry), []).append(done)
            continue
        left = cells.read(desk.file(cell))
        if isinstance(left, cells.Failed):
            broken.append(Broken(cell.bed, cell.seed, cell.entry, cell.number, left.reason))
        else:
            missing += 1
    for (bed, seed, entry), found in fronts.items():
        if entry != BASE:
            volumes.append(_volume(desk.plan.grounds[bed], bed, seed, entry, found))
    arenas = [_arena(name, ground, desk.budgets) for name, ground in desk.plan.grounds.items()]
    facts = [[str(what), str(value)] for what, value in table.facts(desk.plan.mode.seeds)]
    sampled = [f"{bed} {seed}: {sum(c.to_json().values()):,}"
               for (bed, seed), c in desk.samples.items()]  # fmt: skip
    if sampled:
        facts.append([SAMPLES, "; ".join(sampled)])
    if walls:
        facts.append([TIME, lasted(walls, workers)])
    return Results(mode, facts, arenas, trained, broken, missing, volumes)


def lasted(walls: Sequence[float], workers: int) -> str:
    """Return how long cells took, in words.

    Args:
        walls: seconds of each, whichever command ran it.
        workers: how many run at once.
    """
    total = sum(walls)
    at_once = f", about {_hours(total / workers)} with {workers} at a time" if workers > 1 else ""
    return f"{_hours(total)} for {len(walls)} cells, one after another{at_once}"


def _hours(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _trained(cell: Cell, done: Done) -> Trained:
    mean_K, stderr_K = mean_and_stderr(done.test.values_UK)
    groups = {
        name: [_group_mean(units, name) for units in (done.validation, done.test)]
        for name in sorted(set(done.test.groups_U))
    }
    return Trained(
        bed=cell.bed,
        seed=cell.seed,
        entry=cell.entry,
        number=cell.number,
        steps=done.steps,
        tokens=[done.cost.generated, done.cost.forwarded, done.cost.backwarded],
        seconds=done.seconds,
        weights_K=done.weights_K,
        moments=[[m.step, m.tokens, *m.means_K] for m in done.moments],
        test_K=mean_K.tolist(),
        stderr_K=stderr_K.tolist(),
        groups=groups,
        group_weights=done.group_weights,
        cpu=done.cpu,
        notes=done.notes,
    )


def _group_mean(units: cells.Units, name: str) -> list[float]:
    rows = [row for row, g in zip(units.values_UK, units.groups_U, strict=True) if g == name]
    mean_K, _ = mean_and_stderr(rows)
    return [float(value) for value in mean_K]


def _volume(ground: Ground, bed: str, seed: int, entry: str, found: Sequence[Done]) -> Volume:
    """Return the volume on test of the points that no other dominates on validation."""
    kept = pareto.is_nondominated([mean_and_stderr(d.validation.values_UK)[0] for d in found])
    values = [done.test.values_UK for done, keep in zip(found, kept, strict=True) if keep]
    measured = hypervolume_interval(
        values, _bounds(ground), _reference(ground), resamples=RESAMPLES, seed=seed
    )
    return Volume(bed, seed, entry, measured.raw, measured.corrected)


def _bounds(ground: Ground) -> list[list[float]]:
    return [list(o.bounds) for o in ground.objectives if o.bounds is not None]


def _reference(ground: Ground) -> list[float]:
    return [0.0 if o.reference is None else o.normalise(o.reference) for o in ground.objectives]


def _arena(name: str, ground: Ground, budgets: Mapping[tuple[str, int], int]) -> Arena:
    return Arena(
        name=name,
        objectives=ground.names,
        bounds_K2=_bounds(ground),
        reference_K=_reference(ground),
        thresholds=dict(ground.thresholds),
        preferences={n: [ground.preferences[n][o] for o in ground.names] for n in ground.asked},
        steps=ground.steps,
        budgets={seed: budget for (bed, seed), budget in budgets.items() if bed == name},
        kinds=[
            Kind(
                label=entry.label,
                family=entry.family,
                options=entry.options,
                settings=entry.settings,
                preference=entry.preference is not None,
                numbers=list(entry.numbers),
                digest=entry.digest,
            )
            for entry in ground.entries
        ],
    )


# --- as a file ---------------------------------------------------------------------------------


LONG: Final[Mapping[str, type[Trained | Broken | Volume]]] = {
    "trained": Trained,
    "broken": Broken,
    "volumes": Volume,
}
"""Lists that are written as tables: a row of names, then a row per item."""


def to_text(results: Results) -> str:
    """Return the document as JSON, a line per row."""
    data = _rounded(asdict(results))
    for name, cls in LONG.items():
        names = [f.name for f in fields(cls)]
        data[name] = [names, *([item[n] for n in names] for item in data[name])]
    parts = []
    for name, value in data.items():
        if isinstance(value, list):
            dense = (json.dumps(item, allow_nan=False, separators=(",", ":")) for item in value)
            parts.append(f'"{name}": [\n' + ",\n".join(dense) + "\n]")
        else:
            parts.append(f'"{name}": {json.dumps(value)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def from_text(text: str) -> Results:
    """Read what :func:`to_text` wrote."""
    data = json.loads(text)
    arenas = []
    for given in data["arenas"]:
        kinds = [Kind(**kind) for kind in given["kinds"]]
        numbered = {
            name: {int(key): value for key, value in given[name].items()}
            for name in ("preferences", "budgets")
        }
        arenas.append(Arena(**(given | numbered | {"kinds": kinds})))
    rows: dict[str, Any] = {}
    for name, cls in LONG.items():
        header, *body = data[name]
        rows[name] = [cls(**dict(zip(header, _with_nan(row), strict=True))) for row in body]
    return Results(
        mode=data["mode"], facts=data["facts"], arenas=arenas, missing=data["missing"], **rows
    )


def read(path: Path) -> Results:
    """Read a document."""
    return from_text(path.read_text(encoding="utf-8"))


def merged(documents: Sequence[Results], beds: Sequence[str] = ()) -> Results:
    """Return documents of different test beds or seeds as one.

    It is full if no bed of the full mode lacks and none is a part.

    Args:
        documents: one at least.
        beds: those of the full mode.

    Raises:
        StudyError: a seed of a bed is in two of them, or two do not compare the same there.
    """
    if len(documents) == 1:
        return documents[0]
    arenas: dict[str, Arena] = {}
    places: set[tuple[str, int]] = set()
    for document in documents:
        for arena in document.arenas:
            found = {(arena.name, seed) for seed in document.seeds(arena.name)}
            for bed, seed in sorted(places & found):
                raise StudyError(
                    f"seed {seed} of the test bed {bed} is in two of the documents; "
                    "give one of them"
                )
            places |= found
            known = arenas.get(arena.name)
            arenas[arena.name] = arena if known is None else _with_seeds(known, arena)
    whole = set(arenas) == set(beds) and "part" not in {document.mode for document in documents}
    return Results(
        mode="full" if whole else "-".join(arenas),
        facts=table.joined([document.facts for document in documents]),
        arenas=list(arenas.values()),
        trained=[cell for document in documents for cell in document.trained],
        broken=[cell for document in documents for cell in document.broken],
        missing=sum(document.missing for document in documents),
        volumes=[volume for document in documents for volume in document.volumes],
    )


def _with_seeds(one: Arena, other: Arena) -> Arena:
    """Return a bed with the seeds of both."""
    both = replace(one, budgets=one.budgets | other.budgets)
    if both != replace(other, budgets=both.budgets):
        ours, theirs = ({kind.label: kind for kind in arena.kinds} for arena in (one, other))
        labels = sorted(ours.keys() | theirs.keys())
        what = [label for label in labels if ours.get(label) != theirs.get(label)]
        raise StudyError(
            f"two documents do not compare the same on the test bed {one.name}: "
            f"{', '.join(what) or 'its study'} changed between them; measure one of them again"
        )
    return both


def _with_nan(value: Any) -> Any:
    """Return plain data with NaN for null."""
    if isinstance(value, dict):
        return {name: _with_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return math.nan if value is None else value


def _rounded(value: Any) -> Any:
    """Return plain data with five decimals, and null for NaN."""
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else round(float(value), 5)
    if isinstance(value, Mapping):
        return {str(name): _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
