from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from quick import quick_run, quick_study

from moalign import Strategy
from moalign.errors import OptionError
from moalign.types import (
    Choice,
    FloatRange,
    History,
    IntRange,
    Objective,
    Proposal,
    Simplex,
    Start,
)
from moalign_plugins.strategies.grid import Grid
from moalign_plugins.strategies.random import Random


def history(space: dict, proposals: Sequence[Proposal]) -> History:
    made = dict(enumerate(proposals))
    return History(space, (Objective("a", (0.0, 1.0)),), (), {}, 4, 10, len(made), made)


def everything(strategy: Grid, space: dict) -> list[dict]:
    """Ask for one proposal after the other until there is none."""
    made: list[Proposal] = []
    while proposals := strategy.propose(history(space, made), 1, seed=len(made)):
        made += proposals
    return [dict(proposal.params) for proposal in made]


def test_every_combination_once():
    space = {
        "lr": FloatRange(1e-4, 1e-2, log=True),
        "n": IntRange(1, 3),
        "kind": Choice(("x", "y")),
    }
    found = everything(Grid(points=3), space)
    assert len(found) == 3 * 3 * 2
    assert sorted({p["lr"] for p in found}) == pytest.approx([1e-4, 1e-3, 1e-2])
    assert {p["n"] for p in found} == {1, 2, 3}
    assert len({tuple(p.values()) for p in found}) == 18
    assert all(type(p["n"]) is int for p in found)


def test_weights_are_all_multiples_that_sum_to_one():
    found = everything(Grid(divisions=4), {"w": Simplex(("a", "b", "c"))})
    assert len(found) == 15  # C(6, 2)
    weights = {tuple(p["w"].values()) for p in found}
    assert (1.0, 0.0, 0.0) in weights
    assert (0.25, 0.5, 0.25) in weights
    assert all(sum(w) == 1.0 for w in weights)
    assert everything(Grid(divisions=1), {"w": Simplex(("a",))}) == [{"w": {"a": 1.0}}]


def test_the_order_is_shuffled_and_always_the_same():
    space = {"x": FloatRange(0.0, 1.0), "y": FloatRange(0.0, 1.0)}
    found = everything(Grid(), space)
    assert found == everything(Grid(), space)
    assert [p["x"] for p in found] != sorted(p["x"] for p in found)
    assert len({p["x"] for p in found[:8]}) >= 4  # a few trials already cover the range


def test_several_at_once_are_the_next_ones():
    space = {"x": FloatRange(0.0, 1.0)}
    made = [Proposal(params) for params in everything(Grid(), space)]
    assert Grid().propose(history(space, made[:2]), 2, 0) == made[2:4]
    assert len(Grid().propose(history(space, made[:4]), 3, 0)) == 1
    assert Grid().propose(history(space, made[1:]), 3, 0) == made[:1]


def test_what_else_is_proposed_counts_for_no_combination():
    """But what another strategy has tried from scratch need not be tried again."""
    space = {"w": Simplex(("a", "b")), "c": Choice((1, True))}
    made = [Proposal(params) for params in everything(Grid(divisions=2), space)]
    assert len(made) == 6
    first, *others = made
    start = Start(((0, 4),), (1.0,))
    strange = [
        Proposal(first.params, start),
        Proposal(first.params, start, steps=0),
        Proposal(first.params, steps=2),
        Proposal(first.params, settings={"training.warmup": 2}),
        Proposal({**first.params, "w": {"a": 0.3, "b": 0.7}}),
    ]
    assert Grid(divisions=2).propose(history(space, strange), 9, 0) == made
    assert Grid(divisions=2).propose(history(space, [*strange, first]), 9, 0) == others
    turned = Proposal({"c": first.params["c"], "w": dict(reversed(first.params["w"].items()))})
    assert Grid(divisions=2).propose(history(space, [turned]), 9, 0) == others


class Mixing(Strategy):
    """Mixes two trials half and half."""

    name = "mixing"
    corners_first = False

    def propose(self, history, n, seed):
        kept = list(dict.fromkeys((o.trial, o.step) for o in history.observations if o.kept))
        params = history.observations[0].params
        return [Proposal(params, Start(tuple(kept[:2]), (0.5, 0.5)), steps=0, reason="a try")]


def test_a_run_tries_each_combination_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Around a trial that fails, a soup, and what another strategy proposed."""
    monkeypatch.setenv("QUICK_FAULTS", '[{"trial": 1, "step": 1, "kind": "raise"}]')
    study = quick_study(
        "search.strategy={grid: {divisions: 4}}",
        "search.space={weighting.preference: simplex}",
        "search.rungs=[]",
    )
    quick_run(tmp_path / "mine", study=study, trials=3)
    quick_run(tmp_path / "mine", study=study, trials=4, strategy=Mixing())
    quick_run(tmp_path / "mine", study=study, trials=5, strategy=Random())
    run = quick_run(tmp_path / "mine", study=study, trials=20).run
    assert [t.outcome for t in run.trials.values()] == ["finished", "failed", *["finished"] * 5]
    assert run.trials[3].proposal.steps == 0
    weights = [t.proposal.params["weighting.preference"]["a"] for t in run.trials.values()]
    counts = Counter(weights[:3] + weights[5:])
    assert counts == dict.fromkeys((0.0, 0.25, 0.5, 0.75, 1.0), 1)


def test_integers_that_round_to_the_same_are_one():
    assert len(everything(Grid(points=9), {"n": IntRange(1, 4)})) == 4


def test_a_grid_nobody_can_finish_is_refused():
    space = {f"x{i}": FloatRange(0.0, 1.0) for i in range(8)}
    with pytest.raises(OptionError, match="the space has 390625 combinations; at most 100000"):
        Grid().check(History(space, (), (), {}, 4, 10, 0))
