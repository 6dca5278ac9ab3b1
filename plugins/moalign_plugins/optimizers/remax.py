"""REINFORCE with the greedy completion's score as a baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from moalign.optimizers.clipped import ClippedOptimizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.types import Batch


class Remax(ClippedOptimizer):
    """Compares each completion with the one that takes the likeliest token each time.

    Advantage of completion i, per objective::

        A_i = r_i - score of the greedy completion of its prompt

    In the objective's own units. Where either score is missing there is nothing to compare, and the
    advantage is 0. The rewards learn nothing from greedy completions.

    The loss is that of ``grpo``.

    Source:
        "ReMax", Li et al. 2023, arXiv 2310.10505, algorithm 1. Differs: the paper's loss is
        unclipped and sums over the tokens of a completion (``aggregation: seq-mean-token-sum``,
        ``clip_low: 100``, ``clip_high: 100``, ``dual_clip: null``), the same gradient in its first
        epoch; every token gets the score of the whole completion, even if rewards are per token;
        the paper puts the KL term into the reward: use the ``kl`` reward as an objective.

    When to use it:
        One completion per prompt, where ``grpo`` and ``rloo`` have nothing to compare with and a
        value head (``ppo``) is too much. Where sampling is dear, groups teach more per token.

    Cost:
        One completion more per prompt and step, sampled and scored, which is charged; one forward
        and backward pass per epoch. The rollout must be able to be greedy (``eager`` is).

    Example::

        training: {optimizer: remax, group: 1, prompts: 128}
    """

    name: ClassVar[str] = "remax"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"aggregation": "seq-mean-token-sum"})
    per_objective: ClassVar[bool] = True

    def __init__(self, **clipped: Any) -> None:
        """Take the options."""
        super().__init__(**clipped)
        self.needs = self.needs | {"greedy_scores"}

    def advantages(self, scores_PGK: Tensor, batch: Batch) -> Tensor:
        """Return each score minus the greedy one, [B, 1, K]; 0 where either is NaN."""
        greedy_P1K = batch.greedy_scores_PK[:, None].to(scores_PGK)
        above_PGK = scores_PGK.double() - greedy_P1K.double()
        return above_PGK.nan_to_num(0.0).float().flatten(0, 1)[:, None]
