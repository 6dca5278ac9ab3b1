"""Errors a user or a plugin author can meet.

Every class has the root :class:`MoalignError` and the closest standard class, so that both kinds of
caller can catch it. A message is one sentence or more: where (file, line, key), what was found,
what is allowed, and the fix. A new class belongs here only if somebody would catch it on its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MoalignError(Exception):
    """Root of all errors that moalign raises on purpose; the command line exits with 2."""


class StudyError(MoalignError, ValueError):
    """A study file or an override says something that cannot be run."""


class OptionError(MoalignError, ValueError):
    """A component was given an option it does not have, or a value it does not take.

    Attributes:
        option: name of the option, if one is to blame; lets a study point at its line.
    """

    def __init__(self, message: str, option: str | None = None) -> None:
        super().__init__(message)
        self.option = option


class PluginError(MoalignError, ImportError):
    """A plugin cannot be imported, or offers something that breaks its contract."""


class ContractError(MoalignError, TypeError):
    """A component returned something its contract does not allow."""


class DataError(MoalignError, ValueError):
    """A data file is missing, malformed or too small."""


class RecordError(MoalignError, RuntimeError):
    """A run's record, or a checkpoint, is locked, damaged or belongs to another study."""


class NonFiniteError(MoalignError, ArithmeticError):
    """A loss, reward or gradient became infinite or not a number; the trial stops."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return the closing clause of an unknown-name error: the nearest match and what is allowed.

    Args:
        name: what was found.
        allowed: the names that exist.

    Returns:
        For example ``did you mean 'fixed'? Allowed: fixed, hypervolume``; ``none exist`` if
        ``allowed`` is empty.
    """
    names = sorted(allowed)
    if not names:
        return "none exist"
    match = difflib.get_close_matches(name, names, n=1)
    listing = ", ".join(names)
    return f"did you mean {match[0]!r}? Allowed: {listing}" if match else f"allowed: {listing}"


def one(kind: str) -> str:
    """Return a kind of component with its article: ``a task``, ``an optimizer``."""
    return f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind}"
