"""What a prompt calls for, from the study to its use: sampling, exporting, loading, cleaning."""

from __future__ import annotations

import re
from pathlib import Path

import letters
import pytest
import torch
from typer.testing import CliRunner, Result

from moalign import plugins
from moalign.cli import command_line
from moalign.cli.runs import removable
from moalign.cli.sample import _own_weights
from moalign.errors import RecordError
from moalign.reporting.adapter import load_adapter
from moalign.search.folders import RunFolder
from moalign.search.record import read
from moalign.study.loading import load
from moalign.types import Prompt

pytestmark = pytest.mark.timeout(300)  # the first test makes three runs


class World:
    """A folder with runs: `letters` reads prompts with its base policy, `text` by their text."""

    def __init__(self, folder: Path) -> None:
        self.runs = folder / "runs"
        self.study = folder / "study.yaml"
        self.study.write_text(letters.STUDY)

    def __call__(self, *arguments: object) -> Result:
        given = [*arguments, "--out", self.runs]
        done = CliRunner().invoke(command_line(), [str(argument) for argument in given])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.output
        return done

    def pareto(self, name: str, *sets: str) -> None:
        options = [part for value in sets for part in ("--set", value)]
        made = self("pareto", self.study, "--plugin", letters.FILE, "--run", name, *options)
        assert made.exit_code == 0, made.output


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("world"))
    world.pareto("letters")
    world.pareto("text", "weighting.encoder=text")
    world.pareto("plain", "policy={small: {}}")
    return world


def weights_in(done: Result) -> tuple[float, float]:
    """Return the weights of a and b that a command said, and check that they are said once."""
    assert done.exit_code == 0, done.output
    (line,) = re.findall(r"^weights in the prompt: (.*) \(", done.stdout, re.MULTILINE)
    if line == "equal weights":
        return 0.5, 0.5
    found = dict(part.split() for part in line.split(", "))
    return float(found.get("a", 0)), float(found.get("b", 0))


@pytest.mark.parametrize("run", ["letters", "text"])
def test_a_prompt_is_sampled_under_what_it_calls_for(world: World, run: str) -> None:
    one = world("sample", run, "abc", "--point", "t00")
    other = world("sample", run, "hgf", "--point", "t00")
    assert "(what the prompt calls for)" in one.stdout
    assert weights_in(one)[0] > 0.8
    assert weights_in(other)[1] > 0.8


def test_a_persons_own_weights_go_before_and_may_be_blended(world: World) -> None:
    asked = ("sample", "letters", "abc")
    called = weights_in(world(*asked, "--point", "t00"))
    own = world(*asked, "--point", "t00", "--weights", "a=1,b=3")
    assert "(your own)" in own.stdout
    assert weights_in(own) == (0.25, 0.75)
    assert weights_in(world(*asked, "--prefer", "a=1,b=3")) == (0.25, 0.75)
    assert weights_in(world(*asked, "--prefer", "a=1", "--weights", "b=1")) == (0.0, 1.0)
    half = world(*asked, "--point", "t00", "--weights", "b=1", "--blend", 0.5)
    assert "(50% your own, the rest what the prompt calls for)" in half.stdout
    expected = (called[0] / 2, called[1] / 2 + 0.5)
    assert weights_in(half) == pytest.approx(expected, abs=0.01)
    nothing = world(*asked, "--point", "t00", "--weights", "b=1", "--blend", 0)
    assert weights_in(nothing) == called


@pytest.mark.parametrize(
    ("prefer", "written"),
    [("a=1,c=1", {"a": 1.0, "b": 0.0}), ("c=1", None), ("a=0,c=1", None)],
)
def test_of_a_preference_what_is_trained_on_is_written(
    prefer: str, written: dict[str, float] | None
) -> None:
    on_the_front = "  c: {reward: {letter-share: {letter: c}}, use: [front]}\nrollout:"
    text = letters.STUDY.replace("rollout:", on_the_front)
    study = load(text, "letters.yaml", plugins.load([letters.FILE]))
    assert _own_weights(study, prefer, None) == written


