"""What one suggestion costs, with a history of so many trials and objectives.

python benchmarks/suggestion.py
python benchmarks/suggestion.py --strategies botorch --trials 100 --objectives 3 --kinds rungs

Weights on a simplex, a rate and a coefficient are searched; nearly every trial is on the front,
which is the expensive case. Beside the plain history one in which three trials run, one whose first
objective has a threshold, and one with rungs are taken at its largest size. Processor time of one
process, the goal being for an idle machine.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from dataclasses import replace

from table import markdown, write

from moalign import plugins
from moalign.components import Strategy
from moalign.types import (
    Cost,
    FloatRange,
    History,
    Objective,
    Observation,
    Parameter,
    Proposal,
    Simplex,
    Start,
)

GOAL = 2.0  # seconds of `botorch` with 100 trials and 3 objectives
STEPS, ERROR = 40, 0.01
KINDS = ("plain", "three running", "threshold", "rungs")


def history(trials: int, objectives: int, kind: str = "plain") -> History:
    """Return a made-up history; with rungs every trial was measured at a quarter and a half, too.

    Of these half went no further, as a study that keeps half of its trials has it.
    """
    rungs = kind == "rungs"
    names = tuple("abcdefgh"[:objectives])
    space: dict[str, Parameter] = {
        "weighting.preference": Simplex(names),
        "training.learning_rate": FloatRange(1e-5, 1e-3, log=True),
        "training.optimizer.kl": FloatRange(0.0, 1.0),
    }
    rng = random.Random(0)
    observations = []
    for trial in range(trials):
        draws = [rng.expovariate(1.0) for _ in names]
        weights = {name: draw / sum(draws) for name, draw in zip(names, draws, strict=True)}
        rate, kl = 10 ** rng.uniform(-5, -3), rng.random()
        skill = 1 - abs(math.log10(rate / 2e-4)) / 3 - 0.2 * (kl - 0.4) ** 2
        steps = [STEPS] if not rungs else [STEPS // 4, STEPS // 2, STEPS][: 3 if trial % 2 else 1]
        observations += [
            Observation(
                trial=trial,
                step=step,
                full=step == STEPS,
                start=Start(),
                condition=None,
                params=dict(zip(space, (weights, rate, kl), strict=True)),
                values_K=tuple(
                    skill * math.sqrt(weights[name] * step / STEPS) + rng.gauss(0, ERROR)
                    for name in names
                ),
                stderr_K=(ERROR,) * objectives,
                cost=Cost(),
            )
            for step in steps
        ]
    axes = [Objective(name, (0.0, 1.0)) for name in names]
    if kind == "threshold":
        axes[0] = replace(axes[0], at_least=0.4)  # about half of the trials meet it
    running = {}
    if kind == "three running":
        observations, latest = observations[:-3], observations[-3:]
        running = {one.trial: Proposal(one.params) for one in latest}
    return History(space, tuple(axes), tuple(observations), running, STEPS, 2 * trials, trials)


def main() -> None:
    """Time every strategy on every history, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--strategies", nargs="+", default=["botorch", "gp", "tpe"])
    parser.add_argument("--trials", nargs="+", type=int, default=[20, 100])
    parser.add_argument("--objectives", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of histories")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    catalogue = plugins.load()
    rows = []
    for name in given.strategies:
        strategy = catalogue.build(Strategy, name)
        strategy.propose(history(12, 2), 1, 0)  # imports
        sizes = [("plain", k, n) for k in given.objectives for n in given.trials]
        largest = (max(given.objectives), max(given.trials))
        sizes += [(kind, *largest) for kind in KINDS[1:]]
        for kind, objectives, trials in sizes:
            if kind not in given.kinds:
                continue
            known, spent = history(trials, objectives, kind), []
            for seed in range(given.repeats):
                began = time.process_time()
                strategy.propose(known, 1, seed)
                spent.append(time.process_time() - began)
            row = (name, kind, objectives, trials, len(known.observations))
            rows.append((*row, f"{statistics.median(spent):.2f}", f"{max(spent):.2f}"))
    header = ("strategy", "history", "objectives", "trials", "measurements", "median, s", "most, s")
    note = f"Goal: `botorch` within {GOAL:g} s with 100 trials and 3 objectives."
    write(
        "suggestion",
        "Processor time of one suggestion",
        [markdown(header, rows), note],
        seeds=range(given.repeats),
    )


if __name__ == "__main__":
    main()
