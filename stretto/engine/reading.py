"""A tick on its way through the model: read in one pass, or in parts if it is long.

What a table says does not depend on where the parts end. Cells see those of their own row, so a
row is never cut; cells of a row stand together, and silence, which stands last, belongs to the
last row of a tick.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from stretto.engine.tick import Tick


class Reading:
    """How far a tick has been read.

    Args:
        tick: all of it.
        cached: visible cells that its session had cached before.

    Attributes:
        tick: all of it.
        cached: as given.
        tokens: what was sampled so far for the tick's queries, in their order.
    """

    def __init__(self, tick: Tick, cached: int) -> None:
        self.tick, self.cached = tick, cached
        self.tokens = np.empty(0, np.int64)
        self._read = 0  # cells
        self._delivered = False

    @property
    def cells_left(self) -> int:
        """Cells that are still to be read."""
        return len(self.tick) - self._read

    @property
    def visible_left(self) -> int:
        """Cells that will still be cached."""
        return max(0, self.tick.num_visible - self._read)

    @property
    def rows_left(self) -> int:
        """Rows that the rest spans."""
        return int(self.tick.positions[-1] - self.tick.positions[self._read]) + 1

    def skip(self, cells: int) -> None:
        """The first cells are in the cache already; no query is among them."""
        self._read = cells

    def next_part(self, chunk: int | None) -> Tick:
        """The next cells: at most ``chunk`` unless a single row has more; None for all the rest."""
        start = self._read
        end = self._end_of_part(start, chunk)
        tick = self.tick
        if end - start == len(tick) and not self._delivered:
            self._delivered = True
            return tick
        inside = (tick.queries >= start) & (tick.queries < end)
        rows, self._delivered = [] if self._delivered else tick.rows_done, True
        return replace(
            tick,
            rows_done=rows,
            tokens=tick.tokens[start:end],
            streams=tick.streams[start:end],
            positions=tick.positions[start:end],
            num_visible=min(end, max(start, tick.num_visible)) - start,
            queries=tick.queries[inside] - start,
            outputs=tick.outputs[inside],
            uniforms=tick.uniforms[inside],
        )

    def _end_of_part(self, start: int, chunk: int | None) -> int:
        positions = self.tick.positions
        if chunk is None or start + chunk >= len(positions):
            return len(positions)
        first_left_out = positions[start + chunk]
        end = int(np.searchsorted(positions, first_left_out))
        return end if end > start else int(np.searchsorted(positions, first_left_out, "right"))

    def receive(self, part: Tick, tokens: np.ndarray) -> bool:
        """Take what was sampled for a part; whether that was the last one."""
        self._read += len(part)
        # Queries of a prompt lie in the order of the prompts, those of a row in its last part.
        self.tokens = np.concatenate([self.tokens, tokens]) if len(self.tokens) else tokens
        return self._read == len(self.tick)

    def copy(self, session: Any) -> "Reading":
        """The same progress for another session, whose rows nobody has to be told of."""
        other = Reading(replace(self.tick, session=session), self.cached)
        other.tokens, other._read, other._delivered = self.tokens, self._read, True
        return other
