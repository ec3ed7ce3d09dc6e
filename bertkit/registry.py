"""Discovery, isolation and look-up of components.

Built-ins answer first and their names are reserved. Plugins are imported only when a name is not
built in, when everything is listed, or when a run needs their observers; one at a time, so that a
broken one is a `Problem` and never an error of somebody else's run.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import Any

import pluggy

from bertkit import hooks
from bertkit.component import KINDS, Component
from bertkit.errors import AmbiguousComponentError, UnknownComponentError, suggest

DISABLE_VARIABLE = "BERTKIT_DISABLE_PLUGINS"


@dataclass(frozen=True)
class Origin:
    """Where a component comes from."""

    plugin: str
    """Name of the entry point."""
    distribution: str
    version: str


@dataclass(frozen=True)
class Registration:
    """One component class and its origin."""

    kind: str
    name: str
    cls: type[Component]
    origin: Origin

    @property
    def file(self) -> str:
        """The source file of the class, or its module's name."""
        try:
            return inspect.getfile(self.cls)
        except (OSError, TypeError):
            return self.cls.__module__


@dataclass(frozen=True)
class Problem:
    """A plugin, or a part of one, that could not be used."""

    origin: Origin
    reason: str

    def __str__(self) -> str:
        origin = self.origin
        return f"{origin.plugin} ({origin.distribution} {origin.version}): {self.reason}"


def base_class(kind: str) -> type[Component]:
    """Return the class that components of this kind derive from."""
    from bertkit.datasets.base import DatasetLoader
    from bertkit.encoders.base import Encoder
    from bertkit.heads.base import Head
    from bertkit.metrics.base import Metric
    from bertkit.trainers.base import Trainer

    bases = (DatasetLoader, Encoder, Head, Trainer, Metric)
    return {base.kind: base for base in bases}[kind]


def _entry_points() -> Iterable[metadata.EntryPoint]:
    return metadata.entry_points(group=hooks.PROJECT)


