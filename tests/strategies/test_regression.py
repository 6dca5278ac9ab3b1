from __future__ import annotations

import math
import random
import statistics

import pytest
import torch
from gpytorch.mlls import ExactMarginalLogLikelihood

from moalign.strategies import regression
from moalign.strategies.regression import fit

# The strategy keeps BoTorch's warnings from people; here they are called without it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::botorch.exceptions.warnings.BotorchWarning"),
    pytest.mark.filterwarnings("ignore::linear_operator.utils.warnings.NumericalWarning"),
]

POINTS = [(i / 7, j / 7) for i in range(8) for j in range(8)]


def truth(x: float, y: float) -> tuple[float, float]:
    return 0.5 + 0.3 * math.sin(3 * x) - 0.2 * y, 0.4 + 0.3 * x * y


def drawn(count: int, seed: int = 0) -> list[tuple[float, float]]:
    rng = random.Random(seed)
    return [(rng.random(), rng.random()) for _ in range(count)]


def error(model: regression.Regression) -> float:
    """Return the root mean squared error of the predictions at the end of training."""
    with torch.no_grad():
        means = model.model.posterior(model.inputs(torch.tensor(POINTS).double())).mean
    found = means * model.scale_K + model.centre_K
    true = torch.tensor([truth(*point) for point in POINTS], dtype=torch.double)
    return float((found - true).square().mean().sqrt())


def fitted(rows, *, stderr=0.01, values=None) -> regression.Regression:
    values = values or [truth(*row) for row in rows]
    return fit(rows, [1.0] * len(rows), values, [[stderr] * len(values[0])] * len(rows))


def test_it_predicts():
    assert error(fitted(drawn(12))) < 0.05
    assert error(fitted(drawn(2))) > 0.08


def test_a_measured_error_is_the_noise_of_its_own_measurement():
    """One wild value is believed if it was measured well, and not if it was measured badly."""
    rows = drawn(12)
    values = [list(truth(*row)) for row in rows]
    values[3][0] += 0.5
    stderr = [[0.01, 0.01] for _ in rows]
    stderr[3][0] = 0.5
    doubted = fit(rows, [1.0] * 12, values, stderr)
    believed = fit(rows, [1.0] * 12, values, [[0.01, 0.01]] * 12)
    assert error(doubted) < 0.05
    assert error(believed) > 2 * error(doubted)


@pytest.mark.parametrize("stderr", [0.0, math.nan])
def test_there_is_always_some_noise(stderr: float):
    """Errors of zero and unknown ones leave a hundredth of the spread, and the model stands."""
    rows = drawn(8)
    model = fitted([*rows, *rows], stderr=stderr)
    assert float(model.model.likelihood.noise.detach().sqrt().min()) >= 0.01
    assert error(model) < 0.1


def test_an_unknown_error_counts_as_the_usual_one():
    stderr = torch.tensor([[0.1, math.nan], [0.2, math.nan], [math.nan, math.nan], [0.4, math.inf]])
    variances = regression._variances(stderr.double())
    assert variances[:, 0].tolist() == pytest.approx([0.01, 0.04, 0.04, 0.16])
    assert variances[:, 1].tolist() == [regression.SMALLEST] * 4


def test_what_was_not_measured_says_nothing():
    """A row without one objective's value is absent for it, and there for the other."""
    rows = drawn(10)
    values = [list(truth(*row)) for row in rows]
    holes = [[math.nan, value[1]] if i < 4 else value for i, value in enumerate(values)]
    model, less = fitted(rows, values=holes), fitted(rows[4:], values=values[4:])
    at = model.inputs(torch.tensor(POINTS).double())
    with torch.no_grad():
        first = model.model.posterior(at).mean[:, 0] * model.scale_K[0] + model.centre_K[0]
        second = less.model.posterior(at).mean[:, 0] * less.scale_K[0] + less.centre_K[0]
    assert torch.allclose(first, second, atol=1e-3)
    assert error(model) < error(less)


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("axes", [1, 2])
def test_constant_objectives_and_equal_rows(count: int, axes: int):
    model = fitted([(0.5, 0.5)] * count, values=[[0.3] * axes] * count)
    assert model.scale_K.tolist() == [1.0] * axes
    with torch.no_grad():
        posterior = model.model.posterior(torch.tensor(POINTS).double())
    assert posterior.mean.isfinite().all()
    assert (posterior.variance > 0).all()


def learnt(w: float, rate: float, stage: float) -> list[float]:
    """Objectives of a weight and a rate, which all trials approach along one curve."""
    skill = 0.5 * (1 - 2 * (rate - 0.6) ** 2)
    lacking = 0.4 * (1 - stage) ** 2
    return [0.3 + skill * math.sqrt(w) - lacking, 0.3 + skill * math.sqrt(1 - w) - lacking]


def error_with(stopped: int, seed: int) -> float:
    """Return the error at the end of training, with six full trials and some stopped early."""
    rng = random.Random(seed)
    points = [(rng.random(), rng.random()) for _ in range(6 + stopped)]
    rows, stages, values = [], [], []
    for number, (w, rate) in enumerate(points):
        for stage in (0.25, 0.5, 1.0) if number < 6 else (0.25,):
            rows.append((w, 1 - w, rate))
            stages.append(stage)
            values.append([value + rng.gauss(0, 0.01) for value in learnt(w, rate, stage)])
    model = fit(rows, stages, values, [[0.01] * 2] * len(rows))
    others = [(rng.random(), rng.random()) for _ in range(100)]
    at = torch.tensor([(w, 1 - w, rate) for w, rate in others], dtype=torch.double)
    with torch.no_grad():
        found = model.model.posterior(model.inputs(at)).mean * model.scale_K + model.centre_K
    true = torch.tensor([learnt(w, rate, 1.0) for w, rate in others], dtype=torch.double)
    return float((found - true).square().mean().sqrt())


def test_stopped_trials_teach_by_a_curve_common_to_all(monkeypatch):
    """Early values predict late ones: most, if the curve is told from how trials differ."""
    own, seeds = regression._kernel, (50, 52)
    taught = statistics.mean(error_with(14, seed) for seed in seeds)
    assert taught < 0.6 * statistics.mean(error_with(0, seed) for seed in seeds)
    monkeypatch.setattr(regression, "_kernel", lambda width, batch, _: own(width, batch, False))
    assert taught < 0.9 * statistics.mean(error_with(14, seed) for seed in seeds)


def test_without_early_measurements_there_is_no_stage():
    assert not fitted(drawn(2)).staged
    values = [truth(*row) for row in drawn(2)]
    model = fit(drawn(2), [0.5, 1.0], values, [[0.01] * 2] * 2)
    assert model.staged
    assert model.inputs(torch.zeros(2, 2)).tolist() == [[0, 0, 1], [0, 0, 1]]


def test_a_step_of_any_length_leaves_a_model():
    """L-BFGS may try raw parameters at which a variance is rounded to 0, where no prior has one."""
    rows = drawn(6)
    values = [truth(*row) for row in rows]
    model = fit(rows, [0.5, 1.0] * 3, values, [[0.01] * 2] * 6).model
    for kernel in model.covar_module.kernels:
        kernel.raw_outputscale.data.fill_(-1e3)
    likelihood = ExactMarginalLogLikelihood(model.likelihood, model).train()
    found = likelihood(model(*model.train_inputs), model.train_targets)
    assert found.isfinite().all()
