"""Steps made from given gradients, for weightings that read their Gram matrix."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from moalign.components import Weighting
from moalign.testing.steps import make_objectives, make_step
from moalign.types import Step

CONFLICT = ((1.0, 0.0), (-1.0, 1.0))
ORTHOGONAL = ((1.0, 0.0), (0.0, 2.0))
OPPOSITE = ((1.0, 0.0), (-1.0, 0.0))
AGREEING = ((1.0, 0.0, 0.5), (0.5, 1.0, 0.0), (0.0, 2.0, 1.0))
TORCHJD = ((-4.0, 1.0, 1.0), (6.0, 1.0, 1.0))


def step_of(
    gradients: Sequence[Sequence[float]] | Tensor,
    preference: Mapping[str, float] | None = None,
    index: int = 0,
) -> Step:
    """Return a step of the objectives a, b, c... with these gradients, one per row."""
    rows_KN = torch.as_tensor(gradients, dtype=torch.float64)
    objectives = make_objectives(*"abcdefghij"[: len(rows_KN)])
    return make_step(
        objectives=objectives, gram=rows_KN @ rows_KN.T, preference=preference, index=index
    )


def weights(
    weighting: Weighting,
    gradients: Sequence[Sequence[float]] | Tensor,
    preference: Mapping[str, float] | None = None,
) -> list[float]:
    """Return what a weighting gives for one step with these gradients."""
    returned = weighting.weigh(step_of(gradients, preference))
    values: list[float] = returned.values.tolist()
    return values


def shares(*coefficients: float) -> list[float]:
    """Return coefficients divided by the sum of their magnitudes."""
    total = sum(map(abs, coefficients))
    return [c / total for c in coefficients]


def random_gradients(seed: int, count: int = 3, size: int = 5) -> Tensor:
    """Return gradients that conflict somewhere, float64 [count, size]."""
    for attempt in itertools.count():
        generator = torch.Generator().manual_seed(1000 * seed + attempt)
        rows_KN = torch.randn(count, size, generator=generator, dtype=torch.float64)
        if (rows_KN @ rows_KN.T).min() < 0:
            return rows_KN
    raise AssertionError("there is no last attempt")


def resumes(weighting: Weighting, fresh: Weighting, stop: int = 2) -> bool:
    """Return whether a fresh weighting, given the other's state, goes on bit for bit."""
    steps = [step_of(random_gradients(seed), index=seed) for seed in range(stop + 4)]
    for step in steps[:stop]:
        weighting.weigh(step)
    fresh.load_state_dict(weighting.state_dict())
    return all(
        torch.equal(weighting.weigh(step).values, fresh.weigh(step).values) for step in steps[stop:]
    )