class Registry:
    """Built-in components and those of installed plugins.

    Args:
        plugins: False leaves every installed plugin alone.
        entry_points: where plugins come from; the installed ones by default.
    """

    def __init__(
        self,
        *,
        plugins: bool = True,
        entry_points: Callable[[], Iterable[metadata.EntryPoint]] = _entry_points,
    ) -> None:
        self.plugins = plugins
        self.problems: list[Problem] = []
        self._entry_points = entry_points
        self._found: dict[tuple[str, bool], list[Registration]] = {}

    @cached_property
    def disabled(self) -> tuple[str, ...]:
        """Plugins that `BERTKIT_DISABLE_PLUGINS` names."""
        names = os.environ.get(DISABLE_VARIABLE, "").split(",")
        return tuple(name.strip() for name in names if name.strip())

    @cached_property
    def _builtin_manager(self) -> pluggy.PluginManager:
        from bertkit import builtins

        manager = pluggy.PluginManager(hooks.PROJECT)
        manager.add_hookspecs(hooks)
        manager.register(builtins, name="bertkit")
        return manager

    @cached_property
    def manager(self) -> pluggy.PluginManager:
        """The plugins that load, by entry-point name."""
        manager = pluggy.PluginManager(hooks.PROJECT)
        manager.add_hookspecs(hooks)
        self._origins: dict[str, Origin] = {}
        for point in self._entry_points() if self.plugins else ():
            dist = point.dist
            name, version = (dist.name, dist.version) if dist else ("unknown", "0")
            origin = Origin(point.name, name, version)
            if {point.name, origin.distribution} & set(self.disabled):
                self.problems.append(Problem(origin, f"disabled by {DISABLE_VARIABLE}"))
                continue
            key = f"{point.name}@{name}"
            self._origins[key] = origin
            try:
                plugin = point.load()
                manager.register(plugin, name=key)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's code may raise anything
                self.problems.append(Problem(origin, _one_line(error)))
                continue
            self._report_unknown_hooks(plugin, manager, origin)
        return manager

    def _report_unknown_hooks(
        self, plugin: object, manager: pluggy.PluginManager, origin: Origin
    ) -> None:
        known = [name for name in vars(hooks) if name.startswith("bertkit_")]
        for name in dir(plugin):
            if name not in known and manager.parse_hookimpl_opts(plugin, name) is not None:
                self.problems.append(
                    Problem(origin, f"`{name}` is not a hook of bertkit.{suggest(name, known)}")
                )

    def _collect(self, kind: str, *, builtin: bool) -> list[Registration]:
        if (kind, builtin) in self._found:
            return self._found[kind, builtin]
        manager = self._builtin_manager if builtin else self.manager
        registrations: list[Registration] = []
        own = Origin("bertkit", "bertkit", _own_version())
        reserved = set() if builtin else {r.name for r in self._collect(kind, builtin=True)}
        for implementation in getattr(manager.hook, f"bertkit_{kind}s").get_hookimpls():
            origin = own if builtin else self._origins[implementation.plugin_name]
            try:
                classes = implementation.function()
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's code may raise anything
                self.problems.append(Problem(origin, f"bertkit_{kind}s raised {_one_line(error)}"))
                continue
            if not isinstance(classes, list):
                found = type(classes).__name__
                self.problems.append(
                    Problem(origin, f"bertkit_{kind}s returned {found}, not a list of classes")
                )
                continue
            for cls in classes:
                reason = _reject(kind, cls, reserved)
                if reason:
                    self.problems.append(Problem(origin, reason))
                else:
                    registrations.append(Registration(kind, cls.type_name(), cls, origin))
        self._found[kind, builtin] = registrations
        return registrations

    def find(self, kind: str, name: str) -> type[Component]:
        """Return the component class of that kind and name.

        Raises:
            UnknownComponentError: nobody provides it; the message says what is near and known.
            AmbiguousComponentError: two distributions provide it.
        """
        for registration in self._collect(kind, builtin=True):
            if registration.name == name:
                return registration.cls
        matches = [r for r in self._collect(kind, builtin=False) if r.name == name]
        if len(matches) == 1:
            return matches[0].cls
        if matches:
            raise AmbiguousComponentError(
                f"{kind} `{name}` is provided by "
                + " and by ".join(f"{r.origin.distribution} {r.origin.version}" for r in matches)
                + f"; uninstall one, or set {DISABLE_VARIABLE}={matches[0].origin.distribution}"
            )
        known = sorted({r.name for r in self.all(kind)})
        message = f"no {kind} is called `{name}`.{suggest(name, known)} Known: {', '.join(known)}."
        if self.problems:
            message += (
                " Plugins that could not be used: " + "; ".join(map(str, self.problems)) + "."
            )
        if not self.plugins:
            message += " Plugins are switched off (--no-plugins)."
        raise UnknownComponentError(message)

    def all(self, kind: str) -> list[Registration]:
        """Return every registration of a kind, the built-ins first."""
        return self._collect(kind, builtin=True) + self._collect(kind, builtin=False)

    def everything(self) -> list[Registration]:
        """Return every registration of every kind, and fill `problems`."""
        return [registration for kind in KINDS for registration in self.all(kind)]

    def clashes(self) -> list[str]:
        """Return a line for each name that two distributions provide."""
        seen: dict[tuple[str, str], list[Origin]] = {}
        for r in self.everything():
            seen.setdefault((r.kind, r.name), []).append(r.origin)
        return [
            f"{kind} `{name}` is provided by {' and by '.join(o.distribution for o in origins)}; "
            "a spec that names it is refused"
            for (kind, name), origins in seen.items()
            if len(origins) > 1
        ]

    def origin(self, component: Component) -> Origin:
        """Return where the class of a component comes from."""
        for registration in self._collect(component.kind, builtin=True):
            if registration.cls is type(component):
                return registration.origin
        for registration in self._collect(component.kind, builtin=False):
            if registration.cls is type(component):
                return registration.origin
        module = type(component).__module__
        return Origin(module, module.partition(".")[0], "not registered")

    def observe(self, hook: str, on_error: Callable[[str], None], **event: Any) -> None:
        """Call an observer hook on every plugin; what one raises goes to `on_error` only.

        Nothing is called in processes of a distributed run other than the first, rank 0.
        """
        if os.environ.get("RANK", "0") != "0":
            return
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            try:
                implementation.function(**{name: event[name] for name in implementation.argnames})
            except (Exception, SystemExit) as error:  # noqa: BLE001 - observers cannot alter a run
                name = implementation.plugin_name
                on_error(f"observer {name} raised in {hook} and was ignored: {_one_line(error)}")


def _reject(kind: str, cls: Any, reserved: set[str]) -> str | None:
    if not (isinstance(cls, type) and issubclass(cls, base_class(kind))):
        return f"bertkit_{kind}s returned {cls!r}, which is not a {base_class(kind).__name__} class"
    name = cls.model_fields["type"].default
    if not isinstance(name, str):
        return f'{cls.__name__} has no name: give it `type: Literal["name"] = "name"`'
    if name in reserved:
        return f"{kind} `{name}` is the name of a built-in; rename it"
    return None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _own_version() -> str:
    from bertkit import __version__

    return __version__


_current: Registry | None = None


def registry() -> Registry:
    """Return the registry of this process; plugins are discovered when first needed."""
    global _current
    if _current is None:
        _current = Registry()
    return _current


def use(new: Registry | None) -> None:
    """Replace the registry of this process: for `--no-plugins`, and for tests."""
    global _current
    _current = new
