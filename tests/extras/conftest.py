"""Makes tests/support importable, and Ray quiet and at home."""

from __future__ import annotations

import os
import sys
from pathlib import Path

SUPPORT = str(Path(__file__).parent.parent / "support")
if SUPPORT not in sys.path:
    sys.path.insert(0, SUPPORT)

os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    # Clusters of several nodes on 127.0.0.1; read when Ray is imported, here and by drivers.
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
)
