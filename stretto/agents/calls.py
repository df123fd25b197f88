"""One call of one tool, as a grammar: what a model too small to be trusted with more may write.

The values are those that :class:`stretto.agents.grounding.Filling` finds in the request. All ways
through its questions are laid out beforehand, so that a live stream can be held to them from its
first token to its last.
"""

import copy
import json
from collections.abc import Mapping
from typing import Any

from stretto.agents.grounding import Filling
from stretto.agents.schemas import grammar_schema, identifier
from stretto.agents.tool import Tool

MOST = 500
"""Ways that are followed to their ends; beyond, the first value stands for the others."""
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def signature(tool: Tool) -> str:
    """``name(first, second)``, as the default model was taught tools."""
    return f"{tool.identifier}({', '.join(identifier(name) for name in tool.names)})"


def call_grammar(tool: Tool, request: str) -> str:
    """A Lark grammar of one line of Python that calls the tool.

    Args:
        tool: what to call.
        request: what the user said; arguments that it does not speak of are left out.
    """
    made = _Ways()
    filling = Filling(tool.schema, request)
    start = made.rest(filling, _literal(f"{tool.identifier}("))
    return "\n".join([f"start: {start}", *made.rules]) + "\n"


class _Ways:
    """Writes the expression of all ways, and the rules that it uses."""

    def __init__(self) -> None:
        self.rules: list[str] = []
        self._ends = 0

    def rest(self, filling: Filling, before: str) -> str:
        """What may be written from here on, behind ``before``."""
        known = len(filling.arguments)
        schema = filling.next()
        taken = list(filling.arguments.items())
        for number, (name, value) in enumerate(taken[known:], start=known):
            before += " " + _literal(_key(name, number) + _python(value))
        if schema is None:
            self._ends += 1
            return f"{before} {_literal(')')}"
        before += " " + _literal(_key(filling.name, len(taken)))
        values = schema.get("enum")
        if values is None:
            return self._after(filling, None, f"{before} {self.value(schema)}")
        if self._ends > MOST:
            choice = " | ".join(_literal(_python(value)) for value in values)
            return self._after(filling, values[0], f"{before} ({choice})")
        ways = [self._after(filling, value, _literal(_python(value))) for value in values]
        return f"{before} ({' | '.join(ways)})"

    def _after(self, filling: Filling, value: Any, before: str) -> str:
        branch = copy.deepcopy(filling)
        branch.take(value)
        return self.rest(branch, before)

    def value(self, schema: Mapping[str, Any]) -> str:
        """The expression of a value."""
        if "enum" in schema:
            return f"({' | '.join(_literal(_python(value)) for value in schema['enum'])})"
        match schema.get("type"):
            case "boolean":
                return '("True" | "False")'
            case "array":
                item = self.value(schema.get("items") or {"type": "string"})
                more = max(0, schema.get("maxItems", 6) - 1)
                return f'"[" ({item} (", " {item}){{0,{more}}})? "]"'
            case "object" if schema.get("properties"):
                parts = [f"{_literal(json.dumps(name) + ': ')} {self.value(part)}"
                         for name, part in schema["properties"].items()]  # fmt: skip
                between = ' ", " '
                return f'"{{" {between.join(parts)} "}}"'
            case "object":
                return '"{}"'
        name = f"value_{len(self.rules)}"
        made = grammar_schema(dict(schema)) | {"x-guidance": _COMPACT}
        self.rules.append(f"{name}: %json {json.dumps(made)}")
        return name


def _key(name: str, number: int) -> str:
    return f"{', ' if number else ''}{identifier(name)}="


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _python(value: Any) -> str:
    """A JSON value as Python writes it, texts in double quotes as the default model has them."""
    match value:
        case str():
            return json.dumps(value, ensure_ascii=False)
        case list():
            return f"[{', '.join(map(_python, value))}]"
        case dict():
            inner = ", ".join(f"{_python(key)}: {_python(item)}" for key, item in value.items())
            return f"{{{inner}}}"
    return repr(value)
