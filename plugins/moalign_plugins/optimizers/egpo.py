"""Extragradient preference optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Gt

from moalign.optimizers.games import GameOptimizer, decided, regression

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.types import Rows


class Egpo(GameOptimizer):
    """Plays against where it is about to go, so that it does not go round in circles.

    With h the difference of two completions' log-ratios against the reference policy, summed over
    tokens, and P the probability that the first beats the second, over all pairs of a group::

        loss = mean of (h - (P - 1/2) / tau)^2

    Each training step samples twice. First it goes on from the policy theta to where a step on a
    batch leads, theta'. There it samples other completions of the same prompts and takes the
    gradient on these; with that gradient it takes its step, from theta. It rests where
    ``pi = pi_ref exp(P(y beats pi) / tau)`` up to a factor, the policy that none beats if both pay
    ``tau`` for leaving the reference, and the last policy gets there.

    Source:
        "Extragradient Preference Optimization", Zhou et al. 2025, arXiv 2503.08942. Differs: both
        steps are AdamW's, whose moments know the gradients at theta' only; the pull to the
        reference is taken at theta', too, there at theta; pairs of completions that the policy
        wrote, there of any; several objectives. Weighting and rewards see both batches, and
        remember the second.

    When to use it:
        A judge of pairs as the reward (``preference: wins``) with preferences that go round in
        circles, where the last policy is what is wanted, and ``nash-md`` moves it too much.

    Cost:
        Twice that of ``online-dpo``: two rollouts with their scores, two forward and backward
        passes, two forward passes of the reference policy. All parameters that are trained, and
        AdamW's moments, once more in memory.

    Example::

        training: {optimizer: {egpo: {tau: 0.1}}, group: 4}
    """

    name: ClassVar[str] = "egpo"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"tau": 0.5, "preference": "comparison"},
        {"preference": "wins"},
    )
    needs: frozenset[str] = frozenset({"ref_logprobs"})
    extrapolates: ClassVar[bool] = True

    def __init__(self, *, tau: Annotated[float, Gt(0)] = 0.1, **game: Any) -> None:
        """Take the options.

        Args:
            tau: strength of the pull to the reference policy, in units of a probability of winning.
        """
        super().__init__(**game)
        self.tau = tau

    def loss(
        self, logprobs_BT: Tensor, rows: Rows, advantages_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the rows' share of the loss, and of the metric ``decided``."""
        assert rows.ref_logprobs_BT is not None, "ref_logprobs are in this optimizer's needs"
        margins_PGG = self.margins(rows, advantages_BT)
        loss = regression(logprobs_BT, rows.ref_logprobs_BT, margins_PGG, self.tau, rows)
        return loss, decided(margins_PGG, rows)
