"""A person's own preferences between completions, from a file."""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple

from annotated_types import MaxLen, MinLen

from moalign.components import Task
from moalign.errors import DataError, OptionError
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

Two = Annotated[list[str], MinLen(2), MaxLen(2)]
ROLES: Final = ("system", "user", "assistant")
SPEAKERS: Final = {"user": "Human", "assistant": "Assistant"}
TURN: Final = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
TIE: Final = "tie"
SCORES: Final = ("chosen_scores", "rejected_scores")

EMPTY: Final = "rows with an empty completion"
PARTED: Final = "rows whose two conversations part before the last message"
UNDECIDED: Final = "rows without a better completion"


class Preferences(Task):
    """Your own preferences: a JSONL, CSV or Parquet file, or a folder that ``datasets`` saved.

    A row is a preference: a prompt, the completion that was chosen and the one that was rejected. A
    file ``preferences.jsonl``, one JSON object per line::

        {"prompt": "Name a fruit.", "chosen": "Apple.", "rejected": "Carrot.", "group": "north"}
        {"prompt": "Name a fruit.", "chosen": "Fig.", "rejected": "Nope.", "group": "south"}

    and a study that trains a model on what both groups of people prefer::

        study: fruit
        task: {preferences: {path: preferences.jsonl}}
        policy: {pretrained: {model: Qwen/Qwen2.5-0.5B-Instruct}}
        objectives:
          north: {reward: {preferred: {group: north}}}
          south: {reward: {preferred: {group: south}}}
        training: {optimizer: dpo}
        search: {space: {weighting.preference: simplex}}

    **Options**

    - ``path``: as for the task ``prompts``: ``.jsonl`` or ``.csv`` (``.gz`` may follow), in UTF-8,
      and with ``moalign[data]`` ``.parquet`` or a folder that ``Dataset.save_to_disk`` wrote.
    - ``prompt``, ``chosen``, ``rejected``: the columns, by default of these names.
    - ``completions``: two columns, instead of ``chosen`` and ``rejected``, where a row does not
      order them; ``better`` then names a column that says which is better, and without it the one
      is chosen that more of the ``scores`` prefer (as many for both: the first).
    - ``scores``: what was said of single sides of the completions, by a name of yours, which the
      reward ``preferred: {score: NAME}`` reads. Either two columns with a number for each
      completion, ``{helpful: [helpful_chosen, helpful_rejected]}``, or one that says which is
      better, ``{fluent: fluent}``. Without ``scores``, columns ``chosen_scores`` and
      ``rejected_scores`` are read if the file has them: mappings from name to number.
    - ``group``, ``annotator``: columns with the group of people that a preference is of, and the
      person; by default those of these names, if the file has them.
    - ``columns``: field to column, for rewards that read prompts: ``{reference: answer}``. Without
      it every other column is a field, where all rows of a prompt agree on it.
    - ``unit`` and ``split``: as for ``prompts``. Rows of a prompt are of one unit.

    **Length.** A policy learns from what it can read whole: where prompt and completion do not fit
    into its context, a preference is left out with a warning.

    **Which is better** is said by the column's name, by its place (0 or 1), or is a ``tie``: for
    ``completions: [a, b]`` the words are ``a``, ``b`` and ``tie``.

    **Conversations.** Where cells are lists of messages, ``{"role": "user", "content": "..."}``,
    a completion is the assistant's last message, and what stands before it is the prompt, so the
    column of the prompt may be missing, or hold the messages before. So may transcripts
    (``Human: ...``, an empty line, ``Assistant: ...``), the form of hh-rlhf: a prompt that begins
    with ``Human:``, or, without a column of the prompt, whole conversations. A policy with a chat
    template reads the messages, any other the transcript up to ``Assistant:``.

    **What is left out**, and counted in the report: rows whose two completions are equal, or one of
    them is empty; that prefer neither; whose conversations part before the last message. A field
    that is missing, or is not what it should be, is an error with the line. So is a score that only
    one of the two completions has; a row without it on both sides is one that it says nothing of.

    **Splits.** By a hash of the unit, or else of the prompt, as for ``prompts``; every split has
    its preferences: those of train are learned from, the others measure how often a policy agrees.
    A split that a study needs must have at least 20 different prompts: 700 are enough for the
    default shares, and 120 for ``split: {train: 0.4, validation: 0.3, test: 0.3}``.

    **Demonstrations.** The chosen completions of train, for the policy ``scratch``.

    **Cost.** The file is read whole, once per process.

    Source: ours; the forms are those of hh-rlhf (Bai et al. 2022, arXiv 2204.05862) and TRL.
    """

    name: ClassVar[str] = "preferences"

    def __init__(
        self,
        *,
        path: Annotated[str, MinLen(1)],
        prompt: str = "prompt",
        chosen: str = "chosen",
        rejected: str = "rejected",
        completions: Two | None = None,
        better: str | None = None,
        scores: dict[str, str | Two] | None = None,
        group: str = "group",
        annotator: str = "annotator",
        columns: dict[str, str] | None = None,
        unit: str | None = None,
        split: SplitOption | None = None,
    ) -> None:
        self.path = Path(path).expanduser()
        self.prompt = prompt
        self.two = (chosen, rejected) if completions is None else (completions[0], completions[1])
        self.ordered = completions is None
        self.better = better
        self.scores = scores
        self.group = group
        self.annotator = annotator
        self.columns = columns
        self.unit = unit
        self.split = split
        check_shares(self.name, split)
        if better is not None and self.ordered:
            raise OptionError(
                f"task preferences, option better: found {better!r}, and {self.two[0]!r} is better "
                "already; give the two columns as `completions`",
                "better",
            )
        if completions is not None and better is None and not scores:
            raise OptionError(
                "task preferences, option completions: nothing says which is better; give the "
                "column that does as `better`, or `scores`",
                "completions",
            )

    def prompts(self) -> Sequence[Prompt]:
        """Return the prompts that have preferences, each once; ids are numbers of first rows."""
        return self._found.prompts

    def demonstrations(self, seed: int) -> Sequence[Demonstration]:
        """Return the chosen completions of train, in an order by seed."""
        return [Demonstration(pair.prompt.text, pair.chosen) for pair in self.pairs(seed)]

    def pairs(self, seed: int, split: Split = "train") -> Sequence[Pair]:
        """Return the preferences of a split, in an order by seed."""
        pairs = [pair for pair in self._found.pairs if pair.prompt.split == split]
        Random(f"preferences {seed}").shuffle(pairs)
        return pairs

    def parse(self, text: str) -> Prompt:
        """Return the prompt for a typed text: the first message, if the file has conversations."""
        if any(prompt.messages for prompt in self._found.prompts):
            return _prompt("typed", _messages_of(text) or ({"role": "user", "content": text},))
        return super().parse(text)

    def facts(self) -> dict[str, Any]:
        """Return rows used and left out, and the preferences per split, group and score."""
        found = self._found
        placed = Counter(text for text, _ in {(p.text, p.split) for p in found.prompts})
        facts: dict[str, Any] = {
            "file": str(self.path),
            "rows": len(self._rows),
            **{
                reason: len(found.skipped.get(reason, ()))
                for reason in (EQUAL, EMPTY, PARTED, UNDECIDED)
            },
            "prompts": len(found.prompts),
            "prompts in more than one split": sum(count > 1 for count in placed.values()),
        }
        if self.unit is not None:
            facts["units"] = len({prompt.unit for prompt in found.prompts})
        annotators = {pair.annotator for pair in found.pairs} - {""}
        if annotators:
            facts["annotators"] = len(annotators)
        for split in SPLITS:
            pairs = [pair for pair in found.pairs if pair.prompt.split == split]
            facts[f"prompts in {split}"] = sum(p.split == split for p in found.prompts)
            facts[f"preferences in {split}"] = len(pairs)
            groups = Counter(pair.group for pair in pairs if pair.group)
            for group, count in sorted(groups.items()):
                facts[f"preferences of group {group} in {split}"] = count
            if groups and len(pairs) > groups.total():
                facts[f"preferences without a group in {split}"] = len(pairs) - groups.total()
            given = Counter(name for pair in pairs for name in pair.chosen_scores)
            for name, count in sorted(given.items()):
                facts[f"preferences with score {name} in {split}"] = count
        return facts

    def left_out(self, what: Literal["prompts", "pairs"]) -> Sequence[str]:
        """Return which rows are left out, with the first of each sort, and which were moved."""
        found = self._found
        dealt = [pair.prompt.split or "train" for pair in found.pairs]
        return [*left_out(found.skipped), *dealt_elsewhere(found.rows, dealt, self.split)]

    # --- reading -------------------------------------------------------------------------------

    @cached_property
    def _rows(self) -> list[Row]:
        return read(self.path, row="a preference")

    @cached_property
    def _found(self) -> _Found:
        known = columns(self._rows)
        for column in self._required():
            require_column(self.path, self._rows, column)
        with_prompt = self.prompt in known or self.prompt != "prompt"
        if with_prompt:
            require_column(self.path, self._rows, self.prompt)
        read_rows = [self._compared(row, with_prompt) for row in self._rows]
        kept = [(n, row) for n, row in enumerate(read_rows, 1) if not isinstance(row, str)]
        skipped: dict[str, list[str]] = {}
        for row, read_row in zip(self._rows, read_rows, strict=True):
            if isinstance(read_row, str):
                skipped.setdefault(read_row, []).append(row.where)
        if not kept:
            why = "; ".join(left_out(skipped))
            raise DataError(f"{self.path}: no row has a preference to learn from: {why}")
        prompts = self._prompts(kept)
        pairs = [
            Pair(
                prompt,
                *row.texts,
                group=_word(row.row, self.group),
                annotator=_word(row.row, self.annotator),
                chosen_scores=row.scores[0],
                rejected_scores=row.scores[1],
                where=row.row.where,
            )
            for prompt, (_, row) in zip(prompts, kept, strict=True)
        ]
        rows = [row.row for _, row in kept]
        return _Found(list({p.id: p for p in prompts}.values()), pairs, rows, skipped)

    def _required(self) -> list[str]:
        """Return the columns that must be there: what was named, and the completions."""
        named = [column for c in (self.scores or {}).values() for column in _listed(c)]
        named += [
            c for c, plain in ((self.group, "group"), (self.annotator, "annotator")) if c != plain
        ]
        named += [c for c in (self.better, self.unit) if c is not None]
        return [*self.two, *named, *(self.columns or {}).values()]

    def _prompts(self, kept: Sequence[tuple[int, _Compared]]) -> list[Prompt]:
        """Return the prompt of each row; rows with the same one, unit and split share it."""
        units = ["" if self.unit is None else str(r.row.value(self.unit)) for _, r in kept]
        keys = [unit or r.prompt.text for unit, (_, r) in zip(units, kept, strict=True)]
        dealt = splits([r.row for _, r in kept], keys, self.split)
        same: dict[tuple[str, str, Split], list[int]] = {}
        for place, (_, row) in enumerate(kept):
            same.setdefault((row.prompt.text, units[place], dealt[place]), []).append(place)
        prompts: dict[int, Prompt] = {}
        for (_, unit, split), places in same.items():
            number, first = kept[places[0]]
            prompt = replace(
                first.prompt,
                id=str(number),
                fields=self._fields([kept[place][1].row for place in places]),
                unit=unit or str(number),
                split=split,
            )
            prompts |= dict.fromkeys(places, prompt)
        return [prompts[place] for place in range(len(kept))]

    def _fields(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return the fields of a prompt with these rows."""
        first = rows[0]
        if self.columns is None:
            own = {self.prompt, self.group, self.annotator, *self._required()}
            own |= {*SCORES}
            return {
                name: value
                for name, value in first.values.items()
                if name not in own
                and first.has(name)
                and all(row.values.get(name) == value for row in rows)
            }
        for row in rows:
            for column in self.columns.values():
                if row.value(column) != first.value(column):
                    raise DataError(
                        f"{row.where}: column {column!r} is another than in {first.where}, which "
                        "has the same prompt; a field of a prompt has one value"
                    )
        return {name: first.value(column) for name, column in self.columns.items()}

    # --- a row ---------------------------------------------------------------------------------

    def _compared(self, row: Row, with_prompt: bool) -> _Compared | str:
        """Return what a row compares, the chosen one first; or why it is left out."""
        sides = [_completion(row, column, transcript=not with_prompt) for column in self.two]
        before = [side.before for side in sides]
        prompt = self._prompt(row, before, with_prompt)
        if before[0] != before[1]:
            return PARTED
        texts = (sides[0].text, sides[1].text)
        if not (texts[0].strip() and texts[1].strip()):
            return EMPTY
        if texts[0] == texts[1]:
            return EQUAL
        scores = self._scores(row)
        order = self._order(row, scores)
        if order == 0:
            return UNDECIDED
        if order < 0:
            texts, scores = texts[::-1], scores[::-1]
        return _Compared(row, prompt, texts, scores)

    def _prompt(self, row: Row, before: Sequence[Messages], with_prompt: bool) -> Prompt:
        if before[0]:
            return _prompt("", before[0])
        if not with_prompt:
            raise DataError(
                f"{row.where}: there is no column {self.prompt!r}, and column {self.two[0]!r} has "
                "nothing before its last message; a preference needs a prompt"
            )
        cell = row.value(self.prompt)
        if isinstance(cell, str):
            text = row.text(self.prompt)
            messages = _messages_of(text)
        else:
            messages = _messages(row, self.prompt, cell)
            text = ""
        if messages and messages[-1] == {"role": "assistant", "content": ""}:
            messages = messages[:-1]  # it waits for words
        if messages and messages[-1]["role"] == "assistant":
            raise DataError(
                f"{row.where}: column {self.prompt!r} ends with a message of the assistant; the "
                "last must be the one that is answered"
            )
        return _prompt("", messages) if messages else Prompt(id="", text=text)

    def _scores(self, row: Row) -> tuple[dict[str, float], dict[str, float]]:
        """Return what was said of the first and of the second completion."""
        if self.scores is None:
            one, other = (_score_mapping(row, column) for column in SCORES)
            for name in sorted(one.keys() ^ other.keys()):
                has, lacks = SCORES if name in one else SCORES[::-1]
                rest = ", ".join(other if name in one else one) or "none"
                raise _half(row, name, has, f"{lacks!r} does not (its scores: {rest})")
            return one, other
        found: dict[str, tuple[float, float]] = {}
        for name, where in self.scores.items():
            if isinstance(where, str):
                if row.has(where):
                    sign = self._vote(row, where)
                    found[name] = ((1 + sign) / 2, (1 - sign) / 2)
                continue
            given = [column for column in where if row.has(column)]
            if len(given) == 1:
                (lacking,) = set(where) - set(given)
                raise _half(row, name, given[0], f"{lacking!r} is empty")
            if given:
                found[name] = (_number(row, where[0]), _number(row, where[1]))
        return {n: a for n, (a, _) in found.items()}, {n: b for n, (_, b) in found.items()}

    def _vote(self, row: Row, column: str) -> int:
        """Return 1 if a column says that the first is better, -1 the second, 0 a tie."""
        said, (first, second) = str(row.value(column)), self.two
        meanings = {first: 1, "0": 1, second: -1, "1": -1, TIE: 0}
        if said not in meanings:
            raise DataError(
                f"{row.where}: column {column!r} must say which completion is better: {first}, "
                f"{second} or {TIE}, or 0 or 1 for the first or the second; found {said!r}"
            )
        return meanings[said]

    def _order(self, row: Row, scores: Sequence[Mapping[str, float]]) -> int:
        """Return more than 0 if the first is chosen, less if the second, 0 if neither."""
        if self.ordered:
            return 1
        if self.better is not None:
            return self._vote(row, self.better)
        one, other = scores
        signs = [(one[name] > other[name]) - (one[name] < other[name]) for name in one]
        return sum(signs) or int(any(signs))


Message = Mapping[str, str]
Messages = Sequence[Message]


class _Found(NamedTuple):
    """All of a file: prompts, preferences and their rows, and where what was left out stands."""

    prompts: list[Prompt]
    pairs: list[Pair]
    rows: list[Row]
    skipped: dict[str, list[str]]


@dataclass(frozen=True)
class _Compared:
    """A row: its prompt without id, and texts and scores of the chosen and the rejected one."""

    row: Row
    prompt: Prompt
    texts: tuple[str, str]
    scores: tuple[dict[str, float], dict[str, float]]


class _Completion(NamedTuple):
    text: str
    before: Messages


def _completion(row: Row, column: str, *, transcript: bool) -> _Completion:
    """Return a completion, and the messages before it if its cell has them.

    Args:
        row: of the file.
        column: of the completion.
        transcript: text must be a whole conversation, because nothing else has the prompt.
    """
    if row.values.get(column) is None:
        raise DataError(f"{row.where}: column {column!r} is missing; a preference needs it")
    cell = row.values[column]
    if isinstance(cell, str) and not transcript:
        return _Completion(cell, ())
    messages = _messages_of(cell) if isinstance(cell, str) else _messages(row, column, cell)
    if isinstance(cell, str) and not messages:
        raise DataError(
            f"{row.where}: there is no column of the prompt, and column {column!r} is no "
            "conversation: a list of messages, or text that begins with `Human:`; name the column "
            "of the prompt as `prompt`"
        )
    if not messages or messages[-1]["role"] != "assistant":
        raise DataError(
            f"{row.where}: column {column!r} must end with a message of the assistant, which is "
            "the completion"
        )
    return _Completion(messages[-1]["content"], messages[:-1])


def _messages(row: Row, column: str, cell: Any) -> tuple[Message, ...]:
    """Return a cell's messages, held to their form."""
    good = isinstance(cell, Sequence) and all(
        isinstance(m, Mapping) and m.get("role") in ROLES and isinstance(m.get("content"), str)
        for m in cell
    )
    if not good:
        raise DataError(
            f"{row.where}: column {column!r} must be text, or a list of messages with role "
            f'({", ".join(ROLES)}) and content, like {{"role": "user", "content": "..."}}; found '
            f"{str(cell)[:80]}"
        )
    return tuple({"role": m["role"], "content": m["content"]} for m in cell)


def _messages_of(text: str) -> tuple[Message, ...]:
    """Return the messages of a transcript; () if it is none."""
    roles = {speaker: role for role, speaker in SPEAKERS.items()}
    if not text.lstrip().startswith("Human:"):
        return ()
    _, *parts = TURN.split(text.strip())
    turns = zip(parts[::2], parts[1::2], strict=True)
    return tuple({"role": roles[speaker], "content": said.strip()} for speaker, said in turns)


def _prompt(id: str, messages: Messages) -> Prompt:
    """Return the prompt that a conversation is, with the transcript as its text."""
    told = [
        f"{SPEAKERS[m['role']]}: {m['content']}" if m["role"] in SPEAKERS else m["content"]
        for m in messages
    ]
    return Prompt(id=id, text="\n\n".join([*told, "Assistant:"]), messages=tuple(messages))


def _score_mapping(row: Row, column: str) -> dict[str, float]:
    if not row.has(column):
        return {}
    cell = row.values[column]
    if not isinstance(cell, Mapping):
        raise DataError(
            f"{row.where}: column {column!r} must be a mapping from names to numbers; found "
            f"{type(cell).__name__}. Name columns with numbers as `scores`"
        )
    return {
        str(name): _finite(row, f"{column}.{name}", value)
        for name, value in cell.items()
        if value is not None
    }


def _half(row: Row, name: str, given: str, lacking: str) -> DataError:
    return DataError(
        f"{row.where}: score {name!r} is given for one completion only: column {given!r} has it, "
        f"and {lacking}; give it for both completions, or for neither"
    )


def _number(row: Row, column: str) -> float:
    value = row.value(column)
    if isinstance(value, str):  # CSV
        with contextlib.suppress(ValueError):
            value = float(value)
    return _finite(row, column, value)


def _finite(row: Row, column: str, value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and math.isfinite(value)):
        raise DataError(f"{row.where}: column {column!r} must be a finite number; found {value!r}")
    return float(value)


def _word(row: Row, column: str) -> str:
    return str(row.values[column]) if row.has(column) else ""


def _listed(where: str | list[str]) -> list[str]:
    return [where] if isinstance(where, str) else where
