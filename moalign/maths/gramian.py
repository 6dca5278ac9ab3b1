"""How methods for conflicting gradients combine them: functions of the Gram matrix alone.

With the gradients g_k of K objectives (all ascent, or all descent) and ``M_ij = <g_i, g_j>``, a
method is a vector of coefficients a; its direction is ``d = sum_k a_k g_k``, its gain in objective
k ``<d, g_k> = (M a)_k``, all of it known from M.

All functions here have this in common:

- They take float64 ``[K, K]``, symmetric, positive semi-definite up to rounding, of any scale, and
  return float64 ``[K]``. Eigenvalues below 0 count as 0.
- They work on cosines, ``M_ij / (|g_i| |g_j|)``, so that every threshold is relative: a matrix of
  trace 1e-20 gives what its multiple of trace 1 gives.
- A gradient of length 0 has no say: its coefficient is 0, the others' are as if it were not there.
- Where several coefficients give the same direction (copies of a gradient, more gradients than
  dimensions), copies share alike: :data:`RIDGE` makes the answer unique, so that the order of the
  objectives never matters.

K is meant to be small: the solvers are exact, in Python, and take a millisecond or a few.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

RIDGE: Final = 1e-9
"""Added to the cosines' diagonal. Far below the rounding of float32 gradients, so that it decides
nothing but ties; far above that of float64, so that it decides them alike in any order."""

CANCELLED: Final = 1e-6
"""A combination whose squared length is below this share of that of its parts, were they parallel,
is rounding: Gram matrices of float32 gradients are no more exact."""

PRECISE: Final = 1e-12
"""An eigenvalue below this share of the largest is rounding of float64."""

EXACT_ORDERS: Final = 6
"""Up to this many objectives :func:`pcgrad` averages over all orders."""

SAMPLED_ORDERS: Final = 120
"""Orders it draws per objective beyond that: as many as six objectives have."""


def norms(gram_KK: Tensor) -> Tensor:
    """Return the gradients' lengths, ``[K]``."""
    return gram_KK.diagonal().clamp(min=0.0).sqrt()


def scaled(gram_KK: Tensor, scale_K: Tensor) -> Tensor:
    """Return the Gram matrix of the gradients times ``scale_K``."""
    return scale_K[:, None] * gram_KK * scale_K


def cosines(gram_KK: Tensor) -> Tensor:
    """Return the cosines between gradients, ``[K, K]``; 0 in the row of a gradient of length 0."""
    norms_K = norms(gram_KK)
    inverse_K = (1.0 / norms_K).masked_fill(norms_K == 0, 0.0)
    return scaled(gram_KK, inverse_K).clamp(-1.0, 1.0)


def cancels(gram_KK: Tensor, coefficients_K: Tensor) -> bool:
    """Return whether the gradients, so combined, cancel up to :data:`CANCELLED`, or all are 0."""
    parts_K = coefficients_K * norms(gram_KK)
    largest = parts_K.abs().sum()
    if largest == 0:
        return True
    shares_K = parts_K / largest
    return bool(shares_K @ cosines(gram_KK) @ shares_K <= CANCELLED)


def min_norm(gram_KK: Tensor) -> Tensor:
    """Return the weights of the shortest convex combination: ``min a'Ma``, a on the simplex.

    ``<d, g_k> >= |d|^2`` for all k, so that d improves every objective, unless it is 0.

    Source: Désidéri 2012 (MGDA), solved exactly instead of by Frank-Wolfe: along a ray the problem
    is ``min b'Cb / 2 - b'm`` over b >= 0, with C the cosines and m the inverse lengths.
    """

    def rule(live: _Live) -> Tensor:
        parts_L = _shortest(live)
        return parts_L / (parts_L / live.norms_L).sum()

    return _combine(gram_KK, rule)


