"""Answers under neighbouring preferences, of which the best for the one asked for is kept.

Source: robust preference selection, "Robust Preference Alignment via Directional Neighborhood
Consensus", arXiv 2510.20498: 5 directions within 30 degrees, one answer each. Differs: the asked
preference is one of the directions, and a front of policies may answer, each direction by the
policy that is worth most to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moalign.errors import StudyError
from moalign.maths.simplex import nearby
from moalign.reporting import pick
from moalign.reporting.points import Point, PointTable
from moalign.search.archive import Run
from moalign.study.study import Study, complete_preference
from moalign.types import Cost, Objective, Prompt

if TYPE_CHECKING:
    from moalign.types import Batch

ANGLE: Final = 30.0
"""Degrees between the asked preference and the farthest neighbour."""


@dataclass(frozen=True)
class RobustAnswer:
    """One answer.

    Attributes:
        text: as people read it.
        value: what it is worth to the asked preference, in units of the bounds.
        point: of the policy that wrote it.
        preference: the neighbour that it was asked under.
    """

    text: str
    value: float
    point: Point
    preference: Mapping[str, float]


def robust_answers(
    study: Study,
    run: Run,
    table: PointTable,
    asked: Prompt,
    *,
    preference: Mapping[str, float],
    count: int,
) -> list[RobustAnswer]:
    """Answer a prompt under a preference and its neighbours; imports torch.

    Every neighbour is answered by the policy of the front that is worth most to it; if that reads
    weights in its prompt, the neighbour is written there.

    Args:
        study: the run's.
        run: with at least one point on its front.
        table: its points.
        asked: what to answer.
        preference: over the front's objectives, summing to 1.
        count: neighbours, the preference itself among them, with an answer each.

    Returns:
        all answers, the best for ``preference`` first; of equal ones that of the nearer neighbour.

    Raises:
        StudyError: answers to this prompt cannot be judged by one of the objectives.
        RecordError: a policy was not kept.
    """
    judges = [o for o in table.axes if preference[o.name] > 0]
    require_judges(study, asked, [o.name for o in judges])
    names = table.names
    rows = nearby([preference[n] for n in names], count, ANGLE, f"{study.seed}/{asked.text}")
    neighbours = [dict(zip(names, row, strict=True)) for row in rows]
    chosen = [pick.best(table, pick.candidates(table), each)[0] for each in neighbours]
    found: dict[int, RobustAnswer] = {}
    for where in dict.fromkeys((point.trial, point.step) for point in chosen):
        mine = [n for n, point in enumerate(chosen) if (point.trial, point.step) == where]
        points = [chosen[n] for n in mine]
        batch = _sampled(
            study,
            run,
            asked,
            points=points,
            neighbours=[neighbours[n] for n in mine],
            numbers=mine,
        )
        values = _values(study, batch, judges, preference)
        for n, point, text, value in zip(mine, points, batch.texts_B, values, strict=True):
            found[n] = RobustAnswer(text, value, point, neighbours[n])
    return [found[n] for n in sorted(found, key=lambda n: (-found[n].value, n))]


def require_judges(study: Study, asked: Prompt, names: Sequence[str]) -> None:
    """Check that answers to a prompt can be judged by these objectives.

    Raises:
        StudyError: naming the first that cannot judge, and why.
    """
    rewards = study.new_rewards()
    for name in names:
        needs = rewards[name].needs
        fields = {need.removeprefix("field:") for need in needs if need.startswith("field:")}
        missing = sorted(fields - set(asked.fields))
        why = ""
        if missing:
            why = f"needs {', '.join(missing)} of its prompt, which a typed one does not have"
        if "pairs" in needs:
            why = "compares the two completions of a preference and judges no single one"
        if why:
            raise StudyError(
                f"--robust keeps the answer that the objectives find best, and {name} {why}; leave "
                f"{name} out of --prefer, or sample without --robust"
            )


def _sampled(
    study: Study,
    run: Run,
    asked: Prompt,
    *,
    points: Sequence[Point],
    neighbours: Sequence[Mapping[str, float]],
    numbers: Sequence[int],
) -> Batch:
    """Let one policy answer under some neighbours, once each."""
    import torch

    from moalign.reporting.export import load_point, trial_study
    from moalign.training import seeds
    from moalign.training.rollout import sample

    _, policy = load_point(study, run, points[0])
    own = trial_study(study, run, points[0])
    names = [o.name for o in own.train_objectives]
    conditions_PK = None
    if own.policy.condition != "none":
        written = [_condition(n, p, names) for n, p in zip(neighbours, points, strict=True)]
        conditions_PK = torch.tensor([[weights[name] for name in names] for weights in written])
    return sample(
        policy,
        own.rollout,
        own.task,
        [asked] * len(numbers),
        group=1,
        seeds_B=[seeds.key(study.seed, "sample", asked.text, number) for number in numbers],
        conditions_PK=conditions_PK,
        names=names,
        micro_tokens=own.section.training.micro_tokens,
        cost=Cost(),
    )


def _condition(
    neighbour: Mapping[str, float], point: Point, names: Sequence[str]
) -> Mapping[str, float]:
    """Return the weights to write: the neighbour's, as far as they are of trained objectives."""
    given = {name: weight for name, weight in neighbour.items() if name in names}
    if any(given.values()):
        return complete_preference(given, names)
    return point.condition or dict.fromkeys(names, 1.0 / len(names))


def _values(
    study: Study, batch: Batch, judges: Sequence[Objective], preference: Mapping[str, float]
) -> list[float]:
    """Return what each answer is worth; an objective that does not apply to one is left out there.

    Raises:
        StudyError: none of the objectives applies to an answer.
    """
    from moalign.training.scoring import Column, score

    rewards, sections = study.new_rewards(), study.section.objectives
    columns = [Column(o.name, rewards[o.name], sections[o.name].output) for o in judges]
    values = []
    for row in score(batch, columns).scores_BK.tolist():
        known = [
            (preference[o.name], o.normalise(score))
            for o, score in zip(judges, row, strict=True)
            if not math.isnan(score)
        ]
        if not known:
            told = ", ".join(o.name for o in judges)
            raise StudyError(
                f"--robust: none of {told} applies to an answer to this prompt, so none is best; "
                "sample without --robust"
            )
        values.append(sum(w * v for w, v in known) / sum(w for w, _ in known))
    return values
