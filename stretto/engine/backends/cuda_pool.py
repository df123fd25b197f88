"""Cache lines on the device at addresses that stay, so that recorded passes can read them.

All lines have the same capacity, a power of two. A pass writes the cells of a session behind what
its line holds, visible ones first; the line then advances past the visible ones only. So silence
can see its own key and leaves none, and nothing moves. Padding is written to a line of its own,
the last, which no session has: whatever comes of padding, nobody sees it.

Letters: L layers, P lines without the last, C capacity, G key heads, E size of a head, B sessions
of a pass, T their cells.
"""

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np
import numpy.typing as npt
import torch

from stretto.engine.batch import PAD_SAMPLE, RowBatch
from stretto.errors import InputError
from stretto.models.family import FamilyDecoder

Ints = npt.NDArray[np.int64]
LINES = 4
"""Lines there are at first."""
CAPACITY = 256
"""Cells that a line holds at first."""
NARROWEST = 64
"""No pass looks at fewer cells of a line than this."""


@dataclass(frozen=True)
class Places:
    """Where the cells of a pass go.

    Attributes:
        slots: place in all lines one behind the other, of each cell (B, T); padding's is the first
            of the last line.
        ends: visible cells of each session's line after the pass (B).
        width: cells of its line that the widest session looks at or writes.
    """

    slots: Ints
    ends: Ints
    width: int


class Pool:
    """Keys and values of live tables.

    Args:
        decoder: gives the sizes.
        dtype: of keys and values.
        device: where they are.
        silence: the token that leaves no key.
        moved: called before the buffers change their addresses.
        lines: how many there are at first, rounded up to a power of two.
        capacity: cells a line holds at first, rounded up likewise, at least ``NARROWEST``.

    Attributes:
        keys: (L, P + 1, C, G, E).
        values: (L, P + 1, C, G, E).
        rows: row of each cell, int64 (P + 1, C).
        lengths: visible cells of each line, on the host (P).
    """

    def __init__(
        self,
        decoder: FamilyDecoder,
        dtype: torch.dtype,
        device: torch.device,
        silence: int,
        moved: Callable[[], None],
        *,
        lines: int = LINES,
        capacity: int = CAPACITY,
    ) -> None:
        self._silence, self._moved = silence, moved
        lines, capacity = power_of_two(lines), max(NARROWEST, power_of_two(capacity))
        shape = (decoder.num_layers, lines + 1, capacity, decoder.kv_heads, decoder.head_size)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.rows = torch.zeros(shape[1:3], dtype=torch.int64, device=device)
        self.lengths = np.zeros(lines, np.int64)
        self._free = list(range(lines))
        self.cell_bytes = 2 * shape[0] * shape[3] * shape[4] * self.keys.itemsize

    @property
    def number(self) -> int:
        """Lines there are, given out or free (P)."""
        return len(self.lengths)

    @property
    def capacity(self) -> int:
        """Cells a line holds before all grow (C)."""
        return self.rows.shape[1]

    def open(self) -> int:
        """Give the lowest free line, empty, so that lines in use lie close together."""
        if not self._free:
            self._resize(2 * self.number, self.capacity)
        return heappop(self._free)

    def fork(self, line: int, cells: int) -> int:
        """A new line with the first visible cells of another.

        Raises:
            InputError: the other has fewer.
        """
        if not 0 <= cells <= self.lengths[line]:
            raise InputError(
                f"fork of line {line} at {cells} cells: it holds {self.lengths[line]}; "
                "give at most as many"
            )
        new = self.open()
        for buffer in (self.keys, self.values):
            buffer[:, new, :cells] = buffer[:, line, :cells]
        self.rows[new, :cells] = self.rows[line, :cells]
        self.lengths[new] = cells
        return new

    def crop(self, line: int, cells: int) -> None:
        """Forget all but the first visible cells of a line."""
        # Zeros for the reason that `release` gives.
        self.keys[:, line, cells : self.lengths[line]] = 0
        self.values[:, line, cells : self.lengths[line]] = 0
        self.lengths[line] = cells

    def release(self, line: int) -> None:
        """Take a line back and empty it. The memory is kept: recorded passes read it."""
        # Not only forgotten: hidden keys have weight 0, but 0 times infinity is not 0.
        self.keys[:, line].zero_()
        self.values[:, line].zero_()
        self.lengths[line] = 0
        heappush(self._free, line)

    def place(self, batch: RowBatch) -> Places:
        """Where the cells of a pass go; lines grow if they have to, lengths stay."""
        is_cell = batch.samples != PAD_SAMPLE
        is_visible = is_cell & (batch.tokens != self._silence)
        starts = self.lengths[batch.lines]
        ends = starts + is_visible.sum(1)
        width = int((starts + is_cell.sum(1)).max())
        if width > self.capacity:
            self._resize(self.number, power_of_two(width))
        silence = is_cell & ~is_visible
        own = np.where(
            is_visible, starts[:, None] + is_visible.cumsum(1), ends[:, None] + silence.cumsum(1)
        )
        slots = batch.lines[:, None] * self.capacity + own - 1
        return Places(np.where(is_cell, slots, self.number * self.capacity), ends, width)

    def keep(self, lines: Ints, places: Places) -> None:
        """Keep the visible cells of a pass that was run."""
        self.lengths[lines] = places.ends

    def _resize(self, number: int, capacity: int) -> None:
        self._moved()
        old_number, old_capacity = self.number, self.capacity
        grown = []
        for buffer, dim in ((self.keys, 1), (self.values, 1), (self.rows, 0)):
            shape = list(buffer.shape)
            shape[dim : dim + 2] = number + 1, capacity
            new = buffer.new_zeros(shape)
            old, room = (
                x.narrow(dim, 0, old_number).narrow(dim + 1, 0, old_capacity) for x in (buffer, new)
            )
            room.copy_(old)
            grown.append(new)
        # All at once: if the device has no room, the lines are as they were.
        self.keys, self.values, self.rows = grown
        self.lengths = np.concatenate([self.lengths, np.zeros(number - old_number, np.int64)])
        self._free += range(old_number, number)
        heapify(self._free)


def power_of_two(number: int) -> int:
    """The next power of two; 1 for 0."""
    return 1 << max(0, number - 1).bit_length()
