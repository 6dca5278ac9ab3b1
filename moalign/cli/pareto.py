"""``moalign pareto`` and ``moalign train``: running a study."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moalign.cli.common import (
    Out,
    PluginFiles,
    RunName,
    Sets,
    new_console,
    quiet_libraries,
    run_folder,
)
from moalign.cli.front import show_front
from moalign.errors import RecordError
from moalign.reporting.commands import RUNS
from moalign.study.bundled import DEFAULT

if TYPE_CHECKING:
    from rich.console import Console

    from moalign.components import Strategy
    from moalign.search.archive import Run
    from moalign.study.study import Study

app = typer.Typer(rich_markup_mode=None)

StudyArgument = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study file or folder, or a bundled study's name.")
]
MaxHours = Annotated[
    float | None,
    typer.Option(
        min=0, metavar="HOURS", help="Train nothing new after this time; the same command goes on."
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop if a tracker or plugin hook fails.")]

RetryFailed = Annotated[
    bool,
    typer.Option(
        "--retry-failed", help="Try trials that failed again, from their last checkpoint."
    ),
]

ExecutorName = Annotated[
    str | None,
    typer.Option(
        "--executor",
        metavar="NAME",
        help="Run segments with this executor; --set executor.OPTION=VALUE sets its options.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Join this cluster, with --executor ray."),
]

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

FAILED = 1
"""Exit code of a study without a single point."""

SINGLE = ("search.space={}", "search.rungs=[]", "search.trials=1", "search.strategy=random")
"""What makes one run of a study: nothing is searched."""


@app.command()
def pareto(
    study: StudyArgument = DEFAULT,
    *,
    set_: Sets = None,
    plugin: PluginFiles = None,
    run: RunName = None,
    out: Out = RUNS,
    trials: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Trials in all; more than before adds some."),
    ] = None,
    max_hours: MaxHours = None,
    executor: ExecutorName = None,
    address: Address = None,
    retry_failed: RetryFailed = False,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would run, and stop.")] = False,
    strict: Strict = False,
) -> None:
    """Search a study's Pareto front.

    The same command goes on with an interrupted run, and shows the front of a finished one.
    """
    loaded = load_study(study, plugin, [*where_segments_run(executor, address), *(set_ or ())])
    folder = run_folder(out, loaded.name if run is None else run)
    if plan:
        _print_plan(loaded, folder, trials)
        return
    _run(
        loaded,
        folder,
        trials=trials,
        max_hours=max_hours,
        retry_failed=retry_failed,
        strict=strict,
        search=True,
    )


@app.command()
def train(
    study: StudyArgument,
    *,
    set_: Sets = None,
    plugin: PluginFiles = None,
    run: RunName = None,
    out: Out = RUNS,
    max_hours: MaxHours = None,
    executor: ExecutorName = None,
    address: Address = None,
    retry_failed: RetryFailed = False,
    strict: Strict = False,
) -> None:
    """Train one policy, without a search.

    The study's own settings make a run of one trial; --set changes them.
    """
    single = [*SINGLE, *where_segments_run(executor, address)]
    loaded = load_study(study, plugin, [*single, *(set_ or ())])
    folder = run_folder(out, f"{loaded.name}-train" if run is None else run)
    _run(loaded, folder, trials=None, max_hours=max_hours, retry_failed=retry_failed, strict=strict)


def where_segments_run(executor: str | None, address: str | None) -> list[str]:
    """Return the overrides that say where segments run."""
    named = [] if executor is None else [f"executor={executor}"]
    return [*named, *([] if address is None else [f"executor.address={json.dumps(address)}"])]


def load_study(name: str, plugin_files: list[Path] | None, overrides: Sequence[str]) -> Study:
    """Read and check a study by path or bundled name."""
    from moalign import plugins
    from moalign.study import bundled
    from moalign.study.loading import load

    text, source = bundled.read(name)
    return load(text, source, plugins.load(plugin_files or ()), overrides)


def _run(
    study: Study,
    folder: Path,
    *,
    trials: int | None,
    max_hours: float | None,
    retry_failed: bool,
    strict: bool,
    search: bool = False,
) -> None:
    from moalign.reporting.report import front_of

    console = new_console()
    total = trials or study.section.search.trials
    earlier = earlier_run(study, folder)
    failed = [] if earlier is None else [t for t in earlier.trials.values() if t.failure]
    if retry_failed and not failed:
        console.print(f"{folder}: no trial has failed, so there is none to try again")
    if earlier is not None and is_finished(earlier, total) and not (retry_failed and failed):
        made, soups = len(earlier.trials), sum(t.proposal.soup for t in earlier.trials.values())
        more = f"above {made} adds trials: {soups} of these are soups" if soups else "N adds trials"
        console.print(f"{folder} is finished; nothing to train (--trials {more})")
        show_front(console, earlier, front_of(earlier))
        return
    if search and total > 1 and not study.space:
        from moalign.search.plan import nothing_searched

        console.print(nothing_searched(total), soft_wrap=True)
    done = drive(
        study,
        folder,
        console,
        trials=total,
        max_hours=max_hours,
        retry_failed=retry_failed,
        strict=strict,
    )
    if done is not None:
        show_front(console, done, front_of(done))


def drive(
    study: Study,
    folder: Path,
    console: Console,
    *,
    trials: int,
    strategy: Strategy | None = None,
    max_hours: float | None = None,
    retry_failed: bool = False,
    strict: bool = False,
) -> Run | None:
    """Run a study, or go on with it, before people's eyes; write its report at the end.

    Args:
        study: checked.
        folder: of the run.
        console: where to print.
        trials: how many in all.
        strategy: proposes the trials to come; default: the study's.
        max_hours: after this time nothing is started.
        retry_failed: trials that failed are tried again.
        strict: a tracker or hook that fails ends it.

    Returns:
        the finished run, or None if the time was up before.

    Raises:
        typer.Exit: Ctrl-C, or no trial could be measured; people have been told.
    """
    quiet_libraries()
    from moalign.cli.progress import ProgressView
    from moalign.search.driver import run_study

    view, began = ProgressView(console, trials), time.monotonic()

    def report(state: Run) -> Mapping[str, Path]:
        view.stop()  # its last words are that the front is being measured
        return write_all(study, state, console)

    def leaving(steps: Mapping[int, int]) -> None:
        view.stop()
        typer.echo(what_stops(study, steps, view.building), err=True)

    try:
        view.start()
        with _short_warnings(console):
            result = run_study(
                study,
                folder,
                trials=trials,
                strategy=strategy,
                max_hours=max_hours,
                retry_failed=retry_failed,
                listeners=[view],
                strict=strict,
                progress=view.base,
                report=report,
                leaving=leaving,
            )
    except KeyboardInterrupt:  # before the driver began, or again while it was closing
        view.stop()
        _say_how_to_go_on(console, "Stopped.")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        view.stop()
    if result.outcome == "finished":
        return result.run
    if result.outcome == "failed":
        _say_failures(console, result.run)
        raise typer.Exit(FAILED)
    if max_hours is not None and time.monotonic() - began >= 3600 * max_hours:
        _say_how_to_go_on(console, "The time is up.")
        return None
    _say_how_to_go_on(console, "Stopped.")
    raise typer.Exit(INTERRUPTED)


def what_stops(study: Study, steps: Mapping[int, int], building: str = "") -> str:
    """Return what to tell at Ctrl-C: what is waited for, and from where the same command goes on.

    Args:
        study: names the executor and the trackers.
        steps: from which trials in training go on, by trial.
        building: what is being built before any training, if anything is.
    """
    from moalign.execution import WorkersExecutor

    workers = isinstance(study.new_executor(), WorkersExecutor)
    waits = ["the workers to end"] if workers else []
    again = "does not wait"
    if study.data["trackers"]:
        names = " and ".join(name for reference in study.data["trackers"] for name in reference)
        waits.append(f"{names} to write what is left")
        again += ", and may leave that half written"
    waiting = f": waiting for {' and '.join(waits)}; Ctrl-C again {again}" if waits else ""
    begins = [f"trial {trial} from step {step}" for trial, step in steps.items()]
    begins += [f"{building} from the beginning"] if building else []
    on = f", with {', '.join(begins)}" if begins else ""
    return f"Stopping{waiting}. The same command goes on{on}."


def earlier_run(study: Study, folder: Path) -> Run | None:
    """Return what an earlier command recorded, or None: without torch, and without a lock.

    Raises:
        RecordError: the run is another study's, or its record is damaged.
    """
    from moalign.search import provenance, record
    from moalign.search.folders import RunFolder

    found = RunFolder(folder)
    if not found.events.is_file() or not found.events.stat().st_size:
        return None
    state = record.read(found)
    provenance.check_same(state, study)
    return state


def is_finished(run: Run, trials: int) -> bool:
    """Return True if the last command left nothing to do, the report included."""
    enough = run.closed == "finished" and run.opened[-1].trials >= trials
    return enough and (run.folder.path / "report.md").is_file() and not run.lost()


def write_all(study: Study, run: Run, console: Console) -> Mapping[str, Path]:
    """Write the report and the policies of the front; return them by role.

    Raises:
        RecordError: full disk, read-only folder, or a damaged file.
    """
    from moalign.reporting.export import export_front
    from moalign.reporting.points import read_points
    from moalign.reporting.report import write_report

    console.print("writing the report and the policies of the front")
    try:
        policies = export_front(study, run, read_points(run))
        return {**write_report(run, study.task.facts()), "policies": policies}
    except OSError as error:
        raise RecordError(
            f"{run.folder.path}: the report cannot be written ({error}); all that was trained "
            "stands, and the same command writes it once there is room and permission"
        ) from error


def _print_plan(study: Study, folder: Path, trials: int | None) -> None:
    from moalign.search import artifacts
    from moalign.search.folders import RunFolder
    from moalign.search.plan import make_plan
    from moalign.training.material import offered_preferences

    artifacts.check_data(study)
    total, workers = trials or study.section.search.trials, study.new_executor().workers
    earlier, offered = earlier_run(study, folder), offered_preferences(study)
    plan = make_plan(
        study, RunFolder(folder), earlier, trials=total, workers=workers, offered=offered
    )
    console = new_console()
    console.print(f"run     {folder}")
    for line in plan.lines():
        console.print(line, soft_wrap=True)
    for said in study.task.left_out("prompts" if offered is None else "pairs"):
        console.print(f"data    {said}", soft_wrap=True)


def _say_how_to_go_on(console: Console, what: str) -> None:
    console.print(f"\n{what} Nothing that finished is lost; the same command goes on.")


def _say_failures(console: Console, run: Run) -> None:
    console.print("\nNo trial could be measured, so there is no front.")
    for trial in run.trials.values():
        console.print(f"trial {trial.number}: {trial.reason}", soft_wrap=True)
    console.print(
        "Once that is mended, the same command with --retry-failed tries them again, and more "
        "--trials add others.",
        soft_wrap=True,
    )


@contextmanager
def _short_warnings(console: Console) -> Iterator[None]:
    """Print warnings as a line, without the place in the code."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        console.print(f"warning: {message}", soft_wrap=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
