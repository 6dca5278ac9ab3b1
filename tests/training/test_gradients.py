"""The gradient engine: K gradients of one pass against K plain passes, scopes, and the update."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from resuming import resumed
from torch import Tensor, nn
from torch.nn import Parameter
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from moalign.components import LoadedPolicy, Optimizer
from moalign.errors import StudyError
from moalign.search.artifacts import base_folder
from moalign.search.folders import RunFolder
from moalign.study.schema import GradientsSection
from moalign.study.study import Study
from moalign.training.coefficients import coefficients, combination, factorised
from moalign.training.gradient_sums import GradientSums, Sketch
from moalign.training.gradients import (
    GradientEngine,
    MicroBatch,
    Passed,
    PolicyGradients,
    add_plainly,
)
from moalign.training.loop import Trial
from moalign.training.policy import Policy, choose_device_and_dtype
from moalign.types import Rows

NewStudy = Callable[..., Study]

VOCABULARY, PAD = 24, 0
CPU = torch.device("cpu")
# Rows of different lengths; prompt 3 is long enough that positions outnumber completion tokens.
PROMPTS_B = [[5, 6, 7], [9], [8, 3, 4, 11, 12, 13, 5], [5, 6, 7], [2, PAD]]
COMPLETIONS_B = [[4, 9, 1], [10, 11, 12, 13, 14, 15, 16], [3, 1], [1], [20, 21, 22, 23]]
ROWS = len(PROMPTS_B)
EXACT, ROUNDED = 1e-4, 2e-2  # relative Frobenius norm: float32, bfloat16


def tiny(family: str = "llama", *, tied: bool = True, layers: int = 2) -> Any:
    torch.manual_seed(0)
    if family == "gpt2":
        shape = {"n_positions": 64, "n_embd": 32, "n_layer": layers, "n_head": 2}
        shape |= dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0)
        model: Any = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **shape))
    else:
        shape = {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 64,
            "tie_word_embeddings": tied,
            "initializer_range": 0.2,
            "pad_token_id": PAD if family == "qwen2" else None,
        }
        kinds: dict[str, tuple[Any, Any]] = {
            "llama": (LlamaForCausalLM, LlamaConfig),
            "qwen2": (Qwen2ForCausalLM, Qwen2Config),
            "qwen3": (Qwen3ForCausalLM, Qwen3Config),
        }
        cls, config = kinds[family]
        model = cls(config(**shape))
    for name, parameter in model.named_parameters():
        if "norm" in name or "ln_" in name or name.endswith("bias"):
            nn.init.normal_(parameter, mean=0.5, std=0.5)
    return model


def adapted(model: Any, *targets: str) -> Any:
    """Put an adapter on a model; unlike a fresh one it does something."""
    config = LoraConfig(r=2, target_modules=list(targets), fan_in_fan_out="c_attn" in targets)
    wrapped: Any = get_peft_model(model, config)
    torch.manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)
    return wrapped


def checkpointed(model: Any) -> Any:
    """Let a model recompute its layers on the way back, as it does in training mode only."""
    model.activation_checkpointing_enable()
    return model


class Bent(nn.Module):
    """A module nobody has a rule for: a matrix, a vector and a number."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.matrix = Parameter(0.1 * torch.randn(size, size))
        self.shift = Parameter(torch.randn(size))
        self.scale = Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * torch.tanh(x @ self.matrix + self.shift)


class Scale(nn.Module):
    """A vector that scales, as a norm's weight does, of a kind nobody has a rule for."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = Parameter(torch.randn(size))

    def forward(self, x: Tensor) -> Tensor:
        return (1.0 + self.weight) * x


class Pair(nn.Module):
    """Returns more than a tensor."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = Parameter(torch.randn(size))

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return x * self.weight, 1


class First(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]  # type: ignore[no-any-return]


class InPlace(nn.Module):
    """Changes the output of another module in place."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        out += x
        return out


class Overwriting(nn.Module):
    """Changes what another module has read: no matter to a sum, whose gradient needs no input."""

    class Shift(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.weight = Parameter(torch.randn(size))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.weight

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inner = self.Shift(size)

    def forward(self, x: Tensor) -> Tensor:
        x = 1.0 * x
        out: Tensor = self.inner(x)
        return out + x.mul_(0.5)


class Mixing(nn.Module):
    """Lets rows see one another."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = Parameter(torch.randn(size))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight * x.mean((0, 1))


