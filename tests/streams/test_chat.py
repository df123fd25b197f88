"""Chat messages survive the way to a table and back."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tick_codec import byte_codec
from tokenizers import Tokenizer, normalizers

from stretto.errors import InputError
from stretto.streams import AGENT, StreamCodec, StreamTable
from stretto.streams.chat import from_messages, to_messages, to_tools
from stretto.streams.ticks import validate

CODEC = byte_codec()
Message = dict[str, Any]

CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "find", "arguments": '{ "city":\t"São Paulo",\n "n": 1.0}'},
}
CONVERSATION: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where to eat? 🍜", "name": "ann"},
    {"role": "assistant", "reasoning_content": "look it up", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": '["Asa"]'},
    {"role": "assistant", "content": "At Asa.", "refusal": None},
]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
extras = st.dictionaries(
    st.sampled_from(["name", "refusal", "$", "annotations"]),
    st.none() | texts | st.lists(st.fixed_dictionaries({"$": st.integers(0, 3)}), max_size=2),
    max_size=2,
)
parts = st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": texts}, optional={"cache": texts}),
    max_size=3,
)
contents = st.none() | texts | parts
calls = st.builds(
    lambda name, arguments, id_, rest: {**id_, "type": "function", **rest,
                                        "function": {"name": name, "arguments": arguments}},
    texts, texts, st.sampled_from([{}, {"id": "a"}, {"id": "b$"}]),
    st.sampled_from([{}, {"index": 0}]),
)  # fmt: skip


def message(role: str, **optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Message]:
    base = st.fixed_dictionaries({"role": st.just(role)}, optional={"content": contents} | optional)
    return st.builds(lambda rest, fields: rest | fields, extras, base)


messages = st.lists(
    message("system")
    | message("developer")
    | message("user")
    | message("tool", tool_call_id=st.none() | texts)
    | message(
        "assistant",
        reasoning_content=st.none() | texts,
        reasoning=st.none() | texts,
        tool_calls=st.none() | st.lists(calls, max_size=3),
    ),
    max_size=7,
)


@settings(max_examples=200, deadline=None)
@given(messages, st.booleans())
def test_messages_survive(conversation: list[Message], overlap: bool) -> None:
    table = from_messages(conversation, CODEC, overlap=overlap)
    validate(table)
    table.meta = json.loads(json.dumps(table.meta))
    back = to_messages(table)
    assert back == conversation
    assert json.dumps(back) == json.dumps(conversation)  # the order of keys too


@settings(max_examples=50, deadline=None)
@given(messages)
def test_messages_survive_a_file(conversation: list[Message]) -> None:
    pytest.importorskip("stretto.streams.jsonl")
    line = from_messages(conversation, CODEC).to_jsonl()
    assert to_messages(StreamTable.from_jsonl(line, CODEC)) == conversation


def test_each_text_has_its_stream() -> None:
    table = from_messages(CONVERSATION, CODEC)
    assert CODEC.decode(table.prompts["system"]) == "Be brief."
    assert table.text("user") == "Where to eat? 🍜"
    assert table.text("think") == "look it up"
    assert table.text("say") == "At Asa."
    assert table.text("result") == 'call_1: ["Asa"]'
    call = json.loads(table.text("code"))
    assert call == {"id": "call_1", **CALL["function"]}


def test_the_skeleton_holds_no_text_of_the_columns() -> None:
    stored = json.dumps(from_messages(CONVERSATION, CODEC).meta, ensure_ascii=False)
    for text in ("Be brief", "Where to eat", "look it up", "At Asa", "Paulo", "call_1"):
        assert text not in stored


def first_row(table: StreamTable, name: str, token: int | None = None) -> int:
    column = table.is_content()[:, AGENT.index(name)]
    if token is not None:
        column = table.rows[:, AGENT.index(name)] == token
    return int(column.argmax())


def test_say_waits_for_think_unless_they_overlap() -> None:
    talk: list[Message] = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "reasoning": "a greeting", "content": "hello"},
    ]
    waiting, together = (from_messages(talk, CODEC, overlap=o) for o in (False, True))
    end = CODEC.special.end
    assert first_row(waiting, "think") == first_row(waiting, "user", end) + 1
    assert first_row(waiting, "say") == first_row(waiting, "think", end) + 1
    assert first_row(together, "say") == first_row(together, "think") == 3


def test_calls_in_parallel_are_lines_of_one_message() -> None:
    second = CALL | {"id": "call_2"}
    talk: list[Message] = [{"role": "assistant", "content": "", "tool_calls": [CALL, second]}]
    table = from_messages(talk, CODEC)
    assert [json.loads(line)["id"] for line in table.text("code").splitlines()] == [
        "call_1",
        "call_2",
    ]
    assert to_messages(table) == talk


def test_a_later_system_message_is_not_read_before_its_time() -> None:
    talk: list[Message] = [
        {"role": "user", "content": "hi"},
        {"role": "system", "content": "now in French"},
    ]
    table = from_messages(talk, CODEC)
    assert not table.prompts["system"]
    assert table.text("user") == "hinow in French"
    assert to_messages(table) == talk


def test_tools_are_the_end_of_the_system_prompt() -> None:
    tools = [{"type": "function", "function": {"name": "find", "parameters": {}}}]
    table = from_messages(CONVERSATION, CODEC, tools=tools)
    assert CODEC.decode(table.prompts["system"]) == "Be brief.\n\n" + json.dumps(tools[0]) + "\n"
    assert to_tools(table) == tools
    assert to_tools(from_messages(CONVERSATION, CODEC)) is None
    assert to_messages(table) == CONVERSATION


def test_a_tokeniser_that_changes_text_loses_nothing() -> None:
    inner = Tokenizer.from_str(CODEC.tokenizer_json)
    inner.normalizer = normalizers.NFC()
    codec = StreamCodec(inner.to_str(), CODEC.special)
    call = {"id": "e\u0301", "function": {"name": "e\u0301", "arguments": "{}"}}
    talk: list[Message] = [
        {"role": "user", "content": "cafe\u0301"},
        {"role": "assistant", "content": "ok", "tool_calls": [call]},
    ]
    table = from_messages(talk, codec)
    assert table.text("user") == "caf\u00e9"
    assert to_messages(table) == talk


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ({"role": "function", "content": "x"}, "unknown role 'function'"),
        ({"content": "x"}, "unknown role None"),
        ("x", "unknown role 'x'"),
        ({"role": "user", "content": [IMAGE]}, "part 0: .*'image_url'"),
        ({"role": "user", "content": 3}, "expected text, got int"),
        ({"role": "user", "content": "\ud800"}, "UTF-8"),
        ({"role": "user", "content": "x", "seen": {1, 2}}, "survive JSON"),
        ({"role": "user", "content": "x", "p": float("nan")}, "survive JSON"),
        ({"role": "assistant", "function_call": {"name": "f"}}, "use tool_calls"),
        ({"role": "assistant", "tool_calls": "f()"}, "tool_calls is a list"),
        ({"role": "assistant", "tool_calls": [{"type": "custom"}]}, "type 'function'"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
            "raw JSON",
        ),
    ],
)
def test_what_a_table_cannot_hold_is_refused(bad: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        from_messages([{"role": "user", "content": "hi"}, bad], CODEC)


def test_tables_of_other_origin_are_refused() -> None:
    damaged = from_messages(CONVERSATION, CODEC)
    damaged.meta["messages"]["spans"][1][1] = 99
    for table in (damaged, StreamTable(AGENT, CODEC.special, codec=CODEC)):
        with pytest.raises(InputError, match="only tables of from_messages"):
            to_messages(table)


def test_without_a_codec_there_is_no_text() -> None:
    table = from_messages(CONVERSATION, CODEC)
    table.codec = None
    with pytest.raises(InputError, match="no codec"):
        to_messages(table)
