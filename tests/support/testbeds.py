"""Test beds without a language model: a softmax policy over arms, trained by the real loop.

A plugin file (``plugins.load([testbeds.FILE])``) with

- task ``arms``: a completion is one token, the number of an arm, which has a value per objective:
  a front, or two families of prompts;
- reward ``arm-value``: the value of one objective;
- policy ``tabular``: a ``PreTrainedModel`` whose logits are one trainable row per family.

Beside it, what tests need to make a trial and to read off its policy exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import CausalLMOutput

from moalign import (
    LoadedPolicy,
    Pair,
    PolicySource,
    Prompt,
    Reward,
    Task,
    Weighting,
    Weights,
    hookimpl,
    plugins,
)
from moalign.plugins import Catalogue
from moalign.search.artifacts import calibration, ensure_base, prepared, samples
from moalign.search.folders import RunFolder
from moalign.study.loading import load
from moalign.study.study import Study
from moalign.training.loop import Trial
from moalign.training.policy import Policy
from moalign.types import SPLITS, Split

FILE = Path(__file__)
PER_SPLIT = 20

# Deep-sea treasure (mo_gymnasium): steps there, and the treasure, of the convex and concave map.
STEPS = (1, 3, 5, 7, 8, 9, 13, 14, 17, 19)
TREASURES = {
    "treasure-convex": (0.7, 8.2, 11.5, 14.0, 15.1, 16.1, 19.6, 20.3, 22.4, 23.7),
    "treasure-concave": (1.0, 2.0, 3.0, 5.0, 8.0, 16.0, 24.0, 50.0, 74.0, 124.0),
}
DEEPEST, SLOWEST = 124.0, 25.0


def table(front: Front) -> dict[str, list[float]]:
    """Return the value of every arm by objective, ``x`` and ``y``, each in [0, 1].

    Args:
        front: ``concave``: y = (1 - sqrt x)^2, 5 arms, below the line between the ends;
            ``convex``: y = sqrt(1 - x^2), above it; ``treasure-concave``, ``treasure-convex``:
            deep-sea treasure, x = treasure / 124 and y = 1 - steps / 25.
    """
    if front == "concave":
        roots = [i / 4 for i in range(5)]
        x, y = [v**2 for v in roots], [(1 - v) ** 2 for v in roots]
    elif front == "convex":
        angles = [math.pi / 8 * i for i in range(5)]
        x, y = [math.sin(a) for a in angles], [math.cos(a) for a in angles]
    else:
        x = [treasure / DEEPEST for treasure in TREASURES[front]]
        y = [1 - steps / SLOWEST for steps in STEPS]
    return {"x": x, "y": y}


@dataclass(frozen=True)
class World:
    """What a task is made of.

    Attributes:
        values: of every arm, by objective.
        wanted: the preferred arm of each family of prompts.
    """

    values: Mapping[str, list[float]]
    wanted: Mapping[str, int]


# In each of the two families another objective is wanted, and the third arm is a compromise.
FAMILIES = World(
    values={"accuracy": [1.0, 0.0, 0.6], "brevity": [0.0, 1.0, 0.6]},
    wanted={"accuracy": 0, "brevity": 1},
)
# With the objectives of the contract suites.
THREE = World(
    values={
        "a": [0.9, 0.2, 0.1, 0.5],
        "b": [0.1, 0.8, 0.3, 0.45],
        "c": [0.3, 0.1, 1.0, 0.55],
        "flat": [0.5, 0.5, 0.5, 0.5],
    },
    wanted={"one": 0, "two": 2},
)
Front = Literal["concave", "convex", "treasure-concave", "treasure-convex"]


class Arms(Task):
    """Choose an arm."""

    name: ClassVar[str] = "arms"

    def __init__(self, world: Front | Literal["families", "three"], pairs: bool = True) -> None:
        known = {"families": FAMILIES, "three": THREE}
        self.world = known.get(world) or World(table(world), {"any": 0})
        self.gives_pairs = pairs

    def prompts(self) -> Sequence[Prompt]:
        families = list(self.world.wanted)
        found = []
        for split in SPLITS:
            for n in range(PER_SPLIT):
                family = families[n % len(families)]
                text = f"{family} {split} {n}"
                fields = {"values": self.world.values, "family": family}
                found.append(Prompt(text, text, fields, split=split))
        return found

    def pairs(self, seed: int, split: Split = "train") -> Sequence[Pair]:
        """In a family the arm that it wants is preferred to each other one."""
        if not self.gives_pairs:
            return ()
        arms = len(next(iter(self.world.values.values())))
        return [
            Pair(prompt, str(wanted), str(other))
            for prompt in self.prompts()
            if prompt.split == split
            for wanted in [self.world.wanted[prompt.fields["family"]]]
            for other in range(arms)
            if other != wanted
        ]


class ArmValue(Reward):
    """The value of the chosen arm for one objective; it may not apply to a family."""

    name: ClassVar[str] = "arm-value"
    range = (0.0, 1.0)
    needs: ClassVar[frozenset[str]] = frozenset({"field:values", "field:family"})
    example_fields: ClassVar[Mapping[str, Sequence[Any]]] = {}

    def __init__(self, of: str, only: str = "") -> None:
        self.of = of
        self.only = only

    def score(self, batch: Any) -> list[float]:
        values = zip(batch.fields("values"), batch.fields("family"), batch.texts_B, strict=True)
        return [
            table[self.of][int(text)] if self.only in ("", family) else math.nan
            for table, family, text in values
        ]


NEVER = -40.0
"""The logit of what is no arm: finite, so that its gradient is."""


class ByFamily(Weighting):
    """Nine tenths of a prompt's weight on the objective that its family is named after."""

    name: ClassVar[str] = "by-family"

    def __init__(self, share: float = 0.9) -> None:
        self.share = share

    def weigh(self, step: Any) -> Weights:
        rest = (1 - self.share) / (len(step.names) - 1)
        values_PK = [
            [self.share if name == prompt.fields["family"] else rest for name in step.names]
            for prompt in step.batch.prompts_P
        ]
        return Weights(torch.tensor(values_PK)[:, None])


