"""JSON: the types of what is in it, then the values, as large pieces as fit."""

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

from stretto.agents.perception.elements import Field, Keys, Number, Slice, Value
from stretto.agents.perception.source import Live, fits, is_long
from stretto.errors import InputError

_MAX_DEPTH = 200
_MANY_KEYS = 50  # an object with more of them, all of one type, is taken for a mapping
_STEP = re.compile(r"\.?([A-Za-z_]\w*)|\[(\d+)\]|\[('(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\")\]")
_TYPES = {str: "str", int: "int", float: "float", bool: "bool", type(None): "None"}


class Node:
    """A place in the data, read as attributes and items: ``data.root.users[0].name``."""

    def __init__(self, value: Any, path: str = "") -> None:
        self.value, self.path = value, path

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, key: str | int) -> Any:
        try:
            found = self.value[key]
        except (KeyError, IndexError, TypeError):
            raise AttributeError(f"{self.path or 'the data'} has no {key!r}") from None
        path = join(self.path, key)
        return Node(found, path) if isinstance(found, dict | list) else found

    def __iter__(self) -> Iterator[Any]:
        keys = self.value if isinstance(self.value, dict) else range(len(self.value))
        return (self[key] for key in keys)

    def __len__(self) -> int:
        return len(self.value)

    def __repr__(self) -> str:
        return f"Node({self.path!r}, {type(self.value).__name__} of {len(self.value)})"


class LiveData(Live):
    """JSON that was read.

    Args:
        value: of JSON's types.

    Raises:
        InputError: another type is in it, or it is nested too deeply.
    """

    kind = "Data"

    def __init__(self, value: Any) -> None:
        _check(value)
        self.value = value

    @classmethod
    def parse(cls, text: str) -> "LiveData":
        """From text.

        Raises:
            InputError: it is no JSON; the line says where.
        """
        try:
            return cls(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise InputError(f"data: it is no JSON: {error}") from None

    def __stretto_summary__(self) -> str:
        size = f" of {len(self.value)}" if isinstance(self.value, dict | list) else ""
        return f"{_name(self.value)}{size}"

    @property
    def root(self) -> Any:
        """The data as attributes and items."""
        return Node(self.value) if isinstance(self.value, dict | list) else self.value

    def items(self, room: int) -> Iterator[Any]:
        """Types first, then values."""
        types: dict[str, set[str]] = {}
        _types(self.value, "", types)
        for path, names in types.items():
            yield Field(path, " | ".join(sorted(names, key=lambda name: (name == "None", name))))
        yield from _values(self.value, "", room // 2)

    def get(self, path: str = "") -> Any:
        """The value at a path such as ``users[0].name`` or ``['odd key'][3]``.

        Raises:
            InputError: there is none.
        """
        value, at = self.value, 0
        while at < len(path):
            step = _STEP.match(path, at)
            if step is None:
                raise InputError(f"data: path {path!r} cannot be read from {path[at:]!r} on; write "
                                 "users[0].name, or ['odd key']")  # fmt: skip
            key: Any = int(step[2]) if step[2] else step[1] or ast.literal_eval(step[3])
            fitting = isinstance(value, list) if step[2] else isinstance(value, dict)
            try:
                if not fitting:
                    raise KeyError(key)
                value = value[key]
            except (KeyError, IndexError):
                where = repr(path[:at]) if at else "the data"
                raise InputError(f"data: there is nothing at {path[: step.end()]!r}; {where} is "
                                 f"{_known(value)}") from None  # fmt: skip
            at = step.end()
        return value

    def keys(self, path: str = "") -> list[str]:
        """Keys of the object at a path; none if it is no object."""
        value = self.get(path)
        return list(value) if isinstance(value, dict) else []

    def length(self, path: str = "") -> int:
        """How many values a list or object holds, or characters a text; 0 for others."""
        value = self.get(path)
        return len(value) if isinstance(value, dict | list | str) else 0


def join(path: str, key: str | int) -> str:
    """The path of what is at ``key`` of what is at ``path``."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    if re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII):
        return f"{path}.{key}" if path else key
    return f"{path}[{key!r}]"


def _values(value: Any, path: str, room: int) -> Iterator[Any]:
    """A value whole if it fits, else in runs of what does, and one by one what does not."""
    if fits(value, room):
        yield Value(path, value)
    elif isinstance(value, list):
        for run, whole in _runs(list(enumerate(value)), room):
            if whole:
                yield Slice(path, run[0][0], [item for _, item in run])
            else:
                yield from _values(run[0][1], join(path, run[0][0]), room)
    elif isinstance(value, dict):
        for run, whole in _runs(list(value.items()), room):
            if whole:
                yield Keys(path, dict(run))
            else:
                yield from _values(run[0][1], join(path, run[0][0]), room)
    elif is_long(value):
        yield Number(path, str(value))
    else:
        yield Value(path, value)  # a text, which is cut as it is shown


def _runs(pairs: list[tuple[Any, Any]], room: int) -> Iterator[tuple[list[tuple[Any, Any]], bool]]:
    """Runs of pairs that fit together, and, with False, each pair that does not fit alone."""
    run: list[tuple[Any, Any]] = []
    used = 2
    for key, value in pairs:
        lone = {key: value} if isinstance(key, str) else [value]
        size = next((n for n in (64, 256, 1024, room) if n <= room and fits(lone, n)), None)
        if run and (size is None or used + size > room):
            yield run, True
            run, used = [], 2
        if size is None:
            yield [(key, value)], False
        else:
            run.append((key, value))
            used += size
    if run:
        yield run, True


def _types(value: Any, path: str, found: dict[str, set[str]]) -> None:
    found.setdefault(path, set()).add(_name(value))
    if isinstance(value, list):
        for item in value:
            _types(item, f"{path}[]", found)
    elif isinstance(value, dict):
        is_mapping = len(value) > _MANY_KEYS and len({_name(item) for item in value.values()}) == 1
        for key, item in value.items():
            _types(item, f"{path}{{}}" if is_mapping else join(path, key), found)


def _name(value: Any) -> str:
    return _TYPES.get(type(value), type(value).__name__)


def _known(value: Any) -> str:
    if isinstance(value, dict):
        return f"an object with {', '.join(map(repr, list(value)[:20])) or 'no keys'}"
    return f"a list of {len(value)}" if isinstance(value, list) else f"a {_name(value)}"


def _check(value: Any) -> None:
    stack = [(value, 0)]
    while stack:
        each, depth = stack.pop()
        if depth > _MAX_DEPTH:
            raise InputError(f"data: it is nested more than {_MAX_DEPTH} deep")
        if isinstance(each, dict):
            if not all(type(key) is str for key in each):
                raise InputError("data: an object has a key that is no text")
            stack += [(item, depth + 1) for item in each.values()]
        elif isinstance(each, list):
            stack += [(item, depth + 1) for item in each]
        elif type(each) not in _TYPES:
            raise InputError(f"data: a {type(each).__name__} is no JSON")
