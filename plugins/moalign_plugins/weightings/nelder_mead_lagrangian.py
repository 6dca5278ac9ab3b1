"""Multipliers whose thresholds are searched for while the policy trains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from annotated_types import Gt, Le, Lt

from moalign.components import Weighting
from moalign.errors import DataError, OptionError, nearest
from moalign.maths.nelder_mead import NelderMead
from moalign.types import Weights
from moalign.weightings.constrained import Constrained, Constraint

if TYPE_CHECKING:
    from moalign.types import Evaluation, Objective, Step

REPEATS: Final = 100
"""Most points in a row that remembered scores may answer: then the simplex is too small."""


class NelderMeadLagrangian(Weighting):
    """Searches the thresholds of a `lagrangian` by Nelder and Mead's simplex, inside one run.

    A point of the search, theta, has a target for each constraint. The policy trains toward it for
    `share` of the trial's steps, or until every batch mean is close, ``|J_i - theta_i| <= tolerance
    |theta_i|``; then it is measured on the steer split, and the search, told f(theta) = -score,
    answers with the next theta (`moalign.maths.nelder_mead`; reflection 1, expansion 2, contraction
    and shrinkage 0.5). A theta that is close to a known one, in every target, takes its score
    without training.

    The first simplex, of N + 1 thetas for N constraints, is the study's own targets and N times::

        J(start) + U(0, 1) * (hi - J(start))          J(start): measured before the first step

    Thetas are kept within the objectives' bounds. The search ends when the deviation of the
    simplex's scores is below `stop`, or when less than two shares of the steps are left; the steps
    that are left train toward the best theta, which is said in a sentence. With fewer than N + 1
    thetas tried it is the best of these.

    The policy is not reset from one theta to the next, nor are the multipliers. So a score belongs
    to a theta *and* the way there; a later theta has the advantage of more training. A policy that
    hardly moves in its share scores all thetas alike, which ends the search at the first simplex:
    give it more steps, faster multipliers, or a smaller `stop`.

    `score` names an objective, monitored ones included, or gives weights to several that are
    trained on. It is the mean on steer in units of the bounds; of a monitored objective, raw.

    Source:
        NM-PPO of "Confronting Reward Model Overoptimization with Constrained RLHF", arXiv
        2310.04373, appendix A.4, algorithm 3: with `equal` targets, the `kl` reward as primary.
        Published: ``{first: random, contraction: inside, expansion: beats}``. Differs: targets
        belong to names, where the authors' configuration seems to swap two; the split is steer; the
        last share goes to the best theta.

    When to use it:
        A score to be maximised that is no good as a reward (slow, or easily cheated), rewards that
        stand in for it up to a point, and no idea of the point.

    Cost:
        One evaluation of the steer split per theta, and one at the start.

    Example::

        objectives:
          closeness: {reward: kl, bounds: [-10, 0]}
          clarity:   {reward: steps-shown, use: [train]}
          accuracy:  {reward: exact-answer, use: [front]}
        weighting:
          nelder-mead-lagrangian:
            constrained: {lagrangian: {primary: closeness, equal: {clarity: 0.5}}}
            score: accuracy
    """

    name: ClassVar[str] = "nelder-mead-lagrangian"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"constrained": {"lagrangian": {"primary": "a"}}, "score": "b"},
        {
            "constrained": {"lagrangian": {"primary": "b", "equal": {"a": 0.4}}},
            "score": {"a": 2.0, "b": 1.0},
            "share": 0.04,
            "first": "random",
            "contraction": "inside",
            "expansion": "beats",
        },
    )

    def __init__(
        self,
        *,
        constrained: Weighting,
        score: str | dict[str, float],
        share: Annotated[float, Gt(0), Le(0.5)] = 0.125,
        tolerance: Annotated[float, Gt(0), Lt(1)] = 0.05,
        stop: Annotated[float, Gt(0)] = 0.01,
        first: Literal["given", "random"] = "given",
        contraction: Literal["both", "inside"] = "both",
        expansion: Literal["better", "beats"] = "better",
    ) -> None:
        """Take the options.

        Args:
            constrained: the weighting whose targets are searched: a `lagrangian`.
            score: what is maximised: an objective's name, or weights by objective.
            share: of the trial's steps, for one theta.
            tolerance: how close counts as reached, and as known; a share of the target.
            stop: deviation of the simplex's scores that ends the search.
            first: whether the study's own targets are the first theta, or that is random too.
            contraction: whether the simplex also contracts `inside` only.
            expansion: whether an expansion is kept if it is `better` than the reflection, or if it
                `beats` the best theta so far.
        """
        if not isinstance(constrained, Constrained):
            raise self._error(
                "constrained",
                f"takes a weighting with targets, lagrangian; found {constrained.name}",
            )
        if isinstance(score, dict) and not (
            all(weight >= 0 for weight in score.values()) and sum(score.values()) > 0
        ):
            raise self._error("score", f"needs weights >= 0, one of them above 0; found {score}")
        self.constrained = constrained
        self.score = score
        self.share = share
        self.tolerance = tolerance
        self.stop = stop
        self.first = first
        self.contraction = contraction
        self.expansion = expansion
        self.needs = frozenset({"steer"}) | constrained.needs
        self.declares = constrained.declares
        self._search: NelderMead | None = None
        self._targets: dict[str, float] = {}
        self._since = 0
        self._known: list[list[Any]] = []  # [targets by name, score]
        self._settled = False

    # --- before training -----------------------------------------------------------------------

    def _error(self, option: str, problem: str) -> OptionError:
        return OptionError(f"weighting nelder-mead-lagrangian: `{option}` {problem}", option)

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check the nested weighting, that the simplex fits in, and what is scored."""
        self.constrained.check(objectives)
        bounds = {o.name: o.bounds for o in objectives}
        constraints = self.constrained.constraints(objectives)
        for constraint in constraints:
            if bounds[constraint.name] is None:
                raise OptionError(
                    f"weighting nelder-mead-lagrangian: objective {constraint.name!r} needs "
                    "`bounds`, between which its target is searched"
                )
        points, needed = int(1.0 / self.share + 1e-9) - 1, len(constraints) + 1
        if constraints and points < needed:
            raise self._error(
                "share",
                f"of {self.share:g} leaves room for {points} thetas and the best; "
                f"{len(constraints)} targets need {needed} or more, so at most 1/{needed + 1}",
            )
        if isinstance(self.score, dict):
            for name in self.score:
                if name not in bounds:
                    raise self._error("score", f"names {name!r}; {nearest(name, bounds)}")
                if bounds[name] is None:
                    raise self._error("score", f"weighs {name!r}, which needs `bounds` for that")

    def check_measured(self, objectives: Sequence[Objective]) -> None:
        """Check the nested weighting, and that a single score is measured."""
        self.constrained.check_measured(objectives)
        names = [o.name for o in objectives]
        if isinstance(self.score, str) and self.score not in names:
            raise self._error("score", f"names {self.score!r}; {nearest(self.score, names)}")

    # --- training ------------------------------------------------------------------------------

    def weigh(self, step: Step) -> Weights:
        """Choose the targets, and return what the nested weighting makes of them."""
        constraints = sorted(self.constrained.constraints(step.objectives), key=lambda c: c.name)
        metrics: dict[str, float] = {}
        notes: list[str] = []
        if constraints and self._search is None:
            self._begin(step, constraints)
        elif constraints and not self._settled and self._done(step, constraints):
            metrics["score"] = self._told(step)
            notes = self._go_on(step)
        self.constrained.aim(self._targets)
        returned = self.constrained.weigh(step)
        assert isinstance(returned, Weights), "a Lagrangian gives weights"
        metrics |= {f"target/{name}": target for name, target in self._targets.items()}
        metrics["thetas"] = float(len(self._known))
        return replace(
            returned,
            metrics={**returned.metrics, **metrics},
            notes=(*returned.notes, *notes),
        )

    def update_minibatch(self, step: Step) -> Weights | None:
        """Leave it to the nested weighting."""
        return self.constrained.update_minibatch(step)

    def _begin(self, step: Step, constraints: Sequence[Constraint]) -> None:
        """Measure the start and choose the first simplex; coordinates are in the names' order."""
        import torch

        evaluation = step.evaluate("steer")
        self._score(evaluation, step.objectives)  # what applies to no prompt is found at once
        bounds = {o.name: o.bounds for o in step.objectives}
        low_N, high_N, start_N = [], [], []
        for constraint in constraints:
            low, high = bounds[constraint.name] or (-math.inf, math.inf)
            low_N.append(low)
            high_N.append(high)
            start_N.append(self._measured(evaluation, constraint.name))
        count = len(constraints)
        # The host has seeded torch by (study seed, trial, step).
        draws = torch.rand(count + 1, count, dtype=torch.float64).tolist()
        simplex = [
            [s + u * (h - s) for s, u, h in zip(start_N, draws_N, high_N, strict=True)]
            for draws_N in draws
        ]
        if self.first == "given":
            simplex[0] = [constraint.target for constraint in constraints]
        self._search = NelderMead(
            simplex,
            low=low_N,
            high=high_N,
            contraction=self.contraction,
            expansion=self.expansion,
        )
        self._targets = dict.fromkeys(sorted(c.name for c in constraints), 0.0)
        self._take(self._search.ask(), step)

    def _take(self, theta_N: Sequence[float], step: Step) -> None:
        """Train toward these targets from this step on."""
        self._targets = dict(zip(self._targets, theta_N, strict=True))
        self._since = step.index

    def _budget(self, step: Step) -> int:
        return max(1, int(self.share * step.total + 1e-9))

    def _done(self, step: Step, constraints: Sequence[Constraint]) -> bool:
        """Return whether these targets have had their steps, or are reached by this batch."""
        trained = step.index - self._since
        if trained >= self._budget(step):
            return True
        means = dict(zip(step.names, step.mean_scores_K().tolist(), strict=True))
        return trained > 0 and all(self._close(means[c.name], c.target) for c in constraints)

    def _close(self, value: float, target: float) -> bool:
        return abs(value - target) <= self.tolerance * abs(target)

    def _told(self, step: Step) -> float:
        """Measure what these targets have led to, tell the search, and return it."""
        assert self._search is not None
        score = self._score(step.evaluate("steer"), step.objectives)
        self._known.append([dict(self._targets), score])
        self._search.tell(-score)
        return score

    def _go_on(self, step: Step) -> list[str]:
        """Take the next targets, or the best ones to the end; then say so."""
        assert self._search is not None
        for _ in range(REPEATS):
            if self._search.spread() < self.stop:
                break
            theta_N = self._search.ask()
            known = self._score_known(theta_N)
            if known is None:
                if step.index + 2 * self._budget(step) > step.total:
                    break
                self._take(theta_N, step)
                return []
            self._search.tell(-known)
        self._settled = True
        theta_N, value = self._search.best()
        self._take(theta_N, step)
        targets = ", ".join(f"{name} {target:.4g}" for name, target in self._targets.items())
        return [
            f"weighting nelder-mead-lagrangian: of {len(self._known)} thetas the best, with a "
            f"score of {-value:.4g}, is {targets}; the steps that are left train toward it"
        ]

    def _score_known(self, theta_N: Sequence[float]) -> float | None:
        """Return the score of the nearest known targets that are close in each, or None."""
        near = []
        for targets, score in self._known:
            pairs = list(zip(targets.values(), theta_N, strict=True))
            if all(self._close(old, new) for old, new in pairs):
                near.append((sum((old - new) ** 2 for old, new in pairs), score))
        return min(near)[1] if near else None

    def _score(self, evaluation: Evaluation, objectives: Sequence[Objective]) -> float:
        weights = self.score if isinstance(self.score, dict) else {self.score: 1.0}
        bounded = {o.name: o for o in objectives if o.bounds is not None}
        total = 0.0
        for name, weight in weights.items():
            value = self._measured(evaluation, name)
            total += weight * (bounded[name].normalise(value) if name in bounded else value)
        return total / sum(weights.values())

    def _measured(self, evaluation: Evaluation, name: str) -> float:
        """Return an objective's mean over units."""
        column = evaluation.names.index(name)
        values = [row[column] for row in evaluation.values_UK if not math.isnan(row[column])]
        if not values:
            raise DataError(
                f"weighting nelder-mead-lagrangian: objective {name} applies to no prompt of the "
                "steer split, so it has no mean; give it prompts there"
            )
        return math.fsum(values) / len(values)

    def state_dict(self) -> dict[str, Any]:
        """Return the search, the present targets and their start, and the nested state."""
        return {
            "constrained": self.constrained.state_dict(),
            "search": {} if self._search is None else self._search.state_dict(),
            "targets": dict(self._targets),
            "since": self._since,
            "known": [[dict(targets), score] for targets, score in self._known],
            "settled": self._settled,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self.constrained.load_state_dict(state["constrained"])
        self._search = NelderMead.from_state(state["search"]) if state["search"] else None
        self._targets = dict(state["targets"])
        self._since = int(state["since"])
        self._known = [[dict(targets), float(score)] for targets, score in state["known"]]
        self._settled = bool(state["settled"])
        self.constrained.aim(self._targets)
