"""Per-objective policy gradients of a batch: their inner products, norms, and what trains on them.

``K`` objectives, ``B`` rows of a micro-batch, ``T`` completion tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from moalign.errors import StudyError
from moalign.study.checks import beyond_layers, without_lora
from moalign.study.schema import GradientsSection
from moalign.training.coefficients import combination, factorised
from moalign.training.contributions import CannotAttributeError, Recorder
from moalign.training.gradient_sums import GradientSums, Sketch
from moalign.training.policy import Policy

Names = Mapping[Parameter, str]

# What the one-pass engine may differ from a plain pass by, per parameter, on made-up rows: far more
# than rounding, far less than a contribution that was missed.
_DIFFERENCE: Final = {torch.float32: 1e-3, torch.bfloat16: 0.1}
_NEGLIGIBLE: Final = 1e-2  # a parameter's share of the norm below which it is held to that share
_OVERWRITTEN: Final = "modified by an inplace operation"  # so torch says it, on the way back


@dataclass(frozen=True)
class MicroBatch:
    """Some rows of a batch, and how they are passed through the policy and the loss.

    Attributes:
        mask_BT: 1 on completion tokens, 0 on padding.
        logprobs: makes one forward pass; [B, T] with gradient, charged.
        coefficients: how fast the loss falls with each log-probability, per objective, at given
            log-probabilities; [K, B, T]; see :func:`moalign.training.coefficients.coefficients`.
        spend: charges backward passes over these rows; a share of one counts in part.
    """

    mask_BT: Tensor
    logprobs: Callable[[], Tensor]
    coefficients: Callable[[Tensor], Tensor]
    spend: Callable[[float], None]


@dataclass(frozen=True)
class Passed:
    """What is known of a micro-batch after its pass.

    Attributes:
        logprobs_BT: without gradient.
        coefficients_KBT: of the objectives.
        one_pass: there was one backward pass; else K.
    """

    logprobs_BT: Tensor
    coefficients_KBT: Tensor
    one_pass: bool


def trained_in_scope(policy: Policy, section: GradientsSection) -> dict[Parameter, str]:
    """Return the parameters that ``training.gradients`` names, and what they are called.

    Raises:
        StudyError: there are no such layers, or no LoRA.
    """
    chosen = {parameter: name for name, parameter in policy.trainable()}
    if section.layers is not None:
        first, last = section.layers
        prefix, count = _layers(policy)
        if last >= count:
            raise StudyError(f"training.gradients.layers: {beyond_layers(section.layers, count)}")
        inside = tuple(f"{prefix}.{index}." for index in range(first, last + 1))
        chosen = {p: name for p, name in chosen.items() if name.startswith(inside)}
        if not chosen:
            raise StudyError(
                f"training.gradients.layers: nothing is trained in the layers {first} to {last}; "
                "leave the key out, or name others"
            )
    if section.only == "lora":
        chosen = {p: name for p, name in chosen.items() if ".lora_" in name}
        if not chosen:
            where = " in these layers" if section.layers else ""
            raise StudyError(f"training.gradients.only: {without_lora(where)}")
    return chosen


def _layers(policy: Policy) -> tuple[str, int]:
    """Return the name of the list of transformer layers, and how many there are."""
    count = getattr(policy.model.config, "num_hidden_layers", None)
    for name, module in policy.model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, len(module)
    raise StudyError(
        f"training.gradients.layers: the layers of a {type(policy.model).__name__} cannot be "
        "counted; leave the key out"
    )


class GradientEngine:
    """Computes K gradients of a policy at the cost of little more than one.

    Per micro-batch one forward pass, one backward pass without gradients of weights, and K sums of
    what rows contribute to each weight; K backward passes where that is not exact: coefficients
    that differ between objectives by token, or a model whose modules mix rows or cannot be
    followed. The engine holds itself to a plain backward pass on two made-up rows before its first
    use, and where they differ it makes plain passes only.

    Attributes:
        trained: everything that is trained, and what it is called.
        scope: of that, the parameters whose gradients ``gram`` compares.
        share: of the trained numbers, those in the scope, projected or not.
    """

    def __init__(self, policy: Policy, section: GradientsSection) -> None:
        """Set up; nothing is computed.

        Raises:
            StudyError: the scope does not exist in this policy.
        """
        self._policy = policy
        self._section = section
        self.trained: Names = {parameter: name for name, parameter in policy.trainable()}
        self.scope: Names = trained_in_scope(policy, section)
        self.share = _size(self.scope) / max(_size(self.trained), 1)
        self._recorders: dict[int, Recorder] = {}
        self._reasons: dict[int, str] = {}

    def sketch(self, *key: object) -> Sketch | None:
        """Return the random projection that the study asks for, drawn by this key, or None."""
        size = self._section.sketch
        return None if size is None else Sketch(size, "sketch", *key)

    def collect(
        self, parts: Sequence[MicroBatch], sums: GradientSums, names: Names
    ) -> list[Passed]:
        """Add the gradients of micro-batches.

        Charged per micro-batch: a forward pass, and (1 + K) / 2 backward passes (half of one is
        the gradient by activations, the other half that by weights, taken K times) or K.

        Args:
            parts: the micro-batches.
            sums: is added to.
            names: the parameters that it keeps.
        """
        recorder = None if self.reason(names, sums.sketch) else self._recorder(names)
        return [self._pass(part, sums, names, recorder) for part in parts]

    def _pass(
        self, part: MicroBatch, sums: GradientSums, names: Names, recorder: Recorder | None
    ) -> Passed:
        if recorder is not None:
            try:
                with recorder.watching(part.mask_BT):
                    logprobs_BT = part.logprobs()
                    coefficients_KBT = part.coefficients(logprobs_BT.detach())
                    factors = factorised(coefficients_KBT)
                    if factors is not None:
                        a_KB, beta_BT = factors
                        recorder.backward((beta_BT * logprobs_BT).sum(), a_KB, sums)
                        part.spend(0.5 * (1 + sums.objectives))
                        return Passed(logprobs_BT.detach(), coefficients_KBT, True)
            except CannotAttributeError:
                recorder = None
        if recorder is None:
            logprobs_BT = part.logprobs()
            coefficients_KBT = part.coefficients(logprobs_BT.detach())
        add_plainly((coefficients_KBT * logprobs_BT).sum((1, 2)), sums, names)
        part.spend(sums.objectives)
        return Passed(logprobs_BT.detach(), coefficients_KBT, False)

    def reason(self, names: Names, sketch: Sketch | None) -> str:
        """Return a clause: why these parameters need plain passes; empty if they do not."""
        if len(names) not in self._reasons:
            self._reasons[len(names)] = self._difference(names, sketch)
        return self._reasons[len(names)]

    def _recorder(self, names: Names) -> Recorder:
        # The scope is a part of what is trained: their sizes tell them apart.
        if len(names) not in self._recorders:
            output_layer: nn.Module = self._policy.model.get_output_embeddings()  # type: ignore[no-untyped-call]
            self._recorders[len(names)] = Recorder(
                self._policy.model, output_layer, names, self._policy.autocast
            )
        return self._recorders[len(names)]

    def _difference(self, names: Names, sketch: Sketch | None) -> str:
        """Return how one pass differs from plain passes on made-up rows; empty if it does not.

        Not charged: it is part of loading the policy.
        """
        policy = self._policy
        embeddings: Any = policy.model.get_input_embeddings()
        words = len(embeddings.weight)
        # No two of rows, input length, completion tokens and positions in all are equal.
        prompts_B = [[1 % words], [2 % words, 3 % words, 4 % words]]
        mask_BT = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]], device=policy.device)
        ids_BT = (torch.arange(8, device=policy.device).view(2, 4) + 5) % words
        a_KB = torch.tensor([[1.0, -0.5], [0.5, 2.0]], device=policy.device)
        one_pass = GradientSums(names, 2, sketch)
        recorder = self._recorder(names)
        try:
            with recorder.watching(mask_BT):
                logprobs_BT = policy.logprobs(prompts_B, ids_BT, mask_BT)
                recorder.backward(logprobs_BT.sum(), a_KB, one_pass)
        except CannotAttributeError as error:
            return str(error)
        except RuntimeError as error:
            if _OVERWRITTEN not in str(error):
                raise
            return "the model overwrites what a module has read"
        weights_K = torch.tensor([1.0, 2.0])
        plain = GradientSums(names, 1, sketch)
        logprobs_BT = policy.logprobs(prompts_B, ids_BT, mask_BT)
        values_B = logprobs_BT.sum(1) * (weights_K.to(a_KB) @ a_KB)
        add_plainly(values_B.sum()[None], plain, names)
        norm = float(plain.products(plain).sqrt())
        for parameter, name in names.items():
            expected = plain.take(parameter, weights_K[:1])
            found = one_pass.take(parameter, weights_K)
            if expected is None:
                continue
            apart = expected if found is None else expected - found
            size = max(float(expected.norm()), _NEGLIGIBLE * norm)
            if not float(apart.norm()) <= _DIFFERENCE[policy.dtype] * size:
                return f"one pass does not give the gradient of {name}"
        return ""


def add_plainly(values_K: Tensor, sums: GradientSums, names: Names) -> None:
    """Add the gradients of K numbers that share a forward pass, by K backward passes.

    Args:
        values_K: with gradient.
        sums: is added to.
        names: the parameters that it keeps.
    """
    for k, value in enumerate(values_K):
        last = k == len(values_K) - 1
        found = torch.autograd.grad(value, list(names), retain_graph=not last, allow_unused=True)
        for parameter, gradient in zip(names, found, strict=True):
            if gradient is not None:
                sums.add_gradient(parameter, k, gradient)


class PolicyGradients:
    """The gradients of each objective on one batch; computed when first asked for, then kept.

    Memory while it is kept: K numbers per parameter in the scope, in float32; with a sketch of
    size m at most K m^2 numbers per weight matrix.

    Attributes:
        metrics: empty as long as nothing was asked for. ``gram/parameters_share``: which share of
            the trained numbers the Gram matrix compares; ``gram/sketch``: to which share of these
            a random projection reduces them, absent without one; ``gram/one_pass``: the share of
            the micro-batches that took one pass; ``gram/reused``: 1 if the update was made of these
            gradients.
    """

    def __init__(
        self,
        engine: GradientEngine,
        parts: Callable[[], Sequence[MicroBatch]],
        objectives: int,
        sketch: Sketch | None,
    ) -> None:
        """Set up; nothing is computed.

        Args:
            engine: computes.
            parts: returns the batch's micro-batches.
            objectives: K.
            sketch: None for exact gradients; batches are comparable only under the same.
        """
        self._engine = engine
        self._parts = parts
        self._objectives = objectives
        self._sketch = sketch
        self._sums: GradientSums | None = None
        self._passed: list[Passed] = []
        self._reason = ""
        self._gram_KK: Tensor | None = None
        self.metrics: dict[str, float] = {}

    def gram(self, *others: PolicyGradients) -> Tensor:
        """Return the Gram matrix of these gradients and others, within the scope; float64."""
        scope = self._engine.scope
        sums = [gradients._collected(scope) for gradients in (self, *others)]
        rows = [torch.cat([left.products(right, scope) for right in sums], 1) for left in sums]
        gram = torch.cat(rows)
        gram = 0.5 * (gram + gram.T)
        if self._sketch is None and len(scope) == len(self._engine.trained):
            self._gram_KK = gram[: self._objectives, : self._objectives]
        return gram

    def norm(self, weights_K: Tensor) -> float:
        """Return the norm of ``sum_k weights_k * gradient_k``, by the Gram matrix.

        NaN unless :meth:`gram` has compared everything that is trained, exactly.
        """
        if self._gram_KK is None:
            return math.nan
        weights_K = weights_K.double().cpu()
        return math.sqrt(max(float(weights_K @ self._gram_KK @ weights_K), 0.0))

    def norms_K(self) -> Tensor:
        """Return the norms of the gradients of everything that is trained; float64 [K].

        With a sketch they are estimated from it, as the Gram matrix is.
        """
        sums = self._collected(self._engine.trained)
        return sums.products(sums).diagonal().clamp(min=0.0).sqrt()

    def leaves(self) -> list[Tensor] | None:
        """Return log-probabilities per micro-batch, if :meth:`assign` may spare a pass.

        They are numbers that ask for a gradient: nothing leads back to the policy.
        """
        sums, trained = self._sums, self._engine.trained
        if sums is None or sums.sketch is not None or not sums.covers(trained):
            return None
        return [passed.logprobs_BT.clone().requires_grad_() for passed in self._passed]

    def assign(self, leaves: Sequence[Tensor]) -> bool:
        """Set the parameters' gradients to that of a loss, if the objectives' gradients span it.

        It must be a sum of them with the same weights for every row; they are used up.

        Args:
            leaves: what :meth:`leaves` returned, with the gradient of the loss.

        Returns:
            False, with nothing done, if the loss is no such sum.
        """
        assert self._sums is not None
        flat_N = torch.cat([-_gradient(leaf).flatten() for leaf in leaves])
        flat_KN = torch.cat([passed.coefficients_KBT.flatten(1) for passed in self._passed], 1)
        alpha_K = combination(flat_N, flat_KN)
        if alpha_K is None:
            return False
        for parameter in self._engine.trained:
            gradient = self._sums.take(parameter, -alpha_K)
            parameter.grad = None if gradient is None else gradient.to(parameter.dtype)
        self.free()
        self.metrics["gram/reused"] = 1.0
        return True

    def free(self) -> None:
        """Let go of the gradients; they would be computed again if they were asked for."""
        self._sums, self._passed = None, []

    def notes(self) -> list[str]:
        """Return what people should know about how the gradients were computed."""
        return (
            [f"the gradient of each objective takes a backward pass of its own: {self._reason}"]
            if self._reason
            else []
        )

    def _collected(self, names: Names) -> GradientSums:
        if self._sums is None or not self._sums.covers(names):
            self._sums = None  # before the larger ones are allocated
            sums = GradientSums(names, self._objectives, self._sketch)
            self._passed = self._engine.collect(self._parts(), sums, names)
            self._sums = sums
            self._reason = self._engine.reason(names, self._sketch)
            one_pass = sum(passed.one_pass for passed in self._passed) / len(self._passed)
            self.metrics = {
                "gram/parameters_share": self._engine.share,
                "gram/one_pass": one_pass,
                "gram/reused": 0.0,
            }
            if self._sketch is not None:
                scope = self._engine.scope
                kept = sum(self._sketch.kept(parameter) for parameter in scope)
                self.metrics["gram/sketch"] = kept / _size(scope)
        return self._sums


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _size(names: Names) -> int:
    return sum(parameter.numel() for parameter in names)
