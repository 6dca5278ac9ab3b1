"""One GRPO step of moalign beside one of TRL: same policy, prompts, rewards and lengths.

python benchmarks/grpo_step.py

Both take every step in turn in one process, so that what else the machine does falls on both. The
learning rate is so small that the policy, and with it the lengths of completions, stay the same.
Needs the extra ``bench``.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from table import markdown, write
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from moalign import plugins
from moalign.components import Reward
from moalign.search.artifacts import ensure_base
from moalign.search.folders import RunFolder
from moalign.study import bundled
from moalign.study.loading import load
from moalign.study.study import Study
from moalign.training.loop import Trial
from moalign.training.policy import Policy
from moalign.training.splits import split_prompts, step_prompts
from moalign.types import Batch, Prompt

GOAL = 0.55
WARM_UP = 3  # first steps, not counted
RATE = 1e-9
STAGES = ("sampling", "forward", "backward", "update", "rest")


class Stages:
    """Seconds per stage of moalign's step, taken by wrapping the functions that do the work."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self.now: dict[str, float] = {}

    def wrap(self, owner: Any, name: str, stage: str) -> None:
        """Add the time of every call of ``owner.name`` to a stage."""
        inner = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                self.now[stage] = self.now.get(stage, 0.0) + time.perf_counter() - began

        setattr(owner, name, timed)

    def close_step(self, total: float) -> None:
        """Book one step; what no stage claims is the rest."""
        self.now["rest"] = total - sum(self.now.values())
        for stage in STAGES:
            self.seconds[stage].append(self.now.get(stage, 0.0))
        self.now = {}


class Ours:
    """moalign's training loop, one step at a time."""

    def __init__(self, study: Study, folder: Path, steps: int) -> None:
        cpu = torch.device("cpu")
        policy = Policy(study.policy.load(folder, names(study)), cpu, torch.float32)
        self.trial = Trial(study, 0, policy, steps)
        self.seconds: list[float] = []
        self.stages = Stages()
        self.stages.wrap(policy, "generate", "sampling")
        self.stages.wrap(policy, "logprobs", "forward")
        self.stages.wrap(self.trial.torch_optimizer, "step", "update")

    def step(self) -> None:
        """Take one step and note its time."""
        backward = torch.Tensor.backward
        self.stages.wrap(torch.Tensor, "backward", "backward")
        began = time.perf_counter()
        try:
            self.trial.train_step()
        finally:
            torch.Tensor.backward = backward
        self.seconds.append(time.perf_counter() - began)
        self.stages.close_step(self.seconds[-1])


class Beside(TrainerCallback):
    """Times the steps of TRL's trainer and takes one of ours after each."""

    def __init__(self, ours: Ours) -> None:
        self.ours = ours
        self.seconds: list[float] = []
        self.began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)
        self.ours.step()


def names(study: Study) -> list[str]:
    """Return the training objectives."""
    return [objective.name for objective in study.train_objectives]


def as_trl_reward(name: str, reward: Reward, by_text: dict[str, Prompt]) -> Callable[..., Any]:
    """Return one of moalign's rewards as a function that TRL calls."""

    def scores(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        nothing = torch.zeros(len(completions), 1)
        batch = Batch(
            prompts_P=[by_text[text] for text in prompts],
            group=1,
            prompt_ids_P=[()] * len(prompts),
            texts_B=completions,
            raw_texts_B=completions,
            ids_BT=nothing.long(),
            mask_BT=nothing,
            finished_B=nothing[:, 0] > 0,
        )
        values: Any = reward.score(batch)
        return [float(value) for value in values]

    scores.__name__ = name
    return scores


def trl_trainer(study: Study, folder: Path, steps: int, beside: Beside, out: str) -> GRPOTrainer:
    """Return TRL's trainer for the prompts that our trial takes, in the same order."""
    training = study.section.training
    train = split_prompts(study.task, ("train",))["train"]
    key = (study.seed, 0, "train")
    prompts = [p for i in range(steps) for p in step_prompts(train, training.prompts, i, *key)]
    by_text = {prompt.text: prompt for prompt in prompts}
    rewards = study.new_rewards()
    loaded = study.policy.load(folder, names(study))
    return GRPOTrainer(
        model=copy.deepcopy(loaded.model),
        processing_class=loaded.tokenizer,
        reward_funcs=[as_trl_reward(name, rewards[name], by_text) for name in names(study)],
        train_dataset=Dataset.from_list([{"prompt": prompt.text} for prompt in prompts]),
        args=GRPOConfig(
            output_dir=out,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=training.prompts * training.group,
            num_generations=training.group,
            max_completion_length=study.rollout.max_tokens,
            temperature=study.rollout.temperature,
            multi_objective_aggregation="normalize_then_sum",
            beta=0.0,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            max_steps=steps,
            shuffle_dataset=False,
            logging_steps=steps,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
        callbacks=[beside],
    )


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1, help="torch threads, for both")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="keeps the base policy")
    parser.add_argument("--set", action="append", default=[], help="overrides of the study")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    text, source = bundled.read("arithmetic")
    overrides = [f"training.learning_rate={RATE}", *args.set]
    study = load(text, source, plugins.load(), overrides)
    folder = ensure_base(study, RunFolder(args.out / "benchmark"), lambda *_: None)
    torch.set_num_threads(args.threads)
    steps = args.steps + WARM_UP
    ours = Ours(study, folder, steps)
    beside = Beside(ours)
    with tempfile.TemporaryDirectory() as out:
        trainer = trl_trainer(study, folder, steps, beside, out)
        trainer.train()
    mine, theirs = ours.seconds[WARM_UP:], beside.seconds[WARM_UP:]
    ratios = sorted(a / b for a, b in zip(mine, theirs, strict=True))
    quarter = len(ratios) // 4
    training = study.section.training
    own_length = ours.trial.cost.generated / (steps * training.prompts * training.group)
    key = "completions/mean_length"
    length = next(entry[key] for entry in trainer.state.log_history if key in entry)
    table = [
        [name, f"{statistics.median(seconds):.3f}", f"{min(seconds):.3f}", f"{tokens:.1f}"]
        for name, seconds, tokens in (
            ("moalign", mine, own_length),
            (f"TRL {version('trl')}", theirs, length),
        )
    ]
    stages = [
        [stage, f"{statistics.median(seconds[WARM_UP:]):.3f}"]
        for stage, seconds in ours.stages.seconds.items()
    ]
    write(
        f"grpo-step-{args.threads}-threads",
        "Seconds per GRPO step, moalign and TRL",
        [
            f"Goal: moalign takes at most {GOAL} of TRL's time, median of {args.steps} pairs of "
            f"steps. Found: **{statistics.median(ratios):.3f}** (quartiles {ratios[quarter]:.3f} "
            f"and {ratios[-1 - quarter]:.3f}).",
            f"The base policy of `arithmetic`, {training.prompts} prompts x {training.group} "
            f"completions of at most {study.rollout.max_tokens} tokens, three rewards, float32 on "
            f"the CPU without checkpointing, torch threads: {args.threads}. The two take their "
            f"steps in turn; the first {WARM_UP} are not counted.",
            markdown(["", "median, s", "least, s", "tokens per completion"], table),
            "Where moalign's time goes:",
            markdown(["stage", "median, s"], stages),
        ],
        seeds=[study.seed],
    )


if __name__ == "__main__":
    main()
