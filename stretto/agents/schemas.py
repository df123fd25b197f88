"""JSON schemas of tools: from Python types, to words, to Python types, to a grammar."""

import copy
import keyword
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

from stretto.agents.refs import KEY

Schema = dict[str, Any]

DEPTH = 8
"""How deep schemas that refer to others are followed."""
_BOUNDS = {
    "minimum": "ge", "maximum": "le", "exclusiveMinimum": "gt", "exclusiveMaximum": "lt",
    "multipleOf": "multiple_of", "minLength": "min_length", "maxLength": "max_length",
    "minItems": "min_length", "maxItems": "max_length",
}  # fmt: skip
_BOUNDS_OF = {
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
}
_SCALARS = {"string": str, "integer": int, "number": float, "boolean": bool, "null": type(None)}
# What llguidance reads; words for people and defaults are no part of a grammar.
_GRAMMAR_KEYS = {
    "type", "properties", "required", "items", "prefixItems", "minItems", "maxItems", "enum",
    "const", "anyOf", "oneOf", "$ref", "$defs", "additionalProperties", "minimum", "maximum",
    "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "pattern",
}  # fmt: skip


class _Generator(GenerateJsonSchema):
    """Objects that are not JSON appear as references to the host's object."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Schema:
        cls = schema.get("cls")
        if not isinstance(cls, type):
            raise PydanticInvalidForJsonSchema(error_info)
        reference = {"type": "object", "properties": {KEY: {"type": "string"}}, "required": [KEY]}
        return reference | {"title": cls.__name__, "x-object": cls.__name__}


def schema_of(annotation: Any) -> Schema:
    """The JSON schema of a type, aliases and all.

    Raises:
        TypeError: the type has none.
    """
    try:
        adapter = TypeAdapter(annotation, config=_arbitrary(annotation))
        return adapter.json_schema(schema_generator=_Generator)
    except (PydanticUserError, PydanticInvalidForJsonSchema) as error:
        raise TypeError(str(error).splitlines()[0]) from None


def _arbitrary(annotation: Any) -> ConfigDict | None:
    """Types with a configuration of their own may not be given another."""
    from dataclasses import is_dataclass
    from typing import is_typeddict

    is_class = isinstance(annotation, type)
    has_own = is_typeddict(annotation) or is_dataclass(annotation) or (
        is_class and issubclass(annotation, BaseModel)
    )  # fmt: skip
    return None if has_own else ConfigDict(arbitrary_types_allowed=True)


def identifier(name: str) -> str:
    """A Python name for any text: ``math.factorial`` becomes ``math_factorial``."""
    made = re.sub(r"\W", "_", name, flags=re.ASCII) or "_"
    if made[0].isdigit() or keyword.iskeyword(made):
        made = f"_{made}" if made[0].isdigit() else f"{made}_"
    return made


def order(schema: Mapping[str, Any]) -> list[str]:
    """Parameter names: those that must be given first, otherwise as declared."""
    names = list(schema.get("properties", {}))
    needed = set(schema.get("required", ()))
    return [n for n in names if n in needed] + [n for n in names if n not in needed]


def resolve(schema: Any, root: Mapping[str, Any], depth: int = DEPTH) -> Schema:
    """A schema with its first ``$ref`` followed within ``root``; ``{}`` where it leads nowhere."""
    while isinstance(schema, Mapping) and "$ref" in schema and depth > 0:
        found: Any = root
        for part in str(schema["$ref"]).lstrip("#/").split("/"):
            found = found.get(part) if isinstance(found, Mapping) else None
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**found, **rest} if isinstance(found, Mapping) else rest
        depth -= 1
    return dict(schema) if isinstance(schema, Mapping) else {}


def part_of(schema: Any, step: str | int, root: Mapping[str, Any]) -> Any:
    """The schema of an item or a property; ``{}`` where nothing is said about it."""
    schema = resolve(schema, root)
    for option in (schema, *schema.get("anyOf", ()), *schema.get("oneOf", ())):
        option = resolve(option, root)
        if isinstance(step, int):
            first = option.get("prefixItems", ())
            found = first[step] if step < len(first) else option.get("items")
        else:
            found = option.get("properties", {}).get(step, option.get("additionalProperties"))
        if isinstance(found, Mapping):
            return found
    return {}


def wanted(schema: Any, root: Mapping[str, Any], depth: int = 3) -> str:
    """What a value has to be, in words: ``an integer from 1 to 20``."""
    schema = resolve(schema, root)
    if "x-object" in schema:
        return f"a reference to {_article(schema['x-object'])}"
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(map(repr, schema["enum"]))
    options = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(options, list) and options and depth:
        return " or ".join(dict.fromkeys(wanted(option, root, depth - 1) for option in options))
    kind = schema.get("type")
    if isinstance(kind, list):
        return " or ".join(wanted({**schema, "type": each}, root, depth - 1) for each in kind)
    if kind == "array":
        items = schema.get("items")
        of = f" of {_plural(wanted(items, root, depth - 1))}" if items and depth else ""
        return f"a list{of}{_range(schema, 'minItems', 'maxItems', ' items')}"
    if kind == "string":
        how = f" in the form of a {schema['format']}" if "format" in schema else ""
        how += f" that matches {schema['pattern']}" if "pattern" in schema else ""
        return f"text{how}{_range(schema, 'minLength', 'maxLength', ' characters')}"
    if kind in ("integer", "number"):
        name = "an integer" if kind == "integer" else "a number"
        return name + _range(schema, "minimum", "maximum") + _open_range(schema)
    if kind == "object":
        names = order(schema)
        return f"an object with {', '.join(names)}" if names else "an object"
    return {"boolean": "true or false", "null": "null"}.get(str(kind), "a JSON value")


def _article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _plural(words: str) -> str:
    head, *rest = words.removeprefix("an ").removeprefix("a ").split(" ", 1)
    simple = head in ("integer", "number", "list", "object")
    return " ".join([f"{head}s", *rest]) if simple else f"({words})" if " " in words else words


def _range(schema: Mapping[str, Any], low: str, high: str, unit: str = "") -> str:
    least, most = schema.get(low), schema.get(high)
    if least is not None and most is not None:
        return f" from {least} to {most}{unit}"
    if least is not None:
        return f" of at least {least}{unit}"
    return "" if most is None else f" of at most {most}{unit}"


def _open_range(schema: Mapping[str, Any]) -> str:
    least, most = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    parts = [f"above {least}"] * (least is not None) + [f"below {most}"] * (most is not None)
    if "multipleOf" in schema:
        parts.append(f"a multiple of {schema['multipleOf']}")
    return " " + " and ".join(parts) if parts else ""


# JSON schema -> types, for tools that are described by a schema only (MCP, benchmarks).


def model_of(name: str, schema: Mapping[str, Any]) -> type[BaseModel]:
    """A pydantic model of an object's schema; keywords it does not know let any value pass."""
    return _model(name, dict(schema), schema, DEPTH)


