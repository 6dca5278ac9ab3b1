"""Writing a finished run's report: a table, a picture, a page, and a text that holds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from moalign.errors import RecordError
from moalign.reporting.commands import pick_command
from moalign.reporting.front import (
    Front,
    before_note,
    build_front,
    choice_rows,
    front_rows,
    hypervolume_sentences,
    threshold_note,
)
from moalign.reporting.page import front_html, has_samples
from moalign.reporting.plots import front_png, title
from moalign.reporting.points import PointTable, read_points, to_csv
from moalign.search import events
from moalign.search.archive import Run
from moalign.search.measurements import write_atomically
from moalign.study.study import report_preferences
from moalign.types import BASE, Cost

MOST_LOST: Final = 20
"""How many lost workers a report lists."""

MOST_TRIALS: Final = 3
"""How many trials a report names that said the same; more of them are counted."""


def front_of(run: Run) -> Front:
    """Compute the front of a run as its study wants it reported.

    Raises:
        RecordError: no trial has been measured yet, or a file is missing or damaged.
    """
    study = run.opened[-1].study
    table = read_points(run)
    require_points(run, table)
    return build_front(
        table,
        report_preferences(study["report"]["preferences"], table.names),
        resamples=study["report"]["resamples"],
        seed=study["seed"],
    )


def require_points(run: Run, table: PointTable) -> None:
    """Check that there is a front to look at.

    Raises:
        RecordError: no trial has been measured yet, with the last failure if there was one.
    """
    if table.front:
        return
    failures = [f"trial {t.number} failed: {t.reason}" for t in run.trials.values() if t.failure]
    why = failures[-1] if failures else "go on with the command that began it"
    raise RecordError(f"run {run.folder.name} has no measured trial, so it has no front; {why}")


def write_report(run: Run, facts: Mapping[str, Any]) -> dict[str, Path]:
    """Write ``points.csv``, ``front.png``, ``front.html`` and ``report.md`` into the run's folder.

    Args:
        run: what its record adds up to.
        facts: what the task found when it loaded its data.

    Returns:
        the files by role: ``points_csv``, ``front_png``, ``front_html``, ``report``, ``study``.

    Raises:
        RecordError: nothing has been measured yet, or a file is missing or damaged.
        OSError: full disk, read-only folder.
    """
    front = front_of(run)
    folder = run.folder.path
    picture = folder / "front.png"
    beside = picture.with_name(".front.png")
    try:
        beside.write_bytes(front_png(front.table))
        beside.replace(picture)
    finally:
        beside.unlink(missing_ok=True)
    texts = {
        "points_csv": ("points.csv", to_csv(front.table)),
        "front_html": ("front.html", front_html(front)),
        "report": ("report.md", report_text(run, front, facts)),
    }
    for name, text in texts.values():
        write_atomically(folder / name, text)
    written = {role: folder / name for role, (name, _) in texts.items()}
    return {**written, "front_png": picture, "study": run.folder.study}


def report_text(run: Run, front: Front, facts: Mapping[str, Any]) -> str:
    """Return the report as Markdown."""
    table = front.table
    parts = [
        f"# {title(table)}",
        " ".join(filter(None, (summary(run), before_note(table)))),
        "![The front](front.png)",
        f"[Interactive](front.html), with parameters{' and completions' * has_samples(table)}; "
        "[all points](points.csv).",
        "## The front",
        "Means and standard errors on validation, which decides what is on the front"
        + (f"; {note}." if (note := threshold_note(table)) else "."),
        markdown(*front_rows(table)),
    ]
    if front.split == "test":
        parts += ["The same points on test:", markdown(*front_rows(table, "test"))]
    parts += [
        f"## Utility at each preference, on {front.split}",
        "The point that validation would choose, against the base policy, in normalised units; "
        "paired over the units.",
        markdown(*choice_rows(front)),
        hypervolume_sentences(front),
        "## What the numbers say",
        trust(run, front),
    ]
    if failures := [t for t in run.trials.values() if t.outcome == "failed"]:
        parts.append("## Failed trials")
        parts.append(
            "If it was not their settings (a judge that was down), mend it, and the same command "
            "with `--retry-failed` tries them again."
        )
        parts.append("\n".join(f"- trial {t.number}, step {t.step}: {t.reason}" for t in failures))
    if run.notes:
        parts += ["## Said in training", said_in_training(run)]
    if run.lost_workers:
        parts += ["## Lost workers", lost_workers(run.lost_workers)]
    if facts:
        parts += ["## Data", "\n".join(f"- {name}: {value}" for name, value in facts.items())]
    parts += ["## Pick a point", "    " + pick_command(run, front.table.names)]
    return "\n\n".join(parts) + "\n"


def summary(run: Run) -> str:
    """Return in a sentence or two what ran and what it took."""
    outcomes = Counter(str(trial.outcome or "unfinished") for trial in run.trials.values())
    told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
    spent = Cost()
    seconds = run.base.seconds if run.base else 0.0
    for trial in run.trials.values():
        if trial.measured:
            spent.add(trial.measured[trial.step].cost)
        seconds += sum(measured.seconds for measured in trial.measured.values())
    study = run.opened[-1].study["study"]
    return (
        f"Study `{study}`: {len(run.trials)} trials ({told}). They generated "
        f"{spent.generated:,} tokens, passed {spent.forwarded:,} forward and {spent.backwarded:,} "
        f"backward, and kept workers busy for {timedelta(seconds=round(seconds))}."
    )


def said_in_training(run: Run) -> str:
    """Return what trials had to say to people, the most frequent first."""
    lines = []
    for note, trials in sorted(run.notes.items(), key=lambda said: -len(said[1])):
        few = [f"trial {number}" for number in sorted(trials)[:MOST_TRIALS]]
        who = ", ".join(few) if len(few) == len(trials) else f"{len(trials)} trials"
        lines.append(f"- {who}: {note}")
    return "\n".join(lines)


def lost_workers(lost: Sequence[events.Lost]) -> str:
    """Return which segments lost their worker, and why; of many the latest."""
    lines = [
        "These segments lost their worker. Each was tried again from the last checkpoint, unless "
        "its trial is among those that failed."
    ]
    if len(lost) > MOST_LOST:
        lines[0] += f" There were {len(lost)}; these are the latest."
    told = [
        f"- {'the base policy' if one.trial == BASE else f'trial {one.trial}, step {one.step}'}, "
        f"attempt {one.attempt + 1}: {one.reason}"
        for one in lost[-MOST_LOST:]
    ]
    return "\n\n".join([*lines, "\n".join(told)])


def trust(run: Run, front: Front) -> str:
    """Return what the intervals mean, and how often test has been opened."""
    opened = len(run.test_openings)
    if front.split == "validation":
        tested = (
            "Test has not been measured yet, so utility and hypervolume come from the same "
            "validation units that chose the points, and are too high."
        )
    else:
        times = "once" if opened == 1 else f"{opened} times"
        tested = f"Membership and picks are decided on validation; test was opened {times}."
    return (
        f"{tested} An interval speaks of these checkpoints on units like these; a claim about a "
        "setting needs several training seeds. A mixture that picks one of the policies at random "
        "per prompt reaches every point between them (moalign front with --mixture)."
    )


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in r) + " |" for r in lines)
