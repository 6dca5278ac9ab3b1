"""Shows how the sum is made, step by step."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Final

from moalign.components import Reward

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moalign.types import Batch

STEP: Final = re.compile(r"(?<![a-z])step ([0-9]+): ([0-9]+\+[0-9]+=[0-9]+)(?![0-9])")


class StepsShown(Reward):
    """Share of the needed steps of a sum that are labelled, right and in line with the sum so far.

    A sum of n operands ``x_1 ... x_n`` needs n - 1 steps. Step k is shown if the first text
    labelled ``step k: `` reads ``a+b=c`` with

    - ``a = x_1 + ... + x_k``, the sum so far,
    - ``b = x_(k+1)``, the next operand,
    - ``c = a + b``.

    ``steps-shown = shown / (n - 1)``. Only the first text with a label counts, so neither a
    repeated step nor a second guess earns anything; equations without a label
    (``17+48=65;65+25=90.90``) earn nothing either. Steps beyond the needed ones do no harm.

    Needs the field ``operands`` (a list of at least two ints). Made for the task ``arithmetic``.

    Cost: none. Source: ours. Range (0, 1).

    Example::

        task: arithmetic
        objectives:
          clarity: {reward: steps-shown, at_least: 0.5}
    """

    name: ClassVar[str] = "steps-shown"
    range = (0.0, 1.0)
    needs: ClassVar[frozenset[str]] = frozenset({"field:operands"})
    example_fields: ClassVar[Mapping[str, Sequence[Any]]] = {"operands": ([2, 3], [17, 48, 25])}

    def score(self, batch: Batch) -> list[float]:
        """Return the share of every surface text."""
        pairs = zip(batch.texts_B, batch.fields("operands"), strict=True)
        return [_share(text, operands) for text, operands in pairs]


def _share(text: str, operands: Sequence[int]) -> float:
    written: dict[str, str] = {}
    for label, equation in STEP.findall(text):
        written.setdefault(label, equation)
    so_far, shown = operands[0], 0
    for k, operand in enumerate(operands[1:], start=1):
        shown += written.get(str(k)) == f"{so_far}+{operand}={so_far + operand}"
        so_far += operand
    return shown / (len(operands) - 1)
