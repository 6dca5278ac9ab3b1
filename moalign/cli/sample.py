"""``moalign sample``: talking to a policy of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from moalign.cli.common import (
    Out,
    PluginFiles,
    RunArgument,
    new_console,
    pairs,
    quiet_libraries,
    read_run,
)
from moalign.cli.front import PointName, Prefer, pick_point, study_of
from moalign.errors import RecordError, StudyError
from moalign.reporting.commands import RUNS

if TYPE_CHECKING:
    from rich.console import Console

    from moalign.reporting.adapter import Adapter
    from moalign.reporting.points import Point
    from moalign.reporting.robust import RobustAnswer
    from moalign.study.study import Study
    from moalign.types import Prompt

app = typer.Typer(rich_markup_mode=None)

SAMPLES = 3
"""Answers, unless somebody says so."""


@app.command()
def sample(
    run: RunArgument,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the policy is to answer.")],
    *,
    prefer: Prefer = None,
    point: PointName = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=WEIGHT,...",
            help="Write these weights into the prompt; default: those of --prefer, of the point, "
            "or what the prompt calls for.",
        ),
    ] = None,
    blend: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="SHARE",
            help="Share of your own weights; the rest is what the prompt calls for.",
        ),
    ] = None,
    robust: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="Answer under N preferences around --prefer, and keep what is best for it.",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--samples",
            min=1,
            metavar="N",
            help="How many answers; default: 3, with --robust the best one.",
        ),
    ] = None,
    plugin: PluginFiles = None,
    out: Out = RUNS,
) -> None:
    """Let a policy of a front answer a prompt."""
    from moalign.reporting.points import read_points
    from moalign.reporting.report import require_points
    from moalign.reporting.robust import robust_answers
    from moalign.study.study import complete_preference

    state, console = read_run(run, out), new_console()
    table = read_points(state)
    if robust is not None:
        _require_alone(prefer, {"--point": point, "--weights": weights, "--blend": blend})
        require_points(state, table)
        study, wanted = study_of(state, plugin), pairs("--prefer", prefer or "")
        preference = complete_preference(wanted, table.names)
        asked = study.task.parse(prompt)
        quiet_libraries()
        answers = robust_answers(study, state, table, asked, preference=preference, count=robust)
        _show_robust(console, preference, answers, samples or 1)
        return
    picked = pick_point(state, table, prefer=prefer, point=point)
    if picked.point is None:
        raise RecordError(picked.reasons[0])
    study, count = study_of(state, plugin), samples or SAMPLES
    asked = study.task.parse(prompt)

    quiet_libraries()
    from moalign.reporting.adapter import adapter_of
    from moalign.reporting.export import load_point, trial_study
    from moalign.reporting.pick import say
    from moalign.training import seeds
    from moalign.training.rollout import sample as sample_batch
    from moalign.types import Cost

    own = _own_weights(trial_study(study, state, picked.point), prefer, weights)
    _, policy = load_point(study, state, picked.point)
    study = trial_study(study, state, picked.point)
    names = [o.name for o in study.train_objectives]
    adapter = adapter_of(study, state.folder)
    condition, whose = _condition(
        study, picked.point, own=own, blend=blend, adapter=adapter, asked=asked
    )
    conditions_PK = None
    if condition is not None:
        import torch

        conditions_PK = torch.tensor([[condition[name] for name in names]])
    batch = sample_batch(
        policy,
        study.rollout,
        study.task,
        [asked],
        group=count,
        seeds_B=[seeds.key(study.seed, "sample", prompt, number) for number in range(count)],
        conditions_PK=conditions_PK,
        names=names,
        micro_tokens=study.section.training.micro_tokens,
        cost=Cost(),
    )
    for reason in picked.reasons[:1]:
        console.print(f"{picked.point.id}: {reason}", soft_wrap=True)
    if condition is not None:
        console.print(f"weights in the prompt: {say(condition)} ({whose})", soft_wrap=True)
    for text in batch.texts_B:
        console.print(text, soft_wrap=True)


def _require_alone(prefer: str | None, others: Mapping[str, object]) -> None:
    """Check that there is a preference to look around, and nothing that says who answers.

    Raises:
        StudyError: there is none, or there is.
    """
    for option, given in others.items():
        if given is not None:
            raise StudyError(
                f"--robust writes and picks what each preference around --prefer calls for; leave "
                f"{option} out"
            )
    if prefer is None:
        raise StudyError("--robust looks around a preference: add --prefer NAME=WEIGHT,...")


def _show_robust(
    console: Console, preference: Mapping[str, float], answers: Sequence[RobustAnswer], most: int
) -> None:
    """Print the best of the answers under a preference and its neighbours."""
    from moalign.reporting.pick import say

    console.print(
        f"the best of {len(answers)} answers for {say(preference)}, by its weighted reward in "
        "units of the bounds:",
        soft_wrap=True,
    )
    for answer in answers[:most]:
        asked = say(answer.preference)
        console.print(f"{answer.value:.3f}, written by {answer.point.id} for {asked}")
        console.print(answer.text, soft_wrap=True)


def _own_weights(
    study: Study, prefer: str | None, weights: str | None
) -> Mapping[str, float] | None:
    """Return a person's own weights, normalised; ``--weights`` goes before ``--prefer``.

    A preference is over the front; of it the objectives that are trained on can be written.
    """
    from moalign.study.study import complete_preference

    if weights is not None and study.policy.condition == "none":
        raise StudyError(
            "--weights: this run's policy reads no weights in its prompt; a study with "
            "`condition: weights` trains one that does"
        )
    if study.policy.condition == "none" or (weights is None and prefer is None):
        return None
    names = [o.name for o in study.train_objectives]
    if weights is not None:
        return complete_preference(pairs("--weights", weights), names)
    given = {n: w for n, w in pairs("--prefer", prefer or "").items() if n in names}
    return complete_preference(given, names) if any(given.values()) else None


def _condition(
    study: Study,
    point: Point,
    *,
    own: Mapping[str, float] | None,
    blend: float | None,
    adapter: Adapter | None,
    asked: Prompt,
) -> tuple[Mapping[str, float] | None, str]:
    """Return what is written into the prompt, and whose weights these are.

    Raises:
        StudyError: a blend of what is not there.
    """
    if blend is not None and adapter is None:
        raise StudyError(
            "--blend: this run has not learnt which weights a prompt calls for, so there is "
            "nothing to blend with; a weighting such as prompt-adapter learns it, for a policy "
            "with `condition: weights`"
        )
    if blend is not None and own is None:
        raise StudyError("--blend is the share of your own weights: add --weights or --prefer")
    if study.policy.condition == "none":
        return None, ""
    if own is not None and blend is None:
        return own, "your own"
    if own is not None and blend is not None and adapter is not None:
        called = adapter.weights(asked)
        mixed = {name: (1 - blend) * called[name] + blend * own[name] for name in own}
        return mixed, f"{blend:.0%} your own, the rest what the prompt calls for"
    if point.condition is not None:
        return point.condition, "the point's"
    if adapter is not None:
        return adapter.weights(asked), "what the prompt calls for"
    names = [o.name for o in study.train_objectives]
    return dict.fromkeys(names, 1.0 / len(names)), "nobody gave any"
