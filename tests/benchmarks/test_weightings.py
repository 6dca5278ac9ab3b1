"""The comparison of weightings: what is planned, what is paid, what is kept, what is reported."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from comparing import run, train_cells

from benchmarks.comparison import cells, measures, results, verdicts
from benchmarks.comparison.budget import goes_on, tokens
from benchmarks.comparison.measures import Difference
from benchmarks.comparison.picture import outline
from benchmarks.comparison.plan import BASE, Cell
from benchmarks.comparison.progress import View
from benchmarks.comparison.results import Arena, Kind, Results, Trained
from benchmarks.comparison.train import Job
from benchmarks.comparison.work import Desk
from benchmarks.weightings import claims, families, plan, two_families
from benchmarks.weightings.__main__ import COMPARISON
from benchmarks.weightings.plan import AGAIN, BEDS, FIXED, MEAN, MODES, SHUFFLED
from moalign import plugins
from moalign.errors import NonFiniteError, StudyError
from moalign.types import Cost, SegmentTask
from moalign_plugins.rewards.exact_answer import FINAL

NAMES = ["accuracy", "conciseness", "clarity"]
FEW = ("lagrangian", "maxmin")
publish = COMPARISON.publish

NEW_PLUGIN = '''
from moalign import Weighting, Weights, hookimpl


class Demanding(Weighting):
    """Has options that must be given."""

    name = "demanding"
    examples = ({"favourite": "b", "shares": {"a": 0.5, "c": 0.5}, "order": ["c", "a"]},)

    def __init__(self, favourite: str, shares: dict[str, float], order: list[str]):
        pass

    def weigh(self, step):
        return Weights(step.preference_K)


@hookimpl
def moalign_weightings():
    return [Demanding]
'''


# --- the plan ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick() -> plan.Plan:
    return plan.build(MODES["quick"])


def test_every_weighting_is_compared(quick: plan.Plan) -> None:
    compared = {entry.component for entry in quick.grounds["arithmetic"].entries}
    assert compared == set(plugins.load().names("weighting"))
    listed = [name for names in plan.FAMILIES.values() for name in names]
    assert len(listed) == len(set(listed))


def test_quick_has_one_seed_and_two_preferences(quick: plan.Plan) -> None:
    ground = quick.grounds["arithmetic"]
    assert list(quick.grounds) == ["arithmetic"]
    assert {cell.seed for cell in quick.cells()} == {0}
    for entry in ground.entries:
        assert len(entry.numbers) == (1 if entry.label == BASE else 2)
    wanted = [ground.preferences[n] for n in ground.asked]
    assert wanted[0] == pytest.approx(dict.fromkeys(NAMES, 1 / 3))
    assert wanted[1] == pytest.approx({"accuracy": 0.2, "conciseness": 0.2, "clarity": 0.6})


def test_all_get_the_same_five_preferences() -> None:
    wanted = plan.preferences(BEDS["arithmetic"], NAMES)
    assert len(wanted) == 5
    assert all(sum(p.values()) == pytest.approx(1) for p in wanted)
    assert wanted[4] == pytest.approx({"accuracy": 0.8, "conciseness": 0.1, "clarity": 0.1})


def test_only_the_measure_of_noise_has_other_random_numbers(quick: plan.Plan) -> None:
    ground = quick.grounds["arithmetic"]
    for cell in quick.cells():
        assert (ground.trial(cell) == cell.number) == (cell.entry != AGAIN)
    first, again = (Cell("arithmetic", 0, entry, 3) for entry in (FIXED, AGAIN))
    assert ground.values(first) == ground.values(again)
    assert ground.key(first, 9) != ground.key(again, 9)


def test_a_variant_differs_from_its_weighting_in_what_it_says(quick: plan.Plan) -> None:
    ground = quick.grounds["arithmetic"]
    usual, undamped = (ground.entry(label).options for label in ("lagrangian", plan.UNDAMPED))
    assert usual == {"primary": "accuracy"}
    assert undamped == {"primary": "accuracy", "proportional": 0.0}
    usual, scores = (ground.entry(label) for label in ("prompt-adapter", "prompt-adapter, scores"))
    assert usual.options == {"blend": 0.5, "targets": "margins", "floor": 0.05}
    assert scores.options == {"blend": 0.5, "targets": "scores", "floor": 0.0}
    assert usual.preference == scores.preference == "preference"


def test_steps_that_are_measured_are_part_of_a_cell(quick: plan.Plan) -> None:
    ground = quick.grounds["arithmetic"]
    cell = Cell("arithmetic", 0, FIXED, 0)
    early = replace(ground, early=(2, 5))
    assert early.key(cell, None) != ground.key(cell, None)
    assert MODES["full"].early == (2, 5)


def test_what_others_wait_for_comes_first(quick: plan.Plan) -> None:
    ordered = list(quick.cells())
    assert quick.pays(ordered[0])
    assert not quick.needs_budget(ordered[1])
    assert all(quick.needs_budget(cell) for cell in ordered[2:])
    assert len({cell.file for cell in ordered}) == len(ordered)


def test_every_cell_is_a_study_that_checks(quick: plan.Plan) -> None:
    ground = quick.grounds["arithmetic"]
    for cell in quick.cells():
        study = ground.study_of(cell)
        entry = ground.entry(cell.entry)
        assert study.objectives[2].at_least == 0.5
        if entry.preference == "preference":
            assert study.preference == pytest.approx(ground.preferences[cell.number])


def test_a_new_plugin_is_compared_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "demanding.py"
    file.write_text(NEW_PLUGIN)
    found = plan.entries(plugins.load([file]), BEDS["arithmetic"], NAMES)
    entry = next(e for e in found if e.label == "demanding")
    assert entry.options == {
        "favourite": "conciseness",
        "shares": {"accuracy": 0.5, "clarity": 0.5},
        "order": ["clarity", "accuracy"],
    }
    assert entry.preference is None
    assert entry.numbers == (0, 1, 2, 3, 4)
    file.write_text(NEW_PLUGIN + "\n# only said otherwise\n")
    same = plan.entries(plugins.load([file]), BEDS["arithmetic"], NAMES)
    assert next(e for e in same if e.label == "demanding").digest == entry.digest
    file.write_text(NEW_PLUGIN + "\nCHANGED = True\n")
    changed = plan.entries(plugins.load([file]), BEDS["arithmetic"], NAMES)
    assert next(e for e in changed if e.label == "demanding").digest != entry.digest


# --- the budget --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "spent", "latest", "budget", "expected"),
    [
        (0, 0, 0, 1000, True),
        (3, 300, 100, None, True),
        (40, 0, 0, None, False),
        (40, 300, 100, 1000, False),
        (9, 900, 100, 1000, True),
        (9, 949, 100, 1000, True),
        (9, 950, 100, 1000, False),
        (10, 1000, 100, 1000, False),
    ],
)
def test_budget(index: int, spent: int, latest: int, budget: int | None, expected: bool) -> None:
    assert goes_on(index, 40, spent, latest, budget) is expected


def test_the_budget_is_met_on_average_whatever_a_step_costs() -> None:
    rng, over = Random(0), []
    for _ in range(400):
        cost = rng.randint(50, 400)
        spent = index = latest = 0
        while goes_on(index, 1000, spent, latest, 5000):
            latest = cost
            spent, index = spent + cost, index + 1
        assert abs(spent - 5000) <= cost / 2
        over.append((spent - 5000) / cost)
    assert abs(np.mean(over)) < 0.05


# --- resumption --------------------------------------------------------------------------------


def small(only: tuple[str, ...] = FEW, **changes: Any) -> plan.Plan:
    return plan.build(replace(MODES["full"], beds=("arithmetic",), **changes), only=only)


class Stand:
    """Stands in for training: a policy per preference, in no time; can be told to fail."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.fails: set[str] = set()

    def __call__(self, task: SegmentTask, emit: Callable[..., None], cache: dict[str, Any]) -> None:
        job = Job(**task.study)
        ((weighting, options),) = job.data["weighting"].items()
        if weighting in self.fails:
            raise NonFiniteError(f"{weighting} broke")
        self.jobs.append(job)
        wanted = options.get("preference") or dict.fromkeys(NAMES, 1 / 3)
        gain = 0.3 if job.steps else 0.0
        seed = job.data["seed"]
        values_K = [0.4 + 0.01 * seed + gain * wanted[name] for name in NAMES]
        lift = 0.05 if weighting == "lagrangian" else 0.0
        units = [[value + lift + 0.01 * (u % 3 - 1) for value in values_K] for u in range(30)]
        moments = [
            cells.Moment(s, 100 * s, [0.4 + (v + lift - 0.4) * s / 40 for v in values_K])
            for s in ((10, 20, 40) if job.steps else (0,))
        ]
        done = cells.Done(
            key=job.key,
            names=NAMES,
            steps=job.steps,
            cost=Cost(1000, 1500, 1500) if job.steps else Cost(),
            seconds=0.25 if job.steps else 0.0,
            wall=10.0,
            weights_K=[wanted[name] for name in NAMES],
            moments=moments,
            validation=cells.Units(units),
            test=cells.Units(units),
        )
        cells.write(Path(job.file), done)


