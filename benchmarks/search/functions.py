"""BoTorch's test problems, turned round: they are minimised there, and maximised here.

Reference points and maxima are BoTorch's own, read from its classes. Those of ZDT and DTLZ2 are
exact; those of the others were found by a search, so a share may exceed 1 by a little. DTLZ1 is
left out: BoTorch 0.18 gives a wrong maximum for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

from benchmarks.search.problem import Problem

if TYPE_CHECKING:
    from botorch.test_functions.base import MultiObjectiveTestProblem

DIMENSIONS: Final = 6
"""Inputs of the problems that take any number; as in the papers of qEHVI and qNEHVI."""

LEAST: Final[Mapping[str, tuple[float, ...]]] = {
    "BraninCurrin": (0.397, 1.18),
    "DTLZ2": (0.0, 0.0),
    "ZDT1": (0.0, 0.0),
    "ZDT2": (0.0, 0.0),
    "ZDT3": (0.0, -0.774),
    "VehicleSafety": (1661.7, 6.142, 0.0393),
    "Penicillin": (-15.0, 0.0, 1.0),
    "MOMFBraninCurrin": (-0.937, -0.734),
    "MOMFPark": (-0.386, -0.329),
}
"""What each objective can be made at least, rounded down: found by descent from many points."""


class Function(Problem):
    """A test problem; its inputs are scaled from [0, 1] to its own bounds."""

    def __init__(self, name: str, fidelity: bool = False) -> None:
        """Take a name.

        Args:
            name: of BoTorch's class.
            fidelity: its last input is the share of the training that is done.
        """
        self.name = name
        self.fidelity = fidelity
        self.inputs = self.botorch.dim - fidelity
        self.worst_K = tuple((-self.botorch.ref_point).tolist())
        self.best_K = tuple(-least for least in LEAST[name])
        self.maximum = float(self.botorch.max_hv)

    @cached_property
    def botorch(self) -> MultiObjectiveTestProblem:
        """BoTorch's own object."""
        from botorch.test_functions import multi_objective, multi_objective_multi_fidelity

        module = multi_objective_multi_fidelity if self.fidelity else multi_objective
        takes_any = self.name.startswith(("DTLZ", "ZDT"))
        found: MultiObjectiveTestProblem = getattr(module, self.name)(
            **({"dim": DIMENSIONS} if takes_any else {})
        )
        return found

    def values(self, inputs: Sequence[float], share: float = 1.0) -> list[float]:
        """Return the negated values of BoTorch's problem."""
        import torch

        low, high = self.botorch.bounds
        given = [*inputs, share] if self.fidelity else inputs
        at = low + torch.tensor(given, dtype=torch.float64) * (high - low)
        # Rounding may leave the bounds by a hair, which BoTorch refuses.
        found = self.botorch(at.clamp(low, high)[None])[0]
        return [-value for value in found.tolist()]


def _made(name: str, fidelity: bool = False) -> Callable[[], Problem]:
    return lambda: Function(name, fidelity)


PLAIN: Final = (
    "BraninCurrin", "DTLZ2", "ZDT1", "ZDT2", "ZDT3", "VehicleSafety", "Penicillin",
)  # fmt: skip

WITH_FIDELITY: Final = ("MOMFBraninCurrin", "MOMFPark")

FUNCTIONS: Final[Mapping[str, Callable[[], Problem]]] = {
    **{name: _made(name) for name in PLAIN},
    **{name: _made(name, fidelity=True) for name in WITH_FIDELITY},
}
