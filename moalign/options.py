"""A component's options: what its constructor says, checked by pydantic, and nothing else.

There is no second schema. The names, types, bounds and defaults of the keyword arguments are the
options' names, types, bounds and defaults. A parameter typed as another component (``Reward``, a
list of them) nests: its value is again a component's name or ``{name: {option: value}}``, and so
is its default, which the host builds, too (:func:`moalign.components.by_name`). A constructor that
ends in ``**options`` hands these to its base class, whose options it has as well.
"""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from moalign.components import Component, Preference
from moalign.errors import MoalignError, OptionError, PluginError, nearest

_CONFIG = ConfigDict(allow_inf_nan=False, strict=True)


@dataclass(frozen=True, slots=True)
class Option:
    """One keyword argument of a component's constructor.

    Attributes:
        name: its name.
        hint: its resolved type hint, with ``Annotated`` bounds.
        default: its default, or :data:`inspect.Parameter.empty` if it must be given.
        nested: the component base class it takes, or None.
        many: True if it takes a list of such components.
        nullable: True if it also takes null.
    """

    name: str
    hint: Any
    default: Any
    nested: type[Component] | None
    many: bool
    nullable: bool

    @property
    def required(self) -> bool:
        """True if a study must give it."""
        return self.default is inspect.Parameter.empty

    @property
    def is_preference(self) -> bool:
        """True if it is a weighting's preference."""
        return any(arm == Preference for arm in (self.hint, *typing.get_args(self.hint)))

    def describe(self) -> str:
        """Return the hint as a person reads it, bounds included."""
        return _readable(self.hint)


