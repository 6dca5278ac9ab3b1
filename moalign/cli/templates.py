"""What ``moalign plugins new`` writes: per kind a plugin file and its test, both ready to run."""

from __future__ import annotations

from typing import Final

_WEIGHTING: Final = '''\
"""The weighting {name}."""

from typing import Annotated

from annotated_types import Ge
from moalign import Preference, Step, Weighting, Weights, hookimpl


class {class}(Weighting):
    """Gives more than its preference to the objective that is furthest from a score of 1.

    w_k is proportional to preference_k * exp(sharpness * (1 - mean score of k)).
    """

    name = "{name}"

    def __init__(
        self, *, preference: Preference | None = None, sharpness: Annotated[float, Ge(0)] = 1.0
    ) -> None:
        self.preference, self.sharpness = preference, sharpness

    def weigh(self, step: Step) -> Weights:
        """Return the weights, [K]."""
        lack_K = 1 - step.mean_scores_K()
        lack_K = lack_K.nan_to_num(0.0)  # an objective that applies to no completion lacks nothing
        return Weights((step.preference_K.log() + self.sharpness * lack_K).softmax(-1))


@hookimpl
def moalign_weightings() -> list[type[Weighting]]:
    """Offer the weighting."""
    return [{class}]
'''

_TEST_WEIGHTING: Final = '''\
"""Tests of the weighting {name}."""

from pathlib import Path

import pytest
import torch
from moalign import Weighting
from moalign.plugins import load
from moalign.testing import contract
from moalign.testing.steps import make_step

FILE = Path(__file__).with_name("{stem}.py")

test_contract = contract(FILE)


def test_the_worst_objective_weighs_most() -> None:
    weighting = load([FILE]).build(Weighting, {"{name}": {"sharpness": 2.0}})
    step = make_step(torch.tensor([[[0.9, 0.1], [0.7, 0.3]]]))
    weights = weighting.weigh(step).values.tolist()
    assert weights == pytest.approx([0.2315, 0.7685], abs=1e-4)
'''

_REWARD: Final = '''\
"""The reward {name}."""

from typing import Annotated

from annotated_types import Gt
from moalign import Batch, Reward, hookimpl


class {class}(Reward):
    """The share of words that are no longer than a limit. NaN for a text without words."""

    name = "{name}"
    range = (0.0, 1.0)

    def __init__(self, *, limit: Annotated[int, Gt(0)] = 6) -> None:
        self.limit = limit

    def score(self, batch: Batch) -> list[float]:
        """Return one score per completion; higher is better."""
        return [self._share(text.split()) for text in batch.texts_B]

    def _share(self, words: list[str]) -> float:
        short = sum(len(word) <= self.limit for word in words)
        return short / len(words) if words else float("nan")


@hookimpl
def moalign_rewards() -> list[type[Reward]]:
    """Offer the reward."""
    return [{class}]
'''

_TEST_REWARD: Final = '''\
"""Tests of the reward {name}."""

from pathlib import Path

from moalign import Reward
from moalign.plugins import load
from moalign.testing import contract
from moalign.testing.steps import make_batch

FILE = Path(__file__).with_name("{stem}.py")

test_contract = contract(FILE)


def test_long_words_cost() -> None:
    reward = load([FILE]).build(Reward, {"{name}": {"limit": 4}})
    batch = make_batch(prompts=1, group=2)
    batch.texts_B = ("a very cheap place", "it is near")
    assert reward.score(batch) == [0.5, 1.0]
'''

_OPTIMIZER: Final = '''\
"""The optimizer {name}."""

from typing import Annotated

from annotated_types import Ge, Gt
from moalign import Batch, Optimizer, Rows, hookimpl
from moalign.maths.normalisation import group_centre
from moalign.maths.surrogate import ClippedSurrogate
from torch import Tensor


class {class}(Optimizer):
    """Compares completions with the mean of their group; the loss is clipped on both sides."""

    name = "{name}"
    min_group = 2

    def __init__(
        self, *, clip: Annotated[float, Gt(0)] = 0.2, epochs: Annotated[int, Ge(1)] = 1
    ) -> None:
        self.epochs = epochs
        self.surrogate = ClippedSurrogate(clip, clip, None, 0.0, "k3", "token-mean")

    def advantages(self, scores_PGK: Tensor, batch: Batch) -> Tensor:
        """Return advantages per objective, [B, 1, K]; 0 where a score is NaN."""
        return group_centre(scores_PGK).flatten(0, 1)[:, None]

    def loss(
        self, logprobs_BT: Tensor, rows: Rows, advantages_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the rows' share of the loss, and of its metrics."""
        return self.surrogate.loss(logprobs_BT, rows, advantages_BT)


@hookimpl
def moalign_optimizers() -> list[type[Optimizer]]:
    """Offer the optimizer."""
    return [{class}]
'''