def pcgrad(gram_KK: Tensor, *, orders: int | None = None, seed: int = 0) -> Tensor:
    """Return the coefficients of PCGrad: the sum of gradients freed of their conflicts.

    Each gradient in turn goes through the others in random order, and loses its component along
    each that it then points against.

    Args:
        gram_KK: the Gram matrix.
        orders: how many orders are drawn per gradient; None: the mean over all, if there are no
            more than :data:`EXACT_ORDERS` gradients, else over :data:`SAMPLED_ORDERS` drawn ones.
        seed: of the drawn orders. With drawn ones the order of the objectives matters.

    Source: Yu et al. 2020, arXiv 2001.06782, algorithm 1, which draws one.
    """

    def rule(live: _Live) -> Tensor:
        count = len(live.norms_L)
        total_L = torch.zeros_like(live.norms_L)
        generator = torch.Generator().manual_seed(seed)
        for i in range(count):
            others = [j for j in range(count) if j != i]
            orders_NO = _orders(others, orders, generator)
            parts_NL = torch.zeros(len(orders_NO), count, dtype=live.norms_L.dtype)
            parts_NL[:, i] = live.norms_L[i]
            for column_N in orders_NO.T:
                along_N = (parts_NL * live.cosines_LL[column_N]).sum(-1).clamp(max=0.0)
                parts_NL.scatter_add_(1, column_N[:, None], -along_N[:, None])
            total_L += parts_NL.mean(0)
        return total_L

    return _combine(gram_KK, rule)


def cagrad(gram_KK: Tensor, c: float, preference_K: Tensor | None = None) -> Tensor:
    """Return the coefficients of the direction with the best worst gain near the mean gradient.

    With g_0 the mean gradient, weighted by the preference p::

        max_d min_k <d, g_k> / p_k   subject to   |d - g_0| <= c |g_0|

    c = 0 is the mean. All gains are >= 0 for sure only if c >= 1. Where no direction improves all,
    and a whole set of them is best, d is the one closest to g_0; 0 if g_0 is.

    Args:
        gram_KK: the Gram matrix.
        c: radius in units of the mean gradient's length, >= 0.
        preference_K: summing to 1; default equal; 0 leaves an objective out.

    Source: Liu et al. 2021, arXiv 2110.14048, equation 3. Solved through the closest d with all
    gains >= t p_k, whose distance grows convexly in t: Newton's method finds the t at the radius.
    """

    def rule(live: _Live) -> Tensor:
        parts_L, ratios_L = live.norms_L * live.preference_L, live.norms_L / live.preference_L
        size, ratios_L = parts_L.max(), ratios_L / ratios_L.min()
        mean_L = parts_L / size / len(parts_L)
        if _cancels(live.cosines_LL, mean_L):
            return torch.zeros_like(live.norms_L)
        along_L = live.cosines_LL @ mean_L  # gains of g_0, per unit of length
        radius = c * float((mean_L @ along_L).clamp(min=0.0).sqrt())
        best = float(((along_L + radius) * ratios_L).min())
        if _cancels(live.cosines_LL, _shortest(live)):
            best = min(best, 0.0)
        matrix_LL = _ridged(live.cosines_LL)
        correction_L = torch.zeros_like(live.norms_L)
        for _ in range(100 if radius > 0 else 0):
            needed_L = best / ratios_L - along_L
            correction_L = _nonnegative_minimum(matrix_LL, needed_L)
            distance = math.sqrt(max(float(needed_L @ correction_L), 0.0))
            if distance <= radius * (1.0 + 1e-12):
                break
            slope = float((correction_L / ratios_L).sum()) / distance
            best -= (distance - radius) / slope
        return (mean_L + correction_L) * size

    return _combine(gram_KK, rule, preference_K)


