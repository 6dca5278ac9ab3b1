"""What a weighting may claim, as named properties that a hostile grid of steps tries to refute.

A test file says what its weighting claims, and gets a test per property::

    from weighting_properties import FINITE, FROZEN, ONE_OBJECTIVE, claims

    test_properties = claims(
        lambda: Influence(rate=0.5), FINITE, ONE_OBJECTIVE, FROZEN(lambda: Influence(rate=0.0))
    )

``build()`` makes a new weighting at every call. Its steps have the objectives ``a``, ``b``
(``at_least`` 0.4) and ``c`` (``at_least`` 0.6) with bounds (0, 1), or the first of these, and the
preference (.5, .3, .2). A property that does not hold somewhere says so where it is claimed::

    PERMUTES.without("opposite gradients", because="no direction helps: any weights are right")

The contract suite (`moalign.testing.weighting`) proves on ordinary steps what the host relies on
for every plugin; this module is for the hostile grid, and for what some methods only promise.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import pytest
import torch
from torch import Tensor

from moalign.components import Weighting
from moalign.errors import MoalignError, OptionError
from moalign.maths.combine import combine
from moalign.maths.normalisation import group_zscore
from moalign.testing.steps import make_batch
from moalign.testing.values import hand_over, same, seeded, shown
from moalign.types import Cost, Evaluation, Objective, ResponseScores, Split, Step, Weights

Build = Callable[[], Weighting]
Returned = Weights | ResponseScores

PROMPTS, GROUP, UNITS, STEPS = 3, 4, 6, 3
OBJECTIVES = (
    Objective("a", (0.0, 1.0)),
    Objective("b", (0.0, 1.0), at_least=0.4),
    Objective("c", (0.0, 1.0), at_least=0.6),
)
PREFERENCE = (0.5, 0.3, 0.2)
NAN = math.nan


# --- what a step is made of ---------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class World:
    """Everything a step is made of; the last axis, or the first of the gradients, is objectives.

    Worlds, their changes and their steps are made once and shared by all tests.
    """

    objectives: tuple[Objective, ...]
    preference_K: Tensor
    scores_PGK: Tensor
    gradients_KN: Tensor
    probe_N: Tensor
    values_UK: Tensor
    losses_K: Tensor
    features_PD: Tensor
    index: int

    @cache  # noqa: B019
    def pick(self, *columns: int) -> World:
        """Return the world with these objectives, in this order; the preference is not rescaled."""
        k = list(columns)
        return replace(
            self,
            objectives=tuple(self.objectives[i] for i in k),
            preference_K=self.preference_K[k],
            scores_PGK=self.scores_PGK[..., k],
            gradients_KN=self.gradients_KN[k],
            values_UK=self.values_UK[:, k],
            losses_K=self.losses_K[k],
        )

    @cache  # noqa: B019
    def step(self) -> Step:
        """Return the step; advantages are z-scores within groups."""
        rows_KN = self.gradients_KN

        def gram(probes: tuple[str, ...]) -> Tensor:
            stacked = torch.cat([rows_KN, *(self.probe_N[None] for _ in probes)])
            return stacked @ stacked.T

        def evaluate(split: Split) -> Evaluation:
            assert split == "steer", split
            units = tuple(map(str, range(len(self.values_UK))))
            rows = [[7.0, *row] for row in self.values_UK.tolist()]
            return Evaluation(("monitored", *self.names), units, rows, Cost())

        prompts, group, _ = self.scores_PGK.shape
        return Step(
            objectives=self.objectives,
            preference_K=self.preference_K / self.preference_K.sum(),
            index=self.index,
            total=10 * STEPS,
            learning_rate=1e-3,
            scores_PGK=self.scores_PGK.clone(),
            advantages_BTK=group_zscore(self.scores_PGK).flatten(0, 1)[:, None],
            batch=make_batch(prompts, group),
            losses_K=self.losses_K.clone(),
            gram=gram,
            gradient_norms=lambda: rows_KN.double().norm(dim=1),
            prompt_features=self.features_PD.clone,
            evaluate=evaluate,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the objectives."""
        return tuple(o.name for o in self.objectives)


