"""Exact hypervolume: seconds for 300 points and three objectives, beside other routines.

python benchmarks/hypervolume.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from botorch.utils.multi_objective.hypervolume import Hypervolume
from table import markdown, write

from moalign import pareto

POINTS, OBJECTIVES, TIMES = 300, 3, 20


def main() -> None:
    """Time the routines in turn on the same fronts."""
    rng = np.random.default_rng(0)
    botorch = Hypervolume(ref_point=torch.zeros(OBJECTIVES, dtype=torch.float64))
    routines: dict[str, Callable[[np.ndarray], float]] = {
        "moalign.pareto": lambda points: pareto.hypervolume(points, np.zeros(OBJECTIVES)),
        "BoTorch": lambda points: botorch.compute(torch.from_numpy(points)),
    }
    taken: dict[str, list[float]] = {name: [] for name in routines}
    worst = 0.0
    for _ in range(TIMES):
        directions = np.abs(rng.normal(size=(POINTS, OBJECTIVES)))
        points = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        values = []
        for name, routine in routines.items():
            began = time.perf_counter()
            values.append(routine(points))
            taken[name].append(time.perf_counter() - began)
        worst = max(worst, abs(values[0] - values[1]))
    rows = [[name, f"{1000 * statistics.median(s):.2f}"] for name, s in taken.items()]
    write(
        "hypervolume",
        f"Hypervolume of {POINTS} non-dominated points, {OBJECTIVES} objectives",
        [
            markdown(["routine", "median, ms"], rows),
            f"Goal: below 20 ms. Largest difference between the two: {worst:.1e}.",
        ],
        [0],
    )


if __name__ == "__main__":
    main()
