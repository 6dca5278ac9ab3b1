"""The same rollouts through our losses and through TRL's: equal values and gradients.

What TRL 1.16.0 returned is written down; ``make test-extras`` asks it again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from moalign.optimizers.clipped import ClippedOptimizer
from moalign.types import Rows
from moalign_plugins.optimizers.dr_grpo import DrGrpo
from moalign_plugins.optimizers.grpo import Grpo
from moalign_plugins.optimizers.rloo import Rloo

LIMIT = 9
LENGTHS = (3, 1, 2, 2)
MOVED = 0.5
"""How far the policy is from the one that sampled: far enough for every clip to act."""

Given = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def batch(shift: float, lengths: Sequence[int] = LENGTHS) -> Given:
    """Return mask, old, new and reference log-probabilities, and advantages of completions."""
    generator = torch.Generator().manual_seed(71)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).float()
    old = -3 * torch.rand(mask.shape, generator=generator) * mask
    new = (old + shift * torch.randn(mask.shape, generator=generator)) * mask
    reference = (old + 0.3 * torch.randn(mask.shape, generator=generator)) * mask
    return mask, old, new, reference, torch.randn(len(lengths), generator=generator)


def trainer(logprobs: Tensor, **settings: Any) -> Any:
    """Return what TRL's loss reads of its trainer, with given log-probabilities for a model."""
    rest = {
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "beta": 0.0,
        "loss_type": "bnpo",
        "importance_sampling_level": "token",
        "delta": None,
        **settings,
    }
    same = lambda values, **_: values  # noqa: E731
    nothing = torch.zeros_like(logprobs)
    return SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, nothing, None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=LIMIT,
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(
            gather=same, gather_for_metrics=same, reduce=same, num_processes=1
        ),
        args=SimpleNamespace(delta=rest.pop("delta"), use_bias_correction_kl=False),
        _metrics=defaultdict(lambda: defaultdict(list)),
        **rest,
    )


def theirs(name: str, given: Given, **settings: Any) -> tuple[float, list[float]]:
    """Return loss and gradient, token by token, of one of TRL's trainers."""
    import trl

    mask, old, new, reference, advantages = given
    leaf = new.clone().requires_grad_()
    ids = torch.zeros_like(mask).long()
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones(len(mask), 1),
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": old,
        "old_logps": (old * mask).sum(1),
        "ref_per_token_logps": reference,
    }
    loss = getattr(trl, name)._compute_loss(trainer(leaf, **settings), None, inputs)
    loss.backward()
    assert leaf.grad is not None
    return float(loss.detach()), leaf.grad[mask > 0].tolist()


def ours(optimizer: ClippedOptimizer, given: Given) -> tuple[float, list[float]]:
    """Return loss and gradient, token by token."""
    mask, old, new, reference, advantages = given
    leaf = new.clone().requires_grad_()
    rows = Rows(mask, old, reference, len(mask), int(mask.sum()), LIMIT)
    loss, _ = optimizer.loss(leaf, rows, advantages[:, None])
    loss.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return float(loss.detach()), leaf.grad[mask > 0].tolist()


WIDE = {"clip_low": 0.3, "clip_high": 0.5}
KL = {"kl_coefficient": 0.1, "kl_estimator": "k3"}
NARROW = {"clip_low": 3e-4, "clip_high": 4e-4}
GSPO = {"importance_sampling_level": "sequence"}

CASES: dict[str, tuple[ClippedOptimizer, dict[str, Any]]] = {
    "token mean": (Grpo(dual_clip=None), {}),
    "per completion": (
        Grpo(dual_clip=None, aggregation="seq-mean-token-mean"),
        {"loss_type": "grpo"},
    ),
    "Dr": (DrGrpo(dual_clip=None), {"loss_type": "dr_grpo"}),
    "clip-higher": (Grpo(dual_clip=None, **WIDE), {"epsilon_low": 0.3, "epsilon_high": 0.5}),
    "dual": (Grpo(dual_clip=1.5), {"delta": 1.5}),
    "KL": (Grpo(dual_clip=None, **KL), {"beta": 0.1}),
    "GSPO": (Grpo(dual_clip=None, ratio="sequence"), GSPO),
    "GSPO clipped": (
        Grpo(dual_clip=None, ratio="sequence", **NARROW),
        {**GSPO, "epsilon_low": 3e-4, "epsilon_high": 4e-4},
    ),
}