def world(index: int, *, prompts: int = PROMPTS, group: int = GROUP) -> World:
    """Return an ordinary world, another one for each index."""
    generator = torch.Generator().manual_seed(index)
    count = len(OBJECTIVES)
    return World(
        objectives=OBJECTIVES,
        preference_K=torch.tensor(PREFERENCE),
        scores_PGK=torch.rand(prompts, group, count, generator=generator),
        gradients_KN=torch.randn(count, 9, generator=generator, dtype=torch.float64),
        probe_N=torch.randn(9, generator=generator, dtype=torch.float64),
        values_UK=torch.rand(UNITS, count, generator=generator),
        losses_K=torch.rand(count, generator=generator),
        features_PD=torch.randn(prompts, 5, generator=generator),
        index=index,
    )


# --- the hostile grid ---------------------------------------------------------------------------

Change = Callable[[World], World]


def _scores(change: Callable[[Tensor], Tensor]) -> Change:
    """Change the scores, and what is measured and lost in the same way."""
    return lambda w: replace(
        w,
        scores_PGK=change(w.scores_PGK),
        values_UK=change(w.values_UK[:, None])[:, 0],
        losses_K=change(w.losses_K[None, None])[0, 0],
    )


def _gradients(change: Callable[[Tensor], Tensor]) -> Change:
    return lambda w: replace(w, gradients_KN=change(w.gradients_KN))


def _no_number(w: World) -> World:
    """Give one objective a gradient that is NaN, as a batch that overflows does."""
    gradients = w.gradients_KN.clone()
    gradients[1] = NAN
    return replace(w, gradients_KN=gradients)


def _rows(*rows: tuple[float, ...]) -> Change:
    """Replace the gradients by these combinations of three ordinary ones."""
    return _gradients(lambda g: torch.tensor(rows, dtype=g.dtype) @ g)


def _times(*factors: float) -> Callable[[Tensor], Tensor]:
    return lambda values: values * torch.tensor(factors, dtype=values.dtype)


def _missing(*columns: int) -> Change:
    """Make objectives apply to nothing: no score, no gradient, no loss, no measurement."""

    def change(w: World) -> World:
        scores, gradients = w.scores_PGK.clone(), w.gradients_KN.clone()
        losses, values = w.losses_K.clone(), w.values_UK.clone()
        scores[..., list(columns)] = losses[list(columns)] = values[:, list(columns)] = NAN
        gradients[list(columns)] = 0.0
        return replace(
            w, scores_PGK=scores, gradients_KN=gradients, losses_K=losses, values_UK=values
        )

    return change


def _holes(w: World) -> World:
    """Take out single scores and measurements, and one whole row of each."""
    scores, values = w.scores_PGK.clone(), w.values_UK.clone()
    scores[0, 0, 1] = scores[1, 1, 0] = scores[2, 3, 2] = NAN
    scores[1, 2] = values[1] = NAN
    values[0, 2] = values[3, 0] = NAN
    return replace(w, scores_PGK=scores, values_UK=values)


def _same(w: World) -> World:
    return w


