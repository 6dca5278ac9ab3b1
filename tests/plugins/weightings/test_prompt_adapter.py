"""Weights that prompts call for, learnt from preferred completions: targets, limits, families."""

from __future__ import annotations

import math

import pytest
import torch
from preferences import context, families, never, prepared
from weighting_properties import FINITE, FROZEN, ONE_OBJECTIVE, PERMUTES, RESUMES, SIMPLEX, claims

from moalign.errors import ContractError, DataError, OptionError
from moalign.maths.combine import combine
from moalign.testing.steps import make_batch, make_objectives, make_step
from moalign.types import Prompt
from moalign_plugins.weightings.fixed import Fixed
from moalign_plugins.weightings.prompt_adapter import PromptAdapter, target_weights

NAN = math.nan
FAST = {"learning_rate": 0.02, "steps": 400}


def lesson_targets(chosen, rejected=None, **options) -> torch.Tensor:
    """Return w* of some preferences, as the loss has them: the weights at which it is least."""
    adapter = PromptAdapter(**options)
    chosen = torch.tensor(chosen, dtype=torch.float64)
    rejected = torch.tensor(rejected, dtype=torch.float64) if rejected else None
    lesson = adapter.lesson("abcd"[: chosen.shape[1]], chosen, rejected)
    logits = torch.zeros(chosen.shape, dtype=torch.float64, requires_grad=True)
    rows = torch.arange(len(chosen))
    # d loss / d logits = f - w*, and f is uniform over what applies.
    lesson.loss(torch.log_softmax(logits, -1), rows).sum().backward()
    applies = ~chosen.isnan()
    uniform = applies / applies.sum(-1, keepdim=True)
    return uniform - logits.grad


def learnt(texts, chosen, rejected=None, *, names="abc", features=None, **options):
    given = context(texts, chosen, rejected, names=names, features=features)
    return prepared(PromptAdapter(**FAST | {"encoder": "text"} | options), given)


def weights_of(adapter, *texts: str) -> torch.Tensor:
    return adapter.prompt_weights([Prompt(t, t) for t in texts], never)


# --- targets: the closed forms of methods.md W5 (5) -----------------------------------------------


