"""``moalign front`` and ``moalign compare``: looking at fronts and picking from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from moalign.cli.common import (
    Out,
    PluginFiles,
    RunArgument,
    new_console,
    pairs,
    print_table,
    quiet_libraries,
    read_run,
)
from moalign.errors import RecordError, StudyError, nearest
from moalign.reporting.commands import RUNS, pick_command, sample_command

if TYPE_CHECKING:
    from rich.console import Console

    from moalign.reporting.front import Front
    from moalign.reporting.mixture import Mixture
    from moalign.reporting.pick import Pick, Rule
    from moalign.reporting.points import PointTable, Value
    from moalign.search.archive import Run
    from moalign.study.study import Study

app = typer.Typer(rich_markup_mode=None)

Prefer = Annotated[
    str | None,
    typer.Option(metavar="NAME=WEIGHT,...", help="Pick the highest utility for these weights."),
]
AtLeast = Annotated[
    str | None,
    typer.Option(metavar="NAME=VALUE,...", help="Pick among the points that reach these values."),
]
PointName = Annotated[
    str | None, typer.Option("--point", metavar="ID", help="Take this point, such as t03.")
]

COMPLETIONS = 3
"""Sample completions that are shown of a picked point."""


@app.command()
def front(
    run: RunArgument,
    *,
    prefer: Prefer = None,
    at_least: AtLeast = None,
    knee: Annotated[bool, typer.Option("--knee", help="Pick the knee of the front.")] = False,
    worst_group: Annotated[
        bool, typer.Option("--worst-group", help="Pick the point whose worst objective is best.")
    ] = False,
    negotiated: Annotated[
        bool,
        typer.Option(
            "--negotiated", help="Pick the largest product of gains over the base policy."
        ),
    ] = False,
    point: PointName = None,
    mixture: Annotated[
        bool,
        typer.Option(
            "--mixture",
            help="Show or pick mixtures: for every prompt a policy drawn at random.",
        ),
    ] = False,
    export: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write what was picked to a new folder.")
    ] = None,
    plugin: PluginFiles = None,
    out: Out = RUNS,
) -> None:
    """Show a run's front, and pick a point or a mixture of points."""
    state, console = read_run(run, out), new_console()
    rule = _rule({"knee": knee, "worst-group": worst_group, "negotiated": negotiated})
    if prefer is None and at_least is None and rule is None and point is None:
        if export is not None:
            raise StudyError(
                "--export needs a point: add --prefer, --at-least, --knee, --worst-group, "
                "--negotiated or --point"
            )
        from moalign.reporting.report import front_of

        show = show_mixtures if mixture else show_front
        show(console, state, front_of(state))
        return
    from moalign.reporting.points import read_points

    table = read_points(state)
    picked: Pick | Mixture
    if mixture:
        if point is not None:
            raise StudyError("--point names one point, which is no mixture; leave one of them out")
        picked = _pick_mixture(state, table, prefer=prefer, at_least=at_least, rule=rule)
        show_mixture(console, table, picked)
    else:
        picked = pick_point(state, table, prefer=prefer, at_least=at_least, rule=rule, point=point)
        if picked.point is None:
            raise RecordError(picked.reasons[0])
        show_pick(console, state, table, picked)
    if export is not None:
        _export(console, study_of(state, plugin), state, table, picked, folder=export)


def _rule(given: Mapping[str, bool]) -> Rule | None:
    """Return the rule that was asked for.

    Raises:
        StudyError: several were.
    """
    names = [name for name, asked in given.items() if asked]
    if len(names) > 1:
        told = " and ".join(f"--{name}" for name in names)
        raise StudyError(f"{told} are ways to pick; give only one of them")
    return cast("Rule", names[0]) if names else None


