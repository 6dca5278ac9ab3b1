"""The mean of the gradients, each freed of its conflicts by projection onto one cone."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from moalign.weightings.gram import GramWeighting

if TYPE_CHECKING:
    from torch import Tensor


class UPGrad(GramWeighting):
    """Frees every gradient of its conflicts with all others at once, and takes the mean.

    With the cone D of directions d that lower no objective, ``<d, g_k> >= 0`` for all k::

        d = 1/K sum_k proj_D(g_k)

    Each projection adds to g_k non-negative multiples of the gradients that it conflicts with, so
    the weights are never negative. Without conflict they are the preference, which multiplies each
    projection. The coefficients are divided by their sum, and are computed from a Gram matrix
    averaged over steps (``smoothing``).

    What is promised holds for the averaged gradients; a single batch may still lose.

    The weights combine gradients as the formula says only on-policy, unclipped, in the first epoch.

    Source:
        Quinton and Rey 2024, arXiv 2406.16232. Differs from TorchJD: no 1e-4 is added to the
        matrix, and small gradients are treated as large ones are, where it turns into the plain
        mean below a trace of 1e-4.

    When to use it:
        The first to try of its family: no objective is made worse to first order, those that agree
        are left alone, and it grows linearly with each gradient, so that noise moves it little.

    Cost:
        One Gram matrix per step; K small quadratic programs, a millisecond or two.

    Example::

        weighting: {upgrad: {preference: {accuracy: 3, conciseness: 1, clarity: 1}}}
    """

    name: ClassVar[str] = "upgrad"

    def coefficients(self, gram_KK: Tensor) -> Tensor:
        """Return the coefficients, [K]."""
        from moalign.maths.gramian import upgrad

        return upgrad(gram_KK)
