"""A run that was never trained, to look at."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

SUPPORT = str(Path(__file__).parent.parent / "support")
if SUPPORT not in sys.path:
    sys.path.insert(0, SUPPORT)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Any]:
    """Write a run below `tmp_path/runs` and read it back; see `toy.make_run` for its arguments."""
    from toy import make_run as make

    return partial(make, tmp_path / "runs")
