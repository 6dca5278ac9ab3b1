"""Policy optimisation of mixed value-at-risk over bundles of prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Lt

from moalign.errors import OptionError
from moalign.maths.normalisation import masked_whiten
from moalign.optimizers.clipped import ClippedOptimizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from moalign.types import Batch, Objective


class RiskPo(ClippedOptimizer):
    """Learns most from the worst results, and nothing more from the best.

    Prompts of a batch are bundled, ``bundle`` of them in a row, or one more where they do not go
    into bundles evenly; the completions with the same number in their groups make a paper, whose
    result s is their mean score. Per objective, with the alpha- and beta-quantiles a and b of
    results::

        g(s) = (1 + omega) / alpha * min(s - a, 0) + clip(s - a, 0, b - a) / (beta - alpha)
        A = g(s), whitened over the batch, for every completion of the paper

    g is the slope of ``(1 + omega) RVaR_{0:alpha} + RVaR_{alpha:beta}``, the mean of the worst
    results and that of the middle ones, by the probability of a result. Quantiles are running
    means: ``a <- memory a + (1 - memory) a of this batch``. Missing scores take no part in a paper
    and get advantage 0.

    The loss is that of ``grpo``.

    Source:
        "RiskPO", Ren et al. 2025, arXiv 2510.00911, and the authors' code. An approximation of it:
        quantiles are running means of those of batches (there they follow the pinball loss, in the
        reward's units); g is whitened over the batch, which is a baseline (there g, which is never
        above 0, is divided by the deviations of the bundle and of the prompt); results are means of
        a bundle, not sums; bundles are what the step happens to draw, anew each time.

    When to use it:
        Rewards of right or wrong on prompts of mixed difficulty, where the policy stops exploring:
        papers have more levels than single answers, and what is solved already stops pulling. Not
        with few completions per step: a quantile wants some dozen papers.

    Cost:
        One forward and backward pass per epoch.

    Example::

        training: {optimizer: {riskpo: {bundle: 4}}, prompts: 32, group: 8}
    """

    name: ClassVar[str] = "riskpo"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"bundle": 1, "omega": 0.0})
    per_objective: ClassVar[bool] = True

    def __init__(
        self,
        *,
        alpha: Annotated[float, Gt(0), Lt(1)] = 0.2,
        beta: Annotated[float, Gt(0), Lt(1)] = 0.8,
        omega: Annotated[float, Ge(0)] = 0.5,
        bundle: Annotated[int, Ge(1)] = 5,
        memory: Annotated[float, Ge(0), Lt(1)] = 0.9,
        **clipped: Any,
    ) -> None:
        """Take the options.

        Args:
            alpha: results below this quantile are the worst.
            beta: results above this quantile pull no more.
            omega: by how much more the worst weigh than the middle ones.
            bundle: prompts per bundle, at most all of a batch; 1: every completion is a paper.
            memory: of the running quantiles; 0: those of this batch.
        """
        super().__init__(**clipped)
        if not alpha < beta:
            raise OptionError(
                f"optimizer riskpo: `alpha` must be below `beta`; found {alpha:g} and {beta:g}",
                "alpha",
            )
        self.alpha = alpha
        self.beta = beta
        self.omega = omega
        self.bundle = bundle
        self.memory = memory
        self._names: list[str] = []
        self._quantiles: dict[str, list[float]] = {}

    def begin(self, objectives: Sequence[Objective], width: int, seed: int) -> None:
        """Take note of the objectives' names."""
        self._names = [o.name for o in objectives]

    def advantages(self, scores_PGK: Tensor, batch: Batch) -> Tensor:
        """Return whitened slopes of the risk, [B, 1, K]; 0 where a score is NaN."""
        import torch

        bundles = self._bundles(scores_PGK.double())
        papers = [part.nanmean(0) for part in bundles]
        low_K, high_K = self._follow(torch.cat(papers))
        shown = zip(papers, bundles, strict=True)
        results_PGK = torch.cat([paper.expand_as(part) for paper, part in shown])
        worst_PGK = (results_PGK - low_K).clamp(max=0.0) * ((1 + self.omega) / self.alpha)
        middle_PGK = (results_PGK - low_K).clamp(min=0.0).minimum(high_K - low_K)
        slopes_PGK = worst_PGK + middle_PGK / (self.beta - self.alpha)
        applies_B1K = ~scores_PGK.isnan().flatten(0, 1)[:, None]
        return masked_whiten(slopes_PGK.flatten(0, 1)[:, None], applies_B1K)

    def _bundles(self, scores_PGK: Tensor) -> Sequence[Tensor]:
        """Return the scores bundle by bundle.

        Sizes differ by one at most: a short one's papers would be the extremes, as a mean of few
        scores varies more.
        """
        import torch

        return torch.tensor_split(scores_PGK, max(len(scores_PGK) // self.bundle, 1))

    def _follow(self, papers_NK: Tensor) -> tuple[Tensor, Tensor]:
        """Move the running quantiles towards this batch's; return both, [K]."""
        import torch

        levels = papers_NK.new_tensor([self.alpha, self.beta])
        found_2K = torch.nanquantile(papers_NK, levels, dim=0)
        for k, name in enumerate(self._names):
            seen = found_2K[:, k].tolist()
            if seen[0] == seen[0]:  # not NaN: the objective applies to something
                before = self._quantiles.get(name, seen)
                self._quantiles[name] = [
                    self.memory * old + (1 - self.memory) * new
                    for old, new in zip(before, seen, strict=True)
                ]
            if name in self._quantiles:
                found_2K[:, k] = found_2K.new_tensor(self._quantiles[name])
        return found_2K[0], found_2K[1]

    def state_dict(self) -> dict[str, Any]:
        """Return the running quantiles by objective."""
        return {name: list(pair) for name, pair in self._quantiles.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over running quantiles."""
        self._quantiles = {name: list(pair) for name, pair in state.items()}