class Borrowing(nn.Module):
    """Uses a weight of a module without calling it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.linear(x, self.inner.weight)


def with_norm(module: nn.Module, **options: Any) -> Any:
    """Return a Llama with a module of ours behind its last layer."""
    model = tiny(**options)
    model.model.norm = nn.Sequential(model.model.norm, module)
    return model


def policy(model: Any, dtype: torch.dtype = torch.float32) -> Policy:
    def render(prompt: Any, condition: Any) -> list[int]:
        raise AssertionError("not asked for")

    loaded = LoadedPolicy(model, None, render, frozenset({1}), PAD)  # type: ignore[arg-type]
    made = Policy(loaded, CPU, dtype)
    if getattr(made.model, "is_gradient_checkpointing", False):
        made.model.train()  # without dropout the same function
    return made


def tensors(filler: int = PAD) -> tuple[Tensor, Tensor]:
    width = max(map(len, COMPLETIONS_B))
    ids = [[*row, *[filler] * (width - len(row))] for row in COMPLETIONS_B]
    mask = [[1.0] * len(row) + [0.0] * (width - len(row)) for row in COMPLETIONS_B]
    return torch.tensor(ids), torch.tensor(mask)


def per_row(objectives: int = 3, seed: int = 0) -> Tensor:
    """Return coefficients that factorise, [K, B, T]."""
    generator = torch.Generator().manual_seed(seed)
    a_KB = torch.randn(objectives, ROWS, generator=generator)
    beta_BT = torch.rand(ROWS, 7, generator=generator) + 0.5
    return a_KB[..., None] * beta_BT * tensors()[1]


def per_token(objectives: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(objectives, ROWS, 7, generator=generator) * tensors()[1]


def micro_batches(
    one: Policy, values_KBT: Tensor, parts: Sequence[Sequence[int]], filler: int = PAD
) -> list[MicroBatch]:
    ids, mask = tensors(filler)

    def part(rows: list[int]) -> MicroBatch:
        width = int(mask[rows].sum(1).max())
        return MicroBatch(
            mask_BT=mask[rows, :width],
            logprobs=lambda: one.logprobs(
                [PROMPTS_B[b] for b in rows], ids[rows, :width], mask[rows, :width]
            ),
            coefficients=lambda _: values_KBT[:, rows, :width],
            spend=lambda passes: None,
        )

    return [part(list(rows)) for rows in parts]


ALL = (tuple(range(ROWS)),)
SPLIT = ((2, 0), (1,), (3, 4))


def gradients(
    one: Policy,
    values_KBT: Tensor,
    parts: Sequence[Sequence[int]] = ALL,
    section: GradientsSection | None = None,
    *,
    sketch: Sketch | None = None,
    filler: int = PAD,
) -> PolicyGradients:
    engine = GradientEngine(one, section or GradientsSection())
    return PolicyGradients(
        engine,
        lambda: micro_batches(one, values_KBT, parts, filler),
        len(values_KBT),
        sketch or engine.sketch(0),
    )


def plain(one: Policy, values_KBT: Tensor, names: Sequence[str] | None = None) -> Tensor:
    """Return the gradients by one plain backward pass per objective over all rows, [K, N]."""
    ids, mask = tensors()
    parameters = [p for n, p in one.trainable() if names is None or n in names]
    rows = []
    for values_BT in values_KBT:
        value = (values_BT * one.logprobs(PROMPTS_B, ids, mask)).sum()
        found = torch.autograd.grad(value, parameters, materialize_grads=True)
        rows.append(torch.cat([grad.flatten().double() for grad in found]))
    return torch.stack(rows)


def flat(found: PolicyGradients, one: Policy) -> Tensor:
    """Return the gradients that were found, [K, N], in the order of the parameters."""
    found.gram()
    sums = found._sums
    assert sums is not None
    count = sums.objectives
    rows = []
    for _, parameter in one.trainable():
        value = sums._sums.get(parameter, torch.zeros(count, parameter.numel()))
        rows.append(value.reshape(count, -1).double())
    return torch.cat(rows, 1)


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


# --- one pass against plain passes -------------------------------------------------------------

MODELS: dict[str, Callable[[], Any]] = {
    "llama": tiny,
    "llama-untied": lambda: tiny(tied=False),
    "qwen2": lambda: tiny("qwen2"),
    "qwen3": lambda: tiny("qwen3", tied=False),
    "gpt2": lambda: tiny("gpt2"),
    "lora": lambda: adapted(tiny(), "q_proj", "v_proj", "down_proj"),
    "lora-head": lambda: adapted(tiny(tied=False), "q_proj", "lm_head"),
    "lora-gpt2": lambda: adapted(tiny("gpt2"), "c_attn"),
    "checkpointed": lambda: checkpointed(tiny()),
    "checkpointed-gpt2": lambda: checkpointed(tiny("gpt2")),
    "unknown-module": lambda: with_norm(Bent(32)),
    "unknown-scale": lambda: with_norm(Scale(32)),
    "torch-norm": lambda: with_norm(nn.RMSNorm(32)),
    "checkpointed-unknown": lambda: checkpointed(with_norm(Bent(32))),
}


@pytest.mark.parametrize("parts", [ALL, SPLIT], ids=["one", "several"])
@pytest.mark.parametrize("name", MODELS)
def test_one_pass_gives_the_gradients_of_plain_passes(
    name: str, parts: Sequence[Sequence[int]]
) -> None:
    one = policy(MODELS[name]())
    values = per_row()
    found, expected = gradients(one, values, parts), plain(one, values)
    assert apart(flat(found, one), expected) < 1e-5
    assert apart(found.gram(), expected @ expected.T) < EXACT
    torch.testing.assert_close(found.norms_K(), expected.norm(dim=1), rtol=1e-5, atol=0)
    assert found.metrics["gram/one_pass"] == 1.0
    assert found.metrics["gram/parameters_share"] == 1.0
    assert found.notes() == []
    assert torch.equal(found.gram(), found.gram().T)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gpt2", "lora", "checkpointed"])
def test_bfloat16_agrees_within_its_rounding(name: str) -> None:
    one = policy(MODELS[name](), torch.bfloat16)
    values = per_row()
    found, expected = gradients(one, values), plain(one, values)
    assert apart(found.gram(), expected @ expected.T) < ROUNDED
    assert found.metrics["gram/one_pass"] == 1.0


def test_long_and_short_rows_take_different_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    one = policy(tiny())
    values = per_row()
    expected = plain(one, values)
    for overhead, limit in ((0, 64), (0, 2**21), (1000, 2**21)):
        monkeypatch.setattr("moalign.training.gradient_sums.ROW_OVERHEAD", overhead)
        monkeypatch.setitem(
            __import__("moalign.training.gradient_sums", fromlist=["x"]).ROW_BYTES, "cpu", limit
        )
        assert apart(flat(gradients(one, values), one), expected) < 1e-5


def test_one_objective_is_one_gradient() -> None:
    one = policy(tiny())
    values = per_row(1)
    found, expected = gradients(one, values, SPLIT), plain(one, values)
    assert found.gram().shape == (1, 1)
    assert apart(found.gram(), expected @ expected.T) < EXACT


def test_the_pass_computes_no_gradient_of_a_weight() -> None:
    """Its products are those by activations, as many as forward, and those of the rows."""
    from torch.utils.flop_counter import FlopCounterMode

    one = policy(tiny(layers=1))
    ids, mask = tensors()
    engine = GradientEngine(one, GradientsSection())
    assert not engine.reason(engine.trained, None)
    recorder = engine._recorder(engine.trained)
    with FlopCounterMode(display=False) as forward:
        one.logprobs(PROMPTS_B, ids, mask)
    with recorder.watching(mask):
        value = one.logprobs(PROMPTS_B, ids, mask).sum()
        recorder.catch = lambda *_: None  # type: ignore[method-assign]
        with FlopCounterMode(display=False) as backward:
            recorder.backward(value, torch.ones(3, ROWS), GradientSums(engine.trained, 3))
    # Attention's own backward pass is dearer than its forward pass; a pass with gradients of
    # weights would take twice the forward pass.
    assert backward.get_total_flops() < 1.4 * forward.get_total_flops()
    assert all(p.grad is None for p in one.model.parameters())


def test_modules_that_are_called_twice() -> None:
    model = tiny()
    model.model.layers[1].mlp = model.model.layers[0].mlp
    model.model.layers[1].input_layernorm = model.model.layers[0].input_layernorm
    one = policy(model)
    values = per_row()
    found = gradients(one, values, SPLIT)
    assert apart(flat(found, one), plain(one, values)) < 1e-5
    assert found.metrics["gram/one_pass"] == 1.0


def test_frozen_and_unused_parameters() -> None:
    model = tiny()
    model.model.embed_tokens.weight.requires_grad_(False)
    model.model.layers[0].requires_grad_(False)
    model.model.layers[1].mlp.unused = Parameter(torch.ones(3))
    one = policy(model)
    values = per_row()
    found = gradients(one, values, SPLIT)
    assert apart(flat(found, one), plain(one, values)) < 1e-5
    assert found.metrics["gram/one_pass"] == 1.0
    leaves = found.leaves()
    assert leaves is not None
    for leaf, columns in zip(leaves, micro_batches(one, values, SPLIT), strict=True):
        leaf.grad = -columns.coefficients(leaf)[0]
    assert found.assign(leaves)
    assert model.model.layers[1].mlp.unused.grad is None
    assert model.model.layers[0].mlp.up_proj.weight.grad is None
    assert model.model.layers[1].mlp.up_proj.weight.grad is not None


def test_what_stands_on_padding_does_not_matter() -> None:
    one = policy(tiny())
    values = per_row()
    grams = [gradients(one, values, filler=filler).gram() for filler in (PAD, 17)]
    assert torch.equal(*grams)


# --- where one pass is not exact ---------------------------------------------------------------


def test_coefficients_per_token_take_plain_passes() -> None:
    one = policy(tiny())
    values = per_token()
    found, expected = gradients(one, values, SPLIT), plain(one, values)
    assert apart(flat(found, one), expected) < 1e-5
    # The one row of one token factorises.
    assert found.metrics["gram/one_pass"] < 1.0


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (First(Pair(32)), "Pair returns more than a tensor"),
        (Overwriting(32), "overwrites what a module has read"),
        (InPlace(32), "changes a module's output in place"),
        (Mixing(32), "one pass does not give the gradient of model"),
        (Borrowing(32), "one pass does not give the gradient of model.norm.1.inner.weight"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_cannot_be_followed_takes_plain_passes(module: nn.Module, reason: str) -> None:
    one = policy(with_norm(module))
    values = per_row()
    found = gradients(one, values)
    assert apart(flat(found, one), plain(one, values)) < 1e-5
    assert found.metrics["gram/one_pass"] == 0.0
    assert reason in found.notes()[0]


def test_experts_are_right_either_way() -> None:
    """Modules that see some tokens of all rows, in an order of their own."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    one = policy(MixtralForCausalLM(config))
    values = per_row()
    assert apart(flat(gradients(one, values, SPLIT), one), plain(one, values)) < 1e-5


