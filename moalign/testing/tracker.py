"""The contract of a tracker: it takes a study's events in any condition that they may be in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pluggy

from moalign import hookspecs
from moalign.components import Tracker
from moalign.errors import PluginError
from moalign.plugins import check_hooks
from moalign.testing.contract import Check, Factory, require
from moalign.types import (
    Cost,
    Evaluation,
    Objective,
    Observation,
    Proposal,
    Start,
    StepEvent,
)

OBJECTIVES = (Objective("a", (0.0, 1.0)), Objective("b", (0.0, 1.0), at_least=0.2))
STUDY = {"study": "contract", "seed": 0, "task": "arithmetic", "search": {"trials": 2}}


def check_takes_a_study(factory: Factory) -> None:
    """It implements announce hooks, at least one, and takes all events of a study."""
    tracker: Tracker = factory()
    try:
        hooks = check_hooks(tracker, f"tracker {tracker.name}")
    except PluginError as error:
        raise AssertionError(str(error)) from error
    require(
        hooks and set(hooks) <= set(hookspecs.ANNOUNCE),
        f"a tracker implements announce hooks, and at least one: {', '.join(hookspecs.ANNOUNCE)}; "
        f"found {', '.join(hooks) or 'none'}",
    )
    with _run(factory) as run:
        _start(run)
        _train(run)
        _end(run)


def check_takes_events_again(factory: Factory) -> None:
    """It takes a study's events a second time, as after a crash between writing and recording."""
    with TemporaryDirectory() as scratch:
        for resumed in (False, True):
            with _run(factory, scratch) as run:
                _start(run, resumed=resumed)
                _train(run)
                _train(run)
                _end(run)


def check_takes_bad_trials(factory: Factory) -> None:
    """It takes trials that fail: NaN and infinite metrics, missing values, no samples."""
    with _run(factory) as run:
        _start(run, value=math.nan)
        _train(run, value=math.nan)
        run.announce("moalign_trial_started", trial=1, proposal=Proposal({}), time=9.0)
        bad = StepEvent(1, 1, 10.0, {"loss": math.inf, "objective/a": -math.inf})
        run.announce("moalign_step_ended", event=bad)
        run.announce("moalign_trial_ended", trial=1, outcome="failed", reason="loss", time=11.0)
        run.announce("moalign_study_ended", run=run.folder, outcome="interrupted", files={})


def check_closes_twice(factory: Factory) -> None:
    """Closing twice does nothing more than closing once, also where nothing was announced."""
    with _run(factory) as run:
        _start(run)
        run.tracker.flush()
        run.tracker.close()
        run.tracker.close()
    unused = factory()
    unused.close()
    unused.close()


PROPERTIES: tuple[Check, ...] = (
    check_takes_a_study,
    check_takes_events_again,
    check_takes_bad_trials,
    check_closes_twice,
)


@dataclass
class _Run:
    """A tracker that listens, and the folder of the run."""

    tracker: Tracker
    folder: Path
    manager: pluggy.PluginManager = field(init=False)

    def __post_init__(self) -> None:
        self.manager = pluggy.PluginManager(hookspecs.GROUP)
        self.manager.add_hookspecs(hookspecs)
        self.manager.register(self.tracker)

    def announce(self, hook: str, **arguments: Any) -> None:
        """Call a hook."""
        try:
            getattr(self.manager.hook, hook)(**arguments)
        except Exception as error:
            raise AssertionError(f"{hook} raised {type(error).__name__}: {error}") from error


@contextmanager
def _run(factory: Factory, folder: str | None = None) -> Iterator[_Run]:
    """Open a run below a folder that exists, or below one that goes away with it."""
    with TemporaryDirectory() as scratch:
        run = _Run(factory(), Path(folder or scratch) / "runs" / "contract")
        run.folder.mkdir(parents=True, exist_ok=True)
        yield run
        run.tracker.flush()
        run.tracker.close()


def _start(run: _Run, *, value: float = 0.5, resumed: bool = False) -> None:
    run.announce(
        "moalign_study_started",
        run=run.folder,
        study=STUDY,
        objectives=OBJECTIVES,
        resumed=resumed,
        time=1.0,
        versions={"python": "3.11", "moalign": "0.1.0"},
        plugins={},
        revision=None,
    )
    run.announce(
        "moalign_base_measured", evaluation=_evaluation(value), values=_values(value), time=2.0
    )


def _train(run: _Run, *, value: float = 0.5) -> None:
    """Announce a trial that is measured at a rung and at its full length."""
    params = {"weighting.preference": {"a": 0.5, "b": 0.5}, "training.prompts": 8}
    run.announce("moalign_trial_started", trial=0, proposal=Proposal(params), time=3.0)
    for step in (1, 2):
        metrics = {"objective/a": value, "weight/a": 0.5, "loss": value}
        run.announce("moalign_step_ended", event=StepEvent(0, step, 3.0 + step, metrics))
        observation = Observation(
            0, step, step == 2, Start(), None, params, (value, 0.5), (0.1, 0.1), Cost(9)
        )
        run.announce(
            "moalign_segment_ended",
            trial=0,
            observations=(observation,),
            evaluations=(_evaluation(value),),
            values=(_values(value),),
            time=5.0 + step,
        )
        run.announce(
            "moalign_front_updated",
            points=(observation,),
            hypervolume=value,
            trials=step - 1,
            time=5.0 + step,
        )
    run.announce("moalign_trial_ended", trial=0, outcome="finished", reason="", time=8.0)


def _end(run: _Run) -> None:
    policies = run.folder / "policies"
    (policies / "t00").mkdir(parents=True, exist_ok=True)
    (policies / "t00" / "config.json").write_text("{}\n")
    contents = {
        "front_png": ("front.png", PIXEL),
        "front_html": ("front.html", b"<!doctype html><title>front</title>\n"),
        "points_csv": ("points.csv", b"point,trial,step,front,validation.a\nt00,0,2,1,0.5\n"),
        "study": ("study.yaml", b"study: contract\n"),
    }
    files = {"policies": policies}
    for role, (name, content) in contents.items():
        files[role] = run.folder / name
        files[role].write_bytes(content)
    run.announce("moalign_study_ended", run=run.folder, outcome="finished", files=files)


def _evaluation(value: float) -> Evaluation:
    values_UK = [[value, 0.5], [0.4, math.nan]]
    samples = ({"prompt": "1+1", "text": "2", "scores": {"a": value, "b": None}},)
    return Evaluation(("a", "b"), ("u0", "u1"), values_UK, Cost(10, 10, 0), samples)


def _values(value: float) -> dict[str, tuple[float, float]]:
    return {"a": (value, 0.1), "b": (0.5, 0.1)}


PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154"
    "08d763f8ffff3f0005fe02fea72d4b5a0000000049454e44ae426082"
)
"""A PNG of one white pixel."""
