"""A small language model built from the task's demonstrations, in about a minute."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, NamedTuple

from annotated_types import Ge, Gt, Le, MultipleOf

from moalign.components import LoadedPolicy, PolicySource, Task
from moalign.errors import ContractError, NonFiniteError, OptionError
from moalign.types import Demonstration, Prompt

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor
    from transformers import LlamaForCausalLM

SPECIAL: Final = ("<pad>", "<bos>", "<sep>", "<eos>")
HEAD: Final = 32  # width of an attention head, and what all sizes are a multiple of
SHARD: Final = 16  # examples per pass; measured: fewer cost calls, more cost padding and cache
WARMUP: Final = 0.03  # share of the steps
UNCONDITIONED: Final = 0.1  # share of examples without weights, so that the policy reads both


class Scratch(PolicySource):
    """A Llama of a few hundred thousand parameters that imitates the task's demonstrations.

    ``loss = - mean log p(completion token | prompt, tokens before)`` over the completion tokens of
    a batch, ``<eos>`` included; prompts are read, not learnt (measured on ``arithmetic``, two
    seeds: learning them too changes accuracy by no more than the seed does). Torch's Muon moves
    the matrices inside the layers, AdamW the embeddings and norms; one learning rate serves both,
    because Muon's updates are scaled to the size of AdamW's; it rises for 3 % of the steps and
    then falls linearly to zero.

    **Text.** The policy reads ``<bos>PROMPT<sep>``, which the saved tokenizer writes by itself, and
    writes a completion up to ``<eos>``. A task without a tokenizer gets a byte-level BPE of at most
    ``vocabulary`` tokens, trained on its demonstrations.

    **Condition.** With ``condition: weights`` the prompt begins with one token per objective that
    states its weight in tenths, rounded so that they sum to ten:
    ``<bos><accuracy=7><clarity=3>PROMPT<sep>``. During the build nine examples in ten carry random
    weights, so the base policy knows the tokens and ignores them.

    **Deterministic.** Equal recipe, machine and library versions give equal files, byte for byte,
    however many threads there are: a batch is cut into shards, each of which one thread computes
    alone, and their gradients are added in order. It is built on the CPU everywhere, with as many
    threads as torch has when the build begins.

    **Options.** ``hidden``, ``layers``: width and depth; the feed-forward width is 8/3 of
    ``hidden``. ``tied_embeddings``: one matrix reads and writes tokens. ``steps`` of ``batch``
    examples at ``learning_rate``.

    **Cost.** With the defaults 340 thousand parameters; about 6 times their number in operations
    per token. On ``arithmetic`` the defaults take about 110 s of processor time, 60 s on two
    free cores; accuracy .74, .73 and .77 for seeds 0, 1 and 2 (500 steps: .69 and .71 for the
    first two; conditioned: .71 for the first).

    Source: ours. Muon: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; scaling as
    in Liu et al. 2025, arXiv:2502.16982, equation 4. Llama: Touvron et al. 2023, arXiv:2302.13971.

    Example::

        policy: {scratch: {batch: 64, condition: weights}}
    """

    name: ClassVar[str] = "scratch"
    has_lora: bool | None = False

    def __init__(
        self,
        *,
        hidden: Annotated[int, Ge(HEAD), Le(2048), MultipleOf(HEAD)] = 96,
        layers: Annotated[int, Ge(1), Le(48)] = 3,
        tied_embeddings: bool = True,
        steps: Annotated[int, Ge(1), Le(1_000_000)] = 600,
        batch: Annotated[int, Ge(1), Le(65_536)] = 128,
        learning_rate: Annotated[float, Gt(0), Le(1)] = 0.01,
        vocabulary: Annotated[int, Ge(300), Le(65_536)] = 1024,
        condition: Literal["none", "weights"] = "none",
    ) -> None:
        self.hidden = hidden
        self.layers = layers
        self.tied_embeddings = tied_embeddings
        self.steps = steps
        self.batch = batch
        self.learning_rate = learning_rate
        self.vocabulary = vocabulary
        self.condition = condition

    def depth(self) -> int:
        """Return the layers it is built with."""
        return self.layers

    def recipe(self, task: Task, seed: int, objectives: Sequence[str]) -> Mapping[str, Any]:
        """Return options, seed, versions, and hashes of examples, tokenizer and this file.

        Raises:
            moalign.errors.OptionError: if the task has no demonstrations.
        """
        tokenizer = task.tokenizer()
        return {
            "policy": self.name,
            "options": dict(vars(self)),
            "seed": seed,
            "objectives": list(objectives) if self.condition == "weights" else [],
            "demonstrations": _digest(
                [(d.prompt, d.completion) for d in _demonstrations(task, seed)]
            ),
            "tokenizer": None if tokenizer is None else _digest(json.loads(tokenizer.to_str())),
            "code": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
            "versions": {lib: version(lib) for lib in ("torch", "transformers", "tokenizers")},
        }

    def build(
        self,
        task: Task,
        seed: int,
        objectives: Sequence[str],
        folder: Path,
        progress: Callable[[float, str], None],
    ) -> None:
        """Train on the demonstrations and write the model and its tokenizer to ``folder``.

        Raises:
            moalign.errors.OptionError: if the task has no demonstrations.
            moalign.errors.ContractError: if its tokenizer lacks a special token.
            moalign.errors.NonFiniteError: if the loss is no longer a number.
        """
        import torch
        from transformers import PreTrainedTokenizerFast

        demonstrations = _demonstrations(task, seed)
        tokenizer = self._tokenizer(task, demonstrations)
        conditioned = list(objectives) if self.condition == "weights" else []
        tokenizer.add_special_tokens([_token(o, n) for o in conditioned for n in range(11)])
        examples = _encode(tokenizer, demonstrations, conditioned, Random(f"scratch {seed}"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self._model(tokenizer, max(len(example.ids) for example in examples))
        self._train(model, examples, seed, progress)
        model.save_pretrained(folder)
        PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=tokenizer,
            pad_token="<pad>",
            bos_token="<bos>",
            sep_token="<sep>",
            eos_token="<eos>",
            padding_side="left",
            clean_up_tokenization_spaces=False,
            model_input_names=["input_ids", "attention_mask"],
        ).save_pretrained(folder)

    def load(self, folder: Path, objectives: Sequence[str]) -> LoadedPolicy:
        """Load what :meth:`build` wrote."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        known = list(objectives) if self.condition == "weights" else []

        def render(prompt: Prompt, condition: Mapping[str, float] | None) -> list[int]:
            prefix = "" if condition is None else _prefix(condition, known)
            ids: list[int] = tokenizer(prefix + prompt.text)["input_ids"]
            return ids

        return LoadedPolicy(
            model=model,
            tokenizer=tokenizer,
            render=render,
            end_ids=frozenset({tokenizer.eos_token_id}),
            pad_id=tokenizer.pad_token_id,
            speaks=(
                f"Built from scratch for one task: it reads `<bos>{_example(known)}PROMPT<sep>`, "
                "of which the tokenizer writes `<bos>` and `<sep>`, and writes up to `<eos>`."
            ),
        )

    def _tokenizer(self, task: Task, demonstrations: Sequence[Demonstration]) -> Tokenizer:
        """Return the task's tokenizer, or a new one, that frames a prompt."""
        from tokenizers import processors

        tokenizer = task.tokenizer() or _byte_level(demonstrations, self.vocabulary)
        if missing := [token for token in SPECIAL if tokenizer.token_to_id(token) is None]:
            raise ContractError(
                f"the tokenizer of task {task.name} lacks {', '.join(missing)}; policy scratch "
                f"needs the special tokens {', '.join(SPECIAL)}"
            )
        frame = ("<bos>", "<sep>")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A <sep>",
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in frame],
        )
        return tokenizer

    def _model(self, tokenizer: Tokenizer, longest: int) -> LlamaForCausalLM:
        from transformers import LlamaConfig, LlamaForCausalLM

        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=tokenizer.get_vocab_size(),
                hidden_size=self.hidden,
                intermediate_size=HEAD * round(self.hidden * 8 / 3 / HEAD),
                num_hidden_layers=self.layers,
                num_attention_heads=self.hidden // HEAD,
                # Rotary positions need no table, but engines that serve a model read a limit here.
                max_position_embeddings=max(256, 2 ** math.ceil(math.log2(2 * longest))),
                tie_word_embeddings=self.tied_embeddings,
                pad_token_id=tokenizer.token_to_id("<pad>"),
                bos_token_id=tokenizer.token_to_id("<bos>"),
                eos_token_id=tokenizer.token_to_id("<eos>"),
            )
        )

    def _train(
        self,
        model: LlamaForCausalLM,
        examples: Sequence[_Example],
        seed: int,
        progress: Callable[[float, str], None],
    ) -> None:
        """Train in place: see the class."""
        import torch

        matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
        others = [p for p in model.parameters() if all(p is not m for m in matrices)]
        rate = self.learning_rate
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        parameters = list(model.parameters())
        batches = _batches(examples, self.batch, Random(f"scratch batches {seed}"))

        def gradients(shard: Sequence[_Example]) -> tuple[Tensor, tuple[Tensor, ...]]:
            loss = _loss(model, shard)
            return loss.detach(), torch.autograd.grad(loss, parameters)

        with _one_thread_each() as workers, ThreadPoolExecutor(workers) as pool:
            for step in range(self.steps):
                batch = sorted(next(batches), key=lambda example: -len(example.ids))
                tokens = sum(len(example.ids) - example.prompt for example in batch)
                shards = [batch[at : at + SHARD] for at in range(0, len(batch), SHARD)]
                losses, grads = zip(*pool.map(gradients, shards), strict=True)
                loss = sum(losses).item() / tokens
                if not math.isfinite(loss):
                    raise NonFiniteError(
                        f"policy scratch: the loss of step {step + 1} is {loss}; lower "
                        f"learning_rate (it is {rate})"
                    )
                for parameter, *parts in zip(parameters, *grads, strict=True):
                    parameter.grad = torch.stack(parts).sum(0) / tokens
                share = min((step + 1) / (WARMUP * self.steps), 1) * (1 - step / self.steps)
                for optimizer in optimizers:
                    optimizer.param_groups[0]["lr"] = rate * share
                    optimizer.step()
                progress((step + 1) / self.steps, f"loss {loss:.3f}")


