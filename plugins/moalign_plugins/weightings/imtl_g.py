"""The direction that lies equally along all gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from moalign.weightings.gram import GramWeighting

if TYPE_CHECKING:
    from torch import Tensor


class IMTLG(GramWeighting):
    """Takes the direction with equal projections onto all unit gradients: impartial.

    With the preference p::

        <d, g_k> / |g_k| = s p_k    for all k,  s > 0
        w = v / sum_k |v_k|    where    v = M^+ (K p |g|)

    The length of a gradient does not matter, only its angles. With two objectives d halves the
    angle between them. With more, weights may be negative: a gradient between two others is held
    back until it is no nearer to d than they are. Gradients that depend on each other may have no
    such direction; the closest in least squares is taken.

    The weights are computed from a Gram matrix averaged over steps (``smoothing``), and combine
    gradients as the formula says only on-policy, unclipped, in the first epoch.

    Source:
        Liu et al. 2021, "Towards Impartial Multi-task Learning" (ICLR), section 3.1. Differs:
        divided by the sum of magnitudes, where theirs, the plain sum, may be negative, and then
        turns d against all objectives; M^+ from cosines, and without directions that are rounding.
        Projections other than equal are ours.

    When to use it:
        When each objective is to progress at the same pace in its own terms, and none is expected
        to help another. Batch normalisation is refused, because weights may be negative.

    Cost:
        One Gram matrix per step; the solver takes less than a millisecond.

    Example::

        weighting: {imtl-g: {smoothing: 0.95}}
    """

    name: ClassVar[str] = "imtl-g"
    declares: frozenset[str] = frozenset({"signed", "unnormalised", "gradient-weights"})

    def preferred(self, gram_KK: Tensor, preference_K: Tensor) -> Tensor:
        """Return the coefficients, with projections in proportion to the preference."""
        from moalign.maths.gramian import imtl_g

        return imtl_g(gram_KK, preference_K)

    def coefficients(self, gram_KK: Tensor) -> Tensor:
        """Return the coefficients at equal projections, [K]."""
        from moalign.maths.gramian import imtl_g

        return imtl_g(gram_KK)
