"""A person's own prompts, from a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import MinLen

from moalign.components import Task
from moalign.errors import DataError
from moalign.tables import (
    EQUAL,
    Row,
    SplitOption,
    check_shares,
    columns,
    dealt_elsewhere,
    left_out,
    read,
    require_column,
    splits,
)
from moalign.types import SPLITS, Demonstration, Pair, Prompt, Split


class Prompts(Task):
    """Your own prompts: a JSONL, CSV or Parquet file, or a folder that ``datasets`` saved.

    A row is a prompt; its other columns are what rewards may read. A file ``questions.jsonl``, one
    JSON object per line::

        {"question": "What is the capital of Peru?", "answer": "Lima", "topic": "places"}
        {"question": "How many legs has a spider?", "answer": "8", "topic": "animals"}

    and a study that trains a model on it::

        study: questions
        task:
          prompts:
            path: questions.jsonl
            prompt: question
            columns: {reference: answer}
        policy: {pretrained: {model: Qwen/Qwen2.5-0.5B-Instruct}}
        objectives:
          correct: {reward: exact-match}
          brevity: {reward: {brevity: {limit: 20}}}

    The same as ``questions.csv``; quote a cell that has commas or line ends::

        question,answer,topic
        What is the capital of Peru?,Lima,places
        "Say ""hello"", please.",hello,manners

    **Options**

    - ``path``: a file that ends in ``.jsonl`` or ``.csv`` (``.gz`` may follow), in UTF-8; or, after
      ``pip install 'moalign[data]'``, a ``.parquet`` file or a folder that ``Dataset.save_to_disk``
      wrote. Relative to the folder where you start moalign; ``~`` is your home.
    - ``prompt``: the column with the text that the policy reads.
    - ``columns``: field to column, for rewards that look for a name: ``{reference: answer}``. A
      row where such a column is empty is an error. Without ``columns`` every other column is a
      field under its own name, where it is not empty.
    - ``completion``: a column with a good completion, to be imitated by the policy ``scratch``;
      rows where it is empty are prompts only.
    - ``chosen`` and ``rejected``: columns with two completions of the prompt, the first of which
      people prefer; by default those of these names, if the file has both. Weightings that learn
      from preferences read them, of train rows. A row has both or neither; rows where they are
      equal are skipped, and counted in the report.
    - ``unit``: a column that says which rows belong together (a document, a customer). They get
      the same split, count as one in means, and the bootstrap draws them together. Without it
      every row is its own.
    - ``split``: a column that says ``train``, ``steer``, ``validation`` or ``test``; or shares
      that sum to 1, ``{train: .7, steer: .1, validation: .1, test: .1}``. A split without a share
      gets nothing: only some weightings, and ``training.scale: calibrated``, read steer.

    **Splits.** By default ``{train: .80, steer: .05, validation: .05, test: .10}``, by a hash of
    the unit, or of the prompt if there is none: adding rows moves no other, and equal prompts stay
    together. With names (a column, or the parts of a ``DatasetDict``), a split that no row names
    gets its default share of the rows named ``train``; name rows of all four to keep them. A split
    that a study needs must have at least 20 prompts: 700 different ones are enough for the default
    shares, and 120 for ``{train: .4, validation: .3, test: .3}``.

    Rows that repeat a prompt are kept, and counted in the report; so are prompts that are in more
    than one split.

    **Cost.** The file is read whole, once per process.
    """

    name: ClassVar[str] = "prompts"

    def __init__(
        self,
        *,
        path: Annotated[str, MinLen(1)],
        prompt: str = "prompt",
        columns: dict[str, str] | None = None,
        completion: str | None = None,
        chosen: str = "chosen",
        rejected: str = "rejected",
        unit: str | None = None,
        split: SplitOption | None = None,
    ) -> None:
        self.path = Path(path).expanduser()
        self.prompt = prompt
        self.columns = columns
        self.completion = completion
        self.chosen = chosen
        self.rejected = rejected
        self.unit = unit
        self.split = split
        check_shares(self.name, split)

    def prompts(self) -> Sequence[Prompt]:
        """Return a prompt per row, in the order of the file; ids are row numbers from 1."""
        return self._prompts

    def demonstrations(self, seed: int) -> Sequence[Demonstration]:
        """Return the completions of train prompts, in an order by seed."""
        examples = [
            Demonstration(prompt.text, completion)
            for prompt, completion in zip(self._prompts, self._completions, strict=True)
            if completion is not None and prompt.split == "train"
        ]
        Random(f"prompts demonstrations {seed}").shuffle(examples)
        return examples

    def pairs(self, seed: int, split: Split = "train") -> Sequence[Pair]:
        """Return the preferences of a split, in an order by seed."""
        found = [pair for pair in self._pairs if pair is not None and pair.prompt.split == split]
        pairs = [pair for pair in found if pair.chosen != pair.rejected]
        Random(f"prompts preferences {seed}").shuffle(pairs)
        return pairs

    def facts(self) -> dict[str, Any]:
        """Return rows, repeated prompts, and what there is of each kind."""
        repeats = Counter(prompt.text for prompt in self._prompts)
        placed = Counter(text for text, _ in {(p.text, p.split) for p in self._prompts})
        facts: dict[str, Any] = {
            "file": str(self.path),
            "rows": len(self._prompts),
            "rows that repeat a prompt": len(self._prompts) - len(repeats),
            "prompts in more than one split": sum(count > 1 for count in placed.values()),
        }
        if self.unit is not None:
            facts["units"] = len({prompt.unit for prompt in self._prompts})
        if self.completion is not None:
            facts["demonstrations"] = len(self.demonstrations(0))
        if any(self._pairs):
            equal = [pair for pair in self._pairs if pair and pair.chosen == pair.rejected]
            facts["preferences in train"] = len(self.pairs(0))
            facts[EQUAL] = len(equal)
            facts["rows without a preference"] = self._pairs.count(None)
        return facts | {
            f"prompts in {split}": sum(prompt.split == split for prompt in self._prompts)
            for split in SPLITS
        }

    def left_out(self, what: Literal["prompts", "pairs"]) -> Sequence[str]:
        """Return which rows have equal completions, if preferences are asked for, or were moved."""
        dealt = [prompt.split or "train" for prompt in self._prompts]
        pairs = self._pairs if what == "pairs" else ()
        equal = [pair.where for pair in pairs if pair and pair.chosen == pair.rejected]
        return [*left_out({EQUAL: equal}), *dealt_elsewhere(self._rows, dealt, self.split)]

    @cached_property
    def _rows(self) -> list[Row]:
        return read(self.path, row="a prompt")

    @cached_property
    def _prompts(self) -> list[Prompt]:
        keys = [str(row.value(self.unit or self.prompt)) for row in self._rows]
        dealt = splits(self._rows, keys, self.split)
        return [
            Prompt(
                id=str(number),
                text=row.text(self.prompt),
                fields=self._fields(row),
                unit="" if self.unit is None else str(row.value(self.unit)),
                split=split,
            )
            for number, (row, split) in enumerate(zip(self._rows, dealt, strict=True), 1)
        ]

    @cached_property
    def _completions(self) -> list[str | None]:
        column = self.completion
        if column is None:
            return [None] * len(self._rows)
        require_column(self.path, self._rows, column)
        return [row.text(column) if row.has(column) else None for row in self._rows]

    @cached_property
    def _pairs(self) -> list[Pair | None]:
        both = (self.chosen, self.rejected)
        if both == ("chosen", "rejected") and not columns(self._rows).issuperset(both):
            return [None] * len(self._rows)
        for column in both:
            require_column(self.path, self._rows, column)
        rows = zip(self._rows, self._prompts, strict=True)
        return [_pair(row, prompt, *both) for row, prompt in rows]

    def _fields(self, row: Row) -> dict[str, Any]:
        if self.columns is not None:
            return {name: row.value(column) for name, column in self.columns.items()}
        return {
            name: row.values[name] for name in row.values if name != self.prompt and row.has(name)
        }


def _pair(row: Row, prompt: Prompt, chosen: str, rejected: str) -> Pair | None:
    """Return the row's preference; None if it has none."""
    filled = [column for column in (chosen, rejected) if row.has(column)]
    if not filled:
        return None
    if len(filled) == 1:
        other = rejected if filled == [chosen] else chosen
        raise DataError(
            f"{row.where}: column {filled[0]!r} is filled and {other!r} is empty; a preference "
            "needs both: fill it, or empty both"
        )
    return Pair(prompt, row.text(chosen), row.text(rejected), where=row.where)
