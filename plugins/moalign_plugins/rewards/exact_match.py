"""Says what the reference says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from moalign.components import Reward

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moalign.types import Batch


class ExactMatch(Reward):
    """1 if the surface text equals the prompt's reference, else 0.

    Case and the amount of white space do not count; all else does. If the reference is a list, one
    match is enough. Numbers are compared as text: ``7.0`` does not match ``7``.

    Needs the field ``reference``; with the task ``prompts``, name the column that holds it:
    ``columns: {reference: answer}``.

    Cost: none. Source: ours; exact match as in question answering, articles and punctuation kept.
    Range (0, 1).

    Example::

        task: {prompts: {path: questions.jsonl, columns: {reference: answer}}}
        objectives:
          correct: {reward: exact-match}
    """

    name: ClassVar[str] = "exact-match"
    range = (0.0, 1.0)
    needs: ClassVar[frozenset[str]] = frozenset({"field:reference"})
    example_fields: ClassVar[Mapping[str, Sequence[Any]]] = {"reference": ("a", ["b", "C"], 8)}

    def score(self, batch: Batch) -> list[float]:
        """Return 1.0 or 0.0 for every surface text."""
        pairs = zip(batch.fields("reference"), batch.texts_B, strict=True)
        return [float(_normal(text) in _accepted(reference)) for reference, text in pairs]


def _accepted(reference: Any) -> list[str]:
    return [_normal(r) for r in (reference if isinstance(reference, list) else [reference])]


def _normal(value: Any) -> str:
    return " ".join(str(value).split()).casefold()
