from __future__ import annotations

import math
import random

import pytest
import torch
from botorch.acquisition.multi_objective import logei
from botorch.sampling.normal import SobolQMCNormalSampler

from moalign.strategies.improvement import hypervolume_improvement, scalarised_improvement
from moalign.strategies.regression import Regression, fit

pytestmark = [
    pytest.mark.filterwarnings("ignore::botorch.exceptions.warnings.BotorchWarning"),
    pytest.mark.filterwarnings("ignore::linear_operator.utils.warnings.NumericalWarning"),
]


@pytest.fixture(autouse=True)
def _uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep BoTorch from compiling a kernel, which takes half a minute; the strategy does, too."""
    monkeypatch.setattr(logei, "_C", None)
    monkeypatch.setattr(logei, "_load_attempted", True)


def fitted(axes: int, *, shift: float = 0.0) -> tuple[Regression, torch.Tensor]:
    """Return a model of objectives that pull against each other, and where it was measured."""
    rng = random.Random(axes)
    rows, values = [], []
    for _ in range(8):
        draws = [rng.expovariate(1.0) for _ in range(axes)]
        row = [draw / sum(draws) for draw in draws]
        rows.append(row)
        values.append([math.sqrt(weight) + shift + rng.gauss(0, 0.02) for weight in row])
    model = fit(rows, [1.0] * 8, values, [[0.02] * axes] * 8)
    return model, torch.tensor(rows, dtype=torch.double)


def candidates(axes: int, count: int = 12) -> torch.Tensor:
    draws = torch.rand(count, axes, generator=torch.Generator().manual_seed(3)).double()
    return draws / draws.sum(-1, keepdim=True)


def gains(model: Regression, rows: torch.Tensor, at: torch.Tensor, **options) -> torch.Tensor:
    axes = rows.shape[1]
    function, _ = hypervolume_improvement(
        model.model,
        model.scaled(torch.zeros(axes, dtype=torch.double)),
        rows,
        **{"constraints": [], "pending": None, "samples": 32, "seed": 0, **options},
    )
    with torch.no_grad():
        return function(at.unsqueeze(-2))


@pytest.mark.parametrize("axes", [2, 3, 4])
def test_it_is_botorchs_improvement(axes: int):
    """The same fronts, samples and constraints, with another smoothing and other boxes."""
    model, rows = fitted(axes)
    at, pending = candidates(axes), candidates(axes, 1)
    constraints = [lambda samples: -0.5 - samples[..., 0]]
    reference = model.scaled(torch.zeros(axes, dtype=torch.double))
    ours, kept = hypervolume_improvement(
        model.model, reference, rows, constraints=constraints, pending=pending, samples=16, seed=0
    )
    theirs = logei.qLogNoisyExpectedHypervolumeImprovement(
        model.model,
        reference,
        kept,
        constraints=constraints,
        X_pending=pending,
        sampler=SobolQMCNormalSampler(torch.Size([16]), seed=0),
    )
    with torch.no_grad():
        found, expected = ours(at.unsqueeze(-2)).exp(), theirs(at.unsqueeze(-2)).exp()
    assert torch.allclose(found, expected, rtol=0.01, atol=1e-4 * float(expected.max()))
    assert float(expected.max()) > 1e-3


def test_what_runs_now_adds_nothing_twice():
    model, rows = fitted(3)
    at = candidates(3)
    best = at[gains(model, rows, at).argmax()].unsqueeze(0)
    before, after = gains(model, rows, best), gains(model, rows, best, pending=best)
    assert float(after) < float(before) - 2


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("shift", [0.0, -5.0], ids=["infeasible", "below the reference"])
def test_there_is_a_slope_when_nothing_counts_yet(axes: int, shift: float):
    """Nothing meets the threshold, or the reference: gains are small, and not level."""
    model, rows = fitted(axes, shift=shift)
    constraints = [lambda samples: 30.0 - samples[..., 0]] if shift == 0 else []
    function, kept = hypervolume_improvement(
        model.model,
        model.scaled(torch.zeros(axes, dtype=torch.double)),
        rows,
        constraints=constraints,
        pending=None,
        samples=16,
        seed=0,
    )
    assert len(kept) == 0
    at = candidates(axes).unsqueeze(-2).requires_grad_()
    values = function(at)
    (slope,) = torch.autograd.grad(values.sum(), at)
    assert values.isfinite().all()
    assert slope.isfinite().all()
    assert float(slope.abs().amax(-1).min()) > 0


def test_thresholds_move_the_best_point():
    model, rows = fitted(2)
    at = torch.stack([torch.linspace(0, 1, 21), torch.linspace(1, 0, 21)], dim=-1).double()
    free = gains(model, rows, at).argmax()
    least = float(model.scaled(torch.tensor([0.9, 0.9]).double())[0])
    held = gains(model, rows, at, constraints=[lambda samples: least - samples[..., 0]]).argmax()
    assert float(at[held, 0]) > 0.7
    assert float(at[held, 0]) > float(at[free, 0])


def scalarised(
    model: Regression, rows: torch.Tensor, seed: int, at: torch.Tensor, constraints=()
) -> torch.Tensor:
    function, kept = scalarised_improvement(
        model.model, rows, constraints=constraints, pending=None, samples=32, seed=seed
    )
    assert kept.shape[1:] == rows.shape[1:]
    with torch.no_grad():
        return function(at.unsqueeze(-2))


def test_scalarised_improvements_look_for_different_parts_of_the_front():
    model, rows = fitted(5)
    at = candidates(5, 64)
    best = {int(scalarised(model, rows, seed, at).argmax()) for seed in range(6)}
    assert len(best) >= 3


@pytest.mark.parametrize("axes", [1, 5])
def test_a_constant_objective_can_be_scalarised(axes: int):
    rows = candidates(5, 6)
    values = [[0.5, *row[1:]][:axes] for row in rows.tolist()]
    model = fit(rows.tolist(), [1.0] * 6, values, [[0.01] * axes] * 6)
    assert scalarised(model, rows, 0, candidates(5)).isfinite().all()


def line(axes: int) -> tuple[Regression, torch.Tensor, torch.Tensor]:
    """Return a model of objectives of which the first falls where the others rise."""
    rows = torch.stack([torch.linspace(0.2, 1, 5), torch.linspace(0.8, 0, 5)], dim=-1).double()
    values = [[1 - row[0], *[row[0]] * (axes - 1)] for row in rows.tolist()]
    model = fit(rows.tolist(), [1.0] * 5, values, [[0.01] * axes] * 5)
    at = torch.stack([torch.linspace(0, 1, 21), torch.linspace(1, 0, 21)], dim=-1).double()
    return model, rows, at


def at_least(model: Regression, axes: int, axis: int, value: float):
    least = float(model.scaled(torch.full((axes,), value).double())[axis])
    return lambda samples: least - samples[..., axis]


@pytest.mark.parametrize(("axes", "axis"), [(1, 0), (5, 0), (5, 4)])
def test_a_threshold_keeps_a_scalarised_improvement_where_it_is_met(axes: int, axis: int):
    """Some of what is known meets it; without it, five objectives would draw the search away."""
    model, rows, at = line(axes)
    x = at[:, 0]
    met, missed, value = (x < 0.31, x > 0.39, 0.7) if axis == 0 else (x > 0.59, x < 0.51, 0.6)
    for seed in range(2):
        held = scalarised(model, rows, seed, at, [at_least(model, axes, axis, value)])
        assert held.isfinite().all()
        assert float(held[met].max()) > float(held[missed].max()) + 2
    if axes > 1:
        assert not bool(met[scalarised(model, rows, 0, at).argmax()])


@pytest.mark.parametrize("axes", [1, 5])
def test_while_nothing_meets_a_threshold_a_scalarised_improvement_leads_there(axes: int):
    """Nothing known has the first objective at .9, so x below .1; there is a slope to follow."""
    model, rows, at = line(axes)
    function, _ = scalarised_improvement(
        model.model,
        rows,
        constraints=[at_least(model, axes, 0, 0.9)],
        pending=None,
        samples=32,
        seed=0,
    )
    points = at.unsqueeze(-2).requires_grad_()
    values = function(points)
    (slope,) = torch.autograd.grad(values.sum(), points)
    assert values.isfinite().all()
    assert float(slope.abs().amax(-1).min()) > 0
    assert float(at[values.argmax(), 0]) < 0.15