def test_a_target_is_a_softmax_of_scores_by_temperature():
    found = lesson_targets([[0.3, 0.1, 0.2]], scores="raw")
    expected = torch.tensor([[0.66524, 0.09003, 0.24473]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_at_a_high_temperature_weights_are_equal():
    scores = torch.rand(20, 4, generator=torch.Generator().manual_seed(0)).tolist()
    for kind in ("raw", "standardised"):
        found = lesson_targets(scores, scores=kind, temperature=1e9)
        torch.testing.assert_close(found, torch.full_like(found, 0.25), atol=1e-8, rtol=0)


def test_a_constant_added_to_all_scores_of_a_prompt_changes_no_target():
    scores = torch.rand(9, 3, generator=torch.Generator().manual_seed(0))
    moved = scores + 7 * torch.arange(9.0)[:, None]
    found = [lesson_targets(s.tolist(), scores="raw") for s in (scores, moved)]
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)


@pytest.mark.parametrize("targets", ["scores", "margins"])
@pytest.mark.parametrize("factor", [10.0, 1e-10, 1e10])
def test_the_unit_of_a_reward_does_not_matter_where_scores_are_standardised(targets, factor):
    scores = torch.rand(2, 30, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by = torch.tensor([factor, 1.0, 1.0], dtype=torch.float64)
    plain, scaled = (
        lesson_targets(*(s * f).tolist(), targets=targets)
        for s, f in ((scores, torch.ones(3)), (scores, by))
        for s in [s]
    )
    torch.testing.assert_close(plain, scaled, atol=1e-6, rtol=0)
    raw, raw_scaled = (
        lesson_targets(*(scores * f).tolist(), targets=targets, scores="raw")
        for f in (torch.ones(3), by)
    )
    assert (raw - raw_scaled).abs().max() > 0.1, "raw scores are taken as they are"


def test_targets_of_standardised_scores_by_hand():
    """Deviations (ddof 1) of a are 2, of b 20: scores of (-1, 0, 1) and (1, -1, 0) deviations."""
    found = lesson_targets([[1, 50], [3, 10], [5, 30]], temperature=1.0)
    expected = [
        torch.softmax(torch.tensor([a, b]), -1) for a, b in [(-1.0, 1), (0.0, -1), (1.0, 0)]
    ]
    torch.testing.assert_close(found.float(), torch.stack(expected))


def test_margins_keep_their_sign_and_ties_say_nothing():
    """Root mean squares of a are 1, of b 2."""
    chosen, rejected = [[1, 2], [1, 0], [1, 2]], [[0, 0], [0, 0], [0, 4]]
    rms = math.sqrt((4 + 0 + 4) / 3)
    found = lesson_targets(chosen, rejected, targets="margins", temperature=1.0)
    margins = torch.tensor([[1, 2 / rms], [1, 0], [1, -2 / rms]])
    torch.testing.assert_close(found.float(), torch.softmax(margins, -1))


def test_an_objective_that_does_not_apply_is_left_out():
    scores = [[0.3, 0.1, 0.2], [0.3, NAN, 0.2], [NAN, NAN, 0.2]]
    found = lesson_targets(scores[:2], scores="raw")
    two = torch.softmax(torch.tensor([3.0, 2.0], dtype=torch.float64), -1)
    torch.testing.assert_close(found[1], torch.tensor([two[0], 0, two[1]]), atol=1e-12, rtol=0)
    lesson = PromptAdapter().lesson("abc", torch.tensor(scores, dtype=torch.float64), None)
    assert lesson.useful_N.tolist() == [True, True, False]
    # Its own mean and deviation come from where it applies.
    holes = lesson_targets([[1, 9], [3, 1], [5, 5], [NAN, 5], [3, NAN]], temperature=1.0)
    deviations = torch.tensor([[-2.0, 2.0], [0.0, -2.0], [2.0, 0.0]]) / math.sqrt(8 / 3)
    torch.testing.assert_close(holes[:3].float(), torch.softmax(deviations, -1))
    assert target_weights(torch.full((1, 2), NAN), 0.1).isnan().all()


# --- what is learnt -------------------------------------------------------------------------------


def test_equal_targets_reduce_to_fixed_weights_exactly():
    """w* the same for all prompts: linear scalarisation, to the bit."""
    texts = [f"prompt {n}" for n in range(40)]
    scores = [[0.3, 0.1, 0.2]] * 40
    adapter = learnt(texts, scores, scores="raw")
    target = torch.softmax(torch.tensor([0.3, 0.1, 0.2]).double() / 0.1, -1)
    step = make_step(preference=dict(zip("abc", target.tolist(), strict=True)))
    found, plain = adapter.weigh(step), Fixed().weigh(step)
    assert torch.equal(found.values, plain.values.expand(2, 1, 3))
    mixed = [
        combine(step.advantages_BTK, w.values, batch=step.batch, gain=1.0) for w in (found, plain)
    ]
    assert torch.equal(*mixed)


def test_where_prompts_tell_nothing_the_mean_of_the_targets_is_learnt():
    drawn = torch.Generator().manual_seed(0)
    scores = torch.rand(60, 3, generator=drawn)
    features = torch.ones(60, 4)
    texts = [f"prompt {n}" for n in range(60)]
    adapter = learnt(
        texts, scores.tolist(), features=features, encoder="policy", scores="raw", held_out=0.0
    )
    mean = torch.softmax(scores.double() / 0.1, -1).mean(0)
    found = adapter.prompt_weights([Prompt("x", "x")], lambda: features[:1])
    torch.testing.assert_close(found[0].double(), mean, atol=1e-5, rtol=0)
    step = make_step(prompt_features=features[:2])
    first = adapter.weigh(step)
    named = [first.metrics[f"learnt/{name}"] for name in "abc"]
    assert named == pytest.approx(mean.tolist(), abs=1e-5), "the ablation `fixed` can use them"
    assert any("every prompt gets the same" in note for note in first.notes)


@pytest.mark.parametrize("encoder", ["policy", "text"])
@pytest.mark.parametrize("targets", ["scores", "margins"])
@pytest.mark.parametrize("hidden", [0, 16])
def test_two_families_are_told_apart(encoder, targets, hidden):
    texts, chosen, rejected = families()
    kinds = torch.tensor([n % 2 for n in range(len(texts))])
    drawn = torch.Generator().manual_seed(0)
    features = torch.randn(len(texts), 6, generator=drawn) + 3 * kinds[:, None]
    adapter = learnt(
        texts, chosen, rejected, features=features, encoder=encoder, targets=targets, hidden=hidden
    )
    unseen = [Prompt("1", "add the numbers 77"), Prompt("2", "say in few words 78")]
    means = torch.tensor([[0.0] * 6, [3.0] * 6])
    found = adapter.prompt_weights(unseen, lambda: means)
    assert found[0, 0] > 0.9
    assert found[1, 1] > 0.9
    first = adapter.weigh(make_step(prompt_features=features[:2])).metrics
    assert first["held_out_loss"] < 0.3 * first["held_out_loss_constant"]


def test_shuffled_targets_teach_nothing_about_prompts():
    texts, chosen, rejected = families(200)
    own = learnt(texts, chosen, rejected)
    shuffled = learnt(texts, chosen, rejected, control="shuffled")
    two = ("add the numbers 300", "say in few words 301")
    apart = [(w[0, 0] - w[1, 0]).abs() for w in (weights_of(own, *two), weights_of(shuffled, *two))]
    assert apart[0] > 0.9
    assert apart[1] < 0.2
    means = [a.weigh(make_step()).metrics["learnt/a"] for a in (own, shuffled)]
    assert means[1] == pytest.approx(means[0], abs=0.1)


def test_equal_preferences_and_seeds_teach_the_same():
    texts, chosen, rejected = families(30)
    one, other = (learnt(texts, chosen, rejected, hidden=4) for _ in range(2))
    assert torch.equal(weights_of(one, "x", "say"), weights_of(other, "x", "say"))


# --- floor, blend, conditions ---------------------------------------------------------------------


def test_a_floor_keeps_some_weight_everywhere():
    texts, chosen, rejected = families()
    plain, floored = (learnt(texts, chosen, rejected, floor=f) for f in (0.0, 0.3))
    asked = (*texts[:4], "something else")
    found = weights_of(floored, *asked)
    assert found.min() >= 0.1 - 1e-6
    torch.testing.assert_close(found, 0.7 * weights_of(plain, *asked) + 0.1)
    entropies = [a.weigh(make_step()).metrics["prompt_entropy"] for a in (plain, floored)]
    assert entropies[0] < entropies[1] <= 1
    flat = learnt(texts, chosen, rejected, floor=1.0)
    assert flat.weigh(make_step()).metrics["prompt_entropy"] == pytest.approx(1.0)


def test_a_blend_mixes_in_a_persons_weights():
    texts, chosen, rejected = families()
    preference = {"a": 1.0, "b": 1.0, "c": 2.0}
    plain = weights_of(learnt(texts, chosen, rejected), *texts[:4])
    half = learnt(texts, chosen, rejected, blend=0.5, preference=preference)
    own = torch.tensor([0.25, 0.25, 0.5])
    torch.testing.assert_close(weights_of(half, *texts[:4]), 0.5 * plain + 0.5 * own)
    alone = learnt(texts, chosen, rejected, blend=1.0, preference=preference)
    torch.testing.assert_close(weights_of(alone, *texts[:4]), own.expand(4, -1))
    equal = learnt(texts, chosen, rejected, blend=1.0)
    torch.testing.assert_close(weights_of(equal, *texts[:4]), torch.full((4, 3), 1 / 3))
    recipes = [PromptAdapter(blend=b, floor=f).recipe() for b, f in ((0, 0), (0.5, 0.1))]
    assert recipes[0] == recipes[1], "one fitted head serves every blend and floor"
    assert PromptAdapter(temperature=1.0).recipe() != recipes[0]


def test_weights_in_the_prompts_go_before():
    texts, chosen, rejected = families(20)
    adapter = learnt(texts, chosen, rejected, steps=20)
    conditions = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]])
    found = adapter.weigh(make_step(batch=make_batch(conditions_PK=conditions))).values
    assert torch.equal(found, conditions[:, None])