GRID: dict[str, Change] = {
    "ordinary": _same,
    # scores, measurements and losses
    "tiny scores": _scores(lambda s: s * 1e-10),
    "huge scores": _scores(lambda s: s * 1e10),
    "negative scores": _scores(lambda s: s * -1e3),
    "scores of unlike scales": _scores(_times(1e-10, 1.0, 1e10)),
    "equal scores": _scores(lambda s: torch.full_like(s, 0.3)),
    "scores of zero": _scores(torch.zeros_like),
    "perfect scores": _scores(torch.ones_like),
    "one constant score": _scores(
        lambda s: s * torch.tensor([0.0, 1.0, 1.0]) + torch.tensor([0.3, 0.0, 0.0])
    ),
    "duplicate scores": _scores(lambda s: s[..., [0, 1, 1]]),
    "opposite scores": _scores(lambda s: torch.stack([s[..., 0], 1 - s[..., 0], s[..., 2]], -1)),
    # what is missing
    "one objective missing": _missing(1),
    "one objective left": _missing(0, 2),
    "nothing applies": _missing(0, 1, 2),
    "holes": _holes,
    # gradients
    "tiny gradients": _gradients(lambda g: g * 1e-10),
    "small gradients": _gradients(lambda g: g * 1e-5),
    "large gradients": _gradients(lambda g: g * 1e5),
    "huge gradients": _gradients(lambda g: g * 1e10),
    "gradients of unlike scales": _gradients(
        lambda g: g * torch.tensor([[1e-5], [1.0], [1e5]], dtype=g.dtype)
    ),
    "gradients in a plane": _rows((1, 0, 0), (0, 1, 0), (1, -0.5, 0)),
    "gradients on a line": _rows((1, 0, 0), (2, 0, 0), (0.5, 0, 0)),
    "duplicate gradients": _rows((1, 0, 0), (0, 1, 0), (0, 1, 0)),
    "opposite gradients": _rows((1, 0, 0), (-1, 0, 0), (0, 0, 1)),
    "one gradient zero": _rows((1, 0, 0), (0, 0, 0), (0, 0, 1)),
    "one gradient left": _rows((0, 0, 0), (0, 1, 0), (0, 0, 0)),
    "gradients of zero": _gradients(torch.zeros_like),
    "no probe gradient": lambda w: replace(w, probe_N=torch.zeros_like(w.probe_N)),
    # few of everything, and features
    "one prompt": lambda w: replace(world(w.index, prompts=1), gradients_KN=w.gradients_KN),
    "groups of two": lambda w: replace(world(w.index, group=2), gradients_KN=w.gradients_KN),
    "one unit": lambda w: replace(w, values_UK=w.values_UK[:1]),
    "constant units": lambda w: replace(w, values_UK=w.values_UK[:1].expand(UNITS, -1)),
    "features of zero": lambda w: replace(w, features_PD=torch.zeros_like(w.features_PD)),
    "huge features": lambda w: replace(w, features_PD=w.features_PD * 1e10),
    # what no method can use, and must name
    "one gradient NaN": _no_number,
}
"""Situations by name; each changes an ordinary world. Every step of a run is in the situation."""

# Steps in turn: what was learnt in one situation must survive the next.
_CHANGES = ("ordinary", "holes", "one objective missing", "opposite gradients", "gradients of zero",
            "tiny scores", "equal scores", "one prompt", "nothing applies", "groups of two",
            "large gradients", "ordinary")  # fmt: skip
SITUATIONS: tuple[str, ...] = (*GRID, "one after the other")


@cache
def _worlds(situation: str) -> tuple[World, ...]:
    if situation in GRID:
        return tuple(GRID[situation](world(index)) for index in range(STEPS))
    return tuple(GRID[name](world(index)) for index, name in enumerate(_CHANGES))


# --- running a weighting ------------------------------------------------------------------------


class Refused(Exception):
    """The weighting said in a sentence that it cannot go on."""


def ask(weighting: Weighting, w: World) -> Returned:
    """Return what a weighting gives for one step; raise Refused if it says why it cannot."""
    with seeded(w.index):
        try:
            return weighting.weigh(w.step())
        except MoalignError as error:
            raise Refused(str(error)) from error


def _run(weighting: Weighting, worlds: Sequence[World]) -> Iterator[Returned]:
    """Yield what a weighting gives for a run, until it refuses."""
    for w in worlds:
        try:
            yield ask(weighting, w)
        except Refused:
            return


def _pairs(
    left: Weighting, right: Weighting, worlds: Sequence[tuple[World, World]]
) -> Iterator[tuple[Returned, Returned]]:
    """Yield what two weightings give for two runs, until one refuses."""
    one, other = zip(*worlds, strict=True)
    return zip(_run(left, one), _run(right, other), strict=False)


