"""The grid of cells: entries on test beds, preferences, seeds.

A cell is one training run: (bed, seed, entry, number). An entry is a component with its options.
The number is that of a preference, or for an entry without one that of a run with other random
numbers. It is the trial's too (but for entries that are there to differ), so that at equal numbers
all entries see the same prompts in the same order.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.sources import digest
from moalign.components import Component
from moalign.errors import RecordError
from moalign.options import options_of
from moalign.search.artifacts import samples_folder
from moalign.search.folders import RunFolder
from moalign.search.measurements import COST
from moalign.study import space
from moalign.study.loading import with_values
from moalign.study.study import Study, report_preferences
from moalign.types import Cost, Objective

BASE: Final = "base policy"
"""The entry that trains nothing."""

CENTRE: Final = 0
"""The number of the equal preference."""

STRONG: Final = 0.8
"""Weight of the first objective in the last preference."""

RULE: Final = 1
"""Goes up when the way cells are trained or measured changes: they are run again then."""

NO_SEARCH: Final = ("search.space={}", "search.rungs=[]", "search.strategy=gp")
"""Nothing is searched here, and an entry may lack what the study's own search asks for; a cell does
not depend on which strategy is the default (the one named was, when cells were first trained)."""


# --- entries -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A component with its options.

    Attributes:
        label: what it is called in tables.
        component: its name.
        family: what it is listed under.
        options: as a study gives them, the preference left out.
        settings: further values of the study, by path.
        preference: the option that is its preference; None: it has none.
        numbers: of its cells.
        shift: added to them for the numbers of the trials.
        digest: hash of its code.
        share: of the budget that it may spend.
        samples: whether it learns from what the base policy wrote before, and pays for it.
    """

    label: str
    component: str
    family: str
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    preference: str | None = None
    numbers: tuple[int, ...] = (CENTRE,)
    shift: int = 0
    digest: str = ""
    share: float = 1.0
    samples: bool = False


