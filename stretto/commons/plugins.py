"""Finding mechanisms, adversaries and experiments by name."""

import sys
from collections.abc import Mapping
from importlib import import_module, metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
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

    Args:
        kind: such as ``mechanisms``.
        name: shipped, or of an entry point, or the path of one's own file, ending in ``.py``.
        settings: of the plug-in.

    Raises:
        ConfigError: there is none of that name, it gives no ``Plugin``, or a setting is wrong.
    """
    if name.endswith(".py"):
        return _made(_own(Path(name)), f"{kind}: {name}", settings)
    points = [p for p in metadata.entry_points(group=_group(kind)) if p.name == name]
    package = import_module(f"stretto.commons.{kind}")
    if name in {module.name for module in iter_modules(package.__path__)}:
        made = import_module(f"stretto.commons.{kind}.{name}").Plugin
    elif points:
        made = points[0].load()
    else:
        raise ConfigError(f"{kind}: there is no {name!r}; there are {', '.join(names(kind))}")
    return _made(made, f"{kind}.{name}", settings)


def _own(path: Path) -> Any:
    """The ``Plugin`` of a file."""
    spec = spec_from_file_location(f"stretto_plugin_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    if not hasattr(module, "Plugin"):
        raise ConfigError(f"{path}: has no class Plugin")
    return module.Plugin


def _made(plugin: Any, where: str, settings: Mapping[str, Any]) -> Any:
    try:
        return plugin(config.load(plugin.Settings, dict(settings or {})))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _group(kind: str) -> str:
    return f"stretto.{kind}"
