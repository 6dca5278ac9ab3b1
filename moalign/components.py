"""What a plugin author subclasses: one base class per kind of component. No torch at import.

A component is a class with a kebab-case ``name``, a docstring that is its documentation page, and
a constructor whose keyword arguments *are* its options: the host checks a study's values against
the type hints before it calls it. Built-in components have no privileges.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator

from moalign.types import scores_differ

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer
    from torch import Tensor
    from torch.nn import Parameter
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from moalign.types import (
        Batch,
        Demonstration,
        History,
        Objective,
        Pair,
        Preparation,
        Prompt,
        Proposal,
        ResponseScores,
        Rows,
        SegmentTask,
        Split,
        Step,
        Weights,
        WorkerEvent,
    )


def _checked_preference(value: dict[str, float]) -> dict[str, float]:
    for name, weight in value.items():
        if not math.isfinite(weight) or weight < 0:
            raise ValueError(f"the weight of {name!r} must be finite and >= 0; found {weight}")
    if sum(value.values()) <= 0:
        raise ValueError("at least one weight must be > 0; all are 0")
    return value


Preference = Annotated[dict[str, float], AfterValidator(_checked_preference)]
"""Weights by objective name: finite, non-negative, not all zero; the host divides by their sum."""


def by_name(name: str) -> Any:
    """Return the default of an option that takes a component: the host builds the one so called.

    Example: ``def __init__(self, *, loss: Optimizer = by_name("dpo")) -> None``.
    """
    return name


class Component(ABC):
    """Root of all components.

    A constructor only checks and stores its options: the host builds a component several times
    (at every check, in every worker). What is slow to load is loaded at first use.

    Attributes:
        kind: what it is; set by the base class of the kind.
        name: kebab-case, unique within its kind.
        examples: options, as a study gives them, that the contract suites build it with; needed
            where an option has no default. Objectives are called ``a`` (no threshold), ``b`` and
            ``c`` there.
    """

    kind: ClassVar[str]
    name: ClassVar[str]
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)


class Stateful(Component):
    """A component that may learn or remember; its state is part of every checkpoint.

    After ``b.load_state_dict(a.state_dict())`` the two must behave alike, bit for bit.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return the state: tensors, numbers, text, and lists and dicts of these."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state that :meth:`state_dict` returned; its tensors are on the CPU."""
        if state:
            raise ValueError(f"{self.kind} {self.name} keeps no state, but was given {list(state)}")


class Task(Component):
    """Prompts with references; may offer demonstrations and a tokenizer for scratch policies."""

    kind: ClassVar[str] = "task"

    @abstractmethod
    def prompts(self) -> Sequence[Prompt]:
        """Return all prompts. Deterministic; the same ones at every call.

        Raises:
            moalign.errors.DataError: if a file is missing, malformed or empty.
        """

    def demonstrations(self, seed: int) -> Sequence[Demonstration]:
        """Return completions to imitate, from the train split only; empty if there are none."""
        return ()

    def pairs(self, seed: int, split: Split = "train") -> Sequence[Pair]:
        """Return preferences between completions of a split's prompts; empty if there are none.

        Equal seeds give equal pairs. Those of ``train`` are learned from; those of the others
        measure how often a policy agrees.
        """
        return ()

    def tokenizer(self) -> Tokenizer | None:
        """Return a tokenizer for a policy built from scratch; None lets the policy train one.

        It must know the special tokens ``<pad>``, ``<bos>``, ``<sep>`` and ``<eos>``.
        """
        return None

    def surface(self, prompt: Prompt, text: str) -> str:
        """Return what people and text rewards read for a completion as the model wrote it."""
        return text

    def parse(self, text: str) -> Prompt:
        """Return the prompt for what a person typed.

        Raises:
            moalign.errors.DataError: if the task cannot read it; the message shows an example.
        """
        from moalign.types import Prompt

        return Prompt(id="typed", text=text)

    def facts(self) -> Mapping[str, Any]:
        """Return what loading found (rows used and skipped, units per split), for the report."""
        return {}

    def left_out(self, what: Literal["prompts", "pairs"]) -> Sequence[str]:
        """Return in sentences why there are no more of them: what was left out, and where it is.

        Messages end with these that say that a split has too few prompts, or no preferences.
        """
        return ()


