"""The default study as a user runs it: time, memory, distinct points, utility against the base.

python benchmarks/default_study.py --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from table import markdown, write

from moalign.reporting.pick import say
from moalign.reporting.report import front_of
from moalign.reporting.statistics import largest_distinct_subset, pairwise_distinct
from moalign.search.folders import RunFolder
from moalign.search.record import read

LIMIT_MINUTES = 4.0
POINTS = 6


def timed(command: list[str]) -> float:
    """Run a command and return its seconds; its output is shown if it fails."""
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return time.monotonic() - began


def main() -> None:
    """Run the study once per seed and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default="restaurants")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="keep the runs here")
    args = parser.parse_args()
    out = args.out or Path(tempfile.mkdtemp(prefix="moalign-"))
    rows, utilities = [], []
    for seed in args.seeds:
        command = [sys.executable, "-m", "moalign", "pareto", args.study]
        command += ["--set", f"seed={seed}", "--out", str(out / f"seed-{seed}")]
        first, second = timed(command), timed(command)
        run = read(RunFolder(out / f"seed-{seed}" / args.study))
        front = front_of(run)
        table = front.table
        units = [point.units_UK(table.names, "validation") for point in table.front]
        distinct = len(largest_distinct_subset(pairwise_distinct(units)))
        ended = [trial.outcome for trial in run.trials.values()]
        rows.append(
            [
                seed,
                f"{first / 60:.2f}",
                f"{second:.1f}",
                len(ended),
                ended.count("stopped"),
                len(table.front),
                distinct,
                f"{front.hypervolume.corrected:.3f}",
            ]
        )
        for choice in front.choices:
            d = choice.difference
            utilities.append(
                [
                    seed,
                    say(choice.preference),
                    choice.point.id,
                    f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]",
                ]
            )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    write(
        f"default-study-{args.study}",
        f"The study {args.study}, from an empty folder",
        [
            f"Goals: at most {LIMIT_MINUTES:g} minutes with at least 16 trials; at least {POINTS} "
            "points on the front that differ pairwise on validation (paired over units, 95 %, "
            "Holm over all pairs and objectives); utility above the base policy's at every "
            "preference on test; below 3 GiB per process.",
            markdown(
                [
                    "seed",
                    "minutes",
                    "second call, s",
                    "trials",
                    "stopped",
                    "front",
                    "distinct",
                    "hypervolume",
                ],
                rows,
            ),
            "Utility on test minus the base policy's, with its 95 % interval, of the point that "
            "validation picks:",
            markdown(["seed", "preference", "point", "difference"], utilities),
            f"Largest resident set of any process: {peak:.2f} GiB.",
        ],
        args.seeds,
    )


if __name__ == "__main__":
    main()