class TabularConfig(PretrainedConfig):
    model_type = "tabular"

    def __init__(self, arms: int = 2, families: int = 1, **others: Any) -> None:
        super().__init__(**others)
        self.arms, self.families = arms, families
        self.hidden_size, self.num_hidden_layers = families, 0
        self.vocab_size = arms + 2 + families


class TabularModel(PreTrainedModel):
    """Logits over the arms: one row of ``head`` per family, which the prompt's token selects."""

    config_class = TabularConfig

    def __init__(self, config: TabularConfig) -> None:
        super().__init__(config)
        self.embed = torch.nn.Embedding(config.vocab_size, config.families)
        self.head = torch.nn.Linear(config.families, config.vocab_size)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Families are embedded as unit vectors; all arms are equally probable, else nothing is."""
        with torch.no_grad():
            if module is self.embed:
                module.weight.zero_()
                module.weight[-self.config.families :] = torch.eye(self.config.families)
            elif module is self.head:
                module.weight.zero_()
                module.bias.zero_()[self.config.arms :] = NEVER

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embed

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head

    def forward(self, input_ids: Tensor, logits_to_keep: int = 0, **_: Any) -> CausalLMOutput:
        hidden = self.embed(input_ids)[:, -logits_to_keep:]
        return CausalLMOutput(logits=self.head(hidden))


def _sizes(task: Task) -> tuple[int, list[str]]:
    """Return how many arms a task has, and its families."""
    prompts = task.prompts()
    families = dict.fromkeys(p.fields["family"] for p in prompts)
    return len(next(iter(prompts[0].fields["values"].values()))), list(families)


class Tabular(PolicySource):
    """An exact softmax over the arms of the task `arms`."""

    name: ClassVar[str] = "tabular"

    def recipe(self, task: Task, seed: int, objectives: Sequence[str]) -> Mapping[str, Any]:
        arms, families = _sizes(task)
        return {"arms": arms, "families": families}

    def build(
        self,
        task: Task,
        seed: int,
        objectives: Sequence[str],
        folder: Path,
        progress: Callable[[float, str], None],
    ) -> None:
        arms, families = _sizes(task)
        words = [*map(str, range(arms)), "<pad>", "<eos>", *(f"<{f}>" for f in families)]
        ids = {word: i for i, word in enumerate(words)}
        tokenizer = Tokenizer(models.WordLevel(ids, "<pad>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<pad>"}
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
        TabularModel(TabularConfig(arms=arms, families=len(families))).save_pretrained(folder)
        progress(1.0, "done")

    def load(self, folder: Path, objectives: Sequence[str]) -> LoadedPolicy:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        model = TabularModel.from_pretrained(folder).requires_grad_(False)
        model.head.weight.requires_grad_(True)
        pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id

        def render(prompt: Prompt, condition: Mapping[str, float] | None) -> list[int]:
            assert condition is None, "a tabular policy reads no weights"
            return [tokenizer.convert_tokens_to_ids(f"<{prompt.fields['family']}>")]

        return LoadedPolicy(model, tokenizer, render, frozenset({end}), pad, "numbers of arms")


@hookimpl
def moalign_tasks() -> list[type[Task]]:
    return [Arms]


@hookimpl
def moalign_rewards() -> list[type[Reward]]:
    return [ArmValue]


@hookimpl
def moalign_weightings() -> list[type[Weighting]]:
    return [ByFamily]


@hookimpl
def moalign_policies() -> list[type[PolicySource]]:
    return [Tabular]


# --- trials -------------------------------------------------------------------------------------

TEXT = """\
study: arms
task: {arms: {world: WORLD}}
policy: tabular
objectives:
OBJECTIVES
rollout: {eager: {max_tokens: 1}}
training: {optimizer: dr-grpo, steps: 60, prompts: 1, group: 32, learning_rate: 0.3, clip_norm: 10}
weighting: fixed
evaluation: {prompts: 20, samples: 8}
search: {strategy: random, trials: 1, space: {}}
executor: local
trackers: []
"""


def text(world: str, **objectives: str) -> str:
    """Return a study of a world; objectives by name, with what their sections have beside it."""
    lines = [
        f"  {name}: {{reward: {{arm-value: {{of: {name}}}}}{more}}}"
        for name, more in objectives.items()
    ]
    return TEXT.replace("WORLD", world).replace("OBJECTIVES", "\n".join(lines))


@cache
def catalogue() -> Catalogue:
    """Return the built-in components and those of the test bed."""
    return plugins.load([FILE])


def front_study(world: Front, *overrides: str) -> Study:
    """Return the study of a front, with the objectives x and y."""
    return load(text(world, x="", y=""), "arms.yaml", catalogue(), overrides)


def family_study(*overrides: str) -> Study:
    """Return the study of the two families, with the objectives accuracy and brevity."""
    both = text("families", accuracy="", brevity="")
    return load(
        both, "arms.yaml", catalogue(), ("training.prompts=2", "training.group=16", *overrides)
    )


def three_study(*overrides: str) -> Study:
    """Return a study with the objectives of the contract suites; c applies to one family only."""
    sections = {"a": "", "b": ", at_least: 0.4", "c": ", at_least: 0.6"}
    several = text("three", **sections).replace("{of: c}", "{of: c, only: two}")
    return load(several, "arms.yaml", catalogue(), ("training.prompts=4", *overrides))


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="testbeds")


def new_trial(study: Study, number: int = 0, device: str = "cpu") -> Trial:
    """Return a trial at step 0; the base policy and what the weighting prepares are made first."""
    run = RunFolder(Path(_folder().name) / "run")
    names = [o.name for o in study.train_objectives]
    folder = ensure_base(study, run, lambda share, words: None)

    def loaded() -> LoadedPolicy:
        return study.policy.load(folder, names)

    policy = Policy(loaded(), torch.device(device), torch.float32, loaded)
    return Trial(
        study,
        number,
        policy,
        study.section.training.steps,
        calibration=calibration(study, run),
        prepared=prepared(study, run),
        samples=samples(study, run),
    )


def train(study: Study, steps: int | None = None, number: int = 0) -> Trial:
    """Return a trial after some steps, by default all of them."""
    trial = new_trial(study, number)
    for _ in range(study.section.training.steps if steps is None else steps):
        trial.train_step()
    return trial


def chosen(trial: Trial, family: str = "any") -> Tensor:
    """Return the probability of every arm under the prompts of a family, exactly."""
    model = trial.policy.model
    token = trial.policy.tokenizer.convert_tokens_to_ids(f"<{family}>")
    with torch.no_grad():
        logits: Tensor = model(torch.tensor([[token]])).logits[0, 0, : model.config.arms]
    return logits.double().softmax(0)


def expected(trial: Trial, family: str = "any") -> dict[str, float]:
    """Return the expected value of every objective under the prompts of a family, exactly."""
    shares = chosen(trial, family)
    values = trial.study.task.world.values
    return {name: float(shares @ torch.tensor(v).double()) for name, v in values.items()}
