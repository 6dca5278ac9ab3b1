"""How the rate of several workers is counted."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def executors(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)  # a script finds its neighbours
    spec = importlib.util.spec_from_file_location("executors", FOLDER / "executors.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "executors", module)
    spec.loader.exec_module(module)
    return module


def test_rates_of_workers_are_added_up_while_all_are_busy(executors: ModuleType) -> None:
    clock = executors.Clock(None)
    # Worker 1 needs 10 s for a trial, worker 2 needs 20 s; the last one ends alone.
    ends = [(1, 10), (1, 20), (2, 25), (1, 30), (1, 40), (2, 45), (1, 50), (2, 53)]
    clock.told = [(worker, float(end), 0.1 * end, 0.2 * end) for worker, end in ends]
    arm = clock.arm(2)
    assert arm.hourly == pytest.approx(3600 * (1 / 10 + 1 / 20))
    assert (arm.seconds, arm.trials) == (40.0, 5)
    assert (arm.driver, arm.others) == (pytest.approx(0.1), pytest.approx(0.2))
    clock.told = [row for row in clock.told if row[0] == 1 or row[1] == 25]
    with pytest.raises(SystemExit, match="ended too few trials"):
        clock.arm(2)


def test_a_ratio_is_of_arms_side_by_side(executors: ModuleType) -> None:
    gain, interval = executors.ratio([(100.0, 180.0), (50.0, 100.0), (200.0, 360.0)])
    assert gain == pytest.approx((1.8 * 2.0 * 1.8) ** (1 / 3))
    low, high = map(float, interval.split(" to "))
    assert low < gain < high
    assert executors.ratio([(100.0, 190.0)]) == (pytest.approx(1.9), "?")


def test_studies_in_separate_processes_are_one_arm(executors: ModuleType) -> None:
    one, two = executors.Arm(100.0, 1.0, 0.0, 70.0, 6), executors.Arm(90.0, 0.9, 0.0, 80.0, 6)
    both = executors.together([one, two])
    assert (both.hourly, both.seconds, both.trials) == (190.0, 80.0, 12)
    assert executors.together([one]) == one
