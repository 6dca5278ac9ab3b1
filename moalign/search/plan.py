"""What a study still has to do, and what it will cost: ``moalign pareto --plan``.

Counts are upper bounds: at rungs some trials will be stopped. Before anything has run, tokens are
bounded by the limits of the rollout; once a trial has been measured, tokens and time are what it
took per step. Disk is known once a policy stands. A time is never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moalign.components import Optimizer
from moalign.search.archive import Run
from moalign.search.folders import RunFolder
from moalign.search.measurements import cost_before
from moalign.study.schema import TrainingSection
from moalign.study.study import Study
from moalign.types import Cost


@dataclass(frozen=True)
class Plan:
    """What is still to do.

    Attributes:
        weighting: its name.
        optimizer: its name.
        steering: the weighting samples on the steer split as well, how much nobody can say before.
        trials: in all.
        ended: how many of them have ended.
        steps: training steps to take, at most.
        measurements: on validation, at most, the base policy's included.
        workers: that share the work.
        sampled: completion tokens, at most, by the limits; those before training not counted.
        cost: tokens by kind as measured per step so far, or None.
        seconds: wall-clock as measured per step so far, or None.
        point: bytes that a point of the front takes in the end, its exported copy included, or
            None before there is a policy.
        working: bytes of the live trials' checkpoints, or None.
        prepares: the weighting learns something before training.
        before: tokens spent before training, once for all trials, or None.
        preferences: that training reads, where it samples nothing; None: it samples.
        samples: completion tokens to choose between that are sampled before training, at most.
        searched: the trials differ in their settings.
        offered: preferences of the task's train split, or None if nothing learns from them.
        unread: keys that the study sets and this optimizer does not read.
        unkept: objectives with a threshold that the search does not keep to: they are not on the
            front.
    """

    weighting: str
    optimizer: str
    steering: bool
    trials: int
    ended: int
    steps: int
    measurements: int
    workers: int
    sampled: int
    cost: Cost | None
    seconds: float | None
    point: int | None
    working: int | None
    prepares: bool = False
    before: Cost | None = None
    preferences: int | None = None
    samples: int = 0
    searched: bool = True
    offered: int | None = None
    unread: tuple[str, ...] = ()
    unkept: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return the plan for people."""
        steps = f"{self.steps} step{'s' * (self.steps != 1)}"
        to_go = f"{self.trials} in all, {self.ended} done; at most {steps} to go"
        more = f", {self.weighting}'s own on the steer split come on top" if self.steering else ""
        measured = f"{self.measurements} measurement{'s' * (self.measurements != 1)}"
        learnt = (
            "each is read and learnt from as well"
            if self.preferences is None
            else f"none to train: {self.optimizer} reads {_count(self.preferences)} preferences"
        )
        if self.preferences is not None and self.offered is not None:
            learnt += f"; the train split has {_count(self.offered)}"
        lines = [
            f"method  weighting {self.weighting}, optimizer {self.optimizer}",
            f"trials  {to_go} and {measured} on validation",
            f"tokens  at most {_count(self.sampled)} sampled{more}; {learnt}",
        ]
        if self.cost is not None:
            lines[2] = (
                f"tokens  about {_count(self.cost.generated)} sampled, "
                f"{_count(self.cost.forwarded)} forward and {_count(self.cost.backwarded)} "
                "backward, at what a step has taken so far"
            )
        if not self.searched and self.trials > 1:
            lines.insert(2, f"search  {nothing_searched(self.trials)}")
        if self.unread:
            lines.insert(1, f"unread  {', '.join(self.unread)}: {self.optimizer} has no use for it")
        if self.unkept:
            keys = ", ".join(f"objectives.{name}.at_least" for name in self.unkept)
            lines.insert(
                1,
                f"search  {keys}: not on the front, so no constraint of the search, which keeps a "
                "front without regard to it; give it `use: [train, front]` to have it kept",
            )
        if self.before is not None:
            lines.append(
                f"before  {_count(self.before.generated)} tokens were sampled and "
                f"{_count(self.before.forwarded)} passed forward before training, once for all "
                "trials"
            )
        elif self.samples:
            lines.append(
                f"before  at most {_count(self.samples)} tokens are sampled before training, once "
                "for all trials, to choose between"
            )
        if self.before is None and self.prepares:
            lines.append(
                f"before  {self.weighting} learns before training, once for all trials; what that "
                "takes is known afterwards"
            )
        lines.append(
            "disk    unknown until the base policy is built, because nothing else tells its size"
            if self.point is None or self.working is None
            else f"disk    about {_bytes(self.working)} of checkpoints on the way, and "
            f"{_bytes(self.point)} for each point of the front in the end"
        )
        lines.append(
            f"time    unknown until a trial has been measured ({self.workers} at a time), because "
            "it depends on this machine"
            if self.seconds is None
            else f"time    about {_duration(self.seconds)} with {self.workers} at a time, at what "
            "a step has taken so far; test measurements come on top"
        )
        return lines


