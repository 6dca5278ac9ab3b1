"""``moalign plugins``: what there is, what it does, how to begin one, whether it keeps its word."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from moalign.cli.common import PluginFiles, is_terminal, new_console
from moalign.components import KINDS, Component, Optimizer
from moalign.errors import OptionError, PluginError, nearest, one
from moalign.options import Option, constructors, options_of
from moalign.plugins import NAME, Catalogue, Entry, load

if TYPE_CHECKING:
    from moalign.testing import Finding

app = typer.Typer(
    name="plugins",
    help="List, document, begin and check plugins.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

DECLARED: Final = (
    "range",
    "outputs",
    "learns_from",
    "needs",
    "declares",
    "min_group",
    "max_group",
    "condition",
    "corners_first",
)
"""What component classes declare beside their options."""

WIDTH: Final = 98
INDENT: Final = "    "


# --- list --------------------------------------------------------------------------------------


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Argument(help="Only this kind, such as weighting.")] = None,
    plugin: PluginFiles = None,
) -> None:
    """List all components.

    By kind: name, what it does, where it comes from; tab-separated if nobody is looking.
    """
    kinds = [base.kind for base in KINDS]
    if kind is not None and kind not in kinds:
        raise OptionError(f"no kind is called {kind!r}; {nearest(kind, kinds)}")
    entries = list(load(plugin or ()).entries(kind))
    if is_terminal():
        _print_table(entries)
        return
    for entry in entries:
        typer.echo("\t".join((entry.cls.kind, entry.cls.name, _summary(entry), entry.origin)))


def _summary(entry: Entry) -> str:
    """Return what a component does; of an optimizer, what it learns from as well."""
    text = _as_text(entry.summary)
    if issubclass(entry.cls, Optimizer) and entry.cls.learns_from != "rollouts":
        of = "pairs" if entry.cls.learns_from == "pairs" else "pairs and rollouts"
        return f"{text} Learns from {of}."
    return text


def _print_table(entries: Sequence[Entry]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("kind", style="dim", no_wrap=True)
    table.add_column("name", style="bold", no_wrap=True)
    table.add_column("what it does")
    table.add_column("from", style="dim", no_wrap=True)
    before = ""
    for entry in entries:
        if before and entry.cls.kind != before:
            table.add_row()
        shown = "" if entry.cls.kind == before else entry.cls.kind
        table.add_row(shown, entry.cls.name, _summary(entry), Path(entry.origin).name)
        before = entry.cls.kind
    new_console().print(table)


# --- show --------------------------------------------------------------------------------------


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A component's name, or KIND:NAME.")],
    plugin: PluginFiles = None,
) -> None:
    """Show a component's documentation.

    What it does, its options with types and defaults, what it declares, where it comes from.
    """
    found = _named(load(plugin or ()), name)
    typer.echo("\n\n\n".join(_page(entry) for entry in found))


def _named(catalogue: Catalogue, name: str) -> list[Entry]:
    kind, colon, rest = name.rpartition(":")
    kinds = [base.kind for base in KINDS]
    if colon and kind not in kinds:
        raise OptionError(f"no kind is called {kind!r}; {nearest(kind, kinds)}")
    if colon:
        catalogue.find(kind, rest)
    entries = list(catalogue.entries(kind or None))
    found = [entry for entry in entries if entry.cls.name == rest]
    if not found:
        names = {entry.cls.name for entry in entries}
        raise OptionError(f"no component is called {rest!r}; {nearest(rest, names)}")
    return found


def _page(entry: Entry) -> str:
    cls = entry.cls
    title = f"{cls.kind} {cls.name}"
    sections = [f"{title}\n{'=' * len(title)}", _as_text(inspect.getdoc(cls) or "")]
    options = options_of(cls)
    if options:
        described = _described(cls)
        lines = [_option(option, described.get(option.name, "")) for option in options]
        sections.append("Options\n-------\n" + "\n".join(lines))
    declared = dict(_declared(cls))
    declared["from"] = entry.origin
    width = max(map(len, declared))
    facts = "\n".join(f"{name:{width}}  {value}" for name, value in declared.items())
    return "\n\n".join([*sections, facts])


def _as_text(documentation: str) -> str:
    """Return documentation without the marks that matter to what formats it only."""
    plain = re.sub(r"``(.+?)``", r"`\1`", documentation, flags=re.DOTALL)
    return re.sub(r"(?m)(?<=[^\s:])::$", ":", plain)


def _option(option: Option, description: str) -> str:
    default = "must be given" if option.required else f"default {_plain(option.default)}"
    text = f"{option.name}: {option.describe()}; {default}"
    return "\n".join([text, *textwrap.wrap(_as_text(description), WIDTH, initial_indent=INDENT,
                                           subsequent_indent=INDENT)])  # fmt: skip


def _plain(value: Any) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def _described(cls: type[Component]) -> dict[str, str]:
    """Return what the ``Args:`` sections of the constructors that take options say of them."""
    found: dict[str, str] = {}
    for constructor in reversed(constructors(cls)):
        found |= _arguments(inspect.getdoc(constructor) or "")
    return found


def _arguments(text: str) -> dict[str, str]:
    """Return what the ``Args:`` section of a docstring says of arguments, by name."""
    _, _, arguments = text.partition("Args:\n")
    found: dict[str, str] = {}
    name = ""
    for line in arguments.splitlines():
        if not line.startswith("    "):
            break
        begins = re.match(r"    (\w+): (.*)", line)
        if begins:
            name, found[begins[1]] = begins[1], begins[2]
        elif name:
            found[name] += " " + line.strip()
    return found


def _declared(cls: type[Component]) -> Iterator[tuple[str, str]]:
    for name in DECLARED:
        value = getattr(cls, name, None)
        if isinstance(value, frozenset):
            value = ", ".join(sorted(value))
        if value not in (None, "", ()):
            yield name, str(value)


# --- new ---------------------------------------------------------------------------------------


@app.command()
def new(
    kind: Annotated[
        str,
        typer.Argument(
            help="weighting, reward, optimizer, or pair-loss: an optimizer that learns from pairs."
        ),
    ],
    name: Annotated[str, typer.Argument(help="Its name, in kebab-case, such as my-weighting.")],
    into: Annotated[
        Path, typer.Option("--into", metavar="FOLDER", help="Where to write; it must exist.")
    ] = Path(),
) -> None:
    """Write a plugin that runs, and its test."""
    from moalign.cli.templates import KINDS, TEMPLATES

    if kind not in TEMPLATES:
        raise OptionError(f"there is no template for {kind!r}; {nearest(kind, TEMPLATES)}")
    template, kind = kind, KINDS.get(kind, kind)
    if not NAME.fullmatch(name):
        raise OptionError(
            f"{one(kind)} cannot be called {name!r}; use kebab-case, lower-case letters, digits "
            f"and hyphens, such as 'my-{kind}'"
        )
    stem = name.replace("-", "_")
    taken = [entry for entry in load().entries(kind) if entry.cls.name == name]
    if taken:
        raise PluginError(
            f"{one(kind)} called {name!r} exists already ({taken[0].origin}); choose another name"
        )
    words = {
        "name": name,
        "stem": stem,
        "class": "".join(part.capitalize() for part in name.split("-")),
    }
    plugin, test = TEMPLATES[template]
    files = {into / f"{stem}.py": plugin, into / f"test_{stem}.py": test}
    for path in files:
        if path.exists():
            raise PluginError(f"{path} exists already, and is not overwritten; choose another name")
    for path, form in files.items():
        text = re.sub(r"\{(\w+)\}", lambda match: words[match[1]], form)
        _write(path, text)
        typer.echo(f"wrote {path}")
    typer.echo(f"check it: moalign plugins check {into / stem}.py")


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise PluginError(f"{path} cannot be written: {error.strerror}") from error


# --- check -------------------------------------------------------------------------------------


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The plugin file.")],
    plugin: PluginFiles = None,
) -> None:
    """Run the contract suites over a plugin file.

    Exits with 1 if one of its components lacks a property.
    """
    from moalign.testing import SUITES, cases, run_contract

    catalogue = load([file, *(plugin or ())])
    origin = f"plugin file {catalogue.files[0].path}"
    mine = [entry.cls for entry in catalogue.entries() if entry.origin == origin]
    for cls in mine:
        if cls.kind not in SUITES:
            typer.echo(f"{cls.kind} {cls.name}: it loads; there is no contract suite for its kind")
    findings: list[Finding] = []
    for case in cases(catalogue, mine):
        typer.echo(case.label)
        for finding in run_contract(case.cls.kind, case.build, case.cls):
            typer.echo(f"  {'ok  ' if finding.ok else 'FAIL'}  {finding.property}")
            if not finding.ok:
                typer.echo(f"        {finding.message}")
            findings.append(finding)
    failed = sum(not finding.ok for finding in findings)
    if failed:
        typer.echo(f"{failed} of {len(findings)} properties do not hold")
        raise typer.Exit(1)
    if findings:
        typer.echo(f"all {len(findings)} properties hold")
