"""A tool: a typed Python callable with an effect, a kind, a time limit and a cost.

Its schema comes from the type hints, descriptions of arguments from the docstring's ``Args:`` or
from ``Field(description=...)``. Calls are checked before they run::

    @tool(effect="read", timeout=5.0)
    def search(query: str, k: Annotated[int, Field(ge=1, le=20)] = 5) -> list[str]:
        '''Search the archive.'''
"""

import asyncio
import difflib
import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError

from stretto.agents.guards import Guards
from stretto.agents.schemas import (
    Schema,
    identifier,
    model_of,
    order,
    part_of,
    schema_of,
    wanted,
)
from stretto.errors import ConfigError, InputError

Effect = Literal["pure", "read", "write", "irreversible"]
Kind = Literal["text", "multimodal", "physical", "memory", "model", "agent", "human"]

_SHOWN = 60  # characters of a bad value in an error
_WORDS = {"true": True, "false": False}


@dataclass(frozen=True)
class Credential:
    """Marks a parameter that the broker fills: ``token: Annotated[str, Credential("github")]``.

    It is no part of the tool's schema, and its value appears in no log.
    """

    name: str


class Bound(NamedTuple):
    """Arguments that were checked.

    Attributes:
        values: by parameter name, as the callable takes them.
        remarks: one line per value that was taken as another type, as in ``k: '5' taken as 5``.
    """

    values: dict[str, Any]
    remarks: list[str]


