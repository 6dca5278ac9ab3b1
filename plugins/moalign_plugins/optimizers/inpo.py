"""Iterative Nash policy optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt

from moalign.errors import OptionError
from moalign.optimizers.games import GameOptimizer, decided, regression

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.types import Rows


class Inpo(GameOptimizer):
    """Plays against itself by a loss of pairs, held by the last policy and by the reference.

    With h the difference of the log-probabilities of two completions, pi_t the policy that sampled
    them, and P the probability that the first beats the second, over all pairs of a group::

        loss = mean of (h(pi) - tau/eta h(pi_ref) - (1 - tau/eta) h(pi_t) - (P - 1/2) / eta)^2

    It need not be known how often a completion wins against the policy, as for ``sppo``: a pair at
    a time is enough. It rests where ``pi = pi_ref exp(P(y beats pi) / tau)`` up to a factor, the
    policy that none beats if both pay ``tau`` for leaving the reference. Where utilities say who
    wins, and hardly differ, P - 1/2 is a quarter of their difference, and that policy is the
    optimum of ``online-dpo`` with soft labels and a beta of 4 tau. A larger ``eta`` lets each batch
    move the policy less; like ``sppo`` it takes several steps per batch for that to count.

    If the objectives go round in a circle, the mean of the policies gets there; the last one does
    if ``eta`` is large enough.

    Source:
        "Iterative Nash Policy Optimization", Zhang et al. 2024, arXiv 2407.00617. Differs:
        the probability of winning stands in the loss, there a winner drawn by it and 1 / (2 eta),
        which has the same gradient on average; all pairs of a group, there the best and the worst;
        pi_t is the policy at the beginning of each step, there of a few rounds; several objectives.

    When to use it:
        A judge of pairs as the reward (``preference: wins``), or rewards by which completions
        should be compared only, and a reference policy that is worth staying near.

    Cost:
        One forward and backward pass per epoch over the group, a forward pass of the reference
        policy, and with several steps per batch one of the policy that sampled.

    Example::

        training: {optimizer: {inpo: {tau: 0.1, eta: 0.3, epochs: 2}}, group: 4}
    """

    name: ClassVar[str] = "inpo"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"tau": 0.5, "eta": 0.5, "epochs": 1, "preference": "comparison"},
        {"preference": "wins"},
    )
    needs: frozenset[str] = frozenset({"ref_logprobs"})

    def __init__(
        self,
        *,
        tau: Annotated[float, Gt(0)] = 0.1,
        eta: Annotated[float, Gt(0)] = 0.3,
        epochs: Annotated[int, Ge(1)] = 2,
        **game: Any,
    ) -> None:
        """Take the options.

        Args:
            tau: strength of the pull to the reference policy, in units of a probability of winning.
            eta: strength of the pull to the policy that sampled and to the reference together;
                at least `tau`.
            epochs: passes over each rollout.
        """
        super().__init__(**game)
        if eta < tau:
            raise OptionError(
                f"optimizer inpo, option eta: the reference policy has the share tau / eta of what "
                f"holds the policy, so eta must be at least tau ({tau:g}); found {eta:g}",
                "eta",
            )
        self.tau = tau
        self.eta = eta
        self.epochs = epochs

    def loss(
        self, logprobs_BT: Tensor, rows: Rows, advantages_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the rows' share of the loss, and of the metric ``decided``."""
        assert rows.ref_logprobs_BT is not None, "ref_logprobs are in this optimizer's needs"
        margins_PGG = self.margins(rows, advantages_BT)
        anchor_BT = rows.old_logprobs_BT.lerp(rows.ref_logprobs_BT, self.tau / self.eta)
        loss = regression(logprobs_BT, anchor_BT, margins_PGG, self.eta, rows)
        return loss, decided(margins_PGG, rows)
