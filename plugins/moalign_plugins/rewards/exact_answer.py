"""Says the right number last."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Final

from moalign.components import Reward

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moalign.types import Batch

# The number alone, after the equations (``65+25=90.90``, or as their last result), or in words.
FINAL: Final = re.compile(r"(?:\A|[=.]|so the answer is )(0|[1-9][0-9]*)\Z")


class ExactAnswer(Reward):
    """1 if the final number of the surface text is the prompt's answer, else 0.

    The final number ends the text: nothing may follow it, not even a space or a full stop. It is
    written without sign, leading zero or separator, and it must be stated as a result:

    - alone, as the whole text: ``90``
    - behind ``.`` or ``=``: ``17+48=65;65+25=90.90``, ``17+48=65;65+25=90``
    - behind ``so the answer is ``: ``step 1: 17+48=65; step 2: 65+25=90; so the answer is 90``

    So a text that breaks off (``17+48=65;65+25``) scores 0, whatever its last digits are. What
    stands before does not count; ``steps-shown`` looks at that.

    Needs the field ``answer`` (int). Made for the task ``arithmetic``.

    Cost: none. Source: ours. Range (0, 1).

    Example::

        task: arithmetic
        objectives:
          accuracy: {reward: exact-answer}
    """

    name: ClassVar[str] = "exact-answer"
    range = (0.0, 1.0)
    needs: ClassVar[frozenset[str]] = frozenset({"field:answer"})
    example_fields: ClassVar[Mapping[str, Sequence[Any]]] = {"answer": (90, 5, 396)}

    def score(self, batch: Batch) -> list[float]:
        """Return 1.0 or 0.0 for every surface text."""
        finals = [FINAL.search(text) for text in batch.texts_B]
        pairs = zip(finals, batch.fields("answer"), strict=True)
        return [float(final is not None and final[1] == str(answer)) for final, answer in pairs]
