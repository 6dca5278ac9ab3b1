"""Trials per hour with two workers over one, for each executor, and what the driver takes itself.

python benchmarks/executors.py
python benchmarks/executors.py --executors processes --blocks 5 --trials 16

Every arm runs the same trials, of equal length, each worker with one torch thread, in a process of
its own. Arms take turns: a block has each of them once, and a ratio is of two arms of one block.
Rates are of the steady state: for each worker from the end of its first trial (so imports, the base
policy and its measurement are over) to that of its last one while all others were busy, added up.
What the machine allows is measured beside them: studies in processes that know nothing of each
other, without an executor. Needs as many idle cores as there are workers, and
`pip install 'moalign[ray]'` for `ray`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from scipy.stats import t as student
from table import markdown, write

from moalign import hookimpl, plugins
from moalign.cli.common import quiet_libraries
from moalign.components import Executor
from moalign.search.driver import run_study
from moalign.study import bundled
from moalign.study.loading import load
from moalign.types import StepEvent

GOAL = 1.8  # two workers over one
WORKERS = (1, 2)
SEPARATE = "separate"
"""Not an executor: as many studies as there are workers elsewhere, all at the same time."""
TITLE = "Trials per hour with two workers over one"


@dataclass(frozen=True)
class Arm:
    """What one process measured.

    Attributes:
        hourly: trials per hour.
        driver: share of a core that the driver took.
        others: that of processes that are neither driver nor workers: Ray's own.
        seconds: how long the steady state was.
        trials: that ended in it.
    """

    hourly: float
    driver: float
    others: float
    seconds: float
    trials: int


class Clock:
    """Notes when trials end, on which worker, and what other processes have used until then."""

    def __init__(self, executor: Any) -> None:
        self.executor = executor
        self.on: dict[int, int] = {}
        self.told: list[tuple[int, float, float, float]] = []

    @hookimpl
    def moalign_step_ended(self, event: StepEvent) -> None:
        """Note who runs a trial."""
        if self.executor.name == "local":
            self.on[event.trial] = os.getpid()
            return
        for worker in self.executor._workers:
            if worker.task is not None and worker.task.trial == event.trial:
                self.on[event.trial] = self._pid(worker)

    @hookimpl
    def moalign_trial_ended(self, trial: int, outcome: str) -> None:
        """Look at the clocks."""
        assert outcome == "finished", outcome
        me = psutil.Process()
        used, others = me.cpu_times(), 0.0
        running = () if self.executor.name == "local" else self.executor._workers
        workers = {self._pid(worker) for worker in running if worker.ready}
        for process in me.children(recursive=True):
            try:
                spent = process.cpu_times()
            except psutil.NoSuchProcess:  # it has just ended
                continue
            others += 0.0 if process.pid in workers else spent.user + spent.system
        self.told.append((self.on[trial], time.monotonic(), used.user + used.system, others))

    def _pid(self, worker: Any) -> int:
        if self.executor.name == "ray":  # "the Ray worker PID on ADDRESS"
            return int(worker.where.split()[3])
        return int(worker.process.pid)

    def arm(self, workers: int) -> Arm:
        """Return what the steady state was."""
        busy = self.told[: len(self.told) - workers + 1]
        ends: dict[int, list[float]] = {}
        for worker, moment, *_ in busy:
            ends.setdefault(worker, []).append(moment)
        if len(ends) < workers or min(map(len, ends.values())) < 2:
            raise SystemExit("a worker ended too few trials while all were busy; ask for --trials")
        hourly = sum(3600 * (len(each) - 1) / (each[-1] - each[0]) for each in ends.values())
        (_, began, driver, others), (_, ended, driver_then, others_then) = busy[0], busy[-1]
        seconds = ended - began
        shares = (driver_then - driver) / seconds, (others_then - others) / seconds
        return Arm(hourly, *shares, seconds, sum(len(each) - 1 for each in ends.values()))


def run_arm(args: argparse.Namespace, executor: str, workers: int, folder: Path) -> Arm:
    """Run a study in this process."""
    quiet_libraries()
    text, source = bundled.read(args.study)
    asked = "local" if executor == SEPARATE else f"{{{executor}: {{workers: {workers}}}}}"
    given = [
        f"executor={asked}",
        "training.threads=1",
        f"training.steps={args.steps}",
        f"training.warmup={min(5, args.steps)}",
        f"search.trials={args.trials // 2 if executor == SEPARATE else args.trials}",
        "search.strategy=random",  # proposes the same trials, whatever is known
        "search.rungs=[]",
        *args.set,
    ]
    study = load(text, source, plugins.load(), given)
    built = study.new_executor()
    assert isinstance(built, Executor)
    clock = Clock(built)
    result = run_study(study, folder, executor=built, listeners=[clock], strict=True)
    assert result.outcome == "finished", result.outcome
    return clock.arm(workers)


def measured(args: argparse.Namespace, executor: str, workers: int, block: int) -> Arm:
    """Return what an arm measured: now, in other processes, or when it was measured before."""
    apart = workers if executor == SEPARATE else 1
    name = f"{executor}-{workers}-{block}"
    files = [args.out / f"{name}-{n}.json" for n in range(apart)]
    if not all(file.is_file() for file in files):
        command = [sys.executable, __file__, *sys.argv[1:], "--arm", executor]
        print(name, flush=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        started = [
            subprocess.Popen([*command, str(workers // apart), file.stem], env=environment)
            for file in files
        ]
        ended = [process.wait() for process in started]
        if any(ended):
            raise SystemExit(f"{name} ended with status {max(ended, key=abs)}")
    return together([Arm(**json.loads(file.read_text())) for file in files])


def together(arms: list[Arm]) -> Arm:
    """Return as one what was measured at the same time."""
    return Arm(
        hourly=sum(arm.hourly for arm in arms),
        driver=0.0 if len(arms) > 1 else arms[0].driver,
        others=sum(arm.others for arm in arms),
        seconds=max(arm.seconds for arm in arms),
        trials=sum(arm.trials for arm in arms),
    )


def spread(values: list[float], places: int) -> str:
    """Return mean and range as text."""
    low, high = (f"{value:.{places}f}" for value in (min(values), max(values)))
    return f"{statistics.mean(values):.{places}f} ({low} to {high})"


def ratio(pairs: list[tuple[float, float]]) -> tuple[float, str]:
    """Return the geometric mean of two over one, and its 95 % interval over blocks as text."""
    logs = [math.log(two / one) for one, two in pairs]
    middle = statistics.mean(logs)
    if len(logs) < 2:
        return math.exp(middle), "?"
    error = statistics.stdev(logs) / math.sqrt(len(logs)) * float(student.ppf(0.975, len(logs) - 1))
    return math.exp(middle), f"{math.exp(middle - error):.2f} to {math.exp(middle + error):.2f}"


def main() -> None:
    """Run all arms, block by block, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--executors", nargs="+", default=["processes", "ray", SEPARATE])
    parser.add_argument("--study", default="restaurants")
    parser.add_argument("--steps", type=int, default=20, help="of a trial")
    parser.add_argument("--trials", type=int, default=14, help="of an arm")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    out = Path("runs") / "benchmarks" / "executors"
    parser.add_argument("--out", type=Path, default=out, help="where arms lie; done ones stay")
    parser.add_argument("--dry", action="store_true", help="print the table, and write none")
    parser.add_argument("--arm", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    least = 3 * max(WORKERS)
    if args.trials < least:
        parser.error(f"--trials {args.trials}: a steady state needs {least} at least")
    args.out.mkdir(parents=True, exist_ok=True)
    if args.arm:
        executor, workers, name = args.arm
        arm = run_arm(args, executor, int(workers), args.out / name)
        (args.out / f"{name}.json").write_text(json.dumps(asdict(arm)))
        return
    arms: dict[tuple[str, int], list[Arm]] = {}
    for block in range(args.blocks):
        order = [(executor, workers) for executor in args.executors for workers in WORKERS]
        turn = block % len(order)  # so that no arm is always the first
        for executor, workers in order[turn:] + order[:turn]:
            arm = measured(args, executor, workers, block)
            arms.setdefault((executor, workers), []).append(arm)
    rows, gains = [], {}
    for executor in args.executors:
        for workers in WORKERS:
            told = arms[executor, workers]
            shares = [[100 * arm.driver for arm in told], [100 * arm.others for arm in told]]
            rows.append(
                [executor, workers, spread([arm.hourly for arm in told], 0)]
                + [spread(share, 1) if executor != SEPARATE else "" for share in shares]
                + [f"{statistics.mean(arm.seconds for arm in told):.0f}", told[0].trials]
            )
        one, two = (arms[executor, workers] for workers in WORKERS)
        gains[executor] = [(a.hourly, b.hourly) for a, b in zip(one, two, strict=True)]
    ratios = []
    for executor, pairs in gains.items():
        gain, interval = ratio(pairs)
        met = "" if executor == SEPARATE else "yes" if gain >= GOAL else "no"
        ratios.append([executor, f"{gain:.2f}", interval, met])
    header = [
        "executor",
        "workers",
        "trials per hour",
        "driver, % of a core",
        "Ray's processes, % of a core",
        "seconds of an arm",
        "trials in them",
    ]
    parts = [
        f"Goal: {GOAL:g}. Means and ranges, and the geometric mean's 95 % interval, over "
        f"{args.blocks} blocks. Trials of {args.study}, {args.steps} steps each, one torch thread "
        "per worker.",
        markdown(["executor", "two over one", "95 % interval", "goal met"], ratios),
        markdown(header, rows),
    ]
    if SEPARATE in gains:
        parts[0] += (
            f" Under `{SEPARATE}`, studies that know nothing of each other: what the cores allow."
        )
    if args.dry:
        print("\n\n".join(parts))
    else:
        write("executors", TITLE, parts)


if __name__ == "__main__":
    main()
