"""A reward from a plain function: the shortest way to score a text."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moalign.components import Reward
from moalign.errors import PluginError

Function = Callable[..., float | None]

_WORDS = ("one", "another", "a third")


def reward(
    *,
    range: tuple[float, float] | None = None,
    name: str | None = None,
    example_fields: Mapping[str, Sequence[Any]] | None = None,
) -> Callable[[Function], type[Reward]]:
    """Make a reward of a function from a text to a number; higher is better.

    The function's first argument is the surface text of one completion. Further positional
    arguments are fields of the prompt, by name. Keyword-only arguments are options, and need type
    hints. It returns a number, or None where it does not apply. Its docstring is the reward's
    page. For example::

        @reward(range=(0, 1))
        def names_the_answer(text: str, answer: str, *, times: int = 1) -> float:
            '''1 if the answer is in the text often enough.'''
            return float(text.count(answer) >= times)


        @hookimpl
        def moalign_rewards():
            return [names_the_answer]

    Args:
        range: (lo, hi) of its values; None if it is unbounded.
        name: of the reward; default: the function's, in kebab-case.
        example_fields: values of fields for the contract suite; default: words.

    Raises:
        PluginError: the function takes no text, or ``*args`` or ``**kwargs``.
    """

    def made(function: Function) -> type[Reward]:
        where = f"reward function {function.__module__}.{function.__qualname__}"
        parameters = list(inspect.signature(function).parameters.values())
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
            raise PluginError(
                f"{where}: *args and **kwargs have no names; write out the prompt's fields as "
                "arguments, and options behind a *"
            )
        options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        inputs = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
        if not inputs:
            raise PluginError(f"{where}: its first argument is the text of a completion")
        fields = inputs[1:]

        def construct(self: Any, **given: Any) -> None:
            defaults = {p.name: p.default for p in options if p.default is not p.empty}
            self.options = defaults | given

        def score(self: Any, batch: Any) -> list[float]:
            columns = [batch.fields(field) for field in fields]
            found = [
                function(text, *values, **self.options)
                for text, *values in zip(batch.texts_B, *columns, strict=True)
            ]
            return [math.nan if value is None else value for value in found]

        itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        hints = typing.get_type_hints(function, include_extras=True)
        construct.__signature__ = inspect.Signature([itself, *options])  # type: ignore[attr-defined]
        construct.__annotations__ = {p.name: hints[p.name] for p in options if p.name in hints}
        return type(
            function.__name__,
            (Reward,),
            {
                "__init__": construct,
                "__doc__": function.__doc__,
                "__module__": function.__module__,
                "name": name or function.__name__.strip("_").replace("_", "-").lower(),
                "range": range,
                "example_fields": dict.fromkeys(fields, _WORDS) | dict(example_fields or {}),
                "needs": frozenset(f"field:{field}" for field in fields),
                "score": score,
            },
        )

    return made
