"""C-MORL: a few policies from scratch, then constrained training from where the front is thin."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final

from annotated_types import Ge, Le

from moalign.components import Strategy
from moalign.errors import OptionError
from moalign.strategies.coordinates import Coordinates
from moalign.strategies.kept import Checkpoint, checkpoint, missed, one_by_one
from moalign.types import History, Objective, Observation, Proposal, Simplex, Start

Extension = tuple[int, Checkpoint, str]
"""A trial of constrained training: its number, where it began, and what it maximised."""

MULTIPLIERS: Final[Mapping[str, Any]] = {
    "multiplier": "projected",
    "learning_rate": 1.0,
    "momentum": 0.0,
    "proportional": 20.0,
    "derivative": 20.0,
}
"""Quick ones, which begin at :data:`INITIAL`: few steps leave no time for a slow integral."""

INITIAL: Final = 1.0
"""All objectives weigh alike at first, and the slack at the source lets the held ones go."""


class ConstrainedExtension(Strategy):
    """Extends the front by constrained training from its most isolated points.

    First `seeds` policies are trained from scratch: the near-corners and the centre of the weights,
    which every search begins with, then weights drawn at random. Every later trial starts from a
    policy of the front and takes `steps` steps, in which one objective is maximised and no other
    falls by more than a share::

        maximise J_l   subject to   J_k >= J_k(source) - (1 - beta) |J_k(source)|   for k != l

    with weighting ``lagrangian`` instead of the study's. An objective that met its own `at_least`
    at the source must go on to meet it.

    Sources are taken in rounds. A round takes up to `sources` points that were proposed before it,
    by crowding distance: the ends of the front first, then the loneliest between them. Each is
    extended in every objective that is trained and on the front, then a new round looks at the
    grown front. No point is extended in the same objective twice, and one that has left the front
    not at all, as its policy is gone. While no point can be extended, policies are trained from
    scratch, as at the beginning: workers do not wait for the first results. A point that misses a
    threshold (`at_least`) comes after those that miss none, and is extended in what it misses.

    J is the mean on validation. Errors are not looked at: a point may be on the front, and so
    become a source, because it was lucky, and is then asked to keep what it never had.

    Source:
        C-MORL, arXiv 2410.02236. Published: ``beta: 0.9, sources: 5``, a lattice of weights with
        step 0.2. Differs: multipliers, moved by each batch, hold the constraints instead of the
        interior point, whose barrier is undefined once a constraint is violated; the authors' code
        meant to drop objective l from the barrier and drops a sample of the batch; ``beta * J``
        demands more than J where J is negative, hence the absolute value; an objective without
        spread adds no distance instead of dividing by 0; seeds are fewer and not at the corners
        themselves; there is no limit on the archive, which is the run's front.

    When to use it:
        When a trial from scratch is dear: an extension costs a quarter of it, begins at what is
        there already, and pushes the ends of the front out, too. Policies that read weights in
        their prompt, and optimizers that learn from preferences only, cannot be constrained so.

    Cost:
        No model is fitted; a proposal takes milliseconds.

    Example:
        ``search: {strategy: cmorl, space: {weighting.preference: simplex}, trials: 16}``
    """

    name: ClassVar[str] = "cmorl"

    def __init__(
        self,
        *,
        seeds: Annotated[int, Ge(1)] | None = None,
        sources: Annotated[int, Ge(1)] | None = None,
        steps: Annotated[int, Ge(1)] | None = None,
        beta: Annotated[float, Ge(0), Le(1)] = 0.9,
        multipliers: dict[str, Any] | None = None,
    ) -> None:
        """Take the options.

        Args:
            seeds: policies from scratch before the first extension; default, and fewest: the
                near-corners and the centre, one more than objectives.
            sources: points of a round; default: one more than objectives.
            steps: of an extension; default: a quarter of ``training.steps``.
            beta: share of an objective that is kept.
            multipliers: options of ``lagrangian``; default: ``{multiplier: projected,
                learning_rate: 1, momentum: 0, proportional: 20, derivative: 20}``, each multiplier
                beginning at 1, which act within a few steps; its own are made for a whole training.
        """
        self.seeds = seeds
        self.sources = sources
        self.steps = steps
        self.beta = beta
        self.multipliers = multipliers
        for own in sorted({"primary", "at_least", "equal"} & set(multipliers or ())):
            raise OptionError(
                f"strategy cmorl: `multipliers` holds {own!r}, and what is maximised and kept "
                "follows from where an extension starts; remove it",
                "multipliers",
            )

    def check(self, history: History) -> None:
        """Refuse fewer than two objectives, a space without weights, and too few seeds."""
        names = [o.name for o in _extended_in(history)]
        if len(names) < 2:
            raise OptionError(
                "strategy cmorl maximises one objective while others are held, so at least two "
                "must be both trained and on the front; found "
                f"{', '.join(names) or 'none'}. Add one, or use another strategy, such as botorch"
            )
        if not _weights(history):
            raise OptionError(
                "strategy cmorl trains its first policies under different weights, and the space "
                f"has none; found {', '.join(history.space) or 'nothing'}. Add "
                "`weighting.preference: simplex`, with a weighting that has one, such as fixed"
            )
        if self.seeds is not None and self.seeds < _first(history):
            raise OptionError(
                "strategy cmorl: the near-corners and the centre come first, so `seeds` must be "
                f"at least {_first(history)}; found {self.seeds}",
                "seeds",
            )

    def previews(self, history: History) -> list[Proposal]:
        """Return an extension in each objective."""
        params = _drawn(history, random.Random(0))
        names = [o.name for o in _extended_in(history)]
        return [
            Proposal(params, settings=self._settings(name, dict.fromkeys({*names} - {name}, 0.0)))
            for name in names
        ]

    def propose(self, history: History, n: int, seed: int) -> list[Proposal]:
        """Return extensions of the front, or policies from scratch where none is possible."""
        return one_by_one(history, n, lambda known: self._next(known, seed))

    def _next(self, history: History, seed: int) -> Proposal:
        extension = None
        if history.proposed >= (self.seeds or _first(history)):
            extension = self._extension(history)
        drawn = random.Random(f"{seed}/{history.proposed}")
        return extension or Proposal(_drawn(history, drawn))

    def _extension(self, history: History) -> Proposal | None:
        """Return the next extension; None if no point can be extended."""
        objectives = _extended_in(history)
        most = self.sources or len(objectives) + 1
        extensions = _extensions(history.made)
        tried = {(source, primary) for _, source, primary in extensions}
        began, current = _round(extensions, most)
        lonely = [(o, missed(o, history.objectives)) for o in by_isolation(history.observations)]
        left = [
            (point, untried)
            for point, short in sorted(lonely, key=lambda each: bool(each[1]))
            if (
                untried := [
                    o
                    for o in objectives
                    if (checkpoint(point), o.name) not in tried and (o.name in short or not short)
                ]
            )
        ]
        begun = [each for each in left if checkpoint(each[0]) in current]
        earlier = [each for each in left if each[0].trial < began and len(current) < most]
        for group in (begun, earlier, left):
            for point, untried in group:
                return self._extended(history, point, untried[0])
        return None

    def _extended(self, history: History, source: Observation, primary: Objective) -> Proposal:
        held = {
            o.name: self.threshold(o, value)
            for o, value in zip(history.objectives, source.values_K, strict=True)
            if o.train and o is not primary
        }
        kept = ", ".join(f"{name} at least {value:.4g}" for name, value in held.items())
        return Proposal(
            params=source.params,
            start=Start((checkpoint(source),), (1.0,)),
            steps=self.steps or max(1, history.steps // 4),
            settings=self._settings(primary.name, held),
            reason=f"extends {primary.name} from {source.name} and keeps {kept}",
        )

    def threshold(self, objective: Objective, value: float) -> float:
        """Return what an objective must keep that has this value at the source, in raw units."""
        threshold = value - (1.0 - self.beta) * abs(value)
        if objective.bounds is not None:  # a value beyond them asks for no more than they allow
            threshold = min(threshold, objective.bounds[1])
        if objective.at_least is None or value < objective.at_least:
            return threshold
        return max(threshold, objective.at_least)

    def _settings(self, primary: str, at_least: Mapping[str, float]) -> dict[str, Any]:
        """Return what makes a trial of constrained training."""
        options = self.multipliers
        if options is None:
            options = {**MULTIPLIERS, "initial": dict.fromkeys(at_least, INITIAL)}
        constraints = {"primary": primary, "at_least": dict(at_least)}
        return {"weighting": {"lagrangian": {**options, **constraints}}}


def by_isolation(observations: Sequence[Observation]) -> list[Observation]:
    """Return the points that a trial may start from, the most isolated ones first.

    Of equally isolated ones, such as the ends, the earlier. Those of policies that read weights
    are left out.
    """
    from moalign import pareto

    points = [o for o in observations if o.kept and o.condition is None]
    distances = pareto.crowding_distance([o.values_K for o in points])
    ranked = sorted(
        zip(distances, points, strict=True), key=lambda each: (-each[0], checkpoint(each[1]))
    )
    return [point for _, point in ranked]


def _extensions(made: Mapping[int, Proposal]) -> list[Extension]:
    """Return all extensions so far, in the order of their trials, those that failed, too."""
    found = []
    for number, proposal in sorted(made.items()):
        weighting, points = proposal.settings.get("weighting"), proposal.start.points
        if len(points) == 1 and isinstance(weighting, Mapping) and "lagrangian" in weighting:
            found.append((number, points[0], weighting["lagrangian"]["primary"]))
    return found


def _round(extensions: Sequence[Extension], most: int) -> tuple[int, list[Checkpoint]]:
    """Return the trial that began the latest round, and the sources of this round.

    A round ends when it has all its sources, or when none of the points before it is left.
    """
    began, sources = 0, list[Checkpoint]()
    for number, source, _ in extensions:
        if source in sources:
            continue
        if len(sources) in (0, most) or source[0] >= began:
            began, sources = number, []
        sources.append(source)
    return began, sources


def _extended_in(history: History) -> list[Objective]:
    return [o for o in history.objectives if o.train]


def _first(history: History) -> int:
    """Return how many proposals the host makes before it asks."""
    return 1 + max(len(dimension.names) for dimension in _weights(history))


def _weights(history: History) -> list[Simplex]:
    return [dimension for dimension in history.space.values() if isinstance(dimension, Simplex)]


def _drawn(history: History, rng: random.Random) -> dict[str, Any]:
    """Return parameters that are uniform in the space."""
    space = Coordinates(history.space)
    return space.params(space.drawn([rng.random() for _ in range(space.uniforms)]))
