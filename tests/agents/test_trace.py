import asyncio
import json

import pytest

pytest.importorskip("opentelemetry.sdk")
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from stretto.agents import trace
from stretto.agents.broker import Broker, Call
from stretto.agents.registry import Registry
from stretto.agents.scripted import ScriptedChat
from stretto.agents.tool import tool
from stretto.errors import InputError
from stretto.protocols import Completion, Message, ToolCall, Usage

SECRET = "the launch code is 1234"
ASK = [Message("user", SECRET), Message("tool", SECRET, tool_call_id="c")]
ANSWER = Completion(SECRET, (ToolCall("c", "look", "{}"),), usage=Usage(7, 3, 0.5))


@tool(effect="read")
def look(what: str) -> str:
    """Look."""
    if what == "away":
        raise ValueError(SECRET)
    return SECRET


@pytest.fixture
def spans(monkeypatch):
    """Spans by name, after what a test does."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_tracer", lambda: provider.get_tracer("stretto"))
    monkeypatch.delenv(trace.CAPTURE, raising=False)
    return lambda: {span.name: span for span in exporter.get_finished_spans()}


async def act(end=True):
    model, broker = ScriptedChat([ANSWER], name="script"), Broker(Registry([look]))
    with trace.agent("spy", SECRET, model=model.name, scripted=True, run="r-1") as span:
        await model.complete(ASK, seed=4, stop=["."], max_tokens=9, schema={}, tools=[{"a": 1}])
        record = await broker.call(Call("look", {"what": "there"}, key="k"))
        if end:
            span.end("answered", SECRET, input_tokens=7, output_tokens=3, cost=0.5)
    return record


def test_spans_of_a_run(spans):
    record = asyncio.run(act())
    assert record.value == SECRET
    run, chat, call = (spans()[f"{name}"] for name in
                       ("invoke_agent spy", "chat script", "execute_tool look"))  # fmt: skip
    assert run.parent is None
    assert chat.parent.span_id == call.parent.span_id == run.context.span_id
    assert (run.kind, chat.kind) == (SpanKind.INTERNAL, SpanKind.CLIENT)
    assert dict(run.attributes) == {
        "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "spy",
        "gen_ai.request.model": "script", "gen_ai.provider.name": "stretto",
        "gen_ai.conversation.id": "r-1", "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3, "stretto.scripted": True, "stretto.cost": 0.5,
        "stretto.outcome": "answered",
    }  # fmt: skip
    assert dict(chat.attributes) == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "stretto",
        "gen_ai.request.model": "script", "gen_ai.request.seed": 4,
        "gen_ai.request.max_tokens": 9, "gen_ai.request.stop_sequences": (".",),
        "gen_ai.request.stream": False, "gen_ai.output.type": "json",
        "gen_ai.response.model": "script", "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 3,
        "stretto.cost": 0.5, "stretto.cached": False, "stretto.scripted": True,
    }  # fmt: skip
    assert dict(call.attributes) == {
        "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "look",
        "gen_ai.tool.type": "function", "gen_ai.tool.call.id": "k", "stretto.verdict": "allow",
    }  # fmt: skip


def test_no_content_unless_asked(spans, monkeypatch):
    asyncio.run(act())
    assert not any(SECRET in span.to_json() for span in spans().values())
    monkeypatch.setenv(trace.CAPTURE, "true")
    asyncio.run(act())
    run, chat, call = (spans()[name].attributes for name in
                       ("invoke_agent spy", "chat script", "execute_tool look"))  # fmt: skip
    told = [{"role": "user", "parts": [{"type": "text", "content": SECRET}]}]
    assert json.loads(run["gen_ai.input.messages"]) == told
    assert SECRET in run["gen_ai.output.messages"]
    assert json.loads(chat["gen_ai.input.messages"]) == [
        *told,
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c", "response": SECRET}]},
    ]
    (said,) = json.loads(chat["gen_ai.output.messages"])
    assert said["finish_reason"] == "stop"
    assert [part["type"] for part in said["parts"]] == ["text", "tool_call"]
    assert json.loads(chat["gen_ai.tool.definitions"]) == [{"a": 1}]
    assert json.loads(call["gen_ai.tool.call.arguments"]) == {"what": "there"}
    assert json.loads(call["gen_ai.tool.call.result"]) == SECRET


def refuse(messages):
    raise InputError(SECRET)


def test_failures_are_errors_without_their_words(spans):
    async def run():
        broker = Broker(Registry([look]))
        await broker.call(Call("look", {"what": "away"}))
        with trace.agent("spy", "x", model="m") as span:
            span.end("failed", "")
        with pytest.raises(InputError):
            await ScriptedChat(refuse, name="shy").complete([])

    asyncio.run(run())
    found = spans()
    assert {name: span.attributes["error.type"] for name, span in found.items()} == {
        "execute_tool look": "tool", "invoke_agent spy": "failed", "chat shy": "InputError",
    }  # fmt: skip
    assert all(span.status.status_code is StatusCode.ERROR for span in found.values())
    assert not any(SECRET in span.to_json() for span in found.values())


def test_a_run_that_breaks_off(spans):
    async def run():
        with trace.agent("spy", "x", model="m"):
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())
    assert spans()["invoke_agent spy"].attributes["error.type"] == "CancelledError"


def test_without_an_sdk_nothing_changes():
    assert asyncio.run(act()).ok


def test_the_endpoint_is_named(spans):
    pytest.importorskip("openai")
    endpoint = pytest.importorskip("benchmarks.endpoint")
    from stretto.agents.chat import EndpointChat

    async def run():
        async with EndpointChat("m", base_url=server.url, api_key="sk-1") as chat:
            await chat.complete([Message("user", "Hi")], on_text=lambda text: None)

    with endpoint.Endpoint() as server:
        asyncio.run(run())
    told = spans()["chat m"].attributes
    assert told["gen_ai.provider.name"] == "openai_compatible"
    assert (told["server.address"], told["gen_ai.response.model"]) == ("127.0.0.1", "m-mock")
    assert f":{told['server.port']}/" in server.url
    assert told["gen_ai.request.stream"]
    assert told["gen_ai.usage.output_tokens"] == 4
