"""Error classes and the clause that closes an unknown-name error."""

from __future__ import annotations

import inspect

import pytest

import moalign
from moalign import errors
from moalign.errors import MoalignError, OptionError, nearest, one

CLASSES = [
    cls
    for cls in vars(errors).values()
    if inspect.isclass(cls) and issubclass(cls, MoalignError) and cls is not MoalignError
]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_is_ours_and_a_standard_one(cls: type[MoalignError]) -> None:
    ours, standard = cls.__bases__
    assert ours is MoalignError
    assert standard.__module__ == "builtins"
    assert issubclass(standard, Exception)
    assert standard is not Exception
    assert cls.__doc__
    assert getattr(moalign, cls.__name__) is cls


def test_there_are_seven() -> None:
    assert len(CLASSES) == 7


def test_an_option_error_names_its_option() -> None:
    assert OptionError("a sentence", "limit").option == "limit"
    assert OptionError("a sentence").option is None
    assert str(OptionError("a sentence", "limit")) == "a sentence"


@pytest.mark.parametrize(
    ("name", "allowed", "clause"),
    [
        ("fixd", {"hypervolume", "fixed"}, "did you mean 'fixed'? Allowed: fixed, hypervolume"),
        ("zzz", ["b", "a"], "allowed: a, b"),
        ("zzz", [], "none exist"),
        ("a", (name for name in ["ab"]), "did you mean 'ab'? Allowed: ab"),
    ],
)
def test_the_nearest_name_is_offered(name: str, allowed: list[str], clause: str) -> None:
    assert nearest(name, allowed) == clause


def test_a_kind_of_component_has_its_article() -> None:
    assert [one(kind) for kind in ("task", "optimizer", "executor", "reward")] == [
        "a task",
        "an optimizer",
        "an executor",
        "a reward",
    ]