def make_plan(
    study: Study,
    folder: RunFolder,
    run: Run | None,
    *,
    trials: int,
    workers: int,
    offered: int | None = None,
) -> Plan:
    """Plan what is left of a study.

    Args:
        study: checked.
        folder: of the run.
        run: its state, or None if it has not begun.
        trials: how many trials in all.
        workers: of the executor.
        offered: preferences of the task's train split that can be used, if they are learnt from.
    """
    section, optimizer, limit = study.section, study.new_optimizer(), study.rollout.max_tokens
    training = section.training
    made = run.trials.values() if run is not None else ()
    new = max(0, trials - len(made))
    live = [trial for trial in made if trial.outcome is None]
    steps = new * training.steps + sum(trial.total - trial.step for trial in live)
    rungs = [*section.search.rungs, training.steps]
    measurements = new * len(rungs) + (run is None or run.base is None)
    measurements += sum(len({r for r in rungs if t.step < r < t.total} | {t.total}) for t in live)
    rows = steps * _rows_of_a_step(study) + measurements * _rows_of_a_measurement(study)
    spent = _per_step(run) if run is not None else None
    cost, seconds = None, None
    if spent is not None:
        taken, tokens, per_step = spent
        cost = Cost(*(round(count * steps / taken) for count in tokens.to_json().values()))
        seconds = per_step * steps / workers
    size = _policy_bytes(study, folder)
    weighting = study.new_weighting()
    return Plan(
        weighting=weighting.name,
        optimizer=optimizer.name,
        steering="steer" in weighting.needs,
        trials=max(trials, len(made)),
        ended=len(made) - len(live),
        steps=steps,
        measurements=measurements,
        workers=workers,
        sampled=rows * limit,
        cost=cost,
        seconds=seconds,
        # The checkpoint's policy, and its copy in front/.
        point=None if size is None else 2 * size,
        # Beside the policy, AdamW keeps two numbers for each of its.
        working=None if size is None else 3 * size * min(workers, trials),
        prepares=weighting.recipe() is not None,
        before=cost_before(folder),
        preferences=steps * training.prompts if optimizer.learns_from == "pairs" else None,
        samples=training.pairs.prompts * training.pairs.samples * limit
        if optimizer.learns_from != "rollouts" and training.pairs.source == "samples"
        else 0,
        searched=bool(study.space),
        offered=offered,
        unread=_unread(training, optimizer),
        unkept=tuple(o.name for o in study.objectives if o.at_least is not None and not o.front),
    )


def _unread(training: TrainingSection, optimizer: Optimizer) -> tuple[str, ...]:
    """Return the keys, set to something, of what an optimizer does not learn from."""
    plain = TrainingSection()
    idle = {"rollouts": ("pairs",), "pairs": ("group",), "both": ()}[optimizer.learns_from]
    return tuple(f"training.{k}" for k in idle if getattr(training, k) != getattr(plain, k))


def nothing_searched(trials: int) -> str:
    """Return what to say of several trials with an empty search space."""
    return (
        f"nothing is searched: {trials} trials differ in their random numbers only, so what lies "
        "between them is the noise of training; name in search.space what is to differ, or train "
        "one policy with moalign train"
    )


def _rows_of_a_step(study: Study) -> int:
    """Return how many completions a training step samples."""
    training, optimizer = study.section.training, study.new_optimizer()
    if optimizer.learns_from == "pairs":
        return 0
    rows = training.prompts * training.group
    if "greedy_scores" in optimizer.needs:
        rows += training.prompts
    return 2 * rows if optimizer.extrapolates else rows


def _rows_of_a_measurement(study: Study) -> int:
    """Return how many completions a measurement samples, at most; agreement takes none."""
    if all("pairs" in reward.needs for reward in study.new_rewards().values()):
        return 0
    evaluation = study.section.evaluation
    return evaluation.prompts * evaluation.samples * len(study.conditions)


def _per_step(run: Run) -> tuple[int, Cost, float] | None:
    """Return the steps that were measured, their tokens, and seconds per step of one worker."""
    steps, tokens, seconds = 0, Cost(), 0.0
    for trial in run.trials.values():
        if trial.measured:
            steps += trial.step
            tokens.add(trial.measured[trial.step].cost)
            seconds += sum(measured.seconds for measured in trial.measured.values())
    return (steps, tokens, seconds / steps) if steps else None


def _policy_bytes(study: Study, folder: RunFolder) -> int | None:
    """Return the size of the largest policy of this run, else of the base policy if it is built."""
    sizes = [_size(policy) for policy in folder.path.glob("trials/*/*/policy")]
    if not sizes:
        from moalign.search.artifacts import base_folder

        sizes = [_size(base_folder(study, folder))]
    return max(sizes) or None


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def _count(number: int) -> str:
    for unit, size in (("billion", 1e9), ("million", 1e6), ("thousand", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _bytes(number: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} bytes"


def _duration(seconds: float) -> str:
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} seconds"
