"""Weights that follow the gradient of held-out utility: a one-step look-ahead."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Lt

from moalign.components import Preference, Weighting
from moalign.maths.simplex import raise_to_floor, softmax
from moalign.types import Weights
from moalign.weightings.gram import finite_gram
from moalign.weightings.units import check_floor

if TYPE_CHECKING:
    from moalign.types import Objective, Step


class MetaGradient(Weighting):
    """Moves weight to objectives whose gradients raise the utility of prompts held out.

    A step along ``sum_k w_k g_k`` changes the utility U by ``sum_k w_k <h, g_k>`` to first order,
    with h the gradient of U. With ``w = softmax(u)``, every `every` steps::

        dU/du_k = w_k (c_k - sum_j w_j c_j)         c_k = <h, g_k> / (|h| |g_k|)
        u_k     = u_k + rate * dU/du_k              then w raised to `floor`

    U is the sum of all objectives, weighted by the preference, on a batch of the steer split
    (``probe: steer``): a batch other than the one that is trained on, or noise is held for
    progress. ``probe: self`` takes the training batch, for nothing; with equal preferences c_k is
    then the influence of `influence`, itself included.

    ``gradients: raw`` leaves out the two norms: then `rate` is the product of the meta rate and
    the policy's learning rate, and has their unit.

    The weights start at the preference and serve the batch they were computed from. An objective
    without gradient at a step keeps its weight against the others'.

    Source:
        After "AMFT: Aligning LLM Reasoners by Meta-Learning the Optimal Imitation-Exploration
        Balance", arXiv 2508.06944, where one weight balances imitation and reinforcement. STATUS:
        its listing has been reported as withdrawn, under investigation for misconduct; look before
        you cite it, and do not compare with its numbers. Only the idea is used. Differs: the
        public code adds the derivative of the validation *loss*, and so descends the utility; here
        the sign is right. Several objectives, cosines (the product of its two rates, 1e-10, moves
        nothing) and the probe are ours; the entropy term, which is for imitation, is left out.

    When to use it:
        When what counts is the preferred sum of the objectives on new prompts, and some train each
        other. The preference acts through U and as the start.

    Cost:
        The gradients of ``step.gram()`` and, with ``probe: steer``, a rollout of the steer split
        and its gradient, every `every` steps.

    Example::

        weighting: {meta-gradient: {every: 5, floor: 0.1}}
    """

    name: ClassVar[str] = "meta-gradient"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"probe": "self", "gradients": "raw", "rate": 0.01, "every": 2},
    )

    def __init__(
        self,
        *,
        preference: Preference | None = None,
        probe: Literal["steer", "self"] = "steer",
        gradients: Literal["normalised", "raw"] = "normalised",
        rate: Annotated[float, Ge(0)] = 0.3,
        every: Annotated[int, Ge(1)] = 1,
        floor: Annotated[float, Gt(0), Lt(1)] = 0.05,
    ) -> None:
        """Take the options.

        Args:
            preference: where the weights start, by objective; default equal.
            probe: whose utility counts: that of a steer batch, or of the training batch itself.
            gradients: whether cosines or plain inner products are followed.
            rate: step size of the logarithms of the weights; 0 keeps the preference.
            every: steps from one update to the next.
            floor: smallest weight; below 1 / number of objectives. A weight moves in proportion to
                itself, so at 0 it would stay.
        """
        self.preference = preference
        self.probe = probe
        self.gradients = gradients
        self.rate = rate
        self.every = every
        self.floor = floor
        self.needs = frozenset({"gram", "steer"} if probe == "steer" else {"gram"})
        self._weights_K: list[float] = []
        self._steps = 0

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check that the floor leaves room for all objectives."""
        check_floor(self.name, self.floor, objectives)

    def weigh(self, step: Step) -> Weights:
        """Return the moved weights, [K].

        Raises:
            NonFiniteError: naming the objective whose gradient is not finite.
        """
        import torch

        if len(step.objectives) == 1:
            return Weights(torch.ones(1))
        if not self._weights_K:
            self._weights_K = raise_to_floor(step.preference_K.double().tolist(), self.floor)
        metrics: dict[str, float] = {}
        if self._steps % self.every == 0:
            slopes_K = self._slopes(step)
            logits_K = [
                math.log(w) + self.rate * slope
                for w, slope in zip(self._weights_K, slopes_K, strict=True)
            ]
            if any(slopes_K):
                self._weights_K = raise_to_floor(softmax(logits_K), self.floor)
            metrics = {f"slope/{n}": s for n, s in zip(step.names, slopes_K, strict=True)}
        self._steps += 1
        return Weights(torch.tensor(self._weights_K, dtype=torch.float32), metrics=metrics)

    def _slopes(self, step: Step) -> list[float]:
        """Return dU/du_k of every objective; 0 for those without gradient."""
        count = len(step.objectives)
        gram = finite_gram(step, ("steer",) if self.probe == "steer" else ()).tolist()
        if self.probe == "steer":
            gains_K, square = gram[count][:count], gram[count][count]
        else:
            preferred_K = (step.preference_K.double() * count).tolist()
            gains_K = [_product(preferred_K, row) for row in gram]
            square = _product(preferred_K, gains_K)
        norms_K = [math.sqrt(max(gram[k][k], 0.0)) for k in range(count)]
        length = math.sqrt(max(square, 0.0))
        live = [k for k, norm in enumerate(norms_K) if norm > 0]
        if length == 0 or not live:
            return [0.0] * count
        if self.gradients == "normalised":
            gains_K = [
                max(-1.0, min(1.0, gain / norm / length)) if norm > 0 else 0.0
                for gain, norm in zip(gains_K, norms_K, strict=True)
            ]
        total = math.fsum(self._weights_K[k] for k in live)
        mean = math.fsum(self._weights_K[k] * gains_K[k] for k in live) / total
        return [
            self._weights_K[k] * (gains_K[k] - mean) if k in live else 0.0 for k in range(count)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the weights and the step count."""
        return {"weights": list(self._weights_K), "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self._weights_K = list(state["weights"])
        self._steps = int(state["steps"])


def _product(left_K: Sequence[float], right_K: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(left_K, right_K, strict=True))
