"""Tools by name: they come and go, are found, and are shown in every dialect."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import stretto.agents
from stretto.agents.registry import Registry
from stretto.agents.retrieval import TextIndex, words
from stretto.agents.tool import Tool, tool
from stretto.errors import ConfigError, InputError


def _tool(number: int) -> Tool:
    def f(n: int, text: str = "a") -> str:
        return text * (n + number)

    return Tool(f, name=f"tool_{number}", doc=f"Does the {number}th thing.", effect="pure")


@tool(effect="read", untrusted=True)
def get_weather(city: str, days: int = 1) -> str:
    """The weather in a city, for some days."""
    return ""


@tool
def send_mail(to: str, text: str) -> None:
    """Send an e-mail message to a person."""


def test_fifty_tools_come_and_go_and_nothing_else_changes() -> None:
    """The code that calls is the same before, with fifty more, and after."""
    registry = Registry([get_weather, send_mail])

    def shown() -> str:
        schemas = [registry.json_schema(t.name, "openai") for t in registry]
        found = [t.name for t in registry.find("weather in Paris")]
        return json.dumps([registry.stub(), schemas, registry.grammar(), found, registry.effects])

    def call(name: str, *args: object) -> object:
        made = registry.get(name)
        return made.call(**made.named(args, {}))

    folder = Path(stretto.agents.__file__).parent
    files = {path: path.read_bytes() for path in folder.rglob("*.py")}
    before, modules = shown(), set(sys.modules)
    added = [registry.add(_tool(number)) for number in range(50)]
    assert len(registry) == 52
    for number in range(50):
        name = f"tool_{number}"
        assert call(name, 1, "x") == "x" * (1 + number)
        assert f"def {name}(n: int, text: str = 'a') -> str:" in registry.stub()
    assert len(registry.grammar()["anyOf"]) == 52
    assert registry.find("the 7th thing", top=1)[0].name == "tool_7"
    for each in added:
        registry.remove(each.name)
    assert shown() == before
    assert {path: path.read_bytes() for path in folder.rglob("*.py")} == files
    assert set(sys.modules) == modules
    with pytest.raises(InputError, match="no tool 'tool_7'; choose from"):
        call("tool_7", 1)


def test_names_are_unique_in_python_too() -> None:
    registry = Registry([Tool(lambda: 1, name="math.add")])
    assert registry.get("math_add").name == "math.add" and "math_add" in registry
    with pytest.raises(ConfigError, match=r"tool math-add: there is a tool math\.add already"):
        registry.add(Tool(lambda: 1, name="math-add"))


def test_find_ranks_by_fit() -> None:
    registry = Registry([send_mail, get_weather, *map(_tool, range(20))])
    assert registry.find("What will the weather be in two cities?")[0].name == "get_weather"
    assert registry.find("mails")[0].name == "send_mail"
    assert registry.find("xyzzy") == []


def test_index_forgets_what_is_removed() -> None:
    index, once = TextIndex(), TextIndex()
    for key, text in (("a", "red apple"), ("b", "green pears"), ("c", "red wine")):
        index.add(key, text)
    for key, text in (("a", "red apple"), ("c", "red wine")):
        once.add(key, text)
    index.add("b", "blue pears")
    index.remove("b")
    assert index.find("red pears apples") == once.find("red pears apples")
    assert [found.key for found in index.find("apple red")] == ["a", "c"]
    assert index.find("pear") == [] and len(index) == 2


def test_words_are_taken_apart() -> None:
    assert words("getHTTPResponse for user_ids, cities: glass") == [
        "get", "http", "response", "user", "id", "city", "glass",
    ]  # fmt: skip


def test_dialects() -> None:
    registry = Registry([get_weather])
    schema = get_weather.schema
    made = registry.json_schema("get_weather")
    assert made["type"] == "function" and made["function"]["parameters"] == schema
    assert registry.json_schema("get_weather", "anthropic")["input_schema"] == schema
    made = registry.json_schema("get_weather", "mcp")
    assert made["inputSchema"] == schema
    assert made["annotations"]["readOnlyHint"] and made["annotations"]["openWorldHint"]
    with pytest.raises(ConfigError, match="dialect is 'x'"):
        registry.json_schema("get_weather", "x")  # type: ignore[arg-type]


def test_calls_are_parsed_in_each_dialect() -> None:
    registry = Registry([get_weather])
    for call in (
        {"name": "get_weather", "arguments": {"city": "Rome"}},
        {"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}},
        {"type": "tool_use", "name": "get_weather", "input": {"city": "Rome"}},
    ):
        assert registry.parse(call) == (get_weather, {"city": "Rome"})
    with pytest.raises(InputError, match="the arguments are not JSON"):
        registry.parse({"name": "get_weather", "arguments": "{"})


def test_grammar_forces_valid_arguments() -> None:
    """The engine's compiler reads what the registry makes, and takes only such calls."""
    llguidance = pytest.importorskip("llguidance")
    registry = Registry([get_weather, send_mail])
    options = {"whitespace_flexible": False}

    def takes(schema: dict[str, object], text: str) -> bool:
        source = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=options)
        tokenizer = llguidance.LLTokenizer("byte")
        matcher = llguidance.LLMatcher(tokenizer, source, log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        done = matcher.try_consume_tokens(tokenizer.tokenize_str(text))
        return done == len(text) and matcher.is_accepting()

    one = registry.arguments("get_weather")
    assert takes(one, '{"city":"Rome","days":3}') and takes(one, '{"city":"Rome"}')
    assert not takes(one, '{"days":3}') and not takes(one, '{"city":"Rome","n":3}')
    call = registry.grammar()
    assert takes(call, '{"name":"send_mail","arguments":{"to":"a","text":"b"}}')
    assert not takes(call, '{"name":"send_mail","arguments":{"city":"a"}}')


def test_core_needs_no_optional_package() -> None:
    code = (
        "import sys; import stretto.agents.broker, stretto.agents.registry;"
        "bad = {'torch', 'llguidance', 'mcp', 'openai', 'transformers'} & set(sys.modules);"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