# --- scopes ------------------------------------------------------------------------------------


def test_layers_are_those_of_the_plain_gradient() -> None:
    one = policy(tiny(layers=4))
    names = [n for n, _ in one.trainable() if n.startswith(("model.layers.1.", "model.layers.2."))]
    assert names
    values = per_row()
    expected, everything = plain(one, values, names), plain(one, values)
    found = gradients(one, values, SPLIT, GradientsSection(layers=(1, 2)))
    assert apart(found.gram(), expected @ expected.T) < EXACT
    assert found.metrics["gram/parameters_share"] == pytest.approx(
        expected.shape[1] / everything.shape[1]
    )
    assert found.leaves() is None  # a part of the gradient is no update
    torch.testing.assert_close(found.norms_K(), everything.norm(dim=1), rtol=1e-5, atol=0)
    # What was computed for the norms holds the layers, too, and everything that an update needs.
    assert apart(found.gram(), expected @ expected.T) < EXACT
    assert found.leaves() is not None


def test_lora_only_leaves_other_trained_weights_out() -> None:
    wrapped = adapted(tiny(), "q_proj")
    wrapped.get_base_model().model.norm.weight.requires_grad_(True)
    one = policy(wrapped)
    names = [n for n, _ in one.trainable() if "lora" in n]
    assert len(names) == len(one.trainable()) - 1
    values = per_row()
    expected = plain(one, values, names)
    found = gradients(one, values, section=GradientsSection(only="lora"))
    assert apart(found.gram(), expected @ expected.T) < EXACT


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (GradientsSection(layers=(0, 2)), r"layers: found \[0, 2\]; the policy has 2 layers, 0 to"),
        (GradientsSection(only="lora"), "the policy has no LoRA adapter; use only: all"),
    ],
)
def test_scopes_that_do_not_exist(section: GradientsSection, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        GradientEngine(policy(tiny()), section)


@pytest.mark.parametrize("name", ["llama", "unknown-module"])
def test_a_sketch_is_right_on_average(name: str) -> None:
    """Within its standard error, and with no more variance than its docstring says."""
    size, seeds = 8, 100
    one = policy(MODELS[name]())
    names = {p: n for n, p in one.trainable() if "layers.1" not in n}
    torch.manual_seed(2)
    given = {p: torch.randn(3, *p.shape) + torch.randn(p.shape) for p in names}
    rows = torch.cat([value.reshape(3, -1) for value in given.values()], 1).double()
    exact = rows @ rows.T
    found = []
    for seed in range(seeds):
        sums = GradientSums(names, 3, Sketch(size, seed))
        for parameter, gradients_Kx in given.items():
            for k, gradient in enumerate(gradients_Kx):
                sums.add_gradient(parameter, k, gradient)
        found.append(sums.products(sums))
    draws = torch.stack(found)
    mean, deviation = draws.mean(0), draws.std(0)
    assert ((mean - exact).abs() < 4 * deviation / seeds**0.5).all()
    squares = [v.flatten(1).square().sum(1) for p, v in given.items() if p.ndim > 1]
    matrices_NK = torch.stack(squares).double()
    bound = ((1 + 2 / size) ** 2 - 1) * matrices_NK.T @ matrices_NK
    assert (deviation.square() < bound).all()
    assert (deviation > 0).all()


def test_a_sketch_is_the_projection_of_the_gradient() -> None:
    """By one pass and by plain passes alike, tied embeddings and micro-batches included."""
    one = policy(tiny())
    names = {p: n for n, p in one.trainable()}
    values = per_row()
    sketch = Sketch(8, 3)
    expected = GradientSums(names, 3, sketch)
    ids, mask = tensors()
    logprobs = one.logprobs(PROMPTS_B, ids, mask)
    add_plainly((values * logprobs).sum((1, 2)), expected, names)
    found = gradients(one, values, SPLIT, sketch=sketch)
    assert apart(found.gram(), expected.products(expected)) < 1e-5
    assert found.leaves() is None


def test_a_wide_sketch_is_exact() -> None:
    one = policy(tiny())
    values = per_row()
    found = gradients(one, values, section=GradientsSection(sketch=64))
    assert apart(found.gram(), gradients(one, values).gram()) < 1e-5
    assert found.metrics["gram/sketch"] == 1.0


def test_the_share_that_a_sketch_keeps_is_said() -> None:
    one = policy(tiny(layers=4))
    values = per_row()
    for section in (GradientsSection(sketch=8), GradientsSection(sketch=8, layers=(1, 2))):
        found = gradients(one, values, section=section)
        found.gram()
        assert found._sums is not None
        kept = sum(value[0].numel() for value in found._sums._sums.values())
        scope = found._engine.scope
        assert found.metrics["gram/sketch"] == kept / sum(p.numel() for p in scope)
        assert found.metrics["gram/sketch"] < 0.2
    assert found.metrics["gram/parameters_share"] < 1.0  # of what is trained, projected or not
    exact = gradients(one, values)
    exact.gram()
    assert "gram/sketch" not in exact.metrics


def test_probes_are_compared_within_the_scope() -> None:
    one = policy(tiny())
    values, probe = per_row(), per_row(1, seed=5)
    expected = torch.cat([plain(one, values), plain(one, probe)])
    found = gradients(one, values, SPLIT).gram(gradients(one, probe))
    assert found.shape == (4, 4)
    assert apart(found, expected @ expected.T) < EXACT


# --- coefficients ------------------------------------------------------------------------------


class Loss(Optimizer):
    """A loss of its own, with a term that no advantage touches, that counts its calls."""

    name = "loss"

    def __init__(self, power: float = 1.0, pull: float = 0.0) -> None:
        self.power, self.pull, self.calls = power, pull, 0

    def loss(self, logprobs_BT: Tensor, rows: Rows, advantages_BT: Tensor) -> Any:
        self.calls += 1
        ratio = (logprobs_BT - rows.old_logprobs_BT).exp()
        scaled = advantages_BT.sign() * advantages_BT.abs() ** self.power
        values = -ratio * scaled + self.pull * logprobs_BT.square()
        return (values * rows.mask_BT).sum() / rows.total_tokens, {}

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: Any) -> None:
        self.calls = state["calls"]


