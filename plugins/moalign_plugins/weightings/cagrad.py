"""The direction near the mean gradient that helps the worst-off objective most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Lt

from moalign.components import Preference
from moalign.weightings.gram import GramWeighting

if TYPE_CHECKING:
    from torch import Tensor


class CAGrad(GramWeighting):
    """Looks near the mean gradient for the direction with the best worst gain.

    With the preference p and the mean gradient ``g_0 = sum_k p_k g_k``::

        d = argmax min_k <d, g_k> / p_k    subject to    |d - g_0| <= c |g_0|

    ``c: 0`` is the mean, so `fixed`; a large c comes close to `mgda` with ``power: 0``. For c below
    1 an objective may still lose: with the gradients (1, 0) and (-10, 1) and c = .4, the first
    one's gain is -2.7. From 1 on none does.

    The coefficients, none negative, are divided by their sum, and are computed from a Gram matrix
    averaged over steps (``smoothing``).

    The weights combine gradients as the formula says only on-policy, unclipped, in the first epoch.

    Source:
        Liu et al. 2021, arXiv 2110.14048, equation 3; c = .4 is their default. Differs: solved
        exactly; where gradients cancel and many directions are best, the one closest to the mean is
        taken (TorchJD takes 0, the authors divide by a small number); small gradients are treated
        as large ones are. The preference multiplies gradients in the mean and divides gains in the
        minimum, so that it favours what is preferred at every c.

    When to use it:
        To slide between the mean, fastest on average, and the common ascent of `mgda`: c says how
        far. Worth searching over.

    Cost:
        One Gram matrix per step; the solver takes a few milliseconds.

    Example::

        weighting: {cagrad: {c: 0.4}}
    """

    name: ClassVar[str] = "cagrad"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"c": 1.5, "smoothing": 0})

    def __init__(
        self,
        *,
        preference: Preference | None = None,
        smoothing: Annotated[float, Ge(0), Lt(1)] = 0.9,
        c: Annotated[float, Ge(0)] = 0.4,
    ) -> None:
        """Take the options.

        Args:
            preference: weights by objective, divided by their sum; default equal.
            smoothing: decay of the moving average of the Gram matrix; 0: each step on its own.
            c: how far from the mean gradient, in units of its length; 0: the mean.
        """
        super().__init__(preference=preference, smoothing=smoothing)
        self.c = c

    def preferred(self, gram_KK: Tensor, preference_K: Tensor) -> Tensor:
        """Return the coefficients, with gains measured in parts of the preference."""
        from moalign.maths.gramian import cagrad

        return cagrad(gram_KK, self.c, preference_K)

    def coefficients(self, gram_KK: Tensor) -> Tensor:
        """Return the coefficients at an equal preference, [K]."""
        from moalign.maths.gramian import cagrad

        return cagrad(gram_KK, self.c)
