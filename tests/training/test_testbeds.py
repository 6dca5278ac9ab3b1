"""What weightings are for, seen without a language model: a softmax policy over arms.

The real loop, optimizers and weightings by name. On a concave front a linear weighting ends on an
end. Weightings of the policy's means reach the middle as mixtures of the ends, on their hull, and
those of single responses reach the concave arms, which lie below it.
"""

from __future__ import annotations

import numpy as np
import pytest
import testbeds
import torch
from testbeds import DEEPEST, SLOWEST, STEPS, TREASURES, chosen, expected, front_study, table

from moalign.pareto import hypervolume, is_nondominated

EQUAL = {"x": 0.5, "y": 0.5}


def linear(front: str, x: float) -> int:
    """The arm that is best under weights (x, 1 - x)."""
    arms = table(front)
    return int(np.argmax(x * np.array(arms["x"]) + (1 - x) * np.array(arms["y"])))


# --- the fronts themselves ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("front", "discount", "slowest", "volume"),
    [
        ("treasure-convex", 1.0, 25.0, 401.8),
        ("treasure-concave", 1.0, 25.0, 1155.0),
        ("treasure-convex", 1.0, 50.0, 994.3),
        ("treasure-concave", 1.0, 50.0, 4255.0),
        ("treasure-convex", 0.99, 25.0, 360.4009463758157),
        ("treasure-concave", 0.99, 25.0, 1101.3844295193444),
        ("treasure-convex", 0.99, 50.0, 854.8503500349924),
        ("treasure-concave", 0.99, 50.0, 3688.3770900146155),
    ],
)
def test_deep_sea_treasure_has_its_known_volumes(front, discount, slowest, volume):
    points = [
        (
            discount ** (t - 1) * treasure,
            -t if discount == 1 else -(1 - discount**t) / (1 - discount),
        )
        for t, treasure in zip(STEPS, TREASURES[front], strict=True)
    ]
    assert hypervolume(points, [0.0, -slowest]) == pytest.approx(volume)


def test_the_arms_are_the_treasure_in_other_units():
    arms = table("treasure-concave")
    raw = [(x * DEEPEST, (y - 1) * SLOWEST) for x, y in zip(arms["x"], arms["y"], strict=True)]
    assert hypervolume(raw, [0.0, -25.0]) == pytest.approx(1155.0)


@pytest.mark.parametrize(("front", "reached"), [("concave", 2), ("treasure-concave", 2),
                                                ("convex", 5)])  # fmt: skip
def test_linear_weights_pick_only_the_ends_of_a_concave_front(front, reached):
    arms = table(front)
    assert all(is_nondominated(list(zip(arms["x"], arms["y"], strict=True))))
    assert len({linear(front, x) for x in np.linspace(0.001, 0.999, 999)}) == reached


def test_the_policy_is_one_row_of_logits():
    trial = testbeds.new_trial(front_study("concave"))
    assert [name for name, _ in trial.policy.trainable()] == ["head.weight"]
    torch.testing.assert_close(chosen(trial), torch.full((5,), 0.2).double())
    testbeds.train(trial.study, 3)
    assert testbeds.train(trial.study, 3).index == 3


# --- linear -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("front", "x", "optimizer"),
    [
        ("concave", 0.3, "dr-grpo"),
        ("concave", 0.45, "dr-grpo"),
        ("concave", 0.45, "rloo"),
        ("treasure-concave", 0.6, "dr-grpo"),
        ("convex", 0.5, "dr-grpo"),
        ("convex", 0.3, "dr-grpo"),
    ],
)
def test_fixed_ends_where_linear_weights_are_best(front, x, optimizer):
    weighting = f"weighting={{fixed: {{preference: {{x: {x}, y: {1 - x}}}}}}}"
    study = front_study(front, weighting, f"training.optimizer={optimizer}")
    shares = chosen(testbeds.train(study))
    best = linear(front, x)
    assert shares[best] > 0.9
    assert (best in {0, len(shares) - 1}) == (front != "convex")


# --- of the policy's means ----------------------------------------------------------------------