def _model(name: str, schema: Schema, root: Mapping[str, Any], depth: int) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    needed = set(schema.get("required", ()))
    for number, (key, part) in enumerate(schema.get("properties", {}).items()):
        annotation = type_of(part, root, depth - 1)
        info = Field(alias=key) if key in needed else Field(default=None, alias=key)
        fields[f"field_{number}"] = (annotation, info)
    is_closed = schema.get("additionalProperties", False) is False
    config = ConfigDict(extra="forbid" if is_closed else "allow", arbitrary_types_allowed=True)
    return create_model(identifier(name), __config__=config, **fields)


def type_of(schema: Any, root: Mapping[str, Any], depth: int = DEPTH) -> Any:
    """A Python type that takes what a schema allows, or more where the schema is unusual."""
    schema = resolve(schema, root)
    if depth <= 0:
        return Any
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values and all(isinstance(v, str | bool | int) or v is None for v in values):
        return Literal[tuple(values)]
    options = schema.get("anyOf") or schema.get("oneOf")
    kind = schema.get("type")
    if isinstance(kind, list):
        options = [{**schema, "type": each} for each in kind]
    if isinstance(options, list) and options:
        return Union[tuple(type_of(option, root, depth - 1) for option in options)]  # noqa: UP007
    if kind == "object":
        if schema.get("properties"):
            return _model(schema.get("title", "Object"), schema, root, depth - 1)
        more = schema.get("additionalProperties")
        return dict[str, type_of(more, root, depth - 1) if isinstance(more, Mapping) else Any]
    base: Any = _SCALARS.get(str(kind), Any)
    if kind == "array":
        base = list[type_of(schema.get("items", {}), root, depth - 1)]
    bounds = {_BOUNDS[key]: schema[key] for key in _BOUNDS_OF.get(str(kind), ()) if key in schema}
    return Annotated[base, Field(**bounds)] if bounds else base


# JSON schema -> what a grammar needs.


def grammar_schema(schema: Mapping[str, Any]) -> Schema:
    """The same without what llguidance does not read; objects take no further properties."""
    return _strict(copy.deepcopy(dict(schema)))


def _strict(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    made = {key: value for key, value in schema.items() if key in _GRAMMAR_KEYS}
    for key in ("properties", "$defs"):
        if key in made:
            made[key] = {name: _strict(part) for name, part in made[key].items()}
    for key in ("anyOf", "oneOf", "prefixItems"):
        if key in made:
            made[key] = [_strict(part) for part in made[key]]
    if "items" in made:
        made["items"] = _strict(made["items"])
    if made.get("properties"):
        made["additionalProperties"] = False
    elif isinstance(made.get("additionalProperties"), Mapping):
        made["additionalProperties"] = _strict(made["additionalProperties"])
    return made
