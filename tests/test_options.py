"""Options: what a constructor allows, and the sentence for everything it does not."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import pytest
from annotated_types import Ge, Gt, Interval, Le, Len
from pydantic import AfterValidator, Field

from moalign import (
    Component,
    DataError,
    OptionError,
    PluginError,
    Preference,
    Reward,
    Weighting,
)
from moalign.components import by_name
from moalign.options import check_class, check_options, construct, options_of

NAN, INFINITY = float("nan"), float("inf")


class Plain(Reward):
    """One option of each type."""

    name: ClassVar[str] = "plain"
    options: Mapping[str, Any]

    def __init__(
        self,
        *,
        limit: Annotated[int, Gt(0)],
        rate: Annotated[float, Ge(0), Le(1)] = 0.5,
        mode: Literal["words", "characters"] = "words",
        strict: bool = True,
        names: list[str] | None = None,
        span: tuple[float, float] = (0.0, 1.0),
        schema: float | Literal["auto"] = "auto",
    ) -> None:
        self.options = {
            "limit": limit,
            "rate": rate,
            "mode": mode,
            "strict": strict,
            "names": names,
            "span": span,
            "schema": schema,
        }

    def score(self, batch: object) -> list[float]:
        return []


class Preferring(Weighting):
    """Takes a preference."""

    name: ClassVar[str] = "preferring"

    def __init__(self, *, preference: Preference | None = None) -> None:
        self.preference = preference

    def weigh(self, step: object) -> Any:
        return None


class Judge(Reward):
    """Takes other rewards."""

    name: ClassVar[str] = "judge"

    def __init__(
        self,
        *,
        inner: Reward,
        more: list[Reward] | None = None,
        spare: Reward | None = None,
    ) -> None:
        self.inner, self.more, self.spare = inner, more, spare

    def score(self, batch: object) -> list[float]:
        return []


class ByDefault(Reward):
    """Takes another reward, of which there is one by default."""

    name: ClassVar[str] = "by-default"

    def __init__(self, *, inner: Reward = by_name("plain")) -> None:
        self.inner = inner

    def score(self, batch: object) -> list[float]:
        return []


def build(base: type[Component], value: Any) -> Component:
    """Build what a catalogue that knows `plain` only would."""
    if value == "plain":
        return Plain(limit=1)
    if isinstance(value, dict) and list(value) == ["plain"]:
        return construct(Plain, value["plain"], build)
    raise OptionError(f"no {base.kind} is called {value!r}; allowed: plain")


def refused(cls: type[Component], options: Mapping[str, Any]) -> str:
    with pytest.raises(OptionError) as caught:
        construct(cls, options, build)
    return str(caught.value)


# --- what is allowed --------------------------------------------------------------------------


def test_the_constructor_says_it_all() -> None:
    options = options_of(Plain)
    assert [option.name for option in options] == [
        "limit", "rate", "mode", "strict", "names", "span", "schema",
    ]  # fmt: skip
    assert [option.required for option in options] == [True] + [False] * 6
    assert [option.describe() for option in options] == [
        "int > 0",
        "float >= 0 <= 1",
        "'words' | 'characters'",
        "bool",
        "list[str] or null",
        "tuple[float, float]",
        "float or 'auto'",
    ]


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Annotated[float, Interval(gt=0, le=2)], "float > 0 <= 2"),
        (Annotated[float, Field(ge=0, multiple_of=0.5)], "float >= 0 multiple of 0.5"),
        (Annotated[str, Field(pattern="^a+$")], "str matching ^a+$"),
        (
            Annotated[list[Annotated[int, Gt(0)]], Len(2, 3)],
            "list[int > 0] length >= 2 length <= 3",
        ),
        (dict[str, float | None], "dict[str, float or null]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (list[Reward] | None, "list[reward] or null"),
        (Preference | None, "weights by objective or null"),
        (Any, "Any"),
    ],
)
def test_types_are_described_as_people_read_them(hint: Any, words: str) -> None:
    class Described(Reward):
        """Takes anything."""

        name: ClassVar[str] = "described"

        def __init__(self, *, x: Any) -> None: ...

    Described.__init__.__annotations__["x"] = hint
    assert options_of(Described)[0].describe() == words


def test_values_reach_the_constructor_converted() -> None:
    given = {"limit": 3, "rate": 1, "names": ["a"], "span": [0, 2], "schema": 0.25}
    made = construct(Plain, given, build)
    assert isinstance(made, Plain)
    assert made.options == {
        "limit": 3, "rate": 1.0, "mode": "words", "strict": True, "names": ["a"],
        "span": (0.0, 2.0), "schema": 0.25,
    }  # fmt: skip
    assert isinstance(made.options["rate"], float)
    assert isinstance(made.options["span"], tuple)


def test_defaults_are_left_to_the_constructor() -> None:
    assert check_options(Plain, {"limit": 3}) == {"limit": 3}


def test_a_component_without_a_constructor_has_no_options() -> None:
    class Bare(Reward):
        """Has none."""

        name: ClassVar[str] = "bare"

        def score(self, batch: object) -> list[float]:
            return []

    assert options_of(Bare) == ()
    assert refused(Bare, {"limit": 1}) == "reward bare has no option 'limit'; none exist"


def test_a_dataclass_is_a_component_too() -> None:
    @dataclass
    class Short(Reward):
        """Has its options as fields."""

        name: ClassVar[str] = "short"
        limit: Annotated[int, Gt(0)] = 3

        def score(self, batch: object) -> list[float]:
            return []

    Short.__init__.__globals__.update(Annotated=Annotated, Gt=Gt)
    assert construct(Short, {"limit": 7}, build) == Short(limit=7)
    assert refused(Short, {"limit": 0}).startswith("reward short: option 'limit' should be int > 0")


def test_only_a_preference_is_one() -> None:
    assert [option.is_preference for option in options_of(Preferring)] == [True]
    assert not any(option.is_preference for option in options_of(Plain))


# --- what is refused, and how -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"limit": 1, "rat": 1},
            "reward plain has no option 'rat'; did you mean 'rate'? "
            "Allowed: limit, mode, names, rate, schema, span, strict",
        ),
        ({}, "reward plain needs option 'limit' (int > 0)"),
        (
            {"limit": 0},
            "reward plain: option 'limit' should be int > 0; found 0 "
            "(Input should be greater than 0)",
        ),
        (
            {"limit": "3"},
            "reward plain: option 'limit' should be int > 0; found '3' "
            "(Input should be a valid integer)",
        ),
        (
            {"limit": True},
            "reward plain: option 'limit' should be int > 0; found True "
            "(Input should be a valid integer)",
        ),
        (
            {"limit": 1, "rate": False},
            "reward plain: option 'rate' should be float >= 0 <= 1; found False "
            "(Input should be a valid number)",
        ),
        (
            {"limit": 1, "rate": NAN},
            "reward plain: option 'rate' should be float >= 0 <= 1; found nan "
            "(Input should be a finite number)",
        ),
        (
            {"limit": 1, "rate": INFINITY},
            "reward plain: option 'rate' should be float >= 0 <= 1; found inf "
            "(Input should be a finite number)",
        ),
        (
            {"limit": 1, "strict": 1},
            "reward plain: option 'strict' should be bool; found 1 "
            "(Input should be a valid boolean)",
        ),
        (
            {"limit": None},
            "reward plain: option 'limit' should be int > 0; found None "
            "(Input should be a valid integer)",
        ),
        (
            {"limit": 1, "mode": "tokens"},
            "reward plain: option 'mode' should be 'words' | 'characters'; found 'tokens' "
            "(Input should be 'words' or 'characters')",
        ),
        (
            {"limit": 1, "names": ["a", 2]},
            "reward plain: option 'names' should be list[str] or null; found ['a', 2] "
            "(at [1]: Input should be a valid string)",
        ),
        (
            {"limit": 1, "schema": "never"},
            "reward plain: option 'schema' should be float or 'auto'; found 'never' "
            "(Input should be a valid number; Input should be 'auto')",
        ),
        (
            {"limit": 1, "mode": datetime.date(2026, 11, 21)},
            "reward plain: option 'mode' should be 'words' | 'characters', as plain data; "
            "found datetime.date(2026, 11, 21)",
        ),
        (
            {"limit": 0, "rat": 1, "strict": "no"},
            "reward plain: option 'limit' should be int > 0; found 0 "
            "(Input should be greater than 0); "
            "reward plain has no option 'rat'; did you mean 'rate'? "
            "Allowed: limit, mode, names, rate, schema, span, strict; "
            "reward plain: option 'strict' should be bool; found 'no' "
            "(Input should be a valid boolean)",
        ),
    ],
)
def test_a_bad_option_is_a_sentence(options: Mapping[str, Any], sentence: str) -> None:
    assert refused(Plain, options) == sentence


@pytest.mark.parametrize(
    ("preference", "reason"),
    [
        ({"a": -1}, "the weight of 'a' must be finite and >= 0; found -1.0"),
        ({"a": 0, "b": 0}, "at least one weight must be > 0; all are 0"),
        ({}, "at least one weight must be > 0; all are 0"),
        ({"a": True}, "at ['a']: Input should be a valid number"),
        ({"a": NAN}, "at ['a']: Input should be a finite number"),
    ],
)
def test_a_bad_preference_is_a_sentence(preference: Mapping[str, Any], reason: str) -> None:
    assert refused(Preferring, {"preference": preference}) == (
        f"weighting preferring: option 'preference' should be weights by objective or null; "
        f"found {preference!r} ({reason})"
    )


def test_a_list_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert "option 'names' should be list[str] or null, as plain data; found [[...]]" in refused(
        Plain, {"limit": 1, "names": loop}
    )


def test_an_error_names_its_option_for_the_line_in_the_study() -> None:
    for options, blamed in [
        ({"limit": 1, "rat": 1}, "rat"),
        ({}, "limit"),
        ({"limit": 0}, "limit"),
    ]:
        with pytest.raises(OptionError) as caught:
            check_options(Plain, options)
        assert caught.value.option == blamed


def test_what_a_constructor_refuses_is_an_option_error() -> None:
    class Refusing(Reward):
        """Refuses everything."""

        name: ClassVar[str] = "refusing"

        def __init__(self, *, low: float = 0, high: float = 1) -> None:
            if low >= high:
                raise ValueError(f"low must be below high; found {low} and {high}")
            raise DataError("no file")

        def score(self, batch: object) -> list[float]:
            return []

    assert refused(Refusing, {"low": 2}) == (
        "reward refusing: low must be below high; found 2.0 and 1"
    )
    with pytest.raises(DataError, match="no file"):
        construct(Refusing, {}, build)


# --- components in options --------------------------------------------------------------------


def test_components_nest() -> None:
    more = ["plain", {"plain": {"limit": 2}}]
    judge = construct(Judge, {"inner": {"plain": {"limit": 9}}, "more": more, "spare": None}, build)
    assert isinstance(judge, Judge)
    assert isinstance(judge.inner, Plain)
    assert judge.inner.options["limit"] == 9
    assert judge.more is not None
    assert [type(reward) for reward in judge.more] == [Plain, Plain]
    assert judge.spare is None
    assert isinstance(construct(Judge, {"inner": "plain", "spare": "plain"}, build).spare, Plain)  # type: ignore[attr-defined]
    assert [(o.nested, o.many, o.nullable) for o in options_of(Judge)] == [
        (Reward, False, False),
        (Reward, True, True),
        (Reward, False, True),
    ]


def test_a_component_may_be_the_default_by_its_name() -> None:
    plain = construct(ByDefault, {}, build)
    assert isinstance(plain, ByDefault)
    assert isinstance(plain.inner, Plain)
    given = construct(ByDefault, {"inner": {"plain": {"limit": 9}}}, build)
    assert given.inner.options["limit"] == 9  # type: ignore[attr-defined]
    assert options_of(ByDefault)[0].default == "plain"
    check_class(ByDefault)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "reward judge needs option 'inner' (reward)"),
        ({"inner": None}, "reward judge: option 'inner' should be reward; found None"),
        ({"inner": ["plain"]}, "reward judge: option 'inner' should be reward; found ['plain']"),
        (
            {"inner": "plain", "more": "plain"},
            "reward judge: option 'more' should be list[reward] or null; found 'plain'",
        ),
        (
            {"inner": "plane"},
            "reward judge: option 'inner': no reward is called 'plane'; allowed: plain",
        ),
        (
            {"inner": "plain", "more": ["plain", {"plain": {"limit": -1}}]},
            "reward judge: option 'more': reward plain: option 'limit' should be int > 0; "
            "found -1 (Input should be greater than 0)",
        ),
    ],
)
def test_a_bad_nested_component_is_a_sentence(options: Mapping[str, Any], sentence: str) -> None:
    assert refused(Judge, options) == sentence


# --- classes that break the rules -------------------------------------------------------------


def _positional(self: Any, limit: int, /) -> None: ...
def _several(self: Any, *limits: int) -> None: ...
def _untyped(self: Any, limit=3) -> None: ...
def _unresolved(self: Any, limit: Elsewhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def _opaque(self: Any, limit: Callable[[], int] | Opaque) -> None: ...
def _wrong_default(self: Any, limit: Annotated[int, Gt(0)] = 0) -> None: ...
def _untyped_default(self: Any, limit: int = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013
def _built_default(self: Any, inner: Reward = Plain(limit=1)) -> None: ...  # noqa: B008


class Opaque:
    """What no study file can give."""


@pytest.mark.parametrize(
    ("constructor", "sentence"),
    [
        (
            _positional,
            "constructor argument 'limit' must be an ordinary keyword argument, because it is an "
            "option; *args and **kwargs have no names and types",
        ),
        (_several, "constructor argument 'limits' must be an ordinary keyword argument"),
        (_untyped, "option 'limit' has no type hint; options are checked by it"),
        (
            _unresolved,
            "a type hint of its constructor cannot be resolved (name 'Elsewhere' is not defined); "
            "import the type at run time, not under TYPE_CHECKING",
        ),
        (
            _opaque,
            "option 'limit' has the type Callable[[], int] or Opaque, which no study file can "
            "give; use numbers, text, booleans, Literal, lists or dicts of these, or a component",
        ),
        (
            _wrong_default,
            "the default of option 'limit' is not allowed by its own type: reward broken: option "
            "'limit' should be int > 0; found 0 (Input should be greater than 0)",
        ),
        (_untyped_default, "the default of option 'limit' is not allowed by its own type"),
        (_built_default, "the default of option 'inner' is not allowed by its own type"),
    ],
)
def test_a_class_that_breaks_the_rules_is_a_sentence(constructor: Any, sentence: str) -> None:
    members = {"name": "broken", "__init__": constructor, "__module__": __name__}
    broken = type("Broken", (Plain,), members)
    with pytest.raises(PluginError) as caught:
        check_class(broken)
    assert f"{__name__}.Broken: {sentence}" in str(caught.value)


def test_further_options_are_those_of_the_base_class() -> None:
    class Wider(Plain):
        def __init__(self, *, slack: Annotated[float, Gt(0)] = 0.5, **plain: Any) -> None:
            super().__init__(**plain)

    class Stricter(Wider):
        def __init__(self, *, limit: int = 9, **wider: Any) -> None:
            super().__init__(limit=limit, **wider)

    own = {option.name: option.default for option in options_of(Plain)}
    assert {o.name: o.default for o in options_of(Wider)} == {"slack": 0.5, **own}
    assert {o.name: o.default for o in options_of(Stricter)} == {"slack": 0.5, **own, "limit": 9}
    assert refused(Stricter, {"slack": 0}).startswith(
        "reward plain: option 'slack' should be float"
    )


def test_options_that_no_base_class_takes_are_refused() -> None:
    def anything(self: Any, **limits: int) -> None: ...

    members = {"name": "broken", "__init__": anything, "score": Plain.score}
    with pytest.raises(PluginError, match=r"'limits' must be an ordinary keyword argument"):
        check_class(type("Broken", (Reward,), members))


def test_a_class_that_keeps_the_rules_passes() -> None:
    for cls in (Plain, Preferring, Judge):
        check_class(cls)


def test_a_validator_may_explain_itself() -> None:
    def even(value: int) -> int:
        if value % 2:
            raise ValueError("must be even")
        return value

    class Even(Reward):
        """Takes an even number."""

        name: ClassVar[str] = "even"

        def __init__(self, *, limit: int = 2) -> None: ...

        def score(self, batch: object) -> list[float]:
            return []

    Even.__init__.__annotations__["limit"] = Annotated[int, AfterValidator(even)]
    assert refused(Even, {"limit": 3}) == (
        "reward even: option 'limit' should be int; found 3 (must be even)"
    )