def nash(gram_KK: Tensor, preference_K: Tensor | None = None) -> Tensor:
    """Return the Nash bargaining coefficients: ``(M a)_k = K p_k / a_k``, a > 0.

    They maximise ``sum_k p_k log <d, g_k>`` over directions of one length. If no direction improves
    all objectives there is no agreement, and the coefficients are those of gradients that cancel.

    Args:
        gram_KK: the Gram matrix.
        preference_K: bargaining powers, summing to 1; default equal; 0 leaves an objective out.

    Source: Navon et al. 2022, arXiv 2202.01017, claim 3.1; solved as the convex problem
    ``min a'Ma / 2 - sum_k K p_k log a_k`` by Newton's method instead of a sequence of programs.
    """

    def rule(live: _Live) -> Tensor:
        matrix_LL = _ridged(live.cosines_LL)

        def value(parts_L: Tensor) -> float:
            return float(parts_L @ matrix_LL @ parts_L / 2 - live.preference_L @ parts_L.log())

        parts_L = live.preference_L.sqrt()
        for _ in range(200):
            slope_L = matrix_LL @ parts_L - live.preference_L / parts_L
            curvature_LL = matrix_LL + torch.diag(live.preference_L / parts_L.square())
            step_L = torch.linalg.solve(curvature_LL, -slope_L)
            decrease = -float(slope_L @ step_L)
            # No further than nine tenths of the way to the edge, then back until it pays.
            share = min(1.0, 0.9 / max(float((-step_L / parts_L).max()), 0.9))
            goal = value(parts_L) - 1e-4 * share * decrease
            while share > 1e-4 and value(parts_L + share * step_L) > goal:
                share /= 2
            if share <= 1e-4:  # only rounding is left
                break
            parts_L = parts_L + share * step_L
            if decrease <= 1e-16:
                break
        return parts_L

    return _combine(gram_KK, rule, preference_K)


def upgrad(gram_KK: Tensor) -> Tensor:
    """Return the coefficients of the mean of the gradients, each made to conflict with none.

    Gradient k is projected onto the cone ``{d : <d, g_j> >= 0 for all j}``. No gain is negative;
    without conflict it is the mean; gains grow linearly with each gradient's length.

    Source: Quinton and Rey 2024, arXiv 2406.16232, definition 1.
    """

    def rule(live: _Live) -> Tensor:
        units_LL = torch.eye(len(live.norms_L), dtype=live.norms_L.dtype)
        projected_LL = torch.stack([_into_cone(live.cosines_LL, unit_L) for unit_L in units_LL])
        return live.norms_L @ projected_LL / len(live.norms_L)

    return _combine(gram_KK, rule)


def dual_projection(gram_KK: Tensor) -> Tensor:
    """Return the coefficients of the mean gradient, projected so that it conflicts with none.

    It is the closest direction to the mean that makes no objective worse.

    Source: Lopez-Paz and Ranzato 2017, arXiv 1706.08840, equation 11, with the mean as the gradient
    to be projected; named as in TorchJD.
    """

    def rule(live: _Live) -> Tensor:
        size = live.norms_L.max()
        return _into_cone(live.cosines_LL, live.norms_L / size) * size / len(live.norms_L)

    return _combine(gram_KK, rule)


def imtl_g(gram_KK: Tensor, preference_K: Tensor | None = None) -> Tensor:
    """Return the coefficients of the direction with equal projections onto the unit gradients.

    ``<d, g_k> / |g_k|`` is in proportion to the preference, and positive. Coefficients may be
    negative; their absolute values sum to 1. Where no direction has such projections it is the
    closest in least squares; 0 if that is 0.

    Args:
        gram_KK: the Gram matrix.
        preference_K: summing to 1; default equal; 0 leaves an objective out.

    Source: Liu et al. 2021, "Towards Impartial Multi-task Learning", equation 6. Differs: divided
    by the sum of absolute values; the published plain sum may be negative, and then turns the
    direction against all objectives.
    """

    def rule(live: _Live) -> Tensor:
        values_L, vectors_LL = torch.linalg.eigh(live.cosines_LL)
        present = _present(values_L, vectors_LL, torch.ones_like(values_L))
        inverse_L = (1.0 / values_L).where(present, 0.0)
        parts_L: Tensor = vectors_LL @ (inverse_L * (live.preference_L @ vectors_LL))
        if parts_L.abs().max() <= CANCELLED:  # nothing is left of the preference but rounding
            return torch.zeros_like(parts_L)
        return parts_L / (parts_L / live.norms_L).abs().sum()

    return _combine(gram_KK, rule, preference_K)


