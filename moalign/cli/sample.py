"""``moalign sample``: talking to a policy of a run."""

from __future__ import annotations

from collections.abc import Mapping
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
from moalign.errors import RecordError
from moalign.reporting.commands import RUNS

if TYPE_CHECKING:
    from moalign.reporting.points import Point
    from moalign.study.study import Study

app = typer.Typer(rich_markup_mode=None)


@app.command()
def sample(
    run: RunArgument,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the policy is to answer.")],
    *,
    prefer: Prefer = None,
    point: PointName = None,
    samples: Annotated[
        int, typer.Option("-n", "--samples", min=1, metavar="N", help="How many answers.")
    ] = 3,
    plugin: PluginFiles = None,
    out: Out = RUNS,
) -> None:
    """Let a policy of a front answer a prompt."""
    from moalign.reporting.points import read_points

    state, console = read_run(run, out), new_console()
    table = read_points(state)
    picked = pick_point(state, table, prefer=prefer, point=point)
    if picked.point is None:
        raise RecordError(picked.reasons[0])
    study = study_of(state, plugin)
    asked = study.task.parse(prompt)

    quiet_libraries()
    from moalign.reporting.export import load_point, trial_study
    from moalign.training import seeds
    from moalign.training.rollout import sample as sample_batch
    from moalign.types import Cost

    _, policy = load_point(study, state, picked.point)
    study = trial_study(study, state, picked.point)
    names = [o.name for o in study.train_objectives]
    condition = _condition(study, picked.point, prefer)
    conditions_PK = None
    if condition is not None:
        import torch

        conditions_PK = torch.tensor([[condition[name] for name in names]])
    batch = sample_batch(
        policy,
        study.rollout,
        study.task,
        [asked],
        group=samples,
        seeds_B=[seeds.key(study.seed, "sample", prompt, number) for number in range(samples)],
        conditions_PK=conditions_PK,
        names=names,
        micro_tokens=study.section.training.micro_tokens,
        cost=Cost(),
    )
    for reason in picked.reasons[:1]:
        console.print(f"{picked.point.id}: {reason}", soft_wrap=True)
    for text in batch.texts_B:
        console.print(text, soft_wrap=True)


def _condition(study: Study, point: Point, prefer: str | None) -> Mapping[str, float] | None:
    """Return what is written into the prompt: a person's own weights go before the point's."""
    from moalign.study.study import complete_preference

    if study.policy.condition == "none":
        return None
    names = [o.name for o in study.train_objectives]
    if prefer is not None:
        return complete_preference(pairs("--prefer", prefer), names)
    return point.condition or dict.fromkeys(names, 1.0 / len(names))
