"""A live table as the scheduler sees it: its next tick, the parts of it, and when it is over.

The scheduler asks it for its next tick, or the next part of it; the engine hands back the tokens
sampled for its queries. The rows themselves are written by
:class:`stretto.engine.writer.TableWriter`.
"""

from dataclasses import replace
from functools import cached_property

import numpy as np

from stretto.engine.clock import Clock
from stretto.engine.ending import Ending
from stretto.engine.inputs import Inputs
from stretto.engine.params import Setup
from stretto.engine.reading import Reading
from stretto.engine.tick import Ints, Tick, empty_tick
from stretto.engine.writer import Row, TableWriter
from stretto.streams import StreamCodec


class Ticking(Ending):
    """Something that is read tick by tick.

    Args:
        setup: what it was opened with.
        codec: the model's tokeniser.
        clock: says what has arrived.

    Attributes:
        input_end_row: row of the last input token read so far (-1: in the prompts); None if no
            forward pass has read any.
        input_end_time: seconds since opening at which the forward pass that read it was done.
        line: its line in the cache while it has one.
        rng: its own generator.
        num_cached: cells that its line holds.
    """

    def __init__(self, setup: Setup, codec: StreamCodec, clock: Clock) -> None:
        super().__init__()
        self.setup, self.codec, self.clock = setup, codec, clock
        self.streams, self.limits, self.special = setup.streams, setup.limits, codec.special
        self.input_end_row: int | None = None
        self.input_end_time: float | None = None
        self.line: int | None = None
        self.rng = np.random.default_rng(setup.seed)
        self.num_cached = 0
        self._writer = TableWriter(setup, codec)
        self._inputs = Inputs(setup, codec)
        self._reading: Reading | None = None

    @property
    def rows(self) -> list[Row]:
        """Every row so far."""
        return self._writer.rows

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

    def go_on(self, said: np.ndarray, drafted: Tick) -> tuple[Tick, bool] | None:
        """Write the next row if it is the one that was drafted, and read already.

        Args:
            said: what outputs say in the drafted row (O); ``ABSENT`` for those at rest.
            drafted: its cells.

        Returns:
            its tick, with its rows to be delivered; and whether it still asks for its tokens (it
            does not if the session is over with it). None if the next row is another one, or
            cannot be told yet: it is read by a pass of its own.
        """
        with self._lock:
            self.check_over()
            if self.finish_reason is not None or self._reading is not None:
                return None
            if self._backlog() or not self._writer.will_say(said):
                return None
            self.begin()
            reading = self._reading
            if reading is None or not reading.tick.has_cells_of(drafted):
                return None  # input came in between
            tick = self.next_part()
            return tick, self.finish_reason is None

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
