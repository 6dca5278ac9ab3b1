"""Weights that follow the influence of each objective's gradient on all objectives."""

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


class Influence(Weighting):
    """Moves weight towards objectives whose gradient helps all objectives: a mirror step.

    With g_k the gradient of objective k and M_ij = <g_i, g_j>, per step::

        I_i = sum_j M_ij                                  self_term: exclude leaves out j = i
        w   = softmax(log w + rate * lr / lr_peak * I)    then raised to `floor`

    The weights start at the preference and are used on the batch they were computed from. Before
    the sum each gradient is divided by max(max_norm, its norm), so that |I_i| <= K whatever the
    scale of the rewards; a small ``max_norm`` makes I a sum of cosines, null leaves the gradients
    as they are. With ``accumulate: A`` the mean of I over A steps is applied every A-th step. The
    norm is that of the whole gradient, also if ``training.gradients.layers`` compares some layers.

    ``lr`` is the step's learning rate and ``lr_peak`` the highest so far: under a decaying schedule
    that is the initial one, and the weights come to rest as the policy does; during a warm-up it is
    the current one.

    Gradients are those of ``step.gram()``: of the optimizer's own loss, with one objective's
    advantages. Below ``max_norm`` their scale counts; above it only their angles do, and with two
    objectives both above it I_1 = I_2 = 1 + cos, so that the weights rest: use null, or a
    ``max_norm`` above their norms, to tell two objectives apart.

    There is no force back to the preference: with constant I the weights end on the objective with
    the largest influence, or at ``floor``. Large and mutually aligned gradients win.

    Source:
        "Learning to Optimize Multi-Objective Alignment Through Dynamic Reward Weighting", arXiv
        2509.11452, section 5, algorithm 2, equation 3, where rate = eta / mu: 0.1 (mu = 1e-5) or
        0.01. Differs from the authors' code: the result is divided by max_norm squared; KL and
        entropy terms are in no g_k, there they are in every one; the schedule is relative to the
        peak, so that ``rate`` does not depend on the unit of the learning rate; a floor of 1e-8
        keeps a weight from being lost for good. The authors combine rewards before normalising
        them: ``training.combine: rewards``; and compare layers 10 to 25 of a model of 36:
        ``training.gradients.layers``.

    When to use it:
        One run, and an idea of where to start but not of the proportions. On-policy: the
        gradients are those of the sampling policy.

    Cost:
        The gradients of ``step.gram()``: with K objectives (K - 1) / 2 backward passes per step on
        top of the update's, as long as that is a sum of them (``combine: advantages``), else a
        forward and (K + 1) / 2 backward passes; and memory for K gradients.

    Example::

        weighting: {influence: {rate: 0.1, floor: 0.05}}
    """

    name: ClassVar[str] = "influence"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"accumulate": 2, "self_term": "exclude", "max_norm": None},
    )
    needs: frozenset[str] = frozenset({"gram"})

    def __init__(
        self,
        *,
        preference: Preference | None = None,
        rate: Annotated[float, Ge(0)] = 0.1,
        max_norm: Annotated[float, Gt(0)] | None = 1.0,
        self_term: Literal["include", "exclude"] = "include",
        accumulate: Annotated[int, Ge(1)] = 1,
        floor: Annotated[float, Gt(0), Lt(1)] = 1e-8,
    ) -> None:
        """Take the options.

        Args:
            preference: where the weights start; default equal.
            rate: step size of log weights per unit of influence; 0 keeps the preference.
            max_norm: norm up to which a gradient counts in full; null: no limit.
            self_term: whether an objective's own squared norm is part of its influence.
            accumulate: steps over which the influence is averaged before it is applied.
            floor: smallest weight; below 1 / number of objectives.
        """
        self.preference = preference
        self.rate = rate
        self.max_norm = max_norm
        self.self_term = self_term
        self.accumulate = accumulate
        self.floor = floor
        self._weights_K: list[float] = []
        self._sum_K: list[float] = []
        self._summed = 0
        self._peak = 0.0

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
            self._sum_K = [0.0] * len(self._weights_K)
        self._peak = max(self._peak, step.learning_rate)
        # Before the matrix: where it is of some layers only, one pass then gives both.
        norms_K = None if self.max_norm is None else step.gradient_norms_K().tolist()
        influence_K = self._influence(finite_gram(step).tolist(), norms_K)
        self._sum_K = [total + i for total, i in zip(self._sum_K, influence_K, strict=True)]
        self._summed += 1
        if self._summed == self.accumulate:
            self._move(step.learning_rate)
        metrics = {f"influence/{n}": i for n, i in zip(step.names, influence_K, strict=True)}
        return Weights(torch.tensor(self._weights_K, dtype=torch.float32), metrics=metrics)

    def _influence(self, gram: list[list[float]], norms_K: list[float] | None) -> list[float]:
        if self.max_norm is None or norms_K is None:
            scale_K = [1.0] * len(gram)
        else:
            scale_K = [1.0 / max(self.max_norm, norm) for norm in norms_K]
        return [
            sum(
                scale_K[i] * scale_K[j] * product
                for j, product in enumerate(row)
                if i != j or self.self_term == "include"
            )
            for i, row in enumerate(gram)
        ]

    def _move(self, learning_rate: float) -> None:
        share = learning_rate / self._peak if self._peak > 0 else 0.0
        size = self.rate * share / self._summed
        logits = [math.log(w) + size * i for w, i in zip(self._weights_K, self._sum_K, strict=True)]
        self._weights_K = raise_to_floor(softmax(logits), self.floor)
        self._sum_K = [0.0] * len(self._sum_K)
        self._summed = 0

    def state_dict(self) -> dict[str, Any]:
        """Return weights, what has accumulated, and the peak learning rate."""
        return {
            "weights": list(self._weights_K),
            "sum": list(self._sum_K),
            "summed": self._summed,
            "peak": self._peak,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self._weights_K = list(state["weights"])
        self._sum_K = list(state["sum"])
        self._summed = int(state["summed"])
        self._peak = float(state["peak"])
