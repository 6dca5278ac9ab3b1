"""What is installed: the wheel holds everything, the metadata and the pins agree with the code."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOLDERS = {
    "moalign": ROOT / "moalign",
    "moalign_plugins": ROOT / "plugins" / "moalign_plugins",
    "moalign_studies": ROOT / "studies",
}


def requirements(*extras: str) -> dict[str, Requirement]:
    """The direct dependencies and those of `extras`, by canonical name, without moalign itself."""
    lines = [*PROJECT["dependencies"]]
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    found = {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}
    found.pop("moalign", None)
    return found


def constraints() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    names = {canonicalize_name(pin.name): pin for pin in pins}
    assert len(names) == len(pins), "a package is pinned twice"
    return names


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, so that nothing is left in the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    others = ("*.egg-info", "__pycache__", "benchmarks", "build", "dist", "runs", "tests")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(".*", *others))
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--quiet", "--wheel-dir", folder]
    command = [sys.executable, "-m", "pip", "wheel", *options, folder / "source"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def info(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"moalign-{PROJECT['version']}.dist-info/{name}").decode()


@pytest.mark.parametrize("package", FOLDERS)
def test_wheel_holds_every_source_and_data_file(package: str, members: set[str]) -> None:
    """A data file that no pattern of setup.py matches would be missing only after installation."""
    folder = FOLDERS[package]
    expected = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    assert f"{package}/__init__.py" in expected
    assert {name for name in members if name.split("/")[0] == package} == expected


def test_wheel_holds_nothing_else(members: set[str]) -> None:
    tops = {name.split("/")[0] for name in members}
    assert tops == {*FOLDERS, f"moalign-{PROJECT['version']}.dist-info"}


def test_wheel_is_typed_and_licensed(wheel: Path, members: set[str]) -> None:
    assert {"moalign/py.typed", "moalign_plugins/py.typed"} <= members
    licence = info(wheel, "licenses/LICENSE")
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    metadata: Message = Parser().parsestr(info(wheel, "METADATA"))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"


def test_wheel_offers_the_command_and_the_plugins(wheel: Path) -> None:
    entries = configparser.ConfigParser()
    entries.read_string(info(wheel, "entry_points.txt"))
    assert {section: dict(entries[section]) for section in entries.sections()} == {
        "console_scripts": {"moalign": "moalign.cli:main"},
        "moalign": {"moalign_plugins": "moalign_plugins"},
    }


def test_every_requirement_is_bounded_below_and_pinned_within_its_bound() -> None:
    pins = constraints()
    for name, requirement in requirements("lora", "data", "bench", "ray", "test").items():
        (pin,) = pins[name].specifier
        assert pin.operator == "==", f"{name} is not pinned to one version"
        assert requirement.specifier.contains(pin.version), f"{name}=={pin.version} is not allowed"
        if name in requirements():
            assert [bound.operator for bound in requirement.specifier] == [">="], name


def test_pins_fit_every_platform() -> None:
    for name, pin in constraints().items():
        assert "+" not in str(pin.specifier), f"{pin}: a local version exists in one index only"
        assert not name.startswith(("nvidia-", "triton", "cuda-")), f"{pin}: torch chooses these"


def test_every_dependency_says_why_its_bound() -> None:
    block = re.search(
        r"^dependencies = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S
    )
    assert block is not None
    lines = block[1].splitlines()
    assert len(lines) == len(PROJECT["dependencies"])
    assert [line for line in lines if not re.search(r'",\s+# \S', line)] == []


def test_everything_imported_is_declared() -> None:
    """An import that works only because another package brings it in breaks without warning."""
    # pytest: the contract suites run under it, in the tests of whoever writes a plugin.
    declared = {*requirements("lora", "data", "ray"), "moalign", "pytest"}
    distributions = packages_distributions()
    undeclared = {}
    for path in [*FOLDERS["moalign"].rglob("*.py"), *FOLDERS["moalign_plugins"].rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for top in {name.split(".")[0] for name in names} - sys.stdlib_module_names:
                owners = {canonicalize_name(owner) for owner in distributions.get(top, [top])}
                if top not in FOLDERS and not owners & declared:
                    undeclared[top] = path.relative_to(ROOT).as_posix()
    assert undeclared == {}


def test_make_without_a_new_enough_python_says_so(tmp_path: Path) -> None:
    make = shutil.which("make")
    assert make is not None
    for name in ("Makefile", "pyproject.toml", "setup.py", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "bin" / "python3"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    environment = {**os.environ, "PATH": str(old.parent)}
    environment.pop("PYTHON", None)
    command = [make, "-C", tmp_path, "pareto"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "moalign needs Python 3.11 or newer, and none is on the PATH." in done.stderr
    assert not (tmp_path / ".venv").exists()