# Noise of one batch moves a short run as much as the rule does, so what is looked at is the mean
# over the last steps. A running mean that lags behind a policy this quick makes it swing.
QUICK = ("training.steps=110", "training.learning_rate=0.2")
LATE = 30
SKEWED = "preference: {x: 3, y: 7}"


def late(study):
    """Expected objectives, and shares of the arms, over the last steps."""
    trial = testbeds.new_trial(study)
    total = study.section.training.steps
    seen = []
    for _ in range(total):
        trial.train_step()
        seen.append((expected(trial), chosen(trial)))
    values = {k: sum(v[k] for v, _ in seen[-LATE:]) / LATE for k in ("x", "y")}
    return values, sum(shares for _, shares in seen[-LATE:]) / LATE


def below_hull(front, x, y):
    """How far a point lies below the line between the ends, in y."""
    arms = table(front)
    (x0, x1), (y0, y1) = [(arms[k][0], arms[k][-1]) for k in ("x", "y")]
    return y0 + (x - x0) / (x1 - x0) * (y1 - y0) - y


def on_hull(front, share):
    """Where w_x (1 - x) = w_y (1 - y) on the line between the ends, with w_x the share."""
    mixed = np.linspace(0, 1, 10001)
    x, y = [(1 - mixed) * arm[0] + mixed * arm[-1] for arm in table(front).values()]
    return float(x[np.abs(share * (1 - x) - (1 - share) * (1 - y)).argmin()])


OF_MEANS = {
    f"{{chebyshev: {{{SKEWED}, decay: 0.0}}}}": 0.3,
    f"{{smooth-chebyshev: {{{SKEWED}, decay: 0.3, temperature: 0.02}}}}": 0.3,
    f"{{augmented-chebyshev: {{{SKEWED}, decay: 0.0}}}}": 0.3,
    f"{{pbi: {{{SKEWED}, decay: 0.0}}}}": 0.3,
    "{maxmin: {decay: 0.3}}": 0.5,
}
SPREADING = "{hypervolume-gradient: {share: 1.0, smoothing: 0.0, standard_errors: 2.0}}"


@pytest.mark.parametrize(
    ("front", "weighting", "share"),
    [
        *((front, w, x) for front in ("concave", "treasure-concave") for w, x in OF_MEANS.items()),
        ("concave", SPREADING, 0.5),
    ],
)
def test_policy_level_weightings_reach_the_middle_as_mixtures_of_the_ends(front, weighting, share):
    values, shares = late(front_study(front, f"weighting={weighting}", *QUICK))
    arms = zip(*table(front).values(), strict=True)
    middle = min(below_hull(front, *arm) for arm in list(arms)[1:-1])
    assert below_hull(front, **values) < 0.06 < middle  # nearer to the hull than any other arm
    assert values["x"] == pytest.approx(on_hull(front, share), abs=0.12)
    if front == "concave":  # the treasure has arms beside an end and almost on the hull
        assert shares[1:-1].sum() < 0.1


def test_hypervolume_gradient_moves_on_and_its_archive_holds_more_than_all_arms():
    front = "treasure-concave"
    trial = testbeds.train(front_study(front, f"weighting={SPREADING}", *QUICK))
    archive = trial.weighting.state_dict()["archive"]
    arms = list(zip(*table(front).values(), strict=True))
    volume = hypervolume(archive, [0.0, 0.0])
    assert volume > 1.2 * hypervolume(arms, [0.0, 0.0])
    assert max(min(point) for point in archive) > 0.45 > max(min(arm) for arm in arms)
    assert expected(trial)["x"] > 0.9  # it does not stay in the middle


def test_a_large_penalty_makes_pbi_settle_on_a_dominated_arm_beside_the_ray():
    weighting = f"weighting={{pbi: {{{SKEWED}, decay: 0.0, penalty: 5.0}}}}"
    shares = chosen(testbeds.train(front_study("concave", weighting, *QUICK), 40))
    assert shares[1] > 0.9


def test_mgda_stops_where_it_meets_the_hull():
    values, shares = late(front_study("concave", "weighting=mgda", *QUICK))
    assert values["x"] + values["y"] > 0.95
    assert min(values.values()) > 0.1
    assert shares[1:-1].sum() < 0.1


