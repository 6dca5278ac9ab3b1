"""The whole product in a tiny world: search, look, pick, export, load, talk."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from moalign.cli import command_line

PLUGIN = '''
"""Letters as tokens, a small random Llama, rewards that count letters."""

from typing import ClassVar, Literal

from moalign import DataError, LoadedPolicy, PolicySource, Prompt, Reward, Task, hookimpl

LETTERS = "abcdefgh"


class Letters(Task):
    """Prompts of two or three letters."""

    name = "letters"

    def prompts(self):
        words = [a + b for a in LETTERS for b in LETTERS]
        words += [a + b + c for a in LETTERS for b in LETTERS for c in LETTERS]
        return [Prompt(word, word) for word in words]

    def surface(self, prompt, text):
        return text.upper()

    def parse(self, text):
        if not set(text) <= set(LETTERS):
            raise DataError(f"cannot read {text!r}; type letters from a to h")
        return Prompt("typed", text)

    def facts(self):
        return {"prompts": len(self.prompts())}


class Share(Reward):
    """Share of a letter in the completion."""

    name = "share"
    range = (0.0, 1.0)

    def __init__(self, *, letter: str = "A"):
        self.letter = letter

    def score(self, batch):
        return [text.count(self.letter) / max(len(text), 1) for text in batch.texts_B]


class Tiny(PolicySource):
    """A random two-layer Llama over letters."""

    name = "tiny"

    def __init__(self, *, condition: Literal["none", "weights"] = "none"):
        self.condition = condition

    def recipe(self, task, seed, objectives):
        return {"seed": seed}

    def build(self, task, seed, objectives, folder, progress):
        import torch
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

        words = ["<pad>", "<bos>", "<sep>", "<eos>", *LETTERS, *"0123456789"]
        tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<pad>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(""), "isolated")
        tokenizer.decoder = decoders.Fuse()
        special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
        wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
        wrapped.save_pretrained(folder)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            LlamaForCausalLM(LlamaConfig(
                vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                num_attention_heads=2, num_key_value_heads=2, bos_token_id=1, eos_token_id=3,
                pad_token_id=0, initializer_range=0.3,
            )).save_pretrained(folder)
        progress(1.0, "done")

    def load(self, folder, objectives):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)

        def render(prompt, condition):
            digits = [str(min(9, int(10 * weight))) for weight in (condition or {}).values()]
            return tokenizer.convert_tokens_to_ids(["<bos>", *digits, *prompt.text, "<sep>"])

        model = AutoModelForCausalLM.from_pretrained(folder)
        speaks = "It reads letters and writes letters."
        return LoadedPolicy(model, tokenizer, render, frozenset({3}), 0, speaks)


@hookimpl
def moalign_tasks():
    return [Letters]


@hookimpl
def moalign_rewards():
    return [Share]


@hookimpl
def moalign_policies():
    return [Tiny]
'''

STUDY = """\
study: letters
task: letters
policy: tiny
objectives:
  a: {reward: share}
  b: {reward: {share: {letter: B}}}
