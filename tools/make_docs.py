"""Writes the generated parts of the documents from the code they describe.

python tools/make_docs.py

A part stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; the rest of a document is
written by hand. ``make docs`` calls this, and ``tests/test_docs.py`` fails if a part has drifted.
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from moalign import hookspecs
from moalign.cli import command_line
from moalign.components import KINDS, Component, Optimizer
from moalign.options import Option
from moalign.plugins import Entry, load
from moalign.study import bundled
from moalign.study.schema import Reference, Section, StudySection
from moalign.testing import SUITES, properties

ROOT: Final = Path(__file__).resolve().parents[1]
DOCUMENTS: Final = ("README.md", "docs/study.md", "docs/plugins.md", "docs/commands.md")
PACKAGE: Final = "moalign_plugins"
COLUMNS: Final = 80  # of help texts
WIDTH: Final = 98  # of signatures


# --- study.md ----------------------------------------------------------------------------------


def study_keys() -> str:
    """Return a table of keys per section of a study file."""
    return "\n\n".join(_section(path, section) for path, section in sections())


def sections(
    section: type[Section] = StudySection, path: str = ""
) -> Iterator[tuple[str, type[Section]]]:
    """Yield the sections of a study, each with the path that its keys continue."""
    yield path, section
    hints = typing.get_type_hints(section, include_extras=True)
    for name in section.model_fields:
        for below, inside in _inside(hints[name], f"{path}{name}"):
            yield from sections(inside, f"{below}.")


def _inside(hint: Any, path: str) -> Iterator[tuple[str, type[Section]]]:
    """Yield the sections that a value may be, or hold by name."""
    if isinstance(hint, type) and issubclass(hint, Section):
        yield path, hint
        return
    held = typing.get_origin(hint) is dict
    for arm in typing.get_args(hint)[held:]:  # of a dict the values
        yield from _inside(arm, f"{path}.{_held(path)}" if held else path)


def _held(path: str) -> str:
    return "PATH" if path.endswith("space") else "NAME"


def _section(path: str, section: type[Section]) -> str:
    says = _markdown(section)
    title = f"`{path.rstrip('.')}`: {says[0].lower()}{says[1:].rstrip('.')}" if path else says
    hints = typing.get_type_hints(section, include_extras=True)
    rows = [
        [f"`{path}{name}`", _type(hints[name]), _default(field), _cell(field.description or "")]
        for name, field in section.model_fields.items()
    ]
    table = _table(["key", "type", "default", "meaning"], rows)
    return f"{f'### {title}' if path else title}\n\n{table}"


def _type(hint: Any) -> str:
    """Return a type as a person reads it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint == Reference:
        return "component"
    if isinstance(hint, type) and issubclass(hint, Section):
        return "mapping"
    if origin is typing.Annotated and typing.get_args(args[0]):
        return _type(args[0])
    if origin in _FORMS:
        return _FORMS[origin](args)
    return Option("", hint, None, None, False, False).describe()


def _either(args: tuple[Any, ...]) -> str:
    return " or ".join(dict.fromkeys(map(_type, args)))


_FORMS: Final[dict[Any, Callable[[tuple[Any, ...]], str]]] = {
    dict: lambda args: f"{{name: {_type(args[1])}}}",
    list: lambda args: f"[{_type(args[0])}, ...]",
    tuple: lambda args: f"[{', '.join(map(_type, args))}]",
    typing.Literal: lambda args: " or ".join(f"`{value}`" for value in args),
    typing.Union: _either,
    types.UnionType: _either,
}
"""How a type with arguments is written."""


def _default(field: FieldInfo) -> str:
    default = field.default
    if default is PydanticUndefined:
        return "must be given"
    if isinstance(default, Section):
        return "see below"
    return f"`{json.dumps(default)}`"


# --- plugins.md --------------------------------------------------------------------------------


def hooks() -> str:
    """Return every hook: its arguments, its signature, what it is for."""
    families = {"Discover": hookspecs.DISCOVER, "Announce": hookspecs.ANNOUNCE}
    parts = []
    for family, names in families.items():
        parts.append(f"### {family}")
        for name in names:
            hook = getattr(hookspecs, name)
            arguments = ", ".join(inspect.signature(hook).parameters)
            code = f"```python\n{_signature(hook)}\n```"
            parts.append(f"#### `{name}({arguments})`\n\n{code}\n\n{_markdown(hook)}")
    return "\n\n".join(parts)


def kinds() -> str:
    """Return the contract of every kind of component."""
    return "\n\n".join(_kind(base) for base in KINDS)


def _kind(base: type[Component]) -> str:
    parts = [f"### {base.kind}: `moalign.{base.__name__}`", _markdown(base)]
    for name, member in vars(base).items():
        if inspect.isfunction(member) and not name.startswith("_"):
            must = "**Must be written.** " if getattr(member, "__isabstractmethod__", False) else ""
            parts.append(f"```python\n{_signature(member)}\n```\n\n{must}{_markdown(member)}")
    if base.kind in SUITES:
        suite = properties(base.kind).items()
        rows = [[f"`{name}`", _cell(_code(inspect.getdoc(check) or ""))] for name, check in suite]
        parts += ["What `moalign plugins check` holds it to:", _table(["property", "says"], rows)]
    return "\n\n".join(parts)


