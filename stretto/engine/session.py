"""One live table: what a caller may do with it, what has arrived by now, when it is over.

A session never touches a tensor. The scheduler asks it for its next tick, or the next part of it;
the engine hands back the tokens sampled for its queries. Everything in between is the model's.
What is sent goes to :class:`stretto.engine.inputs.Inputs`; the rows themselves are written by
:class:`stretto.engine.writer.TableWriter`.
"""

import copy
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import numpy as np

from stretto.engine.clock import Clock, VirtualClock
from stretto.engine.ending import Ending
from stretto.engine.host import Host
from stretto.engine.inputs import Inputs
from stretto.engine.params import Setup
from stretto.engine.reading import Reading
from stretto.engine.tick import Ints, Tick, empty_tick
from stretto.engine.writer import Row, TableWriter
from stretto.errors import InputError
from stretto.streams import StreamCodec, StreamTable


class Session(Ending):
    """A live table.

    Attributes:
        finish_reason: None while live; then ``end``, ``quiet``, ``max_rows``, ``deadline``,
            ``cancelled`` or the reason given to :meth:`cancel`, ``evicted`` or ``error``.
        error: what its work or a forward pass raised, if the reason is ``error``; if it was evicted
            from the cache, a LimitError that says why and what to do.
        priority: higher ones get their turn first and are evicted last.
        arrival: its number among all sessions of the engine.
        input_end_row: row of the last input token read so far (-1: in the prompts); None if no
            forward pass has read any.
        input_end_time: seconds since opening at which the forward pass that read it was done.
        line: the session's line in the cache while it has one.
        sampling_ids: for each stream the engine's number of its sampling parameters (S).
        rng: the session's own generator.
        num_cached: cells that its line holds.
    """

    def __init__(
        self, setup: Setup, codec: StreamCodec, clock: Clock, host: Host, priority: int = 0
    ) -> None:
        super().__init__()
        self.setup, self.codec, self.clock = setup, codec, clock
        self.streams, self.limits, self.special = setup.streams, setup.limits, codec.special
        self.input_end_row: int | None = None
        self.input_end_time: float | None = None
        self.line: int | None = None
        self.sampling_ids = np.zeros(len(self.streams), np.int64)
        self.rng = np.random.default_rng(setup.seed)
        self.num_cached = 0
        self.priority, self.arrival = priority, 0
        self._host = host
        self._writer = TableWriter(setup, codec)
        self._inputs = Inputs(setup, codec)
        self._reading: Reading | None = None
        self._reseeded: list[dict[str, int]] = []

    @property
    def rows(self) -> list[Row]:
        """Every row so far."""
        return self._writer.rows

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

    # What the engine asks.

    def copy(self, seed: int | None) -> "Session":
        """Everything but the line; see :meth:`fork`."""
        with self._lock:
            self._refuse_if_over()
            clock = copy.copy(self.clock)
            other = Session(self.setup, self.codec, clock, self._host, self.priority)
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

    # What the scheduler asks.

    @cached_property
    def prefill(self) -> Tick:
        """The tick of its prompts; empty without prompts.

        It does not name its session: kept by it, it would keep it alive until a full collection.
        """
        return self._writer.prompt_tick(None) if self.setup.prompts else empty_tick(None, [])

    @cached_property
    def prompt_cells(self) -> Ints:
        """What tells the prompts' cells apart: token and stream, as their positions go 0, 1, 2."""
        return (self.prefill.tokens << 16) | self.setup.inventory[self.prefill.streams]

    @property
    def is_prefilled(self) -> bool:
        """The prompts have been read, or there are none."""
        return self._writer.is_prefilled

    @property
    def is_reading(self) -> bool:
        """A part of a tick has been read, and a part has not."""
        return self._reading is not None

    @property
    def is_untouched(self) -> bool:
        """Nothing has been read or written yet."""
        return not (self.rows or self._reading or (self.setup.prompts and self.is_prefilled))

    def max_growth(self) -> int:
        """Cells that its next tick, or what is left of it, can add to its line at most."""
        with self._lock:
            if self._reading is not None:
                return self._reading.visible_left
            if not self._writer.is_prefilled:
                return self.prefill.num_visible
            room = self._writer.max_rows - len(self.rows)
            arrived = self._inputs.arrived(self.clock.now())
            return sum(min(room, n) for n in arrived.values()) + len(self.streams.outputs)

    def growth_bound(self) -> int:
        """No less than :meth:`max_growth`, now or in this step, and quickly told."""
        return (
            self._inputs.pending
            + len(self.streams)
            + self._writer.num_prompt_rows
            + (0 if self._reading is None else self._reading.visible_left)
        )

    def max_cells(self) -> int:
        """Cells that its next tick, or what is left of it, can have at most."""
        return self.max_growth() if self._reading is None else self._reading.cells_left

    def width(self) -> int:
        """Rows its next tick, or the rest of it, spans; 0: nothing to do now. May finish it."""
        with self._lock:
            self.check_over()
            if self.finish_reason is not None:
                return 0
            if self._reading is not None:
                return self._reading.rows_left
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
            return self._inputs.next_due()

    def next_event(self) -> float | None:
        """When something happens even if nobody does anything: an arrival, or the deadline.

        While it waits for a line of the cache, arrivals change nothing.
        """
        arrival = None if self.line is None else self.next_arrival()
        dues = (arrival, self.limits.deadline_s)
        return min((due for due in dues if due is not None), default=None)

    def _backlog(self) -> int:
        return max(self._inputs.arrived(self.clock.now()).values(), default=0)

    def check_over(self) -> None:
        """Finish it if it is over without another row: at its end, or at the deadline."""
        deadline, writer = self.limits.deadline_s, self._writer
        with self._lock:
            if writer.is_prefilled and not writer.is_live() and self._inputs.is_finished():
                self.finish("end")
            elif deadline is not None and self.clock.now() >= deadline:
                self.finish("deadline")

    def _check_rows(self) -> None:
        if not self._writer.is_live() and self._inputs.is_finished():
            self.finish("end")
        elif len(self.rows) >= self._writer.max_rows:
            self.finish("max_rows")
        elif self._writer.num_quiet >= self.limits.quiet_rows:
            self.finish("quiet")

    def let_go(self) -> None:
        """Forget what is half read, now that it is over: it would keep the session alive."""
        with self._lock:
            self._reading = None

    def begin(self, cells: int = 0) -> None:
        """Begin its next tick, if none is being read; to be called when :meth:`width` is above 0.

        Args:
            cells: how many of the prompts' first cells its line holds already.
        """
        with self._lock:
            if self._reading is not None or self.finish_reason is not None:
                return
            tick = self._write() if self._writer.is_prefilled else self.prefill
            # Drawn now, so that neither the parts nor what happens between them matter.
            tick = replace(tick, session=self, uniforms=self.rng.random(len(tick.outputs)))
            self._reading = Reading(tick, self.num_cached)
            self._reading.skip(cells)
            self.num_cached += cells

    def next_part(self, chunk: int | None = None) -> Tick:
        """What is to be read next: the tick that was begun, or at most ``chunk`` cells of it."""
        with self._lock:
            reading = self._reading
            if reading is None:  # cancelled since its width was asked
                return empty_tick(self, [])
            part = reading.next_part(chunk)
            if self.finish_reason is None:
                return part
            self._reading = None
            return empty_tick(self, part.rows_done)

    def _write(self) -> Tick:
        """Write the next rows of the table."""
        now, room = self.clock.now(), self._writer.max_rows - len(self.rows)
        arrived = self._inputs.take(room, now)
        tick = self._writer.write(self, arrived, now, input_over=self._inputs.is_finished())
        if any(arrived.values()):
            self.input_end_row, self.input_end_time = len(self.rows) - 1, now
        self._check_rows()
        return tick

    def receive(self, part: Tick, tokens: np.ndarray) -> None:
        """Take the tokens sampled for a part's queries (Q); they are said in the next tick."""
        with self._lock:
            reading = self._reading
            self.num_cached += part.num_visible
            if reading is None or not reading.receive(part, tokens):
                return
            self._reading = None
            # By virtual time a tick takes as long in parts as in one.
            self.clock.advance(len(reading.tick), reading.cached)
            if not self._writer.is_prefilled:
                self.input_end_row = -1
            if self.input_end_row == len(self.rows) - 1:
                self.input_end_time = self.clock.now()
            self._writer.receive(reading.tick, reading.tokens)
