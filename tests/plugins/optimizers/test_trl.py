"""The losses of TRL on the same batch: equal values and gradients. Needs trl, which is optional."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from moalign.types import Rows
from moalign_plugins.optimizers.dr_grpo import DrGrpo
from moalign_plugins.optimizers.grpo import Grpo
from moalign_plugins.optimizers.rloo import Rloo

trl = pytest.importorskip("trl", minversion="1.16")

LIMIT = 9


def batch(shift: float, seed: int = 0):
    """Return mask, old, new and reference log-probabilities, and advantages of six completions."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([5, 1, 3, 4, 2, 5])[:, None]
    mask = (torch.arange(5) < lengths).float()
    old = -torch.rand(6, 5, generator=generator) * 3 * mask
    new = (old + shift * torch.randn(6, 5, generator=generator)) * mask
    reference = (old + 0.3 * torch.randn(6, 5, generator=generator)) * mask
    return mask, old, new, reference, torch.randn(6, generator=generator)


def trainer(logprobs, **settings):
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


def theirs(cls, given, **settings):
    mask, old, new, reference, advantages = given
    leaf = new.clone().requires_grad_()
    ids = torch.zeros_like(mask).long()
    inputs = {
        "prompt_ids": ids[:, :2],
        "prompt_mask": torch.ones(6, 2),
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": old,
        "old_logps": (old * mask).sum(1),
        "ref_per_token_logps": reference,
    }
    loss = cls._compute_loss(trainer(leaf, **settings), None, inputs)
    loss.backward()
    return loss.detach(), leaf.grad * mask


def ours(optimizer, given):
    mask, old, new, reference, advantages = given
    leaf = new.clone().requires_grad_()
    rows = Rows(mask, old, reference, len(mask), int(mask.sum()), LIMIT)
    loss, _ = optimizer.loss(leaf, rows, advantages[:, None])
    loss.backward()
    return loss.detach(), leaf.grad


WIDE = {"clip_low": 0.3, "clip_high": 0.5}
KL = {"kl_coefficient": 0.1, "kl_estimator": "k3"}


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (Grpo(dual_clip=None), {}),
        (Grpo(dual_clip=None, aggregation="seq-mean-token-mean"), {"loss_type": "grpo"}),
        (DrGrpo(dual_clip=None), {"loss_type": "dr_grpo"}),
        (Grpo(dual_clip=None, **WIDE), {"epsilon_low": 0.3, "epsilon_high": 0.5}),
        (Grpo(dual_clip=1.5), {"delta": 1.5}),
        (Grpo(dual_clip=None, **KL), {"beta": 0.1}),
        (Grpo(dual_clip=None, ratio="sequence"), {"importance_sampling_level": "sequence"}),
        (
            Grpo(dual_clip=None, ratio="sequence", clip_low=3e-4, clip_high=4e-4),
            {
                "importance_sampling_level": "sequence",
                "epsilon_low": 3e-4,
                "epsilon_high": 4e-4,
            },
        ),
    ],
    ids=["token mean", "per completion", "Dr", "clip-higher", "dual", "KL", "GSPO", "GSPO clipped"],
)
@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_the_loss_of_grpo(optimizer, settings, shift):
    given = batch(shift)
    expected, slope = theirs(trl.GRPOTrainer, given, **settings)
    found, mine = ours(optimizer, given)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(mine, slope)
    if shift:
        assert slope.any()


def test_the_gradient_of_rloo_on_the_policy_that_sampled():
    """Theirs clips whole completions; where nothing has moved, both are the policy gradient."""
    given = batch(0.0)
    _, slope = theirs(trl.RLOOTrainer, given)
    _, mine = ours(Rloo(aggregation="seq-mean-token-sum"), given)
    torch.testing.assert_close(mine, slope)
