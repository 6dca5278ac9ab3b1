"""YAML text to plain data that remembers its lines. Builds no objects.

Numbers and booleans are those of YAML 1.2: ``1e-4`` is a number, ``yes`` and ``on`` are text. A
key that occurs twice is an error; anchors work, tags do not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from moalign.errors import StudyError

Path = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """A safe loader with the scalars of YAML 1.2 and no timestamps."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)
_Loader.add_constructor(
    "tag:yaml.org,2002:float", lambda _, node: float(_python_float(str(node.value)))
)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


def _python_float(text: str) -> str:
    return re.sub(r"\.(inf|nan)$", r"\1", text, flags=re.IGNORECASE)


@dataclass(frozen=True)
class Document:
    """Plain data and where each part of it stands.

    Attributes:
        source: file name, or another short description, for error messages.
        data: the outermost mapping.
        lines: line of each key or item, from 1, by path.
        overrides: the ``--set`` text that gave a value, by path.
    """

    source: str
    data: dict[str, Any]
    lines: dict[Path, int] = field(default_factory=dict)
    overrides: dict[Path, str] = field(default_factory=dict)

    def where(self, path: Path) -> str:
        """Return ``file line n, key a.b`` for the longest part of ``path`` that is known."""
        key = ".".join(str(part) for part in path)
        for given in sorted(self.overrides, key=len, reverse=True):
            if _is_part(given, path) or (path not in self.lines and given[: len(path)] == path):
                return f"--set {self.overrides[given]}"
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return f"{self.source} line {self.lines[path[:end]]}, key {key}"
        return f"{self.source}, key {key}" if key else self.source


def _is_part(given: Path, path: Path) -> bool:
    """Return True if ``path`` leads through ``given``, which leaves out components' names."""
    left = iter(path)
    return bool(path) and path[0] == given[0] and all(part in left for part in given)


def parse(text: str, source: str) -> Document:
    """Parse a study file.

    Raises:
        StudyError: not YAML, a tag, a duplicate key, or not a mapping; with the line.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}" if mark else ""
        raise StudyError(f"{source}{line}: this is not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise StudyError(f"{source}: this is not YAML: {error}") from None
    if not isinstance(node, yaml.MappingNode):
        raise StudyError(f"{source}: a study is a mapping with keys such as `study` and `task`")
    lines: dict[Path, int] = {(): 1}
    try:
        found = list(_keys(node, ()))
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark.line + 1 if error.problem_mark else 1
        raise StudyError(f"{source} line {at}: {error.problem}; a study is plain data") from None
    for path, key in found:
        if path in lines:
            raise StudyError(
                f"{source} line {key.start_mark.line + 1}: key {'.'.join(map(str, path))} is given "
                f"twice; the first is on line {lines[path]}"
            )
        lines[path] = key.start_mark.line + 1
    loader = _Loader("")
    try:
        data = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" line {mark.line + 1}" if mark else ""
        raise StudyError(f"{source}{line}: {error.problem}; a study is plain data") from None
    finally:
        loader.dispose()
    return Document(source, data, lines)


def parse_value(text: str) -> Any:
    """Parse the right-hand side of ``--set key=value`` as YAML.

    Raises:
        StudyError: not YAML.
    """
    return parse(f"value: {text}", f"--set value {text!r}").data["value"]


def as_text(value: Any) -> str:
    """Return plain data as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _keys(
    node: yaml.Node, path: Path, above: tuple[yaml.Node, ...] = ()
) -> Iterator[tuple[Path, yaml.Node]]:
    if any(node is other for other in above):
        raise yaml.MarkedYAMLError(
            problem="an anchor contains itself", problem_mark=node.start_mark
        )
    above = (*above, node)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*path, str(key.value))
            yield below, key
            yield from _keys(value, below, above)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*path, index), item
            yield from _keys(item, (*path, index), above)
