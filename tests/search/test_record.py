from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moalign.errors import RecordError
from moalign.search import events
from moalign.search.folders import RunFolder
from moalign.search.record import Record, read
from moalign.types import Cost, Objective, Proposal, Start

STUDY = {"training": {"steps": 4}, "search": {"order": "logical", "keep": 0.5}}
OPENED = events.Opened(
    time=1.5,
    fingerprint="f",
    study=STUDY,
    objectives=(Objective("a", (0.0, 1.0)), Objective("b", (0.0, 2.0), at_least=0.5)),
    workers=2,
    trials=4,
    versions={"python": "3.11"},
    plugins={"mine.py": "abc"},
    revision=None,
    pid=4711,
    host="here",
)
PROPOSED = events.Proposed(2.5, 0, Proposal({"x": 0.1, "w": {"a": 0.25, "b": 0.75}}))
MEASURED = events.Measured(
    3.5, 0, 2, "validation", (events.Point(None, (0.5, 1.0), (0.1, math.nan)),), Cost(1, 2, 3), 0.5
)
ALL = (
    OPENED,
    PROPOSED,
    events.Proposed(2.5, 1, Proposal({}, Start(((0, 2),), (1.0,)), 8, {"y": [1, "z", None]})),
    MEASURED,
    events.Decided(4.5, 0, 2, True, "because"),
    events.Lost(4.6, 0, 4, 1, "the worker process 7 was killed by SIGKILL"),
    events.Failed(4.7, 0, "it broke", "Traceback\nline two"),
    events.OpenedTest(5.5, ((-1, 0), (0, 2))),
    events.Closed(6.5, "finished"),
)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "mine")


def filled(folder: RunFolder, *lines: events.Event) -> bytes:
    with Record(folder) as record:
        for event in lines:
            record.append(event)
    return folder.events.read_bytes()


@pytest.mark.parametrize("event", ALL, ids=lambda e: e.event)
def test_an_event_is_one_line_and_comes_back(event: events.Event):
    line = events.to_line(event)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert repr(events.from_line(line)) == repr(event)
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@given(st.floats(allow_nan=True, allow_infinity=False))
def test_numbers_come_back_to_the_bit(value: float):
    event = events.Measured(
        0.0, 0, 1, "test", (events.Point(None, (value,), (value,)),), Cost(), 0.0
    )
    (point,) = events.from_line(events.to_line(event)).points
    assert point.values_K[0] == value or (math.isnan(value) and math.isnan(point.values_K[0]))


def test_what_was_appended_is_read_again(folder: RunFolder):
    filled(folder, *ALL)
    run = read(folder)
    assert repr(run.trials[0].proposal) == repr(PROPOSED.proposal)
    assert repr(run.trials[0].measured[2]) == repr(MEASURED)
    assert run.trials[0].outcome == "failed"
    assert run.trials[0].reason == "it broke"
    assert (run.trials[0].total, run.trials[1].total) == (4, 8)
    assert run.closed == "finished"
    assert run.test_openings[0].points == ((-1, 0), (0, 2))


@pytest.mark.parametrize("torn", [b'{"time":9', b"\0\0\0", b'{"time":9,"event":"closed"}'])
def test_a_torn_last_line_is_dropped(folder: RunFolder, torn: bytes):
    whole = filled(folder, OPENED, PROPOSED)
    folder.events.write_bytes(whole + torn)
    assert list(read(folder).trials) == [0]
    assert folder.events.read_bytes() == whole + torn  # a reader changes nothing
    with Record(folder) as record:
        assert list(record.state.trials) == [0]
        assert folder.events.read_bytes() == whole
        record.append(events.Closed(1.0, "finished"))
    assert read(folder).closed == "finished"


