"""The direction that objectives would agree on if each bargained for its own gain."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from moalign.weightings.gram import GramWeighting

if TYPE_CHECKING:
    from torch import Tensor


class NashMTL(GramWeighting):
    """Takes the direction that maximises the product of the objectives' gains.

    With the preference p as bargaining power, over directions of one length::

        d = argmax sum_k p_k log <d, g_k>
        w_k ~ a_k    where    a_k <sum_j a_j g_j, g_k> = K p_k,    a_k > 0

    The scale of an objective does not matter: orthogonal gradients get weights ~ sqrt(p_k) / |g_k|.
    Every objective gains, and gets weight. A copy of an objective bargains twice, so copies count.

    The coefficients are divided by their sum, and are computed from a Gram matrix averaged over
    steps (``smoothing``). If no direction improves all objectives there is no agreement: gradients
    cancel, and the step is left out.

    The weights combine gradients as the formula says only on-policy, unclipped, in the first epoch.

    Source:
        Navon et al. 2022, arXiv 2202.01017, claim 3.1. Differs: solved exactly as one convex
        problem, where the authors take up to 20 linearised programs and may reuse the weights of
        steps before; no bound on the length, as the sum is divided out; powers other than equal are
        the asymmetric bargaining solution (Kalai 1977), as multiplying gradients by the preference
        would change nothing.

    When to use it:
        When objectives have gradients of very different lengths and none may be left behind. As
        `mgda`, it stops at two objectives that always oppose each other.

    Cost:
        One Gram matrix per step; the solver takes one or two milliseconds.

    Example::

        weighting: {nash-mtl: {preference: {accuracy: 3, conciseness: 1, clarity: 1}}}
    """

    name: ClassVar[str] = "nash-mtl"

    def preferred(self, gram_KK: Tensor, preference_K: Tensor) -> Tensor:
        """Return the coefficients, with the preference as bargaining power."""
        from moalign.maths.gramian import nash

        return nash(gram_KK, preference_K)

    def coefficients(self, gram_KK: Tensor) -> Tensor:
        """Return the coefficients at equal powers, [K]."""
        from moalign.maths.gramian import nash

        return nash(gram_KK)
