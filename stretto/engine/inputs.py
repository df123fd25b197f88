"""All live inputs of a session: what may be sent, what was sent, what has arrived."""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stretto.engine.inbox import Inbox
from stretto.engine.params import Setup
from stretto.errors import InputError, LimitError
from stretto.streams import StreamCodec

At = tuple[int, float]
"""When something is done: the number of rows there are, and the session's seconds."""


class Inputs:
    """One inbox a live input stream, and a record of everything sent.

    Not safe for threads: the session holds its lock.

    Args:
        setup: what the session was opened with.
        codec: turns text into tokens.

    Attributes:
        sends: what callers did, in order, as plain data for ``table.meta``.
    """

    def __init__(self, setup: Setup, codec: StreamCodec) -> None:
        self._streams, self._codec = setup.streams, codec
        self._most = setup.limits.max_pending_tokens
        self.sends: list[dict[str, Any]] = []
        self._boxes = {
            i: Inbox(codec.special.end, setup.prompts.get(self._streams[i].name, ()))
            for i in self._streams.inputs
            if not self._streams[i].prompt_only
        }

    def copy(self) -> "Inputs":
        """The same queues and record, that go their own way."""
        other = copy.copy(self)
        other.sends = [dict(send) for send in self.sends]
        other._boxes = {i: box.copy() for i, box in self._boxes.items()}
        return other

    # What callers do, at a row and a time.

    def send(
        self, stream: str, text: str | Sequence[int], rate: float | None, end: bool, at: At
    ) -> None:
        """Queue tokens behind what was sent before; see :meth:`Session.send`."""
        box, tokens = self._open_box(stream), self._encode(stream, text)
        self._check_room(len(tokens) + end)
        self._note("send", stream, tokens, rate, at)
        box.send(tokens, at[1], rate)
        if end and box.is_mid_message:
            box.end(at[1])

    def interrupt(self, stream: str, text: str | Sequence[int], end: bool, at: At) -> int:
        """Drop what has not arrived and queue tokens; returns how many were dropped."""
        box, tokens, now = self._box(stream), self._encode(stream, text), at[1]
        self._check_room(len(tokens) + end - (box.pending - box.arrived(now)))
        self._note("interrupt", stream, tokens, None, at)
        dropped = box.drop(now)
        box.closed = False
        box.send(tokens, now, None)
        if end and box.is_mid_message:
            box.end(now)
        return dropped

    def close(self, stream: str | None, at: At) -> None:
        """Nothing more will be sent on a stream, or on any; see :meth:`Session.close`."""
        names = [self._streams[i].name for i in self._boxes] if stream is None else [stream]
        for name in names:
            box = self._box(name)
            self._note("close", name, [], None, at)
            never_spoke = stream is not None and not box.has_spoken
            if not box.closed and (box.is_mid_message or never_spoke):
                box.end(at[1])
            box.closed = True

    def feed(self, arrivals: Iterable[tuple[float, str, int]], closed: bool, at: At) -> None:
        """Queue single tokens for stated seconds; see :meth:`Session.feed`."""
        checked = []  # all of them before any is queued
        for due, stream, token in arrivals:
            if not math.isfinite(due):
                raise InputError(f"stream {stream!r}: a token cannot be due at second {due}")
            checked.append((due, stream, self._open_box(stream), self._encode(stream, [token])))
        self._check_room(len(checked))
        for due, stream, box, tokens in checked:
            self._note("feed", stream, tokens, None, at)
            box.send(tokens, due, None)
        for box in self._boxes.values():
            box.closed |= closed

    # What has arrived.

    @property
    def pending(self) -> int:
        """How many tokens are queued on all inputs, arrived or not."""
        return sum(box.pending for box in self._boxes.values())

    def arrived(self, now: float) -> dict[int, int]:
        """How many tokens have arrived and are not read yet, by stream index."""
        return {i: box.arrived(now) for i, box in self._boxes.items()}

    def take(self, most: int, now: float) -> Mapping[int, Sequence[int]]:
        """Read what has arrived, at most so many tokens of each stream."""
        return {i: box.take(min(most, box.arrived(now))) for i, box in self._boxes.items()}

    def next_due(self) -> float | None:
        """When the next token arrives; None if none is on its way."""
        dues = [due for box in self._boxes.values() if (due := box.next_due()) is not None]
        return min(dues, default=None)

    def is_finished(self) -> bool:
        """All are closed, and everything has been read."""
        return all(box.is_finished() for box in self._boxes.values())

    def _box(self, stream: str) -> Inbox:
        i = self._streams.index(stream)
        if i not in self._boxes:
            kind = "is prompt_only" if self._streams[i].prompt_only else "is an output"
            raise InputError(f"stream {stream!r} {kind}: nothing can be sent to it")
        return self._boxes[i]

    def _open_box(self, stream: str) -> Inbox:
        box = self._box(stream)
        if box.closed:
            raise InputError(f"stream {stream!r} is closed: only interrupt() opens it again")
        return box

    def _encode(self, stream: str, text: str | Sequence[int]) -> list[int]:
        tokens = self._codec.encode(text) if isinstance(text, str) else [int(t) for t in text]
        special = self._codec.special
        if any(not 0 <= t <= special.end or t == special.silence for t in tokens):
            raise InputError(f"stream {stream!r}: ids must be tokens of the model, not silence")
        return tokens

    def _check_room(self, more: int) -> None:
        pending = self.pending
        if self._most is not None and more > 0 and pending + more > self._most:
            raise LimitError(
                f"{pending} tokens wait to be read and {more} more would pass "
                f"max_pending_tokens={self._most}: send them when some have been read"
            )

    def _note(self, kind: str, stream: str, tokens: list[int], rate: float | None, at: At) -> None:
        row, now = at
        self.sends.append(
            {"kind": kind, "stream": stream, "tokens": tokens, "rate": rate,
             "row": row, "time": now}
        )  # fmt: skip