def require(holds: object, sentence: str, *values: object) -> None:
    """Raise AssertionError with a sentence, its braces filled by values, unless something holds."""
    if not holds:
        raise AssertionError(sentence.format(*map(_text, values)))


def _text(value: object) -> str:
    return shown(value) if isinstance(value, Tensor) else str(value)


def _weights(returned: Returned, property_name: str) -> Weights:
    found = type(returned).__name__
    require(found == "Weights", "{} speaks of Weights; found {}", property_name, found)
    assert isinstance(returned, Weights)
    return returned


def _plain(values_PG: Tensor) -> Tensor:
    """Return response scores as a normaliser without epsilon leaves them: 0 where all are equal."""
    values = values_PG.double()
    centred = values - values.nanmean(1, keepdim=True)
    largest = centred.abs().nan_to_num(0.0).amax(1, keepdim=True)
    flat = largest <= 1e-6 * values.abs().nan_to_num(0.0).amax(1, keepdim=True)
    return (centred / largest).masked_fill(flat, 0.0)


def _numbers(returned: Returned) -> dict[str, Tensor]:
    if isinstance(returned, ResponseScores):
        return {"values": _plain(returned.values_PG)}
    return {"values": returned.values, "gain": torch.as_tensor(returned.gain)}


def _agree(left: Returned, right: Returned, tolerance: float, *where: object) -> None:
    one, other = _numbers(left), _numbers(right)
    words = " ".join(map(str, where))
    for name, expected in one.items():
        found = other[name]
        sentence = "with {}, found the {} {} instead of {}"
        require(same(expected, found, tolerance), sentence, words, name, found, expected)


# --- properties ---------------------------------------------------------------------------------

Check = Callable[[Build, Sequence[str]], None]


@dataclass(frozen=True)
class Property:
    """Something a weighting claims.

    Attributes:
        name: what it is called where it is claimed.
        says: one line.
        check: raises AssertionError unless it holds in the given situations.
        situations: where it is claimed.
        because: why it does not hold in the situations that are left out.
    """

    name: str
    says: str
    check: Check
    situations: tuple[str, ...] = SITUATIONS
    because: str = field(default="", compare=False)

    def without(self, *situations: str, because: str) -> Property:
        """Return the property without these situations, for a reason that is a sentence."""
        unknown = [name for name in situations if name not in self.situations]
        assert not unknown, f"{self.name} is not claimed in {unknown}; it is in {self.situations}"
        left = tuple(name for name in self.situations if name not in situations)
        return replace(self, situations=left, because=because)

    def holds_for(self, build: Build) -> None:
        """Raise AssertionError with a sentence unless what ``build`` makes has the property."""
        self.check(build, self.situations)


def claims(build: Build, *properties: Property) -> Callable[..., None]:
    """Return a pytest test, parametrised by property; assign it to a name that begins with test.

    Args:
        build: makes the weighting, equal at every call.
        properties: what it claims.
    """

    @pytest.mark.parametrize("claim", [pytest.param(p, id=p.name) for p in properties])
    def test_claim(claim: Property) -> None:
        claim.holds_for(build)

    return test_claim


def _finite(build: Build, situations: Sequence[str]) -> None:
    for situation in situations:
        weighting = build()
        for w in _worlds(situation):
            try:
                returned = ask(weighting, w)
            except Refused as refused:
                require(situation != "ordinary", "an ordinary step is refused: {}", refused)
                named = any(name in re.findall(r"\w+", str(refused)) for name in w.names)
                require(named, "with {}, a refusal names no objective: {}", situation, refused)
                break
            if isinstance(returned, ResponseScores):
                found = returned.values_PG[~w.scores_PGK.isnan().all(-1)]
            else:
                gain = torch.as_tensor(returned.gain, dtype=torch.float64)
                found = torch.cat([returned.values.double().flatten(), gain.flatten()])
            require(found.isfinite().all(), "with {}, found {}", situation, found)
            odd = {name: x for name, x in returned.metrics.items() if not math.isfinite(x)}
            require(not odd, "with {}, found the metrics {}", situation, odd)


