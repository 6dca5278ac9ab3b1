"""The eager rollout: what it samples, and what a row may depend on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from moalign.components import Completions
from moalign.errors import OptionError
from moalign_plugins.rollouts.eager import Eager

END, OTHER_END, PAD = 1, 2, 0
VOCABULARY = 24
PROMPTS = [[5, 6, 7], [9], [8, 3, 4, 11, 12, 13, 5], [5, 6, 7], [20, 21]]
FAMILIES = ["llama", "qwen2", "gpt2", "mistral"]


def tiny(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if family == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=VOCABULARY, n_positions=128, n_embd=32, n_layer=2, n_head=2)
        )
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,  # far from uniform, so that a mistake shows
    }
    if family == "mistral":  # its window is shorter than the sequences
        return MistralForCausalLM(MistralConfig(**shape, sliding_window=6))
    if family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**shape))
    return LlamaForCausalLM(LlamaConfig(**shape))


def generate(
    model: PreTrainedModel,
    prompts: list[list[int]],
    seeds: list[int],
    *,
    max_tokens: int = 24,
    temperature: float = 1.0,
    pad_id: int = PAD,
    end_ids: frozenset[int] = frozenset({END, OTHER_END}),
) -> Completions:
    return Eager(max_tokens=max_tokens, temperature=temperature).generate(
        model,
        prompts,
        group=len(seeds) // len(prompts),
        seeds_B=seeds,
        end_ids=end_ids,
        pad_id=pad_id,
    )


def rows(completions: Completions) -> list[list[int]]:
    """Return the tokens of each row, without padding."""
    pairs = zip(completions.ids_BT, completions.mask_BT, strict=True)
    return [ids[mask > 0].tolist() for ids, mask in pairs]


def logits_after(model: PreTrainedModel, ids: list[int]) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(input_ids=torch.tensor([ids])).logits
    return logits[0, -1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_does_not_depend_on_its_neighbours(family: str) -> None:
    model = tiny(family)
    seeds = list(range(100, 100 + 3 * len(PROMPTS)))
    together = rows(generate(model, PROMPTS, seeds))
    alone = [rows(generate(model, [PROMPTS[b // 3]], [seed]))[0] for b, seed in enumerate(seeds)]
    assert together == alone
    assert len({tuple(row) for row in together}) > len(PROMPTS)
    assert len({len(row) for row in together}) > 5  # so rows were dropped on the way


@pytest.mark.parametrize("family", FAMILIES)
def test_left_padded_prompts_give_the_logits_of_unpadded_ones(family: str) -> None:
    model = tiny(family).eval()
    seen: list[Tensor] = []
    hook = model.get_output_embeddings().register_forward_hook(lambda _, __, out: seen.append(out))
    generate(model, PROMPTS, list(range(len(PROMPTS))), max_tokens=1)
    hook.remove()
    padded = seen[0][:, -1]
    for prompt, logits in zip(PROMPTS, padded, strict=True):
        expected = logits_after(model, prompt)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cache_changes_no_logits(family: str) -> None:
    model = tiny(family).eval()
    seen: list[Tensor] = []
    hook = model.get_output_embeddings().register_forward_hook(lambda _, __, out: seen.append(out))
    row = rows(generate(model, [PROMPTS[2]], [3], end_ids=frozenset({VOCABULARY - 1})))[0]
    hook.remove()
    assert len(row) == len(seen) > 12
    for position, logits in enumerate(seen):
        expected = logits_after(model, PROMPTS[2] + row[:position])
        torch.testing.assert_close(logits[0, -1], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_follow_the_distribution_at_the_temperature(temperature: float) -> None:
    model, count = tiny("llama"), 4000
    completions = generate(
        model, [PROMPTS[0]], list(range(count)), max_tokens=1, temperature=temperature
    )
    expected = (logits_after(model, PROMPTS[0]) / temperature).softmax(-1)
    found = completions.ids_BT[:, 0].bincount(minlength=VOCABULARY) / count
    assert ((found - expected).abs() < 4 * (expected * (1 - expected) / count).sqrt() + 1e-9).all()


def test_a_token_that_became_likelier_keeps_its_seeds() -> None:
    # The same luck under another model, so that comparisons of policies are paired.
    model, seeds = tiny("llama"), list(range(500))
    before = generate(model, [PROMPTS[0]], seeds, max_tokens=1).ids_BT[:, 0] == 0
    was = logits_after(model, PROMPTS[0])
    with torch.no_grad():
        model.get_output_embeddings().weight[0] *= 20 * was[0].sign()
    assert logits_after(model, PROMPTS[0]).softmax(-1)[0] > was.softmax(-1)[0]
    after = generate(model, [PROMPTS[0]], seeds, max_tokens=1).ids_BT[:, 0] == 0
    assert 0 < int(before.sum()) < int(after.sum())
    assert not (before & ~after).any()


def test_equal_calls_give_equal_completions_and_other_seeds_others() -> None:
    model = tiny("llama")
    first = generate(model, PROMPTS, list(range(10)))
    again = generate(model, PROMPTS, list(range(10)))
    other = generate(model, PROMPTS, list(range(10, 20)))
    assert torch.equal(first.ids_BT, again.ids_BT)
    assert rows(first) != rows(other)


def test_large_seeds_are_taken() -> None:
    low, high = rows(generate(tiny("llama"), [PROMPTS[0]], [1, 2**63 + 1]))
    assert low != high


def test_completions_end_at_the_first_end_token_or_at_the_limit() -> None:
    completions = generate(tiny("llama"), PROMPTS, list(range(40)), max_tokens=12)
    assert completions.ids_BT.dtype == torch.int64
    assert completions.mask_BT.dtype == torch.float32
    assert completions.finished_B.dtype == torch.bool
    assert 0 < int(completions.finished_B.sum()) < 40
    for row, finished in zip(rows(completions), completions.finished_B, strict=True):
        assert all(token not in (END, OTHER_END) for token in row[:-1])
        assert (row[-1] in (END, OTHER_END)) == bool(finished)
        assert finished or len(row) == 12
    assert (completions.ids_BT[completions.mask_BT == 0] == PAD).all()
    assert (completions.mask_BT.diff(dim=1) <= 0).all()


def test_the_pad_token_may_be_the_end_token() -> None:
    model, seeds = tiny("gpt2"), list(range(20))
    apart = generate(model, PROMPTS, seeds)
    shared = generate(model, PROMPTS, seeds, pad_id=END)
    assert rows(apart) == rows(shared)
    assert torch.equal(apart.finished_B, shared.finished_B)


def test_the_width_is_the_longest_completion() -> None:
    every = frozenset(range(VOCABULARY))
    completions = generate(tiny("llama"), PROMPTS, list(range(10)), end_ids=every)
    assert completions.ids_BT.shape == (10, 1)
    assert completions.finished_B.all()


def test_finished_rows_leave_the_batch() -> None:
    model = tiny("llama")
    sizes: list[int] = []
    model.register_forward_pre_hook(
        lambda _, __, inputs: sizes.append(len(inputs["input_ids"])), with_kwargs=True
    )
    completions = generate(model, PROMPTS, list(range(50)))
    assert sizes[0] == len(PROMPTS)  # each prompt is read once
    assert sizes[1:] == sorted(sizes[1:], reverse=True)
    going = [int((completions.mask_BT[:, t:].sum(1) > 0).sum()) for t in range(1, len(sizes))]
    assert sizes[1:] == going


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_restored_and_dropout_is_off(training: bool) -> None:
    model = tiny("gpt2")  # has dropout
    expected = rows(generate(model.eval(), PROMPTS, list(range(10))))
    model.train(training)
    assert rows(generate(model, PROMPTS, list(range(10)))) == expected
    assert model.training is training


def test_the_models_mode_is_restored_after_an_error() -> None:
    model = tiny("llama").train()
    with pytest.raises(IndexError):
        generate(model, [[VOCABULARY]], [0])
    assert model.training


def test_completions_can_take_part_in_a_loss() -> None:
    completions = generate(tiny("llama"), PROMPTS, list(range(5)))
    scale = torch.ones((), requires_grad=True)
    (completions.mask_BT * scale).sum().backward()
    assert float(scale.grad or 0) == float(completions.mask_BT.sum())


def test_what_does_not_fit_in_the_context_is_refused() -> None:
    with pytest.raises(
        OptionError,
        match=r"rollout eager: a prompt of 7 tokens and max_tokens 122 do not fit in the model's "
        r"context of 128; lower max_tokens to 121 or shorten the prompts",
    ):
        generate(tiny("gpt2"), PROMPTS, list(range(5)), max_tokens=122)
    assert generate(tiny("gpt2"), PROMPTS, list(range(5)), max_tokens=121).ids_BT.shape[1] <= 121


def test_greedy_takes_the_likeliest_token_whatever_the_seed() -> None:
    model = tiny("llama")
    plain = Eager(max_tokens=6, temperature=0.7)
    greedy = plain.greedy()
    assert (greedy.temperature, plain.temperature) == (0.0, 0.7)
    found = [
        greedy.generate(
            model, PROMPTS, group=1, seeds_B=[seed] * 5, end_ids=frozenset({END}), pad_id=PAD
        )
        for seed in (1, 2)
    ]
    assert torch.equal(found[0].ids_BT, found[1].ids_BT)
    for prompt, row in zip(PROMPTS, rows(found[0]), strict=True):
        for t, token in enumerate(row):
            assert token == int(logits_after(model, prompt + row[:t]).argmax())
