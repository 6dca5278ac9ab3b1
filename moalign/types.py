"""The values that pass between the host and its plugins. No torch at import.

Shape legend, used in names and docstrings: ``P`` prompts, ``G`` completions per prompt, ``B = P*G``
rows (``b = p*G + g``), ``T`` completion tokens, ``K`` objectives, always the last axis. Scores are
float32; higher is better; NaN says that an objective does not apply to a row, and is never a zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

SPLITS: Final = ("train", "steer", "validation", "test")
Split = Literal["train", "steer", "validation", "test"]


# --- what a task gives -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt.

    Attributes:
        id: unique within the task.
        text: what the policy reads.
        fields: what the task knows about it (reference, answer, ...); read by rewards.
        unit: what the bootstrap resamples; prompts of one unit are averaged first. Default: the id.
        split: where the task puts it; None lets the host split by a hash of the text.
        messages: the conversation that the text is a transcript of, each with ``role`` (system,
            user, assistant) and ``content``; a policy with a chat template reads these instead.
            Empty: there is none, and the text is what a user says.
    """

    id: str
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    unit: str = ""
    split: Split | None = None
    messages: Sequence[Mapping[str, str]] = ()

    def __post_init__(self) -> None:
        if not self.unit:
            object.__setattr__(self, "unit", self.id)


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt's text and a completion to imitate, as the policy reads and writes them."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Two completions of a prompt, as a policy writes them, one of which people prefer.

    Attributes:
        prompt: what they answer.
        chosen: what is preferred.
        rejected: what is not.
        group: the group of people that the preference is of; empty if there are no groups.
        annotator: whose preference it is; empty if that is not known.
        chosen_scores: what people said of the preferred one, by a name of the task's; higher is
            better.
        rejected_scores: the same of the other one.
        where: file and line that it was read from, for messages; empty if there are none.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    group: str = ""
    annotator: str = ""
    chosen_scores: Mapping[str, float] = field(default_factory=dict)
    rejected_scores: Mapping[str, float] = field(default_factory=dict)
    where: str = field(default="", compare=False)


# --- objectives --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Objective:
    """A named reward output in a study.

    Attributes:
        name: the study's own name for it.
        bounds: (lo, hi) that normalise a value to [0, 1]; None only for a monitored objective.
        train: it has a column in ``scores_PGK``.
        front: it is an axis of the front.
        at_least: a threshold in raw units, or None.
        reference: where hypervolume starts, in raw units; None means the lower bound.
        measure: what measures it: equal, if not empty, for objectives with one reward and output.
    """

    name: str
    bounds: tuple[float, float] | None
    train: bool = True
    front: bool = True
    at_least: float | None = None
    reference: float | None = None
    measure: str = ""

    @property
    def unit(self) -> float:
        """How far apart the bounds are, ``hi - lo`` in raw units; 1 where there are none."""
        return 1.0 if self.bounds is None else self.bounds[1] - self.bounds[0]

    def normalise(self, value: float) -> float:
        """Return ``(value - lo) / (hi - lo)``; not clipped."""
        assert self.bounds is not None, f"objective {self.name} has no bounds"
        return (value - self.bounds[0]) / self.unit


# --- one training step -------------------------------------------------------------------------


@dataclass
class Cost:
    """What was spent, in tokens; strategies read these, never seconds.

    Attributes:
        generated: completion tokens sampled.
        forwarded: tokens (prompt and completion) passed forward outside sampling.
        backwarded: tokens passed backward; K gradients by one pass count as (1 + K) / 2 passes.
    """

    generated: int = 0
    forwarded: int = 0
    backwarded: int = 0

    def add(self, other: Cost) -> None:
        """Add ``other`` to this, in place."""
        self.generated += other.generated
        self.forwarded += other.forwarded
        self.backwarded += other.backwarded

    def to_json(self) -> dict[str, int]:
        """Return the three counts by name."""
        return {
            "generated": self.generated,
            "forwarded": self.forwarded,
            "backwarded": self.backwarded,
        }


