"""Pretrained models from folders that these tests write: three families, chat or plain, LoRA."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
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

from moalign.components import LoadedPolicy, Task
from moalign.errors import DataError, OptionError
from moalign.options import check_options
from moalign.training.policy import Policy
from moalign.types import Prompt
from moalign_plugins.policies.pretrained import Lora, Pretrained
from moalign_plugins.rollouts.eager import Eager

FAMILIES = ["llama", "qwen2", "gpt2"]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITHOUT_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT
)
TEXTS = ["What is 17 plus 48?", "Name a colour.", "Go on: one, two, three, four and five"]


class Nothing(Task):
    """Pretrained policies need no task."""

    name = "nothing"

    def prompts(self) -> Sequence[Prompt]:
        return ()


def ignore(share: float, words: str) -> None:
    assert 0 <= share <= 1
    assert words


def write(folder: Path, family: str = "llama", template: str | None = None) -> Path:
    """Write a tiny model of a family as people save them, tokenizer included."""
    end = {"llama": "</s>", "qwen2": "<|im_end|>", "gpt2": "<|endoftext|>"}[family]
    special = ["<|endoftext|>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    if family == "llama":
        start = ("<s>", tokenizer.token_to_id("<s>"))
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[start]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=end,
        # Llama has no pad token; GPT-2 people set pad = end.
        **({"pad_token": "<|endoftext|>"} if family != "llama" else {"bos_token": "<s>"}),
    )
    fast.chat_template = template
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    model(family, len(fast), fast.eos_token_id).save_pretrained(folder)
    return folder


def model(family: str, vocabulary: int, end_id: int) -> PreTrainedModel:
    if family == "gpt2":
        width = {"n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 2}
        ends = {"eos_token_id": end_id, "bos_token_id": end_id}
        return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, **width, **ends))
    shape: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "eos_token_id": end_id,
        "bos_token_id": None,
    }
    if family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True))
    return LlamaForCausalLM(LlamaConfig(**shape))


def built(source: Pretrained, folder: Path, seed: int = 0) -> LoadedPolicy:
    folder.mkdir()
    source.build(Nothing(), seed, ["accuracy", "brevity"], folder, ignore)
    return source.load(folder, ["accuracy", "brevity"])


def text_of(loaded: LoadedPolicy, condition: Mapping[str, float] | None = None) -> str:
    ids = loaded.render(Prompt(id="p", text="Name a colour."), condition)
    return str(loaded.tokenizer.decode(ids))


def one_by_one(model: PreTrainedModel, prompt: list[int], completion: list[int]) -> Tensor:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + completion])).logits[0]
    logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return logprobs.gather(1, torch.tensor(completion)[:, None]).squeeze(1)


# --- sampling and log-probabilities ----------------------------------------------------------


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
@pytest.mark.parametrize("template", [None, CHAT], ids=["plain", "chat"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_logprob(
    family: str, template: str | None, lora: Lora | None, tmp_path: Path
) -> None:
    folder = write(tmp_path / "model", family, template)
    source = Pretrained(model=str(folder), lora=lora)
    policy = Policy(built(source, tmp_path / "base"), torch.device("cpu"), torch.float32)
    prompts = [policy.prompt_ids(Prompt(id=text, text=text), None) for text in TEXTS]
    assert len({len(ids) for ids in prompts}) == len(TEXTS)

    # Sampling pads on the left: its first logits, read off the output layer.
    seen: list[Tensor] = []
    hook = policy.model.get_output_embeddings().register_forward_hook(
        lambda _, __, out: seen.append(out[:, -1])
    )
    seeds = list(range(4 * len(TEXTS)))
    sampled = policy.generate(Eager(max_tokens=8), prompts, group=4, seeds_B=seeds)
    hook.remove()
    for prompt, logits in zip(prompts, seen[0], strict=True):
        with torch.no_grad():
            expected = policy.model(input_ids=torch.tensor([prompt])).logits[0, -1]
        torch.testing.assert_close(
            logits.log_softmax(-1), expected.log_softmax(-1), atol=1e-5, rtol=0
        )

    # Training pads on the right.
    prompts_B = [prompts[b // 4] for b in range(len(seeds))]
    logprobs = policy.logprobs(prompts_B, sampled.ids_BT, sampled.mask_BT).detach()
    rows = zip(prompts_B, sampled.ids_BT, sampled.mask_BT, logprobs, strict=True)
    for prompt, ids, mask, found in rows:
        expected = one_by_one(policy.model, prompt, ids[mask > 0].tolist())
        torch.testing.assert_close(found[mask > 0], expected, atol=1e-5, rtol=0)


def test_a_pad_token_that_is_the_end_token_still_ends(tmp_path: Path) -> None:
    loaded = built(Pretrained(model=str(write(tmp_path / "model", "gpt2"))), tmp_path / "base")
    assert {loaded.pad_id} == loaded.end_ids
    policy = Policy(loaded, torch.device("cpu"), torch.float32)
    prompts = [policy.prompt_ids(Prompt(id=text, text=text), None) for text in TEXTS]
    sampled = policy.generate(Eager(max_tokens=80), prompts, group=16, seeds_B=list(range(48)))
    assert 0 < int(sampled.finished_B.sum()) < 48
    lengths = sampled.mask_BT.sum(1).long()
    for ids, length, finished in zip(sampled.ids_BT, lengths, sampled.finished_B, strict=True):
        assert finished == (ids[length - 1] == loaded.pad_id)
        assert (ids[: length - 1] != loaded.pad_id).all()


# --- prompts ---------------------------------------------------------------------------------


def test_a_plain_prompt_is_its_text(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", "qwen2")
    loaded = built(Pretrained(model=str(folder)), tmp_path / "a")
    assert text_of(loaded) == "Name a colour."
    assert loaded.speaks == f"Trained from {folder}. A prompt is plain text."
    loaded = built(Pretrained(model=str(folder), system="Be brief."), tmp_path / "b")
    assert text_of(loaded) == "Be brief.\n\nName a colour."


def test_a_plain_prompt_starts_as_the_tokenizer_starts_it(tmp_path: Path) -> None:
    loaded = built(Pretrained(model=str(write(tmp_path / "model", "llama"))), tmp_path / "a")
    assert text_of(loaded) == "<s>Name a colour."


def test_a_chat_prompt_is_a_user_message(tmp_path: Path) -> None:
    folder = str(write(tmp_path / "model", "llama", CHAT))
    plain = built(Pretrained(model=folder), tmp_path / "a")
    assert text_of(plain) == ("<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n")
    assert plain.speaks.endswith("A prompt is a user message in a chat.")
    system = built(Pretrained(model=folder, system="Be brief."), tmp_path / "b")
    assert text_of(system).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user")


@pytest.mark.parametrize("template", [None, CHAT], ids=["plain", "chat"])
def test_a_condition_stands_before_the_prompt(template: str | None, tmp_path: Path) -> None:
    folder = str(write(tmp_path / "model", "qwen2", template))
    loaded = built(Pretrained(model=folder, condition="weights"), tmp_path / "base")
    found = text_of(loaded, {"accuracy": 0.6, "brevity": 0.4})
    assert "accuracy 0.60, brevity 0.40\nName a colour." in found
    assert "such as `accuracy 0.50, brevity 0.50`" in loaded.speaks, "the study's objectives"
    assert "accuracy" not in text_of(loaded)


def test_a_template_that_takes_no_system_message_is_found_before_training(tmp_path: Path) -> None:
    folder = str(write(tmp_path / "model", "llama", WITHOUT_SYSTEM))
    with pytest.raises(OptionError, match=r"refuses the prompt \(no system\).*leave `system` out"):
        built(Pretrained(model=folder, system="Be brief."), tmp_path / "a")
    assert "Name a colour." in text_of(built(Pretrained(model=folder), tmp_path / "b"))


TALK = (
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "Name a colour."},
)


def test_a_conversation_is_its_messages(tmp_path: Path) -> None:
    prompt = Prompt(id="p", text="Human: Hello.", messages=TALK)
    folder = str(write(tmp_path / "model", "llama", CHAT))
    source = Pretrained(model=folder, system="Be brief.", condition="weights")
    loaded = built(source, tmp_path / "a")
    found = str(loaded.tokenizer.decode(loaded.render(prompt, {"accuracy": 1.0})))
    assert re.findall(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", found, re.DOTALL) == [
        ("system", "Be brief."),
        ("user", "Hello."),
        ("assistant", "Hi."),
        ("user", "accuracy 1.00\nName a colour."),
    ]
    own = ({"role": "system", "content": "Be kind."}, *TALK)
    kind = Prompt(id="p", text="", messages=own)
    assert "Be brief." not in str(loaded.tokenizer.decode(loaded.render(kind, None)))
    assert prompt.messages[-1]["content"] == "Name a colour."  # nothing is written into it

    plain = built(Pretrained(model=str(write(tmp_path / "plain", "qwen2"))), tmp_path / "b")
    assert str(plain.tokenizer.decode(plain.render(prompt, None))) == "Human: Hello."


def test_a_conversation_that_a_template_refuses_is_named(tmp_path: Path) -> None:
    folder = str(write(tmp_path / "model", "llama", WITHOUT_SYSTEM))
    loaded = built(Pretrained(model=folder), tmp_path / "a")
    prompt = Prompt(id="p7", text="", messages=({"role": "system", "content": "x"}, *TALK))
    with pytest.raises(DataError, match="roles of prompt 'p7' are system, user, assistant, user"):
        loaded.render(prompt, None)


def test_every_end_token_ends(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", "llama")
    settings = folder / "generation_config.json"
    settings.write_text(json.dumps({"eos_token_id": [0, 4]}), encoding="utf-8")
    loaded = built(Pretrained(model=str(folder)), tmp_path / "base")
    assert loaded.end_ids == {0, 2, 4}
    assert loaded.pad_id in loaded.end_ids  # it has no pad token


def test_a_model_without_an_end_token_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", "gpt2")
    (folder / "generation_config.json").unlink()
    for name, key in (("config.json", "eos_token_id"), ("tokenizer_config.json", "eos_token")):
        settings = json.loads((folder / name).read_text(encoding="utf-8")) | {key: None}
        (folder / name).write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(DataError, match=r"name an end token, so no completion could end; set"):
        built(Pretrained(model=str(folder)), tmp_path / "base")


# --- LoRA ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_adapter_changes_nothing_and_is_a_function_of_the_seed(
    family: str, tmp_path: Path
) -> None:
    folder = str(write(tmp_path / "model", family))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    cpu = torch.device("cpu")
    states = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        loaded = built(Pretrained(model=folder, lora=Lora(rank=2)), tmp_path / name, seed)
        policy = Policy(loaded, cpu, torch.float32)
        states.append(policy.state())
        ids = [5, 6, 7]
        ones = torch.ones(1, 3)
        found = policy.logprobs([[9, 8]], torch.tensor([ids]), ones)
        reference = policy.reference_logprobs([[9, 8]], torch.tensor([ids]), ones)
        assert torch.equal(found.detach(), reference)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    assert not all(torch.equal(states[0][n], states[2][n]) for n in states[0])
    full = Policy(built(Pretrained(model=folder), tmp_path / "full"), cpu, torch.float32).state()
    assert sum(map(torch.numel, states[0].values())) < sum(map(torch.numel, full.values())) / 2


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_is_trained_and_exported_merged(family: str, tmp_path: Path) -> None:
    folder = str(write(tmp_path / "model", family))
    loaded = built(Pretrained(model=folder, lora=Lora(rank=2)), tmp_path / "base")
    policy = Policy(loaded, torch.device("cpu"), torch.float32)
    prompt, ids, mask = [[9, 8]], torch.tensor([[5, 6, 7]]), torch.ones(1, 3)
    optimizer = torch.optim.Adam([p for _, p in policy.trainable()], lr=0.01)
    for _ in range(10):
        optimizer.zero_grad()
        (-policy.logprobs(prompt, ids, mask).sum()).backward()
        optimizer.step()
    trained = policy.logprobs(prompt, ids, mask).detach()
    reference = policy.reference_logprobs(prompt, ids, mask)
    assert trained.sum() > reference.sum() + 0.1
    policy.export(tmp_path / "export")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    found = one_by_one(merged, [9, 8], [5, 6, 7])
    torch.testing.assert_close(found, trained[0], atol=1e-5, rtol=0)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export")
    assert tokenizer.decode(tokenizer("Name a colour.")["input_ids"]).endswith("Name a colour.")


def test_chosen_layers_alone_are_adapted(tmp_path: Path) -> None:
    folder = str(write(tmp_path / "model"))
    source = Pretrained(model=folder, lora=Lora(rank=2, targets=("q_proj",)))
    policy = Policy(built(source, tmp_path / "base"), torch.device("cpu"), torch.float32)
    assert len(policy.trainable()) == 2 * 2
    assert all("q_proj" in name for name, _ in policy.trainable())


def test_layers_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    source = Pretrained(model=str(write(tmp_path / "model")), lora=Lora(targets=("nowhere",)))
    with pytest.raises(OptionError, match=r"lora.targets \['nowhere'\] do not fit the model"):
        built(source, tmp_path / "base")


# --- identity --------------------------------------------------------------------------------


def test_the_recipe_is_the_content_of_the_folder_not_its_place(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    copied = tmp_path / "elsewhere"
    shutil.copytree(folder, copied)
    (copied / ".cache").mkdir()
    (copied / ".cache" / "x").write_text("x", encoding="utf-8")

    def recipe(seed: int = 0, **options: Any) -> Mapping[str, Any]:
        return Pretrained(**{"model": str(folder)} | options).recipe(Nothing(), seed, ["a"])

    assert recipe() == recipe(model=str(copied)) == recipe(seed=1)
    assert json.loads(json.dumps(recipe(lora=Lora()))) == recipe(lora=Lora())
    changed = [
        recipe(lora=Lora()),
        recipe(lora=Lora(rank=2)),
        recipe(seed=1, lora=Lora()),
        recipe(condition="weights"),
        recipe(system="x"),
        recipe(model="some/name"),
        recipe(model="some/name", revision="v1"),
    ]
    with (folder / "config.json").open("a", encoding="utf-8") as file:
        file.write("\n")
    changed.append(recipe())
    changed.append(recipe(model=str(copied)))
    assert len({json.dumps(r, sort_keys=True) for r in changed}) == len(changed)


def test_what_is_built_is_small(tmp_path: Path) -> None:
    folder = str(write(tmp_path / "model"))
    built(Pretrained(model=folder), tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["base.json"]
    built(Pretrained(model=folder, lora=Lora()), tmp_path / "lora")
    names = {path.name for path in (tmp_path / "lora" / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names


# --- mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c"])
def test_a_missing_folder_is_a_sentence(name: str) -> None:
    with pytest.raises(DataError, match=rf"there is no folder {name}; give the folder of a saved"):
        Pretrained(model=name).recipe(Nothing(), 0, [])


def test_a_model_that_cannot_be_downloaded_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"nobody/nothing is not a folder here, and cannot be loaded from the hub: "
    ):
        built(Pretrained(model="nobody/nothing"), tmp_path / "base")


def test_a_folder_that_is_no_model_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(DataError, match=r"policy pretrained: folder .* cannot be loaded: "):
        built(Pretrained(model=str(tmp_path / "model")), tmp_path / "base")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    weights = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"no file named model.safetensors.* in safetensors and no"):
        built(Pretrained(model=str(folder)), tmp_path / "base")


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    proof = tmp_path / "proof"
    (folder / "custom.py").write_text(f"open({str(proof)!r}, 'w')\n", encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "custom", "auto_map": {"AutoConfig": "custom.C"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(DataError, match=r"custom code.*It takes causal .* no code of their own"):
        built(Pretrained(model=str(folder)), tmp_path / "base")
    assert not proof.exists()


def test_options_are_checked() -> None:
    options = check_options(Pretrained, {"model": "m", "lora": {"rank": 4, "targets": ["q_proj"]}})
    assert options["lora"] == Lora(rank=4, targets=("q_proj",))
    for lora in ({"rank": 0}, {"rnak": 2}, {"targets": []}, {"alpha": True}):
        with pytest.raises(OptionError, match="lora"):
            check_options(Pretrained, {"model": "m", "lora": lora})
    with pytest.raises(OptionError, match="needs option 'model'"):
        check_options(Pretrained, {})
    with pytest.raises(OptionError, match="condition"):
        check_options(Pretrained, {"model": "m", "condition": "maybe"})


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "num_layers"])
def test_a_folder_tells_its_layers_before_anything_is_built(tmp_path: Path, key: str) -> None:
    (tmp_path / "config.json").write_text(f'{{"{key}": 7}}')
    assert Pretrained(model=str(tmp_path)).depth() == 7


@pytest.mark.parametrize("text", ["[1]", "{}", "7", '{"n_layer": "seven"}', "half {"])
def test_a_folder_that_does_not_tell_its_layers(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert Pretrained(model=str(tmp_path)).depth() is None
    assert Pretrained(model="somebody/on-the-hub").depth() is None


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_layers_told_are_those_of_the_model(tmp_path: Path, family: str) -> None:
    source = Pretrained(model=str(write(tmp_path / "model", family)))
    config = built(source, tmp_path / "built").model.config
    assert source.depth() == config.num_hidden_layers


def test_a_policy_knows_whether_it_has_an_adapter() -> None:
    assert Pretrained(model="a/b").has_lora is False
    assert Pretrained(model="a/b", lora=Lora()).has_lora is True