def test_every_prompt_of_a_step_has_its_own():
    texts, chosen, rejected = families(20)
    adapter = learnt(texts, chosen, rejected, steps=20)
    step = make_step()
    found = adapter.weigh(step)
    own = weights_of(adapter, *(p.text for p in step.batch.prompts_P))
    assert torch.equal(found.values, own[:, None])
    assert "learnt/a" not in adapter.weigh(make_step(index=1)).metrics


# --- notes and mistakes ---------------------------------------------------------------------------


def test_a_constant_objective_is_told():
    texts, chosen, rejected = families(20)
    adapter = learnt(texts, chosen, rejected, steps=20)
    (note,) = [n for n in adapter.weigh(make_step()).notes if "objective c" in n]
    assert "objective c is the same for all preferences (`targets: scores`)" in note


def test_one_hot_weights_are_told_unless_there_is_a_floor():
    texts, chosen, rejected = families(noise=0.0)
    plain, floored = (learnt(texts, chosen, rejected, floor=f) for f in (0.0, 0.1))
    assert any("one objective with nearly all weight" in n for n in plain.weigh(make_step()).notes)
    assert not any("nearly all weight" in n for n in floored.weigh(make_step()).notes)


def test_mistakes_are_sentences():
    objectives = make_objectives("a", "b")
    with pytest.raises(OptionError, match=r"with `blend: 0` the prompts alone decide") as caught:
        PromptAdapter(preference={"a": 1.0, "b": 1.0}).check(objectives)
    assert caught.value.option == "preference"
    PromptAdapter(preference={"a": 1.0, "b": 1.0}, blend=0.1).check(objectives)
    PromptAdapter().check(objectives)
    none = context(["x"], [[1.0, 0.0]])
    none = type(none)(**{**vars(none), "pairs": ()})
    with pytest.raises(DataError, match="learns from preferences between completions, and the"):
        PromptAdapter().prepare(none)
    with pytest.raises(DataError, match="objective b applies to none of the chosen completions"):
        PromptAdapter().prepare(context(["x", "y"], [[1.0, NAN], [0.5, NAN]]))
    with pytest.raises(DataError, match="objective b applies to none of the rejected"):
        PromptAdapter(targets="margins").prepare(context(["x"], [[1.0, 0.5]], [[0.0, NAN]]))
    with pytest.raises(DataError, match="no preference has two objectives that apply to it"):
        PromptAdapter().prepare(context(["x", "y"], [[1.0, NAN], [NAN, 0.5]]))
    with pytest.raises(ContractError, match=r"has learnt nothing yet: load_prepared\(\) comes"):
        PromptAdapter().weigh(make_step())
    adapter = learnt(["x", "y"], [[1.0, 0.0], [0.0, 1.0]], names="ab", steps=10)
    with pytest.raises(ContractError, match="has learnt about a, b, not about c"):
        adapter.weigh(make_step())