class Batch:
    """Prompts and their sampled completions: what rewards and optimizers see.

    Lazy values (:attr:`logprobs_BT`, :attr:`ref_logprobs_BT`, :attr:`hidden_BTD`,
    :attr:`greedy_scores_PK`) are computed by the host at first use, once, and shared; outside the
    host they come from ``lazy``.

    Attributes:
        prompts_P: the prompts.
        group: G, completions per prompt.
        prompt_ids_P: token ids of each prompt as the policy read it.
        texts_B: surface texts: what people and text rewards read.
        raw_texts_B: the completions as the model wrote them.
        ids_BT: completion token ids, right-padded, int64.
        mask_BT: 1.0 on completion tokens, the end token included, 0.0 on padding; float32.
        finished_B: False where the completion was cut off by the token limit; bool.
        conditions_PK: the weights written into each prompt, or None.
        token_rewards_BTK: per-token rewards where an objective gives them (its score is their
            sum), NaN columns where it does not; None if no objective does. Set by the host.
        pairs_P: the preferences whose two completions these are, the preferred one first (group is
            2); None if they are no preferences.
        kept: tensors with the B rows (and T tokens) first that :meth:`Optimizer.advantages` leaves
            for the loss, by name; empty at first.
    """

    def __init__(
        self,
        *,
        prompts_P: Sequence[Prompt],
        group: int,
        prompt_ids_P: Sequence[Sequence[int]],
        texts_B: Sequence[str],
        raw_texts_B: Sequence[str],
        ids_BT: Tensor,
        mask_BT: Tensor,
        finished_B: Tensor,
        conditions_PK: Tensor | None = None,
        token_rewards_BTK: Tensor | None = None,
        pairs_P: Sequence[Pair] | None = None,
        lazy: Mapping[str, Callable[[], Tensor]] | None = None,
    ) -> None:
        self.prompts_P = tuple(prompts_P)
        self.group = group
        self.prompt_ids_P = tuple(tuple(ids) for ids in prompt_ids_P)
        self.texts_B = tuple(texts_B)
        self.raw_texts_B = tuple(raw_texts_B)
        self.ids_BT = ids_BT
        self.mask_BT = mask_BT
        self.finished_B = finished_B
        self.conditions_PK = conditions_PK
        self.token_rewards_BTK = token_rewards_BTK
        self.pairs_P = None if pairs_P is None else tuple(pairs_P)
        self.kept: dict[str, Tensor] = {}
        self._lazy = dict(lazy or {})
        self._values: dict[str, Tensor] = {}

    @property
    def rows(self) -> int:
        """B, the number of completions."""
        return len(self.texts_B)

    @property
    def prompts_B(self) -> tuple[Prompt, ...]:
        """The prompt of every row."""
        return tuple(prompt for prompt in self.prompts_P for _ in range(self.group))

    def fields(self, name: str) -> list[Any]:
        """Return field ``name`` of every row's prompt, a list of B; KeyError if one lacks it."""
        return [prompt.fields[name] for prompt in self.prompts_B]

    def lengths_B(self) -> Tensor:
        """Return the number of completion tokens of every row, end token included; int64."""
        return self.mask_BT.sum(-1).long()

    def has(self, name: str) -> bool:
        """Return True if a lazy value (``logprobs``, ``ref_logprobs``) has been computed."""
        return name in self._values

    def offer(self, name: str, compute: Callable[[], Tensor]) -> None:
        """Offer a lazy value, such as ``greedy_scores``, beside those that it was made with."""
        self._lazy[name] = compute

    def _get(self, name: str) -> Tensor:
        if name not in self._values:
            if name not in self._lazy:
                raise KeyError(
                    f"this batch cannot provide {name!r}; declare it in `needs`, so that the host "
                    f"provides it (it has: {', '.join(sorted(self._lazy)) or 'nothing'})"
                )
            self._values[name] = self._lazy[name]()
        return self._values[name]

    @property
    def logprobs_BT(self) -> Tensor:
        """Log-probabilities of the tokens under the policy that sampled them; 0 on padding."""
        return self._get("logprobs")

    @property
    def ref_logprobs_BT(self) -> Tensor:
        """Log-probabilities of the tokens under the reference policy; 0 on padding."""
        return self._get("ref_logprobs")

    @property
    def hidden_BTD(self) -> Tensor:
        """Last hidden states of the policy at the positions that predict each token."""
        return self._get("hidden")

    @property
    def greedy_scores_PK(self) -> Tensor:
        """Raw scores of the completion that takes the likeliest token each time; NaN as usual.

        Sampled by the policy that sampled the batch, from the same prompts.
        """
        return self._get("greedy_scores")


