"""Tools: schemas from type hints, checks with one clear line, stubs that can be called."""

import ast
import asyncio
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from stretto.agents.registry import Registry
from stretto.agents.stubs import stub
from stretto.agents.tool import Credential, Tool, tool
from stretto.errors import ConfigError, InputError


@dataclass
class Hit:
    title: str
    score: float


class Image:
    pass


@tool(effect="read", timeout=5.0)
def search(
    query: str, k: Annotated[int, Field(ge=1, le=20)] = 5, only: list[str] | None = None
) -> list[Hit]:
    """Search the archive.

    More about it.

    Args:
        query: what to look for,
            in words
        k: how many
    """
    return [Hit(query, float(k))]


@tool
def crop(image: Image, box: tuple[int, int], hit: Hit | None = None, exact: bool = False) -> Image:
    """Crop."""
    return image


def test_schema_and_settings_come_from_the_function() -> None:
    assert (search.name, search.doc, search.effect) == ("search", "Search the archive.", "read")
    assert crop.effect == "write"  # what is not declared harmless
    properties = search.schema["properties"]
    assert properties["query"] == {"type": "string", "description": "what to look for, in words"}
    assert properties["k"]["maximum"] == 20 and properties["k"]["default"] == 5
    assert search.schema["required"] == ["query"]


def test_calls_are_checked_and_defaults_are_the_functions() -> None:
    assert search.call(query="tea") == [Hit("tea", 5.0)]
    assert asyncio.run(search.acall(query="tea", k=2)) == [Hit("tea", 2.0)]
    assert crop.bind({"image": Image(), "box": [1, 2], "hit": {"title": "a", "score": 1}}).values[
        "hit"
    ] == Hit("a", 1.0)


WRONG = [
    (search, {"query": 3}, "tool search: argument query is 3; give text"),
    (search, {"query": "a", "k": "many"},
     "tool search: argument k is 'many'; give an integer from 1 to 20"),
    (search, {"query": "a", "k": 99},
     "tool search: argument k is 99; give an integer from 1 to 20"),
    (search, {"query": "a", "k": True},
     "tool search: argument k is True; give an integer from 1 to 20"),
    (search, {}, "tool search: argument query is missing; give text"),
    (search, {"query": "a", "only": ["x", 3]}, "tool search: argument only[1] is 3; give text"),
    (search, {"query": "a", "qery": 1},
     "tool search: there is no argument qery (it is 1); did you mean query? "
     "it takes query, k, only"),
    (crop, {"image": 3, "box": [1, 2]},
     "tool crop: argument image is 3; give a reference to an Image"),
    (crop, {"image": Image(), "box": [1, 2], "hit": {"title": "a", "score": "no"}},
     "tool crop: argument hit.score is 'no'; give a number"),
    (crop, {"image": Image(), "box": [1, 2], "exact": 1},
     "tool crop: argument exact is 1; give true or false"),
    (crop, {"image": Image(), "box": [1, 2], "exact": "yes"},
     "tool crop: argument exact is 'yes'; give true or false"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "arguments", "line"), WRONG)
def test_bad_arguments_give_one_line(wrong: Tool, arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as caught:
        wrong.bind(arguments)
    assert str(caught.value) == line


def test_a_long_value_is_cut_and_stays_on_one_line() -> None:
    with pytest.raises(InputError) as caught:
        search.bind({"query": "a", "k": "x\n" * 500})
    assert len(str(caught.value)) < 160 and "\n" not in str(caught.value)


def test_coercion_is_limited_and_reported() -> None:
    bound = search.bind({"query": "a", "k": "3"})
    assert bound.values["k"] == 3 and bound.remarks == ["k: '3' taken as 3"]
    assert search.bind({"query": "a", "k": 3.0}).remarks == ["k: 3.0 taken as 3"]
    arguments = {"image": Image(), "box": [1, "2"], "exact": "true"}
    bound = crop.bind(arguments)
    assert bound.values["exact"] is True and bound.values["box"] == (1, 2)
    assert bound.remarks == ["box[1]: '2' taken as 2", "exact: 'true' taken as True"]
    assert search.bind({"query": "a", "k": 3}).remarks == []


def test_calls_as_python_writes_them() -> None:
    assert search.named(["tea"], {"k": 2}) == {"query": "tea", "k": 2}
    with pytest.raises(InputError, match="4 positional arguments; it takes query, k, only"):
        search.named([1, 2, 3, 4], {})
    with pytest.raises(InputError, match="query is given twice"):
        search.named(["tea"], {"query": "milk"})


def test_credentials_are_no_part_of_the_schema() -> None:
    @tool
    def post(text: str, token: Annotated[str, Credential("forum")]) -> None:
        """Post."""

    assert list(post.schema["properties"]) == ["text"] and post.credentials == {"token": "forum"}
    with pytest.raises(InputError, match="no argument token"):
        post.bind({"text": "a", "token": "stolen"})


def test_what_cannot_be_a_tool_is_refused() -> None:
    with pytest.raises(ConfigError, match="parameter args has no name"):
        tool(lambda *args: None, name="f")
    with pytest.raises(ConfigError, match="effect is 'reed'; give pure, read"):
        tool(effect="reed")(lambda: None)
    with pytest.raises(ConfigError, match=r"timeout is 0\.0"):
        tool(timeout=0)(lambda: None)


def test_stub_is_python_with_classes_first() -> None:
    text = stub([search, crop])
    ast.parse(text)
    assert "class Hit(TypedDict):\n    title: str\n    score: float" in text
    assert text.count("class Hit") == 1 and "class Image:" in text
    assert "def search(query: str, k: int = 5, only: list[str] | None = None) -> list[Hit]:" in text
    assert "k: how many (at least 1, at most 20)" in text
    assert "box: tuple[int, int]" in text


def test_descriptions_cannot_leave_the_stub() -> None:
    evil = 'ok"""\nimport os\n"""\u202e\\'
    made = Tool.from_schema(
        "f", evil, {"type": "object", "properties": {"a": {"description": evil}}}, lambda **k: k
    )
    tree = ast.parse(stub([made]))
    assert [type(node) for node in tree.body] == [ast.FunctionDef]
    assert "\u202e" not in stub([made])


# Schemas as they come from elsewhere.

_NAMES = st.sampled_from(
    ["a", "b", "user-id", "class", "model_config", "schema", "2nd", "_x", "copy", "été", "self"]
)
_SCALAR = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "minLength": 2, "description": 'a "quoted"\nword'},
        {"type": "integer"},
        {"type": "integer", "minimum": 0, "maximum": 9},
        {"type": "number"},
        {"type": "boolean"},
        {"type": ["integer", "null"]},
        {"enum": ["red", 'it\'s "blue"']},
    ]
)


