"""A tiny world to train in: letters as tokens, a two-layer Llama, rewards that count letters."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from moalign import plugins
from moalign.plugins import Catalogue
from moalign.search.artifacts import ensure_base
from moalign.search.folders import RunFolder
from moalign.study.loading import load
from moalign.study.study import Study

SUPPORT = str(Path(__file__).parent.parent / "support")
if SUPPORT not in sys.path:
    sys.path.insert(0, SUPPORT)

PLUGIN = '''
import asyncio
from moalign import (
    LoadedPolicy, Optimizer, Pair, PolicySource, Preference, Prompt, ResponseScores, Reward, Task,
    Weighting, Weights, hookimpl,
)

LETTERS = "abcdefgh"


class Letters(Task):
    """Prompts of one or two letters."""
    name = "letters"
    def prompts(self):
        words = [a + b for a in LETTERS for b in LETTERS] + list(LETTERS)
        words += [a + b + c for a in LETTERS for b in LETTERS for c in LETTERS]
        return [Prompt(w, w, {"first": w[0]}) for w in words]


    def pairs(self, seed, split="train"):
        by_text = {p.text: p for p in self.prompts()}
        return [Pair(by_text["ab"], "aa", "b"), Pair(by_text["cd"], "ab", "bb")]


class Share(Reward):
    """Share of a letter in the completion; not for prompts that start with `skip`."""
    name = "share"
    range = (0.0, 1.0)
    needs = frozenset({"field:first"})
    def __init__(self, letter: str = "a", skip: str = ""): self.letter, self.skip = letter, skip
    def score(self, batch):
        first = batch.fields("first")
        return [
            float("nan") if f == self.skip else t.count(self.letter) / max(len(t), 1)
            for f, t in zip(first, batch.texts_B, strict=True)
        ]


class Slow(Reward):
    """Like share, but asynchronous."""
    name = "slow"
    range = (0.0, 1.0)
    async def score(self, batch):
        await asyncio.sleep(0)
        return [t.count("b") / max(len(t), 1) for t in batch.texts_B]


class PerToken(Reward):
    """One point per token that is its letter."""
    name = "per-token"
    range = (0.0, 8.0)
    def score(self, batch): return (batch.ids_BT == 4).float()


class Running(Reward):
    """Length against a running mean: remembers."""
    name = "running"
    range = (-8.0, 8.0)
    def __init__(self): self.total, self.count = 0.0, 0
    def score(self, batch):
        self.total += sum(map(len, batch.texts_B)); self.count += batch.rows
        return [self.total / self.count - len(t) for t in batch.texts_B]
    def state_dict(self): return {"total": self.total, "count": self.count}
    def load_state_dict(self, state): self.total, self.count = state["total"], state["count"]


class Odd(Reward):
    """Returns what it is told to."""
    name = "odd"
    range = (0.0, 1.0)
    def __init__(self, returns: str = "fine", after: int = 0):
        self.returns, self.after, self.calls = returns, after, 0
    def score(self, batch):
        self.calls += 1
        fine = [0.5] * batch.rows
        if self.calls <= self.after: return fine
        if self.returns == "short": return fine[1:]
        if self.returns == "infinite": return [float("inf")] * batch.rows
        if self.returns == "nan": return [float("nan")] * batch.rows
        if self.returns == "text": return ["good"] * batch.rows
        if self.returns == "raises": raise LookupError("the judge is away")
        return fine


class Drift(Weighting):
    """Weights that move with what is seen: remembers."""
    name = "drift"
    declares = frozenset({"conditioned"})
    def __init__(self, preference: Preference | None = None): self.seen = None
    def weigh(self, step):
        import torch
        means = step.mean_scores_K().nan_to_num(0.0)
        self.seen = means if self.seen is None else 0.9 * self.seen + 0.1 * means
        return Weights(torch.softmax(-4 * self.seen, -1), metrics={"seen": float(self.seen.sum())})
    def state_dict(self): return {"seen": self.seen}
    def load_state_dict(self, state): self.seen = state["seen"]


class Product(Weighting):
    """A response-level scalariser."""
    name = "product-of-scores"
    def weigh(self, step): return ResponseScores(step.scores_PGK.prod(-1))


class Probing(Weighting):
    """Asks for everything a step can give."""
    name = "probing"
    needs = frozenset({"gram", "steer", "prompt_features"})
    def weigh(self, step):
        import torch
        gram = step.gram(("steer",))
        assert step.gram(("steer",)) is gram
        features, measured = step.prompt_features(), step.evaluate("steer")
        assert features.shape[0] == step.scores_PGK.shape[0]
        k = len(step.objectives)
        assert gram.shape == (k + 1, k + 1)
        assert torch.allclose(gram[:k, :k].sum(1), gram[:k, :k].sum(0))
        return Weights(step.preference_K, metrics={"units": len(measured.units)})


class Asking(Weighting):
    """Asks for the Gram matrix, and norms; returns what it is told to, and keeps the step."""
    name = "asking"
    needs = frozenset({"gram"})
    def __init__(self, gain: float = 1.0, returns: str = "weights", norms: str = "no"):
        self.gain, self.returns, self.norms = gain, returns, norms
    def weigh(self, step):
        import torch
        self.step = step
        norms_K = step.gradient_norms_K() if self.norms == "first" else None
        gram = step.gram()
        self.seen = gram, step.gradient_norms_K() if self.norms == "last" else norms_K
        if self.returns == "response-scores": return ResponseScores(step.scores_PGK.prod(-1))
        k = len(step.objectives)
        weights_K = torch.arange(1.0, k + 1) / (k * (k + 1) / 2)
        if self.returns == "weights": return Weights(weights_K, gain=self.gain)
        prompts = len(step.batch.prompts_P)
        return Weights(torch.stack([weights_K.roll(p) for p in range(prompts)])[:, None])


class Wrong(Weighting):
    """Returns what it is told to."""
    name = "wrong"
    def __init__(self, returns: str = "negative"): self.returns = returns
    def weigh(self, step):
        import torch
        k = len(step.objectives)
        values = {
            "negative": [2.0] + [-1.0 / max(k - 1, 1)] * (k - 1),
            "unnormalised": [1.0] * k,
            "long": [1.0 / (k + 1)] * (k + 1),
            "nan": [float("nan")] * k,
            "one": [1.0],
        }.get(self.returns, [1.0 / k] * k)
        if self.returns == "nothing": return None
        if self.returns == "flat-response": return ResponseScores(step.scores_PGK[..., 0].flatten())
        gain = {"gain-P": torch.ones(len(step.batch.prompts_P)), "gain-nan": float("nan")}
        return Weights(torch.tensor(values), gain=gain.get(self.returns, 1.0))


class EachMiniBatch(Weighting):
    """Moves its weights before every mini-batch."""
    name = "each-mini-batch"
    def __init__(self): self.calls = 0
    def weigh(self, step): return Weights(step.preference_K)
    def update_minibatch(self, step):
        import torch
        self.calls += 1
        first = 0.5 ** self.calls
        return Weights(torch.tensor([first, 1 - first]))


class Says(Weighting):
    """Has something to say at every step."""
    name = "says"
    def weigh(self, step):
        return Weights(step.preference_K, notes=("the weighting has something to say",))


class Learns(Weighting):
    """Prepares: the mean scores of what is preferred; weighs prompts by their first feature."""
    name = "learns"
    declares = frozenset({"conditioned", "prompt-weights"})
    needs = frozenset({"pairs", "prompt_features"})
    def __init__(self, twist: float = 1.0, other: int = 0): self.twist = twist
    def recipe(self): return {"twist": self.twist}
    def prepare(self, context):
        import torch
        context.progress(0.5, "learning")
        prompts = [pair.prompt for pair in context.pairs]
        chosen = context.score(prompts, [pair.chosen for pair in context.pairs])
        features = context.features(prompts)
        assert features.shape[0] == chosen.shape[0] == len(prompts)
        return {"chosen": chosen, "features": features, "twist": self.twist}
    def load_prepared(self, prepared): self.prepared = prepared
    def prompt_weights(self, prompts, features):
        import torch
        first = torch.sigmoid(self.prepared["twist"] * features()[:, 0])
        k = self.prepared["chosen"].shape[1]
        rest = (1 - first)[:, None].expand(-1, k - 1) / (k - 1)
        return torch.cat([first[:, None], rest], -1)
    def weigh(self, step):
        if step.batch.conditions_PK is not None: return Weights(step.batch.conditions_PK[:, None])
        return Weights(self.prompt_weights(step.batch.prompts_P, step.prompt_features)[:, None])


class Noisy(Reward):
    """Draws from torch's own generator."""
    name = "noisy"
    range = (0.0, 1.0)
    def score(self, batch):
        import torch
        return torch.rand(batch.rows)


