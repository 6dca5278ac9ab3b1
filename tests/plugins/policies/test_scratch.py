"""Policies of a few steps: the same bytes twice, ordinary folders, and weights in the prompt."""

from __future__ import annotations

import json
import re

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from moalign.components import Task
from moalign.errors import ContractError, NonFiniteError, OptionError
from moalign.types import Demonstration, Prompt
from moalign_plugins.policies import scratch
from moalign_plugins.policies.scratch import Scratch
from moalign_plugins.tasks.arithmetic import Arithmetic

TASK = Arithmetic(demonstrations=200)
OBJECTIVES = ("accuracy", "conciseness", "clarity")
TINY = {"hidden": 32, "layers": 1, "steps": 3, "batch": 40}


class Words(Task):
    """A task without a tokenizer."""

    name = "words"

    def __init__(self, texts=("a b", "b a"), tokenizer=None):
        self.texts = texts
        self.own = tokenizer

    def prompts(self):
        return [Prompt(text, text) for text in self.texts]

    def demonstrations(self, seed):
        return [Demonstration(text, f"{text} \u2192 {text}!") for text in self.texts]

    def tokenizer(self):
        return self.own


def build(folder, task=TASK, seed=0, progress=lambda share, words: None, **options):
    folder.mkdir()
    policy = Scratch(**{**TINY, **options})
    policy.build(task, seed, OBJECTIVES, folder, progress)
    return policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("scratch") / "plain"
    build(path)
    return path


@pytest.fixture(scope="module")
def conditioned(tmp_path_factory):
    path = tmp_path_factory.mktemp("scratch") / "conditioned"
    build(path, condition="weights")
    return path


# --- deterministic -------------------------------------------------------------------------------


def test_equal_recipes_give_equal_bytes_whatever_the_threads(folder, tmp_path):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        build(tmp_path / "again")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert torch.equal(torch.random.get_rng_state(), state)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 4}, {"condition": "weights"}])
def test_another_recipe_gives_another_policy(folder, tmp_path, change):
    build(tmp_path / "other", **change)
    weights = (tmp_path / "other" / "model.safetensors").read_bytes()
    assert weights != (folder / "model.safetensors").read_bytes()


def test_the_recipe_is_plain_data_and_names_what_matters():
    recipe = Scratch().recipe(TASK, 0, OBJECTIVES)
    assert json.loads(json.dumps(recipe)) == recipe == Scratch().recipe(TASK, 0, OBJECTIVES)
    assert set(recipe["versions"]) == {"torch", "transformers", "tokenizers"}
    assert recipe["options"]["hidden"] == 96
    assert recipe["objectives"] == []


@pytest.mark.parametrize(
    ("part", "options", "task", "seed"),
    [
        ("options", {"batch": 64}, TASK, 0),
        ("seed", {}, TASK, 1),
        ("demonstrations", {}, Arithmetic(demonstrations=201), 0),
        ("tokenizer", {}, Words(), 0),
        ("objectives", {"condition": "weights"}, TASK, 0),
    ],
)
def test_every_part_of_the_recipe_can_change_it(part, options, task, seed):
    one = Scratch().recipe(TASK, 0, OBJECTIVES)
    other = Scratch(**options).recipe(task, seed, OBJECTIVES)
    assert one[part] != other[part]


# --- an ordinary folder --------------------------------------------------------------------------


