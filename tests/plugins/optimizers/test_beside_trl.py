"""The same pairs through our losses and through TRL's.

What TRL 1.16.0 returned is written down; ``make test-extras`` asks it again.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tabular import begun, rows_of
from torch import Tensor

from moalign.optimizers.preferences import PairwiseOptimizer
from moalign.testing.steps import make_batch
from moalign_plugins.optimizers.cdpo import Cdpo
from moalign_plugins.optimizers.dpo import Dpo
from moalign_plugins.optimizers.hinge import Hinge
from moalign_plugins.optimizers.ipo import Ipo
from moalign_plugins.optimizers.ld_dpo import LdDpo
from moalign_plugins.optimizers.rdpo import Rdpo
from moalign_plugins.optimizers.rpo_sft import RpoSft
from moalign_plugins.optimizers.sppo import Sppo

LENGTHS = torch.tensor([[5, 3], [2, 4], [4, 4]])  # of the chosen and the rejected one

CASES: dict[str, tuple[PairwiseOptimizer, dict[str, Any], tuple[float, float, float]]] = {
    "dpo": (Dpo(beta=0.3), {}, (0.370210, 0.663252, 0.374362)),
    "ipo": (
        Ipo(beta=0.3, log_ratio="mean"),
        {"loss_types": ["ipo"]},
        (0.625727, 2.565017, 1.017546),
    ),
    "hinge": (Hinge(beta=0.3), {"loss_types": ["hinge"]}, (0.197125, 0.939289, 0.210482)),
    # TRL's `sigmoid` smooths no labels any more; `aot` does, and of a single pair sorts nothing.
    "cdpo": (
        Cdpo(beta=0.3, smoothing=0.1),
        {"loss_types": ["aot"], "label_smoothing": 0.1},
        (0.450498, 0.669324, 0.453314),
    ),
    "rdpo": (
        Rdpo(beta=0.3, flip_rate=0.1),
        {"loss_types": ["robust"], "label_smoothing": 0.1},
        (0.269851, 0.655664, 0.275672),
    ),
    "ld-dpo": (LdDpo(beta=0.3, alpha=0.4), {"ld_alpha": 0.4}, (0.367057, 0.634800, 0.374362)),
    "rpo-sft": (
        RpoSft(beta=0.3, eta=0.2),
        {"loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]},
        (0.585299, 0.888436, 0.804571),
    ),
}


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probabilities of the policy and of the reference, and the mask, [P, 2, T]."""
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(5) < LENGTHS[..., None]).float()
    policy, reference = (-3 * torch.rand(3, 2, 5, generator=generator) * mask for _ in "pr")
    return policy, reference, mask


def ours(optimizer: PairwiseOptimizer) -> list[float]:
    policy, reference, mask = batch()
    scores = torch.tensor([1.0, 0.0]).expand(3, 2)[..., None]
    rows = rows_of(begun(optimizer, 1), scores, reference, mask_PGT=mask)
    losses_PK, _ = optimizer.losses(policy.flatten(0, 1), rows)
    return losses_PK[:, 0].tolist()


def theirs(settings: dict[str, Any]) -> list[float]:
    """Return the loss of each pair by TRL's trainer, of which nothing but the loss is made."""
    import trl

    policy, reference, mask = batch()
    accelerator = SimpleNamespace(
        device="cpu", gather=lambda value: value, gather_for_metrics=lambda value: value
    )
    nothing: Any = torch.nn.Module().eval()
    nothing.is_gradient_checkpointing = False
    trainer = SimpleNamespace(
        accelerator=accelerator,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        model=nothing,
        aux_loss_enabled=False,
        beta=0.3,
        f_divergence_type="reverse_kl",
        label_smoothing=0.0,
        ld_alpha=None,
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        precompute_ref_logps=False,
        use_weighting=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
    )
    vars(trainer).update(settings)
    found = []
    for pair in range(len(policy)):
        trainer.ref_model = answering(reference[pair])
        # A token of the prompt stands before the completion; TRL leaves out the first place.
        completion_mask = torch.nn.functional.pad(mask[pair], (1, 0))
        inputs = {
            "input_ids": torch.zeros(2, 6, dtype=torch.long),
            "attention_mask": torch.ones(2, 6),
            "completion_mask": completion_mask.long(),
        }
        model = answering(policy[pair])
        found.append(float(trl.DPOTrainer._compute_loss(trainer, model, inputs, False)))
    return found


def answering(logprobs_2T: Tensor) -> Any:
    """Return a stand-in for a model that gives these log-probabilities to its tokens."""
    zeros = torch.zeros_like(logprobs_2T)
    outputs = SimpleNamespace(
        log_probs=logprobs_2T, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
    )
    return lambda **_: outputs


@pytest.mark.parametrize("name", CASES)
def test_equals_what_trl_returned(name: str):
    optimizer, _, expected = CASES[name]
    assert ours(optimizer) == pytest.approx(expected, abs=1e-5)


@pytest.mark.extras
@pytest.mark.timeout(300)  # importing TRL takes its time
@pytest.mark.parametrize("name", CASES)
def test_equals_what_trl_returns(name: str):
    optimizer, settings, _ = CASES[name]
    assert ours(optimizer) == pytest.approx(theirs(settings), abs=1e-5)


# --- sppo, which learns from rollouts; in TRL it is a loss of pairs -----------------------------

SPPO_HARD = (3.167263, 4.905192, 1.148041)


def our_sppo() -> list[float]:
    """Return the loss of each pair: of groups of two that the reference sampled."""
    sppo = begun(Sppo(eta=1 / 0.3, preference="comparison"), 1)
    policy, reference, mask = batch()
    found = []
    for pair in range(len(policy)):
        sampled = make_batch(1, 2, lengths=LENGTHS[pair].tolist())
        advantages_BT = sppo.advantages(torch.tensor([[[1.0], [0.0]]]), sampled)[..., 0]
        given = slice(pair, pair + 1)
        rows = rows_of(sppo, torch.zeros(1, 2, 1), reference[given], mask_PGT=mask[given])
        rows = replace(rows, kept=sampled.kept)
        found.append(float(sppo.loss(policy[pair], rows, advantages_BT)[0]))
    return found


def test_sppo_is_half_of_what_trl_returned():
    """TRL adds up the two completions of a pair, where ours is a mean over completions."""
    assert our_sppo() == pytest.approx([loss / 2 for loss in SPPO_HARD], abs=1e-5)


@pytest.mark.extras
@pytest.mark.timeout(300)
def test_sppo_is_half_of_what_trl_returns():
    expected = theirs({"loss_types": ["sppo_hard"]})
    assert our_sppo() == pytest.approx([loss / 2 for loss in expected], abs=1e-5)