def test_a_second_command_runs_what_is_not_done(tmp_path: Path) -> None:
    whole, stand = small(seeds=(0,)), Stand()
    total = len(list(whole.cells()))
    run(Desk(whole, tmp_path), stand)
    assert len(stand.jobs) == total == 1 + 3 * 5
    assert stand.jobs[0].budget is None
    assert {job.budget for job in stand.jobs[2:]} == {4000}
    assert stand.jobs[1].steps == 0

    again = Stand()
    run(Desk(small(seeds=(0, 1)), tmp_path), again)
    assert len(again.jobs) == total
    assert {job.data["seed"] for job in again.jobs} == {1}

    lost = Cell("arithmetic", 1, "maxmin", 2)
    file = tmp_path / lost.file
    file.write_text(file.read_text()[:100])
    third = Stand()
    run(Desk(small(seeds=(0, 1)), tmp_path), third)
    assert [Path(job.file) for job in third.jobs] == [file]


def test_another_budget_or_weighting_is_another_cell() -> None:
    whole = small(seeds=(0,))
    ground = whole.grounds["arithmetic"]
    cell = Cell("arithmetic", 0, "maxmin", 2)
    keys = {ground.key(cell, 10), ground.key(cell, 11), ground.key(replace(cell, number=3), 10)}
    entries = tuple(
        replace(e, digest="other") if e.label == "maxmin" else e for e in ground.entries
    )
    keys.add(replace(ground, entries=entries).key(cell, 10))
    assert len(keys) == 4