def _simplex(build: Build, situations: Sequence[str]) -> None:
    for situation in situations:
        for returned in _run(build(), _worlds(situation)):
            values = _weights(returned, "SIMPLEX").values.double()
            sums = values.sum(-1)
            on = values.min() >= 0 and same(sums, torch.ones_like(sums), 1e-5)
            require(on, "with {}, found {}", situation, values)


ORDERS = ((1, 2, 0), (2, 1, 0))


def _permutes(build: Build, situations: Sequence[str]) -> None:
    for situation, order in zip(situations, itertools.cycle(ORDERS), strict=False):
        worlds = [(w, w.pick(*order)) for w in _worlds(situation)]
        for plain, moved in _pairs(build(), build(), worlds):
            expected = plain
            if isinstance(plain, Weights):
                expected = replace(plain, values=plain.values[..., list(order)])
            _agree(expected, moved, 1e-4, situation, "in the order", order)


def _one_objective(build: Build, situations: Sequence[str], *, up_to_gain: bool = False) -> None:
    alone = [k for k in range(len(OBJECTIVES)) if _suits(build(), OBJECTIVES[k : k + 1])]
    require(alone, "check() refuses every single objective, so there is nothing to claim")
    for situation, k in zip(situations, itertools.cycle(alone), strict=False):
        worlds = [w.pick(k) for w in _worlds(situation)]
        for returned, w in zip(_run(build(), worlds), worlds, strict=False):
            if isinstance(returned, ResponseScores):
                plain, expected = _plain(returned.values_PG), _plain(w.scores_PGK[..., 0])
                sentence = "with {}, found the order {} instead of {}"
                require(same(plain, expected, 1e-3), sentence, situation, plain, expected)
                continue
            step, values = w.step(), returned.values
            gain = 1.0 if up_to_gain else returned.gain
            mixed = combine(step.advantages_BTK, values, batch=step.batch, gain=gain)
            same_bits = torch.equal(mixed, step.advantages_BTK[..., 0]) and (values == 1).all()
            require(same_bits, "with {}, found the weight {}, gain {}", situation, values, gain)


def _suits(weighting: Weighting, objectives: Sequence[Objective]) -> bool:
    try:
        weighting.check(objectives)
    except OptionError:
        return False
    return True


