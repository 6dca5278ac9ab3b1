"""Correlation and covariance with the signal, deficits, gates, and the published recursion."""

from __future__ import annotations

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
    SCALE_FREE,
    SIMPLEX,
    UNIT_FREE,
    claims,
)

from moalign.errors import OptionError
from moalign.testing.steps import make_batch, make_objectives, make_step
from moalign_plugins.weightings.covariance_target import CovarianceTarget

PUBLISHED = {
    "statistic": "covariance",
    "signal": "rewards",
    "normalise": "none",
    "rate": 0.05,
    "target": {"a": 0.15, "b": 0.08, "c": 0.08},
}

test_properties = claims(
    CovarianceTarget,
    FINITE,
    SIMPLEX,
    PERMUTES,
    RESUMES,
    ONE_OBJECTIVE,
    SCALE_FREE,
    UNIT_FREE,
    LEAVES_NAN_ALONE,
    DUPLICATE_SHARES,
    FROZEN(lambda: CovarianceTarget(rate=0.0)),
)
test_published_properties = claims(
    lambda: CovarianceTarget(**PUBLISHED), FINITE, PERMUTES, RESUMES, LEAVES_NAN_ALONE
)
# One target for all, as a copy has no target of its own.
test_published_with_a_copy = claims(
    lambda: CovarianceTarget(**PUBLISHED | {"target": 0.1}), DUPLICATE_SHARES
)


def numbers(found, what):
    return {k.partition("/")[2]: v for k, v in found.metrics.items() if k.startswith(f"{what}/")}


def test_correlations_of_the_weighted_signal():
    scores = torch.rand(3, 8, 2, generator=torch.Generator().manual_seed(0))
    step = make_step(scores, preference={"a": 3, "b": 1})
    found = numbers(CovarianceTarget().weigh(step), "correlation")
    signal = (step.advantages_BTK[:, 0] @ torch.tensor([0.75, 0.25])).view(3, 8)
    for k, name in enumerate("ab"):
        pairs = [torch.corrcoef(torch.stack([scores[p, :, k], signal[p]])) for p in range(3)]
        expected = sum(float(pair[0, 1]) for pair in pairs) / 3
        assert found[name] == pytest.approx(expected, abs=1e-5)


def test_orthogonal_objectives_correlate_as_their_weights():
    a, b = torch.tensor([1.0, 1, -1, -1]), torch.tensor([1.0, -1, 1, -1])
    step = make_step(torch.stack([a, b], -1)[None], preference={"a": 3, "b": 4})
    found = numbers(CovarianceTarget(rate=0.0).weigh(step), "correlation")
    assert found == pytest.approx({"a": 0.6, "b": 0.8}, abs=1e-5)


def test_an_objective_that_is_traded_away_is_raised_until_it_has_its_target():
    a = torch.tensor([1.0, 1, -1, -1, 0, 0, 1, -1])
    b = -a + torch.tensor([1.0, -1, 1, -1, 0.5, -0.5, 0, 0])
    step = make_step(torch.stack([a, b], -1)[None], preference={"a": 4, "b": 1})
    weighting = CovarianceTarget(rate=0.5, average=1.0, target={"a": -1.0, "b": 0.2})
    first = weighting.weigh(step)
    assert first.metrics["correlation/b"] < 0  # trained down
    for _ in range(60):
        found = weighting.weigh(step)
    assert found.metrics["correlation/b"] == pytest.approx(0.2, abs=1e-2)
    assert found.values[1] > 0.4


def test_deficits_and_averages_follow_the_published_recursion():
    """One prompt, rewards .5 (a + b), whitened: covariances and weights by hand."""
    scores = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    weighting = CovarianceTarget(**PUBLISHED | {"target": {"a": 0.3, "b": 0.2}})
    start = {"a": 0.5, "b": 0.5}
    u, average = {name: math.log(0.5) for name in "ab"}, {}
    for index in range(4):
        rows = scores + 0.1 * index * torch.tensor([[0.0, 1.0], [0, 0], [0, 0], [0, 0]])
        found = weighting.weigh(make_step(rows[None], preference=start))
        reward = math.exp(u["a"]) * rows[:, 0] + math.exp(u["b"]) * rows[:, 1]
        signal = (reward - reward.mean()) / (reward.std() + 1e-6)
        for k, name in enumerate("ab"):
            value = float(((rows[:, k] - rows[:, k].mean()) * (signal - signal.mean())).mean())
            average[name] = 0.9 * average.get(name, value) + 0.1 * value
            u[name] += 0.05 * max({"a": 0.3, "b": 0.2}[name] - average[name], 0.0)
        assert numbers(found, "covariance") == pytest.approx(average, abs=1e-6)
        expected = torch.tensor([math.exp(u["a"]), math.exp(u["b"])])
        torch.testing.assert_close(found.values, expected)
    assert found.values.sum() > 1.0  # it only ever grows


