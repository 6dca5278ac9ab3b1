"""The hypervolume gain: formula, references, noise, and where the gain acts."""

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
    ONE_OBJECTIVE_UP_TO_GAIN,
    PERMUTES,
    RESUMES,
    SIMPLEX,
    UNIT_FREE,
    claims,
)

from moalign.errors import DataError, OptionError
from moalign.maths.combine import scalarise
from moalign.pareto import hypervolume
from moalign.testing.steps import make_batch, make_evaluation, make_objectives, make_step
from moalign.weightings.measured import reference_point
from moalign_plugins.optimizers.grpo import Grpo
from moalign_plugins.optimizers.reinforce_pp import ReinforcePlusPlus
from moalign_plugins.optimizers.rloo import Rloo
from moalign_plugins.weightings.hypervolume import PATIENCE, Hypervolume

NOISELESS = {"standard_errors": 0.0}
PUBLISHED = {"reference": "initial", "margin": 0.0, "scale": 1.0, **NOISELESS}


def feed(weighting, *points, **options):
    """Let the weighting measure these means one after the other; return its last weights."""
    for point in points:
        values = dict(zip("abc", ([value] * 2 for value in point), strict=False))
        evaluation = make_evaluation(**values)
        objectives = make_objectives(*values)
        found = weighting.weigh(make_step(objectives=objectives, evaluate=evaluation, **options))
    return found


test_properties = claims(
    Hypervolume,
    FINITE,
    SIMPLEX,
    PERMUTES,
    RESUMES,
    ONE_OBJECTIVE_UP_TO_GAIN,
    UNIT_FREE,
    LEAVES_NAN_ALONE,
    DUPLICATE_SHARES,
    FROZEN(lambda: Hypervolume(floor=1.0, span=0.0)),
)


def test_the_gain_is_one_at_first_and_follows_the_published_formula():
    assert feed(Hypervolume(**PUBLISHED), (0.0, 0.0)).gain == 1.0
    for gained, gain in ((0.0, 0.5), (math.atanh(1 / 3), 1.0), (0.05, 0.5749), (0.2, 0.7961)):
        found = feed(Hypervolume(**PUBLISHED), (0.0, 0.0), (gained, 1.0))
        assert found.gain == pytest.approx(gain, abs=1e-4)
        assert found.metrics["improvement"] == pytest.approx(gained)
    assert feed(Hypervolume(**PUBLISHED), (0.0, 0.0), (1.0, 1.0)).gain == pytest.approx(
        1.6424, abs=1e-4
    )


def test_scale_floor_and_span():
    scaled = feed(Hypervolume(**{**PUBLISHED, "scale": 0.02}), (0.0, 0.0), (0.1, 0.2))
    assert scaled.gain == pytest.approx(0.5 + 1.5 * math.tanh(1.0))
    still = Hypervolume(floor=1.0, span=0.0, **PUBLISHED)
    found = feed(still, (0.0, 0.0), (0.5, 0.9), preference={"a": 3, "b": 1})
    assert found.gain == 1.0
    torch.testing.assert_close(found.values, torch.tensor([0.75, 0.25]))


def test_only_new_ground_counts():
    weighting = Hypervolume(**PUBLISHED)
    feed(weighting, (0.0, 0.0), (0.6, 0.2))
    assert feed(weighting, (0.5, 0.1)).gain == 0.5  # dominated
    assert feed(weighting, (0.6, 0.2)).gain == 0.5  # again
    assert feed(weighting, (0.2, 0.6)).metrics["improvement"] == pytest.approx(0.12 - 0.04)
    assert feed(weighting, (0.6, 0.6)).metrics["hypervolume"] == pytest.approx(0.36)


def test_a_point_below_the_reference_adds_nothing():
    # The case on which the authors' routine fails: a good point that gives way in one objective.
    assert hypervolume([(1, 1), (2, -1)], (0, 0)) == hypervolume([(1, 1)], (0, 0)) == 1.0
    weighting = Hypervolume(reference={"a": 0.0, "b": 0.0}, scale=1.0, **NOISELESS)
    found = feed(weighting, (0.1, 0.1), (0.5, 0.5), (0.9, -0.1))
    assert found.metrics["improvement"] == 0.0
    assert found.gain == 0.5


def test_initial_reference_asks_for_more_in_every_objective():
    found = feed(Hypervolume(**PUBLISHED), (0.5, 0.5), (0.9, 0.49))
    assert found.gain == 0.5
    lenient = feed(Hypervolume(**{**PUBLISHED, "margin": 0.1}), (0.5, 0.5), (0.9, 0.49))
    # (.5, .09) above a reference of .4, less the start's own (.1, .1).
    assert lenient.metrics["improvement"] == pytest.approx(0.5 * 0.09 - 0.1 * 0.09)


