"""A direction that worsens no objective, as close as may be to what helps held-out prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Lt

from moalign.components import Preference, Weighting
from moalign.types import Weights
from moalign.weightings.gram import cancelled_note, finite_gram

if TYPE_CHECKING:
    from torch import Tensor

    from moalign.maths.gramian import GramAverage
    from moalign.types import Step


class ParetoDirection(Weighting):
    """Prefers the objectives whose gradients help held-out prompts, and worsens none for it.

    With g_k the gradient of objective k, p the preference, and h the gradient of the sum of all
    objectives, weighted by p, on a batch of the steer split, per step::

        c_k = <h, g_k> / (|h| |g_k|)
        q_k = p_k exp(sharpness c_k) / sum_j p_j exp(sharpness c_j)      the dynamic preference
        a   = argmin over v >= q of |sum_k v_k g_k|                      common ascent
        w   = a / sum(a)

    ``sum_k a_k g_k`` is the projection of ``sum_k q_k g_k`` onto the directions d with
    ``<d, g_k> >= 0`` for every k. Where no two gradients conflict nothing is projected and w = q.
    With ``sharpness: 0`` q = p, which is `dual-proj`; with a large one q is the objective that
    agrees best with h, and the others get what it takes not to lose.

    The inner products are averaged over steps (`smoothing`), as those of one batch are noisy.
    Where the gradients cancel no direction is better than another: the gain is 0, and a note says
    so. An objective without gradient at a step gets weight 0; with no gradient at all the weights
    are the preference.

    Weights multiply advantages, so the gradient of the loss is this direction on-policy and before
    anything is clipped; ``training.combine: rewards`` is refused.

    Source:
        After "Pareto Domain Adaptation", Lv et al. 2021, arXiv 2112.04137, which combines losses
        into a direction of common descent under a preference that the gradient of a held-out
        surrogate loss sets at each step. From its abstract; the formulae above are ours, made of
        an exponential tilt and the dual cone's projection (Lopez-Paz and Ranzato 2017, arXiv
        1706.08840), because a linear program's corners jump with the noise of sampled gradients.

    When to use it:
        Conflicting objectives, where training rewards are over-fitted and new prompts count.

    Cost:
        The gradients of ``step.gram()``, and a rollout of the steer split and its gradient, per
        step.

    Example::

        weighting: {pareto-direction: {sharpness: 4}}
    """

    name: ClassVar[str] = "pareto-direction"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"sharpness": 0.0, "smoothing": 0.0})
    needs = frozenset({"gram", "steer"})
    declares = frozenset({"gradient-weights"})

    def __init__(
        self,
        *,
        preference: Preference | None = None,
        sharpness: Annotated[float, Ge(0)] = 2.0,
        smoothing: Annotated[float, Ge(0), Lt(1)] = 0.9,
    ) -> None:
        """Take the options.

        Args:
            preference: weights by objective before the held-out gradient is heard; default equal.
            sharpness: how strongly it is heard, in logarithms of weights per unit of cosine.
            smoothing: decay of the moving average of the inner products; 0: each step on its own.
        """
        self.preference = preference
        self.sharpness = sharpness
        self.smoothing = smoothing
        self._average: GramAverage | None = None

    def weigh(self, step: Step) -> Weights:
        """Return the weights, [K].

        Raises:
            NonFiniteError: naming the objective whose gradient is not finite.
        """
        import torch

        from moalign.maths.gramian import cancels, cosines, norms

        count = len(step.objectives)
        if count == 1:
            return Weights(torch.ones(1))
        gram = finite_gram(step, ("steer",))
        preference_K = step.preference_K.double()
        if not ((norms(gram)[:count] > 0) & (preference_K > 0)).any():
            return Weights(step.preference_K)
        average = self._running().update(gram)
        gram_KK = average[:count, :count]
        agreement_K = cosines(average)[count, :count]
        tilted_K = torch.softmax(preference_K.log() + self.sharpness * agreement_K, 0)
        weights_K = _common_ascent(gram_KK, tilted_K)
        metrics = {
            f"{what}/{name}": value
            for what, values in (("agreement", agreement_K), ("preference", tilted_K))
            for name, value in zip(step.names, values.tolist(), strict=True)
        }
        if not cancels(gram_KK, weights_K):
            return Weights(weights_K.float(), metrics=metrics)
        notes = (cancelled_note(self.name),)
        return Weights(weights_K.float(), gain=0.0, metrics=metrics, notes=notes)

    def state_dict(self) -> dict[str, Any]:
        """Return the average of the inner products so far."""
        return self._running().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self._running().load_state_dict(state)

    def _running(self) -> GramAverage:
        """Return the average; made at first use, as it needs torch."""
        from moalign.maths.gramian import GramAverage

        if self._average is None:
            self._average = GramAverage(self.smoothing)
        return self._average


def _common_ascent(gram_KK: Tensor, preference_K: Tensor) -> Tensor:
    """Return the weights of ``sum_k p_k g_k``, projected so that no objective loses; of sum 1."""
    from moalign.maths.gramian import dual_projection, scaled

    scale_K = preference_K * len(preference_K)
    weights_K = scale_K * dual_projection(scaled(gram_KK, scale_K))
    return weights_K / weights_K.sum()
