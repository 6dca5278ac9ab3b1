"""Losses that compare completions two at a time: values, symmetries, limits and optima."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from tabular import begun, fit, rows_of
from torch import Tensor

from moalign.components import Optimizer
from moalign.errors import ContractError
from moalign.optimizers.preferences import Labels, PairwiseOptimizer
from moalign.testing.steps import make_objectives
from moalign_plugins.optimizers.cdpo import Cdpo
from moalign_plugins.optimizers.dpo import Dpo
from moalign_plugins.optimizers.hinge import Hinge
from moalign_plugins.optimizers.ipo import Ipo
from moalign_plugins.optimizers.ld_dpo import LdDpo
from moalign_plugins.optimizers.madpo import Madpo
from moalign_plugins.optimizers.mmpo import Mmpo
from moalign_plugins.optimizers.rdpo import Rdpo
from moalign_plugins.optimizers.rpo_sft import RpoSft

EVERY: dict[str, Callable[[], PairwiseOptimizer]] = {
    "dpo": Dpo,
    "dpo-soft": lambda: Dpo(labels="soft"),
    "ipo": Ipo,
    "ipo-mean": lambda: Ipo(log_ratio="mean"),
    "hinge": Hinge,
    "cdpo": Cdpo,
    "rdpo": Rdpo,
    "rpo-sft": RpoSft,
    "ld-dpo": LdDpo,
    "madpo": Madpo,
    "mmpo": Mmpo,
}


def pair_loss(
    optimizer: Optimizer,
    first: Sequence[float],
    second: Sequence[float],
    scores: tuple[float, float] = (1.0, 0.0),
) -> float:
    """Return the loss of two completions, by the log-ratio of each of their tokens.

    The reference gives every token a log-probability of -2.
    """
    tokens = max(len(first), len(second))
    ratios = torch.zeros(1, 2, tokens, dtype=torch.float64)
    mask = torch.zeros_like(ratios)
    for row, given in enumerate((first, second)):
        ratios[0, row, : len(given)] = torch.tensor(given, dtype=torch.float64)
        mask[0, row, : len(given)] = 1.0
    reference = torch.full_like(ratios, -2.0) * mask
    scores_PGK = torch.tensor(scores, dtype=torch.float64)[None, :, None]
    rows = rows_of(begun(optimizer, 1), scores_PGK, reference, mask_PGT=mask)
    losses_PK, _ = optimizer.losses((reference + ratios).flatten(0, 1), rows)
    return float(losses_PK)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (Dpo(), 0.55436),
        (Cdpo(smoothing=0.1), 0.58436),
        (Rdpo(flip_rate=0.1), 0.51686),
        (Ipo(), 4.0),
        (Hinge(), 0.7),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_golden_values_at_a_log_ratio_of_3(optimizer: Optimizer, expected: float):
    assert pair_loss(optimizer, [1.5, 0.5], [-1.0]) == pytest.approx(expected, abs=5e-6)
    # The same pair, listed the other way round.
    swapped = pair_loss(optimizer, [-1.0], [1.5, 0.5], (0.0, 1.0))
    assert swapped == pytest.approx(expected, abs=5e-6)


class Misspelt(PairwiseOptimizer):
    name = "misspelt"

    def loss_of_pair(self, pairs):
        return pairs.h.square()


class OfTheBatch(PairwiseOptimizer):
    name = "of-the-batch"

    def loss_of_pairs(self, pairs):
        return pairs.h.square().mean()


def test_a_subclass_without_a_loss_is_no_other_method():
    with pytest.raises(TypeError, match=r"abstract class Misspelt .*loss_of_pairs"):
        Misspelt()


def test_a_loss_of_another_shape_is_refused():
    message = (
        r"of-the-batch: loss_of_pairs\(\) returned the shape \[\]; it must be that of pairs\.h"
    )
    with pytest.raises(ContractError, match=message):
        pair_loss(OfTheBatch(), [3.0], [0.0])


def test_ipo_is_least_at_1_over_2_beta():
    assert pair_loss(Ipo(), [5.0], [0.0]) == 0.0
    assert pair_loss(Ipo(), [4.9], [0.0]) == pytest.approx(0.01)
    assert pair_loss(Ipo(), [5.1], [0.0]) == pytest.approx(0.01)


def test_ipo_may_take_log_ratios_per_token():
    # (2 + 4) / 2 - (-2 - 1 - 3) / 3 = 5
    assert pair_loss(Ipo(log_ratio="mean"), [2.0, 4.0], [-2.0, -1.0, -3.0]) == pytest.approx(0.0)


def test_hinge_is_flat_where_the_better_one_is_far_enough():
    assert pair_loss(Hinge(), [10.0], [0.0]) == 0.0
    assert pair_loss(Hinge(), [50.0], [0.0]) == 0.0
    assert pair_loss(Hinge(), [-10.0], [0.0]) == pytest.approx(2.0)


def test_rpo_sft_adds_the_likelihood_of_the_chosen_one():
    # Log-probabilities of the chosen one: -2 + 1.5 and -2 + 0.5.
    plain = pair_loss(Dpo(), [1.5, 0.5], [-1.0])
    mean = pair_loss(RpoSft(eta=0.2), [1.5, 0.5], [-1.0])
    assert mean - plain == pytest.approx(0.2 * (0.5 + 1.5) / 2)
    summed = pair_loss(RpoSft(eta=0.2, likelihood="sum"), [1.5, 0.5], [-1.0])
    assert summed - plain == pytest.approx(0.2 * (0.5 + 1.5))
    other = pair_loss(RpoSft(eta=0.2, likelihood="sum"), [1.5, 0.5], [-1.0], (0.0, 1.0))
    assert other == pytest.approx(softplus(0.3) + 0.2 * 3.0)


def test_ld_dpo_discounts_what_only_the_longer_one_has():
    # Shared: 1 - (-0.5) = 1.5; beyond: 2 + 3, at 0.4.
    found = pair_loss(LdDpo(alpha=0.4), [1.0, 2.0, 3.0], [-0.5])
    assert found == pytest.approx(softplus(-0.1 * (1.5 + 0.4 * 5.0)))
    # Of the rejected one, too.
    found = pair_loss(LdDpo(alpha=0.4), [1.0, 2.0, 3.0], [-0.5], (0.0, 1.0))
    assert found == pytest.approx(softplus(0.1 * (1.5 + 0.4 * 5.0)))
    assert pair_loss(LdDpo(alpha=0.0), [1.0, 50.0], [-0.5]) == pytest.approx(softplus(-0.15))


def test_madpo_weighs_close_calls_up_and_clear_ones_down():
    def weight(difference: float) -> float:
        madpo = Madpo(threshold=0.5, sharpness=4.0)
        return pair_loss(madpo, [3.0], [0.0], (difference, 0.0)) / 0.5543552444685272

    assert weight(0.5) == pytest.approx(1.0)
    assert weight(0.25) == pytest.approx(2 / (1 + math.exp(-1.0)))
    assert weight(1.0) == pytest.approx(2 / (1 + math.exp(2.0)))
    assert 0.0 < weight(3.0) < weight(1.0) < weight(0.5) < weight(0.01) < 2.0


def test_madpo_weighs_soft_labels_alike():
    # The weight belongs to the pair: it does not depend on which of the two stands as chosen.
    weight = 2 / (1 + math.exp(4.0 * (0.8 - 0.5)))
    soft = pair_loss(Dpo(labels="soft"), [3.0], [0.0], (0.9, 0.1))
    found = pair_loss(Madpo(threshold=0.5, sharpness=4.0, labels="soft"), [3.0], [0.0], (0.9, 0.1))
    assert found == pytest.approx(weight * soft)


def test_mmpo_believes_a_margin_as_much_as_it_is_large():
    p = 1 / (1 + math.exp(-5.0 * 0.4))
    expected = p * softplus(-0.3) + (1 - p) * softplus(0.3)
    assert pair_loss(Mmpo(gamma=5.0), [3.0], [0.0], (0.9, 0.5)) == pytest.approx(expected)
    # Scores that do not differ say that the two are equally good.
    even = 0.5 * (softplus(-0.3) + softplus(0.3))
    assert pair_loss(Mmpo(gamma=5.0), [3.0], [0.0], (0.5, 0.5)) == pytest.approx(even)


@pytest.mark.parametrize("method", [Mmpo, Madpo])
def test_margins_are_shares_of_the_bounds(method: Callable[[], PairwiseOptimizer]):
    one, hundred = method(), method()
    one.begin(make_objectives("a"), 1, 0)
    narrow = make_objectives("a")[0]
    wide = type(narrow)("a", bounds=(50.0, 150.0))
    hundred.begin((wide,), 1, 0)
    logprobs = torch.tensor([[-1.0], [-2.0]])
    scores = torch.tensor([0.7, 0.4])[None, :, None]
    reference = torch.full((1, 2, 1), -1.5)
    found, _ = one.losses(logprobs, rows_of(one, scores, reference))
    scaled, _ = hundred.losses(logprobs, rows_of(hundred, 100 * scores, reference))
    torch.testing.assert_close(found, scaled)


# --- symmetries ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dpo", "dpo-soft", "cdpo", "rdpo", "ld-dpo", "mmpo"])
def test_a_policy_like_the_reference_has_a_loss_of_log_2(name: str):
    assert pair_loss(EVERY[name](), [0.0, 0.0], [0.0]) == pytest.approx(math.log(2))


def test_a_policy_like_the_reference_elsewhere():
    assert pair_loss(Ipo(), [0.0, 0.0], [0.0]) == pytest.approx(25.0)
    assert pair_loss(Hinge(), [0.0, 0.0], [0.0]) == pytest.approx(1.0)
    assert pair_loss(RpoSft(), [0.0, 0.0], [0.0]) == pytest.approx(math.log(2) + 0.2 * 2.0)
    at_threshold = (0.5, 0.0)
    assert pair_loss(Madpo(), [0.0], [0.0], at_threshold) == pytest.approx(math.log(2))


@pytest.mark.parametrize("name", EVERY)
def test_the_other_preference_mirrors_the_loss(name: str):
    # Of which one is preferred only the sign of h remains (where likelihoods do not count).
    if name == "rpo-sft":
        one, other = RpoSft(eta=0.0), RpoSft(eta=0.0)
    else:
        one, other = EVERY[name](), EVERY[name]()
    plain = pair_loss(one, [1.0, 0.5], [-0.3, 0.2, 0.9], (0.3, 0.9))
    mirrored = pair_loss(other, [-1.0, -0.5], [0.3, -0.2, -0.9], (0.9, 0.3))
    assert plain == pytest.approx(mirrored)


@pytest.mark.parametrize("name", EVERY)
def test_the_order_of_the_completions_does_not_matter(name: str):
    one = pair_loss(EVERY[name](), [1.0, 0.5], [-0.3, 0.2, 0.9], (0.3, 0.9))
    other = pair_loss(EVERY[name](), [-0.3, 0.2, 0.9], [1.0, 0.5], (0.9, 0.3))
    assert one == pytest.approx(other)


@pytest.mark.parametrize("epsilon", [0.05, 0.2, 0.45])
@pytest.mark.parametrize("h", [-7.0, 0.4, 12.0])
def test_rdpo_is_unbiased_under_flips(epsilon: float, h: float):
    clean = pair_loss(Dpo(beta=0.5), [h], [0.0])
    right = pair_loss(Rdpo(beta=0.5, flip_rate=epsilon), [h], [0.0])
    flipped = pair_loss(Rdpo(beta=0.5, flip_rate=epsilon), [h], [0.0], (0.0, 1.0))
    assert (1 - epsilon) * right + epsilon * flipped == pytest.approx(clean)
    # And cdpo is not: its mean is the loss of labels that are flipped twice.
    right = pair_loss(Cdpo(beta=0.5, smoothing=epsilon), [h], [0.0])
    flipped = pair_loss(Cdpo(beta=0.5, smoothing=epsilon), [h], [0.0], (0.0, 1.0))
    assert (1 - epsilon) * right + epsilon * flipped != pytest.approx(clean)


@pytest.mark.parametrize("name", EVERY)
def test_the_loss_of_three_completions_is_the_mean_over_their_pairs(name: str):
    generator = torch.Generator().manual_seed(3)
    reference = -torch.rand(1, 3, 4, dtype=torch.float64, generator=generator)
    policy = -torch.rand(1, 3, 4, dtype=torch.float64, generator=generator)
    mask = torch.tensor([[[1.0] * 4, [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]]]).double()
    scores = torch.tensor([[[0.1, 0.9], [0.8, 0.2], [0.5, 0.3]]]).double()
    optimizer = begun(EVERY[name](), 2)

    def of(rows: list[int]) -> Tensor:
        given = rows_of(optimizer, scores[:, rows], reference[:, rows], mask_PGT=mask[:, rows])
        return optimizer.losses(policy[:, rows].flatten(0, 1), given)[0]

    pairs = [of(rows) for rows in ([0, 1], [0, 2], [1, 2])]
    torch.testing.assert_close(of([0, 1, 2]), torch.stack(pairs).mean(0))


# --- limits -------------------------------------------------------------------------------------

LONG, SHORT = [1.0, 0.5, -0.2], [-0.3]


@pytest.mark.parametrize(
    ("limit", "plain"),
    [
        (Cdpo(smoothing=0.0), Dpo()),
        (Rdpo(flip_rate=0.0), Dpo()),
        (RpoSft(eta=0.0), Dpo()),
        (LdDpo(alpha=1.0), Dpo()),
        (Madpo(sharpness=0.0), Dpo()),
        (Mmpo(gamma=1.0), Dpo(labels="soft")),  # the bounds are (0, 1)
        (Mmpo(gamma=1e4), Dpo()),
        (Cdpo(smoothing=0.0, labels="soft"), Dpo(labels="soft")),
        (LdDpo(alpha=1.0, labels="soft"), Dpo(labels="soft")),
        (Madpo(sharpness=0.0, labels="soft"), Dpo(labels="soft")),
    ],
    ids=lambda value: value.name,
)
@pytest.mark.parametrize("scores", [(0.9, 0.4), (0.4, 0.9)])
def test_at_its_limit_it_is_dpo(limit: Optimizer, plain: Optimizer, scores: tuple[float, float]):
    expected = pair_loss(plain, LONG, SHORT, scores)
    assert pair_loss(limit, LONG, SHORT, scores) == pytest.approx(expected)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_ld_dpo_of_equal_lengths_is_dpo(alpha: float):
    expected = pair_loss(Dpo(), [1.0, 0.5], [-0.3, 0.2])
    assert pair_loss(LdDpo(alpha=alpha), [1.0, 0.5], [-0.3, 0.2]) == pytest.approx(expected)


@pytest.mark.parametrize("name", EVERY)
def test_hostile_scores_and_log_ratios_stay_finite(name: str):
    scores = torch.tensor(
        [[[1e10, 0.3], [-1e10, 0.3]], [[1e-10, math.nan], [0.0, 0.5]], [[math.nan] * 2] * 2]
    )
    for size in (1.0, 1e4):
        reference = torch.full((3, 2, 1), -1.0)
        logprobs = (torch.tensor([1.0, -1.0] * 3)[:, None] * size).requires_grad_()
        optimizer = begun(EVERY[name](), 2)
        rows = rows_of(optimizer, scores, reference)
        losses_PK, _ = optimizer.losses(logprobs, rows)
        assert torch.equal(~losses_PK.isnan(), optimizer.applies(scores))
        loss, metrics = optimizer.pair_loss(logprobs, rows, torch.full((3, 2), 0.5))
        (gradient,) = torch.autograd.grad(loss, logprobs)
        assert loss.isfinite()
        assert gradient.isfinite().all()
        assert all(value.isfinite() for value in metrics.values())
        assert not gradient[4:].any()  # nobody knows which is better


@pytest.mark.parametrize("labels", ["hard", "soft"])
@pytest.mark.parametrize(
    ("moved", "accuracy", "margin"),
    [
        ([0.0, 1e-8, 0.0, 0.0, 0.0, 0.0], 0.5, 0.0),  # rounding
        ([0.3, 0.0, 0.0, 0.2, 0.0, 0.0], 0.5, 0.05),
        ([0.3, 0.0, 0.2, 0.0, 0.0, 0.9], 1.0, 0.25),  # of equal scores neither is better
    ],
)
def test_accuracy_is_one_half_of_what_has_not_moved(
    labels: Labels, moved: list[float], accuracy: float, margin: float
):
    """Of two prompts with a preference and one without, which counts in the mean of soft labels."""
    scores_PGK = torch.tensor([[1.0, 0.0], [3.0, 2.0], [0.5, 0.5]])[..., None]
    reference = torch.full((3, 2, 1), -2.0)
    rows = rows_of(begun(Dpo(labels=labels), 1), scores_PGK, reference)
    _, metrics = Dpo(labels=labels).losses(torch.tensor(moved)[:, None] - 2.0, rows)
    share = 1.0 if labels == "hard" else 2 / 3
    assert float(metrics["accuracy"]) == pytest.approx(0.5 + share * (accuracy - 0.5))
    assert float(metrics["margin"]) == pytest.approx(share * margin, abs=1e-6)


# --- optima -------------------------------------------------------------------------------------

REFERENCE = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.2, 0.6]], dtype=torch.float64)
SCORES = torch.tensor([[0.2, 1.3, 0.7, -0.5], [1.0, 0.0, 2.0, 0.5]], dtype=torch.float64)
UNIFORM = torch.full((1, 4), 0.25, dtype=torch.float64)


def tilted(reference_PA: Tensor, by_PA: Tensor) -> Tensor:
    """Return ``reference exp(by)``, normalised."""
    return (reference_PA.log() + by_PA).softmax(-1)


@pytest.mark.parametrize("beta", [0.5, 2.0])
@pytest.mark.parametrize("method", [Dpo, LdDpo])
def test_with_soft_labels_the_optimum_is_that_of_the_reward(method: type[Dpo | LdDpo], beta: float):
    found = fit(method(beta=beta, labels="soft"), SCORES[..., None], [1.0], REFERENCE)
    torch.testing.assert_close(found, tilted(REFERENCE, SCORES / beta), atol=1e-6, rtol=0)


def test_mmpo_matches_margins():
    found = fit(begun(Mmpo(gamma=3.0, beta=0.5), 1), SCORES[..., None], [1.0], REFERENCE)
    torch.testing.assert_close(found, tilted(REFERENCE, 6.0 * SCORES), atol=1e-6, rtol=0)


def test_rdpo_finds_the_optimum_behind_flipped_labels():
    # Two completions, preferred with probability 0.8; a fifth of the labels is flipped, so that
    # 0.8 * 0.8 + 0.2 * 0.2 = 0.68 of them say so.
    said = torch.tensor([[0.68 / 0.32, 1.0]]).double().log()[..., None]
    half = torch.tensor([[0.5, 0.5]])
    clean = torch.tensor([[0.8, 0.2]]).double()
    found = fit(Rdpo(beta=1.0, flip_rate=0.2, labels="soft"), said, [1.0], half)
    torch.testing.assert_close(found, clean, atol=1e-6, rtol=0)
    plain = fit(Dpo(beta=1.0, labels="soft"), said, [1.0], half)
    torch.testing.assert_close(plain, torch.tensor([[0.68, 0.32]]).double(), atol=1e-6, rtol=0)


def test_cdpo_goes_no_further_than_its_doubt():
    found = fit(
        Cdpo(beta=1.0, smoothing=0.2), torch.tensor([[[1.0], [0.0]]]), [1.0], UNIFORM[:, :2] * 2
    )
    torch.testing.assert_close(found, torch.tensor([[0.8, 0.2]]).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("reference", [UNIFORM, REFERENCE[:1]], ids=["uniform", "any"])
def test_ipo_tilts_by_how_probably_a_response_beats_the_others(reference: Tensor):
    # Soft labels and all pairs are the population loss: both orders of each, weighted by P.
    scores = SCORES[:1]
    beats = torch.sigmoid(scores[0, :, None] - scores[0]).mean(1)  # itself with one half
    found = fit(Ipo(beta=0.2, labels="soft"), scores[..., None], [1.0], reference)
    torch.testing.assert_close(found, tilted(reference, beats / 0.2), atol=1e-6, rtol=0)


PAIRS = [[0, 1], [0, 2], [1, 2]]


@pytest.mark.parametrize("others", [0.9, 0.6])
def test_ipo_knows_preferences_that_no_score_gives(others: float):
    """Rock beats scissors and so on, one of them less often than the others."""
    probabilities = torch.tensor([0.9, 1 - others, 0.9]).double()  # of the first of each pair
    scores = torch.stack([probabilities.logit(), torch.zeros(3).double()], 1)[..., None]
    beats = torch.full((3, 3), 0.5).double()
    for (first, second), p in zip(PAIRS, probabilities, strict=True):
        beats[first, second], beats[second, first] = p, 1 - p
    reference = torch.tensor([[0.5, 0.3, 0.2]]).double()
    found = fit(Ipo(beta=0.3, labels="soft"), scores, [1.0], reference, PAIRS)
    expected = tilted(reference, beats.mean(1) / 0.3)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    if others == 0.9:  # all beat and are beaten alike, so there is nothing to learn
        torch.testing.assert_close(found, reference, atol=1e-6, rtol=0)


def test_objectives_are_summed_with_their_weights():
    # Soft labels of two objectives: the optimum matches the mean of the two probabilities.
    scores = torch.tensor([[[1.0, -2.0], [0.0, 0.0]]]).double()
    half = torch.tensor([[0.5, 0.5]])
    found = fit(Dpo(beta=1.0, labels="soft"), scores, [0.75, 0.25], half)
    p = 0.75 * torch.sigmoid(scores[0, 0, 0]) + 0.25 * torch.sigmoid(scores[0, 0, 1])
    torch.testing.assert_close(found[0, 0], p, atol=1e-6, rtol=0)