def share(logprobs_BT: Tensor, mask_BT: Tensor) -> Rows:
    return Rows(mask_BT, logprobs_BT, None, len(mask_BT), int(mask_BT.sum()), 9)


@pytest.mark.parametrize("tokens", [1, 7])
def test_coefficients_are_the_slope_of_the_loss(tokens: int) -> None:
    _, mask = tensors()
    logprobs = -torch.rand(ROWS, 7, generator=torch.Generator().manual_seed(0)) * mask
    advantages = torch.randn(ROWS, tokens, 3, generator=torch.Generator().manual_seed(1))
    optimizer = Loss(pull=0.3)
    found = coefficients(optimizer, logprobs, share(logprobs, mask), advantages)
    expected = advantages.permute(2, 0, 1) * mask / mask.sum()
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-5)
    assert optimizer.calls == 0
    factors = factorised(found)
    assert (factors is not None) == (tokens == 1)
    if factors is not None:
        a_KB, beta_BT = factors
        torch.testing.assert_close(a_KB[..., None] * beta_BT, found, atol=1e-8, rtol=1e-5)


def test_rows_without_any_advantage_factorise() -> None:
    values = per_row()
    values[:, 2] = 0.0
    factors = factorised(values)
    assert factors is not None
    assert (factors[1][2] == 0).all()
    assert torch.isfinite(factors[0]).all()
    assert factorised(torch.zeros(2, 3, 4)) is not None


