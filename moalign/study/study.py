"""A checked study: typed keys, components on demand, and what identifies it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

from moalign.components import (
    Component,
    Executor,
    Optimizer,
    PolicySource,
    Reward,
    Rollout,
    Strategy,
    Task,
    Tracker,
    Weighting,
)
from moalign.errors import StudyError, nearest
from moalign.options import options_of
from moalign.plugins import Catalogue, split_reference
from moalign.study import space
from moalign.study.schema import StudySection
from moalign.types import Objective, Parameter

C = TypeVar("C", bound=Component)

FAVOURED = 0.6
"""Weight of the favoured objective in a default preference."""

_OUTSIDE_RESULTS = (
    ("search", "trials"),
    ("executor",),
    ("trackers",),
    ("report",),
)
"""What may differ between two calls of the same study: it changes no measurement."""


@dataclass(frozen=True)
class Study:
    """A study that has been checked.

    Attributes:
        data: the fully resolved study as plain data, every default and option filled in.
        catalogue: the plugins it was checked with.
        source: where it came from, for messages.
        text: the file as written, or empty.
    """

    data: dict[str, Any]
    catalogue: Catalogue = field(compare=False)
    source: str = "study"
    text: str = ""

    @cached_property
    def section(self) -> StudySection:
        """The typed keys."""
        return StudySection.model_validate_json(json.dumps(self.data))

    @property
    def name(self) -> str:
        """The study's name."""
        return self.section.study

    @property
    def seed(self) -> int:
        """The study's seed."""
        return self.section.seed

    def _build(self, base: type[C], reference: Any) -> C:
        return self.catalogue.build(base, reference)

    @cached_property
    def task(self) -> Task:
        """The task."""
        return self._build(Task, self.data["task"])

    @cached_property
    def policy(self) -> PolicySource:
        """Where the base policy comes from."""
        return self._build(PolicySource, self.data["policy"])

    @cached_property
    def rollout(self) -> Rollout:
        """The rollout engine."""
        return self._build(Rollout, self.data["rollout"])

    def new_optimizer(self) -> Optimizer:
        """Build a fresh optimizer; it may hold state."""
        return self._build(Optimizer, self.data["training"]["optimizer"])

    def new_weighting(self) -> Weighting:
        """Build a fresh weighting; it may hold state."""
        return self._build(Weighting, self.data["weighting"])

    def new_rewards(self) -> dict[str, Reward]:
        """Build fresh rewards by objective; equal name and options share one instance."""
        built: dict[str, Reward] = {}
        by_name = {}
        for name, given in self.data["objectives"].items():
            key = json.dumps(given["reward"], sort_keys=True)
            if key not in built:
                built[key] = self._build(Reward, given["reward"])
            by_name[name] = built[key]
        return by_name

    @cached_property
    def strategy(self) -> Strategy:
        """The search strategy."""
        return self._build(Strategy, self.data["search"]["strategy"])

    def new_executor(self) -> Executor:
        """Build the executor."""
        return self._build(Executor, self.data["executor"])

    def new_trackers(self) -> list[Tracker]:
        """Build the trackers."""
        return [self._build(Tracker, reference) for reference in self.data["trackers"]]

    @cached_property
    def objectives(self) -> tuple[Objective, ...]:
        """All objectives, monitored ones included, in the order of the file."""
        rewards = self.new_rewards()
        found = []
        for name, given in self.section.objectives.items():
            bounds = given.bounds or rewards[name].range
            found.append(
                Objective(
                    name=name,
                    bounds=bounds,
                    train="train" in given.use and not given.monitor,
                    front="front" in given.use and not given.monitor,
                    at_least=given.at_least,
                    reference=given.reference,
                    measure=json.dumps(
                        [self.data["objectives"][name]["reward"], given.output], sort_keys=True
                    ),
                )
            )
        return tuple(found)

    @property
    def train_objectives(self) -> tuple[Objective, ...]:
        """The K columns of a training step."""
        return tuple(o for o in self.objectives if o.train)

    @property
    def front_objectives(self) -> tuple[Objective, ...]:
        """The axes of the front."""
        return tuple(o for o in self.objectives if o.front)

    @cached_property
    def preference(self) -> dict[str, float]:
        """The weighting's preference, normalised; uniform if it has none or none is given."""
        names = [o.name for o in self.train_objectives]
        option, options = preference_option(self), split_reference("", self.data["weighting"])[1]
        given = (option and options.get(option)) or dict.fromkeys(names, 1.0)
        total = sum(given.values())
        return {name: given[name] / total for name in names}

    @cached_property
    def space(self) -> dict[str, Parameter]:
        """The search dimensions by path."""
        names = [o.name for o in self.train_objectives]
        given = self.section.search.space
        return {path: space.parameter(path, value, names) for path, value in given.items()}

    @cached_property
    def report_preferences(self) -> list[dict[str, float]]:
        """Preferences over the front objectives to report utility at, each summing to 1."""
        names = [o.name for o in self.front_objectives]
        return report_preferences(self.section.report.preferences, names)

    @cached_property
    def conditions(self) -> list[dict[str, float] | None]:
        """Conditions each checkpoint is measured under; one, None, unless the policy reads them.

        None comes first if the weighting has weights per prompt: those are then written.
        """
        if self.policy.condition == "none":
            return [None]
        own = [None] if "prompt-weights" in self.new_weighting().declares else []
        return [*own, *self._given_conditions()]

    def _given_conditions(self) -> list[dict[str, float]]:
        given = self.section.evaluation.conditions
        names = [o.name for o in self.train_objectives]
        if given != "default":
            return [complete_preference(p, names) for p in given]
        centre = dict.fromkeys(names, 1.0 / len(names))
        if len(names) == 1:
            return [centre]
        return [centre, *(space.corner(names, name, FAVOURED) for name in names)]

    def fingerprint(self) -> str:
        """Return a hash of all that changes a measurement."""
        data = json.loads(json.dumps(self.data))
        for path in _OUTSIDE_RESULTS:
            node = data
            for part in path[:-1]:
                node = node[part]
            node.pop(path[-1], None)
        data["objectives"] = list(data["objectives"].items())  # states and prompts follow the order
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def difference(self, other: Mapping[str, Any]) -> list[str]:
        """Return what another study's resolved data has different, one line per value."""
        mine, theirs = _flat(self.data), _flat(other)
        ignored = tuple(".".join(path) for path in _OUTSIDE_RESULTS)
        keys = [k for k in {**theirs, **mine} if not k.startswith(ignored)]
        absent = "absent"
        changed = [
            f"{key}: {theirs.get(key, absent)} -> {mine.get(key, absent)}"
            for key in keys
            if theirs.get(key, absent) != mine.get(key, absent)
        ]
        before, now = list(other.get("objectives", ())), list(self.data["objectives"])
        if before != now and sorted(before) == sorted(now):
            changed.append(f"order of objectives: {', '.join(before)} -> {', '.join(now)}")
        return changed


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        found: dict[str, Any] = {}
        for name, below in value.items():
            found |= _flat(below, f"{path}.{name}" if path else str(name))
        return found
    return {path: value}


