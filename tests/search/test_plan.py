from __future__ import annotations

from pathlib import Path

import pytest
from quick import quick_run, quick_study

from moalign.search import plan
from moalign.search.folders import RunFolder
from moalign.search.plan import make_plan
from moalign.study.loading import with_values
from moalign.types import Cost


@pytest.fixture(autouse=True)
def no_base_policy(monkeypatch):
    from moalign.search import artifacts

    monkeypatch.setattr(artifacts, "base_folder", lambda study, folder: folder.artifacts / "base")


def test_before_anything_ran_there_are_bounds_and_no_time(tmp_path: Path):
    study = quick_study()
    made = make_plan(study, RunFolder(tmp_path / "mine"), None, trials=6, workers=2)
    assert (made.trials, made.ended, made.steps) == (6, 0, 36)
    assert made.measurements == 6 * 3 + 1
    # 16 prompts x 8 completions a step, 256 x 2 a measurement, 8 tokens each.
    assert made.sampled == (36 * 128 + 19 * 512) * 8
    assert (made.cost, made.seconds, made.point, made.working) == (None, None, None, None)
    assert made.lines() == [
        "method  weighting quick, optimizer quick",
        "trials  6 in all, 0 done; at most 36 steps to go and 19 measurements on validation",
        "tokens  at most 115 thousand sampled; each is read and learnt from as well",
        "disk    unknown until the base policy is built, because nothing else tells its size",
        "time    unknown until a trial has been measured (2 at a time), because it depends on "
        "this machine",
    ]
    assert not (tmp_path / "mine").exists()


def test_disk_is_known_once_the_base_policy_is_built(tmp_path: Path):
    base = tmp_path / ".artifacts" / "base"
    base.mkdir(parents=True)
    (base / "model.safetensors").write_bytes(b"x" * 1000)
    (base / "tokenizer.json").write_bytes(b"x" * 77)
    made = make_plan(quick_study(), RunFolder(tmp_path / "mine"), None, trials=6, workers=2)
    assert (made.point, made.working) == (2000, 6000)
    assert made.lines()[3] == (
        "disk    about 6 kB of checkpoints on the way, and 2 kB for each point of the front in "
        "the end"
    )


def test_what_ran_says_what_the_rest_will_take(tmp_path: Path):
    study = quick_study()
    run = quick_run(tmp_path / "mine", trials=2).run
    for trial in run.trials.values():
        for step, measured in trial.measured.items():
            object.__setattr__(measured, "seconds", 3.0)
            assert measured.cost.generated == 10 * step + step // 2
    made = make_plan(study, run.folder, run, trials=6, workers=2)
    assert (made.ended, made.steps, made.measurements) == (2, 24, 12)
    assert made.cost == Cost(generated=252)  # 63 for 6 steps
    assert made.seconds == pytest.approx(24 * 1.5 / 2)  # 9 seconds for 6 steps, two at a time
    assert made.lines()[2].startswith("tokens  about 252 sampled, 0 forward and 0 backward")
    assert made.lines()[4].startswith("time    about 18 seconds with 2 at a time")


def test_a_trial_on_its_way_counts_from_its_checkpoint(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("QUICK_FAULTS", '[{"trial": 1, "step": 3, "kind": "interrupt"}]')
    run = quick_run(tmp_path / "mine", trials=2).run
    made = make_plan(quick_study(), run.folder, run, trials=2, workers=1)
    assert (made.trials, made.ended, made.steps, made.measurements) == (2, 1, 4, 2)


def test_a_finished_run_has_nothing_left(tmp_path: Path):
    run = quick_run(tmp_path / "mine").run
    made = make_plan(quick_study(), run.folder, run, trials=6, workers=1)
    assert (made.ended, made.steps, made.measurements, made.sampled) == (6, 0, 0, 0)
    assert made.seconds == 0


def test_trials_that_differ_in_random_numbers_only_are_called_so(tmp_path: Path):
    folder = RunFolder(tmp_path / "mine")
    same = quick_study("search.space={}")
    assert (
        make_plan(same, folder, None, trials=6, workers=2)
        .lines()[2]
        .startswith("search  nothing is searched: 6 trials differ in their random numbers only")
    )
    for study, trials in ((same, 1), (quick_study(), 6)):
        lines = make_plan(study, folder, None, trials=trials, workers=2).lines()
        assert not any("nothing is searched" in line for line in lines)


def test_one_is_not_plural(tmp_path: Path):
    study = quick_study("search.rungs=[]", "training.steps=1")
    run = quick_run(tmp_path / "mine", study=study, trials=1).run
    made = make_plan(study, run.folder, run, trials=2, workers=1)
    assert (made.steps, made.measurements) == (1, 1)
    assert made.lines()[1] == (
        "trials  2 in all, 1 done; at most 1 step to go and 1 measurement on validation"
    )


@pytest.mark.parametrize(
    ("number", "text"), [(7, "7"), (1234, "1.23 thousand"), (5e6, "5 million"), (2e9, "2 billion")]
)
def test_counts(number: float, text: str):
    assert plan._count(int(number)) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.2, "4.2 seconds"), (150, "2.5 minutes"), (9000, "2.5 hours")]
)
def test_durations(seconds: float, text: str):
    assert plan._duration(seconds) == text


