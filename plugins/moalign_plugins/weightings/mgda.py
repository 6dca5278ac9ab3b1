"""The shortest combination of the gradients, which improves all objectives at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Le, Lt

from moalign.components import Preference
from moalign.weightings.gram import GramWeighting

if TYPE_CHECKING:
    from torch import Tensor


class MGDA(GramWeighting):
    """Takes the shortest convex combination of the gradients: a common ascent direction.

    With gradients divided by a power of their length, and by the preference p::

        h_k = g_k / (|g_k|^power K p_k)
        b   = argmin |sum_k b_k h_k|^2    over the simplex
        w_k ~ b_k / (|g_k|^power K p_k)

    Then ``<d, h_k> >= |d|^2``: every objective gains, the ones that count in equal measure, which
    is in proportion to ``p_k |g_k|^power`` in their own. An objective that gains more than that by
    itself gets weight 0.

    The shortest combination is made of what is short: with ``power: 0``, the published method, two
    orthogonal gradients get weights ~ 1 / |g_k|^2, and an objective whose gradient fades, having
    been learnt, takes over. With 1 only angles decide which gradients count, and gains are relative
    to the gradients' lengths.

    The weights are computed from a Gram matrix averaged over steps (``smoothing``): noise lengthens
    each gradient, and pulls the shortest combination about.

    What is promised holds for the averaged gradients; a single batch may still lose.

    The weights combine gradients as the formula says only on-policy, unclipped, in the first epoch.

    Source:
        Désidéri 2012, Comptes Rendus 350(5-6), 313-318; Sener and Koltun 2018, arXiv 1810.04650.
        Lengths divided out: as the code of CTWA does (``power: 1``); 1 and 2 in GAPO. Published
        behaviour: ``{power: 0, smoothing: 0}``. Differs: solved exactly, not by Frank-Wolfe; the
        preference divides the gradients, because multiplying them would favour what is not
        preferred.

    When to use it:
        When no objective may be left behind, whatever it costs the others. It stops at any policy
        where gradients cancel, however bad: two objectives that always oppose each other (short
        against long) stop it at once.

    Cost:
        One Gram matrix per step; the solver takes a millisecond.

    Example::

        weighting: {mgda: {smoothing: 0.95}}
    """

    name: ClassVar[str] = "mgda"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"power": 0, "smoothing": 0})

    def __init__(
        self,
        *,
        preference: Preference | None = None,
        smoothing: Annotated[float, Ge(0), Lt(1)] = 0.9,
        power: Annotated[float, Ge(0), Le(2)] = 1.0,
    ) -> None:
        """Take the options.

        Args:
            preference: how much each objective is to gain, divided by its sum; default equal.
            smoothing: decay of the moving average of the Gram matrix; 0: each step on its own.
            power: of the length that each gradient is divided by; 0: none.
        """
        super().__init__(preference=preference, smoothing=smoothing)
        self.power = power

    def preferred(self, gram_KK: Tensor, preference_K: Tensor) -> Tensor:
        """Return the coefficients; what is preferred is made shorter, and so counts more."""
        from moalign.maths.gramian import norms, scaled

        norms_K = norms(gram_KK)
        live_K = (norms_K > 0) & (preference_K > 0)
        lengths_K = (norms_K / norms_K.max()).where(live_K, 1.0)
        scale_K = (lengths_K**-self.power / preference_K).where(live_K, 0.0)
        return scale_K * self.coefficients(scaled(gram_KK, scale_K))

    def coefficients(self, gram_KK: Tensor) -> Tensor:
        """Return the coefficients, [K]."""
        from moalign.maths.gramian import min_norm

        return min_norm(gram_KK)