def test_a_cell_that_fails_stops_no_other_and_is_tried_again(tmp_path: Path) -> None:
    whole, stand = small(seeds=(0,)), Stand()
    stand.fails = {"maxmin"}
    view = run(Desk(whole, tmp_path), stand)
    assert view.failed == 5
    assert len(stand.jobs) == 1 + 2 * 5
    found = results.gather(Desk(whole, tmp_path), "part")
    assert {cell.reason for cell in found.broken} == {"maxmin broke"}
    assert found.missing == 0

    again = Stand()
    run(Desk(whole, tmp_path), again)
    assert {tuple(job.data["weighting"]) for job in again.jobs} == {("maxmin",)}
    assert not results.gather(Desk(whole, tmp_path), "part").broken


def test_without_a_budget_nothing_runs_and_all_say_why(tmp_path: Path) -> None:
    whole, stand = small(seeds=(0,)), Stand()
    stand.fails = {"fixed"}
    run(Desk(whole, tmp_path), stand)
    assert not stand.jobs
    found = results.gather(Desk(whole, tmp_path), "part")
    reasons = {cell.reason for cell in found.broken if cell.entry == "maxmin"}
    assert reasons == {"fixed at equal weights failed, so there is no budget"}


def test_the_time_left_follows_from_the_first_cell() -> None:
    whole = small(seeds=(0,))
    view = View(whole, 2)
    view.console.quiet = True
    assert view.left() is None
    first = next(whole.cells())
    done = cells.Done("", NAMES, 40, Cost(), 0.2, 12.0, [], [], cells.Units([]), cells.Units([]))
    view.ended(first, done)
    assert view.left() == pytest.approx(12.0 * 15 / 2)


def test_a_cell_is_written_and_read_back(tmp_path: Path) -> None:
    units = cells.Units([[0.5, math.nan], [1.0, 0.25]], ["brief", "steps"])
    moment = cells.Moment(10, 99, [0.5, 0.25])
    done = cells.Done(
        "k", ["a", "b"], 3, Cost(1, 2, 3), 0.1, 1.0, [0.5, 0.5], [moment], units, units, ["said"]
    )
    cells.write(tmp_path / "a" / "b.json", done)
    found = cells.read(tmp_path / "a" / "b.json")
    assert isinstance(found, cells.Done)
    np.testing.assert_equal(found, done)
    assert tokens(found.cost) == 6
    assert cells.read(tmp_path / "none.json") is None


# --- the numbers -------------------------------------------------------------------------------


def arena(**changes: Any) -> Arena:
    given: dict[str, Any] = {
        "name": "arithmetic",
        "objectives": ["a", "b"],
        "bounds_K2": [[0.0, 1.0], [0.0, 2.0]],
        "reference_K": [0.0, 0.0],
        "thresholds": {"b": 1.0},
        "preferences": {0: [0.5, 0.5], 1: [0.8, 0.2]},
        "steps": 40,
        "budgets": {0: 1000},
        "kinds": [
            Kind(BASE, BASE, {}, {}, preference=False, numbers=[0]),
            Kind(FIXED, "fixed weights", {}, {}, preference=True, numbers=[0, 1]),
            Kind(AGAIN, "fixed weights", {}, {}, preference=True, numbers=[0, 1]),
            Kind("pbi", "scalarisers per policy", {}, {}, preference=True, numbers=[0, 1]),
        ],
    }
    return Arena(**(given | changes))


def trained(entry: str, number: int, end: tuple[float, float], seed: int = 0) -> Trained:
    """A policy that goes straight from (.2, .4) to its end in 40 steps of 25 tokens each."""
    steps = 0 if entry == BASE else 40
    moments = [
        [s, 25 * s, *(f + (t - f) * s / 40 for f, t in zip((0.2, 0.4), end, strict=True))]
        for s in ((0,) if not steps else (10, 20, 30, 40))
    ]
    return Trained("arithmetic", seed, entry, number, steps, [500, 250, 250], 0.5, [], moments,
                   list(end), [0.01, 0.01])  # fmt: skip


def test_mixtures_reach_the_hull() -> None:
    corners = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert measures.mixed_volume(corners, [0.0, 0.0]) == pytest.approx(0.5, abs=0.03)
    cube = np.eye(3)
    assert measures.mixed_volume(cube, [0.0] * 3) == pytest.approx(1 / 6, rel=0.15)
    one = np.array([[0.5, 0.5]])
    assert measures.mixed_volume(one, [0.0, 0.0]) == pytest.approx(0.25)
    assert measures.lattice(3, 4).shape == (15, 3)
    assert measures.lattice(3, 4).sum(1) == pytest.approx(1.0)


def test_beyond_the_hull_is_what_some_weights_gain() -> None:
    hull = np.array([[1.0, 0.0], [0.0, 1.0]])
    outside, inside = np.array([[0.6, 0.6]]), np.array([[0.4, 0.4]])
    assert measures.beyond(outside, outside, hull, hull) == pytest.approx(0.1)
    assert measures.beyond(inside, inside, hull, hull) == pytest.approx(-0.1)
    # What looked better on validation and is not on test, counts as it is on test.
    assert measures.beyond(outside, inside, hull, hull) == pytest.approx(-0.1)