def test_what_a_weighting_samples_for_itself_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    study = quick_study()
    monkeypatch.setattr(type(study.new_weighting()), "needs", frozenset({"steer"}))
    made = make_plan(study, RunFolder(tmp_path / "mine"), None, trials=6, workers=2)
    assert ", quick's own on the steer split come on top; each is" in made.lines()[2]


def test_what_is_learnt_before_training_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    study, folder = quick_study(), RunFolder(tmp_path / "mine")
    monkeypatch.setattr(type(study.new_weighting()), "recipe", lambda self: {})
    assert make_plan(study, folder, None, trials=6, workers=2).lines()[3] == (
        "before  quick learns before training, once for all trials; what that takes is known "
        "afterwards"
    )
    memory, artifact = folder.prepared_artifact("quick-0"), folder.artifacts / "quick-1"
    for path in (memory.parent, artifact):
        path.mkdir(parents=True)
    memory.write_text('{"artifact": "quick-1"}')
    (artifact / "cost.json").write_text('{"generated": 7, "forwarded": 12345, "backwarded": 0}')
    assert make_plan(study, folder, None, trials=6, workers=2).lines()[3] == (
        "before  7 tokens were sampled and 12.3 thousand passed forward before training, once for "
        "all trials"
    )


@pytest.mark.parametrize(
    ("kind", "needs", "rows"),
    [("rollouts", (), 128), ("rollouts", ("greedy_scores",), 144), ("both", (), 128)],
)
def test_what_an_optimizer_samples_in_a_step_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, needs: tuple[str, ...], rows: int
):
    study = quick_study()
    optimizer = type(study.new_optimizer())
    monkeypatch.setattr(optimizer, "learns_from", kind)
    monkeypatch.setattr(optimizer, "needs", frozenset(needs))
    made = make_plan(study, RunFolder(tmp_path / "mine"), None, trials=6, workers=2)
    assert made.sampled == (36 * rows + 19 * 512) * 8
    assert made.preferences is None
    monkeypatch.setattr(optimizer, "extrapolates", True)
    made = make_plan(study, RunFolder(tmp_path / "mine"), None, trials=6, workers=2)
    assert made.sampled == (36 * 2 * rows + 19 * 512) * 8


def test_who_learns_from_preferences_samples_to_measure_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    study, folder = quick_study(), RunFolder(tmp_path / "mine")
    monkeypatch.setattr(type(study.new_optimizer()), "learns_from", "pairs")
    made = make_plan(study, folder, None, trials=6, workers=2)
    assert (made.sampled, made.preferences) == (19 * 512 * 8, 36 * 16)
    assert made.lines()[2] == (
        "tokens  at most 77.8 thousand sampled; none to train: quick reads 576 preferences"
    )
    assert not any(line.startswith("before") for line in made.lines())
    made = make_plan(study, folder, None, trials=6, workers=2, offered=1054)
    assert made.lines()[2].endswith(
        "quick reads 576 preferences; the train split has 1.05 thousand"
    )
    for reward in study.new_rewards().values():  # what is measured by agreement
        monkeypatch.setattr(type(reward), "needs", frozenset({"pairs"}))
    assert make_plan(study, folder, None, trials=6, workers=2).sampled == 0


def test_samples_to_choose_between_are_sampled_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    study = quick_study("training.pairs={source: samples, prompts: 64}")
    folder = RunFolder(tmp_path / "mine")
    optimizer = type(study.new_optimizer())
    made = make_plan(study, folder, None, trials=6, workers=2)
    assert made.samples == 0, "nobody reads them"
    assert made.lines()[1] == "unread  training.pairs: quick has no use for it"
    grouped = with_values(study, {"training.pairs.source": "task", "training.group": 4})
    monkeypatch.setattr(optimizer, "learns_from", "pairs")
    assert make_plan(grouped, folder, None, trials=6, workers=2).unread == ("training.group",)
    assert make_plan(study, folder, None, trials=6, workers=2).unread == ()
    assert make_plan(study, folder, None, trials=6, workers=2).lines()[3] == (
        "before  at most 2.05 thousand tokens are sampled before training, once for all trials, to "
        "choose between"
    )


def test_a_threshold_off_the_front_is_said_to_bind_no_search(tmp_path: Path):
    folder = RunFolder(tmp_path / "mine")
    held = quick_study("objectives.a.at_least=0.5")
    assert make_plan(held, folder, None, trials=6, workers=2).unkept == ()
    loose = quick_study("objectives.c={reward: quick, monitor: true, at_least: 0.5}")
    made = make_plan(loose, folder, None, trials=6, workers=2)
    assert made.unkept == ("c",)
    assert made.lines()[1].startswith("search  objectives.c.at_least: not on the front")
