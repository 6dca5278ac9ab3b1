"""A run's files on their way between machines: a driver and two nodes that share a store only."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from moalign import OptionError, RecordError, SegmentTask, Start
from moalign.search.folders import RunFolder
from moalign.store import Mirror, key_of, resolved
from moalign.types import BASE

TASK = SegmentTask(run=Path("run"), trial=3, study={}, start=Start(), since=0, until=20, total=40)


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path: Path):
    if request.param == "file":
        return resolved(str(tmp_path / "store"))
    fsspec.filesystem("memory").store.clear()
    return "memory://bucket/runs"


@pytest.fixture
def mirrors(url: str, tmp_path: Path) -> list[Mirror]:
    """The folders of a driver and of two nodes; the driver's run has a base policy."""
    driver = RunFolder(tmp_path / "driver" / "mine")
    driver.base_artifact.parent.mkdir(parents=True)
    driver.base_artifact.write_text(json.dumps({"asked": "x", "artifact": "abc"}))
    base = driver.artifacts / "abc"
    (base / "tokenizer").mkdir(parents=True)
    (base / "model.safetensors").write_bytes(b"weights")
    (base / "tokenizer" / "words.json").write_text("[]")
    places = [driver.path, tmp_path / "one" / "mine", tmp_path / "two" / "mine"]
    return [Mirror(url, "key", path) for path in places]


def write(mirror: Mirror, trial: int, step: int, *names: str) -> None:
    folder = RunFolder(mirror.path).checkpoint(trial, step)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} of trial {trial} at {step}")


def files(mirror: Mirror) -> set[str]:
    root = mirror.path.parent
    found = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix() for path in found}


ARTIFACT = {
    "mine/base/artifact.json",
    ".artifacts/abc/model.safetensors",
    ".artifacts/abc/tokenizer/words.json",
}
CHECKPOINT = ("policy/policy.safetensors", "training/trial.json", "validation.json")


def held(trial: int, step: int, *names: str) -> set[str]:
    return {f"mine/trials/{trial:04d}/step-{step:05d}/{name}" for name in names}


def rewrite(mirror: Mirror, text: str) -> None:
    """Write the checkpoint with the same text in every file."""
    write(mirror, 3, 20, *CHECKPOINT)
    for name in CHECKPOINT:
        (RunFolder(mirror.path).checkpoint(3, 20) / name).write_text(text)


def texts(mirror: Mirror) -> set[str]:
    """Return what stands in the checkpoint's files."""
    folder = RunFolder(mirror.path).checkpoint(3, 20)
    return {(folder / name).read_text() for name in CHECKPOINT}


def test_a_segment_finds_what_it_reads_and_the_driver_what_it_wrote(mirrors: list[Mirror]):
    driver, one, two = mirrors
    driver.offer(TASK)
    one.fetch(TASK)
    assert files(one) == ARTIFACT
    write(one, 3, 20, *CHECKPOINT)
    one.keep(TASK)
    driver.collect(TASK)
    assert files(driver) == files(one) == ARTIFACT | held(3, 20, *CHECKPOINT)
    # Another node goes on.
    after = replace(TASK, since=20, until=40)
    driver.offer(after)
    two.fetch(after)
    assert files(two) == files(one)
    path = two.path / "trials/0003/step-00020/training/trial.json"
    assert path.read_text() == "training/trial.json of trial 3 at 20"


def test_a_measurement_of_what_stands_adds_its_file_only(mirrors: list[Mirror]):
    driver, one, two = mirrors
    write(driver, 3, 40, "policy/policy.safetensors", "validation.json")
    task = replace(TASK, since=40, until=40, split="test")
    driver.offer(task)
    one.fetch(task)
    write(one, 3, 40, "test.json")
    one.keep(task)
    driver.collect(task)
    names = ("policy/policy.safetensors", "validation.json", "test.json")
    assert files(driver) == files(one) == ARTIFACT | held(3, 40, *names)
    two.fetch(task)  # as a retry would: all is there
    assert files(two) == files(one)


