"""``moalign plugins``: list, show, new, check; and a command line that answers at once."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from moalign import __version__
from moalign.cli import command_line
from moalign.cli.templates import KINDS, TEMPLATES
from moalign.plugins import load
from moalign.testing import cases, properties

PLUGIN = '''
from moalign import Step, Weighting, Weights, hookimpl


class Louder(Weighting):
    """Weighs all alike, e.g. loudly. It has a second sentence.

    And a second paragraph.
    """

    name = "louder"
    declares = frozenset({"unnormalised"})

    def __init__(self, *, volume: float, quiet: bool = False, inner: Weighting | None = None):
        """Take the options.

        Args:
            volume: how loud it is,
                in decibels.
            inner: another one.
        """
        self.volume = volume

    examples = ({"volume": 2},)

    def weigh(self, step: Step) -> Weights:
        return Weights(step.preference_K * self.volume)


@hookimpl
def moalign_weightings():
    return [Louder]
'''


def moalign(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command_line(), [str(argument) for argument in arguments])


@pytest.fixture
def louder(tmp_path: Path) -> Path:
    path = tmp_path / "louder.py"
    path.write_text(PLUGIN)
    return path


# --- the command line -------------------------------------------------------------------------


def test_the_command_line_says_what_it_can_do() -> None:
    result = moalign("--help")
    assert result.exit_code == 0
    assert re.search(r"^  plugins  List, document, begin and check plugins\.$", result.stdout, re.M)
    assert moalign("--version").stdout == f"moalign {__version__}\n"


def test_the_mistake_of_a_user_is_a_sentence_and_exit_code_2(tmp_path: Path) -> None:
    result = moalign("plugins", "list", "--plugin", tmp_path / "no.py")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        f"Error: --plugin {tmp_path / 'no.py'}: there is no Python file of this name\n"
    )


@pytest.mark.parametrize("arguments", [["--help"], ["plugins", "list"], ["plugins", "show", "gp"]])
def test_looking_around_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from moalign.cli import main\n"
        f"sys.argv = ['moalign', *{arguments}]\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'numpy', 'mlflow', 'optuna', 'transformers', 'matplotlib', 'plotly'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert done.stdout


def test_a_mistake_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(files: object) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr("moalign.cli.plugins.load", load)
    assert isinstance(moalign("plugins", "list").exception, ZeroDivisionError)


# --- list -------------------------------------------------------------------------------------


def test_list_has_a_line_per_component_for_programs(louder: Path) -> None:
    result = moalign("plugins", "list", "--plugin", louder)
    assert result.exit_code == 0
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert {len(row) for row in rows} == {4}
    assert [
        "weighting",
        "louder",
        "Weighs all alike, e.g. loudly.",
        f"plugin file {louder}",
    ] in rows
    assert {(kind, name) for kind, name, *_ in rows} >= {("weighting", "fixed"), ("reward", "kl")}
    assert all(re.match(r"\S.*[.!?]$", summary) for _, _, summary, _ in rows)


def test_list_says_what_an_optimizer_learns_from() -> None:
    lines = moalign("plugins", "list", "optimizer").output.splitlines()
    found = {line.split("\t")[1]: line.split("\t")[2] for line in lines}
    assert found["dpo"].endswith(" Learns from pairs.")
    assert found["hypo"].endswith(" Learns from pairs and rollouts.")
    assert "Learns from" not in found["grpo"]


def test_list_of_one_kind(louder: Path) -> None:
    result = moalign("plugins", "list", "weighting", "--plugin", louder)
    assert {line.split("\t")[0] for line in result.stdout.splitlines()} == {"weighting"}
    result = moalign("plugins", "list", "weightings")
    assert result.exit_code == 2
    assert result.stderr.startswith(
        "Error: no kind is called 'weightings'; did you mean 'weighting'? Allowed: executor, "
    )


def test_list_is_a_table_for_people(louder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moalign.cli.plugins.is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    result = moalign("plugins", "list", "--plugin", louder)
    assert re.search(r"^kind +name +what it does +from", result.stdout, re.M)
    assert re.search(
        r"^ +louder +Weighs all alike, e\.g\. loudly\. +louder\.py", result.stdout, re.M
    )


# --- show -------------------------------------------------------------------------------------


def test_show_is_the_documentation_page(louder: Path) -> None:
    result = moalign("plugins", "show", "louder", "--plugin", louder)
    assert result.exit_code == 0
    assert result.stdout == (
        "weighting louder\n"
        "================\n\n"
        "Weighs all alike, e.g. loudly. It has a second sentence.\n\n"
        "And a second paragraph.\n\n"
        "Options\n"
        "-------\n"
        "volume: float; must be given\n"
        "    how loud it is, in decibels.\n"
        "quiet: bool; default false\n"
        "inner: weighting or null; default null\n"
        "    another one.\n\n"
        "declares  unnormalised\n"
        f"from      plugin file {louder}\n"
    )


def test_show_prints_both_ways_to_mark_code_alike(louder: Path) -> None:
    marked = "Weighs ``all`` alike, in `dB` or\n    ``two words\n    long``::\n\n        a[::2]\n"
    text = PLUGIN.replace("Weighs all alike, e.g. loudly. It has a second sentence.\n", marked)
    louder.write_text(text.replace("how loud it is", "how ``loud`` it is"))
    page = moalign("plugins", "show", "louder", "--plugin", louder).stdout
    expected = "Weighs `all` alike, in `dB` or\n`two words\nlong`:\n\n    a[::2]\n\nAnd a second"
    assert expected in page
    assert "    how `loud` it is, in decibels." in page
    for command in (("list",), ("show", "group-robust"), ("show", "dpo"), ("show", "modpo")):
        shown = moalign("plugins", *command).stdout
        assert "``" not in shown
        assert "::\n" not in shown


def test_show_tells_what_a_reward_needs() -> None:
    page = moalign("plugins", "show", "kl").stdout
    assert re.search(r"^needs  logprobs, ref_logprobs\nfrom   moalign ", page, re.M)
    page = moalign("plugins", "show", "reward:brevity").stdout
    assert re.search(r"^range  \(0\.0, 1\.0\)$", page, re.M)
    assert re.search(r"^limit: int > 0; must be given$", page, re.M)


def test_show_explains_the_options_of_an_inherited_constructor() -> None:
    page = moalign("plugins", "show", "upgrad").stdout
    assert re.search(
        r"^smoothing: .*\n    decay of the moving average of the Gram matrix", page, re.M
    )


def test_show_tells_kinds_apart(louder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    text = PLUGIN.replace("Weighting", "Reward").replace("weightings", "rewards")
    other.write_text(text.replace("def weigh(", "def score("))
    both = ("--plugin", louder, "--plugin", other)
    page = moalign("plugins", "show", "louder", *both).stdout
    assert page.index("reward louder\n") < page.index("weighting louder\n")
    page = moalign("plugins", "show", "reward:louder", *both).stdout
    assert "reward louder\n" in page
    assert "weighting louder\n" not in page


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("fixd", "no component is called 'fixd'; did you mean 'fixed'? Allowed: "),
        ("weighting:fixd", "no weighting is called 'fixd'; did you mean 'fixed'? Allowed: "),
        ("weihgting:fixed", "no kind is called 'weihgting'; did you mean 'weighting'? Allowed: "),
    ],
)
def test_show_of_nothing_is_a_sentence(name: str, sentence: str) -> None:
    result = moalign("plugins", "show", name)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {sentence}")


# --- new --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TEMPLATES)
def test_new_writes_a_plugin_that_keeps_its_contract(kind: str, tmp_path: Path) -> None:
    result = moalign("plugins", "new", kind, "my-own-1", "--into", tmp_path)
    plugin, test = tmp_path / "my_own_1.py", tmp_path / "test_my_own_1.py"
    assert result.exit_code == 0
    assert result.stdout == (
        f"wrote {plugin}\nwrote {test}\ncheck it: moalign plugins check {plugin}\n"
    )
    assert 20 <= len([line for line in plugin.read_text().splitlines() if line.strip()]) <= 30
    checked = moalign("plugins", "check", plugin)
    assert checked.exit_code == 0, checked.output
    assert "my-own-1" in moalign("plugins", "list", "--plugin", plugin).stdout


def test_the_tests_that_new_writes_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for template in TEMPLATES:
        moalign("plugins", "new", template, f"my-{template}", "--into", tmp_path)
    options = ["--verbose", "--import-mode=importlib", "-Werror", f"--rootdir={tmp_path}"]
    without = ["-pno:cacheprovider", "-pno:timeout", "-pno:hypothesispytest"]
    assert pytest.main([*options, *without, str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    total = 0
    for template in TEMPLATES:
        kind, file = KINDS.get(template, template), f"my_{template.replace('-', '_')}.py"
        entries = load([tmp_path / file]).entries(kind)
        (cls,) = (entry.cls for entry in entries if entry.cls.name == f"my-{template}")
        for case in cases(load(), [cls]):
            for name in properties(kind, cls):
                assert f"test_{file}::test_contract[{case.label}: {name}] PASSED" in printed
                total += 1
    assert f"{total + len(TEMPLATES)} passed" in printed


def test_what_new_writes_passes_lint_and_types(tmp_path: Path) -> None:
    for kind in TEMPLATES:
        moalign("plugins", "new", kind, f"my-{kind}", "--into", tmp_path)
    root = Path(__file__).parents[2]
    ruff = [sys.executable, "-m", "ruff"]
    config = ["--config", str(root / "pyproject.toml"), "--no-cache"]
    for command in ([*ruff, "check", *config, "--extend-ignore", "TID253,ARG002", "."],
                    [*ruff, "format", "--check", *config, "."]):  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_new_never_overwrites(tmp_path: Path) -> None:
    for name in ("mine.py", "test_mine.py"):
        (tmp_path / name).write_text("precious")
        result = moalign("plugins", "new", "weighting", "mine", "--into", tmp_path)
        assert result.exit_code == 2
        assert result.stderr == (
            f"Error: {tmp_path / name} exists already, and is not overwritten; "
            "choose another name\n"
        )
        assert [path.name for path in tmp_path.iterdir()] == [name]
        assert (tmp_path / name).read_text() == "precious"
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("weighting", "My_Own"),
            "a weighting cannot be called 'My_Own'; use kebab-case, lower-case letters, digits "
            "and hyphens, such as 'my-weighting'",
        ),
        (("weighting", "../mine"), "a weighting cannot be called '../mine'; use kebab-case"),
        (("reward", "kl"), "a reward called 'kl' exists already (moalign "),
        (
            ("pair-loss", "dpo"),
            "an optimizer called 'dpo' exists already (moalign ",
        ),
        (
            ("rewards", "mine"),
            "there is no template for 'rewards'; did you mean 'reward'? Allowed: ",
        ),
        (
            ("tracker", "mine"),
            "there is no template for 'tracker'; allowed: optimizer, pair",
        ),
        (
            ("reward", "mine", "--into", "no/such"),
            "no/such/mine.py cannot be written: No such file",
        ),
    ],
)
def test_new_refuses_with_a_sentence(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = moalign("plugins", "new", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {sentence}")
    assert not list(tmp_path.iterdir())


# --- check ------------------------------------------------------------------------------------


def test_check_runs_the_contract(louder: Path) -> None:
    result = moalign("plugins", "check", louder)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "weighting louder (volume=2)"
    assert lines[1] == "  ok    returns_weights"
    assert lines[-1] == "all 10 properties hold"


def test_check_says_what_is_wrong(louder: Path) -> None:
    louder.write_text(PLUGIN.replace('frozenset({"unnormalised"})', "frozenset()"))
    result = moalign("plugins", "check", louder)
    assert result.exit_code == 1
    assert (
        "  FAIL  stays_on_the_simplex\n"
        "        weights must sum to 1 unless `declares` contains 'unnormalised'; "
        "found sums [2] with ordinary scores\n"
    ) in result.stdout
    assert result.stdout.splitlines()[-1] == "2 of 10 properties do not hold"


def test_check_wants_examples_where_options_have_no_default(louder: Path) -> None:
    louder.write_text(PLUGIN.replace('examples = ({"volume": 2},)', ""))
    result = moalign("plugins", "check", louder)
    assert result.exit_code == 1
    assert (
        "        it must be buildable from each of its `examples`, a tuple of options as a study "
        "gives them; {} gave: weighting louder needs option 'volume' (float)\n"
    ) in result.stdout


def test_check_loads_other_plugins_for_components_inside(louder: Path, tmp_path: Path) -> None:
    quiet = tmp_path / "quiet.py"
    quiet.write_text(
        PLUGIN.replace('"louder"', '"quieter"').replace(
            '({"volume": 2},)', '({"volume": 2, "inner": {"louder": {"volume": 3}}},)'
        )
    )
    assert moalign("plugins", "check", quiet).exit_code == 1
    result = moalign("plugins", "check", quiet, "--plugin", louder)
    assert result.exit_code == 0, result.output
    assert "weighting louder" not in result.stdout


def test_check_of_a_kind_without_a_suite(tmp_path: Path) -> None:
    path = tmp_path / "task.py"
    path.write_text(
        "from moalign import Task, hookimpl\n\n\nclass Mine(Task):\n"
        '    """Asks nothing."""\n\n    name = "mine"\n\n'
        "    def prompts(self):\n        return []\n\n\n"
        "@hookimpl\ndef moalign_tasks():\n    return [Mine]\n"
    )
    result = moalign("plugins", "check", path)
    assert result.exit_code == 0
    assert result.stdout == "task mine: it loads; there is no contract suite for its kind\n"


def test_check_of_a_broken_file_is_a_sentence(louder: Path) -> None:
    louder.write_text(PLUGIN.replace("def weigh(", "def wiegh("))
    result = moalign("plugins", "check", louder)
    assert result.exit_code == 2
    assert "these methods are missing: weigh" in result.stderr
