"""From advantages and weights, or scores and weights, to one advantage."""

from __future__ import annotations

import pytest
import torch

from moalign.maths.combine import combine, scalarise
from moalign.maths.normalisation import group_centre, group_zscore
from moalign.testing.steps import make_batch

NAN = float("nan")


def zscores(scores_PGK: torch.Tensor) -> torch.Tensor:
    return group_zscore(scores_PGK).flatten(0, 1)[:, None]


def gdpo(scores_PGK: torch.Tensor, weights: list[float], **options) -> torch.Tensor:
    batch = make_batch(*scores_PGK.shape[:2])
    return combine(zscores(scores_PGK), torch.tensor(weights), batch=batch, **options)[:, 0]


def grpo(scores_PGK: torch.Tensor, weights: list[float]) -> torch.Tensor:
    return zscores(scalarise(scores_PGK, torch.tensor(weights))[..., None])[:, 0, 0]


def test_g1_summed_rewards_collapse_and_summed_advantages_do_not():
    a = torch.tensor([[[0.0, 0.0], [0.0, 1.0]]])
    b = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    for scores in (a, b):
        torch.testing.assert_close(
            grpo(scores, [1, 1]), torch.tensor([-0.7071, 0.7071]), atol=1e-4, rtol=0
        )
    for scores, size in ((a, 0.7071), (b, 1.4142)):
        torch.testing.assert_close(
            gdpo(scores, [1, 1]), torch.tensor([-size, size]), atol=1e-4, rtol=0
        )


def test_g2_golden_values():
    scores = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]])
    expected = torch.tensor([-0.7833, -0.7833, 0.2611, 1.3056])
    torch.testing.assert_close(grpo(scores, [1, 1]), expected, atol=1e-4, rtol=0)
    expected = torch.tensor([-1.3660, -1.3660, 0.3660, 2.3660])
    torch.testing.assert_close(gdpo(scores, [1, 1]), expected, atol=1e-4, rtol=0)


# correctness (1, 1), integer (1, -1), format (1, 0): the case of another library's tests.
TOOLS = torch.tensor([[[1.0, 1.0, 1.0], [1.0, -1.0, 0.0]]])


@pytest.mark.parametrize("over", ["sequence", "token"])
def test_batch_norm_golden_value(over):
    batch = make_batch(1, 2, lengths=[1, 1])
    combined = combine(zscores(TOOLS), torch.full((3,), 1 / 3), batch=batch, batch_norm=over)
    torch.testing.assert_close(combined[:, 0], torch.tensor([0.7071, -0.7071]), atol=1e-4, rtol=0)


def test_batch_norm_moves_the_combined_advantage_by_a_constant_only():
    """So weights that combine gradients keep their direction, on average over batches."""
    generator = torch.Generator().manual_seed(0)
    scores, weights = torch.rand(3, 4, 2, generator=generator), torch.tensor([0.3, 0.7])
    batch = make_batch(3, 4, lengths=[1, 2, 3, 4] * 3)
    plain_BT = combine(zscores(scores), weights, batch=batch)
    whole_BT = combine(zscores(scores), weights, batch=batch, batch_norm="sequence")
    torch.testing.assert_close(whole_BT, whole_BT.std() * plain_BT / plain_BT.std())
    tokens_BT = combine(zscores(scores), weights, batch=batch, batch_norm="token")
    real = batch.mask_BT > 0
    found, asked = tokens_BT[real], plain_BT.expand_as(tokens_BT)[real]
    steps = (found - found[0])[asked != asked[0]] / (asked - asked[0])[asked != asked[0]]
    torch.testing.assert_close(steps, steps[:1].expand_as(steps))
    assert (found.mean() - asked.mean()).abs() > 1e-3, "and here the constant is not 0"


def test_batch_norm_cancels_a_common_scale_of_the_weights_and_not_the_gain():
    scores = torch.rand(4, 4, 3, generator=torch.Generator().manual_seed(0))
    plain = gdpo(scores, [0.2, 0.3, 0.5], batch_norm="sequence")
    scaled = gdpo(scores, [2.0, 3.0, 5.0], batch_norm="sequence")
    torch.testing.assert_close(scaled, plain, atol=1e-5, rtol=0)
    gained = gdpo(scores, [0.2, 0.3, 0.5], batch_norm="sequence", gain=1.7)
    torch.testing.assert_close(gained, 1.7 * plain)


def test_advantages_do_not_feel_the_units_of_one_objective_and_rewards_do():
    scores = torch.rand(4, 4, 2, generator=torch.Generator().manual_seed(1))
    units = scores * torch.tensor([1.0, 40.0]) + torch.tensor([3.0, -7.0])
    torch.testing.assert_close(gdpo(units, [0.5, 0.5]), gdpo(scores, [0.5, 0.5]), atol=1e-4, rtol=0)
    assert (grpo(units, [0.5, 0.5]) - grpo(scores, [0.5, 0.5])).abs().max() > 0.1
    both = scores * 40
    torch.testing.assert_close(grpo(both, [0.5, 0.5]), grpo(scores, [0.5, 0.5]), atol=1e-4, rtol=0)


def test_weights_of_every_shape_reach_their_rows():
    scores = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(2))
    advantages, batch = zscores(scores), make_batch(2, 3)
    per_row = torch.rand(2, 3, 2)
    expected = (per_row.flatten(0, 1) * advantages[:, 0]).sum(-1, keepdim=True)
    torch.testing.assert_close(combine(advantages, per_row, batch=batch), expected)
    per_prompt = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    combined = combine(advantages, per_prompt, batch=batch)[:, 0]
    assert torch.equal(combined[:3], advantages[:3, 0, 0])
    assert torch.equal(combined[3:], advantages[3:, 0, 1])


