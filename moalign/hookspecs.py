"""The hooks of moalign. Hooks discover and announce; component classes compute.

No hook is called inside the maths of a step. A hook evolves only by gaining arguments: pluggy
passes each implementation only those it names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from moalign.components import (
        Executor,
        Optimizer,
        PolicySource,
        Reward,
        Rollout,
        Strategy,
        Task,
        Tracker,
        Weighting,
    )
    from moalign.types import Evaluation, Objective, Observation, Proposal, StepEvent

GROUP: Final = "moalign"
"""Entry-point group, and the project name of hook markers."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


# --- discover: called once, when the catalogue is built ----------------------------------------


@hookspec
def moalign_tasks() -> list[type[Task]]:  # type: ignore[empty-body]
    """Offer tasks: prompts with references.

    Called once, when the catalogue is built; cheap, without importing torch.

    Contract: :class:`moalign.Task`.
    """


@hookspec
def moalign_rewards() -> list[type[Reward]]:  # type: ignore[empty-body]
    """Offer rewards: what scores completions.

    Called once, when the catalogue is built; cheap, without importing torch.

    Contract: :class:`moalign.Reward`, checked by ``moalign.testing``.
    """


@hookspec
def moalign_weightings() -> list[type[Weighting]]:  # type: ignore[empty-body]
    """Offer weightings: what turns a step into weights per objective.

    Called once, when the catalogue is built; cheap, without importing torch.

    Contract: :class:`moalign.Weighting`, checked by ``moalign.testing``.
    """


@hookspec
def moalign_optimizers() -> list[type[Optimizer]]:  # type: ignore[empty-body]
    """Offer optimizers: what turns advantages or pairs into a policy loss.

    Called once, when the catalogue is built; cheap, without importing torch.

    Contract: :class:`moalign.Optimizer`, checked by ``moalign.testing``.
    """


@hookspec
def moalign_rollouts() -> list[type[Rollout]]:  # type: ignore[empty-body]
    """Offer rollouts: engines that sample completions.

    Called once, when the catalogue is built; cheap, without importing torch.

    Contract: :class:`moalign.Rollout`.
    """


@hookspec
def moalign_policies() -> list[type[PolicySource]]:  # type: ignore[empty-body]
    """Offer policy sources: where the base policy comes from.

    Called once, when the catalogue is built; cheap, without importing torch.

    Contract: :class:`moalign.PolicySource`.
    """


@hookspec
def moalign_strategies() -> list[type[Strategy]]:  # type: ignore[empty-body]
    """Offer strategies: what proposes trials.

    Called once, when the catalogue is built; cheap, without importing optuna or torch.

    Contract: :class:`moalign.Strategy`, checked by ``moalign.testing``.
    """


@hookspec
def moalign_executors() -> list[type[Executor]]:  # type: ignore[empty-body]
    """Offer executors: what runs segments.

    Called once, when the catalogue is built; cheap.

    Contract: :class:`moalign.Executor`.
    """


@hookspec
def moalign_trackers() -> list[type[Tracker]]:  # type: ignore[empty-body]
    """Offer trackers: what writes a study's events somewhere else.

    Called once, when the catalogue is built; cheap, without importing the tracker's library.

    Contract: :class:`moalign.Tracker`, checked by ``moalign.testing``.
    """


# --- announce: called by the driver, one plugin at a time; results are ignored -----------------


@hookspec
def moalign_study_started(  # noqa: PLR0917  # pluggy takes no keyword-only arguments
    run: Path,
    study: Mapping[str, Any],
    objectives: Sequence[Objective],
    resumed: bool,
    time: float,
    versions: Mapping[str, str],
    plugins: Mapping[str, str],
    revision: str | None,
) -> None:
    """A study's driver has opened its run.

    Called once per command, before anything is trained.

    Args:
        run: the run's folder; its name is the run's name.
        study: the fully resolved study, as plain data.
        objectives: all objectives, monitored ones included.
        resumed: True if the run's record already held trials.
        time: seconds since the epoch when the run was first opened; with the run's name it says
            which run this is, also after a resume.
        versions: of Python, moalign and what results depend on, by name.
        plugins: SHA-256 of each plugin file, by path.
        revision: of the source moalign runs from, or None.
    """


