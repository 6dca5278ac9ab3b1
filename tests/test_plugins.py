"""The host: what it finds, what it builds, and the sentence for everything it refuses."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any, ClassVar

import pluggy
import pytest

from moalign import OptionError, PluginError, Reward, Weighting, hookimpl
from moalign.plugins import Catalogue, Entry, PluginFile, check_hooks, load, split_reference

PLAIN = '''
    from moalign import Weighting, Weights, hookimpl


    class Mine(Weighting):
        """Weighs nothing."""

        name = "mine"

        def __init__(self, *, limit: int = 1, inner: Weighting | None = None) -> None:
            self.limit, self.inner = limit, inner

        def weigh(self, step):
            return Weights(None)


    @hookimpl
    def moalign_weightings():
        return [Mine]
'''

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def without_installed_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOALIGN_PLUGINS", "")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a plugin file: the plain one, with some of its text replaced."""

    def write(name: str = "mine.py", text: str = PLAIN, **replacements: str) -> Path:
        path = tmp_path / name
        for old, new in replacements.items():
            assert old in text
            text = text.replace(old, new)
        path.write_text(dedent(text))
        return path

    return write


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a distribution that offers a plugin module, and no other plugin."""
    monkeypatch.delenv("MOALIGN_PLUGINS")

    def install(distribution: str, version: str, module: str, text: str = PLAIN) -> None:
        site = tmp_path / distribution
        info = site / f"{distribution}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        (info / "entry_points.txt").write_text(f"[moalign]\n{module} = {module}\n")
        (site / f"{module}.py").write_text(dedent(text))
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, module, raising=False)
        names = [path.name for path in tmp_path.iterdir() if path.is_dir()]
        modules = [file.stem for name in names for file in (tmp_path / name).glob("*.py")]
        monkeypatch.setenv("MOALIGN_PLUGINS", ",".join(modules))

    return install


def refused(*files: Path) -> str:
    with pytest.raises(PluginError) as caught:
        load(files)
    return str(caught.value)


# --- what is found ----------------------------------------------------------------------------


def test_a_plugin_file_offers_its_components(write: Write) -> None:
    path = write()
    catalogue = load([path])
    (entry,) = catalogue.entries()
    assert entry.cls is catalogue.find("weighting", "mine")
    assert entry.origin == catalogue.origin("weighting", "mine") == f"plugin file {path}"
    assert catalogue.names("weighting") == ["mine"]
    assert catalogue.names("reward") == []


def test_a_plugin_file_is_recorded_by_its_hash(write: Write) -> None:
    path = write()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load([path]).files == (PluginFile(path, digest),)


def test_the_hash_is_of_what_ran(write: Write) -> None:
    """A change that keeps size and second must not run the bytecode of the old text."""
    for default in "12":
        catalogue = load([write(**{"limit: int = 1": f"limit: int = {default}"})])
        built: Any = catalogue.build(Weighting, "mine")
        assert built.limit == int(default)
    assert not list(write().parent.glob("**/*.pyc"))


def test_a_plugin_file_given_twice_is_loaded_once(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(text="print('loaded')\n" + dedent(PLAIN))
    monkeypatch.chdir(path.parent)
    runs: list[str] = []
    monkeypatch.setattr("builtins.print", runs.append)
    catalogue = load([path, Path("mine.py"), path.parent / "." / "mine.py"])
    assert runs == ["loaded"]
    assert [file.path for file in catalogue.files] == [path]


def test_each_load_gives_a_fresh_catalogue(write: Write) -> None:
    first, second = load([write()]), load([write()])
    assert first.find("weighting", "mine") is not second.find("weighting", "mine")
    assert load().names("weighting") == []


def test_files_of_the_same_name_in_two_folders_are_two_plugins(write: Write) -> None:
    (write().parent / "other").mkdir()
    paths = [write(), write("other/mine.py", **{'"mine"': '"other"'})]
    assert load(paths).names("weighting") == ["mine", "other"]


def test_a_plugin_file_may_use_dataclasses_and_inspect_its_source(write: Write) -> None:
    text = '''
        import inspect
        from dataclasses import dataclass
        from moalign import Reward, hookimpl

        @dataclass
        class Short(Reward):
            """Scores nothing."""

            name = "short"
            limit: int = 3

            def score(self, batch):
                return []

        assert "Scores nothing." in inspect.getsource(Short)

        @hookimpl
        def moalign_rewards():
            return [Short]
    '''
    built: Any = load([write(text=text)]).build(Reward, {"short": {"limit": 4}})
    assert built.limit == 4


def test_an_installed_plugin_is_found_by_its_entry_point(install: Callable[..., None]) -> None:
    install("alpha", "1.2", "alpha_plugin")
    catalogue = load()
    assert catalogue.names("weighting") == ["mine"]
    assert catalogue.origin("weighting", "mine") == "alpha 1.2"
    assert catalogue.files == ()


def test_moaligns_own_plugins_come_in_by_the_same_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOALIGN_PLUGINS", "moalign_plugins")
    assert {entry.origin for entry in load().entries()} == {"moalign 0.1.0"}


def test_entries_are_sorted_by_kind_and_name(write: Write) -> None:
    text = """
        from moalign import Reward, Weighting, hookimpl

        def reward(name):
            score = lambda self, batch: []
            return type(name, (Reward,), {"name": name, "score": score, "__doc__": "Scores."})

        @hookimpl
        def moalign_rewards():
            return [reward("b"), reward("a")]
    """
    catalogue = load([write(), write("rewards.py", text)])
    assert [(entry.cls.kind, entry.cls.name) for entry in catalogue.entries()] == [
        ("reward", "a"),
        ("reward", "b"),
        ("weighting", "mine"),
    ]


def test_moalign_plugins_restricts_to_the_plugins_it_names(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("alpha", "1.2", "alpha_plugin")
    install("beta", "3", "beta_plugin", PLAIN.replace('"mine"', '"other"'))
    assert load().names("weighting") == ["mine", "other"]
    monkeypatch.setenv("MOALIGN_PLUGINS", " beta_plugin, ")
    assert load().names("weighting") == ["other"]
    monkeypatch.setenv("MOALIGN_PLUGINS", "")
    assert load().names("weighting") == []


def test_moalign_trace_hooks_prints_every_hook_call(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load([write()])
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("MOALIGN_TRACE_HOOKS", "1")
    load([write()]).manager.hook.moalign_trial_ended(trial=7, outcome="", reason="", time=0)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.search(r"moalign_weightings \[hook\]\n.*finish moalign_weightings", printed.err, re.S)
    assert re.search(r"moalign_trial_ended \[hook\]\n.*trial: 7", printed.err, re.S)


# --- what is built ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "split"),
    [
        ("mine", ("mine", {})),
        ({"mine": None}, ("mine", {})),
        ({"mine": {}}, ("mine", {})),
        ({"mine": {"limit": 2}}, ("mine", {"limit": 2})),
    ],
)
def test_a_component_is_given_by_name_or_with_options(value: Any, split: Any) -> None:
    assert split_reference("weighting", value) == split


@pytest.mark.parametrize("value", [None, 3, [], ["mine"], {}, {"a": {}, "b": {}}, {1: {}}])
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(OptionError) as caught:
        split_reference("weighting", value)
    assert str(caught.value) == (
        f"a weighting is given as its name, or as {{name: {{option: value}}}}; found {value!r}"
    )
    with pytest.raises(OptionError, match="an optimizer is given as its name"):
        split_reference("optimizer", value)


@pytest.mark.parametrize("options", [3, "fast", ["limit"]])
def test_options_that_are_no_mapping_are_refused(options: Any) -> None:
    with pytest.raises(OptionError) as caught:
        split_reference("weighting", {"mine": options})
    assert str(caught.value) == (
        f"the options of weighting mine are a mapping, {{mine: {{option: value}}}}; "
        f"found {options!r}"
    )


def test_the_catalogue_builds_components_and_those_inside_them(write: Write) -> None:
    built: Any = load([write()]).build(Weighting, {"mine": {"inner": {"mine": {"limit": 5}}}})
    assert (type(built).__name__, built.limit, built.inner.limit) == ("Mine", 1, 5)


def test_an_unknown_component_is_a_sentence(write: Write) -> None:
    catalogue = load([write()])
    for value, sentence in [
        ("mien", "no weighting is called 'mien'; did you mean 'mine'? Allowed: mine"),
        ("zzz", "no weighting is called 'zzz'; allowed: mine"),
        (
            {"mine": {"inner": "mien"}},
            "weighting mine: option 'inner': no weighting is called 'mien'; "
            "did you mean 'mine'? Allowed: mine",
        ),
    ]:
        with pytest.raises(OptionError) as caught:
            catalogue.build(Weighting, value)
        assert str(caught.value) == f"{sentence}; one of your own needs --plugin FILE"
    with pytest.raises(OptionError, match="no reward is called 'mine'; none exist"):
        catalogue.build(Reward, "mine")


# --- what is refused --------------------------------------------------------------------------


def test_a_missing_plugin_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "mine.txt").touch()
    for name in ("missing.py", "folder.py", "mine.txt"):
        assert refused(tmp_path / name) == (
            f"--plugin {tmp_path / name}: there is no Python file of this name"
        )


def test_a_plugin_file_that_raises_is_a_sentence_with_its_line(write: Write) -> None:
    path = write(text="import math\n\n\ndef f():\n    1 / 0\n\n\nf()\n")
    before = set(sys.modules)
    assert refused(path) == (
        f"plugin file {path}, line 5, cannot be imported: ZeroDivisionError: division by zero"
    )
    assert set(sys.modules) == before
    path = write(text="from moalign import Wighting\n")
    assert refused(path).startswith(
        f"plugin file {path}, line 1, cannot be imported: ImportError: cannot import name "
    )
    path = write(text="x = 1\nif x\n")
    assert refused(path) == (
        f"plugin file {path} cannot be imported: SyntaxError: expected ':' (mine.py, line 2)"
    )


def test_an_installed_plugin_that_raises_names_its_distribution(
    install: Callable[..., None],
) -> None:
    install("alpha", "1.2", "alpha_plugin", "raise RuntimeError('no licence')")
    assert refused() == (
        "plugin 'alpha_plugin' of alpha 1.2 cannot be imported: RuntimeError: no licence; "
        "repair or uninstall it, or leave it out with MOALIGN_PLUGINS"
    )


@pytest.mark.parametrize("text", ["", "import moalign_plugins\nmoalign_version = 3\n"])
def test_a_plugin_without_a_hook_is_a_sentence(write: Write, text: str) -> None:
    path = write(text=text)
    assert refused(path) == (
        f"plugin file {path} offers nothing: it defines no hook. Add for example a function "
        "moalign_weightings, marked @moalign.hookimpl, that returns a list of classes"
    )


def test_an_unknown_name_in_moalign_plugins_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOALIGN_PLUGINS", "moalign_plugin")
    assert refused().startswith(
        "MOALIGN_PLUGINS names 'moalign_plugin', but no installed plugin is called so; "
        "did you mean 'moalign_plugins'? Allowed: "
    )


def test_a_misspelt_hook_is_a_sentence(write: Write) -> None:
    path = write(moalign_weightings="moalign_weighting")
    sentence = refused(path)
    assert sentence.startswith(
        f"plugin file {path}: no hook is called 'moalign_weighting'; "
        "did you mean 'moalign_weightings'? Allowed: moalign_base_measured, "
    )
    path = write(**{"@hookimpl": '@hookimpl(specname="weightings")'})
    assert f"plugin file {path}: no hook is called 'weightings'; " in refused(path)


def test_a_hook_of_another_version_may_be_optional(write: Write) -> None:
    extra = "@hookimpl(optionalhook=True)\ndef moalign_judges():\n    return []\n"
    assert load([write(text=dedent(PLAIN) + extra)]).names("weighting") == ["mine"]


def test_a_misspelt_hook_argument_is_a_sentence(write: Write) -> None:
    extra = "@hookimpl\ndef moalign_trial_ended(trial, resaon):\n    pass\n"
    path = write(text=dedent(PLAIN) + extra)
    assert refused(path) == (
        f"plugin file {path}: hook moalign_trial_ended has no argument 'resaon'; "
        "did you mean 'reason'? Allowed: outcome, reason, time, trial"
    )


def test_a_hook_that_is_not_marked_is_a_sentence(write: Write) -> None:
    path = write(**{"@hookimpl\n": "\n"})
    assert refused(path) == (
        f"plugin file {path}: moalign_weightings is not marked as a hook; "
        "put @moalign.hookimpl above it"
    )


def test_the_hooks_of_an_object_are_checked_as_well() -> None:
    class Listener:
        @hookimpl
        def moalign_step_ended(self, evnt: object) -> None: ...

    with pytest.raises(PluginError) as caught:
        check_hooks(Listener(), "tracker listener")
    assert str(caught.value) == (
        "tracker listener: hook moalign_step_ended has no argument 'evnt'; "
        "did you mean 'event'? Allowed: event"
    )


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        ("Mine", "must return a list of classes; found <class "),
        ("(Mine,)", "must return a list of classes; found (<class "),
        ("None", "must return a list of classes; found None"),
        ("[str]", "must return subclasses of moalign.Weighting; found <class 'str'>"),
        ("[Mine()]", "must return subclasses of moalign.Weighting; found <"),
        ("[Mine, 3]", "must return subclasses of moalign.Weighting; found 3"),
        ("[1 / 0]", "raised ZeroDivisionError: division by zero"),
    ],
)
def test_a_hook_that_returns_something_else_is_a_sentence(
    write: Write, result: str, sentence: str
) -> None:
    path = write(**{"return [Mine]": f"return {result}"})
    expected = f"plugin file {path}: moalign_weightings {sentence}"
    assert refused(path).startswith(expected)


def test_a_component_of_another_kind_is_a_sentence(write: Write) -> None:
    path = write(moalign_weightings="moalign_rewards")
    assert "moalign_rewards must return subclasses of moalign.Reward; found <class" in refused(path)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('name = "mine"', 'name = "My_One"', "`name` must be kebab-case, such as 'my-weighting'; "
         "found 'My_One'"),
        ('name = "mine"', 'name = "mine"; kind = "own"', "`kind` is what "
         "moalign calls this kind of component, 'weighting'; give your own attribute another name"),
        ('name = "mine"', "name = 3", "`name` must be kebab-case, such as 'my-weighting'; found 3"),
        ('name = "mine"', "pass", "`name` must be kebab-case, such as 'my-weighting'; found None"),
        ("def weigh(", "def wiegh(", "these methods are missing: weigh"),
        ('"""Weighs nothing."""', "pass", "it has no docstring; the docstring is its "
         "documentation page"),
        ('"""Weighs nothing."""', '"""  """', "it has no docstring; the docstring is its "
         "documentation page"),
    ],
)  # fmt: skip
def test_a_class_that_breaks_the_rules_is_a_sentence(
    write: Write, old: str, new: str, sentence: str
) -> None:
    path = write(**{old: new})
    message = refused(path)
    assert re.match(r"weighting class moalign_plugin_mine_[0-9a-f]{8}\.Mine \(", message)
    assert message.endswith(f"(plugin file {path}): {sentence}")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("limit", "option 'limit' has no type hint"),
        ("limit: int = 0.5", "the default of option 'limit' is not allowed by its own type"),
        ("limit: object = object", "the default of option 'limit' is not allowed by its own type"),
        ("**options: int", "constructor argument 'options' must be an ordinary keyword argument"),
        ("limit: range", "option 'limit' has the type range, which no study file can give"),
    ],
)
def test_options_are_checked_when_a_plugin_is_loaded(
    write: Write, options: str, sentence: str
) -> None:
    parameters = "limit: int = 1, inner: Weighting | None = None"
    body = {"self.limit, self.inner = limit, inner": "pass"}
    path = write(**{f"*, {parameters}": f"*, {options}".replace("*, **", "**")}, **body)
    assert f".Mine: {sentence}" in refused(path)


def test_two_files_that_offer_one_name_are_both_named(write: Write) -> None:
    one, two = write("one.py"), write("two.py")
    message = refused(one, two)
    assert re.fullmatch(
        rf"two plugins offer the weighting 'mine': moalign_plugin_one_\w+ "
        rf"\(plugin file {re.escape(str(one))}\) and moalign_plugin_two_\w+ "
        rf"\(plugin file {re.escape(str(two))}\); "
        r"rename one, or load only one of them with MOALIGN_PLUGINS",
        message,
    )


def test_two_distributions_that_offer_one_name_are_both_named(
    install: Callable[..., None],
) -> None:
    install("alpha", "1.2", "alpha_plugin")
    install("beta", "3", "beta_plugin")
    assert refused() == (
        "two plugins offer the weighting 'mine': alpha_plugin (alpha 1.2) and "
        "beta_plugin (beta 3); rename one, or load only one of them with MOALIGN_PLUGINS"
    )


def test_one_name_in_two_kinds_is_no_conflict(write: Write) -> None:
    text = '''
        from moalign import Reward, hookimpl

        class Mine(Reward):
            """Scores nothing."""

            name = "mine"

            def score(self, batch):
                return []

        @hookimpl
        def moalign_rewards():
            return [Mine]
    '''
    catalogue = load([write(), write("reward.py", text)])
    assert [entry.cls.kind for entry in catalogue.entries()] == ["reward", "weighting"]


def test_one_class_may_be_offered_twice(write: Write) -> None:
    path = write(**{"return [Mine]": "return [Mine, Mine]"})
    assert load([path]).names("weighting") == ["mine"]


class Kept(Weighting):
    """Weighs nothing."""

    name: ClassVar[str] = "kept"

    def weigh(self, step: object) -> Any:
        return None


def test_a_catalogue_can_be_made_by_hand() -> None:
    catalogue = Catalogue(pluggy.PluginManager("moalign"), ())
    catalogue.add(Entry(Kept, "a test"))
    assert isinstance(catalogue.build(Weighting, "kept"), Kept)
