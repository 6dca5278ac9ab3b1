"""Studies that come with moalign, and finding a study by path or name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from moalign.errors import StudyError, nearest

DEFAULT = "restaurants"
"""What bare ``moalign pareto`` runs."""

_PACKAGE = "moalign_studies"


def names() -> list[str]:
    """Return the names of the bundled studies."""
    root = resources.files(_PACKAGE)
    return sorted(f.name for f in root.iterdir() if (f / "study.yaml").is_file())


def read(name: str) -> tuple[str, str]:
    """Return the text of a study and its source for messages.

    Args:
        name: a path if it exists (a file, or a folder with ``study.yaml``), else a bundled name.

    Raises:
        StudyError: neither; or the file is not UTF-8.
    """
    path = Path(name)
    if path.is_dir():
        path = path / "study.yaml"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except UnicodeDecodeError as error:
            raise StudyError(f"{path}: a study is UTF-8 text; {error}") from None
    bundled = names()
    if name not in bundled:
        raise StudyError(
            f"{name!r} is neither a study file nor a bundled study; {nearest(name, bundled)}"
        )
    file = resources.files(_PACKAGE) / name / "study.yaml"
    return file.read_text(encoding="utf-8"), f"{name}/study.yaml"


def title(name: str) -> str:
    """Return the first heading of a bundled study's README, or the name."""
    readme = resources.files(_PACKAGE) / name / "README.md"
    if readme.is_file():
        for line in readme.read_text(encoding="utf-8").splitlines():
            if line.startswith("# "):
                return line[2:].strip()
    return name
