"""The plugin host: finds plugins, checks them, and builds components from names and options."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

import pluggy

from moalign import hookspecs
from moalign.components import KINDS, Component
from moalign.errors import OptionError, PluginError, nearest, one
from moalign.options import check_class, construct

C = TypeVar("C", bound=Component)

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
"""What a component may be called: kebab-case."""

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

    @property
    def summary(self) -> str:
        """The first sentence of its documentation."""
        paragraph = " ".join((inspect.getdoc(self.cls) or "").partition("\n\n")[0].split())
        return re.split(r"(?<=[.!?])\s(?=[A-Z])", paragraph, maxsplit=1)[0]


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
            known = nearest(name, self.names(kind))
            raise OptionError(
                f"no {kind} is called {name!r}; {known}; one of your own needs --plugin FILE"
            )
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
        if isinstance(name, str):
            raise OptionError(
                f"the options of {kind} {name} are a mapping, {{{name}: {{option: value}}}}; "
                f"found {options!r}"
            )
    raise OptionError(
        f"{one(kind)} is given as its name, or as {{name: {{option: value}}}}; found {value!r}"
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
        if manager.is_registered(plugin):
            continue  # two entry points name one module
        _register(manager, plugin, f"{point.name} ({origin})")
        origins[plugin] = origin
    loaded = []
    for path in dict.fromkeys(path.expanduser().resolve() for path in files):
        module, file = _import_file(path)
        _register(manager, module, f"file {path}")
        origins[module] = f"plugin file {path}"
        loaded.append(file)
    catalogue = Catalogue(manager, tuple(loaded))
    for plugin, origin in origins.items():
        for hook, kind in hookspecs.DISCOVER.items():
            for cls in _offered(manager, plugin, hook, kind):
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
    names = [name.strip() for name in wanted.split(",") if name.strip()]
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
    if not path.is_file() or path.suffix != ".py":
        raise PluginError(f"--plugin {path}: there is no Python file of this name")
    source = path.read_bytes()
    name = f"moalign_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # Not through the import system, which may run stale bytecode: the hash is of what ran.
        exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)
    except Exception as error:
        del sys.modules[name]
        raise PluginError(
            f"plugin file {path}{_line(error, path)} cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error
    return module, PluginFile(path, hashlib.sha256(source).hexdigest())


def _line(error: Exception, path: Path) -> str:
    """Return the last line of the file that led to an error; empty for a syntax error."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f", line {lines[-1]}," if lines else ""


def check_hooks(plugin: object, where: str) -> list[str]:
    """Check the hook implementations of a plugin: a module, or an object such as a tracker.

    Args:
        plugin: what would be registered.
        where: names it in messages.

    Returns:
        the names of the hooks that it implements.

    Raises:
        PluginError: a hook or one of its arguments is misspelt, or a hook is not marked.
    """
    known = (*hookspecs.DISCOVER, *hookspecs.ANNOUNCE)
    found = []
    for attribute in dir(plugin):
        member = inspect.getattr_static(plugin, attribute)
        member = getattr(member, "__func__", member)
        if not inspect.isfunction(member):
            continue
        marks = getattr(member, f"{hookspecs.GROUP}_impl", None)
        if marks is None and attribute.startswith("moalign_"):
            raise PluginError(
                f"{where}: {attribute} is not marked as a hook; put @moalign.hookimpl above it"
            )
        if marks is None:
            continue
        hook = marks["specname"] or attribute
        if hook not in known:
            if marks["optionalhook"]:
                continue
            raise PluginError(f"{where}: no hook is called {hook!r}; {nearest(hook, known)}")
        allowed = inspect.signature(getattr(hookspecs, hook)).parameters
        for argument in pluggy.HookImpl(plugin, where, getattr(plugin, attribute), marks).argnames:
            if argument not in allowed:
                raise PluginError(
                    f"{where}: hook {hook} has no argument {argument!r}; "
                    f"{nearest(argument, allowed)}"
                )
        found.append(hook)
    return found


def _register(manager: pluggy.PluginManager, plugin: object, name: str) -> None:
    if not check_hooks(plugin, f"plugin {name}"):
        raise PluginError(
            f"plugin {name} offers nothing: it defines no hook. Add for example a function "
            "moalign_weightings, marked @moalign.hookimpl, that returns a list of classes"
        )
    manager.register(plugin, name=name)


def _offered(
    manager: pluggy.PluginManager, plugin: object, hook: str, kind: str
) -> list[type[Component]]:
    where = f"plugin {manager.get_name(plugin)}: {hook}"
    others = [other for other in manager.get_plugins() if other is not plugin]
    caller = manager.subset_hook_caller(hook, others)
    if not any(impl.plugin is plugin for impl in caller.get_hookimpls()):
        return []
    try:
        results = caller()
    except Exception as error:
        raise PluginError(f"{where} raised {type(error).__name__}: {error}") from error
    offered = results[0] if results else None  # pluggy drops a None
    if not isinstance(offered, list):
        raise PluginError(f"{where} must return a list of classes; found {offered!r}")
    base = _BASES[kind]
    for cls in offered:
        if not (isinstance(cls, type) and issubclass(cls, base)):
            function = kind == "reward" and inspect.isfunction(cls)
            hint = "; put @moalign.reward(range=(0, 1)) above it" if function else ""
            raise PluginError(
                f"{where} must return subclasses of moalign.{base.__name__}; found {cls!r}{hint}"
            )
    return offered


def _check_class(entry: Entry) -> None:
    cls = entry.cls
    base = next(base for base in KINDS if issubclass(cls, base))
    where = f"{base.kind} class {cls.__module__}.{cls.__qualname__} ({entry.origin})"
    if cls.kind != base.kind:
        raise PluginError(
            f"{where}: `kind` is what moalign calls this kind of component, {base.kind!r}; give "
            "your own attribute another name"
        )
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise PluginError(
            f"{where}: `name` must be kebab-case, such as 'my-{cls.kind}'; found {name!r}"
        )
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise PluginError(f"{where}: these methods are missing: {missing}")
    own = cls.__doc__ if "__doc__" in vars(cls) else None
    if not own or not own.strip():
        raise PluginError(f"{where}: it has no docstring; the docstring is its documentation page")
    check_class(cls)