def test_nadir_follows_the_archive():
    weighting = Hypervolume(reference="nadir", margin=0.1, scale=1.0, **NOISELESS)
    feed(weighting, (0.5, 0.5), (0.9, 0.45))
    # The archive's worst is (.5, .45), so the reference (.4, .35); b may fall a little further.
    found = feed(weighting, (0.95, 0.38))
    assert found.metrics["improvement"] == pytest.approx(0.05 * 0.03)
    # Reference now (.4, .28): the dominated start no longer matters.
    archive = weighting.state_dict()["archive"]
    found = reference_point("nadir", 0.1, archive, make_objectives("a", "b"))
    assert found == pytest.approx([0.4, 0.28])


def test_given_reference_and_bounds_are_raw():
    objectives = [
        dataclasses.replace(o, bounds=b)
        for o, b in zip(make_objectives("a", "b"), [(0.0, 10.0), (-100.0, 0.0)], strict=True)
    ]
    weighting = Hypervolume(reference={"a": 5.0, "b": -50.0}, scale=1.0, **NOISELESS)
    for a, b in ((5.0, -50.0), (7.0, -20.0)):
        step = make_step(objectives=objectives, evaluate=make_evaluation(a=[a], b=[b]))
        found = weighting.weigh(step)
    assert found.metrics["improvement"] == pytest.approx(0.2 * 0.3)


def test_improvement_within_noise_does_not_count():
    noisy = make_evaluation(a=[0.4, 0.8], b=[0.6, 0.6])  # a: .6 with standard error .2
    clear = make_evaluation(a=[0.59, 0.61], b=[0.6, 0.6])  # a: .6 with standard error .01
    for evaluation, counts in ((noisy, False), (clear, True)):
        weighting = Hypervolume(scale=1.0)
        feed(weighting, (0.5, 0.6))
        step = make_step(objectives=make_objectives("a", "b"), evaluate=evaluation)
        found = weighting.weigh(step)
        assert (found.metrics["improvement"] > 0) == counts
        assert len(weighting.state_dict()["archive"]) == 1 + counts
    one_unit = make_evaluation(a=[0.9], b=[0.9])
    weighting = Hypervolume()
    feed(weighting, (0.5, 0.6))
    found = weighting.weigh(make_step(objectives=make_objectives("a", "b"), evaluate=one_unit))
    assert found.metrics["improvement"] == 0


def test_one_unit_is_no_measure_of_noise_and_says_so():
    one_unit = make_evaluation(a=[0.9], b=[0.9])
    step = make_step(objectives=make_objectives("a", "b"), evaluate=one_unit)
    (sentence,) = Hypervolume().weigh(step).notes
    assert "one unit only" in sentence
    assert Hypervolume(**NOISELESS).weigh(step).notes == ()


def test_a_policy_that_stays_below_its_start_is_reported():
    weighting = Hypervolume(**PUBLISHED)
    feed(weighting, (0.5, 0.5))
    for _ in range(PATIENCE - 1):
        assert feed(weighting, (0.9, 0.4)).notes == ()
    (sentence,) = feed(weighting, (0.9, 0.4)).notes
    assert "below the reference in some objective" in sentence
    assert feed(weighting, (0.9, 0.4)).notes == (sentence,)  # constant, so said once
    assert feed(weighting, (0.9, 0.6)).notes == ()


def test_volume_never_falls_and_improvements_are_never_negative():
    points = torch.rand(30, 3, generator=torch.Generator().manual_seed(1)).tolist()
    weighting = Hypervolume(reference={"a": 0.2, "b": 0.2, "c": 0.2}, **NOISELESS)
    volume = 0.0
    for point in points:
        found = feed(weighting, point)
        assert found.metrics.get("improvement", 0.0) >= 0.0
        assert 0.5 <= found.gain <= 2.0
        assert found.metrics.get("hypervolume", 0.0) >= volume - 1e-12
        volume = found.metrics.get("hypervolume", 0.0)
    assert volume > 0.1


def test_the_reference_of_the_objectives_is_that_of_the_front():
    objectives = [
        dataclasses.replace(make_objectives("a")[0], reference=0.25),
        dataclasses.replace(make_objectives("b")[0], bounds=(-100.0, 0.0)),
    ]
    weighting = Hypervolume(reference="objectives", scale=1.0, **NOISELESS)
    for a, b in ((0.25, -100.0), (0.75, -60.0)):
        step = make_step(objectives=objectives, evaluate=make_evaluation(a=[a], b=[b]))
        found = weighting.weigh(step)
    assert found.metrics["improvement"] == pytest.approx(0.5 * 0.4)


def test_it_measures_every_few_steps_and_keeps_the_gain_between():
    points = iter([(0.0, 0.0), (0.5, 0.5), (0.5, 0.5)])
    measured = []

    def evaluate(split):
        a, b = next(points)
        measured.append(split)
        return make_evaluation(a=[a, a], b=[b, b])

    weighting = Hypervolume(every=3, **PUBLISHED)
    gains = [
        weighting.weigh(make_step(objectives=make_objectives("a", "b"), evaluate=evaluate)).gain
        for _ in range(9)
    ]
    high = 0.5 + 1.5 * math.tanh(0.25)
    assert gains == pytest.approx([1.0] * 3 + [high] * 3 + [0.5] * 3)
    assert measured == ["steer"] * 3


