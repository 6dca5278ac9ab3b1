"""The comparison of optimizers: what is planned, what is charged, what is said about MODPO."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from comparing import run, train_cells

from benchmarks.comparison import cells, measures, results, verdicts
from benchmarks.comparison.measures import Difference
from benchmarks.comparison.plan import BASE, Cell, Plan
from benchmarks.comparison.results import Arena, Kind, Results, Trained
from benchmarks.comparison.train import Job
from benchmarks.comparison.work import Desk
from benchmarks.optimizers import claims, plan, rates
from benchmarks.optimizers.__main__ import COMPARISON
from benchmarks.optimizers.plan import MODES, ONLINE, PAYER, THIRD, VARIANTS
from moalign import plugins
from moalign.search.artifacts import samples_folder
from moalign.search.measurements import COST
from moalign.types import Cost, SegmentTask

NAMES = ["accuracy", "conciseness", "clarity"]
FEW = ("modpo", f"modpo, {THIRD}", f"grpo, {THIRD}", "hypo")

TINY = (
    "policy={scratch: {steps: 2, hidden: 32, layers: 1, batch: 8}}",
    "task={arithmetic: {train: 60, held_out: 60, demonstrations: 200}}",
    "training={optimizer: grpo, steps: 4, prompts: 4, group: 4, pairs: {prompts: 8, samples: 2}}",
    "rollout={eager: {max_tokens: 12}}",
    "evaluation={prompts: 20, samples: 1}",
)

NEW_PLUGIN = '''
from moalign import Optimizer, hookimpl


class Demanding(Optimizer):
    """Has an option that must be given."""

    name = "demanding"
    examples = ({"favourite": "b"},)
    learns_from = "pairs"

    def __init__(self, *, favourite: str):
        pass


@hookimpl
def moalign_optimizers():
    return [Demanding]
'''


# --- the plan ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole() -> Plan:
    return plan.build(replace(MODES["full"], beds=("arithmetic",), seeds=(0,)))


def test_every_optimizer_is_compared(whole: Plan) -> None:
    catalogue = plugins.load()
    compared = {entry.component for entry in whole.grounds["arithmetic"].entries}
    assert compared == set(catalogue.names("optimizer"))
    listed = [name for names in plan.GROUPS.values() for name in names]
    assert len(listed) == len(set(listed))


def test_all_have_the_same_preferences_under_fixed_weights(whole: Plan) -> None:
    ground = whole.grounds["arithmetic"]
    for entry in ground.entries:
        assert entry.numbers == ((0,) if entry.label == BASE else (0, 1, 2, 3, 4))
        study = ground.study_of(Cell("arithmetic", 0, entry.label, entry.numbers[-1]))
        assert study.new_weighting().name == "fixed"
        if entry.label != BASE:
            assert study.preference == pytest.approx(ground.preferences[4])
        assert study.section.training.learning_rate == 5e-4


def test_what_learns_from_preferences_compares_samples_in_cheaper_steps(whole: Plan) -> None:
    ground = whole.grounds["arithmetic"]
    found = {entry.label: entry for entry in ground.entries}
    assert found["modpo"].options == {"primary": "accuracy", "labels": "soft"}
    for label, samples, steps in (("dpo", True, 160), ("hypo", True, 40), ("ppo", False, 40)):
        study = ground.study_of(Cell("arithmetic", 0, label, 0))
        assert found[label].samples is samples
        assert study.section.training.steps == steps
        assert study.section.training.pairs.source == ("samples" if samples else "task")
    first, second = ground.foundations("arithmetic", 0)
    assert first.entry == PAYER
    assert found[second.entry].samples


def test_quick_is_a_part_of_full(whole: Plan) -> None:
    quick = plan.build(MODES["quick"], only=MODES["quick"].only)
    ground = quick.grounds["arithmetic"]
    assert {e.label for e in ground.entries} == {BASE, *MODES["quick"].only}
    assert {e.numbers for e in ground.entries if e.label != BASE} == {(0, 3)}
    assert {cell.seed for cell in quick.cells()} == {0}
    ordered = list(quick.cells())
    assert quick.pays(ordered[0])
    assert len({cell.file for cell in whole.cells()}) == len(list(whole.cells()))


def test_a_new_plugin_is_compared_by_itself(tmp_path: Path, whole: Plan) -> None:
    file = tmp_path / "demanding.py"
    file.write_text(NEW_PLUGIN)
    study = whole.grounds["arithmetic"].study
    found = plan.entries(plugins.load([file]), study, None)
    entry = next(e for e in found if e.label == "demanding")
    assert entry.options == {"favourite": "conciseness"}
    assert entry.family == "pairs: other"
    assert entry.samples


def test_every_entry_is_there_once_per_learning_rate() -> None:
    mode = replace(MODES["full"], beds=("arithmetic",), seeds=(0,))
    ground = plan.build(mode, only=("dpo",), rates=(0.3,)).grounds["arithmetic"]
    labels = [entry.label for entry in ground.entries]
    assert labels == [BASE, "grpo", "grpo, rate x 0.3", "dpo", "dpo, rate x 0.3"]
    study = ground.study_of(Cell("arithmetic", 0, "dpo, rate x 0.3", 1))
    assert study.section.training.learning_rate == pytest.approx(1.5e-4)
    assert study.section.training.steps == 160


# --- what is charged ---------------------------------------------------------------------------


class Stand:
    """Stands in for training: some numbers, in no time."""

    def __init__(self) -> None:
        self.jobs: dict[str, list[Job]] = {}

    def __call__(self, task: SegmentTask, emit: Callable[..., None], cache: dict[str, Any]) -> None:
        job = Job(**task.study)
        ((weighting, options),) = job.data["weighting"].items()
        assert weighting == "fixed"
        wanted = options.get("preference") or dict.fromkeys(NAMES, 1 / 3)
        gain = 0.3 if job.steps else 0.0
        lift = 0.01 * job.data["seed"]
        means_K = [0.4 + lift + gain * wanted[name] for name in NAMES]
        units = cells.Units([[m + 0.01 * (u % 3 - 1) for m in means_K] for u in range(30)])
        spent = Cost(600, 900, 900) if job.budget is None else Cost(job.budget, 0, 0)
        moments = [cells.Moment(job.steps, 2400, means_K)]
        self.jobs.setdefault(Path(job.file).stem.rpartition("-")[0], []).append(job)
        done = cells.Done(job.key, NAMES, job.steps, spent, 0.2, 9.0, [], moments, units, units)
        cells.write(Path(job.file), done)


def few(seeds: tuple[int, ...] = (0,)) -> Plan:
    mode = replace(MODES["full"], beds=("arithmetic",), seeds=seeds)
    return plan.build(mode, TINY[:2], only=FEW)


def sampled(desk: Desk, seed: int = 0, cost: int = 1000) -> Path:
    """Leave samples behind that took something."""
    ground, run = desk.plan.grounds["arithmetic"], desk.run("arithmetic", seed)
    cell = ground.foundations("arithmetic", seed)[-1]
    folder = samples_folder(ground.study_of(cell), run)
    assert folder is not None
    folder.mkdir(parents=True)
    (folder / COST).write_text(json.dumps(Cost(generated=cost).to_json()))
    return folder


def test_a_third_of_the_budget_and_a_part_of_the_samples(tmp_path: Path) -> None:
    stand, desk = Stand(), Desk(few(), tmp_path)
    sampled(desk)
    run(desk, stand)
    budgets = {name: {job.budget for job in jobs} for name, jobs in stand.jobs.items()}
    assert budgets == {
        "base-policy": {None},
        "grpo": {None, 2400},
        "grpo-a-third": {800},
        "modpo": {2400},
        "modpo-a-third": {800},
        "hypo": {2400},
    }
    for name, jobs in stand.jobs.items():
        pays = name in ("modpo", "modpo-a-third", "hypo")
        assert {tuple(job.before) for job in jobs} == {(200, 0, 0) if pays else (0, 0, 0)}
    assert {job.steps for job in stand.jobs["modpo"]} == {160}
    assert {job.every for job in stand.jobs["modpo"]} == {40}
    assert {job.every for job in stand.jobs["grpo"]} == {10}

    again = Stand()
    run(Desk(few(), tmp_path), again)
    assert not again.jobs
    found = results.gather(Desk(few(), tmp_path), "part")
    assert [results.SAMPLES, "arithmetic 0: 1,000"] in found.facts
    assert found.missing == 0


def test_samples_at_another_price_are_another_cell(tmp_path: Path) -> None:
    desk = Desk(few(), tmp_path)
    dpo, online = (Cell("arithmetic", 0, entry, 1) for entry in ("modpo", f"grpo, {THIRD}"))
    desk.budgets["arithmetic", 0] = 2400
    assert not desk.ready(dpo)  # nothing is sampled yet
    assert desk.ready(online)
    folder = sampled(desk)
    assert desk.ready(dpo)
    dear = Desk(few(), tmp_path)
    dear.budgets["arithmetic", 0] = 2400
    (folder / COST).write_text(json.dumps(Cost(generated=2000).to_json()))
    assert dear.key(dpo) != desk.key(dpo)
    assert dear.key(online) == desk.key(online)


# --- the claim about MODPO ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.01, 0.01, "seen"),
        (0.1, 0.2, "seen"),
        (-0.03, 0.01, "not decided"),
        (-0.2, -0.03, "opposite seen"),
    ],
)
def test_the_same_front_is_one_no_worse_by_more_than_the_slack(
    low: float, high: float, expected: str
) -> None:
    difference = Difference((low + high) / 2, low, high, 3)
    assert verdicts.judge(difference, slack=verdicts.ALIKE) == expected


def kind(label: str, **settings: Any) -> Kind:
    numbers = [0] if label == BASE else [0, 1]
    return Kind(label, "rollouts: policy gradient", {}, settings, label != BASE, numbers)


def cell(
    entry: str, number: int, end: float, seed: int, validation: float | None = None
) -> Trained:
    seen = end if validation is None else validation
    other = 0.5 if number == 0 else 0.4
    moments = [[0 if entry == BASE else 40, 1000, seen, other]]
    return Trained("arithmetic", seed, entry, number, 40, [500, 250, 250], 0.5, [], moments,
                   [end, other], [0.01, 0.01])  # fmt: skip


def synthetic(ends: dict[str, float], seeds: int = 3) -> Results:
    """Entries whose first objective ends at a height, every time a little differently."""
    ends = {BASE: 0.2, **ends}
    arena = Arena(
        name="arithmetic",
        objectives=["a", "b"],
        bounds_K2=[[0.0, 1.0], [0.0, 1.0]],
        reference_K=[0.0, 0.0],
        thresholds={},
        preferences={0: [0.5, 0.5], 1: [0.8, 0.2]},
        steps=40,
        budgets=dict.fromkeys(range(seeds), 1000),
        kinds=[kind(label) for label in ends],
    )
    trained = [
        cell(label, number, end + 0.001 * seed * (1 + len(label) % 3), seed)
        for label, end in ends.items()
        for seed in range(seeds)
        for number in ((0,) if label == BASE else (0, 1))
    ]
    volumes = [
        results.Volume(
            "arithmetic", seed, label, end / 2, end / 2 + 0.001 * seed * (len(label) % 3)
        )
        for label, end in ends.items()
        for seed in range(seeds)
        if label != BASE
    ]
    facts = [["date", "2026-01-01"], [results.SAMPLES, "arithmetic 0: 1,000"]]
    return Results("part", facts, [arena], trained, [], 0, volumes)


def verdicts_of(found: Results) -> dict[tuple[str, str, str], str]:
    arena = found.arenas[0]
    numbers = measures.of_arena(found, arena, PAYER)
    return {
        (f.claim.entry, f.against, f.measure): f.verdict for f in claims.findings(arena, numbers)
    }


THIRDS = {variant.label: 0.5 for variant in VARIANTS}


def test_a_front_that_is_as_good_for_a_third_is_seen() -> None:
    found = verdicts_of(synthetic({**THIRDS, "grpo": 0.7, "rloo": 0.9, "modpo, a third": 0.705}))
    ours = f"modpo, {THIRD}"
    for measure in claims.MEASURES:
        assert found[ours, "grpo", measure] == "seen"
        assert found[ours, "rloo", measure] == "opposite seen"
        assert found[ours, f"grpo, {THIRD}", measure] == "seen"
        assert found["modpo", "grpo", measure] == "not run"


def test_one_seed_decides_nothing() -> None:
    found = verdicts_of(synthetic({**THIRDS, "grpo": 0.7}, seeds=1))
    assert set(found.values()) == {"one seed", "not run"}


def test_claims_name_what_is_compared(whole: Plan) -> None:
    planned = {entry.label for entry in whole.grounds["arithmetic"].entries}
    for claim in claims.CLAIMS:
        assert {claim.entry, *claim.against} <= planned
    assert set(ONLINE) <= planned


def test_the_page_says_what_the_numbers_say(tmp_path: Path) -> None:
    found = synthetic({**THIRDS, "grpo": 0.7, "rloo": 0.9, "modpo": 0.8, "modpo, a third": 0.705})
    found = replace(found, broken=[results.Broken("arithmetic", 0, "ppo", 0, "it broke")])
    page = COMPARISON.publish(found, tmp_path)
    text = page.read_text()
    assert page.name == "2026-01-01-optimizers-part.md"
    assert "third of its compute (arXiv 2310.03708, abstract and section 4): seen in 3 of 6" in text
    assert "the opposite seen in 3 of 6" in text
    assert "| ppo | arithmetic | 1 | it broke |" in text
    assert "| rate |" not in text
    assert " nan" not in text
    assert (tmp_path / "2026-01-01-optimizers-part-arithmetic.png").read_bytes()[:4] == b"\x89PNG"
    again = results.read(tmp_path / "2026-01-01-optimizers-part.json")
    assert COMPARISON.publish(again, tmp_path / "again").read_text() == text


def test_a_page_without_anything_about_modpo(tmp_path: Path) -> None:
    text = COMPARISON.publish(synthetic({"grpo": 0.7, "dpo": 0.6}), tmp_path).read_text()
    assert "## MODPO" not in text
    assert "| dpo |" in text


# --- learning rates ----------------------------------------------------------------------------


def test_the_rate_that_counts_is_chosen_on_validation_at_the_first_seed(tmp_path: Path) -> None:
    found = synthetic({"grpo": 0.7, "dpo": 0.5, "dpo, rate x 0.3": 0.5})
    found = replace(
        found,
        trained=[
            # At the first seed the lower rate looks better, and on test is worse.
            cell(c.entry, c.number, 0.45, c.seed, validation=0.9 if c.seed == 0 else 0.1)
            if c.entry == "dpo, rate x 0.3"
            else c
            for c in found.trained
        ],
        arenas=[
            replace(
                found.arenas[0],
                kinds=[
                    kind(k.label, **{"training.learning_rate": 1.5e-4}) if "rate" in k.label else k
                    for k in found.arenas[0].kinds
                ],
            )
        ],
    )
    assert rates.tried(found.arenas[0]) == [1.0, 0.3]
    assert rates.chosen(found, found.arenas[0])["dpo"] == "dpo, rate x 0.3"
    settled = rates.settled(found)
    assert [k.label for k in settled.arenas[0].kinds] == [BASE, "grpo", "dpo"]
    assert {c.test_K[0] for c in settled.trained if c.entry == "dpo"} == {0.45}
    text = COMPARISON.publish(found, tmp_path).read_text()
    assert "1 and 0.3 on arithmetic" in text
    assert "| 0.00015 |" in text

    half = [c for c in found.trained if (c.entry, c.number) != ("dpo, rate x 0.3", 1)]
    assert rates.chosen(replace(found, trained=half), found.arenas[0])["dpo"] == "dpo"


# --- for real, but small -----------------------------------------------------------------------


@pytest.mark.e2e
def test_samples_are_paid_for_and_a_third_is_a_third(tmp_path: Path) -> None:
    mode = replace(MODES["quick"], numbers=(0,))
    tiny = plan.build(mode, TINY, only=("modpo", f"modpo, {THIRD}"))
    desk, found = train_cells(tiny, tmp_path)
    by_entry = {cell.entry: cell for cell in found.trained}
    budget = found.arenas[0].budgets[0]
    samples = desk.samples["arithmetic", 0].generated
    assert samples > 0
    for label, share in (("modpo", 1.0), (f"modpo, {THIRD}", 1 / 3)):
        ours = by_entry[label]
        assert ours.tokens[0] == samples  # it generates nothing else
        assert sum(ours.tokens) == pytest.approx(share * budget, rel=0.35)
    assert 0 < by_entry[f"modpo, {THIRD}"].steps < by_entry["modpo"].steps <= 16
