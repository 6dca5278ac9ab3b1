"""K gradients of one set of parameters, added up from what each row of a micro-batch contributes.

``K`` gradients, ``B`` rows, ``S`` positions per row, ``l x r`` a weight matrix. Row b adds
``a_k(b)`` times its own gradient to gradient k; ``a_KB`` are these weights.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Final

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import embedding

from moalign.training import seeds

# Gradients of single rows that are held at a time: measured best on a CPU, where more leaves its
# caches; enough to keep a GPU busy.
ROW_BYTES: Final = {"cpu": 2**22, "other": 2**27}
# Measured on a CPU: writing and reading the gradient of a row costs as much as its product over
# so many positions.
ROW_OVERHEAD: Final = 20
GRAM_COLUMNS: Final = 2**20  # elements of a gradient that are in double precision at a time


class Sketch:
    """A random projection that keeps inner products of weight matrices in expectation.

    A matrix G [l, r] becomes ``Q_l G Q_r^T`` [m, m], where Q_l and Q_r are independent random signs
    over the square root of m, so that ``E[Q^T Q] = I`` and ``E<sketch(A), sketch(B)> = <A, B>``. A
    side no longer than m is left as it is. It is linear, and the same for every use of a parameter,
    so tied weights and micro-batches add up.

    For one matrix the variance of the inner product is at most ``((1 + 2/m)^2 - 1) |A|^2 |B|^2``,
    about ``4/m |A|^2 |B|^2``; over the matrices of a model, projected independently, variances
    add. With ten equal matrices and m = 32 that is a standard deviation of 11 % of ``|A| |B|``.

    Source: Rademacher projections, Achlioptas 2003, doi:10.1016/S0022-0000(03)00025-4.
    """

    def __init__(self, size: int, *key: object) -> None:
        """Set up.

        Args:
            size: m.
            key: names the draw, plain data; equal keys give equal projections.
        """
        self.size = size
        self._key = key
        self._drawn: dict[tuple[str, int], Tensor | None] = {}

    def side(self, name: str, parameter: Parameter, axis: int) -> Tensor | None:
        """Return the projection of one side of a parameter, [m, length]; None: left as it is."""
        key = (name, axis)
        if key not in self._drawn:
            length = parameter.shape[0] if axis == 0 else parameter.numel() // parameter.shape[0]
            drawn = None
            if length > self.size:
                generator = seeds.generator(*self._key, name, axis)
                bits = torch.randint(2, (self.size, length), generator=generator)
                signs = (2 * bits - 1).to(parameter.device, torch.float32)
                drawn = signs / math.sqrt(self.size)
            self._drawn[key] = drawn
        return self._drawn[key]

    def kept(self, parameter: Parameter) -> int:
        """Return how many numbers are left of a parameter's gradient."""
        if parameter.ndim == 1:
            return parameter.numel()
        rows = parameter.shape[0]
        return min(rows, self.size) * min(parameter.numel() // rows, self.size)


class GradientSums:
    """K gradients, each parameter's on its own; nothing is stored where nothing was added.

    Float32. All contributions to a parameter are summed before any product is taken, so tied
    weights, modules that are called twice and micro-batches are one gradient.

    Attributes:
        objectives: K.
        sketch: projects weight matrices; None: these are the gradients themselves.
    """

    def __init__(
        self, names: Mapping[Parameter, str], objectives: int, sketch: Sketch | None = None
    ) -> None:
        """Start at zero.

        Args:
            names: the parameters whose gradients are kept, and what to call them.
            objectives: K.
            sketch: projects weight matrices; parameters with one axis stay exact.
        """
        self.objectives = objectives
        self.sketch = sketch
        self._names = names
        self._sums: dict[Parameter, Tensor] = {}
        self._rows: Tensor | None = None

    def covers(self, parameters: Collection[Parameter]) -> bool:
        """Return True if the gradients of all these parameters are kept."""
        return all(parameter in self._names for parameter in parameters)

    # --- adding --------------------------------------------------------------------------------

    def add_products(
        self, parameter: Parameter, left_BSl: Tensor, right_BSr: Tensor, a_KB: Tensor
    ) -> None:
        """Add ``a_k(b) * sum_s left(b, s) (outer) right(b, s)`` to a matrix's gradients."""
        left_BSl = self._project(parameter, 0, left_BSl)
        right_BSr = self._project(parameter, 1, right_BSr)
        if left_BSl.dtype != right_BSr.dtype:
            # Under autocast the product's operands are what the forward pass made of them.
            low = min(left_BSl.dtype, right_BSr.dtype, key=lambda dtype: dtype.itemsize)
            left_BSl, right_BSr = left_BSl.to(low), right_BSr.to(low)
        rows, positions, left = left_BSl.shape
        right = right_BSr.shape[-1]
        sum_Klr = self._sum(parameter, (left, right))
        if positions * (self.objectives - 1) <= ROW_OVERHEAD:
            self._add_scaled(sum_Klr, left_BSl, right_BSr, a_KB)
            return
        # The gradient of each row once, then K weighted sums of them: the product over positions,
        # which is most of the work, is not repeated per objective.
        limit = ROW_BYTES["cpu" if left_BSl.device.type == "cpu" else "other"]
        step = min(left, max(1, limit // (rows * right * left_BSl.element_size())))
        room = self._room(rows * step * right, left_BSl)
        left_BlS, sum_Kx = left_BSl.transpose(1, 2), sum_Klr.view(self.objectives, -1)
        for start in range(0, left, step):
            stop = min(start + step, left)
            rows_Blr = room[: rows * (stop - start) * right].view(rows, -1, right)
            torch.bmm(left_BlS[:, start:stop], right_BSr, out=rows_Blr)
            sum_Kx[:, start * right : stop * right].addmm_(a_KB, rows_Blr.flatten(1).float())

    def _room(self, size: int, like: Tensor) -> Tensor:
        """Return memory for the gradients of rows: the same again, as fresh pages are slow."""
        room = self._rows
        if room is None or len(room) < size or room.dtype != like.dtype:
            room = self._rows = torch.empty(size, dtype=like.dtype, device=like.device)
        return room

    @staticmethod
    def _add_scaled(sum_Klr: Tensor, left_BSl: Tensor, right_BSr: Tensor, a_KB: Tensor) -> None:
        """Add one product per objective, with the smaller side scaled."""
        first = left_BSl.shape[-1] <= right_BSr.shape[-1]
        left_Nl, right_Nr = left_BSl.flatten(0, 1), right_BSr.flatten(0, 1)
        for k, a_B in enumerate(a_KB):
            a_B11 = a_B[:, None, None].to(left_Nl.dtype)
            if first:
                product_lr = (left_BSl * a_B11).flatten(0, 1).T @ right_Nr
            else:
                product_lr = left_Nl.T @ (right_BSr * a_B11).flatten(0, 1)
            sum_Klr[k] += product_lr

    def add_lookups(
        self, parameter: Parameter, ids_BS: Tensor, values_BSr: Tensor, a_KB: Tensor
    ) -> None:
        """Add ``a_k(b) * values(b, s)`` to row ``ids(b, s)`` of a matrix's gradients."""
        signs_ml = self._side(parameter, 0)
        if signs_ml is not None:
            left_BSm = embedding(ids_BS, signs_ml.T.contiguous())
            values_BSr = self._project(parameter, 1, values_BSr)
            # Both sides are projected already: a plain sum of products over all positions.
            sum_Kmr = self._sum(parameter, (left_BSm.shape[-1], values_BSr.shape[-1]))
            self._add_scaled(sum_Kmr, left_BSm, values_BSr.float(), a_KB)
            return
        values_BSr = self._project(parameter, 1, values_BSr).float()
        sum_Klr = self._sum(parameter, (parameter.shape[0], values_BSr.shape[-1]))
        for sum_lr, a_B in zip(sum_Klr, a_KB, strict=True):
            scaled_Nr = (values_BSr * a_B[:, None, None]).flatten(0, 1)
            sum_lr.index_add_(0, ids_BS.flatten(), scaled_Nr)

    def add_rows(self, parameter: Parameter, values_Bx: Tensor, a_KB: Tensor) -> None:
        """Add ``a_k(b) * values(b)``; the values have the parameter's shape after the first axis.

        For parameters with one axis.
        """
        sum_Kx = self._sum(parameter, tuple(values_Bx.shape[1:]))
        sum_Kx += a_KB @ values_Bx.float()

    def add_gradient(self, parameter: Parameter, k: int, gradient: Tensor) -> None:
        """Add a whole gradient, of the parameter's shape, to gradient k."""
        gradient = gradient.float()
        if self.sketch is not None and parameter.ndim > 1:
            gradient_lm = self._project(parameter, 1, gradient.flatten(1))
            gradient = self._project(parameter, 0, gradient_lm.T).T
        self._sum(parameter, tuple(gradient.shape))[k] += gradient

    def _sum(self, parameter: Parameter, shape: tuple[int, ...]) -> Tensor:
        if parameter not in self._sums:
            size = (self.objectives, *shape)
            self._sums[parameter] = torch.zeros(size, device=parameter.device)
        return self._sums[parameter]

    def _side(self, parameter: Parameter, axis: int) -> Tensor | None:
        if self.sketch is None or parameter.ndim == 1:
            return None
        return self.sketch.side(self._names[parameter], parameter, axis)

    def _project(self, parameter: Parameter, axis: int, values: Tensor) -> Tensor:
        """Project the last axis of some values, which runs along an axis of the parameter."""
        signs = self._side(parameter, axis)
        return values if signs is None else values.float() @ signs.T

    # --- reading -------------------------------------------------------------------------------

    def products(self, other: GradientSums, only: Collection[Parameter] | None = None) -> Tensor:
        """Return inner products with other gradients, float64 [K, K of the other] on the CPU.

        Args:
            other: may be these gradients themselves.
            only: the parameters that count; None: all.
        """
        total = torch.zeros(self.objectives, other.objectives, dtype=torch.float64)
        for parameter in self._names:
            mine, others = self._sums.get(parameter), other._sums.get(parameter)
            if mine is None or others is None or (only is not None and parameter not in only):
                continue
            flat = (mine.reshape(len(mine), -1), others.reshape(len(others), -1))
            parts = (torch.split(value, GRAM_COLUMNS, 1) for value in flat)
            for left, right in zip(*parts, strict=True):
                total += (left.double() @ right.double().T).cpu()
        return total

    def take(self, parameter: Parameter, weights_K: Tensor) -> Tensor | None:
        """Return ``sum_k weights_k * gradient_k`` of one parameter, and let go of the gradients.

        Returns:
            None if nothing was added.
        """
        sum_Kx = self._sums.pop(parameter, None)
        if sum_Kx is None:
            return None
        combined = weights_K.to(sum_Kx) @ sum_Kx.reshape(self.objectives, -1)
        return combined.view(sum_Kx.shape[1:])