def default_options(
    cls: type[Component], names: Sequence[str], given: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the options to build a component with: none, unless it asks for some.

    Args:
        cls: the component; if it asks for options, its first example gives them.
        names: of the objectives, for which ``a``, ``b``, ``c`` stand.
        given: options of components by name, taken instead.
    """
    if cls.name in given:
        found = given[cls.name]
    elif any(option.required for option in options_of(cls)):
        found = cls.examples[0]
    else:
        return {}
    letters = dict(zip("abc", names, strict=False))
    return {option: in_words(value, letters) for option, value in found.items()}


def in_words(value: Any, names: Mapping[str, str]) -> Any:
    """Return options with objectives for the letters that stand for them."""
    if isinstance(value, Mapping):
        return {names.get(key, key): in_words(below, names) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [in_words(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def source(cls: type[Component], bases: str) -> str:
    """Return a hash of the files that a component is made of, without the contract's own.

    Args:
        cls: the component.
        bases: the package of its kind's base classes.
    """
    files = {
        Path(inspect.getfile(base))
        for base in cls.__mro__
        if base.__module__.startswith(("moalign_plugins", bases, "moalign_plugin_"))
    }
    return digest(files)


def usual_preferences(names: Sequence[str]) -> list[dict[str, float]]:
    """Return the preferences that all entries are trained and judged by, each summing to 1."""
    return [*report_preferences("default", names), space.corner(names, names[0], STRONG)]


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
        only: labels of the entries; empty: all.
        early: steps that are measured beside these, before the first of them.
    """

    name: str
    beds: tuple[str, ...]
    seeds: tuple[int, ...]
    numbers: tuple[int, ...] | None = None
    every: int = 10
    sets: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    early: tuple[int, ...] = ()


@dataclass(frozen=True)
class Ground(ABC):
    """A bed as it is run; a subclass says what an entry changes in the study.

    Attributes:
        study: with seed 0.
        entries: what is compared.
        every: steps between two measurements on validation, if a cell has the usual number of
            steps; as many times more if it has more.
        payer: label of the entry that gives the budget, the hull and the differences.
        preferences: all preferences of the bed, by objective.
        thresholds: ``at_least`` by objective that violation is measured against.
        early: steps that are measured beside these, before the first of them.
    """

    study: Study
    entries: tuple[Entry, ...]
    every: int
    payer: str
    preferences: Sequence[Mapping[str, float]]
    thresholds: Mapping[str, float] = field(default_factory=dict)
    early: tuple[int, ...] = ()

    @property
    def names(self) -> list[str]:
        """The objectives, the order of every K."""
        return [o.name for o in self.study.train_objectives]

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives."""
        return self.study.train_objectives

    @property
    def asked(self) -> tuple[int, ...]:
        """Numbers of the preferences that are trained and judged by."""
        return self.entry(self.payer).numbers

    @property
    def steps(self) -> int:
        """Most steps of a cell, unless its entry's settings say another number."""
        return self.study.section.training.steps

    def entry(self, label: str) -> Entry:
        """Return an entry by its label."""
        return next(entry for entry in self.entries if entry.label == label)

    @abstractmethod
    def values(self, cell: Cell) -> dict[str, Any]:
        """Return what a cell's study has different, by path."""

    def trial(self, cell: Cell) -> int:
        """Return the number of a cell's trial, part of every random key of its training."""
        return cell.number + self.entry(cell.entry).shift

    def study_of(self, cell: Cell) -> Study:
        """Return a cell's study, checked.

        Raises:
            StudyError: its component refuses to be used like this.
        """
        return with_values(self.study, self.values(cell))

    def foundations(self, bed: str, seed: int) -> list[Cell]:
        """Return cells whose base policies and samples serve all others of a bed and seed."""
        sampled = [e for e in self.entries if e.samples][:1]
        found = [Cell(bed, seed, self.payer, CENTRE)]
        return found + [Cell(bed, seed, e.label, e.numbers[0]) for e in sampled]

    def sampled(self, bed: str, seed: int, run: RunFolder) -> Cost | None:
        """Return what the samples of a bed and seed took; None if they do not stand yet.

        Raises:
            RecordError: it cannot be read.
        """
        folder = samples_folder(self.study_of(self.foundations(bed, seed)[-1]), run)
        if folder is None or not (folder / COST).is_file():
            return None
        try:
            return Cost(**json.loads((folder / COST).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise RecordError(f"{folder / COST} cannot be read ({error}); delete its folder") from (
                error
            )

    def key(self, cell: Cell, budget: int | None, before: Cost | None = None) -> str:
        """Return a hash of all that a cell depends on, but for the host's code.

        Args:
            cell: which.
            budget: what it may spend.
            before: what it is charged before its first step, if anything.
        """
        asked = [RULE, self.every, self.study.data, self.values(cell), self.trial(cell), budget]
        if before is not None and before != Cost():
            asked.append(before.to_json())
        if self.early:
            asked.append(["early", *self.early])
        if self.study.catalogue.files:  # the task may be one of theirs
            asked.append([file.sha256 for file in self.study.catalogue.files])
        text = json.dumps([asked, self.entry(cell.entry).digest], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Plan:
    """All cells of a mode."""

    mode: Mode
    grounds: Mapping[str, Ground]

    def pays(self, cell: Cell) -> bool:
        """Return whether a cell's cost is the budget of the others."""
        return cell.entry == self.grounds[cell.bed].payer and cell.number == CENTRE

    def needs_budget(self, cell: Cell) -> bool:
        """Return whether a cell can only begin when the budget is known."""
        return cell.entry != BASE and not self.pays(cell)

    def cells(self) -> Iterator[Cell]:
        """Yield the cells, seed by seed; what others wait for comes first."""
        for seed in self.mode.seeds:
            for name, ground in self.grounds.items():
                cells = [
                    Cell(name, seed, entry.label, number)
                    for entry in ground.entries
                    for number in entry.numbers
                ]
                yield from sorted(cells, key=lambda c: (not self.pays(c), self.needs_budget(c)))
