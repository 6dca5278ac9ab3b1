"""Self-play preference optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt

from moalign.optimizers.games import GameOptimizer, decided, of_others, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.types import Rows


class Sppo(GameOptimizer):
    """Makes each completion likelier by as much as it wins against the policy that wrote it.

    A game of the policy against itself. With P the share of the other completions of its group
    that a completion y beats, and pi_t the policy that sampled them::

        loss = mean of (log pi(y) / pi_t(y) - eta (P - 1/2))^2

    log-probabilities summed over tokens. ``eta`` says how far one batch may move a completion: by
    at most eta / 2. The first gradient step knows only who wins; it takes several, ``epochs`` or
    ``training.minibatches``, for the distance to count.

    If the objectives go round in a circle, it is the mean of the policies that none beats: each by
    itself goes round, too, and ever further; ``nash-md``, ``egpo`` and ``inpo`` are held by the
    reference policy.

    Source:
        "Self-Play Preference Optimization for Language Model Alignment", Wu et al. 2024, arXiv
        2405.00675, with 1/2 for the normaliser as there. Differs: a completion is not counted
        against itself; pi_t is the policy at the beginning of each step, there of three rounds;
        eta is 1000 there, where no round gets near the distance; several objectives.

    When to use it:
        A judge of pairs as the reward (``preference: wins``), or rewards by which completions
        should be compared only, and no wish to stay near the reference policy.

    Cost:
        One forward and backward pass per epoch over the group, and with several steps per batch a
        forward pass of the policy that sampled. No reference policy.

    Example::

        training: {optimizer: {sppo: {eta: 2.0, epochs: 4}}, group: 4}
    """

    name: ClassVar[str] = "sppo"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"eta": 10.0, "epochs": 2, "preference": "comparison"},
        {"preference": "wins"},
    )

    def __init__(
        self,
        *,
        eta: Annotated[float, Gt(0)] = 1.0,
        epochs: Annotated[int, Ge(1)] = 2,
        **game: Any,
    ) -> None:
        """Take the options.

        Args:
            eta: how much likelier a completion that always wins should be: e^(eta / 2) times.
            epochs: passes over each rollout.
        """
        super().__init__(**game)
        self.eta = eta
        self.epochs = epochs

    def loss(
        self, logprobs_BT: Tensor, rows: Rows, advantages_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the rows' share of the loss, and of the metric ``decided``."""
        margins_PGG = self.margins(rows, advantages_BT)
        moved_PG = whole(logprobs_BT - rows.old_logprobs_BT, rows)
        errors_PG = moved_PG - self.eta * of_others(margins_PGG)
        return errors_PG.square().sum() / rows.total_rows, decided(margins_PGG, rows)
