"""C-MORL: which point is extended next, what it must keep, and that training keeps it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import letters
import pytest
import quick
import testbeds

from moalign import plugins
from moalign.errors import NonFiniteError, OptionError, StudyError
from moalign.plugins import Entry
from moalign.search import proposals
from moalign.search.archive import Run, Trial
from moalign.search.driver import run_study
from moalign.search.folders import RunFolder
from moalign.search.measurements import Measured, Measurements
from moalign.strategies.kept import with_proposal
from moalign.study.loading import load
from moalign.training import checkpoint
from moalign.types import (
    Choice,
    Cost,
    Evaluation,
    FloatRange,
    History,
    Objective,
    Observation,
    Proposal,
    Simplex,
    Start,
)
from moalign_plugins.strategies.cmorl import (
    INITIAL,
    MULTIPLIERS,
    ConstrainedExtension,
    by_isolation,
)
from moalign_plugins.weightings.lagrangian import Lagrangian

PATH = "weighting.preference"
SPACE = {PATH: Simplex(("a", "b")), "training.learning_rate": FloatRange(1e-4, 1e-3, log=True)}
OBJECTIVES = (Objective("a", (0.0, 4.0)), Objective("b", (0.0, 4.0)))
FRONT = ((0.0, 4.0), (1.0, 2.0), (3.0, 1.0), (4.0, 0.0))
STEPS = 40


def params(number: int) -> dict[str, Any]:
    share = (number + 1) / 20
    return {PATH: {"a": share, "b": 1 - share}, "training.learning_rate": 2e-4}


def seen(trial: int, values: Sequence[float], **changes: Any) -> Observation:
    given = Observation(
        trial=trial,
        step=STEPS,
        full=True,
        start=Start(),
        condition=None,
        params=params(trial),
        values_K=tuple(values),
        stderr_K=(0.01,) * len(values),
        cost=Cost(),
        kept=True,
    )
    return replace(given, **changes)


def history(
    points: Sequence[Sequence[float]] = FRONT, objectives: Sequence[Objective] = OBJECTIVES
) -> History:
    """Return what is known once trials from scratch have given these points, all on the front."""
    return History(
        space=SPACE,
        objectives=tuple(objectives),
        observations=tuple(seen(trial, values) for trial, values in enumerate(points)),
        pending={},
        steps=STEPS,
        trials=20,
        proposed=len(points),
        made={trial: Proposal(params(trial)) for trial in range(len(points))},
    )


def target(proposal: Proposal) -> tuple[int, str]:
    """Return the trial that a proposal extends, and the objective that it maximises."""
    (((trial, _step),),) = (proposal.start.points,)
    return trial, proposal.settings["weighting"]["lagrangian"]["primary"]


def arrived(known: History, values: Sequence[float], *, kept: bool = True) -> History:
    """Return the history once the trial that runs has given a point."""
    ((number, proposal),) = known.pending.items()
    observation = seen(number, values, start=proposal.start, step=10, kept=kept)
    return replace(known, pending={}, observations=(*known.observations, observation))


# --- which point -------------------------------------------------------------------------------


def test_the_ends_come_first_then_the_loneliest_between_them():
    ranked = by_isolation(history().observations)
    assert [point.trial for point in ranked] == [0, 3, 1, 2], "distances inf, 1.5, 1.25, inf"
    found = ConstrainedExtension().propose(history(), 6, seed=0)
    assert [target(p) for p in found] == [(t, name) for t in (0, 3, 1) for name in ("a", "b")]


def test_what_misses_a_threshold_comes_last_and_is_extended_in_what_it_misses():
    name, low = OBJECTIVES[0].name, sorted(values[0] for values in FRONT)[2]
    held = (replace(OBJECTIVES[0], at_least=low), *OBJECTIVES[1:])
    found = ConstrainedExtension().propose(history(objectives=held), 20, seed=0)
    extended = [target(p) for p in found if p.start.points]
    short = [trial for trial, values in enumerate(FRONT) if values[0] < low]
    late = [trial in short for trial, _ in extended]
    assert late == sorted(late)
    assert {primary for trial, primary in extended if trial in short} == {name}
    assert len({trial for trial, _ in extended}) == len(FRONT)


def test_an_objective_that_is_constant_decides_nothing():
    flat = (*OBJECTIVES, Objective("c", (0.0, 1.0)))
    found = by_isolation(history([(*point, 0.5) for point in FRONT], flat).observations)
    assert [point.trial for point in found] == [0, 3, 1, 2]
    same = by_isolation(history([(1.0, 1.0)] * 3).observations)
    assert [point.trial for point in same] == [0, 1, 2]


def test_only_policies_that_stand_and_read_no_weights_are_extended():
    known = history()
    gone = [replace(o, kept=o.trial not in (0, 1)) for o in known.observations]
    gone[3] = replace(gone[3], condition={"a": 1.0, "b": 0.0})
    found = ConstrainedExtension().propose(replace(known, observations=tuple(gone)), 3, seed=0)
    assert [target(p) for p in found[:2]] == [(2, "a"), (2, "b")]
    assert found[2].start.scratch, "nothing is left to extend"


def test_no_point_is_extended_twice_in_the_same_objective():
    found = ConstrainedExtension(sources=1).propose(history(), 10, seed=0)
    targets = [target(p) for p in found if not p.start.scratch]
    assert len(targets) == len(set(targets)) == 8
    assert [p.start.scratch for p in found] == [False] * 8 + [True] * 2
    assert len({p.params[PATH]["a"] for p in found[8:]}) == 2


def test_one_that_failed_is_not_proposed_again():
    known, strategy = history(), ConstrainedExtension()
    (first,) = strategy.propose(known, 1, seed=0)
    failed = replace(with_proposal(known, first), pending={})
    assert target(strategy.propose(failed, 1, seed=0)[0]) == (0, "b")


def test_a_round_looks_at_the_points_before_it_only():
    """Else the end that an extension has pushed out is the next source, and so for ever."""
    known, strategy = history(), ConstrainedExtension(sources=3)
    order = []
    for further in range(8):
        (proposal,) = strategy.propose(known, 1, seed=further)
        order.append(target(proposal))
        new_end = (-1.0 - further, 5.0 + further)
        known = arrived(with_proposal(known, proposal), new_end)
    assert [trial for trial, _ in order[:6]] == [0, 0, 3, 3, 1, 1]
    assert order[6] == (9, "a"), "the end that the last trial of the round has reached"
    assert order[7] == (9, "b")


def test_a_round_ends_when_its_points_are_gone():
    known, strategy = history(FRONT[:3]), ConstrainedExtension(sources=5)
    for number in range(6):
        (proposal,) = strategy.propose(known, 1, seed=number)
        known = arrived(with_proposal(known, proposal), (1.5, 1.9), kept=number == 3)
    assert target(strategy.propose(known, 1, seed=0)[0]) == (6, "a")


def test_a_source_that_left_the_front_is_not_gone_on_with():
    known, strategy = history(), ConstrainedExtension()
    (first,) = strategy.propose(known, 1, seed=0)
    known = arrived(with_proposal(known, first), (0.5, 4.5))
    beaten = tuple(replace(o, kept=o.trial != 0) for o in known.observations)
    (after,) = strategy.propose(replace(known, observations=beaten), 1, seed=0)
    assert target(after) == (3, "a")


def test_seeds_come_first_and_workers_do_not_wait_for_them():
    waiting = replace(history(), observations=())
    few = replace(history(FRONT[:2]), proposed=2)
    for strategy, known in (
        (ConstrainedExtension(), waiting),
        (ConstrainedExtension(), few),
        (ConstrainedExtension(seeds=5), history()),
    ):
        (found,) = strategy.propose(known, 1, seed=0)
        assert (found.start, found.steps, dict(found.settings)) == (Start(), None, {})
        assert set(found.params) == set(SPACE)
    assert not ConstrainedExtension(seeds=4).propose(history(), 1, seed=0)[0].start.scratch


def test_it_is_a_function_of_its_arguments():
    known, used = history(), ConstrainedExtension()
    used.propose(history([(0.0, 1.0), (1.0, 0.0), (0.5, 0.5)]), 4, seed=3)
    assert used.propose(known, 12, seed=7) == ConstrainedExtension().propose(known, 12, seed=7)
    assert used.propose(known, 12, seed=7) != used.propose(known, 12, seed=8), "what it draws"


# --- what it must keep -------------------------------------------------------------------------


def test_what_an_extension_is():
    (found,) = ConstrainedExtension().propose(history(), 1, seed=0)
    assert found == Proposal(
        params=params(0),
        start=Start(((0, STEPS),), (1.0,)),
        steps=10,
        settings={
            "weighting": {
                "lagrangian": {
                    **MULTIPLIERS,
                    "initial": {"b": INITIAL},
                    "primary": "a",
                    "at_least": {"b": pytest.approx(3.6)},
                }
            }
        },
        reason="extends a from t00 and keeps b at least 3.6",
    )
    own = ConstrainedExtension(steps=3, multipliers={"multiplier": "log"})
    (found,) = own.propose(history(), 1, seed=0)
    options = {"multiplier": "log", "primary": "a", "at_least": {"b": pytest.approx(3.6)}}
    assert (found.steps, found.settings) == (3, {"weighting": {"lagrangian": options}})
    assert ConstrainedExtension().propose(replace(history(), steps=2), 1, 0)[0].steps == 1


def test_the_share_that_is_kept_is_taken_off_a_negative_value_as_well():
    strategy, objective = ConstrainedExtension(beta=0.9), OBJECTIVES[0]
    assert strategy.threshold(objective, 2.0) == pytest.approx(1.8)
    assert strategy.threshold(objective, -2.0) == pytest.approx(-2.2), "0.9 * -2 demands more"
    assert strategy.threshold(objective, 0.0) == 0.0
    assert strategy.threshold(objective, 5.0) == 4.0, "the bounds end there"
    assert ConstrainedExtension(beta=1.0).threshold(objective, -2.0) == -2.0
    assert ConstrainedExtension(beta=0.0).threshold(objective, 2.0) == 0.0


def test_a_threshold_of_the_study_s_that_the_source_met_is_kept():
    wanted = Objective("b", (0.0, 4.0), at_least=1.9)
    strategy = ConstrainedExtension(beta=0.9)
    assert strategy.threshold(wanted, 2.0) == 1.9
    assert strategy.threshold(wanted, 4.0) == pytest.approx(3.6)
    assert strategy.threshold(wanted, 1.0) == pytest.approx(0.9), "it did not meet it"


def test_an_objective_that_is_not_trained_is_an_axis_and_no_constraint():
    monitored = (*OBJECTIVES, Objective("c", (0.0, 9.0), train=False))
    known = history([(*p, float(n)) for n, p in enumerate(FRONT)], monitored)
    found = ConstrainedExtension().propose(known, 2, seed=0)
    assert [target(p)[1] for p in found] == ["a", "b"]
    assert list(found[0].settings["weighting"]["lagrangian"]["at_least"]) == ["b"]


# --- what cannot be searched so ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "changes", "sentence"),
    [
        (
            ConstrainedExtension(),
            {"objectives": (OBJECTIVES[0], Objective("b", (0.0, 1.0), train=False))},
            "at least two must be both trained and on the front; found a. Add one",
        ),
        (
            ConstrainedExtension(),
            {"space": {"training.optimizer": Choice(("grpo", "rloo"))}},
            "the space has none; found training.optimizer. Add `weighting.preference: simplex`",
        ),
        (ConstrainedExtension(seeds=2), {}, "`seeds` must be at least 3; found 2"),
    ],
)
def test_what_cannot_be_searched_is_refused(strategy, changes, sentence):
    with pytest.raises(OptionError, match=sentence):
        strategy.check(replace(history(), **changes))


@pytest.mark.parametrize("own", ["primary", "at_least", "equal"])
def test_what_it_sets_itself_is_no_option(own):
    with pytest.raises(OptionError, match=f"`multipliers` holds '{own}'") as caught:
        ConstrainedExtension(multipliers={own: {}})
    assert caught.value.option == "multipliers"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["policy.condition=weights"], "lagrangian does not follow them"),
        (["training.optimizer=dpo"], "reads how the policy's own completions score"),
        (
            ["objectives.c={reward: {letter-share: {letter: c}}, use: [train]}"],
            "objective 'c' has no target; give it `at_least`",
        ),
        (["search.strategy.multipliers={rate: 1}"], "no option 'rate'"),
    ],
)
def test_a_study_that_cannot_be_constrained_is_refused_before_training(overrides, sentence):
    given = [
        "policy.condition=none",
        "weighting=fixed",
        "search.strategy=cmorl",
        "search.space={weighting.preference: simplex}",
    ]
    catalogue = plugins.load([letters.FILE])
    study = load(letters.STUDY, "letters.yaml", catalogue, given)
    proposals.check(study, study.strategy, 10)
    changed = load(letters.STUDY, "letters.yaml", catalogue, [*given, *overrides])
    message = f"cmorl would propose what this study cannot .*{sentence}"
    with pytest.raises(StudyError, match=message):
        proposals.check(changed, changed.strategy, 10)


# --- a whole run -------------------------------------------------------------------------------


def means(run: RunFolder, trial: int, step: int) -> list[float]:
    (measured,) = Measurements.read(run.measurements(trial, step, "validation")).evaluations
    return list(measured.evaluation.values_UK[0])


def reached(task: Any, run: RunFolder) -> list[float]:
    """From scratch a point on a circle; an extension uses all its slack, on a larger one."""
    ((name, options),) = task.study["weighting"].items()
    if name == "quick":
        shares = options["preference"] or {"a": 0.5, "b": 0.5}
        return [0.6 * math.sqrt(shares[axis]) for axis in ("a", "b")]
    ((other, held),) = options["at_least"].items()
    if options["primary"] == "b" and means(run, *task.start.points[0])[1] < 0.3:
        raise NonFiniteError("the loss is not finite")
    values = {other: held, options["primary"]: math.sqrt(0.64 - held**2)}
    return [values["a"], values["b"]]


def segment(task: Any, emit: Any, cache: dict) -> None:
    """Train nothing, measure without noise."""
    run = RunFolder(task.run)
    folder = run.checkpoint(task.trial, task.until)
    values = means(run, task.trial, task.until)[:2] if folder.is_dir() else reached(task, run)
    evaluation = Evaluation(
        ("a", "b", "length"), ("u0", "u1"), [[*values, 0.3]] * 2, Cost(generated=1), ()
    )
    measured = Measurements(
        trial=task.trial,
        step=task.until,
        total=task.total,
        split=task.split,
        cost=Cost(generated=1),
        evaluations=(Measured(None, evaluation),),
    )
    (folder / "policy").mkdir(parents=True, exist_ok=True)
    measured.write(folder / f"{task.split}.json")


def searched(folder: Path, trials: int = 14) -> Run:
    catalogue = quick.quick_catalogue()
    catalogue.add(Entry(ConstrainedExtension, "here"))
    catalogue.add(Entry(Lagrangian, "here"))
    overrides = ["search.strategy=cmorl", "search.rungs=[]"]
    study = load(quick.TEXT, "quick.yaml", catalogue, overrides)
    done = run_study(
        study, folder, trials=trials, segment=segment, prepare=lambda study, run, told: None
    )
    assert done.outcome == "finished"
    return done.run


def value(trial: Trial) -> tuple[float, ...]:
    return trial.measured[trial.total].points[0].values_K[:2]


def test_a_run_grows_from_its_seeds_and_goes_on_past_what_failed(tmp_path):
    run = searched(tmp_path / "one")
    seeds, further = list(run.trials.values())[:3], list(run.trials.values())[3:]
    assert all(trial.proposal.start.scratch for trial in seeds)
    assert not any(trial.proposal.start.scratch for trial in further)
    targets = [target(trial.proposal) for trial in further]
    assert len(set(targets)) == len(targets)
    assert [trial.number for trial in further if trial.outcome == "failed"], "one must be tried"
    for trial in further:
        if trial.outcome == "failed":
            continue
        source, primary = target(trial.proposal)
        axis = ("a", "b").index(primary)
        (kept,) = trial.proposal.settings["weighting"]["lagrangian"]["at_least"].values()
        assert value(trial)[axis] > value(run.trials[source])[axis]
        assert value(trial)[1 - axis] >= kept
    assert any(run.trials[source].proposal.settings for source, _ in targets), "extended again"
    assert run.hypervolume() > 1.3 * 0.36 * math.pi / 4, "the seeds lie on a quarter of a circle"
    assert [o.at_least for o in run.front_objectives] == [None, 0.1], "the study's thresholds"
    again = searched(tmp_path / "two")
    assert [t.proposal for t in again.trials.values()] == [t.proposal for t in run.trials.values()]


def exactly(run: Run, point: tuple[int, int], blank: Any) -> list[float]:
    """Return what a policy of the test bed is worth, without the noise of samples."""
    blank.policy.load_state(checkpoint.load_state(run.folder.policy(*point), "policy"))
    families = [testbeds.expected(blank, family) for family in ("accuracy", "brevity")]
    return [sum(f[name] for f in families) / 2 for name in ("accuracy", "brevity")]


def test_an_extension_keeps_what_it_must_and_gains(tmp_path):
    """A softmax over three arms, trained by the real loop."""
    study = testbeds.family_study(
        "search.strategy={cmorl: {steps: 8, sources: 1}}",
        "search.space={weighting.preference: simplex}",
        "training.steps=12",
        "training.learning_rate=0.05",
        "training.prompts=4",
        "evaluation.samples=20",
    )
    run, blank = run_study(study, tmp_path / "arms", trials=5).run, testbeds.new_trial(study)
    extensions = [trial for trial in run.trials.values() if trial.proposal.settings]
    assert len(extensions) == 2
    for trial in extensions:
        (source,), (_, primary) = trial.proposal.start.points, target(trial.proposal)
        axis = ("accuracy", "brevity").index(primary)
        (kept,) = trial.proposal.settings["weighting"]["lagrangian"]["at_least"].values()
        before, after = exactly(run, source, blank), exactly(run, (trial.number, 8), blank)
        assert after[1 - axis] >= kept - 0.03
        assert after[axis] > before[axis]
