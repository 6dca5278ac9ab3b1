"""What strategies that ask one of Optuna's samplers share.

Optuna is never a store here. For each proposal a study is rebuilt in memory from the history:
results as complete trials, what runs now as running ones, in this order. So a proposal is a
function of history and seed, as the record needs it.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from moalign.components import Strategy
from moalign.maths.simplex import from_uniforms, to_uniforms
from moalign.strategies.coordinates import Coordinates
from moalign.strategies.kept import with_proposal
from moalign.strategies.results import floors, results
from moalign.types import FloatRange, History, IntRange, Parameter, Proposal, Simplex

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study

SimplexCoordinates = Literal["stick", "cuts", "mirrored-cuts"]
"""What Optuna sees of K weights on a simplex: K - 1 numbers in [0, 1], uniform if the weights are.

``stick``: how much each weight takes of what those before it have left. ``cuts``: where [0, 1] is
cut into pieces as long as the weights, from left to right. ``mirrored-cuts``: for up to
:data:`MOST_MIRRORED` weights the cuts in every order, a result being entered once for each of the
(K - 1)! orders; for more, ``stick``.
"""

MOST_MIRRORED: Final = 4

DRAWS: Final = 200  # at random, to find what was not tried


class OptunaStrategy(Strategy):
    """Proposes what one of Optuna's samplers suggests; a subclass gives the sampler.

    A sampler sees :func:`~moalign.strategies.results.results`: what full trials from scratch came
    to, what stopped ones would have come to, and the worst for those that failed, in units of the
    bounds, none below :func:`~moalign.strategies.results.floors`; and the trials that will give
    results. ``at_least`` becomes a constraint. It does not see standard errors.

    Attributes:
        coordinates: what it sees of weights on a simplex.
        minimises: True if it is only at home with values to be minimised; it gets them negated.
    """

    coordinates: ClassVar[SimplexCoordinates] = "stick"
    minimises: ClassVar[bool] = False

    @abstractmethod
    def sampler(self, space: Space, seed: int) -> BaseSampler:
        """Return a new sampler.

        Args:
            space: as the sampler will see it; a result is entered ``space.copies`` times.
            seed: of this proposal alone, below 2**31.
        """

    def prepare(self, study: Study, space: Space) -> None:  # noqa: ARG002
        """Do what the rebuilt study needs before it is asked; by default nothing."""
        return

    def propose(self, history: History, n: int, seed: int) -> list[Proposal]:
        """Ask for one proposal after the other; each is running when the next one is made."""
        space = Space(history.space, self.coordinates)
        proposals: list[Proposal] = []
        for _ in range(n):
            proposals.append(self._new(history, space, own_seed(seed, history.proposed)))
            history = with_proposal(history, proposals[-1])
        return proposals

    def _new(self, history: History, space: Space, seed: int) -> Proposal:
        """Return a proposal that was not tried, if one is found: a sampler knows no such rule."""
        tried = [p.params for p in history.made.values() if p.start.scratch and p.steps is None]
        proposal = self._ask(history, space, seed)
        if proposal.params not in tried:
            return proposal
        coordinates, rng = Coordinates(history.space), random.Random(seed)
        for _ in range(DRAWS if coordinates.width else 0):
            drawn = coordinates.drawn([rng.random() for _ in range(coordinates.uniforms)])
            if (params := coordinates.params(drawn)) not in tried:
                reason = f"drawn at random, because what {self.name} proposed was tried already"
                return Proposal(params, reason=reason)
        return proposal

    def _ask(self, history: History, space: Space, seed: int) -> Proposal:
        if not space:
            return Proposal({})
        with _quiet():
            study = self.rebuilt(history, space)
            study.sampler = self.sampler(space, seed)
            self.prepare(study, space)
            return Proposal(space.nested(study.ask(space.distributions()).params))

    def rebuilt(self, history: History, space: Space) -> Study:
        """Return a new study in memory that holds what the history tells."""
        import optuna
        from optuna.study import StudyDirection
        from optuna.trial import TrialState, create_trial

        distributions, objectives = space.distributions(), history.objectives
        direction = StudyDirection.MINIMIZE if self.minimises else StudyDirection.MAXIMIZE
        sign = -1.0 if self.minimises else 1.0
        study = optuna.create_study(directions=[direction] * len(objectives))
        known = [one for one in results(history) if not any(map(math.isnan, one.values_K))]
        floors_K = floors([one.values_K for one in known], objectives)
        for one in known:
            values = [sign * max(pair) for pair in zip(one.values_K, floors_K, strict=True)]
            # A threshold is met where this is at most 0.
            missed = {
                o.name: o.normalise(o.at_least) - value
                for o, value in zip(objectives, one.values_K, strict=True)
                if o.at_least is not None
            }
            for params in space.flat(one.params):
                trial = create_trial(
                    params=params, distributions=distributions, values=values, constraints=missed
                )
                study.add_trial(trial)
        for proposal in history.awaited():
            for params in space.flat(proposal.params):
                trial = create_trial(
                    state=TrialState.RUNNING, params=params, distributions=distributions
                )
                study.add_trial(trial)
        return study


def own_seed(seed: int, number: int) -> int:
    """Return the sampler's seed for proposal ``number``, below 2**31."""
    return random.Random(f"{seed}/{number}").getrandbits(31)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from logging each study that is rebuilt, and from warning of what is new in it.

    Its verbosity is put back.
    """
    from optuna import logging
    from optuna.exceptions import ExperimentalWarning

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)


# --- our dimensions and Optuna's ---------------------------------------------------------------


class Space:
    """A search space as Optuna sees it: weights on a simplex become coordinates in [0, 1].

    Args:
        space: the search dimensions by path.
        coordinates: of weights on a simplex.
    """

    def __init__(self, space: Mapping[str, Parameter], coordinates: SimplexCoordinates) -> None:
        self.space = space
        most = {"stick": 0.0, "cuts": math.inf, "mirrored-cuts": MOST_MIRRORED}[coordinates]
        self._cut = [
            path
            for path, dimension in space.items()
            if isinstance(dimension, Simplex) and len(dimension.names) <= most
        ]
        mirrored = self._cut if coordinates == "mirrored-cuts" else []
        permutations = [
            [(path, order) for order in itertools.permutations(self._names(path))]
            for path in mirrored
        ]
        self._orders = list(itertools.product(*permutations))

    def __bool__(self) -> bool:
        return bool(self.space)

    @property
    def copies(self) -> int:
        """How many times a result is entered: once for every order of its mirrored cuts."""
        return len(self._orders)

    def _names(self, path: str) -> list[str]:
        dimension = self.space[path]
        assert isinstance(dimension, Simplex)
        return [f"{path}[{index}]" for index in range(len(dimension.names) - 1)]

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return Optuna's distributions."""
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        found: dict[str, BaseDistribution] = {}
        for path, dimension in self.space.items():
            if isinstance(dimension, Simplex):
                found |= {name: FloatDistribution(0.0, 1.0) for name in self._names(path)}
            elif isinstance(dimension, FloatRange):
                found[path] = FloatDistribution(dimension.low, dimension.high, log=dimension.log)
            elif isinstance(dimension, IntRange):
                found[path] = IntDistribution(dimension.low, dimension.high, log=dimension.log)
            else:
                found[path] = CategoricalDistribution(dimension.options)
        return found

    def flat(self, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield what Optuna would have proposed for these parameters, :attr:`copies` times."""
        plain: dict[str, Any] = {}
        for path, dimension in self.space.items():
            if isinstance(dimension, Simplex):
                weights = [params[path][name] for name in dimension.names]
                uniforms = to_cuts(weights) if path in self._cut else to_uniforms(weights)
                clipped = [min(max(uniform, 0.0), 1.0) for uniform in uniforms]
                plain |= dict(zip(self._names(path), clipped, strict=True))
            else:
                plain[path] = params[path]
        for orders in self._orders:
            swapped = dict(plain)
            for path, order in orders:
                for name, other in zip(self._names(path), order, strict=True):
                    swapped[name] = plain[other]
            yield swapped

    def nested(self, flat: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters that Optuna's proposal stands for."""
        params: dict[str, Any] = {}
        for path, dimension in self.space.items():
            if isinstance(dimension, Simplex):
                uniforms = [flat[name] for name in self._names(path)]
                weights = from_cuts(uniforms) if path in self._cut else from_uniforms(uniforms)
                params[path] = dict(zip(dimension.names, weights, strict=True))
            else:
                params[path] = flat[path]
        return params


def from_cuts(uniforms: Sequence[float]) -> list[float]:
    """Map K - 1 numbers in [0, 1] to K weights, the gaps between them: uniform for uniforms."""
    edges = [0.0, *sorted(uniforms), 1.0]
    return [right - left for left, right in itertools.pairwise(edges)]


def to_cuts(weights_K: Sequence[float]) -> list[float]:
    """Return rising numbers in [0, 1] whose gaps are the weights."""
    return list(itertools.accumulate(weights_K[:-1]))
