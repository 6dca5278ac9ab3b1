"""Kills a driver at chosen moments and lets another one go on. A script, without threads: it forks.

A moment is the n-th time that the driver, its segments included, touches the disk; it is killed
right before that call, or, where it writes, after half of it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from quick import Pairs, archive, quick_run

from moalign.search import events
from moalign.search.archive import Run
from moalign.search.folders import RunFolder
from moalign.search.record import read
from moalign.types import BASE

CALLS = ("write", "fsync", "ftruncate", "rename", "replace", "mkdir", "rmdir", "unlink")


def count_calls(at: int) -> Callable[[], int]:
    """Kill this process at call number ``at``; return a function that tells how many there were."""
    count = 0

    def counted(name: str):
        original = getattr(os, name)

        def call(*args, **options):
            nonlocal count
            count += 1
            if count == at:
                if name == "write":
                    original(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        return call

    for name in CALLS:
        setattr(os, name, counted(name))
    return lambda: count


def drive(folder: Path, at: int, workers: int, changes: list[str]) -> tuple[bool, int]:
    """Run the study in a process of its own; return whether it was killed, and its calls."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        calls = count_calls(at)
        quick_run(folder, *changes, executor=Pairs(workers))
        total = calls()
        with open(theirs, "w", closefd=False) as pipe:
            pipe.write(str(total))
        os._exit(0)
    os.close(theirs)
    _, status = os.waitpid(child, 0)
    with open(ours) as pipe:
        told = pipe.read()
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True, 0
    assert os.waitstatus_to_exitcode(status) == 0
    return False, int(told)


def again(folder: Path, moment: int, workers: int, changes: list[str]) -> Run:
    """Kill a driver at a moment, the one that goes on as well, a few calls later; finish then."""
    killed, _ = drive(folder, moment, workers, changes)
    assert killed, moment
    drive(folder, 3 + moment % 7, workers, changes)
    killed, _ = drive(folder, 0, workers, changes)
    assert not killed, moment
    return read(RunFolder(folder))


def amiss(run: Run) -> list[str]:
    """Return what a run has twice, or lacks, in whatever order its trials were done."""
    lines = map(events.from_line, run.folder.events.read_bytes().splitlines())
    kinds = Counter(
        (event.event, event.trial, getattr(event, "step", None), getattr(event, "split", None))
        for event in lines
        if hasattr(event, "trial")
    )
    found = [f"{times} times: {kind}" for kind, times in kinds.items() if times > 1]
    found += [f"has not ended: {trial.number}" for trial in run.live()]
    if run.closed != "finished" or len(run.trials) < run.opened[-1].trials:
        found.append(f"is {run.closed}, with {len(run.trials)} trials")
    points = {(BASE, 0), *((point.trial, point.step) for point in run.front())}
    found += [f"was not tested: {point}" for point in points - set(run.tests)]
    return found + [f"is lost: {point}" for point in run.lost()]


def main(folder: Path, moments: int, workers: int, changes: list[str]) -> None:
    given = workers, changes
    _, total = drive(folder / "whole", 0, *given)
    whole = archive(read(RunFolder(folder / "whole")))
    different, wrong = [], []
    chosen = random.Random(0).sample(range(1, total + 1), moments)
    for moment in chosen:
        run = again(folder / str(moment), moment, *given)
        wrong += [(moment, what) for what in amiss(run)]
        found = archive(run)
        different += [(moment, part) for part in whole if found[part] != whole[part]]
    starts = [trial[0] for trial in whole["trials"].values()]
    told = {"calls": total, "moments": chosen, "different": different, "wrong": wrong}
    print(json.dumps({**told, "proposals": starts}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
