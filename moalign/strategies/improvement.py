"""Acquisition functions of BoTorch: what a point may add to results that are known with noise.

Shapes: N rows, W inputs of the model, K objectives, S samples, C cells of the undominated space.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from moalign.strategies.boxes import undominated

if TYPE_CHECKING:
    from torch import Tensor

    Constraint = Callable[[Tensor], Tensor]

SMOOTHING: Final = 1e-5  # of an improvement's kink, in the model's units
PRUNING: Final = 256  # samples that say which rows may be on the front
UNBOUNDED: Final = 1e8  # stands for infinity, in the model's units
AUGMENTED: Final = 0.05  # share of the weighted sum in a Chebyshev value; Knowles 2006


def hypervolume_improvement(
    model: Any,
    reference_K: Tensor,
    baseline: Tensor,
    *,
    constraints: Sequence[Constraint],
    pending: Tensor | None,
    samples: int,
    seed: int,
) -> tuple[Any, Tensor]:
    """Return the logarithm of the noisy expected hypervolume improvement, for 2 to 4 objectives.

    BoTorch's ``qLogNoisyExpectedHypervolumeImprovement`` for one point at a time. What takes it
    ten seconds with a hundred points and three objectives is done otherwise: the fronts that are
    sampled are cut into cells by :func:`~moalign.strategies.boxes.undominated`, and the side that
    a point y adds in a cell is ``s(y - lower) - s(y - upper)``, ``s(x) = (x + sqrt(x^2 + 4 t^2)) /
    2``: positive, with a gradient however far away, and without a logarithm for every side.

    Args:
        model: BoTorch's, of K independent outputs.
        reference_K: where hypervolume starts, in the model's units.
        baseline: ``[N, W]``, inputs of what is there already.
        constraints: functions of samples ``[..., K]`` that are at most 0 where one is met.
        pending: ``[M, W]``, inputs of what will be there.
        samples: S, of the fronts and of what a point may be worth beside each of them.
        seed: of the samples.

    Returns:
        a function of inputs ``[n, 1, W]`` with values ``[n]``, and those rows of the baseline that
        may be on the front.

    Source: Daulton, Balandat, Bakshy 2021, arXiv 2105.08195 (noisy expected hypervolume
    improvement); Ament et al. 2023, arXiv 2310.20708 (its logarithm). Differs: the smoothing.
    """
    import torch
    from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
    from botorch.acquisition.multi_objective.utils import prune_inferior_points_multi_objective
    from botorch.sampling.normal import SobolQMCNormalSampler
    from botorch.utils.multi_objective.box_decompositions.non_dominated import (
        FastNondominatedPartitioning,
    )
    from botorch.utils.objective import compute_smoothed_feasibility_indicator
    from botorch.utils.safe_math import logmeanexp

    class Cells(torch.nn.Module):
        def __init__(self, ref_point: Tensor, Y: Tensor) -> None:
            super().__init__()
            boxes = undominated(Y.tolist(), ref_point.tolist())
            self.bounds = torch.tensor(boxes, dtype=Y.dtype).transpose(0, 1)

        def get_hypercell_bounds(self) -> Tensor:
            return self.bounds

    class Improvement(qLogNoisyExpectedHypervolumeImprovement):
        @property
        def p_class(self) -> Any:
            """What cuts the space above sampled fronts; BoTorch's is fast for two objectives."""
            axes = len(self.get_buffer("ref_point"))
            return FastNondominatedPartitioning if axes == 2 else Cells

        @p_class.setter
        def p_class(self, given: Any) -> None:
            """Keep to it, whatever BoTorch's constructor sets."""

        def _compute_log_qehvi(self, samples: Tensor, X: Tensor | None = None) -> Tensor:  # noqa: ARG002
            """Return the values of n points from ``[S, n, 1, K]`` samples."""
            lower_SCK = self.get_buffer("cell_lower_bounds").unsqueeze(1)
            upper_SCK = self.get_buffer("cell_upper_bounds").unsqueeze(1).clamp_max(UNBOUNDED)
            sides = _smooth(samples - lower_SCK) - _smooth(samples - upper_SCK)
            gains = sides.prod(-1).sum(-1).clamp_min(1e-300).log()
            if self.constraints is not None:
                eta = self.get_buffer("eta")
                gains = gains + compute_smoothed_feasibility_indicator(
                    self.constraints, samples, eta, log=True, fat=True
                ).squeeze(-1)
            return logmeanexp(gains, dim=0)

    held = list(constraints) or None
    baseline = prune_inferior_points_multi_objective(
        model, baseline, reference_K, constraints=held, num_samples=PRUNING
    )
    function = Improvement(
        model,
        reference_K,
        baseline,
        sampler=SobolQMCNormalSampler(torch.Size([samples]), seed=seed),
        constraints=held,
        X_pending=pending,
    )
    return function, baseline


def _smooth(x: Tensor) -> Tensor:
    """Return ``(x + sqrt(x^2 + 4 t^2)) / 2`` without cancellation."""
    size = x.abs()
    return x.clamp_min(0.0) + 2 * SMOOTHING**2 / (size + (size * size + 4 * SMOOTHING**2).sqrt())


def scalarised_improvement(
    model: Any,
    baseline: Tensor,
    *,
    constraints: Sequence[Constraint],
    pending: Tensor | None,
    samples: int,
    seed: int,
) -> tuple[Any, Tensor]:
    """Return the logarithm of the noisy expected improvement of a random Chebyshev value (ParEGO).

    BoTorch's ``qLogNoisyExpectedImprovement`` of ``-max_k w_k d_k - .05 sum_k w_k d_k``, where
    d_k is how far objective k stays behind the best of the baseline, in units of its range there,
    and w is drawn uniformly from the simplex: over many proposals all parts of the front are
    looked for. Of one objective it is the improvement itself.

    Args:
        model: as in :func:`hypervolume_improvement`, and so are the others.
        baseline: ``[N, W]``.
        constraints: at most 0 where met.
        pending: ``[M, W]``.
        samples: S.
        seed: of the weights and the samples.

    Source: Knowles 2006 (ParEGO), for batches Daulton et al. 2020, arXiv 2006.05078; Ament et al.
    2023, arXiv 2310.20708. Differs: the noise counts, and what is pending.
    """
    import torch
    from botorch.acquisition.logei import qLogNoisyExpectedImprovement
    from botorch.acquisition.objective import GenericMCObjective
    from botorch.sampling.normal import SobolQMCNormalSampler
    from botorch.utils.multi_objective.scalarization import get_chebyshev_scalarization

    with torch.no_grad():
        means_NK = model.posterior(baseline).mean
    rng = random.Random(seed)
    draws = torch.tensor([rng.expovariate(1.0) for _ in range(means_NK.shape[1])])
    weights_K = (draws / draws.sum()).to(means_NK)
    # An objective without a range is given one, or it would be divided by 0.
    best, worst = means_NK.amax(0), means_NK.amin(0)
    worst = torch.where(best - worst > 1e-9, worst, best - 1.0)
    value = get_chebyshev_scalarization(weights_K, torch.stack([worst, best]), alpha=AUGMENTED)
    function = qLogNoisyExpectedImprovement(
        model,
        baseline,
        sampler=SobolQMCNormalSampler(torch.Size([samples]), seed=seed),
        objective=GenericMCObjective(value),
        constraints=list(constraints) or None,
        X_pending=pending,
        prune_baseline=True,
    )
    return function, function.X_baseline
