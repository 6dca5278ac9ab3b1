"""How long the command line takes to answer, and what it imports.

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from table import markdown, write

COMMANDS = {"moalign --help": 0.4, "moalign plugins list": 1.0, "moalign studies": 1.0}
TIMES = 15


def seconds(arguments: list[str]) -> float:
    """Run the command line once in a fresh process."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "moalign", *arguments], check=True, capture_output=True)
    return time.monotonic() - began


def imports_torch(arguments: list[str]) -> bool:
    """Return True if a command imports torch."""
    code = (
        "import sys; from moalign.cli import main\n"
        f"sys.argv = ['moalign', *{arguments!r}]\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stderr.strip().endswith("True")


def main() -> None:
    """Measure every command in turn, so that noise falls on all of them."""
    taken: dict[str, list[float]] = {command: [] for command in COMMANDS}
    for _ in range(TIMES):
        for command in COMMANDS:
            taken[command].append(seconds(command.split()[1:]))
    rows = [
        [
            command,
            f"{statistics.median(values):.2f}",
            f"{min(values):.2f}",
            COMMANDS[command],
            imports_torch(command.split()[1:]),
        ]
        for command, values in taken.items()
    ]
    write(
        "startup",
        "Seconds until the command line answers",
        [markdown(["command", "median", "least", "goal", "imports torch"], rows)],
    )


if __name__ == "__main__":
    main()