@dataclass(frozen=True)
class Rows:
    """Some rows of a batch, as a loss sees them: a micro-batch of a mini-batch.

    A loss divides by the *mini-batch's* totals, so the losses of its micro-batches add up to the
    loss of the mini-batch; so do the metrics.

    Attributes:
        mask_BT: 1.0 on completion tokens, 0.0 on padding.
        old_logprobs_BT: log-probabilities under the policy that sampled; for preferences, if the
            optimizer needs ``logprobs``, under the policy at the beginning of the step.
        ref_logprobs_BT: under the reference policy; None unless the optimizer needs it.
        total_rows: rows of the whole mini-batch.
        total_tokens: completion tokens of the whole mini-batch.
        max_tokens: the rollout's token limit.
        group: G, rows per prompt, if the optimizer has ``whole_groups``: rows are then
            ``p * G + g``; else 1.
        scores_BK: raw scores per objective; None unless they are preferences.
        counts_K: how many prompts of the whole mini-batch have a loss for each objective; None
            unless they are preferences.
        kept: what :meth:`Optimizer.advantages` left in :attr:`Batch.kept`, of these rows.
    """

    mask_BT: Tensor
    old_logprobs_BT: Tensor
    ref_logprobs_BT: Tensor | None
    total_rows: int
    total_tokens: int
    max_tokens: int
    group: int = 1
    scores_BK: Tensor | None = None
    counts_K: Tensor | None = None
    kept: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """Measured objectives of one policy under one condition on one split.

    Attributes:
        names: the K objectives, monitored ones included.
        units: the U bootstrap units, in a fixed order.
        values_UK: mean over the unit's samples, NaN where the objective does not apply; raw.
        cost: what it took.
        samples: a few completions with their scores, for people.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    values_UK: list[list[float]]
    cost: Cost
    samples: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Weights:
    """What a weighting returns: weights per objective and a gain.

    Attributes:
        values: broadcastable to [P, G, K]: [K], [P, 1, K] or [P, G, K]. Non-negative and summing
            to 1 over K, unless the weighting declares ``signed`` or ``unnormalised``.
        gain: multiplies the combined advantage last; a number or a tensor [P, 1]; default 1. If
            it is 0 for all prompts the batch teaches nothing: no step is taken on it, neither by
            the optimizer's momentum nor by terms of the loss that no objective has a part in.
        metrics: numbers to record, by name (multipliers, hypervolume, ...).
        notes: sentences for people (a threshold that cannot be reached, ...), each said once per
            trial; a sentence that should not be repeated must not change from step to step.
    """

    values: Tensor
    gain: float | Tensor = 1.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def still(self) -> bool:
        """Whether the gain is 0 for all prompts."""
        return self.gain == 0 if isinstance(self.gain, float | int) else not self.gain.any()


@dataclass(frozen=True)
class ResponseScores:
    """What a response-level scalariser returns: one score per completion, normalised by the host.

    Attributes:
        values_PG: higher is better; NaN where no objective applies.
        metrics: numbers to record, by name.
        notes: sentences for people, as in :class:`Weights`.
    """

    values_PG: Tensor
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def scores_differ(scores_PGK: Tensor) -> Tensor:
    """Return where two completions of a prompt have different scores, bool [P, K]."""
    low_PK = scores_PGK.nan_to_num(nan=float("inf")).amin(1)
    high_PK = scores_PGK.nan_to_num(nan=-float("inf")).amax(1)
    return low_PK < high_PK


class Step:
    """What is known at one training step: the argument of :meth:`Weighting.weigh`.

    The tensors are plain data. :meth:`gram`, :meth:`gradient_norms_K`, :meth:`prompt_features` and
    :meth:`evaluate` are computed on demand by the host, at most once per step, and charged to the
    trial.

    Attributes:
        objectives: the K training objectives, in the order of the last axis.
        preference_K: the weighting's preference, normalised to sum 1; uniform if it has none.
        index: number of this step, from 0.
        total: the trial's full number of steps, never a rung.
        learning_rate: of this step, after the schedule.
        scores_PGK: raw scores.
        advantages_BTK: per objective, normalised by the optimizer; [B, 1, K] if they do not
            depend on the token.
        batch: prompts and completions.
        losses_K: losses per objective or group, for preference optimizers; else None.
        applies_PK: for which prompts an objective has such a loss; else where its scores differ.
    """

    def __init__(
        self,
        *,
        objectives: Sequence[Objective],
        preference_K: Tensor,
        index: int,
        total: int,
        learning_rate: float,
        scores_PGK: Tensor,
        advantages_BTK: Tensor,
        batch: Batch,
        losses_K: Tensor | None = None,
        applies_PK: Tensor | None = None,
        gram: Callable[[tuple[str, ...]], Tensor] | None = None,
        gradient_norms: Callable[[], Tensor] | None = None,
        prompt_features: Callable[[], Tensor] | None = None,
        evaluate: Callable[[Split], Evaluation] | None = None,
    ) -> None:
        self.objectives = tuple(objectives)
        self.preference_K = preference_K
        self.index = index
        self.total = total
        self.learning_rate = learning_rate
        self.scores_PGK = scores_PGK
        self.advantages_BTK = advantages_BTK
        self.batch = batch
        self.losses_K = losses_K
        self.applies_PK = scores_differ(scores_PGK) if applies_PK is None else applies_PK
        self._gram = gram
        self._gradient_norms = gradient_norms
        self._prompt_features = prompt_features
        self._evaluate = evaluate
        self._cache: dict[Any, Any] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the K training objectives."""
        return tuple(objective.name for objective in self.objectives)

    def thresholds(self) -> dict[str, float]:
        """Return ``at_least`` of the objectives that have one, by name, in raw units."""
        return {o.name: o.at_least for o in self.objectives if o.at_least is not None}

    def mean_scores_K(self) -> Tensor:
        """Return the mean raw score per objective over the batch, NaN-aware."""
        return self.scores_PGK.flatten(0, 1).nanmean(0)

    def _need(self, name: str, given: Callable[..., Any] | None) -> Callable[..., Any]:
        if given is None:
            raise KeyError(
                f"this step cannot provide {name!r}; declare it in the weighting's `needs`, so "
                "that the host provides it"
            )
        return given

    def gram(self, probes: tuple[str, ...] = ()) -> Tensor:
        """Return inner products of the per-objective policy gradients.

        Row and column k < K belong to objective k: minus the gradient of the optimizer's loss with
        that objective's advantages alone, at the policy that sampled. What does not depend on
        advantages (a divergence in the loss, entropy) is left out. Each probe adds a row and
        column: ``"steer"`` is the gradient for the sum of all objectives' advantages, each times K
        times its preference, on a batch of the steer split. Parameters: those that
        ``training.gradients`` names, else all.

        Returns:
            float64 ``[K + len(probes), K + len(probes)]``, symmetric, positive semi-definite.
        """
        key = ("gram", probes)
        if key not in self._cache:
            self._cache[key] = self._need("gram", self._gram)(probes)
        value: Tensor = self._cache[key]
        return value

    def gradient_norms_K(self) -> Tensor:
        """Return the norms of the gradients of :meth:`gram`, but of everything that is trained.

        They are the roots of its diagonal unless ``training.gradients`` names a part of the
        parameters; then ask for the norms first: both come from one pass.

        Returns:
            float64 ``[K]``.
        """
        if "norms" not in self._cache:
            self._cache["norms"] = self._need("gram", self._gradient_norms)()
        value: Tensor = self._cache["norms"]
        return value

    def prompt_features(self) -> Tensor:
        """Return one feature vector per prompt, ``[P, D]`` float32.

        The mean over the prompt of the base policy's last hidden states, whatever the policy in
        training has become, and without the weights that may be written into the prompt.
        """
        if "features" not in self._cache:
            self._cache["features"] = self._need("prompt_features", self._prompt_features)()
        value: Tensor = self._cache["features"]
        return value

    def evaluate(self, split: Split) -> Evaluation:
        """Measure the current policy on ``split`` ('steer' during training)."""
        key = ("evaluate", split)
        if key not in self._cache:
            self._cache[key] = self._need("evaluate", self._evaluate)(split)
        value: Evaluation = self._cache[key]
        return value