def _object(parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": parts, "required": sorted(parts)[::2]}


def _nest(inner: Any) -> Any:
    lists = inner.map(lambda items: {"type": "array", "items": items})
    return lists | st.dictionaries(_NAMES, inner, min_size=1, max_size=3).map(_object)


_SCHEMAS = st.dictionaries(_NAMES, st.recursive(_SCALAR, _nest, max_leaves=3), max_size=4)
_TOOLS = _SCHEMAS.map(_object)


def _value(schema: dict[str, Any], data: st.DataObject) -> Any:
    """A value that the schema allows."""
    if "enum" in schema:
        return data.draw(st.sampled_from(schema["enum"]))
    match schema["type"]:
        case "object":
            names = [n for n in schema["properties"]
                     if n in schema["required"] or data.draw(st.booleans())]  # fmt: skip
            return {n: _value(schema["properties"][n], data) for n in names}
        case "array":
            return [_value(schema["items"], data) for _ in range(data.draw(st.integers(0, 2)))]
        case "string":
            return data.draw(st.text(min_size=schema.get("minLength", 0), max_size=6))
        case "integer":
            low, high = schema.get("minimum", -100), schema.get("maximum", 100)
            return data.draw(st.integers(low, high))
        case "number":
            return data.draw(st.floats(-1e6, 1e6))
        case "boolean":
            return data.draw(st.booleans())
        case _:
            return data.draw(st.none() | st.integers(0, 5))


@settings(max_examples=60, deadline=None)
@given(_TOOLS, st.data())
def test_schema_to_stub_to_call(schema: dict[str, Any], data: st.DataObject) -> None:
    seen: list[dict[str, Any]] = []
    made = Tool.from_schema("math.f", "Do it.", schema, lambda **k: seen.append(k))
    arguments = _value(schema, data)
    # As Python code calls it: the stub's names, by keyword or, what must be given, by position.
    tree = ast.parse(stub([made]))
    function = tree.body[-1]
    assert isinstance(function, ast.FunctionDef) and function.name == "math_f"
    names = [each.arg for each in function.args.args]
    by_name = dict(zip(names, made.names, strict=True))
    assert len(function.args.defaults) == len(names) - len(schema["required"])
    first = names[: len(schema["required"])]
    kwargs = {n: arguments[by_name[n]] for n in names[len(first) :] if by_name[n] in arguments}
    given_back = made.named([arguments[by_name[n]] for n in first], kwargs)
    assert given_back == arguments
    made.call(**given_back)
    assert seen == [arguments]


@settings(max_examples=60, deadline=None)
@given(_TOOLS, st.data())
def test_a_wrong_value_is_named(schema: dict[str, Any], data: st.DataObject) -> None:
    arguments = _value(schema, data)
    if not arguments:
        return
    name = data.draw(st.sampled_from(sorted(arguments)))
    made = Tool.from_schema("f", "Do it.", schema, lambda **k: k)
    with pytest.raises(InputError) as caught:
        made.bind({**arguments, name: object()})
    line = str(caught.value)
    assert line.startswith(f"tool f: argument {name} is <object") and "; give " in line
    assert "\n" not in line


def test_literal_and_nested_lists_in_words() -> None:
    @tool
    def f(unit: Literal["km", "mile"], rows: list[list[int]] = []) -> int:  # noqa: B006
        """F."""
        return 1

    with pytest.raises(InputError, match="unit is 'm'; give one of 'km', 'mile'"):
        f.bind({"unit": "m"})
    with pytest.raises(InputError, match=r"rows\[1\] is 4; give a list of integers"):
        f.bind({"unit": "km", "rows": [[1], 4]})
    assert (
        Registry([f])
        .stub("f")
        .startswith("def f(unit: Literal['km', 'mile'], rows: list[list[int]] = []) -> int:")
    )
