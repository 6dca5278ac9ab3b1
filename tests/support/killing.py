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
from collections.abc import Callable
from pathlib import Path

from quick import Pairs, archive, quick_run

from moalign.search.folders import RunFolder
from moalign.search.record import read

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


def main(folder: Path, moments: int, workers: int, changes: list[str]) -> None:
    given = workers, changes
    _, total = drive(folder / "whole", 0, *given)
    whole = archive(read(RunFolder(folder / "whole")))
    different = []
    chosen = random.Random(0).sample(range(1, total + 1), moments)
    for moment in chosen:
        mine = folder / str(moment)
        killed, _ = drive(mine, moment, *given)
        assert killed, moment
        # Twice: the one that goes on is killed as well, a few calls later.
        drive(mine, 3 + moment % 7, *given)
        killed, _ = drive(mine, 0, *given)
        assert not killed, moment
        found = archive(read(RunFolder(mine)))
        different += [(moment, part) for part in whole if found[part] != whole[part]]
    starts = [trial[0] for trial in whole["trials"].values()]
    told = {"calls": total, "moments": chosen, "different": different, "proposals": starts}
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
