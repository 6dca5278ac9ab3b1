"""Exponentiated gradient: one step, the saddle point, absent groups."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from weighting_properties import (
    DUPLICATE_SHARES,
    FINITE,
    FROZEN,
    LEAVES_NAN_ALONE,
    ONE_OBJECTIVE,
    PERMUTES,
    RESUMES,
    SHIFT_FREE,
    SIMPLEX,
    UNIT_FREE,
    WORST_FIRST,
    claims,
)

from moalign.errors import OptionError
from moalign.testing.steps import make_objectives, make_step
from moalign_plugins.weightings.group_robust import GroupRobust

NAN = math.nan
COMMON = (
    FINITE,
    SIMPLEX,
    PERMUTES,
    ONE_OBJECTIVE,
    RESUMES,
    LEAVES_NAN_ALONE,
    DUPLICATE_SHARES,
    WORST_FIRST,
)

test_properties = claims(
    lambda: GroupRobust(rate=0.1),
    *COMMON,
    SHIFT_FREE,
    UNIT_FREE,
    FROZEN(lambda: GroupRobust(rate=0.0)),
)
test_properties_with_losses = claims(
    lambda: GroupRobust(rate=0.1, losses="optimizer"),
    *COMMON,
    SHIFT_FREE,
    FROZEN(lambda: GroupRobust(rate=0.0, losses="optimizer")),
)
# As published. What a batch misses decays, so it is not left alone.
AS_PUBLISHED = {"losses": "optimizer", "absent": "decay", "scale": "count"}
test_properties_as_published = claims(
    lambda: GroupRobust(rate=0.1, **AS_PUBLISHED),
    FINITE,
    SIMPLEX,
    PERMUTES,
    ONE_OBJECTIVE,
    RESUMES,
    FROZEN(lambda: GroupRobust(rate=0.0, **AS_PUBLISHED)),
)


def lost(*losses: float, **options):
    return make_step(
        objectives=make_objectives(*"abc"[: len(losses)]), losses_K=torch.tensor(losses), **options
    )


def test_one_step():
    found = GroupRobust(rate=0.1, losses="optimizer").weigh(lost(1.0, 0.2))
    assert found.values.tolist() == pytest.approx([0.51999, 0.48001], abs=5e-6)
    assert found.metrics == pytest.approx({"loss/a": 1.0, "loss/b": 0.2})


def test_the_shortfall_is_how_far_the_mean_lies_below_the_upper_bound():
    bounds = ((0.0, 10.0), (-100.0, 0.0))
    objectives = [
        dataclasses.replace(o, bounds=b)
        for o, b in zip(make_objectives("a", "b"), bounds, strict=True)
    ]
    scores = torch.tensor([[[-1.0, -20.0], [1.0, -20.0]]])
    found = GroupRobust(rate=0.1).weigh(make_step(scores, objectives=objectives))
    assert found.values.tolist() == pytest.approx([0.51999, 0.48001], abs=5e-6)


def test_the_saddle_point():
    # Losses (x - 1)^2 and (x + 1)^2 / 2: the worse is least where they are equal.
    weighting, step, x = GroupRobust(rate=0.1, losses="optimizer"), lost(0.0, 0.0), 0.9
    for _ in range(500):
        step.losses_K = torch.tensor([(x - 1) ** 2, 0.5 * (x + 1) ** 2])
        q_1, q_2 = weighting.weigh(step).values.tolist()
        x -= 0.1 * (q_1 * 2 * (x - 1) + q_2 * (x + 1))
    assert x == pytest.approx((math.sqrt(2) - 1) / (math.sqrt(2) + 1), abs=1e-3)
    assert (q_1, q_2) == pytest.approx((0.41421, 0.58579), abs=1e-3)


def test_absent_groups_do_not_decay():
    weighting = GroupRobust(rate=1.0, losses="optimizer")
    for _ in range(20):
        found = weighting.weigh(lost(1.0, NAN, 0.5))
    assert float(found.values[1]) == pytest.approx(1 / 3)
    assert float(found.values[0]) == pytest.approx(2 / 3, abs=1e-4)
    assert set(found.metrics) == {"loss/a", "loss/c"}
    before = found.values
    torch.testing.assert_close(weighting.weigh(lost(NAN, 7.0, NAN)).values, before)
    torch.testing.assert_close(weighting.weigh(lost(NAN, NAN, NAN)).values, before)


def test_absent_groups_decay_as_published():
    weighting = GroupRobust(rate=1.0, losses="optimizer", absent="decay")
    found = weighting.weigh(lost(1.0, NAN, 0.5))
    expected = torch.softmax(torch.tensor([1.0, 0.0, 0.5]), -1)
    torch.testing.assert_close(found.values, expected)
    assert set(found.metrics) == {"loss/a", "loss/c"}
    torch.testing.assert_close(weighting.weigh(lost(NAN, NAN, NAN)).values, expected)


def of_groups(*counts: int) -> torch.Tensor:
    """Pairs, each of one group, which prefers the first; the others say nothing of it."""
    scores_PGK = torch.full((sum(counts), 2, len(counts)), NAN)
    first = 0
    for group, count in enumerate(counts):
        scores_PGK[first : first + count, :, group] = torch.tensor([1.0, 0.0])
        first += count
    return scores_PGK


def test_sums_by_the_groups_shares_as_published():
    weighting = GroupRobust(rate=1e-3, losses="optimizer", scale="count")

    def weigh(a: int, b: int, losses: tuple[float, float]) -> list[float]:
        return weighting.weigh(lost(*losses, scores_PGK=of_groups(a, b))).values.log().tolist()

    # Where a batch has the shares of all, that is its size times the means.
    after = weigh(12, 4, (30.0, 20.0))
    assert after[0] - after[1] == pytest.approx(1e-3 * 16 * (30.0 - 20.0), rel=1e-4)
    # The second batch has more of b than its share, 10 of 32 by now.
    moved = weigh(10, 6, (30.0, 20.0))
    by_hand = 1e-3 * (30.0 * 10 / (22 / 32) - 20.0 * 6 / (10 / 32))
    assert moved[0] - moved[1] - (after[0] - after[1]) == pytest.approx(by_hand, rel=1e-4)


def test_prompts_that_have_a_loss_are_counted_and_not_those_with_a_preference():
    # Soft labels: a tie has a loss, too. Group a prefers in 4 prompts, b in none; both have 4.
    scores = torch.tensor([[[1.0, 0.5], [0.0, 0.5]]]).repeat(4, 1, 1)
    step = lost(0.7, 0.7, scores_PGK=scores)
    assert step.applies_PK.sum(0).tolist() == [4, 0]
    step.applies_PK = torch.ones(4, 2, dtype=torch.bool)
    found = GroupRobust(rate=0.1, losses="optimizer", scale="count").weigh(step)
    assert found.values.tolist() == pytest.approx([0.5, 0.5])


def test_the_shortfall_is_summed_over_prompts_with_a_score():
    scores = torch.tensor([[[0.5, NAN]], [[0.5, 0.2]], [[NAN, 0.2]], [[0.5, NAN]]])
    found = GroupRobust(rate=0.1, scale="count").weigh(make_step(scores)).values.log()
    assert float(found[1] - found[0]) == pytest.approx(0.1 * 5 * (0.8 - 0.5), rel=1e-4)


def test_it_starts_at_the_preference_and_zero_stays_zero():
    weighting = GroupRobust(rate=0.5, losses="optimizer")
    preference = {"a": 3, "b": 0, "c": 1}
    for _ in range(10):
        found = weighting.weigh(lost(0.5, 9.0, 0.5, preference=preference))
    assert found.values.tolist() == pytest.approx([0.75, 0.0, 0.25])
    assert "b" not in weighting.state_dict()["log_weights"]


def test_a_fast_rate_is_the_worst_alone():
    found = GroupRobust(rate=1e6, losses="optimizer").weigh(lost(0.3, 0.9, 0.8))
    assert found.values.tolist() == pytest.approx([0.0, 1.0, 0.0])


def test_it_asks_for_losses_only_where_it_reads_them():
    assert GroupRobust().needs == frozenset()
    assert GroupRobust(losses="optimizer").needs == {"losses"}
    unbounded = [dataclasses.replace(o, bounds=None) for o in make_objectives("a", "b")]
    with pytest.raises(OptionError, match="objective 'a' has no bounds"):
        GroupRobust().check(unbounded)
    GroupRobust(losses="optimizer").check(unbounded)
