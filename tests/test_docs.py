"""Documents say what is: nothing generated has drifted, and what they tell to type works."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from moalign import hookspecs, plugins
from moalign.cli import command_line
from moalign.errors import StudyError
from moalign.options import options_of
from moalign.plugins import Entry
from moalign.study import bundled, document
from moalign.study.loading import load
from moalign.study.schema import StudySection
from moalign.study.study import Study

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "studies/*/README.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
)

_spec = importlib.util.spec_from_file_location("make_docs", ROOT / "tools" / "make_docs.py")
assert _spec is not None
assert _spec.loader is not None
make_docs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_docs)

OWN: list[Entry] = make_docs.own_entries()
COMMANDS: dict[str, Any] = dict(make_docs.walk(typer.main.get_command(command_line())))
CATALOGUE = plugins.load()


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def label(entry: Entry) -> str:
    return f"{entry.cls.kind} {entry.cls.name}"


def blocks(path: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language, in the order of the document."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def section(path: Path, heading: str) -> str:
    """Return what stands below a heading, up to the next one of any level."""
    _, found, rest = path.read_text().partition(f"\n{heading}\n")
    assert found, f"{short(path)} has no heading {heading!r}"
    return re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]


# --- generated parts ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", make_docs.DOCUMENTS)
def test_generated_parts_are_what_the_code_says(name: str) -> None:
    text = (ROOT / name).read_text()
    assert text == make_docs.render(text), f"{name} has drifted; run `make docs`"


def test_every_part_stands_in_one_document() -> None:
    texts = "".join((ROOT / name).read_text() for name in make_docs.DOCUMENTS)
    for edge in ("begin", "end"):
        assert sorted(re.findall(rf"<!-- {edge} (.+) -->", texts)) == sorted(make_docs.PARTS)


# --- everything has its place ------------------------------------------------------------------


@pytest.mark.parametrize("name", [*hookspecs.DISCOVER, *hookspecs.ANNOUNCE])
def test_every_hook_has_a_heading_with_its_arguments(name: str) -> None:
    arguments = list(inspect.signature(getattr(hookspecs, name)).parameters)
    text = section(ROOT / "docs" / "plugins.md", f"#### `{name}({', '.join(arguments)})`")
    for argument in arguments:
        assert f"\n- `{argument}`: " in text


def keys(model: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the paths of all keys of a study, ``objectives.*.reward`` and the like."""
    for name, field in model.model_fields.items():
        yield f"{path}{name}", field
        hints = [field.annotation]
        while hints:
            hint = hints.pop()
            hints += getattr(hint, "__args__", ())
            if hasattr(hint, "model_fields"):
                named = getattr(field.annotation, "__origin__", None) is dict
                yield from keys(hint, f"{path}{name}.*." if named else f"{path}{name}.")


STUDY_KEYS = dict(keys(StudySection))


def test_all_study_keys_are_found() -> None:
    """So that the test below cannot pass by finding none."""
    assert {"study", "objectives.*.bounds", "training.steps", "search.space.*.log"} <= {*STUDY_KEYS}
    assert len(STUDY_KEYS) > 45


@pytest.mark.parametrize("key", STUDY_KEYS)
def test_every_study_key_is_documented(key: str) -> None:
    text = (ROOT / "docs" / "study.md").read_text()
    path = re.escape(key).replace(r"\*", "[A-Z]+")
    row = re.search(rf"^\| `{path}` \| [^|]+ \| [^|]+ \| [^|]{{5,}} \|$", text, re.MULTILINE)
    assert row is not None, f"docs/study.md has no row for {key}"


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_option_is_documented(path: str) -> None:
    text = section(ROOT / "docs" / "commands.md", f"## `{path}`")
    for parameter in COMMANDS[path].params:
        for option in parameter.opts:
            assert option.lstrip("-") in text, f"{path} {option}"


def test_every_weighting_says_what_its_preference_means() -> None:
    text = section(ROOT / "docs" / "study.md", "## Preferences")
    rows = dict(re.findall(r"^\| `(.+)` \| (.+) \|$", text, re.MULTILINE))
    weightings = [entry.cls for entry in OWN if entry.cls.kind == "weighting"]
    assert set(rows) == {cls.name for cls in weightings}
    for cls in weightings:
        has = any(option.is_preference for option in options_of(cls))
        assert rows[cls.name].startswith("none") != has, cls.name


def test_every_weighting_has_its_place_in_the_guide() -> None:
    named = re.findall(r"`([\w-]+)`", section(ROOT / "docs" / "study.md", "## Which weighting?"))
    assert {entry.cls.name for entry in OWN if entry.cls.kind == "weighting"} <= set(named)


