"""Nash mirror descent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

from annotated_types import Ge, Gt, Le

from moalign.maths.surrogate import ClippedSurrogate
from moalign.optimizers.games import GameOptimizer, decided, of_others, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.types import Rows

HEAVIEST: Final = 10.0
"""A weight is cut off here: one opponent that the policy hardly ever writes would be all."""


class NashMd(GameOptimizer):
    """Plays against a mixture of the policy and the reference, and pays for leaving the reference.

    The opponent is the geometric mixture ``pi^(1 - mixture) pi_ref^mixture`` up to a factor. It is
    nearer to the reference than the policy is, which damps the going round in circles. With
    P(i, j) the probability that completion i beats j, and r the log-ratio of a completion against
    the reference policy, both of the policy that sampled, summed over tokens::

        w_j = min((pi_ref(y_j) / pi(y_j))^mixture, 10)
        A_i = mean over the others j of w_j (P(i, j) - 1/2 - tau (r_i - r_j))
        loss = mean over completions of the sum over tokens of the clipped loss of `ppo`

    On average that is the policy gradient of ``P(y beats the mixture) - tau KL(pi, pi_ref)``. It
    rests where ``pi = pi_ref exp(P(y beats the mixture) / tau)`` up to a factor. With a small
    ``mixture`` that is about the policy that none beats if both pay ``tau`` for leaving the
    reference, with 0 exactly; a larger one moves it, unless that policy is the reference.

    Source:
        "Nash Learning from Human Feedback", Munos et al. 2023, arXiv 2312.00886, Nash-MD-PG.
        Differs: nothing is sampled from the mixture, for which tokens would have to be drawn from
        two policies at once: the policy's own completions stand for it with the weights w. They
        are not divided by their mean, which no few completions tell without bias; as both terms
        have them, that takes a factor below 1 off a prompt's gradient, and moves nothing. The
        mixture is that of whole completions, there of each next token. The baseline of r is that
        of the opponent; a clip; several objectives.

    When to use it:
        A judge of pairs as the reward (``preference: wins``) with preferences that go round in
        circles, where the last policy is what is wanted. Completions that are not too far from the
        reference: with log-ratios of dozens the weights of few opponents count.

    Cost:
        One forward and backward pass per epoch over the group, and a forward pass of the reference
        policy.

    Example::

        training: {optimizer: {nash-md: {tau: 0.1, mixture: 0.125}}, group: 4}
    """

    name: ClassVar[str] = "nash-md"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"tau": 1.0, "mixture": 0.0, "preference": "comparison"},
        {"mixture": 1.0, "preference": "wins", "epochs": 2},
    )
    needs: frozenset[str] = frozenset({"ref_logprobs"})

    def __init__(
        self,
        *,
        tau: Annotated[float, Gt(0)] = 0.1,
        mixture: Annotated[float, Ge(0), Le(1)] = 0.125,
        clip: Annotated[float, Gt(0)] = 0.2,
        epochs: Annotated[int, Ge(1)] = 1,
        **game: Any,
    ) -> None:
        """Take the options.

        Args:
            tau: strength of the pull to the reference policy, in units of a probability of winning.
            mixture: the reference's share of the opponent; 0: the policy itself.
            clip: how far a ratio may be from 1 and still earn gradient.
            epochs: passes over each rollout.
        """
        super().__init__(**game)
        self.tau = tau
        self.mixture = mixture
        self.epochs = epochs
        self._surrogate = ClippedSurrogate(clip, clip, 3.0, 0.0, "k3", "seq-mean-token-sum")

    def loss(
        self, logprobs_BT: Tensor, rows: Rows, advantages_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the rows' share of the loss.

        Metrics are those of `moalign.maths.surrogate` and ``decided``.
        """
        import math

        assert rows.ref_logprobs_BT is not None, "ref_logprobs are in this optimizer's needs"
        margins_PGG = self.margins(rows, advantages_BT)
        ratios_PG = whole(rows.old_logprobs_BT - rows.ref_logprobs_BT, rows)
        weights_PG = (-self.mixture * ratios_PG).clamp(max=math.log(HEAVIEST)).exp()
        dearer_PGG = ratios_PG[:, :, None] - ratios_PG[:, None]
        gains_PG = of_others((margins_PGG - self.tau * dearer_PGG) * weights_PG[:, None])
        loss, metrics = self._surrogate.loss(logprobs_BT, rows, gains_PG.view(-1, 1))
        return loss, {**metrics, **decided(margins_PGG, rows)}
