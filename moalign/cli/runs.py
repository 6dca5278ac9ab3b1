"""``moalign studies``, ``moalign clean`` and ``moalign ui``: what there is, and what can go."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moalign.cli.common import Out, new_console, print_table, runs_in
from moalign.cli.front import study_of
from moalign.errors import MoalignError, RecordError
from moalign.reporting.commands import RUNS

if TYPE_CHECKING:
    from moalign.search.archive import Run
    from moalign.search.folders import RunFolder

app = typer.Typer(rich_markup_mode=None)


@app.command()
def studies() -> None:
    """List the bundled studies."""
    from moalign.study import bundled

    rows = [[name, bundled.title(name)] for name in bundled.names()]
    print_table(new_console(), ["study", "what it asks"], rows)


@app.command()
def ui(
    *,
    port: Annotated[
        int, typer.Option(min=1, max=65535, metavar="N", help="Port on 127.0.0.1.")
    ] = 5000,
    out: Out = RUNS,
) -> None:
    """Open MLflow's pages on 127.0.0.1."""
    elsewhere = os.environ.get("MLFLOW_TRACKING_URI")
    if elsewhere:
        raise RecordError(f"MLFLOW_TRACKING_URI is set, so the runs are tracked at {elsewhere}")
    store = (out / "mlflow.db").resolve()
    if not store.is_file():
        raise RecordError(f"{out / 'mlflow.db'} does not exist; moalign pareto makes it")
    page = f"http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning"
    new_console().print(f"{page} shows {store}; Ctrl-C stops it", soft_wrap=True)
    options = {
        "--backend-store-uri": f"sqlite:///{store}",
        "--default-artifact-root": str(store.with_name("mlflow")),
        "--host": "127.0.0.1",
        "--port": str(port),
        "--workers": "1",
    }
    command = [sys.executable, "-m", "mlflow", "server"]
    for option, value in options.items():
        command += [option, value]
    # Looking at runs needs none of the processes that work off MLflow's own jobs.
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    try:
        code = subprocess.run(command, check=False, env=quiet | os.environ).returncode
    except KeyboardInterrupt:
        return
    raise typer.Exit(code)


@app.command()
def clean(
    *,
    out: Out = RUNS,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
) -> None:
    """Delete what no front needs any more.

    Lists it and asks first; a point of a front is never among it.
    """
    console = new_console()
    found = sorted(set(removable(out)))
    if not found:
        console.print(f"nothing to delete in {out}/")
        return
    print_table(console, ["folder", "MB"], [[str(p), f"{_size(p) / 1e6:.1f}"] for p in found])
    count = f"{len(found)} folder{'s' * (len(found) > 1)}"
    try:
        if not yes and not typer.confirm(f"Delete {count}?"):
            console.print("nothing was deleted")
            return
    except typer.Abort:
        console.print("\nthere was no answer, so nothing was deleted; --yes deletes without asking")
        return
    for path in found:
        try:
            shutil.rmtree(path)
        except OSError as error:
            raise RecordError(
                f"{path} cannot be deleted ({error}); the same command goes on once there is "
                "permission"
            ) from error
    console.print(f"deleted {count}")


def removable(out: Path) -> Iterator[Path]:
    """Yield the folders that can be deleted below ``out``; runs that a driver holds are left alone.

    In every run what was left half-written; in a finished one the training states, and policies
    that are not on the front; base policies, and what was prepared before training, that no run
    uses.

    Raises:
        RecordError: a record is damaged, or a run cannot be locked.
    """
    import filelock

    from moalign.search.record import read

    used, idle = set(), True
    for folder in runs_in(out):
        run = read(folder)
        try:
            with filelock.FileLock(folder.lock, timeout=0):
                yield from _half_written(folder)
                if run.closed == "finished":
                    yield from _off_the_front(run)
        except filelock.Timeout:
            idle = False
        except OSError as error:
            raise RecordError(
                f"{folder.path} cannot be locked ({error}), and without its lock nothing is "
                "deleted; give write permission, or move the run out of the way"
            ) from error
        try:
            used.update(artifacts := _artifacts(run))
            idle = idle and all(
                path.is_dir() for path in artifacts
            )  # else named by another version
        except MoalignError:
            idle = False  # its plugins are gone, so nobody knows which artifacts it uses
    if idle and (out / ".artifacts").is_dir():
        yield from (path for path in (out / ".artifacts").iterdir() if path not in used)


def _half_written(folder: RunFolder) -> Iterator[Path]:
    """Yield hidden folders: a folder gets its name only when it is whole."""
    found = [path for path in folder.path.rglob(".*") if path.is_dir()]
    yield from (path for path in found if not any(p in found for p in path.parents))


def _off_the_front(run: Run) -> Iterator[Path]:
    front = {(point.trial, point.step) for point in run.front()}
    for trial in run.trials.values():
        for step in trial.measured:
            kept = [run.folder.policy(trial.number, step)] if (trial.number, step) in front else []
            both = (run.folder.policy(trial.number, step), run.folder.training(trial.number, step))
            yield from (path for path in both if path.is_dir() and path not in kept)


def _artifacts(run: Run) -> set[Path]:
    """Return the base policy of a run, and what was prepared for it before training."""
    from moalign.search.artifacts import base_folder, prepared_folder
    from moalign.study.loading import as_proposed

    study = study_of(run, None)
    proposals = [trial.proposal for trial in run.trials.values() if trial.measured]
    studies = [study, *(as_proposed(study, proposal) for proposal in proposals)]
    prepared = [prepared_folder(each, run.folder) for each in studies]
    known = {base_folder(study, run.folder), *(path for path in prepared if path is not None)}
    return known | set(run.folder.prepared_artifacts())


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