def test_combinations_are_found_and_refused() -> None:
    columns = per_row().flatten(1)
    weights = torch.tensor([0.5, -2.0, 0.25])
    alpha = combination(weights @ columns, columns)
    assert alpha is not None
    torch.testing.assert_close(alpha.float(), weights, atol=1e-5, rtol=1e-5)
    assert combination(per_token().flatten(1)[0], columns) is None
    assert combination(torch.zeros_like(columns[0]), columns) is not None
    assert combination(torch.full_like(columns[0], torch.nan), columns) is None
    # Objectives that agree, and one that is silent.
    agreeing = torch.stack([columns[0], 2 * columns[0], torch.zeros_like(columns[0])])
    alpha = combination(3 * columns[0], agreeing)
    assert alpha is not None
    torch.testing.assert_close((alpha.float() @ agreeing), 3 * columns[0], atol=1e-5, rtol=1e-4)


# --- in the loop -------------------------------------------------------------------------------

# Large enough that no objective is silent, and that none is a multiple of another by chance.
GRAM = ("weighting=asking", "search.space={}", "training.prompts=6", "training.group=8")


def new_trial(study: Study, runs: Path) -> Trial:
    folder = base_folder(study, RunFolder(runs / "letters"))
    names = [o.name for o in study.train_objectives]
    loaded = [lambda: study.policy.load(folder, names)] * 2
    made = Policy(loaded[0](), *choose_device_and_dtype("cpu"), loaded[1])
    return Trial(study, 0, made, study.section.training.steps)


