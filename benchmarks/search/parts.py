"""The parts, in the order of the page."""

from __future__ import annotations

from typing import Final

from benchmarks.search import fronts, overhead, policies, rungs
from benchmarks.search.part import Part

PARTS: Final[tuple[Part, ...]] = (fronts.PART, rungs.PART, policies.PART, overhead.PART)
