"""Soups: averages of trained policies' weights, measured, not trained."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge

from moalign.components import Preference, Strategy
from moalign.errors import OptionError, nearest
from moalign.strategies.kept import (
    Checkpoint,
    axis_weights,
    checkpoint,
    mixed_params,
    neighbours,
    one_by_one,
    proposals_so_far,
    ranked,
    values_by_policy,
)
from moalign.strategies.results import normalised
from moalign.types import History, Observation, Proposal, Simplex, Start

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Parts = tuple[tuple[Checkpoint, Fraction], ...]
"""What is mixed with which share; rising by trial and step, the shares sum to 1."""


class Soups(Strategy):
    """Averages the weights of trained policies, and measures what comes out.

    A soup is a trial of no steps whose weights (with LoRA, the adapter's matrices) are::

        theta = sum_i s_i theta_i,    s_i >= 0,   sum_i s_i = 1

    of two or three policies that were trained and are on the front. What a soup scores is no
    average: along the path from one policy to another the objectives may bend, fall into a hole, or
    run above the straight line, so several shares are tried, multiples of ``1 / divisions``. (With
    LoRA the product of averaged matrices is not the average of the products, either.)

    **Filling the front.** Mixed are neighbours on the front, between which no third policy lies
    (the Gabriel graph), and, of three objectives or more, the policies that are best in one each,
    by three: their interior multiples and the centre. Of all these the next one is the soup that
    would lie farthest from whatever has been measured, if the path were straight; distances are in
    units of the bounds. So the widest gap is filled first, and each measured soup says where the
    next one is due. Three corners give 13 soups with `divisions: 4`. A soup that pushes a policy
    that it is made of off the front stands in for it: it is mixed with its neighbours, once.

    **For a preference.** Mixed are the three trained policies that are worth most to it (fewer if
    there are fewer; those that meet all thresholds first), evenly at first, then nearer to the
    best: a preference that was not trained for is answered from at most three policies, without
    training.

    **As a search option.** With a `strategy`, every `every`-th trial is a soup if there is one
    left to try, and all others are that strategy's; it ignores soups as it does any trial that did
    not begin from scratch. Counting trials, unlike "the last N", does not depend on how many there
    will be, so a study can be prolonged. Without a `strategy` the corners and the centre of the
    weights are trained, then soups are made of them until none is left: rewarded soups.

    **Policies that read weights in their prompt.** A soup of two of them is measured under every
    condition, like they were. One policy under several conditions is one policy: between its
    points there is nothing to mix, other weights in the prompt do that.

    Source:
        "Rewarded soups", Rame et al. 2023, arXiv 2306.04488, which mixes policies trained for one
        objective each; model soups, Wortsman et al. 2022, arXiv 2203.05482. The answer from at
        most three trained models is that of IBCL, Lu et al. 2023, arXiv 2305.14782, which mixes
        distributions of weights. Differs: neighbours on a measured front instead of all corners,
        and what is tried next follows from what was measured.

    When to use it:
        After a search, with `moalign soup`, or within one: a soup costs a measurement. Policies
        must be trained from the same base, not too long; where a soup lies below the mixture that
        draws one of its policies per prompt, the mixture is the better offer.

    Cost:
        A measurement on validation per soup.

    Example::

        search:
          strategy: {soups: {strategy: botorch, every: 4}}
          space: {weighting.preference: simplex}
    """

    name: ClassVar[str] = "soups"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"strategy": "random"},
        {"strategy": "random", "every": 2, "preference": {"a": 2, "b": 1, "c": 1}},
    )

    def __init__(
        self,
        *,
        strategy: Strategy | None = None,
        every: Annotated[int, Ge(2)] = 4,
        divisions: Annotated[int, Ge(2)] = 4,
        count: Annotated[int, Ge(1)] | None = None,
        preference: Preference | None = None,
    ) -> None:
        """Take the options.

        Args:
            strategy: proposes the trials between the soups; null: after the corners there are
                soups only.
            every: one trial of so many is a soup; without `strategy` all are.
            divisions: steps from one policy to another.
            count: most soups in all, with a `preference` of the policies that it would mix now;
                null: as many as there are.
            preference: weights by objective of the front; null: the front is filled.
        """
        self.strategy = strategy
        self.every = every
        self.divisions = divisions
        self.count = count
        self.preference = preference
        if strategy is not None:
            self.corners_first = strategy.corners_first  # type: ignore[misc]

    def check(self, history: History) -> None:
        """Refuse a preference for what is not on the front, and a search that trains one policy."""
        names = [o.name for o in history.objectives]
        for name in self.preference or {}:
            if name not in names:
                raise OptionError(
                    f"strategy soups: `preference` names {name!r}, which is not on the front; "
                    f"{nearest(name, names)}",
                    "preference",
                )
        if self.strategy is not None:
            self.strategy.check(history)
        elif self.corners_first and not _has_weights(history):  # else policies are there
            raise OptionError(
                "strategy soups without a `strategy` trains policies for different weights and "
                f"mixes them, and the space has none; found {', '.join(history.space) or 'none'}. "
                "Add `weighting.preference: simplex`, with a weighting that has one, such as "
                "fixed, or name a `strategy` that proposes what is trained, such as random",
                "strategy",
            )

    def previews(self, history: History) -> Sequence[Proposal]:
        """Return those of the other strategy."""
        return () if self.strategy is None else self.strategy.previews(history)

    def propose(self, history: History, n: int, seed: int) -> list[Proposal]:
        """Return soups at their turns, and what the other strategy proposes between them."""
        return one_by_one(history, n, lambda known: self._next(known, seed))

    def _next(self, history: History, seed: int) -> Proposal | None:
        if self.strategy is None:
            return self._soup(history)
        turn = history.proposed % self.every == self.every - 1
        if turn and (soup := self._soup(history)) is not None:
            return soup
        soups = sum(proposal.soup for proposal in proposals_so_far(history).values())
        others = replace(history, proposed=history.proposed - soups)
        proposal = next(iter(self.strategy.propose(others, 1, seed)), None)
        return self._soup(history) if proposal is None and not turn else proposal

    def _soup(self, history: History) -> Proposal | None:
        """Return the soup that is to be tried next, or None if there is none."""
        made = [p.start for p in proposals_so_far(history).values() if p.soup]
        starts = {checkpoint(o): o.start for o in history.observations if o.step == 0}
        tried = {_in_full(_parts(start), starts) for start in made}
        offers, policies = self._offers(history)
        mine = [m for m in tried if {where for where, _ in m} <= set(policies)]
        count = len(tried if self.preference is None else mine)
        if self.count is not None and count >= self.count:
            return None
        left = [offer for offer in offers if _in_full(offer.parts, starts) not in tried]
        if not left:
            return None
        best = min(left, key=lambda offer: (*offer.order, offer.parts))
        shares = [float(share) for _, share in best.parts]
        ingredients = [policies[where] for where, _ in best.parts]
        return Proposal(
            params=mixed_params(history.space, [o.params for o in ingredients], shares),
            start=Start(tuple(where for where, _ in best.parts), tuple(shares)),
            steps=0,
            reason=f"mixes {_said(best.parts, ingredients)}, {best.reason}",
        )

    def _offers(self, history: History) -> tuple[list[_Offer], dict[Checkpoint, Observation]]:
        """Return all soups that might be tried, and the policies that they are made of."""
        if self.preference is None:
            return self._filling(history)
        return self._answering(history, self.preference)

    # --- filling the front -----------------------------------------------------------------------

    def _filling(self, history: History) -> tuple[list[_Offer], dict[Checkpoint, Observation]]:
        import numpy as np

        from moalign import pareto

        seen = history.observations
        rows_NK = np.array([o.values_K for o in seen]).reshape(-1, len(history.objectives))
        marks = pareto.is_nondominated(rows_NK)
        front = [o for o, marked in zip(seen, marks, strict=True) if marked and o.kept]
        points = _ingredients(front)
        policies = {checkpoint(o): o for o in reversed(points)}  # of several conditions the first
        known_MK = np.array(_known(history, front))
        offers = []
        for group in _groups(points, history):
            for shares in _shares(len(group), self.divisions):
                straight_K = _straight(shares, group, history)
                gap = float(np.linalg.norm(known_MK - straight_K, axis=1).min())
                offers.append(
                    _Offer(
                        _sorted(zip(map(checkpoint, group), shares, strict=True)),
                        (_missing(straight_K, history), -round(gap, 9)),
                        f"{gap:.3f} from whatever is measured if the path is straight",
                    )
                )
        return offers, policies

    # --- answering a preference ------------------------------------------------------------------

    def _answering(
        self, history: History, preference: Mapping[str, float]
    ) -> tuple[list[_Offer], dict[Checkpoint, Observation]]:
        weights_K = axis_weights(history.objectives, preference)
        assert weights_K is not None  # checked: its names are the front's
        trained = [o for o in history.observations if o.kept and o.step > 0]
        worth = ranked(values_by_policy(trained, history.objectives, weights_K))[:3]
        told = ", ".join(
            f"{o.name} {w:.2f}" for o, w in zip(history.objectives, weights_K, strict=True) if w
        )
        offers = []
        for size in (2, 3):
            for group in itertools.combinations(worth, size):
                for shares in _shares(size, self.divisions):
                    pieces = math.lcm(*(share.denominator for share in shares))
                    mean = sum(float(s) * v.mean for s, (_, v) in zip(shares, group, strict=True))
                    points = [checkpoint(o) for o, _ in group]
                    straight_K = _straight(shares, [o for o, _ in group], history)
                    offers.append(
                        _Offer(
                            _sorted(zip(points, shares, strict=True)),
                            (_missing(straight_K, history), pieces, -round(mean, 9)),
                            f"of the {len(worth)} trained policies that are worth most to {told}",
                        )
                    )
        return offers, {checkpoint(o): o for o, _ in worth}


@dataclass(frozen=True, slots=True)
class _Offer:
    """A soup that might be tried.

    Attributes:
        parts: of what.
        order: the smallest is tried first.
        reason: why, for people.
    """

    parts: Parts
    order: tuple[float, ...]
    reason: str


def _has_weights(history: History) -> bool:
    return any(isinstance(dimension, Simplex) for dimension in history.space.values())


def _groups(points: Sequence[Observation], history: History) -> Iterator[tuple[Observation, ...]]:
    """Yield neighbours among points of a front by two, and the best in each objective by three."""
    for i, j in neighbours([normalised(o, history.objectives) for o in points] or [[0.0]]):
        if checkpoint(points[i]) != checkpoint(points[j]):
            yield points[i], points[j]
    corners = {checkpoint(o): o for o in _best(points)}
    yield from itertools.combinations(corners.values(), 3)


def _ingredients(front: Sequence[Observation]) -> list[Observation]:
    """Return what is mixed: the trained policies of a front, and soups that stand in for others.

    A soup of trained policies stands in if one of these is not on the front any more: the gap
    between that one and its neighbours is now the soup's.
    """
    trained = {checkpoint(o) for o in front if o.step > 0}
    return [
        o
        for o in front
        if o.step > 0
        or (all(step > 0 for _, step in o.start.points) and not trained.issuperset(o.start.points))
    ]


def _best(points: Sequence[Observation]) -> Iterator[Observation]:
    """Yield for each objective the point that is best in it, of equal ones the first."""
    for k in range(len(points[0].values_K) if points else 0):
        column = [point.values_K[k] for point in points]
        yield points[column.index(max(column))]


def _straight(
    shares: Sequence[float | Fraction], group: Sequence[Observation], history: History
) -> Floats:
    """Return where a soup would lie if its path were straight, normalised, [K]."""
    import numpy as np

    values_NK = np.array([normalised(o, history.objectives) for o in group])
    straight_K: Floats = np.array(shares, dtype=np.float64) @ values_NK
    return straight_K


def _missing(straight_K: Floats, history: History) -> float:
    """Return 1 for a point that misses a threshold, which is tried last; else 0."""
    return float(
        any(
            o.at_least is not None and value < o.normalise(o.at_least)
            for o, value in zip(history.objectives, straight_K.tolist(), strict=True)
        )
    )


def _known(history: History, front: Sequence[Observation]) -> list[Floats]:
    """Return where the front and all soups lie, normalised; those awaited as if straight."""
    import numpy as np

    soups = [o for o in history.observations if o.step == 0 and not o.start.scratch]
    known = [_straight([1.0], [o], history) for o in (*front, *soups)]
    by_point = {checkpoint(o): o for o in history.observations}
    for proposal in history.pending.values():
        group = [by_point[point] for point in proposal.start.points if point in by_point]
        if proposal.soup and len(group) == len(proposal.start.points):
            known.append(_straight(proposal.start.shares, group, history))
    return [values_K for values_K in known if np.isfinite(values_K).all()]


def _shares(size: int, divisions: int) -> Iterator[tuple[Fraction, ...]]:
    """Yield the shares of so many policies, each above 0: the centre, and all multiples."""
    centre = (Fraction(1, size),) * size
    yield centre
    for parts in itertools.product(range(1, divisions), repeat=size):
        shares = tuple(Fraction(part, divisions) for part in parts)
        if sum(shares) == 1 and shares != centre:
            yield shares


def _parts(start: Start) -> Parts:
    shares = [Fraction(share).limit_denominator(1000) for share in start.shares]
    return _sorted(zip(start.points, shares, strict=True))


def _in_full(parts: Parts, starts: Mapping[Checkpoint, Start]) -> Parts:
    """Return what a soup comes to in trained policies, whatever it was mixed from."""
    shares: dict[Checkpoint, Fraction] = {}
    for where, share in parts:
        inner = _parts(starts[where]) if where in starts else ((where, Fraction(1)),)
        for trained, part in inner:
            shares[trained] = shares.get(trained, Fraction(0)) + share * part
    return _sorted(shares.items())


def _sorted(mixed: Any) -> Parts:
    return tuple(sorted(((trial, step), share) for (trial, step), share in mixed))


def _said(parts: Parts, ingredients: Sequence[Observation]) -> str:
    """Return what a soup is made of as text: ``1/4 t03 and 3/4 t07``."""
    said = [f"{s} {o.name}" for (_, s), o in zip(parts, ingredients, strict=True)]
    return f"{', '.join(said[:-1])} and {said[-1]}"
