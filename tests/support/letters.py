"""A plugin file: letters as tokens, two families of prompts, a tiny policy that reads weights.

Prompts that begin with one of ``abcd`` want the letter ``a``, the others the letter ``b``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from moalign import LoadedPolicy, Pair, PolicySource, Prompt, Reward, Split, Task, hookimpl

LETTERS = "abcdefgh"
FILE = Path(__file__)

STUDY = """\
study: letters
task: two-letters
policy: {small: {condition: weights}}
objectives:
  a: {reward: letter-share}
  b: {reward: {letter-share: {letter: b}}}
rollout: {eager: {max_tokens: 6}}
training: {steps: 2, prompts: 4, group: 4, learning_rate: 3.0e-2}
weighting: {prompt-adapter: {learning_rate: 0.05, steps: 200}}
evaluation: {prompts: 20, samples: 1}
search: {strategy: random, trials: 1, space: {training.learning_rate: {low: 0.01, high: 0.03}}}
executor: local
trackers: []
"""


class TwoLetters(Task):
    """Prompts of two or three letters."""

    name: ClassVar[str] = "two-letters"

    def prompts(self) -> Sequence[Prompt]:
        words = [a + b for a in LETTERS for b in LETTERS]
        words += [a + b + c for a in LETTERS for b in LETTERS for c in LETTERS]
        return [
            Prompt(word, word, split=("train", "steer", "validation", "test")[n % 4])
            for n, word in enumerate(words)
        ]

    def pairs(self, seed: int, split: Split = "train") -> Sequence[Pair]:
        prompts = [p for p in self.prompts() if p.split == split]
        return [
            Pair(p, "aaac", "bbbc") if p.text[0] in LETTERS[:4] else Pair(p, "bbbc", "aaac")
            for p in prompts
        ]


class LetterShare(Reward):
    """Share of a letter in the completion."""

    name: ClassVar[str] = "letter-share"
    range = (0.0, 1.0)

    def __init__(self, *, letter: str = "a") -> None:
        self.letter = letter

    def score(self, batch: Any) -> list[float]:
        return [text.count(self.letter) / max(len(text), 1) for text in batch.texts_B]


class Small(PolicySource):
    """A random two-layer Llama over letters; it reads weights as digits."""

    name: ClassVar[str] = "small"

    def __init__(self, *, condition: Literal["none", "weights"] = "none") -> None:
        self.condition = condition

    def recipe(self, task: Task, seed: int, objectives: Sequence[str]) -> Mapping[str, Any]:
        return {"seed": seed}

    def build(
        self,
        task: Task,
        seed: int,
        objectives: Sequence[str],
        folder: Path,
        progress: Callable[[float, str], None],
    ) -> None:
        import torch
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

        words = ["<pad>", "<bos>", "<sep>", "<eos>", *LETTERS, *"0123456789"]
        tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<pad>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(""), "isolated")
        tokenizer.decoder = decoders.Fuse()
        special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=len(words),
                    hidden_size=16,
                    intermediate_size=32,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    num_key_value_heads=2,
                    bos_token_id=1,
                    eos_token_id=3,
                    pad_token_id=0,
                    initializer_range=0.3,
                )
            ).save_pretrained(folder)
        progress(1.0, "done")

    def load(self, folder: Path, objectives: Sequence[str]) -> LoadedPolicy:
        from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)

        def render(prompt: Prompt, condition: Mapping[str, float] | None) -> list[int]:
            digits = [str(min(9, int(10 * weight))) for weight in (condition or {}).values()]
            return tokenizer.convert_tokens_to_ids(["<bos>", *digits, *prompt.text, "<sep>"])

        model = AutoModelForCausalLM.from_pretrained(folder)
        return LoadedPolicy(model, tokenizer, render, frozenset({3}), 0, "Letters.")


@hookimpl
def moalign_tasks() -> list[type[Task]]:
    return [TwoLetters]


@hookimpl
def moalign_rewards() -> list[type[Reward]]:
    return [LetterShare]


@hookimpl
def moalign_policies() -> list[type[PolicySource]]:
    return [Small]