def test_one_objective_needs_no_features():
    adapter = prepared(PromptAdapter(floor=0.1), context(["x"], [[1.0]]))
    assert adapter.prompt_weights([Prompt("x", "x")] * 3, never).tolist() == [[1.0]] * 3


def test_one_preference_is_enough_to_learn_its_target():
    adapter = learnt(["x"], [[0.3, 0.1, 0.2]], scores="raw")
    expected = torch.tensor([[0.66524, 0.09003, 0.24473]])
    torch.testing.assert_close(weights_of(adapter, "anything"), expected, atol=1e-5, rtol=0)


# --- in training: the two families of the test bed ------------------------------------------------


def test_prompts_beat_the_best_single_weights_on_what_each_family_wants():
    from testbeds import expected, family_study, train

    def wanted(*overrides: str) -> list[float]:
        trial = train(family_study("training.steps=40", *overrides))
        return [expected(trial, family)[family] for family in ("accuracy", "brevity")]

    own = wanted("weighting={prompt-adapter: {learning_rate: 0.05}}")
    assert min(own) > 0.85
    best = max(
        sum(wanted(f"weighting.preference={{accuracy: {a}, brevity: {1 - a}}}"))
        for a in (0.2, 0.5, 0.8)
    )
    assert sum(own) > best + 0.3
    shuffled = wanted("weighting={prompt-adapter: {learning_rate: 0.05, control: shuffled}}")
    assert sum(own) > sum(shuffled) + 0.2


def test_no_preferences_are_refused_before_anything_is_built():
    from testbeds import family_study

    from moalign.search.artifacts import check_data

    task = "task={arms: {world: families, pairs: false}}"
    with pytest.raises(DataError, match="task arms offers none among its train prompts"):
        check_data(family_study("weighting=prompt-adapter", task))
    check_data(family_study("weighting=prompt-adapter"))
    check_data(family_study(task))


def test_searching_an_unused_preference_is_refused():
    from testbeds import family_study

    from moalign.errors import StudyError

    space = "search.space={weighting.preference: simplex}"
    with pytest.raises(StudyError, match="the prompts alone decide; set `blend`"):
        family_study("weighting=prompt-adapter", space)
    family_study("weighting={prompt-adapter: {blend: 0.3}}", space)


# --- invariants of methods.md Y -------------------------------------------------------------------


def grown(**options):
    """Return a maker of weightings that have all learnt the same."""
    scores = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)).tolist()
    features = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    texts = [f"prompt {n}" for n in range(20)]
    given = context(texts, scores, features=features)
    settings = {"steps": 60, "held_out": 0.0, "learning_rate": 0.05} | options
    state = PromptAdapter(**settings).prepare(given)

    def build() -> PromptAdapter:
        adapter = PromptAdapter(**settings)
        adapter.load_prepared(state)
        return adapter

    return build


test_properties = claims(
    grown(),
    *(FINITE, SIMPLEX, PERMUTES, ONE_OBJECTIVE, RESUMES),
    FROZEN(grown(temperature=1e9), uniform=True),
)
test_properties_of_text = claims(
    grown(encoder="text", hidden=4, floor=0.2), FINITE, SIMPLEX, PERMUTES, ONE_OBJECTIVE, RESUMES
)