def aligned_mtl(gram_KK: Tensor, preference_K: Tensor | None = None) -> Tensor:
    """Return the coefficients after all principal components are shrunk to the smallest.

    ``a = s M^(-1/2) p``, with s the smallest singular value of the gradients that is not rounding:
    the gradients are replaced by the orthogonal ones closest to them, and summed by preference.
    Coefficients may be negative. A gradient a million times shorter than the longest is left out.

    Args:
        gram_KK: the Gram matrix.
        preference_K: summing to 1; default equal; 0 leaves an objective out.

    Source: Senushkin et al. 2023, arXiv 2305.19000, equation 12 (scale by the smallest value).
    """

    def rule(live: _Live) -> Tensor:
        lengths_L = live.norms_L / live.norms_L.max()
        values_L, vectors_LL = torch.linalg.eigh(scaled(live.cosines_LL, lengths_L))
        present = _present(values_L, vectors_LL, lengths_L)
        shrunk_L = (values_L[present].min() / values_L).where(present, 0.0).sqrt()
        weights_L = live.preference_L / len(live.preference_L)
        aligned_L: Tensor = vectors_LL @ (shrunk_L * (weights_L @ vectors_LL))
        return live.norms_L * aligned_L

    return _combine(gram_KK, rule, preference_K)


