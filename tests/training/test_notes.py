"""What a trial says to people, and how often."""

from __future__ import annotations

import pytest
import torch

from moalign.search.announce import Announcer
from moalign.testing.steps import make_step
from moalign.training.loop import Trial
from moalign.training.notes import FLAT, Notes
from moalign.types import StepEvent

NAMES = ("a", "b")


def columns(flat: bool):
    scores_PGK = torch.rand(2, 4, 2)
    if flat:
        scores_PGK[..., 1] = 0.5
    return [make_step(scores_PGK).advantages_BTK]


def test_each_sentence_is_said_once() -> None:
    notes = Notes()
    assert notes.new(["a", "b", "a"]) == ("a", "b")
    assert notes.new(["b", "c"]) == ("c",)


def test_an_objective_without_advantages_is_named_after_some_steps() -> None:
    notes = Notes()
    assert [notes.flat(NAMES, columns(True)) for _ in range(FLAT - 1)] == [[]] * (FLAT - 1)
    (sentence,) = notes.flat(NAMES, columns(True))
    assert sentence.startswith("objective b scored all completions")
    assert notes.flat(NAMES, columns(True)) == []  # it has been said


def test_one_step_that_tells_completions_apart_starts_the_count_anew() -> None:
    notes = Notes()
    for flat in [True] * (FLAT - 1) + [False] + [True] * (FLAT - 1):
        assert notes.flat(NAMES, columns(flat)) == []


def test_a_trial_passes_on_what_its_weighting_says(new_study, runs) -> None:
    from moalign.search.artifacts import base_policy
    from moalign.search.folders import RunFolder

    study = new_study("weighting=says", "objectives.b.reward=odd", "search.space={}")
    policy = base_policy(study, RunFolder(runs / "letters"), {})
    trial = Trial(study, 0, policy, total=6)
    said = []
    for _ in range(FLAT + 1):
        trial.train_step()
        said.append(trial.notes)
    assert said[0] == ("the weighting has something to say",)
    assert said[1 : FLAT - 1] == [()] * (FLAT - 2)
    assert said[FLAT - 1][0].startswith("objective b scored all")
    assert said[FLAT] == ()


def test_people_hear_a_note_once_and_from_how_many_trials(catalogue) -> None:
    announce = Announcer(catalogue.manager, [])

    def tell() -> None:
        for trial in (0, 0, 1):
            announce.step_ended(StepEvent(trial, 1, 1.0, {}, ("it saturates",)))

    with pytest.warns(UserWarning, match="trial 0: it saturates") as heard:
        tell()
    assert len(heard) == 1
    with pytest.warns(UserWarning, match="in 2 trials: it saturates"):
        announce.close()
