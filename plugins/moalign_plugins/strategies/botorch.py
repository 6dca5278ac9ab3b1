"""BoTorch as a strategy: improvement of a noisy front, learnt from stopped trials as well."""

from __future__ import annotations

import contextlib
import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

from annotated_types import Ge

from moalign.components import Strategy
from moalign.strategies.coordinates import Coordinates
from moalign.strategies.improvement import hypervolume_improvement, scalarised_improvement
from moalign.strategies.maximise import maximise
from moalign.strategies.regression import Regression, fit
from moalign.strategies.results import floors, normalised, worst
from moalign.types import History, Objective, Observation, Proposal

if TYPE_CHECKING:
    from torch import Tensor

MOST_AXES: Final = 4  # objectives whose hypervolume is computed
SAMPLES: Final = {2: 64, 3: 64, 4: 32}  # of the model, by objectives: four have many more cells
SCALAR_SAMPLES: Final = 128
SPREAD: Final = 16  # points of which the loneliest is tried


class BoTorch(Strategy):
    """Proposes what may add most to the front, given how noisy what is known of it is.

    A Gaussian process per objective (:func:`moalign.strategies.regression.fit`), then:

    - with two to four objectives the logarithm of the noisy expected hypervolume improvement: what
      a trial is expected to add to the front, over fronts and results drawn from the model
      together, so that a point counts as good only as far as its measurement can be trusted;
    - with more, and with one, the noisy expected improvement of a Chebyshev value with weights
      drawn anew for each proposal (ParEGO).

    What it reads:

    - all measurements of trials from scratch, those at rungs too: the share of the training that
      was done is an input of the model, and proposals are compared at the end of training, so
      trials that were stopped teach. The front that is to be improved is that of full trials;
    - trials that failed, as the worst of what others came to in every objective;
    - values no lower than :func:`moalign.strategies.results.floors`;
    - the measured standard errors as each measurement's own noise; what another seed would have
      changed is estimated on top, as at least a hundredth of the objective's spread;
    - trials that run now, and the proposals made before it in the same call, as results that are
      still open. Several proposals are chosen one after the other;
    - thresholds (``at_least``), as the probability of meeting them. While no trial does, proposals
      go where that is likeliest;
    - of several conditions of one checkpoint the first. An objective that was not measured (NaN)
      is left out of that row.

    Weights on a simplex are inputs as they are, and the search moves proportions
    (:func:`moalign.strategies.maximise.maximise`), so corners are points like any other. The
    model looks at a space of up to 512 combinations as a whole, and tries none twice before all
    have been tried.

    Before ``startup`` trials are measured it spreads out: of 16 points of a scrambled Sobol
    sequence that which is farthest from all that is known. If no model can be fitted (its matrices
    are not positive definite in spite of all that BoTorch tries), it does the same, and says so in
    the proposal's reason.

    For few trials that are noisy, stopped early or run side by side. How much of known fronts it
    finds beside the others: ``python -m benchmarks.search --part fronts``. A proposal takes about
    half a second of one core with 20 trials and two objectives, two with 100 and three, four with
    100 and four (``benchmarks/suggestion.py``).

    Source: Daulton, Balandat, Bakshy 2021, arXiv 2105.08195; Ament et al. 2023, arXiv 2310.20708;
    Knowles 2006. Differs: the step as an input with a curve common to all trials; boxes and
    smoothing that keep it within two seconds (see :mod:`moalign.strategies.improvement`).

    Example:
        ``search: {strategy: botorch, trials: 40, rungs: [10, 20]}``
    """

    name: ClassVar[str] = "botorch"

    def __init__(self, *, startup: Annotated[int, Ge(1)] = 5) -> None:
        """Take the number of trials without a model.

        Args:
            startup: measured trials, those of the first corners included, before the model takes
                over.
        """
        self.startup = startup

    def propose(self, history: History, n: int, seed: int) -> list[Proposal]:
        """Choose ``n`` proposals one after the other, each known to the next."""
        coordinates = Coordinates(history.space)
        if not coordinates.width:
            return [Proposal(coordinates.params([])) for _ in range(n)]
        known = _Known(history, coordinates)
        proposals: list[Proposal] = []
        with _alone() as reseed:
            reseed(0)
            model, reason = known.model() if known.trials >= self.startup else (None, "")
            for number in range(history.proposed, history.proposed + n):
                own_seed = random.Random(f"{seed}/{number}").getrandbits(31)
                reseed(own_seed)
                open_ = [coordinates.row(p.params) for p in (*history.awaited(), *proposals)]
                row = None
                if model is not None:
                    row, reason = known.improving(model, open_, own_seed)
                row = row or known.apart(open_, own_seed)
                proposals.append(Proposal(coordinates.params(row), reason=reason))
        return proposals