@pytest.mark.parametrize("name", bundled.names())
def test_every_bundled_study_says_what_it_asks_and_how_to_run_it(name: str) -> None:
    readme = ROOT / "studies" / name / "README.md"
    text = readme.read_text()
    assert text.startswith("# ")
    assert "\nQuestion: " in text
    runs = [parsed(line).params.get("study") for line in command_lines(readme)]
    assert name in runs, f"{short(readme)} does not say how to run it"


# --- what a component's page holds -------------------------------------------------------------

SAYS = {
    "reward": ("Source", "Cost"),
    "weighting": ("Source", "When to use it", "Cost"),
    "optimizer": ("Source", "When to use it", "Cost"),
}
"""What the docstring of a method must tell beside what it does; all kinds need an example."""


@pytest.mark.parametrize("entry", OWN, ids=label)
def test_every_component_tells_what_its_kind_demands(entry: Entry) -> None:
    page = inspect.getdoc(entry.cls) or ""
    for title in SAYS.get(entry.cls.kind, ()):
        assert re.search(rf"(^|\s|\*\*){title}[:.]", page), f"{label(entry)}: no {title!r}"
    assert any(re.search(rf"\b{entry.cls.name}\b", text) for text in examples(page)), (
        f"{label(entry)}: its docstring has no example in YAML that names it"
    )


def examples(page: str) -> list[str]:
    """Return the pieces of a study that a docstring shows."""
    literal = re.findall(r"::\n\n((?:    .*\n|\n)+)", f"{page}\n")
    texts = [textwrap.dedent(text) for text in literal]
    texts += re.findall(r"^Example:\n    ``(.+)``$", page, re.MULTILINE)
    return [text for text in texts if is_study(text)]


def is_study(text: str) -> bool:
    try:
        return set(document.parse(text, "example").data) <= set(StudySection.model_fields)
    except StudyError:
        return False


SAMPLE = {
    "study": "example",
    "task": "arithmetic",
    "objectives": {
        "accuracy": {"reward": "exact-answer"},
        "conciseness": {"reward": {"brevity": {"limit": 60, "unit": "characters"}}},
        "clarity": {"reward": "steps-shown"},
    },
}
"""What a piece of a study is put into: the objectives of the bundled `arithmetic`."""


def whole(text: str) -> Study:
    """Return a study, or a piece of one put into a small one, as the host checks it."""
    data = document.parse(text, "example").data
    return load(yaml.safe_dump(SAMPLE | data, sort_keys=False), "example", CATALOGUE)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(text, id=label(entry))
        for entry in OWN
        for text in examples(inspect.getdoc(entry.cls) or "")
    ],
)
def test_examples_of_components_are_accepted(text: str) -> None:
    assert whole(text).objectives


@pytest.mark.parametrize(
    "text", [pytest.param(t, id=short(d)) for d in DOCUMENTS for t in blocks(d, "yaml")]
)
def test_studies_in_documents_are_accepted(text: str) -> None:
    assert whole(text).objectives


# --- what documents tell to type ---------------------------------------------------------------


def command_lines(path: Path) -> list[str]:
    """Return the calls of moalign that a document shows, whole lines and those inside sentences."""
    text = path.read_text()
    indented = re.findall(r"^ {4}(moalign.*)$", text, re.MULTILINE)
    inline = re.findall(r"(?<!`)`(moalign [^`]+)`(?!`)", text)
    fenced = [
        line
        for block in blocks(path, "sh")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("moalign")
    ]
    return [*fenced, *indented, *(" ".join(line.split()) for line in inline)]


LINES = [
    pytest.param(line, id=f"{short(path)}: {line[:60]}")
    for path in DOCUMENTS
    if path.name != "commands.md"
    for line in command_lines(path)
]


def parsed(line: str) -> Any:
    """Parse a line as the command line does, without running it; placeholders for no arguments."""
    name, *words = shlex.split(line, comments=True)
    while words and f"{name} {words[0]}" in COMMANDS:
        name = f"{name} {words.pop(0)}"
    command = COMMANDS[name]
    context = command.context_class(command, info_name=name)
    known = {option for parameter in command.get_params(context) for option in parameter.opts}
    if hasattr(command, "commands") or words == ["--help"]:
        assert set(words) <= known, f"{name} has no command or option {words}"
        return context
    needed = sum(p.required for p in command.params if p.param_type_name == "argument")
    return command.make_context(name, words or ["x"] * needed)


@pytest.mark.parametrize("line", LINES)
def test_commands_in_documents_exist(line: str) -> None:
    try:
        parsed(line)
    except typer.TyperException as error:
        pytest.fail(f"{line}: {error}")