# --- of single responses ------------------------------------------------------------------------


def response_best(front: str, x: float) -> int:
    """The arm whose largest weighted regret is smallest."""
    arms = table(front)
    regrets = np.stack([x * (1 - np.array(arms["x"])), (1 - x) * (1 - np.array(arms["y"]))])
    return int(np.argmin(regrets.max(0)))


@pytest.mark.parametrize(
    ("front", "weighting", "best"),
    [
        ("concave", "response-chebyshev", response_best("concave", 0.5)),
        ("concave", "response-smooth-chebyshev", 2),
        ("concave", "response-pbi", 2),
        ("concave", "{product: {margin: 0.05}}", 2),
        ("treasure-concave", "response-chebyshev", response_best("treasure-concave", 0.5)),
    ],
)
def test_response_level_scalarisers_reach_the_concave_arms_themselves(front, weighting, best):
    study = front_study(front, f"weighting={weighting}", "training.steps=70")
    shares = chosen(testbeds.train(study))
    assert best not in {0, len(shares) - 1}
    assert shares[best] > 0.85
    # Choosing between the ends at random is better in both: the arm lies below their hull.
    values = table(front)
    ends = [(values[k][0], values[k][-1]) for k in ("x", "y")]
    shares_of_last = np.linspace(0, 1, 201)
    mixed = np.stack([(1 - shares_of_last) * first + shares_of_last * last for first, last in ends])
    arm = np.array([values["x"][best], values["y"][best]])[:, None]
    assert (mixed > arm).all(0).any()


# --- two families of prompts --------------------------------------------------------------------


def own(study) -> dict[str, float]:
    """What each family of prompts gets of the objective that it wants."""
    trial = testbeds.train(study, 40)
    return {f: expected(trial, f)[f] for f in ("accuracy", "brevity")}


@pytest.fixture(scope="module")
def best_fixed() -> float:
    """The most that one weighting for all prompts reaches, as the mean over the families."""
    found = []
    for share in (0.05, 0.5, 0.95):
        preference = f"{{accuracy: {share}, brevity: {1 - share}}}"
        reached = own(testbeds.family_study(f"weighting={{fixed: {{preference: {preference}}}}}"))
        found.append((sum(reached.values()) / 2, reached))
    mean, reached = max(found, key=lambda pair: pair[0])
    assert all(value < 0.75 for value in reached.values())  # the compromise
    return mean


@pytest.mark.parametrize("combine", ["advantages", "rewards"])
@pytest.mark.parametrize(
    "weighting",
    ["by-family", "{prompt-adapter: {steps: 200}}", "{context-router: {steps: 200}}"],
)
def test_weights_per_prompt_beat_the_best_fixed_ones_on_both_families(
    best_fixed, weighting, combine
):
    # grpo divides by the deviation of each group: what a weight does must survive it.
    overrides = ("training.optimizer=grpo", f"training.combine={combine}")
    reached = own(testbeds.family_study(f"weighting={weighting}", *overrides))
    for value in reached.values():
        assert value > best_fixed + 0.2


@pytest.mark.parametrize("combine", ["advantages", "rewards"])
def test_all_weight_of_a_prompt_on_one_objective_trains_that_objective_bit_for_bit(combine):
    overrides = ("training.optimizer=grpo", f"training.combine={combine}", "training.prompts=4")
    study = testbeds.family_study("weighting={by-family: {share: 1.0}}", *overrides)
    trial = testbeds.new_trial(study)
    kept = {}
    original = trial._combined

    def watched(step, returned):
        kept["step"], kept["combined"] = step, original(step, returned)
        return kept["combined"]

    trial._combined = watched
    trial.train_step()
    step, combined_PG = kept["step"], kept["combined"].view(4, -1)
    advantages_PGK = step.advantages_BTK.view(4, -1, 2)
    assert {p.fields["family"] for p in step.batch.prompts_P} == set(step.names)
    for p, prompt in enumerate(step.batch.prompts_P):
        k = step.names.index(prompt.fields["family"])
        assert torch.equal(combined_PG[p], advantages_PGK[p, :, k])
        assert combined_PG[p].abs().max() > 0.5
