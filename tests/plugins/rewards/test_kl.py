from __future__ import annotations

import pytest
import torch

from moalign_plugins.rewards.kl import KL


def test_tokens_sum_to_minus_the_log_ratios(batch_of):
    batch = batch_of(
        ["a", "b"],
        lengths=[3, 2],
        logprobs=[[-1.0, -2.0, -0.5], [-1.0, -1.0, -7.0]],
        ref_logprobs=[[-1.5, -1.0, -1.0], [-3.0, -1.0, -1.0]],
    )
    values = KL().score(batch)
    torch.testing.assert_close(values, torch.tensor([[-0.5, 1.0, -0.5], [-2.0, 0.0, 0.0]]))
    assert values.sum(-1).tolist() == pytest.approx([0.0, -2.0])


def test_mean_over_samples_estimates_the_divergence(batch_of):
    policy, reference = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.2, 0.3, 0.5])
    drawn = torch.multinomial(
        policy, 20_000, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    batch = batch_of(
        [""] * len(drawn),
        logprobs=policy.log()[drawn, None].tolist(),
        ref_logprobs=reference.log()[drawn, None].tolist(),
    )
    exact = (policy * (policy / reference).log()).sum()
    assert KL().score(batch).sum(-1).mean().item() == pytest.approx(-exact.item(), abs=0.02)


def test_is_zero_for_the_reference_policy_itself(batch_of):
    same = [[-1.0, -0.3], [-2.0, -0.1]]
    batch = batch_of(["a", "b"], logprobs=same, ref_logprobs=same)
    assert not KL().score(batch).any()
