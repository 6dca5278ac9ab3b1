"""Gaussian processes of noisy objectives, at several stages of training.

Shapes: N measurements, D columns of parameters, K objectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from torch import Tensor

UNKNOWN: Final = 1e6  # variance of what was not measured, in units of the spread: it says nothing
SMALLEST: Final = 1e-6  # measured variance, in the same units; GPyTorch takes no less
LEAST_SPREAD: Final = 1e-8  # a spread below it is none
LEAST_SCALE: Final = 1e-4  # variance of what a kernel explains: a long step would round it to 0
# Ended at a tolerance of 1e-4, fits and searches take 60 % of the time and find less: .06 less of
# DTLZ2's hypervolume in 40 trials, less on each of three seeds (`benchmarks.search --quick`).
ITERATIONS: Final = 75


@dataclass(frozen=True)
class Regression:
    """A fitted model of K objectives, in its own units: per objective, of the measured spread.

    Attributes:
        model: BoTorch's, of K independent outputs.
        centre_K: measured mean per objective.
        scale_K: measured standard deviation per objective; 1 if there is none.
        staged: the model has one more input, the stage of training.
    """

    model: Any
    centre_K: Tensor
    scale_K: Tensor
    staged: bool

    def scaled(self, values: Tensor) -> Tensor:
        """Return values ``[..., K]`` in the model's units."""
        return (values - self.centre_K) / self.scale_K

    def inputs(self, rows: Tensor) -> Tensor:
        """Return what the model reads for parameters ``[..., D]`` at the end of training."""
        import torch

        if not self.staged:
            return rows
        return torch.cat([rows, torch.ones_like(rows[..., :1])], dim=-1)


def fit(
    rows_ND: Sequence[Sequence[float]],
    stages_N: Sequence[float],
    values_NK: Sequence[Sequence[float]],
    stderr_NK: Sequence[Sequence[float]],
) -> Regression:
    """Fit a Gaussian process per objective to measurements, by maximum a posteriori.

    ``y = f(x, s) + measurement error + noise``: the error's standard deviation is given, the noise
    (another seed would have trained another policy) is estimated, one variance per objective, at
    least 1e-4 of the spread's. An error that is not known counts as the median of those that are,
    or as none if none is: the noise then stands for it.

    ``f`` has a squared exponential kernel with a length per input, and priors that get longer with
    the number of inputs. If there are stages below 1, the stage s is one more input, and a curve
    common to all trials is added, ``f(x, s) = g(x, s) + h(s)``: what training adds for everybody
    says nothing about how trials differ, and would make early measurements look unlike late ones
    (error at the end of training, 6 of 20 trials full, 24 made-up cases: .026 with it, .030
    without). Knowing the errors is worth more: with 14 measurements, half of them twenty times as
    noisy, the prediction's error is .051 with them, .095 without.

    Args:
        rows_ND: parameters, in [0, 1].
        stages_N: share of the training that was done, in (0, 1].
        values_NK: what was measured; NaN where it was not.
        stderr_NK: standard errors, in the same units; NaN where they are not known.

    Raises:
        botorch.exceptions.ModelFittingError, linear_operator.utils.errors.NanError,
        linear_operator.utils.errors.NotPSDError: there is no model of these numbers.

    Source: priors of Hvarfner, Hellsten, Nardi 2024, arXiv 2402.02229, in BoTorch; the split of
    noise and the common curve are ours.
    """
    import torch
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    inputs = torch.tensor(rows_ND, dtype=torch.double)
    stages = torch.tensor(stages_N, dtype=torch.double)
    staged = bool((stages < 1).any())
    if staged:
        inputs = torch.cat([inputs, stages.unsqueeze(-1)], dim=-1)
    values = torch.tensor(values_NK, dtype=torch.double)
    values = torch.where(values.isfinite(), values, torch.nan)
    centre, scale = _spread(values)
    targets = (values - centre) / scale
    variances = _variances(torch.tensor(stderr_NK, dtype=torch.double) / scale)
    missing = targets.isnan()
    targets, variances = targets.masked_fill(missing, 0.0), variances.masked_fill(missing, UNKNOWN)

    batch = torch.Size([values.shape[1]] if values.shape[1] > 1 else [])
    model = SingleTaskGP(
        inputs,
        targets,
        variances,
        likelihood=_likelihood(variances, batch),
        covar_module=_kernel(inputs.shape[1], batch, staged),
        outcome_transform=None,
    )
    fit_gpytorch_mll(
        ExactMarginalLogLikelihood(model.likelihood, model),
        optimizer_kwargs={"options": {"maxiter": ITERATIONS}},
    )
    return Regression(model, centre, scale, staged)


def _spread(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per objective; 0 and 1 where there are none."""
    import torch

    centre = values.nanmean(0).nan_to_num(0.0)
    scale = (values - centre).square().nanmean(0).nan_to_num(0.0).sqrt()
    return centre, torch.where(scale > LEAST_SPREAD, scale, 1.0)


def _variances(stderr: Tensor) -> Tensor:
    """Return variances; an unknown one is the median of its objective's known ones."""
    import torch

    known = torch.where(stderr.isfinite(), stderr, torch.nan)
    usual = known.nanmedian(0).values.nan_to_num(0.0)
    return torch.where(known.isnan(), usual, known).square().clamp_min(SMALLEST)


def _likelihood(variances: Tensor, batch: Any) -> Any:
    """Return a likelihood with given variances and one more to be estimated."""
    from botorch.models.utils.gpytorch_modules import get_gaussian_likelihood_with_lognormal_prior
    from gpytorch.likelihoods import FixedNoiseGaussianLikelihood

    likelihood = FixedNoiseGaussianLikelihood(
        variances.mT if batch else variances.squeeze(-1), batch_shape=batch
    )
    likelihood.second_noise_covar = get_gaussian_likelihood_with_lognormal_prior(batch).noise_covar
    return likelihood


def _kernel(width: int, batch: Any, staged: bool) -> Any:
    from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
    from gpytorch.constraints import GreaterThan
    from gpytorch.kernels import ScaleKernel
    from gpytorch.priors import LogNormalPrior

    def scaled(kernel: Any) -> Any:
        return ScaleKernel(
            kernel,
            batch_shape=batch,
            outputscale_prior=LogNormalPrior(0.0, 1.0),
            outputscale_constraint=GreaterThan(LEAST_SCALE),
        )

    kernel = get_covar_module_with_dim_scaled_prior(width, batch)
    if not staged:
        return kernel
    curve = get_covar_module_with_dim_scaled_prior(1, batch, active_dims=[width - 1])
    return scaled(kernel) + scaled(curve)
