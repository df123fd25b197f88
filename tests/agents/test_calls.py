"""Requests taken apart, tools found, and the grammar that holds a model to one call."""

import ast
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stretto.agents.calls import MOST, call_grammar, signature
from stretto.agents.needs import needs
from stretto.agents.registry import Registry
from stretto.agents.tool import Tool
from stretto.errors import InputError


def set_thermostat(room: str, degrees: float) -> None:
    """Set the thermostat of a room to a temperature."""


def write_note(title: str, text: str) -> None:
    """Write a note into a file: what it says."""


def find_city(city: str, country: str = "") -> None:
    """Look up the population of a city."""


REGISTRY = Registry([set_thermostat, write_note, find_city])


@pytest.mark.parametrize(
    ("request_", "parts"),
    [
        ("Set the kitchen to 21 degrees.", [("Set the kitchen to 21 degrees.", "set_thermostat")]),
        (
            "Look up the city Oslo, then write a note. Set the bedroom thermostat to 3.5 degrees!",
            [("Look up the city Oslo", "find_city"), ("Write a note.", "write_note"),
             ("Set the bedroom thermostat to 3.5 degrees!", "set_thermostat")],
        ),
        (
            'write a note about milk and eggs and set the room to 20 degrees',
            [("Write a note about milk and eggs", "write_note"),
             ("Set the room to 20 degrees", "set_thermostat")],
        ),
        ("What is what?", [("What is what?", None)]),  # asking is no topic
        ("Sing.", [("Sing.", None)]),
    ],
)  # fmt: skip
def test_needs(request_, parts):
    found = needs(request_, REGISTRY)
    assert [(n.text, n.tools[0].name if n.tools else None) for n in found] == parts


def test_an_empty_request_is_refused():
    with pytest.raises(InputError, match="empty"):
        needs("  ", REGISTRY)


def texts(grammar, most=2000):
    """All texts of a grammar whose rules are literals, groups and alternatives."""
    (line,) = grammar.splitlines()
    source = line.removeprefix("start: ")
    tokens = re.findall(r'"(?:[^"\\]|\\.)*"|[()|]', source)

    def choice(i):
        found, i = chain(i)
        while i < len(tokens) and tokens[i] == "|":
            more, i = chain(i + 1)
            found += more
        return found, i

    def chain(i):
        found = [""]
        while i < len(tokens) and tokens[i] not in "|)":
            if tokens[i] == "(":
                parts, i = choice(i + 1)
            else:
                parts = [json.loads(tokens[i])]
            i += 1
            found = [a + b for a in found for b in parts]
            assert len(found) <= most
        return found, i

    return choice(0)[0]


def calls(grammar):
    for text in texts(grammar):
        (line,) = ast.parse(text).body
        yield line.value.func.id, {k.arg: ast.literal_eval(k.value) for k in line.value.keywords}


def test_every_text_of_the_grammar_is_a_call_of_what_was_mentioned():
    tool = Tool(set_thermostat)
    found = list(calls(call_grammar(tool, "Set the kitchen to 21 degrees.")))
    assert [a["room"] for _, a in found] == ["kitchen", "21 degrees", "degrees"]
    assert {a["degrees"] for _, a in found} == {21}
    found = list(calls(call_grammar(Tool(write_note), 'A note "Shopping" that says "milk".')))
    assert ("write_note", {"title": "Shopping", "text": "milk"}) in found
    assert all(name == "write_note" and set(a) == {"title", "text"} for name, a in found)
    assert {a["title"] for _, a in found} > {"Shopping", "milk"}
    # What is not mentioned and not needed is left out.
    assert list(calls(call_grammar(Tool(find_city), "Where is Oslo?"))) == [
        ("find_city", {"city": "Oslo"})
    ]


def test_names_that_are_no_python_and_values_of_all_kinds():
    schema = {
        "type": "object",
        "properties": {
            "is": {"type": "boolean"},
            "sizes": {"type": "array", "items": {"type": "integer"}},
            "box": {"type": "object", "properties": {"a b": {"type": "boolean"}, "c": {
                "type": "array", "items": {"enum": ["x", 'y"']}}}, "required": ["a b", "c"]},
        },
        "required": ["is", "sizes", "box"],
    }  # fmt: skip
    tool = Tool.from_schema("math.box", "Boxes.", schema, print)
    assert signature(tool) == "math_box(is_, sizes, box)"
    grammar = call_grammar(tool, "Anything.")
    assert grammar.startswith('start: "math_box(" "is_=" ("True" | "False") ", sizes=" "[" (')
    assert "{{" not in grammar and '\\"a b\\": ' in grammar
    compiled(grammar)


def test_many_ways_are_cut_short():
    schema = {"type": "object", "properties": {f"p{i}": {"enum": list("abcdef")} for i in range(9)},
              "required": [f"p{i}" for i in range(9)]}  # fmt: skip
    tool = Tool.from_schema("f", "F.", schema, print)
    grammar = call_grammar(tool, "Whatever.")
    assert MOST < grammar.count('")"') < 4 * MOST
    compiled(grammar)


def compiled(grammar):
    """Refused by llguidance if it is no grammar."""
    library = pytest.importorskip("llguidance")
    source = library.LLMatcher.grammar_from_lark(grammar)
    assert not library.LLMatcher.validate_grammar(source)


@settings(max_examples=40)
@given(st.text(max_size=80))
def test_whatever_is_said_the_grammar_is_one(said):
    compiled(call_grammar(Tool(find_city), said))
