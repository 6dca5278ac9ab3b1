from __future__ import annotations

import itertools
import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import quick
from quick import Pairs, archive, quick_run, quick_study

from moalign import hookimpl
from moalign.components import Strategy
from moalign.errors import OptionError, PluginError, RecordError, StudyError
from moalign.reporting.report import write_report
from moalign.search import events
from moalign.search.folders import RunFolder
from moalign.search.record import Record, read
from moalign.types import BASE, Proposal, Start
from moalign_plugins.executors.local import Local
from moalign_plugins.executors.processes import Processes
from moalign_plugins.strategies.botorch import BoTorch
from moalign_plugins.strategies.tpe import ParzenEstimator


@pytest.fixture
def faults(monkeypatch):
    def give(*given: dict) -> None:
        monkeypatch.setenv("QUICK_FAULTS", json.dumps(given))

    return give


def lines(folder: Path, kind: type) -> list:
    whole = folder.joinpath("events.jsonl").read_bytes().splitlines()
    return [event for event in map(events.from_line, whole) if isinstance(event, kind)]


def forbidden(task, emit, cache):
    raise AssertionError(f"trial {task.trial} was trained again")


# --- a study from beginning to end -------------------------------------------------------------


def test_a_study_runs_to_its_end(tmp_path: Path):
    result = quick_run(tmp_path / "mine")
    run = read(RunFolder(tmp_path / "mine"))
    assert result.outcome == run.closed == "finished"
    assert archive(run) == archive(result.run)
    assert [t.outcome for t in run.trials.values()] == ["finished"] * 3 + ["stopped"] * 3
    # The near-corners and the centre come first.
    first = [t.proposal.params["weighting.preference"]["a"] for t in run.trials.values()][:3]
    assert first == pytest.approx([0.8, 0.2, 0.5])
    assert set(run.tests) == {(BASE, 0), (0, 6), (1, 6), (2, 6)}
    assert [e.points for e in run.test_openings] == [((BASE, 0), (0, 6), (1, 6), (2, 6))]
    kept = {p.parent.parent.name for p in run.folder.path.glob("trials/*/*/policy")}
    assert kept == {"0000", "0001", "0002"}
    assert not list(run.folder.path.glob("trials/*/*/training"))
    assert len(list(run.folder.path.glob("trials/*/*/validation.json"))) == 12


def test_the_resolved_study_stands_beside_and_is_a_study(tmp_path: Path):
    study = quick_study()
    quick_run(tmp_path / "mine", study=study)
    text = (tmp_path / "mine" / "study.yaml").read_text()
    assert quick.load(text, "study.yaml", quick.quick_catalogue()).data == study.data
    for said in ("# moalign ", "# torch ", "# python 3.", "sha256:"):
        assert said in text
    (opened,) = lines(tmp_path / "mine", events.Opened)
    assert opened.study == study.data
    assert opened.pid == os.getpid()
    assert list(opened.plugins) == [str(Path(quick.__file__).resolve())]


def test_the_same_command_again_trains_nothing(tmp_path: Path):
    before = archive(quick_run(tmp_path / "mine").run)
    prepared = []
    again = quick_run(
        tmp_path / "mine",
        segment=forbidden,
        prepare=lambda *_: prepared.append(1),
        report=lambda run: {"points": run.folder.path / "points.csv"},
    )
    assert again.outcome == "finished"
    assert archive(again.run) == before
    assert prepared == []
    assert again.files == {"points": tmp_path / "mine" / "points.csv"}


def test_more_trials_go_on_where_fewer_ended(tmp_path: Path):
    few = quick_run(tmp_path / "mine", trials=4)
    assert len(few.run.trials) == 4
    more = quick_run(tmp_path / "mine", "search.trials=6")
    whole = quick_run(tmp_path / "whole")
    for part in ("trials", "observations", "base"):
        assert archive(more.run)[part] == archive(whole.run)[part]
    # The test split was read again only if the front has new points; here it has none.
    assert len(more.run.test_openings) == 1


def test_new_points_on_the_front_open_test_once_more(tmp_path: Path):
    quick_run(tmp_path / "mine", trials=2)
    run = quick_run(tmp_path / "mine", trials=3).run
    assert [e.points for e in run.test_openings] == [((BASE, 0), (0, 6), (1, 6)), ((2, 6),)]
    assert set(run.tests) == {(BASE, 0), (0, 6), (1, 6), (2, 6)}


