"""What a measurement depends on: the code of some files, whatever is said about it."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path


def digest(files: Iterable[Path]) -> str:
    """Return a hash of Python files in the order of their paths.

    Comments, docstrings and layout do not count: hours of measurements outlive a better sentence.
    """
    text = "\n".join(code(file.read_bytes()) for file in sorted(set(files)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache  # entries share most of their files
def code(source: bytes) -> str:
    """Return Python source without comments and without statements that are only a string."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [item for item in body if not _text(item)] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(ast.fix_missing_locations(tree))


def _text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
