"""Running means, ideal points and units, through weightings that do nothing else."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from moalign.errors import OptionError
from moalign.testing.steps import make_objectives, make_step
from moalign.types import Objective
from moalign.weightings.means import MeanWeighting
from moalign.weightings.responses import ResponseWeighting
from moalign.weightings.units import in_units, require_bounds

NAN = math.nan


class Regrets(MeanWeighting):
    """Weighs by the regrets themselves."""

    name = "regrets"

    def slopes(self, regrets_K, preference_K):
        return regrets_K.nan_to_num(0.0)

    def value(self, regrets_K, preference_K):
        return -regrets_K.nansum()


class Worst(ResponseWeighting):
    """Scores by the largest regret."""

    name = "worst"

    def value(self, regrets_PGK, preference_K):
        return -regrets_PGK.amax(-1)


def batch_of(*means: float, **options):
    """Return a step whose batch has these means."""
    scores = torch.tensor(means).expand(1, 2, -1).clone()
    return make_step(scores, **options)


def means_after(weighting, *batches):
    for batch in batches:
        found = weighting.weigh(batch_of(*batch))
    return [found.metrics.get(f"mean/{name}") for name in "ab"]


def test_the_mean_is_an_exponential_one_without_the_bias_of_its_start():
    first, second, third = (0.2, 0.5), (0.6, 0.5), (0.1, 0.5)
    assert means_after(Regrets(decay=0.9), first) == pytest.approx([0.2, 0.5])
    assert means_after(Regrets(decay=0.9), first, second) == pytest.approx(
        [(0.9 * 0.2 + 0.6) / 1.9, 0.5]
    )
    assert means_after(Regrets(decay=0.5), first, second, third) == pytest.approx(
        [(0.25 * 0.2 + 0.5 * 0.6 + 0.1) / 1.75, 0.5]
    )
    assert means_after(Regrets(decay=0.0), first, second, third) == pytest.approx([0.1, 0.5])


def test_equal_batches_leave_it_exactly_where_it_is():
    weighting = Regrets(decay=0.9)
    means = [means_after(weighting, (0.3, 0.7)) for _ in range(50)]
    assert all(mean == means[0] for mean in means)


def test_an_objective_that_a_batch_misses_keeps_its_mean():
    weighting = Regrets(decay=0.9)
    assert means_after(weighting, (0.2, 0.5), (0.6, NAN)) == pytest.approx([0.78 / 1.9, 0.5])
    assert means_after(weighting, (0.2, 0.7))[1] == pytest.approx((0.9 * 0.5 + 0.7) / 1.9)


def test_an_objective_never_seen_has_no_weight_and_nothing_seen_gives_the_preference():
    preference = {"a": 3, "b": 1}
    weighting = Regrets(decay=0.9)
    found = weighting.weigh(batch_of(NAN, NAN, preference=preference))
    assert found.values.tolist() == [0.75, 0.25]
    assert not [name for name in found.metrics if name.startswith("mean/")]
    assert weighting.weigh(batch_of(0.4, NAN, preference=preference)).values.tolist() == [1.0, 0.0]
    no_regret = Regrets(decay=0.9).weigh(batch_of(1.0, 1.0, preference=preference))
    assert no_regret.values.tolist() == [0.75, 0.25]


def test_regrets_are_in_units_of_the_bounds():
    objectives = (Objective("a", (0.0, 10.0)), Objective("b", (-100.0, 0.0)))
    found = Regrets(decay=0.9).weigh(batch_of(4.0, -20.0, objectives=objectives))
    assert found.values.tolist() == pytest.approx([0.6 / 0.8, 0.2 / 0.8])
    assert found.metrics["mean/b"] == pytest.approx(0.8)
    assert found.metrics["scalarised"] == pytest.approx(-0.8)
    units = in_units(torch.tensor([[4.0, NAN]]), objectives)
    torch.testing.assert_close(
        units, torch.tensor([[0.4, NAN]], dtype=torch.float64), equal_nan=True
    )


def test_a_given_ideal_is_raw_and_the_rest_keep_their_upper_bounds():
    objectives = (Objective("a", (0.0, 10.0)), Objective("b", (-100.0, 0.0)))
    weighting = Regrets(decay=0.9, ideal={"a": 6.0}, slack=0.1)
    weighting.check(objectives)
    found = weighting.weigh(batch_of(4.0, -20.0, objectives=objectives))
    assert found.values.tolist() == pytest.approx([0.3 / 0.6, 0.3 / 0.6])


def test_the_best_ideal_follows_the_means():
    weighting = Regrets(decay=0.0, ideal="best", slack=0.1)
    for means, regrets in (
        ((0.5, 0.5), (0.1, 0.1)),
        ((0.7, 0.3), (0.1, 0.3)),
        ((0.6, NAN), (0.2, 0.3)),
        ((0.2, 0.8), (0.6, 0.1)),
    ):
        found = weighting.weigh(batch_of(*means))
        assert found.values.tolist() == pytest.approx([r / sum(regrets) for r in regrets])
    assert found.metrics["ideal/a"] == pytest.approx(0.8)
    assert found.metrics["ideal/b"] == pytest.approx(0.9)


def test_the_best_ideal_of_responses_is_the_best_response():
    weighting = Worst(ideal="best")
    scores = torch.tensor([[[0.2, 0.6], [0.5, 0.1]]])
    assert weighting.weigh(make_step(scores)).values_PG.tolist()[0] == pytest.approx([-0.3, -0.5])
    later = weighting.weigh(make_step(scores - 0.1))
    assert later.values_PG.tolist()[0] == pytest.approx([-0.4, -0.6])
    assert later.metrics == pytest.approx({"ideal/a": 0.5, "ideal/b": 0.6, "scalarised": -0.5})


def test_responses_without_a_score_have_none():
    scores = torch.tensor([[[0.2, NAN], [NAN, NAN], [0.6, 0.1]]])
    found = Worst().weigh(make_step(scores)).values_PG[0]
    # The first takes its group's only score of b.
    torch.testing.assert_close(found, torch.tensor([-0.9, NAN, -0.9]), equal_nan=True)


@pytest.mark.parametrize("build", [lambda **o: Regrets(decay=0.9, **o), Worst])
def test_mistakes_are_sentences(build):
    objectives = make_objectives("accuracy", "brevity")
    unbounded = [objectives[0], dataclasses.replace(objectives[1], bounds=None)]
    with pytest.raises(OptionError, match=r"objective 'brevity' has no bounds.*`bounds: \[lo, hi"):
        build().check(unbounded)
    with pytest.raises(OptionError, match="`ideal` names 'acuracy'; did you mean 'acc") as caught:
        build(ideal={"acuracy": 0.9}).check(objectives)
    assert caught.value.option == "ideal"
    with pytest.raises(OptionError, match="'brevity' must lie above its lower bound, 0; found -1"):
        build(ideal={"brevity": -1.0}).check(objectives)
    build(ideal={"brevity": 1.5}).check(objectives)
    require_bounds("any", objectives)


def test_a_preference_of_zero_is_said():
    notes = [
        build.weigh(batch_of(0.2, 0.4, preference={"a": 1, "b": b})).notes
        for build in (Regrets(decay=0.9), Worst())
        for b in (0, 1)
    ]
    assert [len(n) for n in notes] == [1, 0, 1, 0]
    assert "objective b has the preference 0" in notes[0][0]


@pytest.mark.parametrize("ideal", ["bounds", "best"])
def test_state_goes_round(ideal):
    generator = torch.Generator().manual_seed(0)
    steps = [make_step(torch.rand(2, 4, 3, generator=generator)) for _ in range(6)]
    for build in (lambda: Regrets(decay=0.9, ideal=ideal, slack=0.1), lambda: Worst(ideal=ideal)):
        weighting, fresh = build(), build()
        for step in steps[:3]:
            weighting.weigh(step)
        fresh.load_state_dict(weighting.state_dict())
        for step in steps[3:]:
            old, new = weighting.weigh(step), fresh.weigh(step)
            assert old.metrics == new.metrics


def test_beyond_the_ideal_it_says_so():
    def notes(*means, **options):
        return Regrets(decay=0.0, **options).weigh(batch_of(*means)).notes

    low = {"ideal": {"a": 0.3, "b": 0.4}}
    assert notes(0.5, 0.3, **low) == ()
    (sentence,) = notes(0.5, 0.5, **low)
    assert sentence.startswith("weighting regrets: every objective is better than its ideal")
    assert notes(NAN, NAN, **low) == ()
    assert notes(0.5, NAN, **low) == (sentence,)
    assert Worst(**low).weigh(batch_of(0.5, 0.5)).notes[0].startswith("weighting worst: every")
