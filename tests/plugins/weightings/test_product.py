"""The product rule: values, references, and what a missing score does."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from weighting_properties import (
    FINITE,
    LEAVES_NAN_ALONE,
    ONE_OBJECTIVE,
    PERMUTES,
    RESUMES,
    SHIFT_FREE,
    UNIT_FREE,
    claims,
)

from moalign.errors import OptionError
from moalign.testing.steps import make_batch, make_objectives, make_step
from moalign_plugins.optimizers.dr_grpo import DrGrpo
from moalign_plugins.weightings.product import Product

NAN = math.nan
SCORES = torch.tensor([[[0.2, 0.9], [0.7, 0.5]], [[0.6, 0.4], [0.8, 0.4]]])
ONE = ONE_OBJECTIVE.without(
    "tiny scores",
    "scores of unlike scales",
    "one after the other",
    because="0.1 and a tiny score is 0.1 in float32",
)

test_properties = claims(
    Product, FINITE, PERMUTES, ONE, RESUMES, SHIFT_FREE, UNIT_FREE, LEAVES_NAN_ALONE
)


def scores_of(scores, **options) -> list[list[float]]:
    return Product(**options).weigh(make_step(scores)).values_PG.tolist()


def test_margins_above_the_worst_of_the_batch():
    found = scores_of(SCORES)
    assert found[0] == pytest.approx([0.1 * 0.6, 0.6 * 0.2])
    assert found[1] == pytest.approx([0.5 * 0.1, 0.7 * 0.1])


def test_margins_above_the_worst_of_the_group_and_the_bounds():
    group = scores_of(SCORES, reference="group")
    assert group[0] == pytest.approx([0.1 * 0.5, 0.6 * 0.1])
    assert group[1] == pytest.approx([0.1 * 0.1, 0.3 * 0.1])
    bounds = scores_of(SCORES, reference="bounds", margin=0.2)
    assert bounds[0] == pytest.approx([0.4 * 1.1, 0.9 * 0.7])


def test_a_group_that_is_equally_good_learns_the_rest_in_full():
    # Both groups differ in b alone; in a, one is right and the other wrong.
    scores = torch.tensor([[[1.0, 0.2], [1.0, 0.6]], [[0.0, 0.2], [0.0, 0.6]]])
    batch, group = (torch.tensor(scores_of(scores, reference=r)) for r in ("batch", "group"))
    assert (batch[:, 1] - batch[:, 0]).tolist() == pytest.approx([1.1 * 0.4, 0.1 * 0.4])
    assert (group[:, 1] - group[:, 0]).tolist() == pytest.approx([0.1 * 0.4, 0.1 * 0.4])


def test_the_published_rule_with_weights_is_this_one_times_a_number():
    scores = torch.rand(4, 8, 3, generator=torch.Generator().manual_seed(0))
    weights_K = torch.tensor([2.0, 1.0, 0.5])
    worst_K = scores.amin((0, 1)) - 0.1
    published_PG = ((scores - worst_K) * weights_K).prod(-1)
    found_PG = torch.tensor(scores_of(scores))
    torch.testing.assert_close(found_PG * weights_K.prod(), published_PG)
    # Centred, never divided: the study published-product.
    advantages = DrGrpo().advantages(found_PG[..., None], make_batch(4, 8))[:, 0, 0]
    expected = found_PG - found_PG.mean(1, keepdim=True)
    torch.testing.assert_close(advantages.view(4, 8), expected)


def test_a_large_margin_is_a_sum():
    scores = torch.rand(1, 6, 3, generator=torch.Generator().manual_seed(1))
    found = torch.tensor(scores_of(scores, margin=1e3), dtype=torch.float64)[0]
    assert found.argsort().tolist() == scores.sum(-1)[0].argsort().tolist()


def test_to_miss_a_score_is_no_advantage():
    rows = torch.tensor([[0.5, 0.2], [0.5, 0.4], [0.5, 0.6], [0.5, NAN]])[None]
    found = scores_of(rows, reference="bounds")[0]
    assert found[3] == pytest.approx(found[1])  # whose b is the mean
    # Left out, its factor would be 1 and it would win.
    assert found[3] < found[2]


def test_what_a_whole_group_misses_is_left_out_there():
    scores = torch.tensor([[[0.2, NAN], [0.7, NAN]], [[0.6, 0.4], [0.8, 0.4]]])
    found = scores_of(scores)
    assert found[0] == pytest.approx([0.1, 0.6])
    assert found[1] == pytest.approx([0.5 * 0.1, 0.7 * 0.1])
    nothing = torch.tensor([[[NAN, NAN], [0.7, 0.1]]])
    assert math.isnan(scores_of(nothing)[0][0])


def test_objectives_are_in_units_of_their_bounds():
    objectives = [
        dataclasses.replace(o, bounds=b)
        for o, b in zip(make_objectives("a", "b"), [(0.0, 10.0), (-1.0, 0.0)], strict=True)
    ]
    raw = SCORES * torch.tensor([10.0, 1.0]) - torch.tensor([0.0, 1.0])
    found = Product().weigh(make_step(raw, objectives=objectives)).values_PG
    torch.testing.assert_close(found, torch.tensor(scores_of(SCORES)))
    unbounded = [objectives[0], dataclasses.replace(objectives[1], bounds=None)]
    with pytest.raises(OptionError, match="objective 'b' has no bounds"):
        Product().check(unbounded)
