"""Runs contract suites: one finding per property. No torch, no pytest at import."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from moalign.components import Component
from moalign.errors import MoalignError
from moalign.options import construct
from moalign.plugins import Catalogue, load

SUITES: Final = ("reward", "weighting", "optimizer", "strategy", "tracker")
"""The kinds that have a contract suite."""

Factory = Callable[[], Any]
"""Makes a new component, equal at every call."""

Check = Callable[[Factory], None]
"""A property: raises AssertionError with a sentence if what the factory makes lacks it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one property came to.

    Attributes:
        property: its name.
        ok: whether the component has it.
        message: one sentence; what was found if it has not, else what the property says.
    """

    property: str
    ok: bool
    message: str


@dataclass(frozen=True, slots=True)
class Case:
    """A component class with one of its examples.

    Attributes:
        label: kind, name and options, for people.
        cls: the class.
        build: makes the component.
    """

    label: str
    cls: type[Component]
    build: Factory


def require(holds: object, sentence: str) -> None:
    """Raise AssertionError with a sentence unless a property holds; also under ``python -O``."""
    if not holds:
        raise AssertionError(sentence)


def properties(kind: str, cls: type[Component] | None = None) -> dict[str, Check]:
    """Return the properties of a kind by name; if the first fails, the others mean nothing.

    Args:
        kind: one of :data:`SUITES`.
        cls: only those that concern this class; None: all that any class is asked for.
    """
    suite = importlib.import_module(f"moalign.testing.{kind}")
    concerning = getattr(suite, "concerning", None)
    checks = suite.PROPERTIES if cls is None or concerning is None else concerning(cls)
    return {check.__name__.removeprefix("check_"): check for check in checks}


def run_contract(kind: str, factory: Factory, cls: type[Component] | None = None) -> list[Finding]:
    """Run the suite of a kind; only the first property if that fails.

    Args:
        kind: one of :data:`SUITES`.
        factory: makes the component; called several times.
        cls: its class; None: the factory is the class.
    """
    if cls is None and isinstance(factory, type):
        cls = factory
    findings: list[Finding] = []
    for name, check in properties(kind, cls).items():
        findings.append(_find(name, check, factory))
        if not findings[0].ok:
            break
    return findings


def _find(name: str, check: Check, factory: Factory) -> Finding:
    try:
        check(factory)
    except AssertionError as error:
        return Finding(name, False, str(error))
    except Exception as error:
        return Finding(name, False, f"it raised {type(error).__name__}: {error}")
    return Finding(name, True, (inspect.getdoc(check) or "").partition("\n")[0])


def cases(catalogue: Catalogue, classes: list[type[Component]] | None = None) -> Iterator[Case]:
    """Yield a case for every example of every component that has a suite.

    Args:
        catalogue: builds nested components; all its components are taken unless given.
        classes: the component classes.
    """
    if classes is None:
        classes = [entry.cls for entry in catalogue.entries()]
    for cls in classes:
        if cls.kind in SUITES:
            for example in cls.examples:
                yield _case(catalogue, cls, example)


def _case(catalogue: Catalogue, cls: type[Component], example: Mapping[str, Any]) -> Case:
    options = ", ".join(f"{name}={value!r}" for name, value in example.items())

    def build() -> Component:
        try:
            return construct(cls, example, catalogue.build)
        except MoalignError as error:
            raise AssertionError(
                f"it must be buildable from each of its `examples`, a tuple of options as a study "
                f"gives them; {dict(example)} gave: {error}"
            ) from error

    return Case(f"{cls.kind} {cls.name}" + (f" ({options})" if options else ""), cls, build)


def contract(target: str | Path | type[Component]) -> Callable[..., None]:
    """Return a pytest test that runs the contract suites over a plugin file or a component class.

    Assign it to a name that begins with ``test``. It is parametrised: one test per example and
    property.

    Args:
        target: a plugin file, relative to the file that calls this; or a class.
    """
    import pytest

    if isinstance(target, str | Path):
        caller = inspect.stack()[1].filename
        catalogue = load([Path(caller).parent / target])
        (file,) = catalogue.files
        origin = f"plugin file {file.path}"
        classes = [entry.cls for entry in catalogue.entries() if entry.origin == origin]
    else:
        catalogue, classes = load(), [target]
    found = [
        pytest.param(check, case.build, id=f"{case.label}: {name}")
        for case in cases(catalogue, classes)
        for name, check in properties(case.cls.kind, case.cls).items()
    ]

    @pytest.mark.parametrize(("check", "build"), found)
    def test_contract(check: Check, build: Factory) -> None:
        check(build)

    return test_contract
