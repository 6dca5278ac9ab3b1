"""Settings that have to stand before torch, transformers and mlflow are imported.

Processes that tests start inherit them. Below: what tests have to know of each other.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Gives e2e tests more time than the others, unless they ask for a time of their own."""
    e2e = [item for item in items if item.get_closest_marker("e2e")]
    for item in e2e:
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(E2E_TIMEOUT))
    if hasattr(config, "workerinput"):
        # Their files first, or one worker is left with the longest while the others have ended.
        long = {item.path for item in e2e}
        items.sort(key=lambda item: item.path not in long)


# --- tests that need the machine for themselves ---------------------------------------------------

# Shared by all that test this checkout at the same time: pytest-xdist's workers, and `make test`
# beside `make test-extras`.
_CHECKOUT = hashlib.sha256(__file__.encode()).hexdigest()[:8]
LOCKS = Path(tempfile.gettempdir(), f"moalign-tests-{os.getuid()}-{_CHECKOUT}")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Runs a test marked `alone` while nobody else runs any; its timeout begins then."""
    LOCKS.mkdir(mode=0o700, exist_ok=True)
    kind = fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH
    with open(LOCKS / "room", "ab") as room:
        # Who waits for the room lets nobody else in, so that it becomes empty.
        with open(LOCKS / "door", "ab") as door, locked(door, fcntl.LOCK_EX):
            fcntl.flock(room, kind)
        try:
            return (yield)
        finally:
            fcntl.flock(room, fcntl.LOCK_UN)  # closing is not enough if a test has forked


@contextmanager
def locked(file: Any, kind: int) -> Iterator[None]:
    fcntl.flock(file, kind)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