rollout: {eager: {max_tokens: 6}}
training: {steps: 4, prompts: 4, group: 4, learning_rate: 3.0e-2}
evaluation: {prompts: 20, samples: 2}
search: {strategy: random, trials: 3, rungs: [2], space: {weighting.preference: simplex}}
executor: local
trackers: []
"""


class World:
    """A folder with the plugin, the study and the runs."""

    def __init__(self, folder: Path) -> None:
        self.plugin, self.study, self.runs = (folder / n for n in ("w.py", "study.yaml", "runs"))
        self.plugin.write_text(PLUGIN)
        self.study.write_text(STUDY)

    def __call__(self, *arguments: object) -> Result:
        given = [*arguments, "--out", self.runs]
        done = CliRunner().invoke(command_line(), [str(argument) for argument in given])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.output
        return done


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def searched(world: World) -> Result:
    return world("pareto", world.study, "--plugin", world.plugin)


def test_a_front_of_trained_policies(world: World, searched: Result) -> None:
    assert searched.exit_code == 0, searched.output
    assert "trial 2 (3 of 3)" in searched.stdout
    assert "Utility at each preference, on test" in searched.stdout
    folder = world.runs / "letters"
    report = (folder / "report.md").read_text()
    assert "## Data\n\n- prompts: 576" in report
    named = re.findall(r"^\| (t\S+) \|", report.split("The same points")[0], re.MULTILINE)
    assert sorted(path.name for path in (folder / "front").iterdir()) == sorted(set(named))
    again = world("pareto", world.study, "--plugin", world.plugin)
    assert "is finished; nothing to train" in again.stdout


def test_an_exported_policy_is_the_one_that_was_measured(
    world: World, searched: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from moalign.search.record import read
    from moalign.search.segments import mixed_policy
    from moalign.types import Start

    done = world("front", "letters", "--knee", "--export", tmp_path / "mine")
    assert done.exit_code == 0, done.output
    name, trial, step = re.match(r"(\S+) \(trial (\d+), step (\d+)\)", done.stdout).groups()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "mine")
    run = read(world_folder(world))
    trained = mixed_policy(run.folder, Start(((int(trial), int(step)),), (1.0,)))
    exported = dict(model.named_parameters())
    assert set(trained) == set(exported)
    assert all(torch.equal(trained[key], exported[key]) for key in trained)
    twin = AutoModelForCausalLM.from_pretrained(world.runs / "letters" / "front" / name)
    assert all(torch.equal(p, exported[n]) for n, p in twin.named_parameters())

    again = world("front", "letters", "--knee", "--export", tmp_path / "mine")
    assert again.exit_code == 2
    assert f"{tmp_path / 'mine'} exists already" in again.stderr

    (tmp_path / "file").touch()
    blocked = world("front", "letters", "--knee", "--export", tmp_path / "file" / "mine")
    assert blocked.exit_code == 2
    assert "mine cannot be written (" in blocked.stderr

    card = (tmp_path / "mine" / "README.md").read_text()
    assert f'moalign sample letters "..." --point {name} --out {world.runs}\n' in card
    assert "It reads letters and writes letters." in card
    assert "(policy `tiny`); the licence of that data applies." in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(tmp_path / "mine")
    names: dict[str, object] = {}
    exec(code, names)
    assert names["written"].shape[1] <= names["ids"].shape[1] + 6


def test_an_exported_mixture_says_how_to_draw_a_policy(
    world: World, searched: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["front", "letters", "--mixture", "--worst-group", "--export", tmp_path / "mine"]
    done = world(*asked)
    assert done.exit_code == 0, done.output
    named = re.findall(r"t\d\S*", done.stdout.splitlines()[0])
    shares = json.loads((tmp_path / "mine" / "mixture.json").read_text())["shares"]
    assert list(shares) == [name.rstrip(",") for name in named]
    assert sum(shares.values()) == pytest.approx(1)
    written = {path.name for path in (tmp_path / "mine").iterdir()}
    assert written == {*shares, "mixture.json", "README.md"}
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "the licence of that data applies." in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(tmp_path / "mine")
    names: dict[str, Any] = {}
    exec(code, names)
    drawn = [names["draw"]()[0] for _ in range(200)]
    models = names["models"]
    for name, share in shares.items():
        count = sum(model is models[name] for model in drawn)
        assert abs(count / 200 - share) < 0.2
        assert (Path(name) / "README.md").read_text().startswith(f"# letters: point {name}")
    again = world(*asked)
    assert again.exit_code == 2
    assert f"{tmp_path / 'mine'} exists already" in again.stderr


def test_an_export_to_a_full_disk_is_a_sentence(
    world: World, searched: Result, tmp_path: Path
) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # smaller than the weights
    try:
        done = world("front", "letters", "--knee", "--export", tmp_path / "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.exit_code == 2
    assert re.fullmatch(r"Error: \S+full cannot be written \(.*os error.*\); .*\n", done.stderr)
    assert list(tmp_path.iterdir()) == [], "nothing half-written is left"


def world_folder(world: World) -> object:
    from moalign.search.folders import RunFolder

    return RunFolder(world.runs / "letters")


def test_a_person_talks_to_a_policy(world: World, searched: Result) -> None:
    done = world("sample", "letters", "abc", "-n", 4, "--prefer", "a=1")
    assert done.exit_code == 0, done.output
    first, *answers = done.stdout.splitlines()
    assert "It has the highest utility on validation for a 1.00" in first
    assert len(answers) == 4
    assert all(re.fullmatch("[A-H0-9]{0,6}", answer) for answer in answers), "surface texts"
    assert world("sample", "letters", "abc", "-n", 4, "--prefer", "a=1").stdout == done.stdout
    done = world("sample", "letters", "xyz")
    assert done.exit_code == 2
    assert "cannot read 'xyz'; type letters from a to h" in done.stderr
    points = (world.runs / "letters" / "points.csv").read_text().splitlines()[1:]
    off = [line.split(",")[0] for line in points if line.split(",")[3] == "0"][1:]
    done = world("sample", "letters", "abc", "--point", off[0])
    assert f"the policy of point {off[0]} was not kept" in done.stderr
    assert world("sample", "letters", "abc", "--point", "base").exit_code == 0


def test_a_conditioned_policy_gives_several_points_and_hears_the_preference(world: World) -> None:
    options = ["--set", "policy.condition=weights", "--set", "search.trials=1"]
    options += ["--set", "search.space={}", "--set", "search.rungs=[]", "--run", "heard"]
    done = world("pareto", world.study, "--plugin", world.plugin, *options)
    assert done.exit_code == 0, done.output
    rows = (world.runs / "heard" / "points.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["base", "t00-c1", "t00-c2", "t00-c3"]
    both = world("sample", "heard", "abc", "--point", "t00-c1", "--prefer", "a=1")
    assert "--point names the point already" in both.stderr
    answers = [
        world("sample", "heard", "abc", "-n", 8, "--prefer", asked).stdout.splitlines()[1:]
        for asked in ("a=1", "b=1")
    ]
    assert answers[0] != answers[1], "a prompt with other weights is another prompt"


def test_the_front_of_a_lora_run_holds_adapters(
    world: World, searched: Result, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    (model,) = (path for path in (world.runs / ".artifacts").iterdir() if path.is_dir())
    policy = f"policy={{pretrained: {{model: {model}, lora: {{rank: 2}}}}}}"
    options = ["--set", policy, "--set", "search.trials=1", "--set", "search.rungs=[]"]
    done = world("pareto", world.study, "--plugin", world.plugin, "--run", "lora", *options)
    assert done.exit_code == 0, done.output
    adapter = world.runs / "lora" / "front" / "t00"
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= {
        path.name for path in adapter.iterdir()
    }
    assert not (adapter / "model.safetensors").exists()
    card = (adapter / "README.md").read_text()
    assert f"The weights derive from `{model}`: its licence applies to them" in card

    done = world("front", "lora", "--point", "t00", "--export", tmp_path / "merged")
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    ids = torch.tensor([[1, 4, 5, 6, 2]])
    base, adapted, merged = (
        AutoModelForCausalLM.from_pretrained(folder)(ids).logits
        for folder in (model, adapter, tmp_path / "merged")
    )
    assert torch.allclose(adapted, merged, atol=1e-5)
    assert not torch.allclose(adapted, base, atol=1e-3)


def test_clean_keeps_what_is_needed(world: World, searched: Result) -> None:
    from moalign.cli.runs import removable

    (world.runs / ".artifacts" / "0123456789abcdef").mkdir(exist_ok=True)
    assert [path.name for path in removable(world.runs)] == ["0123456789abcdef"]
    assert world("clean", "--yes").exit_code == 0
    assert world("sample", "letters", "abc").exit_code == 0


def test_train_and_compare(world: World, searched: Result) -> None:
    done = world("train", world.study, "--plugin", world.plugin)
    assert done.exit_code == 0, done.output
    assert "letters-train: a front of 1 point from 1 trial" in done.stdout
    done = world("compare", "letters-train", "letters")
    assert done.exit_code == 0, done.output
    assert "letters minus letters-train, paired" in done.stdout
