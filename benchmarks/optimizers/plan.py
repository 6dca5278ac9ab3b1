"""What is compared: every optimizer with its default options, under fixed weights.

All of them are trained once per preference. What an optimizer that learns from preferences
compares are samples of the base policy, which the objectives' rewards tell apart; its cells share
the cost of sampling them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from benchmarks.comparison.plan import (
    BASE,
    CENTRE,
    NO_SEARCH,
    Cell,
    Entry,
    Ground,
    Mode,
    Plan,
    default_options,
    source,
    usual_preferences,
)
from moalign import plugins
from moalign.components import Optimizer
from moalign.plugins import Catalogue
from moalign.study import bundled
from moalign.study.loading import load
from moalign.study.study import Study

BEDS: Final = ("arithmetic", "restaurants")
"""Bundled studies, with their own rewards."""

PAYER: Final = "grpo"
"""The entry that gives the budget, the hull and the differences."""

MORE: Final = 4
"""Times the study's steps that one who rolls nothing out may take within its budget: with two
completions of a prompt instead of eight, none of them sampled, a step costs about a quarter."""

THIRD: Final = "a third"

ONLINE: Final = ("grpo", "rloo")
"""What MODPO is compared with."""

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "policy gradient": (
        "grpo",
        "dr-grpo",
        "rloo",
        "reinforce-pp",
        "reinforce-pp-baseline",
        "remax",
        "ppo",
        "p3o",
        "riskpo",
    ),
    "imitation": ("expert-iteration", "superhf"),
    "comparison": ("online-dpo",),
    "games": ("nash-md", "egpo", "sppo", "inpo"),
    "DPO and its kin": ("dpo", "cdpo", "rdpo", "ipo", "hinge", "rpo-sft", "ld-dpo"),
    "margins": ("modpo", "madpo", "mmpo"),
    "lists": ("lipo", "adpo"),
    "unpaired": ("kto", "pmpo"),
    "offline and online": ("hypo",),
}
"""The optimizers by what they do; one that is not listed counts as ``other``."""

OTHER: Final = "other"

OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    # Labels by scores: soft ones are those of the Bradley-Terry model that MODPO's optimum is for.
    "modpo": {"primary": "a", "labels": "soft"},
}
"""Options of optimizers whose defaults are meant for something else; ``a`` is the first objective.
"""


@dataclass(frozen=True)
class Variant:
    """An optimizer once more, with a share of the budget."""

    optimizer: str
    label: str
    share: float


VARIANTS: Final = tuple(Variant(name, f"{name}, {THIRD}", 1 / 3) for name in (*ONLINE, "modpo"))
"""What the claim about MODPO is about."""

RATE: Final = ", rate x "
"""Between the label of an entry and its multiple of the study's learning rate."""


MODES: Final[Mapping[str, Mode]] = {
    # Equal weights, and .6 on clarity, which pulls against conciseness most.
    # Half the prompts, measured half as often, to be quicker.
    "quick": Mode(
        "quick",
        ("arithmetic",),
        (0,),
        (CENTRE, 3),
        20,
        ("evaluation.prompts=128",),
        (*ONLINE, *(v.label for v in VARIANTS), "modpo", "dpo", "kto", "online-dpo", "superhf"),
    ),
    "full": Mode("full", BEDS, (0, 1, 2)),
}


def family_of(cls: type[Optimizer]) -> str:
    """Return what an optimizer learns from, and its group."""
    group = next((name for name, ours in GROUPS.items() if cls.name in ours), OTHER)
    return f"{cls.learns_from}: {group}"


def entries(catalogue: Catalogue, study: Study, numbers: Sequence[int] | None) -> list[Entry]:
    """Return what is compared on a bed: every optimizer of the catalogue, and the variants.

    Args:
        catalogue: the plugins.
        study: gives steps and objectives.
        numbers: of the preferences; None: all.
    """
    names = [o.name for o in study.train_objectives]
    asked = tuple(range(len(usual_preferences(names)))) if numbers is None else tuple(numbers)
    found = []
    for entry in catalogue.entries("optimizer"):
        cls: Any = entry.cls
        settings: dict[str, Any] = {}
        if cls.learns_from != "rollouts":
            settings["training.pairs.source"] = "samples"
        if cls.learns_from == "pairs":
            settings["training.steps"] = MORE * study.section.training.steps
        found.append(
            Entry(
                cls.name,
                cls.name,
                family_of(cls),
                options=default_options(cls, names, OPTIONS),
                settings=settings,
                preference="preference",
                numbers=asked,
                digest=source(cls, "moalign.optimizers"),
                samples=cls.learns_from != "rollouts",
            )
        )
    known = {entry.label: entry for entry in found}
    found += [
        replace(known[variant.optimizer], label=variant.label, share=variant.share)
        for variant in VARIANTS
    ]
    order = [name for group in GROUPS.values() for name in group]
    places = {name: place for place, name in enumerate(order)}
    found.sort(key=lambda e: (places.get(e.component, len(order)), e.component))
    return [Entry(BASE, PAYER, BASE), *found]


def at_rates(entries: Sequence[Entry], study: Study, rates: Sequence[float]) -> list[Entry]:
    """Return entries once per multiple of the study's learning rate; 1 keeps its label."""
    plain = study.section.training.learning_rate
    return [
        entry
        if rate == 1
        else replace(
            entry,
            label=f"{entry.label}{RATE}{rate:g}",
            settings={**entry.settings, "training.learning_rate": rate * plain},
        )
        for entry in entries
        for rate in (rates if entry.label != BASE else (1.0,))
    ]


class Optimized(Ground):
    """A bed as it is run: every cell has the optimizer of its entry."""

    def values(self, cell: Cell) -> dict[str, Any]:
        """Return what a cell's study has different, by path."""
        entry = self.entry(cell.entry)
        preference = self.preferences[cell.number]
        return {
            "seed": cell.seed,
            "weighting": {"fixed": {"preference": dict(preference)} if entry.preference else {}},
            "training.optimizer": {entry.component: dict(entry.options)},
            **entry.settings,
        }


def build(
    mode: Mode, sets: Sequence[str] = (), only: Sequence[str] = (), rates: Sequence[float] = (1.0,)
) -> Plan:
    """Return the plan of a mode.

    Args:
        mode: how much.
        sets: ``path=value`` texts that change every study; for trying the benchmark out.
        only: labels of entries; the base policy and ``grpo`` are always there.
        rates: multiples of the study's learning rate, 1 always among them: the budget is what
            ``grpo`` spends at that.

    Raises:
        StudyError: a value that the studies do not take.
    """
    grounds: dict[str, Ground] = {}
    catalogue = plugins.load(())
    for name in mode.beds:
        text, source = bundled.read(name)
        study = load(text, source, catalogue, (*NO_SEARCH, *mode.sets, *sets))
        found = entries(catalogue, study, mode.numbers)
        kept = [e for e in found if not only or e.label in (BASE, PAYER, *only)]
        trained = at_rates(kept, study, list(dict.fromkeys((1.0, *rates))))
        names = [o.name for o in study.train_objectives]
        preferences = usual_preferences(names)
        grounds[name] = Optimized(study, tuple(trained), mode.every, PAYER, preferences)
    return Plan(mode, grounds)
