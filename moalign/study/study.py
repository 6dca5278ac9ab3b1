"""From a study file to a checked :class:`Study`: every mistake is found before any training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar, cast

from pydantic import ValidationError

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
from moalign.errors import MoalignError, OptionError, StudyError, nearest
from moalign.options import check_options, options_of
from moalign.plugins import Catalogue, split_reference
from moalign.study import document, paths, space
from moalign.study.document import Document
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
        """Conditions each checkpoint is measured under; one, None, unless the policy reads them."""
        if self.policy.condition == "none":
            return [None]
        given = self.section.evaluation.conditions
        names = [o.name for o in self.train_objectives]
        if given != "default":
            return [complete_preference(p, names) for p in given]
        centre = dict.fromkeys(names, 1.0 / len(names))
        if len(names) == 1:
            return [centre]
        return [centre, *(space.corner(names, name, FAVOURED) for name in names)]

    def with_values(self, values: Mapping[str, Any]) -> Study:
        """Return the study with searched or fixed values by path, checked.

        Raises:
            StudyError: a path that does not exist or a value it does not take.
        """
        data = self.data
        for path, value in values.items():
            data = paths.assign(data, paths.split(path), value, self.catalogue)
        return checked(Document(self.source, data), self.catalogue, self.text)

    def fingerprint(self) -> str:
        """Return a hash of all that changes a measurement."""
        data = json.loads(json.dumps(self.data))
        for path in _OUTSIDE_RESULTS:
            node = data
            for part in path[:-1]:
                node = node[part]
            node.pop(path[-1], None)
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def difference(self, other: Mapping[str, Any]) -> list[str]:
        """Return what another study's resolved data has different, one line per value."""
        mine, theirs = _flat(self.data), _flat(other)
        ignored = tuple(".".join(path) for path in _OUTSIDE_RESULTS)
        keys = [k for k in {**theirs, **mine} if not k.startswith(ignored)]
        absent = "absent"
        return [
            f"{key}: {theirs.get(key, absent)} -> {mine.get(key, absent)}"
            for key in keys
            if theirs.get(key, absent) != mine.get(key, absent)
        ]


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
    """Return the name of the weighting's option that is a preference, or None."""
    options = options_of(type(study.new_weighting()))
    return next((option.name for option in options if option.is_preference), None)


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


def load(text: str, source: str, catalogue: Catalogue, overrides: Sequence[str] = ()) -> Study:
    """Read and check a study file.

    Args:
        text: the file's text.
        source: its name, for messages.
        catalogue: the plugins it may name.
        overrides: ``path=value`` texts of ``--set``, applied in order.

    Raises:
        StudyError: with file, line and key of the first mistake.
    """
    doc = document.parse(text, source)
    data = _with_references(doc.data)
    for override in overrides:
        path, equals, value = override.partition("=")
        if not equals:
            raise StudyError(f"--set {override}: write --set path=value")
        parts = paths.split(path.strip())
        try:
            data = paths.assign(data, parts, document.parse_value(value), catalogue)
        except OptionError as error:
            raise StudyError(f"--set {override}: {error}") from error
        doc.overrides[parts] = override
    return checked(Document(source, data, doc.lines, doc.overrides), catalogue, text)