def _export(
    console: Console,
    study: Study,
    run: Run,
    table: PointTable,
    picked: Pick | Mixture,
    *,
    folder: Path,
) -> None:
    from moalign.reporting.export import CARD, export_mixture, export_point
    from moalign.reporting.mixture import Mixture

    quiet_libraries()
    try:
        if isinstance(picked, Mixture):
            export_mixture(study, run, table, picked, folder)
        else:
            assert picked.point is not None
            export_point(study, run, table, picked.point, folder)
    except OSError as error:
        raise RecordError(f"{folder} cannot be written ({error}); name another folder") from error
    console.print(f"\nexported to {folder}; {folder / CARD} says how to load it")


@app.command()
def compare(first: RunArgument, second: RunArgument, *, out: Out = RUNS) -> None:
    """Compare the fronts of two runs.

    The difference of their utilities at each preference, the second minus the first, paired over
    the units that both were measured on.
    """
    from moalign.reporting.compare import compare as compare_runs
    from moalign.reporting.compare import comparison_rows

    found, console = compare_runs(read_run(first, out), read_run(second, out)), new_console()
    console.print(f"Utility on {found.split}, in normalised units: {second} minus {first}, paired.")
    print_table(console, *comparison_rows(found))
    console.print(
        "The points are those that validation would choose. An interval speaks of these two runs; "
        "a claim about a setting needs several training seeds.",
        soft_wrap=True,
    )


def pick_point(
    run: Run,
    table: PointTable,
    *,
    prefer: str | None = None,
    at_least: str | None = None,
    rule: Rule | None = None,
    point: str | None = None,
) -> Pick:
    """Pick as the options say.

    Raises:
        StudyError: options that contradict each other, or unknown names.
    """
    from moalign.reporting.pick import Pick, pick
    from moalign.reporting.report import require_points

    require_points(run, table)
    if point is not None:
        if prefer is not None or at_least is not None or rule is not None:
            raise StudyError("--point names the point already; leave the other options out")
        every = {p.id: p for p in (table.base, *table.points)}
        if point not in every:
            raise StudyError(f"no point is called {point!r}; {nearest(point, every)}")
        return Pick(every[point], ())
    return pick(
        table,
        prefer=None if prefer is None else pairs("--prefer", prefer),
        at_least=None if at_least is None else pairs("--at-least", at_least),
        rule=rule or "preference",
    )


def _pick_mixture(
    run: Run, table: PointTable, *, prefer: str | None, at_least: str | None, rule: Rule | None
) -> Mixture:
    """Pick a mixture as the options say.

    Raises:
        StudyError: options that contradict each other, or unknown names.
        RecordError: no mixture is what they ask for.
    """
    from moalign.reporting.mixture import pick_mixture
    from moalign.reporting.report import require_points

    require_points(run, table)
    found = pick_mixture(
        table,
        prefer=None if prefer is None else pairs("--prefer", prefer),
        at_least=None if at_least is None else pairs("--at-least", at_least),
        rule=rule or "preference",
    )
    if not found.parts:
        raise RecordError(found.reasons[0])
    return found


def study_of(run: Run, plugin_files: list[Path] | None) -> Study:
    """Return the study of a run, checked with the plugins it ran with, or with those given.

    Raises:
        RecordError: none are given, and a file that it ran with is gone.
    """
    from moalign import plugins
    from moalign.study.document import Document
    from moalign.study.loading import checked

    opened = run.opened[0]
    own = [Path(path) for path in opened.plugins]
    gone = [str(path) for path in own if not path.is_file()]
    if gone and not plugin_files:
        every = "it" if len(own) == 1 else "every plugin file of the run"
        raise RecordError(
            f"the run's plugin file {', '.join(gone)} is gone; give {every} with --plugin"
        )
    document = Document(str(run.folder.study), dict(opened.study))
    return checked(document, plugins.load(plugin_files or own))


