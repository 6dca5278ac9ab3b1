from __future__ import annotations

import math

import pytest

from moalign_plugins.rewards.fluency import Fluency


def test_is_the_geometric_mean_of_token_probabilities(batch_of):
    half, tenth = math.log(0.5), math.log(0.1)
    batch = batch_of(
        ["a", "b", "c"],
        lengths=[3, 1, 2],
        ref_logprobs=[[half, half, half], [tenth, 0.0, 0.0], [half, tenth, 0.0]],
    )
    assert Fluency().score(batch).tolist() == pytest.approx([0.5, 0.1, math.sqrt(0.05)])


def test_padding_has_no_influence(batch_of):
    values = [[-0.5, -1.5, -9.0], [-1.0, -1.0, -1.0]]
    batch = batch_of(["a", "b"], lengths=[2, 3], ref_logprobs=values)
    assert Fluency().score(batch).tolist() == pytest.approx([math.exp(-1)] * 2)


def test_stays_between_zero_and_one(batch_of):
    batch = batch_of(["a", "b"], lengths=[2, 2], ref_logprobs=[[0.0, 0.0], [-800.0, -800.0]])
    assert Fluency().score(batch).tolist() == [1.0, 0.0]