def test_a_point_with_weights_keeps_them(world: World) -> None:
    done = world("sample", "letters", "abc", "--point", "t00-c2")
    assert "(the point's)" in done.stdout
    assert weights_in(done) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (("plain", "abc", "--weights", "a=1"), "this run's policy reads no weights in its prompt"),
        (("plain", "abc", "--blend", "0.5"), "has not learnt which weights a prompt calls for"),
        (("letters", "abc", "--blend", "0.5"), "the share of your own weights: add --weights or"),
        (("letters", "abc", "--weights", "c=1"), "a preference names 'c'"),
        (("letters", "abc", "--weights", "a"), "write --weights NAME=NUMBER"),
    ],
)
def test_mistakes_are_sentences(world: World, asked: tuple[str, ...], sentence: str) -> None:
    done = world("sample", *asked, "--point", "t00")
    assert done.exit_code == 2
    assert sentence in " ".join(done.stderr.split())


@pytest.mark.parametrize("run", ["letters", "text"])
def test_an_export_says_what_a_prompt_calls_for(world: World, tmp_path: Path, run: str) -> None:
    done = world("front", run, "--point", "t00", "--export", tmp_path / "mine")
    assert done.exit_code == 0, done.output
    adapter = load_adapter(tmp_path / "mine" / "adapter", [letters.FILE])
    assert adapter("abc")["a"] > 0.8
    assert adapter("hgf")["b"] > 0.8
    assert sum(adapter("hgf").values()) == pytest.approx(1.0)
    assert (tmp_path / "mine" / "adapter" / "base").is_dir() == (run == "letters")

    card = (tmp_path / "mine" / "README.md").read_text()
    assert "## Which weights a prompt calls for" in card
    asked, weights = re.findall(r"^adapter\('(\w+)'\)  # (.*)$", card, re.MULTILINE)[0]
    rounded = {name: round(weight, 3) for name, weight in adapter(asked).items()}
    assert weights == str(rounded)
    # The prompt of the card has these weights in it, as the policy was measured.
    source = letters.Small(condition="weights")
    loaded = source.load(tmp_path / "mine", ["a", "b"])
    ids = loaded.render(Prompt("", asked), adapter(asked))
    assert str(ids) in card or repr(loaded.tokenizer.decode(ids)) in card


def test_every_policy_of_the_front_has_its_adapter(world: World) -> None:
    folder = world.runs / "text" / "front"
    (point, *_) = sorted(folder.iterdir())
    assert load_adapter(point / "adapter", [letters.FILE])("abc")["a"] > 0.8
    for point in (world.runs / "plain" / "front").iterdir():
        assert not (point / "adapter").exists(), "nothing there reads weights"


def test_it_is_the_adapter_of_the_training(world: World) -> None:
    from moalign.cli.front import study_of
    from moalign.search.artifacts import prepared
    from moalign.training.policy import Policy

    run = read(RunFolder(world.runs / "letters"))
    study = study_of(run, [letters.FILE])
    adapter = load_adapter(world.runs / "letters" / "front" / "t00" / "adapter", [letters.FILE])
    weighting = study.new_weighting()
    weighting.load_prepared(prepared(study, run.folder))
    base = study.policy.load(next(_bases(world)), ["a", "b"])
    policy = Policy(base, torch.device("cpu"), torch.float32, lambda: base)
    prompts = [Prompt(t, t) for t in ("abc", "hgf", "bcd")]
    features = policy.prompt_features([policy.prompt_ids(p, None) for p in prompts])
    expected = weighting.prompt_weights(prompts, lambda: features)
    found = torch.tensor([list(adapter(p.text).values()) for p in prompts])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def _bases(world: World):
    return (p.parent for p in (world.runs / ".artifacts").glob("*/config.json"))


def test_what_is_no_adapter_is_a_sentence(world: World, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="holds no adapter that can be read"):
        load_adapter(tmp_path)
    done = world("front", "text", "--point", "t00", "--export", tmp_path / "mine")
    assert done.exit_code == 0, done.output
    about = tmp_path / "mine" / "adapter" / "adapter.json"
    about.write_text(about.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(RecordError, match="its format is 99, this version reads 1"):
        load_adapter(tmp_path / "mine" / "adapter", [letters.FILE])


def test_clean_keeps_what_a_run_has_learnt(world: World) -> None:
    learnt = {p for p in (world.runs / ".artifacts").iterdir() if p.name.startswith("prompt-")}
    assert len(learnt) >= 2
    assert not set(removable(world.runs)) & learnt
    unused = world.runs / ".artifacts" / "prompt-adapter-0000"
    unused.mkdir()
    assert unused in set(removable(world.runs))
    unused.rmdir()


def test_the_front_says_no_weights_that_were_not_used(world: World) -> None:
    done = world("front", "plain", "--point", "t00")
    assert done.exit_code == 0, done.output
    assert "weights" not in done.stdout
