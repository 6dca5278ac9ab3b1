"""What a study's base policy costs and is worth, over several seeds.

python benchmarks/base_policy.py arithmetic --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch
from table import markdown, write

from moalign import BASE, SegmentTask, Start, plugins
from moalign.reporting.statistics import mean_and_stderr
from moalign.search.artifacts import ensure_base
from moalign.search.folders import RunFolder
from moalign.search.measurements import Measurements
from moalign.search.segments import run_segment
from moalign.study import bundled
from moalign.study.loading import load

STEPS = 40


def cpu() -> float:
    """Seconds of processor time this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def silent(*_: object) -> None:
    """Take what is told and say nothing."""


def median_step(task: SegmentTask) -> float:
    """Train and return the median second between two steps."""
    times: list[float] = []
    run_segment(task, lambda event: times.append(event.time), {})
    return statistics.median(b - a for a, b in pairwise(times))


def main() -> None:
    """Build, measure on test, and train a few steps, once per seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    catalogue = plugins.load()
    text, source = bundled.read(args.study)
    rows, names = [], []
    threads = torch.get_num_threads()
    for seed in args.seeds:
        study = load(text, source, catalogue, [f"seed={seed}"])
        run = RunFolder(Path(tempfile.mkdtemp(prefix="moalign-")) / "run")
        torch.set_num_threads(threads)
        began, used = time.monotonic(), cpu()
        ensure_base(study, run, silent)
        wall, used = time.monotonic() - began, cpu() - used
        task = SegmentTask(run.path, BASE, study.data, Start(), 0, 0, STEPS, "test")
        run_segment(task, silent, {})
        measured = Measurements.read(run.measurements(BASE, 0, "test")).evaluations[0]
        names = list(measured.evaluation.names)
        steps = [
            median_step(SegmentTask(run.path, i, study.data, Start(), 0, STEPS, STEPS, threads=n))
            for i, n in enumerate((1, threads))
        ]
        mean, error = mean_and_stderr(measured.evaluation.values_UK)
        values = [f"{m:.3f} +- {e:.3f}" for m, e in zip(mean, error, strict=True)]
        taken = [cell for step in steps for cell in (f"{step:.3f}", f"{STEPS * step:.1f}")]
        rows.append([seed, f"{wall:.0f}", f"{used:.0f}", *values, *taken])
    write(
        f"base-policy-{args.study}",
        f"The base policy of {args.study}",
        [
            "Seconds to build, and objectives on test at temperature 1 (standard error over "
            f"units). The last columns: median second of a training step, and of {STEPS} of them, "
            f"with one torch thread and with {threads}.",
            markdown(
                ["seed", "build, s", "of which CPU", *names, *["step, s", f"{STEPS} steps, s"] * 2],
                rows,
            ),
        ],
        args.seeds,
    )


if __name__ == "__main__":
    main()
