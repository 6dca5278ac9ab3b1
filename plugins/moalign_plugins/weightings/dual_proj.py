"""The mean gradient, projected so that it makes no objective worse."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from moalign.weightings.gram import GramWeighting

if TYPE_CHECKING:
    from torch import Tensor


class DualProj(GramWeighting):
    """Goes along the mean gradient, or as close to it as makes no objective worse.

    With the cone D of directions d that lower no objective, ``<d, g_k> >= 0`` for all k::

        d = proj_D(sum_k p_k g_k)

    The weights are the preference p plus what objectives need that the mean would harm: never less
    than the preference, up to the factor that makes them sum to 1. They are computed from a Gram
    matrix averaged over steps (``smoothing``).

    What is promised holds for the averaged gradients; a single batch may still lose.

    The weights combine gradients as the formula says only on-policy, unclipped, in the first epoch.

    Source:
        Lopez-Paz and Ranzato 2017, arXiv 1706.08840, equation 11, where the projected gradient is
        that of the newest task; with the mean, and the name, from TorchJD. Differs from it: no 1e-4
        is added to the matrix, and small gradients are treated as large ones are.

    When to use it:
        As `fixed` with a safeguard: it differs from it only while an objective would lose, and then
        gives that objective a gain of 0, where `upgrad` gives it a positive one.

    Cost:
        One Gram matrix per step; the solver takes less than a millisecond.

    Example::

        weighting: {dual-proj: {preference: {accuracy: 3, conciseness: 1, clarity: 1}}}
    """

    name: ClassVar[str] = "dual-proj"

    def coefficients(self, gram_KK: Tensor) -> Tensor:
        """Return the coefficients, [K]."""
        from moalign.maths.gramian import dual_projection

        return dual_projection(gram_KK)