def test_the_simplex_keeps_the_ratios_of_the_exponentials():
    generator = torch.Generator().manual_seed(1)
    options = {"target": 0.9, "rate": 0.2}
    simplex, free = CovarianceTarget(**options), CovarianceTarget(normalise="none", **options)
    for _ in range(5):
        step = make_step(torch.rand(2, 6, 3, generator=generator))
        one, other = simplex.weigh(step).values, free.weigh(step).values
        torch.testing.assert_close(one, other / other.sum())


def test_what_has_enough_is_raised_no_further():
    scores = torch.rand(2, 6, 2, generator=torch.Generator().manual_seed(0))
    mean = float(scores[..., 0].mean())
    for enough, raised in ((mean - 0.01, False), (mean + 0.01, True)):
        weighting = CovarianceTarget(target=0.99, enough={"a": enough})
        found = numbers(weighting.weigh(make_step(scores)), "deficit")
        assert (found["a"] > 0) == raised
        assert found["b"] > 0


def test_scores_that_do_not_vary_have_no_correlation_and_stay():
    scores = torch.rand(2, 6, 3, generator=torch.Generator().manual_seed(0))
    scores[..., 1], scores[..., 2] = 0.3, math.nan
    found = CovarianceTarget(target=0.9).weigh(make_step(scores))
    assert set(numbers(found, "correlation")) == {"a"}
    assert numbers(found, "deficit")["b"] == numbers(found, "deficit")["c"] == 0.0
    covariance = CovarianceTarget(statistic="covariance", target=0.1).weigh(make_step(scores))
    assert numbers(covariance, "covariance")["b"] == 0.0


def test_a_signal_per_token_is_averaged_over_the_completion():
    scores = torch.rand(1, 4, 2, generator=torch.Generator().manual_seed(0))
    plain = make_step(scores)
    tokens = plain.advantages_BTK.expand(-1, 3, -1).clone()
    tokens[1, 2:] = 1e6  # padding
    batch = make_batch(1, 4, lengths=[3, 2, 3, 3])
    spread = make_step(scores, advantages_BTK=tokens, batch=batch)
    one, other = (CovarianceTarget().weigh(step).metrics for step in (plain, spread))
    assert one == pytest.approx(other)


def test_it_declares_what_it_returns():
    assert CovarianceTarget().declares == frozenset()
    assert CovarianceTarget(normalise="none").declares == {"unnormalised"}


@pytest.mark.parametrize(
    ("options", "option", "message"),
    [
        ({"statistic": "covariance"}, "target", "must be given for statistic covariance"),
        ({"target": 1.0}, "target", "is a correlation, from -1 to below 1; found 1"),
        ({"target": {"a": 0.1, "b": -2.0}}, "target", "found -2"),
        ({"target": {"a": 0.1}}, "target", "leaves out b; give one for each of a, b, or one"),
        ({"target": {"a": 0.1, "b": 0.1, "x": 0.1}}, "target", "names 'x'; allowed: a, b"),
        ({"enough": {"x": 0.1}}, "enough", "names 'x'; allowed: a, b"),
        ({"enough": {"a": 1.5}}, "enough", "must lie within its bounds, [0, 1]; found 1.5"),
        ({"floor": 0.5}, "floor", "must be below 1 / 2, as there are 2 objectives; found 0.5"),
    ],
)
def test_mistakes_are_sentences(options, option, message):
    with pytest.raises(OptionError) as caught:
        CovarianceTarget(**options).check(make_objectives("a", "b"))
    assert message in str(caught.value)
    assert caught.value.option == option
