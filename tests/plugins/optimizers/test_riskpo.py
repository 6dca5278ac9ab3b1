"""Policy optimisation of mixed value-at-risk over bundles of prompts."""

from __future__ import annotations

import itertools

import letters
import pytest
import testbeds
import torch
from resuming import resumed

from moalign import plugins
from moalign.errors import OptionError, StudyError
from moalign.maths.normalisation import masked_whiten
from moalign.options import check_options
from moalign.study.loading import load
from moalign.testing.steps import make_batch, make_objectives
from moalign_plugins.optimizers.riskpo import RiskPo

NAN = float("nan")


def begun(objectives=("a",), **options) -> RiskPo:
    optimizer = RiskPo(**options)
    optimizer.begin(make_objectives(*objectives), 4, 0)
    return optimizer


def advantages(optimizer, scores_PGK):
    prompts, group, _ = scores_PGK.shape
    found = optimizer.advantages(scores_PGK, make_batch(prompts, group))
    assert found.shape == (prompts * group, 1, scores_PGK.shape[-1])
    return found.view(scores_PGK.shape)


def whitened(slopes):
    values = torch.tensor(slopes).view(-1, 1, 1)
    return masked_whiten(values, torch.ones_like(values)).flatten()


FIVE = torch.arange(5.0).view(1, 5, 1)


def test_golden_slopes_by_hand():
    # Quantiles .8 and 3.2. Below: 1.5 / .2 = 7.5 per point; between: 1 / .6; above: nothing more.
    found = advantages(begun(bundle=1), FIVE).flatten()
    torch.testing.assert_close(found, whitened([-6.0, 0.2 / 0.6, 2.0, 2.2 / 0.6, 4.0]))
    # Without extra weight on the worst: 5 per point below.
    found = advantages(begun(bundle=1, omega=0.0), FIVE).flatten()
    torch.testing.assert_close(found, whitened([-4.0, 0.2 / 0.6, 2.0, 2.2 / 0.6, 4.0]))


def test_the_best_pull_no_more_than_the_good_and_the_worst_most():
    scores = torch.cat([FIVE, torch.tensor([50.0, 60.0]).view(1, 2, 1)], 1)
    found = advantages(begun(bundle=1, beta=0.6), scores).flatten()
    assert float(found[-1]) == float(found[-2]) == float(found[-3])
    steps = found.diff()
    # Per point 7.5 below the lower quantile, 1.2, and 2.5 above it.
    assert float(steps[0]) == pytest.approx(3 * float(steps[2]), rel=1e-4)
    assert steps[2] > 0


def test_completions_of_a_bundle_share_the_result_of_their_paper():
    scores = torch.rand(5, 6, 2, generator=torch.Generator().manual_seed(0))
    found = advantages(begun(("a", "b"), bundle=2), scores)
    # Five prompts are two bundles; a paper's result is the mean of its completions.
    for first, second in ((0, 1), (1, 2), (3, 4)):
        assert torch.equal(found[first], found[second])
    assert not torch.equal(found[0], found[3])
    papers = torch.stack([scores[:3].mean(0), scores[3:].mean(0)])
    results = papers.repeat_interleave(torch.tensor([3, 2]), 0)
    quantiles = torch.quantile(papers.flatten(0, 1), torch.tensor([0.2, 0.8]), dim=0)
    low, high = quantiles
    slopes = 7.5 * (results - low).clamp(max=0) + (results.clamp(low, high) - low) / 0.6
    valid = torch.ones(30, 1, 2)
    expected = masked_whiten(slopes.view(30, 1, 2), valid).view(found.shape)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("prompts", "bundle", "sizes"),
    [(16, 5, [6, 5, 5]), (16, 4, [4] * 4), (9, 5, [9]), (3, 100, [3]), (4, 1, [1] * 4)],
)
def test_bundles_are_as_large_as_asked_for_or_a_little_larger(prompts, bundle, sizes):
    numbers = torch.rand(prompts, 2, 1, generator=torch.Generator().manual_seed(0))
    found = advantages(begun(bundle=bundle), numbers)
    starts = [0, *torch.tensor(sizes).cumsum(0).tolist()]
    for start, end in itertools.pairwise(starts):
        assert torch.equal(found[start:end], found[start].expand_as(found[start:end]))
    assert len(found.flatten(1).unique(dim=0)) == len(sizes)


