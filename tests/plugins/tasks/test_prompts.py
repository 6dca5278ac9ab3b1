"""A person's own file: what it may be, how it is split, and every mistake by its text."""

from __future__ import annotations

import csv
import gzip
import inspect
import json
import re
import sys
import textwrap
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from moalign.errors import DataError, OptionError
from moalign.options import check_options
from moalign.tables import SHARES
from moalign.training.splits import split_prompts
from moalign.types import SPLITS, Demonstration
from moalign_plugins.tasks.prompts import Prompts

ROWS = [
    {"prompt": "What is the capital of Peru?", "answer": "Lima", "topic": "places"},
    {"prompt": 'Say "hello",\nplease.', "answer": "hello", "topic": "manners"},
    {"prompt": "Qu'est-ce que l'été?", "answer": "summer", "topic": ""},
]


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[dict]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: list[dict]) -> Path:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(rows).to_parquet(str(path))
    return path


def write_folder(path: Path, rows: list[dict]) -> Path:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(rows).save_to_disk(str(path))
    return path


def compressed(path: Path) -> Path:
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed


def many(count: int) -> list[dict]:
    return [{"prompt": f"prompt {i}", "group": f"g{i // 4}"} for i in range(count)]


def task(path: Path, **options) -> Prompts:
    return Prompts(**check_options(Prompts, {"path": str(path), **options}))


# --- reading -----------------------------------------------------------------------------------


WRITERS = {
    "a.jsonl": write_jsonl,
    "a.csv": write_csv,
    "A.CSV": write_csv,
    "a [1].parquet": write_parquet,
    "folder": write_folder,
}


