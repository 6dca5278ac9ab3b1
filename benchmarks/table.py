"""A dated table: what every benchmark writes, with all that is needed to run it again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "optuna", "botorch", "mlflow")


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(name: str, title: str, parts: Sequence[str], seeds: Sequence[int] = ()) -> Path:
    """Write ``results/<date>-<name>.md`` and return its path.

    Args:
        name: of the benchmark.
        title: the heading.
        parts: paragraphs and tables, in order.
        seeds: what was used.
    """
    given = facts(seeds)
    text = page(title, parts, given)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{dict(given)['date']}-{name}.md"
    path.write_text(text, encoding="utf-8")
    print(text)
    return path


def page(title: str, parts: Sequence[str], facts: Sequence[Sequence[object]]) -> str:
    """Return a whole page: heading, parts, and what was measured with."""
    return "\n\n".join([f"# {title}", *parts, markdown(["what", "value"], facts)]) + "\n"


def facts(seeds: Sequence[int] = ()) -> list[tuple[str, object]]:
    """Return what is needed to run it again: date, commit, command, machine and versions."""
    found: list[tuple[str, object]] = [
        ("date", datetime.now(UTC).date().isoformat()),
        ("commit", _commit()),
        ("command", _command()),
        ("cores", len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "?"),
        ("Python", platform.python_version()),
        *((package, version(package)) for package in PACKAGES),
    ]
    if seeds:
        found.append(("seeds", ", ".join(map(str, seeds))))
    return found


def _command() -> str:
    """Return the command line, with folders of this machine left out."""
    words = ["DIR" if "/" in word else word for word in sys.argv[1:]]
    script = Path(sys.argv[0])
    package = script.name == "__main__.py"
    program = f"-m benchmarks.{script.parent.name}" if package else f"benchmarks/{script.name}"
    return " ".join(["python", program, *words])


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=RESULTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def joined(facts_N: Sequence[Sequence[Sequence[str]]]) -> list[list[str]]:
    """Return the facts of several documents as those of one: different values side by side.

    Dates stand newest first: a page is called by its first one.
    """
    found: dict[str, list[str]] = {}
    for facts in facts_N:
        for what, value in facts:
            values = found.setdefault(what, [])
            if value not in values:
                values.append(value)
    return [
        [what, ", ".join(sorted(values, reverse=True) if what == "date" else values)]
        for what, values in found.items()
    ]
