"""Structural types by which agents and commons know models, without importing an engine or torch.

``stretto.engine.Engine`` satisfies :class:`StreamModel`, ``stretto.agents.chat.EndpointChat``
:class:`ChatModel`; scripted models satisfy either and say so.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol, Self, runtime_checkable


@runtime_checkable
class Row(Protocol):
    """One time step: token ids and newly completed text by stream, seconds since opening."""

    @property
    def index(self) -> int:
        """Live row."""
        ...

    @property
    def tokens(self) -> dict[str, int]:
        """Token id by stream, present cells only."""
        ...

    @property
    def text(self) -> dict[str, str]:
        """Text this row completes, by stream."""
        ...

    @property
    def time(self) -> float:
        """Seconds since the session was opened."""
        ...


@runtime_checkable
class Session(Protocol):
    """One live table: send at any row, read rows as they come."""

    @property
    def finish_reason(self) -> str | None:
        """None while live."""
        ...

    @property
    def table(self) -> Any:
        """The ``StreamTable`` so far."""
        ...

    def send(
        self,
        stream: str,
        text: str | Sequence[int],
        *,
        rate: float | None = None,
        end: bool = False,
    ) -> None:
        """Let text arrive on an input stream."""
        ...

    def interrupt(self, stream: str, text: str | Sequence[int], *, end: bool = False) -> int:
        """Drop what has not arrived; the text arrives now. Returns tokens dropped."""
        ...

    def close(self, stream: str | None = None) -> None:
        """Nothing more will be sent."""
        ...

    def cancel(self, reason: str = "cancelled") -> None:
        """Stop now."""
        ...

    def iter(self) -> Iterator[Row]:
        """Rows as they come, synchronously."""
        ...

    def __aiter__(self) -> AsyncIterator[Row]: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class StreamModel(Protocol):
    """A many-stream model."""

    def open(
        self,
        *,
        prompts: Mapping[str, str | Sequence[int]] | None = None,
        sampling: Any = None,
        limits: Any = None,
    ) -> Session:
        """A new session."""
        ...


FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "refusal"]


@dataclass(frozen=True)
class ToolCall:
    """A call as a chat model asked for it.

    Attributes:
        id: names the call in the message that answers it.
        name: tool.
        arguments: JSON text exactly as the model wrote it, which may be malformed.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Message:
    """One message of a conversation with a chat model.

    Attributes:
        role: who speaks.
        content: text.
        tool_calls: of an assistant's message.
        tool_call_id: of a tool's message: the call it answers.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True)
class Usage:
    """What a completion took: tokens, and US dollars where prices are known."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True)
class Completion:
    """A chat model's answer.

    Attributes:
        text: what it said; may be empty.
        tool_calls: what it asked for.
        finish_reason: why it stopped; ``refusal`` and ``content_filter`` are outcomes, not errors.
        usage: tokens and cost, zero if answered from a cache.
        model: that answered, as the endpoint names it.
        cached: from a cache, nothing was paid.
        scripted: no model wrote this.
        logprob: sum over the completion's tokens in nats, if the endpoint tells.
    """

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason = "stop"
    usage: Usage = field(default_factory=Usage)
    model: str = ""
    cached: bool = False
    scripted: bool = False
    logprob: float | None = None


@runtime_checkable
class ChatModel(Protocol):
    """A one-stream model: messages in, one completion out."""

    @property
    def name(self) -> str:
        """As logs name it."""
        ...

    @property
    def scripted(self) -> bool:
        """No model: answers were written beforehand."""
        ...

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        schema: Mapping[str, Any] | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        max_tokens: int | None = None,
        temperature: float | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Completion:
        """Answer.

        Args:
            messages: the conversation so far.
            tools: schemas in OpenAI's form (``Registry.json_schema``).
            schema: JSON schema that the text must satisfy.
            seed: of the sampling, for endpoints that take one.
            stop: texts that end the answer; not part of it.
            max_tokens: of the answer.
            temperature: None leaves it to the endpoint.
            on_text: is given pieces of the text as they arrive.
        """
        ...
