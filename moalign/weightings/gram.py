"""Weights from inner products of gradients: methods for objectives that pull against each other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Lt

from moalign.components import Preference, Weighting
from moalign.errors import NonFiniteError
from moalign.types import Weights

if TYPE_CHECKING:
    from torch import Tensor

    from moalign.maths.gramian import GramAverage
    from moalign.types import Step


class GramWeighting(Weighting):
    """Weighs objectives by the coefficients that a method gives their gradients.

    A method is a function of the Gram matrix ``M_ij = <g_i, g_j>`` of the gradients that
    ``step.gram()`` speaks of; :mod:`moalign.maths.gramian` has the published ones. A subclass says
    in :meth:`coefficients` which it is. Everything else is here:

    - The matrix is averaged over steps. Coefficients are no linear function of it, so those of one
      noisy matrix are biased (the shortest combination, towards whatever happened to be short) and
      jump from step to step. ``smoothing: 0.9`` averages over about ten steps, in which a policy
      hardly moves; 0 is what the papers do, with gradients less noisy than those of sampling. What
      a method promises then holds for the average, not for every batch (``update_cosine`` says).
    - Coefficients become weights: they are divided by the sum of their magnitudes, so that an
      update is as long as that of any other weighting. The length that a method gives its direction
      is lost: AdamW divides it out within some steps, ``clip_norm`` cuts it off, and a learning
      rate found with one weighting then serves for another. The sum is recorded instead.
    - Where the combined gradient cancels, or the method gives nothing, no direction is better than
      another: the gain is 0, and a note says so. AdamW would blow the rounding up to a full step.
    - An objective without gradient at a step (all completions scored alike) gets weight 0, as does
      one of preference 0. With no gradient at all the weights are the preference.
    - One objective has weight 1, and no matrix is asked for.

    The weights then multiply advantages. The gradient of the loss is the combination of gradients
    that the method speaks of as long as it is linear in the advantages: on-policy, before anything
    is clipped, in the first of several epochs. Later epochs and mini-batches keep the weights.
    ``training.combine: rewards`` is refused: it adds up raw scores, whose gradients have other
    lengths. ``batch_norm: sequence`` leaves the direction where every group's advantages have mean
    0, as GRPO's do; else, and with ``token``, it moves by what a constant advantage gives, which is
    0 on average.
    """

    needs: frozenset[str] = frozenset({"gram"})
    declares: frozenset[str] = frozenset({"gradient-weights"})

    def __init__(
        self,
        *,
        preference: Preference | None = None,
        smoothing: Annotated[float, Ge(0), Lt(1)] = 0.9,
    ) -> None:
        """Take the options.

        Args:
            preference: weights by objective, divided by their sum; default equal.
            smoothing: decay of the moving average of the Gram matrix; 0: each step on its own.
        """
        self.preference = preference
        self.smoothing = smoothing
        self._average: GramAverage | None = None

    @abstractmethod
    def coefficients(self, gram_KK: Tensor) -> Tensor:
        """Return the method's coefficients, [K] float64, of any scale; 0 for a row of zeros.

        Negative ones must be declared, as ``signed`` and ``unnormalised``.

        Args:
            gram_KK: float64, finite, positive semi-definite up to rounding; not to be changed.
        """

    def preferred(self, gram_KK: Tensor, preference_K: Tensor) -> Tensor:
        """Return the coefficients under a preference, float64 of sum 1.

        The gradients are multiplied by K p_k, as if the objectives were, and the coefficients of
        these multiplied back. To be overridden where that does not favour what is preferred.
        """
        from moalign.maths.gramian import scaled

        scale_K = preference_K * len(preference_K)
        return scale_K * self.coefficients(scaled(gram_KK, scale_K))

    def weigh(self, step: Step) -> Weights:
        """Return the weights, [K].

        Raises:
            NonFiniteError: naming the objective whose gradient is not finite.
        """
        import torch

        from moalign.maths.gramian import cancels, norms

        if len(step.objectives) == 1:
            return Weights(torch.ones(1))
        gram_KK = finite_gram(step)
        preference_K = step.preference_K.double()
        if not ((norms(gram_KK) > 0) & (preference_K > 0)).any():
            return Weights(step.preference_K)
        average_KK = self._running().update(gram_KK)
        coefficients_K = self.preferred(average_KK, preference_K)
        size = coefficients_K.abs().sum()
        weights_K = coefficients_K / size if size > 0 else preference_K
        metrics = {"coefficients": float(size), **_describe(gram_KK, weights_K)}
        if size > 0 and not cancels(average_KK, weights_K):
            return Weights(weights_K.float(), metrics=metrics)
        notes = (cancelled_note(self.name),)
        return Weights(weights_K.float(), gain=0.0, metrics=metrics, notes=notes)

    def state_dict(self) -> dict[str, Any]:
        """Return the average of the Gram matrices so far."""
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


def finite_gram(step: Step, probes: tuple[str, ...] = ()) -> Tensor:
    """Return ``step.gram(probes)`` in float64, all of it finite.

    Raises:
        NonFiniteError: naming the objective, or the probe, whose gradient is not finite.
    """
    gram = step.gram(probes).double()
    finite = gram.isfinite()
    names = [f"of objective {name}" for name in step.names]
    names += [f"on the {probe} split" for probe in probes]
    # One bad gradient spoils the others' rows; the diagonal knows which it is.
    for each in (finite.diagonal(), finite.all(1)):
        for name, fine in zip(names, each.tolist(), strict=True):
            if not fine:
                raise NonFiniteError(f"the gradient {name} is not finite")
    return gram


def cancelled_note(who: str) -> str:
    """Return what a weighting of this name says where it gives the gain 0."""
    return (
        f"weighting {who}: the objectives' gradients cancel, so that no direction is better than "
        "another; steps at which they do change nothing (gain 0)"
    )


def _describe(gram_KK: Tensor, weights_K: Tensor) -> dict[str, float]:
    """Return the smallest cosine between two of the step's gradients, and between one and d."""
    import torch

    from moalign.maths.gramian import cosines, norms

    norms_K = norms(gram_KK)
    live_K = norms_K > 0
    if not live_K.any():
        return {}
    cosines_LL = cosines(gram_KK)[live_K][:, live_K]
    parts_L = (weights_K * norms_K)[live_K] / norms_K.max()
    gains_L = cosines_LL @ parts_L
    length = float((parts_L @ gains_L).clamp(min=0.0).sqrt())
    pairs_LL = cosines_LL.masked_fill(torch.eye(len(cosines_LL), dtype=torch.bool), 1.0)
    metrics = {"gradient_cosine": float(pairs_LL.min())}
    if length > 0:
        metrics["update_cosine"] = max(-1.0, min(1.0, float(gains_L.min()) / length))
    return metrics
