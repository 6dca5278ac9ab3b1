"""The lines of the house: who may import whom, and that every study loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from moalign import plugins
from moalign.study import bundled
from moalign.study.loading import load

ROOT = Path(__file__).parent.parent
HOST, SHIPPED = ROOT / "moalign", ROOT / "plugins" / "moalign_plugins"

# A layer may import those before it. Modules that stand together may import each other.
LAYERS = (
    {"errors"},
    {"types"},
    {"components"},
    {"options", "functions"},
    {"hookspecs"},
    {"plugins"},
    {"study"},
    {"maths"},
    {"training"},
    {"execution"},
    {"search", "reporting"},
    {"store"},
    {"testing"},
    {"cli"},
    {"__main__"},
)
LEAVES = {
    "pareto": set(),
    "maths": {"types"},
    "tables": {"errors", "types"},
    "execution": {"errors", "types", "components"},
    "weightings": {"errors", "types", "components", "maths", "pareto"},
    "optimizers": {"errors", "types", "components", "maths"},
    "strategies": {"errors", "types", "components", "maths", "pareto"},
}
OPEN_TO_PLUGINS = {
    "pareto",
    "maths",
    "tables",
    "testing",
    "execution",
    "store",
    "weightings",
    "optimizers",
    "strategies",
}
LAZY = (
    "torch",
    "transformers",
    "mlflow",
    "optuna",
    "botorch",
    "matplotlib",
    "plotly",
    "datasets",
    "fsspec",
    "ray",
)


def imports(file: Path) -> Iterator[tuple[str, int]]:
    """Yield every module a file imports, wherever it does so, with its line."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module == "moalign":
                for alias in node.names:
                    yield f"moalign.{alias.name}", node.lineno
            yield node.module, node.lineno


def part(file: Path) -> str:
    """Return the layer of a host file: its module or package below ``moalign``."""
    relative = file.relative_to(HOST)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def host_files() -> list[Path]:
    return [f for f in sorted(HOST.rglob("*.py")) if f != HOST / "__init__.py"]


def plugin_files() -> list[Path]:
    return sorted(SHIPPED.rglob("*.py"))


def test_every_part_has_a_layer() -> None:
    known = set().union(*LAYERS) | set(LEAVES)
    parts = {part(file) for file in host_files()}
    assert parts <= known, parts - known
    assert len(host_files()) > 30


@pytest.mark.parametrize("file", host_files(), ids=lambda f: str(f.relative_to(ROOT)))
def test_the_host_imports_downwards_only(file: Path) -> None:
    mine = part(file)
    allowed: set[str] = set()
    if mine in LEAVES:
        allowed = LEAVES[mine] | {mine}
    else:
        for layer in LAYERS:
            allowed |= layer
            if mine in layer:
                break
        allowed |= set(LEAVES)
    parts = {"__version__"} | {p.stem for p in HOST.iterdir()}
    for module, line in imports(file):
        assert not module.startswith("moalign_plugins"), f"{file}:{line} imports {module}"
        names = module.split(".")
        if names[0] == "moalign" and len(names) > 1 and names[1] in parts - {"__version__"}:
            assert names[1] in allowed, f"{file}:{line}: {mine} imports {module}"


@pytest.mark.parametrize("file", plugin_files(), ids=lambda f: str(f.relative_to(SHIPPED)))
def test_plugins_import_the_host_only(file: Path) -> None:
    parts = {p.stem for p in HOST.iterdir()} - {"__init__"}
    for module, line in imports(file):
        assert not module.startswith("moalign_plugins"), f"{file}:{line} imports {module}"
        names = module.split(".")
        if names[0] == "moalign" and len(names) > 1 and names[1] in parts:
            public = {"errors", "types", "components", "hookspecs"}
            assert names[1] in OPEN_TO_PLUGINS | public, f"{file}:{line} imports {module}"


def code_lines(file: Path) -> int:
    """Return how many lines hold code: no blank ones, comments or docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [
        node.body[0]
        for node in ast.walk(tree)
        if isinstance(node, documented) and ast.get_docstring(node) is not None
    ]
    said = {n for text in texts for n in range(text.lineno, (text.end_lineno or 0) + 1)}
    lines = enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in said
        for number, line in lines
    )


def test_an_optimizer_is_its_loss_and_no_more() -> None:
    """A file with more code than this is a copy of what the host or a base class does."""
    files = [file for file in plugin_files() if file.parent.name == "optimizers"]
    assert len(files) > 25
    long = {file.name: lines for file in files if (lines := code_lines(file)) > 120}
    assert not long


def test_importing_the_catalogue_is_light() -> None:
    """No heavy library is imported by the host, the catalogue or the command line."""
    code = (
        "import sys, moalign.cli; from moalign import plugins, pareto; "
        "catalogue = plugins.load(); assert list(catalogue.entries()); "
        f"print([m for m in {LAZY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_bundled_study_loads() -> None:
    catalogue = plugins.load()
    names = bundled.names()
    assert bundled.DEFAULT in names
    assert len(names) == len(list((ROOT / "studies").glob("*/study.yaml"))) >= 3
    for name in names:
        text, source = bundled.read(name)
        study = load(text, source, catalogue)
        assert study.name == name
        assert (ROOT / "studies" / name / "README.md").is_file(), f"{name} has no README.md"
        assert bundled.title(name) != name
