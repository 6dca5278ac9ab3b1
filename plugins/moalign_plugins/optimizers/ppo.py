"""Proximal policy optimisation with a value per objective."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le

from moalign.maths.normalisation import alike, masked_whiten
from moalign.maths.token_rewards import generalised_advantages, token_rewards
from moalign.optimizers.clipped import ClippedOptimizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from torch.nn import Linear, Parameter

    from moalign.types import Batch, Objective, Rows


class Ppo(ClippedOptimizer):
    """Predicts every objective's return at every token, and learns from what was not predicted.

    A value head with one column per objective reads the policy's last hidden states. Per objective,
    with V_t the value of the state before token t, and V and A 0 after the end token::

        delta_t = r_t + gamma V_{t+1} - V_t
        A_t = delta_t + gamma lam A_{t+1}              whitened over the batch's tokens
        R_t = A_t + V_t                                before whitening

    in units of the objective's bounds, so that what a step may move does not depend on its scale
    (1 where it has no bounds). A reward that gives one number per completion puts it on the last
    token. Where an objective does not apply, its advantage is 0 and its value learns nothing; where
    the whole batch scores alike, its advantage is 0: only errors of the values are left.

    Loss: the clipped loss of the combined advantage, and for the head, V' being its value now::

        value loss = mean_k max((V' - R)^2, (clip(V', V +- value_clip) - R)^2)

    averaged over tokens. It is no objective: it moves the head only, never the policy, so no
    weighting weighs it. The head starts at 0 and follows ``value_learning_rate``.

    With a divergence of strength b in the loss (``kl_estimator: mse``) it ends where ``pi = pi_ref
    exp(A(pi) / b)``, A(pi) being the mean advantages under pi itself: the deviation that whitening
    divides by depends on pi. Not at ``exp(r / b)``, as ``rloo``.

    Source:
        "Proximal Policy Optimization Algorithms", Schulman et al. 2017, arXiv 1707.06347, equation
        7, with generalised advantages (arXiv 1506.02438). A value per objective: Moskovitz et al.
        2023, arXiv 2310.04373, where one network has several heads. Differs: the head is linear
        and its gradient stops at the hidden states, which are those of the policy that sampled, so
        that the value loss has no coefficient: AdamW would not feel it. Advantages are whitened
        over the batch, not over each mini-batch.

    When to use it:
        Rewards per token or long completions, where a baseline per token helps, and one completion
        per prompt. With ``lagrangian`` it is mu- and xi-PPO and PPO-Lagrangian. With groups and one
        number per completion ``grpo`` and ``rloo`` need no head.

    Cost:
        A forward pass of the policy over the batch for the hidden states, charged, beside one
        forward and backward pass per epoch. Memory: hidden states of all tokens of the batch, in
        float32 (512 completions of 512 tokens and 2048 numbers each: 2 GiB). The head learns from
        these in every epoch, so what it predicts lags behind the policy by up to one step; a pass
        with the policy as it has become would be another in each epoch.

    Example::

        training: {optimizer: {ppo: {lam: 0.95, epochs: 2}}, minibatches: 2}
    """

    name: ClassVar[str] = "ppo"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"gamma": 0.99, "lam": 0.9, "value_clip": None, "kl_coefficient": 0.1},
    )
    per_objective: ClassVar[bool] = True
    reweighs: ClassVar[bool] = False  # values of an earlier policy predict another one's returns

    def __init__(
        self,
        *,
        gamma: Annotated[float, Gt(0), Le(1)] = 1.0,
        lam: Annotated[float, Ge(0), Le(1)] = 1.0,
        value_clip: Annotated[float, Gt(0)] | None = 0.2,
        value_learning_rate: Annotated[float, Gt(0)] = 1e-2,
        **clipped: Any,
    ) -> None:
        """Take the options.

        Args:
            gamma: discount per token.
            lam: of generalised advantages: 0 trusts the values, 1 the rewards.
            value_clip: how far a value may move in one step, as a share of the objective's bounds;
                null: as far as the loss pulls it.
            value_learning_rate: peak learning rate of the value head; follows the schedule.
        """
        super().__init__(**clipped)
        self.gamma = gamma
        self.lam = lam
        self.value_clip = value_clip
        self.own_learning_rate = value_learning_rate
        self.needs = self.needs | {"hidden"}
        self._head: Linear | None = None
        self._units: list[float] = []

    def begin(self, objectives: Sequence[Objective], width: int, seed: int) -> None:
        """Make the value head: all its values are 0."""
        import torch

        self._head = torch.nn.Linear(width, len(objectives))
        torch.nn.init.zeros_(self._head.weight)
        torch.nn.init.zeros_(self._head.bias)
        self._units = [objective.unit for objective in objectives]

    def parameters(self) -> Sequence[Parameter]:
        """Return weight and bias of the value head."""
        return () if self._head is None else list(self._head.parameters())

    def _values(self, hidden_BTD: Tensor) -> Tensor:
        """Return the values of the states before each token, in units of the bounds, [B, T, K]."""
        assert self._head is not None, "begin() comes first"
        values: Tensor = self._head(hidden_BTD)
        return values

    def advantages(self, scores_PGK: Tensor, batch: Batch) -> Tensor:
        """Return whitened generalised advantages, [B, T, K]; 0 on padding and where NaN."""
        scores_BK = scores_PGK.flatten(0, 1)
        units_K = scores_BK.new_tensor(self._units)
        rewards_BTK = token_rewards(scores_BK, batch) / units_K
        values_BTK = self._values(batch.hidden_BTD).detach()
        plain_BTK = generalised_advantages(
            rewards_BTK, values_BTK, batch.mask_BT, self.gamma, self.lam
        )
        applies_BTK = batch.mask_BT[..., None] * ~scores_BK.isnan()[:, None]
        batch.kept |= {
            "hidden": batch.hidden_BTD,
            "values": values_BTK,
            "returns": plain_BTK + values_BTK,
            "applies": applies_BTK,
        }
        return masked_whiten(plain_BTK, applies_BTK).masked_fill(alike(scores_BK), 0.0)

    def loss(
        self, logprobs_BT: Tensor, rows: Rows, advantages_BT: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the rows' share of the clipped loss and of the value loss.

        Metrics beside those of the clipped loss: ``value_loss``, and ``value_error``, the mean
        distance between the value and the return when the batch was sampled.
        """
        loss, metrics = super().loss(logprobs_BT, rows, advantages_BT)
        values = self._values(rows.kept["hidden"])
        old, returns, applies = (rows.kept[name] for name in ("values", "returns", "applies"))
        squares = (values - returns).square()
        if self.value_clip is not None:
            near = old + (values - old).clamp(-self.value_clip, self.value_clip)
            squares = squares.maximum((near - returns).square())
        count = max(rows.total_tokens, 1) * values.shape[-1]
        value_loss = (squares * applies).sum() / count
        metrics["value_loss"] = value_loss.detach()
        metrics["value_error"] = ((old - returns).abs() * applies).sum() / count
        return loss + value_loss, metrics

    def state_dict(self) -> dict[str, Any]:
        """Return weight and bias of the value head; empty before it is made."""
        return {} if self._head is None else dict(self._head.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the value head."""
        if self._head is None:
            if state:
                raise ValueError("optimizer ppo has no value head yet, but was given one")
            return
        self._head.load_state_dict(state)