# --- before training ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Preparation:
    """What a component may use to learn something before any training.

    Attributes:
        objectives: the K training objectives.
        seed: the study's; everything random is drawn from it.
        prompts: the train prompts.
        pairs: the task's preferences, of train prompts; empty if it has none.
        score: raw scores ``[N, K]`` of N given completions, as a policy writes them, one per
            prompt: ``score(prompts, completions)``; NaN where an objective does not apply.
        features: one feature vector per prompt, as ``step.prompt_features()`` gives them:
            ``features(prompts)``, ``[N, D]`` float32.
        progress: call with the share done in [0, 1] and a few words.
    """

    objectives: tuple[Objective, ...]
    seed: int
    prompts: tuple[Prompt, ...]
    pairs: tuple[Pair, ...]
    score: Callable[[Sequence[Prompt], Sequence[str]], Tensor]
    features: Callable[[Sequence[Prompt]], Tensor]
    progress: Callable[[float, str], None]


# --- search ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FloatRange:
    """A number in [low, high], uniform, or uniform in the logarithm."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True, slots=True)
class IntRange:
    """An integer in [low, high], both ends included."""

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some values (text, numbers or booleans)."""

    options: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Simplex:
    """Non-negative weights that sum to 1, one per name; sampled uniformly."""

    names: tuple[str, ...]


