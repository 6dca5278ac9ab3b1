"""How long a cell may train: at most the study's steps, and at most a number of tokens.

The budget of a task and a seed is what one entry, the payer (``fixed``, ``grpo``), spends there at
equal weights in all its steps. Whatever an entry asks for is charged to it as the host counts it:
measurements on the steer split, steer batches, further passes. So one that looks more takes fewer
steps.

One whose steps are cheaper than the payer's keeps some of its budget, unless its entry has a larger
number of steps: no cell takes more than its number, so that schedules end where they say.
"""

from __future__ import annotations

from moalign.types import Cost


def tokens(cost: Cost) -> int:
    """Return what was spent: tokens generated, passed forward, and passed backward."""
    return cost.generated + cost.forwarded + cost.backwarded


def goes_on(index: int, total: int, spent: int, latest: int, budget: int | None) -> bool:
    """Return True if there is room for another step.

    A step is taken if at least half of it is paid for, going by the latest one: cells then end as
    often a little above the budget as below it, whatever their steps cost.

    Args:
        index: steps taken.
        total: most steps.
        spent: tokens so far.
        latest: tokens of the latest step; 0 before the first.
        budget: tokens; None: steps alone decide.
    """
    if index >= total:
        return False
    return budget is None or budget - spent > latest / 2
