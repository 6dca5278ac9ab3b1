"""Settings that have to stand before torch, transformers and mlflow are imported.

Processes that tests start inherit them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# What tests share lies there: `from weighting_properties import claims`.
sys.path.insert(0, str(Path(__file__).parent / "support"))

os.environ.update(
    OMP_NUM_THREADS="1",  # sums split over threads differ in their last bits
    HF_HUB_OFFLINE="1",  # a test that reaches for the network fails at once
    HF_HUB_DISABLE_PROGRESS_BARS="1",  # read once, at import; commands set it for themselves
    MLFLOW_DISABLE_TELEMETRY="true",
    MPLBACKEND="Agg",
    TOKENIZERS_PARALLELISM="false",  # else a fork after encoding warns
)
# Golden values are CPU values; name a device here to run the tests on it.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# A developer's own server must not receive what tests log.
os.environ.pop("MLFLOW_TRACKING_URI", None)

E2E_TIMEOUT = 600  # seconds


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives e2e tests more time than the others, unless they ask for a time of their own."""
    for item in items:
        if item.get_closest_marker("e2e") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(E2E_TIMEOUT))