def ordinary(trial: Trial) -> Trial:
    """Let a trial make its update by a pass of its own."""
    inner = trial._gradients

    def without_leaves(*args: Any) -> PolicyGradients:
        given = inner(*args)
        given.leaves = lambda: None  # type: ignore[method-assign]
        return given

    trial._gradients = without_leaves  # type: ignore[method-assign]
    return trial


SPANNED = {
    "plain": (),
    "grpo": ("training.optimizer=grpo",),
    "whitened-over-rows": ("training.batch_norm=sequence",),  # the mean is 0: a gain
    "gain": ("weighting={asking: {gain: 0.5}}",),
    "micro": ("training.micro_tokens=150", "training.optimizer=grpo"),
    "returns": ("training.optimizer=reinforce-pp",),
    "alike": ("objectives.b.reward={share: {letter: a}}",),
    "reference-unmoved": ("training.optimizer={grpo: {kl_coefficient: 0.1}}",),
}


@pytest.mark.parametrize("overrides", SPANNED.values(), ids=SPANNED)
def test_the_update_of_the_known_gradients_is_the_ordinary_one(
    new_study: NewStudy, runs: Path, overrides: tuple[str, ...]
) -> None:
    study = new_study(*GRAM, *overrides)
    one, other = new_trial(study, runs), ordinary(new_trial(study, runs))
    for number in range(2 if "kl_coefficient" not in str(overrides) else 1):
        found, expected = one.train_step(), other.train_step()
        assert found.pop("gram/reused") == 1.0
        assert expected.pop("gram/reused") == 0.0
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
        pairs = [(a.grad, b.grad) for a, b in zip(one.parameters, other.parameters, strict=True)]
        mine, theirs = (
            torch.cat([g.flatten() for g in grads]) for grads in zip(*pairs, strict=True)
        )
        assert apart(mine, theirs) < (1e-5 if number == 0 else 1e-3)
    assert one.cost.backwarded < other.cost.backwarded


NOT_SPANNED = {
    "whitened": ("training.batch_norm=token",),
    "per-prompt": ("weighting={asking: {returns: per-prompt}}",),
    "response-scores": ("weighting={asking: {returns: response-scores}}",),
    "rewards": ("training.combine=rewards", "training.optimizer=grpo"),
    "mini-batches": ("training.minibatches=2",),
    "epochs": ("training.optimizer=two-passes",),
    "layers": ("training.gradients.layers=[1, 1]",),
    "sketch": ("training.gradients.sketch=4",),
}


