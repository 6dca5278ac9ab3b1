"""``moalign soup``: mixing the policies of a front, without training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moalign.cli.common import Out, PluginFiles, RunArgument, new_console, pairs, read_run
from moalign.cli.front import show_front, study_of
from moalign.cli.pareto import drive, is_finished
from moalign.errors import RecordError
from moalign.reporting.commands import RUNS, sample_command

if TYPE_CHECKING:
    from rich.console import Console

    from moalign.components import Strategy
    from moalign.search.archive import Run
    from moalign.study.study import Study

app = typer.Typer(rich_markup_mode=None)

COUNT = 16
"""Soups in all, unless somebody says so: three policies give 13."""


@app.command()
def soup(
    run: RunArgument,
    *,
    count: Annotated[
        int, typer.Option(min=1, metavar="N", help="Soups in all; more than before adds some.")
    ] = COUNT,
    prefer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=WEIGHT,...",
            help="Answer these weights from at most three trained policies; N counts their soups.",
        ),
    ] = None,
    plugin: PluginFiles = None,
    out: Out = RUNS,
) -> None:
    """Mix the policies of a finished run's front, without training.

    A soup averages the weights of two or three policies. Those between neighbours on the front are
    measured, the widest gap first, and kept where nothing dominates them.
    """
    from moalign.reporting.points import read_points
    from moalign.reporting.report import require_points
    from moalign.reporting.soups import soups_of
    from moalign.study.study import complete_preference

    state, console = read_run(run, out), new_console()
    table = read_points(state)
    require_points(state, table)
    _require_finished(state)
    wanted = None
    if prefer is not None:
        wanted = complete_preference(pairs("--prefer", prefer), table.names)
    study = study_of(state, plugin)
    strategy = _soups(study, count, wanted)
    left = _left(study, state, strategy, count)
    trials = max(state.opened[-1].trials, len(state.trials) + left)
    if left:
        _require_policies(state)
    elif not soups_of(state):
        raise RecordError(_nothing_to_mix(state))
    if left or not is_finished(state, len(state.trials)):
        done = drive(study, state.folder.path, console, trials=trials, strategy=strategy)
        assert done is not None  # there is no limit of time
        state = done
    else:
        more = _left(study, state, _soups(study, None, wanted), 1)
        how = "a higher --count tries more" if more else "there is nothing left to mix"
        console.print(
            f"{state.folder.path} has {len(soups_of(state))} soups; nothing to measure ({how})"
        )
    _show(console, state, wanted)


def _soups(study: Study, count: int | None, preference: Mapping[str, float] | None) -> Strategy:
    from moalign.components import Strategy

    options: dict[str, Any] = {"count": count, "preference": preference}
    built = study.catalogue.build(Strategy, {"soups": options})
    built.corners_first = False  # type: ignore[misc]  # nothing is trained here
    return built


def _left(study: Study, run: Run, strategy: Strategy, most: int) -> int:
    """Return how many soups are to be measured, up to a number, as far as one can tell now."""
    from moalign.search import proposals

    known = proposals.history(study, len(run.trials), run, range(len(run.trials)))
    return len(strategy.propose(known, most, seed=0))


def _require_finished(run: Run) -> None:
    """Refuse a run whose training goes on; one that stopped among its soups will do.

    Raises:
        RecordError: it is not finished.
    """
    from moalign.reporting.soups import soups_of

    later = set(range(run.settled, len(run.trials)))
    if run.closed != "finished" and not (run.settled and later <= set(soups_of(run))):
        raise RecordError(
            f"run {run.folder.name} is not finished, and policies that are still to come would "
            "change what is worth mixing; go on with the command that began it"
        )


def _require_policies(run: Run) -> None:
    """Refuse a run of which policies are gone.

    Raises:
        RecordError: naming them.
    """
    places = [run.folder.policy(*where) for where in sorted(run.kept(range(len(run.trials))))]
    gone = [str(place) for place in places if not place.is_dir()]
    if gone:
        raise RecordError(
            f"run {run.folder.name} has lost policies of its front, so they cannot be mixed: "
            f"{', '.join(gone)}; put them back, or give the command that began the run once more: "
            "it trains them again"
        )


def _nothing_to_mix(run: Run) -> str:
    point, *others = run.front()
    way = "search it with more trials: moalign pareto STUDY --trials N"
    if others:
        way = "other weights in its prompt lead between its points: moalign sample --weights"
    return (
        f"the front of run {run.folder.name} is one policy, of trial {point.trial}, so there is "
        f"nothing to mix it with; {way}"
    )


def _show(console: Console, run: Run, wanted: Mapping[str, float] | None) -> None:
    from moalign.reporting.points import read_points
    from moalign.reporting.report import front_of
    from moalign.reporting.soups import answer, beside_mixtures

    table = read_points(run)
    if wanted is None:
        show_front(console, run, front_of(run))
        console.print(beside_mixtures(run, table), soft_wrap=True)
        return
    found = answer(run, table, wanted)
    if found is None:
        raise RecordError("no soup could be measured, so there is no answer")
    console.print()
    for sentence in found.sentences():
        console.print(sentence, soft_wrap=True)
    if found.best.front:
        console.print(f"try it   {sample_command(run, found.best)}", soft_wrap=True)
