"""Weights on the simplex: softmax, projections, and uniform numbers to weights and back.

Plain Python on lists of floats: a weight vector has a handful of entries, and the search space
uses it without torch.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence


def softmax(logits_K: Sequence[float]) -> list[float]:
    """Return ``exp(logits) / sum(exp(logits))``, computed without overflow.

    Args:
        logits_K: finite, or -inf for a weight of 0; at least one finite.
    """
    largest = max(logits_K)
    powers = [math.exp(logit - largest) for logit in logits_K]
    total = math.fsum(powers)
    return [power / total for power in powers]


def project(values_K: Sequence[float]) -> list[float]:
    """Return the point of the simplex that is closest to ``values_K`` in Euclidean distance.

    Source: Held, Wolfe, Crowder 1974; Duchi et al. 2008, figure 1.
    """
    total, threshold = 0.0, -math.inf
    for count, value in enumerate(sorted(values_K, reverse=True), start=1):
        total += value
        candidate = (total - 1.0) / count
        if value <= candidate:
            break
        threshold = candidate
    return [max(value - threshold, 0.0) for value in values_K]


def raise_to_floor(weights_K: Sequence[float], floor: float) -> list[float]:
    """Return the weights with every entry at least ``floor``: the closest such in KL divergence.

    Entries below the floor are set to it; the others keep their ratios.

    Args:
        weights_K: on the simplex.
        floor: in [0, 1 / K].

    Source: the KL projection onto a box on the simplex; Herbster and Warmuth 2001.
    """
    raised = [False] * len(weights_K)
    while True:
        free = math.fsum(w for w, up in zip(weights_K, raised, strict=True) if not up)
        scale = (1.0 - floor * sum(raised)) / free if free > 0 else 0.0
        below = [up or w * scale < floor for w, up in zip(weights_K, raised, strict=True)]
        if below == raised:
            return [floor if up else w * scale for w, up in zip(weights_K, raised, strict=True)]
        raised = below


def from_uniforms(uniforms: Sequence[float]) -> list[float]:
    """Map K - 1 numbers in [0, 1] to K weights; independent uniforms give uniform weights.

    Stick-breaking: weight i takes the share ``1 - (1 - u_i) ** (1 / (K - i))`` of what the weights
    before it have left (i from 1), so each share has its Beta(1, K - i) distribution.

    Source: the stick-breaking form of Dirichlet(1, ..., 1).
    """
    left, weights = 1.0, []
    for others, uniform in zip(range(len(uniforms), 0, -1), uniforms, strict=True):
        weight = left * (1.0 - (1.0 - uniform) ** (1.0 / others))
        weights.append(weight)
        left -= weight
    return [*weights, left]


def to_uniforms(weights_K: Sequence[float]) -> list[float]:
    """Return the numbers that :func:`from_uniforms` maps to ``weights_K``.

    Where nothing is left to share out, any number would do; it is 0.

    Args:
        weights_K: on the simplex.
    """
    uniforms = []
    for index, weight in enumerate(weights_K[:-1]):
        left = math.fsum(weights_K[index:])
        share = min(weight / left, 1.0) if left > 0 else 0.0
        uniforms.append(1.0 - (1.0 - share) ** (len(weights_K) - 1 - index))
    return uniforms


def nearby(weights_K: Sequence[float], count: int, angle: float, seed: object) -> list[list[float]]:
    """Return weights that point in nearly the same direction, the given ones first.

    Each of the others is the given direction turned by an angle drawn uniformly up to ``angle``,
    towards a side drawn uniformly. What turns negative is mirrored, which brings it nearer; then
    the weights are divided by their sum.

    Args:
        weights_K: non-negative, not all 0.
        count: how many in all.
        angle: in degrees, in [0, 90].
        seed: text or a number; equal ones give equal weights, of which a longer list has the same
            first ones.

    Source: "Robust Preference Alignment via Directional Neighborhood Consensus", arXiv 2510.20498,
    for two objectives, where a direction is an angle; the rest is ours, and that the given weights
    are among them.
    """
    length = math.hypot(*weights_K)
    aim = [weight / length for weight in weights_K]
    rng = random.Random(f"nearby/{seed}")
    found = [list(weights_K)]
    while len(found) < count:
        side = [rng.gauss(0.0, 1.0) for _ in aim]
        along = math.fsum(s * a for s, a in zip(side, aim, strict=True))
        side = [s - along * a for s, a in zip(side, aim, strict=True)]
        turn, reach = math.radians(rng.uniform(0.0, angle)), math.hypot(*side)
        if len(aim) == 1 or reach == 0.0:
            found.append(list(aim))
            continue
        turned = [
            abs(a * math.cos(turn) + s / reach * math.sin(turn))
            for a, s in zip(aim, side, strict=True)
        ]
        found.append(turned)
    totals = [math.fsum(weights) for weights in found]
    return [[w / total for w in weights] for weights, total in zip(found, totals, strict=True)]
