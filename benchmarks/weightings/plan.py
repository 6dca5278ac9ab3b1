"""The grid of cells: test beds, weightings with their options, preferences, seeds.

A cell is one training run: (bed, seed, entry, number). An entry is a weighting with its options.
For one with a preference the number is that of the preference; one without a preference is trained
as many times, with other random numbers. The number is the trial's too (but for one entry that is
there to differ), so that at equal numbers all weightings see the same prompts in the same order.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from benchmarks.weightings import two_families
from moalign import plugins
from moalign.components import Weighting
from moalign.options import options_of
from moalign.plugins import Catalogue
from moalign.study import bundled, space
from moalign.study.loading import load, with_values
from moalign.study.study import Study, complete_preference, report_preferences
from moalign.types import Objective

HERE: Final = Path(__file__).parent

BASE: Final = "base policy"
"""The entry that trains nothing."""

FIXED: Final = "fixed"
"""The entry that gives the budget, the hull and the differences."""

AGAIN: Final = "fixed, again"
"""``fixed`` with other random numbers: what differs between the two is noise."""

CENTRE: Final = 0
"""The number of the equal preference."""

STRONG: Final = 0.8
"""Weight of the first objective in the last preference."""

RULE: Final = 1
"""Goes up when the way cells are trained or measured changes: they are run again then."""


NO_SEARCH: Final = ("search.space={}", "search.rungs=[]")
"""Nothing is searched here, and a weighting may lack what the study's own search asks for."""


# --- test beds ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bed:
    """A study to compare weightings on.

    Attributes:
        name: of the bed, and of the study.
        study: a bundled study, or a file.
        files: plugin files that it needs.
        thresholds: ``at_least`` by objective; lagrangian methods keep them, violation is measured
            against them. The same for every weighting; most do not look.
        only: the weightings that are compared; empty: all.
        further: preferences beside the usual ones.
        replicates: runs of a weighting without a preference; None: as many as there are
            preferences.
        unasked: weightings whose preference is left at its default, so run as if they had none.
    """

    name: str
    study: str
    files: tuple[Path, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    further: tuple[Mapping[str, float], ...] = ()
    replicates: int | None = None
    unasked: tuple[str, ...] = ()


_MEAN_WANTS: Final = {
    name: sum(wants.get(name, 0.0) for wants in two_families.WANTS.values())
    / len(two_families.WANTS)
    for name in ("accuracy", "conciseness", "clarity")
}

# Of the two thresholds of a bed, base policies meet one (conciseness .66, fluency .68) and not the
# other (clarity .32, brevity .41), and the two pull apart.
BEDS: Final[Mapping[str, Bed]] = {
    bed.name: bed
    for bed in (
        Bed("arithmetic", "arithmetic", thresholds={"conciseness": 0.5, "clarity": 0.5}),
        Bed("restaurants", "restaurants", thresholds={"brevity": 0.5, "fluency": 0.65}),
        Bed(
            "two-families",
            str(HERE / "two_families.yaml"),
            files=(HERE / "two_families.py",),
            only=(FIXED, "family-weights", "prompt-adapter"),
            further=(_MEAN_WANTS,),
            replicates=1,
            unasked=("prompt-adapter",),
        ),
    )
}


# --- entries -----------------------------------------------------------------------------------

FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {
    "fixed weights": ("fixed", "schedule"),
    "hypervolume": ("hypervolume", "hypervolume-gradient"),
    "influence and learnt weights": (
        "influence",
        "meta-gradient",
        "covariance-target",
        "bandit",
        "pareto-direction",
        "prompt-adapter",
        "context-router",
    ),
    "conflicting gradients": (
        "mgda",
        "pcgrad",
        "cagrad",
        "nash-mtl",
        "upgrad",
        "dual-proj",
        "imtl-g",
        "aligned-mtl",
    ),
    "worst case": ("maxmin", "group-robust", "rvpo"),
    "scalarisers per policy": ("chebyshev", "smooth-chebyshev", "augmented-chebyshev", "pbi"),
    "scalarisers per response": (
        "product",
        "response-chebyshev",
        "response-smooth-chebyshev",
        "response-pbi",
    ),
    "constraints": ("lagrangian", "nelder-mead-lagrangian"),
}
"""The weightings by what they are after; one that is not listed counts as ``other``."""

OTHER: Final = "other"


@dataclass(frozen=True)
class Variant:
    """A weighting once more, in another setting.

    Attributes:
        weighting: its name.
        label: what it is called here.
        options: as a study gives them.
        settings: further values of the study, by path.
        shift: added to the numbers of its trials, for other random numbers.
    """

    weighting: str
    label: str
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    shift: int = 0


VARIANTS: Final = (
    Variant(FIXED, AGAIN, shift=100),
    Variant(FIXED, "fixed, rewards summed", {}, {"training.combine": "rewards"}),
    Variant(FIXED, "fixed, batch norm", {}, {"training.batch_norm": "sequence"}),
    Variant(
        "hypervolume",
        "hypervolume, as published",
        # Those of studies/published-hypervolume.
        {
            "apply_to": "reward",
            "every": 1,
            "reference": "initial",
            "margin": 0.0,
            "standard_errors": 0.0,
            "scale": 1.0,
        },
        {"training.combine": "rewards"},
    ),
)
"""Published settings that a claim is about, and a measure of noise."""

OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "lagrangian": {"primary": "a"},
    "nelder-mead-lagrangian": {
        "constrained": {"lagrangian": {"primary": "a"}},
        "score": {"a": 1.0, "b": 1.0, "c": 1.0},
    },
}
"""Options of weightings that have no defaults: ``a``, ``b``, ``c`` stand for the objectives.

A weighting that is missing here takes the first of its examples, which has these letters too.
"""