@hookspec
def moalign_base_measured(
    evaluation: Evaluation, values: Mapping[str, tuple[float, float]], time: float
) -> None:
    """The base policy has been measured on validation.

    Called once per command; the same event again after a resume.

    Args:
        evaluation: values per unit, and sample completions.
        values: mean and standard error by objective, monitored ones included, as recorded.
        time: seconds since the epoch, as recorded.
    """


@hookspec
def moalign_trial_started(trial: int, proposal: Proposal, time: float) -> None:
    """A proposal has become a trial.

    Called once per trial; after a resume trackers are told again of those in the record.

    Args:
        trial: its number.
        proposal: its parameters.
        time: seconds since the epoch, as recorded.
    """


@hookspec
def moalign_step_ended(event: StepEvent) -> None:
    """A training step has ended somewhere.

    Called once per step; again for steps that are repeated after a worker was lost.

    Args:
        event: trial, step, time and metrics.
    """


@hookspec
def moalign_segment_ended(
    trial: int,
    observations: Sequence[Observation],
    evaluations: Sequence[Evaluation],
    values: Sequence[Mapping[str, tuple[float, float]]],
    time: float,
) -> None:
    """A trial has been measured at a rung or at its full length.

    Called once per segment, and again to trackers after a resume; one observation and one
    evaluation per condition.

    Args:
        trial: its number.
        observations: what the search reads.
        evaluations: values per unit and sample completions, in the same order.
        values: mean and standard error by objective, monitored ones included, in the same order.
        time: seconds since the epoch, as recorded.
    """


@hookspec
def moalign_trial_ended(trial: int, outcome: str, reason: str, time: float) -> None:
    """A trial has ended.

    Called once per trial, and again to trackers after a resume.

    Args:
        trial: its number.
        outcome: ``finished``, ``stopped`` (at a rung) or ``failed``.
        reason: one sentence; empty if it finished.
        time: seconds since the epoch, as recorded.
    """


@hookspec
def moalign_front_updated(
    points: Sequence[Observation], hypervolume: float, trials: int, time: float
) -> None:
    """The validation front has changed.

    Called after each segment that changes it.

    Args:
        points: the non-dominated observations.
        hypervolume: of their normalised values, reference 0.
        trials: how many trials have ended, one that ends with this segment included.
        time: seconds since the epoch, as recorded.
    """


@hookspec
def moalign_study_ended(run: Path, outcome: str, files: Mapping[str, Path]) -> None:
    """The driver is about to close its run.

    Called once per command.

    Args:
        run: the run's folder.
        outcome: ``finished``, ``interrupted`` or ``failed``.
        files: what was written for people, by role: ``front_png``, ``front_html``, ``points_csv``,
            ``report``, ``study``; ``policies`` is the folder that holds the exported policy of
            each point of the front, named after the point as in ``points_csv``. Empty if it was
            interrupted.
    """


DISCOVER: Final = {
    "moalign_tasks": "task",
    "moalign_rewards": "reward",
    "moalign_weightings": "weighting",
    "moalign_optimizers": "optimizer",
    "moalign_rollouts": "rollout",
    "moalign_policies": "policy",
    "moalign_strategies": "strategy",
    "moalign_executors": "executor",
    "moalign_trackers": "tracker",
}
"""Discover hooks and the kind each returns."""

ANNOUNCE: Final = (
    "moalign_study_started",
    "moalign_base_measured",
    "moalign_trial_started",
    "moalign_step_ended",
    "moalign_segment_ended",
    "moalign_trial_ended",
    "moalign_front_updated",
    "moalign_study_ended",
)
"""Announce hooks, in the order of a study's life."""