def _with_references(data: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the components a study does not name, so that overrides can reach their options."""
    filled = dict(data)
    defaults = StudySection.model_fields
    for key in ("policy", "rollout", "weighting", "executor"):
        filled.setdefault(key, defaults[key].default)
    for key, part in (("training", "optimizer"), ("search", "strategy")):
        section = filled.setdefault(key, {})
        if isinstance(section, dict):
            default = getattr(defaults[key].default, part)
            filled[key] = {**section, part: section.get(part, default)}
    return filled


def checked(doc: Document, catalogue: Catalogue, text: str = "") -> Study:
    """Check a study's data and fill in every default.

    Raises:
        StudyError: see :func:`load`.
    """
    section = _validate(doc)
    data = json.loads(json.dumps(section.model_dump()))
    for place, base in paths.places(data):
        node = data
        for part in place[:-1]:
            node = node[part]
        node[place[-1]] = _resolve(doc, place, base, node[place[-1]], catalogue)
    data["trackers"] = [
        _resolve(doc, ("trackers", str(index)), Tracker, reference, catalogue)
        for index, reference in enumerate(data["trackers"])
    ]
    study = Study(data, catalogue, doc.source, text)
    _check_together(doc, study)
    return study


def _validate(doc: Document) -> StudySection:
    try:
        return StudySection.model_validate_json(json.dumps(doc.data))
    except ValidationError as error:
        problems = error.errors(include_url=False)
        # A misspelt key is also a missing one: blame the spelling.
        first = next((e for e in problems if e["type"] == "extra_forbidden"), problems[0])
        location = tuple(part for part in first["loc"] if not _is_union_arm(part))
        where = doc.where(location)
        kind, value = first["type"], first.get("input")
        if kind == "extra_forbidden":
            allowed = _keys_beside(location)
            message = f"no such key; {nearest(str(location[-1]), allowed)}"
        elif kind == "missing":
            message = f"this key is missing ({_meaning(location)})"
        else:
            found = json.dumps(value) if not isinstance(value, dict) else "a mapping"
            message = f"found {found}; {first['msg'][0].lower()}{first['msg'][1:]}"
        raise StudyError(f"{where}: {message}") from None


def _is_union_arm(part: str | int) -> bool:
    text = str(part)
    return text.endswith("Section") or "[" in text or text in {"str", "int", "float", "bool"}


def _section_at(location: tuple[str | int, ...]) -> Any:
    """Return the schema class whose keys ``location[-1]`` belongs among."""
    model: Any = StudySection
    for part in location[:-1]:
        hint = model.model_fields[part].annotation if part in model.model_fields else model
        args = [a for a in getattr(hint, "__args__", ()) if hasattr(a, "model_fields")]
        model = args[0] if args else hint
    return model if hasattr(model, "model_fields") else StudySection


def _keys_beside(location: tuple[str | int, ...]) -> list[str]:
    return list(_section_at(location).model_fields)


def _meaning(location: tuple[str | int, ...]) -> str:
    model = _section_at(location).model_fields
    found = model.get(str(location[-1]))
    return (found.description or "").rstrip(".") if found else "see README"


def _resolve(
    doc: Document,
    place: tuple[str, ...],
    base: type[Component],
    reference: Any,
    catalogue: Catalogue,
) -> dict[str, Any]:
    """Return ``{name: {every option}}``, checked."""
    name = ""
    try:
        name, options = split_reference(base.kind, reference)
        cls = catalogue.find(base.kind, name)
        given = check_options(cls, options)
        full: dict[str, Any] = {}
        for option in options_of(cls):
            value = given.get(option.name, option.default)
            if option.nested is not None and value is not None:
                below = (*place, name, option.name)
                value = (
                    [_resolve(doc, below, option.nested, item, catalogue) for item in value]
                    if option.many
                    else _resolve(doc, below, option.nested, value, catalogue)
                )
            full[option.name] = value
        catalogue.build(base, {name: options})
    except OptionError as error:
        blamed = (*place, name, error.option) if error.option else place
        raise StudyError(f"{doc.where(blamed)}: {error}") from error
    return {name: cast("dict[str, Any]", json.loads(json.dumps(full)))}


def _check_together(doc: Document, study: Study) -> None:
    """Check what concerns several keys at once."""
    _check_objectives(doc, study)
    _check_preference(doc, study)
    _check_training(doc, study)
    _check_needs(doc, study)
    _check_search(doc, study)
    for index, preference in enumerate(_listed(study.section.report.preferences)):
        _at(doc, ("report", "preferences", index), complete_preference, preference,
            [o.name for o in study.front_objectives])  # fmt: skip
    for index, preference in enumerate(_listed(study.section.evaluation.conditions)):
        _at(doc, ("evaluation", "conditions", index), complete_preference, preference,
            [o.name for o in study.train_objectives])  # fmt: skip


def _listed(value: Any) -> list[dict[str, float]]:
    return value if isinstance(value, list) else []


def _at(doc: Document, path: tuple[str | int, ...], function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except MoalignError as error:
        raise StudyError(f"{doc.where(path)}: {error}") from error


def _check_objectives(doc: Document, study: Study) -> None:
    rewards = study.new_rewards()
    for objective in study.objectives:
        place = ("objectives", objective.name)
        given = study.section.objectives[objective.name]
        reward = rewards[objective.name]
        if reward.outputs and given.output not in reward.outputs:
            raise StudyError(
                f"{doc.where((*place, 'output'))}: reward {reward.name} has several outputs; say "
                f"which with `output`: {', '.join(reward.outputs)}; found {given.output!r}"
            )
        if not reward.outputs and given.output is not None:
            raise StudyError(
                f"{doc.where((*place, 'output'))}: reward {reward.name} has one output only; "
                f"remove `output: {given.output}`"
            )
        if objective.bounds is None and objective.front:
            raise StudyError(
                f"{doc.where(place)}: reward {reward.name} has no range, so this objective needs "
                "`bounds: [lo, hi]`, the values that count as 0 and 1 on the front"
            )
        if objective.at_least is not None and reward.range is not None:
            low, high = reward.range
            if not low <= objective.at_least <= high:
                raise StudyError(
                    f"{doc.where((*place, 'at_least'))}: reward {reward.name} gives values from "
                    f"{low:g} to {high:g}, so a threshold of {objective.at_least:g} cannot decide "
                    "anything"
                )
        if objective.bounds is not None and not objective.bounds[0] < objective.bounds[1]:
            raise StudyError(
                f"{doc.where((*place, 'bounds'))}: the lower bound must be below the upper one; "
                f"found {list(objective.bounds)}"
            )
    if not study.train_objectives:
        raise StudyError(f"{doc.where(('objectives',))}: no objective is trained on")
    if not study.front_objectives:
        raise StudyError(f"{doc.where(('objectives',))}: no objective is on the front")


def _check_preference(doc: Document, study: Study) -> None:
    name, options = split_reference("weighting", study.data["weighting"])
    option = preference_option(study)
    given = option and options.get(option)
    if not given:
        return
    place = ("weighting", name, str(option))
    names = [o.name for o in study.train_objectives]
    for key in given:
        if key not in names:
            raise StudyError(
                f"{doc.where((*place, key))}: the preference names {key!r}, which is not trained "
                f"on; {nearest(key, names)}"
            )
    missing = [n for n in names if n not in given]
    if missing:
        raise StudyError(
            f"{doc.where(place)}: the preference leaves out {', '.join(missing)}; give a weight "
            f"for each of {', '.join(names)} (0 is allowed)"
        )


def _check_training(doc: Document, study: Study) -> None:
    training, optimizer = study.section.training, study.new_optimizer()
    weighting = study.new_weighting()
    if training.group < optimizer.min_group:
        raise StudyError(
            f"{doc.where(('training', 'group'))}: optimizer {optimizer.name} compares completions "
            f"of one prompt, so group must be at least {optimizer.min_group}; found "
            f"{training.group}"
        )
    if training.minibatches > training.prompts:
        raise StudyError(
            f"{doc.where(('training', 'minibatches'))}: {training.minibatches} mini-batches cannot "
            f"be made of {training.prompts} prompts"
        )
    if training.batch_norm != "none" and "unnormalised" in weighting.declares:
        raise StudyError(
            f"{doc.where(('training', 'batch_norm'))}: weighting {weighting.name} scales the "
            "advantage, and batch_norm would cancel its scale; set batch_norm: none"
        )
    if training.scale == "calibrated" and training.combine != "rewards":
        raise StudyError(
            f"{doc.where(('training', 'scale'))}: scale: calibrated acts on raw rewards; it needs "
            "combine: rewards"
        )
    _at(doc, ("weighting",), weighting.check, study.train_objectives)


def _check_needs(doc: Document, study: Study) -> None:
    allowed = {"logprobs", "ref_logprobs", "hidden"}
    for name, reward in study.new_rewards().items():
        for need in sorted(reward.needs):
            if not need.startswith("field:") and need not in allowed:
                raise StudyError(
                    f"{doc.where(('objectives', name, 'reward'))}: reward {reward.name} needs "
                    f"{need!r}, which nothing provides; "
                    f"{nearest(need, [*sorted(allowed), 'field:NAME'])}"
                )
    weighting = study.new_weighting()
    provided = {"gram", "steer", "prompt_features"}
    for need in sorted(weighting.needs):
        if need not in provided:
            raise StudyError(
                f"{doc.where(('weighting',))}: weighting {weighting.name} needs {need!r}, which "
                f"nothing provides; {nearest(need, provided)}"
            )
    optimizer = study.new_optimizer()
    for need in sorted(optimizer.needs - {"ref_logprobs"}):
        raise StudyError(
            f"{doc.where(('training', 'optimizer'))}: optimizer {optimizer.name} needs {need!r}, "
            "which nothing provides; allowed: ref_logprobs"
        )
    if optimizer.learns_from != "rollouts":
        raise StudyError(
            f"{doc.where(('training', 'optimizer'))}: optimizer {optimizer.name} learns from "
            f"{optimizer.learns_from}; this version trains from rollouts only"
        )
    if study.policy.condition == "weights" and "conditioned" not in weighting.declares:
        raise StudyError(
            f"{doc.where(('policy',))}: the policy reads weights in its prompt, but weighting "
            f"{weighting.name} does not follow them (it does not declare 'conditioned'), so they "
            "would mean nothing; use weighting: fixed, or condition: none"
        )


def _check_search(doc: Document, study: Study) -> None:
    search = study.section.search
    place = ("search", "rungs")
    if list(search.rungs) != sorted(set(search.rungs)):
        raise StudyError(f"{doc.where(place)}: rungs must rise; found {search.rungs}")
    if search.rungs and search.rungs[-1] >= study.section.training.steps:
        raise StudyError(
            f"{doc.where(place)}: rungs must lie below training.steps "
            f"({study.section.training.steps}); found {search.rungs}"
        )
    for path, given in study.section.search.space.items():
        where = doc.where(("search", "space", path))
        parts = _at(doc, ("search", "space", path), paths.split, path)
        dimension = _at(doc, ("search", "space", path), lambda p=path: study.space[p])
        _check_searchable(where, study, parts, given)
        plain = study.data | {"search": study.data["search"] | {"space": {}}}
        for value in space.samples(dimension):
            changed = paths.assign(plain, parts, value, study.catalogue)
            try:
                checked(Document(study.source, changed), study.catalogue)
            except MoalignError as error:
                raise StudyError(f"{where}: the value {value!r} cannot be used: {error}") from error


def _check_searchable(where: str, study: Study, parts: tuple[str, ...], given: Any) -> None:
    path = ".".join(parts)
    weighting = study.new_weighting()
    options = options_of(type(weighting))
    preferences = [f"weighting.{o.name}" for o in options if o.is_preference]
    if parts[0] == "weighting" and path not in preferences and given == "simplex":
        searchable = [f"weighting.{o.name}" for o in options]
        what = ", ".join(preferences or searchable) or "nothing"
        raise StudyError(
            f"{where}: weighting {weighting.name} has no preference called "
            f"{'.'.join(parts[1:])!r} that a simplex could search; of it one can search: {what}"
        )
    if given == "simplex" and path not in preferences:
        raise StudyError(f"{where}: only a preference is searched on the simplex")
    if parts[0] in {"search", "executor", "trackers", "report", "study", "seed", "evaluation"}:
        raise StudyError(
            f"{where}: {path} does not change what a trial learns, so it cannot be searched"
        )
    if given == "simplex" and len(study.train_objectives) < 2:
        raise StudyError(f"{where}: a preference over one objective leaves nothing to search")