@pytest.mark.parametrize(
    ("number", "line", "problem"),
    [
        (2, b"not json", "Invalid JSON"),
        (2, b"", "Invalid JSON"),
        (3, b'{"event":"guessed"}', "Input tag 'guessed' found"),
        (3, b'{"event":"closed","time":1}', "closed.outcome: Field required"),
        (2, events.to_line(MEASURED).strip(), "trial 0 was never proposed"),
        (3, events.to_line(PROPOSED).strip(), "trial 1 comes next, not 0"),
        (1, events.to_line(PROPOSED).strip(), "a record begins with the opening of the run"),
    ],
)
def test_a_damaged_line_is_named(folder: RunFolder, number: int, line: bytes, problem: str):
    lines = filled(folder, OPENED, PROPOSED, MEASURED).splitlines()
    lines[number - 1 : number] = [line]
    if number == 2 and line.startswith(b'{"time"'):
        lines[2:] = []
    damaged = b"\n".join(lines) + b"\n"
    folder.events.write_bytes(damaged)
    for opening in (read, Record):
        with pytest.raises(RecordError) as caught:
            opening(folder)
        text = str(caught.value)
        assert text.startswith(f"{folder.events} line {number}: the record is damaged here (")
        assert problem in text
        assert "--run" in text
    assert folder.events.read_bytes() == damaged
    filled(RunFolder(folder.path.with_name("other")), OPENED)  # the lock was let go of


def test_a_second_driver_is_kept_out_and_told_by_whom(folder: RunFolder):
    with Record(folder) as record:
        record.append(OPENED)
        with pytest.raises(RecordError) as caught:
            Record(folder)
        assert str(caught.value) == (
            "run mine is being driven by process 4711 on here; wait until it ends, or start "
            "another run with --run"
        )
        assert list(read(folder).opened) == [OPENED]  # reading needs no lock
    Record(folder).close()


def test_the_lock_holds_between_processes_and_dies_with_them(folder: RunFolder):
    code = (
        "import sys; from pathlib import Path; from moalign.search.record import Record; "
        "from moalign.search.folders import RunFolder; "
        "record = Record(RunFolder(Path(sys.argv[1]))); print('held', flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RecordError, match="run mine is being driven by another process"):
            Record(folder)
        other.kill()
    Record(folder).close()


@pytest.mark.parametrize(
    "event",
    [
        events.Proposed(2.5, 0, Proposal([1, 2])),
        events.Noted(2.5, 0, 1, 5),
        events.Failed(2.5, "0", "why", ""),
    ],
    ids=lambda event: event.event,
)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_what_could_not_be_read_back_is_not_written(folder: RunFolder, event: events.Event):
    with Record(folder) as record:
        record.append(OPENED)
        before = folder.events.read_bytes()
        with pytest.raises(RecordError, match="could not be read back"):
            record.append(event)
        assert folder.events.read_bytes() == before
    assert not read(folder).trials


def test_half_a_character_is_written_as_its_code(folder: RunFolder):
    failed = events.Failed(4.7, 0, "no file \udc80", "Traceback \ud800")
    with Record(folder) as record:
        for event in (OPENED, PROPOSED, failed):
            record.append(event)
        assert record.state.trials[0].reason == "no file \\udc80"
    assert read(folder).trials[0].reason == "no file \\udc80"


@pytest.mark.parametrize("half", [0, 7])
def test_a_full_disk_leaves_the_record_as_it_was(folder: RunFolder, monkeypatch, half: int):
    with Record(folder) as record:
        record.append(OPENED)
        before, write = folder.events.read_bytes(), os.write

        def full(descriptor: int, data: bytes) -> int:
            if half and len(data) > half and data.startswith(b"{"):
                return write(descriptor, data[:half])
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(RecordError) as caught:
                record.append(PROPOSED)
        assert "No space left on device" in str(caught.value)
        assert str(folder.events) in str(caught.value)
        assert folder.events.read_bytes() == before
        assert not record.state.trials
        record.append(PROPOSED)  # there is room again
    assert list(read(folder).trials) == [0]


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_them_all(folder: RunFolder, monkeypatch):
    write = os.write
    with Record(folder) as record, monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
        for event in ALL:
            record.append(event)
    assert folder.events.read_bytes() == b"".join(map(events.to_line, ALL))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError) as caught:
        Record(RunFolder(tmp_path / "file" / "mine"))
    assert str(caught.value).startswith(f"{tmp_path / 'file' / 'mine'}: nothing can be written")
    assert "--out" in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(RecordError, match="nothing can be written"):
        Record(RunFolder(tmp_path / "mine"))


def test_a_run_that_is_not_there(folder: RunFolder):
    with pytest.raises(RecordError, match="there is no record to read"):
        read(folder)
    folder.path.mkdir(parents=True)
    folder.events.write_bytes(b"")
    with pytest.raises(RecordError, match="the record is empty; this run never began"):
        read(folder)
