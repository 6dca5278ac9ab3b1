"""What several commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

PluginFiles = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE", help="Load this plugin file too; may be repeated."),
]
"""Plugin files to load beside the installed plugins."""


def is_terminal() -> bool:
    """Whether a person is looking: colours and tables are for them, plain lines for programs."""
    return sys.stdout.isatty()
