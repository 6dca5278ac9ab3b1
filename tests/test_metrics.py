"""docs/metrics.md names every metric that there is, and none that there is not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import testbeds

from moalign.components import Component
from moalign.plugins import load
from moalign.testing import Case, cases, properties

PAGE = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
OF_PARTS = [case for case in cases(load()) if case.cls.kind in {"weighting", "optimizer"}]
CHECKS = ("returns_weights", "padding_changes_nothing", "gives_a_pair_loss")
"""What of the contract suites calls the methods that tell metrics, and quickly."""

TRACKED = {"front", "validation", "validation_stderr", "tokens"}
"""What a tracker adds by itself begins so; `tests/plugins/trackers` looks at it."""


def documented(section: str) -> set[str]:
    """Return the names of the first columns of a section's tables."""
    text = re.search(rf"^## {section}.*?\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert text is not None
    cells = re.findall(r"^\| (`.+?) \|", text.group(1), re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(.+?)`", cell)}


def general(name: str) -> str:
    return re.sub(r"/[abc]$", "/NAME", name)


def told(case: Case) -> set[str]:
    """Return the metrics that a component tells while its contract is checked."""
    names: set[str] = set()

    def watched(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            returned = method(*args, **options)
            metrics: Mapping[str, Any] = (
                returned[1] if isinstance(returned, tuple) else returned.metrics
            )
            names.update(map(general, metrics))
            return returned

        return call

    def build(**options: Any) -> Component:
        component = case.build(**options)
        for name in ("weigh", "loss", "pair_loss"):
            if hasattr(component, name):
                setattr(component, name, watched(getattr(component, name)))
        return component

    for name, check in properties(case.cls.kind, case.cls).items():
        if name in CHECKS:
            check(build)
    return names


def told_by(kind: str) -> set[str]:
    return {name for case in OF_PARTS if case.cls.kind == kind for name in told(case)}


def steps() -> Iterator[dict[str, float]]:
    """Yield the metrics of steps that between them have all that the loop itself tells."""
    sketched = "training.gradients={sketch: 2}"
    for changes in (
        ["training.replay={steps: 1, share: 1.0}"],
        ["weighting=mgda", "training.optimizer={grpo: {kl_coefficient: 0.1}}"],
        ["weighting=mgda", sketched, "training.optimizer=ppo"],
        ["weighting={group-robust: {losses: optimizer}}", "training.optimizer=dpo"],
    ):
        study = testbeds.three_study(*changes, "training.steps=3", "training.group=4")
        trial = testbeds.new_trial(study)
        yield from (trial.train_step() for _ in range(2))


def test_what_weightings_tell_is_documented() -> None:
    assert told_by("weighting") == documented("What weightings tell")


def test_what_a_step_tells_is_documented() -> None:
    of_losses = told_by("optimizer")
    of_loop = {general(name) for metrics in steps() for name in metrics}
    page = documented("A trial's run, every step")
    mine = {name for name in of_loop if not name.startswith(("weighting/", "replay/"))}
    assert "replay/loss" in of_loop
    assert mine | of_losses | {"replay/...", "replay/age"} == page


@pytest.mark.parametrize("section", ["The study's run", "A trial's run, at its rungs"])
def test_what_a_tracker_adds_begins_as_it_should(section: str) -> None:
    found = {name.partition("/")[0].replace("_c2", "") for name in documented(section)}
    assert found
    assert found <= TRACKED
