"""Each shared property is held by a good weighting, and refused to a mutant that lacks it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import weighting_properties
from scipy.optimize import nnls
from weighting_properties import FROZEN, GRID, SITUATIONS, Property, _worlds

from moalign import DataError, ResponseScores, Weighting, Weights
from moalign.weightings.gram import finite_gram

PROPERTIES = {p.name: p for p in vars(weighting_properties).values() if isinstance(p, Property)}


class Worst(Weighting):
    """Soft weight on the objectives with the lowest running means, in units of the bounds."""

    name = "worst"

    def __init__(self, rate: float = 5.0) -> None:
        self.rate = rate
        self.seen: dict[str, float] = {}

    def weigh(self, step):
        means = zip(step.objectives, step.mean_scores_K().double().tolist(), strict=True)
        for objective, mean in means:
            if not math.isnan(mean):
                old = self.seen.get(objective.name, 0.0)
                self.seen[objective.name] = 0.5 * old + 0.5 * objective.normalise(mean)
        regret_K = [1.0 - self.seen.get(name, 0.0) for name in step.names]
        logits_K = step.preference_K.double().log() + self.rate * torch.tensor(regret_K)
        return Weights(logits_K.softmax(-1).float(), metrics=dict(self.seen))

    def state_dict(self):
        return {"seen": dict(self.seen)}

    def load_state_dict(self, state):
        self.seen = dict(state["seen"])


class MinNorm(Weighting):
    """The shortest convex combination of the gradients, whose rows the preference scales.

    Least squares with u >= 0 of ``sum_k u_k (g_k, 1) = (0, 1)``; alpha = u / sum u.
    """

    name = "min-norm"

    def weigh(self, step):
        factors_K = step.preference_K.double() * len(step.objectives)
        gram = finite_gram(step) * factors_K[:, None] * factors_K
        largest = gram.diagonal().max()
        values_K, vectors_KK = torch.linalg.eigh(gram / largest if largest > 0 else gram)
        roots_KK = vectors_KK * values_K.clamp(min=0).sqrt()
        system = torch.cat([roots_KK.T, torch.ones_like(values_K)[None]])
        target = torch.zeros(len(system), dtype=torch.float64)
        target[-1] = 1.0
        mixed_K = torch.from_numpy(nnls(system.numpy(), target.numpy())[0]) * factors_K
        return Weights((mixed_K / mixed_K.sum()).float())


class Plain(Weighting):
    """The preference."""

    name = "plain"

    def weigh(self, step):
        return Weights(step.preference_K)


class Response(Weighting):
    """Response scores: the weighted sum of what applies."""

    name = "response"

    def weigh(self, step):
        applies = ~step.scores_PGK.isnan()
        values = (step.scores_PGK.nan_to_num(0.0) * step.preference_K).sum(-1)
        return ResponseScores(values.masked_fill(~applies.any(-1), math.nan))


def changed(base: type[Weighting], change: Callable, **options) -> Callable[[], Weighting]:
    """Return what builds a weighting whose weights go through ``change(weights, step, self)``."""

    class Changed(base):  # type: ignore[misc, valid-type]
        def weigh(self, step):
            return change(super().weigh(step), step, self)

    return lambda: Changed(**options)


def with_values(function: Callable) -> Callable:
    """Return a change of the values alone."""
    return lambda given, step, _: replace(given, values=function(given.values, step))


def refuses_without_a_name(given, step, _self):
    if step.mean_scores_K().isnan().any():
        raise DataError("something is missing")
    return given


class Forgets(Worst):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        assert not state


def adds_gram(values, step):
    return values + 0 * step.gram().sum().clamp(max=1.0).float()


def sums_gram(values, step):
    return (values * (1 + step.gram().diagonal().float())).div(2)


def zero_for_missing(_values, step):
    means_K = step.scores_PGK.nan_to_num(0.0).mean((0, 1))
    return (-means_K / means_K.abs().max().clamp(min=1e-30)).softmax(-1)


MEAN = with_values(lambda _, step: step.scores_PGK.nan_to_num(0.0).mean((0, 1)).softmax(-1))
FIRST = with_values(lambda v, _: torch.eye(len(v))[0])

# property: what holds it; what does not, and a word of the sentence that says so
CASES: dict[str, list[tuple[Callable[[], Weighting], Callable[[], Weighting], str]]] = {
    "FINITE": [
        (Worst, changed(Worst, with_values(lambda v, s: v / s.gram().trace().float())), "inf"),
        (Response, changed(Plain, with_values(lambda v, s: v + 0 * s.mean_scores_K())), "missing"),
        (Plain, changed(Plain, refuses_without_a_name), "names no objective: something"),
        (
            Plain,
            changed(Plain, lambda g, _s, _: replace(g, metrics={"odd": math.nan})),
            "found the metrics",
        ),
        (
            Plain,
            changed(Plain, lambda g, s, _: replace(g, gain=s.scores_PGK.nan_to_num().amax().exp())),
            "huge scores",
        ),
        (MinNorm, changed(Worst, with_values(adds_gram)), "one gradient NaN, found"),
    ],
    "SIMPLEX": [
        (Worst, changed(Worst, with_values(lambda v, _: v * 1.001)), "ordinary, found"),
        (Worst, changed(Worst, with_values(lambda v, _: 1.5 * v - 0.5 / len(v))), "found"),
        (MinNorm, Response, "speaks of Weights; found ResponseScores"),
    ],
    "PERMUTES": [
        (Worst, changed(Worst, FIRST), "in the order"),
        (
            Response,
            changed(
                Response, lambda g, s, _: replace(g, values_PG=g.values_PG + s.scores_PGK[..., 0])
            ),
            "in the order",
        ),
    ],
    "ONE_OBJECTIVE": [
        (Worst, changed(Worst, with_values(lambda v, _: v * (1 - 2**-23))), "found the weight"),
        (Plain, changed(Plain, lambda g, _s, _: replace(g, gain=0.5)), "gain 0.5"),
        (
            Response,
            changed(Response, lambda g, _s, _: replace(g, values_PG=g.values_PG.square())),
            "found the order",
        ),
    ],
    "ONE_OBJECTIVE_UP_TO_GAIN": [
        (
            changed(Plain, lambda g, _s, _: replace(g, gain=0.5)),
            changed(Plain, with_values(lambda v, _: v * 0.5)),
            r"found the weight \[0.5\]",
        ),
    ],
    "RESUMES": [
        (Worst, Forgets, "resumed after step 1"),
        (
            Plain,
            changed(
                Plain, lambda g, _s, self: (setattr(self, "n", getattr(self, "n", 0) + 1),
                                            replace(g, metrics={"n": self.n}))[1]
            ),
            "found the metrics {'n': 1} instead of {'n': 2}",
        ),
    ],
    "SCALE_FREE": [(MinNorm, changed(MinNorm, with_values(sums_gram)), "found the values")],
    "SCORE_SCALE_FREE": [(MinNorm, Worst, "ordinary after change 0")],
    "SHIFT_FREE": [
        (MinNorm, changed(Plain, with_values(zero_for_missing)), "after change"),
    ],
    "UNIT_FREE": [(Worst, changed(Worst, MEAN), "after change")],
    "LEAVES_NAN_ALONE": [(Worst, changed(Worst, MEAN), "ordinary after change")],
    "DUPLICATE_SHARES": [
        (Worst, changed(Worst, with_values(lambda v, _: v.cumsum(-1))), "and its copy"),
    ],
    "COPIES_KEEP_DIRECTION": [
        (MinNorm, Plain, "and a copy of b"),
        (MinNorm, Response, "speaks of Weights"),
        (MinNorm, changed(Plain, with_values(lambda v, _: v[None, None])), r"weights \[K\]"),
    ],
    "NO_COMMON_DESCENT_LOST": [(MinNorm, Plain, "changes the objectives")],
    "NO_CONFLICT_NO_CHANGE": [(Plain, MinNorm, "gradients that agree")],
    "PREFERENCE_SCALES_ROWS": [(Plain, changed(Plain, MEAN), "instead"), (MinNorm, changed(
        MinNorm, with_values(lambda v, s: v * s.preference_K)), "instead of")],
    "WORST_FIRST": [(Worst, Plain, "and the means"), (Worst, lambda: Worst(-5.0), "the means")],
}  # fmt: skip


def pairs():
    for name, cases in CASES.items():
        for index, (good, mutant, word) in enumerate(cases):
            yield pytest.param(PROPERTIES[name], good, mutant, word, id=f"{name}-{index}")


@pytest.mark.parametrize(("claim", "good", "mutant", "word"), list(pairs()))
def test_a_good_weighting_has_it_and_a_mutant_lacks_it(claim, good, mutant, word):
    claim.holds_for(good)
    with pytest.raises(AssertionError, match=word):
        claim.holds_for(mutant)


def test_the_frozen_limit_is_that_of_what_it_is_given():
    FROZEN(lambda: Worst(0.0)).holds_for(Worst)
    with pytest.raises(AssertionError, match="at its limit"):
        FROZEN(Worst).holds_for(Worst)
    equal = changed(Plain, with_values(lambda v, _: torch.ones_like(v) / len(v)))
    FROZEN(equal, uniform=True).holds_for(Worst)
    with pytest.raises(AssertionError, match=r"at its limit, found .* instead of \[0.333333, 0.33"):
        FROZEN(Plain, uniform=True).holds_for(Worst)
    with pytest.raises(AssertionError, match=r"found the gain \[2\] instead of \[1\]"):
        FROZEN(changed(Plain, lambda g, _s, _: replace(g, gain=2.0))).holds_for(Worst)


def test_every_property_has_a_mutant():
    assert CASES.keys() == PROPERTIES.keys()
    assert all(p.name == name and p.says for name, p in PROPERTIES.items())


def test_a_property_can_leave_out_situations_for_a_reason():
    permutes, mutant = PROPERTIES["PERMUTES"], changed(Worst, FIRST)
    rest = [name for name in SITUATIONS if name != "ordinary"]
    with pytest.raises(AssertionError, match="with ordinary"):
        permutes.without(*rest, because="this is a test").holds_for(mutant)
    permutes.without(*SITUATIONS, because="nothing is left").holds_for(mutant)
    with pytest.raises(AssertionError, match="is not claimed in"):
        permutes.without("tiny score", because="this is misspelt")


def test_every_situation_differs_from_the_ordinary_one():
    def content(situation):
        w = _worlds(situation)[0]
        tensors = (w.scores_PGK, w.gradients_KN, w.probe_N, w.values_UK, w.features_PD)
        return [tensor.tolist() for tensor in tensors]

    seen = [str(content(name)) for name in GRID]
    assert len(set(seen)) == len(GRID)