@pytest.mark.parametrize("overrides", NOT_SPANNED.values(), ids=NOT_SPANNED)
def test_other_updates_are_passes_of_their_own(
    new_study: NewStudy, runs: Path, overrides: tuple[str, ...]
) -> None:
    study = new_study(*GRAM, *overrides)
    one, other = new_trial(study, runs), ordinary(new_trial(study, runs))
    for _ in range(2):
        found = one.train_step()
        assert found["gram/reused"] == 0.0
        assert found == other.train_step()
    for a, b in zip(one.parameters, other.parameters, strict=True):
        assert torch.equal(a, b)


# What the update is made of beside the weighted sum of the objectives' gradients.
APART = {
    "whitened": ("training.batch_norm=token",),
    "whitened-over-rows": ("training.batch_norm=sequence",),
    "per-prompt": ("weighting={asking: {returns: per-prompt}}",),
    "rewards": ("training.combine=rewards", "training.optimizer=grpo"),
    "mini-batches": ("training.minibatches=2",),
}
ALIKE = {
    "plain": (),
    "grpo": ("training.optimizer=grpo",),
    "gain": ("weighting={asking: {gain: 0.5}}",),
    "clipped": ("training.clip_norm=1e-3",),
}


@pytest.mark.parametrize("overrides", [*ALIKE.values(), *APART.values()], ids=[*ALIKE, *APART])
def test_the_gap_between_the_update_and_the_weighted_gradients(
    new_study: NewStudy, runs: Path, overrides: tuple[str, ...]
) -> None:
    metrics = new_trial(new_study(*GRAM, *overrides), runs).train_step()
    share = metrics["gram/norm_gap"] / metrics["gradient_norm"]
    assert share < 1e-5 if overrides in ALIKE.values() else share > 1e-3


@pytest.mark.parametrize(
    "overrides",
    [
        ("weighting=fixed",),
        ("weighting={asking: {returns: response-scores}}",),
        ("training.gradients.layers=[1, 1]",),
        ("training.gradients.sketch=4",),
    ],
    ids=["nobody-asked", "no-weights", "layers", "sketch"],
)
def test_no_gap_is_said_where_none_is_known(
    new_study: NewStudy, runs: Path, overrides: tuple[str, ...]
) -> None:
    assert "gram/norm_gap" not in new_trial(new_study(*GRAM, *overrides), runs).train_step()


def test_a_divergence_in_the_loss_is_no_objective(new_study: NewStudy, runs: Path) -> None:
    """It is left out of every gradient, and then the update is no sum of these."""
    given = ("training.optimizer={grpo: {kl_coefficient: 0.5}}", "training.learning_rate=0.05")
    trial, without = (new_trial(new_study(*GRAM, *g), runs) for g in (given, given[1:]))
    trial.train_step()
    without.policy.load_state(trial.policy.state())
    without.optimizer = new_trial(new_study("training.optimizer=grpo"), runs).optimizer
    batch = trial.rollout("train", 1)
    advantages = torch.randn(batch.rows, 1, 2, generator=torch.Generator().manual_seed(0))
    grams = [t._gradients(t._scored(batch), advantages).gram() for t in (trial, without)]
    assert apart(*grams) < 1e-5
    metrics = trial.train_step()
    assert metrics["gram/reused"] == 0.0
    assert metrics["gram/norm_gap"] > 1e-3 * metrics["gradient_norm"]


def test_rewards_per_token_take_plain_passes(new_study: NewStudy, runs: Path) -> None:
    given = ("training.optimizer=reinforce-pp", "objectives.b.reward=per-token")
    trial = new_trial(new_study(*GRAM, *given), runs)
    metrics = trial.train_step()
    assert metrics["gram/one_pass"] == 0.0
    assert metrics["gram/reused"] == 1.0  # spanned all the same


def test_nothing_is_computed_unless_it_is_asked_for(new_study: NewStudy, runs: Path) -> None:
    metrics = new_trial(new_study(), runs).train_step()
    assert not [name for name in metrics if name.startswith("gram/")]


@pytest.mark.parametrize(
    "overrides",
    [
        ("training.batch_norm=sequence",),
        ("training.batch_norm=token",),
        ("training.minibatches=2",),
        ("training.gradients.sketch=4",),
    ],
    ids=["spanned", "not-spanned", "several-updates", "sketch"],
)
def test_the_gradients_do_not_outlive_the_update(
    new_study: NewStudy,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, ...],
) -> None:
    """Although the weighting keeps the step that it asked for them: they are K policies in size."""
    made: list[weakref.ref[Any]] = []
    for kind in (GradientSums, Passed):
        begin = kind.__init__

        def watched(self: Any, *given: Any, begin: Any = begin) -> None:
            begin(self, *given)
            made.append(weakref.ref(self))

        monkeypatch.setattr(kind, "__init__", watched)

    def left() -> set[str]:
        return {type(one).__name__ for ref in made if (one := ref()) is not None}

    trial = new_trial(new_study(*GRAM, *overrides), runs)
    weigh, held = trial.weighting.weigh, set()

    def asked(step: Any) -> Any:
        returned = weigh(step)
        held.update(left())
        return returned

    monkeypatch.setattr(trial.weighting, "weigh", asked)
    trial.train_step()
    assert held == {"GradientSums", "Passed"}, "there was something to let go of"
    assert trial.weighting.step._gram is not None  # type: ignore[attr-defined]
    assert left() == set()


