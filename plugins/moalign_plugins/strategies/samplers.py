"""Optuna's samplers as strategies: ``gp`` and ``tpe``.

Optuna is never a store here. For each proposal a study is rebuilt in memory from the history:
results as complete trials, what runs now as running ones, which both samplers account for. So a
proposal is a function of history and seed, as the record needs it.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge

from moalign.components import Strategy
from moalign.errors import OptionError
from moalign.maths.simplex import from_uniforms, to_uniforms
from moalign.types import Choice, FloatRange, History, IntRange, Objective, Parameter, Proposal

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

MOST_OBJECTIVES = 3


class GaussianProcess(Strategy):
    """Fits a Gaussian process per objective and proposes what may add most hypervolume.

    Optuna's ``GPSampler``: a Matern-5/2 kernel per objective, the logarithm of expected
    hypervolume improvement (Daulton et al. 2020, Ament et al. 2023), trials that run now drawn
    from the posterior, thresholds (``at_least``) as the probability of meeting them (Gardner et
    al. 2014). What differs from Optuna's defaults: values are normalised by the objectives'
    bounds, weights on a simplex are coordinates that make uniform draws uniform, and the model
    takes over after ``startup`` results. It sees full-length trials from scratch only and does not
    read their standard errors; it estimates the noise instead.

    The best front per trial on small budgets, with up to three objectives; a proposal takes about
    a second.

    Example:
        ``search: {strategy: gp, trials: 16}``
    """

    name: ClassVar[str] = "gp"

    def __init__(self, *, startup: Annotated[int, Ge(1)] = 8) -> None:
        """Take the number of random trials.

        Args:
            startup: results, those of the first corners included, before the model takes over.
        """
        self.startup = startup

    def check(self, history: History) -> None:
        """Refuse more objectives than the improvement can be computed for in time."""
        count = len(history.objectives)
        if count > MOST_OBJECTIVES:
            raise OptionError(
                f"strategy gp takes up to {MOST_OBJECTIVES} objectives on the front; found "
                f"{count}. Use `strategy: tpe`, or take objectives off the front with "
                "`use: [train]`"
            )

    def propose(self, history: History, n: int, seed: int) -> list[Proposal]:
        """Maximise the acquisition function."""
        from optuna.samplers import GPSampler

        sampler = GPSampler(
            seed=_seed(history, seed),
            n_startup_trials=self.startup,
            warn_independent_sampling=False,
        )
        return _ask(history, n, sampler)


class ParzenEstimator(Strategy):
    """Proposes where good trials are dense and bad ones are not, parameter by parameter.

    Optuna's multi-objective ``TPESampler`` (Ozaki et al. 2020): the trials are split by
    non-dominated sorting and hypervolume, and a proposal maximises the ratio of the two densities.
    Trials that run now count as bad ones, so that proposals spread. It sees full-length trials
    from scratch only. Takes milliseconds, any number of objectives and mixed spaces; with few
    trials it is weaker than ``gp``.

    Example:
        ``search: {strategy: tpe, trials: 100}``
    """

    name: ClassVar[str] = "tpe"

    def __init__(self, *, startup: Annotated[int, Ge(1)] = 10, multivariate: bool = False) -> None:
        """Take the number of random trials and the kind of density.

        Args:
            startup: results, those of the first corners included, before the densities are used.
            multivariate: one joint density instead of one per parameter.
        """
        self.startup = startup
        self.multivariate = multivariate

    def propose(self, history: History, n: int, seed: int) -> list[Proposal]:
        """Maximise the ratio of densities."""
        from optuna.samplers import TPESampler

        sampler = TPESampler(
            seed=_seed(history, seed),
            n_startup_trials=self.startup,
            multivariate=self.multivariate,
        )
        return _ask(history, n, sampler)


def _seed(history: History, seed: int) -> int:
    """Return another seed for each proposal, whatever the caller's."""
    return random.Random(f"{seed}/{history.proposed}").getrandbits(31)


def _ask(history: History, n: int, sampler: BaseSampler) -> list[Proposal]:
    """Rebuild a study from the history and ask it for proposals."""
    if not history.space:
        return [Proposal({}) for _ in range(n)]
    import optuna
    from optuna.trial import TrialState, create_trial

    space = _distributions(history.space)
    with _quiet():
        study = optuna.create_study(
            directions=["maximize"] * len(history.objectives), sampler=sampler
        )
        for one in history.plain():
            pairs = list(zip(history.objectives, one.values_K, strict=True))
            if any(value != value for _, value in pairs):  # noqa: PLR0124  # NaN: not measured
                continue
            study.add_trial(
                create_trial(
                    params=_flat(history.space, one.params),
                    distributions=space,
                    values=[objective.normalise(value) for objective, value in pairs],
                    constraints=dict(_violations(pairs)),
                )
            )
        for proposal in history.pending.values():
            running = create_trial(
                state=TrialState.RUNNING,
                params=_flat(history.space, proposal.params),
                distributions=space,
            )
            study.add_trial(running)
        asked = [study.ask(space).params for _ in range(n)]
    return [Proposal(_nested(history.space, flat)) for flat in asked]


def _violations(pairs: list[tuple[Objective, float]]) -> Iterator[tuple[str, float]]:
    """Yield by how much each threshold is missed, normalised; at most 0 where it is met."""
    for objective, value in pairs:
        if objective.at_least is not None:
            least = objective.normalise(objective.at_least)
            yield objective.name, least - objective.normalise(value)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from logging each study that is rebuilt, and put its verbosity back."""
    from optuna import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


# --- our dimensions and Optuna's ---------------------------------------------------------------


def _coordinate(path: str, index: int) -> str:
    return f"{path}[{index}]"


def _distributions(space: Mapping[str, Parameter]) -> dict[str, BaseDistribution]:
    from optuna import distributions

    found: dict[str, BaseDistribution] = {}
    for path, dimension in space.items():
        if isinstance(dimension, FloatRange):
            found[path] = distributions.FloatDistribution(
                dimension.low, dimension.high, log=dimension.log
            )
        elif isinstance(dimension, IntRange):
            found[path] = distributions.IntDistribution(
                dimension.low, dimension.high, log=dimension.log
            )
        elif isinstance(dimension, Choice):
            found[path] = distributions.CategoricalDistribution(dimension.options)
        else:
            for index in range(len(dimension.names) - 1):
                unit = distributions.FloatDistribution(0.0, 1.0)
                found[_coordinate(path, index)] = unit
    return found


def _flat(space: Mapping[str, Parameter], params: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for path, dimension in space.items():
        if isinstance(dimension, FloatRange | IntRange | Choice):
            flat[path] = params[path]
        else:
            weights = [params[path][name] for name in dimension.names]
            for index, uniform in enumerate(to_uniforms(weights)):
                flat[_coordinate(path, index)] = min(max(uniform, 0.0), 1.0)
    return flat


def _nested(space: Mapping[str, Parameter], flat: Mapping[str, Any]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for path, dimension in space.items():
        if isinstance(dimension, FloatRange | IntRange | Choice):
            params[path] = flat[path]
        else:
            count = len(dimension.names) - 1
            weights = from_uniforms([flat[_coordinate(path, i)] for i in range(count)])
            params[path] = dict(zip(dimension.names, weights, strict=True))
    return params