class Padded(Reward):
    """Per token; does not apply to rows of odd length, which it marks on their tokens only."""
    name = "padded"
    range = (0.0, 8.0)
    def score(self, batch):
        odd = (batch.lengths_B() % 2 == 1)[:, None] & (batch.mask_BT > 0)
        return (batch.ids_BT == 4).float().masked_fill(odd, float("nan"))


class Plain(Optimizer):
    """REINFORCE with the mean of the group as baseline."""
    name = "plain"
    def advantages(self, scores_PGK, batch):
        centred = scores_PGK - scores_PGK.nanmean(1, keepdim=True)
        return centred.nan_to_num(0.0).flatten(0, 1)[:, None]
    def loss(self, logprobs_BT, rows, advantages_BT):
        ratio = (logprobs_BT - rows.old_logprobs_BT).exp()
        loss = -(ratio * advantages_BT * rows.mask_BT).sum() / rows.total_tokens
        return loss, {"ratio": (ratio * rows.mask_BT).sum() / rows.total_tokens}


class TwoPasses(Plain):
    """The same, twice over each rollout."""
    name = "two-passes"
    epochs = 2


class Explodes(Plain):
    """A loss that becomes NaN."""
    name = "explodes"
    def loss(self, logprobs_BT, rows, advantages_BT):
        loss, metrics = super().loss(logprobs_BT, rows, advantages_BT)
        return loss * float("nan"), metrics