def test_a_study_without_a_space_repeats_itself(tmp_path: Path):
    text = quick.TEXT[: quick.TEXT.index("  space:")] + "executor: local\ntrackers: []\n"
    study = quick.load(text, "s.yaml", quick.quick_catalogue(), ["search.trials=2"])
    run = quick_run(tmp_path / "mine", study=study).run
    assert [t.proposal for t in run.trials.values()] == [Proposal({})] * 2


def test_a_grid_ends_when_it_is_exhausted(tmp_path: Path):
    overrides = (
        "search.strategy={grid: {divisions: 2}}",
        "search.space={weighting.preference: simplex}",
    )
    result = quick_run(tmp_path / "mine", *overrides)
    assert (result.outcome, len(result.run.trials)) == ("finished", 3)
    again = quick_run(tmp_path / "mine", *overrides, segment=forbidden)
    assert archive(again.run) == archive(result.run)


def test_a_strategy_that_cannot_search_the_space_is_refused_before_anything(tmp_path: Path):
    with pytest.raises(OptionError, match="the space has 1002001 combinations"):
        quick_run(tmp_path / "mine", "search.strategy={grid: {points: 1001, divisions: 1000}}")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("method", ["check", "previews"])
def test_a_strategy_that_raises_before_anything_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
):
    study = quick_study()

    def divides(history):
        return 1 / 0

    monkeypatch.setattr(study.strategy, method, divides)
    with pytest.raises(StudyError) as caught:
        quick_run(tmp_path / "mine", study=study)
    assert str(caught.value).startswith(
        "strategy random could not say whether it can search this study: ZeroDivisionError: "
        "division by zero (test_driver.py line "
    )
    assert not (tmp_path / "mine").exists()


# --- another study, another driver -------------------------------------------------------------


def test_a_changed_study_is_refused_and_the_difference_shown(tmp_path: Path):
    before = archive(quick_run(tmp_path / "mine").run)
    with pytest.raises(RecordError) as caught:
        quick_run(tmp_path / "mine", "training.steps=8", "objectives.b.at_least=0.2")
    assert str(caught.value) == (
        "run mine was begun with another study; give the new study a run of its own with --run "
        "NAME, or put the old one back. What has changed, in the file or in a default:\n"
        "  objectives.b.at_least: 0.1 -> 0.2\n"
        "  training.steps: 6 -> 8"
    )
    assert archive(read(RunFolder(tmp_path / "mine"))) == before
    assert quick_run(tmp_path / "other", "training.steps=8").outcome == "finished"


def test_another_order_of_objectives_is_another_study(tmp_path: Path):
    """What has one number per objective, in their order, is read back as it was written."""
    quick_run(tmp_path / "mine", trials=1)
    first, second, rest = re.split(r"(?m)^  (?=b:|length:)", quick.TEXT)
    head, first = first.split("objectives:\n")
    text = f"{head}objectives:\n  {second}{first}  {rest}"
    study = quick.load(text, "s.yaml", quick.quick_catalogue())
    with pytest.raises(RecordError, match=r"order of objectives: a, b, length -> b, a, length$"):
        quick_run(tmp_path / "mine", study=study)


def test_a_run_from_before_a_key_goes_on_with_its_default(tmp_path: Path):
    quick_run(tmp_path / "mine", trials=2)
    file = RunFolder(tmp_path / "mine").events
    first, *rest = file.read_text().splitlines()
    opened = json.loads(first)
    del opened["study"]["training"]["gradients"]
    opened["fingerprint"] = "of an earlier version"
    file.write_text("\n".join([json.dumps(opened), *rest]) + "\n")
    with pytest.raises(RecordError, match=r"training\.gradients\.sketch: None -> 8$"):
        quick_run(tmp_path / "mine", "training.gradients.sketch=8")
    assert quick_run(tmp_path / "mine", trials=3).outcome == "finished"


def test_executor_trackers_report_and_trials_may_change(tmp_path: Path):
    quick_run(tmp_path / "mine", trials=2)
    overrides = ("report.resamples=100", "trackers=[notes]", "executor=processes")
    assert quick_run(tmp_path / "mine", *overrides, trials=3).outcome == "finished"


