"""REINFORCE++ with the group's mean as a baseline."""

from __future__ import annotations

import pytest
import torch

from moalign.maths.normalisation import group_centre, masked_whiten
from moalign.testing.steps import make_batch
from moalign_plugins.optimizers.reinforce_pp_baseline import ReinforcePlusPlusBaseline

NAN = float("nan")


def advantages(scores_PGK):
    prompts, group, _ = scores_PGK.shape
    found = ReinforcePlusPlusBaseline().advantages(scores_PGK, make_batch(prompts, group))
    assert found.shape == (prompts * group, 1, scores_PGK.shape[-1])
    return found.view(scores_PGK.shape)


def test_golden_values_by_hand():
    # Centred: +-1 and +-.1; squares add up to 2.02, over three: the deviation is .82057.
    scores = torch.tensor([[2.0, 0.0], [0.6, 0.4]])[..., None]
    expected = torch.tensor([[1.21867, -1.21867], [0.121867, -0.121867]])
    torch.testing.assert_close(advantages(scores)[..., 0], expected, atol=1e-5, rtol=0)


def test_it_is_centring_then_whitening_over_completions():
    scores = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0))
    scores[..., 1] *= 500
    scores[1, 2, 0] = NAN
    valid = ~scores.isnan().view(12, 1, 2)
    expected = masked_whiten(group_centre(scores).view(12, 1, 2), valid)
    torch.testing.assert_close(advantages(scores).view(12, 1, 2), expected, atol=1e-6, rtol=1e-5)


def test_a_group_without_spread_teaches_nothing_and_the_others_count_by_their_spread():
    scores = torch.tensor([[0.7, 0.7, 0.7], [1.0, 0.0, 0.5], [0.51, 0.49, 0.5]])[..., None]
    found = advantages(scores)[..., 0]
    assert not found[0].any()
    assert float(found[1, 0] / found[2, 0]) == pytest.approx(50, rel=1e-3)


@pytest.mark.parametrize("scores", [[[NAN, NAN]], [[0.3, 0.3]], [[1e10, 1e10]]])
def test_nothing_to_compare_is_nothing_learned(scores):
    assert not advantages(torch.tensor(scores)[..., None]).any()
