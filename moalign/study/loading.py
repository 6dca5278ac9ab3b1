"""From a study file to a checked :class:`Study`: every mistake is found before any training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import to_json

from moalign.components import Component, Tracker
from moalign.errors import OptionError, StudyError, nearest
from moalign.options import check_options, options_of
from moalign.plugins import Catalogue, split_reference
from moalign.study import checks, document, paths
from moalign.study.document import Document
from moalign.study.schema import StudySection
from moalign.study.study import Study


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


def with_values(study: Study, values: Mapping[str, Any]) -> Study:
    """Return a study with searched or fixed values by path, checked.

    Raises:
        StudyError: a path that does not exist or a value it does not take.
    """
    data = study.data
    for path, value in values.items():
        data = paths.assign(data, paths.split(path), value, study.catalogue)
    return checked(Document(study.source, data), study.catalogue, study.text)


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
    checks.check_together(doc, study, lambda data: checked(Document(doc.source, data), catalogue))
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
    return {name: cast("dict[str, Any]", json.loads(to_json(full)))}