@pytest.mark.parametrize("name", WRITERS)
def test_reads_every_kind_of_file_alike(tmp_path, name):
    found = task(WRITERS[name](tmp_path / name, ROWS)).prompts()
    assert [prompt.id for prompt in found] == ["1", "2", "3"]
    assert [prompt.text for prompt in found] == [row["prompt"] for row in ROWS]
    assert [prompt.fields for prompt in found] == [
        {"answer": "Lima", "topic": "places"},
        {"answer": "hello", "topic": "manners"},
        {"answer": "summer"},  # the empty cell is no field
    ]
    assert [prompt.unit for prompt in found] == ["1", "2", "3"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_reads_compressed_files(tmp_path, name):
    plain = WRITERS[name](tmp_path / name, ROWS)
    assert task(compressed(plain)).prompts() == task(plain).prompts()


def test_columns_name_the_fields(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    found = task(path, prompt="answer", columns={"reference": "prompt"}).prompts()
    assert [prompt.text for prompt in found] == ["Lima", "hello", "summer"]
    assert found[0].fields == {"reference": "What is the capital of Peru?"}


def test_skips_blank_lines_and_reads_what_windows_writes(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n{"prompt": "b\xe2\x80\xa8c"}\r\n')
    assert [prompt.text for prompt in task(path).prompts()] == ["a", "b\u2028c"]
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfprompt,n\r\na,1\r\n\r\nb,2\r\n")
    assert [(p.text, p.fields) for p in task(path).prompts()] == [
        ("a", {"n": "1"}),
        ("b", {"n": "2"}),
    ]


def test_json_values_keep_their_types(tmp_path):
    rows = [{"prompt": "a", "answer": 7, "accepted": ["x", "y"], "note": None}]
    found = task(write_jsonl(tmp_path / "a.jsonl", rows)).prompts()
    assert found[0].fields == {"answer": 7, "accepted": ["x", "y"]}


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    assert len(Prompts(path="~/a.jsonl").prompts()) == 3


def test_the_files_of_the_documentation_can_be_read(tmp_path):
    page = inspect.cleandoc(Prompts.__doc__ or "")
    blocks = [textwrap.dedent(b) for b in re.findall(r"::\n\n((?:    .*\n|\n)+)", page)]
    jsonl = next(b for b in blocks if b.startswith("{"))
    study = next(b for b in blocks if b.startswith("study:"))
    table = next(b for b in blocks if b.startswith("question,"))
    options = yaml.safe_load(study)["task"]["prompts"]
    (tmp_path / options["path"]).write_text(jsonl)
    options["path"] = str(tmp_path / options["path"])
    found = Prompts(**check_options(Prompts, options)).prompts()
    assert [prompt.fields for prompt in found] == [{"reference": "Lima"}, {"reference": "8"}]
    (tmp_path / "questions.csv").write_text(table)
    found = task(tmp_path / "questions.csv", prompt="question").prompts()
    assert found[1].text == 'Say "hello", please.'


# --- splits, units, demonstrations -------------------------------------------------------------


def shares(found: list) -> dict[str, float]:
    return {split: sum(p.split == split for p in found) / len(found) for split in SPLITS}


def test_splits_by_a_hash_with_the_default_shares(tmp_path):
    rows = many(4000)
    found = task(write_jsonl(tmp_path / "a.jsonl", rows)).prompts()
    assert shares(found) == pytest.approx(dict(SHARES), abs=0.015)
    fewer = task(write_jsonl(tmp_path / "b.jsonl", rows[::-1][:400])).prompts()
    places = {prompt.text: prompt.split for prompt in found}
    assert all(places[prompt.text] == prompt.split for prompt in fewer)


def test_splits_by_given_shares(tmp_path):
    wanted = {"train": 0.4, "steer": 0.2, "validation": 0.3, "test": 0.1}
    path = write_jsonl(tmp_path / "a.jsonl", many(4000))
    assert shares(task(path, split=wanted).prompts()) == pytest.approx(wanted, abs=0.03)


def test_a_unit_stays_in_one_split(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", many(2000))
    splits = defaultdict(set)
    for prompt in task(path, unit="group").prompts():
        splits[prompt.unit].add(prompt.split)
    assert len(splits) == 500
    assert {len(found) for found in splits.values()} == {1}


def test_equal_prompts_stay_in_one_split_and_are_counted(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", many(50) * 2)
    assert len({(p.text, p.split) for p in task(path).prompts()}) == 50
    facts = task(path).facts()
    assert facts["rows"] == 100
    assert facts["rows that repeat a prompt"] == 50
    assert facts["prompts in more than one split"] == 0
    assert sum(facts[f"prompts in {split}"] for split in SPLITS) == 100


def test_a_column_names_the_splits(tmp_path):
    rows = [{"prompt": f"p{i}", "part": SPLITS[i % 4]} for i in range(8)]
    rows.append({"prompt": "p0", "part": "test"})
    own = task(write_jsonl(tmp_path / "a.jsonl", rows), split="part")
    assert [prompt.split for prompt in own.prompts()] == [row["part"] for row in rows]
    assert own.facts()["prompts in more than one split"] == 1


def test_splits_that_no_row_names_come_out_of_train(tmp_path):
    rows = [{"prompt": f"p{i}", "part": "test" if i % 4 == 0 else "train"} for i in range(4000)]
    found = task(write_jsonl(tmp_path / "a.jsonl", rows), split="part").prompts()
    test = {prompt.text for prompt in found if prompt.split == "test"}
    assert test == {row["prompt"] for row in rows if row["part"] == "test"}
    rest = shares([prompt for prompt in found if prompt.split != "test"])
    expected = {"train": 0.9, "steer": 0.05, "validation": 0.05, "test": 0.0}
    assert rest == pytest.approx(expected, abs=0.015)


def test_the_parts_of_a_dataset_are_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    parts = {
        "train": datasets.Dataset.from_list(many(400)),
        "test": datasets.Dataset.from_list([{"prompt": "held out", "group": "t"}]),
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "folder"))
    found = task(tmp_path / "folder").prompts()
    assert [prompt.text for prompt in found if prompt.split == "test"] == ["held out"]
    assert {prompt.split for prompt in found} == set(SPLITS)


def test_completions_of_train_rows_are_demonstrations(tmp_path):
    rows = [{"prompt": f"p{i}", "good": f"c{i}" if i % 2 else ""} for i in range(400)]
    own = task(write_csv(tmp_path / "a.csv", rows), completion="good")
    shown = own.demonstrations(0)
    train = {prompt.text for prompt in own.prompts() if prompt.split == "train"}
    assert set(shown) == {
        Demonstration(f"p{i}", f"c{i}") for i in range(1, 400, 2) if f"p{i}" in train
    }
    assert own.facts()["demonstrations"] == len(shown)
    assert own.demonstrations(0) == shown
    assert own.demonstrations(1) != shown


def test_without_a_completion_column_there_are_no_demonstrations(tmp_path):
    assert task(write_jsonl(tmp_path / "a.jsonl", ROWS)).demonstrations(0) == []


# --- preferences ------------------------------------------------------------------------------


def preferences(count: int) -> list[dict]:
    rows = [
        {"prompt": f"p{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(count)
    ]
    rows[1] |= {"rejected": "good 1"}
    return [*rows, {"prompt": "q", "chosen": "", "rejected": None}, {"prompt": "r"}]


def test_columns_with_two_completions_are_preferences(tmp_path):
    own = task(write_jsonl(tmp_path / "a.jsonl", preferences(400)))
    pairs = own.pairs(0)
    train = {p.text: p for p in own.prompts() if p.split == "train"}
    expected = {f"p{i}" for i in range(400) if i != 1} & set(train)
    assert {pair.prompt.text for pair in pairs} == expected
    assert len(pairs) == len(expected)
    for pair in pairs:
        number = pair.prompt.text[1:]
        assert (pair.chosen, pair.rejected) == (f"good {number}", f"bad {number}")
        assert pair.prompt == train[pair.prompt.text]
    assert own.pairs(0) == pairs
    assert own.pairs(1) != pairs
    facts = own.facts()
    assert facts["preferences in train"] == len(pairs)
    assert facts["rows whose two completions are equal"] == 1
    assert facts["rows without a preference"] == 2


def test_preferences_may_be_in_columns_of_other_names(tmp_path):
    rows = [{"prompt": f"p{i}", "a": "x", "b": "y"} for i in range(50)]
    path = write_csv(tmp_path / "a.csv", rows)
    assert task(path).pairs(0) == []
    assert "preferences in train" not in task(path).facts()
    pairs = task(path, chosen="b", rejected="a").pairs(0)
    assert {(pair.chosen, pair.rejected) for pair in pairs} == {("y", "x")}
    with pytest.raises(DataError, match="there is no column 'bb'; did you mean 'b'"):
        task(path, chosen="a", rejected="bb").pairs(0)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"chosen": "a"}, "column 'chosen' is filled and 'rejected' is empty"),
        ({"chosen": "a", "rejected": ""}, "column 'chosen' is filled and 'rejected' is empty"),
        ({"chosen": None, "rejected": "b"}, "column 'rejected' is filled and 'chosen' is empty"),
        ({"chosen": "a", "rejected": 7}, "column 'rejected' must be text; found int"),
        ({"chosen": " ", "rejected": "b"}, "column 'chosen' is blank; fill it or drop the row"),
    ],
)
def test_half_a_preference_is_refused_by_its_line(tmp_path, row, sentence):
    rows = [*preferences(2), {"prompt": "half", **row}]
    own = task(write_jsonl(tmp_path / "a.jsonl", rows))
    assert len(own.prompts()) == 5
    for look in (lambda: own.pairs(0), own.facts):
        with pytest.raises(DataError, match=re.escape(f"{own.path}, line 5: {sentence}")):
            look()


# --- mistakes ----------------------------------------------------------------------------------


def refused(own: Prompts, sentence: str) -> None:
    with pytest.raises(DataError, match=re.escape(sentence)):
        own.prompts()


def test_a_missing_file(tmp_path):
    write_jsonl(tmp_path / "questions.jsonl", ROWS)
    own = task(tmp_path / "question.jsonl")
    refused(
        own,
        f"{own.path}: there is no such file or folder; in {tmp_path} did you mean "
        "'questions.jsonl'? Allowed: questions.jsonl",
    )
    (tmp_path / "empty").mkdir()
    refused(task(tmp_path / "empty" / "a.csv"), "empty there is no data file")
    refused(task(tmp_path / "no" / "a.csv"), f"the folder {tmp_path / 'no'} does not exist either")


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("a.jsonl", b"", "a.jsonl: it has no rows; a row is a prompt"),
        ("a.csv", b"prompt,answer\n", "a.csv: it has no rows"),
        (
            "a.jsonl",
            b'{"prompt": "a"}\n{"prompt": "\xe9t\xe9"}\n',
            "a.jsonl, line 2: it is not UTF-8 (byte 0xe9); save it as UTF-8",
        ),
        ("a.csv", "prompt\nété".encode("utf-16"), "a.csv, line 1: it is not UTF-8 (byte 0xff)"),
        (
            "a.jsonl",
            b'{"prompt": "a"}\n\n{"prompt": }\n',
            "a.jsonl, line 3: it is not JSON (Expecting value",
        ),
        ("a.jsonl", b'["a"]\n', 'one JSON object, like {"prompt": "..."}; found list'),
        ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1: it is not JSON"),
        (
            "a.jsonl",
            b'{"promt": "a"}\n',
            "a.jsonl, line 1: there is no column 'prompt'; did you mean 'promt'? Allowed: promt",
        ),
        (
            "a.jsonl",
            b'{"prompt": "a"}\n{"x": "b"}\n',
            "line 2: column 'prompt' is missing, which other",
        ),
        ("a.jsonl", b'{"prompt": ""}\n', "a.jsonl, line 1: column 'prompt' is empty; fill it or"),
        ("a.jsonl", b'{"prompt": null}\n', "a.jsonl, line 1: column 'prompt' is empty"),
        ("a.jsonl", b'{"prompt": " \\n"}\n', "a.jsonl, line 1: column 'prompt' is blank"),
        ("a.jsonl", b'{"prompt": 7}\n', "line 1: column 'prompt' must be text; found int"),
        ("a.csv", b'prompt,n\n"two\nlines",1\n,2\n', "a.csv, line 4: column 'prompt' is empty"),
        ("a.csv", b"prompt,n\na,1\nb,c,2\n", "a.csv, line 3: it has 3 cells, but the first line"),
        ("a.csv", b"prompt,n\na\n", "a.csv, line 2: it has 1 cells, but the first line names 2"),
        ("a.csv", b"prompt,n,n\na,1,2\n", "line 1: a column name occurs twice: prompt, n, n"),
        ("a.csv", b'prompt\n"a\n', "a.csv, line 2: it is not CSV (unexpected end of data)"),
        (
            "a.json",
            b'[{"prompt": "a"}]',
            "cannot tell what it is by its ending '.json'; did you mean '.jsonl'? Allowed: .csv",
        ),
        ("a.jsonl.gz", b"plain", "a.jsonl.gz: cannot be read: Not a gzipped file"),
        (
            "a.jsonl.gz",
            gzip.compress(b"x" * 99, mtime=0)[:-9],
            "a.jsonl.gz: cannot be read: Compressed",
        ),
    ],
)
def test_a_bad_file(tmp_path, name, data, sentence):
    (tmp_path / name).write_bytes(data)
    refused(task(tmp_path / name), sentence)