class Tool:
    """One callable that agents may use.

    Args:
        function: sync or async; of a tool described by ``schema`` it is called with JSON values.
        name: unique in a registry; by default the function's.
        doc: what it does; by default the docstring's first paragraph.
        effect: what a call may change: nothing (``pure``), nothing but it depends on the world
            (``read``), something (``write``), something that cannot be undone (``irreversible``).
        kind: what it connects to.
        timeout: seconds a call may take.
        cost: of a call, in any unit; budgets are in the same.
        untrusted: results may carry text of strangers (a web page, mail): whoever has read one is
            tainted.
        schema: JSON schema of the arguments; by default from the type hints.
        returns: type of the result; by default the type hint.
        guards: asked before, after, and to stop it; for what moves.

    Raises:
        ConfigError: a parameter without a schema, or a setting out of range.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str = "",
        doc: str = "",
        effect: Effect = "write",
        kind: Kind = "text",
        timeout: float = 10.0,
        cost: float = 0.0,
        untrusted: bool = False,
        schema: Mapping[str, Any] | None = None,
        returns: Any = inspect.Parameter.empty,
        guards: Guards | None = None,
    ) -> None:
        self.function = function
        self.name = name or getattr(function, "__name__", type(function).__name__)
        self.effect, self.kind, self.guards = effect, kind, guards
        self.timeout, self.cost, self.untrusted = float(timeout), float(cost), untrusted
        self._check()
        text = inspect.getdoc(function) or "" if schema is None or not doc else ""
        self.doc = doc or " ".join(text.split("\n\n")[0].split())
        self.credentials: dict[str, str] = {}
        hints: dict[str, Any] = {}
        if schema is None:
            hints = _hints(function, self.name)
            self.parameters = self._from_hints(hints, _argument_docs(text))
            self.schema: Schema = self._schema_from_hints()
        else:
            self.parameters = model_of(self.name, schema)
            self.schema = dict(schema)
        self._is_plain = schema is not None
        self.returns = hints.get("return", Any) if returns is inspect.Parameter.empty else returns
        self._fields = {
            field.alias or key: key for key, field in self.parameters.model_fields.items()
        }
        self._names = {identifier(key): key for key in self._fields}

    def __repr__(self) -> str:
        return f"Tool({self.name}, effect={self.effect!r}, kind={self.kind!r})"

    @property
    def identifier(self) -> str:
        """The name as Python code writes it."""
        return identifier(self.name)

    @property
    def names(self) -> list[str]:
        """Parameters in the order in which they are written."""
        return order(self.schema)

    @property
    def is_async(self) -> bool:
        """Whether the callable is awaited."""
        called = getattr(self.function, "__call__", None)  # noqa: B004
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(called)

    def named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by name, from a call as Python code writes it.

        Raises:
            InputError: too many of them, or one given twice.
        """
        names = self.names
        if len(args) > len(names):
            raise InputError(f"tool {self.name}: {len(args)} positional arguments; {self._takes()}")
        given = dict(zip(names, args, strict=False))
        for key, value in kwargs.items():
            key = key if key in self._fields else self._names.get(key, key)
            if key in given:
                raise InputError(f"tool {self.name}: argument {key} is given twice; give it once")
            given[key] = value
        return given

    def bind(self, arguments: Mapping[str, Any]) -> Bound:
        """Check arguments; numbers and booleans written as text are taken as such, and reported.

        Raises:
            InputError: one is missing, unknown or wrong: one line with tool, argument, value and
                what is wanted.
        """
        try:
            model = self.parameters.model_validate(dict(arguments))
        except ValidationError as error:
            raise InputError(self._why(error, arguments)) from None
        values, remarks = {}, []
        for name, key in self._fields.items():
            if key in model.model_fields_set:
                values[name] = getattr(model, key)
                for path, before, after in _changes(arguments[name], values[name], name):
                    if not _is_harmless(before, after):
                        raise InputError(self._bad(path, before, self._wanted([name])))
                    remarks.append(f"{path}: {_short(before)} taken as {after!r}")
        if self._is_plain:
            # What the schema's own model holds goes back to JSON.
            values = model.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return Bound(values, remarks)

    def call(self, /, **arguments: Any) -> Any:
        """Check and call, here and now, without a broker.

        Raises:
            InputError: as :meth:`bind`.
        """
        if self.guards is not None:
            return asyncio.run(self.acall(**arguments))
        result = self.function(**self.bind(arguments).values)
        if inspect.isawaitable(result):
            return asyncio.run(_wait(result))
        return result

    async def acall(self, /, **arguments: Any) -> Any:
        """The same for async code; a sync callable runs in a thread."""
        return await self.run(self.bind(arguments).values)

    async def run(self, values: Mapping[str, Any]) -> Any:
        """Call with values that were checked already."""
        if self.guards is None:
            return await self._run(values)
        shown = {name: value for name, value in values.items() if name not in self.credentials}
        return await self.guards.run(lambda: self._run(values), shown)

    async def _run(self, values: Mapping[str, Any]) -> Any:
        if self.is_async:
            return await self.function(**values)
        return await asyncio.to_thread(self.function, **values)

    def _check(self) -> None:
        for what, value, known in (("effect", self.effect, get_args(Effect)),
                                   ("kind", self.kind, get_args(Kind))):  # fmt: skip
            if value not in known:
                raise ConfigError(f"tool {self.name}: {what} is {value!r}; give {', '.join(known)}")
        if self.timeout <= 0 or self.cost < 0:
            raise ConfigError(f"tool {self.name}: timeout is {self.timeout}, cost {self.cost}; "
                              "give a timeout above 0 and a cost of 0 or more")  # fmt: skip

    def _from_hints(self, hints: dict[str, Any], docs: dict[str, str]) -> type[BaseModel]:
        fields: dict[str, Any] = {}
        for name, parameter in inspect.signature(self.function).parameters.items():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise ConfigError(f"tool {self.name}: parameter {name} has no name to give it by; "
                                  "write each parameter out")  # fmt: skip
            annotation = hints.get(name, Any)
            marks = getattr(annotation, "__metadata__", ())
            secret = next((mark for mark in marks if isinstance(mark, Credential)), None)
            if secret is not None:
                self.credentials[name] = secret.name
                continue
            default = ... if parameter.default is parameter.empty else parameter.default
            info: dict[str, Any] = {"alias": name, "default": default}
            if name in docs:
                info["description"] = docs[name]
            fields[f"field_{len(fields)}"] = (annotation, Field(**info))
        try:
            config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
            return create_model(identifier(self.name), __config__=config, **fields)
        except PydanticUserError as error:
            raise ConfigError(f"tool {self.name}: {str(error).splitlines()[0]}") from None

    def _schema_from_hints(self) -> Schema:
        try:
            made = schema_of(self.parameters)
        except TypeError as error:
            raise ConfigError(f"tool {self.name}: no schema ({error})") from None
        made.pop("title", None)
        for part in made.get("properties", {}).values():
            part.pop("title", None) if "x-object" not in part else None
        made.setdefault("properties", {})
        return made

    def _why(self, error: ValidationError, arguments: Mapping[str, Any]) -> str:
        first = error.errors(include_url=False)[0]
        place = list(first["loc"])
        head = str(place[0]) if place else ""
        if first["type"] == "extra_forbidden" and len(place) == 1:
            close = difflib.get_close_matches(head, self.names, n=1)
            hint = f"; did you mean {close[0]}?" if close else ";"
            return (f"tool {self.name}: there is no argument {head} "
                    f"(it is {_short(arguments.get(head))}){hint} {self._takes()}")  # fmt: skip
        if first["type"] == "missing" and len(place) == 1:
            return f"tool {self.name}: argument {head} is missing; give {self._wanted([head])}"
        if "assertion" in first["type"] or first["type"] == "value_error":
            return self._bad(_path(place), first["input"], first["msg"])
        value = arguments.get(head)
        steps: list[str | int] = [head]
        for step in place[1:]:  # down to the value that is wrong, as far as names lead there
            try:
                value = value[step]  # type: ignore[index]
            except (TypeError, KeyError, IndexError):
                break
            steps.append(step)
        return self._bad(_path(steps), value, self._wanted(steps))

    def _bad(self, path: str, value: Any, what: str) -> str:
        return f"tool {self.name}: argument {path} is {_short(value)}; give {what}"

    def _wanted(self, steps: Sequence[Any]) -> str:
        schema: Any = self.schema
        for step in steps:
            schema = part_of(schema, step, self.schema)
        return wanted(schema, self.schema)

    def _takes(self) -> str:
        return f"it takes {', '.join(self.names) or 'no arguments'}"

    @classmethod
    def from_schema(
        cls, name: str, doc: str, schema: Mapping[str, Any], function: Callable[..., Any],
        **options: Any,
    ) -> Self:  # fmt: skip
        """A tool that is known by its schema only, as an MCP server's."""
        return cls(function, name=name, doc=doc, schema=schema, **options)


