"""Tools as Python stubs, the shortest description that a model can read.

A stub is valid Python: classes for what arguments and results are made of, then one ``def`` each.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from stretto.agents.schemas import Schema, identifier, order, resolve, schema_of
from stretto.agents.tool import Tool

_NAMES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
_DEPTH = 6


def stub(tools: Iterable[Tool]) -> str:
    """Stubs of tools, with each class they use once in front."""
    classes: dict[str, str] = {}
    functions = [_function(tool, classes) for tool in tools]
    return "\n\n".join([*filter(None, classes.values()), *functions]) + "\n"


def _function(tool: Tool, classes: dict[str, str]) -> str:
    schema = tool.schema
    needed = set(schema.get("required", ()))
    parts, notes = [], []
    for name in order(schema):
        part = schema["properties"][name]
        text = f"{identifier(name)}: {_type(part, schema, classes)}"
        if name not in needed:
            default = part.get("default") if isinstance(part, Mapping) else None
            text += f" = {_literal(default)}"
        parts.append(text)
        note = _note(part, schema)
        if note:
            notes.append(f"        {identifier(name)}: {note}")
    head = f"def {tool.identifier}({', '.join(parts)}) -> {_returns(tool, classes)}:"
    doc = _clean(tool.doc) or "No description."
    if notes:
        return "\n".join([head, f'    """{doc}', "", "    Args:", *notes, '    """'])
    return f'{head}\n    """{doc}"""'


def _note(part: Any, root: Schema) -> str:
    """What a parameter is for, and the bounds that its type does not tell."""
    schema = resolve(part, root)
    text = _clean(str(schema.get("description", "")))
    bounds = [f"{word} {schema[key]}" for key, word in (
        ("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"),
        ("exclusiveMaximum", "below"), ("pattern", "matching"), ("format", "a"),
    ) if key in schema]  # fmt: skip
    if not bounds:
        return text
    return f"{text} ({_clean(', '.join(bounds))})".strip()


def _returns(tool: Tool, classes: dict[str, str]) -> str:
    if tool.returns is Any:
        return "Any"
    if tool.returns is None or tool.returns is type(None):
        return "None"
    try:
        schema = schema_of(tool.returns)
    except TypeError:
        return identifier(getattr(tool.returns, "__name__", "Any"))
    return _type(schema, schema, classes)


def _type(part: Any, root: Schema, classes: dict[str, str], depth: int = _DEPTH) -> str:
    schema = resolve(part, root)
    if depth <= 0:
        return "Any"
    if "x-object" in schema:
        name = identifier(schema["x-object"])
        classes.setdefault(name, f'class {name}:\n    """An object on the host, by reference."""')
        return name
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values:
        return f"Literal[{', '.join(_literal(value) for value in values)}]"
    options = schema.get("anyOf") or schema.get("oneOf")
    kind = schema.get("type")
    if isinstance(kind, list):
        options = [{**schema, "type": each} for each in kind]
    if options:
        return " | ".join(dict.fromkeys(_type(o, root, classes, depth - 1) for o in options))
    if kind == "array":
        items = schema.get("items")
        first = schema.get("prefixItems")
        if first and len(first) == schema.get("maxItems", len(first)):
            return f"tuple[{', '.join(_type(each, root, classes, depth - 1) for each in first)}]"
        return f"list[{_type(items, root, classes, depth - 1)}]" if items else "list"
    if kind == "object":
        if schema.get("properties"):
            return _class(schema, root, classes, depth)
        more = schema.get("additionalProperties")
        has_type = isinstance(more, Mapping) and more
        return f"dict[str, {_type(more, root, classes, depth - 1) if has_type else 'Any'}]"
    return _NAMES.get(str(kind), "Any")


def _class(schema: Schema, root: Schema, classes: dict[str, str], depth: int) -> str:
    """The name of a typed dict for an object; its text goes to ``classes``."""
    names = order(schema)
    if any(identifier(name) != name for name in names):
        return "dict[str, Any]"
    base = name = identifier(schema.get("title", "Object"))
    number = 1
    classes_before = dict(classes)
    classes.setdefault(name, "")  # one that holds itself finds its name
    needed = set(schema.get("required", ()))
    lines = []
    for field in names:
        kind = _type(schema["properties"][field], root, classes, depth - 1)
        lines.append(f"    {field}: {kind if field in needed else f'NotRequired[{kind}]'}")
    body = "\n".join(lines)
    while classes_before.get(name, "") and classes_before[name] != _typed(name, body):
        number += 1
        name = f"{base}{number}"
    classes.pop(base, None) if not classes.get(base) else None
    classes[name] = _typed(name, body)
    return name


def _typed(name: str, body: str) -> str:
    return f"class {name}(TypedDict):\n{body}"


def _literal(value: Any) -> str:
    if isinstance(value, str | bool | int | float) or value is None:
        return repr(value)
    try:
        return repr(json.loads(json.dumps(value)))
    except (TypeError, ValueError):
        return "..."


def _clean(text: str) -> str:
    """One line that cannot leave its docstring: no control or direction characters."""
    kept = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(kept.replace("\\", "/").replace('"', "'").split())
