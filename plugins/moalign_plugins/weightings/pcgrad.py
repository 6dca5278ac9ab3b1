"""The sum of the gradients, each freed of its conflicts one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Lt

from moalign.components import Preference
from moalign.weightings.gram import GramWeighting

if TYPE_CHECKING:
    from torch import Tensor

    from moalign.types import Step, Weights


class PCGrad(GramWeighting):
    """Takes from each gradient its component against each other one in turn, and adds them up.

    For each k, with the others j in random order::

        h_k = g_k;    h_k = h_k - min(<h_k, g_j>, 0) / |g_j|^2 g_j    for each j
        d   = sum_k h_k

    What is taken from g_k along g_j is weight given to g_j, so weights are never negative; without
    conflict they are the preference, which multiplies the h_k. Freed of one conflict, a gradient
    may have got into another that it went through before: with three objectives or more d may still
    make one worse (`upgrad` projects onto all at once and does not).

    With up to six objectives the mean over all orders is taken: what the published random order
    gives on average, without its noise. Beyond, 120 orders per objective are drawn, and with
    ``orders`` as many as it says; drawn orders follow from the step's number, so that a resumed
    trial draws the same, and depend on the order in which the objectives are listed.

    The coefficients are divided by their sum, and are computed from a Gram matrix averaged over
    steps (``smoothing``).

    The weights combine gradients as the formula says only on-policy, unclipped, in the first epoch.

    Source:
        Yu et al. 2020, arXiv 2001.06782, algorithm 1. Published behaviour: ``{orders: 1, smoothing:
        0}``. Differs: mean over orders; divided by the sum.

    When to use it:
        As a mild correction of `fixed`, and to compare with; with two objectives it is `upgrad`.

    Cost:
        One Gram matrix per step; a millisecond, some ten with ten objectives.

    Example::

        weighting: {pcgrad: {preference: {accuracy: 3, conciseness: 1, clarity: 1}}}
    """

    name: ClassVar[str] = "pcgrad"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"smoothing": 0})

    def __init__(
        self,
        *,
        preference: Preference | None = None,
        smoothing: Annotated[float, Ge(0), Lt(1)] = 0.9,
        orders: Annotated[int, Ge(1)] | None = None,
    ) -> None:
        """Take the options.

        Args:
            preference: weights by objective, divided by their sum; default equal.
            smoothing: decay of the moving average of the Gram matrix; 0: each step on its own.
            orders: random orders per objective and step; null: all up to six objectives, else 120.
        """
        super().__init__(preference=preference, smoothing=smoothing)
        self.orders = orders
        self._seed = 0

    def weigh(self, step: Step) -> Weights:
        """Return the weights, [K]."""
        self._seed = step.index
        return super().weigh(step)

    def coefficients(self, gram_KK: Tensor) -> Tensor:
        """Return the coefficients, [K]."""
        from moalign.maths.gramian import pcgrad

        return pcgrad(gram_KK, orders=self.orders, seed=self._seed)
