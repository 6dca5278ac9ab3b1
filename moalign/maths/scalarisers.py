"""Many objectives to one number: Chebyshev and its relatives, soft minimum, product.

Shapes: ``[..., K]``, objectives last; ``regrets = ideal - value`` in units of the bounds, so that
less is better; results are float64, and higher is better. A NaN, and a weight of 0, leave an
objective out; the result is NaN where none is left. ``*_slopes`` are the derivatives of the value
by the objectives' *values* (minus those by the regrets), ``[K]``, 0 where left out.

Only methods of tensors are used, so importing this does not import torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal

from moalign.maths.normalisation import ROUNDING

if TYPE_CHECKING:
    from torch import Tensor

Ray = Literal["inverse", "weights"]
"""Which way from the ideal the regrets should lie; see :func:`direction`."""

SMALLEST: Final = 1e-6
"""A weight below this counts as this where it is divided by."""

LARGEST: Final = 1e30
"""A product above this counts as this: float32 ends not far above."""


def shares(terms: Tensor, temperature: float) -> Tensor:
    """Return how much of the maximum each term is: ``softmax(terms / temperature)``.

    At temperature 0 its limit: equal shares of the largest terms, equal within rounding.

    Args:
        terms: -inf for one that takes no part.
        temperature: in units of the terms; not negative.

    Returns:
        non-negative, of sum 1 over the last axis; 0 where no term takes part.
    """
    largest = terms.amax(-1, keepdim=True)
    below = terms - largest  # before the division, so that nothing overflows
    if temperature == 0:
        powers = (below >= -ROUNDING * largest.abs()).double()
    else:
        powers = (below / temperature).exp()
    powers = powers.masked_fill(terms == -math.inf, 0.0)
    return powers / powers.sum(-1, keepdim=True).clamp(min=1.0)


def chebyshev(regrets: Tensor, weights: Tensor, temperature: float = 0.0) -> Tensor:
    """Return ``-temperature * log sum_k exp(w_k regret_k / temperature)``.

    At temperature 0 its limit, ``-max_k w_k regret_k``. It lies below that by at most
    ``temperature * log K``.

    Args:
        regrets: [..., K].
        weights: [K], non-negative.
        temperature: in units of weighted regrets; not negative.

    Source: Bowman 1976; smooth: Lin et al. 2024, arXiv 2402.19078.
    """
    terms = _terms(regrets, weights)
    largest = terms.amax(-1)
    value = largest
    if temperature > 0:
        below = (terms - largest[..., None]) / temperature
        value = largest + temperature * below.exp().sum(-1).log()
    return -value.masked_fill(largest == -math.inf, math.nan)


def chebyshev_slopes(regrets: Tensor, weights: Tensor, temperature: float = 0.0) -> Tensor:
    """Return ``w_k softmax_k(w_k regret_k / temperature)``; at 0 the largest share equally."""
    return weights.double() * shares(_terms(regrets, weights), temperature)


def augmented_chebyshev(regrets: Tensor, weights: Tensor, augmentation: float) -> Tensor:
    """Return ``-max_k w_k regret_k - augmentation * sum_k w_k regret_k``.

    Source: Steuer and Choo 1983. It differs from the form with values in place of regrets in the
    sum by a constant.
    """
    terms = _terms(regrets, weights)
    summed = terms.masked_fill(terms == -math.inf, 0.0).sum(-1)
    return chebyshev(regrets, weights) - augmentation * summed


def augmented_chebyshev_slopes(regrets: Tensor, weights: Tensor, augmentation: float) -> Tensor:
    """Return ``w_k (share_k + augmentation)``, with the largest sharing equally."""
    applies = _terms(regrets, weights) != -math.inf
    return chebyshev_slopes(regrets, weights) + augmentation * weights.double() * applies


def direction(weights: Tensor, kind: Ray) -> Tensor:
    """Return the direction in which the regrets of :func:`pbi` should lie; any length.

    ``inverse``: 1 / w_k, so that all w_k regret_k are equal on it, as where Chebyshev is best, and
    more weight means less regret. ``weights``: w_k itself, so that more weight means more regret.

    Source: inverse: Qi et al. 2014 (the WS-transformation of MOEA/D-AWA); weights: Zhang and Li
    2007.
    """
    weights = weights.double()
    return weights.clamp(min=SMALLEST).reciprocal() if kind == "inverse" else weights


def straight_penalty(ray_K: Tensor) -> float:
    """Return the least penalty with which :func:`pbi` is best on the ray, on a straight front.

    The tangent of the angle between the ray and the front's normal (1, ..., 1): 0 for a ray of
    equal regrets, at most sqrt(K - 1). A front that bends outward needs more at its ends.

    Source: [derived] from the slopes ``u + penalty v``, with any v of length 1 across u: the
    normal is among them.
    """
    ray_K = ray_K.double() / ray_K.max()
    along = float(ray_K.mean())
    across = float((ray_K - along).square().mean().sqrt())
    return across / along


def pbi(regrets: Tensor, ray_K: Tensor, penalty: float) -> Tensor:
    """Return ``-(d1 + penalty * d2)``: how far along the ray, and how far off it, regrets lie.

    With u the ray at length 1, ``d1 = <regrets, u>`` and ``d2 = |regrets - d1 u|``. A 0 in the ray
    leaves nothing out.

    Source: penalty boundary intersection, Zhang and Li 2007 (MOEA/D).
    """
    along, off, _ = _boundary(regrets, ray_K)
    value: Tensor = -(along + penalty * off.norm(dim=-1))
    return value.masked_fill(regrets.isnan().all(-1), math.nan)


def pbi_slopes(regrets: Tensor, ray_K: Tensor, penalty: float) -> Tensor:
    """Return ``u_k + penalty * (regrets - d1 u)_k / d2``; negative for what is ahead of the ray.

    On the ray, where there is no derivative, u.
    """
    _, off, unit = _boundary(regrets, ray_K)
    distance = off.norm(dim=-1, keepdim=True)
    size = regrets.double().nan_to_num(0.0).norm(dim=-1, keepdim=True)
    away: Tensor = (off / distance).masked_fill(distance <= ROUNDING * size, 0.0)
    return unit + penalty * away


def soft_minimum(values: Tensor, weights: Tensor, sharpness: float) -> Tensor:
    """Return ``-(1 / sharpness) log(sum_k w_k exp(-sharpness value_k) / sum_k w_k)``.

    At sharpness 0 its limit, the weighted mean; for small ones the mean minus ``sharpness / 2``
    times the weighted variance; for large ones the minimum of those with a weight.

    Args:
        values: [..., K].
        weights: [K], non-negative.
        sharpness: per unit of the values; not negative.

    Source: the certainty equivalent of exponential utility; Montero et al. 2026, arXiv 2605.05750.
    """
    values = values.double()
    absent = values.isnan() | (weights == 0)
    lowest = values.masked_fill(absent, math.inf).amin(-1, keepdim=True)
    above = (values - lowest).masked_fill(absent, 0.0)
    parts = weights.double().expand_as(values).masked_fill(absent, 0.0)
    parts = parts / parts.sum(-1, keepdim=True)
    # expm1 and log1p: right also where sharpness * above is tiny.
    if sharpness == 0:
        more = (parts * above).sum(-1)
    else:
        more = -(parts * (-sharpness * above).expm1()).sum(-1).log1p() / sharpness
    return (lowest[..., 0] + more).masked_fill(absent.all(-1), math.nan)


def product(values: Tensor, reference: Tensor, margin: float) -> Tensor:
    """Return ``prod_k (max(value_k - reference_k, 0) + margin)``: the volume of a box.

    Args:
        values: [..., K].
        reference: broadcastable to the values; the corner that boxes start from.
        margin: how far beyond the reference they start, so that no factor is 0.

    Returns:
        at most :data:`LARGEST`.

    Source: the reward of HVO, github.com/alg-znsy-li/HVO_1.
    """
    sides = (values.double() - reference).clamp(min=0.0) + margin
    volume = sides.masked_fill(values.isnan(), 1.0).prod(-1).clamp(max=LARGEST)
    return volume.masked_fill(values.isnan().all(-1), math.nan)


def fill_within_groups(scores_PGK: Tensor) -> Tensor:
    """Replace a missing score by its group's mean; NaN stays where the whole group misses it.

    Leaving it out of one completion's maximum or product would be an advantage over those whose
    score is known: a maximum of fewer regrets is lower. A whole group can do without.

    Returns:
        [P, G, K]; NaN in the whole row of a completion to which nothing applies.

    Source: ours.
    """
    missing = scores_PGK.isnan()
    filled = scores_PGK.nanmean(1, keepdim=True).where(missing, scores_PGK)
    return filled.masked_fill(missing.all(-1, keepdim=True), math.nan)


def _terms(regrets: Tensor, weights: Tensor) -> Tensor:
    """Return weighted regrets, -inf for those that take no part."""
    terms = regrets.double() * weights.double()
    return terms.masked_fill(regrets.isnan() | (weights == 0), -math.inf)


def _boundary(regrets: Tensor, ray_K: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return d1 [...], the vector off the ray [..., K], and the ray at length 1 [..., K]."""
    absent = regrets.isnan()
    regrets = regrets.double().masked_fill(absent, 0.0)
    unit = ray_K.double().expand_as(regrets).masked_fill(absent, 0.0)
    length = unit.norm(dim=-1, keepdim=True)
    unit = unit / length.masked_fill(length == 0, 1.0)
    along = (regrets * unit).sum(-1)
    return along, regrets - along[..., None] * unit, unit
