"""From a study file to a checked :class:`Study`: every mistake is found before any training."""

from __future__ import annotations

import contextlib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel, TypeAdapter, ValidationError

from moalign.components import Component, Tracker
from moalign.errors import OptionError, StudyError, nearest
from moalign.options import check_options, options_of
from moalign.plugins import Catalogue, split_reference
from moalign.study import checks, document, paths
from moalign.study.document import Document
from moalign.study.schema import StudySection
from moalign.study.study import Study
from moalign.types import Proposal

_PLAIN: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])
"""Turns options that are models of their own into plain data."""


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
        except (OptionError, StudyError) as error:
            raise StudyError(f"--set {override}: {error}") from error
        doc.overrides[parts] = override
    return checked(Document(source, data, doc.lines, doc.overrides), catalogue, text)


def with_values(study: Study, values: Mapping[str, Any]) -> Study:
    """Return a study with searched or fixed values by path, checked.

    Raises:
        StudyError: a path that does not exist or a value it does not take.
    """
    data = study.data
    for path, value in values.items():
        data = paths.assign(data, paths.split(path), value, study.catalogue)
    return checked(Document(study.source, data), study.catalogue, study.text)


def as_proposed(study: Study, proposal: Proposal) -> Study:
    """Return the study that a trial runs: with the proposal's values, and nothing to search.

    Raises:
        StudyError: a path that does not exist or a value it does not take.
    """
    return with_values(study, {**proposal.values, "search.space": {}})


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
    section = _validate(doc, catalogue)
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
    checks.check_together(doc, study, lambda data: checked(Document(doc.source, data), catalogue))
    return study


def _validate(doc: Document, catalogue: Catalogue) -> StudySection:
    try:
        return StudySection.model_validate_json(json.dumps(doc.data))
    except ValidationError as error:
        problems = _likeliest(error.errors(include_url=False))
        # A misspelt key is also a missing one: blame the spelling.
        first = next((e for e in problems if e["type"] == "extra_forbidden"), problems[0])
        location = tuple(part for part in first["loc"] if not _is_union_arm(part))
        where = doc.where(location)
        kind, value = first["type"], first.get("input")
        if kind == "extra_forbidden":
            allowed = _keys_beside(first["loc"])
            message = _as_option(doc, location, value, catalogue) or (
                f"no such key; {nearest(str(location[-1]), allowed)}"
            )
        elif kind == "missing":
            message = f"this key is missing ({_meaning(first['loc'])})"
        else:
            found = json.dumps(value) if not isinstance(value, dict) else "a mapping"
            reason = first["msg"].removeprefix("Value error, ")
            message = f"found {found}; {reason[0].lower()}{reason[1:]}"
            message = _as_reference(location, value) or message
        raise StudyError(f"{where}: {message}") from None


def _as_option(
    doc: Document, location: tuple[str | int, ...], value: Any, catalogue: Catalogue
) -> str:
    """Say where a key belongs that is an option of a component beside it; empty if it is none."""
    named = doc.data if isinstance(doc.data.get("objectives"), dict) else {}
    for place, base in paths.places(named):
        if place[:-1] != location[:-1]:
            continue
        node: Any = doc.data
        with contextlib.suppress(OptionError, KeyError, TypeError):  # told when it is read itself
            for part in place:
                node = node[part]
            name, given = split_reference(base.kind, node)
            option = str(location[-1])
            if option in (known.name for known in options_of(catalogue.find(base.kind, name))):
                moved = document.as_text({place[-1]: {name: {**given, option: value}}})[1:-1]
                path = ".".join((*place, option))
                return (
                    f"{option!r} is an option of {base.kind} {name}; write {moved}, "
                    f"or --set {path}={document.as_text(value)}"
                )
    return ""


def _as_reference(location: tuple[str | int, ...], value: Any) -> str:
    """Say what is wrong with what should name a component; empty if it should not, or does."""
    tracker = location[:1] == ("trackers",) and len(location) == 2
    base = Tracker if tracker else paths.kind_at(tuple(map(str, location)))
    if base is not None:
        try:
            split_reference(base.kind, value)
        except OptionError as error:
            return str(error)
    return ""


def _likeliest(problems: list[Any]) -> list[Any]:
    """Return the problems of the member of a union that was meant: the one with the fewest."""
    by_arm: dict[str, list[Any]] = {}
    for problem in problems:
        arm = next((str(part) for part in problem["loc"] if str(part).endswith("Section")), "")
        by_arm.setdefault(arm, []).append(problem)
    sections = {arm: found for arm, found in by_arm.items() if arm}
    return min(sections.values(), key=len) if sections else problems


def _is_union_arm(part: str | int) -> bool:
    text = str(part)
    return text.endswith("Section") or "[" in text or text in {"str", "int", "float", "bool"}


def _section_at(location: tuple[str | int, ...]) -> type[BaseModel] | None:
    """Return the section whose keys ``location[-1]`` belongs among, if there is one."""
    hint: Any = StudySection
    for part in location[:-1]:
        sections = [arm for arm in _arms(hint) if hasattr(arm, "model_fields")]
        named = [arm for arm in sections if arm.__name__ == part]
        if named:
            hint = named[0]
            continue
        mappings = [arm for arm in _arms(hint) if typing.get_origin(arm) in (dict, list)]
        known = next((arm for arm in sections if part in arm.model_fields), None)
        if known is not None:
            hint = known.model_fields[part].annotation
        elif mappings:
            hint = typing.get_args(mappings[0])[-1]
        else:
            return None
    return next((arm for arm in _arms(hint) if hasattr(arm, "model_fields")), None)


def _arms(hint: Any) -> list[Any]:
    """Return the members of a union, without ``Annotated``."""
    if typing.get_origin(hint) is typing.Annotated:
        return _arms(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [arm for member in typing.get_args(hint) for arm in _arms(member)]
    return [hint]


def _keys_beside(location: tuple[str | int, ...]) -> list[str]:
    section = _section_at(location)
    return list(section.model_fields) if section else []


def _meaning(location: tuple[str | int, ...]) -> str:
    section = _section_at(location)
    found = section.model_fields.get(str(location[-1])) if section else None
    return (found.description or "").rstrip(".") if found else "see docs/study.md"


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
    return {name: cast("dict[str, Any]", _PLAIN.dump_python(full, mode="json"))}
