"""BFCL's rules, case by case, and the filling of arguments from what a question mentions."""

import json
from pathlib import Path
from typing import Any

import pytest

from stretto.agents.grounding import Filling
from stretto.errors import InputError
from stretto.evals.bfcl import Item, fill_by_chance, json_schema, load_items, mismatch, prompt


def _why(kind: Any, value: Any, accepted: list[Any], *, required: bool = True) -> str:
    part = kind if isinstance(kind, dict) else {"type": kind}
    function = {"parameters": {"properties": {"a": part}, "required": ["a"] if required else []}}
    return mismatch(function, {"a": value}, {"a": accepted})


LIST = {"type": "array", "items": {"type": "string"}}
FLOATS = {"type": "array", "items": {"type": "float"}}
DICTS = {"type": "array", "items": {"type": "dict"}}

ACCEPTED = [
    ("integer", 5, [5]),
    ("float", 5, [5.0]),  # an int is a float
    ("string", "April 1,2024", ["april 1 2024"]),
    ("string", "it's", ['It"s']),
    ("boolean", True, [True]),
    (LIST, ["New York", "b"], [["b"], ["new-york", "B"]]),
    (FLOATS, [1.0, 2.5], [[1.0, 2.5]]),
    (FLOATS, [], ["", []]),
    ("dict", {"x": "A", "y": 1}, [{"x": ["a", "b"], "y": [1], "z": ["", 3]}]),
    (DICTS, [{"x": 1}, {"x": 2}], [[{"x": [1]}, {"x": [2]}]]),
    ("integer", "n", ["n"]),  # a variable, where the answer is one
    ({"type": "tuple", "items": {"type": "integer"}}, [1], [[1]]),
]
REFUSED = [
    ("integer", 5.0, [5], "5.0 is no integer"),
    ("integer", True, [1], "True is no integer"),
    ("integer", "5", [5], "'5' is no integer"),
    ("integer", 6, [5], "6 is none of [5]"),
    ("float", "5", [5.0], "'5' is no float"),
    ("string", 5, ["5"], "5 is no string"),
    ("string", "Paris", ["Rome", ""], "'Paris' is none of ['Rome', '']"),
    ("boolean", 1, [True], "1 is no boolean"),
    (LIST, ["b", "a"], [["a", "b"]], "['b', 'a'] is none of"),
    (LIST, ["a"], [["a", "b"]], "['a'] is none of"),
    (FLOATS, [1], [[1.0]], "[1] is no array"),  # items are not made floats
    ("dict", {"x": "c"}, [{"x": ["a"]}], "is none of"),
    ("dict", {}, [{"x": ["a"]}], "is none of"),
    ("dict", {"x": "a", "q": 1}, [{"x": ["a"]}], "is none of"),
    (DICTS, [{"x": 2}, {"x": 1}], [[{"x": [1]}, {"x": [2]}]], "is none of"),
    ("integer", 5, ["n"], "5 is none of ['n']"),
]


@pytest.mark.parametrize(("kind", "value", "accepted"), ACCEPTED)
def test_accepted(kind: Any, value: Any, accepted: list[Any]) -> None:
    assert _why(kind, value, accepted) == ""


@pytest.mark.parametrize(("kind", "value", "accepted", "why"), REFUSED)
def test_refused(kind: Any, value: Any, accepted: list[Any], why: str) -> None:
    found = _why(kind, value, accepted)
    assert found.startswith("a: ") and why in found


