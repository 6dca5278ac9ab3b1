"""Paths into a study: ``training.learning_rate``, ``weighting.preference``.

A path skips a component's name: with ``weighting: {fixed: {preference: ...}}`` the preference is
``weighting.preference``. Overrides and the search space share these rules.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Final

from moalign.components import (
    Component,
    Executor,
    Optimizer,
    PolicySource,
    Reward,
    Rollout,
    Strategy,
    Task,
    Weighting,
)
from moalign.errors import StudyError, nearest
from moalign.options import Option, options_of
from moalign.plugins import Catalogue, split_reference

Path = tuple[str, ...]

_PLACES: Final[Mapping[Path, type[Component]]] = {
    ("task",): Task,
    ("policy",): PolicySource,
    ("rollout",): Rollout,
    ("training", "optimizer"): Optimizer,
    ("weighting",): Weighting,
    ("search", "strategy"): Strategy,
    ("executor",): Executor,
}


def places(data: Mapping[str, Any]) -> Iterator[tuple[Path, type[Component]]]:
    """Yield where a study names a component, and of what kind; trackers, a list, are left out."""
    yield from _PLACES.items()
    for name in data.get("objectives", {}):
        yield ("objectives", str(name), "reward"), Reward


def kind_at(path: Path) -> type[Component] | None:
    """Return the kind of component that a path names, or None."""
    if len(path) == 3 and path[0] == "objectives" and path[2] == "reward":
        return Reward
    return _PLACES.get(path)


def assign(data: Mapping[str, Any], path: Path, value: Any, catalogue: Catalogue) -> dict[str, Any]:
    """Return a copy of a study's data with one value set.

    Raises:
        StudyError: if the path leads through something that is no mapping.
    """
    copied: dict[str, Any] = copy.deepcopy(dict(data))
    objectives = copied.get("objectives")
    known = objectives if isinstance(objectives, dict) else {}
    if path[0] == "objectives" and len(path) > 2 and path[1] not in known:
        raise StudyError(f"no objective is called {path[1]!r}; {nearest(path[1], known)}")
    node, kind = copied, None
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        nested = _nested(kind, part)
        here = kind_at(path[: depth + 1]) or (None if nested is None else nested.nested)
        if last:
            node[part] = value
            return copied
        below = node.get(part)
        if below is None and nested is not None and not nested.required:
            below = nested.default
        if here is not None:
            name, options = split_reference(here.kind, below if below is not None else "")
            node[part] = {name: options}
            node, kind = options, catalogue.find(here.kind, name)
            if path[depth + 1] == name and name not in (o.name for o in options_of(kind)):
                shorter = ".".join(path[: depth + 1] + path[depth + 2 :])
                raise StudyError(f"a path skips the names of components: write {shorter}")
            continue
        kind = None
        if below is None:
            node[part] = below = {}
        if not isinstance(below, dict):
            raise StudyError(
                f"the path {'.'.join(path)!r} leads through {part!r}, which is {below!r} and has "
                "no keys"
            )
        node = below
    raise AssertionError("a path has at least one part")


def _nested(cls: type[Component] | None, part: str) -> Option | None:
    """Return the option of this name if it takes a component."""
    options = () if cls is None else options_of(cls)
    return next((o for o in options if o.name == part and o.nested and not o.many), None)


def split(path: str) -> Path:
    """Split a dotted path.

    Raises:
        StudyError: if a part is empty.
    """
    parts = tuple(path.split("."))
    if not all(parts):
        raise StudyError(f"{path!r} is no path; write for example training.learning_rate")
    return parts