def show_front(console: Console, run: Run, found: Front) -> None:
    """Print the front, the utilities, the hypervolume, and where to go from here."""
    from moalign.reporting.front import (
        before_note,
        choice_rows,
        front_rows,
        hypervolume_sentences,
        threshold_note,
    )
    from moalign.reporting.plots import title
    from moalign.reporting.report import trust

    table = found.table
    console.print(f"\n{title(table)} (± standard error; base policy last)", soft_wrap=True)
    print_table(console, *front_rows(table))
    if note := threshold_note(table):
        console.print(f"{note}\n", soft_wrap=True)
    console.print(f"Utility at each preference, on {found.split}, against the base policy")
    print_table(console, *choice_rows(found))
    console.print(hypervolume_sentences(found), soft_wrap=True)
    said = filter(None, (trust(run, found), before_note(table)))
    console.print(" ".join(said) + "\n", soft_wrap=True)
    names = ("report.md", "front.html", "front.png", "points.csv", "front")
    written = [name for name in names if (run.folder.path / name).exists()]
    if written:
        console.print(f"files    {run.folder.path}/: {', '.join(written)}", soft_wrap=True)
    console.print(f"pick     {pick_command(run, table.names)}", soft_wrap=True)


def show_mixtures(console: Console, run: Run, found: Front) -> None:
    """Print what mixtures of a front's points reach, and where to go from here."""
    from moalign.reporting.commands import mixture_command
    from moalign.reporting.mixture import reach, reach_rows, reach_sentences

    reached = reach(found)
    console.print(
        "A mixture answers every prompt with a policy drawn at random. It takes no training, and "
        "reaches every mean between the points (on validation, ± standard error):",
        soft_wrap=True,
    )
    print_table(console, *reach_rows(reached))
    for sentence in reach_sentences(reached):
        console.print(sentence, soft_wrap=True)
    console.print(f"pick     {mixture_command(run)}", soft_wrap=True)


def show_mixture(console: Console, table: PointTable, mixture: Mixture) -> None:
    """Print one mixture: its shares, why, its values."""
    from moalign.reporting.mixture import say_parts

    console.print(f"mixture: {say_parts(mixture.parts)}")
    for reason in mixture.reasons:
        console.print(reason, soft_wrap=True)
    rows = _value_rows(table, mixture.values(), mixture.values("test"))
    print_table(console, *rows)
    console.print(
        "Expected values and their standard errors over the units. --export DIR writes the "
        "policies, and how to draw one for every prompt.",
        soft_wrap=True,
    )


def show_pick(console: Console, run: Run, table: PointTable, picked: Pick) -> None:
    """Print one point: why, its values, what made it, what it writes."""
    point = picked.point
    assert point is not None
    step = "base policy" if point is table.base else f"trial {point.trial}, step {point.step}"
    console.print(f"{point.id} ({step})")
    for reason in picked.reasons:
        console.print(reason, soft_wrap=True)
    print_table(console, *_value_rows(table, point.values(), point.values("test")))
    from moalign.reporting.front import number
    from moalign.reporting.pick import say

    if point.weights:
        console.print(f"weights  {say(point.weights)}")
    for path, value in point.settings().items():
        console.print(f"{path}  {number(value)}")
    for sample in point.validation.evaluation.samples[:COMPLETIONS]:
        console.print(f"\n> {sample['prompt']}\n{sample['text']}", soft_wrap=True)
    exported = run.folder.path / "front" / point.id
    if exported.is_dir():
        console.print(f"\npolicy   {exported}", soft_wrap=True)
    if point.front:
        console.print(f"try it   {sample_command(run, point)}", soft_wrap=True)


def _value_rows(
    table: PointTable, validation: Mapping[str, Value], test: Mapping[str, Value]
) -> tuple[list[str], list[list[str]]]:
    from moalign.reporting.points import with_error

    def cell(values: Mapping[str, Value], name: str) -> str:
        value = values.get(name)
        return "" if value is None else with_error(value.mean, value.stderr)

    columns = (validation, test, table.base.values())
    header = ["objective", "validation", "test", "base policy, validation"]
    return header, [[name, *(cell(values, name) for values in columns)] for name in validation]
