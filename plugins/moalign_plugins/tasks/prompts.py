"""A person's own prompts, from a file."""

from __future__ import annotations

import csv
import glob
import gzip
import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Annotated, Any, ClassVar, Final

from annotated_types import Gt, MinLen

from moalign.components import Task
from moalign.errors import DataError, OptionError, nearest
from moalign.types import SPLITS, Demonstration, Pair, Prompt, Split

SHARES: Final[Mapping[Split, float]] = {
    "train": 0.80,
    "steer": 0.05,
    "validation": 0.05,
    "test": 0.10,
}
ENDINGS: Final = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")


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
    - ``split``: a column that says ``train``, ``steer``, ``validation`` or ``test``; or shares of
      all four, ``{train: .7, steer: .1, validation: .1, test: .1}``.

    **Splits.** By default ``{train: .80, steer: .05, validation: .05, test: .10}``, by a hash of
    the unit, or of the prompt if there is none: adding rows moves no other, and equal prompts stay
    together. With names (a column, or the parts of a ``DatasetDict``), a split that no row names
    gets its default share of the rows named ``train``. A split that a study needs must have at
    least 20 prompts, so 400 rows are a good start with the default shares.

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
        split: str | dict[Split, Annotated[float, Gt(0)]] | None = None,
    ) -> None:
        self.path = Path(path).expanduser()
        self.prompt = prompt
        self.columns = columns
        self.completion = completion
        self.chosen = chosen
        self.rejected = rejected
        self.unit = unit
        self.split = split
        if isinstance(split, dict) and (
            set(split) != set(SPLITS) or abs(sum(split.values()) - 1) > 1e-6
        ):
            raise OptionError(
                f"task prompts, option split: shares must name {', '.join(SPLITS)} and sum to 1; "
                f"found {split} with sum {sum(split.values()):g}"
            )

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
            facts["rows whose two completions are equal"] = len(equal)
            facts["rows without a preference"] = self._pairs.count(None)
        return facts | {
            f"prompts in {split}": sum(prompt.split == split for prompt in self._prompts)
            for split in SPLITS
        }

    @cached_property
    def _records(self) -> list[_Record]:
        records = list(_read(self.path))
        if not records:
            raise DataError(f"{self.path}: it has no rows; a row is a prompt")
        return records

    @cached_property
    def _prompts(self) -> list[Prompt]:
        splits = self._splits()
        return [
            Prompt(
                id=str(number),
                text=record.text(self.prompt),
                fields=self._fields(record),
                unit="" if self.unit is None else str(record.value(self.unit)),
                split=split,
            )
            for number, (record, split) in enumerate(zip(self._records, splits, strict=True), 1)
        ]

    @cached_property
    def _completions(self) -> list[str | None]:
        column = self.completion
        if column is None:
            return [None] * len(self._records)
        known = {name for record in self._records for name in record.values}
        if column not in known:
            raise DataError(f"{self.path}: there is no column {column!r}; {nearest(column, known)}")
        return [
            None if record.values.get(column) in (None, "") else record.text(column)
            for record in self._records
        ]

    @cached_property
    def _pairs(self) -> list[Pair | None]:
        known = {name for record in self._records for name in record.values}
        columns = (self.chosen, self.rejected)
        missing = [column for column in columns if column not in known]
        if missing and columns == ("chosen", "rejected"):
            return [None] * len(self._records)
        for column in missing:
            raise DataError(f"{self.path}: there is no column {column!r}; {nearest(column, known)}")
        return [
            record.pair(prompt, *columns)
            for record, prompt in zip(self._records, self._prompts, strict=True)
        ]

    def _fields(self, record: _Record) -> dict[str, Any]:
        if self.columns is not None:
            return {name: record.value(column) for name, column in self.columns.items()}
        return {
            name: value
            for name, value in record.values.items()
            if name != self.prompt and value not in (None, "")
        }

    def _splits(self) -> list[Split]:
        keys = [str(record.value(self.unit or self.prompt)) for record in self._records]
        if isinstance(self.split, dict):
            return [_deal(key, self.split) for key in keys]
        if self.split is None and all(record.part is None for record in self._records):
            return [_deal(key, SHARES) for key in keys]
        named = [record.split(self.split) for record in self._records]
        shares = {split: share for split, share in SHARES.items() if split not in named}
        pairs = zip(keys, named, strict=True)
        return [_deal(key, shares) if split == "train" else split for key, split in pairs]


