"""Lagrange multipliers: forms of a variable, and what moves it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Form:
    """A multiplier c as a function of the variable u that moves.

    Attributes:
        value: c of u.
        inverse: u of c.
        slope: dc/du as a function of c.
        start: c before the first step.
    """

    value: Callable[[float], float]
    inverse: Callable[[float], float]
    slope: Callable[[float], float]
    start: float


# By way of tanh a sigmoid does not overflow.
SIGMOID: Final = Form(
    lambda u: 0.5 * (1.0 + math.tanh(0.5 * u)),
    lambda c: math.log(c / (1.0 - c)),
    lambda c: c * (1.0 - c),
    0.5,
)
TANH: Final = Form(math.tanh, math.atanh, lambda c: 1.0 - c * c, 0.0)
LOG: Final = Form(math.exp, math.log, lambda c: c, 1.0)
LINEAR: Final = Form(float, float, lambda _: 1.0, 0.0)


@dataclass(slots=True)
class Multiplier:
    """What a multiplier remembers.

    Attributes:
        u: the sum of what moved it.
        velocity: of u.
        push: what the latest shortfall and its rise add to u in c; replaced, never summed.
    """

    u: float
    velocity: float = 0.0
    push: float = 0.0


@dataclass(frozen=True, slots=True)
class Controller:
    """How a multiplier answers a shortfall e: PID control of u, projected.

    ::

        velocity = momentum * velocity + slope(c(u)) * e
        u        = u + rate * velocity                               kept in the limits
        push     = proportional * e + derivative * rise
        c        = form(u + push)                                    kept in the limits

    Keeping u itself in the limits is the anti-windup: however long a violation lasted, u leaves its
    end at the first step that points the other way.

    Attributes:
        form: c as a function of u.
        low: smallest c.
        high: largest c.
        rate: integral gain.
        momentum: of u.
        proportional: gain of the shortfall.
        derivative: gain of its rise.

    Source: with `LINEAR`, momentum 0 and low 0, algorithm 2 of Stooke, Achiam, Abbeel 2020, arXiv
    2007.03964, with an upper limit.
    """

    form: Form
    low: float
    high: float
    rate: float
    momentum: float = 0.0
    proportional: float = 0.0
    derivative: float = 0.0

    def start(self, value: float) -> Multiplier:
        """Return a multiplier of this value, or of the nearest one that is allowed."""
        return Multiplier(self.form.inverse(min(max(value, self.low), self.high)))

    def move(self, multiplier: Multiplier, shortfall: float) -> None:
        """Add a shortfall to the sum."""
        slope = self.form.slope(self.form.value(multiplier.u))
        multiplier.velocity = self.momentum * multiplier.velocity + slope * shortfall
        multiplier.u = self._kept(multiplier.u + self.rate * multiplier.velocity)

    def press(self, multiplier: Multiplier, shortfall: float, rise: float) -> None:
        """Set what the present shortfall and its rise add."""
        multiplier.push = self.proportional * shortfall + self.derivative * rise

    def value(self, multiplier: Multiplier) -> float:
        """Return c."""
        return self.form.value(self._kept(multiplier.u + multiplier.push))

    def _kept(self, u: float) -> float:
        return min(max(u, self.form.inverse(self.low)), self.form.inverse(self.high))
