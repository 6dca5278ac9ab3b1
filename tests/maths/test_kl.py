"""Divergence estimators against the exact divergence of two known distributions."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from moalign.maths.kl import KlEstimator, kl_estimate

ESTIMATORS = get_args(KlEstimator)


def two_policies(size: float) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    policy = (size * logits[0]).log_softmax(-1)
    return policy, (policy + size * logits[1]).log_softmax(-1)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_expectation_is_the_divergence(estimator):
    policy, reference = two_policies(0.5)
    exact = (policy.exp() * (policy - reference)).sum()
    expected = (policy.exp() * kl_estimate(policy, reference, estimator)).sum()
    torch.testing.assert_close(expected, exact)


def test_mse_is_close_for_close_policies_and_has_the_right_gradient():
    policy, reference = two_policies(0.05)
    exact = (policy.exp() * (policy - reference)).sum()
    expected = (policy.exp() * kl_estimate(policy, reference, "mse")).sum()
    torch.testing.assert_close(expected, exact, rtol=0.1, atol=0)
    # E[grad mse] = E[(log-ratio) grad logprob] = grad KL, exactly, at any distance.
    logits = two_policies(1.0)[0].clone().requires_grad_()
    reference = two_policies(1.0)[1]
    logprobs = logits.log_softmax(-1)
    (exact,) = torch.autograd.grad(
        (logprobs.exp() * (logprobs - reference)).sum(), logits, retain_graph=True
    )
    sampled = logprobs.exp().detach() * kl_estimate(logprobs, reference, "mse")
    (estimated,) = torch.autograd.grad(sampled.sum(), logits)
    torch.testing.assert_close(estimated, exact)


def test_k3_is_never_negative_and_never_above_ten():
    ratio = torch.linspace(-100, 100, 2001)
    values = kl_estimate(ratio, torch.zeros_like(ratio), "k3")
    assert values.min() >= 0
    assert values.max() == 10
    assert kl_estimate(torch.tensor(-1.5), torch.tensor(-1.5), "k3") == 0
    half = kl_estimate(torch.tensor(0.5), torch.tensor(0.0), "k3")
    assert float(half) == pytest.approx(math.exp(-0.5) - 0.5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_extreme_ratios_have_finite_values_and_gradients(estimator):
    logprobs = torch.tensor([-1e4, 1e4, 0.0], requires_grad=True)
    values = kl_estimate(logprobs, torch.zeros(3), estimator)
    values.sum().backward()
    assert values.isfinite().all()
    assert logprobs.grad.isfinite().all()
