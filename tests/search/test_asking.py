"""What a strategy may answer, and what becomes of an answer that is none."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quick import archive, quick_run, quick_study

from moalign import StudyError
from moalign.components import Strategy
from moalign.search.folders import RunFolder
from moalign.search.record import read
from moalign.types import Proposal, Start
from moalign_plugins.executors.local import Local

HALF = {"a": 0.5, "b": 0.5}
RATE = 3e-4
STANDS = "; all that finished stands, and once it is mended the same command goes on"


def proposal(weights: Any = HALF, rate: Any = RATE, **fields: Any) -> Proposal:
    params = {"weighting.preference": weights, "training.learning_rate": rate}
    return Proposal(**{"params": params, **fields})


class Answering(Strategy):
    """Answers as it is told when it is asked for a trial of this number; plainly else."""

    name = "answering"
    corners_first = False

    def __init__(self, answer: Callable[[], Any], number: int = 1):
        self.answer, self.number = answer, number

    def propose(self, history, n, seed):
        return self.answer() if history.proposed == self.number else [proposal()]


def run(folder: Path, answer: Callable[[], Any], *overrides: str, number: int = 1, **options):
    study = quick_study("search.trials=3", *overrides)
    object.__setattr__(study, "strategy", Answering(answer, number))
    return quick_run(folder, study=study, **options)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"rate": -1.0}, "training.learning_rate: found -1.0; the space has a number from 0.0001 "
         "to 0.001"),
        ({"rate": 0.5}, "training.learning_rate: found 0.5; the space has a number from 0.0001 to"),
        ({"rate": math.nan}, "training.learning_rate: found 'nan'; the space has a number from"),
        ({"rate": math.inf}, "training.learning_rate: found 'inf'; the space has a number from"),
        ({"rate": True}, "training.learning_rate: found True; the space has a number from"),
        ({"rate": object}, "training.learning_rate: found \"<class 'object'>\"; the space has"),
        ({"weights": {"a": math.nan, "b": 1.0}}, "weighting.preference: found {'a': 'nan', "
         "'b': 1.0}; the space has weights >= 0 of a, b that sum to 1"),
        ({"weights": {"a": -0.5, "b": 1.5}}, "weighting.preference: found {'a': -0.5, 'b': 1.5}"),
        ({"weights": {"a": 1.0, "b": 1.0}}, "weighting.preference: found {'a': 1.0, 'b': 1.0}"),
        ({"weights": {"a": 1.0}}, "weighting.preference: found {'a': 1.0}; the space has"),
        ({"weights": [0.5, 0.5]}, "weighting.preference: found [0.5, 0.5]; the space has"),
        ({"params": {"weighting.preference": HALF}}, "it leaves out training.learning_rate; give"),
        ({"params": {"weighting.preference": HALF, "training.learning_rate": RATE, "seed": 1}},
         "it gives seed, which the space does not have; a value that is not searched belongs into"),
        ({"settings": {"training.nothing": 1}}, "quick.yaml, key training.nothing: no such key"),
        ({"settings": {"training.clip_norm": math.nan}}, "quick.yaml, key training.clip_norm: "
         'found "nan"; '),
    ],
)  # fmt: skip
def test_values_that_cannot_be_run_cost_that_trial_only(
    tmp_path: Path, wrong: dict[str, Any], reason: str
):
    told = run(tmp_path / "mine", lambda: [proposal(**wrong)]).run
    assert [t.outcome for t in told.trials.values()] == ["finished", "failed", "finished"]
    prefix = "the strategy proposed what cannot be run: "
    assert told.trials[1].reason.startswith(prefix + reason)
    # Who goes on with the run knows the same.
    again = read(RunFolder(tmp_path / "mine"))
    assert archive(again) == archive(told)
    assert again.trials[1].proposal == told.trials[1].proposal


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda: None, "should have returned a list of proposals for trial 1; found None"),
        (proposal, "should have returned a list of proposals for trial 1; found Prop"),
        (lambda: [{"a": 1}], "should have returned a list of proposals for trial 1; found [{'a'"),
        (lambda: [proposal(steps=-1)], "proposed trial 1 wrongly: `steps` must be None or a whole "
         "number >= 0; found -1"),
        (lambda: [proposal(steps=2.5)], "proposed trial 1 wrongly: `steps` must be None or a "),
        (lambda: [proposal(start=(0, 6))], "proposed trial 1 wrongly: `start` must be a Start"),
        (lambda: [proposal(start=Start(((7, 6),), (1.0,)))], "proposed trial 1 wrongly: it starts "
         "from (7, 6), and a trial can start only from what is `kept` in the history as (trial, "
         "step): (0, 6)"),
        (lambda: [proposal(start=Start(((0, 6),), (math.nan,)))], "proposed trial 1 wrongly: a "
         "start needs a share for each point, summing to 1; found (nan,)"),
        (lambda: [proposal(start=Start(((0, 6),), ()))], "proposed trial 1 wrongly: a start needs"),
        (lambda: [proposal(start=Start(([0, 6],), (1.0,)))], "proposed trial 1 wrongly: "),
        (lambda: [proposal(start=Start(((0, 6),), ("all",)))], "proposed trial 1 wrongly: "),
        (lambda: [Proposal([0.5, 3e-4])], "proposed trial 1 wrongly: `params` must be a mapping "
         "of paths to values; found [0.5, 0.0003]"),
        (lambda: [Proposal(None)], "proposed trial 1 wrongly: `params` must be a mapping"),
        (lambda: [proposal(settings=None)], "proposed trial 1 wrongly: `settings` must be a "),
        (lambda: json.loads("{"), "could not propose trial 1: JSONDecodeError: Expecting property"),
    ],
)  # fmt: skip
def test_what_is_no_proposal_ends_the_study_and_the_same_command_goes_on(
    tmp_path: Path, answer: Callable[[], Any], reason: str
):
    with pytest.raises(StudyError) as caught:
        run(tmp_path / "mine", answer)
    assert str(caught.value).startswith(f"strategy answering {reason}")
    assert str(caught.value).endswith(STANDS)
    kept = read(RunFolder(tmp_path / "mine"))
    assert kept.closed == "failed"
    assert [t.outcome for t in kept.trials.values()] == ["finished"]
    mended = run(tmp_path / "mine", lambda: [proposal()])
    assert archive(mended.run) == archive(run(tmp_path / "whole", lambda: [proposal()]).run)


def test_a_strategy_that_raises_while_segments_run_loses_none_that_finished(tmp_path: Path):
    def fails() -> Any:
        raise StudyError("the surrogate model cannot be fitted")

    def two() -> Local:
        executor = Local()
        executor.workers = 2  # they take turns
        return executor

    with pytest.raises(StudyError) as caught:
        run(tmp_path / "mine", fails, number=2, executor=two())
    assert str(caught.value) == (
        "strategy answering could not propose trial 2: the surrogate model cannot be fitted"
        + STANDS
    )
    kept = read(RunFolder(tmp_path / "mine"))
    assert [t.outcome for t in kept.trials.values()] == ["finished", None]
    mended = run(tmp_path / "mine", lambda: [proposal()], executor=two())
    whole = run(tmp_path / "whole", lambda: [proposal()], executor=two())
    assert archive(mended.run) == archive(whole.run)


def test_the_place_where_it_raised_is_named(tmp_path: Path):
    with pytest.raises(StudyError, match=r"ZeroDivisionError: .* \(test_asking\.py line \d+\)"):
        run(tmp_path / "mine", lambda: [1 / 0])


@pytest.mark.parametrize("number", [np.float64(RATE), np.float32(RATE), np.array(RATE)])
def test_numbers_of_numpy_are_numbers(tmp_path: Path, number: Any):
    told = run(tmp_path / "mine", lambda: [proposal(rate=number)]).run
    assert type(told.trials[1].proposal.params["training.learning_rate"]) is float
    assert told.trials[1].outcome == "finished"
    again = read(RunFolder(tmp_path / "mine"))
    assert repr(again.trials[1].proposal) == repr(told.trials[1].proposal)


@pytest.mark.parametrize(
    ("space", "value", "fine"),
    [
        ("{low: 1, high: 8}", 8, True),
        ("{low: 1, high: 8}", np.int64(3), True),
        ("{low: 1, high: 8}", 3.0, False),
        ("{low: 1, high: 8}", 9, False),
        ("{low: 1, high: 8, log: true}", 0, False),
        ("{choices: [2, 4]}", 4, True),
        ("{choices: [2, 4]}", 3, False),
    ],
)
def test_whole_numbers_and_choices_are_checked(tmp_path: Path, space: str, value: Any, fine: bool):
    def answer() -> list[Proposal]:
        return [Proposal({"training.prompts": value})]

    class Always(Answering):
        def propose(self, history, n, seed):
            return answer()

    study = quick_study("search.trials=1", f"search.space={{training.prompts: {space}}}")
    object.__setattr__(study, "strategy", Always(answer))
    (trial,) = quick_run(tmp_path / "mine", study=study).run.trials.values()
    assert trial.outcome == ("finished" if fine else "failed")
    assert fine or re.search("the space has (a whole number from 1 to 8|one of 2, 4)", trial.reason)


def test_rounding_at_the_ends_of_a_range_is_no_mistake(tmp_path: Path):
    for n, rate in enumerate((math.exp(math.log(1e-3)), 1e-3 * (1 + 1e-12), 1e-4 * (1 - 1e-12))):
        told = run(tmp_path / f"mine-{n}", lambda rate=rate: [proposal(rate=rate)]).run
        assert told.trials[1].outcome == "finished"