def test_what_is_missing_or_too_much() -> None:
    function = {"parameters": {"properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                               "required": ["a"]}}  # fmt: skip
    assert mismatch(function, {}, {"a": [1]}) == "a: missing"
    assert mismatch(function, {"a": 1, "c": 1}, {"a": [1]}) == "c: unexpected"
    assert mismatch(function, {"a": 1, "b": 1}, {"a": [1]}) == "b: unexpected"
    assert mismatch(function, {"a": 1}, {"a": [1], "b": [2]}) == "b: left out"
    assert mismatch(function, {"a": 1}, {"a": [1], "b": [2, ""]}) == ""
    assert mismatch(function, [1], {"a": [1]}) == "not an object"


def _item(question: str, properties: dict[str, Any], needed: list[str]) -> Item:
    parameters = {"type": "dict", "properties": properties, "required": needed}
    function = {"name": "f", "description": "F.", "parameters": parameters}
    return Item("x", question, function, {})


def _choices(item: Item) -> dict[str, Any]:
    """What the model is asked, or what is settled without it; the first choice is taken."""
    filling, asked = Filling(item.schema, item.question), {}
    while (schema := filling.next()) is not None:
        name = json.loads(filling.written.rpartition(", ")[2].strip("{:"))
        asked[name] = schema
        filling.take(schema["enum"][0] if "enum" in schema else "?")
    return {**filling.arguments, **{name: schema.get("enum") for name, schema in asked.items()}}


def test_arguments_are_what_the_question_mentions() -> None:
    item = _item(
        "Find 3 hotels in Lyon, France with a pool from May 3rd, 2024 for 150 euros.",
        {
            "city": {"type": "string", "description": "The city."},
            "price": {"type": "integer", "description": "Most that a night may cost."},
            "start": {"type": "string", "description": "Date in the format DD/MM/YYYY."},
            "pool": {"type": "boolean", "description": "Whether there is a pool."},
            "stars": {"type": "float", "description": "Default is 3.0"},
            "view": {"type": "string", "description": "View. Default is 'sea'."},
        },
        ["city", "price", "start"],
    )
    found = _choices(item)
    assert "Lyon" in found["city"] and not any("hotels in" in each for each in found["city"])
    assert set(found["price"]) == {3, 150}  # the day and the year are the date's
    assert found["start"] == "03/05/2024" and found["pool"] is True
    assert "stars" not in found and "view" not in found


def test_a_labelled_number_is_settled() -> None:
    properties = {name: {"type": "integer", "description": ""} for name in ("radius", "height")}
    item = _item("A cone of height 7 and a radius of 5.", properties, ["radius", "height"])
    assert _choices(item) == {"radius": 5, "height": 7}


def test_lists_and_enums() -> None:
    item = _item(
        "Compare the rent and food prices of Oslo, Bergen and Tromso.",
        {
            "cities": {"type": "array", "items": {"type": "string"}, "description": "Cities."},
            "what": {"type": "array", "description": "What to compare.",
                     "items": {"type": "string", "enum": ["food", "rent", "fuel"]}},
        },
        ["cities", "what"],
    )  # fmt: skip
    found = _choices(item)
    assert ["Oslo", "Bergen", "Tromso"] in found["cities"]
    assert found["what"] == ["rent", "food"]


def test_written_continues_as_json() -> None:
    properties = {name: {"type": "string", "description": ""} for name in ("from", "to")}
    filling = Filling(_item("x", properties, ["from", "to"]).schema, "Fly from Lima to Quito now.")
    assert filling.next() is not None
    assert filling.written == '{"from":'
    filling.take("Lima")
    schema = filling.next()
    assert filling.written == '{"from": "Lima", "to":'
    assert schema is not None and "Lima" not in schema["enum"]


def test_items_are_read_and_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no BFCL data"):
        load_items(tmp_path)
    (tmp_path / "possible_answer").mkdir()
    question = {
        "id": "s_0",
        "question": [[{"role": "user", "content": "Add 1."}]],
        "function": [{"name": "m.add", "description": "Add.", "parameters": {
            "type": "dict", "properties": {"n": {"type": "integer", "description": "N."}},
            "required": ["n"]}}],
    }  # fmt: skip
    answer = {"id": "s_0", "ground_truth": [{"m.add": {"n": [1]}}]}
    name = "BFCL_v4_simple_python.json"
    (tmp_path / name).write_text(json.dumps(question) + "\n")
    (tmp_path / "possible_answer" / name).write_text(json.dumps(answer) + "\n")
    (item,) = load_items(tmp_path)
    assert item.question == "Add 1." and item.answer == {"n": [1]}
    assert item.schema["properties"]["n"] == {"type": "integer", "description": "N."}
    assert prompt(item).endswith("Question: Add 1.\nArguments:")
    assert [found.why for found in fill_by_chance([item])] == [""]  # one number, one choice
    (tmp_path / name).write_text("{}\n")
    with pytest.raises(InputError, match="not BFCL v4 data"):
        load_items(tmp_path)


def test_types_have_their_json_names() -> None:
    part = {"type": "tuple", "items": {"type": "float"}, "description": "d"}
    assert json_schema(part) == {"type": "array", "items": {"type": "number"}, "description": "d"}
