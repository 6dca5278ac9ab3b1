"""The keys of a study file. One schema; every key is documented where it is defined."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Reference = str | dict[str, dict[str, Any] | None]
"""A component: its name, or ``{name: {option: value}}``."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]


class Section(BaseModel):
    """A mapping of a study file: no unknown keys, no text or booleans for numbers, no NaN."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class ObjectiveSection(Section):
    """One objective."""

    reward: Reference
    """The reward that measures it."""
    output: str | None = None
    """Which output of a reward with several."""
    use: list[Literal["train", "front"]] = ["train", "front"]
    """Whether training reads it, and whether it is an axis of the front."""
    monitor: bool = False
    """Measure it only: neither trained on nor on the front."""
    bounds: tuple[float, float] | None = None
    """Values that count as 0 and 1; default: the reward's range."""
    reference: float | None = None
    """Where hypervolume starts, in raw units; default: the lower bound."""
    at_least: float | None = None
    """A threshold in raw units: what constrained weightings keep, and on the front a constraint."""


class GradientsSection(Section):
    """Which gradients weightings compare that look at gradients."""

    layers: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | None = None
    """First and last transformer layer, from 0; embeddings, head and final norm are left out."""
    only: Literal["all", "lora"] = "all"
    """`lora`: the adapter's matrices, if more than they is trained."""
    sketch: Annotated[int, Field(ge=1)] | None = None
    """Project each side of a weight matrix to so many random directions: less memory, noisier."""

    @field_validator("layers")
    @classmethod
    def _in_order(cls, layers: tuple[int, int] | None) -> tuple[int, int] | None:
        if layers is not None and layers[0] > layers[1]:
            raise ValueError("the first layer must not lie above the last")
        return layers


class PairsSection(Section):
    """Which preferences an optimizer learns from that learns from pairs."""

    source: Literal["task", "samples"] = "task"
    """`task`: its own; `samples`: what the base policy writes, told apart by the rewards."""
    samples: Annotated[int, Field(ge=2)] = 4
    """Completions of each train prompt that the base policy writes, once before training."""
    prompts: Annotated[int, Field(ge=1)] = 1000
    """Most train prompts that it writes for, taken evenly over units."""
    size: Annotated[int, Field(ge=2)] = 2
    """Completions of a prompt that are compared at a time; more than 2 need `samples`."""


class ReplaySection(Section):
    """Learning again from earlier rollouts."""

    steps: Annotated[int, Field(ge=0)] = 0
    """Rollouts that are kept, the latest before this step's; 0: none."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the prompts of one of them, drawn at random, that a step goes on to learn from."""


class TrainingSection(Section):
    """How one trial trains."""

    optimizer: Reference = "grpo"
    """The optimizer: what loss the policy learns from."""
    steps: Annotated[int, Field(ge=1)] = 40
    """Training steps of a full-length trial."""
    prompts: Annotated[int, Field(ge=1)] = 16
    """Prompts per step (P)."""
    group: Annotated[int, Field(ge=1)] = 8
    """Completions per prompt (G)."""
    learning_rate: Annotated[float, Field(gt=0)] = 5.0e-4
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls to 0 over the full length, after the warm-up."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises from 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of AdamW."""
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    combine: Literal["advantages", "rewards"] = "advantages"
    """Whether weights act on normalised advantages or on raw rewards."""
    scale: Literal["none", "calibrated"] = "none"
    """`calibrated`: rewards are first standardised by the base policy's mean and deviation."""
    batch_norm: Literal["none", "sequence", "token"] = "none"
    """Whether the combined advantage is whitened over the batch, and over what."""
    minibatches: Annotated[int, Field(ge=1)] = 1
    """Updates per pass over a rollout; prompts are dealt to them at random."""
    micro_tokens: Annotated[int, Field(ge=1)] = 2048
    """Most tokens, padding included, in one forward pass; raise it on a GPU."""
    pairs: PairsSection = PairsSection()
    """Which preferences an optimizer learns from that learns from pairs."""
    replay: ReplaySection = ReplaySection()
    """Whether each step learns from an earlier rollout, too, with importance weights."""
    gradients: GradientsSection = GradientsSection()
    """Which gradients weightings compare that look at gradients."""
    threads: Annotated[int, Field(ge=1)] = 1
    """Torch threads of a worker."""


class EvaluationSection(Section):
    """How a policy is measured."""

    prompts: Annotated[int, Field(ge=1)] = 256
    """Most prompts of a split that are used, evenly over units, each with all its preferences."""
    samples: Annotated[int, Field(ge=1)] = 2
    """Completions per prompt."""
    conditions: list[dict[str, float]] | Literal["default"] = "default"
    """Weights to measure a weight-conditioned policy under; default: equal, and .6 on each."""


class RangeSection(Section):
    """A number to search: integers if both ends are written as integers."""

    low: int | float
    """Smallest value."""
    high: int | float
    """Largest value."""
    log: bool = False
    """Uniform in the logarithm."""


class ChoicesSection(Section):
    """A value to choose."""

    choices: Annotated[list[str | int | float | bool], Field(min_length=1)]
    """The values."""


class SearchSection(Section):
    """How the front is searched."""

    strategy: Reference = "botorch"
    """The strategy: what proposes trials."""
    trials: Annotated[int, Field(ge=1)] = 16
    """Trials in all."""
    rungs: list[Annotated[int, Field(ge=1)]] = []
    """Steps at which trials are ranked and the weaker ones stopped, rising."""
    keep: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the trials ranked at a rung that goes on."""
    order: Literal["logical", "arrival"] = "logical"
    """`logical`: repeatable to the bit; `arrival`: faster with uneven trials."""
    space: dict[str, Literal["simplex"] | RangeSection | ChoicesSection] = {}
    """What is searched: the path of a value, and where it may lie."""


class ReportSection(Section):
    """What is reported."""

    preferences: list[dict[str, float]] | Literal["default"] = "default"
    """Preferences to report utility at; default: the centre, and .6 on each objective."""
    resamples: Annotated[int, Field(ge=100)] = 1000
    """Bootstrap resamples."""


class StudySection(Section):
    """A study: a question about a task, a policy and some objectives."""

    study: Name
    """Its name; also the run's name unless `--run` gives another."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of everything random."""
    task: Reference
    """Prompts and references."""
    policy: Reference = "scratch"
    """Where the base policy comes from."""
    objectives: Annotated[dict[Name, ObjectiveSection], Field(min_length=1)]
    """The objectives by name."""
    rollout: Reference = "eager"
    """The engine that samples completions."""
    training: TrainingSection = TrainingSection()
    """How one trial trains."""
    weighting: Reference = "fixed"
    """What turns a step into weights."""
    evaluation: EvaluationSection = EvaluationSection()
    """How a policy is measured."""
    search: SearchSection = SearchSection()
    """How the front is searched."""
    executor: Reference = "processes"
    """What runs segments."""
    trackers: list[Reference] = ["mlflow"]
    """Where events are written."""
    report: ReportSection = ReportSection()
    """What is reported."""
