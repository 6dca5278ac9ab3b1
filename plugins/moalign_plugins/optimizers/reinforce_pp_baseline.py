"""REINFORCE++ with the group's mean as a baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from moalign.maths.kl import LossEstimator
from moalign.maths.normalisation import group_centre_over_deviation
from moalign.optimizers.clipped import ClippedOptimizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from moalign.types import Batch


class ReinforcePlusPlusBaseline(ClippedOptimizer):
    """Compares the completions of one prompt with one another, in units of the batch's deviation.

    Advantage of completion i, per objective, with ddof 1 and epsilon 1e-6::

        c_i = r_i - mean of its group
        A_i = c_i / (std of c over the batch + epsilon)

    Unlike with ``grpo``, a group in which an objective hardly varies counts little: all groups are
    divided by the same number. Missing scores take no part and get advantage 0.

    The loss is that of ``grpo``.

    With a divergence in the loss it ends where ``grpo`` does, A being these advantages: not at
    ``pi_ref exp(r / b)``, as the deviation depends on the policy.

    Source:
        "REINFORCE++", Hu et al. 2025, arXiv 2501.03262, its variant with a group baseline;
        normalising per objective is ours (one objective: the same). Differs: each completion
        counts once in the deviation (in verl's code each token does, which also shifts the mean, so
        that a group without spread pulls somewhere); epsilon on the deviation; the divergence from
        the reference is a term of the loss or an objective (the ``kl`` reward); the dual clip is
        verl's.

    When to use it:
        Objectives in different units, and prompts of which many are solved always or never: the
        few that teach something are not outshouted by those that vary by chance.

    Cost:
        One forward and backward pass per epoch, and one forward pass of the reference policy if
        ``kl_coefficient`` is above 0.

    Example::

        training: {optimizer: {reinforce-pp-baseline: {kl_coefficient: 0.001}}}
    """

    name: ClassVar[str] = "reinforce-pp-baseline"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"kl_coefficient": 0.1, "aggregation": "seq-mean-token-mean"},
    )
    min_group: ClassVar[int] = 2

    def __init__(self, *, kl_estimator: LossEstimator = "mse", **clipped: Any) -> None:
        """Take the options.

        Args:
            kl_estimator: `mse` or `k3`; see `moalign.maths.kl`.
        """
        super().__init__(kl_estimator=kl_estimator, **clipped)

    def advantages(self, scores_PGK: Tensor, batch: Batch) -> Tensor:
        """Return centred scores over their deviation, [B, 1, K]; 0 where a score is NaN."""
        return group_centre_over_deviation(scores_PGK).flatten(0, 1)[:, None]
