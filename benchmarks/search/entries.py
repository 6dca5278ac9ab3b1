"""What is compared: every installed strategy that can work on the inputs of a problem."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, Final

from benchmarks.sources import digest
from moalign.plugins import Catalogue
from moalign.study.schema import SearchSection

EXCLUDED: Final = {
    "cmorl": "it trains with thresholds",
    "continuation": "it begins at checkpoints of policies",
    "soups": "it mixes policies",
}
"""Strategies that ask for what a function does not have, and what that is."""

SHARED: Final = "moalign.strategies"


def default() -> str:
    """Return the strategy of a study that names none."""
    return str(SearchSection.model_fields["strategy"].default)


def strategies(catalogue: Catalogue) -> list[str]:
    """Return the names of the installed strategies that are compared, the default first."""
    names = [name for name in catalogue.names("strategy") if name not in EXCLUDED]
    return sorted(names, key=lambda name: (name != default(), name))


def source(catalogue: Catalogue, name: str) -> str:
    """Return a hash of the files that a strategy is made of: its own, and what these import."""
    classes: dict[str, Any] = {entry.cls.name: entry.cls for entry in catalogue.entries("strategy")}
    found: set[Path] = set()
    ahead = [Path(inspect.getfile(classes[name]))]
    while ahead:
        file = ahead.pop()
        if file not in found:
            found.add(file)
            ahead += _imported(file.read_bytes())
    return digest(found)


@cache
def _imported(source: bytes) -> tuple[Path, ...]:
    """Return the files of the strategies' shared code that a file imports."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(
        Path(spec.origin)
        for name in names
        if name.startswith(SHARED) and (spec := _spec(name)) is not None and spec.origin
    )


def _spec(name: str) -> ModuleSpec | None:
    """Return where a module is; None if the name is that of something inside one."""
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