ASKED: Final[Mapping[str, Mapping[str, Any]]] = {
    "prompt-adapter": {"blend": 0.5},
    "context-router": {"blend": 0.5},
}
"""Options without which a weighting does not listen to its preference."""

PLACES: Final[Mapping[str, str]] = {"schedule": "end"}
"""Options that take the preference where none is called so: a schedule goes to it from equal."""


@dataclass(frozen=True)
class Entry:
    """A weighting with its options.

    Attributes:
        label: what it is called in tables.
        weighting: its name.
        family: see :data:`FAMILIES`.
        options: as a study gives them, the preference left out.
        settings: further values of the study, by path.
        preference: the option that is its preference; None: it has none.
        numbers: of its cells.
        shift: added to them for the numbers of the trials.
        digest: hash of its source.
    """

    label: str
    weighting: str
    family: str
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    preference: str | None = None
    numbers: tuple[int, ...] = (CENTRE,)
    shift: int = 0
    digest: str = ""


def family_of(weighting: str) -> str:
    """Return the family of a weighting."""
    return next((name for name, ours in FAMILIES.items() if weighting in ours), OTHER)


def entries(
    catalogue: Catalogue, bed: Bed, names: Sequence[str], numbers: Sequence[int] | None = None
) -> list[Entry]:
    """Return what is compared on a bed: every weighting of the catalogue, and the variants.

    Args:
        catalogue: the plugins.
        bed: may restrict them.
        names: the training objectives.
        numbers: of the preferences; default: all.
    """
    found = [Entry(BASE, FIXED, BASE)]
    count = len(preferences(bed, names))
    asked = tuple(n for n in (range(count) if numbers is None else numbers) if n < count)
    repeated = asked if bed.replicates is None else tuple(range(bed.replicates))
    for entry in catalogue.entries("weighting"):
        cls: Any = entry.cls
        if bed.only and cls.name not in bed.only:
            continue
        preference = None if cls.name in bed.unasked else preference_of(cls)
        listening = {} if preference is None else ASKED.get(cls.name, {})
        found.append(
            Entry(
                cls.name,
                cls.name,
                family_of(cls.name),
                options=default_options(cls, names) | dict(listening),
                preference=preference,
                numbers=repeated if preference is None else asked,
                digest=digest(cls),
            )
        )
    known = {entry.label: entry for entry in found}
    found += [
        replace(
            known[variant.weighting],
            label=variant.label,
            options=dict(variant.options),
            settings=dict(variant.settings),
            shift=variant.shift,
        )
        for variant in VARIANTS
        if variant.weighting in known and not bed.only
    ]
    order = [BASE, FIXED, *(name for family in FAMILIES.values() for name in family)]
    places = {name: place for place, name in enumerate(order)}
    return sorted(found, key=lambda e: (places.get(e.weighting, len(order)), e.label != BASE))