class _Known:
    """What was measured, as numbers.

    Attributes:
        observations: per trial and step the first, from scratch.
        rows: their parameters, and then those of trials that failed.
        stages: the shares of the training that they had had; 1 for trials that failed.
        trials: how many trials were measured.
        full: the parameters of trials at the end of their training, each once.
    """

    def __init__(self, history: History, coordinates: Coordinates) -> None:
        self.coordinates = coordinates
        self.objectives = history.objectives
        first: dict[tuple[int, int], Observation] = {}
        for one in history.observations:
            # A trial that was made shorter is not the beginning of one of full length.
            comparable = one.start.scratch and (one.step == history.steps or not one.full)
            if one.trial in history.failed:
                continue
            if comparable and 0 < one.step <= history.steps:
                first.setdefault((one.trial, one.step), one)
        self.observations = [o for o in first.values() if any(map(math.isfinite, o.values_K))]
        self.rows = [coordinates.row(one.params) for one in self.observations]
        self.stages = [one.step / history.steps for one in self.observations]
        self.trials = len({one.trial for one in self.observations})
        ends = [row for row, stage in zip(self.rows, self.stages, strict=True) if stage == 1]
        # Without any, what the model predicts of all for the end of training has to do.
        self.full = [list(row) for row in dict.fromkeys(map(tuple, ends or self.rows))]
        failed = [history.made[n] for n in sorted(history.failed) if n in history.made]
        failed = [p for p in failed if p.start.scratch and p.steps is None]
        self.rows += [coordinates.row(proposal.params) for proposal in failed]
        self.stages += [1.0] * len(failed)

    def model(self) -> tuple[Regression | None, str]:
        """Fit the model, or say why there is none."""
        values = [normalised(one, self.objectives) for one in self.observations]
        floors_K = floors(values, self.objectives)
        values = [tuple(map(_higher, row, floors_K)) for row in values]
        units = [objective.unit for objective in self.objectives]
        stderr = [
            [error / unit for error, unit in zip(one.stderr_K, units, strict=True)]
            for one in self.observations
        ]
        failed, axes = len(self.rows) - len(values), len(self.objectives)
        ends = [row for row, stage in zip(values, self.stages, strict=False) if stage == 1]
        values += [worst(ends or values) or (math.nan,) * axes] * failed
        stderr += [[math.nan] * axes] * failed
        try:
            return fit(self.rows, self.stages, values, stderr), ""
        except _numerical() as error:
            return None, _drawn_because(error)

    def improving(
        self, model: Regression, open_: Sequence[list[float]], seed: int
    ) -> tuple[list[float] | None, str]:
        """Return the row that may improve most, or say why none is known."""
        import torch

        try:
            pending = model.inputs(torch.tensor(open_, dtype=torch.double)) if open_ else None
            function, good = self._function(model, pending, seed)
            row = maximise(
                lambda rows: function(model.inputs(rows).unsqueeze(-2)),
                self.coordinates,
                good=good[:, : self.coordinates.width].tolist(),
                taken=[*self.rows, *open_],
                seed=seed,
            )
        except _numerical() as error:
            return None, _drawn_because(error)
        return row, ""

    def _function(
        self, model: Regression, pending: Tensor | None, seed: int
    ) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Return the acquisition function, and the inputs that are good already."""
        import torch

        baseline = model.inputs(torch.tensor(self.full, dtype=torch.double))
        constraints = _constraints(model, self.objectives)
        axes = len(self.objectives)
        if not 2 <= axes <= MOST_AXES:
            return scalarised_improvement(
                model.model,
                baseline,
                constraints=constraints,
                pending=pending,
                samples=SCALAR_SAMPLES,
                seed=seed,
            )
        references = [
            0.0 if o.reference is None else o.normalise(o.reference) for o in self.objectives
        ]
        return hypervolume_improvement(
            model.model,
            model.scaled(torch.tensor(references, dtype=torch.double)),
            baseline,
            constraints=constraints,
            pending=pending,
            samples=SAMPLES[axes],
            seed=seed,
        )

    def apart(self, open_: Sequence[list[float]], seed: int) -> list[float]:
        """Return the one of a few Sobol points that is farthest from all that is known."""
        import torch
        from torch.quasirandom import SobolEngine

        count = self.coordinates.uniforms
        engine = SobolEngine(count, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
        drawn = engine.draw(SPREAD, dtype=torch.double).tolist()
        known = [*self.rows, *open_]
        return max(
            (self.coordinates.drawn(uniforms) for uniforms in drawn),
            key=lambda row: min((math.dist(row, other) for other in known), default=0.0),
        )


def _higher(value: float, floor: float) -> float:
    """Return the higher one; NaN for what was not measured."""
    return value if math.isnan(value) else max(value, floor)


def _constraints(
    model: Regression, objectives: Sequence[Objective]
) -> list[Callable[[Tensor], Tensor]]:
    """Return a function per threshold, at most 0 where samples of the model meet it."""
    import torch

    def missed(index: int, least: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda samples: least - samples[..., index]

    limits = [math.nan if o.at_least is None else o.normalise(o.at_least) for o in objectives]
    scaled = model.scaled(torch.tensor(limits, dtype=torch.double))
    return [missed(k, scaled[k]) for k, o in enumerate(objectives) if o.at_least is not None]


def _numerical() -> tuple[type[Exception], ...]:
    """Return what BoTorch raises where numbers defeat it."""
    from botorch.exceptions.errors import ModelFittingError, OptimizationGradientError
    from linear_operator.utils.errors import NanError, NotPSDError
    from torch.linalg import LinAlgError  # type: ignore[attr-defined]

    return ModelFittingError, OptimizationGradientError, NanError, NotPSDError, LinAlgError


def _drawn_because(error: Exception) -> str:
    words = str(error).splitlines() or [type(error).__name__]
    return f"drawn apart from what is known, because the model failed: {words[0]}"


@contextlib.contextmanager
def _alone() -> Iterator[Callable[[int], object]]:
    """Make what is computed depend on nothing outside, and leave everything outside as it was.

    One thread: sums of parts depend on how many there are. No compiled kernel: BoTorch builds one
    if it finds a compiler, for seconds, and rounds otherwise with it. Nothing that it warns of
    (rounding, a line search that gave up) is for anybody to act on.

    Yields:
        what seeds torch's generator on the CPU, which BoTorch draws from here and there.
    """
    import torch
    from botorch.acquisition.multi_objective import logei
    from botorch.exceptions.warnings import BotorchWarning
    from gpytorch.utils.warnings import GPInputWarning, NumericalWarning
    from threadpoolctl import threadpool_limits

    numerical = (BotorchWarning, GPInputWarning, NumericalWarning)
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    kernel = logei._C, logei._load_attempted
    torch.set_num_threads(1)
    logei._C, logei._load_attempted = None, True
    try:
        with threadpool_limits(1), warnings.catch_warnings(record=True) as caught:
            for category in numerical:
                warnings.simplefilter("ignore", category)
            yield torch.default_generator.manual_seed
        # BoTorch shows some whatever the filters are; all others are for people.
        for one in caught:
            if not issubclass(one.category, numerical):
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    finally:
        logei._C, logei._load_attempted = kernel
        torch.set_num_threads(threads)
        torch.random.set_rng_state(state)