class GramAverage:
    """An exponential moving average of Gram matrices in which every one counts alike.

    Cosines and logarithms of lengths are averaged, so that no single step with large gradients
    rules those after it. An objective without gradient keeps what is known of it. Divided by the
    weight of what has been seen, so that the first matrix is returned as it is.
    """

    def __init__(self, decay: float) -> None:
        """Start with nothing.

        Args:
            decay: in [0, 1); what has been seen weighs this much less at each step; 0: no memory.
        """
        self.decay = decay
        self._cosines_KK: Tensor | None = None
        self._logs_K: Tensor | None = None
        self._seen_KK: Tensor | None = None

    def update(self, gram_KK: Tensor) -> Tensor:
        """Take in a matrix, finite ``[K, K]``, and return the average.

        Rows of gradients that have length 0 in ``gram_KK`` are 0 in the result.
        """
        if self.decay == 0:
            return gram_KK
        if self._cosines_KK is None or self._logs_K is None or self._seen_KK is None:
            self._cosines_KK = torch.zeros_like(gram_KK)
            self._seen_KK = torch.zeros_like(gram_KK)
            self._logs_K = torch.zeros_like(gram_KK[0])
        norms_K = norms(gram_KK)
        live_K = norms_K > 0
        live_KK = live_K[:, None] & live_K
        logs_K = norms_K.where(live_K, 1.0).log()
        sums_KK = self.decay * self._cosines_KK + cosines(gram_KK)
        self._cosines_KK = sums_KK.where(live_KK, self._cosines_KK)
        self._logs_K = (self.decay * self._logs_K + logs_K).where(live_K, self._logs_K)
        self._seen_KK = (self.decay * self._seen_KK + 1.0).where(live_KK, self._seen_KK)
        lengths_K = (self._logs_K / self._seen_KK.diagonal().clamp(min=1.0)).exp()
        means_KK = self._cosines_KK / self._seen_KK.clamp(min=1.0)
        return scaled(_semidefinite(means_KK), lengths_K).where(live_KK, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Return what has been seen; empty if nothing."""
        if self._cosines_KK is None or self._logs_K is None or self._seen_KK is None:
            return {}
        return {
            "cosines": self._cosines_KK.clone(),
            "logs": self._logs_K.clone(),
            "seen": self._seen_KK.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self._cosines_KK = state["cosines"].clone() if state else None
        self._logs_K = state["logs"].clone() if state else None
        self._seen_KK = state["seen"].clone() if state else None


class _Live(NamedTuple):
    """The L gradients that have a say.

    Attributes:
        cosines_LL: symmetric, positive semi-definite.
        norms_L: their lengths, all > 0.
        preference_L: all > 0, with mean 1.
    """

    cosines_LL: Tensor
    norms_L: Tensor
    preference_L: Tensor


def _combine(
    gram_KK: Tensor, rule: Callable[[_Live], Tensor], preference_K: Tensor | None = None
) -> Tensor:
    """Return the coefficients of a rule that gives those of the *unit* gradients, ``[L]``."""
    norms_K = norms(gram_KK)
    if preference_K is None:
        preference_K = torch.ones_like(norms_K)
    live_K = (norms_K > 0) & (preference_K > 0)
    coefficients_K = torch.zeros_like(norms_K)
    if live_K.any():
        values_L, vectors_LL = torch.linalg.eigh(cosines(gram_KK)[live_K][:, live_K])
        cosines_LL = vectors_LL * values_L.clamp(min=0.0) @ vectors_LL.T
        preference_L = preference_K[live_K].double()
        live = _Live(cosines_LL, norms_K[live_K], preference_L / preference_L.mean())
        coefficients_K[live_K] = rule(live) / live.norms_L
    return coefficients_K


def _semidefinite(cosines_KK: Tensor) -> Tensor:
    """Return the matrix without what is clearly negative in it.

    Cosines of gradients that were never there together need not fit one another.
    """
    values_K, vectors_KK = torch.linalg.eigh(cosines_KK)
    if values_K[0] >= -RIDGE:
        return cosines_KK
    clamped_KK: Tensor = vectors_KK * values_K.clamp(min=0.0) @ vectors_KK.T
    return clamped_KK


def _cancels(cosines_LL: Tensor, parts_L: Tensor) -> bool:
    shares_L = parts_L / parts_L.abs().sum()
    return bool(shares_L @ cosines_LL @ shares_L <= CANCELLED)


def _present(values_L: Tensor, vectors_LL: Tensor, lengths_L: Tensor) -> Tensor:
    """Return which principal components are more than gradients that cancel."""
    parts_LL = vectors_LL * lengths_L[:, None]
    precise_L = values_L > PRECISE * values_L.max()
    return precise_L & (values_L > CANCELLED * parts_LL.abs().sum(0).square())


def _ridged(cosines_LL: Tensor) -> Tensor:
    return cosines_LL + RIDGE * torch.eye(len(cosines_LL), dtype=cosines_LL.dtype)


def _shortest(live: _Live) -> Tensor:
    """Return the parts of the shortest convex combination, up to a factor."""
    return _nonnegative_minimum(_ridged(live.cosines_LL), live.norms_L.min() / live.norms_L)


def _into_cone(cosines_LL: Tensor, parts_L: Tensor) -> Tensor:
    """Return the parts of the direction closest to that of ``parts_L`` whose gains are all >= 0.

    What is added is non-negative: the dual problem is ``min (u + x)'C(u + x)`` over x >= 0.
    """
    return parts_L + _nonnegative_minimum(_ridged(cosines_LL), -(cosines_LL @ parts_L))


def _nonnegative_minimum(matrix_LL: Tensor, target_L: Tensor) -> Tensor:
    """Return ``argmin x'Ax / 2 - b'x`` over x >= 0, A positive definite with diagonal about 1.

    Source: Lawson and Hanson 1974, chapter 23, in terms of A'A as by Bro and de Jong 1997.
    """
    count = len(target_L)
    found_L = torch.zeros_like(target_L)
    free_L = torch.zeros(count, dtype=torch.bool)
    rounding = 1e-14 * float(target_L.abs().max())
    for _ in range(10 * count):
        slope_L = (target_L - matrix_LL @ found_L).masked_fill(free_L, -math.inf)
        if slope_L.max() <= rounding:
            break
        free_L[slope_L.argmax()] = True
        while free_L.any():
            trial_L = torch.zeros_like(found_L)
            trial_L[free_L] = torch.linalg.solve(matrix_LL[free_L][:, free_L], target_L[free_L])
            blocked_L = free_L & (trial_L <= 0)
            if not blocked_L.any():
                found_L = trial_L
                break
            # As far as the first that becomes 0, which is then held there.
            shares_L = (found_L / (found_L - trial_L)).where(blocked_L, math.inf)
            found_L = found_L + shares_L.min() * (trial_L - found_L)
            free_L &= shares_L > shares_L.min()
            found_L = found_L.where(free_L, 0.0)
    return found_L


def _orders(others: list[int], orders: int | None, generator: torch.Generator) -> Tensor:
    """Return orders of the others, ``[N, len(others)]``: all of them, or drawn ones."""
    if orders is None and len(others) < EXACT_ORDERS:
        return torch.tensor(list(itertools.permutations(others)), dtype=torch.long)
    drawn = [
        torch.randperm(len(others), generator=generator)
        for _ in range(SAMPLED_ORDERS if orders is None else orders)
    ]
    return torch.tensor(others)[torch.stack(drawn)]
