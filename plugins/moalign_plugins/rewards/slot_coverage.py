"""Says what it was asked to say, once, and nothing else."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, ClassVar, Final

from moalign.components import Reward

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moalign.types import Batch

PLACEHOLDER: Final = re.compile(r"<[a-z][a-z0-9_]*>")


class SlotCoverage(Reward):
    """The share of a prompt's placeholders that a completion says, less what it should not say.

    With R the prompt's placeholders and W the placeholders in the completion as the model wrote it
    (tokens like ``<name>``), counted with repetitions::

        said  = number of placeholders of R that occur in W
        wrong = |W| - said                    # not in R, or said before
        slot coverage = max(0, said - wrong) / |R|

    So 1 means each placeholder exactly once. NaN if R is empty: there is nothing to cover. Range
    (0, 1). For ``<name> <near>``, the text ``<name> is near <near>`` scores 1, ``<name> is nice``
    0.5, ``<name> , <name> , near <near>`` 0.5, and ``<name> in <area>`` 0.

    Needs the field ``placeholders`` (a list), which the task ``restaurants`` gives.

    Cost: none. Source: ours, after the slot error rate of Wen et al., EMNLP 2015 (missing plus
    redundant slots over all slots); the difference is that it is clipped at 0 and higher is better.

    Example::

        objectives:
          coverage: {reward: slot-coverage}
    """

    name: ClassVar[str] = "slot-coverage"
    range = (0.0, 1.0)
    needs: ClassVar[frozenset[str]] = frozenset({"field:placeholders"})
    example_fields: ClassVar[Mapping[str, Sequence[Any]]] = {
        "placeholders": (["<name>", "<near>"], ["<area>"], [])
    }

    def score(self, batch: Batch) -> list[float]:
        """Return the score of every completion, NaN where the prompt has no placeholders."""
        wanted = batch.fields("placeholders")
        return [_coverage(*pair) for pair in zip(wanted, batch.raw_texts_B, strict=True)]


def _coverage(wanted: Sequence[str], text: str) -> float:
    if not wanted:
        return math.nan
    written = PLACEHOLDER.findall(text)
    said = len(set(wanted).intersection(written))
    wrong = len(written) - said
    return max(0, said - wrong) / len(wanted)