@pytest.mark.parametrize(
    "overrides",
    [
        ("training.batch_norm=token",),
        ("training.minibatches=2",),
        ("training.gradients.sketch=4",),
    ],
    ids=["not-spanned", "several-updates", "sketch"],
)
def test_an_update_of_its_own_does_not_hold_the_gradients(
    new_study: NewStudy,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, ...],
) -> None:
    trial = new_trial(new_study(*GRAM, *overrides), runs)
    logprobs, held = trial.passes._logprobs, []

    def watched(batch: Any, rows: Tensor, backwards: int = 1) -> Tensor:
        if backwards:
            cells = trial.weighting.step._gram.__closure__  # type: ignore[attr-defined]
            found = [c.cell_contents for c in cells]
            held.extend(g._sums for g in found if isinstance(g, PolicyGradients))
        return logprobs(batch, rows, backwards)

    monkeypatch.setattr(trial.passes, "_logprobs", watched)
    trial.train_step()
    assert held
    assert not any(held)


@pytest.mark.parametrize("norms", ["first", "last"])
def test_norms_are_of_everything_trained(new_study: NewStudy, runs: Path, norms: str) -> None:
    asking = f"weighting={{asking: {{norms: {norms}}}}}"
    seen, passes = [], []
    for given in ((), ("training.gradients.layers=[0, 0]",)):
        trial = new_trial(new_study(*GRAM, asking, *given), runs)
        metrics = trial.train_step()
        seen.append((*trial.weighting.seen, metrics["gram/parameters_share"]))  # type: ignore[attr-defined]
        passes.append(trial.cost.forwarded)
    (whole, all_norms, everything), (part, same, share) = seen
    torch.testing.assert_close(all_norms, whole.diagonal().sqrt())
    torch.testing.assert_close(same, all_norms)
    assert (part.diagonal() < whole.diagonal()).all()
    assert everything == 1.0
    assert 0 < share < 1
    assert passes[1] == (1 if norms == "first" else 2) * passes[0]


def test_cost_of_the_gram_matrix(new_study: NewStudy, runs: Path) -> None:
    """One forward pass and (1 + K) / 2 backward passes, and nothing for an update of them."""
    free = new_trial(new_study(*GRAM, "weighting=fixed"), runs)
    asking = new_trial(new_study(*GRAM), runs)
    free.train_step()
    asking.train_step()
    assert asking.cost.forwarded == free.cost.forwarded
    assert asking.cost.backwarded == int(1.5 * free.cost.backwarded)
    in_parts = new_trial(new_study(*GRAM, "training.micro_tokens=1"), runs)
    in_parts.train_step()
    assert in_parts.cost == asking.cost, "memory is no part of the cost"


@pytest.mark.parametrize(
    "overrides",
    [(), ("training.gradients.sketch=4",), ("training.batch_norm=token",)],
    ids=["exact", "sketch", "whitened"],
)
def test_resuming_is_exact(
    new_study: NewStudy, runs: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    study = new_study("weighting=influence", "search.space={}", *overrides)
    whole = new_trial(study, runs)
    history = [whole.train_step() for _ in range(4)]
    first = new_trial(study, runs)
    for _ in range(2):
        first.train_step()
    second = resumed(first, new_trial(study, runs), tmp_path)
    assert [second.train_step() for _ in range(2)] == history[2:]
    for name, tensor in whole.policy.state().items():
        assert torch.equal(tensor, second.policy.state()[name]), name
    assert whole.cost == second.cost


def test_a_scope_that_does_not_exist_stops_before_training(new_study: NewStudy, runs: Path) -> None:
    with pytest.raises(StudyError, match="the first layer must not lie above the last"):
        new_study("training.gradients.layers=[2, 1]")
    with pytest.raises(StudyError, match="the policy has 2 layers, 0 to 1"):
        new_trial(new_study("training.gradients.layers=[1, 9]"), runs)
    with pytest.raises(StudyError, match="no LoRA adapter"):
        new_trial(new_study("training.gradients.only=lora"), runs)
