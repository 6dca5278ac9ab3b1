"""Hooks: one test per hook, that a plugin that implements it is called with what was announced."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from moalign import Component, hookimpl, hookspecs, plugins
from moalign.components import KINDS
from moalign.types import Cost, Evaluation, Objective, Observation, Proposal, Start, StepEvent

SPECS = {
    name: member
    for name, member in vars(hookspecs).items()
    if inspect.isfunction(member) and hasattr(member, f"{hookspecs.GROUP}_spec")
}

EVALUATION = Evaluation(("a",), ("u",), [[0.5]], Cost())
OBSERVATION = Observation(0, 1, True, Start(), None, {}, (0.5,), (0.1,), Cost())
ANNOUNCED: dict[str, dict[str, Any]] = {
    "moalign_study_started": {
        "run": Path("runs/a"),
        "study": {"study": "a"},
        "objectives": (Objective("a", (0.0, 1.0)),),
        "resumed": False,
        "time": 1.0,
        "versions": {"moalign": "0.1.0"},
        "plugins": {},
        "revision": None,
    },
    "moalign_base_measured": {"evaluation": EVALUATION, "values": {"a": (0.5, 0.1)}, "time": 1.0},
    "moalign_trial_started": {"trial": 0, "proposal": Proposal({}), "time": 1.0},
    "moalign_step_ended": {"event": StepEvent(0, 1, 1.0, {"loss": 0.5})},
    "moalign_segment_ended": {
        "trial": 0,
        "observations": (OBSERVATION,),
        "evaluations": (EVALUATION,),
        "values": ({"a": (0.5, 0.1)},),
        "time": 1.0,
    },
    "moalign_trial_ended": {"trial": 0, "outcome": "finished", "reason": "", "time": 1.0},
    "moalign_front_updated": {
        "points": (OBSERVATION,),
        "hypervolume": 0.5,
        "trials": 1,
        "time": 1.0,
    },
    "moalign_study_ended": {"run": Path("runs/a"), "outcome": "finished", "files": {}},
}


@pytest.fixture(autouse=True)
def without_installed_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOALIGN_PLUGINS", "")


def test_every_hook_discovers_or_announces() -> None:
    assert sorted(SPECS) == sorted((*hookspecs.DISCOVER, *hookspecs.ANNOUNCE))
    assert set(ANNOUNCED) == set(hookspecs.ANNOUNCE)


def test_every_kind_has_its_discover_hook() -> None:
    assert list(hookspecs.DISCOVER.values()) == [base.kind for base in KINDS]


@pytest.mark.parametrize("hook", SPECS)
def test_every_hook_is_documented(hook: str) -> None:
    text = inspect.getdoc(SPECS[hook]) or ""
    summary, *_ = text.split("\n\n")
    assert re.fullmatch(r"[A-Z][^\n]*\.", summary), "the first line is a sentence"
    assert "Called " in text, "it says when it is called"
    for argument in inspect.signature(SPECS[hook]).parameters:
        assert f"{argument}: " in text, f"it says what {argument} is"


@pytest.mark.parametrize("hook", hookspecs.DISCOVER)
def test_a_discover_hook_fills_the_catalogue(hook: str, tmp_path: Path) -> None:
    kind = hookspecs.DISCOVER[hook]
    base = next(base for base in KINDS if base.kind == kind)
    stubs = "\n".join(
        f"    def {method}(self, *args, **options): ..." for method in base.__abstractmethods__
    )
    file = tmp_path / "mine.py"
    file.write_text(
        f"from moalign import {base.__name__}, hookimpl\n\n\n"
        f'class Mine({base.__name__}):\n    """Does nothing."""\n\n    name = "mine"\n{stubs}\n\n\n'
        f"@hookimpl\ndef {hook}():\n    return [Mine]\n"
    )
    found = plugins.load([file]).find(kind, "mine")
    assert issubclass(found, base)
    assert issubclass(found, Component)


class Listener:
    """Implements every announce hook and remembers what it was called with."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []

    @hookimpl
    def moalign_study_started(  # noqa: PLR0917
        self, run, study, objectives, resumed, time, versions, plugins, revision
    ):
        heard = {"run": run, "study": study, "objectives": objectives, "resumed": resumed}
        heard |= {"time": time, "versions": versions, "plugins": plugins, "revision": revision}
        self.heard.append(heard)

    @hookimpl
    def moalign_base_measured(self, evaluation, values, time):
        self.heard.append({"evaluation": evaluation, "values": values, "time": time})

    @hookimpl
    def moalign_trial_started(self, trial, proposal, time):
        self.heard.append({"trial": trial, "proposal": proposal, "time": time})

    @hookimpl
    def moalign_step_ended(self, event):
        self.heard.append({"event": event})

    @hookimpl
    def moalign_segment_ended(self, trial, observations, evaluations, values, time):
        heard = {"trial": trial, "observations": observations, "evaluations": evaluations}
        self.heard.append(heard | {"values": values, "time": time})

    @hookimpl
    def moalign_trial_ended(self, trial, outcome, reason, time):
        self.heard.append({"trial": trial, "outcome": outcome, "reason": reason, "time": time})

    @hookimpl
    def moalign_front_updated(self, points, hypervolume, trials, time):
        heard = {"points": points, "hypervolume": hypervolume, "trials": trials, "time": time}
        self.heard.append(heard)

    @hookimpl
    def moalign_study_ended(self, run, outcome, files):
        self.heard.append({"run": run, "outcome": outcome, "files": files})


@pytest.mark.parametrize("hook", hookspecs.ANNOUNCE)
def test_an_announce_hook_is_called_with_what_was_announced(hook: str) -> None:
    listener = Listener()
    manager = plugins.load().manager
    manager.register(listener)
    getattr(manager.hook, hook)(**ANNOUNCED[hook])
    assert listener.heard == [ANNOUNCED[hook]]


def test_a_listener_is_checked_before_it_is_registered() -> None:
    assert sorted(plugins.check_hooks(Listener(), "listener")) == sorted(hookspecs.ANNOUNCE)


def test_an_implementation_takes_only_the_arguments_that_it_names() -> None:
    class Short:
        @hookimpl
        def moalign_trial_ended(self, reason: str) -> None:
            reasons.append(reason)

    reasons: list[str] = []
    manager = plugins.load().manager
    manager.register(Short())
    manager.hook.moalign_trial_ended(**ANNOUNCED["moalign_trial_ended"] | {"reason": "stopped"})
    assert reasons == ["stopped"]
