"""Warm starts along the front: a trial goes on with the policy that is worth most to it already."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Final

from annotated_types import Ge

from moalign.components import Strategy, by_name
from moalign.errors import OptionError
from moalign.strategies.kept import (
    Value,
    axis_weights,
    one_by_one,
    preference_path,
    proposals_so_far,
    ranked,
    values_by_policy,
)
from moalign.types import History, Observation, Proposal, Start

_WARMUP: Final = "training.warmup"


class Continuation(Strategy):
    """Begins trials from the best policy at hand, for fewer steps.

    Another strategy says which parameters come next. Once `after` trials have ended, such a trial
    does not begin from the base policy, but from the policy of the front that is best by the
    trial's own value: with w the trial's weights and f a policy's objectives on validation::

        value(f) = sum_k w_k (f_k - lo_k) / (hi_k - lo_k)

    and takes `steps` steps instead of ``training.steps``. Policies that meet all thresholds
    (``at_least``) come before those that do not. A soup on the front may be the source,
    and so may a trial that stands at a rung. A policy that reads weights in its prompt counts with
    the condition under which it is worth most.

    **Beginning again.** The optimizer's moments are not those of the source, so its first steps are
    the largest it ever takes: the learning rate rises over `warmup` steps, in place of what
    ``training.warmup`` says, unless that is searched.

    **Falling back.** A trial has made progress if its value is above its source's by more than
    `margin` standard errors of their difference. The errors are added as if the two had been
    measured apart; they were measured on the same prompts with the same draws, so an error counted
    so is about two of the difference itself. The source is the best of several that were measured
    with noise, so it looks better than it is, and near the end of what training can do hardly
    anything rises above it: by default a trial need not rise, it must not fall by more than two
    errors, as one does that has lost what its source could. Nor must it miss a threshold that its
    source meets. What stands still is worth as much as the source, which is the best that is known;
    to train the same parameters in full would rarely pay. Without progress, and if the trial
    failed, its parameters are proposed once more, from scratch and at full length; if they have
    been tried from scratch before, they are not.

    **What the other strategy sees.** A trial that made progress stands in its history as one from
    scratch at full length: it is what these parameters lead to, as far as anybody will know. It
    got there by another way, and a model of the parameters sees this as noise. What made no
    progress is left out, its rungs are, and so are soups: the parameters are not to blame for the
    source. Trials that go on now are awaited like any others. It asks for soups itself in vain, so
    `soups` goes around this strategy, not into it.

    **Objectives that are off the front** are not measured for a search: a weight on one says
    nothing about where to begin. The others keep their ratios; a trial with all its weight there
    begins from scratch.

    Source:
        Ours. Going on along a front is continuation, as in Ma et al. 2020, arXiv 2006.16434, which
        steps from weights that are Pareto-stationary along the front. Tried on `arithmetic`, the
        source with the nearest preference had collapsed for 2 of 6 targets, while the best one by
        the target's own value was level with 40 steps from scratch within 10 on most.

    When to use it:
        When training is dear, and weights make the difference between trials. Other parameters
        that are searched (a learning rate) act on the last `steps` steps only.

    Cost:
        None beside the other strategy's. A trial without progress costs `steps` steps more than it
        would have.

    Example::

        search:
          strategy: {continuation: {strategy: botorch, steps: 12, after: 4}}
          space: {weighting.preference: simplex}
    """

    name: ClassVar[str] = "continuation"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"strategy": "random"},
        {"strategy": "random", "after": 2, "margin": 0.0, "warmup": 0},
    )

    def __init__(
        self,
        *,
        strategy: Strategy = by_name("botorch"),
        steps: Annotated[int, Ge(1)] = 12,
        after: Annotated[int, Ge(1)] = 4,
        margin: float = -2.0,
        warmup: Annotated[int, Ge(0)] | None = None,
        by: str | None = None,
    ) -> None:
        """Take the options.

        Args:
            strategy: says which parameters come next.
            steps: of a trial that goes on with a policy.
            after: trials that have ended, from scratch or with progress, before the first one goes
                on from there.
            margin: standard errors by which a trial must rise above its source; 0: any rise will
                do; below 0: by which it may fall behind it.
            warmup: steps over which the learning rate of such a trial rises; default: half of them.
            by: path of the weights that a trial is valued by, if several are searched; default:
                `weighting.preference`.
        """
        self.strategy = strategy
        self.steps = steps
        self.after = after
        self.margin = margin
        self.warmup = steps // 2 if warmup is None else warmup
        self.by = by
        self.corners_first = strategy.corners_first  # type: ignore[misc]

    def check(self, history: History) -> None:
        """Refuse a space without weights to value by, steps that save none, and `cmorl` within."""
        preference_path(history, "strategy continuation", self.by)
        if self.steps >= history.steps:
            raise OptionError(
                f"strategy continuation: `steps` must lie below training.steps ({history.steps}), "
                f"or going on saves nothing; found {self.steps}",
                "steps",
            )
        if self.warmup > self.steps:
            raise OptionError(
                f"strategy continuation: `warmup` must be at most `steps` ({self.steps}), or the "
                f"learning rate is never reached; found {self.warmup}",
                "warmup",
            )
        self.strategy.check(history)
        if any(proposal.settings for proposal in self.strategy.previews(history)):
            raise OptionError(
                f"strategy continuation: `strategy: {self.strategy.name}` says itself where its "
                "trials begin, and would never see what they come to; use it alone, or choose one "
                "that proposes parameters, such as botorch",
                "strategy",
            )

    def previews(self, history: History) -> Sequence[Proposal]:
        """Return those of the other strategy."""
        return self.strategy.previews(history)

    def propose(self, history: History, n: int, seed: int) -> list[Proposal]:
        """Return what is to be tried again from scratch, then what the other strategy proposes."""
        return one_by_one(history, n, lambda known: self._next(known, seed))

    def _next(self, history: History, seed: int) -> Proposal | None:
        path = preference_path(history, "strategy continuation", self.by)
        continued = self._continued(history, path)
        tried = [p.params for p in proposals_so_far(history).values() if _plain(p)]
        for trial in continued.values():
            if trial.problem and trial.proposal.params not in tried:
                return Proposal(trial.proposal.params, reason=trial.problem)
        shown = _shown(history, continued)
        proposal = next(iter(self.strategy.propose(shown, 1, seed)), None)
        if proposal is None or not _plain(proposal) or len(shown.plain()) < self.after:
            return proposal
        return self._warm(history, proposal, path)

    def _warm(self, history: History, proposal: Proposal, path: str) -> Proposal:
        """Return a proposal with the source that is worth most to it, if there is any."""
        weights_K = axis_weights(history.objectives, proposal.params[path])
        if weights_K is None:
            return proposal
        kept = [o for o in history.observations if o.kept]
        sources = ranked(values_by_policy(kept, history.objectives, weights_K))
        if not sources:
            return proposal
        source, worth = sources[0]
        of = f"the best of {len(sources)} kept policies" if len(sources) > 1 else "the policy kept"
        return replace(
            proposal,
            start=Start(((source.trial, source.step),), (1.0,)),
            steps=self.steps,
            settings={} if _WARMUP in history.space else {_WARMUP: self.warmup},
            reason=f"continues {_named(source)}, {of} by its own value, {worth}",
        )

    # --- what became of trials that went on ------------------------------------------------------

    def _continued(self, history: History, path: str) -> dict[int, _Continued]:
        """Return every trial that went on with one policy, by number, and what became of it."""
        found: dict[int, _Continued] = {}
        for number, proposal in sorted(proposals_so_far(history).items()):
            ours = set(proposal.settings) <= {_WARMUP}
            if len(proposal.start.points) != 1 or proposal.steps == 0 or not ours:
                continue
            running = number in history.pending
            problem = "" if running else self._problem(history, number, proposal, path)
            found[number] = _Continued(proposal, running, problem)
        return found

    def _problem(self, history: History, number: int, proposal: Proposal, path: str) -> str:
        """Return why a trial that has ended is to be tried from scratch; empty if it is not."""
        again = "so its parameters are tried from scratch"
        ended = [o for o in history.observations if o.trial == number and o.full]
        if not ended:
            return f"trial {number} began elsewhere and failed, {again}"
        weights_K = axis_weights(history.objectives, proposal.params[path])
        if weights_K is None:
            return ""
        (where,) = proposal.start.points
        measured = [o for o in history.observations if (o.trial, o.step) == where]
        before = values_by_policy(measured, history.objectives, weights_K).get(where)
        after = next(iter(values_by_policy(ended, history.objectives, weights_K).values()), None)
        if before is None:
            return ""
        source, was = before
        if after is None:
            return f"trial {number} went on from {_named(source)} and was not measured, {again}"
        worse = self._worse(was, after[1], _named(source))
        return worse and f"trial {number} {worse}, {again}"

    def _worse(self, was: Value, now: Value, source: str) -> str:
        """Return why a value is no progress from that of its source; empty if it is."""
        if lost := now.missed - was.missed:
            return f"misses the threshold of {', '.join(sorted(lost))}, which {source} meets"
        rise, least = now.mean - was.mean, self.margin * math.hypot(was.stderr, now.stderr)
        if rise > least or (self.margin < 0 and rise == least):  # both 0 without an error
            return ""
        return f"made no progress from {source} ({was} to {now})"


@dataclass(frozen=True, slots=True)
class _Continued:
    """A trial that went on with one policy.

    Attributes:
        proposal: what it runs.
        running: it is not known yet what became of it.
        problem: why it does not count; empty if it does, or may yet.
    """

    proposal: Proposal
    running: bool
    problem: str


def _plain(proposal: Proposal) -> bool:
    return proposal.start.scratch and proposal.steps is None and not proposal.settings


def _named(source: Observation) -> str:
    name = source.name
    return f"{name}, a soup" if source.step == 0 else f"{name} at step {source.step}"


def _shown(history: History, continued: Mapping[int, _Continued]) -> History:
    """Return the history as if trials that made progress had begun from scratch.

    Other trials that did not begin there had never been, and no policy is kept.
    """
    made = proposals_so_far(history)
    counted = {number for number, trial in continued.items() if not trial.problem}
    seen = {n for n, proposal in made.items() if proposal.start.scratch} | counted

    def plain(number: int, proposal: Proposal) -> Proposal:
        return Proposal(proposal.params) if number in counted else proposal

    observations = [
        replace(o, start=Start(), step=history.steps, kept=False)
        if o.trial in counted
        else replace(o, kept=False)
        for o in history.observations
        if o.trial in seen and (o.full or o.trial not in counted)
    ]
    return replace(
        history,
        observations=tuple(observations),
        pending={n: plain(n, p) for n, p in history.pending.items() if n in seen},
        made={n: plain(n, p) for n, p in history.made.items() if n in seen},
        failed=history.failed & seen,
        proposed=history.proposed - (len(made) - len(seen)),
    )