def test_choices_are_made_on_validation_and_counted_on_test() -> None:
    validation = np.array([[1.0, 0.0], [0.0, 1.0]])
    test = np.array([[0.5, 0.0], [0.0, 0.9]])
    wanted = np.array([[0.8, 0.2], [0.2, 0.8]])
    found = measures.chosen_utilities(validation, test, wanted)
    assert found == pytest.approx([0.4, 0.72])


def test_steps_to_most_of_the_best() -> None:
    bed, base = arena(), trained(BASE, 0, (0.2, 0.4))
    half = [trained(FIXED, 0, (0.6, 1.2)), trained(FIXED, 1, (0.6, 1.2))]
    full = [trained("pbi", 0, (1.0, 2.0)), trained("pbi", 1, (1.0, 2.0))]
    best = measures.best_reached(bed, base, {FIXED: half, "pbi": full})
    assert best == pytest.approx(1.0)
    assert measures.reached(bed, base, full, best, 0) == pytest.approx(36.0)
    assert measures.reached(bed, base, full, best, 1) == pytest.approx(900.0)
    assert math.isnan(measures.reached(bed, base, half, best, 0))


def test_violation_is_in_units_of_the_bounds() -> None:
    assert measures.violation(arena(), [0.0, 0.4]) == pytest.approx(0.3)
    assert measures.violation(arena(), [0.0, 1.4]) == 0.0


def test_noise_misses_a_threshold_by_as_much() -> None:
    cell = replace(trained("pbi", 0, (0.5, 1.0)), stderr_K=[0.3, 0.2])
    seen = np.random.default_rng(0).normal(1.0, 0.2, 20000)  # b, whose threshold is 1 of 0 to 2
    missed = [measures.violation(arena(), [0.5, value]) for value in seen]
    assert measures.noise(arena(), cell) == pytest.approx(np.mean(missed), rel=0.03)


def test_what_differs_in_nothing_is_judged_to_differ_in_nothing() -> None:
    """Entries share their random numbers with ``fixed``, and ``fixed, again`` with none."""
    rng = np.random.default_rng(1)
    gaps: dict[str, list[float]] = {"beyond": [], "steps to the rival": []}
    for seed in range(150):
        shared = rng.normal(0.0, 0.03, (2, 2))  # of the prompts and draws at equal numbers
        made = [trained(BASE, 0, (0.2, 0.4), seed)]
        for entry, common in (
            (FIXED, shared),
            ("pbi", shared),
            (AGAIN, rng.normal(0, 0.03, (2, 2))),
        ):
            own = common + rng.normal(0.0, 0.01, (2, 2))
            ends = np.array([[0.6, 0.8], [0.8, 0.4]]) + own * [1.0, 2.0]
            made += [trained(entry, n, tuple(end), seed) for n, end in enumerate(ends.tolist())]
        found = Results("part", [], [arena(budgets={seed: 1000})], made, [], 0, [])
        numbers = measures.of_arena(found, found.arenas[0], claims.RIVAL)
        for name, values in gaps.items():
            values.append(numbers["pbi", seed][name] - numbers[FIXED, seed][name])
    for values in gaps.values():
        assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(len(values))


def synthetic(seeds: int = 3) -> Results:
    """Three seeds on which ``pbi`` is beyond the hull by much, every time a little differently."""
    cells_ = []
    for seed in range(seeds):
        shift = 0.01 * seed
        cells_ += [
            trained(BASE, 0, (0.2, 0.4), seed),
            trained(FIXED, 0, (0.6 + shift, 0.8), seed),
            trained(FIXED, 1, (0.8 + shift, 0.4), seed),
            trained(AGAIN, 0, (0.6 + shift, 0.82), seed),
            trained(AGAIN, 1, (0.8 + shift, 0.4), seed),
            trained("pbi", 0, (0.8 + 2 * shift, 1.4), seed),
            trained("pbi", 1, (0.9, 1.2), seed),
        ]
    budgets = dict.fromkeys(range(seeds), 1000)
    bed = arena(budgets=budgets)
    facts = [["date", "2026-01-01"], ["commit", "abc"]]
    broken = [results.Broken("arithmetic", 0, "mgda", 0, "it broke")]
    volumes = [
        results.Volume("arithmetic", s, e, 0.5, v)
        for s in range(seeds)
        for e, v in ((FIXED, 0.4), ("pbi", 0.6))
    ]
    return Results("part", facts, [bed], cells_, broken, 0, volumes)


def only_seeds(found: Results, seeds: set[int]) -> Results:
    """What a command with ``--seeds`` would have left."""
    bed = found.arenas[0]
    return replace(
        found,
        arenas=[replace(bed, budgets={s: n for s, n in bed.budgets.items() if s in seeds})],
        trained=[cell for cell in found.trained if cell.seed in seeds],
        broken=[cell for cell in found.broken if cell.seed in seeds],
        volumes=[volume for volume in found.volumes if volume.seed in seeds],
    )


