"""A stream model whose every word was written beforehand: for tests, benchmarks and oracles."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from stretto.errors import InputError
from stretto.streams import SpecialIds, StreamSet, StreamTable
from stretto.streams.sets import AGENT

SPECIAL = SpecialIds(silence=2**30, end=2**30 + 1)

Part = Mapping[str, str]
"""What output streams say, by name."""


@dataclass(frozen=True)
class ScriptedRow:
    """A row; see :class:`stretto.protocols.Row`."""

    index: int
    tokens: dict[str, int]
    text: dict[str, str]
    time: float


class ScriptedStreams:
    """Says one part for each message that arrives, in order; then nothing.

    Args:
        parts: the first is said when the first message (on any input) has ended, and so on.
        rate: rows a second; None: as fast as they are read.
        size: characters of an output's token.
        streams: the set.
    """

    name, scripted = "scripted", True

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        rate: float | None = None,
        size: int = 4,
        streams: StreamSet = AGENT,
    ) -> None:
        names = {streams[i].name for i in streams.outputs}
        for part in parts:
            if unknown := part.keys() - names:
                raise InputError(f"no output stream {min(unknown)!r}; choose from {sorted(names)}")
        self.parts, self.rate, self.size, self.streams = tuple(parts), rate, size, streams
        self.sessions: list[ScriptedSession] = []

    def open(
        self,
        *,
        prompts: Mapping[str, str | Sequence[int]] | None = None,
        sampling: Any = None,
        limits: Any = None,
    ) -> "ScriptedSession":
        """A new session, which takes the parts from the first; nothing is sampled or limited."""
        session = ScriptedSession(self, dict(prompts or {}))
        self.sessions.append(session)
        return session


class ScriptedSession:
    """One live table; a whole message arrives in one row, as one token.

    Attributes:
        heard: what was sent, by stream, in order.
        finish_reason: None while live.
    """

    def __init__(self, model: ScriptedStreams, prompts: Mapping[str, Any]) -> None:
        self._model, self._prompts = model, prompts
        self._outputs = [model.streams[i].name for i in model.streams.outputs]
        self._parts = list(model.parts)
        self._arrived: list[tuple[str, str, bool]] = []
        self._queued: dict[str, list[str]] = {name: [] for name in self._outputs}
        self._rests = dict.fromkeys(self._outputs, True)
        self._inputs = {model.streams[i].name for i in model.streams.inputs}
        self._pieces: list[str] = []
        self._rows: list[ScriptedRow] = []
        self._closed = False
        self._news = asyncio.Event()
        self.heard: list[tuple[str, str]] = []
        self.finish_reason: str | None = None

    @property
    def table(self) -> StreamTable:
        """What happened so far; ``meta["pieces"]`` are the texts of its tokens."""
        meta = {"scripted": True, "pieces": list(self._pieces)}
        table = StreamTable(self._model.streams, SPECIAL, meta=meta)
        for row in self._rows:
            table.append_row(row.tokens)
        return table

    def send(
        self,
        stream: str,
        text: str | Sequence[int],
        *,
        rate: float | None = None,
        end: bool = False,
    ) -> None:
        """Let text arrive with the next row.

        Raises:
            InputError: the session is over or closed, or there is no such input.
        """
        if self._closed:
            raise InputError(f"stream {stream!r} is closed: only interrupt() opens it again")
        self._take(stream, text, end)

    def interrupt(self, stream: str, text: str | Sequence[int], *, end: bool = False) -> int:
        """The same, in place of what has not arrived on this stream."""
        kept = [each for each in self._arrived if each[0] != stream]
        dropped, self._arrived, self._closed = len(self._arrived) - len(kept), kept, False
        self._take(stream, text, end)
        return dropped

    def _take(self, stream: str, text: str | Sequence[int], end: bool) -> None:
        if self.finish_reason is not None:
            raise InputError(f"session is over ({self.finish_reason}): open a new one")
        if stream not in self._inputs:
            raise InputError(f"no input stream {stream!r}; choose from {sorted(self._inputs)}")
        self._arrived.append((stream, str(text), end))
        self._news.set()

    def close(self, stream: str | None = None) -> None:
        """Nothing more will be sent."""
        self._closed = True
        self._news.set()

    def cancel(self, reason: str = "cancelled") -> None:
        """Stop now."""
        if self.finish_reason is None:
            self.finish_reason = reason
        self._news.set()

    def iter(self) -> Iterator[ScriptedRow]:
        """Rows until there is nothing to say."""
        while (row := self._step(0.0)) is not None:
            yield row

    async def __aiter__(self) -> AsyncIterator[ScriptedRow]:
        clock, rate = asyncio.get_running_loop().time, self._model.rate
        began = paced = clock()
        while True:
            self._news.clear()
            row = self._step(clock() - began)
            if row is not None:
                yield row
                # By the clock, so that what is done with a row takes no time from the next.
                paced += 1 / rate if rate else 0.0
                await asyncio.sleep(max(0.0, paced - clock()))
            elif self.finish_reason is not None:
                return
            elif self._closed:
                self.finish_reason = "end"
            else:
                await self._news.wait()
                paced = max(paced, clock())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.cancel()

    def _step(self, now: float) -> ScriptedRow | None:
        """The next row; None if there is none for now."""
        if self.finish_reason is not None or (not self._arrived and all(self._rests.values())):
            return None
        tokens: dict[str, int] = {}
        text: dict[str, str] = {}
        has_input = bool(self._arrived)
        if has_input:
            stream, said, ends = self._arrived.pop(0)
            self.heard.append((stream, said))
            self._put(stream, said, tokens, text)
            if ends:
                tokens[stream] = SPECIAL.end
                self._begin_part()
        for name in self._outputs:
            if self._rests[name]:
                if has_input:
                    tokens[name], self._rests[name] = SPECIAL.silence, False
            elif self._queued[name]:
                self._put(name, self._queued[name].pop(0), tokens, text)
            else:
                tokens[name], self._rests[name] = SPECIAL.end, True
        row = ScriptedRow(len(self._rows), tokens, text, now)
        self._rows.append(row)
        return row

    def _begin_part(self) -> None:
        part = self._parts.pop(0) if self._parts else {}
        for name, text in part.items():
            size = self._model.size
            self._queued[name] += [text[i : i + size] for i in range(0, len(text), size)]

    def _put(self, name: str, piece: str, tokens: dict[str, int], text: dict[str, str]) -> None:
        tokens[name] = len(self._pieces)
        self._pieces.append(piece)
        if piece:
            text[name] = piece