RETURNED: dict[str, tuple[float, list[float]]] = {
    "token mean": (1.461330, [0.30366, 0.19446, 0, 0.29039, 0, 0, 0.12390, 0.16133]),
    "per completion": (1.522549, [0.20244, 0.12964, 0, 0.58078, 0, 0, 0.12390, 0.16133]),
    "Dr": (0.324740, [0.06748, 0.04321, 0, 0.06453, 0, 0, 0.02753, 0.03585]),
    "clip-higher": (1.417874, [0.30366, 0.19446, 0.17071, 0.29039, 0, 0, 0.12390, 0.16133]),
    "dual": (1.368369, [0.30366, 0.19446, 0, 0, 0, 0, 0.12390, 0]),
    "KL": (
        1.508048,
        [0.30697, 0.19123, -0.00268, 0.29635, -0.04558, -0.02823, 0.13057, 0.16513],
    ),
    "GSPO": (1.419410, [0.21602, 0.21602, 0.21602, 0.29039, 0, 0, 0.14138, 0.14138]),
    "GSPO clipped": (1.530826, [0, 0, 0, 0.29039, 0, 0, 0.14138, 0.14138]),
}
"""Loss and gradient by TRL, of the policy that has moved."""


@pytest.mark.parametrize("name", CASES)
def test_equals_what_trl_returned(name: str):
    loss, slopes = ours(CASES[name][0], batch(MOVED))
    assert loss == pytest.approx(RETURNED[name][0], abs=1e-5)
    assert slopes == pytest.approx(RETURNED[name][1], abs=1e-5)


@pytest.mark.extras
@pytest.mark.timeout(300)  # importing TRL takes its time
@pytest.mark.parametrize("shift", [0.0, MOVED])
@pytest.mark.parametrize("name", CASES)
def test_equals_what_trl_returns(name: str, shift: float):
    optimizer, settings = CASES[name]
    expected, their_slopes = theirs("GRPOTrainer", batch(shift), **settings)
    loss, slopes = ours(optimizer, batch(shift))
    assert loss == pytest.approx(expected, abs=1e-6)
    assert slopes == pytest.approx(their_slopes, abs=1e-6)
    assert any(slopes)


# --- RLOO ---------------------------------------------------------------------------------------

RLOO = Rloo(aggregation="seq-mean-token-sum", dual_clip=None)
SINGLE = (1,) * 6
"""Of one token, a completion's ratio is that of its token; TRL's RLOO knows the former only."""

RLOO_RETURNED = (0.157680, [0.18212, 0.24760, -0.06086, 0.04788, -0.22347, 0])
RLOO_UNMOVED = [0.47347, 0.47347, 0.47347, 0.29683, 0.24775, 0.24775, 0.18152, 0.18152]


def test_rloo_equals_what_trl_returned():
    loss, slopes = ours(RLOO, batch(MOVED, SINGLE))
    assert loss == pytest.approx(RLOO_RETURNED[0], abs=1e-5)
    assert slopes == pytest.approx(RLOO_RETURNED[1], abs=1e-5)


def test_the_gradient_of_rloo_on_the_policy_that_sampled_is_what_trl_returned():
    """Where nothing has moved, a ratio per completion and one per token have one gradient."""
    assert ours(RLOO, batch(0.0))[1] == pytest.approx(RLOO_UNMOVED, abs=1e-5)


@pytest.mark.extras
@pytest.mark.timeout(300)
def test_rloo_equals_what_trl_returns():
    moved, unmoved = batch(MOVED, SINGLE), batch(0.0)
    expected, their_slopes = theirs("RLOOTrainer", moved)
    loss, slopes = ours(RLOO, moved)
    assert loss == pytest.approx(expected, abs=1e-6)
    assert slopes == pytest.approx(their_slopes, abs=1e-6)
    assert ours(RLOO, unmoved)[1] == pytest.approx(theirs("RLOOTrainer", unmoved)[1], abs=1e-6)