def test_numbers_of_an_entry() -> None:
    found = synthetic(1)
    numbers = measures.of_arena(found, found.arenas[0], FIXED)
    own = numbers["pbi", 0]
    # (.8, .7) at equal weights; of (.8, .7) and (.9, .6) the latter at (.8, .2).
    assert own["utility"] == pytest.approx((0.75 + 0.84) / 2)
    assert own["worst"] == pytest.approx(0.5)
    assert own["lowest"] == pytest.approx(0.7)
    assert own["points"] == 2
    assert own["sparsity"] == pytest.approx(0.02)
    assert own["spent"] == 1.0
    assert numbers[BASE, 0]["utility"] == pytest.approx(0.2)
    incomplete = replace(found, trained=[c for c in found.trained if c.number == 0])
    assert ("pbi", 0) not in measures.of_arena(incomplete, incomplete.arenas[0], FIXED)


def test_the_base_policy_is_part_of_the_hull() -> None:
    """What trains nothing lies beyond no hull, however good the base policy is."""
    found = synthetic(1)
    idle = [
        replace(cell, moments=[[40, 9, *base.moments[0][2:]]], test_K=base.test_K)
        for base in found.trained
        if base.entry == BASE
        for cell in found.trained
        if cell.entry == "pbi"
    ]
    kept = [cell for cell in found.trained if cell.entry != "pbi"]
    numbers = measures.of_arena(replace(found, trained=[*kept, *idle]), found.arenas[0], FIXED)
    assert numbers["pbi", 0]["beyond"] <= 1e-9


def test_the_mean_of_two_entries_is_one_to_compare_with() -> None:
    numbers = {
        ("a", 0): {"utility": 0.2, "steps": 4.0},
        ("b", 0): {"utility": 0.4},
        ("a", 1): {"utility": 0.6},
        ("c", 2): {"utility": 0.9},
    }
    found = measures.averaged(numbers, ("a", "b"), "both")
    assert found["both", 0] == {"utility": pytest.approx(0.3)}
    assert found["both", 1] == {"utility": 0.6}
    assert ("both", 2) not in found
    assert numbers.items() <= found.items()


def test_thresholds_are_held_if_hardly_anything_is_missing() -> None:
    found = synthetic()
    numbers = measures.of_arena(found, found.arenas[0], FIXED)
    for missing, verdict in ((0.001, "seen"), (0.3, "opposite seen")):
        held = {
            ("lagrangian", seed): {**own, "violation beyond noise": missing}
            for (label, seed), own in numbers.items()
            if label == "pbi"
        }
        verdicts = {
            (f.claim.measure, f.entry): f.verdict
            for f in claims.findings(found, found.arenas[0], {**numbers, **held})
        }
        assert verdicts["violation beyond noise", "lagrangian"] == verdict


def test_intervals_are_students_over_seeds() -> None:
    found = measures.interval([0.1, 0.2, 0.3])
    assert found.value == pytest.approx(0.2)
    assert found.high - found.low == pytest.approx(2 * 4.303 * 0.1 / math.sqrt(3), rel=0.06)
    assert math.isnan(measures.interval([0.1]).low)
    assert measures.interval([]).seeds == 0
    same = measures.interval([0.0, 0.0, 0.0])
    assert (same.low, same.high) == (0.0, 0.0)


# --- claims and the report ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "higher", "expected"),
    [
        (0.1, 0.2, True, "seen"),
        (-0.2, -0.1, True, "opposite seen"),
        (-0.1, 0.1, True, "not decided"),
        (0.1, 0.2, False, "opposite seen"),
        (-0.2, -0.1, False, "seen"),
        (math.nan, math.nan, True, "one seed"),
    ],
)
def test_verdicts(low: float, high: float, higher: bool, expected: str) -> None:
    difference = Difference((low + high) / 2, low, high, 3)
    assert verdicts.judge(difference, higher=higher) == expected
    assert verdicts.judge(Difference(math.nan, math.nan, math.nan, 0)) == "not run"


def test_claims_name_what_is_compared(quick: plan.Plan) -> None:
    planned = {name for names in plan.FAMILIES.values() for name in names}
    planned |= {entry.label for entry in quick.grounds["arithmetic"].entries}
    for claim in claims.CLAIMS:
        assert {*claim.entries, claim.against} - {"", claims.BOTH} <= planned


def test_a_gain_beyond_the_hull_is_seen(tmp_path: Path) -> None:
    found = synthetic()
    numbers = measures.of_arena(found, found.arenas[0], claims.RIVAL)
    verdicts = {
        (f.claim.measure, f.entry): f.verdict
        for f in claims.findings(found, found.arenas[0], numbers)
    }
    assert verdicts["beyond", "pbi"] == "seen"
    assert verdicts["beyond", "chebyshev"] == "not run"
    page = publish(found, tmp_path)
    text = page.read_text()
    assert page.name == "2026-01-01-weightings-part.md"
    assert "seen in 1 of 1 (pbi on arithmetic)" in text
    assert "**seen**" in text
    assert "| mgda | arithmetic | 1 | it broke |" in text
    assert " nan" not in text
    png = tmp_path / "2026-01-01-weightings-part-arithmetic.png"
    assert png.read_bytes()[:4] == b"\x89PNG"
    again = results.read(tmp_path / "2026-01-01-weightings-part.json")
    assert results.to_text(again) == results.to_text(found)
    (tmp_path / "again").mkdir()
    assert publish(again, tmp_path / "again").read_text() == text


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    text = publish(synthetic(1), tmp_path).read_text()
    assert "**seen**" not in text
    assert "one seed: no interval" in text


