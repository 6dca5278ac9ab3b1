"""The next trial: the near-corners and the centre first, then what the strategy proposes."""

from __future__ import annotations

import hashlib
from collections.abc import Container

from moalign.components import Strategy
from moalign.errors import MoalignError, StudyError
from moalign.execution import told
from moalign.search.archive import Run
from moalign.search.asking import ask, check_values
from moalign.study.loading import as_proposed
from moalign.study.space import first_proposals
from moalign.study.study import Study
from moalign.types import History, Proposal


def make(
    study: Study, strategy: Strategy, run: Run, visible: Container[int], trials: int
) -> Proposal | None:
    """Return the next proposal, or None if the space is exhausted.

    Args:
        study: gives the space and the seed.
        strategy: proposes.
        run: the state of the run; the proposal gets the next free number.
        visible: numbers of the trials whose results the strategy may know.
        trials: how many trials the study runs in all.

    Raises:
        StudyError: the strategy raised, or returned what is no proposal.
    """
    number = len(run.trials)
    first = first_proposals(study.space) if strategy.corners_first else []
    if number < len(first):
        return first[number]
    return ask(strategy, history(study, trials, run, visible), seed_of(study.seed, number))


def check(study: Study, strategy: Strategy, trials: int) -> None:
    """Check, before any training, that the strategy can search the study.

    Raises:
        MoalignError: the space cannot be searched this way, the study not run what would come, or
            the strategy raised.
    """
    known = history(study, trials)
    try:
        strategy.check(known)
        previews = strategy.previews(known)
    except MoalignError:
        raise
    except Exception as error:
        raise StudyError(
            f"strategy {strategy.name} could not say whether it can search this study: "
            f"{told(error)}; nothing has been trained"
        ) from error
    for proposal in previews:
        try:
            as_proposed(study, proposal)
        except MoalignError as error:
            raise StudyError(
                f"strategy {strategy.name} would propose what this study cannot run: {error}"
            ) from error


def history(
    study: Study, trials: int, run: Run | None = None, visible: Container[int] = ()
) -> History:
    """Return what a strategy may know; without a run, what it knows at the very beginning."""
    made = run.trials if run is not None else {}
    return History(
        space=study.space,
        objectives=study.front_objectives,
        observations=run.observations(visible) if run is not None else (),
        pending={
            number: trial.proposal
            for number, trial in made.items()
            if number not in visible or trial.outcome is None
        },
        steps=study.section.training.steps,
        trials=trials,
        proposed=len(made),
        made={number: trial.proposal for number, trial in made.items()},
        failed=frozenset(
            number
            for number, trial in made.items()
            if number in visible and trial.outcome == "failed" and _allowed(study, trial.proposal)
        ),
    )


def _allowed(study: Study, proposal: Proposal) -> bool:
    """Return whether a proposal's values lie in the space; no model could place others."""
    try:
        check_values(study.space, proposal)
    except StudyError:
        return False
    return True


def seed_of(seed: int, number: int) -> int:
    """Return the seed of a proposal, below 2**31, from the study's seed and its number."""
    digest = hashlib.sha256(f"{seed}/proposal/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
