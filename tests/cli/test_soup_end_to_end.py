"""Soups of real, tiny policies: weights that are averages, a whole front, and answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import letters
import pytest
from typer.testing import CliRunner, Result

from moalign import plugins
from moalign.cli import command_line
from moalign.search.archive import Run
from moalign.search.driver import run_study
from moalign.search.folders import RunFolder
from moalign.search.record import read
from moalign.study.loading import load

STUDY = (
    letters.STUDY.replace("policy: {small: {condition: weights}}", "policy: small")
    .replace("weighting: {prompt-adapter: {learning_rate: 0.05, steps: 200}}", "weighting: fixed")
    .replace("trials: 1, space: {training.learning_rate: {low: 0.01, high: 0.03}}",
             "trials: 3, space: {weighting.preference: simplex}")
    .replace("steps: 2", "steps: 4")
)  # fmt: skip


class World:
    """A folder with finished runs of three policies; commands on them."""

    def __init__(self, folder: Path) -> None:
        self.runs = folder / "runs"

    def search(self, name: str, *overrides: str) -> Run:
        catalogue = plugins.load([letters.FILE])
        study = load(STUDY, "letters.yaml", catalogue, overrides)
        return run_study(study, self.runs / name).run

    def __call__(self, *arguments: object) -> Result:
        given = [*arguments, "--out", self.runs]
        done = CliRunner().invoke(command_line(), [str(argument) for argument in given])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.output
        return done

    def run(self, name: str) -> Run:
        return read(RunFolder(self.runs / name))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("soups"))


@pytest.fixture(scope="module")
def searched(world: World) -> Run:
    run = world.search("plain")
    assert len({(o.trial, o.step) for o in run.front()}) >= 2, "else there is nothing to mix"
    return run


def weights(run: Run, trial: int, step: int) -> dict[str, Any]:
    from moalign.training.checkpoint import load_state

    return load_state(run.folder.policy(trial, step), "policy")


def kept_soups(run: Run) -> list[int]:
    return [n for n, t in run.trials.items() if t.total == 0 and run.folder.policy(n, 0).is_dir()]


def assert_averages(run: Run, ingredients: dict[tuple[int, int], dict[str, Any]]) -> None:
    import torch

    for number in kept_soups(run):
        start = run.trials[number].proposal.start
        mixed = weights(run, number, 0)
        parts = [ingredients[where] for where in start.points]
        assert all(set(part) == set(mixed) for part in parts)
        for name, value in mixed.items():
            wanted = sum(s * part[name] for s, part in zip(start.shares, parts, strict=True))
            assert torch.equal(value, wanted), (number, name)


def ingredients_of(run: Run) -> dict[tuple[int, int], dict[str, Any]]:
    points = {(o.trial, o.step) for o in run.front()}
    return {point: weights(run, *point) for point in points}


def test_a_soups_weights_are_the_average(world: World, searched: Run) -> None:
    trained = ingredients_of(searched)
    done = world("soup", "plain", "--count", 3)
    assert done.exit_code == 0, done.output
    run = world.run("plain")
    soups = [trial for trial in run.trials.values() if trial.total == 0]
    assert [trial.outcome for trial in soups] == ["finished"] * len(soups)
    assert soups
    assert all(list(trial.measured) == [0] for trial in soups)
    # What is on the front is kept, exported, and measured on test; all else is numbers.
    front = {(o.trial, o.step) for o in run.front()}
    assert set(kept_soups(run)) == {trial for trial, step in front if step == 0}
    assert front <= set(run.tests)
    exported = {path.name for path in (run.folder.path / "front").iterdir()}
    assert exported == {f"t{trial:02d}" for trial, _ in front}
    assert_averages(run, trained)
    assert kept_soups(run), "else there is nothing to compare"
    assert f"a front of {len(front)} points from {3 + len(soups)} trials" in done.stdout


def test_pareto_still_says_finished(world: World, searched: Run, tmp_path: Path) -> None:
    world("soup", "plain", "--count", 3)
    (tmp_path / "letters.yaml").write_text(STUDY)
    done = world("pareto", tmp_path / "letters.yaml", "--plugin", letters.FILE, "--run", "plain")
    assert done.exit_code == 0, done.output
    assert "plain is finished; nothing to train" in done.stdout


def test_a_soup_outlives_what_it_was_made_of(world: World, searched: Run) -> None:
    """Measuring a policy on test needs nothing but the policy, whatever it began from."""
    from moalign.search.segments import run_segment
    from moalign.types import SegmentTask, Start

    folder, study = searched.folder, dict(searched.opened[0].study)
    files = tuple((Path(path), digest) for path, digest in searched.opened[0].plugins.items())
    source = next((n, 4) for n in range(3) if folder.policy(n, 4).is_dir())

    def task(trial: int, start: Start, until: int, split: Any) -> SegmentTask:
        since = until if split == "test" else 0
        return SegmentTask(folder.path, trial, study, start, since, until, until, split,
                           plugins=files)  # fmt: skip

    for trial, until in ((90, 0), (91, 1)):
        run_segment(task(trial, Start((source,), (1.0,)), until, "validation"), lambda _: None, {})
        gone = Start(((77, 4),), (1.0,))
        run_segment(task(trial, gone, until, "test"), lambda _: None, {})
        assert folder.measurements(trial, until, "test").is_file()


def test_adapters_are_averaged_too(world: World, searched: Run) -> None:
    (model,) = (path for path in (world.runs / ".artifacts").iterdir() if path.is_dir())
    policy = f"policy={{pretrained: {{model: {model}, lora: {{rank: 2}}}}}}"
    run = world.search("lora", policy, "search.strategy=soups", "search.trials=5")
    trained = {
        (n, t.total): weights(run, n, t.total)
        for n, t in run.trials.items()
        if run.folder.policy(n, t.total).is_dir()
    }
    assert all("lora" in name for part in trained.values() for name in part)
    assert kept_soups(run), "else there is nothing to compare"
    assert_averages(run, trained)


def test_an_answer_of_the_neighbourhood(world: World, searched: Run) -> None:
    asked = ("sample", "plain", "abc", "--prefer", "a=3,b=1", "--robust", 5)
    done = world(*asked)
    assert done.exit_code == 0, done.output
    first, best, answer = done.stdout.splitlines()
    assert first.startswith("the best of 5 answers for a .75, b .25, by its weighted reward")
    value, point = re.fullmatch(r"(\S+), written by (t\d\d) for a \S+(?:, b \S+)?", best).groups()
    share = {n: answer.count(n) / max(len(answer), 1) for n in "ab"}
    assert float(value) == pytest.approx(0.75 * share["a"] + 0.25 * share["b"], abs=1e-3)
    assert point in {f"t{o.trial:02d}" for o in world.run("plain").front()}
    assert world(*asked).stdout == done.stdout
    every = world(*asked, "-n", 9).stdout.splitlines()[1::2]
    values = [float(line.partition(",")[0]) for line in every]
    assert len(values) == 5
    assert values == sorted(values, reverse=True)


def test_an_answer_of_neighbouring_conditions(world: World) -> None:
    world.search("reading", "policy={small: {condition: weights}}", "search.trials=1",
                 "search.space={}")  # fmt: skip
    done = world("sample", "reading", "abc", "--prefer", "a=3,b=1", "--robust", 4, "-n", 4)
    assert done.exit_code == 0, done.output
    asked = [line.rpartition(" for ")[2] for line in done.stdout.splitlines()[1::2]]
    assert len(asked) == 4
    assert "a .75, b .25" in asked
    done = world("soup", "reading")
    assert done.exit_code == 2
    assert "other weights in its prompt lead between its points" in done.stderr or (
        "is one policy, of trial 0, so there is nothing to mix" in done.stderr
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--robust", 3], "--robust looks around a preference: add --prefer"),
        (["--robust", 3, "--prefer", "a=1", "--point", "t00"], "leave --point out"),
        (["--robust", 3, "--prefer", "a=1", "--blend", "0.5"], "leave --blend out"),
        (["--robust", 3, "--prefer", "x=1"], "a preference names 'x'"),
    ],
)
def test_robust_mistakes_are_one_sentence(
    world: World, searched: Run, options: list[object], text: str
) -> None:
    done = world("sample", "plain", "abc", *options)
    assert done.exit_code == 2
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_cannot_be_judged_is_a_sentence() -> None:
    from types import SimpleNamespace

    from moalign.errors import StudyError
    from moalign.reporting.robust import require_judges
    from moalign.types import Prompt

    def needing(need: str) -> Any:
        return SimpleNamespace(new_rewards=lambda: {"a": SimpleNamespace(needs={need})})

    typed = Prompt("typed", "17+4", {"operands": [17, 4]})
    require_judges(needing("field:operands"), typed, ["a"])
    require_judges(needing("field:answer"), typed, [])
    with pytest.raises(StudyError, match="a needs answer of its prompt, which a typed one does"):
        require_judges(needing("field:answer"), typed, ["a"])
    with pytest.raises(StudyError, match="a compares the two completions of a preference"):
        require_judges(needing("pairs"), typed, ["a"])