@dataclass(frozen=True)
class _Record:
    """A row: where it stands, its cells, and the part of a ``DatasetDict`` that holds it."""

    where: str
    values: Mapping[str, Any]
    part: str | None = None

    def value(self, column: str) -> Any:
        if column not in self.values:
            raise DataError(
                f"{self.where}: there is no column {column!r}; {nearest(column, self.values)}"
            )
        if self.values[column] in (None, ""):
            raise DataError(f"{self.where}: column {column!r} is empty; fill it or drop the row")
        return self.values[column]

    def text(self, column: str) -> str:
        value = self.value(column)
        if not isinstance(value, str):
            raise DataError(
                f"{self.where}: column {column!r} must be text; found {type(value).__name__}"
            )
        if not value.strip():
            raise DataError(f"{self.where}: column {column!r} is blank; fill it or drop the row")
        return value

    def pair(self, prompt: Prompt, chosen: str, rejected: str) -> Pair | None:
        """Return the row's preference; None if it has none."""
        filled = [c for c in (chosen, rejected) if self.values.get(c) not in (None, "")]
        if not filled:
            return None
        if len(filled) == 1:
            other = rejected if filled == [chosen] else chosen
            raise DataError(
                f"{self.where}: column {filled[0]!r} is filled and {other!r} is empty; a "
                "preference needs both: fill it, or empty both"
            )
        return Pair(prompt, self.text(chosen), self.text(rejected))

    def split(self, column: str | None) -> Split:
        found = self.part if column is None else self.value(column)
        for split in SPLITS:
            if split == found:
                return split
        what = "the part of the dataset" if column is None else f"column {column!r}"
        raise DataError(
            f"{self.where}: {what} names no split: {found!r}; {nearest(str(found), SPLITS)}"
        )


def _deal(key: str, shares: Mapping[Split, float]) -> Split:
    """Return the split of a key: a number in [0, 1) from its hash, held against the shares."""
    digest = hashlib.sha256(f"moalign prompts\n{key}".encode()).digest()
    place = int.from_bytes(digest[:6]) / 2**48
    for split, share in shares.items():
        place -= share
        if place < 0:
            return split
    return "train"


def _read(path: Path) -> Iterator[_Record]:
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder; {_neighbours(path)}")
    if path.is_dir():
        return _read_folder(path)
    ending = _ending(path)
    if ending not in ENDINGS:
        raise DataError(
            f"{path}: cannot tell what it is by its ending {ending!r}; {nearest(ending, ENDINGS)}"
        )
    if ending == ".parquet":
        return _read_parquet(path)
    return (_read_csv if ending.startswith(".csv") else _read_jsonl)(path, _decoded(path))


def _ending(path: Path) -> str:
    return "".join(path.suffixes[-2 if path.suffix.lower() == ".gz" else -1 :]).lower()


def _neighbours(path: Path) -> str:
    folder = path.absolute().parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist either"
    there = [entry.name for entry in folder.iterdir() if _ending(entry) in ENDINGS]
    return f"in {folder} " + (nearest(path.name, there) if there else "there is no data file")


def _decoded(path: Path) -> str:
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: it is not UTF-8 (byte 0x{data[error.start]:02x}); save it as "
            "UTF-8, for example by: iconv -f LATIN1 -t UTF-8 OLD > NEW"
        ) from error


def _read_jsonl(path: Path, text: str) -> Iterator[_Record]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{where}: it is not JSON ({error}); each line is one object, like "
                '{"prompt": "..."}'
            ) from error
        if not isinstance(values, dict):
            raise DataError(
                f"{where}: each line must be one JSON object, like "
                f'{{"prompt": "..."}}; found {type(values).__name__}'
            )
        yield _Record(where, values)


def _read_csv(path: Path, text: str) -> Iterator[_Record]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    line = 1
    while True:
        where = f"{path}, line {line}"
        try:
            cells = next(rows, None)
        except csv.Error as error:
            raise DataError(f'{where}: it is not CSV ({error}); quote cells with "') from error
        line = rows.line_num + 1
        if cells is None:
            return
        if not cells:
            continue
        if header is None:
            header = cells
            if len(set(header)) < len(header):
                raise DataError(f"{where}: a column name occurs twice: {', '.join(header)}")
        elif len(cells) != len(header):
            raise DataError(
                f"{where}: it has {len(cells)} cells, but the first line names {len(header)} "
                "columns; quote cells that hold commas or line ends"
            )
        else:
            yield _Record(where, dict(zip(header, cells, strict=True)))


def _read_parquet(path: Path) -> Iterator[_Record]:
    datasets = _datasets(path)
    try:
        with TemporaryDirectory() as cache:  # it leaves lock files there
            rows = datasets.load_dataset(
                "parquet",
                data_files=glob.escape(str(path.absolute())),
                split="train",
                cache_dir=cache,
                streaming=True,
            )
            for number, values in enumerate(rows, start=1):
                yield _Record(f"{path}, row {number}", values)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from error


def _read_folder(path: Path) -> Iterator[_Record]:
    datasets = _datasets(path)
    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path}: cannot be read as a folder that Dataset.save_to_disk wrote: {error}"
        ) from error
    parts = loaded if isinstance(loaded, datasets.DatasetDict) else {None: loaded}
    for part, rows in parts.items():
        for number, values in enumerate(rows, start=1):
            where = f"{path}, row {number}"
            if part is None:
                yield _Record(where, values)
            else:
                yield _Record(f"{where} of {part}", values, str(part))


def _datasets(path: Path) -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{path}: reading it needs the package datasets; run: pip install 'moalign[data]'"
        ) from error
    module: ModuleType = datasets
    return module
