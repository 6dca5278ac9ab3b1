"""The sum of gradients after what they have in common no longer dominates."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from moalign.weightings.gram import GramWeighting

if TYPE_CHECKING:
    from torch import Tensor


class AlignedMTL(GramWeighting):
    """Shrinks all principal components of the gradients to the smallest, and sums by preference.

    With M = V diag(s^2) V' the Gram matrix and p the preference::

        w ~ s_min V diag(1 / s) V' p

    The gradients are replaced by the orthogonal ones, of one length, that are closest to them; so
    none conflicts with another, and none is louder. What the *original* gradients gain from d may
    still be negative. Weights may be negative, and are divided by the sum of their magnitudes.

    A component that is a combination of gradients that cancel to a thousandth of their length is
    rounding, and is left out. One a little above that counts as much as the largest: where
    objectives nearly depend on each other, d is mostly what tells them apart, noise included. The
    Gram matrix is averaged over steps (``smoothing``) because of that.

    The weights combine gradients as the formula says only on-policy, unclipped, in the first epoch.

    Source:
        Senushkin et al. 2023, arXiv 2305.19000, section 4.2. Differs: the rank is found relative to
        the gradients that make up a component; the scale (smallest, median or root mean square
        value in other codes) is divided out.

    When to use it:
        When two objectives with much in common drown a third. Batch normalisation is refused,
        because weights may be negative.

    Cost:
        One Gram matrix per step; the solver takes less than a millisecond.

    Example::

        weighting: {aligned-mtl: {preference: {accuracy: 3, conciseness: 1, clarity: 1}}}
    """

    name: ClassVar[str] = "aligned-mtl"
    declares: frozenset[str] = frozenset({"signed", "unnormalised", "gradient-weights"})

    def preferred(self, gram_KK: Tensor, preference_K: Tensor) -> Tensor:
        """Return the coefficients, with the preference as weights of the aligned gradients."""
        from moalign.maths.gramian import aligned_mtl

        return aligned_mtl(gram_KK, preference_K)

    def coefficients(self, gram_KK: Tensor) -> Tensor:
        """Return the coefficients at equal weights, [K]."""
        from moalign.maths.gramian import aligned_mtl

        return aligned_mtl(gram_KK)
