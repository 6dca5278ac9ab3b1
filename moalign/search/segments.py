"""The segment: the one function that every executor runs. Depends on its task and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moalign.types import SegmentTask, StepEvent


def run_segment(
    task: SegmentTask, emit: Callable[[StepEvent], None], cache: dict[str, Any]
) -> None:
    """Train a trial from ``task.since`` to ``task.until`` and measure it on ``task.split``.

    Afterwards the checkpoint folder stands, with the measurements in it. If it stood already with
    these measurements, nothing is done. A retry writes beside and renames; the first rename wins.

    Args:
        task: what to do.
        emit: called once per training step.
        cache: the worker's memory, for example the trial it holds; may be empty.

    Raises:
        MoalignError: the trial itself failed; it should not be tried again.
    """
    raise NotImplementedError
