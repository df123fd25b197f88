"""Structural types by which agents and commons know models, without importing an engine or torch.

``stretto.engine.Engine`` satisfies :class:`StreamModel`; a scripted model may too.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable


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
