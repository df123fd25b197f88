"""Chat messages (OpenAI format, with reasoning and tool calls) to tables and back, without loss.

| message                                   | stream                                          |
|-------------------------------------------|-------------------------------------------------|
| system, developer, before any other       | ``system``, as prompt; then the ``tools``       |
| system, developer, later on               | ``user``, the trusted stream that is live       |
| user                                      | ``user``                                        |
| assistant: reasoning_content or reasoning | ``think``                                       |
| assistant: content                        | ``say``                                         |
| assistant: tool_calls                     | ``code``, a call a line of JSON                 |
| tool                                      | ``result``: ``tool_call_id``, ``": "``, content |

What the columns do not say (order, roles, names, extra keys) is kept in ``meta["messages"]`` as a
skeleton: the messages with each text replaced by a reference to a span of a column.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from stretto.errors import InputError
from stretto.streams.sets import AGENT
from stretto.streams.table import StreamTable
from stretto.streams.ticks import TickWriter
from stretto.streams.tokens import StreamCodec

_SYSTEM_ROLES = ("system", "developer")
_ROLES = (*_SYSTEM_ROLES, "user", "assistant", "tool")
_REASONING_KEYS = ("reasoning_content", "reasoning")
_PROMPT = -1  # message index of a span that lies in the prompt
_REF = "$"
# A reference is {"$": span}, {"$": [span]} for the span read as JSON, {"$": [span, key]} for one
# field of it, or {"$": {"is": value}} for a value that stands for itself.


class _Columns:
    """Token ids of every message, and where each text of the conversation lies in them."""

    def __init__(self, codec: StreamCodec) -> None:
        self.codec = codec
        self.spans: list[tuple[str, int, int, int]] = []
        self._index: dict[str, int] = defaultdict(int, system=_PROMPT)
        self._ids: dict[str, list[int]] = defaultdict(list)
        self._taken: dict[str, int] = defaultdict(int)

    def glue(self, stream: str, text: str) -> None:
        """Append text that nothing refers to, unless the message has just begun."""
        if self._ids[stream]:
            self._ids[stream] += self.codec.encode(text)

    def put(self, stream: str, text: str) -> int | None:
        """Append ``text`` to the open message; its span, or None if the tokeniser changes it."""
        ids, start = self.codec.encode(text), len(self._ids[stream])
        self._ids[stream] += ids
        if self.codec.decode(ids) != text:
            return None
        self.spans.append((stream, self._index[stream], start, start + len(ids)))
        return len(self.spans) - 1

    def take(self, stream: str, *, close: bool) -> list[int]:
        """Ids put since the last call; ``close`` ends the message."""
        ids = self._ids[stream][self._taken[stream] :]
        self._taken[stream] += len(ids)
        if close:
            self._index[stream] += 1
            self._ids[stream], self._taken[stream] = [], 0
        return ids

    def text(self, stream: str, text: Any, where: str) -> Any:
        """Put a text, return what stands for it in the skeleton. None and "" stand as they are."""
        if text is None or text == "":
            return text
        if not isinstance(text, str):
            raise InputError(f"{where}: expected text, got {type(text).__name__}")
        span = self.put(stream, text)
        return {_REF: {"is": text}} if span is None else {_REF: span}


def from_messages(
    messages: Sequence[Mapping[str, Any]],
    codec: StreamCodec,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    overlap: bool = False,
) -> StreamTable:
    """A conversation as a table of the set ``AGENT``.

    Inputs arrive one token a row; the assistant starts in the row after their ``end``. Several
    assistant messages in a row are one message of each stream, spoken part by part.

    Args:
        messages: in the format of OpenAI's chat completions; texts only.
        codec: the tokeniser.
        tools: definitions offered to the model; they end the system prompt, one a line.
        overlap: start think, say and code together. Otherwise say and code wait for think.

    Raises:
        InputError: a role, part or field that a table cannot hold, naming the message.
    """
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or message.get("role") not in _ROLES:
            role = message.get("role") if isinstance(message, Mapping) else message
            raise InputError(f"message {i}: unknown role {role!r}; use {', '.join(_ROLES)}")
    columns = _Columns(codec)
    num_leading = _num_leading_system(messages)
    skeleton = [
        _prompt_message(columns, message, f"message {i}")
        for i, message in enumerate(messages[:num_leading])
    ]
    tool_refs = None if tools is None else _prompt_tools(columns, tools)
    writer = TickWriter(AGENT, codec, {"system": columns.take("system", close=True)})
    live = list(enumerate(messages))[num_leading:]
    for is_assistant, group in groupby(live, key=lambda item: item[1]["role"] == "assistant"):
        turn = list(group)
        for i, message in turn:
            where = f"message {i}"
            if is_assistant:
                last = i == turn[-1][0]
                skeleton.append(_speak(columns, writer, message, where, last, overlap))
            else:
                skeleton.append(_hear(columns, writer, message, where))
    meta = {"skeleton": skeleton, "spans": [list(span) for span in columns.spans]}
    if tool_refs is not None:
        meta["tools"] = tool_refs
    return writer.table({"messages": meta})


def to_messages(table: StreamTable) -> list[dict[str, Any]]:
    """Exact inverse of :func:`from_messages`.

    Raises:
        InputError: the table has no codec, or was not made by :func:`from_messages`.
    """
    return [dict(message) for message in _resolve_all(table, "skeleton")]


def to_tools(table: StreamTable) -> list[dict[str, Any]] | None:
    """The ``tools`` given to :func:`from_messages`; None if there were none.

    Raises:
        InputError: as :func:`to_messages`.
    """
    if "tools" not in table.meta.get("messages", {"tools": None}):
        return None
    return list(_resolve_all(table, "tools"))


def _num_leading_system(messages: Sequence[Mapping[str, Any]]) -> int:
    count = 0
    while count < len(messages) and messages[count].get("role") in _SYSTEM_ROLES:
        count += 1
    return count


def _prompt_message(columns: _Columns, message: Mapping[str, Any], where: str) -> dict[str, Any]:
    columns.glue("system", "\n\n")
    return _fields(message, {"content": _content(columns, "system", message, where)}, where)


def _prompt_tools(columns: _Columns, tools: Sequence[Mapping[str, Any]]) -> list[Any]:
    refs = []
    columns.glue("system", "\n\n")
    for i, tool in enumerate(tools):
        _check_json(tool, f"tool {i}")
        line = json.dumps(tool, ensure_ascii=False)
        span = columns.put("system", line + "\n")
        refs.append({_REF: {"is": tool}} if span is None else {_REF: [span]})
    return refs


def _hear(
    columns: _Columns, writer: TickWriter, message: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """An input message arrives."""
    is_tool = message["role"] == "tool"
    stream, known = ("result" if is_tool else "user"), {}
    if is_tool and "tool_call_id" in message:
        known["tool_call_id"] = columns.text(stream, message["tool_call_id"], where)
        columns.glue(stream, ": ")
    known["content"] = _content(columns, stream, message, where)
    out = _fields(message, known, where)
    writer.message(stream, columns.take(stream, close=True))
    return out


def _speak(
    columns: _Columns,
    writer: TickWriter,
    message: Mapping[str, Any],
    where: str,
    last: bool,
    overlap: bool,
) -> dict[str, Any]:
    """An assistant message is said; the ``last`` of a turn closes all three streams."""
    if message.get("function_call") is not None:
        raise InputError(f"{where}: function_call is no longer in the format; use tool_calls")
    known = _reasoning(columns, message, where)
    known["content"] = _content(columns, "say", message, where)
    known["tool_calls"] = _calls(columns, message.get("tool_calls"), where)
    out = _fields(message, known, where)
    ids = {name: columns.take(name, close=last) for name in ("think", "say", "code")}
    writer.queue("think", ids["think"], end=last)
    if ids["think"] and not overlap:
        writer.drain("think")
    writer.queue("say", ids["say"], end=last)
    writer.queue("code", ids["code"], end=last)
    writer.drain()
    return out


def _reasoning(columns: _Columns, message: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Servers differ in the key, and some send both; the same text is thought once."""
    known: dict[str, Any] = {}
    for key in (key for key in _REASONING_KEYS if key in message):
        twin = next((k for k in known if message[k] == message[key]), None)
        known[key] = known[twin] if twin else columns.text("think", message[key], f"{where}, {key}")
    return known