def test_policies_that_train_alike_are_no_distance_apart() -> None:
    found = synthetic()
    bed = found.arenas[0]
    assert claims.apart(found, bed, FIXED, FIXED) == [0.0, 0.0, 0.0]
    assert min(claims.apart(found, bed, FIXED, "pbi")) > 0.05
    assert not claims.apart(found, bed, "none", FIXED)


def test_from_cells_to_a_page(tmp_path: Path) -> None:
    whole = small(seeds=(0, 1, 2))
    run(Desk(whole, tmp_path / "runs"), Stand())
    found = results.gather(Desk(whole, tmp_path / "runs"), "part")
    assert len(found.trained) == 3 * (1 + 3 * 5)
    assert found.arenas[0].budgets == {0: 4000, 1: 4000, 2: 4000}
    assert ["time of the cells", "8 min for 48 cells, one after another"] in found.facts
    numbers = measures.of_arena(found, found.arenas[0], FIXED)
    higher = measures.against(numbers, "lagrangian", "maxmin", "utility")
    assert higher.value == pytest.approx(0.05)
    assert (higher.low, higher.high) == pytest.approx((0.05, 0.05))
    text = publish(found, tmp_path / "results").read_text()
    assert "| lagrangian * |" in text
    assert "| primary: accuracy |" in text


def test_the_time_of_cells_is_said_for_so_many_at_a_time() -> None:
    assert results.lasted([40.0, 20.0], 1) == "60 s for 2 cells, one after another"
    said = results.lasted([3600.0] * 3, 2)
    assert said == "3 h 00 min for 3 cells, one after another, about 90 min with 2 at a time"


def test_outline_of_points() -> None:
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0.5, 0.5], [0.5, 0]])
    assert sorted(outline(square)) == [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]
    assert outline(square[:2]) == [(0.0, 0.0), (1.0, 0.0)]


# --- two families ------------------------------------------------------------------------------


def test_half_of_the_prompts_belong_to_each_family() -> None:
    prompts = two_families.TwoFamilies(train=60, held_out=60).prompts()
    for split in ("train", "validation", "test"):
        found = [p.fields["family"] for p in prompts if p.split == split]
        assert found.count("accuracy") == found.count("brevity") == 20
    lengths = {(p.fields["family"], len(p.fields["operands"])) for p in prompts}
    assert lengths == {("brevity", 2), ("accuracy", 4)}


def test_pairs_say_what_a_family_wants() -> None:
    task = two_families.TwoFamilies(train=60, held_out=60)
    pairs = task.pairs(0)
    assert pairs == task.pairs(0) != task.pairs(1)
    for pair in pairs:
        assert pair.prompt.split == "train"
        sums = [FINAL.search(text) for text in (pair.chosen, pair.rejected)]
        right = [s is not None and int(s[1]) == pair.prompt.fields["answer"] for s in sums]
        short = [len(pair.chosen) < len(pair.rejected), len(pair.rejected) < len(pair.chosen)]
        wanted = right if pair.prompt.fields["family"] == "accuracy" else short
        assert wanted == [True, False]
        assert right != short


@pytest.fixture(scope="module")
def of_families() -> plan.Ground:
    mode = replace(MODES["full"], beds=("two-families",), seeds=(0,))
    return plan.build(mode).grounds["two-families"]


def test_what_is_compared_on_two_families(of_families: plan.Ground) -> None:
    labels = {e.label for e in of_families.entries}
    assert labels == {BASE, FIXED, "family-weights", "prompt-adapter", MEAN, SHUFFLED}
    for claim in claims.FAMILY_CLAIMS:
        assert {*claim.entries, claim.against} <= labels | {""}
    assert of_families.entry("family-weights").numbers == (0,)
    assert of_families.entry(FIXED).numbers == (0, 1, 2, 3, 4, 5)
    given = {round(p["accuracy"], 6) for p in of_families.preferences}
    assert given == {0.4, 0.5, 0.55, 0.6, 0.7, 0.8}
    assert {entry.share for entry in of_families.entries if entry.label != BASE} == {4.0}
    for label in (MEAN, SHUFFLED):
        study = of_families.study_of(Cell("two-families", 0, label, 0))
        assert [o.name for o in study.train_objectives] == list(two_families.WANTS)


