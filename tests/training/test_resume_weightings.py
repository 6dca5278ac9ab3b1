"""Every weighting that there is: stop, go on from a checkpoint, and nothing differs in any bit.

Each example of each catalogued weighting, through the real loop on a small bandit with the
objectives of the contract suites; objective c does not apply to half of the prompts.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import testbeds
import torch
from resuming import resumed

from moalign.components import Weighting

STOP, LAST = 3, 5  # in the middle of what is done every second step
EXAMPLES = [
    pytest.param(entry.cls.name, example, id=f"{entry.cls.name}-{index}")
    for entry in testbeds.catalogue().entries()
    if issubclass(entry.cls, Weighting) and entry.cls.name != "by-family"
    for index, example in enumerate(entry.cls.examples)
]
# A loss per objective is what an optimizer has that learns from pairs.
LEARNS_FROM_PAIRS = {"group-robust-1": ("training.optimizer=dpo",)}
SHORTER = {"prompt-adapter": {"steps": 20}, "context-router": {"steps": 20}}


def new_study(name, example, *overrides):
    options = {**example, **SHORTER.get(name, {})}
    return testbeds.three_study(
        f"weighting={json.dumps({name: options})}",
        f"training.steps={LAST}",
        "training.group=4",
        "training.minibatches=2",  # so that weights may change within a step
        "evaluation={prompts: 4, samples: 2}",
        *overrides,
    )


def watched(study):
    """Return a trial, and the combined advantages that its steps will use."""
    trial = testbeds.new_trial(study)
    seen: list[torch.Tensor] = []
    original = trial._combined

    def combined(*arguments):
        seen.append(original(*arguments))
        return seen[-1]

    trial._combined = combined
    return trial, seen


def steps(trial, until):
    found = []
    while trial.index < until:
        found.append((trial.train_step(), trial.notes))
    return found


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_a_resumed_trial_takes_the_same_steps(name, example, tmp_path: Path, request):
    pairs = LEARNS_FROM_PAIRS.get(request.node.callspec.id, ())
    study = new_study(name, example, *pairs)
    whole, seen = watched(study)
    history = steps(whole, STOP)
    second, again = watched(study)
    resumed(whole, second, tmp_path)
    before = len(seen)
    history += steps(whole, LAST)
    assert steps(second, LAST) == history[STOP:]
    assert len(again) == len(seen) - before
    assert all(map(torch.equal, again, seen[before:]))
    assert torch.equal(whole.policy.model.head.weight, second.policy.model.head.weight)
    assert whole.cost == second.cost
    if pairs:  # weights multiply losses there, not advantages
        assert len({metrics["weight/a"] for metrics, _ in history}) == LAST
    else:
        assert any(combined.abs().max() > 0 for combined in again)


def test_every_weighting_is_here():
    kinds = [e.cls for e in testbeds.catalogue().entries() if issubclass(e.cls, Weighting)]
    names = {cls.name for cls in kinds} - {"by-family"}
    assert {param.values[0] for param in EXAMPLES} == names
    assert len(names) >= 32
