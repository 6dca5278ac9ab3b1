"""Makes tests/support importable, for the tests and for the worker processes they start."""

from __future__ import annotations

import sys
from pathlib import Path

SUPPORT = str(Path(__file__).parent.parent.parent / "support")
if SUPPORT not in sys.path:
    sys.path.insert(0, SUPPORT)
