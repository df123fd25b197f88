"""One live table: what a caller may do with it, what has arrived by now, when it is over.

A session never touches a tensor. The scheduler asks it for its next tick; the engine hands back
the tokens sampled for that tick's queries. Everything in between is the model's. The rows
themselves are written by :class:`stretto.engine.writer.TableWriter`.
"""

import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from stretto.engine.clock import Clock, VirtualClock
from stretto.engine.inbox import Inbox
from stretto.engine.params import Setup
from stretto.engine.tick import Tick, empty_tick
from stretto.engine.writer import Row, TableWriter
from stretto.errors import InputError
from stretto.streams import StreamCodec, StreamTable


class Host(Protocol):
    """What a session asks of its engine."""

    def iterate(self, session: "Session") -> Iterator[Row]:
        """Rows, stepping while there is none."""
        ...

    def iterate_async(self, session: "Session") -> AsyncIterator[Row]:
        """Rows as a background task makes them."""
        ...

    def attach(self, session: "Session") -> None:
        """Serve it in the background."""
        ...

    def changed(self, session: "Session") -> None:
        """It was sent something, closed or cancelled."""
        ...


class Session:
    """A live table.

    Attributes:
        rows: every row so far.
        finish_reason: None while live; then ``end``, ``quiet``, ``max_rows``, ``deadline``,
            ``cancelled`` or the reason given to :meth:`cancel`, or ``error``.
        error: what a forward pass raised, if that is the reason.
        input_end_row: row of the last input token read so far (-1: in the prompts); None if no
            forward pass has read any.
        input_end_time: seconds since opening at which the forward pass that read it was done.
        line: the session's line in the cache while it has one.
        sampling_ids: for each stream the engine's number of its sampling parameters (S).
        rng: the session's own generator.
        history: content so far of the streams with a repetition penalty, by stream index.
        matchers: how far the streams with a grammar have come in it, by stream index.
    """

    def __init__(self, setup: Setup, codec: StreamCodec, clock: Clock, host: Host) -> None:
        self.setup, self.codec, self.clock = setup, codec, clock
        self.streams, self.limits, self.special = setup.streams, setup.limits, codec.special
        self.finish_reason: str | None = None
        self.error: BaseException | None = None
        self.input_end_row: int | None = None
        self.input_end_time: float | None = None
        self.line: int | None = None
        self.sampling_ids = np.zeros(len(self.streams), np.int64)
        self.rng = np.random.default_rng(setup.seed)
        self.num_cached = 0
        self._host = host
        self._lock = threading.RLock()
        self._writer = TableWriter(setup, codec)
        self.rows, self.history = self._writer.rows, self._writer.history
        self.matchers = self._writer.matchers
        self._sends: list[dict[str, Any]] = []
        self._inboxes = {
            i: Inbox(self.special.end, setup.prompts.get(self.streams[i].name, ()))
            for i in self.streams.inputs
            if not self.streams[i].prompt_only
        }

    # What a caller does.

    def send(
        self,
        stream: str,
        text: str | Sequence[int],
        *,
        rate: float | None = None,
        end: bool = False,
    ) -> None:
        """Let text arrive on an input stream, now or behind what was sent before.

        Args:
            stream: a live input stream.
            text: text, or token ids.
            rate: tokens per second at which it arrives; None: all at once.
            end: the message is complete with it, so ``end`` follows; the stream stays open.

        Raises:
            InputError: the session is over, the stream is closed or none to send to, or the rate
                is not positive.
        """
        if rate is not None and not 0 < rate < float("inf"):
            raise InputError(f"rate {rate!r}: give tokens per second above 0, or None")
        with self._lock:
            inbox, tokens = self._open_inbox(stream), self._encode(stream, text)
            now = self._note("send", stream, tokens, rate)
            inbox.send(tokens, now, rate)
            if end and inbox.is_mid_message:
                inbox.end(now)
        self._host.changed(self)

    def interrupt(self, stream: str, text: str | Sequence[int], *, end: bool = False) -> int:
        """Drop what has not arrived yet on a stream; the text arrives now.

        That the stream was closed is taken back too: close it again when nothing follows.

        Returns:
            how many tokens were dropped.

        Raises:
            InputError: the session is over, or the stream is none to send to.
        """
        with self._lock:
            inbox, tokens = self._inbox(stream), self._encode(stream, text)
            now = self._note("interrupt", stream, tokens, None)
            dropped = inbox.drop(now)
            inbox.closed = False
            inbox.send(tokens, now, None)
            if end and inbox.is_mid_message:
                inbox.end(now)
        self._host.changed(self)
        return dropped

    def close(self, stream: str | None = None) -> None:
        """Nothing more will be sent: ``end`` follows what is queued.

        A message that has had its ``end`` gets no second one. Closing all streams at once says
        nothing on those that never spoke.

        Raises:
            InputError: the session is over, or the stream is none to send to.
        """
        names = [self.streams[i].name for i in self._inboxes] if stream is None else [stream]
        with self._lock:
            for name in names:
                inbox = self._inbox(name)
                now = self._note("close", name, [], None)
                never_spoke = stream is not None and not inbox.has_spoken
                if not inbox.closed and (inbox.is_mid_message or never_spoke):
                    inbox.end(now)
                inbox.closed = True
        self._host.changed(self)

    def feed(self, arrivals: Iterable[tuple[float, str, int]], *, closed: bool = True) -> None:
        """Let single tokens arrive at stated seconds; ``closed``: nothing follows.

        For recorded conversations. ``end`` is among the tokens where it was said.

        Raises:
            InputError: as :meth:`send`.
        """
        with self._lock:
            for due, stream, token in arrivals:
                inbox, tokens = self._open_inbox(stream), self._encode(stream, [token])
                self._note("feed", stream, tokens, None)
                inbox.send(tokens, due, None)
            for inbox in self._inboxes.values():
                inbox.closed |= closed
        self._host.changed(self)

    def cancel(self, reason: str = "cancelled") -> None:
        """Stop now. A session that is over already stays as it is."""
        self.finish(reason)
        self._host.changed(self)

    @property
    def table(self) -> StreamTable:
        """What happened so far; ``meta`` has all that a replay needs."""
        with self._lock:
            return self._writer.table(
                {
                    "seed": self.setup.seed,
                    "sampling": {k: v.to_dict() for k, v in self.setup.sampling.items()},
                    "limits": self.limits.to_dict(),
                    "clock": "virtual" if isinstance(self.clock, VirtualClock) else "wall",
                    "sends": [dict(send) for send in self._sends],
                    "finish_reason": self.finish_reason,
                }
            )

    def iter(self) -> Iterator[Row]:
        """Rows as they come, stepping the engine; ends with the session."""
        return self._host.iterate(self)

    async def __aenter__(self) -> Self:
        self._host.attach(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.cancel()

    def __aiter__(self) -> AsyncIterator[Row]:
        return self._host.iterate_async(self)

    def _inbox(self, stream: str) -> Inbox:
        i = self.streams.index(stream)
        if i not in self._inboxes:
            kind = "is prompt_only" if self.streams[i].prompt_only else "is an output"
            raise InputError(f"stream {stream!r} {kind}: nothing can be sent to it")
        if self.finish_reason is not None:
            raise InputError(f"session is over ({self.finish_reason}): open a new one")
        return self._inboxes[i]

    def _open_inbox(self, stream: str) -> Inbox:
        inbox = self._inbox(stream)
        if inbox.closed:
            raise InputError(f"stream {stream!r} is closed: only interrupt() opens it again")
        return inbox

    def _encode(self, stream: str, text: str | Sequence[int]) -> list[int]:
        tokens = self.codec.encode(text) if isinstance(text, str) else [int(t) for t in text]
        if any(not 0 <= t <= self.special.end or t == self.special.silence for t in tokens):
            raise InputError(f"stream {stream!r}: ids must be tokens of the model, not silence")
        return tokens

    def _note(self, kind: str, stream: str, tokens: list[int], rate: float | None) -> float:
        now = self.clock.now()
        self._sends.append(
            {"kind": kind, "stream": stream, "tokens": tokens, "rate": rate,
             "row": len(self.rows), "time": now}
        )  # fmt: skip
        return now

    # What the scheduler asks.

    def finish(self, reason: str) -> None:
        """Be over, unless it is already."""
        with self._lock:
            if self.finish_reason is None:
                self.finish_reason = reason

    def fail(self, error: BaseException) -> None:
        """Be over with ``error`` as the reason, unless it is over already."""
        with self._lock:
            if self.finish_reason is None:
                self.error = error  # before the reason: readers look at them in turn
                self.finish_reason = "error"

    def width(self) -> int:
        """Rows its next tick would span; 0 if there is nothing to do now. May finish it."""
        with self._lock:
            self.check_over()
            if self.finish_reason is not None:
                return 0
            if not self._writer.is_prefilled:
                return self._writer.num_prompt_rows
            if self._writer.is_live() or self._backlog():
                return max(1, self._backlog())
            due = self.next_event() if self.next_arrival() is not None else None
            if due is None or not self.clock.jump(due):
                return 0
            self.check_over()
            return self._backlog() if self.finish_reason is None else 0

    def next_arrival(self) -> float | None:
        """When the next input token arrives; None if none is on its way."""
        with self._lock:
            dues = [due for box in self._inboxes.values() if (due := box.next_due()) is not None]
            return min(dues, default=None)

    def next_event(self) -> float | None:
        """When something happens even if nobody does anything: an arrival, or the deadline.

        While it waits for a line of the cache, arrivals change nothing.
        """
        arrival = None if self.line is None else self.next_arrival()
        dues = (arrival, self.limits.deadline_s)
        return min((due for due in dues if due is not None), default=None)

    def _backlog(self) -> int:
        now = self.clock.now()
        return max((box.arrived(now) for box in self._inboxes.values()), default=0)

    def _is_input_over(self) -> bool:
        return all(box.is_finished() for box in self._inboxes.values())

    def check_over(self) -> None:
        """Finish it if it is over without another row: at its end, or at the deadline."""
        deadline, writer = self.limits.deadline_s, self._writer
        with self._lock:
            if writer.is_prefilled and not writer.is_live() and self._is_input_over():
                self.finish("end")
            elif deadline is not None and self.clock.now() >= deadline:
                self.finish("deadline")

    def _check_rows(self) -> None:
        if not self._writer.is_live() and self._is_input_over():
            self.finish("end")
        elif len(self.rows) >= self._writer.max_rows:
            self.finish("max_rows")
        elif self._writer.num_quiet >= self.limits.quiet_rows:
            self.finish("quiet")

    def next_tick(self) -> Tick:
        """Write the next rows of the table; to be called when :meth:`width` is above 0."""
        with self._lock:
            writer, now = self._writer, self.clock.now()
            if self.finish_reason is not None:  # cancelled since its width was asked
                return empty_tick(self, [])
            if not writer.is_prefilled:
                return writer.prompt_tick(self)
            room = writer.max_rows - len(self.rows)
            arrived = {i: b.take(min(room, b.arrived(now))) for i, b in self._inboxes.items()}
            tick = writer.write(self, arrived, now, input_over=self._is_input_over())
            if any(arrived.values()):
                self.input_end_row, self.input_end_time = len(self.rows) - 1, now
            self._check_rows()
            return tick if self.finish_reason is None else empty_tick(self, tick.rows_done)

    def receive(self, tick: Tick, tokens: np.ndarray) -> None:
        """Take the tokens sampled for a tick's queries (Q); they are said in the next tick."""
        with self._lock:
            self.clock.advance(len(tick), self.num_cached)
            self.num_cached += tick.num_visible
            if not self._writer.is_prefilled:
                self.input_end_row = -1
            if self.input_end_row == len(self.rows) - 1:
                self.input_end_time = self.clock.now()
            self._writer.receive(tick, tokens)
