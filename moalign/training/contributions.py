"""What each module adds to the gradients of its parameters, caught on one backward pass.

For coefficients ``a_k(row) * beta(row, token)`` objective k's gradient by anything computed of a
row is ``a_k(row)`` times that of beta, as rows do not mix. So one backward pass for beta gives the
gradients by all outputs of modules, and ``sum_n a_k(row of n) * left(n) (outer) right(n)`` the K
gradients of a weight matrix. The pass itself computes no gradient of any weight.

``B`` rows, ``L`` positions of the padded input, ``N`` completion tokens in the order of
``mask_BT.nonzero()``, which is what the output layer reads; ``S`` positions per row of whatever a
module reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import Module, Parameter
from torch.nn.functional import layer_norm
from torch.utils.hooks import RemovableHandle

from moalign.training.gradient_sums import GradientSums

_IN_PLACE: Final = "is being modified inplace"


class CannotAttributeError(Exception):
    """A module's output cannot be told apart into rows; plain backward passes are needed."""


@dataclass(frozen=True)
class _Layout:
    """How a module's first axis maps to the rows of a micro-batch.

    Attributes:
        of_leading: the row of each index of the first axis.
        is_rows: the first axis is that of the rows.
        grouped: brings a tensor with that first axis into the form [B, S, D], D its last axis.
    """

    of_leading: Tensor
    is_rows: bool
    grouped: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Call:
    """One call of a module, without the tensors that it was given.

    Attributes:
        module: what was called.
        layout: of its output.
        args: positional arguments, :data:`_SAVED` where a tensor stood.
        kwargs: arguments by name, likewise.
    """

    module: Module
    layout: _Layout
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def arguments(self, saved: tuple[Tensor, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the call's arguments, given its tensors in order."""
        tensors = iter(saved)
        args = tuple(next(tensors) if value is _SAVED else value for value in self.args)
        kwargs = {k: next(tensors) if v is _SAVED else v for k, v in self.kwargs.items()}
        return args, kwargs


_SAVED: Final = object()


class _Tap(torch.autograd.Function):
    """Hands the gradient by a module's output to a recorder on its way back; else the identity.

    The inputs are saved the way autograd saves tensors, so gradient checkpointing drops and
    recomputes them with everything else. The anchor is what a backward pass is asked for: it
    depends on every tap and on no weight.
    """

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, _anchor: Tensor, recorder: Recorder, call: _Call, *saved: Tensor
    ) -> Tensor:
        ctx.recorder, ctx.call, ctx.count = recorder, call, len(saved)
        ctx.save_for_backward(*saved)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.recorder.collecting:
            ctx.recorder.catch(ctx.call, gradient, ctx.saved_tensors)
        return gradient, None, None, None, *[None] * ctx.count


class Recorder:
    """Watches the modules of a model that own certain parameters."""

    def __init__(
        self,
        model: Module,
        output_layer: Module,
        names: Mapping[Parameter, str],
        precision: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        """Find the modules.

        Args:
            model: called with ``input_ids=[B, L]``.
            output_layer: reads [N, D] instead of [B, L, D].
            names: the parameters, and what to call them.
            precision: the context that the model's forward pass runs in.
        """
        self._model = model
        self._precision = precision
        self._packed = set(output_layer.modules())
        self._owners = {
            module: owned
            for module in model.modules()
            if (owned := {n: p for n, p in module.named_parameters(recurse=False) if p in names})
        }
        self._per_row: dict[Module, bool] = {}
        self._sums: GradientSums | None = None
        self._a_KB: Tensor | None = None
        self._replaying = False

    # --- forward -------------------------------------------------------------------------------

    @contextmanager
    def watching(self, mask_BT: Tensor) -> Iterator[None]:
        """Watch one forward pass over rows with this mask.

        Raises:
            CannotAttributeError: in the pass, if rows cannot be told apart somewhere.
        """
        self._anchor = torch.zeros((), device=mask_BT.device, requires_grad=True)
        self._mask_BT = mask_BT > 0
        self._at_B, self._at_T = self._mask_BT.nonzero(as_tuple=True)
        hooks: list[RemovableHandle] = [
            self._model.register_forward_pre_hook(self._enter_model, with_kwargs=True)
        ]
        for module in self._owners:
            if _rule(module) is _embedding:
                hooks.append(module.register_forward_pre_hook(self._spread))
            hooks.append(module.register_forward_hook(self._leave, with_kwargs=True))
        try:
            yield
        except RuntimeError as error:
            if _IN_PLACE in str(error):
                raise CannotAttributeError("the model changes a module's output in place") from None
            raise
        finally:
            for hook in hooks:
                hook.remove()

    def _enter_model(self, _: Module, __: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._shape = tuple(kwargs["input_ids"].shape)

    def _spread(self, _: Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Give every row ids of its own where one set serves all: positions, usually."""
        rows = self._shape[0]
        if self._replaying or not args or len(args[0]) != 1 or rows == 1:
            return None
        return (args[0].expand(rows, *args[0].shape[1:]), *args[1:])

    def _leave(
        self, module: Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Tensor | None:
        if self._replaying or not torch.is_grad_enabled():
            return None
        if not isinstance(output, Tensor):
            raise CannotAttributeError(f"{type(module).__name__} returns more than a tensor")
        given = [*args, *kwargs.values()]
        tensors = [value.detach() for value in given if isinstance(value, Tensor)]
        blank = [_SAVED if isinstance(value, Tensor) else value for value in given]
        named = dict(zip(kwargs, blank[len(args) :], strict=True))
        call = _Call(module, self._layout(module, output), tuple(blank[: len(args)]), named)
        tapped: Tensor = _Tap.apply(output, self._anchor, self, call, *tensors)  # type: ignore[no-untyped-call]
        return tapped

    def _layout(self, module: Module, output: Tensor) -> _Layout:
        """Return how a module's output maps to rows."""
        rows, length = self._shape
        leading = len(output) if output.ndim > 1 else -1
        if module in self._packed and leading == len(self._at_B):
            return _Layout(self._at_B, False, self._unpacked)
        if leading in {rows, rows * length}:
            of_leading = torch.arange(leading, device=output.device) // (leading // rows)
            return _Layout(of_leading, leading == rows, lambda x: x.reshape(rows, -1, x.shape[-1]))
        raise CannotAttributeError(
            f"{type(module).__name__} returns {list(output.shape)} for an input of "
            f"{[rows, length]} tokens"
        )

    def _unpacked(self, values: Tensor) -> Tensor:
        zeros = values.new_zeros(*self._mask_BT.shape, values.shape[-1])
        return zeros.index_put((self._at_B, self._at_T), values)

    # --- backward ------------------------------------------------------------------------------

    def backward(self, value: Tensor, a_KB: Tensor, sums: GradientSums) -> None:
        """Pass a value back and add K gradients to ``sums``.

        Args:
            value: computed under :meth:`watching`; a sum over rows.
            a_KB: what each row's part of it is multiplied by, per gradient.
            sums: is added to.
        """
        self._a_KB, self._sums = a_KB, sums
        try:
            torch.autograd.backward([value], inputs=[self._anchor])
        finally:
            self._a_KB = self._sums = None

    @property
    def collecting(self) -> bool:
        """True while a pass back adds gradients."""
        return self._sums is not None

    def catch(self, call: _Call, gradient: Tensor, saved: tuple[Tensor, ...]) -> None:
        """Add what a call contributes, given the gradient by its output and its tensors."""
        assert self._sums is not None
        assert self._a_KB is not None
        args, kwargs = call.arguments(saved)
        given = _Given(call.module, self._owners[call.module], call.layout, args, gradient)
        rule = _rule(call.module)
        with torch.no_grad():
            if rule is None or not args or not rule(given, self._a_KB, self._sums):
                self._replay(given, kwargs)

    def _replay(self, given: _Given, kwargs: dict[str, Any]) -> None:
        """Call a module again and pass its output's gradient back, once per row or objective."""
        assert self._a_KB is not None
        assert self._sums is not None
        if self._per_row.get(given.module, True) and self._replay_rows(given, kwargs):
            return
        self._per_row[given.module] = False
        owned = {name: p.detach().requires_grad_() for name, p in given.owned.items()}
        a_KN = self._a_KB[:, given.layout.of_leading]
        with self._again():
            output = functional_call(given.module, owned, given.args, kwargs)
            for k, a_N in enumerate(a_KN):
                found = torch.autograd.grad(
                    output,
                    list(owned.values()),
                    given.gradient * a_N.view(-1, *[1] * (output.ndim - 1)).to(output.dtype),
                    retain_graph=True,
                    allow_unused=True,
                )
                for parameter, gradient in zip(given.owned.values(), found, strict=True):
                    if gradient is not None:
                        self._sums.add_gradient(parameter, k, gradient)

    def _replay_rows(self, given: _Given, kwargs: dict[str, Any]) -> bool:
        """Give each row a copy of vectors that scale or shift it, and pass back once.

        Returns:
            False if the module does not take them.
        """
        assert self._a_KB is not None
        assert self._sums is not None
        gradient = given.gradient
        vectors = all(p.shape == gradient.shape[-1:] for p in given.owned.values())
        if not (given.layout.is_rows and vectors):
            return False
        owned = {
            name: p.detach().expand(len(gradient), *[1] * (gradient.ndim - 2), -1).requires_grad_()
            for name, p in given.owned.items()
        }
        with self._again():
            try:
                output = functional_call(given.module, owned, given.args, kwargs)
            except RuntimeError:
                return False
            if output.shape != gradient.shape:
                return False
            found = torch.autograd.grad(output, list(owned.values()), gradient, allow_unused=True)
        for parameter, values in zip(given.owned.values(), found, strict=True):
            if values is not None:
                self._sums.add_rows(parameter, values.flatten(1), self._a_KB)
        return True

    @contextmanager
    def _again(self) -> Iterator[None]:
        self._replaying = True
        try:
            with torch.enable_grad(), self._precision():
                yield
        finally:
            self._replaying = False


# --- modules whose contributions are known -----------------------------------------------------


@dataclass(frozen=True)
class _Given:
    """A call on its way back.

    Attributes:
        module: what was called.
        owned: its own parameters that count, by name.
        layout: of its output, and of its first argument where there is a rule.
        args: what it was called with.
        gradient: by its output.
    """

    module: Module
    owned: Mapping[str, Parameter]
    layout: _Layout
    args: tuple[Any, ...]
    gradient: Tensor


_Rule = Callable[[_Given, Tensor, GradientSums], bool]
"""Adds a call's contribution; False if it is not of the usual kind."""


def _rule(module: Module) -> _Rule | None:
    """Return the rule for a module, by the function that it runs; None: there is none."""
    if "forward" in vars(module):
        return None
    return _rules().get(type(module).forward)


def _linear(given: _Given, a_KB: Tensor, sums: GradientSums) -> bool:
    if not given.owned.keys() <= {"weight", "bias"}:
        return False
    gradient_BSr = given.layout.grouped(given.gradient)
    if "weight" in given.owned:
        inputs_BSl = given.layout.grouped(given.args[0])
        if _stored_transposed(given.module):
            sums.add_products(given.owned["weight"], inputs_BSl, gradient_BSr, a_KB)
        else:
            sums.add_products(given.owned["weight"], gradient_BSr, inputs_BSl, a_KB)
    if "bias" in given.owned:
        sums.add_rows(given.owned["bias"], gradient_BSr.sum(1, dtype=torch.float32), a_KB)
    return True


def _stored_transposed(module: Module) -> bool:
    return not isinstance(module, nn.Linear)  # GPT-2's Conv1D stores [in, out]


def _embedding(given: _Given, a_KB: Tensor, sums: GradientSums) -> bool:
    module = given.module
    assert isinstance(module, nn.Embedding)
    if module.max_norm is not None or module.scale_grad_by_freq:
        return False
    ids = given.args[0]
    values_BSr = given.layout.grouped(given.gradient)
    ids_BS = ids.reshape(values_BSr.shape[:2])
    if module.padding_idx is not None:
        values_BSr = values_BSr.masked_fill((ids_BS == module.padding_idx)[..., None], 0.0)
    sums.add_lookups(given.owned["weight"], ids_BS, values_BSr, a_KB)
    return True


def _layer_norm(given: _Given, a_KB: Tensor, sums: GradientSums) -> bool:
    module = given.module
    assert isinstance(module, nn.LayerNorm)
    if len(module.normalized_shape) != 1:
        return False
    gradient_BSr = given.layout.grouped(given.gradient).float()
    if "weight" in given.owned:
        inputs = given.layout.grouped(given.args[0]).float()
        normal_BSr = layer_norm(inputs, list(module.normalized_shape), eps=module.eps)
        sums.add_rows(given.owned["weight"], (normal_BSr * gradient_BSr).sum(1), a_KB)
    if "bias" in given.owned:
        sums.add_rows(given.owned["bias"], gradient_BSr.sum(1), a_KB)
    return True


@cache
def _rules() -> Mapping[Any, _Rule]:
    from transformers.pytorch_utils import Conv1D

    return {
        nn.Linear.forward: _linear,
        Conv1D.forward: _linear,
        nn.Embedding.forward: _embedding,
        nn.LayerNorm.forward: _layer_norm,
    }
