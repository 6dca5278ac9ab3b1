"""A component's options: a pydantic model built from its constructor, and nothing else.

There is no second schema. The names, types, bounds and defaults of the keyword arguments are the
options' names, types, bounds and defaults. A parameter typed as another component (``Reward``, a
list of them) nests: its value is again a component's name or ``{name: {option: value}}``.
"""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from moalign.components import Component, Preference
from moalign.errors import OptionError, PluginError, nearest

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


@dataclass(frozen=True, slots=True)
class Option:
    """One keyword argument of a component's constructor.

    Attributes:
        name: its name.
        hint: its resolved type hint, with ``Annotated`` bounds.
        default: its default, or :data:`inspect.Parameter.empty` if it must be given.
        nested: the component base class it takes, or None.
        many: True if it takes a list of such components.
    """

    name: str
    hint: Any
    default: Any
    nested: type[Component] | None
    many: bool

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


def _readable(hint: Any) -> str:
    if hint == Preference:
        return "weights by objective"
    if typing.get_origin(hint) is typing.Annotated:
        base, *notes = typing.get_args(hint)
        bounds = [_bound(note) for note in notes]
        return " ".join([_readable(base), *(b for b in bounds if b)])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_readable(arm) for arm in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(repr(value) for value in typing.get_args(hint))
    if hint is type(None):
        return "null"
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    return str(hint).replace("typing.", "")


def _bound(note: Any) -> str:
    symbols = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "min_length": "length >="}
    found = [
        f"{symbol} {getattr(note, key)}"
        for key, symbol in symbols.items()
        if getattr(note, key, None) is not None
    ]
    return " ".join(found)


def _nested(hint: Any) -> tuple[type[Component] | None, bool]:
    origin, arms = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and issubclass(hint, Component):
        return hint, False
    if origin in (typing.Union, types.UnionType):
        for arm in arms:
            base, many = _nested(arm)
            if base is not None:
                return base, many
    if origin is list and arms and isinstance(arms[0], type) and issubclass(arms[0], Component):
        return arms[0], True
    return None, False


@cache
def options_of(cls: type[Component]) -> tuple[Option, ...]:
    """Return the options of a component class, in the order of its constructor.

    Raises:
        PluginError: if the constructor takes positional-only or ``*`` arguments, or if a hint is
            missing or does not resolve at run time.
    """
    if cls.__init__ is object.__init__:
        return ()
    where = f"{cls.__module__}.{cls.__qualname__}"
    try:
        hints = typing.get_type_hints(cls.__init__, include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        raise PluginError(
            f"{where}: a type hint of its constructor cannot be resolved ({error}); import the "
            "type at run time, not under TYPE_CHECKING"
        ) from error
    found = []
    for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]:
        if parameter.kind not in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            raise PluginError(
                f"{where}: constructor argument {parameter.name!r} must be an ordinary keyword "
                "argument, because it is an option; *args and **kwargs have no names and types"
            )
        if parameter.name not in hints:
            raise PluginError(
                f"{where}: option {parameter.name!r} has no type hint; options are checked by it"
            )
        hint = hints[parameter.name]
        nested, many = _nested(hint)
        found.append(Option(parameter.name, hint, parameter.default, nested, many))
    return tuple(found)


@cache
def options_model(cls: type[Component]) -> type[BaseModel]:
    """Return the pydantic model of a component's options; nested components are left as given."""
    fields: dict[str, Any] = {}
    for option in options_of(cls):
        hint = Any if option.nested else option.hint
        fields[option.name] = (hint, ... if option.required else option.default)
    model: type[BaseModel] = create_model(cls.__name__, __config__=_CONFIG, **fields)
    return model


def check_options(cls: type[Component], options: Mapping[str, Any]) -> dict[str, Any]:
    """Check options against the constructor and return them with their checked values.

    The check is strict: a boolean or a text is no number, and there is no NaN or infinity. Lists
    are accepted for tuples, integers for floats.

    Returns:
        the options that were given, converted; defaults are left to the constructor.

    Raises:
        OptionError: one sentence per problem.
    """
    nested = {o.name for o in options_of(cls) if o.nested}
    plain = {name: value for name, value in options.items() if name not in nested}
    # As JSON, strict mode takes lists for tuples but still no text or boolean for a number.
    marked = plain | {name: True for name in nested if name in options}
    try:
        text = json.dumps(marked)
    except TypeError as error:
        raise OptionError(
            f"{cls.kind} {cls.name}: options must be plain data (numbers, text, lists, "
            f"mappings); {error}"
        ) from error
    try:
        model = options_model(cls).model_validate_json(text)
    except ValidationError as error:
        blamed = next((str(e["loc"][0]) for e in error.errors() if e["loc"]), None)
        raise OptionError("; ".join(_sentences(cls, error)), blamed) from None
    checked = {name: getattr(model, name) for name in model.model_fields_set}
    return checked | {name: options[name] for name in nested if name in options}


def _sentences(cls: type[Component], error: ValidationError) -> list[str]:
    by_name = {option.name: option for option in options_of(cls)}
    who = f"{cls.kind} {cls.name}"
    sentences = []
    for problem in error.errors(include_url=False):
        location = [str(part) for part in problem["loc"]]
        if not location:
            sentences.append(f"{who}: {problem['msg']}")
            continue
        name, value = location[0], problem.get("input")
        if problem["type"] == "extra_forbidden":
            sentences.append(f"{who} has no option {name!r}; {nearest(name, by_name)}")
        elif problem["type"] == "missing" and len(location) == 1:
            sentences.append(f"{who} needs option {name!r} ({by_name[name].describe()})")
        else:
            path = ".".join(location)
            sentences.append(
                f"{who}: option {path!r} should be {by_name[name].describe()}; "
                f"found {value!r} ({problem['msg']})"
            )
    return list(dict.fromkeys(sentences))


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
        if option.nested is None or checked.get(option.name) is None:
            continue
        base, value = option.nested, checked[option.name]
        checked[option.name] = (
            [build_nested(base, item) for item in value] if option.many else build_nested(base, value)
        )
    try:
        return cls(**checked)
    except OptionError:
        raise
    except ValueError as error:
        raise OptionError(f"{cls.kind} {cls.name}: {error}") from error
