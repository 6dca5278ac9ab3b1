"""NSGA-II: non-dominated sorting and crowding distance, by Optuna."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from moalign.strategies.genetic import GeneticStrategy

if TYPE_CHECKING:
    from optuna.samplers import BaseGASampler


class Nsga2(GeneticStrategy):
    """Crosses the parameters of the best trials, of equal ones those in the emptiest places.

    Optuna's ``NSGAIISampler``. The first ``population`` trials, the first corners included, are the
    first generation, drawn at random but for the corners. From then on a trial is a child of two
    parents, each the better of two drawn: every parameter is one's or the other's, or, one time in
    ten, all are one parent's; then each is drawn anew with probability ``1 / D`` (D parameters).
    Parents are the best ``population`` of the generation before and of its own parents: front by
    front (non-dominated sorting), and of the front that does not fit whole the trials with the
    largest crowding distance, ``sum_k (next_k - previous_k) / range_k`` over the neighbours of a
    trial in each objective; the ends of a front come first. Trials that miss a threshold
    (``at_least``) stand behind all that meet it, the less they miss in sum the better. What runs
    now has its place in a generation. So has what was stopped, as what it
    would have come to (:func:`moalign.strategies.results.results`).

    Source: Deb, Pratap, Agarwal, Meyarivan 2002, "A fast and elitist multiobjective genetic
    algorithm: NSGA-II". Differs: uniform crossover and drawing anew, Optuna's defaults, instead of
    simulated binary crossover and polynomial mutation, which were better on one of four small
    problems, and worse on that of weights; one child of two parents instead of two; a child that
    is known already is made again, up to 20 times.

    For hundreds of trials with up to three objectives, many parameters and choices among them. With
    few trials a model is far ahead (of BraninCurrin's hypervolume this reaches .39 in 60 trials,
    random search .25, and Optuna's ``GPSampler``, which `gp` asks, .94 in 40), and generations have
    to be small. Three objectives, their weights and a rate, hypervolume after 16, 32 and 60 trials,
    the first four being corners and centre: .332, .372 and .406 with a population of 6; .320, .367
    and .399 with 8; .304, .321 and .343 with Optuna's 50; .307, .324 and .345 at random (standard
    errors .002).

    Takes some 10 to 50 ms of a CPU for 40 to 200 results.

    Example:
        ``search: {strategy: nsga2, trials: 200}``
    """

    name: ClassVar[str] = "nsga2"

    def sampler_class(self) -> type[BaseGASampler]:
        """Return Optuna's NSGA-II."""
        from optuna.samplers import NSGAIISampler

        return NSGAIISampler
