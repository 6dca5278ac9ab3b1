"""Online preference optimisation."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from moalign.components import Optimizer, by_name
from moalign.errors import OptionError
from moalign.optimizers.utility import UtilityOptimizer, levelled, utilities
from moalign.types import Objective

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from torch.nn import Parameter

    from moalign.types import Rows

UTILITY = Objective("utility", bounds=None)
"""The one objective of the loss."""


class OnlineDpo(UtilityOptimizer):
    """Samples a group, ranks it by the weighted objectives, and learns from the preference.

    The utility of a completion is the weighted sum of the objectives' scores, from their group's
    mean and in units of their deviation in it. The best and the worst of each group are a pair for
    ``loss``, any optimizer that learns from pairs by a loss per objective, which sees the utility
    as the scores of one objective. With ``learn: all`` it is given the whole group, as a list.

    Weights act before completions are compared: one preference for all objectives, where ``dpo``
    adds up the losses of each objective's own. Utilities that are equal, up to what rounding leaves
    where objectives cancel, are given to the loss as equal: a pair of these is none for ``dpo``
    with hard labels. The loss is a mean over all prompts, and such ones count as 0, in its metric
    ``accuracy`` as one half.

    With ``units: score`` and ``loss: {dpo: {labels: soft, beta: B}}`` the optimum is ``pi_ref
    exp(utility / B)``, that of online training on the weighted scores with a divergence of
    strength B.

    Source:
        "Direct Language Model Alignment from Online AI Feedback", Guo et al. 2024, arXiv
        2402.04792, for two completions; the best and worst of more: "RLHF Workflow", Dong et al.
        2024, arXiv 2405.07863. Differs: several objectives; the gradient goes through the loss
        only, as there, but any preference loss may stand in it.

    When to use it:
        Rewards at training time, and a loss that only asks which completion is better. Weightings
        for conflicting gradients need a loss per objective and cannot be used; ``grpo`` has one.

    Cost:
        As its loss, for two completions of a group (``learn: all``: all of them): a forward and
        backward pass, and a forward pass of the reference policy over the whole group.

    Example::

        training: {optimizer: {online-dpo: {loss: {ipo: {beta: 0.1}}}}, group: 4}
    """

    name: ClassVar[str] = "online-dpo"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"loss": {"dpo": {"labels": "soft", "beta": 1.0, "epochs": 2}}, "units": "score"},
        {"loss": "lipo", "learn": "all"},
        {"loss": {"adpo": {"beta": 1.0}}, "learn": "all"},
        {"loss": "kto"},
    )
    whole_groups: ClassVar[bool] = True

    def __init__(
        self,
        *,
        loss: Optimizer = by_name("dpo"),
        learn: Literal["ends", "all"] = "ends",
        **utility: Any,
    ) -> None:
        """Take the options.

        Args:
            loss: the optimizer whose loss is taken of each group; it also says how many epochs.
            learn: from the best and the worst of each group, its `ends`, or from `all` of it.
        """
        super().__init__(**utility)
        if loss.learns_from != "pairs" or type(loss).losses is Optimizer.losses:
            raise OptionError(
                f"optimizer online-dpo, option loss: it takes an optimizer with a loss of pairs "
                f"for each objective, such as dpo, ipo or lipo; found {loss.name}",
                "loss",
            )
        self._loss = loss
        self.learn = learn
        self.needs = loss.needs
        self.max_group = loss.max_group if learn == "all" else None
        self.epochs = loss.epochs
        self.own_learning_rate = loss.own_learning_rate

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check the options of the loss, whose one objective is called ``utility``."""
        self._loss.check([UTILITY])

    def begin(self, objectives: Sequence[Objective], width: int, seed: int) -> None:
        """Let the loss get ready."""
        self._loss.begin([UTILITY], width, seed)

    def parameters(self) -> Sequence[Parameter]:
        """Return what the loss trains beside the policy."""
        return self._loss.parameters()

    def select(self, advantages_PG: Tensor) -> Tensor | None:
        """Return the best and the worst completion of each prompt, [P, 2]; None: all."""
        if self.learn == "all":
            return None
        return advantages_PG.argsort(dim=1, descending=True, stable=True)[:, [0, -1]]

    def loss(
        self, logprobs_BT: Tensor, rows: Rows, advantages_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the rows' share of the loss.

        Metrics beside those of the loss: ``tied``, the share of prompts whose utilities are equal.
        """
        utilities_B, nothing_B = utilities(rows, advantages_BT)
        shape = (-1, rows.group)
        ranked_PG = levelled(utilities_B.view(shape), nothing_B.view(shape))
        prompts = rows.total_rows // rows.group
        preferences = replace(
            rows,
            scores_BK=ranked_PG.view(-1, 1),
            counts_K=ranked_PG.new_tensor([prompts]).long(),
        )
        weights_PK = ranked_PG.new_ones(len(ranked_PG), 1)
        loss, metrics = self._loss.pair_loss(logprobs_BT, preferences, weights_PK)
        tied_P = ranked_PG.amax(1) == ranked_PG.amin(1)
        return loss, {**metrics, "tied": tied_P.float().sum() / max(prompts, 1)}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the loss."""
        return self._loss.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of the loss."""
        self._loss.load_state_dict(state)
