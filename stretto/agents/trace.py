"""OpenTelemetry spans of what agents do, by the GenAI semantic conventions.

Without an SDK that the host program sets up they cost next to nothing and go nowhere. Texts,
arguments and results are recorded only where ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT``
is ``true``, as other instrumentations have it.

The conventions are in development (the names are those of August 2026), so they stand here::

    invoke_agent NAME        a run
      chat MODEL             a completion
      execute_tool NAME      a call that went through the broker
"""

import functools
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode

from stretto import __version__
from stretto.protocols import Completion, Message

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"

OPERATION, PROVIDER = "gen_ai.operation.name", "gen_ai.provider.name"
AGENT, CONVERSATION = "gen_ai.agent.name", "gen_ai.conversation.id"
REQUEST, RESPONSE, TOOL = "gen_ai.request", "gen_ai.response", "gen_ai.tool"
OUTPUT_TYPE = "gen_ai.output.type"
INPUT_TOKENS, OUTPUT_TOKENS = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
INPUT, OUTPUT, TOOLS = "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.tool.definitions"
ERROR = "error.type"
OURS = "stretto"
"""Prefix of what the conventions have no name for: cost (dollars), cached, scripted, outcome."""

_Method = TypeVar("_Method", bound=Callable[..., Awaitable[Completion]])


class Traced(Protocol):
    """A chat model whose completions are traced."""

    name: str

    @property
    def traced(self) -> Mapping[str, Any]:
        """Attributes of each span: provider, server."""
        ...


def keeps_content() -> bool:
    """Whether texts are recorded."""
    return os.environ.get(CAPTURE, "").strip().lower() == "true"


def chat(complete: _Method) -> _Method:
    """Let each completion of a chat model be a span: for its method ``complete``."""

    @functools.wraps(complete)
    async def traced(self: Traced, messages: Sequence[Message], **options: Any) -> Completion:
        about = {OPERATION: "chat", f"{REQUEST}.model": self.name}
        with _span(f"chat {self.name}", SpanKind.CLIENT, about) as span:
            if not span.is_recording():
                return await complete(self, messages, **options)
            span.set_attributes({**self.traced, **_request(options)})
            if keeps_content():
                span.set_attribute(INPUT, _json([_message(message) for message in messages]))
                if options.get("tools"):
                    span.set_attribute(TOOLS, _json(options["tools"]))
            done = await complete(self, messages, **options)
            _complete(span, done)
            return done

    return cast("_Method", traced)


class AgentSpan:
    """A run that is under way."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def end(
        self, outcome: str, answer: str, *, input_tokens: int = 0, output_tokens: int = 0,
        cost: float = 0.0,
    ) -> None:  # fmt: skip
        """How the run came out; ``failed`` makes the span an error."""
        self._span.set_attributes({
            f"{OURS}.outcome": outcome, f"{OURS}.cost": cost,
            INPUT_TOKENS: input_tokens, OUTPUT_TOKENS: output_tokens,
        })  # fmt: skip
        if keeps_content():
            self._span.set_attribute(OUTPUT, _json([_message(Message("assistant", answer))]))
        if outcome == "failed":
            _fail(self._span, "failed")


@contextmanager
def agent(
    name: str, task: str, *, model: str, scripted: bool = False, run: str = ""
) -> Iterator[AgentSpan]:
    """A span around an agent's run; what it asks and calls meanwhile lies within.

    >>> with agent("cook", "Make tea.", model="qwen3") as span:
    ...     span.end("answered", "It is ready.", input_tokens=100, output_tokens=20)

    Args:
        name: of the agent.
        task: what it is asked.
        model: that drives it.
        scripted: no model does.
        run: identifies the run.
    """
    about = {OPERATION: "invoke_agent", AGENT: name, f"{REQUEST}.model": model,
             f"{OURS}.scripted": scripted, PROVIDER: OURS}  # fmt: skip
    with _span(f"invoke_agent {name}", SpanKind.INTERNAL, about) as span:
        if run:
            span.set_attribute(CONVERSATION, run)
        if keeps_content():
            span.set_attribute(INPUT, _json([_message(Message("user", task))]))
        yield AgentSpan(span)


class ToolSpan:
    """A call that is under way."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def end(self, ok: bool, value: Any, kind: str, verdict: str) -> None:
        """What became of it: value or error, the error's kind, and the decision about it."""
        if not self._span.is_recording():
            return
        self._span.set_attribute(f"{OURS}.verdict", verdict)
        if keeps_content():
            self._span.set_attribute(f"{TOOL}.call.result", _json(value))
        if not ok:
            _fail(self._span, kind)