def catalogue() -> str:
    """Return a table of moalign's own components."""
    rows = [[e.cls.kind, f"`{e.cls.name}`", _cell(_code(e.summary))] for e in own_entries()]
    return _table(["kind", "name", "what it does"], rows)


def own_entries() -> list[Entry]:
    """Return the components that come with moalign, whatever else is installed here."""
    return [e for e in load().entries() if e.cls.__module__.partition(".")[0] == PACKAGE]


# --- README.md ---------------------------------------------------------------------------------


def names() -> str:
    """Return the names of moalign's own components by kind."""
    found: dict[str, list[str]] = {}
    for entry in own_entries():
        found.setdefault(entry.cls.kind, []).append(f"`{entry.cls.name}`")
    return _table(["kind", "names"], [[kind, ", ".join(of)] for kind, of in found.items()])


def learns_from() -> str:
    """Return the optimizers by what they learn from."""
    what = {"rollouts": "what the policy writes", "pairs": "preferences", "both": "both"}
    found: dict[str, list[str]] = {}
    for entry in own_entries():
        if issubclass(entry.cls, Optimizer):
            found.setdefault(entry.cls.learns_from, []).append(f"`{entry.cls.name}`")
    rows = [[of, ", ".join(found[name])] for name, of in what.items()]
    return _table(["learns from", "optimizers"], rows)


def studies() -> str:
    """Return the bundled studies and what they ask."""
    rows = [[f"`{name}`", bundled.title(name)] for name in bundled.names()]
    return _table(["study", "what it asks"], rows)


# --- commands.md -------------------------------------------------------------------------------


def commands() -> str:
    """Return the help of every command."""
    root = typer.main.get_command(command_line())
    return "\n\n".join(
        f"## `{path}`\n\n```text\n{_help(command, path)}\n```" for path, command in walk(root)
    )


def walk(command: Any, path: str = "moalign") -> Iterator[tuple[str, Any]]:
    """Yield a command and all below it, each with the words that call it."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from walk(below, f"{path} {name}")


def _help(command: Any, path: str) -> str:
    context = command.context_class(command, info_name=path, terminal_width=COLUMNS, color=False)
    lines = command.get_help(context).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip()


# --- from docstrings to Markdown ---------------------------------------------------------------


def _markdown(thing: Any) -> str:
    """Return a docstring as Markdown: its sections of fields become lists."""
    parts = []
    for paragraph in (inspect.getdoc(thing) or "").split("\n\n"):
        title, _, rest = paragraph.partition("\n")
        if title in ("Args:", "Attributes:"):
            parts.append("\n".join(_fields(textwrap.dedent(rest))))
        elif title in ("Returns:", "Raises:"):
            parts.append(f"{title[:-1]}: {' '.join(rest.split())}")
        else:
            parts.append(" ".join(paragraph.split()))
    return _code("\n\n".join(parts))


def _fields(text: str) -> Iterator[str]:
    for item in re.split(r"\n(?=\S)", text):
        name, _, meaning = item.partition(":")
        yield f"- `{name}`: {' '.join(meaning.split())}"


def _code(text: str) -> str:
    """Replace the roles and double backticks of docstrings."""
    return re.sub(r"(?::\w+:)?(`+)~?([^`]+)\1", r"`\2`", text)


def _signature(function: Any) -> str:
    """Return a function's signature as it would be written."""
    signature = inspect.signature(function)
    hints = [str(p).replace("'", "") for p in signature.parameters.values()]
    keyword_only = [p.kind is p.KEYWORD_ONLY for p in signature.parameters.values()]
    if any(keyword_only):
        hints.insert(keyword_only.index(True), "*")
    returns = signature.return_annotation
    line = f"def {function.__name__}({', '.join(hints)}) -> {returns}"
    if len(line) <= WIDTH:
        return line
    return "\n".join(
        [f"def {function.__name__}(", *(f"    {h}," for h in hints), f") -> {returns}"]
    )


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# --- documents ---------------------------------------------------------------------------------

PARTS: Final[dict[str, Callable[[], str]]] = {
    "catalogue": catalogue,
    "commands": commands,
    "hooks": hooks,
    "kinds": kinds,
    "learns from": learns_from,
    "names": names,
    "studies": studies,
    "study keys": study_keys,
}


def render(text: str) -> str:
    """Return a document with all its generated parts written anew."""
    return re.sub(
        r"(<!-- begin ([\w ]+) -->\n).*?(<!-- end \2 -->)",
        lambda match: f"{match[1]}\n{PARTS[match[2]]()}\n\n{match[3]}",
        text,
        flags=re.DOTALL,
    )


def main() -> None:
    """Write all documents."""
    for name in DOCUMENTS:
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        after = render(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"wrote {name}")


if __name__ == "__main__":
    main()