def test_missing_values_are_left_out():
    nan = float("nan")
    weighting = Hypervolume(**PUBLISHED)
    feed(weighting, (0.0, 0.0))
    evaluation = make_evaluation(a=[0.5, nan, 0.7], b=[nan, 0.5, nan])
    found = weighting.weigh(make_step(objectives=make_objectives("a", "b"), evaluate=evaluation))
    assert found.metrics["improvement"] == pytest.approx(0.3)
    never = make_evaluation(a=[0.5], b=[nan])
    with pytest.raises(DataError, match="objective b applies to no prompt of the steer split"):
        weighting.weigh(make_step(objectives=make_objectives("a", "b"), evaluate=never))


def test_objectives_off_the_front_are_no_axes():
    objectives = list(make_objectives("a", "b"))
    objectives.append(dataclasses.replace(objectives[0], name="kl", bounds=None, front=False))
    weighting = Hypervolume(**PUBLISHED)
    for a in (0.0, 0.5):
        evaluation = make_evaluation(a=[a], kl=[-99.0 * a], b=[a])
        found = weighting.weigh(make_step(objectives=objectives, evaluate=evaluation))
    assert found.metrics["improvement"] == pytest.approx(0.25)
    assert found.values.shape == (3,)


def test_the_order_of_objectives_does_not_matter():
    points = [(0.1, 0.2, 0.3), (0.5, 0.3, 0.4), (0.2, 0.6, 0.5), (0.7, 0.7, 0.2)]
    plain = feed(Hypervolume(**NOISELESS), *points)
    moved = feed(Hypervolume(**NOISELESS), *[(c, a, b) for a, b, c in points])
    assert moved.gain == pytest.approx(plain.gain)


def test_a_gain_on_the_reward_is_lost_to_normalisation_and_one_on_the_advantage_is_not():
    scores = torch.rand(2, 8, 2, generator=torch.Generator().manual_seed(0))
    batch = make_batch(2, 8)
    points = ((0.0, 0.0), (0.5, 0.5))
    on_reward = feed(Hypervolume(apply_to="reward", **PUBLISHED), *points)
    on_advantage = feed(Hypervolume(apply_to="advantage", **PUBLISHED), *points)
    gain = on_advantage.gain
    assert on_reward.gain == 1.0
    torch.testing.assert_close(on_reward.values, gain * on_advantage.values)

    def advantages(optimizer, values):
        return optimizer.advantages(scalarise(scores, values)[..., None], batch)

    fixed = on_advantage.values
    for optimizer in (Grpo(), ReinforcePlusPlus()):
        lost = advantages(optimizer, on_reward.values) - advantages(optimizer, fixed)
        assert lost.abs().max() < 1e-4
    felt = advantages(Rloo(), on_reward.values)
    torch.testing.assert_close(felt, gain * advantages(Rloo(), fixed))


def test_the_published_factor_moves_a_grpo_advantage_by_four_millionths():
    scores = torch.tensor([0.334, 0.667, 1, 0, 0.333, 0.667, 1, 0.334]).view(1, 8, 1)
    half, one, double = (Grpo().advantages(m * scores, make_batch(1, 8)) for m in (0.5, 1.0, 2.0))
    largest = max(float((half - one).abs().max()), float((double - one).abs().max()))
    assert largest == pytest.approx(4.3e-6, rel=0.1)


def test_it_declares_what_it_returns():
    assert Hypervolume().declares == frozenset()
    assert Hypervolume(apply_to="reward").declares == {"unnormalised"}


def test_state_goes_round():
    points = [(0.1, 0.2), (0.5, 0.3), (0.2, 0.6), (0.7, 0.7), (0.4, 0.9), (0.8, 0.8)]
    weighting, fresh = Hypervolume(every=2, **NOISELESS), Hypervolume(every=2, **NOISELESS)
    feed(weighting, *points[:3])
    fresh.load_state_dict(weighting.state_dict())
    for point in points[3:]:
        before, after = feed(weighting, point), feed(fresh, point)
        assert (before.gain, before.metrics) == (after.gain, after.metrics)


def test_mistakes_are_sentences():
    objectives = make_objectives("accuracy", "brevity")
    with pytest.raises(OptionError, match="names 'acuracy'; did you mean 'accuracy'") as caught:
        Hypervolume(reference={"acuracy": 0.1, "brevity": 0.2}).check(objectives)
    assert caught.value.option == "reference"
    with pytest.raises(OptionError, match="leaves out brevity; give a raw value for each of"):
        Hypervolume(reference={"accuracy": 0.1}).check(objectives)
    with pytest.raises(OptionError, match="no objective is both trained on and on the front"):
        Hypervolume().check([dataclasses.replace(o, front=False) for o in objectives])
    Hypervolume(reference={"accuracy": 0.1, "brevity": 0.2}).check(objectives)
    Hypervolume(reference={"accuracy": -5.0, "brevity": 0.2}).check(objectives)
    with pytest.raises(
        OptionError, match=r"'brevity' must lie below .* 0 and 1, found 1"
    ) as caught:
        Hypervolume(reference={"accuracy": 0.1, "brevity": 1.0}).check(objectives)
    assert caught.value.option == "reference"