def test_changed_plugin_files_are_refused(tmp_path: Path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(Path(quick.__file__).read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOALIGN_PLUGINS", "")
        catalogue = quick.plugins.load([plugin])
        study = quick.load(quick.TEXT, "s.yaml", catalogue)
        quick_run(tmp_path / "run", study=study, trials=1)
        plugin.write_text(plugin.read_text() + "\n# changed\n")
        study = quick.load(quick.TEXT, "s.yaml", quick.plugins.load([plugin]))
        with pytest.raises(
            RecordError, match=r"run run was begun with the plugin files .*mine\.py"
        ):
            quick_run(tmp_path / "run", study=study, trials=1)


def test_two_drivers_on_one_run(tmp_path: Path):
    refused = []

    def meanwhile(study, run, progress):
        with pytest.raises(RecordError, match=f"driven by process {os.getpid()} on "):
            quick_run(tmp_path / "mine")
        refused.append(True)

    assert quick_run(tmp_path / "mine", prepare=meanwhile).outcome == "finished"
    assert refused == [True]


# --- order -------------------------------------------------------------------------------------


def test_logical_order_does_not_depend_on_who_is_faster(tmp_path: Path):
    """Two workers that finish in the wrong order, and real ones with random delays."""
    backwards = archive(quick_run(tmp_path / "a", executor=Pairs()).run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUICK_DELAY", "0.02")
        real = archive(quick_run(tmp_path / "b", executor=Processes(workers=2)).run)
    assert real == backwards
    alone = archive(quick_run(tmp_path / "c", executor=Local()).run)
    assert alone["trials"].keys() == backwards["trials"].keys()


def test_a_proposal_is_made_from_exactly_the_results_it_may_know(tmp_path: Path):
    seen = []

    class Watching(Strategy):
        """Notes what it knows."""

        name = "watching"
        corners_first: ClassVar[bool] = False

        def propose(self, history, n, seed):
            known = sorted({o.trial for o in history.observations})
            seen.append((history.proposed, known, sorted(history.pending), seed))
            weights = {"a": 0.5, "b": 0.5}
            return [Proposal({"weighting.preference": weights, "training.learning_rate": 3e-4})]

    study = quick_study("search.rungs=[]")
    object.__setattr__(study, "strategy", Watching())
    quick_run(tmp_path / "mine", study=study, executor=Pairs(3))
    assert [(number, known, pending) for number, known, pending, _ in seen] == [
        (0, [], []),
        (1, [], [0]),
        (2, [], [0, 1]),
        (3, [0], [1, 2]),
        (4, [0, 1], [2, 3]),
        (5, [0, 1, 2], [3, 4]),
    ]
    assert len({seed for *_, seed in seen}) == 6
    assert all(0 <= seed < 2**31 for *_, seed in seen)


def test_going_on_with_another_number_of_workers_changes_nothing(tmp_path: Path):
    whole = archive(quick_run(tmp_path / "whole", executor=Pairs(3)).run)
    for trials, workers in ((1, 3), (4, 1), (6, 2)):
        quick_run(tmp_path / "mine", trials=trials, executor=Pairs(workers))
    parts = archive(read(RunFolder(tmp_path / "mine")))
    assert parts["trials"] == whole["trials"]
    assert parts["observations"] == whole["observations"]


def test_order_of_arrival_keeps_every_worker_busy(tmp_path: Path):
    class Counting(Pairs):
        name = "counting"
        most = 0

        def submit(self, task):
            super().submit(task)
            training = [task for task in self._queue if task.split == "validation"]
            Counting.most = max(Counting.most, len(training))

    result = quick_run(tmp_path / "mine", "search.order=arrival", executor=Counting())
    assert (result.outcome, len(result.run.trials)) == ("finished", 6)
    assert Counting.most == 3  # two trials, and the base policy at the beginning


# --- proposals that start elsewhere ------------------------------------------------------------


class Extending(Strategy):
    """Every second trial goes on from the best policy that is kept."""

    name = "extending"
    corners_first = False

    def propose(self, history, n, seed):
        rate = {"training.learning_rate": 3e-4}
        share = 0.1 + 0.8 * (seed % 1000) / 1000
        params = {"weighting.preference": {"a": share, "b": 1 - share}, **rate}
        kept = [o for o in history.observations if o.kept]
        if history.proposed % 2 == 0 or not kept:
            return [Proposal(params)]
        best = max(kept, key=lambda o: o.values_K[0])
        start = Start(((best.trial, best.step),), (1.0,))
        return [Proposal(params, start, steps=3, settings={"training.warmup": 2})]


def test_a_trial_can_start_from_a_policy_that_is_kept(tmp_path: Path):
    studies = [quick_study() for _ in range(3)]
    for study in studies:
        object.__setattr__(study, "strategy", Extending())
    tasks = []

    def noted(task, emit, cache):
        tasks.append(task)
        quick.quick_segment(task, emit, cache)

    whole = quick_run(tmp_path / "whole", study=studies[0], executor=Pairs(), segment=noted)
    warm = [t for t in whole.run.trials.values() if not t.proposal.start.scratch]
    assert len(warm) >= 2
    assert all(t.total == 3 and t.outcome == "finished" for t in warm)
    own = [task for task in tasks if task.trial == warm[0].number]
    # It cannot be compared, so it is not measured at the rung at step 2.
    validated = [t for t in own if t.split == "validation"]
    assert [(t.since, t.until, t.total) for t in validated] == [(0, 3, 3)]
    assert own[0].start == warm[0].proposal.start
    assert own[0].study["training"]["warmup"] == 2
    # Adding trials to a finished run, which has deleted what is dominated, works as well.
    quick_run(tmp_path / "parts", study=studies[1], executor=Pairs(), trials=3)
    parts = quick_run(tmp_path / "parts", study=studies[2], executor=Pairs(), trials=7)
    assert parts.outcome == "finished"


class Mixing(Strategy):
    """Mixes the two first trials that are kept half and half, and measures what comes out."""

    name = "mixing"
    corners_first = False

    def propose(self, history, n, seed):
        kept = list(dict.fromkeys((o.trial, o.step) for o in history.observations if o.kept))
        params = history.observations[0].params
        return [Proposal(params, Start(tuple(kept[:2]), (0.5, 0.5)), steps=0, reason="a try")]


def test_a_soup_is_a_trial_of_no_steps(tmp_path: Path):
    first = quick_run(tmp_path / "mine", study=quick_study("search.trials=4"))
    assert len(first.run.trials) == 4
    study = quick_study("search.trials=4")
    result = quick_run(tmp_path / "mine", study=study, trials=5, strategy=Mixing())
    assert result.outcome == "finished"
    soup = result.run.trials[4]
    assert (soup.total, soup.outcome, list(soup.measured)) == (0, "finished", [0])
    assert soup.proposal.reason == "a try"
    # The study is the same one: its own strategy goes on with it.
    more = quick_run(tmp_path / "mine", study=study, trials=6).run.trials[5]
    assert (more.total, more.proposal.start.scratch) == (6, True)


def test_what_a_strategy_proposes_wrongly_fails_that_trial_only(tmp_path: Path):
    class Wrong(Strategy):
        """Proposes a value that does not exist, once."""

        name = "wrong"
        corners_first = False

        def propose(self, history, n, seed):
            weights = {"a": 0.5, "b": 0.5}
            rate = -1.0 if history.proposed == 1 else 3e-4
            return [Proposal({"weighting.preference": weights, "training.learning_rate": rate})]

    study = quick_study("search.trials=3")
    object.__setattr__(study, "strategy", Wrong())
    run = quick_run(tmp_path / "mine", study=study).run
    assert [t.outcome for t in run.trials.values()] == ["finished", "failed", "finished"]
    assert run.trials[1].reason.startswith("the strategy proposed what cannot be run: ")
    assert "training.learning_rate" in run.trials[1].reason


# --- failures ----------------------------------------------------------------------------------


def test_a_strategy_is_told_which_trials_failed(tmp_path: Path, faults):
    seen = {}

    class Watching(Strategy):
        name = "watching"
        corners_first = False

        def propose(self, history, n, seed):
            seen[history.proposed] = history.failed
            share = 0.1 + 0.1 * history.proposed
            weights = {"a": share, "b": 1 - share}
            return [Proposal({"weighting.preference": weights, "training.learning_rate": 3e-4})]

    faults({"trial": 1, "step": 4, "kind": "non-finite"}, {"trial": 2, "step": 1, "kind": "raise"})
    study = quick_study("search.trials=4")
    object.__setattr__(study, "strategy", Watching())
    quick_run(tmp_path / "mine", study=study)
    assert seen == {0: set(), 1: set(), 2: {1}, 3: {1, 2}}


@pytest.mark.parametrize(
    "other", [BoTorch(startup=2), ParzenEstimator(startup=2)], ids=["botorch", "tpe"]
)
def test_values_outside_the_space_are_no_failure_to_learn_from(tmp_path: Path, other: Strategy):
    """A run that a broken strategy began goes on with one that models what failed."""

    class Wrong(Strategy):
        name = "wrong"
        corners_first = False

        def propose(self, history, n, seed):
            params = {"weighting.preference": {"a": 0.5, "b": 0.5}}
            return [Proposal({**params, "training.learning_rate": -1.0})]

    study = quick_study("search.trials=6")
    wrong = quick_run(tmp_path / "mine", study=study, strategy=Wrong(), trials=2).run
    assert [t.outcome for t in wrong.trials.values()] == ["failed", "failed"]
    found = quick_run(tmp_path / "mine", study=study, strategy=other, trials=6).run
    assert [t.outcome == "failed" for t in found.trials.values()] == [True, True] + [False] * 4


def test_a_reason_that_is_no_text_costs_that_trial_only(tmp_path: Path, faults):
    """A file name that is no UTF-8 ends up in messages as half a character."""
    faults({"trial": 1, "step": 4, "kind": "no-text"})
    result = quick_run(tmp_path / "mine")
    assert result.outcome == "finished"
    assert "no file r\\udce9sum\\udce9" in result.run.trials[1].reason
    assert archive(quick_run(tmp_path / "mine").run) == archive(result.run)


def test_a_trial_that_fails_takes_no_other_with_it(tmp_path: Path, faults):
    faults({"trial": 1, "step": 4, "kind": "non-finite"}, {"trial": 2, "step": 1, "kind": "raise"})
    result = quick_run(tmp_path / "mine")
    trials = result.run.trials
    assert result.outcome == "finished"
    assert (trials[1].outcome, trials[1].reason) == ("failed", "the loss is not finite")
    reason = r"ZeroDivisionError: division by zero in a reward \(quick.py line \d+\)"
    assert trials[2].outcome == "failed"
    assert re.fullmatch(reason, trials[2].reason)
    first, second = lines(tmp_path / "mine", events.Failed)
    assert first.detail == ""
    assert "in quick_segment" in second.detail
    assert sorted(trials) == list(range(6))
    # The last good checkpoint of a failed trial stays whole.
    good = RunFolder(tmp_path / "mine").checkpoint(1, 2)
    assert {p.name for p in good.iterdir()} >= {"validation.json", "policy", "training"}


def test_trials_that_failed_are_tried_again_from_their_last_checkpoint_when_asked(
    tmp_path: Path, faults
):
    faults({"trial": 1, "step": 4, "kind": "non-finite"}, {"trial": 2, "step": 1, "kind": "raise"})
    quick_run(tmp_path / "mine")
    faults()
    tasks: list[tuple[int, int]] = []

    def watched(task, emit, cache):
        tasks.append((task.trial, task.since))
        quick.quick_segment(task, emit, cache)

    again = quick_run(tmp_path / "mine", segment=watched)
    assert tasks == []
    assert [again.run.trials[t].outcome for t in (1, 2)] == ["failed", "failed"]
    tried = quick_run(tmp_path / "mine", segment=watched, retry_failed=True)
    assert tried.outcome == "finished"
    assert "failed" not in {t.outcome for t in tried.run.trials.values()}
    assert {(1, 2), (2, 0)} <= set(tasks)
    assert {trial for trial, _ in tasks} <= {1, 2, *(o.trial for o in tried.run.front())}
    assert [e.trial for e in lines(tmp_path / "mine", events.Retried)] == [1, 2]
    # As if they had never failed: random numbers are keyed.
    undisturbed = quick_run(tmp_path / "other").run.trials
    for number in (1, 2):
        mine, other = tried.run.trials[number], undisturbed[number]
        common = mine.measured.keys() & other.measured.keys()
        assert common
        assert all(mine.measured[s].points == other.measured[s].points for s in common)
    quick_run(tmp_path / "mine", segment=watched, retry_failed=True)
    assert len(lines(tmp_path / "mine", events.Retried)) == 2


def test_a_study_whose_trials_all_fail_says_so(tmp_path: Path, faults):
    faults(*({"trial": t, "step": 1, "kind": "raise"} for t in range(6)))
    result = quick_run(tmp_path / "mine", report=lambda run: pytest.fail("nothing to report"))
    assert result.outcome == result.run.closed == "failed"
    assert result.run.test_openings == []


def test_a_base_policy_that_cannot_be_measured_ends_the_study(tmp_path: Path):
    def broken(task, emit, cache):
        raise ZeroDivisionError("no good")

    with pytest.raises(StudyError, match="the base policy could not be measured on validation: "):
        quick_run(tmp_path / "mine", segment=broken)
    (failed,) = lines(tmp_path / "mine", events.Failed)
    assert failed.trial == BASE
    assert re.fullmatch(r"ZeroDivisionError: no good \(test_driver.py line \d+\)", failed.reason)
    assert "in broken" in failed.detail
    assert read(RunFolder(tmp_path / "mine")).closed == "failed"
    assert quick_run(tmp_path / "mine").outcome == "finished"  # once it is mended


@pytest.mark.parametrize(
    ("kind", "text"),
    [("full", "No space left on device"), ("plugin", "plugin file x.py has changed")],
)
def test_what_every_trial_would_meet_ends_the_study_and_is_held_against_none(
    tmp_path: Path, faults, kind: str, text: str
):
    faults({"trial": 2, "step": 3, "kind": kind})
    with pytest.raises(RecordError, match=text):
        quick_run(tmp_path / "mine")
    assert lines(tmp_path / "mine", events.Failed) == []
    faults()
    resumed = archive(quick_run(tmp_path / "mine").run)
    assert resumed == archive(quick_run(tmp_path / "whole").run)


def test_a_damaged_checkpoint_is_not_believed(tmp_path: Path):
    def damaging(task, emit, cache):
        quick.quick_segment(task, emit, cache)
        if task.trial == 1 and task.until == 4:
            RunFolder(task.run).measurements(1, 4, "validation").write_text('{"trial": 1')

    with pytest.raises(RecordError, match=r"0001/step-00004/validation\.json: these measurements"):
        quick_run(tmp_path / "mine", segment=damaging)
    quick.shutil.rmtree(RunFolder(tmp_path / "mine").checkpoint(1, 4))  # as the message says
    resumed = archive(quick_run(tmp_path / "mine").run)
    assert resumed == archive(quick_run(tmp_path / "whole").run)


def test_what_trials_say_in_training_is_written_down_once_and_reported(tmp_path: Path):
    def talking(task, emit, cache):
        def told(event):
            notes = ("this reward is flat", *(("rows are left out",) if event.trial == 1 else ()))
            emit(replace(event, notes=notes))

        quick.quick_segment(task, told, cache)

    with pytest.warns(UserWarning, match="is flat|left out"):
        result = quick_run(
            tmp_path / "mine", segment=talking, report=lambda run: write_report(run, {})
        )
    run = result.run
    assert run.notes["rows are left out"] == [1]
    assert sorted(run.notes["this reward is flat"]) == list(range(6))
    assert read(RunFolder(tmp_path / "mine")).notes == run.notes
    section = result.files["report"].read_text().partition("## Said in training\n\n")[2]
    assert section.startswith("- 6 trials: this reward is flat\n- trial 1: rows are left out\n")
    assert archive(run) == archive(quick_run(tmp_path / "whole").run)
    assert quick_run(tmp_path / "silent").run.notes == {}


def test_a_lost_worker_is_replaced_and_its_segment_tried_again(tmp_path: Path, faults):
    whole = archive(quick_run(tmp_path / "whole", executor=Pairs()).run)
    faults({"trial": 1, "step": 3, "kind": "kill", "times": 2})
    with pytest.warns(UserWarning, match="trial 1 at step 4: the worker process") as told:
        result = quick_run(
            tmp_path / "mine",
            executor=Processes(workers=2),
            report=lambda run: write_report(run, {}),
        )
    assert [str(one.message).partition(" was killed by ")[2] for one in told] == [
        f"SIGKILL; the segment is tried again (attempt {attempt} of 3)" for attempt in (2, 3)
    ]
    assert archive(result.run) == whole
    lost = lines(tmp_path / "mine", events.Lost)
    assert [(e.trial, e.step, e.attempt) for e in lost] == [(1, 4, 0), (1, 4, 1)]
    assert all("was killed by SIGKILL" in e.reason for e in lost)
    assert result.run.lost_workers == lost
    section = result.files["report"].read_text().partition("## Lost workers\n\n")[2]
    assert f"\n- trial 1, step 4, attempt 1: {lost[0].reason}\n" in section
    assert f"\n- trial 1, step 4, attempt 2: {lost[1].reason}\n" in section


def test_a_worker_that_hangs_is_killed_and_its_segment_tried_again(tmp_path: Path, faults):
    whole = archive(quick_run(tmp_path / "whole", executor=Pairs()).run)
    faults({"trial": 1, "step": 3, "kind": "hang", "times": 1})
    executor = Processes(workers=2, timeout=0.15)  # minutes; a worker's first import counts
    with pytest.warns(UserWarning, match="did not end within") as told:
        assert archive(quick_run(tmp_path / "mine", executor=executor).run) == whole
    assert (
        "trial 1 at step 4: the segment did not end within 0.15 minutes; the segment is tried "
        "again (attempt 2 of 3)"
    ) in [str(one.message) for one in told]
    # On a busy machine others may have taken too long as well.
    (lost,) = [e for e in lines(tmp_path / "mine", events.Lost) if (e.trial, e.step) == (1, 4)]
    assert lost.attempt == 0
    assert lost.reason == "the segment did not end within 0.15 minutes"


def test_a_segment_that_loses_every_worker_is_given_up(tmp_path: Path, faults):
    faults({"trial": 1, "step": 3, "kind": "kill"})
    with pytest.warns(UserWarning, match="the segment is tried again") as told:
        result = quick_run(tmp_path / "mine", executor=Processes(workers=2), trials=3)
    assert len(told) == 2
    trials = result.run.trials
    assert [t.outcome for t in trials.values()] == ["finished", "failed", "finished"]
    assert trials[1].reason.startswith("its worker was lost 3 times, the last time because the ")


# --- interruptions -----------------------------------------------------------------------------


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(tmp_path: Path, faults):
    whole = archive(quick_run(tmp_path / "whole").run)
    faults({"trial": 2, "step": 3, "kind": "interrupt"})
    result = quick_run(tmp_path / "mine")
    assert result.outcome == result.run.closed == "interrupted"
    assert result.files == {}
    faults()
    assert archive(quick_run(tmp_path / "mine").run) == whole


def test_ctrl_c_is_answered_before_anything_is_waited_for(tmp_path: Path, faults):
    told = []

    class Ending(Local):
        def close(self):
            told.append("workers end")
            super().close()

    class View:
        @hookimpl
        def moalign_study_ended(self, outcome):
            told.append(outcome)

    faults({"trial": 2, "step": 3, "kind": "interrupt"})
    quick_run(tmp_path, executor=Ending(), listeners=[View()], leaving=told.append)
    assert told[:3] == [{2: 2}, "workers end", "interrupted"], "trial 2 has been at rung 2"
    del told[:]
    faults({"trial": 2, "step": 4, "kind": "interrupt"})
    quick_run(tmp_path, "executor=local", leaving=told.append)
    assert told == [{2: 2}]


def test_ctrl_c_while_a_study_closes_has_nothing_to_tell(tmp_path: Path):
    class View:
        @hookimpl
        def moalign_study_ended(self, outcome):
            if outcome == "finished":
                raise KeyboardInterrupt

    told = []
    assert quick_run(tmp_path, listeners=[View()], leaving=told.append).outcome == "interrupted"
    assert told == []
    assert quick_run(tmp_path).outcome == "finished"


def test_when_the_time_is_up_nothing_new_begins(tmp_path: Path, monkeypatch):
    whole = archive(quick_run(tmp_path / "whole").run)
    first = quick_run(tmp_path / "mine", max_hours=0.0)
    assert first.outcome == "interrupted"
    assert first.run.base is not None  # what ran was waited for
    assert not first.run.trials
    clock = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    calls, result = 1, first
    while result.outcome == "interrupted":
        assert not result.run.test_openings
        result = quick_run(tmp_path / "mine", max_hours=12 / 3600)
        calls += 1
    assert result.outcome == "finished"
    assert 5 < calls < 50
    assert archive(result.run) == whole


def test_leftovers_of_a_killed_driver_are_swept(tmp_path: Path):
    folder = RunFolder(tmp_path / "mine")
    quick_run(tmp_path / "mine", trials=1)
    for name in ("trials/0000/.step-00002.77", "trials/0000/step-00006/.policy"):
        (folder.path / name).mkdir()
        (folder.path / name / "half").write_text("x")
    (folder.path / "base/step-00000/.test.json.77").write_text("x")
    quick_run(tmp_path / "mine", trials=1)
    assert not [p for p in folder.path.rglob(".*") if p.name != ".artifacts"]


def test_a_record_that_cannot_be_written_leaves_no_tracker_open(tmp_path: Path, monkeypatch):
    study, append = quick_study("trackers=[notes]"), Record.append

    def full(record: Record, event: events.Event) -> None:
        if isinstance(event, events.Closed) or len(record.state.trials) == 2:
            raise RecordError("the disk is full")
        append(record, event)

    monkeypatch.setattr(Record, "append", full)
    with pytest.raises(RecordError, match="the disk is full"):
        quick_run(tmp_path / "mine", study=study)
    assert notes(study).calls[-1] == ("study_ended", "failed", {})
    assert notes(study).closed == 1
    monkeypatch.undo()
    whole = quick_run(tmp_path / "whole").run
    assert archive(quick_run(tmp_path / "mine").run) == archive(whole)


# --- announcements -----------------------------------------------------------------------------


def notes(study) -> quick.Notes:
    """Return the tracker that was told something; checking a study builds others."""
    built = study.catalogue.find("tracker", "notes").instances
    (told,) = [tracker for tracker in built if tracker.calls]
    return told


def test_trackers_hear_everything_in_order_and_once(tmp_path: Path):
    study = quick_study("trackers=[notes]")
    files = {"study": Path("s")}
    quick_run(tmp_path / "mine", study=study, trials=2, report=lambda run: files)
    calls = notes(study).calls
    assert calls[0] == ("study_started", "mine", False)
    assert calls[1] == ("trial_started", 0)
    assert calls[-1] == ("study_ended", "finished", files)
    assert [c for c in calls if c[0] == "base_measured"] == [
        ("base_measured", ("a", "b", "length"))
    ]
    assert [c[1] for c in calls if c[0] == "trial_started"] == [0, 1]
    assert [c[1:] for c in calls if c[0] == "segment_ended"] == [
        (trial, step, 1) for trial in (0, 1) for step in (2, 4, 6)
    ]
    assert [c[1:] for c in calls if c[0] == "step_ended"] == [
        (trial, step) for trial in (0, 1) for step in range(1, 7)
    ]
    assert [c[1:] for c in calls if c[0] == "trial_ended"] == [
        (0, "finished", ""),
        (1, "finished", ""),
    ]
    volumes = [c[2] for c in calls if c[0] == "front_updated"]
    assert len(volumes) == 5  # trial 1 is dominated at its first rung
    assert volumes == sorted(set(volumes))
    assert notes(study).closed == 1


def test_trackers_hear_why_a_rung_stopped_a_trial(tmp_path: Path):
    study = quick_study("trackers=[notes]")
    run = quick_run(tmp_path / "mine", study=study).run
    stops = {e.trial: e.reason for e in lines(tmp_path / "mine", events.Decided) if not e.go_on}
    assert len(stops) == 3
    assert all(stops.values())
    told = [call[1:] for call in notes(study).calls if call[0] == "trial_ended"]
    assert {trial: reason for trial, outcome, reason in told if outcome == "stopped"} == stops
    # And again, word for word, when the trackers are told of what was recorded.
    study = quick_study("trackers=[notes]")
    quick_run(tmp_path / "mine", study=study)
    reasons = {call[1]: call[3] for call in notes(study).calls if call[0] == "trial_ended"}
    assert reasons == {number: trial.reason for number, trial in run.trials.items()}


def test_after_a_resume_trackers_are_told_again_and_views_are_not(tmp_path: Path):
    class View:
        def __init__(self):
            self.trials = set()

        @hookimpl
        def moalign_trial_ended(self, trial):
            self.trials.add(trial)

    quick_run(tmp_path / "mine", trials=1)
    study, view = quick_study("trackers=[notes]"), View()
    quick_run(tmp_path / "mine", study=study, trials=2, listeners=[view])
    calls = notes(study).calls
    assert calls[0] == ("study_started", "mine", True)
    assert ("base_measured", ("a", "b", "length")) in calls
    for what in ("trial_started", "segment_ended", "trial_ended"):
        assert {c[1] for c in calls if c[0] == what} == {0, 1}
    assert view.trials == {1}


def test_a_tracker_that_fails_is_reported_once_and_stops_nothing(tmp_path: Path):
    study = quick_study("trackers=[broken, notes]")
    with pytest.warns(UserWarning, match="tracker broken failed") as caught:
        result = quick_run(tmp_path / "mine", study=study, trials=1)
    assert result.outcome == "finished"
    assert [str(w.message) for w in caught] == [
        "tracker broken failed in moalign_step_ended and the study goes on without it: OSError: "
        "the server is away",
        "tracker broken failed 6 times in all",
    ]
    assert len([c for c in notes(study).calls if c[0] == "step_ended"]) == 6


def test_strict_lets_a_listener_end_the_study(tmp_path: Path):
    with pytest.raises(OSError, match="the server is away"):
        quick_run(tmp_path / "mine", "trackers=[broken]", strict=True)
    assert read(RunFolder(tmp_path / "mine")).closed == "failed"


def test_a_listener_that_misspells_a_hook_is_refused(tmp_path: Path):
    class View:
        @hookimpl
        def moalign_step_end(self, event):
            pass

    with pytest.raises(PluginError, match="no hook is called 'moalign_step_end'; did you mean"):
        quick_run(tmp_path / "mine", listeners=[View()])
    assert not (tmp_path / "mine").exists()


def test_a_view_hears_what_trackers_hear(tmp_path: Path):
    heard = []

    class View:
        @hookimpl
        def moalign_trial_ended(self, trial, outcome):
            heard.append((trial, outcome))

    quick_run(tmp_path / "mine", listeners=[View()], trials=1)
    assert heard == [(0, "finished")]
