"""What can be wrong with objectives and weightings: a sentence that names the objective, no NaN.

Through the real loader and the real loop, on a small bandit.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import pytest
import testbeds
import torch
from testbeds import three_study

from moalign import ContractError, DataError, NonFiniteError, ResponseScores, StudyError, Weights
from moalign.components import Weighting
from moalign.study.loading import load
from moalign.training.notes import FLAT

WEIGHTINGS = {
    entry.cls.name: entry.cls
    for entry in testbeds.catalogue().entries()
    if issubclass(entry.cls, Weighting) and entry.cls.name != "by-family"
}
SHORTER = {"prompt-adapter": {"steps": 20}, "context-router": {"steps": 20}}
SMALL = ("training.group=4", "training.prompts=2", "evaluation={prompts: 4, samples: 2}")


def named(name, **options):
    """The override that asks for a weighting with the options of its first example."""
    example = {**WEIGHTINGS[name].examples[0], **SHORTER.get(name, {}), **options}
    return f"weighting={json.dumps({name: example})}"


REWARDS = "training.combine=rewards"

# --- before training ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["objectives.b.at_least=7"], r"objectives\.b\.at_least.* threshold of 7 cannot decide"),
        (["objectives.b.at_least=-1"], r"objectives\.b\.at_least.* -1 cannot decide"),
        (["objectives.b.reference=1.5"], r"objectives\.b\.reference.* are 0 to 1, found 1.5"),
        (["weighting={lagrangian: {primary: b, equal: {a: 4}}}"], "`equal` of 'a' must lie betw"),
        (
            ["weighting={lagrangian: {primary: a, at_least: {b: 7, c: -3}}}"],
            "`at_least` of 'b' must lie within its bounds, 0 and 1, .*; found 7. Lower it, or wid",
        ),
        (
            ["weighting={nelder-mead-lagrangian: {score: b, constrained: "
             "{lagrangian: {primary: a, at_least: {b: 7}}}}}"],
            "`at_least` of 'b' must lie within its bounds, 0 and 1, .*; found 7. Lower it, or wid",
        ),
        (
            ["weighting={hypervolume: {reference: {a: 5, b: 0, c: 0}}}"],
            "hypervolume: `reference` of 'a' must lie below .* bounds are 0 and 1, found 5",
        ),
        (
            ["weighting={hypervolume-gradient: {reference: {a: 0, b: -1, c: 1}}}"],
            "hypervolume-gradient: `reference` of 'c' must lie below .* are 0 and 1, found 1",
        ),
        (["weighting={lagrangian: {primary: a, equal: {b: 0.5}}}"], "'b', which has `at_least: 0"),
        (["weighting={lagrangian: {primary: b}}"], "objective 'a' has no target"),
        (["weighting={lagrangian: {primary: d}}"], "names 'd', which is not trained on"),
        (["weighting={fixed: {preference: {a: 1, d: 1}}}"], "'d'"),
        (["weighting={chebyshev: {ideal: {d: 1}}}"], "'d'"),
        (["weighting={schedule: {end: {a: 1, d: 1}}}"], "'d'"),
        (["weighting={hypervolume: {apply_to: reward}}", "training.batch_norm=token"], "cancel"),
        (["weighting=pbi", "training.batch_norm=sequence"], "batch_norm would cancel its scale"),
        (
            ["weighting={lagrangian: {primary: b, equal: {a: 0.5}, multiplier: projected}}",
             "training.batch_norm=sequence"],
            "batch_norm would cancel its scale",
        ),
        (["weighting=upgrad", REWARDS], "combine=rewards: .*upgrad weighs the gr.*: advantages$"),
        (["weighting=imtl-g", REWARDS], "imtl-g weighs the gradients of advantages"),
        (["weighting=pareto-direction", REWARDS], "raw scores, whose gradients have other lengths"),
        (
            ["weighting=rvpo", REWARDS, "training.scale=calibrated"],
            "rvpo makes one score of each completion .* combine: advantages and scale: none",
        ),
        (["weighting=response-pbi", REWARDS], "combine: rewards would do nothing"),
        (["weighting=product", REWARDS], "combine: rewards would do nothing"),
    ],
)  # fmt: skip
def test_a_study_that_cannot_work_is_refused(overrides, sentence):
    with pytest.raises(StudyError, match=sentence):
        three_study(*overrides)


@pytest.mark.parametrize(
    ("weighting", "sentence"),
    [
        ("{primary: a, equal: {c: 0.4}}", "'c' at 0.4, but 'b' has the same .* `at_least: 0.6`"),
        ("{primary: a, equal: {c: 0.4}, at_least: {b: 0.5}}", "same reward and `at_least: 0.5`"),
        ("{primary: b, equal: {a: 0.3, c: 0.4}}", "'b' has the same reward and is to be maximised"),
        ("{primary: a, equal: {c: 0.6}}", None),
        ("{primary: a, equal: {c: 0.4}, at_least: {b: 0.4}}", None),
    ],
)
def test_targets_that_contradict_each_other_are_refused(weighting, sentence):
    """Two objectives of a study have one reward, so no policy meets both targets."""
    written = testbeds.text("three", a="", b=", at_least: 0.6", c="").replace("of: c", "of: b")
    written = written.replace("weighting: fixed", f"weighting: {{lagrangian: {weighting}}}")
    if sentence is None:
        load(written, "arms.yaml", testbeds.catalogue())
        return
    with pytest.raises(StudyError, match=f"arms.yaml line 10, key weighting: .*{sentence}"):
        load(written, "arms.yaml", testbeds.catalogue())


@pytest.mark.parametrize(
    "weighting",
    [
        "{lagrangian: {primary: a, at_least: {c: -3}}}",
        "{nelder-mead-lagrangian: {score: b, share: 0.1, constrained: "
        "{lagrangian: {primary: a, at_least: {c: -3}}}}}",
    ],
)
def test_a_threshold_that_is_always_met_is_told_at_the_first_step(weighting):
    trial = testbeds.new_trial(three_study(*SMALL, f"weighting={weighting}"))
    trial.train_step()
    assert any("`at_least` of c is -3, below its lower bound, 0" in note for note in trial.notes)


@pytest.mark.parametrize("weighting", ["influence", "meta-gradient", "fixed", "chebyshev"])
def test_summed_rewards_are_left_to_weightings_that_make_sense_of_them(weighting):
    three_study(f"weighting={weighting}", REWARDS)


@pytest.mark.parametrize("weighting", ["upgrad", "rvpo"])
def test_batch_norm_is_left_to_weightings_of_gradients_and_of_scores(weighting):
    three_study(f"weighting={weighting}", "training.batch_norm=sequence")


@pytest.mark.parametrize("name", ["prompt-adapter", "context-router"])
def test_an_adapter_without_preferences_is_refused(name):
    study = testbeds.family_study(
        f"weighting={name}", "task={arms: {world: families, pairs: false}}"
    )
    with pytest.raises(DataError, match="preference"):
        testbeds.new_trial(study)


# --- one objective ------------------------------------------------------------------------------

ALONE = (
    "training.optimizer=grpo",
    "objectives.b.monitor=true",
    "objectives.b.at_least=null",
    "objectives.c.monitor=true",
)
# A score whose zero lies elsewhere rounds elsewhere.
UP_TO_ROUNDING = {"product", "response-chebyshev", "rvpo", "response-smooth-chebyshev",
                  "response-pbi"}  # fmt: skip
# Its gain is all that it does; without, nothing is left.
WITHOUT_GAIN = {"hypervolume": {"floor": 1.0, "span": 0.0}}


def row_after(study, steps=3):
    return testbeds.train(study, steps).policy.model.head.weight.detach().clone()


def first_advantages(study):
    trial = testbeds.new_trial(study)
    seen = []
    original = trial._combined
    trial._combined = lambda *given: seen.append(original(*given)) or seen[-1]
    trial.train_step()
    return seen[0]


@pytest.mark.parametrize("name", sorted(WEIGHTINGS))
def test_one_objective_trains_as_without_weighting(name):
    study = three_study(*SMALL, *ALONE, named(name, **WITHOUT_GAIN.get(name, {})))
    plain = three_study(*SMALL, *ALONE)
    if name in UP_TO_ROUNDING:
        found, expected = first_advantages(study), first_advantages(plain)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    else:
        found, expected = row_after(study), row_after(plain)
        assert torch.equal(found, expected)
    assert expected.abs().max() > 0.1


@pytest.mark.parametrize(
    "name", [n for n, cls in sorted(WEIGHTINGS.items()) if "gram" in cls.needs]
)
def test_one_objective_costs_no_gradients_of_its_own(name):
    """There is nothing to compare, so the step is the plain one, bit for bit."""
    metrics = testbeds.new_trial(three_study(*SMALL, *ALONE, named(name))).train_step()
    assert not [metric for metric in metrics if metric.startswith("gram/")]


# --- an objective that says nothing ---------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(WEIGHTINGS))
def test_a_constant_objective_is_named_and_makes_no_nan(name):
    constant = "objectives.a.reward={arm-value: {of: flat}}"
    trial = testbeds.new_trial(three_study(*SMALL, constant, named(name)))
    said = []
    for _ in range(FLAT):
        metrics = trial.train_step()
        assert all(math.isfinite(value) for value in metrics.values()), metrics
        said += trial.notes
    assert any("objective a scored all completions of every prompt alike" in s for s in said)
    assert torch.isfinite(trial.policy.model.head.weight).all()


# --- weights that break their promise -----------------------------------------------------------


@dataclass
class Returns(Weighting):
    """Returns what it is given."""

    what: Any
    name = "returns"
    declares = frozenset()

    def weigh(self, step):
        return self.what


@pytest.mark.parametrize(
    ("returned", "error", "sentence"),
    [
        (Weights(torch.tensor([1.5, -0.5, 0.0])), ContractError, "'signed', for b$"),
        (Weights(torch.tensor([0.5, 0.5, 0.5])), ContractError, "1.5, not 1, .* for a, b, c"),
        (Weights(torch.tensor([0.5, 0.5, math.nan])), NonFiniteError, "not finite: .*, for c$"),
        (
            Weights(torch.tensor([[[0.2, 0.3, 0.5]], [[0.0, 1.0, 0.5]]])),
            ContractError,
            "sum to 1.5, not 1",
        ),
        (Weights(torch.tensor([0.5, 0.5])), ContractError, "one per objective: a, b, c"),
        (Weights(torch.tensor([0.2, 0.3, 0.5]), gain=math.inf), ContractError, "the gain inf"),
        (ResponseScores(torch.full((2, 4), math.inf)), NonFiniteError, "infinite"),
        (
            Weights(torch.tensor([0.2, 0.3, 0.5]), notes="one"),
            ContractError,
            "the notes .one.",
        ),
        (ResponseScores(torch.zeros(2, 4), notes=(5,)), ContractError, "must be a tuple of texts"),
    ],
)
def test_weights_that_are_not_as_declared_are_refused_by_name(returned, error, sentence):
    trial = testbeds.new_trial(three_study(*SMALL))
    trial.weighting = Returns(returned)
    before = trial.policy.model.head.weight.detach().clone()
    with pytest.raises(error, match=sentence):
        trial.train_step()
    assert torch.equal(trial.policy.model.head.weight, before)
