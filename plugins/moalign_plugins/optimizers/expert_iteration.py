"""Expert iteration: imitate the best of what was sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from moalign.optimizers.utility import ImitationOptimizer

if TYPE_CHECKING:
    from collections.abc import Mapping


class ExpertIteration(ImitationOptimizer):
    """Samples a group, and learns the best of it by heart.

    The utility u of a completion is the weighted sum of the objectives' scores, in units of their
    deviation in the group. Over the ``best`` completions with the highest one in each group::

        loss = aggregation(-logprob_t [u > 0])

    What is no better than the mean of its group, 0, is not imitated, however few are: in a group of
    equal utilities nothing is, and the average counts it as 0. The others are never looked at, so
    nothing is unlearned; and nothing holds the policy back: its entropy falls.

    Source:
        "Thinking Fast and Slow with Deep Learning and Tree Search", Anthony et al. 2017, arXiv
        1705.08439, with sampling as the expert, as "RAFT", Dong et al. 2023, arXiv 2304.06767.
        Differs: no completion below its group's mean; the policy goes on from where it is, it does
        not begin anew from the base policy in each round; several objectives.

    When to use it:
        The plainest baseline with rewards. Rewards that cannot be trusted far from what they have
        seen want ``superhf``.

    Cost:
        One forward and backward pass per epoch, over the chosen completions only.

    Example::

        training: {optimizer: {expert-iteration: {best: 2}}, group: 8}
    """

    name: ClassVar[str] = "expert-iteration"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"best": 2, "units": "score", "aggregation": "seq-mean-token-sum", "epochs": 2},
    )