Parameter = FloatRange | IntRange | Choice | Simplex
"""A search dimension; a value is a float, an int, an option, or ``{name: weight}``."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a trial's policy begins.

    Attributes:
        points: archived policies as ``(trial, step)``; empty means the base policy ("scratch").
        shares: how a soup mixes them; sums to 1; one entry per point.
    """

    points: tuple[tuple[int, int], ...] = ()
    shares: tuple[float, ...] = ()

    @property
    def scratch(self) -> bool:
        """True if the trial starts from the base policy."""
        return not self.points


@dataclass(frozen=True, slots=True)
class Proposal:
    """One trial to run.

    Attributes:
        params: value of every searched path, for example ``{"training.learning_rate": 3e-4}``.
        start: where its policy begins.
        steps: full length; None means ``training.steps`` of the study, 0 that nothing is trained
            and the start itself is measured (a soup).
        settings: fixed values by path that the strategy adds (C-MORL's thresholds); a path may
            name a component, and they replace what parameters say of it.
        reason: why this and from there, in a sentence for people; empty: it is a plain proposal.
    """

    params: Mapping[str, Any]
    start: Start = Start()
    steps: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""

    @property
    def soup(self) -> bool:
        """True if nothing is trained: the start is measured alone."""
        return self.steps == 0 and not self.start.scratch

    @property
    def values(self) -> dict[str, Any]:
        """What it sets in the study, by path: settings, and the parameters that these leave."""
        kept = {
            path: value
            for path, value in self.params.items()
            if not any(f"{path}.".startswith(f"{setting}.") for setting in self.settings)
        }
        return {**kept, **self.settings}


@dataclass(frozen=True, slots=True)
class Observation:
    """One measurement of one trial on validation.

    Attributes:
        trial: its number.
        step: training steps taken.
        full: True if this is the trial's full length.
        start: where it began.
        condition: the weights written into the prompts, by objective, or None.
        params: the proposal's parameters.
        values_K: raw means of the front objectives, in the study's order.
        stderr_K: their standard errors.
        cost: tokens spent by the trial up to here, validation included.
        kept: its policy is still on disk, so a trial may start from it.
    """

    trial: int
    step: int
    full: bool
    start: Start
    condition: Mapping[str, float] | None
    params: Mapping[str, Any]
    values_K: tuple[float, ...]
    stderr_K: tuple[float, ...]
    cost: Cost
    kept: bool = False

    @property
    def name(self) -> str:
        """What people call the policy that was measured: ``t03``, at a rung ``t03-s15``."""
        return f"t{self.trial:02d}" + ("" if self.full else f"-s{self.step}")


