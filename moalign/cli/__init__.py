"""The command line: thin commands over the host. A mistake of the user is one sentence, exit 2.

Each module named in :data:`MODULES` holds ``app``, a Typer with one or more commands; one with a
name is a group of its own. They import what is heavy inside their commands, so that ``--help``
answers at once.
"""

from __future__ import annotations

import importlib
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from moalign import __version__
from moalign.errors import MoalignError

MODULES: Final = ("pareto", "soup", "front", "sample", "runs", "plugins")
"""Modules of this package with commands, in the order of the help."""


class _Commands(TyperGroup):
    """Commands that turn an error made for people into a sentence on standard error."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MoalignError as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(2) from error


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"moalign {__version__}")
        raise typer.Exit


def _moalign(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Multi-objective alignment of language models: from rewards to a front of policies."""


def command_line() -> typer.Typer:
    """Return the command line with all its commands."""
    app = typer.Typer(
        name="moalign",
        cls=_Commands,
        callback=_moalign,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for name in MODULES:
        app.add_typer(importlib.import_module(f"moalign.cli.{name}").app)
    return app


def main() -> None:
    """Run the command line."""
    command_line()()