def test_transformers_loads_the_folder(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(model, LlamaForCausalLM)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id == 3
    assert model.config.pad_token_id == tokenizer.pad_token_id == 0
    batch = tokenizer(["17+48", "17+48+25"], padding=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["input_ids"][0, 0] == tokenizer.pad_token_id
    written = model.generate(**batch, max_new_tokens=4)
    assert written.shape[0] == 2


def test_the_saved_tokenizer_frames_prompts_and_keeps_text(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("17+48").input_ids
    assert tokenizer.convert_ids_to_tokens([ids[0], ids[-1]]) == ["<bos>", "<sep>"]
    texts = [str(number) for number in range(1, 397)]
    texts += [text for d in TASK.demonstrations(0) for text in (d.prompt, d.completion)]
    for text in texts:
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
        assert len(tokenizer(text, add_special_tokens=False).input_ids) <= len(text)


def test_untied_embeddings(tmp_path):
    build(tmp_path / "untied", tied_embeddings=False)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "untied")
    assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight


def test_loads_as_a_policy(folder):
    policy = Scratch(**TINY).load(folder, OBJECTIVES)
    prompt = TASK.parse("17+48")
    assert policy.render(prompt, None) == policy.tokenizer("17+48").input_ids
    assert policy.end_ids == {3}
    assert policy.pad_id == 0
    assert "`<bos>PROMPT<sep>`" in policy.speaks
    assert {p.dtype for p in policy.model.parameters()} == {torch.float32}


# --- learning ------------------------------------------------------------------------------------


def test_learns_and_reports_how_far_it_is(tmp_path):
    seen = []
    build(tmp_path / "p", steps=40, progress=lambda share, words: seen.append((share, words)))
    assert [share for share, _ in seen] == [(i + 1) / 40 for i in range(40)]
    losses = [float(words.removeprefix("loss ")) for _, words in seen]
    assert losses[-1] < 0.8 * losses[0]


def test_the_loss_is_that_of_the_completion_tokens():
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=20,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
        )
    )
    rows = [([1, 5, 6, 2, 7, 8, 9, 3], 4), ([1, 5, 2, 11, 3], 3), ([1, 2, 3], 2)]
    shard = [scratch._Example(ids, prompt) for ids, prompt in rows]
    total = 0.0
    for ids, prompt in rows:
        labels = [-100] * prompt + ids[prompt:]
        out = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels]))
        total += out.loss.item() * (len(ids) - prompt)
    assert scratch._loss(model, shard).item() == pytest.approx(total, rel=1e-5)


def test_every_example_comes_once_before_any_comes_again():
    examples = [scratch._Example([i], 0) for i in range(7)]
    batches = scratch._batches(examples, 3, scratch.Random(0))
    drawn = [example.ids[0] for _ in range(14) for example in next(batches)]
    assert len(drawn) == 42
    for epoch in range(6):
        assert sorted(drawn[7 * epoch : 7 * epoch + 7]) == list(range(7))


def test_a_batch_may_be_larger_than_the_data():
    batches = scratch._batches([scratch._Example([1], 0)], 5, scratch.Random(0))
    assert len(next(batches)) == 5


def test_a_diverging_loss_stops_the_build(tmp_path, monkeypatch):
    loss = scratch._loss
    monkeypatch.setattr(scratch, "_loss", lambda model, shard: loss(model, shard) * torch.inf)
    sentence = "policy scratch: the loss of step 1 is inf; lower learning_rate (it is 0.01)"
    with pytest.raises(NonFiniteError, match=re.escape(sentence)):
        build(tmp_path / "p")
    assert not list((tmp_path / "p").iterdir())


# --- weights in the prompt -----------------------------------------------------------------------


def test_weights_are_rendered_in_tenths_before_the_prompt(conditioned):
    policy = Scratch(**TINY, condition="weights").load(conditioned, OBJECTIVES)
    ids = policy.render(TASK.parse("17+48"), {"accuracy": 2.0, "clarity": 1.0, "conciseness": 7.0})
    tokens = policy.tokenizer.convert_ids_to_tokens(ids)
    assert tokens[:4] == ["<bos>", "<accuracy=2>", "<conciseness=7>", "<clarity=1>"]
    assert ids[4:] == policy.tokenizer("17+48").input_ids[1:]
    assert "`<bos><accuracy=4><conciseness=3><clarity=3>PROMPT<sep>`" in policy.speaks
    assert policy.tokenizer.decode(ids, skip_special_tokens=True) == "17+48"


def test_an_objective_that_is_not_mentioned_weighs_nothing(conditioned):
    policy = Scratch(**TINY, condition="weights").load(conditioned, OBJECTIVES)
    ids = policy.render(TASK.parse("1+2"), {"clarity": 1.0})
    tokens = policy.tokenizer.convert_ids_to_tokens(ids)
    assert tokens[1:4] == ["<accuracy=0>", "<conciseness=0>", "<clarity=10>"]


def test_without_a_condition_the_prompt_stands_alone(conditioned):
    policy = Scratch(**TINY, condition="weights").load(conditioned, OBJECTIVES)
    assert len(policy.render(TASK.parse("1+2"), None)) == 5