def test_a_changed_task_is_another_cell(
    of_families: plan.Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed, cell = BEDS["two-families"], Cell("two-families", 0, FIXED, 0)
    changed = tmp_path / "two_families.py"
    changed.write_text(bed.files[0].read_text() + "\n# changed\n")
    monkeypatch.setitem(BEDS, bed.name, replace(bed, files=(changed,)))  # type: ignore[arg-type]
    other = plan.build(replace(MODES["full"], beds=(bed.name,), seeds=(0,))).grounds[bed.name]
    assert other.key(cell, 9) != of_families.key(cell, 9)


def test_the_mean_of_what_is_learnt_is_the_same_for_all_prompts() -> None:
    weighting = two_families.DatasetMean()
    learnt = {"learnt/accuracy": 0.45, "learnt/brevity": 0.55}
    weighting.load_prepared(
        {"names": ["accuracy", "brevity"], "head": {}, "metrics": learnt, "notes": []}
    )
    prompts = two_families.TwoFamilies(train=60, held_out=60).prompts()[:3]
    found = weighting.prompt_weights(prompts, lambda: pytest.fail("no features are needed"))
    assert found.tolist() == [pytest.approx([0.45, 0.55])] * 3


def on_families(seeds: int = 3) -> Results:
    """Of three fixed weightings the second is best on average; weights per prompt are better."""
    bed = arena(
        name="two-families",
        objectives=list(two_families.WANTS),
        bounds_K2=[[0.0, 1.0]] * 2,
        preferences={0: [0.5, 0.5], 1: [0.7, 0.3], 2: [0.9, 0.1]},
        thresholds={},
        budgets=dict.fromkeys(range(seeds), 1000),
        kinds=[
            Kind(BASE, BASE, {}, {}, preference=False, numbers=[0]),
            Kind(FIXED, "fixed weights", {}, {}, preference=True, numbers=[0, 1, 2]),
            *(
                Kind(label, "other", {}, {}, preference=False, numbers=[0])
                for label in ("prompt-adapter", MEAN, SHUFFLED)
            ),
        ],
    )

    def cell(seed: int, entry: str, number: int, own: tuple[float, float]) -> Trained:
        accuracy, brevity = own[0] + 0.01 * seed, own[1]
        # What a family gets of the other's objective must not count.
        groups = {"accuracy": [[accuracy, 0.1]] * 2, "brevity": [[0.1, brevity]] * 2}
        weights = {
            FIXED: {f: bed.preferences[number] for f in groups if entry == FIXED},
            "prompt-adapter": {"accuracy": [0.98, 0.02], "brevity": [0.04, 0.96]},
        }.get(entry, {})
        return replace(
            trained(entry, number, (0.5, 0.5), seed), bed=bed.name, groups=groups,
            group_weights=weights,
        )  # fmt: skip

    cells_ = [
        cell(seed, *given)
        for seed in range(seeds)
        for given in (
            (BASE, 0, (0.85, 0.35)),
            (FIXED, 0, (0.2, 0.9)),
            (FIXED, 1, (0.8, 0.7)),
            (FIXED, 2, (0.9, 0.1)),
            ("prompt-adapter", 0, (0.95, 0.9)),
            (MEAN, 0, (0.5, 0.8)),
            (SHUFFLED, 0, (0.5, 0.8)),
        )
    ]
    facts = [["date", "2026-01-01"], ["commit", "abc"]]
    return Results("two-families", facts, [bed], cells_, [], 0, [])


def test_families_are_judged_by_their_own_objective() -> None:
    found = on_families(1)
    numbers = families.family_utilities(found, found.arenas[0], two_families.WANTS)
    best = {"accuracy": 0.8, "brevity": 0.7, "mean": 0.75, "number": 1.0}
    best |= {"accuracy over the mean": 0.05, "brevity over the mean": -0.05, "tokens": 1000.0}
    assert numbers[FIXED, 0] == pytest.approx(best)
    assert numbers[families.EQUAL, 0]["brevity"] == pytest.approx(0.9)
    adapter = numbers["prompt-adapter", 0]
    assert adapter["accuracy over the mean"] == pytest.approx(0.2)
    weights = families.family_weights(found, found.arenas[0], numbers, "prompt-adapter")
    assert weights["brevity"] == pytest.approx([0.04, 0.96])
    chosen = families.family_weights(found, found.arenas[0], numbers, FIXED)
    assert chosen["accuracy"] == pytest.approx([0.7, 0.3])
    assert not families.family_weights(found, found.arenas[0], numbers, MEAN)


def test_the_page_of_two_families_names_its_rival_and_its_controls(tmp_path: Path) -> None:
    text = publish(on_families(), tmp_path).read_text()
    assert "It was accuracy .70, brevity .30 (seed 0, 1, 2); tried were equal weights" in text
    assert "| best single fixed | 0.810 | 0.700 | 0.755 |" in text
    assert "| .98/.02 | .04/.96 | 1,000 |" in text
    assert text.count("**seen**") == 2 * 4  # each claim on each family
    assert "prompt-adapter, brevity: +0.200 [+0.200, +0.200], **seen**" in text
    assert "family-weights" not in text.partition("Claim:")[2]  # it was not run
    again = results.read(tmp_path / "2026-01-01-weightings-two-families.json")
    assert results.to_text(again) == results.to_text(on_families())


def test_other_families_are_told_apart_from_these(tmp_path: Path) -> None:
    found = on_families(1)
    other = {"brief": [[0.5, 0.5]] * 2, "steps": [[0.5, 0.5]] * 2}
    found = replace(found, trained=[replace(cell, groups=other) for cell in found.trained])
    with pytest.raises(StudyError, match=r"are brief, steps, .* accuracy, brevity: run"):
        publish(found, tmp_path)


def test_a_document_of_earlier_days_has_no_weights_by_family(tmp_path: Path) -> None:
    data = json.loads(results.to_text(on_families(1)))
    since = data["trained"][0].index("group_weights")
    data["trained"] = [row[:since] for row in data["trained"]]
    text = publish(results.from_text(json.dumps(data)), tmp_path).read_text()
    assert "| prompt-adapter |" in text


# --- for real, but small -----------------------------------------------------------------------

TINY = (
    "policy={scratch: {steps: 2, hidden: 32, layers: 1, batch: 8}}",
    "task={arithmetic: {train: 60, held_out: 60, demonstrations: 200}}",
    "training={optimizer: grpo, steps: 4, prompts: 2, group: 4}",
    "rollout={eager: {max_tokens: 12}}",
    "evaluation={prompts: 20, samples: 1}",
)


@pytest.mark.e2e
def test_what_a_weighting_asks_for_is_paid_with_steps(tmp_path: Path) -> None:
    mode = replace(MODES["quick"], numbers=(0,), early=(2,))
    whole = plan.build(mode, TINY, only=("mgda",))
    _, found = train_cells(whole, tmp_path)
    by_entry = {cell.entry: cell for cell in found.trained}
    budget = found.arenas[0].budgets[0]
    assert by_entry[FIXED].steps == 4
    assert sum(by_entry[FIXED].tokens) == budget
    assert by_entry["mgda"].steps < 4
    assert by_entry[BASE].steps == 0
    assert by_entry[BASE].tokens == [0, 0, 0]
    assert [m[0] for m in by_entry[FIXED].moments] == [2, 4]
    assert by_entry[FIXED].cpu > 0
    done = cells.read(tmp_path / Cell("arithmetic", 0, FIXED, 0).file)
    assert isinstance(done, cells.Done)
    assert len(done.trace["weight/accuracy"]) == 4
    assert {"length", "gain", "objective/clarity"} <= done.trace.keys()
    assert sum(by_entry[FIXED].weights_K) == pytest.approx(1, abs=1e-5)
    assert len(by_entry["mgda"].test_K) == 3


@pytest.mark.e2e
def test_weights_are_kept_by_family(tmp_path: Path) -> None:
    mode = replace(MODES["full"], beds=("two-families",), seeds=(0,), numbers=(0,))
    task = "task={two-families: {train: 60, held_out: 60, demonstrations: 200}}"
    whole = plan.build(mode, (*TINY, task), only=("family-weights", SHUFFLED))
    _, found = train_cells(whole, tmp_path)
    by_entry = {cell.entry: cell.group_weights for cell in found.trained}
    assert by_entry["family-weights"] == {"accuracy": [1.0, 0.0], "brevity": [0.0, 1.0]}
    assert by_entry[FIXED] == {"accuracy": [0.5, 0.5], "brevity": [0.5, 0.5]}
    assert by_entry[BASE] == {}
    assert sum(by_entry[SHUFFLED]["accuracy"]) == pytest.approx(1, abs=1e-5)


def test_a_report_may_be_given_a_name(tmp_path: Path) -> None:
    document = tmp_path / "found.json"
    document.write_text(results.to_text(synthetic()))
    given = ["--report", str(document), "--results", str(tmp_path), "--name", "mine"]
    assert COMPARISON.main(given) == 0
    assert list(tmp_path.glob("*-weightings-mine.md"))
    args = COMPARISON.arguments(["--quick", "--seeds", "0", "--name", "mine"])
    assert COMPARISON.planned(args)[1] == "mine"


def test_documents_of_several_beds_become_one() -> None:
    found = synthetic()
    other = replace(
        found,
        facts=[["date", "2026-02-02"], ["commit", "abc"]],
        arenas=[replace(found.arenas[0], name="elsewhere")],
        missing=2,
    )
    both = results.merged([found, other])
    assert [arena.name for arena in both.arenas] == ["arithmetic", "elsewhere"]
    assert (both.missing, both.date, both.mode) == (2, "2026-02-02", "arithmetic-elsewhere")
    assert len(both.trained) == 2 * len(found.trained)
    beds = ("arithmetic", "elsewhere")
    wholes = [replace(found, mode="arithmetic"), replace(other, mode="elsewhere")]
    assert results.merged(wholes, beds).mode == "full"
    parts = [replace(found, mode="part"), replace(other, mode="part")]
    assert results.merged(parts, beds).mode == "arithmetic-elsewhere", "parts are not the whole"
    with pytest.raises(StudyError, match="seed 0 of the test bed arithmetic is in two"):
        results.merged([found, found])


def test_documents_of_several_seeds_become_one() -> None:
    whole = synthetic()
    one, other = (only_seeds(whole, {0}), only_seeds(whole, {1, 2}))
    both = results.merged([one, other])
    assert both.seeds("arithmetic") == whole.seeds("arithmetic")
    assert both.arenas[0].budgets == whole.arenas[0].budgets
    assert sorted(map(str, both.trained)) == sorted(map(str, whole.trained))
    assert len(both.broken) + len(both.volumes) == len(whole.broken) + len(whole.volumes)
    kinds = [replace(kind, digest="x") if kind.label == "pbi" else kind
             for kind in other.arenas[0].kinds]  # fmt: skip
    changed = replace(other, arenas=[replace(other.arenas[0], kinds=kinds)])
    with pytest.raises(StudyError, match="on the test bed arithmetic: pbi changed between them"):
        results.merged([one, changed])
    longer = replace(other, arenas=[replace(other.arenas[0], steps=99)])
    with pytest.raises(StudyError, match="its study changed between them"):
        results.merged([one, longer])
