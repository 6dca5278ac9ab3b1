"""Gradients held against one from the steer split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moalign.errors import NonFiniteError

if TYPE_CHECKING:
    from torch import Tensor

    from moalign.types import Step


def finite_gram(step: Step, probes: tuple[str, ...] = ()) -> Tensor:
    """Return ``step.gram(probes)`` in float64, all of it finite.

    Raises:
        NonFiniteError: naming the objective, or the probe, whose gradient is not finite.
    """
    gram = step.gram(probes).double()
    finite = gram.isfinite()
    names = [f"of objective {name}" for name in step.names]
    names += [f"on the {probe} split" for probe in probes]
    # One bad gradient spoils the others' rows; the diagonal knows which it is.
    for each in (finite.diagonal(), finite.all(1)):
        for name, fine in zip(names, each.tolist(), strict=True):
            if not fine:
                raise NonFiniteError(f"the gradient {name} is not finite")
    return gram
