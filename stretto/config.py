"""YAML or a mapping -> a frozen dataclass; every mistake names its place.

A config is a plain dataclass, nested as needed; bounds are pydantic annotations, as in
``learning_rate: Annotated[float, Field(gt=0)] = 1e-4``.
"""

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import yaml

from stretto.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


def load(
    cls: type[T],
    source: Mapping[str, Any] | str | Path,
    overrides: Mapping[str, Any] | Iterable[str] = (),
) -> T:
    """A ``cls`` made from a mapping or a YAML file.

    Args:
        cls: a dataclass.
        source: the values, or the path of a YAML file that holds them.
        overrides: dotted keys that replace values of ``source``: a mapping
            ``{"optimiser.learning_rate": 1e-4}``, or texts ``"optimiser.learning_rate=1e-4"`` whose
            value is read as YAML (as a command line gives them).

    Raises:
        ConfigError: the file cannot be read, a key is unknown, missing or given twice, a value is
            of the wrong type or out of range.
    """
    from pydantic import ValidationError

    if isinstance(source, Mapping):
        where, raw = cls.__name__, deepcopy(dict(source))
    else:
        where, raw = Path(source).name, read(Path(source))
    for key, value in _parsed(overrides).items():
        _set(raw, key, value, where)
    _refuse_unknown(cls, raw, f"{where}: ")
    try:
        return _adapter(cls).validate_python(raw)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_one_line(error)}") from None
    except ConfigError as error:  # from a __post_init__
        raise ConfigError(f"{where}: {error}") from None


@dataclass(frozen=True)
class Recipes(Generic[T]):
    """YAML files of one kind that ship with stretto; users may give files of their own.

    Attributes:
        cls: a dataclass, which each file fills.
        kind: as users call it: ``training``, ``data``.
        folder: where they are, as package and path.
    """

    cls: type[T]
    kind: str
    folder: tuple[str, str]

    def names(self) -> list[str]:
        """Names of those that ship."""
        return sorted(Path(entry.name).stem for entry in self._shipped().iterdir())

    def load(self, name_or_path: str, overrides: Mapping[str, Any] | Iterable[str] = ()) -> T:
        """One that ships by name, or a YAML file.

        Raises:
            ConfigError: there is none, or it has an unknown key or a bad value.
        """
        path = Path(name_or_path)
        if path.suffix not in (".yaml", ".yml"):
            if name_or_path not in self.names():
                raise ConfigError(
                    f"no {self.kind} recipe {name_or_path!r}; choose from "
                    f"{', '.join(self.names())}, or give a .yaml file"
                )
            path = Path(str(self._shipped() / f"{name_or_path}.yaml"))
        return load(self.cls, path, overrides=overrides)

    def _shipped(self) -> Traversable:
        package, path = self.folder
        return files(package) / path


def dump(config: Any) -> dict[str, Any]:
    """The values of a config as plain numbers, texts, lists and dicts: fit for YAML and JSON."""
    return _adapter(type(config)).dump_python(config, mode="json")


@cache
def _adapter(cls: type[T]) -> "TypeAdapter[T]":
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which would take the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise ConfigError(f"line {line}: {key} is given twice; keep one")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read(path: Path) -> dict[str, Any]:
    """What a YAML file holds.

    Raises:
        ConfigError: it cannot be read, or holds no mapping.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    except ConfigError as error:
        raise ConfigError(f"{path.name}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path.name}: not valid YAML: {' '.join(str(error).split())}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path.name}: holds a {type(raw).__name__}; expected 'key: value' lines")
    return raw


def _parsed(overrides: Mapping[str, Any] | Iterable[str]) -> dict[str, Any]:
    if isinstance(overrides, Mapping):
        return dict(overrides)
    parsed = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"override {text!r}: expected KEY=VALUE")
        try:
            parsed[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"override {text!r}: the value is not valid YAML") from None
    return parsed


def _set(raw: dict[str, Any], dotted: str, value: Any, where: str) -> None:
    *parents, last = dotted.split(".")
    at = raw
    for parent in parents:
        at = at.setdefault(parent, {})
        if not isinstance(at, dict):
            raise ConfigError(f"{where}: {dotted}: {parent} is a value, not a group of keys")
    at[last] = value


def _refuse_unknown(kind: Any, raw: Any, path: str) -> None:
    """Walk the types along the values; pydantic alone would drop unknown keys of a dataclass."""
    if is_dataclass(kind) and isinstance(raw, Mapping):
        hints = typing.get_type_hints(kind)
        names = [field.name for field in fields(kind) if field.init]
        for key, value in raw.items():
            if key not in names:
                raise ConfigError(f"{path}{key}: unknown key, {_hint(str(key), names)}")
            _refuse_unknown(hints[key], value, f"{path}{key}.")
    elif typing.get_origin(kind) in (typing.Union, types.UnionType):
        _refuse_unknown_in_all(typing.get_args(kind), raw, path)
    elif isinstance(raw, Mapping) and len(typing.get_args(kind)) == 2:
        for key, value in raw.items():
            _refuse_unknown(typing.get_args(kind)[1], value, f"{path}{key}.")
    elif isinstance(raw, list | tuple) and typing.get_args(kind):
        for index, value in enumerate(raw):
            _refuse_unknown(typing.get_args(kind)[0], value, f"{path}{index}.")


def _refuse_unknown_in_all(kinds: tuple[Any, ...], raw: Any, path: str) -> None:
    """Raise what the last of ``kinds`` raises, unless one of the dataclasses among them fits."""
    failure: ConfigError | None = None
    for kind in (kind for kind in kinds if kind is not type(None)):
        try:
            _refuse_unknown(kind, raw, path)
        except ConfigError as error:
            failure = error
        else:
            return
    if failure is not None:
        raise failure


def _hint(key: str, names: list[str]) -> str:
    close = difflib.get_close_matches(key, names, n=1)
    return f"did you mean {close[0]}?" if close else f"choose from {', '.join(names)}"


def _one_line(error: "ValidationError") -> str:
    """The first mistake, with its place and the value; how many more there are."""
    first, *more = error.errors(include_url=False)
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"][:1].lower() + first["msg"][1:]
    given = "" if first["type"] == "missing" else f", not {first['input']!r}"
    rest = f" (and {len(more)} more)" if more else ""
    return f"{place}: {message}{given}{rest}"
