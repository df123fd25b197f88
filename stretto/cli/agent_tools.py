"""Tools from a module or a file that the command line names."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from stretto.agents.registry import Registry
from stretto.agents.tool import Tool
from stretto.errors import InputError, StrettoError


def registry_of(sources: Sequence[str]) -> Registry:
    """A registry of every tool in some modules.

    Args:
        sources: names of modules, as ``import`` takes them, or paths of Python files.

    Raises:
        InputError: one cannot be loaded, or holds no tool.
        ConfigError: two tools have one name.
    """
    registry = Registry()
    for source in sources:
        module = _load(source)
        found = [value for value in vars(module).values() if isinstance(value, Tool)]
        if not found:
            raise InputError(f"{source}: no tools; mark functions with @tool (stretto.agents.tool)")
        for each in dict.fromkeys(found):  # one tool may have two names in its module
            registry.add(each)
    return registry


def _load(source: str) -> ModuleType:
    path = Path(source)
    is_file = path.suffix == ".py" or "/" in source
    if is_file and not path.is_file():
        raise InputError(f"{source}: no such file")
    # As a script's own folder, so that a file finds those beside it.
    folder = str(path.resolve().parent if is_file else Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        if not is_file:
            return importlib.import_module(source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module  # type hints are looked up there
        spec.loader.exec_module(module)
        return module
    except StrettoError:
        raise
    except Exception as error:  # somebody's module may raise anything
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{source}: cannot be loaded ({told})") from None