@contextmanager
def tool(name: str, arguments: Mapping[str, Any], key: str = "") -> Iterator[ToolSpan]:
    """A span around the call of a tool, approval and all.

    Args:
        name: of the tool.
        arguments: by name.
        key: identifies the call, if it has one.
    """
    about = {OPERATION: "execute_tool", f"{TOOL}.name": name, f"{TOOL}.type": "function"}
    with _span(f"execute_tool {name}", SpanKind.INTERNAL, about) as span:
        if key:
            span.set_attribute(f"{TOOL}.call.id", key)
        if span.is_recording() and keeps_content():
            span.set_attribute(f"{TOOL}.call.arguments", _json(arguments))
        yield ToolSpan(span)


@contextmanager
def _span(name: str, kind: SpanKind, attributes: Mapping[str, Any]) -> Iterator[Span]:
    """The current span. Of an exception its type is kept: its text may be somebody's words."""
    with _tracer().start_as_current_span(
        name, kind=kind, attributes=attributes, record_exception=False,
        set_status_on_exception=False,
    ) as span:  # fmt: skip
        try:
            yield span
        except BaseException as error:
            _fail(span, type(error).__qualname__)
            raise


def _tracer() -> trace.Tracer:
    return trace.get_tracer("stretto", __version__)


def _fail(span: Span, kind: str) -> None:
    span.set_attribute(ERROR, kind)
    span.set_status(StatusCode.ERROR)


def _request(options: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        f"{REQUEST}.{name}": options[name]
        for name in ("seed", "max_tokens", "temperature")
        if options.get(name) is not None
    }
    if options.get("stop"):
        made[f"{REQUEST}.stop_sequences"] = list(options["stop"])
    made[f"{REQUEST}.stream"] = options.get("on_text") is not None
    made[OUTPUT_TYPE] = "text" if options.get("schema") is None else "json"
    return made


def _complete(span: Span, done: Completion) -> None:
    span.set_attributes({
        f"{RESPONSE}.model": done.model,
        f"{RESPONSE}.finish_reasons": [done.finish_reason],
        INPUT_TOKENS: done.usage.prompt_tokens,
        OUTPUT_TOKENS: done.usage.completion_tokens,
        f"{OURS}.cost": done.usage.cost,
        f"{OURS}.cached": done.cached,
        f"{OURS}.scripted": done.scripted,
    })  # fmt: skip
    if keeps_content():
        said = _message(Message("assistant", done.text, done.tool_calls))
        span.set_attribute(OUTPUT, _json([said | {"finish_reason": done.finish_reason}]))


def _message(message: Message) -> dict[str, Any]:
    """A message as the conventions write it."""
    parts: list[dict[str, Any]] = []
    if message.tool_call_id is not None:
        parts.append({"type": "tool_call_response", "id": message.tool_call_id,
                      "response": message.content})  # fmt: skip
    elif message.content:
        parts.append({"type": "text", "content": message.content})
    for call in message.tool_calls:
        parts.append({"type": "tool_call", "id": call.id, "name": call.name,
                      "arguments": call.arguments})  # fmt: skip
    return {"role": message.role, "parts": parts}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=repr)