def _content(columns: _Columns, stream: str, message: Mapping[str, Any], where: str) -> Any:
    content = message.get("content")
    if not isinstance(content, list):
        return columns.text(stream, content, f"{where}, content")
    parts = []
    for i, part in enumerate(content):
        at = f"{where}, part {i}"
        if not isinstance(part, Mapping) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise InputError(f"{at}: a table holds parts of type 'text' only, not {kind!r}")
        parts.append(_fields(part, {"text": columns.text(stream, part.get("text"), at)}, at))
    return parts


def _calls(columns: _Columns, calls: Any, where: str) -> Any:
    if calls is None:
        return None
    if not isinstance(calls, list):
        raise InputError(f"{where}: tool_calls is a list, not {type(calls).__name__}")
    return [_call(columns, call, f"{where}, tool call {i}") for i, call in enumerate(calls)]


def _call(columns: _Columns, call: Mapping[str, Any], where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or call.get("type", "function") != "function":
        raise InputError(f"{where}: only calls of type 'function' are known")
    if not (isinstance(function.get("name"), str) and isinstance(function.get("arguments"), str)):
        raise InputError(f"{where}: name and arguments must be text (arguments: the raw JSON)")
    _check_json(call, where)
    fields = {"name": function["name"], "arguments": function["arguments"]}
    if "id" in call:
        fields = {"id": call["id"], **fields}
    span = columns.put("code", json.dumps(fields, ensure_ascii=False) + "\n")
    if span is None:
        return {_REF: {"is": dict(call)}}
    refs = {key: {_REF: [span, key]} for key in fields}
    inner = _fields(function, {key: refs[key] for key in ("name", "arguments")}, where)
    return _fields(call, {"id": refs.get("id"), "function": inner}, where)


def _fields(source: Mapping[str, Any], known: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``source``, key by key in its order, with what stands for each ``known`` field."""
    out = {}
    for key, value in source.items():
        if key in known:
            out[key] = known[key]
        else:
            _check_json({key: value}, where)
            out[key] = {_REF: {"is": value}} if _REF in json.dumps(value) else value
    return out


def _check_json(value: Any, where: str) -> None:
    try:
        same = json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError):
        same = False
    if not same:
        raise InputError(f"{where}: {str(value)[:60]!r} does not survive JSON")


def _resolve_all(table: StreamTable, part: str) -> list[Any]:
    if table.codec is None:
        raise InputError("this table has no codec: pass codec= when loading it to get messages")
    try:
        meta = table.meta["messages"]
        texts = [_span_text(table, table.codec, *span) for span in meta["spans"]]
        return [_resolve(item, texts) for item in meta[part]]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            f"table.meta['messages'] is missing or damaged ({error!r}); "
            "only tables of from_messages become messages again"
        ) from None


def _span_text(
    table: StreamTable, codec: StreamCodec, stream: str, index: int, start: int, stop: int
) -> str:
    ids = table.prompts[stream] if index == _PROMPT else table.messages(stream)[index]
    return codec.decode(ids[start:stop])


def _resolve(item: Any, texts: Sequence[str]) -> Any:
    if isinstance(item, list):
        return [_resolve(value, texts) for value in item]
    if not isinstance(item, dict):
        return item
    if item.keys() != {_REF}:
        return {key: _resolve(value, texts) for key, value in item.items()}
    ref = item[_REF]
    if isinstance(ref, dict):
        return ref["is"]
    if isinstance(ref, int):
        return texts[ref]
    value: Any = json.loads(str(texts[ref[0]]))
    return value[ref[1]] if len(ref) > 1 else value