def test_what_the_run_has_deleted_does_not_come_back(mirrors: list[Mirror]):
    driver, one, _ = mirrors
    driver.offer(TASK)
    one.fetch(TASK)
    write(one, 3, 20, *CHECKPOINT)
    one.keep(TASK)
    driver.collect(TASK)
    (driver.path / "trials/0003/step-00020/training/trial.json").unlink()
    (driver.path / "trials/0003/step-00020/training").rmdir()
    task = replace(TASK, since=20, split="test")
    write(one, 3, 20, "test.json")
    one.keep(task)
    driver.collect(task)
    assert files(driver) == ARTIFACT | held(3, 20, *CHECKPOINT[::2], "test.json")


def test_a_start_brings_the_policies_that_it_names(mirrors: list[Mirror]):
    driver, one, _ = mirrors
    for trial, step in ((0, 40), (1, 40), (2, 20)):
        write(driver, trial, step, *CHECKPOINT)
    task = replace(TASK, start=Start(((0, 40), (2, 20)), (0.5, 0.5)))
    driver.offer(task)
    one.fetch(task)
    assert files(one) == ARTIFACT | held(0, 40, *CHECKPOINT) | held(2, 20, *CHECKPOINT)


def test_what_one_node_prepares_reaches_the_others(mirrors: list[Mirror]):
    driver, one, two = mirrors
    driver.offer(TASK)
    one.fetch(TASK)
    run = RunFolder(one.path)
    run.prepared_artifact("calibration").write_text(json.dumps({"artifact": "calibration-1"}))
    (run.artifacts / "calibration-1").mkdir()
    (run.artifacts / "calibration-1" / "scores.json").write_text("{}")
    one.keep(TASK)
    for mirror, bring in ((two, two.fetch), (driver, driver.collect)):
        bring(TASK)
        assert "mine/base/calibration.json" in files(mirror)
        assert ".artifacts/calibration-1/scores.json" in files(mirror)


def test_the_base_policy_has_measurements_only(mirrors: list[Mirror]):
    driver, one, _ = mirrors
    task = replace(TASK, trial=BASE, until=0)
    driver.offer(task)
    one.fetch(task)
    write(one, BASE, 0, "validation.json")
    one.keep(task)
    driver.collect(task)
    assert files(driver) == ARTIFACT | {"mine/base/step-00000/validation.json"}


def test_a_checkpoint_without_measurements_counts_as_not_there(mirrors: list[Mirror]):
    """A worker was killed while it brought its files: the mark comes last."""
    driver, one, two = mirrors
    driver.offer(TASK)
    write(one, 3, 20, *CHECKPOINT[:2])
    one.keep(TASK)
    two.fetch(TASK)
    assert files(two) == ARTIFACT


@pytest.mark.parametrize("died_at", ["policy.tar", "training.tar"])
def test_a_checkpoint_is_of_one_attempt(mirrors: list[Mirror], monkeypatch, died_at: str):
    """The first worker died with some of its files in the store; the next one has others."""
    driver, one, two = mirrors
    put = Mirror._put

    def dying(self: Mirror, source: Path, target: str) -> None:
        put(self, source, target)
        if target.endswith(died_at):
            raise ConnectionError("gone")

    write(one, 3, 20, *CHECKPOINT)
    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "_put", dying)
        with pytest.raises(RecordError, match="gone"):
            one.keep(TASK)
    rewrite(two, "of the second attempt")
    two.keep(TASK)
    driver.collect(TASK)
    assert texts(driver) == {"of the second attempt"}