class _Example(NamedTuple):
    """A framed prompt and its completion; ``prompt`` is the number of tokens of the former."""

    ids: list[int]
    prompt: int


def _demonstrations(task: Task, seed: int) -> Sequence[Demonstration]:
    demonstrations = task.demonstrations(seed)
    if not demonstrations:
        raise OptionError(
            f"policy scratch learns from demonstrations, and task {task.name} has none; choose "
            "policy pretrained"
        )
    return demonstrations


def _byte_level(demonstrations: Sequence[Demonstration], vocabulary: int) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        (text for d in demonstrations for text in (d.prompt, d.completion)), trainer
    )
    return tokenizer


def _encode(
    tokenizer: Tokenizer,
    demonstrations: Sequence[Demonstration],
    objectives: Sequence[str],
    rng: Random,
) -> list[_Example]:
    """Return framed examples; with objectives, most are conditioned on random weights."""

    def prefix() -> str:
        if not objectives or rng.random() < UNCONDITIONED:
            return ""
        # Exponential variables, normalised, are uniform on the simplex.
        return _prefix({name: rng.expovariate(1.0) for name in objectives}, objectives)

    prompts = tokenizer.encode_batch([prefix() + d.prompt for d in demonstrations])
    completions = tokenizer.encode_batch(
        [d.completion for d in demonstrations], add_special_tokens=False
    )
    end: Any = tokenizer.token_to_id("<eos>")
    return [
        _Example([*prompt.ids, *completion.ids, end], len(prompt.ids))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def _token(objective: str, tenths: int) -> str:
    return f"<{objective}={tenths}>"


def _prefix(condition: Mapping[str, float], objectives: Sequence[str]) -> str:
    """Return the tokens that state the weights; an objective that is not mentioned weighs 0."""
    if unknown := [name for name in condition if name not in objectives]:
        raise OptionError(
            f"policy scratch cannot read a weight of {', '.join(unknown)}; it was built with "
            f"tokens for: {', '.join(objectives) or 'no objective (condition: none)'}",
            "condition",
        )
    tenths = _tenths([condition.get(name, 0.0) for name in objectives])
    return "".join(_token(name, n) for name, n in zip(objectives, tenths, strict=True))


def _tenths(weights: Sequence[float]) -> list[int]:
    """Round weights to tenths that sum to ten (largest remainders; of equal ones the first)."""
    total = sum(weights)
    exact = [10 * weight / total for weight in weights]
    tenths = [math.floor(share) for share in exact]
    order = sorted(range(len(exact)), key=lambda k: tenths[k] - exact[k])
    for k in order[: 10 - sum(tenths)]:
        tenths[k] += 1
    return tenths


def _example(objectives: Sequence[str]) -> str:
    return _prefix(dict.fromkeys(objectives, 1.0), objectives) if objectives else ""


def _batches(examples: Sequence[_Example], size: int, rng: Random) -> Iterator[list[_Example]]:
    """Yield batches without end; every example once before any comes again."""
    queue: list[_Example] = []
    while True:
        while len(queue) < size:
            queue += rng.sample(examples, len(examples))
        yield queue[:size]
        del queue[:size]


def _loss(model: LlamaForCausalLM, shard: Sequence[_Example]) -> Tensor:
    """Return the summed negative log-probability of the completion tokens; longest row first."""
    import torch
    from torch.nn.functional import cross_entropy

    ids_BT = torch.zeros(len(shard), len(shard[0].ids), dtype=torch.long)
    learnt_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
    for row, example in enumerate(shard):
        ids_BT[row, : len(example.ids)] = torch.tensor(example.ids)
        learnt_BT[row, example.prompt : len(example.ids)] = True
    # Padding stands on the right, where a causal model does not see it: no mask is needed.
    hidden_BTD = model.model(input_ids=ids_BT[:, :-1], use_cache=False).last_hidden_state
    logits_NV = model.lm_head(hidden_BTD[learnt_BT[:, 1:]])
    return cross_entropy(logits_NV, ids_BT[learnt_BT], reduction="sum")


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """Let torch use one thread per operation; yields how many it used before, and restores it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
