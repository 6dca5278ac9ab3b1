"""NSGA-III: non-dominated sorting and reference directions, by Optuna."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from moalign.strategies.genetic import GeneticStrategy

if TYPE_CHECKING:
    from optuna.samplers import BaseGASampler


class Nsga3(GeneticStrategy):
    """Crosses the parameters of the best trials, as many in each direction: for many objectives.

    Optuna's ``NSGAIIISampler``. Generations and children are those of `nsga2`, but of the front
    that does not fit whole it keeps the trials whose directions from the ideal have the fewest
    others: objectives are measured from the best value of each, in units of the intercepts of the
    plane through the front's extremes, and a trial belongs to the nearest of ``C(K + 2, 3)`` lines
    (all directions in thirds; K objectives). An empty line gets the nearest trial, another a random
    one of its own.

    Source: Deb and Jain 2014, "An evolutionary many-objective optimization algorithm using
    reference-point-based nondominated sorting approach", parts I and II. Differs: as `nsga2`, and
    generations are smaller than the number of lines.

    For four objectives and more, where nearly all trials are non-dominated and crowding distances
    say little: with weights of five objectives and a rate, hypervolume after 32, 60 and 200 trials
    .043, .053 and .073, with `nsga2` .038, .044 and .056, at random .030, .035 and .049 (standard
    errors .001; generations of 6, the first six are corners and centre).

    Takes some 10 to 50 ms of a CPU for 40 to 200 results. Optuna calls it experimental.

    Example:
        ``search: {strategy: nsga3, trials: 200}``
    """

    name: ClassVar[str] = "nsga3"

    def sampler_class(self) -> type[BaseGASampler]:
        """Return Optuna's NSGA-III."""
        from optuna.samplers import NSGAIIISampler

        return NSGAIIISampler