def test_a_missing_reference(tmp_path):
    rows = [{"prompt": "a", "answer": "b"}, {"prompt": "c", "answer": ""}]
    path = write_csv(tmp_path / "a.csv", rows)
    refused(
        task(path, columns={"reference": "answer"}),
        f"{path}, line 3: column 'answer' is empty; fill it or drop the row",
    )
    refused(task(path, columns={"reference": "answers"}), "did you mean 'answer'?")


def test_an_unknown_split(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "a", "part": "valid"}])
    refused(
        task(path, split="part"),
        f"{path}, line 1: column 'part' names no split: 'valid'; did you mean 'validation'?",
    )


def test_a_missing_unit_or_completion(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    refused(task(path, unit="topics"), "there is no column 'topics'; did you mean 'topic'?")
    with pytest.raises(DataError, match="there is no column 'answers'; did you mean 'answer'"):
        task(path, completion="answers").demonstrations(0)


@pytest.mark.parametrize(
    "split",
    [
        {"train": 0.9, "test": 0.2},
        {"train": 0.9, "steer": 0.1, "validation": 0.1, "test": 0.1},
        {"train": 1.1, "test": -0.1},
        {},
        {"train": 0.7, "steer": 0.1, "valid": 0.1, "test": 0.1},
    ],
)
def test_shares_that_do_not_add_up(tmp_path, split):
    with pytest.raises(OptionError, match="split") as refusal:
        task(tmp_path / "a.jsonl", split=split)
    assert refusal.value.option == "split", "so that a study can point at it"


@pytest.mark.parametrize("more", [{}, {"steer": 0}])
def test_a_split_without_a_share_gets_nothing(tmp_path, more):
    wanted = {"train": 0.34, "validation": 0.33, "test": 0.33}
    path = write_jsonl(tmp_path / "a.jsonl", many(2000))
    found = shares(task(path, split={**wanted, **more}).prompts())
    assert found["steer"] == 0
    assert found == pytest.approx({**wanted, "steer": 0}, abs=0.04)


def test_rows_that_were_dealt_elsewhere_are_said_where_too_few_are_left(tmp_path):
    rows = [
        {"prompt": f"p{i}", "part": ("train", "validation", "test")[i % 3]} for i in range(3 * 60)
    ]
    own = task(write_jsonl(tmp_path / "a.jsonl", rows), split="part")
    steer = sum(prompt.split == "steer" for prompt in own.prompts())
    were = "was" if steer == 1 else "were"
    sentence = f"{steer} of 60 rows named train {were} dealt to steer, which no row names"
    assert steer > 0
    assert own.left_out("prompts") == [sentence]
    with pytest.raises(DataError, match=rf"steer split has {steer} prompts \({sentence}\)"):
        split_prompts(own, SPLITS)
    for row in rows[:3]:
        row["part"] = "steer"
    named = task(write_jsonl(tmp_path / "b.jsonl", rows), split="part")
    assert named.left_out("prompts") == []
    assert task(own.path).left_out("prompts") == [], "shares are what they say"


def test_equal_completions_are_said_where_preferences_are_missing(tmp_path):
    rows = [{"prompt": f"p{i}", "chosen": "a", "rejected": "a"} for i in range(3)]
    own = task(write_jsonl(tmp_path / "a.jsonl", rows))
    assert own.left_out("prompts") == []
    assert own.left_out("pairs") == [
        f"3 rows whose two completions are equal are left out, the first in {own.path}, line 1"
    ]


def test_what_datasets_cannot_read(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "a.parquet").write_bytes(b"PAR")
    refused(task(tmp_path / "a.parquet"), "a.parquet: cannot be read as Parquet: ")
    sentence = f"{tmp_path}: cannot be read as a folder that Dataset.save_to_disk wrote"
    refused(task(tmp_path), sentence)


@pytest.mark.parametrize("name", ["a.parquet", "folder"])
def test_a_missing_package_is_named_with_the_command(tmp_path, monkeypatch, name):
    path = tmp_path / name
    if path.suffix:
        path.touch()
    else:
        path.mkdir()
    monkeypatch.setitem(sys.modules, "datasets", None)  # importing it fails
    refused(
        task(path),
        f"{path}: reading it needs the package datasets; run: pip install 'moalign[data]'",
    )
