"""What the Gram matrix of K = 3 objectives costs on top of a training step, by way of taking it.

python benchmarks/gram.py

Every way takes every step in turn in one process, so that what else the machine does falls on all
of them, and processor time is measured. The learning rate is so small that the policy, and with it
the completions, stay the same.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from table import markdown, write

from moalign import plugins
from moalign.plugins import Catalogue
from moalign.search.artifacts import ensure_base
from moalign.search.folders import RunFolder
from moalign.study import bundled
from moalign.study.loading import load
from moalign.study.study import Study
from moalign.training.loop import Trial
from moalign.training.policy import Policy
from moalign.types import Batch

STEP_GOAL, UPDATE_GOAL = 1.35, 1.6
WARM_UP = 2  # first steps, not counted
RATE = 1e-9
LARGER = (
    "policy={scratch: {hidden: 288, steps: 1, batch: 1}}",
)  # the same text, 3 million numbers


def plainly(trial: Trial) -> None:
    """Let a trial take one backward pass per objective, and another for the update."""
    trial.engine.reason = lambda *_: "the benchmark asks for it"  # type: ignore[method-assign]
    anew(trial)


def anew(trial: Trial) -> None:
    """Let a trial make its update by a pass of its own."""
    gradients = trial._gradients

    def without_leaves(*args: Any) -> Any:
        given = gradients(*args)
        given.leaves = lambda: None
        return given

    trial._gradients = without_leaves  # type: ignore[method-assign]


def nothing(_: Trial) -> None:
    """Leave a trial as it is."""


GRAM = ("weighting=influence", "search.space={}")
# Clipping by whole gradients would compute these, however few layers are compared.
UNCLIPPED = ("weighting={influence: {max_norm: null}}", "search.space={}")
WAYS: Mapping[str, tuple[Sequence[str], Callable[[Trial], None]]] = {
    "no Gram matrix (`fixed`)": ((), nothing),
    "a backward pass per objective": (GRAM, plainly),
    "one pass": (GRAM, anew),
    "one pass, used for the update": (GRAM, nothing),
    "one pass, sketch of 32": ((*GRAM, "training.gradients.sketch=32"), nothing),
    "one pass, the middle layer": ((*UNCLIPPED, "training.gradients.layers=[1, 1]"), nothing),
}
BASELINE, PLAIN, _, EXACT, *_ = WAYS


def trials(
    catalogue: Catalogue, out: Path, overrides: Sequence[str], steps: int
) -> dict[str, Trial]:
    """Return a trial per way, all from the same base policy."""
    text, source = bundled.read("arithmetic")
    made = {}
    for name, (own, change) in WAYS.items():
        given = [f"training.learning_rate={RATE}", *overrides, *own]
        study = load(text, source, catalogue, given)
        made[name] = Trial(study, 0, policy_of(study, out), steps)
        change(made[name])
    return made


def policy_of(study: Study, out: Path) -> Policy:
    """Return the study's base policy, built if need be."""
    folder = ensure_base(study, RunFolder(out / "benchmark"), lambda *_: None)
    names = [objective.name for objective in study.train_objectives]
    return Policy(study.policy.load(folder, names), torch.device("cpu"), torch.float32)


def seconds(made: Mapping[str, Trial], pairs: int) -> dict[str, list[float]]:
    """Return the seconds of each way's steps, taken in turn."""
    found: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(WARM_UP + pairs):
        for name, trial in made.items():
            began = time.process_time()
            trial.train_step()
            found[name].append(time.process_time() - began)
    return {name: values[WARM_UP:] for name, values in found.items()}


def difference(made: Mapping[str, Trial], batch: Batch) -> float:
    """Return how far the exact Gram matrix is from that of plain passes, relative."""
    grams = []
    for name in (EXACT, PLAIN):
        generator = torch.Generator().manual_seed(0)
        advantages_B1K = torch.randn(batch.rows, 1, 3, generator=generator)
        grams.append(made[name]._gradients(batch, advantages_B1K).gram())
    return float((grams[0] - grams[1]).norm() / grams[1].norm())


def table(found: Mapping[str, Sequence[float]]) -> tuple[str, list[float]]:
    """Return the table of all ways, and the ratios of the exact one."""
    rows, exact = [], []
    for name, values in found.items():
        ratios = sorted(a / b for a, b in zip(values, found[BASELINE], strict=True))
        quarter = len(ratios) // 4
        exact = ratios if name == EXACT else exact
        quartiles = f"{ratios[quarter]:.2f} to {ratios[-1 - quarter]:.2f}"
        median, least = statistics.median(values), min(values)
        rows.append(
            [name, f"{median:.3f}", f"{least:.3f}", f"{statistics.median(ratios):.2f}", quartiles]
        )
    header = ["way", "median, s", "least, s", "median ratio", "quartiles"]
    return markdown(header, rows), exact


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20, help="steps of each way")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--out", type=Path, help="keeps the base policies")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    out = args.out or Path(tempfile.mkdtemp(prefix="moalign-"))
    catalogue = plugins.load()
    made = trials(catalogue, out, (), WARM_UP + args.pairs)
    larger = trials(catalogue, out, LARGER, WARM_UP + args.pairs)
    torch.set_num_threads(args.threads)
    step_table, step_ratios = table(seconds(made, args.pairs))
    # One batch, written by the small policy: what the large one writes after one step is noise.
    batch = made[BASELINE].rollout("train", 0)
    for trial in larger.values():
        trial.rollout = lambda *_: batch  # type: ignore[method-assign]
    update_table, update_ratios = table(seconds(larger, args.pairs))
    step, update = statistics.median(step_ratios), statistics.median(update_ratios)
    size, large = (sum(p.numel() for p in t[BASELINE].parameters) for t in (made, larger))
    training = made[BASELINE].training
    write(
        "gram",
        "Seconds per training step with the Gram matrix of three objectives",
        [
            f"Goals: a training step with the exact matrix takes at most {STEP_GOAL} of the time "
            f"of one without, and the update alone, without sampling, at most {UPDATE_GOAL} for a "
            f"policy of 3 million numbers; medians of {args.pairs} pairs. Found: **{step:.2f}** "
            f"and **{update:.2f}**.",
            f"`arithmetic`, {training.prompts} prompts x {training.group} completions, float32 on "
            f"the CPU, processor time, torch threads: {args.threads}. All ways take their steps in "
            f"turn; the first {WARM_UP} are not counted; a ratio is that of one way to the first "
            "in one turn.",
            f"A training step, sampling included; {size:,} numbers are trained:",
            step_table,
            f"The update alone, on one batch; {large:,} numbers are trained:",
            update_table,
            "The matrix of one pass differs from that of a backward pass per objective by "
            f"{difference(made, batch):.1e} (small policy) and {difference(larger, batch):.1e} "
            "(large one), relative Frobenius norm.",
        ],
        seeds=[0],
    )


if __name__ == "__main__":
    main()
