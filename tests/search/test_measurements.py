from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from moalign.errors import RecordError
from moalign.search.measurements import Measured, Measurements
from moalign.types import Cost, Evaluation

NAN = math.nan
SAMPLE = {"prompt": "2+3", "text": "5", "scores": {"right": 1.0, "polite": None}}


def example(values_UK=((1.0, NAN), (0.1 + 0.2, -3.5))) -> Measurements:
    evaluation = Evaluation(
        ("right", "polite"),
        ("u", "v"),
        [list(row) for row in values_UK],
        Cost(5, 6, 0),
        (SAMPLE,),
    )
    measured = (Measured(None, evaluation), Measured({"right": 0.6, "polite": 0.4}, evaluation))
    return Measurements(3, 10, 40, "validation", Cost(100, 200, 300), measured)


def test_a_file_comes_back_as_it_was(tmp_path: Path):
    path = tmp_path / "validation.json"
    example().write(path)
    back = Measurements.read(path)
    # NaN is not equal to itself, so compare what stands there.
    assert repr(back) == repr(example())
    assert back.evaluations[0].evaluation.values_UK[1][0] == 0.1 + 0.2


def test_the_file_is_strict_json(tmp_path: Path):
    path = tmp_path / "validation.json"
    example().write(path)

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    data = json.loads(path.read_text(), parse_constant=refuse)
    assert data["evaluations"][0]["values_UK"] == [[1.0, None], [0.1 + 0.2, -3.5]]
    assert data["cost"] == {"generated": 100, "forwarded": 200, "backwarded": 300}
    assert [e["condition"] for e in data["evaluations"]] == [None, {"right": 0.6, "polite": 0.4}]


def test_an_infinite_value_is_not_written(tmp_path: Path):
    path = tmp_path / "validation.json"
    with pytest.raises(ValueError, match="not JSON compliant"):
        example(((math.inf, 0.0), (0.0, 0.0))).write(path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_what_stood_there(tmp_path: Path, monkeypatch):
    path = tmp_path / "validation.json"
    path.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        example().write(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "JSONDecodeError"),
        ('{"trial": 1', "JSONDecodeError"),
        ("[1, 2]", "TypeError"),
        ('{"trial": 1}', "KeyError: 'step'"),
        ("\udcff", "UnicodeDecodeError"),
    ],
)
def test_a_damaged_file_is_named_with_the_way_out(tmp_path: Path, text: str, problem: str):
    path = tmp_path / "validation.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RecordError) as caught:
        Measurements.read(path)
    assert str(caught.value).startswith(f"{path}: these measurements cannot be read ({problem}")
    assert str(caught.value).endswith(
        "delete the checkpoint's folder and run the same command again"
    )


def test_a_table_of_another_shape_is_damage(tmp_path: Path):
    path = tmp_path / "validation.json"
    example().write(path)
    data = json.loads(path.read_text())
    data["evaluations"][1]["values_UK"][0].pop()
    path.write_text(json.dumps(data))
    with pytest.raises(RecordError, match="values_UK should be 2 rows of 2 values"):
        Measurements.read(path)


def test_a_missing_file_is_a_record_error(tmp_path: Path):
    with pytest.raises(RecordError, match="FileNotFoundError"):
        Measurements.read(tmp_path / "validation.json")
