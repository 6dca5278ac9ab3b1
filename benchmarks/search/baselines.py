"""The samplers of Optuna and BoTorch, used as their documentation shows: no moalign at all.

Optuna minimises the problem's own values over the problem's own bounds. BoTorch's loop is that of
its tutorial on constrained and noisy problems, without constraints: Sobol points first, a Gaussian
process per objective, the logarithm of noisy expected hypervolume improvement, one point at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.search.drive import Clock
from benchmarks.search.problem import Problem

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from torch import Tensor


@dataclass(frozen=True)
class Asked:
    """What a sampler proposed.

    Attributes:
        values_NK: of the problem there, in order.
        suggesting: the time of each suggestion.
        whole: the time of all of it.
    """

    values_NK: list[list[float]]
    suggesting: Clock
    whole: Clock


Told = Callable[[int], None]
Sampler = Callable[[Problem, int, int, Told], Asked]
"""From a problem, a number of trials, a seed, and what to call with the number of suggestions."""


def _optuna(name: str) -> Sampler:
    """Return a sampler of Optuna, with its defaults."""

    def sample(problem: Problem, trials: int, seed: int, told: Told) -> Asked:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler: BaseSampler = getattr(optuna.samplers, name)(seed=seed)
        asked = Asked([], Clock(), Clock())
        with asked.whole.running():
            study = optuna.create_study(
                directions=["minimize"] * len(problem.worst_K), sampler=sampler
            )
            for number in range(trials):
                with asked.suggesting.running():
                    trial = study.ask()
                    inputs = [trial.suggest_float(f"x{d}", 0, 1) for d in range(problem.inputs)]
                values = problem.values(inputs)
                asked.values_NK.append(values)
                study.tell(trial, [-value for value in values])
                told(number + 1)
        return asked

    return sample


def _botorch(problem: Problem, trials: int, seed: int, told: Told) -> Asked:
    """Loop with BoTorch; 2 (D + 1) Sobol points come first."""
    import torch
    from torch.quasirandom import SobolEngine

    first = SobolEngine(problem.inputs, scramble=True, seed=seed).draw(2 * (problem.inputs + 1))
    asked = Asked([], Clock(), Clock())
    inputs_ND: list[list[float]] = []
    torch.manual_seed(seed)
    with asked.whole.running():
        for number in range(trials):
            with asked.suggesting.running():
                if number < len(first):
                    inputs = first[number].tolist()
                else:
                    inputs = _improving(problem, inputs_ND, asked.values_NK, seed + number)
            inputs_ND.append(inputs)
            asked.values_NK.append(problem.values(inputs))
            told(number + 1)
    return asked


def _improving(
    problem: Problem, inputs_ND: list[list[float]], values_NK: list[list[float]], seed: int
) -> list[float]:
    import torch
    from botorch.acquisition.multi_objective.logei import (
        qLogNoisyExpectedHypervolumeImprovement,
    )
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import ModelListGP, SingleTaskGP
    from botorch.models.transforms import Standardize
    from botorch.optim import optimize_acqf
    from botorch.sampling import SobolQMCNormalSampler
    from gpytorch.mlls import SumMarginalLogLikelihood

    given = torch.tensor(inputs_ND, dtype=torch.float64)
    found = torch.tensor(values_NK, dtype=torch.float64)
    model = ModelListGP(
        *(
            SingleTaskGP(given, column[:, None], outcome_transform=Standardize(m=1))
            for column in found.T
        )
    )
    fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
    improvement = qLogNoisyExpectedHypervolumeImprovement(
        model=model,
        ref_point=list(problem.worst_K),
        X_baseline=given,
        prune_baseline=True,
        sampler=SobolQMCNormalSampler(torch.Size([128]), seed=seed),
    )
    best: Tensor
    best, _ = optimize_acqf(
        improvement,
        bounds=torch.tensor([[0.0] * problem.inputs, [1.0] * problem.inputs], dtype=torch.float64),
        q=1,
        num_restarts=10,
        raw_samples=512,
        options={"batch_limit": 5, "maxiter": 200},
    )
    return [float(value) for value in best[0].clamp(0, 1)]


BASELINES: Final[Mapping[str, Sampler]] = {
    "Optuna GPSampler": _optuna("GPSampler"),
    "Optuna TPESampler": _optuna("TPESampler"),
    "Optuna NSGAIISampler": _optuna("NSGAIISampler"),
    "BoTorch qLogNEHVI": _botorch,
}