def preference_of(cls: type[Weighting]) -> str | None:
    """Return the option that takes the preference; None if a weighting has none."""
    if cls.name in PLACES:
        return PLACES[cls.name]
    names = [option.name for option in options_of(cls) if option.is_preference]
    return "preference" if "preference" in names else names[0] if len(names) == 1 else None


def default_options(cls: type[Weighting], names: Sequence[str]) -> dict[str, Any]:
    """Return the options to build a weighting with: none, unless it asks for some."""
    if cls.name in OPTIONS:
        given = OPTIONS[cls.name]
    elif any(option.required for option in options_of(cls)):
        given = cls.examples[0]
    else:
        return {}
    letters = dict(zip("abc", names, strict=False))
    return {option: _in_words(value, letters) for option, value in given.items()}


def _in_words(value: Any, names: Mapping[str, str]) -> Any:
    """Return options with objectives for the letters that stand for them."""
    if isinstance(value, Mapping):
        return {names.get(key, key): _in_words(below, names) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_in_words(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def digest(cls: type[Weighting]) -> str:
    """Return a hash of the files that a weighting is made of, without the contract's own."""
    files = {
        Path(inspect.getfile(base))
        for base in cls.__mro__
        if base.__module__.startswith(("moalign_plugins", "moalign.weightings", "moalign_plugin_"))
    }
    text = b"".join(file.read_bytes() for file in sorted(files))
    return hashlib.sha256(text).hexdigest()[:16]


def preferences(bed: Bed, names: Sequence[str]) -> list[dict[str, float]]:
    """Return the preferences that all weightings are trained and judged by, each summing to 1."""
    usual = [*report_preferences("default", names), space.corner(names, names[0], STRONG)]
    return usual + [complete_preference(given, names) for given in bed.further]


# --- the plan ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One training run."""

    bed: str
    seed: int
    entry: str
    number: int

    def __str__(self) -> str:
        return f"{self.bed}, seed {self.seed}, {self.entry}, {self.number}"

    @property
    def file(self) -> Path:
        """Where its result lies, below the benchmark's folder."""
        entry = re.sub(r"[^a-z0-9]+", "-", self.entry.lower())
        return Path(f"{self.bed}-{self.seed}") / "cells" / f"{entry}-{self.number}.json"

    @property
    def paying(self) -> bool:
        """Whether its cost is the budget of the others."""
        return self.entry == FIXED and self.number == CENTRE

    @property
    def needs_budget(self) -> bool:
        """Whether it can only begin when the budget is known."""
        return self.entry != BASE and not self.paying


@dataclass(frozen=True)
class Mode:
    """How much is compared.

    Attributes:
        name: part of the report's name.
        beds: their names.
        seeds: of the studies.
        numbers: of the preferences; None: all of them.
        every: steps between two measurements on validation.
        sets: ``path=value`` texts that change every study.
    """

    name: str
    beds: tuple[str, ...]
    seeds: tuple[int, ...]
    numbers: tuple[int, ...] | None = None
    every: int = 10
    sets: tuple[str, ...] = ()


MODES: Final[Mapping[str, Mode]] = {
    # Equal weights, and .6 on clarity, which pulls against conciseness most.
    # Half the prompts, measured half as often, to be quicker.
    "quick": Mode("quick", ("arithmetic",), (0,), (CENTRE, 3), 20, ("evaluation.prompts=128",)),
    "full": Mode("full", tuple(BEDS), (0, 1, 2)),
}


@dataclass(frozen=True)
class Ground:
    """A bed as it is run: its study, plugins and entries.

    Attributes:
        bed: what it is made of.
        study: with seed 0 and ``fixed``.
        entries: what is compared.
        every: steps between two measurements on validation.
    """

    bed: Bed
    study: Study
    entries: tuple[Entry, ...]
    every: int

    @property
    def names(self) -> list[str]:
        """The objectives, the order of every K."""
        return [o.name for o in self.study.train_objectives]

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives."""
        return self.study.train_objectives

    @cached_property
    def preferences(self) -> list[dict[str, float]]:
        """All preferences of the bed."""
        return preferences(self.bed, self.names)

    @property
    def asked(self) -> tuple[int, ...]:
        """Numbers of the preferences that are trained and judged by."""
        return self.entry(FIXED).numbers

    @property
    def steps(self) -> int:
        """Most steps of a cell."""
        return self.study.section.training.steps

    def entry(self, label: str) -> Entry:
        """Return an entry by its label."""
        return next(entry for entry in self.entries if entry.label == label)

    def values(self, cell: Cell) -> dict[str, Any]:
        """Return what a cell's study has different, by path."""
        entry = self.entry(cell.entry)
        options = dict(entry.options)
        if entry.preference is not None:
            options[entry.preference] = self.preferences[cell.number]
        return {
            "seed": cell.seed,
            "weighting": {entry.weighting: options},
            **{f"objectives.{n}.at_least": t for n, t in self.bed.thresholds.items()},
            **entry.settings,
        }

    def trial(self, cell: Cell) -> int:
        """Return the number of a cell's trial, part of every random key of its training."""
        return cell.number + self.entry(cell.entry).shift

    def study_of(self, cell: Cell) -> Study:
        """Return a cell's study, checked.

        Raises:
            StudyError: its weighting refuses to be used like this.
        """
        return with_values(self.study, self.values(cell))

    def key(self, cell: Cell, budget: int | None) -> str:
        """Return a hash of all that a cell depends on, but for the host's code."""
        asked = [RULE, self.every, self.study.data, self.values(cell), self.trial(cell), budget]
        text = json.dumps([asked, self.entry(cell.entry).digest], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Plan:
    """All cells of a mode."""

    mode: Mode
    grounds: Mapping[str, Ground]

    def cells(self) -> Iterator[Cell]:
        """Yield the cells, seed by seed; what others wait for comes first."""
        for seed in self.mode.seeds:
            for name, ground in self.grounds.items():
                cells = [
                    Cell(name, seed, entry.label, number)
                    for entry in ground.entries
                    for number in entry.numbers
                ]
                yield from sorted(cells, key=lambda cell: (not cell.paying, cell.needs_budget))


def build(mode: Mode, sets: Sequence[str] = (), only: Sequence[str] = ()) -> Plan:
    """Return the plan of a mode.

    Args:
        mode: how much.
        sets: ``path=value`` texts that change every study; for trying the benchmark out.
        only: labels of entries; the base policy and ``fixed`` are always there.

    Raises:
        StudyError: a value that the studies do not take.
    """
    grounds = {}
    for name in mode.beds:
        bed = BEDS[name]
        catalogue = plugins.load(bed.files)
        text, source = bundled.read(bed.study)
        study = load(text, source, catalogue, (*NO_SEARCH, *mode.sets, *sets))
        names = [o.name for o in study.train_objectives]
        found = entries(catalogue, bed, names, mode.numbers)
        kept = [e for e in found if not only or e.label in (BASE, FIXED, *only)]
        grounds[name] = Ground(bed, study, tuple(kept), mode.every)
    return Plan(mode, grounds)
