"""A Gaussian process per objective and expected hypervolume improvement, by Optuna."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Final

from annotated_types import Ge

from moalign.errors import OptionError
from moalign.strategies.optuna import OptunaStrategy, SimplexCoordinates, Space
from moalign.types import History

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

MOST_OBJECTIVES: Final = 3


class GaussianProcess(OptunaStrategy):
    """Fits a Gaussian process per objective and proposes what may add most hypervolume.

    Optuna's ``GPSampler``: a Matern-5/2 kernel per objective, the logarithm of expected
    hypervolume improvement (Daulton et al. 2020, Ament et al. 2023), trials that run now drawn
    from the posterior, thresholds (``at_least``) as the probability of meeting them (Gardner et
    al. 2014). Ours: values are normalised by the objectives' bounds, the model takes over after
    ``startup`` results, and weights on a simplex of up to four are the gaps between sorted
    uniforms, each result entered once for every order of these. Breaking a stick instead maps a
    whole edge of the cube to one corner of the simplex, where the model then proposes the same
    weights again and again (a smooth test problem with noise, three objectives, hypervolume after
    16 trials: .401 with a stick, .405 at random, .412 with gaps, standard errors .003; after 28:
    .419 at random, .438 with gaps). A stopped trial counts as what it would have come to
    (:func:`moalign.strategies.results.results`). Noise is estimated: standard errors are not
    read.

    For small budgets with up to three objectives. A proposal takes two seconds of one core with two
    objectives, three to six with three (20 to 100 trials).

    Example:
        ``search: {strategy: gp, trials: 16}``
    """

    name: ClassVar[str] = "gp"
    coordinates: ClassVar[SimplexCoordinates] = "mirrored-cuts"

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
                f"{count}. Use `strategy: botorch`, or `tpe`, or take objectives off the front "
                "with `use: [train]`"
            )

    def sampler(self, space: Space, seed: int) -> BaseSampler:
        """Return the sampler that maximises the acquisition function."""
        from optuna.samplers import GPSampler

        return GPSampler(
            seed=seed,
            n_startup_trials=self.startup * space.copies,
            warn_independent_sampling=False,
        )