@dataclass(frozen=True)
class History:
    """All that a strategy may read: a proposal is a function of it and a seed.

    Attributes:
        space: the search dimensions by path.
        objectives: the K front objectives, with bounds and thresholds.
        observations: measurements in the order in which they were consumed.
        pending: proposals that run now, by trial number.
        steps: full length of a trial.
        trials: how many trials the study runs in all.
        proposed: how many proposals exist already.
        made: these proposals by trial number, those that run or have failed, too.
        failed: numbers of the trials that failed, with values that the space allows; what they
            measured before is no result.
    """

    space: Mapping[str, Parameter]
    objectives: tuple[Objective, ...]
    observations: tuple[Observation, ...]
    pending: Mapping[int, Proposal]
    steps: int
    trials: int
    proposed: int
    made: Mapping[int, Proposal] = field(default_factory=dict)
    failed: frozenset[int] = frozenset()

    def plain(self) -> tuple[Observation, ...]:
        """Return from-scratch, full-length observations, one per trial: its first condition's."""
        first: dict[int, Observation] = {}
        for observation in self.observations:
            if observation.full and observation.start.scratch:
                first.setdefault(observation.trial, observation)
        return tuple(first.values())

    def awaited(self) -> tuple[Proposal, ...]:
        """Return the proposals that run now and will be observed in full, from scratch."""
        return tuple(p for p in self.pending.values() if p.start.scratch and p.steps is None)


# --- segments and executors --------------------------------------------------------------------

BASE: Final = -1
"""The trial number of the base policy."""


@dataclass(frozen=True)
class SegmentTask:
    """A stretch of one trial: the unit of work, retry and stopping. Plain data.

    With ``since == until`` nothing is trained: the policy that stands there is measured.

    Attributes:
        run: the run's folder.
        trial: its number; :data:`BASE` is the base policy, which has step 0 only.
        study: the study with the proposal's values filled in, as plain data.
        start: where the policy begins.
        since: step of the checkpoint to go on from; 0 means the start.
        until: step to stop at, a rung or the full length.
        total: the trial's full length; the schedule's horizon.
        split: what is measured at the end.
        attempt: number of this attempt, from 0.
        plugins: plugin files to load, with their hashes.
        threads: torch threads.
    """

    run: Path
    trial: int
    study: Mapping[str, Any]
    start: Start
    since: int
    until: int
    total: int
    split: Split = "validation"
    attempt: int = 0
    plugins: tuple[tuple[Path, str], ...] = ()
    threads: int = 1


@dataclass(frozen=True)
class StepEvent:
    """One training step happened.

    Attributes:
        trial: of which trial.
        step: steps taken, from 1.
        time: seconds since the epoch, set where it happened.
        metrics: numbers by name, ``objective/accuracy``, ``weight/accuracy``, ``loss``...
        notes: sentences for people that this trial has not said before.
    """

    trial: int
    step: int
    time: float
    metrics: Mapping[str, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SegmentDone:
    """A segment ended well; its checkpoint folder stands.

    Attributes:
        trial: of which trial.
        step: where it stands.
        split: what was measured.
        seconds: wall-clock.
    """

    trial: int
    step: int
    split: Split
    seconds: float


@dataclass(frozen=True)
class SegmentFailed:
    """A segment ended badly.

    Attributes:
        trial: of which trial.
        step: where it should have got to.
        split: what would have been measured.
        reason: a sentence.
        retry: True if the worker was lost and the same work may succeed; False if the trial
            itself failed (non-finite loss, a reward that raised).
        fatal: True if every trial would meet it (full disk, damaged checkpoint, changed plugin):
            the study stops, and nothing is held against the trial.
        detail: traceback for the log, or empty.
    """

    trial: int
    step: int
    split: Split
    reason: str
    retry: bool
    fatal: bool = False
    detail: str = ""


WorkerEvent = StepEvent | SegmentDone | SegmentFailed

__all__ = [
    "BASE",
    "SPLITS",
    "Batch",
    "Choice",
    "Cost",
    "Demonstration",
    "Evaluation",
    "FloatRange",
    "History",
    "IntRange",
    "Objective",
    "Observation",
    "Pair",
    "Parameter",
    "Preparation",
    "Prompt",
    "Proposal",
    "ResponseScores",
    "Rows",
    "SegmentDone",
    "SegmentFailed",
    "SegmentTask",
    "Simplex",
    "Split",
    "Start",
    "Step",
    "StepEvent",
    "Weights",
    "WorkerEvent",
]