def _arms(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the hint alone."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _readable(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint == Preference:
        return "weights by objective"
    if not args:
        return _word(hint)
    if origin is typing.Annotated:
        return " ".join([_readable(args[0]), *_bounds(args[1:])])
    if origin is typing.Literal:
        return " | ".join(repr(value) for value in args)
    if len(_arms(hint)) > 1:
        return " or ".join(_readable(arm) for arm in args)
    return f"{_word(origin)}[{', '.join(_readable(arg) for arg in args)}]"


def _word(hint: Any) -> str:
    if hint in (type(None), Ellipsis):
        return "..." if hint is Ellipsis else "null"
    if isinstance(hint, type):
        return hint.kind if issubclass(hint, Component) else hint.__name__
    return str(hint).replace("typing.", "")


_BOUNDS = {
    "gt": ">",
    "ge": ">=",
    "lt": "<",
    "le": "<=",
    "multiple_of": "multiple of",
    "min_length": "length >=",
    "max_length": "length <=",
    "pattern": "matching",
}


def _bounds(notes: Iterable[Any]) -> Iterator[str]:
    for note in notes:
        yield from _bounds(getattr(note, "metadata", ()))  # of pydantic's Field(...)
        for key, symbol in _BOUNDS.items():
            bound = getattr(note, key, None)
            if bound is not None:
                yield f"{symbol} {bound}"


def _nested(hint: Any) -> tuple[type[Component] | None, bool]:
    for arm in _arms(hint):
        many = typing.get_origin(arm) is list
        item = typing.get_args(arm)[0] if many else arm
        if isinstance(item, type) and issubclass(item, Component):
            return item, many
    return None, False


@cache
def options_of(cls: type[Component]) -> tuple[Option, ...]:
    """Return the options of a component class, in the order of its constructor.

    Raises:
        PluginError: if the constructor takes positional-only or ``*`` arguments, or if a hint is
            missing or does not resolve at run time.
    """
    found: dict[str, Option] = {}
    for constructor in constructors(cls):
        for option in _options_of(cls, constructor):
            found.setdefault(option.name, option)
    return tuple(found.values())


def constructors(cls: type[Component]) -> list[Callable[..., None]]:
    """Return the constructors that take a class's options: its own, and those it hands them to."""
    found: list[Callable[..., None]] = []
    for base in cls.__mro__:
        constructor = vars(base).get("__init__")
        if base is object or constructor is None:
            continue
        found.append(constructor)
        kinds = [p.kind for p in inspect.signature(constructor).parameters.values()]
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return found


def _options_of(cls: type[Component], constructor: Callable[..., None]) -> list[Option]:
    where = f"{cls.__module__}.{cls.__qualname__}"
    try:
        hints = typing.get_type_hints(constructor, include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        raise PluginError(
            f"{where}: a type hint of its constructor cannot be resolved ({error}); import the "
            "type at run time, not under TYPE_CHECKING"
        ) from error
    found = []
    last = constructors(cls)[-1]
    for parameter in list(inspect.signature(constructor).parameters.values())[1:]:
        if parameter.kind is parameter.VAR_KEYWORD and constructor is not last:
            continue
        if parameter.kind not in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            raise PluginError(
                f"{where}: constructor argument {parameter.name!r} must be an ordinary keyword "
                "argument, because it is an option; *args and **kwargs have no names and types, "
                "unless a base class takes them"
            )
        if parameter.name not in hints:
            raise PluginError(
                f"{where}: option {parameter.name!r} has no type hint; options are checked by it"
            )
        hint = hints[parameter.name]
        nested, many = _nested(hint)
        nullable = type(None) in _arms(hint)
        found.append(Option(parameter.name, hint, parameter.default, nested, many, nullable))
    return found


@cache
def _checkers(cls: type[Component]) -> dict[str, TypeAdapter[Any]]:
    """Return what checks each option that is no component."""
    checkers = {}
    for option in options_of(cls):
        if option.nested is not None:
            continue
        try:
            checkers[option.name] = TypeAdapter(option.hint, config=_CONFIG)
        except PydanticUserError as error:
            raise PluginError(
                f"{cls.__module__}.{cls.__qualname__}: option {option.name!r} has the type "
                f"{option.describe()}, which no study file can give; use numbers, text, booleans, "
                "Literal, lists or dicts of these, or a component"
            ) from error
    return checkers


def check_class(cls: type[Component]) -> None:
    """Check that a class says all about its options and takes its own defaults.

    Raises:
        PluginError: as :func:`options_of`; or if no study file can give a value of an option's
            type, or if a default is not of it.
    """
    for option in options_of(cls):
        try:
            if not option.required:
                _checked(cls, option, option.default)
        except OptionError as error:
            raise PluginError(
                f"{cls.__module__}.{cls.__qualname__}: the default of option {option.name!r} is "
                f"not allowed by its own type: {error}"
            ) from error
    _checkers(cls)


def check_options(cls: type[Component], options: Mapping[str, Any]) -> dict[str, Any]:
    """Check options against the constructor and return them with their checked values.

    The check is strict: a boolean or a text is no number, and there is no NaN or infinity. Lists
    are accepted for tuples, integers for floats. Components are left as given.

    Returns:
        the options that were given, converted; defaults are left to the constructor.

    Raises:
        OptionError: one sentence per problem.
    """
    known = {option.name: option for option in options_of(cls)}
    who = f"{cls.kind} {cls.name}"
    checked: dict[str, Any] = {}
    problems: list[OptionError] = []
    for name, value in options.items():
        if name not in known:
            other = nearest(str(name), known)
            problems.append(OptionError(f"{who} has no option {name!r}; {other}", name))
            continue
        try:
            checked[name] = _checked(cls, known[name], value)
        except OptionError as problem:
            problems.append(problem)
    problems += [
        OptionError(f"{who} needs option {option.name!r} ({option.describe()})", option.name)
        for option in known.values()
        if option.required and option.name not in options
    ]
    if problems:
        raise OptionError("; ".join(str(p) for p in problems), problems[0].option)
    return checked


def _checked(cls: type[Component], option: Option, value: Any) -> Any:
    """Return one option's value, converted; raise OptionError if its type does not allow it."""
    expected = f"{cls.kind} {cls.name}: option {option.name!r} should be {option.describe()}"
    try:
        text = json.dumps(value)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{expected}, as plain data; found {value!r}", option.name) from error
    if option.nested is not None:
        absent = value is None and option.nullable
        listed = isinstance(value, list | tuple)
        if absent or (value is not None and listed == option.many):
            return value
        raise OptionError(f"{expected}; found {value!r}", option.name)
    try:
        # As JSON, strict mode takes lists for tuples but still no text or boolean for a number.
        return _checkers(cls)[option.name].validate_json(text)
    except ValidationError as error:
        reasons = dict.fromkeys(_reason(value, problem, option) for problem in error.errors())
        raise OptionError(
            f"{expected}; found {value!r} ({'; '.join(reasons)})", option.name
        ) from None


def _reason(value: Any, problem: Any, option: Option) -> str:
    """Say what pydantic found, and at which key or index inside the value."""
    if problem["type"] == "extra_forbidden":
        allowed = [name for model in _models(option.hint) for name in model.model_fields]
        return f"it has no key {problem['loc'][-1]!r}; {nearest(str(problem['loc'][-1]), allowed)}"
    place = ""
    for part in problem["loc"]:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            break  # the name of a member of a union, not a place
        place += f"[{part!r}]"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "missing":
        message = f"it needs key {problem['loc'][-1]!r}"
    return f"at {place}: {message}" if place else message


def _models(hint: Any) -> Iterator[Any]:
    """Yield the pydantic models that a hint names, inside lists and dicts too."""
    if hasattr(hint, "model_fields"):
        yield hint
    for arm in typing.get_args(hint):
        yield from _models(arm)


def construct(
    cls: type[Component],
    options: Mapping[str, Any],
    build_nested: Callable[[type[Component], Any], Component],
) -> Component:
    """Check options, build nested components, and call the constructor.

    Args:
        cls: the component class.
        options: plain data by option name.
        build_nested: builds a nested component from its base class and plain data.

    Raises:
        OptionError: from the check, or where the constructor refuses a combination.
    """
    checked = check_options(cls, options)
    for option in options_of(cls):
        if option.nested is None:
            continue
        value = checked.get(option.name, option.default)
        if value is None or value is inspect.Parameter.empty:
            continue
        try:
            if option.many:
                checked[option.name] = [build_nested(option.nested, item) for item in value]
            else:
                checked[option.name] = build_nested(option.nested, value)
        except OptionError as error:
            raise OptionError(
                f"{cls.kind} {cls.name}: option {option.name!r}: {error}", option.name
            ) from error
    try:
        return cls(**checked)
    except MoalignError:
        raise
    except ValueError as error:
        raise OptionError(f"{cls.kind} {cls.name}: {error}") from error