def test_quantiles_are_running_means_by_name():
    optimizer = begun(("a", "b"), bundle=1, memory=0.75)
    both = torch.cat([FIVE, 10 * FIVE], -1)
    advantages(optimizer, both)
    assert optimizer.state_dict()["a"] == pytest.approx([0.8, 3.2])
    advantages(optimizer, both + 4)
    assert optimizer.state_dict()["a"] == pytest.approx([1.8, 4.2])
    assert optimizer.state_dict()["b"] == pytest.approx([9.0, 33.0])
    other = begun(("b", "a"), bundle=1, memory=0.75)
    other.load_state_dict(optimizer.state_dict())
    assert torch.equal(advantages(other, both.flip(-1)), advantages(optimizer, both).flip(-1))


def test_missing_scores_take_no_part():
    scores = torch.rand(4, 3, 1, generator=torch.Generator().manual_seed(0))
    scores[1] = scores[3, 2] = NAN
    optimizer = begun(bundle=2)
    found = advantages(optimizer, scores)
    assert not found[1].any()
    assert not found[3, 2].any()
    # The first paper's results are those of prompt 0 alone.
    filled = scores.clone()
    filled[1] = filled[0]
    filled[3, 2] = filled[2, 2]
    same = begun(bundle=2)
    advantages(same, filled)
    assert same.state_dict()["a"] == pytest.approx(optimizer.state_dict()["a"])
    before = optimizer.state_dict()
    assert not advantages(optimizer, torch.full_like(scores, NAN)).any()
    assert optimizer.state_dict() == before


def test_equal_scores_teach_nothing_once_the_quantiles_agree():
    assert not advantages(begun(), torch.full((4, 3, 1), 0.3)).any()


def test_options_are_checked():
    with pytest.raises(OptionError, match="`alpha` must be below `beta`"):
        RiskPo(alpha=0.8, beta=0.2)
    for option, value in (("alpha", 0.0), ("beta", 1.0), ("bundle", 0), ("memory", 1.0)):
        with pytest.raises(OptionError, match=option):
            check_options(RiskPo, {option: value})


# --- in the loop ----------------------------------------------------------------------------------


def study(*overrides):
    given = ("policy.condition=none", "weighting=fixed", "training.optimizer={riskpo: {bundle: 2}}")
    catalogue = plugins.load([letters.FILE])
    return load(letters.STUDY, "letters.yaml", catalogue, (*given, "search.space={}", *overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ("training.optimizer={riskpo: {epochs: 2}}", "training.minibatches=2"),
        ("policy.condition=weights",),
        ("weighting={mgda: {}}",),
    ],
    ids=["epochs and mini-batches", "conditioned", "gram"],
)
def test_resuming_is_exact(tmp_path, overrides):
    given = study("training.steps=4", *overrides)
    whole = testbeds.new_trial(given)
    history = [whole.train_step() for _ in range(3)]
    first = testbeds.new_trial(given)
    first.train_step()
    second = resumed(first, testbeds.new_trial(given), tmp_path)
    assert [second.train_step() for _ in range(2)] == history[1:]
    if "mgda" in str(overrides):
        assert history[0]["gram/reused"] == 1.0


def test_a_probe_on_the_steer_split_moves_no_quantile():
    trial = testbeds.new_trial(study())
    trial.train_step()
    before = trial.optimizer.state_dict()
    assert before
    trial._steer_gradient()
    assert trial.optimizer.state_dict() == before


@pytest.mark.parametrize("overrides", [("training.combine=rewards",), ("weighting=product",)])
def test_sums_of_objectives_are_refused(overrides):
    with pytest.raises(StudyError, match="treats the objectives one by one"):
        study(*overrides)