def test_a_command_that_does_not_exist_would_be_found() -> None:
    with pytest.raises(AssertionError, match="fornt"):
        parsed("moalign fornt restaurants")
    with pytest.raises(typer.TyperException, match="--prefers"):
        parsed("moalign front restaurants --prefers a=1")


def test_targets_in_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    targets = set(re.findall(r"(?:^ {4}|^|`)make ([\w./-]+)", text, re.MULTILINE))
    assert {"pareto", "test", "docs"} <= targets
    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"make {target}"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the documents tell to write."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "mine.py").write_text(readme_weighting())
    (folder / "study.yaml").write_text(readme_study())
    (folder / "questions.jsonl").write_text("".join(blocks(README, "json")))
    words = ["plugins", "new", "weighting", "my-weighting", "--into", str(folder)]
    assert CliRunner().invoke(command_line(), words).exit_code == 0
    return folder


def readme_weighting() -> str:
    (text,) = blocks(README, "python")
    return text


def readme_study() -> str:
    return next(text for text in blocks(README, "yaml") if "questions.jsonl" in text)


@pytest.mark.parametrize(
    "line", [line for line in LINES if re.match(r"moalign (pareto|train .)", line.values[0])]
)
def test_studies_that_documents_run_can_be_run(line: str, written: Path) -> None:
    given = parsed(line).params
    path = written / str(given["study"])
    text, source = bundled.read(str(path) if path.is_file() else given["study"])
    files = [written / file for file in given["plugin"]]
    assert load(text, source, plugins.load(files), given["set_"]).space


def test_the_readmes_prompts_have_what_its_rewards_read(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(written)
    study = whole(readme_study())
    prompts = study.task.prompts()
    needs = {need for reward in study.new_rewards().values() for need in reward.needs}
    assert [prompt.text for prompt in prompts] == [
        json.loads(line)["question"] for line in "".join(blocks(README, "json")).splitlines()
    ]
    assert needs == {f"field:{name}" for name in prompts[0].fields}


def test_the_readmes_prompt_can_be_sampled_from() -> None:
    (line,) = (line for line in command_lines(README) if line.startswith("moalign sample"))
    given = parsed(line).params
    text, source = bundled.read(given["run"])
    prompt = load(text, source, CATALOGUE).task.parse(given["prompt"])
    assert prompt.fields["placeholders"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(text, id=f"{short(path)} {number}")
        for path in DOCUMENTS
        for number, text in enumerate(blocks(path, "python"))
        if "@hookimpl" in text
    ],
)
def test_plugins_in_documents_keep_their_contract(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    result = CliRunner().invoke(command_line(), ["plugins", "check", str(file)])
    assert result.exit_code == 0, result.output


SMALL = (
    "task.train=100 task.held_out=60 task.demonstrations=100 policy.steps=1 policy.batch=8 "
    "policy.hidden=32 policy.layers=1 rollout.max_tokens=8 training.steps=2 training.prompts=4 "
    "evaluation.prompts=20 evaluation.samples=1 search.trials=1 search.rungs=[] executor=local "
    "trackers=[] report.resamples=100"
)
"""What makes the README's command a matter of seconds."""


def test_the_readmes_weighting_trains_with_the_readmes_command(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(written)
    (line,) = (line for line in command_lines(README) if "--plugin ./mine.py" in line)
    words = shlex.split(line, comments=True)[1:]
    small = [word for value in SMALL.split() for word in ("--set", value)]
    result = CliRunner().invoke(command_line(), [*words, *small, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    run = tmp_path / words[words.index("--run") + 1]
    assert "catch-up" in (run / "study.yaml").read_text()
    assert (run / "front" / "t00" / "model.safetensors").is_file()


def test_the_readmes_weighting_has_the_option_that_the_readme_sets(written: Path) -> None:
    (option,) = re.findall(r"`--set (weighting\.\w+)=4` works", README.read_text())
    text, source = bundled.read("arithmetic")
    catalogue = plugins.load([written / "mine.py"])

    def study(value: int) -> Study:
        return load(text, source, catalogue, ["weighting=catch-up", f"{option}={value}"])

    assert study(4).data["weighting"]["catch-up"]["pull"] == 4
    with pytest.raises(StudyError, match="pull"):
        study(-1)


# --- the rest ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS, ids=short)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)#]+)", path.read_text()):
        assert "://" in target or (path.parent / target).exists(), f"{short(path)}: {target}"


def test_the_readme_names_the_pinned_torch() -> None:
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    (named,) = set(re.findall(r"torch==[\d.]+", README.read_text()))
    assert named in pins
