"""A mixture of Bradley-Terry models over the objectives: its likelihood, and what it learns."""

from __future__ import annotations

import math

import pytest
import torch
from preferences import context, families, never, prepared
from weighting_properties import FINITE, ONE_OBJECTIVE, PERMUTES, RESUMES, SIMPLEX, claims

from moalign.errors import DataError, OptionError
from moalign.testing.steps import make_batch, make_objectives, make_step
from moalign.types import Prompt
from moalign_plugins.weightings.context_router import SHARPEST, ContextRouter

NAN = math.nan
FAST = {"learning_rate": 0.02, "steps": 400}


def losses(weights, chosen, rejected, **options) -> list[float]:
    chosen, rejected = (torch.tensor(s, dtype=torch.float64) for s in (chosen, rejected))
    lesson = ContextRouter(**options).lesson("abc"[: chosen.shape[1]], chosen, rejected)
    log_weights = torch.tensor(weights, dtype=torch.float64).log()
    return lesson.loss(log_weights, torch.arange(len(chosen))).tolist()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def learnt(texts, chosen, rejected, **options):
    given = context(texts, chosen, rejected)
    return prepared(ContextRouter(**FAST | {"encoder": "text"} | options), given)


def weights_of(router, *texts: str) -> torch.Tensor:
    return router.prompt_weights([Prompt(t, t) for t in texts], never)


# --- the likelihood -------------------------------------------------------------------------------


def test_the_likelihood_is_that_of_a_mixture():
    """Root mean squares of the margins (3, -1) and (1, 1) are sqrt 5 and 1."""
    found = losses([[0.2, 0.8], [0.7, 0.3]], [[3, 1], [0, 1]], [[0, 0], [1, 0]], sharpness=2.0)
    wide = 2 / math.sqrt(5)
    expected = [
        -math.log(0.2 * sigmoid(3 * wide) + 0.8 * sigmoid(2)),
        -math.log(0.7 * sigmoid(-wide) + 0.3 * sigmoid(2)),
    ]
    assert found == pytest.approx(expected)


def test_swapping_the_two_completions_swaps_the_probabilities():
    weights = [[0.2, 0.5, 0.3]] * 4
    drawn = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0)).tolist()
    one, other = losses(weights, *drawn), losses(weights, *drawn[::-1])
    sums = [math.exp(-a) + math.exp(-b) for a, b in zip(one, other, strict=True)]
    assert sums == pytest.approx([1.0] * 4)


def test_ties_cost_the_logarithm_of_two_whatever_the_weights():
    assert losses([[0.2, 0.8]], [[1, 1]], [[1, 1]]) == pytest.approx([math.log(2)])


def test_the_unit_of_a_reward_does_not_matter():
    weights = [[0.2, 0.5, 0.3]] * 5
    drawn = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = losses(weights, *drawn.tolist())
    for factor in (1e-10, 10.0, 1e10):
        by = torch.tensor([factor, 1, 1], dtype=torch.float64)
        assert losses(weights, *(drawn * by).tolist()) == pytest.approx(plain)


def test_an_objective_that_does_not_apply_is_left_out():
    left = losses([[0.2, 0.3, 0.5]], [[NAN, 1.0, 0.0]], [[0.0, 0.0, 1.0]], sharpness=1.0)
    assert left == pytest.approx([-math.log(0.375 * sigmoid(1) + 0.625 * sigmoid(-1))])


# --- what is learnt -------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [0, 16])
def test_two_families_are_told_apart(hidden):
    texts, chosen, rejected = families()
    router = learnt(texts, chosen, rejected, hidden=hidden)
    found = weights_of(router, "add the numbers 77", "say in few words 78")
    assert found[0, 0] > 0.9
    assert found[1, 1] > 0.9
    first = router.weigh(make_step()).metrics
    assert first["held_out_loss"] < 0.7 * first["held_out_loss_constant"] < math.log(2)
    assert 1 < first["sharpness/a"] <= SHARPEST


def test_shares_of_a_mixture_are_recovered():
    """Of equal prompts 70 % are decided by a and the others by b, which contradict each other."""
    count = 400
    drawn = torch.Generator().manual_seed(0)
    by_a = torch.rand(count, generator=drawn) < 0.7
    sign = torch.where(by_a, 1.0, -1.0)
    chosen = torch.stack([sign, -sign], -1).tolist()
    router = prepared(
        ContextRouter(encoder="text", sharpness=10.0, held_out=0.0, **FAST),
        context(["the same"] * count, chosen),
    )
    share = float(by_a.float().mean())
    found = weights_of(router, "the same")[0]
    torch.testing.assert_close(found, torch.tensor([share, 1 - share]), atol=0.02, rtol=0)


def test_an_objective_that_prefers_the_rejected_loses_its_weight():
    texts = [f"prompt {n}" for n in range(60)]
    drawn = torch.rand(60, generator=torch.Generator().manual_seed(0)).add(0.5).tolist()
    router = learnt(texts, [[v, -v, 0.0] for v in drawn], [[0.0] * 3] * 60)
    found = weights_of(router, *texts).mean(0)
    assert found[0] > 0.6
    assert found[0] > found[2] > found[1]
    assert any("objective c is equal for both" in n for n in router.weigh(make_step()).notes)


def test_weights_in_the_prompts_go_before_and_each_prompt_has_its_own():
    texts, chosen, rejected = families(20)
    router = learnt(texts, chosen, rejected, steps=20, floor=0.1)
    step = make_step()
    own = weights_of(router, *(p.text for p in step.batch.prompts_P))
    assert torch.equal(router.weigh(step).values, own[:, None])
    assert own.min() >= 0.1 / 3 - 1e-6
    conditions = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]])
    found = router.weigh(make_step(batch=make_batch(conditions_PK=conditions))).values
    assert torch.equal(found, conditions[:, None])


def test_a_given_sharpness_is_kept():
    texts, chosen, rejected = families(20)
    router = learnt(texts, chosen, rejected, steps=40, sharpness=3.0)
    assert router.weigh(make_step()).metrics["sharpness/b"] == pytest.approx(3.0)
    assert ContextRouter(sharpness=3.0).recipe() != ContextRouter().recipe()


def test_prompts_beat_single_weights_on_what_each_family_wants():
    from testbeds import expected, family_study, train

    weighting = "weighting={context-router: {learning_rate: 0.05}}"
    trial = train(family_study("training.steps=40", weighting))
    for family in ("accuracy", "brevity"):
        assert expected(trial, family)[family] > 0.85


def test_mistakes_are_sentences():
    with pytest.raises(OptionError, match=r"with `blend: 0` the prompts alone decide"):
        ContextRouter(preference={"a": 1.0, "b": 1.0}).check(make_objectives("a", "b"))
    given = context(["x"], [[1.0, 0.5]], [[0.0, NAN]])
    with pytest.raises(DataError, match="objective b applies to none of the rejected"):
        ContextRouter().prepare(given)


# --- invariants of methods.md Y -------------------------------------------------------------------


def grown(**options):
    """Return a maker of weightings that have all learnt the same."""
    drawn = torch.rand(2, 20, 3, generator=torch.Generator().manual_seed(0)).tolist()
    features = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    given = context([f"prompt {n}" for n in range(20)], *drawn, features=features)
    settings = {"steps": 60, "held_out": 0.0, "learning_rate": 0.05} | options
    state = ContextRouter(**settings).prepare(given)

    def build() -> ContextRouter:
        router = ContextRouter(**settings)
        router.load_prepared(state)
        return router

    return build


test_properties = claims(grown(), FINITE, SIMPLEX, PERMUTES, ONE_OBJECTIVE, RESUMES)
