"""Finding mechanisms, adversaries and experiments by name."""

from collections.abc import Mapping
from importlib import import_module, metadata
from pkgutil import iter_modules
from typing import Any

from stretto import config
from stretto.errors import ConfigError


def names(kind: str) -> tuple[str, ...]:
    """Of all plug-ins of a kind, such as ``mechanisms``: shipped ones and entry points."""
    package = import_module(f"stretto.commons.{kind}")
    shipped = [module.name for module in iter_modules(package.__path__)]
    return tuple(sorted({*shipped, *(p.name for p in metadata.entry_points(group=_group(kind)))}))


def found(kind: str, name: str, settings: Mapping[str, Any]) -> Any:
    """A plug-in, made with its settings.

    Raises:
        ConfigError: there is none of that name, or a setting is wrong.
    """
    points = [p for p in metadata.entry_points(group=_group(kind)) if p.name == name]
    package = import_module(f"stretto.commons.{kind}")
    if name in {module.name for module in iter_modules(package.__path__)}:
        made = import_module(f"stretto.commons.{kind}.{name}").Plugin
    elif points:
        made = points[0].load()
    else:
        raise ConfigError(f"{kind}: there is no {name!r}; there are {', '.join(names(kind))}")
    try:
        return made(config.load(made.Settings, dict(settings or {})))
    except ConfigError as error:
        raise ConfigError(f"{kind}.{name}: {error}") from None


def _group(kind: str) -> str:
    return f"stretto.{kind}"
