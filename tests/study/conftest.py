"""A study over small fake components, so that loading needs neither data nor torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from moalign import plugins
from moalign.plugins import Catalogue
from moalign.study.loading import load
from moalign.study.study import Study

PLUGIN = '''
from typing import Annotated
from annotated_types import Gt
from moalign import (
    Optimizer, PolicySource, Preference, Prompt, Reward, Rollout, Strategy, Task, Tracker,
    Executor, Weighting, OptionError, hookimpl, nearest,
)


class Toy(Task):
    """A task."""
    name = "toy"
    def prompts(self): return [Prompt(str(i), str(i)) for i in range(400)]

class One(Reward):
    """A bounded reward."""
    name = "one"
    range = (0.0, 1.0)
    def __init__(self, limit: Annotated[float, Gt(0)] = 1.0): self.limit = limit
    def score(self, batch): return [self.limit] * batch.rows

class Free(Reward):
    """A reward without a range."""
    name = "free"
    def score(self, batch): return [0.0] * batch.rows

class Heads(Reward):
    """A reward with two outputs."""
    name = "heads"
    outputs = ("a", "b")
    range = (0.0, 1.0)
    def score(self, batch): return {"a": [0.0] * batch.rows, "b": [1.0] * batch.rows}

class Clipped(Reward):
    """A nested reward."""
    name = "clipped"
    range = (0.0, 1.0)
    def __init__(self, inner: Reward): self.inner = inner
    def score(self, batch): return self.inner.score(batch)

class Needy(Reward):
    """A reward that needs what nobody has."""
    name = "needy"
    range = (0.0, 1.0)
    needs = frozenset({"hiden"})
    def score(self, batch): return [0.0] * batch.rows

class Flat(Weighting):
    """A weighting with a preference."""
    name = "flat"
    def __init__(self, preference: Preference | None = None, rate: Annotated[float, Gt(0)] = 0.1):
        self.preference, self.rate = preference, rate
    def weigh(self, step): ...

class Bare(Weighting):
    """A weighting without a preference."""
    name = "bare"
    declares = frozenset({"unnormalised"})
    def __init__(self, primary: str = "x"): self.primary = primary
    def check(self, objectives):
        names = [o.name for o in objectives]
        if self.primary not in names:
            raise OptionError(f"primary is {self.primary!r}; {nearest(self.primary, names)}",
                              "primary")
    def weigh(self, step): ...

class Ends(Weighting):
    """A weighting with two sets of weights, neither of which is its preference."""
    name = "ends"
    def __init__(self, start: Preference | None = None, end: Preference | None = None):
        self.start, self.end = start, end
    def weigh(self, step): ...

class Both(Weighting):
    """A weighting with a preference and other weights before it."""
    name = "both"
    def __init__(self, blend: Preference | None = None, preference: Preference | None = None):
        self.blend, self.preference = blend, preference
    def weigh(self, step): ...

class Pairwise(Optimizer):
    """An optimizer that compares."""
    name = "pairwise"
    min_group = 2
    def __init__(self, clip: float = 0.2): self.clip = clip

class Pairs(Optimizer):
    """An optimizer that learns from pairs."""
    name = "pairs"
    learns_from = "pairs"

class Valued(Optimizer):
    """An optimizer that needs values."""
    name = "valued"
    needs = frozenset({"values"})

class Conditioned(PolicySource):
    """A policy that reads the weights."""
    name = "conditioned"
    condition = "weights"
    def recipe(self, task, seed, objectives): return {}
    def build(self, task, seed, objectives, folder, progress): ...
    def load(self, folder, objectives): ...

class Blank(PolicySource):
    """A policy source."""
    name = "blank"
    def recipe(self, task, seed, objectives): return {}
    def build(self, task, seed, objectives, folder, progress): ...
    def load(self, folder, objectives): ...

class Still(Rollout):
    """A rollout."""
    name = "still"
    max_tokens = 4
    def generate(self, model, prompt_ids_P, **kwargs): ...

class Guess(Strategy):
    """A strategy."""
    name = "guess"
    def propose(self, history, n, seed): return []

class Here(Executor):
    """An executor."""
    name = "here"
    workers = 1
    def open(self, segment): ...
    def submit(self, task): ...
    def wait(self, seconds): return []
    def forget(self, trial): ...
    def close(self): ...

class Silent(Tracker):
    """A tracker."""
    name = "silent"


@hookimpl
def moalign_tasks(): return [Toy]
@hookimpl
def moalign_rewards(): return [One, Free, Heads, Clipped, Needy]
@hookimpl
def moalign_weightings(): return [Flat, Bare, Ends, Both]
@hookimpl
def moalign_optimizers(): return [Pairwise, Pairs, Valued]
@hookimpl
def moalign_policies(): return [Blank, Conditioned]
@hookimpl
def moalign_rollouts(): return [Still]
@hookimpl
def moalign_strategies(): return [Guess]
@hookimpl
def moalign_executors(): return [Here]
@hookimpl
def moalign_trackers(): return [Silent]
'''

STUDY = """\
study: toy
task: toy
policy: blank
objectives:
  first: {reward: one}
  second: {reward: {one: {limit: 2.0}}}
rollout: still
training: {optimizer: pairwise, steps: 20}
weighting: flat
search:
  strategy: guess
  rungs: [5, 10]
  space:
    weighting.preference: simplex
    training.learning_rate: {low: 1.0e-4, high: 1.0e-3, log: true}
executor: here
trackers: [silent]
"""


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """A catalogue with the fake components."""
    file = tmp_path_factory.mktemp("plugin") / "toys.py"
    file.write_text(PLUGIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOALIGN_PLUGINS", "")
        return plugins.load([file])


@pytest.fixture
def text() -> str:
    """A study file that loads."""
    return STUDY


@pytest.fixture
def loaded(catalogue: Catalogue) -> Callable[..., Study]:
    """Load a text with overrides."""

    def load_text(text: str = STUDY, *overrides: str) -> Study:
        return load(text, "toy.yaml", catalogue, overrides)

    return load_text


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A study file on disk."""
    path = tmp_path / "toy.yaml"
    path.write_text(STUDY)
    return path
