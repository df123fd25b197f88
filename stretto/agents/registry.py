"""Tools by name: added and removed while agents run, and nothing else changes.

Everything a model or a client needs to know of them is made here from the tools themselves.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

from stretto.agents.retrieval import TextIndex
from stretto.agents.schemas import Schema, grammar_schema
from stretto.agents.stubs import stub
from stretto.agents.tool import Tool
from stretto.errors import ConfigError, InputError

Dialect = Literal["openai", "mcp", "anthropic"]


class Registry:
    """The tools an agent has.

    Args:
        tools: tools, or functions to make tools of.
    """

    def __init__(self, tools: Iterable[Tool | Callable[..., Any]] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        self._index = TextIndex()
        self._listeners: list[Callable[[], None]] = []
        for each in tools:
            self.add(each)

    def __len__(self) -> int:
        return len(self._tools)

    def __iter__(self) -> Iterator[Tool]:
        return iter(tuple(self._tools.values()))  # a tool may be removed meanwhile

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def add(self, tool: Tool | Callable[..., Any]) -> Tool:
        """Take a tool in.

        Raises:
            ConfigError: there is one of this name already, or of the same name in Python.
        """
        tool = tool if isinstance(tool, Tool) else Tool(tool)
        for other in self:
            if tool.name == other.name or tool.identifier == other.identifier:
                raise ConfigError(f"tool {tool.name}: there is a tool {other.name} already; "
                                  "remove it first, or give another name")  # fmt: skip
        self._tools[tool.name] = tool
        parameters = " ".join(f"{n} {p.get('description', '')}" for n, p in
                              tool.schema.get("properties", {}).items())  # fmt: skip
        # What a tool is called and does counts twice as much as what it takes.
        self._index.add(tool.name, f"{tool.name} {tool.name} {tool.doc} {tool.doc} {parameters}")
        self._tell()
        return tool

    def remove(self, name: str) -> Tool:
        """Take a tool out.

        Raises:
            InputError: there is none of this name.
        """
        tool = self.get(name)
        del self._tools[tool.name]
        self._index.remove(tool.name)
        self._tell()
        return tool

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever a tool has been added or removed."""
        self._listeners.append(listener)

    def get(self, name: str) -> Tool:
        """A tool by its name, or by the name it has in Python.

        Raises:
            InputError: there is none.
        """
        tool = self._find(name)
        if tool is None:
            near = [found.name for found in self.find(name.replace("_", " "), top=3)]
            near = near or [tool.name for tool in self][:10]
            raise InputError(f"there is no tool {name!r}; choose from {', '.join(near) or 'none'}")
        return tool

    def find(self, text: str, top: int = 5) -> list[Tool]:
        """The tools that fit a request best, best first; none that shares no word with it."""
        return [self._tools[found.key] for found in self._index.find(text, top)]

    @property
    def effects(self) -> dict[str, str]:
        """Effect by the name that Python code calls."""
        return {tool.identifier: tool.effect for tool in self}

    def stub(self, *names: str) -> str:
        """Typed Python stubs for a prompt, of these tools or of all."""
        return stub([self.get(name) for name in names] or list(self))

    def json_schema(self, name: str, dialect: Dialect = "openai") -> Schema:
        """The tool as a client's API takes it.

        Args:
            name: of the tool.
            dialect: ``openai`` (chat completions), ``mcp`` (an entry of ``tools/list``) or
                ``anthropic``.

        Raises:
            ConfigError: an unknown dialect.
        """
        tool = self.get(name)
        head = {"name": tool.identifier, "description": tool.doc}
        if dialect == "openai":
            return {"type": "function", "function": head | {"parameters": tool.schema}}
        if dialect == "anthropic":
            return head | {"input_schema": tool.schema}
        if dialect == "mcp":
            is_read = tool.effect in ("pure", "read")
            hints = {
                "readOnlyHint": is_read,
                "destructiveHint": tool.effect == "irreversible",
                "idempotentHint": is_read,
                "openWorldHint": tool.untrusted,
            }
            return head | {"name": tool.name, "inputSchema": tool.schema, "annotations": hints}
        raise ConfigError(f"dialect is {dialect!r}; give openai, mcp or anthropic")

    def arguments(self, name: str) -> Schema:
        """The schema that forces the arguments of one tool: for ``stretto.engine.Grammar.json``."""
        return grammar_schema(self.get(name).schema)

    def grammar(self, *names: str) -> Schema:
        """The schema that forces one call, ``{"name": ..., "arguments": {...}}``.

        Args:
            names: the tools to choose from; all without any.

        Raises:
            InputError: no tools.
        """
        tools = [self.get(name) for name in names] or list(self)
        if not tools:
            raise InputError("no tools to call; add one to the registry")
        calls = [_call(tool.identifier, self.arguments(tool.name)) for tool in tools]
        return calls[0] if len(calls) == 1 else {"anyOf": calls}

    def parse(self, call: Mapping[str, Any]) -> tuple[Tool, dict[str, Any]]:
        """Tool and arguments of a call as :meth:`grammar` or a client's API writes it.

        Raises:
            InputError: no such tool, or arguments that are no JSON object.
        """
        import json

        call = call.get("function", call)
        arguments = call.get("arguments", call.get("input", {}))
        tool = self.get(str(call.get("name")))
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except ValueError as error:
                raise InputError(f"tool {tool.name}: the arguments are not JSON: {error}") from None
        if not isinstance(arguments, Mapping):
            raise InputError(f"tool {tool.name}: arguments are {arguments!r}; give an object")
        return tool, dict(arguments)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    def _find(self, name: str) -> Tool | None:
        if name in self._tools:
            return self._tools[name]
        return next((tool for tool in self if tool.identifier == name), None)


def _call(name: str, arguments: Schema) -> Schema:
    """One call; what the arguments refer to moves to the top, where references are looked up."""
    definitions = arguments.pop("$defs", None)
    call: Schema = {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
    return call if definitions is None else call | {"$defs": definitions}