class Reward(Stateful):
    """Scores completions; higher is better, always.

    Attributes:
        range: (lo, hi) of its values, the default bounds of an objective; None if unbounded.
        outputs: names of its outputs; empty for a reward with one.
        needs: what it reads beside texts and prompts: ``logprobs``, ``ref_logprobs``, ``hidden``,
            ``field:NAME`` for a field of the prompts, or ``pairs``: it scores the completions of
            preferences (``batch.pairs_P``), so only optimizers that learn from pairs can train on
            it, and what is measured is how often the policy agrees: the share of held-out pairs
            whose better one it has made likelier, against the reference policy, than the other.
        graded: how far its scores lie apart means something; False: only which is higher does.
        example_fields: some values of each field that it reads, for the contract suite.
    """

    kind: ClassVar[str] = "reward"
    range: tuple[float, float] | None = None
    outputs: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[frozenset[str]] = frozenset()
    graded: bool = True
    example_fields: ClassVar[Mapping[str, Sequence[Any]]] = {}

    @abstractmethod
    def score(self, batch: Batch) -> RewardValues | Awaitable[RewardValues]:
        """Score every row of a batch; it sees whole groups.

        Returns:
            B numbers (a list, array or tensor), or a [B, T] tensor of per-token rewards whose sum
            is the score, or one of these per output by name. NaN: the objective does not apply.
            May be a coroutine; those of one step are awaited together.
        """

    def covers(self, pair: Pair) -> bool:
        """Return whether a preference is this reward's to judge; default: all are.

        Asked of rewards that need ``pairs`` only. Of the others it says nothing by design; where
        it says nothing of one that it covers, something is missing, and people are told.
        """
        return True

    def check_pairs(self, pairs: Sequence[Pair]) -> None:
        """Check the options against the preferences of a split, before any training.

        Asked of rewards that need nothing but ``pairs`` and fields of the prompts.

        Raises:
            moalign.errors.OptionError: naming the option, what was found and what is allowed.
        """
        return


RewardValues = Any
"""A sequence of B numbers, a tensor [B] or [B, T], or a mapping from output to one of these."""