def test_most_examples_carry_random_weights(conditioned):
    tokenizer = Tokenizer.from_file(str(conditioned / "tokenizer.json"))
    demonstrations = Arithmetic(demonstrations=1000).demonstrations(0)
    examples = scratch._encode(tokenizer, demonstrations, OBJECTIVES, scratch.Random(0))
    stated = [
        tuple(tokenizer.id_to_token(i) for i in example.ids[1:4])
        for example in examples
        if tokenizer.id_to_token(example.ids[1]).startswith("<accuracy=")
    ]
    assert 0.87 < len(stated) / 1000 < 0.93
    tenths = [[int(token.rstrip(">").split("=")[1]) for token in tokens] for tokens in stated]
    assert {sum(row) for row in tenths} == {10}
    assert len({tuple(row) for row in tenths}) > 50  # of 66
    for k in range(3):
        assert abs(sum(row[k] for row in tenths) / len(tenths) - 10 / 3) < 0.3


@pytest.mark.parametrize(
    ("weights", "tenths"),
    [
        ([1.0], [10]),
        ([0.3, 0.7], [3, 7]),
        ([0.6, 0.4], [6, 4]),
        ([1.0, 1.0, 1.0], [4, 3, 3]),
        ([0.25, 0.25, 0.5], [3, 2, 5]),
        ([0.04, 0.96], [0, 10]),
        ([0.0, 5.0, 0.0], [0, 10, 0]),
        ([1e-9, 1.0, 3.0], [0, 3, 7]),
    ],
)
def test_tenths_sum_to_ten(weights, tenths):
    assert scratch._tenths(weights) == tenths


@pytest.mark.parametrize(
    ("condition", "objectives", "built"),
    [
        ("weights", OBJECTIVES, "accuracy, conciseness, clarity"),
        ("none", OBJECTIVES, "no objective (condition: none)"),
    ],
)
def test_an_unknown_objective_is_named(conditioned, condition, objectives, built):
    policy = Scratch(**TINY, condition=condition).load(conditioned, objectives)
    sentence = (
        f"policy scratch cannot read a weight of charm; it was built with tokens for: {built}"
    )
    with pytest.raises(OptionError, match=re.escape(sentence)):
        policy.render(TASK.parse("1+2"), {"charm": 1.0})


# --- other tasks ---------------------------------------------------------------------------------


def test_a_task_without_a_tokenizer_gets_one_that_can_write_anything(tmp_path):
    task = Words([f"caf\u00e9 number {i}" for i in range(40)])
    for name in ("one", "two"):
        build(tmp_path / name, task, vocabulary=300)
    bytes_one, bytes_two = (
        (tmp_path / name / "tokenizer.json").read_bytes() for name in ("one", "two")
    )
    assert bytes_one == bytes_two
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "one")
    assert len(tokenizer) == 300
    for text in ("caf\u00e9 number 3", "  \u65e5\u672c\u8a9e\n\ttab ", "<x>"):
        ids = tokenizer(text).input_ids
        assert tokenizer.convert_ids_to_tokens([ids[0], ids[-1]]) == ["<bos>", "<sep>"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer("caf\u00e9 number 3", add_special_tokens=False).input_ids) < 9


def test_a_task_without_demonstrations_is_refused(tmp_path):
    sentence = (
        "policy scratch learns from demonstrations, and task words has none; choose policy "
        "pretrained"
    )
    with pytest.raises(OptionError, match=sentence):
        build(tmp_path / "p", Words(texts=()))
    with pytest.raises(OptionError, match=sentence):
        Scratch().recipe(Words(texts=()), 0, OBJECTIVES)


def test_a_tokenizer_without_special_tokens_is_refused(tmp_path):
    tokenizer = Tokenizer(WordLevel({"a": 0, "<pad>": 1, "<eos>": 2}, unk_token="a"))
    sentence = (
        "the tokenizer of task words lacks <bos>, <sep>; policy scratch needs the special tokens "
        "<pad>, <bos>, <sep>, <eos>"
    )
    with pytest.raises(ContractError, match=sentence):
        build(tmp_path / "p", Words(tokenizer=tokenizer))
