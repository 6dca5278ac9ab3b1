"""The plugin host: finds plugins, checks them, and builds components from names and options."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

import pluggy

from moalign import hookspecs
from moalign.components import KINDS, Component
from moalign.errors import OptionError, PluginError, nearest
from moalign.options import construct, options_of

C = TypeVar("C", bound=Component)

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_BASES: Mapping[str, type[Component]] = {base.kind: base for base in KINDS}


@dataclass(frozen=True, slots=True)
class Entry:
    """A component in the catalogue and where it came from.

    Attributes:
        cls: the component class.
        origin: distribution and version, or the plugin file.
    """

    cls: type[Component]
    origin: str


@dataclass(frozen=True, slots=True)
class PluginFile:
    """A plugin given by ``--plugin``: its path and what it held when it was loaded."""

    path: Path
    sha256: str


class Catalogue:
    """All components by kind and name.

    Attributes:
        manager: the pluggy manager; announce hooks of plugins are called through it.
        files: plugin files that were loaded.
    """

    def __init__(self, manager: pluggy.PluginManager, files: tuple[PluginFile, ...]) -> None:
        self.manager = manager
        self.files = files
        self._entries: dict[tuple[str, str], Entry] = {}

    def add(self, entry: Entry) -> None:
        """Add a component.

        Raises:
            PluginError: if the class breaks the rules of DESIGN 4, or if its name is taken.
        """
        cls = entry.cls
        _check_class(entry)
        taken = self._entries.get((cls.kind, cls.name))
        if taken is not None and taken.cls is not cls:
            raise PluginError(
                f"two plugins offer the {cls.kind} {cls.name!r}: {taken.cls.__module__} "
                f"({taken.origin}) and {cls.__module__} ({entry.origin}); rename one, or load only "
                "one of them with MOALIGN_PLUGINS"
            )
        self._entries[cls.kind, cls.name] = entry

    def entries(self, kind: str | None = None) -> Iterator[Entry]:
        """Yield all entries, or those of one kind, sorted by kind and name."""
        order = {base.kind: index for index, base in enumerate(KINDS)}
        for key in sorted(self._entries, key=lambda k: (order[k[0]], k[1])):
            if kind is None or key[0] == kind:
                yield self._entries[key]

    def names(self, kind: str) -> list[str]:
        """Return the names of one kind."""
        return [entry.cls.name for entry in self.entries(kind)]

    def find(self, kind: str, name: str) -> type[Component]:
        """Return a component class.

        Raises:
            OptionError: unknown name, with the nearest match.
        """
        entry = self._entries.get((kind, name))
        if entry is None:
            raise OptionError(f"no {kind} is called {name!r}; {nearest(name, self.names(kind))}")
        return entry.cls

    def origin(self, kind: str, name: str) -> str:
        """Return where a component came from."""
        return self._entries[kind, name].origin

    def build(self, base: type[C], value: Any) -> C:
        """Build a component from what a study says.

        Args:
            base: base class of the kind.
            value: a name, ``{name: {option: value}}``, or ``{name: null}``.

        Raises:
            OptionError: malformed value, unknown name, bad options.
        """
        name, options = split_reference(base.kind, value)
        cls = self.find(base.kind, name)
        return cast("C", construct(cls, options, self.build))


def split_reference(kind: str, value: Any) -> tuple[str, dict[str, Any]]:
    """Split what a study says about a component into its name and options.

    Raises:
        OptionError: if it is neither a name nor a mapping with one name.
    """
    if isinstance(value, str):
        return value, {}
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, options),) = value.items()
        if isinstance(name, str) and (options is None or isinstance(options, Mapping)):
            return name, dict(options or {})
    raise OptionError(
        f"a {kind} is given as its name, or as {{name: {{option: value}}}}; found {value!r}"
    )


def load(files: Iterable[Path] = ()) -> Catalogue:
    """Load all installed plugins and the given plugin files into a fresh catalogue.

    Installed plugins are those of the entry-point group ``moalign``. ``MOALIGN_PLUGINS=a,b``
    restricts them to these entry-point names, for debugging; ``MOALIGN_TRACE_HOOKS=1`` prints
    every hook call to standard error.

    Raises:
        PluginError: a plugin cannot be imported, misspells a hook, or offers a bad component.
    """
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    if os.environ.get("MOALIGN_TRACE_HOOKS"):
        manager.trace.root.setwriter(lambda text: print(text, end="", file=sys.stderr))
        manager.enable_tracing()
    origins: dict[object, str] = {}
    for point in _entry_points():
        plugin, origin = _import_entry_point(point)
        _register(manager, plugin, f"{point.name} ({origin})", origin)
        origins[plugin] = origin
    loaded = []
    for path in files:
        module, record = _import_file(path)
        if any(record.path == other.path for other in loaded):
            continue
        _register(manager, module, str(record.path), f"plugin file {path}")
        origins[module] = f"plugin file {path}"
        loaded.append(record)
    _check_pending(manager, origins)
    catalogue = Catalogue(manager, tuple(loaded))
    for hook, kind in hookspecs.DISCOVER.items():
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            origin = origins[implementation.plugin]
            for cls in _offered(implementation, hook, kind, origin):
                catalogue.add(Entry(cls, origin))
    return catalogue


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    points = sorted(
        importlib.metadata.entry_points(group=hookspecs.GROUP), key=lambda point: point.name
    )
    unique = {(point.name, point.value): point for point in points}
    wanted = os.environ.get("MOALIGN_PLUGINS")
    if wanted is None:
        return list(unique.values())
    names = [name for name in wanted.split(",") if name]
    known = {point.name for point in points}
    for name in names:
        if name not in known:
            raise PluginError(
                f"MOALIGN_PLUGINS names {name!r}, but no installed plugin is called so; "
                f"{nearest(name, known)}"
            )
    return [point for point in unique.values() if point.name in names]


def _import_entry_point(point: importlib.metadata.EntryPoint) -> tuple[object, str]:
    dist = point.dist
    origin = f"{dist.name} {dist.version}" if dist is not None else "unknown distribution"
    try:
        return point.load(), origin
    except Exception as error:
        raise PluginError(
            f"plugin {point.name!r} of {origin} cannot be imported: {type(error).__name__}: "
            f"{error}; repair or uninstall it, or leave it out with MOALIGN_PLUGINS"
        ) from error


def _import_file(path: Path) -> tuple[ModuleType, PluginFile]:
    path = path.expanduser().resolve()
    if not path.is_file() or path.suffix != ".py":
        raise PluginError(f"--plugin {path}: there is no Python file of this name")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    name = f"moalign_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise PluginError(
            f"plugin file {path} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not any(callable(getattr(module, hook, None)) for hook in _hook_names()):
        _refuse_file_without_hooks(path, module)
    return module, PluginFile(path, digest)


def _hook_names() -> tuple[str, ...]:
    return (*hookspecs.DISCOVER, *hookspecs.ANNOUNCE)


def _refuse_file_without_hooks(path: Path, module: ModuleType) -> None:
    marked = [name for name in vars(module) if name.startswith("moalign_")]
    if marked:
        return  # a misspelt hook: check_pending says so, with the nearest name
    raise PluginError(
        f"plugin file {path} offers nothing: it defines no hook. Add for example a function "
        "marked @hookimpl, called moalign_weightings, that returns a list of classes"
    )


def _register(manager: pluggy.PluginManager, plugin: object, name: str, origin: str) -> None:
    for attribute in vars(plugin) if isinstance(plugin, ModuleType) else dir(plugin):
        member = getattr(plugin, attribute, None)
        if attribute in _hook_names() and inspect.isfunction(member):
            marked = getattr(member, f"{hookspecs.GROUP}_impl", None)
            if marked is None:
                raise PluginError(
                    f"plugin {name}: {attribute} is not marked; put @moalign.hookimpl above it"
                )
    try:
        manager.register(plugin, name=name)
    except pluggy.PluginValidationError as error:
        raise PluginError(f"plugin of {origin}: {error}") from error


def _check_pending(manager: pluggy.PluginManager, origins: Mapping[object, str]) -> None:
    for plugin in manager.get_plugins():
        for caller in manager.get_hookcallers(plugin) or ():
            if not caller.has_spec():
                raise PluginError(
                    f"plugin of {origins[plugin]}: no hook is called {caller.name!r}; "
                    f"{nearest(caller.name, _hook_names())}"
                )


def _offered(
    implementation: pluggy.HookImpl, hook: str, kind: str, origin: str
) -> list[type[Component]]:
    where = f"plugin of {origin}: {hook}"
    try:
        offered = implementation.function()
    except Exception as error:
        raise PluginError(f"{where} raised {type(error).__name__}: {error}") from error
    if not isinstance(offered, list):
        raise PluginError(f"{where} must return a list of classes; found {offered!r}")
    base = _BASES[kind]
    for cls in offered:
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise PluginError(
                f"{where} must return subclasses of moalign.{base.__name__}; found {cls!r}"
            )
    return offered


def _check_class(entry: Entry) -> None:
    cls = entry.cls
    where = f"{cls.kind} class {cls.__module__}.{cls.__qualname__} ({entry.origin})"
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PluginError(
            f"{where}: `name` must be kebab-case, such as 'my-{cls.kind}'; found {name!r}"
        )
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise PluginError(f"{where}: these methods are missing: {missing}")
    own = cls.__doc__ if "__doc__" in vars(cls) else None
    if not own or not own.strip():
        raise PluginError(f"{where}: it has no docstring; the docstring is its documentation page")
    options_of(cls)