class Weighting(Stateful):
    """Turns what is known about the objectives at a step into weights.

    A weighting with a constructor argument of type ``Preference | None`` has a preference: a
    weight for each training objective, uniform if it is None. The host normalises it and passes
    it as ``step.preference_K``. Of several such arguments only one called ``preference`` is; the
    host checks the names of the others, and a search may search each of them on the simplex. An
    option ``blend`` says what share of the weights the preference is.

    Attributes:
        needs: what it asks of the step: ``gram``, ``steer`` (evaluation on the steer split or a
            probe row), ``prompt_features``, ``losses``; and of the task: ``pairs``, preferences
            that :meth:`prepare` learns from.
        declares: ``signed`` if weights may be negative, ``unnormalised`` if they do not sum to 1,
            ``conditioned`` if they follow ``step.batch.conditions_PK`` where there are any,
            ``offline`` if they do not read how the policy's own completions scored, so that they
            serve an optimizer that learns from pairs only,
            ``prompt-weights`` if :meth:`prompt_weights` says what a prompt calls for,
            ``gradient-weights`` if they mean something only where training adds up the gradients
            of ``step.gram()`` with them, ``response-scores`` if :meth:`weigh` returns
            :class:`ResponseScores`, which leave ``training.combine`` nothing to do.
    """

    kind: ClassVar[str] = "weighting"
    needs: frozenset[str] = frozenset()
    declares: frozenset[str] = frozenset()

    def recipe(self) -> Mapping[str, Any] | None:
        """Return the options that :meth:`prepare` depends on, as plain data; None: no such stage.

        What is prepared is kept under a hash of these, the task, the base policy, the objectives
        and the seed, and loaded by every trial that asks for the same.
        """
        return None

    def prepare(self, context: Preparation) -> dict[str, Any]:
        """Learn, once and before any training, what :meth:`load_prepared` takes over.

        Called on an instance of its own. Equal contexts give equal results.

        Returns:
            a state: tensors, numbers, text, and lists and dicts of these.

        Raises:
            moalign.errors.DataError: there is nothing to learn from.
        """
        raise NotImplementedError(f"weighting {self.name} has nothing to prepare")

    def load_prepared(self, prepared: Mapping[str, Any]) -> None:
        """Take over what :meth:`prepare` returned, before the first step; it never changes."""
        raise NotImplementedError(f"weighting {self.name} has nothing to prepare")

    def prompt_weights(self, prompts: Sequence[Prompt], features: Callable[[], Tensor]) -> Tensor:
        """Return the weights that prompts call for, before anything is sampled.

        With a policy that reads weights, these are written into the prompt where nobody asks for
        others: in half of each training batch, in a measurement of its own, and when it is used.

        Args:
            prompts: P prompts.
            features: returns their features, [P, D], as ``step.prompt_features()`` does.

        Returns:
            [P, K] on the simplex.
        """
        raise NotImplementedError(f"weighting {self.name} has no weights per prompt")

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check the options against the study's training objectives, before any training.

        Raises:
            moalign.errors.OptionError: naming the option, what was found and what is allowed.
        """
        return

    def check_measured(self, objectives: Sequence[Objective]) -> None:
        """Check the options against all that the study measures, before any training.

        Called after :meth:`check` with the training objectives, and those that are only on the
        front or monitored: what ``step.evaluate`` knows.

        Raises:
            moalign.errors.OptionError: naming the option, what was found and what is allowed.
        """
        return

    @abstractmethod
    def weigh(self, step: Step) -> Weights | ResponseScores:
        """Return the weights for this step's batch.

        Plain maths on small tensors: no logging, no model. What it learns from this step may
        change its state.
        """

    def update_minibatch(self, step: Step) -> Weights | None:
        """Return new weights for the next mini-batch; None keeps those in force.

        Called before each mini-batch of each epoch, with the same step as :meth:`weigh`.
        """
        return None


class Optimizer(Stateful):
    """Turns weighted advantages, or preferences and weights, into a policy loss.

    One that learns from rollouts has :meth:`advantages` and :meth:`loss`; one that learns from
    pairs has :meth:`losses`, or :meth:`pair_loss` if it is no weighted sum of losses; one that
    learns from both has all of them, and the two losses are added.

    Attributes:
        learns_from: what it needs: rollouts, pairs, or both.
        needs: what it reads beside the log-probabilities of the policy that sampled:
            ``ref_logprobs``; ``logprobs`` of preferences, under the policy at the beginning of the
            step; of a batch also ``hidden`` and ``greedy_scores``.
        min_group: fewest completions per prompt that make sense.
        max_group: most of them; None: any number.
        rewarded: its rollouts are learned from by how they score; False: by a term of its own, and
            scores are only what weightings look at.
        epochs: passes over each batch.
        extrapolates: each step takes its gradient where a step on another rollout, of the same
            prompts, would lead; only that gradient moves the policy. One gradient step per batch.
        whole_groups: its loss compares the completions of a prompt: all of them are in one
            micro-batch. Always so for preferences.
        per_objective: what it learns belongs to the objectives one by one, so it can make nothing
            of a score that is made of several.
        graded: of preferences it learns by how far scores lie apart, so a reward whose scores say
            only which completion is better (not ``graded``) teaches it nothing of its own.
        shiftable: advantages may be shifted and divided over the batch (``training.batch_norm``);
            False: what lies above 0, or how far two completions lie apart, means something.
        scalable: advantages may be multiplied by what scores were divided by (``training.scale``)
            and by weights of any sum; False: their unit means something.
        reweighs: its loss weighs completions by how much likelier they have become since they were
            sampled, within limits, so it can learn from earlier rollouts (``training.replay``).
        own_learning_rate: peak learning rate of :meth:`parameters`; follows the study's schedule.
    """

    kind: ClassVar[str] = "optimizer"
    learns_from: ClassVar[Literal["rollouts", "pairs", "both"]] = "rollouts"
    needs: frozenset[str] = frozenset()
    min_group: ClassVar[int] = 1
    max_group: int | None = None
    rewarded: ClassVar[bool] = True
    epochs: int = 1
    extrapolates: ClassVar[bool] = False
    whole_groups: ClassVar[bool] = False
    per_objective: ClassVar[bool] = False
    graded: bool = False
    shiftable: ClassVar[bool] = True
    scalable: bool = True
    reweighs: ClassVar[bool] = False
    own_learning_rate: float = 1e-3

    # --- before training -----------------------------------------------------------------------

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check the options against the study's training objectives, before any training.

        Raises:
            moalign.errors.OptionError: naming the option, what was found and what is allowed.
        """
        return

    def begin(self, objectives: Sequence[Objective], width: int, seed: int) -> None:
        """Get ready for a trial, before its first step and before a state is loaded.

        Args:
            objectives: the K training objectives, the order of every K.
            width: D of the policy's hidden states.
            seed: for what is drawn at random.
        """
        return

    def parameters(self) -> Sequence[Parameter]:
        """Return what it trains beside the policy (value heads); made in :meth:`begin`.

        Trained by the same steps, with :attr:`own_learning_rate` and a clipping of its own; part
        of :meth:`state_dict`. Never weighted.
        """
        return ()

    # --- rollouts ------------------------------------------------------------------------------

    def advantages(self, scores_PGK: Tensor, batch: Batch) -> Tensor:
        """Return advantages per objective.

        Every objective is treated on its own: column k depends on column k only, and permuting
        the objectives permutes the result. NaN scores get advantage 0 and no influence. What the
        loss needs beside them is left in ``batch.kept``.

        Returns:
            [B, 1, K], or [B, T, K] if they depend on the token; float32, finite.
        """
        raise NotImplementedError(f"optimizer {self.name} does not learn from rollouts")

    def select(self, advantages_PG: Tensor) -> Tensor | None:
        """Return which completions of each prompt the loss learns from; None: all.

        Only these are passed through the policy.

        Args:
            advantages_PG: combined, the mean over a completion's tokens.

        Returns:
            int64 [P, S]: indices below G, different from one another in a row.
        """
        return None

    def loss(
        self, logprobs_BT: Tensor, rows: Rows, advantages_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of some rows (to be minimised) and metrics.

        Args:
            logprobs_BT: of the tokens under the policy that is trained; 0 on padding.
            rows: masks, old log-probabilities and the totals to divide by.
            advantages_BT: combined; [B, T], or [B, 1].

        Returns:
            the rows' share of the mini-batch's loss, and shares of metrics; both add up.
        """
        raise NotImplementedError(f"optimizer {self.name} does not learn from rollouts")

    # --- preferences ---------------------------------------------------------------------------

    def applies(self, scores_PGK: Tensor) -> Tensor:
        """Return for which prompts an objective has a loss, bool [P, K].

        Default: where two of the completions have different scores.
        """
        return scores_differ(scores_PGK)

    def losses(self, logprobs_BT: Tensor, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of each prompt for each objective, and metrics.

        Args:
            logprobs_BT: of the tokens under the policy that is trained; 0 on padding.
            rows: whole groups, with their scores: which completion an objective prefers.

        Returns:
            [P, K], NaN where :meth:`applies` is False; and shares of metrics, which add up.
        """
        raise NotImplementedError(f"optimizer {self.name} has no loss per objective")

    def pair_loss(
        self, logprobs_BT: Tensor, rows: Rows, weights_PK: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of some preferences and metrics: ``sum_k w_k mean_p loss_pk``.

        The mean is over the prompts of the mini-batch that the objective applies to. Overridden
        where weights enter in another way.

        Args:
            logprobs_BT: of the tokens under the policy that is trained; 0 on padding.
            rows: whole groups, with their scores and the counts to divide by.
            weights_PK: of the objectives.

        Returns:
            the rows' share of the mini-batch's loss, and shares of metrics; both add up.
        """
        losses_PK, metrics = self.losses(logprobs_BT, rows)
        assert rows.counts_K is not None, "rows of preferences have counts"
        shares_PK = weights_PK / rows.counts_K.clamp(min=1)
        # Not a product with 0: the gradient of a NaN would be NaN.
        return (shares_PK * losses_PK.where(~losses_PK.isnan(), 0.0)).sum(), metrics


@dataclass(frozen=True)
class Completions:
    """What a rollout returns.

    Attributes:
        ids_BT: int64, right-padded with ``pad_id``; the end token is kept.
        mask_BT: float32, 1.0 on completion tokens, the end token included.
        finished_B: bool, False where the token limit cut it off.
    """

    ids_BT: Tensor
    mask_BT: Tensor
    finished_B: Tensor


class Rollout(Component):
    """Produces completions; a stateless engine.

    Attributes:
        max_tokens: limit per completion, end token included.
        temperature: divides the logits; log-probabilities are taken at the same temperature. 0, in
            what :meth:`greedy` returns: the likeliest token.
    """

    kind: ClassVar[str] = "rollout"
    max_tokens: int
    temperature: float = 1.0

    @abstractmethod
    def generate(
        self,
        model: PreTrainedModel,
        prompt_ids_P: Sequence[Sequence[int]],
        *,
        group: int,
        seeds_B: Sequence[int],
        end_ids: frozenset[int],
        pad_id: int,
    ) -> Completions:
        """Sample ``group`` completions per prompt.

        A row's completion depends on the model, its prompt and its seed only, not on the other
        rows, so that comparisons are paired.
        """

    def greedy(self) -> Rollout:
        """Return the same engine at temperature 0: it takes the likeliest token, whatever the seed.

        Optional: optimizers that need ``greedy_scores`` are refused without it.
        """
        raise NotImplementedError(f"rollout {self.name} cannot take the likeliest token")


@dataclass(frozen=True)
class LoadedPolicy:
    """A model with what is needed to talk to it.

    Attributes:
        model: a causal language model, on CPU in its stored dtype.
        tokenizer: its tokenizer.
        render: token ids of a prompt under a condition (weights by objective, or None).
        end_ids: tokens that end a completion.
        pad_id: token that fills right padding.
        speaks: one or two sentences for the model card: what the bare model reads and writes.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    render: Callable[[Prompt, Mapping[str, float] | None], list[int]]
    end_ids: frozenset[int]
    pad_id: int
    speaks: str = ""


class PolicySource(Component):
    """Where the study's base policy comes from.

    Attributes:
        condition: ``"weights"`` if the policy reads the weights in its prompt, else ``"none"``.
        has_lora: whether LoRA adapters are trained; None if only building it can tell.
    """

    kind: ClassVar[str] = "policy"
    condition: Literal["none", "weights"] = "none"
    has_lora: bool | None = None

    def depth(self) -> int | None:
        """Return how many transformer layers the policy will have; None if only building can tell.

        A study that names layers beyond is then refused before anything is built.
        """
        return None

    @abstractmethod
    def recipe(self, task: Task, seed: int, objectives: Sequence[str]) -> Mapping[str, Any]:
        """Return everything the base policy depends on, as plain data; its hash names the cache."""

    @abstractmethod
    def build(
        self,
        task: Task,
        seed: int,
        objectives: Sequence[str],
        folder: Path,
        progress: Callable[[float, str], None],
    ) -> None:
        """Write the base policy to ``folder`` (safetensors, config, tokenizer). Deterministic.

        Args:
            task: gives demonstrations and possibly a tokenizer.
            seed: the study's seed.
            objectives: the names a condition may mention.
            folder: exists and is empty.
            progress: call with the share done in [0, 1] and a few words.
        """

    @abstractmethod
    def load(self, folder: Path, objectives: Sequence[str]) -> LoadedPolicy:
        """Load what :meth:`build` wrote, ready to train (with LoRA: the adapter attached)."""


class Strategy(Component):
    """Proposes trials: a function of the history and a seed, without memory.

    Attributes:
        corners_first: True if the host proposes the near-corners and the centre of each simplex
            before it asks the strategy.
    """

    kind: ClassVar[str] = "strategy"
    corners_first: ClassVar[bool] = True

    def check(self, history: History) -> None:
        """Check that the space can be searched this way, before any training.

        Raises:
            moalign.errors.OptionError: naming the path, what was found and what is allowed.
        """
        return

    def previews(self, history: History) -> Sequence[Proposal]:
        """Return proposals like those to come whose settings go beyond the search space.

        The host checks before any training that the study can run them: a strategy does not know
        the study.
        """
        return ()

    @abstractmethod
    def propose(self, history: History, n: int, seed: int) -> list[Proposal]:
        """Return at most ``n`` proposals; fewer only if there is nothing left to propose.

        The host asks again once more is known, and ends the search when nothing runs any more.
        Equal arguments give equal proposals.
        """


class Executor(Component):
    """Runs segments: in this process, in worker processes, on a cluster."""

    kind: ClassVar[str] = "executor"
    workers: int

    @abstractmethod
    def open(self, segment: SegmentFunction) -> None:
        """Get ready to run ``segment``, a module-level function that any process can import."""

    @abstractmethod
    def submit(self, task: SegmentTask) -> None:
        """Queue a segment; returns at once. A worker keeps a trial in memory between segments."""

    @abstractmethod
    def wait(self, seconds: float) -> list[WorkerEvent]:
        """Return what happened, waiting up to ``seconds`` if nothing has."""

    @abstractmethod
    def forget(self, trial: int) -> None:
        """Let go of what a worker keeps of a trial."""

    @abstractmethod
    def close(self) -> None:
        """Stop all workers; safe to call twice."""


SegmentFunction = Any
"""``segment(task: SegmentTask, emit: Callable[[StepEvent], None], cache: dict) -> None``.

``cache`` is the worker's memory. What belongs to a trial lies in ``cache["trials"]``, a mapping
whose keys end with the trial's number; :func:`moalign.execution.forget` lets go of it.
"""


class Tracker(Component):
    """Writes what happens somewhere else: implements announce hooks of :mod:`moalign.hookspecs`.

    The driver calls it from one thread; a tracker that raises is reported and does not stop
    training. It must not read back what it wrote.
    """

    kind: ClassVar[str] = "tracker"

    def flush(self) -> None:
        """Write everything that is queued."""
        return

    def close(self) -> None:
        """Flush and let go of resources; safe to call twice."""
        return


KINDS: tuple[type[Component], ...] = (
    Task,
    Reward,
    Weighting,
    Optimizer,
    Rollout,
    PolicySource,
    Strategy,
    Executor,
    Tracker,
)
"""Every kind of component, in the order in which a study meets them."""

__all__ = [
    "KINDS",
    "Completions",
    "Component",
    "Executor",
    "LoadedPolicy",
    "Optimizer",
    "PolicySource",
    "Preference",
    "Reward",
    "RewardValues",
    "Rollout",
    "SegmentFunction",
    "Stateful",
    "Strategy",
    "Task",
    "Tracker",
    "Weighting",
    "by_name",
]
