"""Maps the three source roots into one distribution; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

# import name: (folder, data files that the code reads at run time or that a licence demands)
ROOTS = {
    "moalign": ("moalign", ["py.typed"]),
    "moalign_plugins": (
        "plugins/moalign_plugins",
        ["py.typed", "**/*.jsonl.gz", "**/README.md", "**/NOTICE*", "**/LICENSE*"],
    ),
    "moalign_studies": ("studies", ["**/*.yaml", "**/README.md"]),
}


def subpackages(name: str, folder: str) -> list[str]:
    """`name` and the import names of the packages below `folder`."""
    return [name, *(f"{name}.{found}" for found in find_packages(folder))]


setup(
    packages=[p for name, (folder, _) in ROOTS.items() for p in subpackages(name, folder)],
    package_dir={name: folder for name, (folder, _) in ROOTS.items()},
    package_data={name: patterns for name, (_, patterns) in ROOTS.items()},
)