_TEST_OPTIMIZER: Final = '''\
"""Tests of the optimizer {name}."""

from pathlib import Path

import torch
from moalign import Optimizer
from moalign.plugins import load
from moalign.testing import contract
from moalign.testing.steps import make_batch

FILE = Path(__file__).with_name("{stem}.py")

test_contract = contract(FILE)


def test_advantages_are_differences_from_the_mean() -> None:
    optimizer = load([FILE]).build(Optimizer, "{name}")
    scores_PGK = torch.tensor([[[1.0], [0.0], [0.5], [0.5]]])
    advantages_BTK = optimizer.advantages(scores_PGK, make_batch(prompts=1, group=4))
    assert advantages_BTK.flatten().tolist() == [0.5, -0.5, 0.0, 0.0]
'''

_PAIR_LOSS: Final = '''\
"""The optimizer {name}."""

from typing import Annotated, Any

from annotated_types import Ge
from moalign import Optimizer, Pairs, PairwiseOptimizer, hookimpl
from torch import Tensor
from torch.nn.functional import logsigmoid


class {class}(PairwiseOptimizer):
    """Makes the better of two completions likelier than the other, by more than a gap.

    With h the log-ratio of the better one minus that of the other: -log sigmoid(beta h - gap).
    """

    name = "{name}"
    examples = ({}, {"gap": 1.0, "labels": "soft"})

    def __init__(self, *, gap: Annotated[float, Ge(0)] = 0.5, **pairwise: Any) -> None:
        super().__init__(**pairwise)
        self.gap = gap

    def loss_of_pairs(self, pairs: Pairs) -> Tensor:
        """Return the loss of each pair for each objective, [P, N, K]."""
        return -logsigmoid(self.beta * pairs.h - self.gap)


@hookimpl
def moalign_optimizers() -> list[type[Optimizer]]:
    """Offer the optimizer."""
    return [{class}]
'''

_TEST_PAIR_LOSS: Final = '''\
"""Tests of the optimizer {name}."""

from pathlib import Path

import pytest
import torch
from moalign import Optimizer, Rows
from moalign.plugins import load
from moalign.testing import contract

FILE = Path(__file__).with_name("{stem}.py")

test_contract = contract(FILE)


def test_the_better_one_has_to_be_ahead() -> None:
    optimizer = load([FILE]).build(Optimizer, {"{name}": {"gap": 1.0, "beta": 0.5}})
    logprobs_BT, reference_BT = torch.tensor([[-1.0], [-3.0]]), torch.tensor([[-2.0], [-2.0]])
    scores_BK = torch.tensor([[0.9], [0.1]])
    rows = Rows(
        mask_BT=torch.ones(2, 1),
        old_logprobs_BT=logprobs_BT,
        ref_logprobs_BT=reference_BT,
        total_rows=2,
        total_tokens=2,
        max_tokens=1,
        group=2,
        scores_BK=scores_BK,
        counts_K=torch.tensor([1]),
    )
    losses_PK, _ = optimizer.losses(logprobs_BT, rows)
    # h is 1 - (-1) = 2, so the loss is -log sigmoid(0.5 * 2 - 1) = log 2.
    assert losses_PK.item() == pytest.approx(0.6931, abs=1e-4)
'''

TEMPLATES: Final = {
    "weighting": (_WEIGHTING, _TEST_WEIGHTING),
    "reward": (_REWARD, _TEST_REWARD),
    "optimizer": (_OPTIMIZER, _TEST_OPTIMIZER),
    "pair-loss": (_PAIR_LOSS, _TEST_PAIR_LOSS),
}
"""Plugin file and test by template; ``{name}``, ``{stem}`` and ``{class}`` are filled in."""

KINDS: Final = {"pair-loss": "optimizer"}
"""The kind of what a template makes, where it is not the template's name."""
