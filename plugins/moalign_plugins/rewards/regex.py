"""Looks for a pattern."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import MinLen

from moalign.components import Reward
from moalign.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moalign.types import Batch


class Regex(Reward):
    """1 if the pattern is found anywhere in the surface text, else 0.

    Python's ``re``, by ``search``. Write ``\\A`` and ``\\Z`` to bind the whole text, ``(?i)`` at
    the start to ignore case, ``(?s)`` to let ``.`` match line ends. ``(?s)\\A(?!.*PATTERN)``
    rewards absence. In YAML, put the pattern in single quotes.

    Cost: usually none. Nested repetition such as ``(a+)+$`` takes time exponential in the length of
    a text that nearly matches, and nothing interrupts it; write ``a+$``, or make it possessive
    (``(a+)++$``).

    Source: ours. Range (0, 1). Option ``pattern``.

    Example::

        objectives:
          format: {reward: {regex: {pattern: '(?s)\\A<think>.+</think>\\s*\\S'}}}
    """

    name: ClassVar[str] = "regex"
    range = (0.0, 1.0)
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"pattern": r"(?i)\b[a-m]"},)

    def __init__(self, *, pattern: Annotated[str, MinLen(1)]) -> None:
        try:
            self.pattern = re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise OptionError(
                f"reward regex, option pattern: {pattern!r} is not a regular expression ({error}); "
                "see https://docs.python.org/3/library/re.html, and quote it with ' in YAML"
            ) from error

    def score(self, batch: Batch) -> list[float]:
        """Return 1.0 or 0.0 for every surface text."""
        return [float(self.pattern.search(text) is not None) for text in batch.texts_B]
