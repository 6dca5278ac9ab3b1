"""What is compared: test beds, and weightings with their options.

An entry is a weighting. For one with a preference the number of a cell is that of the preference;
one without a preference is trained as many times, with other random numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
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
    in_words,
    source,
    usual_preferences,
)
from moalign import plugins
from moalign.components import Weighting
from moalign.options import options_of
from moalign.plugins import Catalogue
from moalign.study import bundled
from moalign.study.loading import load
from moalign.study.study import complete_preference

HERE: Final = Path(__file__).parent

FIXED: Final = "fixed"
"""The entry that gives the budget, the hull and the differences."""

AGAIN: Final = "fixed, again"
"""``fixed`` with other random numbers: what differs between the two is noise."""


# --- weightings in other settings ----------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """A weighting once more, in another setting.

    Attributes:
        weighting: its name.
        label: what it is called here.
        options: that differ from those of the weighting's own entry; ``a``, ``b``, ``c`` stand for
            the objectives.
        settings: further values of the study, by path.
        shift: added to the numbers of its trials, for other random numbers.
    """

    weighting: str
    label: str
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    shift: int = 0


SUMMED: Final = "fixed, rewards summed"
ON_REWARD: Final = "hypervolume, on the reward"
PUBLISHED: Final = "hypervolume, as published"
UNDAMPED: Final = "lagrangian, as published"
FASTER_GROUPS: Final = "group-robust, faster"

VARIANTS: Final = (
    Variant(FIXED, AGAIN, shift=100),
    Variant(FIXED, SUMMED, {}, {"training.combine": "rewards"}),
    Variant(FIXED, "fixed, batch norm", {}, {"training.batch_norm": "sequence"}),
    Variant(
        "hypervolume",
        PUBLISHED,
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
    # The gain of the defaults, which moves, where the published one multiplies.
    Variant("hypervolume", ON_REWARD, {"apply_to": "reward"}, {"training.combine": "rewards"}),
    # A measurement is four times what a step samples here, and a fifth of it as published.
    Variant("hypervolume", "hypervolume, every 5", {"every": 5}),
    # The integral alone: papers have thousands of updates for it. A faster one swings.
    Variant("lagrangian", UNDAMPED, {"proportional": 0.0}),
    Variant("group-robust", FASTER_GROUPS, {"rate": 0.1}),
    # On `arithmetic` every preferred answer is right, so scores say nothing for accuracy.
    Variant("prompt-adapter", "prompt-adapter, scores", {"targets": "scores", "floor": 0.0}),
)
"""Published settings that a claim is about, settings that suit 40 steps, and a measure of noise."""

SHUFFLED: Final = "prompt-adapter, shuffled"
MEAN: Final = "dataset-mean"
"""What weights per prompt are compared with: those of other prompts, and the same for all."""


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
        variants: weightings once more, in other settings.
        share: how often the budget may be spent; what is far above 1 leaves it to the steps.
    """

    name: str
    study: str
    files: tuple[Path, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    further: tuple[Mapping[str, float], ...] = ()
    replicates: int | None = None
    unasked: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = VARIANTS
    share: float = 1.0


# Of the two thresholds of a bed, base policies meet one (conciseness .66, fluency .68) and not the
# other (clarity .32, brevity .41), and the two pull apart. Policies of equal weights reach sums of
# 1.1 or more on both beds, so both can be met.
BEDS: Final[Mapping[str, Bed]] = {
    bed.name: bed
    for bed in (
        Bed("arithmetic", "arithmetic", thresholds={"conciseness": 0.5, "clarity": 0.5}),
        Bed("restaurants", "restaurants", thresholds={"brevity": 0.5, "fluency": 0.6}),
        Bed(
            "two-families",
            str(HERE / "two_families.yaml"),
            files=(HERE / "two_families.py",),
            only=(FIXED, "family-weights", "prompt-adapter", MEAN),
            # A dense set, so that the best single weighting is none by chance.
            further=({"accuracy": 0.55, "brevity": 0.45}, {"accuracy": 0.7, "brevity": 0.3}),
            replicates=1,
            unasked=("prompt-adapter", MEAN),
            variants=(Variant("prompt-adapter", SHUFFLED, {"control": "shuffled"}),),
            # At equal weights completions are short; at equal tokens right ones had few steps.
            share=4.0,
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
    "prompt-adapter": {"blend": 0.5, "targets": "margins", "floor": 0.05},
    "context-router": {"blend": 0.5},
}
"""Options without which a weighting does not listen to its preference, and, of `prompt-adapter`,
those of the study of this name."""

PLACES: Final[Mapping[str, str]] = {"schedule": "end"}
"""Options that take the preference where none is called so: a schedule goes to it from equal."""


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
                options=default_options(cls, names, OPTIONS) | dict(listening),
                preference=preference,
                numbers=repeated if preference is None else asked,
                digest=source(cls, "moalign.weightings"),
                share=bed.share,
            )
        )
    known = {entry.label: entry for entry in found}
    letters = dict(zip("abc", names, strict=False))
    found += [
        replace(
            known[variant.weighting],
            label=variant.label,
            options=dict(known[variant.weighting].options) | in_words(variant.options, letters),
            settings=dict(variant.settings),
            shift=variant.shift,
        )
        for variant in bed.variants
        if variant.weighting in known
    ]
    order = [BASE, FIXED, *(name for family in FAMILIES.values() for name in family)]
    places = {name: place for place, name in enumerate(order)}
    return sorted(found, key=lambda e: (places.get(e.component, len(order)), e.label != BASE))


def preference_of(cls: type[Weighting]) -> str | None:
    """Return the option that takes the preference; None if a weighting has none."""
    if cls.name in PLACES:
        return PLACES[cls.name]
    names = [option.name for option in options_of(cls) if option.is_preference]
    return "preference" if "preference" in names else names[0] if len(names) == 1 else None


def preferences(bed: Bed, names: Sequence[str]) -> list[dict[str, float]]:
    """Return the preferences that all weightings are trained and judged by, each summing to 1."""
    further = [complete_preference(given, names) for given in bed.further]
    return usual_preferences(names) + further


# --- the plan ----------------------------------------------------------------------------------

MODES: Final[Mapping[str, Mode]] = {
    # Equal weights, and .6 on clarity, which pulls against conciseness most.
    # Fewer steps, measured on half the prompts, to be quicker.
    "quick": Mode(
        "quick",
        ("arithmetic",),
        (0,),
        (CENTRE, 3),
        sets=("evaluation.prompts=128", "training.steps=15"),
    ),
    # Most is learnt in the first ten steps.
    "full": Mode("full", tuple(BEDS), (0, 1, 2), early=(2, 5)),
}


class Weighted(Ground):
    """A bed as it is run: every cell has the weighting of its entry."""

    def values(self, cell: Cell) -> dict[str, Any]:
        """Return what a cell's study has different, by path."""
        entry = self.entry(cell.entry)
        options = dict(entry.options)
        if entry.preference is not None:
            options[entry.preference] = self.preferences[cell.number]
        return {
            "seed": cell.seed,
            "weighting": {entry.component: options},
            **{f"objectives.{n}.at_least": t for n, t in self.thresholds.items()},
            **entry.settings,
        }


def build(mode: Mode, sets: Sequence[str] = (), only: Sequence[str] = ()) -> Plan:
    """Return the plan of a mode.

    Args:
        mode: how much.
        sets: ``path=value`` texts that change every study; for trying the benchmark out.
        only: labels of entries; the base policy and ``fixed`` are always there.

    Raises:
        StudyError: a value that the studies do not take.
    """
    grounds: dict[str, Ground] = {}
    for name in mode.beds:
        bed = BEDS[name]
        catalogue = plugins.load(bed.files)
        text, source = bundled.read(bed.study)
        study = load(text, source, catalogue, (*NO_SEARCH, *mode.sets, *sets))
        names = [o.name for o in study.train_objectives]
        found = entries(catalogue, bed, names, mode.numbers)
        kept = [e for e in found if not only or e.label in (BASE, FIXED, *only)]
        grounds[name] = Weighted(
            study,
            tuple(kept),
            mode.every,
            FIXED,
            preferences(bed, names),
            bed.thresholds,
            mode.early,
        )
    return Plan(mode, grounds)
