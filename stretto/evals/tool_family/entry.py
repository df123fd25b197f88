"""A tool, requests for it, and how a request is drawn.

A tool is an ordinary function whose result tells its arguments apart. A request is a template:
``{name}`` is a value, ``[ ... ]`` a part that is there only if its optional parameter is given.
Values are drawn as ``int LOW HIGH``, ``float LOW HIGH STEP``, ``of A|B|C``, ``person``, ``city``,
``date``, ``ints COUNT LOW HIGH`` or ``names COUNT``.
"""

import inspect
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean",
          list[int]: "array", list[str]: "array"}  # fmt: skip
_ITEMS = {list[int]: "integer", list[str]: "string"}
_OPTIONAL = re.compile(r"\[([^\[\]]*?\{(\w+)\}[^\[\]]*)\]")
GIVEN = 0.4
"""How often an optional parameter is spoken of."""


@dataclass(frozen=True)
class Pools:
    """Names that requests are made of; those of training and of the held-back slice differ."""

    persons: tuple[str, ...]
    cities: tuple[str, ...]
    year: int


@dataclass(frozen=True)
class Entry:
    """A tool, requests for it and how their values are drawn.

    Attributes:
        function: the tool.
        templates: requests.
        values: by parameter, how a value is drawn.
    """

    function: Callable[..., Any]
    templates: tuple[str, ...]
    values: dict[str, str]

    @property
    def name(self) -> str:
        """Of the function."""
        return self.function.__name__

    @property
    def source(self) -> str:
        """The function as text, without the decorator."""
        text = inspect.getsource(self.function)
        return text[text.index("\ndef ") + 1 :]

    @property
    def doc(self) -> str:
        """First line of its docstring."""
        return inspect.cleandoc(self.function.__doc__ or "").splitlines()[0]

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of its arguments; a parameter with a default may be left out."""
        lines = inspect.cleandoc(self.function.__doc__ or "").splitlines()[2:]
        words = dict(line.split(": ", 1) for line in lines)
        properties, needed = {}, []
        for name, parameter in inspect.signature(self.function).parameters.items():
            part: dict[str, Any] = {"type": _TYPES[parameter.annotation]}
            if parameter.annotation in _ITEMS:
                part["items"] = {"type": _ITEMS[parameter.annotation]}
            if self.values[name].startswith("of ") and parameter.annotation is str:
                default = () if parameter.default is parameter.empty else (parameter.default,)
                part["enum"] = [*self.values[name][3:].split("|"), *default]
            part["description"] = words[name]
            if parameter.default is inspect.Parameter.empty:
                needed.append(name)
            else:
                part["description"] += f" Default is {parameter.default}."
            properties[name] = part
        return {"type": "object", "properties": properties, "required": needed}

    def draw(self, rng: random.Random, pools: Pools) -> tuple[str, dict[str, Any]]:
        """A request, and the arguments it was made of."""
        template = rng.choice(self.templates)
        arguments, shown = {}, {}
        for name, parameter in inspect.signature(self.function).parameters.items():
            if parameter.default is not parameter.empty and rng.random() >= GIVEN:
                continue
            arguments[name] = _value(self.values[name], rng, pools)
            shown[name] = _shown(arguments[name])

        def part(match: re.Match[str]) -> str:
            return match[1] if match[2] in arguments else ""

        return _OPTIONAL.sub(part, template).format(**shown), arguments


class Catalogue(list[Entry]):
    """Tools, in the order of their definition."""

    def asked(self, *templates: str, **values: str) -> Callable[[Callable[..., Any]], Any]:
        """Decorator: the function below is a tool, asked for in these ways."""

        def keep(function: Callable[..., Any]) -> Callable[..., Any]:
            self.append(Entry(function, templates, values))
            return function

        return keep


def _value(how: str, rng: random.Random, pools: Pools) -> Any:
    kind, _, rest = how.partition(" ")
    if kind == "of":
        return rng.choice(rest.split("|"))
    numbers = [float(word) for word in rest.split()]
    match kind:
        case "int":
            return rng.randint(int(numbers[0]), int(numbers[1]))
        case "float":
            low, high, step = numbers
            value = low + step * rng.randint(0, round((high - low) / step))
            return int(value) if value.is_integer() else round(value, 6)
        case "ints":
            return [rng.randint(int(numbers[1]), int(numbers[2])) for _ in range(int(numbers[0]))]
        case "names":
            return [name.split()[0] for name in rng.sample(pools.persons, int(numbers[0]))]
        case "person":
            return rng.choice(pools.persons)
        case "city":
            return rng.choice(pools.cities)
        case "date":
            return (date(pools.year, 1, 1) + timedelta(rng.randrange(365))).isoformat()
    raise ValueError(f"no way to draw {how!r}")


def _shown(value: Any) -> str:
    """As a person would write it."""
    if not isinstance(value, list):
        return str(value)
    return ", ".join(map(str, value[:-1])) + f" and {value[-1]}"


def call(name: str, arguments: dict[str, Any]) -> str:
    """Python code that calls a tool."""
    return f"{name}(**{arguments!r})"


def pick(entries: Sequence[Entry], count: int, rng: random.Random) -> list[Entry]:
    """``count`` entries, each equally often as far as that is possible, in random order."""
    times, rest = divmod(count, len(entries))
    chosen = [*entries] * times + rng.sample(list(entries), rest)
    rng.shuffle(chosen)
    return chosen
