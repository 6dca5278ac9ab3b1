"""The host's wrapper of the model: log-probabilities, reference, state and export."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from moalign.components import Completions, LoadedPolicy, Rollout
from moalign.errors import DataError, RecordError
from moalign.training.policy import Policy, choose_device_and_dtype, micro_batches
from moalign.types import Prompt

VOCABULARY, PAD, END = 24, 0, 1
FAMILIES = ["llama", "qwen2", "gpt2"]
CPU = torch.device("cpu")
# Prompts and completions of different lengths; the last completion is a single token.
PROMPTS_B = [[5, 6, 7], [9], [8, 3, 4, 11, 12, 13, 5], [5, 6, 7]]
COMPLETIONS_B = [[4, 9, 1], [10, 11, 12, 13, 14, 15, 16], [3, 1], [1]]


def tiny(family: str = "llama", seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    if family == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=2)
        )
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
        "pad_token_id": None,
    }
    if family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**shape))
    return LlamaForCausalLM(LlamaConfig(**shape))


def lora(model: PreTrainedModel) -> Any:
    """Put an adapter on a model; unlike a fresh one it does something."""
    adapted: Any = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return adapted


def loaded(model: Any) -> LoadedPolicy:
    words = {"<pad>": PAD, "<eos>": END} | {f"w{i}": i for i in range(2, VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    return LoadedPolicy(
        model=model,
        tokenizer=fast,
        render=lambda prompt, condition: fast(prompt.text)["input_ids"],
        end_ids=frozenset({END}),
        pad_id=PAD,
    )


def policy(model: Any, dtype: torch.dtype = torch.float32, **options: Any) -> Policy:
    return Policy(loaded(model), CPU, dtype, **options)


def padded(completions: list[list[int]], filler: int = PAD) -> tuple[Tensor, Tensor]:
    width = max(map(len, completions))
    ids = torch.tensor([[*row, *[filler] * (width - len(row))] for row in completions])
    mask = torch.tensor([[1.0] * len(row) + [0.0] * (width - len(row)) for row in completions])
    return ids, mask


def expected_logprobs(model: PreTrainedModel, temperature: float = 1.0) -> Tensor:
    """Compute log-probabilities one row at a time, without padding."""
    width = max(map(len, COMPLETIONS_B))
    rows = []
    for prompt, completion in zip(PROMPTS_B, COMPLETIONS_B, strict=True):
        logits = model(input_ids=torch.tensor([prompt + completion])).logits[0]
        logprobs = (logits / temperature).log_softmax(-1)
        values = [logprobs[len(prompt) - 1 + t, token] for t, token in enumerate(completion)]
        rows.append(torch.stack(values + [torch.zeros(())] * (width - len(values))))
    return torch.stack(rows)


# --- log-probabilities -----------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_are_those_of_unpadded_rows(family: str, temperature: float) -> None:
    model = tiny(family)
    ids, mask = padded(COMPLETIONS_B)
    found = policy(model).logprobs(PROMPTS_B, ids, mask, temperature=temperature)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected_logprobs(model, temperature), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_unpadded_rows(family: str) -> None:
    model = tiny(family)
    one = policy(model)
    parameters = [parameter for _, parameter in one.trainable()]
    ids, mask = padded(COMPLETIONS_B)
    scale = torch.tensor([[1.0], [-2.0], [0.5], [3.0]])
    expected = torch.autograd.grad((scale * expected_logprobs(model)).sum(), parameters)
    found = torch.autograd.grad((scale * one.logprobs(PROMPTS_B, ids, mask)).sum(), parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_what_stands_on_padding_does_not_matter() -> None:
    one = policy(tiny())
    ids, mask = padded(COMPLETIONS_B)
    other, _ = padded(COMPLETIONS_B, filler=17)
    assert torch.equal(one.logprobs(PROMPTS_B, ids, mask), one.logprobs(PROMPTS_B, other, mask))


def test_logprobs_are_zero_on_padding_and_equal_at_equal_calls() -> None:
    one = policy(tiny())
    ids, mask = padded(COMPLETIONS_B)
    first, again = (one.logprobs(PROMPTS_B, ids, mask) for _ in range(2))
    assert torch.equal(first, again)
    assert (first[mask == 0] == 0).all()
    assert (first[mask > 0] < 0).all()


def test_an_empty_completion_is_all_padding() -> None:
    found = policy(tiny()).logprobs([[5, 6], [7]], torch.zeros(2, 3).long(), torch.zeros(2, 3))
    assert torch.equal(found, torch.zeros(2, 3))


def test_logits_exist_for_completion_tokens_only() -> None:
    model = tiny()
    shapes: list[torch.Size] = []
    model.get_output_embeddings().register_forward_hook(lambda _, __, out: shapes.append(out.shape))
    ids, mask = padded(COMPLETIONS_B)
    policy(model).logprobs(PROMPTS_B, ids, mask)
    assert shapes == [(sum(map(len, COMPLETIONS_B)), VOCABULARY)]
    assert model(input_ids=torch.tensor([[5, 6, 7]])).logits.shape == (1, 3, VOCABULARY)


def test_dropout_is_off() -> None:
    model = tiny("gpt2").train()
    ids, mask = padded(COMPLETIONS_B)
    one = policy(model)
    assert torch.equal(one.logprobs(PROMPTS_B, ids, mask), one.logprobs(PROMPTS_B, ids, mask))


def test_hidden_states_are_what_the_output_layer_reads() -> None:
    model = tiny()
    one = policy(model)
    ids, mask = padded(COMPLETIONS_B)
    logits: list[Tensor] = []
    hook = model.get_output_embeddings().register_forward_hook(
        lambda _, __, out: logits.append(out)
    )
    hidden = one.hidden(PROMPTS_B, ids, mask)
    hook.remove()
    assert logits[0].numel() == 0  # and nothing else is computed for them
    assert hidden.shape == (4, 7, 32)
    assert not hidden.requires_grad
    assert (hidden[mask == 0] == 0).all()
    with torch.no_grad():
        logprobs = model.get_output_embeddings()(hidden).log_softmax(-1)
    picked = logprobs.gather(-1, ids[..., None]).squeeze(-1) * mask
    torch.testing.assert_close(picked, one.logprobs(PROMPTS_B, ids, mask).detach())


def test_prompt_features_are_means_of_hidden_states() -> None:
    model = tiny()
    one = policy(tiny(seed=1), reference=lambda: loaded(model))
    found = one.prompt_features(PROMPTS_B)
    passes: list[int] = []
    model.register_forward_hook(lambda _, __, ___: passes.append(1))
    torch.testing.assert_close(one.prompt_features(PROMPTS_B, micro_tokens=1), found)
    assert len(passes) == len(PROMPTS_B), "each pass within the limit"
    assert found.shape == (4, 32)
    assert found.dtype == torch.float32
    for prompt, features in zip(PROMPTS_B, found, strict=True):
        out = model(input_ids=torch.tensor([prompt]), output_hidden_states=True)
        torch.testing.assert_close(features, out.hidden_states[-1][0].mean(0), atol=1e-5, rtol=0)


# --- micro-batches ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget", [1, 30, 200, 10_000])
def test_micro_batches_hold_every_row_once_within_the_budget(seed: int, budget: int) -> None:
    lengths = [random.Random(seed).randint(1, 60) for _ in range(40)]
    parts = micro_batches(lengths, budget)
    assert sorted(b for part in parts for b in part) == list(range(40))
    flat = [lengths[b] for part in parts for b in part]
    assert flat == sorted(lengths, reverse=True)
    for part in parts:
        assert len(part) == 1 or len(part) * max(lengths[b] for b in part) <= budget
    assert parts == micro_batches(lengths, budget)


def test_micro_batches_of_nothing() -> None:
    assert micro_batches([], 100) == []


def test_micro_batches_add_up_to_the_whole() -> None:
    model = tiny()
    one = policy(model)
    parameters = [parameter for _, parameter in one.trainable()]
    ids, mask = padded(COMPLETIONS_B)
    whole = torch.autograd.grad(one.logprobs(PROMPTS_B, ids, mask).sum(), parameters)
    lengths = [len(p) + len(c) for p, c in zip(PROMPTS_B, COMPLETIONS_B, strict=True)]
    parts = micro_batches(lengths, 12)
    assert len(parts) == 3
    for part in parts:
        prompts = [PROMPTS_B[b] for b in part]
        longest = max(len(COMPLETIONS_B[b]) for b in part)
        one.logprobs(prompts, ids[part, :longest], mask[part, :longest]).sum().backward()
    for parameter, gradient in zip(parameters, whole, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)


# --- reference -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_reference_is_loaded_once_when_it_is_needed_and_stays(dtype: torch.dtype) -> None:
    calls = []

    def base() -> LoadedPolicy:
        calls.append(1)
        return loaded(tiny())

    one = policy(tiny(), dtype, reference=base)
    ids, mask = padded(COMPLETIONS_B)
    start = one.logprobs(PROMPTS_B, ids, mask).detach()
    assert not calls
    reference = one.reference_logprobs(PROMPTS_B, ids, mask)
    assert torch.equal(reference, start)  # to the bit: KL starts at exactly 0
    assert not reference.requires_grad
    with torch.no_grad():
        for _, parameter in one.trainable():
            parameter.mul_(1.1)
    assert not torch.equal(one.logprobs(PROMPTS_B, ids, mask), start)
    assert torch.equal(one.reference_logprobs(PROMPTS_B, ids, mask), start)
    assert len(calls) == 1
    hot = one.reference_logprobs(PROMPTS_B, ids, mask, temperature=2.0)
    torch.testing.assert_close(
        hot, policy(tiny(), dtype).logprobs(PROMPTS_B, ids, mask, temperature=2.0).detach()
    )


def test_policies_of_a_process_can_share_a_reference() -> None:
    base = loaded(tiny())
    ids, mask = padded(COMPLETIONS_B)
    for dtype in (torch.bfloat16, torch.bfloat16):
        one = policy(tiny(), dtype, reference=lambda: base)
        expected = one.logprobs(PROMPTS_B, ids, mask)
        assert torch.equal(one.reference_logprobs(PROMPTS_B, ids, mask), expected)


def test_with_lora_the_reference_is_the_model_without_its_adapter() -> None:
    def never() -> LoadedPolicy:
        raise AssertionError("with LoRA no copy is needed")

    one = policy(lora(tiny()), reference=never)
    ids, mask = padded(COMPLETIONS_B)
    with_adapter = one.logprobs(PROMPTS_B, ids, mask)
    base = policy(tiny()).logprobs(PROMPTS_B, ids, mask).detach()
    assert torch.equal(one.reference_logprobs(PROMPTS_B, ids, mask), base)
    assert (with_adapter - base).abs().max() > 0.1
    assert torch.equal(one.logprobs(PROMPTS_B, ids, mask), with_adapter)  # it is on again


# --- what is trained -------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_state_holds_what_is_trained_with_tied_weights_once(family: str) -> None:
    one, other = policy(tiny(family)), policy(tiny(family, seed=5))
    state = one.state()
    assert list(state) == [name for name, _ in one.trainable()]
    pointers = [parameter.data_ptr() for _, parameter in one.trainable()]
    assert len(set(pointers)) == len(pointers)
    assert not any("lm_head" in name for name in state)  # tied to the embeddings
    ids, mask = padded(COMPLETIONS_B)
    other.load_state(state)
    assert torch.equal(one.logprobs(PROMPTS_B, ids, mask), other.logprobs(PROMPTS_B, ids, mask))


def test_state_is_a_copy() -> None:
    one = policy(tiny())
    state = one.state()
    before = {name: tensor.clone() for name, tensor in state.items()}
    with torch.no_grad():
        for _, parameter in one.trainable():
            parameter.zero_()
    assert all(torch.equal(state[name], before[name]) for name in state)


def test_with_lora_only_the_adapter_is_trained_and_kept() -> None:
    one = policy(lora(tiny()))
    assert one.state()
    assert all("lora" in name for name in one.state())
    ids, mask = padded(COMPLETIONS_B)
    one.logprobs(PROMPTS_B, ids, mask).sum().backward()
    assert all(parameter.grad is not None for _, parameter in one.trainable())
    fresh = policy(get_peft_model(tiny(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"])))
    fresh.load_state(one.state())
    assert torch.equal(fresh.logprobs(PROMPTS_B, ids, mask), one.logprobs(PROMPTS_B, ids, mask))


def test_a_state_of_another_policy_is_refused() -> None:
    one = policy(tiny())
    state = one.state()
    name = min(state)
    with pytest.raises(
        RecordError,
        match=rf"this checkpoint belongs to another policy: {name} has shape none in it and "
        r"\(24, 32\) in the policy",
    ):
        one.load_state({n: t for n, t in state.items() if n != name})
    with pytest.raises(RecordError, match=r"extra has shape \(1,\) in it and none in the policy"):
        one.load_state({**state, "extra": torch.zeros(1)})
    with pytest.raises(RecordError, match=rf"{name} has shape \(2, 2\) in it"):
        one.load_state({**state, name: torch.zeros(2, 2)})


# --- precision -------------------------------------------------------------------------------


def test_bfloat16_computes_but_does_not_train_in_bfloat16() -> None:
    exact = policy(tiny())
    mixed = policy(tiny(), torch.bfloat16)
    assert {parameter.dtype for _, parameter in mixed.trainable()} == {torch.float32}
    ids, mask = padded(COMPLETIONS_B)
    found, expected = (p.logprobs(PROMPTS_B, ids, mask) for p in (mixed, exact))
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0)
    found.sum().backward()
    assert {parameter.grad.dtype for _, parameter in mixed.trainable()} == {torch.float32}


def test_bfloat16_halves_frozen_weights_only() -> None:
    one = policy(lora(tiny()), torch.bfloat16)
    for name, parameter in one.model.named_parameters():
        assert parameter.dtype == (torch.float32 if "lora" in name else torch.bfloat16)
    ids, mask = padded(COMPLETIONS_B)
    assert one.logprobs(PROMPTS_B, ids, mask).dtype == torch.float32


def test_a_model_stored_in_bfloat16_is_trained_in_float32() -> None:
    one = policy(tiny().to(torch.bfloat16))
    assert {parameter.dtype for _, parameter in one.trainable()} == {torch.float32}


def test_device_and_dtype() -> None:
    assert choose_device_and_dtype("cpu") == (CPU, torch.float32)
    if not torch.cuda.is_available():
        assert choose_device_and_dtype() == (CPU, torch.float32)
    assert choose_device_and_dtype("cuda") == (torch.device("cuda"), torch.bfloat16)


# --- text, sampling, export ------------------------------------------------------------------


def test_text_is_without_special_tokens() -> None:
    one = policy(tiny())
    assert one.decode([4, 5, END]) == "w4 w5"
    assert one.decode_all([[4, END], [PAD, 6]]) == ["w4", "w6"]


def test_a_prompt_without_tokens_is_refused() -> None:
    one = policy(tiny())
    assert one.prompt_ids(Prompt(id="p", text="w3 w4"), None) == [3, 4]
    with pytest.raises(DataError, match=r"prompt 'q' \(' '\) has no tokens; .* at least one"):
        one.prompt_ids(Prompt(id="q", text=" "), None)


class Recorder(Rollout):
    name = "recorder"
    max_tokens = 1

    def generate(self, model: Any, prompt_ids_P: Any, **options: Any) -> Completions:
        self.options = options
        self.dtype = model(input_ids=torch.tensor([[5]])).logits.dtype
        ones = torch.ones(2, 1)
        return Completions(ids_BT=ones.long(), mask_BT=ones, finished_B=ones[:, 0] > 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sampling_is_in_the_policys_precision(dtype: torch.dtype) -> None:
    recorder = Recorder()
    policy(tiny(), dtype).generate(recorder, [[5, 6]], group=2, seeds_B=[1, 2])
    assert recorder.dtype == dtype
    assert recorder.options == {
        "group": 2,
        "seeds_B": [1, 2],
        "end_ids": frozenset({END}),
        "pad_id": PAD,
    }


@pytest.mark.parametrize("adapted", [False, True])
def test_an_export_is_an_ordinary_model_folder(adapted: bool, tmp_path: Path) -> None:
    one = policy(lora(tiny()) if adapted else tiny())
    ids, mask = padded(COMPLETIONS_B)
    expected = one.logprobs(PROMPTS_B, ids, mask).detach()
    one.export(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(model) is LlamaForCausalLM
    assert model.generation_config.eos_token_id == [END]
    torch.testing.assert_close(expected_logprobs(model), expected, atol=1e-5, rtol=0)
    assert AutoTokenizer.from_pretrained(tmp_path).decode([4, 5]) == "w4 w5"
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors"}
    assert torch.equal(one.logprobs(PROMPTS_B, ids, mask), expected)  # it trains on
    assert len(one.trainable()) == len(one.state()) > 0