def test_gain_per_prompt():
    advantages, batch = zscores(torch.rand(2, 3, 1)), make_batch(2, 3)
    combined = combine(advantages, torch.ones(1), batch=batch, gain=torch.tensor([[2.0], [0.5]]))
    assert torch.equal(combined[:3], 2.0 * advantages[:3, :, 0])
    assert torch.equal(combined[3:], 0.5 * advantages[3:, :, 0])


def test_one_objective_passes_through_bit_for_bit():
    advantages = zscores(torch.rand(3, 4, 1))
    assert torch.equal(
        combine(advantages, torch.ones(1), batch=make_batch(3, 4)), advantages[..., 0]
    )


def test_a_weight_split_over_copies_changes_nothing():
    scores = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(3))
    copied = scores[..., [0, 1, 1]]
    torch.testing.assert_close(gdpo(copied, [0.4, 0.3, 0.3]), gdpo(scores, [0.4, 0.6]))
    torch.testing.assert_close(
        grpo(copied, [0.4, 0.3, 0.3]), grpo(scores, [0.4, 0.6]), atol=1e-5, rtol=1e-5
    )


def test_a_missing_objective_adds_nothing_and_weights_stay():
    scores = torch.rand(2, 4, 2, generator=torch.Generator().manual_seed(4))
    partly = scores.clone()
    partly[:, 1:3, 1] = NAN
    alone = 0.25 * zscores(scores[..., :1])[:, 0, 0]
    combined = gdpo(partly, [0.25, 0.75])
    missing = partly[..., 1].isnan().flatten()
    torch.testing.assert_close(combined[missing], alone[missing])


def test_missing_scores_do_not_bias_summed_rewards():
    # Counting them as 0 gives (1.16, .39, -.39, -1.16): not being judged looks like being bad.
    scores = torch.tensor([[[1.0, 0.5], [1.0, NAN], [0.0, 0.5], [0.0, NAN]]])
    advantages = grpo(scores, [1, 1])
    torch.testing.assert_close(advantages, grpo(scores[..., :1], [1]))
    torch.testing.assert_close(gdpo(scores, [1, 1]), advantages)


def test_scalarise_says_so_where_nothing_applies():
    scores = torch.tensor([[[1.0, NAN], [NAN, NAN]], [[NAN, NAN], [NAN, NAN]]])
    summed = scalarise(scores, torch.tensor([0.5, 0.5]))
    assert summed.isnan().tolist() == [[False, True], [True, True]]
    assert zscores(summed[..., None]).abs().max() == 0


def test_linear_estimators_do_not_care_where_the_weights_act():
    scores = torch.rand(3, 4, 3, generator=torch.Generator().manual_seed(5))
    weights = torch.tensor([0.2, 0.3, 0.5])
    before = group_centre(scalarise(scores, weights)[..., None])[..., 0]
    after = (group_centre(scores) * weights).sum(-1)
    torch.testing.assert_close(before, after, atol=1e-6, rtol=1e-6)


def test_token_norm_weighs_long_completions_and_sequence_norm_does_not():
    scores = torch.tensor([[[1.0], [0.0], [0.0]]])
    batch = make_batch(1, 3, lengths=[6, 1, 1])
    token = combine(zscores(scores), torch.ones(1), batch=batch, batch_norm="token")
    inside = token[batch.mask_BT > 0]
    assert token.shape == (3, 6)
    assert (token[batch.mask_BT == 0] == 0).all()
    torch.testing.assert_close(inside.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(inside.std(), torch.tensor(1.0), atol=1e-4, rtol=0)
    sequence = combine(zscores(scores), torch.ones(1), batch=batch, batch_norm="sequence")
    torch.testing.assert_close(sequence, zscores(scores)[..., 0], atol=1e-5, rtol=0)


def test_norm_of_token_advantages_counts_completions_or_tokens():
    batch = make_batch(1, 2, lengths=[4, 1])
    advantages = torch.tensor([[[1.0]] * 4, [[0.0]] * 4])
    sequence = combine(advantages, torch.ones(1), batch=batch, batch_norm="sequence")
    torch.testing.assert_close(sequence[:, 0], torch.tensor([0.7071, -0.7071]), atol=1e-4, rtol=0)
    token = combine(advantages, torch.ones(1), batch=batch, batch_norm="token")
    torch.testing.assert_close(token[:, 0], torch.tensor([0.2, -0.8]) / 0.2**0.5, atol=1e-4, rtol=0)


@pytest.mark.parametrize("over", ["sequence", "token"])
def test_norm_does_not_blow_up_what_cancels(over):
    first = torch.rand(4, 4, 1, generator=torch.Generator().manual_seed(6))
    scores = torch.cat([first, 0.1 - 3 * first], -1)
    left = gdpo(scores, [0.5, 0.5])
    assert 0 < left.abs().max() < 1e-5  # rounding and epsilon
    assert (gdpo(scores, [0.5, 0.5], batch_norm=over) == 0).all()
    assert gdpo(scores, [0.501, 0.499], batch_norm=over).std() > 0.9


def test_norm_ignores_empty_completions():
    batch = make_batch(1, 3, lengths=[2, 0, 2])
    advantages = torch.tensor([1.0, 50.0, -1.0])[:, None, None]
    for over in ("sequence", "token"):
        combined = combine(advantages, torch.ones(1), batch=batch, batch_norm=over)
        assert (combined[1] == 0).all()
        torch.testing.assert_close(combined[0, 0], -combined[2, 0])
