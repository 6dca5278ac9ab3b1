"""Weights that stay as the preference says."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from moalign.components import Preference, Weighting
from moalign.types import Weights

if TYPE_CHECKING:
    from moalign.types import Step


class Fixed(Weighting):
    """Weights every objective by the preference, at every step: linear scalarisation.

    With the policy's ``condition: weights``, each prompt is weighted by the weights it was written
    with instead, so that the policy learns to follow them.

    How the objectives are combined belongs to ``training``: ``combine: rewards`` is linear
    scalarisation of rewards, with ``scale: calibrated`` its z-scored form; ``combine: advantages``
    (default) with ``batch_norm`` is GDPO.

    Source:
        Linear scalarisation is folklore; GDPO is Liu et al. 2026, arXiv 2601.05242, where the
        weights are 1 (batch normalisation cancels the difference).

    When to use it:
        First, and as the baseline of everything else. A search over its preference gives a front.
        No preference reaches a concave part of it.

    Cost:
        None.

    Example::

        weighting: {fixed: {preference: {accuracy: 3, conciseness: 1, clarity: 1}}}
    """

    name: ClassVar[str] = "fixed"
    declares: frozenset[str] = frozenset({"conditioned", "offline"})

    def __init__(self, *, preference: Preference | None = None) -> None:
        """Take the options.

        Args:
            preference: weights by objective, divided by their sum; default equal.
        """
        self.preference = preference

    def weigh(self, step: Step) -> Weights:
        """Return the preference, [K]; or the weights in the prompts, [P, 1, K]."""
        if step.batch.conditions_PK is None:
            return Weights(step.preference_K)
        return Weights(step.batch.conditions_PK[:, None])
