"""Everything in the catalogue has every property of its kind."""

from __future__ import annotations

from pathlib import Path

import pytest

import moalign_plugins
from moalign import hookspecs
from moalign.plugins import load
from moalign.testing import SUITES, Case, cases, properties

CATALOGUE = load()
CASES = list(cases(CATALOGUE))
FOLDERS = {kind: hook.removeprefix("moalign_") for hook, kind in hookspecs.DISCOVER.items()}


@pytest.fixture(autouse=True)
def one_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the tracker mlflow one database for all tests: making one takes it seconds."""
    folder = tmp_path_factory.getbasetemp()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")


@pytest.mark.parametrize(
    ("case", "name"),
    [
        pytest.param(case, name, id=f"{case.label}-{name}")
        for case in CASES
        for name in properties(case.cls.kind, case.cls)
    ],
)
def test_contract(case: Case, name: str) -> None:
    properties(case.cls.kind)[name](case.build)


@pytest.mark.parametrize("kind", SUITES)
def test_no_plugin_file_is_left_out(kind: str) -> None:
    folder = Path(moalign_plugins.__file__).parent / FOLDERS[kind]
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    swept = {case.cls.__module__.rpartition(".")[2] for case in CASES if case.cls.kind == kind}
    assert files <= swept
    assert files, f"there is no {kind} at all"


def test_every_component_with_a_suite_is_swept_and_counted() -> None:
    swept = {(case.cls.kind, case.cls.name) for case in CASES}
    assert swept == {(e.cls.kind, e.cls.name) for e in CATALOGUE.entries() if e.cls.kind in SUITES}
    assert len(swept) >= 22
    print(f"{len(swept)} components in {len(CASES)} cases")
