"""One live table, and what a caller may do with it.

A session never touches a tensor. What the scheduler asks of it, tick by tick, is in
:class:`stretto.engine.ticking.Ticking`; what is sent goes to :class:`stretto.engine.inputs.Inputs`.
"""

import copy
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import numpy as np

from stretto.engine.clock import Clock, VirtualClock
from stretto.engine.host import Host
from stretto.engine.params import Setup
from stretto.engine.ticking import Ticking
from stretto.engine.writer import Row
from stretto.errors import InputError
from stretto.streams import StreamCodec, StreamTable


class Session(Ticking):
    """A live table, with the attributes of :class:`~stretto.engine.ticking.Ticking` and its own.

    Attributes:
        finish_reason: None while live; then ``end``, ``quiet``, ``max_rows``, ``deadline``,
            ``cancelled`` or the reason given to :meth:`cancel`, ``evicted`` or ``error``.
        error: what its work or a forward pass raised, if the reason is ``error``; if it was evicted
            from the cache, a LimitError that says why and what to do.
        priority: higher ones get their turn first and are evicted last.
        arrival: its number among all sessions of the engine.
        speculates: several of its rows may be written in one step.
        sampling_ids: for each stream the engine's number of its sampling parameters (S).
    """

    def __init__(
        self,
        setup: Setup,
        codec: StreamCodec,
        clock: Clock,
        host: Host,
        priority: int = 0,
        speculates: bool = True,
    ) -> None:
        super().__init__(setup, codec, clock)
        self.sampling_ids = np.zeros(len(self.streams), np.int64)
        self.priority, self.arrival, self.speculates = priority, 0, speculates
        self._host = host
        self._reseeded: list[dict[str, int]] = []

    @property
    def history(self) -> dict[int, Any]:
        """What the streams with a repetition penalty have had, by stream index."""
        return self._writer.history

    @property
    def matchers(self) -> dict[int, Any]:
        """How far the streams with a grammar have come in it, by stream index."""
        return self._writer.matchers

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
            LimitError: more would wait than ``max_pending_tokens``.
        """
        if rate is not None and not 0 < rate < float("inf"):
            raise InputError(f"rate {rate!r}: give tokens per second above 0, or None")
        with self._lock:
            self._refuse_if_over()
            self._inputs.send(stream, text, rate, end, self._at())
        self._host.changed(self)

    def interrupt(self, stream: str, text: str | Sequence[int], *, end: bool = False) -> int:
        """Drop what has not arrived yet on a stream; the text arrives now.

        That the stream was closed is taken back too: close it again when nothing follows.

        Returns:
            how many tokens were dropped.

        Raises:
            InputError: the session is over, or the stream is none to send to.
            LimitError: as :meth:`send`.
        """
        with self._lock:
            self._refuse_if_over()
            dropped = self._inputs.interrupt(stream, text, end, self._at())
        self._host.changed(self)
        return dropped

    def close(self, stream: str | None = None) -> None:
        """Nothing more will be sent: ``end`` follows what is queued.

        A message that has had its ``end`` gets no second one. Closing all streams at once says
        nothing on those that never spoke.

        Raises:
            InputError: the session is over, or the stream is none to send to.
        """
        with self._lock:
            self._refuse_if_over()
            self._inputs.close(stream, self._at())
        self._host.changed(self)

    def feed(self, arrivals: Iterable[tuple[float, str, int]], *, closed: bool = True) -> None:
        """Let single tokens arrive at stated seconds; ``closed``: nothing follows.

        For recorded conversations. ``end`` is among the tokens where it was said.

        Raises:
            InputError, LimitError: as :meth:`send`.
        """
        with self._lock:
            self._refuse_if_over()
            self._inputs.feed(arrivals, closed, self._at())
        self._host.changed(self)

    def cancel(self, reason: str = "cancelled") -> None:
        """Stop now. A session that is over already stays as it is."""
        self.finish(reason)
        self._host.changed(self)

    def fork(self, seed: int | None = None) -> "Session":
        """A second session with the same past, which goes its own way from here.

        It has the same table so far, the same input on its way, and what the next row will say is
        decided already; both go on independently. To fork at an earlier row, keep a fork of it.
        If a step is being made (in the background), this waits for its end.

        Args:
            seed: of its random numbers from here on; by default both draw the same ones.

        Raises:
            InputError: the session is over.
            LimitError: there is no place or no memory for it.
        """
        return self._host.fork(self, seed)

    @property
    def table(self) -> StreamTable:
        """What happened so far; ``meta`` has all that a replay needs."""
        with self._lock:
            meta: dict[str, Any] = {
                "seed": self.setup.seed,
                "sampling": {k: v.to_dict() for k, v in self.setup.sampling.items()},
                "limits": self.limits.to_dict(),
                "clock": "virtual" if isinstance(self.clock, VirtualClock) else "wall",
                "sends": [dict(send) for send in self._inputs.sends],
                "finish_reason": self.finish_reason,
            }
            if self._reseeded:
                meta["reseeded"] = [dict(at) for at in self._reseeded]
            return self._writer.table(meta)

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

    def _at(self) -> tuple[int, float]:
        return len(self.rows), self.clock.now()

    # What the engine asks of it as a whole.

    def copy(self, seed: int | None) -> "Session":
        """Everything but the line; see :meth:`fork`."""
        with self._lock:
            self._refuse_if_over()
            clock = copy.copy(self.clock)
            other = Session(
                self.setup, self.codec, clock, self._host, self.priority, self.speculates
            )
            other.sampling_ids = self.sampling_ids.copy()
            other.input_end_row, other.input_end_time = self.input_end_row, self.input_end_time
            other.num_cached = self.num_cached
            other.rng = copy.deepcopy(self.rng)
            other._writer, other._inputs = self._writer.copy(), self._inputs.copy()
            other._reading = None if self._reading is None else self._reading.copy(other)
            other._reseeded = [dict(at) for at in self._reseeded]
            if seed is not None:
                other.reseed(seed)
            return other

    def reseed(self, seed: int) -> None:
        """Draw other random numbers from the next tick on."""
        with self._lock:
            self.rng = np.random.default_rng(seed)
            if self.is_untouched:
                self.setup = replace(self.setup, seed=seed)
            else:
                self._reseeded.append({"row": len(self.rows), "seed": seed})
