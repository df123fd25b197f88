"""Reading actions, in whatever pieces they come."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stretto.agents import prompting
from stretto.agents.dialects import (
    DIALECTS,
    Call,
    Code,
    CodeParser,
    Final,
    JsonParser,
    Malformed,
    Say,
    TextParser,
    Think,
    get,
)
from stretto.agents.registry import Registry
from stretto.agents.tool import Tool
from stretto.errors import ConfigError
from stretto.protocols import Completion, ToolCall


def read(parser, text, cuts=(), **options):
    cuts = [0, *sorted(cuts), len(text)]
    items = []
    for start, end in itertools.pairwise(cuts):
        items += parser.push(text[start:end])
    return items + parser.finish(Completion(text, **options))


NOTHING = "write Python code in a ```python fence, or answer in words"
ANSWER = """<think>first
then</think>I look.
```python
x = 1
print('''
``
''')
```
Between.
~~~
y = 2
~~~
```json
{"a": 1}
```
Done."""


def test_code_in_fences():
    items = read(CodeParser(), ANSWER)
    assert [i.text for i in items if isinstance(i, Think)] == ["first\n", "then"]
    code = "".join(i.text for i in items if isinstance(i, Code))
    assert code == "x = 1\nprint('''\n``\n''')\ny = 2\n"
    said = "".join(i.text for i in items if isinstance(i, Say))
    assert said == 'I look.\nBetween.\n{"a": 1}\nDone.'
    assert not any(isinstance(i, Final | Malformed) for i in items)


@given(st.lists(st.integers(0, len(ANSWER))), st.sampled_from([CodeParser, JsonParser, TextParser]))
def test_pieces_do_not_matter(cuts, parser):
    text = ANSWER + '\nAction: f(1)\n{"name": "g", "arguments": {"k": [1]}}'
    assert read(parser(), text, cuts) == read(parser(), text)


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("It is 4.", Final("It is 4.")),
        ("<think>4</think>It is 4.\n", Final("It is 4.")),
        ("", Malformed(NOTHING)),
        ("<think>so</think>", Malformed(NOTHING)),
        ("```py\nx", Code("x")),
        ("   ```python\n   x = 1\n   ```\n", Code("x = 1\n")),
        ("````python\n```\n````\n", Code("```\n")),
    ],
)  # fmt: skip
def test_what_an_answer_comes_to(text, last):
    assert read(CodeParser(), text)[-1] == last


def test_an_answer_that_was_cut_off():
    for parser, text in ((CodeParser(), "```python\nx = [1,"), (CodeParser(), "It is"),
                         (JsonParser(), "It is")):  # fmt: skip
        last = read(parser, text, finish_reason="length")[-1]
        assert isinstance(last, Malformed) and "cut off" in last.hint


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('{"name": "f", "arguments": {"a": 1}}', [Call("f", kwargs={"a": 1})]),
        ('Go: ```json\n{"tool": "f", "args": {}}\n```', [Call("f")]),
        ('[{"name": "f", "arguments": {}}, {"name": "g", "parameters": {"b": "}"}}]',
         [Call("f"), Call("g", kwargs={"b": "}"})]),
        ('{"function": {"name": "f", "arguments": "{\\"a\\": 2}"}}', [Call("f", kwargs={"a": 2})]),
        ('{"name": "f"}', [Call("f")]),
    ],
)  # fmt: skip
def test_json_in_text(text, calls):
    assert [i for i in read(JsonParser(), text) if not isinstance(i, Say)] == calls


def test_json_that_is_no_call_or_is_broken():
    for text in ('It is {"name": "Ann", "age": 3}', 'The set {1, 2} and {"age": 3}.'):
        assert read(JsonParser(), text)[-1] == Final(text)
    last = read(JsonParser(), '{"name": "f", "arguments": {"a": }}')[-1]
    assert isinstance(last, Malformed) and "char 33" in last.hint


def test_calls_of_the_endpoint():
    calls = (ToolCall("1", "f", '{"a": 1}'), ToolCall("2", "g", "{"), ToolCall("3", "h", "[]"),
             ToolCall("4", "k", ""))  # fmt: skip
    items = read(JsonParser(), "I call.", tool_calls=calls)
    assert items[0] == Say("I call.") and items[1] == Call("f", kwargs={"a": 1}, id="1")
    assert isinstance(items[2], Malformed) and items[2].id == "2" and "no JSON" in items[2].hint
    assert isinstance(items[3], Malformed) and items[3].id == "3"
    assert items[4] == Call("k", id="4")


def test_lines_of_text():
    items = read(TextParser(), 'Look.\nAction: f("a", k=[1, {"b": None}])\nAction: g(h())\n')
    assert items[1] == Call("f", ("a",), {"k": [1, {"b": None}]})
    assert isinstance(items[2], Malformed) and "'g(h())' is no call" in items[2].hint
    assert read(TextParser(), "Answer: 4")[-1] == Final("4")
    assert isinstance(read(TextParser(), "Action: f({1, 2})")[-1], Malformed)  # JSON has no sets


def test_prompts_tell_of_the_tools():
    def find(query: str) -> str:
        """Look something up."""
        return query

    registry = Registry([Tool(find, effect="read")])
    for name, dialect in DIALECTS.items():
        made = prompting.surroundings(dialect, registry, "look", skills="def s(): ...", memory="m")
        assert ("def find(query: str)" in made.system) == (name != "json")
        assert [s["function"]["name"] for s in made.schemas] == ["find"] * (name == "json")
        assert "def s(): ..." in made.system and "$" not in made.system
        assert len(prompting.digest(dialect)) == 64
    with pytest.raises(ConfigError, match="no dialect 'xml'; choose from auto, code"):
        get("xml")


def test_of_many_tools_those_that_fit_are_shown():
    def make(number):
        def run(x: int) -> int:
            return x

        return Tool(run, name=f"tool_{number}", doc=f"Does task {number}.", effect="read")

    registry = Registry([make(number) for number in range(50)])
    made = prompting.surroundings(DIALECTS["code"], registry, "task 37", used=["tool_3", "gone"])
    assert len(made.shown) == prompting.MANY and made.shown[0] == "tool_3"
    assert "tool_37" in made.shown and "def find_tools" in made.system
    assert len(made.effects) == 51  # all can be called
