"""Reading a person's own file: rows of named cells, and the split of each.

JSONL, CSV and Parquet files, and folders that ``datasets`` saved. Every mistake is a sentence with
the line.
"""

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
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, Final

from moalign.errors import DataError, OptionError, nearest
from moalign.types import SPLITS, Split

SHARES: Final[Mapping[Split, float]] = {
    "train": 0.80,
    "steer": 0.05,
    "validation": 0.05,
    "test": 0.10,
}
"""How rows are dealt to the splits unless somebody says otherwise."""

EQUAL: Final = "rows whose two completions are equal"
"""Of preferences: what teaches nothing and is left out."""

ENDINGS: Final = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")


SplitOption = str | dict[Split, float]
"""A column that names splits, or shares; a split that is not there gets nothing."""


def check_shares(task: str, split: SplitOption | None) -> None:
    """Check a task's option ``split``.

    Raises:
        OptionError: it gives shares, and one is negative, or their sum is not 1.
    """
    if not isinstance(split, dict):
        return
    for name, share in split.items():
        if not share >= 0:
            raise OptionError(
                f"task {task}, option split: the share of {name} must be 0 or more; found {share}",
                "split",
            )
    if not abs(sum(split.values()) - 1) <= 1e-6:
        raise OptionError(
            f"task {task}, option split: shares must sum to 1; found {split} with sum "
            f"{sum(split.values()):g}",
            "split",
        )


@dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
        where: file and line, for messages.
        values: its cells by column; those of CSV are text.
        part: the part of a ``DatasetDict`` that holds it; None if there are none.
        known: the columns of all rows of the file.
    """

    where: str
    values: Mapping[str, Any]
    part: str | None = None
    known: frozenset[str] = frozenset()

    def has(self, column: str) -> bool:
        """Return True if a cell is there and not empty."""
        return self.values.get(column) not in (None, "")

    def value(self, column: str) -> Any:
        """Return a cell.

        Raises:
            DataError: there is no such column, or the row has no such cell, or it is empty.
        """
        if column not in self.values and column in self.known:
            raise DataError(
                f"{self.where}: column {column!r} is missing, which other rows have; give it or "
                "drop the row"
            )
        if column not in self.values:
            raise DataError(
                f"{self.where}: there is no column {column!r}; {nearest(column, self.values)}"
            )
        if not self.has(column):
            raise DataError(f"{self.where}: column {column!r} is empty; fill it or drop the row")
        return self.values[column]

    def text(self, column: str) -> str:
        """Return a cell with text.

        Raises:
            DataError: there is no such column, or it holds something else, or it is blank.
        """
        value = self.value(column)
        if not isinstance(value, str):
            raise DataError(
                f"{self.where}: column {column!r} must be text; found {type(value).__name__}"
            )
        if not value.strip():
            raise DataError(f"{self.where}: column {column!r} is blank; fill it or drop the row")
        return value

    def split(self, column: str | None) -> Split:
        """Return the split that a column names; None: that the part of the dataset names.

        Raises:
            DataError: it names none.
        """
        found = self.part if column is None else self.value(column)
        for split in SPLITS:
            if split == found:
                return split
        what = "the part of the dataset" if column is None else f"column {column!r}"
        raise DataError(
            f"{self.where}: {what} names no split: {found!r}; {nearest(str(found), SPLITS)}"
        )


def columns(rows: Sequence[Row]) -> set[str]:
    """Return the names of all columns."""
    return {name for row in rows for name in row.values}


def require_column(path: Path, rows: Sequence[Row], column: str) -> None:
    """Check that a column is there.

    Raises:
        DataError: no row has it; names the nearest one.
    """
    known = columns(rows)
    if column not in known:
        raise DataError(f"{path}: there is no column {column!r}; {nearest(column, known)}")


def splits(rows: Sequence[Row], keys: Sequence[str], split: SplitOption | None) -> list[Split]:
    """Return the split of each row; equal keys get the same, unless the rows name others.

    Args:
        rows: of a file.
        keys: what decides, by a hash, where nothing is named.
        split: a column that names splits, or shares; None: the parts of a ``DatasetDict``, or
            else :data:`SHARES`. A split that no row names gets its default share of train.
    """
    if isinstance(split, dict):
        return [_deal(key, split) for key in keys]
    if split is None and all(row.part is None for row in rows):
        return [_deal(key, SHARES) for key in keys]
    named = [row.split(split) for row in rows]
    shares = {name: share for name, share in SHARES.items() if name not in named}
    pairs = zip(keys, named, strict=True)
    return [_deal(key, shares) if name == "train" else name for key, name in pairs]


def dealt_elsewhere(
    rows: Sequence[Row], dealt: Sequence[Split], split: SplitOption | None
) -> list[str]:
    """Return in sentences how many rows named train were dealt to splits that no row names.

    Args:
        rows: as for :func:`splits`.
        dealt: what it returned for them.
        split: as for :func:`splits`.
    """
    if isinstance(split, dict) or (split is None and all(row.part is None for row in rows)):
        return []
    given = [to for row, to in zip(rows, dealt, strict=True) if row.split(split) == "train"]
    taken: Counter[Split] = Counter(to for to in given if to != "train")
    return [
        f"{taken[to]} of {len(given)} rows named train {'was' if taken[to] == 1 else 'were'} dealt "
        f"to {to}, which no row names"
        for to in SPLITS
        if taken[to]
    ]


def left_out(places: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a sentence for each sort of rows that are left out, with the place of the first.

    Args:
        places: of these rows, by what they are, in words that begin with ``rows``.
    """
    return [
        f"{len(found)} {what} are left out, the first in {found[0]}"
        if len(found) > 1
        else f"1 {what.replace('rows', 'row', 1)} is left out: {found[0]}"
        for what, found in places.items()
        if found
    ]


def _deal(key: str, shares: Mapping[Split, float]) -> Split:
    """Return the split of a key: a number in [0, 1) from its hash, held against the shares."""
    digest = hashlib.sha256(f"moalign prompts\n{key}".encode()).digest()
    place = int.from_bytes(digest[:6]) / 2**48
    for split, share in shares.items():
        place -= share
        if place < 0:
            return split
    return "train"


# --- files -------------------------------------------------------------------------------------


def read(path: Path, *, row: str) -> list[Row]:
    """Return the rows of a file or folder, in its order.

    Args:
        path: a file with one of :data:`ENDINGS`, or a folder that ``Dataset.save_to_disk`` wrote.
        row: what a row is, for the message about a file without any.

    Raises:
        DataError: it is missing, unreadable, malformed or empty.
    """
    rows = list(_read(path))
    if not rows:
        raise DataError(f"{path}: it has no rows; a row is {row}")
    known = frozenset(columns(rows))
    return [replace(row, known=known) for row in rows]


def _read(path: Path) -> Iterator[Row]:
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


def _read_jsonl(path: Path, text: str) -> Iterator[Row]:
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
        yield Row(where, values)


def _read_csv(path: Path, text: str) -> Iterator[Row]:
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
            yield Row(where, dict(zip(header, cells, strict=True)))


def _read_parquet(path: Path) -> Iterator[Row]:
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
                yield Row(f"{path}, row {number}", values)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from error


def _read_folder(path: Path) -> Iterator[Row]:
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
                yield Row(where, values)
            else:
                yield Row(f"{where} of {part}", values, str(part))


def _datasets(path: Path) -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{path}: reading it needs the package datasets; run: pip install 'moalign[data]'"
        ) from error
    module: ModuleType = datasets
    return module