def tool(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make a :class:`Tool` of a function: ``@tool`` or ``@tool(effect="read", ...)``.

    Without ``effect`` a tool counts as ``write``: what is not declared harmless is not taken so.
    """
    if function is not None:
        return Tool(function, **options)
    return lambda found: Tool(found, **options)


async def _wait(result: Any) -> Any:
    return await result


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    has_hints = inspect.isroutine(function)
    try:
        return typing.get_type_hints(
            function if has_hints else type(function).__call__, include_extras=True
        )
    except NameError as error:
        raise ConfigError(f"tool {name}: a type hint cannot be read ({error})") from None


def _argument_docs(text: str) -> dict[str, str]:
    """``Args:`` of a Google-style docstring, by name."""
    found = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", text, re.MULTILINE)
    docs: dict[str, str] = {}
    name = ""
    for line in found.group(1).splitlines() if found else ():
        head = re.match(r"\s{2,4}(\w+)(?: \(.*?\))?: (.*)", line)
        if head:
            name = head.group(1)
            docs[name] = head.group(2).strip()
        elif name and line.strip():
            docs[name] += " " + line.strip()
    return docs


def _path(steps: Sequence[Any]) -> str:
    text = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps)
    return text.removeprefix(".")


def _short(value: Any) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception as error:  # a repr of anybody's making
        text = f"a {type(value).__name__} without repr ({type(error).__name__})"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _changes(before: Any, after: Any, path: str) -> list[tuple[str, Any, Any]]:
    """Plain values that became another type, with their places."""
    plain = (str, bool, int, float)
    if isinstance(before, plain) and isinstance(after, plain):
        same = type(before) is type(after) or (type(before), type(after)) == (int, float)
        is_enum = type(after) not in plain  # an enum's member is its value
        return [] if same or is_enum else [(path, before, after)]
    if isinstance(before, Mapping) and not isinstance(after, Mapping):
        after = getattr(after, "__dict__", {})
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return [change for key, value in before.items() if key in after
                for change in _changes(value, after[key], f"{path}.{key}")]  # fmt: skip
    if isinstance(before, list | tuple) and isinstance(after, list | tuple):
        return [change for number, (old, new) in enumerate(zip(before, after, strict=False))
                for change in _changes(old, new, f"{path}[{number}]")]  # fmt: skip
    return []


def _is_harmless(before: Any, after: Any) -> bool:
    """Text that reads as the number or boolean, and whole floats, and nothing else."""
    if isinstance(after, bool):
        return isinstance(before, str) and before.strip().lower() in _WORDS
    return isinstance(after, int | float) and isinstance(before, str | float)