def report_preferences(
    given: Sequence[Mapping[str, float]] | Literal["default"], names: Sequence[str]
) -> list[dict[str, float]]:
    """Return the preferences of a study's ``report.preferences`` over the front objectives.

    Default: the centre, and for each objective :data:`FAVOURED` on it with the rest equal.
    """
    if given != "default":
        return [complete_preference(p, names) for p in given]
    centre = [dict.fromkeys(names, 1.0 / len(names))]
    if len(names) == 1:
        return centre
    return centre + [space.corner(names, name, FAVOURED) for name in names]


def preference_option(study: Study) -> str | None:
    """Return the name of the weighting's option that is its preference, or None.

    That is its only option of this type, or the one called ``preference`` among several.
    """
    options = options_of(type(study.new_weighting()))
    names = [option.name for option in options if option.is_preference]
    if "preference" in names:
        return "preference"
    return names[0] if len(names) == 1 else None


def complete_preference(given: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """Return a preference over all ``names``: absent ones 0, normalised to sum 1.

    Raises:
        StudyError: an unknown name, a negative or non-finite weight, or all zero.
    """
    for name, weight in given.items():
        if name not in names:
            raise StudyError(f"a preference names {name!r}; {nearest(name, names)}")
        if not 0 <= weight < float("inf"):
            raise StudyError(f"the preference for {name!r} must be finite and >= 0; found {weight}")
    total = sum(given.values())
    if total <= 0:
        raise StudyError(f"a preference needs a weight above 0 for one of {', '.join(names)}")
    return {name: given.get(name, 0.0) / total for name in names}