def test_what_the_run_makes_again_replaces_what_is_left_of_it(mirrors: list[Mirror], url: str):
    """The store keeps no policy that the run has deleted, and a trial may start from there."""
    driver, one, two = mirrors
    driver.offer(TASK)
    write(one, 3, 20, *CHECKPOINT)
    one.keep(TASK)
    store, root = fsspec.url_to_fs(url)
    store.rm_file(f"{root}/mine-key/trials/0003/step-00020/policy.tar")
    two.fetch(TASK)
    assert files(two) == ARTIFACT, "or the segment would find its measurements, and do nothing"
    rewrite(two, "made again")
    two.keep(TASK)
    driver.collect(TASK)
    assert texts(driver) == {"made again"}


def test_what_the_run_deletes_is_deleted_from_the_store(mirrors: list[Mirror], url: str):
    driver, one, _ = mirrors
    driver.offer(TASK)
    write(one, 3, 20, *CHECKPOINT)
    write(one, 4, 20, *CHECKPOINT)
    one.keep(TASK)
    one.keep(replace(TASK, trial=4))
    driver.collect(TASK)
    (driver.path / "trials/0003/step-00020/training/trial.json").unlink()
    (driver.path / "trials/0003/step-00020/training").rmdir()
    store, root = fsspec.url_to_fs(url)
    store.pipe_file(f"{root}/mine-key/trials/0003/step-00020/.policy.tar.half", b"x")
    driver.tidy()
    names = {str(path).partition("/trials/")[2] for path in store.find(f"{root}/mine-key/trials")}
    assert names == {
        "0003/step-00020/policy.tar",
        "0003/step-00020/validation.json",
        # Nobody has told the driver of these yet.
        "0004/step-00020/policy.tar",
        "0004/step-00020/training.tar",
        "0004/step-00020/validation.json",
    }


def test_what_stands_is_left_alone_and_nothing_is_left_half_written(mirrors: list[Mirror]):
    driver, one, _ = mirrors
    driver.offer(TASK)
    write(one, 3, 20, *CHECKPOINT)
    one.keep(TASK)
    write(driver, 3, 20, "validation.json")  # and nothing else: a start that fetched a part
    (driver.path / "trials/0003/step-00020/validation.json").write_text("mine")
    driver.collect(TASK)
    assert (driver.path / "trials/0003/step-00020/validation.json").read_text() == "mine"
    for mirror in (driver, one):
        assert not [p for p in mirror.path.parent.rglob(".*") if p.name != ".artifacts"]


def test_a_store_that_fails_is_a_sentence(mirrors: list[Mirror], tmp_path: Path):
    driver, one, _ = mirrors
    in_the_way = tmp_path / "in-the-way"
    in_the_way.write_text("")
    broken = Mirror(resolved(str(in_the_way)), "key", driver.path)
    with pytest.raises(RecordError, match=r"the store file://.* could not be written: NotADir"):
        broken.offer(TASK)
    driver.offer(TASK)
    write(one, 3, 20, *CHECKPOINT)
    one.keep(TASK)
    store, root = fsspec.url_to_fs(driver.url)
    store.pipe_file(f"{root}/mine-key/trials/0003/step-00020/policy.tar", b"no archive")
    with pytest.raises(RecordError, match=r"the store .* could not be read: ReadError"):
        driver.collect(TASK)


def test_runs_of_one_name_are_told_apart_by_their_records(tmp_path: Path):
    keys = set()
    for name in ("a", "b"):
        run = RunFolder(tmp_path / name / "mine")
        run.path.mkdir(parents=True)
        assert key_of(run.path) == "none"
        run.events.write_text(f'{{"event": "opened", "time": "{name}"}}\n')
        keys.add(before := key_of(run.path))
        with run.events.open("a") as events:
            events.write('{"event": "closed"}\n')
        assert key_of(run.path) == before
    assert len(keys) == 2


def test_a_store_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert resolved("there") == f"file://{tmp_path}/there"
    assert resolved("memory://x/y") == "memory:///x/y"
    with pytest.raises(OptionError, match="the store nowhere://x cannot be used: Protocol not"):
        resolved("nowhere://x")