class Tiny(PolicySource):
    """A random two-layer Llama over letters; weights in the prompt as letters of their own."""
    name = "tiny"
    def __init__(self, condition: str = "none"): self.condition = condition
    def recipe(self, task, seed, objectives): return {"seed": seed, "version": 1}
    def build(self, task, seed, objectives, folder, progress):
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
            LlamaForCausalLM(LlamaConfig(
                vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                num_attention_heads=2, num_key_value_heads=2, bos_token_id=1, eos_token_id=3,
                pad_token_id=0, initializer_range=0.3, tie_word_embeddings=True,
            )).save_pretrained(folder)
        progress(1.0, "done")
    def load(self, folder, objectives):
        from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        def render(prompt, condition):
            digits = [str(min(9, int(10 * w))) for w in (condition or {}).values()]
            words = ["<bos>", *digits, *prompt.text, "<sep>"]
            return tokenizer.convert_tokens_to_ids(words)
        model = AutoModelForCausalLM.from_pretrained(folder)
        return LoadedPolicy(model, tokenizer, render, frozenset({3}), 0, "letters")


@hookimpl
def moalign_tasks(): return [Letters]
@hookimpl
def moalign_rewards(): return [Share, Slow, PerToken, Running, Odd, Noisy, Padded]
@hookimpl
def moalign_weightings():
    return [Asking, Drift, Product, Probing, Wrong, EachMiniBatch, Learns, Says]
@hookimpl
def moalign_optimizers(): return [Plain, TwoPasses, Explodes]
@hookimpl
def moalign_policies(): return [Tiny]
'''

STUDY = """\
study: letters
task: letters
policy: tiny
objectives:
  a: {reward: share}
  b: {reward: slow}
rollout: {eager: {max_tokens: 6}}
training: {optimizer: plain, steps: 6, prompts: 4, group: 4, learning_rate: 1.0e-2}
weighting: drift
evaluation: {prompts: 16, samples: 2}
search: {strategy: random, trials: 2, space: {weighting.preference: simplex}}
executor: local
trackers: []
"""

NewStudy = Callable[..., Study]


@pytest.fixture(scope="session")
def plugin_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin file of the tiny world."""
    file = tmp_path_factory.mktemp("plugin") / "letters.py"
    file.write_text(PLUGIN)
    return file


@pytest.fixture(scope="session")
def catalogue(plugin_file: Path) -> Catalogue:
    """Built-in components and those of the tiny world."""
    return plugins.load([plugin_file])


@pytest.fixture
def new_study(catalogue: Catalogue) -> NewStudy:
    """Load the tiny study with overrides."""

    def new(*overrides: str, text: str = STUDY) -> Study:
        return load(text, "letters.yaml", catalogue, overrides)

    return new


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue) -> Path:
    """A folder of runs in which the base policy is built already."""
    root = tmp_path_factory.mktemp("runs")
    study = load(STUDY, "letters.yaml", catalogue)
    ensure_base(study, RunFolder(root / "letters"), lambda share, words: None)
    return root