def _resumes(build: Build, situations: Sequence[str]) -> None:
    for situation in situations:
        worlds = _worlds(situation)
        for stop in (0, 1, len(worlds) // 2):
            old, fresh = build(), build()
            list(_run(old, worlds[:stop]))
            hand_over(old, fresh)
            for left, right in _pairs(old, fresh, [(w, w) for w in worlds[stop:]]):
                _agree(left, right, 0.0, situation, "resumed after step", stop)
                one, other = dict(left.metrics), dict(right.metrics)
                sentence = "with {}, resumed after step {}, found the metrics {} instead of {}"
                require(same(one, other), sentence, situation, stop, other, one)


def _unchanged(
    change: Callable[[World, int], World], variants: int, tolerance: float = 1e-4
) -> Check:
    """Return a check that a change of every world of a run leaves the weights as they are."""
    change = cache(change)

    def check(build: Build, situations: Sequence[str]) -> None:
        for situation, variant in zip(situations, itertools.cycle(range(variants)), strict=False):
            worlds = [(w, change(w, variant)) for w in _worlds(situation)]
            for plain, other in _pairs(build(), build(), worlds):
                found = other
                if isinstance(plain, ResponseScores) and isinstance(other, ResponseScores):
                    found = ResponseScores(other.values_PG[: len(plain.values_PG)])
                _agree(plain, found, tolerance, situation, "after change", variant)

    return check


def _scale_gradients(w: World, variant: int) -> World:
    factor = (1e-3, 1e3)[variant]
    return replace(w, gradients_KN=w.gradients_KN * factor, probe_N=w.probe_N * factor)


def _move_scores(w: World, times: float, plus: float) -> World:
    return replace(
        w,
        scores_PGK=w.scores_PGK * times + plus,
        values_UK=w.values_UK * times + plus,
        losses_K=w.losses_K * times + plus,
    )


UNITS_OF_MEASUREMENT = ((100.0, 0.0), (0.5, -2.0), (1.0, 8.0))


def _change_units(w: World, variant: int) -> World:
    """Measure each objective in another unit: scores, bounds, thresholds and references."""
    by_name = {
        o.name: UNITS_OF_MEASUREMENT[(k + variant) % len(UNITS_OF_MEASUREMENT)]
        for k, o in enumerate(OBJECTIVES)
    }
    units = [by_name[name] for name in w.names]
    times, plus = (torch.tensor(column) for column in zip(*units, strict=True))

    def moved(o: Objective) -> Objective:
        a, b = by_name[o.name]
        assert o.bounds is not None
        return replace(
            o,
            bounds=(o.bounds[0] * a + b, o.bounds[1] * a + b),
            at_least=None if o.at_least is None else o.at_least * a + b,
            reference=None if o.reference is None else o.reference * a + b,
        )

    return replace(
        w,
        objectives=tuple(map(moved, w.objectives)),
        scores_PGK=w.scores_PGK * times + plus,
        values_UK=w.values_UK * times + plus,
    )


def _add_nothing(w: World, _variant: int) -> World:
    """Add a prompt and a unit to which no objective applies."""
    nothing_1GK = torch.full_like(w.scores_PGK[:1], NAN)
    return replace(
        w,
        scores_PGK=torch.cat([w.scores_PGK, nothing_1GK]),
        values_UK=torch.cat([w.values_UK, torch.full_like(w.values_UK[:1], NAN)]),
        features_PD=torch.cat([w.features_PD, torch.zeros_like(w.features_PD[:1])]),
    )


@cache
def _with_copy(w: World) -> World:
    """Give objective b a copy, b2, with the same preference."""
    copied = w.pick(0, 1, 2, 1)
    objectives = (*copied.objectives[:-1], replace(copied.objectives[1], name="b2"))
    return replace(copied, objectives=objectives)


def _duplicate_shares(build: Build, situations: Sequence[str]) -> None:
    for situation in situations:
        for returned in _run(build(), [_with_copy(w) for w in _worlds(situation)]):
            values = _weights(returned, "DUPLICATE_SHARES").values
            b, b2 = values[..., 1], values[..., 3]
            require(same(b, b2, 1e-4), "with {}, b has {} and its copy {}", situation, b, b2)


def _direction(returned: Returned, w: World, name: str) -> Tensor:
    """Return sum_k alpha_k g_k of weights [K], without the gain."""
    values = _weights(returned, name).values.double()
    require(values.ndim == 1, "{} speaks of weights [K]; found {}", name, tuple(values.shape))
    return values @ w.gradients_KN


@cache
def _uniform(w: World) -> World:
    return replace(w, preference_K=torch.ones_like(w.preference_K))


def _copies_keep_direction(build: Build, situations: Sequence[str]) -> None:
    name = "COPIES_KEEP_DIRECTION"
    for situation in situations:
        pairs = [(_uniform(w), _with_copy(_uniform(w))) for w in _worlds(situation)]
        found = _pairs(build(), build(), pairs)
        for (one, other), (left, right) in zip(pairs, found, strict=False):
            longest = float(one.gradients_KN.norm(dim=1).max()) or 1.0
            d = _direction(left, one, name) / longest
            e = _direction(right, other, name) / longest
            sentence = "with {} and a copy of b, found the direction {} instead of {}"
            require(same(d, e, 1e-4), sentence, situation, e, d)


def _no_common_descent_lost(build: Build, situations: Sequence[str]) -> None:
    for situation in situations:
        worlds = _worlds(situation)
        for returned, w in zip(_run(build(), worlds), worlds, strict=False):
            d = _direction(returned, w, "NO_COMMON_DESCENT_LOST")
            norms_K, gains_K = w.gradients_KN.norm(dim=1), w.gradients_KN @ d
            least_K = -1e-6 * norms_K * torch.maximum(norms_K.max(), d.norm())
            sentence = "with {}, the step changes the objectives by {}"
            require((gains_K >= least_K).all(), sentence, situation, gains_K)


@cache
def _agreeing(w: World) -> World:
    return replace(w, gradients_KN=w.gradients_KN.abs())


def _no_conflict(build: Build, situations: Sequence[str]) -> None:
    for situation in situations:
        worlds = [_agreeing(w) for w in _worlds(situation)]
        for returned, w in zip(_run(build(), worlds), worlds, strict=False):
            found = _weights(returned, "NO_CONFLICT_NO_CHANGE").values
            found = found / found.sum(-1, keepdim=True)
            expected = (w.preference_K / w.preference_K.sum()).expand_as(found)
            sentence = "with {} and gradients that agree, found {} instead of the preference {}"
            require(same(found, expected, 1e-4), sentence, situation, found, expected)


@cache
def _scaled_by_preference(w: World) -> World:
    factors_K = w.preference_K.double() / w.preference_K.double().sum() * len(w.names)
    return replace(_uniform(w), gradients_KN=w.gradients_KN * factors_K[:, None])


def _preference_scales_rows(build: Build, situations: Sequence[str]) -> None:
    name = "PREFERENCE_SCALES_ROWS"
    for situation in situations:
        pairs = [(w, _scaled_by_preference(w)) for w in _worlds(situation)]
        for (w, _), (left, right) in zip(pairs, _pairs(build(), build(), pairs), strict=False):
            found = _weights(left, name).values.double()
            expected = _weights(right, name).values.double() * w.preference_K
            found, expected = found / found.sum(), expected / expected.sum()
            require(same(found, expected, 1e-4), "with {}, found {} instead of {}", situation,
                    found, expected)  # fmt: skip


@cache
def _with_means(w: World, means: tuple[float, ...]) -> World:
    """Give the objectives these means, and losses that fall as these rise."""
    means_K = torch.tensor(means)
    return replace(
        _uniform(w),
        scores_PGK=w.scores_PGK - w.scores_PGK.nanmean((0, 1)) + means_K,
        values_UK=w.values_UK - w.values_UK.nanmean(0) + means_K,
        losses_K=1.0 - means_K,
    )


def _worst_first(build: Build, situations: Sequence[str]) -> None:
    for situation in situations:
        for means in ((0.2, 0.5, 0.8), (0.5, 0.2, 0.8), (0.8, 0.5, 0.2)):
            *_, returned = _run(build(), [_with_means(w, means) for w in _worlds(situation)])
            values = _weights(returned, "WORST_FIRST").values
            worst = means.index(min(means))
            heaviest = int(values.argmax()) == worst and values[worst] > 1 / len(means)
            require(heaviest, "with {} and the means {}, found {}", situation, means, values)


def _frozen(build_frozen: Build, uniform: bool) -> Check:
    def check(_build: Build, situations: Sequence[str]) -> None:
        for situation in situations:
            worlds = _worlds(situation)
            for returned, w in zip(_run(build_frozen(), worlds), worlds, strict=False):
                found = _weights(returned, "FROZEN")
                limit_K = torch.ones_like(w.preference_K) if uniform else w.preference_K
                gain = torch.as_tensor(found.gain, dtype=torch.float32)
                values = (limit_K / limit_K.sum()).expand_as(found.values)
                expected = Weights(values, torch.ones_like(gain))
                _agree(expected, replace(found, gain=gain), 1e-5, situation, "at its limit")

    return check


def _only(*situations: str) -> tuple[str, ...]:
    assert set(situations) <= set(SITUATIONS)
    return situations


_HOSTILE_TO_FLOATS = ("tiny scores", "huge scores", "scores of unlike scales")
_MODERATE = tuple(name for name in SITUATIONS if name not in _HOSTILE_TO_FLOATS)

FINITE = Property(
    "FINITE",
    "weights, gain and metrics are finite, or an error names the objective",
    _finite,
)
SIMPLEX = Property("SIMPLEX", "weights are not negative and sum to 1", _simplex)
PERMUTES = Property(
    "PERMUTES", "objectives in another order get the same weights in that order", _permutes
)
ONE_OBJECTIVE = Property(
    "ONE_OBJECTIVE",
    "with one objective the plain optimizer is left, bit for bit; response scores once normalised",
    _one_objective,
)
ONE_OBJECTIVE_UP_TO_GAIN = Property(
    "ONE_OBJECTIVE_UP_TO_GAIN",
    "with one objective its weight is exactly 1; only the gain may differ",
    lambda build, situations: _one_objective(build, situations, up_to_gain=True),
)
RESUMES = Property(
    "RESUMES",
    "from a checkpoint after any step it goes on bit for bit, metrics included",
    _resumes,
    situations=_only("ordinary", "holes", "one after the other"),
)
SCALE_FREE = Property(
    "SCALE_FREE",
    "all gradients times one number give the same weights",
    _unchanged(_scale_gradients, 2),
)
SCORE_SCALE_FREE = Property(
    "SCORE_SCALE_FREE",
    "all scores, measurements and losses times one number give the same weights",
    _unchanged(lambda w, variant: _move_scores(w, (0.01, 100.0)[variant], 0.0), 2),
)
SHIFT_FREE = Property(
    "SHIFT_FREE",
    "one number added to all scores, measurements and losses gives the same weights",
    _unchanged(lambda w, variant: _move_scores(w, 1.0, (-3.0, 0.5)[variant]), 2, 1e-3),
    situations=_MODERATE,
)
UNIT_FREE = Property(
    "UNIT_FREE",
    "an objective measured in another unit (scores, bounds, thresholds) keeps its weight",
    _unchanged(_change_units, 3, 1e-3),
    situations=_MODERATE,
)
LEAVES_NAN_ALONE = Property(
    "LEAVES_NAN_ALONE",
    "a prompt and a measured unit to which nothing applies change nothing",
    _unchanged(_add_nothing, 1, 1e-5),
)
DUPLICATE_SHARES = Property(
    "DUPLICATE_SHARES", "the copies of a duplicated objective get equal weights", _duplicate_shares
)
COPIES_KEEP_DIRECTION = Property(
    "COPIES_KEEP_DIRECTION",
    "a copy of an objective, at an equal preference, leaves the combined gradient as it is",
    _copies_keep_direction,
)
NO_COMMON_DESCENT_LOST = Property(
    "NO_COMMON_DESCENT_LOST",
    "to first order the combined gradient lowers no objective: <d, g_k> >= 0",
    _no_common_descent_lost,
)
NO_CONFLICT_NO_CHANGE = Property(
    "NO_CONFLICT_NO_CHANGE",
    "where no two gradients conflict, the weights are the preference up to a factor",
    _no_conflict,
    situations=_only("ordinary"),
)
PREFERENCE_SCALES_ROWS = Property(
    "PREFERENCE_SCALES_ROWS",
    "the preference scales the gradients, K p_k g_k, and the coefficients are multiplied back",
    _preference_scales_rows,
    situations=_only("ordinary", "gradients in a plane", "small gradients", "large gradients"),
)
WORST_FIRST = Property(
    "WORST_FIRST",
    "at an equal preference the objective with the lowest mean (highest loss) weighs most",
    _worst_first,
    situations=_only("ordinary", "groups of two", "one prompt", "duplicate scores"),
)


def FROZEN(build_frozen: Build, *, uniform: bool = False) -> Property:
    """Return the property that the limit, which ``build_frozen`` makes, equals `fixed`.

    Args:
        build_frozen: makes the weighting at rate 0, or at what else leaves its weights alone.
        uniform: whether the limit is equal weights, whatever the preference.
    """
    return Property(
        "FROZEN",
        f"its limit is `fixed` at {'equal weights' if uniform else 'the preference'}",
        _frozen(build_frozen, uniform),
    )
