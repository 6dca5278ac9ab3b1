"""Seeding torch's own generators."""

from __future__ import annotations

import pytest
import torch

from moalign.training.seeds import key, seed_torch


@pytest.mark.parametrize("seed", [0, key(1, 2, 3), 2**63 - 1])
def test_it_draws_as_torch_seeded_by_itself(seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        expected = torch.rand(5), torch.randn(5)
        seed_torch(seed)
        found = torch.rand(5), torch.randn(5)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("device", [False, True])
def test_it_seeds_accelerators_where_there_are_any(
    monkeypatch: pytest.MonkeyPatch, device: bool
) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: device)
    monkeypatch.setattr(torch, "manual_seed", seeded.append)
    with torch.random.fork_rng(devices=[]):
        seed_torch(7)
    assert seeded == [7] * device
